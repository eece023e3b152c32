//! What the spool counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::super::histogram::Histogram;
use crate::process::Metrics;

/// Seconds: from a disk with a cache of its own to one that stalls.
const SYNC_BUCKETS: &[f64] = &[
    0.000_25, 0.000_5, 0.001, 0.002, 0.004, 0.008, 0.03, 0.125, 0.5, 2.0,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// The spool's metrics. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct SpoolMetrics {
    pub(crate) groups: Gauge,
    pub(crate) bytes: Gauge,
    pub(crate) disk: Gauge,
    pub(crate) limit: Gauge,
    pub(crate) oldest: Gauge,
    pub(crate) kept: Counter,
    pub(crate) refused: Counter,
    pub(crate) drained: Counter,
    pub(crate) found: Counter,
    pub(crate) undrained: Counter,
    pub(crate) sync: Histogram,
}

impl SpoolMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let spooled = Family::<Outcome, Counter>::default();
        let drained = Family::<Outcome, Counter>::default();
        let outcome = |outcome| Outcome { outcome };
        let made = Self {
            groups: Gauge::default(),
            bytes: Gauge::default(),
            disk: Gauge::default(),
            limit: Gauge::default(),
            oldest: Gauge::default(),
            kept: spooled.get_or_create_owned(&outcome("kept")),
            refused: spooled.get_or_create_owned(&outcome("refused")),
            drained: drained.get_or_create_owned(&outcome("stored")),
            found: drained.get_or_create_owned(&outcome("already_stored")),
            undrained: drained.get_or_create_owned(&outcome("failed")),
            sync: Histogram::new(SYNC_BUCKETS),
        };
        metrics.register(|registry| {
            let mut gauge =
                |name: &str, help: &str, gauge: &Gauge| registry.register(name, help, gauge.clone());
            gauge("ingest_spool_groups", "Groups in the spool", &made.groups);
            gauge("ingest_spool_bytes", "Bytes of groups in the spool", &made.bytes);
            gauge(
                "ingest_spool_disk_bytes",
                "Bytes of the spool's files",
                &made.disk,
            );
            gauge("ingest_spool_limit_bytes", "Bound of the former", &made.limit);
            let oldest = "Age of the oldest group in the spool";
            gauge("ingest_spool_oldest_seconds", oldest, &made.oldest);
            registry.register("ingest_spooled_groups", "Groups for the spool", spooled);
            let help = "Groups out of the spool; a failed one is tried again";
            registry.register("ingest_drained_groups", help, drained);
            let help = "How long the spool's fsync takes";
            registry.register("ingest_spool_sync_seconds", help, made.sync.clone());
        });
        made
    }
}
