//! Answers HTTP requests: the paths, the reply and its headers, and the way of a request to the engine and back.
//!
//! ```text
//! headers ─> who, what ─> body, whole ─> [one of N slots] blocking pool: connection ─> statement ─> reply
//! ```
//! A reply is built when the statement has ended, so an error is always a status and never the middle of a 200.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
use tokio::sync::Semaphore;

use crate::body;
use crate::engine::{Connection, Engine, Output};
use crate::execute::{self, Done, Job};
use crate::failure::{Code, Failure};
use crate::frames;
use crate::policy::Policy;
use crate::query_log::{Entry, QueryLog};
use crate::request::Request;
use crate::session::Sessions;
use crate::statement::{Shape, Statement};
use crate::users::Users;

/// How much of a refused request's body is read, so that the client sees the answer instead of a reset.
const DRAIN_BYTES: usize = 64 * 1024;
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// The server's state, shared by all connections.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) engine: Arc<Engine>,
    pub(crate) users: Users,
    pub(crate) policy: Policy,
    pub(crate) sessions: Sessions,
    pub(crate) log: Option<QueryLog>,
    /// As many statements run at once as there are permits; more of them wait.
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) body_limit: usize,
    pub(crate) version: String,
    pub(crate) timezone: String,
}

type Reply = Response<Full<Bytes>>;

struct Context {
    query_id: String,
    compress: bool,
    accept_encoding: Option<body::Encoding>,
}

/// Answers one request.
pub(crate) async fn answer(server: Arc<Server>, request: hyper::Request<Incoming>) -> Reply {
    let (parts, body) = request.into_parts();
    match parts.uri.path() {
        "/ping" | "/replicas_status" => return plain(StatusCode::OK, "Ok.\n"),
        "/" | "/query" => {}
        path => return plain(StatusCode::NOT_FOUND, format!("There is no handle {path}\n")),
    }
    let query_id = uuid::Uuid::new_v4().to_string();
    let started = Instant::now();
    let mut context = Context {
        query_id,
        compress: false,
        accept_encoding: None,
    };
    let outcome = handle(&server, &parts, body, &mut context, started).await;
    let reply = match outcome {
        Ok(None) => plain(StatusCode::OK, "Ok.\n"),
        Ok(Some(done)) => success(&server, &context, done, started.elapsed()),
        Err(failure) => failed(&server, &context, &failure),
    };
    if parts.method == Method::HEAD {
        reply.map(|_| Full::default())
    } else {
        reply
    }
}

/// `None` for a GET without a query, which the server answers like a ping.
async fn handle(
    server: &Arc<Server>,
    parts: &Parts,
    body: Incoming,
    context: &mut Context,
    started: Instant,
) -> Result<Option<Done>, Failure> {
    let admitted = admit(server, parts, context);
    let (request, role) = match admitted {
        Ok(admitted) => admitted,
        Err(failure) => {
            drain(body).await;
            return Err(failure);
        }
    };
    let body = body::read_whole(body, server.body_limit).await?;
    if request.query.is_empty() && body.is_empty() && request.read_only {
        return Ok(None);
    }
    let user = request.user.clone();
    let session = request.session.clone();
    let job = Job {
        request,
        role,
        body,
        limit: server.body_limit,
    };
    let (outcome, shown) = run(server, job).await;
    if let Some(session) = session.filter(|_| matches!(&outcome, Err(Failed::Lost))) {
        server.sessions.end(&user, &session);
    }
    let outcome = outcome.map_err(|failed| match failed {
        Failed::Statement(failure) => failure,
        Failed::Lost => Failure::new(Code::LogicalError, "the statement ended without an answer"),
    });
    if let Some(log) = &server.log {
        let is_flush = Statement::parse(shown.as_bytes())
            .ok()
            .flatten()
            .is_some_and(|s| {
                matches!(&s.shape, Shape::Other(word) if word == "SYSTEM") && s.has_words(&["FLUSH", "LOGS"])
            });
        log.add(entry(
            &outcome,
            shown,
            user,
            context.query_id.clone(),
            started.elapsed(),
        ));
        if is_flush && outcome.is_ok() {
            log.flush().await;
        }
    }
    outcome.map(Some)
}

