//! Which partitions this process may act for, right now.
//!
//! Kafka checks a commit's generation, not who owns the partition, so a successful commit proves nothing. Each
//! assignment of a partition gets an epoch here; everything done for a batch carries that epoch and is refused
//! locally once the assignment has ended. The epoch ends before the partition is given back to the group.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// One assignment of one partition to this process; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(u64);

/// The assignments in force. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Fence(Arc<Mutex<Granted>>);

#[derive(Debug, Default)]
struct Granted {
    last: u64,
    by_partition: HashMap<i32, Epoch>,
}

impl Fence {
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins an assignment, and ends the one before.
    pub fn begin(&self, partition: i32) -> Epoch {
        let mut granted = self.lock();
        granted.last += 1;
        let epoch = Epoch(granted.last);
        granted.by_partition.insert(partition, epoch);
        epoch
    }

    /// Ends the assignment of `partition`, if there is one.
    pub fn end(&self, partition: i32) {
        self.lock().by_partition.remove(&partition);
    }

    /// Whether that assignment is still in force.
    pub fn holds(&self, partition: i32, epoch: Epoch) -> bool {
        self.lock().by_partition.get(&partition) == Some(&epoch)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Granted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_holds_until_its_assignment_ends() {
        let fence = Fence::new();
        let other = fence.clone();
        let (first, neighbour) = (fence.begin(0), fence.begin(1));
        assert!(other.holds(0, first) && other.holds(1, neighbour));
        assert!(!other.holds(1, first), "an epoch belongs to one partition");
        fence.end(0);
        assert!(!other.holds(0, first) && other.holds(1, neighbour));
        let again = fence.begin(0);
        assert!(
            other.holds(0, again) && !other.holds(0, first),
            "the old epoch stays ended"
        );
    }
}
