//! Benchmarks of what stores events: the consumer beside the one that it replaces and ClickHouse's own Kafka engine, and
//! the whole way from HTTP to a row.
//!
//! ```text
//! source: a topic, filled once by ingest (or Fiber)  ->  catch_up: sink -> table     core 0: server and sink
//! pipeline: load -> server -> topic -> sink -> table                                 core 1: load, Kafka, ClickHouse
//!     |  quiet: few events; fresh: until a row can be read (seen); whole: what an event costs from HTTP to its row
//!     '-> summary: medians -> goals, report: docs/benchmarks-store.md
//! ```
//!
//! Every run has a table, a group and processes of its own; afterwards rows = distinct events = events sent, or the
//! figures count for nothing.

pub mod catch_up;
pub mod fresh;
pub mod goals;
pub mod pipeline;
pub mod quiet;
pub mod report;
pub mod seen;
pub mod sink;
pub mod source;
pub mod summary;
pub mod table;
pub mod whole;
