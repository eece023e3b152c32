//! The spool: groups that Kafka does not acknowledge, kept on a disk until it does.
//!
//! ```text
//! shard -> writer thread -> store (one fsync for all that wait) -> shard: the answer
//!                             |
//!                             '-> drain thread -> Kafka -> done: the segment goes
//! frame    the bytes        segment   one file       store   the directory
//! writer   group fsync      drain     back to Kafka  lookup  does Kafka hold it already?
//! running  beside ingest    role      alone, as the role `drain`
//! ```
//!
//! - What a shard is told to be kept is on the disk; it leaves only when Kafka has acknowledged it, or is seen to hold
//!   it. An error leaves nothing behind and becomes a refusal.
//! - A record keeps its name. Before one is produced it is noted, durably, that and where; whoever finds such a note
//!   without the outcome looks into the topic first. So no crash stores a group twice.
//! - Files are bounded together, the writer's queue by itself, both in bytes.

mod drain;
mod floors;
mod frame;
mod lookup;
mod metrics;
mod role;
mod running;
mod segment;
mod store;
mod writer;

pub(crate) use floors::Floors;
pub(crate) use frame::{Place, Record, Topic};
pub use role::run as drain;
pub(crate) use running::Running;
pub(crate) use segment::State;
pub(crate) use store::Id;
pub(crate) use writer::{Keep, Spool};
