//! One file of the spool: frames in the order they came, and in memory where each begins and what became of it.
//!
//! A frame is written whole, at the end, and then only its mark changes. Opening reads every frame; what is broken is
//! passed over when an intact frame follows, and cut off when none does: that is what a crash in the middle of a write
//! leaves, and nothing in it was ever acknowledged.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::frame::{
    self, FRAME_HEAD, Head, LARGEST_PAYLOAD, MARK_AT, MARKER, Mark, Place, Record, SEGMENT_HEAD,
};

/// How much is read at once in search of a frame after damage.
const STRIDE: usize = 1 << 16;

/// What is to happen to a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It may be produced: Kafka certainly does not hold it.
    Certain,
    /// It must be looked for first.
    Maybe,
    /// A producer of this process still has it.
    Owned,
    Done,
}

/// 16 bytes for each record that the spool holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    offset: u32,
    length: u32,
    /// Seconds since 1970.
    created: u32,
    pub(crate) state: State,
}

/// What opening found broken; bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Damage {
    /// Cut off the end of a file.
    pub(crate) torn: u64,
    /// Between intact frames, or of a file's head.
    pub(crate) lost: u64,
}

/// An open segment.
#[derive(Debug)]
pub(crate) struct Segment {
    path: PathBuf,
    file: File,
    /// Where the next frame goes.
    pub(crate) length: u64,
    pub(crate) entries: Vec<Entry>,
    /// Entries that are not done, and the bytes of their frames.
    pub(crate) pending: usize,
    pub(crate) pending_bytes: u64,
    /// Everything before it is done.
    first: usize,
}

impl Segment {
    /// A new, empty segment. Its directory entry is durable when this returns.
    pub(crate) fn create(directory: &Path, number: u64) -> io::Result<Self> {
        let path = path_of(directory, number);
        let made = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .and_then(|file| {
                file.write_all_at(&frame::segment_head(), 0)?;
                file.sync_data()?;
                sync_directory(directory)?;
                Ok(file)
            });
        let file = made.inspect_err(|_| {
            // It holds nothing; opening the spool would remove it.
            let _ = std::fs::remove_file(&path);
        })?;
        Ok(Self::empty(path, file, SEGMENT_HEAD as u64))
    }

    fn empty(path: PathBuf, file: File, length: u64) -> Self {
        Self {
            path,
            file,
            length,
            entries: Vec::new(),
            pending: 0,
            pending_bytes: 0,
            first: 0,
        }
    }

    /// Reads a segment that an earlier process left, and cuts its torn end off.
    pub(crate) fn open(path: PathBuf) -> io::Result<(Self, Damage)> {
        let file = File::options().read(true).write(true).open(&path)?;
        let end = file.metadata()?.len();
        let mut damage = Damage::default();
        let mut segment = Self::empty(path, file, SEGMENT_HEAD as u64);
        if end < SEGMENT_HEAD as u64 {
            damage.torn = end;
            segment.length = 0;
            return Ok((segment, damage));
        }
        let mut head = [0u8; SEGMENT_HEAD];
        segment.file.read_exact_at(&mut head, 0)?;
        match frame::judge_head(&head) {
            Head::Known => {}
            Head::Damaged => damage.lost += SEGMENT_HEAD as u64,
            Head::Foreign(version) => {
                let text = format!("{} has format {version}", segment.path.display());
                return Err(io::Error::new(io::ErrorKind::Unsupported, text));
            }
        }
        let mut payload = Vec::new();
        let mut at = SEGMENT_HEAD as u64;
        while at < end {
            if let Some(mark) = segment.read_frame(at, end, &mut payload)? {
                let length = FRAME_HEAD + payload.len();
                segment.push(at, length, frame::created(&payload), state_of(mark));
                at += length as u64;
                segment.length = at;
                continue;
            }
            match segment.next_frame(at + 1, end, &mut payload)? {
                Some(found) => {
                    damage.lost += found - at;
                    at = found;
                }
                None => break,
            }
        }
        damage.torn += end - segment.length;
        if end > segment.length {
            segment.file.set_len(segment.length)?;
            segment.file.sync_data()?;
        }
        Ok((segment, damage))
    }

    /// The mark of the intact frame at `at`, and its payload; `None` where there is none.
    fn read_frame(&self, at: u64, end: u64, payload: &mut Vec<u8>) -> io::Result<Option<Mark>> {
        if at + FRAME_HEAD as u64 > end {
            return Ok(None);
        }
        let mut head = [0u8; FRAME_HEAD];
        self.file.read_exact_at(&mut head, at)?;
        let Some(length) = frame::payload_length(&head) else {
            return Ok(None);
        };
        let from = at + FRAME_HEAD as u64;
        if from + length as u64 > end {
            return Ok(None);
        }
        payload.resize(length, 0);
        self.file.read_exact_at(payload, from)?;
        Ok(frame::is_intact(&head, payload).then(|| frame::mark_of(&head)))
    }

