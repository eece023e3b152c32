//! `clickhouse-front`: the ClickHouse engine's library behind the server's HTTP interface, for tests and for a machine
//! without a ClickHouse server. One data directory per process.
//!
//! ```text
//! service (HTTP) ─> request, body, multipart, frames (what was sent) ─> execute (on a blocking pool)
//!                   users, policy, statement, lexer (who may do what)    └─> engine (the C library)
//! ```

#![deny(unsafe_code)]

mod body;
#[allow(unsafe_code)]
mod engine;
mod execute;
mod failure;
mod frames;
mod lexer;
mod multipart;
mod policy;
mod query_log;
mod request;
mod service;
mod session;
mod statement;
mod tls;
mod users;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::engine::{Connection, Engine};
use crate::policy::Policy;
use crate::query_log::QueryLog;
use crate::service::Server;
use crate::session::Sessions;
use crate::users::Users;

/// How long requests may go on after the signal to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(25);
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Parser)]
#[command(
    name = "clickhouse-front",
    about = "The ClickHouse engine behind the HTTP interface"
)]
struct Arguments {
    /// The engine's library, libchdb.so
    #[arg(long, env = "PENSTOCK_CHDB_LIB")]
    lib: PathBuf,
    /// The data directory, made when it is missing
    #[arg(long)]
    path: PathBuf,
    /// The address to listen on; port 0 takes a free one, which is printed
    #[arg(long, default_value = "127.0.0.1:8123")]
    listen: SocketAddr,
    /// The address to listen on for HTTPS; needs --cert and --key
    #[arg(long, requires = "cert")]
    listen_tls: Option<SocketAddr>,
    /// The certificate for HTTPS, PEM
    #[arg(long, requires = "key")]
    cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long)]
    key: Option<PathBuf>,
    /// name:password or name:password:insert, which may only INSERT and SELECT. Visible in the process list
    #[arg(long = "user", value_name = "NAME:PASSWORD[:insert]")]
    users: Vec<String>,
    /// A file of such users, one per line, that nobody else can read
    #[arg(long)]
    users_file: Option<PathBuf>,
    /// Keep a log of finished queries in system.query_log
    #[arg(long)]
    query_log: bool,
    /// The largest body accepted, also after decompression
    #[arg(long, default_value_t = 1 << 30)]
    body_limit: usize,
    /// How many statements run at once; more of them wait
    #[arg(long, default_value_t = 32)]
    concurrency: usize,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("clickhouse-front: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), String> {
    // Everything that can be wrong is found before the port is bound.
    let users = Users::load(&arguments.users, arguments.users_file.as_deref())?;
    let acceptor = match (&arguments.cert, &arguments.key) {
        (Some(cert), Some(key)) => Some(tls::acceptor(cert, key)?),
        _ => None,
    };
    if arguments.concurrency == 0 {
        return Err("--concurrency must be at least 1".to_string());
    }
    std::fs::create_dir_all(&arguments.path)
        .map_err(|error| format!("{}: {error}", arguments.path.display()))?;
    let path = arguments
        .path
        .canonicalize()
        .map_err(|error| format!("{}: {error}", arguments.path.display()))?;
    let (engine, first) = Engine::open(&arguments.lib, &path)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(2)
        // One more for the writer of the query log.
        .max_blocking_threads(arguments.concurrency + 1)
        .build()
        .map_err(|error| format!("cannot start the runtime: {error}"))?;
    let outcome = runtime.block_on(serve(&arguments, acceptor, users, &engine, first));
    // Joins the pool, so that no thread is inside the engine when it is shut down.
    drop(runtime);
    engine.shutdown();
    outcome
}

