//! A mock of one broker that keeps its port while it is down.
//!
//! librdkafka's mock has a port that the kernel chose. While nobody listens there the kernel may give it to a connection of
//! another test, and then the mock cannot come back: it aborts the whole program.

use std::cell::Cell;
use std::net::SocketAddr;
use std::ops::Deref;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use socket2::{Domain, Socket, Type};

/// One broker. The rest of what the mock can do is behind it.
pub(crate) struct Broker {
    mock: MockCluster<'static, DefaultProducerContext>,
    /// Bound to the port while nobody listens there.
    held: Cell<Option<Socket>>,
}

impl Broker {
    pub(crate) fn new() -> Self {
        Self {
            mock: MockCluster::new(1).unwrap(),
            held: Cell::default(),
        }
    }

    /// Connections are cut and refused.
    pub(crate) fn down(&self) {
        let address: SocketAddr = self.mock.bootstrap_servers().parse().unwrap();
        self.mock.broker_down(1).unwrap();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        // As the mock does: two that say so may be bound to one port, as long as only one of them listens.
        socket.set_reuse_address(true).unwrap();
        socket.bind(&address.into()).unwrap();
        self.held.set(Some(socket));
    }

    pub(crate) fn up(&self) {
        self.mock.broker_up(1).unwrap();
        self.held.take();
    }
}

impl Deref for Broker {
    type Target = MockCluster<'static, DefaultProducerContext>;

    fn deref(&self) -> &Self::Target {
        &self.mock
    }
}
