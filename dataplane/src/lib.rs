//! Penstock's data plane: one binary, one role per process.
//!
//! ```text
//! main.rs       command line: ROLE --config FILE [--check]
//! process/      what every role shares: logs, admin port, metrics, dependencies, shutdown
//! ingest/       HTTP -> Kafka
//! consume/      Kafka -> ClickHouse
//! forgotten.rs  a Kafka client that knows no broker any more
//! stops.rs      where JSON strings may stop, found by vectors
//! utc.rs        days and minutes, their names and their ends
//! written.rs    a short text, compared with what stands where it stood before
//! ```
#![forbid(unsafe_code)]

pub mod consume;
mod forgotten;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod ingest;
pub mod process;
mod stops;
mod utc;
mod written;
