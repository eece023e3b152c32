//! Penstock's API: group `penstock.dev`, version `v1alpha1`.
//!
//! The Rust types are the source; `crds/yaml/` is generated from them (`cargo run -p penstock-crds`), and a test
//! fails when the two differ. Doc comments on fields are the reference that `kubectl explain` shows.
//!
//! ```text
//! App                 a product whose SDKs send events: identity, keys, quota
//! IngestionPipeline   Apps -> ingest -> topic -> consume -> table
//! ```
//!
//! Invariants: a field that is here works; every list, map and string is bounded, so every rule has a cost the API
//! server accepts; defaults are in the schema, so what a person reads back is what the operator acts on.
#![forbid(unsafe_code)]
// `KubeSchema` copies each struct, `pub` and all, into a function.
#![allow(unreachable_pub)]

pub mod app;
pub mod conditions;
pub mod generate;
pub mod pipeline;
pub mod reference;
mod schema;

pub use app::{App, AppSpec, AppStatus};
pub use conditions::{Condition, ConditionStatus, ConditionType, Reason};
pub use pipeline::{IngestionPipeline, IngestionPipelineSpec, IngestionPipelineStatus};

/// The API group.
pub const GROUP: &str = "penstock.dev";
/// Annotation `"true"`: the operator stops writing for this object, keeps its status honest and honours deletion.
pub const PAUSED: &str = "penstock.dev/paused";
/// Annotation `"true"`: deletion goes on though the backend cannot be reached; what is there stays there.
pub const FORCE_DELETE: &str = "penstock.dev/force-delete";
/// The finalizer of a pipeline with `deletionPolicy: Delete`.
pub const FINALIZER: &str = "penstock.dev/external-data";
/// Longest name of an object of ours: what is derived from it must fit a DNS label of 63.
pub const MAX_NAME: usize = 40;
