//! JSON logs on standard output, one object a line. `RUST_LOG` sets the level; `info` without it.

use tracing_subscriber::EnvFilter;

/// Starts logging. Call once.
pub fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_env_filter(filter)
        .init();
}