async fn serve(
    arguments: &Arguments,
    acceptor: Option<TlsAcceptor>,
    users: Users,
    engine: &Arc<Engine>,
    mut first: Connection,
) -> Result<(), String> {
    let mut text = |sql: &str| {
        let output = first
            .query(sql.as_bytes(), "TabSeparated", &[])
            .map_err(|failure| failure.to_string())?;
        Ok::<_, String>(String::from_utf8_lossy(&output.data).trim_end().to_string())
    };
    let version = text("SELECT version()")?;
    let timezone = text("SELECT timezone()")?;
    let policy = Policy::new(text("SELECT name FROM system.table_functions")?.lines());
    let (log, writer) = if arguments.query_log {
        let (log, writer) = QueryLog::start(engine).map_err(|failure| failure.to_string())?;
        (Some(log), Some(writer))
    } else {
        (None, None)
    };
    let server = Arc::new(Server {
        engine: Arc::clone(engine),
        users,
        policy,
        sessions: Sessions::default(),
        log,
        slots: Arc::new(Semaphore::new(arguments.concurrency)),
        body_limit: arguments.body_limit,
        version,
        timezone,
    });
    let mut terminate =
        signal(SignalKind::terminate()).map_err(|error| format!("cannot handle SIGTERM: {error}"))?;
    let mut interrupt =
        signal(SignalKind::interrupt()).map_err(|error| format!("cannot handle SIGINT: {error}"))?;
    let listener = listen(arguments.listen).await?;
    let encrypted = match (arguments.listen_tls, acceptor) {
        (Some(address), Some(acceptor)) => Some((listen(address).await?, acceptor)),
        _ => None,
    };
    let accept_encrypted = async || match &encrypted {
        Some((listener, acceptor)) => listener
            .accept()
            .await
            .map(|(stream, _)| (stream, acceptor.clone())),
        None => std::future::pending().await,
    };
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    println!("clickhouse-front {} listens on http://{address}", server.version);

    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut sweep = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    no_delay(&stream);
                    connections.spawn(connection(stream, Arc::clone(&server), stopping.clone()));
                }
                Err(error) => cannot_accept(&error).await,
            },
            accepted = accept_encrypted() => match accepted {
                Ok((stream, acceptor)) => {
                    no_delay(&stream);
                    let (server, stopping) = (Arc::clone(&server), stopping.clone());
                    connections.spawn(async move {
                        // Who does not finish the handshake is no client.
                        let shaken = tokio::time::timeout(HEADER_TIMEOUT, acceptor.accept(stream)).await;
                        if let Ok(Ok(stream)) = shaken {
                            connection(stream, server, stopping).await;
                        }
                    });
                }
                Err(error) => cannot_accept(&error).await,
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            _ = sweep.tick() => server.sessions.sweep(Instant::now()),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    drop(listener);
    // Receivers are the connections; without any there is nobody to tell.
    let _ = stop.send(true);
    let ended = tokio::time::timeout(STOP_TIMEOUT, async {
        while connections.join_next().await.is_some() {}
    })
    .await;
    if ended.is_err() {
        eprintln!("clickhouse-front: requests still run after {STOP_TIMEOUT:?} and are dropped");
        connections.shutdown().await;
    }
    server.sessions.close_all();
    // The writer ends when its last sender goes, which the server holds.
    drop(server);
    if let Some(writer) = writer {
        writer
            .await
            .map_err(|error| format!("the query log's writer failed: {error}"))?;
    }
    drop(first);
    Ok(())
}

async fn listen(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address)
        .await
        .map_err(|error| format!("cannot listen on {address}: {error}"))
}

/// Small replies must not wait for a delayed acknowledgement.
fn no_delay(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
}

/// Out of file descriptors: what is open goes on, and closes in time.
async fn cannot_accept(error: &std::io::Error) {
    eprintln!("clickhouse-front: cannot accept: {error}");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    server: Arc<Server>,
    mut stopping: watch::Receiver<bool>,
) {
    let service = service_fn(move |request| {
        let server = Arc::clone(&server);
        async move { Ok::<_, std::convert::Infallible>(service::answer(server, request).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        // A client that has ended its side after the request still reads the answer.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    loop {
        tokio::select! {
            // A client that leaves in the middle is no failure of the server.
            _ = served.as_mut() => return,
            changed = stopping.changed() => {
                served.as_mut().graceful_shutdown();
                if changed.is_err() {
                    let _ = served.as_mut().await;
                    return;
                }
            }
        }
    }
}
