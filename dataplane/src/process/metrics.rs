//! The registry behind `/metrics`, and the two text formats it is read in.
//!
//! Handles are resolved when a role starts or reloads, those of a request's method, route and status with the first of its
//! kind, for most of their combinations never come; nothing looks a metric up per event.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

/// `Content-Type` of OpenMetrics text.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// `Content-Type` of the Prometheus text format.
pub const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The process's metrics. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Metrics {
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Registry::with_prefix("penstock"))))
    }

    /// Registers metrics; every name gets the prefix `penstock_`.
    pub fn register<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Everything, as OpenMetrics.
    pub fn open_metrics(&self) -> String {
        let mut out = String::new();
        let registry = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match text::encode(&mut out, &registry) {
            Ok(()) => out,
            Err(fmt::Error) => String::from("# EOF\n"),
        }
    }

    /// Everything, in the older Prometheus text format.
    pub fn prometheus(&self) -> String {
        prometheus_from(&self.open_metrics())
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// OpenMetrics names a counter without `_total` in its comments, ends in `# EOF` and has units; the older format
/// has none of that.
fn prometheus_from(open_metrics: &str) -> String {
    let mut out = String::with_capacity(open_metrics.len());
    let mut help: Option<(&str, &str)> = None;
    for line in open_metrics.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        if let Some((name, text)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            help = Some((name, text));
            continue;
        }
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            let kind = match kind {
                "info" | "stateset" => "gauge",
                "unknown" => "untyped",
                known => known,
            };
            if let Some((_, text)) = help.take() {
                out.push_str(&format!("# HELP {name}{suffix} {text}\n"));
            }
            out.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
            continue;
        }
        out.push_str(line);
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::gauge::Gauge;

    use super::*;

    #[test]
    fn both_formats_name_a_counter_as_their_readers_expect() {
        let metrics = Metrics::new();
        let (counter, gauge) = (Counter::<u64>::default(), Gauge::<i64>::default());
        counter.inc_by(3);
        gauge.set(-1);
        metrics.register(|registry| {
            registry.register("requests", "Requests", counter);
            registry.register("level", "Level", gauge);
        });
        let open = metrics.open_metrics();
        assert!(
            open.contains("# TYPE penstock_requests counter\npenstock_requests_total 3\n"),
            "{open}"
        );
        assert!(open.ends_with("# EOF\n"));
        let old = metrics.prometheus();
        assert!(
            old.contains(
                "# HELP penstock_requests_total Requests.\n# TYPE penstock_requests_total counter\n"
            ),
            "{old}"
        );
        assert!(old.contains("\npenstock_requests_total 3\n") && old.contains("penstock_level -1\n"));
        assert!(!old.contains("EOF"));
    }
}
