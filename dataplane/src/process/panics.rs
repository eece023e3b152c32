//! Panics: logged as JSON with their place, counted, and never silent.
//!
//! A role catches a panic where one request or batch ends (a 500, a retried batch); the hook here sees all of them.

use std::sync::OnceLock;

use prometheus_client::metrics::counter::Counter;

use super::Metrics;

static PANICS: OnceLock<Counter> = OnceLock::new();

/// Logs and counts panics from here on, instead of the default text on standard error.
pub fn install_hook() {
    std::panic::set_hook(Box::new(|panic| {
        PANICS.get_or_init(Counter::default).inc();
        let message = panic
            .payload()
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.payload().downcast_ref::<String>().map(String::as_str))
            .unwrap_or("(not text)");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        let backtrace = std::backtrace::Backtrace::force_capture().to_string();
        tracing::error!(
            message,
            place,
            thread = thread.name().unwrap_or(""),
            backtrace,
            "panic"
        );
    }));
}

/// Registers the process-wide count.
pub(super) fn count(metrics: &Metrics) {
    let counter = PANICS.get_or_init(Counter::default).clone();
    metrics.register(|registry| registry.register("panics", "Panics caught or not", counter));
}
