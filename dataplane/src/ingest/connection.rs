//! One connection: HTTP/1.1 or HTTP/2 by hyper, over TLS or not, and a watch over how long its client takes.
//!
//! ```text
//! TCP -(place free?)-> [TLS: ALPN says which | first bytes do] -> HTTP/1.1 | HTTP/2 -> handler
//! ```
//! A client may keep a quiet connection for [`IDLE`], but a handshake or the head of an HTTP/1.1 request that has begun
//! must be complete within [`HEAD`]; who is slower gets 408 and is cut. A head of HTTP/2 comes in frames of many
//! streams, so there only the quiet connection is watched: one without a request in hand is asked to end after [`IDLE`],
//! and cut when it does not. The watch costs no timer per request: the shard looks at all connections once a second. Many
//! that are due at once, as slow clients that came together are, go a few at a time, so that requests of others get a turn.
//!
//! Bounded for each connection: its heads, its streams, and the bytes that streams may send before anybody reads
//! them, which no budget counts.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::answer::Answer;
use super::handler::Handler;

/// From the first byte of a handshake or of a request's head to its last.
const HEAD: Duration = Duration::from_secs(5);
/// How exact a connection's times are.
const LOOK: Duration = Duration::from_secs(1);
/// Between requests. Longer than the load balancers in front keep theirs, so that they close, not we.
const IDLE: Duration = Duration::from_secs(120);
/// Bytes of a request's head.
const HEAD_LIMIT: usize = 32 * 1024;
/// Requests that one connection of HTTP/2 may have open.
const STREAMS: u32 = 128;
/// Bytes that one stream, and one connection, of HTTP/2 may send ahead of who reads them.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// How many connections are told to end at once, and how long until the next are: a thousand, told at once, would keep all
/// others waiting for 20 to 40 ms.
const TOLD_AT_ONCE: usize = 32;
const BETWEEN_TELLINGS: Duration = Duration::from_millis(5);
/// How long a client that was too slow may take to be told so.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What is read of a connection at once, and so what a request takes that waits for room: hyper reads so much of a body
/// before anybody asks for it.
const READ_AT_ONCE: usize = 64 * 1024;

const TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-type: application/json\r\n\
content-length: 97\r\n\r\n{\"status\":\"error\",\"code\":\"timeout\",\"error\":\"request timeout\",\"message\":\"too slow\",\"details\":null}";
const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\n\
content-type: application/json\r\ncontent-length: 107\r\n\r\n\
{\"status\":\"error\",\"code\":\"overloaded\",\"error\":\"overloaded\",\"message\":\"too many connections\",\"details\":null}";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Between requests.
    Idle,
    /// A head has begun.
    Head,
    /// A request is being served; its own deadlines apply.
    Busy,
}

/// What the watch knows of a connection.
#[derive(Debug)]
struct Watch {
    phase: Cell<Phase>,
    /// By the shard's clock.
    since: Cell<Instant>,
    clock: Rc<Cell<Instant>>,
    /// In hand; of HTTP/1.1 at most one.
    requests: Cell<u32>,
    verdict: Cell<Verdict>,
    called: Notify,
}

/// It only ever gets worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Go,
    /// End after the request in hand.
    Finish,
    /// Too slow: answer 408 and cut.
    Cut,
}

impl Watch {
    fn new(clock: &Rc<Cell<Instant>>) -> Self {
        Self {
            phase: Cell::new(Phase::Idle),
            since: Cell::new(clock.get()),
            clock: Rc::clone(clock),
            requests: Cell::new(0),
            verdict: Cell::new(Verdict::Go),
            called: Notify::new(),
        }
    }

    fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(self.clock.get());
    }

    /// Whether it had not been told yet.
    fn tell(&self, verdict: Verdict) -> bool {
        let is_news = verdict > self.verdict.get();
        if is_news {
            self.verdict.set(verdict);
            self.called.notify_one();
        }
        is_news
    }

    /// What is to become of it, by how long it has been what it is.
    fn due(&self, now: Instant) -> Verdict {
        let age = now.saturating_duration_since(self.since.get());
        match self.phase.get() {
            Phase::Head if age > HEAD + LOOK => Verdict::Cut,
            Phase::Idle if age > IDLE + HEAD => Verdict::Cut,
            Phase::Idle if age > IDLE => Verdict::Finish,
            _ => Verdict::Go,
        }
    }
}

