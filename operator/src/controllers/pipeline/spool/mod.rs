//! The spools of a pipeline's pods, as the operator sees them.
//!
//! ```text
//! watch   every few seconds: list the pods, ask each one's /metrics (ask) -> what it holds (depth)
//! hold    what that means for the rollout, for a scale-in, and for what is said          (pure)
//! claims  which claims no pod has any more, and what is to be done about each             (pure)
//! drain   does it: a Job for each, then the claim goes
//! ```
//!
//! Invariants: a spool that is not known to be empty is never given up, neither its pod by a scale-in nor its claim by a
//! deletion; asking is bounded in time and holds up no reconcile.

mod ask;
pub(crate) mod claims;
mod depth;
pub(crate) mod drain;
pub(crate) mod hold;
mod watch;

pub(crate) use watch::{Spools, run};
