//! The groups of a shard that are on their way nowhere yet: one that takes lines, and full ones behind it in the order
//! in which they leave.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use super::budget::Permit;
use super::fate::{Outcome, Settled};
use super::line::Lines;

/// A record's value before compression. Brokers refuse records over 1 MB, and an idempotent producer does not
/// recover from that.
const FULL: usize = 600_000;
/// Buffers kept for reuse.
const SPARE: usize = 4;

/// Lines that become one record.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) bytes: Vec<u8>,
    pub(super) outcome: Rc<Outcome>,
    pub(super) since: Instant,
    /// Held until the record is settled, also when the requests are gone.
    pub(super) permit: Option<Permit>,
}

#[derive(Debug, Default)]
pub(super) struct Gathering {
    open: Option<Group>,
    full: VecDeque<Group>,
    spare: Vec<Vec<u8>>,
}

impl Gathering {
    /// How many groups wait.
    pub(super) fn len(&self) -> usize {
        self.full.len() + usize::from(self.open.is_some())
    }

    /// Adds the first `count` lines. What they need of `permit` goes with them, the rest is given back.
    pub(super) fn append(&mut self, lines: &Lines, count: usize, mut permit: Permit) -> Vec<Settled> {
        let mut settled = Vec::with_capacity(1);
        let mut from = 0;
        let mut index = 0;
        while index < count {
            // As many lines as the group has room for, at least one into an empty group.
            let room = FULL.saturating_sub(self.open.as_ref().map_or(0, |group| group.bytes.len()));
            let fits = lines.lines[index..count].partition_point(|line| line.end - from <= room);
            if fits == 0 && self.open.is_some() {
                self.full.extend(self.open.take());
                continue;
            }
            let fits = fits.max(1);
            let to = lines.lines[index + fits - 1].end;
            let group = self.open.get_or_insert_with(|| Group {
                bytes: self.spare.pop().unwrap_or_default(),
                outcome: Outcome::of(1),
                since: Instant::now(),
                permit: None,
            });
            group.bytes.extend_from_slice(&lines.bytes[from..to]);
            // The group's own copy and librdkafka's.
            let share = ((to - from) * 2).min(permit.num_permits());
            if let Some(share) = permit.split(share) {
                match &mut group.permit {
                    Some(held) => held.merge(share),
                    none => *none = Some(share),
                }
            }
            settled.push(Settled(Rc::clone(&group.outcome)));
            (from, index) = (to, index + fits);
        }
        settled
    }

    /// Takes the group that has waited longest, if it is one of those wanted.
    pub(super) fn next(&mut self, wanted: impl Fn(&Group) -> bool) -> Option<Group> {
        match self.full.front() {
            Some(first) if wanted(first) => self.full.pop_front(),
            Some(_) => None,
            None => self.open.take_if(|group| wanted(group)),
        }
    }

    /// Keeps a buffer for a group to come.
    pub(super) fn reuse(&mut self, mut bytes: Vec<u8>) {
        if self.spare.len() < SPARE {
            bytes.clear();
            self.spare.push(bytes);
        }
    }
}
