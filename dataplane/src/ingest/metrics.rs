//! What ingest counts. Label sets are closed: apps come from apps.yaml, everything else from enums, and the handles
//! of an App are resolved when the file is read, not per event.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;

use super::flaw::Flaw;
use super::histogram::Histogram;
use crate::process::Metrics;

/// Seconds: from a loopback round trip to the request's deadline.
const BUCKETS: &[f64] = &[
    0.000_25, 0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 1.0, 4.0, 10.0,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct HttpLabels {
    pub(crate) method: &'static str,
    pub(crate) route: &'static str,
    pub(crate) status: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabels {
    app: String,
    outcome: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Copy, Debug)]
struct Seconds;

impl MetricConstructor<Histogram> for Seconds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(BUCKETS)
    }
}

/// All metrics of the role. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct IngestMetrics {
    http: Family<HttpLabels, Counter>,
    http_seconds: Family<HttpLabels, Histogram, Seconds>,
    events: Family<EventLabels, Counter>,
    /// From the request's first byte handled to the acknowledgement of its last group.
    pub(crate) seconds: Histogram,
    pub(crate) ahead: Counter,
    pub(crate) dropped_members: Counter,
    pub(crate) connections: Gauge,
    pub(crate) connections_refused: Counter,
    pub(crate) handshakes_failed: Counter,
    pub(crate) certificates_reloaded: Counter,
    pub(crate) certificates_refused: Counter,
    pub(crate) memory_used: Gauge,
    pub(crate) memory_limit: Gauge,
    pub(crate) groups_acknowledged: Counter,
    pub(crate) groups_failed: Counter,
    pub(crate) group_bytes: Counter,
    pub(crate) groups_waiting: Gauge,
    pub(crate) groups_in_flight: Gauge,
    pub(crate) producers_rebuilt: Counter,
    pub(crate) apps: Gauge,
    pub(crate) apps_reloaded: Counter,
    pub(crate) apps_refused: Counter,
    pub(crate) quota_syncs: Counter,
    pub(crate) quota_sync_failures: Counter,
    pub(crate) lease_age: Gauge<f64, AtomicU64>,
    pub(crate) log_lines_dropped: Counter,
}

