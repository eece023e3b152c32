//! From where on a group can be in its partition, that is produced now: after whatever is known to be there.

use ahash::AHashMap;

use super::frame::{Place, Topic};
use crate::ingest::health::Health;

/// What one producer has seen acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Floors(AHashMap<(Topic, i32), i64>);

impl Floors {
    /// A record was acknowledged at `offset`.
    pub(crate) fn acknowledged(&mut self, topic: Topic, partition: i32, offset: i64) {
        let floor = self.0.entry((topic, partition)).or_insert(offset);
        *floor = offset.max(*floor);
    }

    /// Where a record will be that is produced to `partition` after this call. Without an acknowledgement yet, what
    /// the health check saw when it first met the partition.
    pub(crate) fn place(&self, health: &Health, topic: Topic, partition: i32) -> Place {
        let floor = self.0.get(&(topic, partition)).copied();
        Place {
            partition,
            floor: floor.unwrap_or_else(|| health.end(topic, partition)),
        }
    }
}
