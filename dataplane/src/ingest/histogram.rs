//! A histogram of durations that shards count into without waiting for each other; that of the library has a lock.
//!
//! A scrape may see an observation in one number and not yet in another. The count is made of the buckets, so that those two
//! always agree.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// Cheap to clone: all clones count into the same.
#[derive(Clone, Debug)]
pub(crate) struct Histogram(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    /// Upper ends in seconds, which belong to their bucket, growing.
    ends: &'static [f64],
    /// One for each end, and one for what is longer.
    buckets: Box<[AtomicU64]>,
    nanoseconds: AtomicU64,
}

impl Histogram {
    pub(crate) fn new(ends: &'static [f64]) -> Self {
        Self(Arc::new(Counts {
            ends,
            buckets: (0..=ends.len()).map(|_| AtomicU64::new(0)).collect(),
            nanoseconds: AtomicU64::new(0),
        }))
    }

    pub(crate) fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = self.0.ends.partition_point(|end| *end < seconds);
        self.0.buckets[bucket].fetch_add(1, Relaxed);
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.0.nanoseconds.fetch_add(nanoseconds, Relaxed);
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let ends = self.0.ends.iter().copied().chain([f64::INFINITY]);
        let counts = self.0.buckets.iter().map(|count| count.load(Relaxed));
        let buckets: Vec<(f64, u64)> = ends.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = Duration::from_nanos(self.0.nanoseconds.load(Relaxed)).as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::metrics::histogram::Histogram as WithLock;
    use prometheus_client::registry::{Metric, Registry};

    use super::*;

    #[test]
    fn it_says_what_that_of_the_library_says() {
        const ENDS: &[f64] = &[0.001, 0.5, 2.0];
        let (ours, theirs) = (Histogram::new(ENDS), WithLock::new(ENDS.iter().copied()));
        for millis in [0, 1, 2, 500, 501, 1999, 2000, 2001, 60_000] {
            ours.clone().observe(Duration::from_millis(millis));
            theirs.observe(Duration::from_millis(millis).as_secs_f64());
        }
        fn said(metric: impl Metric) -> String {
            let (mut registry, mut text) = (Registry::default(), String::new());
            registry.register("seconds", "Some", metric);
            encode(&mut text, &registry).unwrap();
            text
        }
        let text = said(ours);
        assert_eq!(text, said(theirs));
        assert!(text.contains("seconds_bucket{le=\"+Inf\"} 9\n"), "{text}");
    }

    #[test]
    fn nothing_is_lost_of_what_comes_at_once() {
        let histogram = Histogram::new(&[0.5]);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for number in 0..10_000 {
                        histogram.observe(Duration::from_millis(number % 2 * 1000));
                    }
                });
            }
        });
        let counts = histogram.0.buckets.iter().map(|count| count.load(Relaxed));
        assert_eq!(counts.collect::<Vec<_>>(), [20_000, 20_000]);
        assert_eq!(histogram.0.nanoseconds.load(Relaxed), 20_000 * 1_000_000_000);
    }
}
