//! What is on its way to each partition, where keys decide which one it is: a partition that takes nothing holds up nobody
//! who has nothing for it.
//!
//! ```text
//! trusted --(nothing comes back for STUCK, or a failure)--> probed --(an acknowledgement)--> trusted
//! ```
//!
//! What is out to trusted partitions is bounded together. One that is probed gets a few records at a time, and what it has
//! counts for nothing.

use std::time::{Duration, Instant};

use ahash::AHashMap;

/// As long as a group may wait until the health check doubts a broker, and a look of it.
const STUCK: Duration = Duration::from_secs(3);
/// To trusted partitions at once.
const RECORDS: usize = 1000;
const BYTES: usize = 4_000_000;
/// To one that is probed.
const PROBE: usize = 16;

#[derive(Clone, Copy, Debug)]
struct Lane {
    records: usize,
    bytes: usize,
    trusted: bool,
    /// When something came back, or the first record left.
    moved: Instant,
}

/// A shard's partitions.
#[derive(Debug, Default)]
pub(super) struct Lanes(AHashMap<i32, Lane>);

impl Lanes {
    /// Counts a record in, if the partition takes one now.
    pub(super) fn depart(&mut self, partition: i32, bytes: usize, now: Instant) -> bool {
        let lane = self.0.entry(partition).or_insert(Lane {
            records: 0,
            bytes: 0,
            trusted: true,
            moved: now,
        });
        if lane.records == 0 {
            lane.moved = now;
        } else if now.saturating_duration_since(lane.moved) >= STUCK {
            lane.trusted = false;
        }
        let takes = lane.trusted || lane.records < PROBE;
        if takes {
            lane.records += 1;
            lane.bytes += bytes;
        }
        takes
    }

    /// A record has been answered for.
    pub(super) fn arrive(&mut self, partition: i32, bytes: usize, acknowledged: bool, now: Instant) {
        if let Some(lane) = self.0.get_mut(&partition) {
            lane.trusted = acknowledged;
            lane.moved = now;
            lane.records = lane.records.saturating_sub(1);
            lane.bytes = lane.bytes.saturating_sub(bytes);
        }
    }

    /// A record that was counted in did not leave.
    pub(super) fn stay(&mut self, partition: i32, bytes: usize) {
        if let Some(lane) = self.0.get_mut(&partition) {
            lane.records = lane.records.saturating_sub(1);
            lane.bytes = lane.bytes.saturating_sub(bytes);
        }
    }

    /// Whether more may leave.
    pub(super) fn have_room(&self, now: Instant) -> bool {
        let going = self
            .0
            .values()
            .filter(|lane| lane.trusted && now.saturating_duration_since(lane.moved) < STUCK);
        let (records, bytes) = going.fold((0, 0), |(records, bytes), lane| {
            (records + lane.records, bytes + lane.bytes)
        });
        records < RECORDS && bytes < BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_that_takes_nothing_holds_up_no_other() {
        let (mut lanes, start) = (Lanes::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        for _ in 0..RECORDS {
            assert!(lanes.depart(0, 100, start));
        }
        assert!(!lanes.have_room(start), "they may be acknowledged at any moment");
        assert!(lanes.have_room(at(4)));
        assert!(!lanes.depart(0, 100, at(4)), "it is stuck");
        assert!(lanes.depart(1, 100, at(4)));

        // It comes to an end by failures: then it is tried with a few.
        (0..RECORDS).for_each(|_| lanes.arrive(0, 100, false, at(9)));
        let taken = (0..100).filter(|_| lanes.depart(0, 100, at(9))).count();
        assert_eq!(taken, PROBE);
        lanes.arrive(0, 100, true, at(10));
        assert!(lanes.depart(0, 100, at(10)), "it has taken one");
    }

    #[test]
    fn bytes_are_bounded_and_what_does_not_leave_is_not_counted() {
        let (mut lanes, now) = (Lanes::default(), Instant::now());
        for partition in 0..8 {
            assert!(lanes.depart(partition, BYTES / 8, now));
        }
        assert!(!lanes.have_room(now));
        lanes.stay(3, BYTES / 8);
        assert!(lanes.have_room(now));
    }
}
