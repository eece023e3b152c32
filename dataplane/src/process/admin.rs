//! The admin port: `/metrics`, `/livez`, `/readyz`. It answers while the role's own port is full or closed.
//!
//! `/livez` says that the process runs its event loop and, where a role lives by a thread of its own, that this goes
//! round; no dependency can make it fail, because a restart would not bring a broker back. `/readyz` says whether work
//! should be sent here.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::TcpListener;

use super::metrics::{OPEN_METRICS, PROMETHEUS};
use super::{Process, RoleError};

/// A scrape takes milliseconds; whoever needs longer holds a connection that others may want.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
const JSON: &str = "application/json";

/// Opens the admin port.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, RoleError> {
    TcpListener::bind(address)
        .await
        .map_err(|error| format!("cannot open the admin port {address}: {error}").into())
}

/// Serves until the task is dropped.
pub async fn serve(listener: TcpListener, process: Process) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "admin port cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let process = process.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer(&request, &process);
                async move { Ok::<_, Infallible>(answer) }
            });
            // A peer that goes away mid-answer is its own affair.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

fn answer(request: &Request<Incoming>, process: &Process) -> Response<Full<Bytes>> {
    let accept = request
        .headers()
        .get(ACCEPT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    route(request.method(), request.uri().path(), accept, process)
}

fn route(method: &Method, path: &str, accept: &str, process: &Process) -> Response<Full<Bytes>> {
    if !matches!(path, "/metrics" | "/livez" | "/readyz") {
        let body =
            json!({"status": "error", "error": "not found", "paths": ["/metrics", "/livez", "/readyz"]});
        return reply(StatusCode::NOT_FOUND, JSON, body.to_string());
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut refused = reply(StatusCode::METHOD_NOT_ALLOWED, JSON, String::new());
        refused
            .headers_mut()
            .insert(ALLOW, http::HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match path {
        "/metrics" if accept.contains("application/openmetrics-text") => {
            reply(StatusCode::OK, OPEN_METRICS, process.metrics.open_metrics())
        }
        "/metrics" => reply(StatusCode::OK, PROMETHEUS, process.metrics.prometheus()),
        "/livez" => livez(process),
        _ => readyz(process),
    }
}

fn livez(process: &Process) -> Response<Full<Bytes>> {
    match process.pulse.stopped_for() {
        None => reply(StatusCode::OK, JSON, json!({"status": "ok"}).to_string()),
        Some(silent) => {
            let error = format!("the working thread has not gone round for {} s", silent.as_secs());
            let body = json!({"status": "stopped", "error": error});
            reply(StatusCode::SERVICE_UNAVAILABLE, JSON, body.to_string())
        }
    }
}

fn readyz(process: &Process) -> Response<Full<Bytes>> {
    let (mut ready, dependencies) = process.dependencies.show();
    let stopping = process.shutdown.is_begun();
    ready &= !stopping;
    let status = if stopping {
        "stopping"
    } else if !ready {
        "not ready"
    } else if dependencies.iter().all(|one| one.ok) {
        "ready"
    } else {
        "degraded"
    };
    let code = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    reply(
        code,
        JSON,
        json!({"status": status, "dependencies": dependencies}).to_string(),
    )
}

fn reply(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::super::{Needed, Pulse};
    use super::*;

    fn status(path: &str, process: &Process) -> u16 {
        route(&Method::GET, path, "", process).status().as_u16()
    }

    #[test]
    fn ready_is_not_alive() {
        let process = Process::new();
        let kafka = process.dependencies.add("kafka", Needed::ToStart);
        assert_eq!(
            (status("/livez", &process), status("/readyz", &process)),
            (200, 503)
        );
        kafka.found();
        assert_eq!(status("/readyz", &process), 200);
        process.shutdown.begin();
        assert_eq!(
            (status("/livez", &process), status("/readyz", &process)),
            (200, 503)
        );
    }

    /// What answers is the event loop, which goes on when the thread that reads does not.
    #[test]
    fn a_process_whose_thread_stands_still_is_not_alive() {
        let mut process = Process::new();
        process.pulse = Pulse::silent();
        assert_eq!(status("/livez", &process), 503);
        process.pulse.beat();
        assert_eq!(status("/livez", &process), 200);
    }

    #[test]
    fn paths_methods_and_formats() {
        let process = Process::new();
        assert_eq!(status("/nowhere", &process), 404);
        assert_eq!(route(&Method::POST, "/livez", "", &process).status(), 405);
        for (accept, kind) in [
            ("", PROMETHEUS),
            ("application/openmetrics-text;version=1.0.0", OPEN_METRICS),
        ] {
            let answer = route(&Method::GET, "/metrics", accept, &process);
            assert_eq!(answer.headers()[CONTENT_TYPE], kind);
        }
    }
}