impl IngestMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let groups = Family::<Outcome, Counter>::default();
        let reloads = Family::<Outcome, Counter>::default();
        let certificates = Family::<Outcome, Counter>::default();
        let syncs = Family::<Outcome, Counter>::default();
        let made = Self {
            http: Family::default(),
            http_seconds: Family::new_with_constructor(Seconds),
            events: Family::default(),
            seconds: Seconds.new_metric(),
            ahead: Counter::default(),
            dropped_members: Counter::default(),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
            handshakes_failed: Counter::default(),
            certificates_reloaded: certificates.get_or_create_owned(&Outcome { outcome: "accepted" }),
            certificates_refused: certificates.get_or_create_owned(&Outcome { outcome: "refused" }),
            memory_used: Gauge::default(),
            memory_limit: Gauge::default(),
            groups_acknowledged: groups.get_or_create_owned(&Outcome {
                outcome: "acknowledged",
            }),
            groups_failed: groups.get_or_create_owned(&Outcome { outcome: "failed" }),
            group_bytes: Counter::default(),
            groups_waiting: Gauge::default(),
            groups_in_flight: Gauge::default(),
            producers_rebuilt: Counter::default(),
            apps: Gauge::default(),
            apps_reloaded: reloads.get_or_create_owned(&Outcome { outcome: "accepted" }),
            apps_refused: reloads.get_or_create_owned(&Outcome { outcome: "refused" }),
            quota_syncs: syncs.get_or_create_owned(&Outcome { outcome: "done" }),
            quota_sync_failures: syncs.get_or_create_owned(&Outcome { outcome: "failed" }),
            lease_age: Gauge::default(),
            log_lines_dropped: Counter::default(),
        };
        metrics.register(|registry| {
            registry.register("http_requests", "Requests by route and answer", made.http.clone());
            registry.register(
                "http_request_duration_seconds",
                "From a request's head to its answer",
                made.http_seconds.clone(),
            );
            registry.register(
                "ingest_events",
                "Events by App, outcome and reason",
                made.events.clone(),
            );
            registry.register(
                "ingest_duration_seconds",
                "From a request's head to the acknowledgement of its events",
                made.seconds.clone(),
            );
            let ahead = "Events whose clock was more than 5 minutes ahead";
            registry.register("ingest_events_ahead", ahead, made.ahead.clone());
            let dropped = "Members of events that only the server may set";
            registry.register("ingest_members_dropped", dropped, made.dropped_members.clone());
            registry.register("ingest_connections", "Open connections", made.connections.clone());
            let refused = "Connections over the limit";
            registry.register(
                "ingest_connections_refused",
                refused,
                made.connections_refused.clone(),
            );
            registry.register(
                "ingest_tls_handshakes_failed",
                "Connections that ended before TLS was agreed on",
                made.handshakes_failed.clone(),
            );
            registry.register("ingest_tls_reloads", "Readings of the TLS files", certificates);
            let used = "Bytes of bodies and groups in flight";
            registry.register("ingest_memory_used_bytes", used, made.memory_used.clone());
            registry.register(
                "ingest_memory_limit_bytes",
                "Bound of the former",
                made.memory_limit.clone(),
            );
            registry.register("ingest_groups", "Groups of events produced to Kafka", groups);
            registry.register(
                "ingest_group_bytes",
                "Bytes of groups before compression",
                made.group_bytes.clone(),
            );
            registry.register(
                "ingest_groups_waiting",
                "Groups not yet produced",
                made.groups_waiting.clone(),
            );
            let in_flight = "Groups produced and not yet acknowledged";
            registry.register(
                "ingest_groups_in_flight",
                in_flight,
                made.groups_in_flight.clone(),
            );
            let rebuilt = "Producers replaced because they could do nothing more";
            registry.register(
                "ingest_producers_rebuilt",
                rebuilt,
                made.producers_rebuilt.clone(),
            );
            registry.register("ingest_apps", "Apps in force", made.apps.clone());
            registry.register("ingest_apps_reloads", "Readings of apps.yaml", reloads);
            registry.register("ingest_quota_syncs", "Exchanges with Redis", syncs);
            registry.register(
                "ingest_quota_lease_age_seconds",
                "Since Redis last gave leases, or since the start; 0 without Redis",
                made.lease_age.clone(),
            );
            let lines = "Lines of the request log not written for want of time";
            registry.register("ingest_log_lines_dropped", lines, made.log_lines_dropped.clone());
        });
        made
    }

    pub(crate) fn http(&self, labels: &HttpLabels) -> (Counter, Histogram) {
        (
            self.http.get_or_create_owned(labels),
            self.http_seconds.get_or_create_owned(labels),
        )
    }

    /// The handles of one App.
    pub(crate) fn of_app(&self, app: &str) -> AppMetrics {
        let counter = |outcome, reason| {
            self.events.get_or_create_owned(&EventLabels {
                app: app.to_owned(),
                outcome,
                reason,
            })
        };
        AppMetrics {
            accepted: counter("accepted", ""),
            not_stored: counter("failed", "not_stored"),
            rejected: Flaw::ALL.map(|flaw| counter("rejected", flaw.code())),
            quarantined: Flaw::ALL.map(|flaw| counter("quarantined", flaw.code())),
        }
    }

    /// Drops the series of an App that is gone.
    pub(crate) fn forget(&self, app: &str) {
        let labels = |outcome, reason| EventLabels {
            app: app.to_owned(),
            outcome,
            reason,
        };
        self.events.remove(&labels("accepted", ""));
        self.events.remove(&labels("failed", "not_stored"));
        for flaw in Flaw::ALL {
            self.events.remove(&labels("rejected", flaw.code()));
            self.events.remove(&labels("quarantined", flaw.code()));
        }
    }
}

/// One App's counters.
#[derive(Clone, Debug)]
pub(crate) struct AppMetrics {
    pub(crate) accepted: Counter,
    pub(crate) not_stored: Counter,
    rejected: [Counter; Flaw::ALL.len()],
    quarantined: [Counter; Flaw::ALL.len()],
}

impl AppMetrics {
    pub(crate) fn rejected(&self, flaw: Flaw) -> &Counter {
        &self.rejected[flaw as usize]
    }

    pub(crate) fn quarantined(&self, flaw: Flaw) -> &Counter {
        &self.quarantined[flaw as usize]
    }
}
