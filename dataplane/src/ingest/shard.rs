//! A shard: one thread, one event loop, its own listening socket, its own groups and producer.
//!
//! Shards share nothing on the way of a request; the kernel spreads connections over their sockets (SO_REUSEPORT).
//! Stopping: connections are still accepted for [`STILL_ACCEPTING`], each answer saying `Connection: close`, while
//! the Service takes this pod out; then requests in hand are finished, and the last groups flushed.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::TcpListener;
use tokio::task::LocalSet;

use super::connection::Connections;
use super::group::Groups;
use super::handler::{Handler, Parts};
use crate::process::{RoleError, Shutdown};

/// How long a stopping shard takes new connections.
const STILL_ACCEPTING: Duration = Duration::from_secs(5);
/// Since the shutdown began; what is not answered by then is cut.
const REQUESTS_FINISHED: Duration = Duration::from_secs(20);
/// How often groups are looked at, whose time runs out in between.
pub(crate) const LOOK_AT_GROUPS: Duration = Duration::from_millis(250);
const BACKLOG: i32 = 4096;
/// When a silent peer is asked whether it is still there, how often, and how many times in vain.
const KEEP_ALIVE: (Duration, Duration, u32) = (Duration::from_secs(60), Duration::from_secs(15), 4);

/// Opens a socket that other shards may open beside this one.
pub(crate) fn listen(address: SocketAddr) -> Result<std::net::TcpListener, RoleError> {
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        // Accepted sockets have it from this one.
        let (idle, every, times) = KEEP_ALIVE;
        let keep_alive = TcpKeepalive::new()
            .with_time(idle)
            .with_interval(every)
            .with_retries(times);
        socket.set_tcp_keepalive(&keep_alive)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok::<_, std::io::Error>(socket.into())
    };
    open().map_err(|error| format!("cannot open {address}: {error}").into())
}

/// Serves until the shutdown is complete. Blocks the thread.
pub(crate) fn run(
    listener: std::net::TcpListener,
    groups: Groups,
    parts: impl FnOnce(Rc<Groups>) -> Parts,
) -> Result<(), RoleError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let groups = Rc::new(groups);
    let parts = parts(Rc::clone(&groups));
    LocalSet::new().block_on(&runtime, async move {
        let listener = TcpListener::from_std(listener)?;
        let shutdown = parts.shutdown.clone();
        let handler = Rc::new(Handler::new(parts));
        let connections = Rc::new(Connections::new());
        let flusher = {
            let (groups, bell) = (Rc::clone(&groups), groups.bell()?);
            tokio::task::spawn_local(async move { groups.run(bell).await })
        };
        let group_timer = {
            let groups = Rc::clone(&groups);
            tokio::task::spawn_local(async move {
                loop {
                    tokio::time::sleep(LOOK_AT_GROUPS).await;
                    groups.look();
                }
            })
        };
        let connection_watch = {
            let connections = Rc::clone(&connections);
            tokio::task::spawn_local(async move { connections.watch_all().await })
        };
        accept(&listener, &connections, &handler, &shutdown).await;
        drop(listener);
        // Those that were accepted last are counted by their own tasks.
        tokio::task::yield_now().await;
        connections.finish();
        while connections.count() > 0 && !shutdown.remaining(REQUESTS_FINISHED).is_zero() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if connections.count() > 0 {
            tracing::warn!(
                connections = connections.count(),
                "cut at the end of the shutdown"
            );
        }
        group_timer.abort();
        connection_watch.abort();
        flusher.abort();
        groups.finish();
        Ok(())
    })
}

/// Takes connections until the shutdown says no more, then what is left in the backlog.
async fn accept(
    listener: &TcpListener,
    connections: &Rc<Connections>,
    handler: &Rc<Handler>,
    shutdown: &Shutdown,
) {
    let last_call = {
        let shutdown = shutdown.clone();
        async move {
            shutdown.begun().await;
            tokio::time::sleep(STILL_ACCEPTING).await;
        }
    };
    tokio::pin!(last_call);
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            () = &mut last_call => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let _ = stream.set_nodelay(true);
                let (connections, handler) = (Rc::clone(connections), Rc::clone(handler));
                tokio::task::spawn_local(async move { connections.serve(stream, peer.ip(), handler).await });
            }
            Err(error) => {
                // Out of descriptors, most likely; some connection will end.
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}
