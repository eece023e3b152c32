//! `clickhouse-front` as clients see it: the program is started on a data directory of its own for each test.
//!
//! The engine's library is taken from the cache that the kit fills; without it the tests fetch it the same way.

mod access;
mod bodies;
mod crate_client;
mod durability;
mod interface;
mod library;
mod server;
