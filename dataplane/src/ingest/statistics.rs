//! What librdkafka counts of its producers, as metrics: one series for each shard, one for the spool.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use rdkafka::Statistics;

use crate::process::Metrics;

/// How often librdkafka tells, milliseconds.
pub(super) const EVERY_MS: &str = "5000";
const MICROSECONDS: f64 = 1e6;

type Seconds = Gauge<f64, AtomicU64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    producer: String,
}

/// The metrics of all producers. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProducerMetrics {
    retries: Family<Labels, Counter>,
    queue_records: Family<Labels, Gauge>,
    queue_bytes: Family<Labels, Gauge>,
    batch_bytes: Family<Labels, Gauge>,
    round_trip: Family<Labels, Seconds>,
    round_trip_p99: Family<Labels, Seconds>,
}

impl ProducerMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let made = Self::default();
        metrics.register(|registry| {
            registry.register(
                "ingest_producer_retries",
                "Requests to Kafka that were sent again",
                made.retries.clone(),
            );
            registry.register(
                "ingest_producer_queue_records",
                "Records that the producer has and Kafka has not acknowledged",
                made.queue_records.clone(),
            );
            registry.register(
                "ingest_producer_queue_bytes",
                "Bytes of the former",
                made.queue_bytes.clone(),
            );
            registry.register(
                "ingest_producer_batch_bytes",
                "Compressed bytes of a batch, mean of the last seconds",
                made.batch_bytes.clone(),
            );
            registry.register(
                "ingest_producer_round_trip_seconds",
                "From a request to a broker to its answer, mean of the last seconds, of the slowest broker",
                made.round_trip.clone(),
            );
            registry.register(
                "ingest_producer_round_trip_p99_seconds",
                "The same, 99th percentile",
                made.round_trip_p99.clone(),
            );
        });
        made
    }

    /// The series of one producer, which goes on when the producer is replaced.
    pub(crate) fn of(&self, producer: &str) -> ProducerSeries {
        let labels = Labels {
            producer: producer.to_owned(),
        };
        ProducerSeries {
            retries: self.retries.get_or_create_owned(&labels),
            queue_records: self.queue_records.get_or_create_owned(&labels),
            queue_bytes: self.queue_bytes.get_or_create_owned(&labels),
            batch_bytes: self.batch_bytes.get_or_create_owned(&labels),
            round_trip: self.round_trip.get_or_create_owned(&labels),
            round_trip_p99: self.round_trip_p99.get_or_create_owned(&labels),
            told: Mutex::default(),
        }
    }
}

/// One producer's series.
#[derive(Debug)]
pub(crate) struct ProducerSeries {
    retries: Counter,
    queue_records: Gauge,
    queue_bytes: Gauge,
    batch_bytes: Gauge,
    round_trip: Seconds,
    round_trip_p99: Seconds,
    /// Retries by broker, as last told: librdkafka tells totals.
    told: Mutex<HashMap<String, u64>>,
}

impl ProducerSeries {
    /// Takes over what librdkafka tells.
    pub(super) fn show(&self, statistics: &Statistics) {
        self.queue_records.set(statistics.msg_cnt.cast_signed());
        self.queue_bytes.set(statistics.msg_size.cast_signed());
        let mut told = self
            .told
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let (mut mean, mut p99) = (0, 0);
        for (name, broker) in &statistics.brokers {
            let before = told.insert(name.clone(), broker.txretries).unwrap_or(0);
            self.retries.inc_by(broker.txretries.saturating_sub(before));
            if let Some(round_trip) = &broker.rtt {
                (mean, p99) = (round_trip.avg.max(mean), round_trip.p99.max(p99));
            }
        }
        self.round_trip.set(mean as f64 / MICROSECONDS);
        self.round_trip_p99.set(p99 as f64 / MICROSECONDS);
        let batches = statistics.topics.values().map(|topic| topic.batchsize.avg);
        self.batch_bytes.set(batches.max().unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::statistics::{Broker, Topic, Window};

    use super::*;

    #[test]
    fn totals_become_increases_and_the_slowest_broker_counts() {
        let series = ProducerMetrics::new(&Metrics::new()).of("shard-0");
        let window = |avg, p99| Window {
            avg,
            p99,
            ..Window::default()
        };
        let broker = |txretries, avg| Broker {
            txretries,
            rtt: Some(window(avg, 2 * avg)),
            ..Broker::default()
        };
        let mut statistics = Statistics {
            msg_cnt: 2,
            msg_size: 700,
            brokers: [("a".into(), broker(3, 500)), ("b".into(), broker(1, 1500))].into(),
            ..Statistics::default()
        };
        let topic = Topic {
            batchsize: window(90_000, 0),
            ..Topic::default()
        };
        statistics.topics.insert("t".into(), topic);
        series.show(&statistics);
        series.show(&statistics);
        statistics.brokers.insert("a".into(), broker(5, 100));
        series.show(&statistics);
        assert_eq!(
            (
                series.retries.get(),
                series.queue_records.get(),
                series.queue_bytes.get(),
                series.batch_bytes.get()
            ),
            (6, 2, 700, 90_000)
        );
        assert_eq!(
            (series.round_trip.get(), series.round_trip_p99.get()),
            (0.0015, 0.003)
        );
    }
}
