//! Asking a pod what its spool holds.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::depth::Depth;

/// From the connection to the last byte of the answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// Metrics of a pod are some kilobytes.
const LARGEST: usize = 1_000_000;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What the pod says; `None` where it does not, for whatever reason.
pub(super) async fn ask(address: SocketAddr) -> Option<Depth> {
    let answer = tokio::time::timeout(PATIENCE, metrics(address)).await;
    match answer {
        Ok(Ok(text)) => Depth::read(&text),
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "a pod did not say what its spool holds");
            None
        }
        Err(_) => {
            tracing::debug!(%address, "a pod did not say in time what its spool holds");
            None
        }
    }
}

async fn metrics(address: SocketAddr) -> Result<String, Failure> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the sender.
    let connection = tokio::spawn(connection);
    let request = Request::get("/metrics")
        .header("host", address.to_string())
        .body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await;
    let text = async {
        let answer = answer?;
        if !answer.status().is_success() {
            return Err(format!("answered {}", answer.status()).into());
        }
        let body = Limited::new(answer.into_body(), LARGEST).collect().await?;
        Ok(String::from_utf8(body.to_bytes().to_vec())?)
    };
    let text: Result<String, Failure> = text.await;
    connection.abort();
    text
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// A server that answers one request with these bytes, or never.
    async fn server(answer: Option<&'static str>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await.unwrap();
            match answer {
                Some(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
                None => std::future::pending().await,
            }
        });
        address
    }

    #[tokio::test]
    async fn an_answer_is_read() {
        let answer = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n\
             penstock_ingest_spool_groups 1\npenstock_ingest_spool_bytes 2\npenstock_ingest_spool_oldest_seconds 3\n";
        let depth = Depth {
            groups: 1,
            bytes: 2,
            oldest: 3,
        };
        assert_eq!(ask(server(Some(answer)).await).await, Some(depth));
    }

    #[tokio::test]
    async fn what_is_no_answer_is_none() {
        let refused = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(ask(server(Some(refused)).await).await, None);
        let closed = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap()
        };
        assert_eq!(ask(closed).await, None);
    }

    #[tokio::test]
    async fn silence_is_none_after_two_seconds() {
        let address = server(None).await;
        let began = std::time::Instant::now();
        assert_eq!(ask(address).await, None);
        assert!(began.elapsed() < PATIENCE * 2);
    }
}
