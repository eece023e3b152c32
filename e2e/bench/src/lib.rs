//! Benchmarks of ingest: its release build, the service that it replaces, and bare HTTP servers, one after another on
//! the same core, under the same load, in front of the same Kafka. Those of what stores events are in [`store`].
//!
//! ```text
//! corpus  -> load -> server -> Kafka        core 0: the server; core 1: the load and Kafka
//!              |        '- process: CPU and memory of the server
//!              '- measure: one run  -> summary: medians -> report: docs/benchmarks.md
//! ```
//!
//! Servers are measured in turns, run by run, so that what disturbs the machine disturbs all of them.
#![forbid(unsafe_code)]

pub mod child;
pub mod command;
pub mod corpus;
pub mod extras;
pub mod goals;
pub mod load;
pub mod machine;
pub mod measure;
pub mod narrow;
pub mod overload;
pub mod page;
pub mod plan;
pub mod process;
pub mod report;
pub mod response;
pub mod server;
pub mod setting;
pub mod slow;
pub mod store;
pub mod summary;
pub mod topic;
pub mod wrk;