fn admit(
    server: &Server,
    parts: &Parts,
    context: &mut Context,
) -> Result<(Request, crate::users::Role), Failure> {
    if !matches!(
        parts.method,
        Method::GET | Method::HEAD | Method::POST | Method::PUT
    ) {
        return Err(Failure::new(
            Code::NotImplemented,
            format_args!("Method {} is not supported", parts.method),
        ));
    }
    let request = Request::read(parts)?;
    if let Some(query_id) = &request.query_id {
        context.query_id.clone_from(query_id);
    }
    context.compress = request.compress;
    context.accept_encoding = request.accept_encoding;
    let role = server.users.authenticate(&request.user, &request.password)?;
    let announced = parts
        .headers
        .get(header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.parse().ok());
    execute::check_length(announced, server.body_limit)?;
    Ok((request, role))
}

enum Failed {
    Statement(Failure),
    /// The task that ran the statement is gone (it panicked), and the connection with it.
    Lost,
}

async fn run(server: &Arc<Server>, mut job: Job) -> (Result<Done, Failed>, String) {
    let Ok(permit) = Arc::clone(&server.slots).acquire_owned().await else {
        let failure = Failure::new(Code::CannotScheduleTask, "the server is stopping");
        return (Err(Failed::Statement(failure)), String::new());
    };
    let worker = Arc::clone(server);
    let task = tokio::task::spawn_blocking(move || {
        // Held until the statement ends, also when its client has left.
        let _permit = permit;
        let mut shown = String::new();
        let outcome = on_connection(&worker, &mut job, &mut shown);
        (outcome.map_err(Failed::Statement), shown)
    });
    task.await.unwrap_or_else(|_| (Err(Failed::Lost), String::new()))
}

fn on_connection(server: &Server, job: &mut Job, shown: &mut String) -> Result<Done, Failure> {
    let Some(session) = job.request.session.clone() else {
        let mut connection = server.engine.connect()?;
        return execute::run(&mut connection, job, &server.policy, shown);
    };
    let user = job.request.user.clone();
    let mut connection: Connection = match server.sessions.take(&user, &session, Instant::now())? {
        Some(connection) => connection,
        None => server
            .engine
            .connect()
            .inspect_err(|_| server.sessions.end(&user, &session))?,
    };
    let outcome = execute::run(&mut connection, job, &server.policy, shown);
    server
        .sessions
        .put_back(&user, &session, connection, Instant::now());
    outcome
}

async fn drain(mut body: Incoming) {
    let read = async {
        let mut total = 0;
        while let Some(Ok(frame)) = body.frame().await {
            total += frame.data_ref().map_or(0, Bytes::len);
            if total > DRAIN_BYTES {
                break;
            }
        }
    };
    // Whatever is left after that time, the connection is closed on.
    let _ = tokio::time::timeout(DRAIN_TIME, read).await;
}

fn entry(
    outcome: &Result<Done, Failure>,
    query: String,
    user: String,
    query_id: String,
    duration: Duration,
) -> Entry {
    let base = Entry {
        duration,
        query,
        user,
        query_id,
        ..Entry::default()
    };
    match outcome {
        Ok(Done { output, .. }) => Entry {
            read_rows: output.rows_read,
            read_bytes: output.bytes_read,
            written_rows: output.rows_written,
            written_bytes: output.bytes_written,
            result_rows: output.result_rows,
            result_bytes: output.result_bytes,
            ..base
        },
        Err(failure) => Entry {
            exception_code: failure.number(),
            exception: failure.text().to_string(),
            ..base
        },
    }
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(text.into()));
    *reply.status_mut() = status;
    set(&mut reply, header::CONTENT_TYPE, "text/html; charset=UTF-8");
    reply
}

