//! The spool's directory: segments in order, bounded together, held by one process.
//!
//! ```text
//! <dir>/lock                      held while a process lives; says whose records these are
//! <dir>/00000000000000000001.spool …
//! ```
//! Records leave in any order; a segment is deleted when all of its are done. What an append returns as stored is on
//! the disk: records are written together and made durable by one fsync.
//!
//! Everything here blocks; it runs on the spool's own threads.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::frame::{self, LARGEST_PAYLOAD, Mark, Place, Record, SEGMENT_HEAD};
use super::segment::{self, Damage, Segment, State};

const LOCK: &str = "lock";
/// A segment is closed when it has reached this; smaller spools have smaller ones.
const SEGMENT: u64 = 32_000_000;
/// Segments that a spool is divided into at least, so that room comes back piece by piece.
const PIECES: u64 = 8;
/// A segment of which all is done is kept for what comes next until it has this length.
const WORTH_KEEPING: u64 = 1_000_000;

/// Which record of the spool. In order of arrival.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Id {
    segment: u64,
    index: u32,
}

/// Why the spool could not be opened, or did not take a record.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpoolError {
    #[error("the spool {} cannot be used: {source}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("another process has the spool {}", .0.display())]
    Locked(PathBuf),
    #[error("the spool {} holds records for topic {holds}, not {wanted}", path.display())]
    OtherTopic {
        path: PathBuf,
        holds: String,
        wanted: String,
    },
    #[error("the spool is full ({limit} bytes)")]
    Full { limit: u64 },
    #[error("a record of {0} bytes is too large for the spool")]
    TooLarge(usize),
    #[error("writing to the spool failed: {0}")]
    Io(#[from] io::Error),
}

/// What opening found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) damage: Damage,
    pub(crate) groups: u64,
}

/// How full the spool is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Depth {
    /// Records that Kafka does not have, or may not have.
    pub(crate) groups: u64,
    /// Bytes of their frames.
    pub(crate) bytes: u64,
    /// Bytes of the files.
    pub(crate) disk: u64,
    /// Seconds since 1970 when the oldest was made; 0 for none.
    pub(crate) oldest: u32,
}

/// A record that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pending {
    pub(crate) id: Id,
    pub(crate) state: State,
    pub(crate) place: Place,
    pub(crate) record: Record,
}

/// The open spool.
#[derive(Debug)]
pub(crate) struct Store {
    directory: PathBuf,
    segments: BTreeMap<u64, Segment>,
    limit: u64,
    next_segment: u64,
    scratch: Vec<u8>,
    /// How long the last fsync took.
    pub(crate) last_sync: Duration,
    _lock: File,
}

