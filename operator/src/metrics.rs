//! What the operator counts. Labels come from closed sets; no label holds the name of an object.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use penstock_crds::Reason;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByController {
    controller: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    controller: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByCall {
    service: &'static str,
    call: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByKind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByState {
    kind: &'static str,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByService {
    service: &'static str,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

fn seconds() -> Histogram {
    Histogram::new([0.005, 0.02, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0])
}

/// The metrics. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    reconciles: Family<ByController, Counter>,
    failures: Family<ByReason, Counter>,
    duration: Histograms<ByController>,
    calls: Histograms<ByCall>,
    writes: Family<ByKind, Counter>,
    watch_failures: Family<ByKind, Counter>,
    objects: Family<ByState, Gauge>,
    counted: Arc<Mutex<std::collections::HashMap<(&'static str, String), &'static str>>>,
    unreachable: Family<ByService, Gauge>,
    degraded: Gauge,
    degraded_pipelines: Arc<Mutex<std::collections::HashSet<String>>>,
    leader: Gauge,
    definitions_missing: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("penstock_operator");
        let reconciles = Family::default();
        let failures = Family::default();
        let duration = Histograms::new_with_constructor(seconds as fn() -> Histogram);
        let calls = Histograms::new_with_constructor(seconds as fn() -> Histogram);
        let writes = Family::default();
        let watch_failures = Family::default();
        let objects = Family::default();
        let unreachable = Family::default();
        let degraded = Gauge::default();
        let leader = Gauge::default();
        let definitions_missing = Gauge::default();
        registry.register("reconciles", "Looks at an object", reconciles.clone());
        registry.register(
            "reconcile_failures",
            "Looks that ended in a failure, by reason",
            failures.clone(),
        );
        registry.register(
            "reconcile_duration_seconds",
            "How long a look took",
            duration.clone(),
        );
        registry.register(
            "external_call_duration_seconds",
            "Calls to Kafka, ClickHouse and Redis, by result",
            calls.clone(),
        );
        registry.register("writes", "Writes to the Kubernetes API, by kind", writes.clone());
        registry.register(
            "watch_failures",
            "Watches that broke and were taken up again",
            watch_failures.clone(),
        );
        registry.register(
            "objects",
            "Objects by what they say of themselves",
            objects.clone(),
        );
        registry.register(
            "unreachable",
            "Addresses in use that do not answer",
            unreachable.clone(),
        );
        registry.register(
            "durability_degraded",
            "Pipelines of which acknowledged events wait on the disks of pods",
            degraded.clone(),
        );
        registry.register(
            "leader",
            "1 where this operator is the one that writes",
            leader.clone(),
        );
        registry.register(
            "definitions_missing",
            "1 while the definitions of the resources are not installed",
            definitions_missing.clone(),
        );
        Self {
            registry: Arc::new(registry),
            reconciles,
            failures,
            duration,
            calls,
            writes,
            watch_failures,
            objects,
            counted: Arc::default(),
            unreachable,
            degraded,
            degraded_pipelines: Arc::default(),
            leader,
            definitions_missing,
        }
    }
}

impl Metrics {
    /// The exposition in OpenMetrics text.
    pub fn expose(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    pub fn reconciled(&self, controller: &'static str, took: Duration) {
        self.reconciles.get_or_create(&ByController { controller }).inc();
        self.duration
            .get_or_create(&ByController { controller })
            .observe(took.as_secs_f64());
    }

    pub fn failed(&self, controller: &'static str, reason: Reason) {
        self.failures
            .get_or_create(&ByReason {
                controller,
                reason: reason.as_str(),
            })
            .inc();
    }

    pub fn called(&self, service: &'static str, call: &'static str, failed: Option<Reason>, took: Duration) {
        let result = failed.map_or("ok", Reason::as_str);
        self.calls
            .get_or_create(&ByCall {
                service,
                call,
                result,
            })
            .observe(took.as_secs_f64());
    }

    pub fn wrote(&self, kind: &'static str) {
        self.writes.get_or_create(&ByKind { kind }).inc();
    }

    pub fn watch_failed(&self, kind: &'static str) {
        self.watch_failures.get_or_create(&ByKind { kind }).inc();
    }

    /// Moves an object to a state (`ready`, `failing`, `paused`), or out of all of them.
    pub fn count(&self, kind: &'static str, object: String, state: Option<&'static str>) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (kind, object);
        let before = match state {
            Some(state) => counted.insert(key, state),
            None => counted.remove(&key),
        };
        if before != state {
            if let Some(state) = before {
                self.objects.get_or_create(&ByState { kind, state }).dec();
            }
            if let Some(state) = state {
                self.objects.get_or_create(&ByState { kind, state }).inc();
            }
        }
    }

    pub fn unreachable(&self, service: &'static str, addresses: usize) {
        self.unreachable
            .get_or_create(&ByService { service })
            .set(i64::try_from(addresses).unwrap_or(i64::MAX));
    }

    /// Whether events of a pipeline wait on the disks of pods.
    pub fn durability_degraded(&self, pipeline: String, degraded: bool) {
        let mut pipelines = self
            .degraded_pipelines
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if degraded {
            pipelines.insert(pipeline);
        } else {
            pipelines.remove(&pipeline);
        }
        self.degraded
            .set(i64::try_from(pipelines.len()).unwrap_or(i64::MAX));
    }

    pub fn leading(&self, leading: bool) {
        self.leader.set(leading.into());
    }

    pub fn definitions_missing(&self, missing: bool) {
        self.definitions_missing.set(missing.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_in_one_state_at_a_time() {
        let metrics = Metrics::default();
        metrics.count("App", "a/b".into(), Some("failing"));
        metrics.count("App", "a/b".into(), Some("ready"));
        metrics.count("App", "a/c".into(), Some("ready"));
        metrics.count("App", "a/c".into(), None);
        let text = metrics.expose().unwrap();
        assert!(
            text.contains(r#"penstock_operator_objects{kind="App",state="ready"} 1"#),
            "{text}"
        );
        assert!(
            text.contains(r#"penstock_operator_objects{kind="App",state="failing"} 0"#),
            "{text}"
        );
    }
}
