//! The `ingest` role as a client meets it: the real binary on a socket, in front of librdkafka's own broker.
//!
//! What needs a real Kafka or Redis is in the end-to-end tests.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on fails where it stands"
)]

mod answers;
mod broker;
mod client;
mod connections;
mod cors;
mod direct;
mod drain;
mod envelope;
mod harness;
mod limits;
mod outage;
mod overload;
mod reload;
mod slow;
mod spool;
mod stop;
