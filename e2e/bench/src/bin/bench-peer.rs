//! `bench-peer hyper|axum ADDRESS`: a bare HTTP server that reads the body and answers. The floor of what a request
//! costs: no key, no JSON, no Kafka.
#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::error::Error;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::LocalSet;

const ANSWER: &str = "{\"status\":\"accepted\",\"accepted\":1,\"rejected\":[]}";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [server, address] = arguments.as_slice() else {
        return Err("bench-peer hyper|axum ADDRESS".into());
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind(address).await?;
        match server.as_str() {
            "hyper" => hyper_server(listener).await,
            "axum" => axum_server(listener).await,
            other => Err(format!("there is no server {other}").into()),
        }
    })
}

async fn hyper_server(listener: TcpListener) -> Result<(), Box<dyn Error>> {
    async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        // A body that ends early is answered too: nobody reads it.
        let _ = request.into_body().collect().await;
        let mut answer = Response::new(Full::new(Bytes::from_static(ANSWER.as_bytes())));
        let json = HeaderValue::from_static("application/json");
        answer.headers_mut().insert(CONTENT_TYPE, json);
        Ok(answer)
    }
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::task::spawn_local(
            http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)),
        );
    }
}

async fn axum_server(listener: TcpListener) -> Result<(), Box<dyn Error>> {
    use axum::Router;
    use axum::extract::DefaultBodyLimit;
    use axum::routing::post;
    use axum::serve::ListenerExt as _;

    async fn answer(_body: Bytes) -> ([(&'static str, &'static str); 1], &'static str) {
        ([("content-type", "application/json")], ANSWER)
    }
    let router = Router::new()
        .route("/v1/events", post(answer))
        .route("/v1/events/batch", post(answer))
        .layer(DefaultBodyLimit::max(8 << 20));
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, router).await?;
    Ok(())
}
