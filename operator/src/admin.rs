//! `/metrics`, `/livez`, `/readyz`.
//!
//! Live: the process serves. Ready: the definitions are installed and, where this operator leads, its caches are
//! filled. A standby is ready: it could take over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::metrics::Metrics;

/// What readiness depends on. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Checks>);

#[derive(Debug, Default)]
struct Checks {
    definitions: AtomicBool,
    caches: AtomicBool,
    stopping: AtomicBool,
}

impl Readiness {
    pub fn definitions(&self, installed: bool) {
        self.0.definitions.store(installed, Ordering::Relaxed);
    }

    pub fn caches(&self, filled: bool) {
        self.0.caches.store(filled, Ordering::Relaxed);
    }

    pub fn stopping(&self) {
        self.0.stopping.store(true, Ordering::Relaxed);
    }

    /// What is missing; empty when ready.
    fn missing(&self) -> Vec<&'static str> {
        let mut missing = Vec::new();
        if !self.0.definitions.load(Ordering::Relaxed) {
            missing.push(
                "the definitions of apps.penstock.dev and ingestionpipelines.penstock.dev are not installed",
            );
        }
        if !self.0.caches.load(Ordering::Relaxed) {
            missing.push("the caches are not filled");
        }
        if self.0.stopping.load(Ordering::Relaxed) {
            missing.push("the operator is stopping");
        }
        missing
    }
}

/// Serves until cancelled.
pub async fn serve(listener: TcpListener, metrics: Metrics, readiness: Readiness) -> std::io::Result<()> {
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(expose))
        .with_state((metrics, readiness));
    axum::serve(listener, router).await
}

async fn ready(State((_, readiness)): State<(Metrics, Readiness)>) -> Response {
    let missing = readiness.missing();
    if missing.is_empty() {
        return "ok\n".into_response();
    }
    (
        StatusCode::SERVICE_UNAVAILABLE,
        format!("{}\n", missing.join("\n")),
    )
        .into_response()
}

async fn expose(State((metrics, _)): State<(Metrics, Readiness)>) -> Response {
    match metrics.expose() {
        Ok(text) => (
            [(
                header::CONTENT_TYPE,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            )],
            text,
        )
            .into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_nothing_is_missing() {
        let readiness = Readiness::default();
        assert_eq!(readiness.missing().len(), 2);
        readiness.definitions(true);
        readiness.caches(true);
        assert!(readiness.missing().is_empty());
        readiness.stopping();
        assert_eq!(readiness.missing(), ["the operator is stopping"]);
    }
}
