//! ClickHouse over HTTP: one INSERT of one block, and the few questions that the consumer asks.
//!
//! Invariants: an INSERT says every setting that it depends on, so no server default can change what it means; its
//! body has a Content-Length, so a body cut short inserts nothing; it is cut short here when the batch's assignment
//! ends while it is being sent. Credentials are read from their files for every request, so a rotated password
//! needs no restart.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{Method, Request, Uri};
use http_body_util::{BodyExt, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use penstock_dataplane_config::table::{inserted_columns, quote_identifier};
use penstock_dataplane_config::{ClickHouseTarget, Compression};

use super::failure::{Class, Failure};
use super::native::Block;
use super::upload::{NotAllowed, StillAllowed, Upload};

/// How long a question may take.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest answer to a question: the positions of a whole batch.
const LONGEST_ANSWER: usize = 64 << 20;

/// A connection to the pipeline's ClickHouse. Cheap to clone.
#[derive(Clone)]
pub struct ClickHouse(Arc<Shared>);

struct Shared {
    client: Client<HttpsConnector<HttpConnector>, Upload>,
    target: ClickHouseTarget,
    base: String,
    insert: String,
}

/// Why a target cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    #[error("`{0}` is not of the form http://host:port or https://host:port")]
    Url(String),
    #[error(transparent)]
    File(#[from] penstock_connect::Unusable),
}

impl std::fmt::Debug for ClickHouse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClickHouse({})", self.0.base)
    }
}