fn success(server: &Server, context: &Context, done: Done, elapsed: Duration) -> Reply {
    let summary = summary(&done.output, elapsed);
    let mut data = done.output.data;
    if context.compress {
        data = frames::encode(&data);
    }
    let mut encoded_as = None;
    if let Some(encoding) = context.accept_encoding.filter(|_| !data.is_empty()) {
        match encoding.encode(&data) {
            Ok(encoded) => {
                data = encoded;
                encoded_as = Some(encoding);
            }
            Err(error) => {
                let failure = Failure::new(
                    Code::LogicalError,
                    format_args!("cannot compress the reply: {error}"),
                );
                return failed(server, context, &failure);
            }
        }
    }
    let mut reply = Response::new(Full::new(Bytes::from(data)));
    describe(server, context, &mut reply);
    if let Some(encoding) = encoded_as {
        set(&mut reply, header::CONTENT_ENCODING, encoding.name());
    }
    set(&mut reply, header::CONTENT_TYPE, content_type(&done.format));
    set(
        &mut reply,
        HeaderName::from_static("x-clickhouse-format"),
        &done.format,
    );
    set(
        &mut reply,
        HeaderName::from_static("x-clickhouse-summary"),
        &summary,
    );
    reply
}

fn failed(server: &Server, context: &Context, failure: &Failure) -> Reply {
    let mut text = failure.body(&server.version).into_bytes();
    if context.compress {
        text = frames::encode(&text);
    }
    let mut reply = plain(failure.status(), text);
    describe(server, context, &mut reply);
    set(&mut reply, header::CONTENT_TYPE, "text/plain; charset=UTF-8");
    set(
        &mut reply,
        HeaderName::from_static("x-clickhouse-exception-code"),
        &failure.number().to_string(),
    );
    if failure.status() == StatusCode::UNAUTHORIZED {
        set(
            &mut reply,
            header::WWW_AUTHENTICATE,
            "Basic realm=\"ClickHouse server HTTP API\"",
        );
    }
    reply
}

fn describe(server: &Server, context: &Context, reply: &mut Reply) {
    set(
        reply,
        HeaderName::from_static("x-clickhouse-query-id"),
        &context.query_id,
    );
    set(
        reply,
        HeaderName::from_static("x-clickhouse-timezone"),
        &server.timezone,
    );
    set(
        reply,
        HeaderName::from_static("x-clickhouse-server-display-name"),
        "clickhouse-front",
    );
}

/// A value that a header cannot carry (a query id with a line break) is left out.
fn set(reply: &mut Reply, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        reply.headers_mut().insert(name, value);
    }
}

fn summary(output: &Output, elapsed: Duration) -> String {
    format!(
        "{{\"read_rows\":\"{}\",\"read_bytes\":\"{}\",\"written_rows\":\"{}\",\"written_bytes\":\"{}\",\
         \"total_rows_to_read\":\"0\",\"result_rows\":\"{}\",\"result_bytes\":\"{}\",\"elapsed_ns\":\"{}\"}}",
        output.rows_read,
        output.bytes_read,
        output.rows_written,
        output.bytes_written,
        output.result_rows,
        output.result_bytes,
        elapsed.as_nanos(),
    )
}

fn content_type(format: &str) -> &'static str {
    match format {
        _ if format.starts_with("JSON") && format.contains("EachRow") => {
            "application/x-ndjson; charset=UTF-8"
        }
        _ if format.starts_with("JSON") => "application/json; charset=UTF-8",
        _ if format.starts_with("TabSeparated") || format.starts_with("TSV") => {
            "text/tab-separated-values; charset=UTF-8"
        }
        _ if format.starts_with("CSV") => "text/csv; charset=UTF-8",
        _ if format.starts_with("Pretty") || format == "Vertical" || format == "Values" => {
            "text/plain; charset=UTF-8"
        }
        _ => "application/octet-stream",
    }
}
