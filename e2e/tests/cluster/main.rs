//! The end-to-end tests: all of Penstock on a real cluster.
//!
//! One program, so that tests of different kinds fill each other's waiting; each takes its turn on the instance, beside
//! others or alone. Run some of them with
//! `./e2e/kit --instance test exec -- cargo test --workspace --test cluster -- consume:: --test-threads 8`.

mod certificates;
mod chaos;
mod chart;
mod claims;
mod cli;
mod consume;
mod crds;
mod docs;
mod ingest;
mod kit;
mod lifecycle;
mod objects;
mod outages;
mod process;
mod provision;
mod records;
mod sdk;
mod secured;
mod spool;
mod tables;
mod tls;
mod topics;
