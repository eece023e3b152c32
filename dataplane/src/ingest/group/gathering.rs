//! The groups of a shard that are on their way nowhere yet: one that takes lines, and full ones behind it in the order
//! in which they leave.
//!
//! A group becomes one record, and its requests wait for that; or each of its lines becomes one (see [`super::single`]),
//! and each request waits for its own lines only.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use crate::ingest::budget::{Permit, share_of};
use crate::ingest::fate::{Outcome, Settled};
use crate::ingest::line::Lines;

/// A record's value before compression. Brokers refuse records over 1 MB, and an idempotent producer does not
/// recover from that.
const FULL: usize = 600_000;
/// So many bytes are not copied into an empty group: its buffer is exchanged for theirs.
const WORTH_A_SWAP: usize = 64_000;
/// Buffers kept for reuse.
const SPARE: usize = 4;

/// Lines that leave together.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) bytes: Vec<u8>,
    /// Who waits for them.
    pub(super) parts: Vec<Part>,
    pub(super) since: Instant,
    /// Held until the record is settled, also when the requests are gone.
    pub(super) permit: Option<Permit>,
}

/// Lines that share a fate.
#[derive(Debug)]
pub(super) struct Part {
    /// Where they end in the group's bytes; they begin where the part before ends.
    pub(super) end: usize,
    pub(super) outcome: Rc<Outcome>,
}

impl Group {
    /// Who waits for all of it.
    pub(super) fn outcomes(&self) -> Vec<Rc<Outcome>> {
        self.parts.iter().map(|part| Rc::clone(&part.outcome)).collect()
    }

    fn append(&mut self, settled: &mut Vec<Settled>, apart: bool) {
        let end = self.bytes.len();
        match self.parts.last_mut() {
            Some(part) if !apart => part.end = end,
            _ => self.parts.push(Part {
                end,
                outcome: Outcome::of(1),
            }),
        }
        let outcome = self.parts.last().map(|part| Rc::clone(&part.outcome));
        settled.extend(outcome.map(Settled));
    }
}

#[derive(Debug, Default)]
pub(super) struct Gathering {
    /// Whether each request waits for its own lines only.
    apart: bool,
    open: Option<Group>,
    full: VecDeque<Group>,
    spare: Vec<Vec<u8>>,
}

impl Gathering {
    pub(super) fn new(apart: bool) -> Self {
        Self {
            apart,
            ..Self::default()
        }
    }

    /// How many groups wait.
    pub(super) fn len(&self) -> usize {
        self.full.len() + usize::from(self.open.is_some())
    }

    /// Bytes of the group that leaves next.
    pub(super) fn first_bytes(&self) -> usize {
        let first = self.full.front().or(self.open.as_ref());
        first.map_or(0, |group| group.bytes.len())
    }

    /// Adds the first `count` lines. What they need of `permit` goes with them, the rest is given back. Afterwards the
    /// bytes of `lines` may be any.
    pub(super) fn append(&mut self, lines: &mut Lines, count: usize, mut permit: Permit) -> Vec<Settled> {
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
                parts: Vec::with_capacity(1),
                since: Instant::now(),
                permit: None,
            });
            let is_all = from == 0 && to == lines.bytes.len();
            if is_all && to >= WORTH_A_SWAP && group.bytes.is_empty() {
                std::mem::swap(&mut group.bytes, &mut lines.bytes);
            } else {
                group.bytes.extend_from_slice(&lines.bytes[from..to]);
            }
            if let Some(share) = share_of(&mut permit, to - from) {
                match &mut group.permit {
                    Some(held) => held.merge(share),
                    none => *none = Some(share),
                }
            }
            group.append(&mut settled, self.apart);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::budget::Budget;
    use crate::ingest::line::Line;

    /// Lines of so many bytes, each of one letter.
    fn lines(letter: u8, sizes: &[usize]) -> Lines {
        let mut lines = Lines::default();
        for (index, size) in sizes.iter().enumerate() {
            lines.bytes.extend(std::iter::repeat_n(letter, *size));
            lines.lines.push(Line {
                end: lines.bytes.len(),
                index: index as u32,
            });
        }
        lines
    }

    #[tokio::test]
    async fn groups_hold_what_was_appended_in_order_and_no_more_than_fits() {
        let budget = Budget::new(50_000_000);
        let mut gathering = Gathering::default();
        let append = async |gathering: &mut Gathering, letter, sizes: &[usize], count| {
            let permit = budget.take(1_000_000).await.unwrap();
            gathering.append(&mut lines(letter, sizes), count, permit).len()
        };
        let all = &mut gathering;
        assert_eq!(append(all, b'a', &[100, 200], 2).await, 1);
        assert_eq!(
            append(all, b'b', &[100, 200], 1).await,
            1,
            "only the first was admitted"
        );
        // Too much for the group that is open, and all of an empty one.
        assert_eq!(append(all, b'c', &[300_000, 299_900], 2).await, 2);
        assert_eq!(append(all, b'd', &[300_000, 300_000], 2).await, 2);
        assert_eq!(append(all, b'e', &[100_000], 0).await, 0);
        assert_eq!(append(all, b'f', &[70_000, 70_000], 1).await, 1);
        let groups = std::iter::from_fn(|| gathering.next(|_| true));
        let runs = |bytes: &[u8]| -> Vec<(char, usize)> {
            let runs = bytes.chunk_by(|one, other| one == other);
            runs.map(|run| (char::from(run[0]), run.len())).collect()
        };
        let all: Vec<_> = groups.map(|group| runs(&group.bytes)).collect();
        assert_eq!(
            all,
            [
                vec![('a', 300), ('b', 100), ('c', 300_000)],
                vec![('c', 299_900), ('d', 300_000)],
                vec![('d', 300_000), ('f', 70_000)],
            ]
        );
        assert_eq!(append(&mut gathering, b'g', &[400_000], 1).await, 1);
        let alone = gathering.next(|_| true).unwrap();
        assert_eq!(
            runs(&alone.bytes),
            [('g', 400_000)],
            "the whole request, exchanged"
        );
        gathering.reuse(alone.bytes);
        assert_eq!(gathering.len(), 0);
    }

    #[tokio::test]
    async fn requests_wait_together_or_apart() {
        let budget = Budget::new(50_000_000);
        for (apart, ends) in [(false, vec![600]), (true, vec![300, 600])] {
            let mut gathering = Gathering::new(apart);
            let mut settled = Vec::new();
            for letter in *b"ab" {
                let permit = budget.take(10_000).await.unwrap();
                settled.extend(gathering.append(&mut lines(letter, &[100, 200]), 2, permit));
            }
            let group = gathering.next(|_| true).unwrap();
            let found: Vec<_> = group.parts.iter().map(|part| part.end).collect();
            assert_eq!(found, ends);
            for (one, part) in settled.iter().zip(group.parts.iter().cycle()) {
                assert!(Rc::ptr_eq(&one.0, &part.outcome));
            }
        }
    }
}
