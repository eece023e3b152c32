//! Where a shard's records go that Kafka does not take.

use super::direct::Direct;
use super::spool::{Keep, Spool};

/// Groups of a shard on their way to the spool at once: the next gathers while the disk writes.
const TO_SPOOL: usize = 2;
/// The same for the event table, whose INSERTs should be few.
const TO_TABLE: usize = 1;

/// The configured `onKafkaOutage`, at work. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) enum Outage {
    Reject,
    Spool(Spool),
    Direct(Direct),
}

impl Outage {
    pub(super) fn spool(&self) -> Option<&Spool> {
        match self {
            Self::Spool(spool) => Some(spool),
            Self::Reject | Self::Direct(_) => None,
        }
    }

    /// Groups of a shard that may be on their way there at once.
    pub(super) const fn room(&self) -> usize {
        match self {
            Self::Reject => usize::MAX,
            Self::Spool(_) => TO_SPOOL,
            Self::Direct(_) => TO_TABLE,
        }
    }

    /// Has a record kept; the outcome comes to its shard. False when it is not even tried.
    pub(super) fn keep(&self, keep: Keep) -> bool {
        match self {
            Self::Reject => false,
            Self::Spool(spool) => spool.keep(keep),
            Self::Direct(direct) => direct.insert(keep),
        }
    }
}