/// The connections of a shard.
#[derive(Debug)]
pub(crate) struct Connections {
    open: RefCell<Vec<Rc<Watch>>>,
    /// When they were last looked at: exact enough for what takes seconds, and a request asks for it three times.
    clock: Rc<Cell<Instant>>,
}

impl Connections {
    pub(crate) fn new() -> Self {
        Self {
            open: RefCell::default(),
            clock: Rc::new(Cell::new(Instant::now())),
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.open.borrow().len()
    }

    /// Cuts who is too slow, ends who is idle for too long, for as long as it is polled.
    pub(crate) async fn watch_all(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            while self.look(Instant::now()) {
                tokio::time::sleep(BETWEEN_TELLINGS).await;
            }
        }
    }

    /// Tells the first of those who are due; whether there may be more.
    fn look(&self, now: Instant) -> bool {
        self.clock.set(now);
        let open = self.open.borrow();
        let told = open.iter().filter(|watch| watch.tell(watch.due(now)));
        told.take(TOLD_AT_ONCE).count() == TOLD_AT_ONCE
    }

    /// Has every connection end after the request in hand.
    pub(crate) fn finish(&self) {
        for watch in self.open.borrow().iter() {
            watch.tell(Verdict::Finish);
        }
    }

    /// Serves one connection to its end.
    pub(crate) async fn serve(&self, mut stream: TcpStream, peer: IpAddr, handler: Rc<Handler>) {
        let Ok(place) = std::sync::Arc::clone(&handler.parts.places).try_acquire_owned() else {
            handler.parts.metrics.connections_refused.inc();
            // Over TLS it would take the handshake that there is no room for.
            if handler.parts.tls.is_none() {
                // What fits the socket's buffer; who does not read gets nothing.
                let _ = stream.try_write(TOO_MANY);
            }
            return;
        };
        let watch = Rc::new(Watch::new(&self.clock));
        self.open.borrow_mut().push(Rc::clone(&watch));
        handler.parts.metrics.connections.inc();
        let _open = Open {
            connections: self,
            watch: Rc::clone(&watch),
            handler: Rc::clone(&handler),
            _place: place,
        };
        let acceptor = handler.parts.tls.as_ref().map(|tls| tls.acceptor());
        let Some(acceptor) = acceptor else {
            return match version(&mut stream, &watch).await {
                Some((Version::Http1, begun)) => serve_http1(begun, stream, peer, handler, watch).await,
                Some((Version::Http2, begun)) => serve_http2(begun, stream, peer, handler, watch).await,
                None => {}
            };
        };
        watch.enter(Phase::Head);
        let shaken = tokio::select! {
            biased;
            shaken = acceptor.accept(stream) => shaken.ok(),
            () = watch.called.notified() => None,
        };
        let Some(stream) = shaken else {
            handler.parts.metrics.handshakes_failed.inc();
            return;
        };
        watch.enter(Phase::Idle);
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            serve_http2(Bytes::new(), stream, peer, handler, watch).await;
        } else {
            serve_http1(Bytes::new(), stream, peer, handler, watch).await;
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Http1,
    Http2,
}

/// What a connection of HTTP/2 begins with.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Which HTTP a client speaks without TLS, and what had to be read to know. Read, not looked at: what is only looked at
/// stays readable, so that nothing would tell when more has come. `None` when the connection ends before.
async fn version(stream: &mut TcpStream, watch: &Watch) -> Option<(Version, Bytes)> {
    let mut begun = BytesMut::with_capacity(PREFACE.len());
    while begun.len() < PREFACE.len() && PREFACE.starts_with(&begun) {
        let missing = PREFACE.len() - begun.len();
        let mut rest = (&mut begun).limit(missing);
        let read = tokio::select! {
            biased;
            read = stream.read_buf(&mut rest) => Some(read.ok()?),
            () = watch.called.notified() => None,
        };
        match read {
            Some(0) => return None,
            Some(_) if watch.phase.get() == Phase::Idle => watch.enter(Phase::Head),
            Some(_) => {}
            None if watch.verdict.get() == Verdict::Cut => {
                let _ = stream.try_write(TOO_SLOW);
                return None;
            }
            None if begun.is_empty() => return None,
            // To finish is for who serves the request that has begun.
            None => break,
        }
    }
    if watch.verdict.get() == Verdict::Finish {
        watch.called.notify_one();
    }
    let version = if begun[..] == PREFACE[..] {
        watch.enter(Phase::Idle);
        Version::Http2
    } else {
        Version::Http1
    };
    Some((version, begun.freeze()))
}

async fn serve_http1<S>(begun: Bytes, stream: S, peer: IpAddr, handler: Rc<Handler>, watch: Rc<Watch>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let io = TokioIo::new(Stream {
        begun,
        rest: stream,
        heads: Some(Rc::clone(&watch)),
    });
    // Without hyper's `pipeline_flush`: it holds answers back while anything behind the request has been read, be it
    // half a request, and what refuses a bad head for ever.
    // With its `half_close`: a client that has said everything may close its half before it reads the answer. One that has
    // gone altogether looks the same until the answer is written; its request goes on for as long as any request may.
    let mut connection = http1::Builder::new()
        .half_close(true)
        .max_header_size(HEAD_LIMIT)
        .max_buf_size(READ_AT_ONCE)
        .serve_connection(io, service(peer, handler, &watch));
    loop {
        tokio::select! {
            biased;
            // A client that goes away, or speaks no HTTP, is told so by hyper and needs nothing from us.
            _ = &mut connection => return,
            () = watch.called.notified() => {}
        }
        if watch.verdict.get() == Verdict::Cut {
            let mut stream = connection.into_parts().io.into_inner().rest;
            let last_word = async {
                stream.write_all(TOO_SLOW).await?;
                stream.shutdown().await
            };
            // Who does not read gets nothing.
            let _ = tokio::time::timeout(LAST_WORD, last_word).await;
            return;
        }
        Pin::new(&mut connection).graceful_shutdown();
    }
}

async fn serve_http2<S>(begun: Bytes, stream: S, peer: IpAddr, handler: Rc<Handler>, watch: Rc<Watch>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let shutdown = handler.parts.shutdown.clone();
    let io = TokioIo::new(Stream {
        begun,
        rest: stream,
        heads: None,
    });
    let connection = http2::Builder::new(OnThisShard)
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD_LIMIT as u32)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .serve_connection(io, service(peer, handler, &watch));
    let mut connection = std::pin::pin!(connection);
    loop {
        tokio::select! {
            biased;
            _ = connection.as_mut() => return,
            () = watch.called.notified() => {}
            // There is no `Connection: close` in HTTP/2: who is connected is told at once to go elsewhere.
            () = shutdown.begun(), if watch.verdict.get() == Verdict::Go => { watch.tell(Verdict::Finish); }
        }
        if watch.verdict.get() == Verdict::Cut {
            // It was asked to finish, and does not even answer that.
            return;
        }
        connection.as_mut().graceful_shutdown();
    }
}

