//! The consumer against a real Kafka and a real ClickHouse, as a process of its own: what is produced is stored
//! once, whatever dies, stalls or lies.
//!
//! Run on an instance with Kafka and ClickHouse: `./e2e/kit exec -- cargo test -p penstock-e2e --test consume`.

mod catch_up;
mod consumer;
mod delivery;
mod events;
mod outages;
mod pipeline;
mod proxy;
mod records;