impl Store {
    /// Opens the spool of `topic`, made when there is none. It never holds more than `limit` bytes.
    pub(crate) fn open(directory: &Path, limit: u64, topic: &str) -> Result<(Self, Found), SpoolError> {
        let unusable = |source| SpoolError::Directory {
            path: directory.to_path_buf(),
            source,
        };
        std::fs::create_dir_all(directory).map_err(unusable)?;
        let mut lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(directory.join(LOCK))
            .map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(SpoolError::Locked(directory.to_path_buf()));
            }
            Err(std::fs::TryLockError::Error(source)) => return Err(unusable(source)),
        }
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(unusable)? {
            numbers.extend(segment::number_of(&entry.map_err(unusable)?.path()));
        }
        numbers.sort_unstable();
        let mut found = Found::default();
        let mut segments = BTreeMap::new();
        for number in &numbers {
            let (segment, damage) = Segment::open(segment::path_of(directory, *number)).map_err(unusable)?;
            found.damage.torn += damage.torn;
            found.damage.lost += damage.lost;
            if segment.pending == 0 {
                segment.remove().map_err(unusable)?;
            } else {
                found.groups += segment.pending as u64;
                segments.insert(*number, segment);
            }
        }
        let mut holds = String::new();
        lock.read_to_string(&mut holds).map_err(unusable)?;
        if holds != topic {
            if found.groups > 0 && !holds.is_empty() {
                return Err(SpoolError::OtherTopic {
                    path: directory.to_path_buf(),
                    holds,
                    wanted: topic.to_owned(),
                });
            }
            lock.rewind().map_err(unusable)?;
            lock.set_len(0).map_err(unusable)?;
            lock.write_all(topic.as_bytes()).map_err(unusable)?;
            lock.sync_all().map_err(unusable)?;
        }
        segment::sync_directory(directory).map_err(unusable)?;
        let store = Self {
            directory: directory.to_path_buf(),
            segments,
            limit,
            next_segment: numbers.last().map_or(1, |last| last + 1),
            scratch: Vec::new(),
            last_sync: Duration::ZERO,
            _lock: lock,
        };
        Ok((store, found))
    }

    /// Writes records, each with its state and where Kafka may hold it, and makes them durable by one fsync. All of
    /// them are stored or none.
    pub(crate) fn append(&mut self, records: &[(&Record, State, Place)]) -> Result<Vec<Id>, SpoolError> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let mut length = 0;
        for (record, ..) in records {
            let one = frame::frame_length(record);
            if one > LARGEST_PAYLOAD as u64 {
                return Err(SpoolError::TooLarge(record.value.len()));
            }
            length += one;
        }
        let Self { limit, .. } = *self;
        if self.disk() + length + SEGMENT_HEAD as u64 > limit {
            return Err(SpoolError::Full { limit });
        }
        let number = self.segment_for(length)?;
        let Some(segment) = self.segments.get_mut(&number) else {
            return Err(SpoolError::Full { limit });
        };
        self.scratch.clear();
        let mut lengths = Vec::with_capacity(records.len());
        for (record, state, place) in records {
            let mark = match state {
                State::Certain => Mark::Certain,
                _ => Mark::Maybe(*place),
            };
            lengths.push(frame::push_frame(&mut self.scratch, record, mark));
        }
        let mut at = segment.write(&self.scratch)?;
        let began = Instant::now();
        segment.commit(at + self.scratch.len() as u64)?;
        self.last_sync = began.elapsed();
        self.scratch.shrink_to(LARGEST_PAYLOAD);
        let mut ids = Vec::with_capacity(records.len());
        for ((record, state, _), length) in records.iter().zip(lengths) {
            let index = segment.push(at, length, record.created, *state);
            at += length as u64;
            ids.push(Id {
                segment: number,
                index,
            });
        }
        Ok(ids)
    }

    /// The segment that takes `length` bytes more.
    fn segment_for(&mut self, length: u64) -> Result<u64, SpoolError> {
        let largest = SEGMENT.min(self.limit / PIECES);
        if let Some(last) = self.segments.last_entry() {
            // One batch may be larger than a segment shall be; then it has one of its own.
            if last.get().length + length <= largest || last.get().entries.is_empty() {
                return Ok(*last.key());
            }
            if last.get().pending == 0 {
                last.remove().remove()?;
            }
        }
        let number = self.next_segment;
        let segment = Segment::create(&self.directory, number)?;
        self.next_segment += 1;
        self.segments.insert(number, segment);
        Ok(number)
    }

    /// The next records after `after` that nobody of this process has, in order: at most `count` of them, and no more
    /// than `bytes` unless the first alone is more. One that cannot be read is reported, and left where it is.
    pub(crate) fn window(
        &mut self,
        after: Option<Id>,
        count: usize,
        bytes: usize,
    ) -> (Vec<Pending>, Option<Id>) {
        let (mut out, mut taken, mut last) = (Vec::new(), 0, after);
        let first = after.map_or(0, |id| id.segment);
        for (number, segment) in self.segments.range_mut(first..) {
            let mut from = match after {
                Some(id) if id.segment == *number => id.index as usize + 1,
                _ => 0,
            };
            while let Some((index, entry)) = segment.next_pending(from) {
                from = index + 1;
                if entry.state != State::Owned {
                    if out.len() == count || (taken > 0 && taken + entry.length() > bytes) {
                        return (out, last);
                    }
                    let id = Id {
                        segment: *number,
                        index: index as u32,
                    };
                    match segment.read(index) {
                        Ok((record, place)) => {
                            taken += entry.length();
                            out.push(Pending {
                                id,
                                state: entry.state,
                                place,
                                record,
                            });
                        }
                        Err(error) => tracing::error!(%error, ?id, "a record of the spool cannot be read"),
                    }
                    last = Some(id);
                }
            }
        }
        (out, last)
    }

    /// Notes, durably, that these are about to be produced, each to its place. Then the caller has them, until it says
    /// what became of them.
    pub(crate) fn attempt(&mut self, attempts: &[(Id, Place)]) -> io::Result<()> {
        let mut touched: Vec<u64> = Vec::new();
        for (id, place) in attempts {
            let Some(segment) = self.segments.get_mut(&id.segment) else {
                continue;
            };
            segment.mark(id.index as usize, Mark::Maybe(*place))?;
            if !touched.contains(&id.segment) {
                touched.push(id.segment);
            }
        }
        let began = Instant::now();
        for number in touched {
            if let Some(segment) = self.segments.get(&number) {
                segment.sync()?;
            }
        }
        self.last_sync = began.elapsed();
        for (id, _) in attempts {
            self.set(*id, State::Owned);
        }
        Ok(())
    }

    /// Has a record looked for, or produced, by the drain. What the disk says of it stays.
    pub(crate) fn set(&mut self, id: Id, state: State) {
        if let Some(segment) = self.segments.get_mut(&id.segment) {
            segment.set(id.index as usize, state);
        }
    }

    /// Kafka has this record. Its segment is deleted with the last one; a mark that a crash loses only has the record
    /// looked for again.
    pub(crate) fn done(&mut self, id: Id) {
        let last = self.segments.last_key_value().map(|(number, _)| *number);
        let Some(segment) = self.segments.get_mut(&id.segment) else {
            return;
        };
        segment.set(id.index as usize, State::Done);
        let gone = segment.pending == 0 && (last != Some(id.segment) || segment.length >= WORTH_KEEPING);
        let outcome = if gone {
            self.segments.remove(&id.segment).map_or(Ok(()), Segment::remove)
        } else {
            segment.mark(id.index as usize, Mark::Done)
        };
        if let Err(error) = outcome {
            tracing::warn!(%error, ?id, "cannot note in the spool that a record is stored");
        }
    }

    /// Deletes segments that only wait for what comes next.
    pub(crate) fn tidy(&mut self) {
        let done = self.segments.iter().filter(|(_, segment)| segment.pending == 0);
        let done: Vec<u64> = done.map(|(number, _)| *number).collect();
        for number in done {
            if let Some(Err(error)) = self.segments.remove(&number).map(Segment::remove) {
                tracing::warn!(%error, number, "cannot delete a segment of the spool that is done");
            }
        }
    }

    pub(crate) fn depth(&mut self) -> Depth {
        let mut depth = Depth {
            disk: self.disk(),
            ..Depth::default()
        };
        for segment in self.segments.values_mut() {
            depth.groups += segment.pending as u64;
            depth.bytes += segment.pending_bytes;
            if depth.oldest == 0 {
                depth.oldest = segment.next_pending(0).map_or(0, |(_, entry)| entry.created());
            }
        }
        depth
    }

    fn disk(&self) -> u64 {
        self.segments.values().map(|segment| segment.length).sum()
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