/// Answers the requests of one connection, and tells its watch.
fn service(
    peer: IpAddr,
    handler: Rc<Handler>,
    watch: &Rc<Watch>,
) -> impl Service<Request<Incoming>, Response = Answer, Error = Infallible, Future: 'static> + use<> {
    let watch = Rc::clone(watch);
    service_fn(move |request| {
        let handler = Rc::clone(&handler);
        let busy = Busy::begin(&watch);
        async move { Ok(handler.handle(request, peer, busy).await) }
    })
}

/// A request in hand, until its body is read, too. Its end counts also when its client has taken it back.
pub(crate) struct Busy(Rc<Watch>);

impl Busy {
    fn begin(watch: &Rc<Watch>) -> Self {
        watch.requests.set(watch.requests.get() + 1);
        watch.enter(Phase::Busy);
        Self(Rc::clone(watch))
    }

    /// As long as both of them.
    pub(crate) fn also(&self) -> Self {
        Self::begin(&self.0)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.requests.set(self.0.requests.get() - 1);
        if self.0.requests.get() == 0 {
            self.0.enter(Phase::Idle);
        }
    }
}

/// Runs the streams of a connection as tasks of its shard.
#[derive(Clone, Copy, Debug)]
struct OnThisShard;

impl<F> hyper::rt::Executor<F> for OnThisShard
where
    F: Future + 'static,
{
    fn execute(&self, stream: F) {
        tokio::task::spawn_local(async move {
            stream.await;
        });
    }
}

