//! Which partition a shard's next group goes to.
//!
//! A quiet pipeline should have few live partitions, for each costs the consumer an INSERT per second; so a shard
//! stays on one, the first in its own order (rendezvous hashing of process and shard), and takes the next ones in
//! that order only as its rate grows. Few groups move when partitions are added, or lose their leader.

use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What one partition takes before the shard spreads to one more.
const BYTES_PER_SECOND: f64 = 5_000_000.0;
/// How long the rate is averaged over.
const WINDOW: Duration = Duration::from_secs(2);

/// The partitions of a shard, in its order, and its rate.
#[derive(Debug)]
pub(crate) struct Spread {
    seed: u64,
    /// Those with a leader, as last seen.
    available: Arc<Vec<i32>>,
    order: Vec<i32>,
    next: usize,
    window_began: Instant,
    window_bytes: u64,
    rate: f64,
}

impl Spread {
    pub(crate) fn new(boot: &Uuid, shard: usize, now: Instant) -> Self {
        let seed = xxh3_64_with_seed(boot.as_bytes(), shard as u64);
        Self {
            seed,
            available: Arc::default(),
            order: Vec::new(),
            next: 0,
            window_began: now,
            window_bytes: 0,
            rate: 0.0,
        }
    }

    /// The partition for a group of `bytes`, of those that are `available`.
    pub(crate) fn choose(&mut self, available: &Arc<Vec<i32>>, bytes: usize, now: Instant) -> i32 {
        if !Arc::ptr_eq(&self.available, available) {
            self.available = Arc::clone(available);
            self.order = ranked(self.seed, available);
        }
        let elapsed = now.saturating_duration_since(self.window_began);
        if elapsed >= WINDOW {
            self.rate = self.window_bytes as f64 / elapsed.as_secs_f64();
            (self.window_began, self.window_bytes) = (now, 0);
        }
        self.window_bytes += bytes as u64;
        let live = ((self.rate / BYTES_PER_SECOND) as usize + 1).min(self.order.len().max(1));
        self.next = (self.next + 1) % live;
        self.order.get(self.next).copied().unwrap_or(0)
    }
}

fn ranked(seed: u64, available: &[i32]) -> Vec<i32> {
    let mut order = available.to_vec();
    order.sort_by_key(|partition| std::cmp::Reverse(xxh3_64_with_seed(&partition.to_le_bytes(), seed)));
    order
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The partitions used at a steady rate, after the first window.
    fn used(shard: usize, partitions: i32, bytes_per_second: usize) -> BTreeSet<i32> {
        used_of(shard, &Arc::new((0..partitions).collect()), bytes_per_second)
    }

    fn used_of(shard: usize, available: &Arc<Vec<i32>>, bytes_per_second: usize) -> BTreeSet<i32> {
        let start = Instant::now();
        let mut spread = Spread::new(&Uuid::from_u128(5), shard, start);
        let mut used = BTreeSet::new();
        for tick in 0..1000u64 {
            let partition = spread.choose(
                available,
                bytes_per_second / 100,
                start + Duration::from_millis(tick * 10),
            );
            if tick > 250 {
                used.insert(partition);
            }
        }
        used
    }

    #[test]
    fn a_quiet_shard_stays_and_a_busy_one_spreads() {
        assert_eq!(used(0, 12, 1_000_000).len(), 1);
        assert_eq!(used(0, 12, 12_000_000).len(), 3);
        assert_eq!(used(0, 2, 100_000_000).len(), 2);
        assert_eq!(used(0, 1, 100_000_000), BTreeSet::from([0]));
    }

    #[test]
    fn a_partition_without_a_leader_is_passed_over() {
        for shard in 0..20 {
            let [home] = used(shard, 6, 1000).into_iter().collect::<Vec<_>>()[..] else {
                panic!("more than one")
            };
            let without = |gone: i32| Arc::new((0..6).filter(|one| *one != gone).collect());
            assert!(!used_of(shard, &without(home), 1000).contains(&home));
            assert_eq!(
                used_of(shard, &without((home + 1) % 6), 1000),
                BTreeSet::from([home])
            );
        }
    }

    #[test]
    fn shards_differ_and_keep_their_place_when_partitions_come() {
        let first: BTreeSet<_> = (0..20).flat_map(|shard| used(shard, 12, 1000)).collect();
        assert!(first.len() > 5, "{first:?}");
        let moved = (0..20).filter(|shard| {
            let (before, after) = (used(*shard, 12, 1000), used(*shard, 13, 1000));
            before != after && after != BTreeSet::from([12])
        });
        assert_eq!(moved.count(), 0, "a shard moves only to the new partition");
    }
}