impl ClickHouse {
    pub fn new(target: &ClickHouseTarget) -> Result<Self, BadTarget> {
        let bad = || BadTarget::Url(target.url.clone());
        let uri: Uri = target.url.parse().map_err(|_| bad())?;
        let https = match (uri.scheme_str(), uri.host()) {
            (Some("http"), Some(_)) => false,
            (Some("https"), Some(_)) => true,
            _ => return Err(bad()),
        };
        let connector = penstock_connect::http::connector(https, target.tls.as_ref())?;
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(8))
            .build(connector);
        let columns: Vec<String> = inserted_columns()
            .map(|column| quote_identifier(column.name))
            .collect();
        let insert = format!(
            "INSERT INTO {}.{} ({}) FORMAT Native",
            quote_identifier(&target.database),
            quote_identifier(&target.table),
            columns.join(", ")
        );
        Ok(Self(Arc::new(Shared {
            client,
            base: target.url.trim_end_matches('/').to_owned(),
            target: target.clone(),
            insert,
        })))
    }

    /// `database.table`, quoted.
    pub fn table(&self) -> String {
        let target = &self.0.target;
        format!(
            "{}.{}",
            quote_identifier(&target.database),
            quote_identifier(&target.table)
        )
    }

    pub fn target(&self) -> &ClickHouseTarget {
        &self.0.target
    }

    /// How long an INSERT or a question may take.
    pub(super) fn longest_answer(&self) -> Duration {
        self.0.target.insert_timeout.get().max(QUESTION_TIMEOUT)
    }

    /// Stores a block under a token. `allowed` is asked while the body is sent; when it says no, the request is cut.
    pub async fn insert(&self, block: Arc<Block>, token: &str, allowed: StillAllowed) -> Result<(), Failure> {
        let settings = [
            ("insert_deduplicate", "1"),
            ("deduplicate_blocks_in_dependent_materialized_views", "1"),
            // Rows of one key are for the merges to collapse: done here it doubles what an INSERT costs, and a row that
            // is gone would be taken for one that is missing.
            ("optimize_on_insert", "0"),
            ("insert_deduplication_token", token),
        ];
        self.store(&self.0.insert, &settings, Upload::block(block, allowed))
            .await
    }

    /// Stores rows that the statement says where to and in which format; twice where that is asked for twice.
    pub(super) async fn insert_rows(&self, statement: &str, rows: Vec<u8>) -> Result<(), Failure> {
        self.store(statement, &[], Upload::bytes(rows)).await
    }

    /// What all INSERTs have in common: the answer says that the rows are stored, and here and there they end in time.
    async fn store(&self, statement: &str, settings: &[(&str, &str)], rows: Upload) -> Result<(), Failure> {
        let timeout = self.0.target.insert_timeout.get();
        let seconds = timeout.as_secs().max(1).to_string();
        let mut parameters = vec![
            ("query", statement),
            ("async_insert", "0"),
            ("max_execution_time", &seconds),
        ];
        parameters.extend_from_slice(settings);
        let body = match self.0.target.compression {
            Compression::None => rows,
            Compression::Lz4 => {
                parameters.push(("decompress", "1"));
                // A batch takes a while, in which others want to be sent.
                tokio::task::spawn_blocking(|| rows.compressed())
                    .await
                    .map_err(|error| Failure::new(Class::Server, format!("compressing: {error}")))?
            }
        };
        self.send(&parameters, body, timeout).await.map(drop)
    }

    /// Runs a SELECT and returns its answer.
    pub async fn ask(&self, query: String) -> Result<Vec<u8>, Failure> {
        self.send(&[], Upload::text(query), QUESTION_TIMEOUT).await
    }

    async fn send(
        &self,
        parameters: &[(&str, &str)],
        body: Upload,
        timeout: Duration,
    ) -> Result<Vec<u8>, Failure> {
        let exchange = self.exchange(parameters, body);
        match tokio::time::timeout(timeout, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::new(
                Class::Timeout,
                format!("no answer within {} s", timeout.as_secs()),
            )),
        }
    }

    async fn exchange(&self, parameters: &[(&str, &str)], body: Upload) -> Result<Vec<u8>, Failure> {
        let request = self.request(parameters, body)?;
        let answer = self
            .0
            .client
            .request(request)
            .await
            .map_err(|error| Failure::new(class_of(&error), with_causes(&error)))?;
        let status = answer.status().as_u16();
        let code = answer
            .headers()
            .get("x-clickhouse-exception-code")
            .and_then(|code| code.to_str().ok())
            .map(str::to_owned);
        let body = Limited::new(answer.into_body(), LONGEST_ANSWER)
            .collect()
            .await
            .map_err(|error| Failure::new(Class::Unreachable, format!("the answer broke off: {error}")))?
            .to_bytes();
        if status == 200 && code.is_none() {
            Ok(body.into())
        } else {
            Err(Failure::from_answer(status, code.as_deref(), &body))
        }
    }

    fn request(&self, parameters: &[(&str, &str)], body: Upload) -> Result<Request<Upload>, Failure> {
        let mut uri = format!("{}/?", self.0.base);
        for (name, value) in parameters {
            let _ = write!(uri, "{name}=");
            percent_encode(&mut uri, value);
            uri.push('&');
        }
        uri.pop();
        let unusable = |what: &str| Failure::new(Class::Denied, format!("{what} cannot be sent"));
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(uri)
            .header(CONTENT_LENGTH, body.length())
            .body(body)
            .map_err(|_| unusable("the request"))?;
        for (header, file) in [
            ("x-clickhouse-user", &self.0.target.username_file),
            ("x-clickhouse-key", &self.0.target.password_file),
        ] {
            let Some(file) = file else { continue };
            let secret = penstock_connect::secret(file)
                .map_err(|unusable| Failure::new(Class::Denied, format!("cannot read {unusable}")))?;
            let mut value = HeaderValue::try_from(secret).map_err(|_| unusable(header))?;
            value.set_sensitive(true);
            request.headers_mut().insert(header, value);
        }
        Ok(request)
    }
}

/// Whether a request that came to no answer was ended from here.
fn class_of(error: &(dyn std::error::Error + 'static)) -> Class {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<NotAllowed>() {
            return Class::Cut;
        }
        cause = error.source();
    }
    Class::Unreachable
}