/// Takes the connection out of the list, however it ends.
struct Open<'c> {
    connections: &'c Connections,
    watch: Rc<Watch>,
    handler: Rc<Handler>,
    /// One of those that the process has.
    _place: OwnedSemaphorePermit,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let mut open = self.connections.open.borrow_mut();
        if let Some(index) = open.iter().position(|watch| Rc::ptr_eq(watch, &self.watch)) {
            open.swap_remove(index);
        }
        self.handler.parts.metrics.connections.dec();
    }
}

/// A client's bytes: those that were read to learn its version, then the rest.
#[derive(Debug)]
struct Stream<S> {
    begun: Bytes,
    rest: S,
    /// Who is told when a head of HTTP/1.1 begins.
    heads: Option<Rc<Watch>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        if self.begun.has_remaining() {
            let some = self.begun.len().min(buffer.remaining());
            buffer.put_slice(&self.begun.split_to(some));
            if self.begun.has_remaining() || buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            // What came together is handed on together: half a head would be read twice. An end or a failure comes again.
            let _ = Pin::new(&mut self.rest).poll_read(context, buffer);
            return Poll::Ready(Ok(()));
        }
        let polled = Pin::new(&mut self.rest).poll_read(context, buffer);
        if let Some(watch) = &self.heads
            && watch.phase.get() == Phase::Idle
            && buffer.filled().len() > before
        {
            watch.enter(Phase::Head);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.rest).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.rest).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.rest.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.rest).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.rest).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_too_slow_is_cut_and_who_is_quiet_for_long_is_asked_to_end() {
        for (phase, seconds, verdict) in [
            (Phase::Idle, 120, Verdict::Go),
            (Phase::Idle, 121, Verdict::Finish),
            (Phase::Idle, 125, Verdict::Finish),
            (Phase::Idle, 126, Verdict::Cut),
            (Phase::Head, 6, Verdict::Go),
            (Phase::Head, 7, Verdict::Cut),
            (Phase::Busy, 1000, Verdict::Go),
        ] {
            let connections = Connections::new();
            let watch = Rc::new(Watch::new(&connections.clock));
            connections.open.borrow_mut().push(Rc::clone(&watch));
            watch.enter(phase);
            connections.look(watch.since.get() + Duration::from_secs(seconds));
            assert_eq!(watch.verdict.get(), verdict, "{phase:?} for {seconds} s");
        }
    }

    #[test]
    fn many_who_are_due_at_once_are_told_a_few_at_a_time() {
        const MANY: usize = 2 * TOLD_AT_ONCE + 1;
        let connections = Connections::new();
        let watches: Vec<Rc<Watch>> = (0..MANY)
            .map(|_| Rc::new(Watch::new(&connections.clock)))
            .collect();
        connections.open.borrow_mut().extend(watches.iter().cloned());
        let told = || {
            watches
                .iter()
                .filter(|watch| watch.verdict.get() == Verdict::Finish)
                .count()
        };
        let now = connections.clock.get() + IDLE + LOOK;
        for (more, expected) in [
            (true, TOLD_AT_ONCE),
            (true, 2 * TOLD_AT_ONCE),
            (false, MANY),
            // They have not gone yet, and are not told again.
            (false, MANY),
        ] {
            assert_eq!((connections.look(now), told()), (more, expected));
        }
    }

    #[test]
    fn prebuilt_answers_are_as_long_as_they_say() {
        for answer in [TOO_SLOW, TOO_MANY] {
            let text = std::str::from_utf8(answer).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(
                head.contains(&format!("content-length: {}", body.len())),
                "{head}: {}",
                body.len()
            );
            assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
        }
    }
}
