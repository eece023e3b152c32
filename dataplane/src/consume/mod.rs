//! The `consume` role: topic -> event table, each row once.
pub mod clickhouse;
pub mod clock;
pub mod failure;
pub mod fence;
mod flight;
mod forming;
pub mod intent;
pub mod line;
pub mod machine;
pub mod native;
pub mod position;
pub mod protocol;
pub mod record;
mod scan;
pub mod target;
pub mod upload;
