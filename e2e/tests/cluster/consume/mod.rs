//! The consumer against a real Kafka and a real ClickHouse, as a process of its own: what is produced is stored
//! once, whatever dies, stalls or lies.

mod catch_up;
pub(crate) mod consumer;
mod delivery;
mod events;
pub(crate) mod hot;
mod letters;
mod outages;
pub(crate) mod pipeline;
mod proxy;
mod records;
mod replay;