    /// Where the next intact frame begins.
    fn next_frame(&self, from: u64, end: u64, payload: &mut Vec<u8>) -> io::Result<Option<u64>> {
        let mut bytes = vec![0u8; STRIDE];
        let mut at = from;
        while at + (FRAME_HEAD as u64) <= end {
            let count = usize::try_from(end - at).unwrap_or(usize::MAX).min(STRIDE);
            let chunk = &mut bytes[..count];
            self.file.read_exact_at(chunk, at)?;
            for offset in memchr::memmem::find_iter(chunk, &MARKER) {
                let found = at + offset as u64;
                if self.read_frame(found, end, payload)?.is_some() {
                    return Ok(Some(found));
                }
            }
            // A marker may lie across the edge.
            at += (count.saturating_sub(MARKER.len() - 1)).max(1) as u64;
        }
        Ok(None)
    }

    /// Writes `frames` at the end, not yet durable. On an error nothing of them is left.
    pub(crate) fn write(&mut self, frames: &[u8]) -> io::Result<u64> {
        let at = self.length;
        self.file.write_all_at(frames, at).inspect_err(|_| self.cut(at))?;
        Ok(at)
    }

    /// Makes what was written up to `end` durable. On an error nothing of it is left.
    pub(crate) fn commit(&mut self, end: u64) -> io::Result<()> {
        let before = self.length;
        self.file.sync_data().inspect_err(|_| self.cut(before))?;
        self.length = end;
        Ok(())
    }

    /// Takes back what a failed write left. If that fails too the next frame goes over it, and opening finds a torn
    /// end or an intact frame that nobody was promised.
    fn cut(&self, length: u64) {
        if let Err(error) = self.file.set_len(length) {
            tracing::warn!(%error, path = %self.path.display(), "cannot take back a failed write");
        }
    }

    /// Notes a frame that is durable; its index.
    pub(crate) fn push(&mut self, offset: u64, length: usize, created: i64, state: State) -> u32 {
        self.entries.push(Entry {
            offset: offset as u32,
            length: length as u32,
            created: u32::try_from(created / 1000).unwrap_or(0),
            state,
        });
        if state != State::Done {
            self.pending += 1;
            self.pending_bytes += length as u64;
        }
        self.entries.len() as u32 - 1
    }

    /// The first entry at `from` or after it that is not done.
    pub(crate) fn next_pending(&mut self, from: usize) -> Option<(usize, Entry)> {
        while self
            .entries
            .get(self.first)
            .is_some_and(|one| one.state == State::Done)
        {
            self.first += 1;
        }
        let from = from.max(self.first);
        let found = self
            .entries
            .get(from..)?
            .iter()
            .position(|one| one.state != State::Done)?;
        Some((from + found, self.entries[from + found]))
    }

    /// Reads a record and where it may be.
    pub(crate) fn read(&self, index: usize) -> io::Result<(Record, Place)> {
        let entry = self.entry(index)?;
        let mut payload = Vec::new();
        let end = u64::from(entry.offset) + u64::from(entry.length);
        let mark = self.read_frame(u64::from(entry.offset), end, &mut payload)?;
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "a record of the spool is damaged");
        let place = match mark.ok_or_else(damaged)? {
            Mark::Maybe(place) => place,
            Mark::Certain | Mark::Done => Place::ANYWHERE,
        };
        Ok((frame::parse_payload(&payload)?, place))
    }

    /// Writes a record's mark, durable only after [`Self::sync`].
    pub(crate) fn mark(&mut self, index: usize, mark: Mark) -> io::Result<()> {
        let offset = u64::from(self.entry(index)?.offset);
        self.file.write_all_at(&mark.encode(), offset + MARK_AT)
    }

    pub(crate) fn set(&mut self, index: usize, state: State) {
        let Some(entry) = self.entries.get_mut(index) else {
            return;
        };
        if state == State::Done && entry.state != State::Done {
            self.pending -= 1;
            self.pending_bytes -= u64::from(entry.length);
        }
        entry.state = state;
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    pub(crate) fn remove(self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }

    fn entry(&self, index: usize) -> io::Result<&Entry> {
        let none = || io::Error::new(io::ErrorKind::NotFound, "the spool has no such record");
        self.entries.get(index).ok_or_else(none)
    }
}

impl Entry {
    pub(crate) fn length(&self) -> usize {
        self.length as usize
    }

    /// Seconds since 1970.
    pub(crate) fn created(&self) -> u32 {
        self.created
    }
}

fn state_of(mark: Mark) -> State {
    match mark {
        Mark::Certain => State::Certain,
        Mark::Maybe(_) => State::Maybe,
        Mark::Done => State::Done,
    }
}

/// The file of a segment.
pub(crate) fn path_of(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:020}.spool"))
}

/// The number of the segment in this file, if it is one.
pub(crate) fn number_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    name.strip_suffix(".spool")?.parse().ok()
}

pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

const _: () = assert!(LARGEST_PAYLOAD + FRAME_HEAD < u32::MAX as usize);