/// An error and what caused it: the outer one alone says "client error (Connect)".
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let _ = write!(text, ": {inner}");
        cause = inner.source();
    }
    text
}

fn percent_encode(out: &mut String, value: &str) {
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                out.push(byte as char);
            }
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{Content, GOOD};
    use super::*;

    #[test]
    fn values_survive_the_url() {
        let mut out = String::new();
        percent_encode(&mut out, "a b/ü&=%+`");
        assert_eq!(out, "a%20b/%C3%BC%26%3D%25%2B%60");
    }

    #[test]
    fn only_addresses_of_http_are_taken() {
        for (url, good) in [
            ("http://localhost:8123", true),
            ("http://localhost:8123/", true),
            ("https://localhost:8443", true),
            ("ftp://localhost:8443", false),
            ("localhost:8123", false),
            ("", false),
        ] {
            let target: ClickHouseTarget =
                serde_json::from_value(serde_json::json!({"url": url, "database": "d", "table": "t"}))
                    .unwrap();
            assert_eq!(ClickHouse::new(&target).is_ok(), good, "{url}");
        }
    }

    /// A server that takes what is sent to it as slowly as this, and never answers; `allowed` from the beginning for so long.
    async fn insert_into_silence(reads: Duration, allowed: Duration) -> Failure {
        use tokio::io::AsyncReadExt as _;

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = vec![0; 64 << 10];
            while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {
                tokio::time::sleep(reads).await;
            }
        });
        let target: ClickHouseTarget = serde_json::from_value(
            serde_json::json!({"url": url, "database": "d", "table": "t", "insertTimeout": "1s"}),
        )
        .unwrap();
        let mut content = Content::default();
        for offset in 0..150_000 {
            content.add(0, offset, None, GOOD.as_bytes()).unwrap();
        }
        let begun = std::time::Instant::now();
        let outcome = ClickHouse::new(&target)
            .unwrap()
            .insert(
                content.block,
                "token",
                Box::new(move || begun.elapsed() < allowed),
            )
            .await;
        server.abort();
        outcome.unwrap_err()
    }

    #[tokio::test]
    async fn a_request_that_is_cut_is_told_from_one_that_is_not_answered() {
        let slow = insert_into_silence(Duration::from_millis(20), Duration::from_millis(100)).await;
        assert_eq!(slow.class, Class::Cut, "{slow}");
        // All of it was sent in time; that it may not be sent any more changes nothing.
        let silent = insert_into_silence(Duration::ZERO, Duration::from_millis(700)).await;
        assert_eq!(silent.class, Class::Timeout, "{silent}");
    }

    #[test]
    fn the_user_is_read_anew_for_every_request() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, value: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, value).unwrap();
            path
        };
        let target: ClickHouseTarget = serde_json::from_value(serde_json::json!({
            "url": "http://localhost:1", "database": "d", "table": "t",
            "usernameFile": file("user", "writer\n"), "passwordFile": file("password", "one"),
        }))
        .unwrap();
        let clickhouse = ClickHouse::new(&target).unwrap();
        let headers = || {
            let request = clickhouse.request(&[("query", "a b")], Upload::text("x".into()));
            let (parts, _) = request.unwrap().into_parts();
            assert_eq!(parts.uri.query(), Some("query=a%20b"));
            ["x-clickhouse-user", "x-clickhouse-key", "content-length"]
                .map(|name| parts.headers[name].to_str().unwrap().to_owned())
        };
        assert_eq!(headers(), ["writer", "one", "1"]);
        file("password", "two");
        assert_eq!(headers(), ["writer", "two", "1"]);
        std::fs::remove_file(folder.path().join("user")).unwrap();
        let failure = clickhouse.request(&[], Upload::text(String::new())).unwrap_err();
        assert_eq!(failure.class, Class::Denied);
        assert!(failure.detail.contains("user"), "{failure}");
    }
}
