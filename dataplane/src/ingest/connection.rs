//! One connection: HTTP/1.1 by hyper, and a watch over how long its client takes.
//!
//! A client may keep a quiet connection for [`IDLE`], but a request's head that has begun must be complete within
//! [`HEAD`]; who is slower gets 408 and is cut. The watch costs no timer per request: the shard looks at all
//! connections once a second.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::handler::Handler;

/// From the first byte of a request's head to its last.
const HEAD: Duration = Duration::from_secs(5);
/// Between requests. Longer than the load balancers in front keep theirs, so that they close, not we.
const IDLE: Duration = Duration::from_secs(120);

/// What is read of a connection at once. It also bounds a head, and what a request takes that waits for room: hyper
/// reads so much of a body before anybody asks for it.
const READ_AT_ONCE: usize = 64 * 1024;

const TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-type: application/json\r\n\
content-length: 85\r\n\r\n{\"status\":\"error\",\"code\":\"timeout\",\"error\":\"request timeout\",\"message\":\"too slow\"}\r\n\r\n";

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
    since: Cell<Instant>,
    verdict: Cell<Verdict>,
    called: Notify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Go,
    /// End after the request in hand.
    Finish,
    /// Too slow: answer 408 and cut.
    Cut,
}

impl Watch {
    fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(Instant::now());
    }

    fn tell(&self, verdict: Verdict) {
        if self.verdict.get() != Verdict::Cut {
            self.verdict.set(verdict);
            self.called.notify_one();
        }
    }
}

/// The connections of a shard.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    open: RefCell<Vec<Rc<Watch>>>,
}

impl Connections {
    pub(crate) fn count(&self) -> usize {
        self.open.borrow().len()
    }

    /// Cuts who is too slow, ends who is idle for too long.
    pub(crate) fn look(&self) {
        let now = Instant::now();
        for watch in self.open.borrow().iter() {
            let age = now.saturating_duration_since(watch.since.get());
            match watch.phase.get() {
                Phase::Head if age > HEAD => watch.tell(Verdict::Cut),
                Phase::Idle if age > IDLE => watch.tell(Verdict::Finish),
                _ => {}
            }
        }
    }

    /// Has every connection end after the request in hand.
    pub(crate) fn finish(&self) {
        self.open
            .borrow()
            .iter()
            .for_each(|watch| watch.tell(Verdict::Finish));
    }

    /// Serves one connection to its end.
    pub(crate) async fn serve(&self, stream: TcpStream, peer: IpAddr, handler: Rc<Handler>) {
        let watch = Rc::new(Watch {
            phase: Cell::new(Phase::Idle),
            since: Cell::new(Instant::now()),
            verdict: Cell::new(Verdict::Go),
            called: Notify::new(),
        });
        self.open.borrow_mut().push(Rc::clone(&watch));
        handler.parts.metrics.connections.inc();
        let _open = Open {
            connections: self,
            watch: Rc::clone(&watch),
            handler: Rc::clone(&handler),
        };
        let service = {
            let (watch, handler) = (Rc::clone(&watch), Rc::clone(&handler));
            service_fn(move |request| {
                let (watch, handler) = (Rc::clone(&watch), Rc::clone(&handler));
                watch.enter(Phase::Busy);
                async move {
                    let answer = handler.handle(request, peer).await;
                    watch.enter(Phase::Idle);
                    Ok::<_, Infallible>(answer)
                }
            })
        };
        let io = TokioIo::new(Watched {
            stream,
            watch: Rc::clone(&watch),
        });
        let mut connection = http1::Builder::new()
            .pipeline_flush(true)
            .max_buf_size(READ_AT_ONCE)
            .serve_connection(io, service);
        loop {
            tokio::select! {
                biased;
                // A client that goes away, or speaks no HTTP, is told so by hyper and needs nothing from us.
                _ = &mut connection => return,
                () = watch.called.notified() => {}
            }
            if watch.verdict.get() == Verdict::Cut {
                let Watched { stream, .. } = connection.into_parts().io.into_inner();
                // What fits the socket's buffer; a client that does not read gets nothing.
                let _ = stream.try_write(TOO_SLOW);
                return;
            }
            Pin::new(&mut connection).graceful_shutdown();
        }
    }
}

/// Takes the connection out of the list, however it ends.
struct Open<'c> {
    connections: &'c Connections,
    watch: Rc<Watch>,
    handler: Rc<Handler>,
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

/// The socket, telling the watch when a head begins.
#[derive(Debug)]
struct Watched {
    stream: TcpStream,
    watch: Rc<Watch>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before && self.watch.phase.get() == Phase::Idle {
            self.watch.enter(Phase::Head);
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
