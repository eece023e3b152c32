//! Benchmarks of ingest (of what stores events: [`store`]): its release build, the service that it replaces, and bare HTTP servers, one after another on
//! the same core, under the same load, in front of the same Kafka.
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
pub mod corpus;
pub mod extras;
pub mod goals;
pub mod load;
pub mod machine;
pub mod measure;
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

use std::process::ExitCode;

/// How a command ends.
pub fn exit(outcome: penstock_e2e::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A number of events that are sent in requests of a thousand.
pub fn thousands(text: &str) -> Result<u64, String> {
    match text.parse::<u64>() {
        Ok(number) if number >= 10_000 && number % 1000 == 0 => Ok(number),
        _ => Err("it must be thousands, 10000 or more".into()),
    }
}
