//! The bytes of the spool: how one record lies in a segment.
//!
//! ```text
//! segment   head | frame | frame | …                      head: magic, format version, checksum
//! frame     marker 4 | length 4 | checksum 4 | mark 20 | payload
//! payload   created ms 8 | topic 1 | headers 1 | name | headers | value         a key is a header called `penstock-key`
//! ```
//! Numbers are little-endian; checksums are CRC-32C. The frame's checksum covers length and payload. The mark has one
//! of its own, for it is written over in place while the record makes its way: that needs no room, so a full disk
//! does not keep the spool from being drained. A mark that cannot be read says the least that is safe.
//!
//! The marker has a byte that UTF-8 never has, so no event can hold a frame, and what follows damage is found again.

use std::io;

/// Bytes of a segment before its first frame.
pub(crate) const SEGMENT_HEAD: usize = 16;
/// Bytes of a frame before its payload.
pub(crate) const FRAME_HEAD: usize = 12 + MARK;
/// The largest payload: a group is 600 kB, a dead letter 900 kB, and both have a little around them.
pub(crate) const LARGEST_PAYLOAD: usize = 2_000_000;
/// Where the mark lies in a frame.
pub(crate) const MARK_AT: u64 = 12;
pub(crate) const MARK: usize = 20;
pub(crate) const MARKER: [u8; 4] = [b'P', 0xff, b'G', 0xfe];

const MAGIC: &[u8; 8] = b"PENSPOOL";
/// The version of everything here.
const VERSION: u32 = 1;

/// The header that a record's key is kept as. Kafka never sees it, unless a Penstock that knows no keys drains the spool.
const KEY: &str = "penstock-key";

/// Which topic a record is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Topic {
    Events,
    DeadLetters,
}

/// One Kafka record as the spool keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Milliseconds since 1970.
    pub(crate) created: i64,
    pub(crate) topic: Topic,
    /// The value of the header `penstock-group`.
    pub(crate) name: String,
    /// The record's own key, which decides its partition.
    pub(crate) key: Option<String>,
    /// The other headers.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) value: Vec<u8>,
}

impl Record {
    /// The key, and the headers.
    fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        let key = self.key.as_deref().map(|key| (KEY, key));
        let headers = self
            .headers
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()));
        key.into_iter().chain(headers)
    }
}

/// Where a record may be in Kafka: in this partition, at this offset or after it; -1 for any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) partition: i32,
    pub(crate) floor: i64,
}

impl Place {
    pub(crate) const ANYWHERE: Self = Self {
        partition: -1,
        floor: -1,
    };
}

/// What is known of a record's way to Kafka.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Kafka certainly does not hold it.
    Certain,
    /// Kafka may hold it.
    Maybe(Place),
    /// Kafka holds it, or nobody waits for it.
    Done,
}

impl Mark {
    pub(crate) fn encode(self) -> [u8; MARK] {
        let (kind, place) = match self {
            Self::Certain => (1u8, Place::ANYWHERE),
            Self::Maybe(place) => (2, place),
            Self::Done => (3, Place::ANYWHERE),
        };
        let mut out = [0u8; MARK];
        out[0] = kind;
        out[4..8].copy_from_slice(&place.partition.to_le_bytes());
        out[8..16].copy_from_slice(&place.floor.to_le_bytes());
        let sum = crc32c::crc32c(&out[..16]);
        out[16..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8; MARK]) -> Self {
        let place = Place {
            partition: i32::from_le_bytes(array(bytes, 4)),
            floor: i64::from_le_bytes(array(bytes, 8)),
        };
        let intact = crc32c::crc32c(&bytes[..16]) == u32::from_le_bytes(array(bytes, 16));
        match bytes[0] {
            1 if intact => Self::Certain,
            3 if intact => Self::Done,
            2 if intact => Self::Maybe(place),
            // Half written when the power went.
            _ => Self::Maybe(Place::ANYWHERE),
        }
    }
}

/// The head of a new segment.
pub(crate) fn segment_head() -> [u8; SEGMENT_HEAD] {
    let mut out = [0u8; SEGMENT_HEAD];
    out[..8].copy_from_slice(MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let sum = crc32c::crc32c(&out[..12]);
    out[12..].copy_from_slice(&sum.to_le_bytes());
    out
}

/// What a segment's head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// Frames of this version follow.
    Known,
    /// Another program's, or a newer Penstock's: its frames must not be touched.
    Foreign(u32),
    /// No head that makes sense; frames may follow all the same.
    Damaged,
}

pub(crate) fn judge_head(bytes: &[u8; SEGMENT_HEAD]) -> Head {
    let intact = crc32c::crc32c(&bytes[..12]) == u32::from_le_bytes(array(bytes, 12));
    let version = u32::from_le_bytes(array(bytes, 8));
    match (intact && &bytes[..8] == MAGIC, version) {
        (true, VERSION) => Head::Known,
        (true, other) => Head::Foreign(other),
        (false, _) => Head::Damaged,
    }
}

/// Appends the frame of `record` to `out`; its length in bytes.
pub(crate) fn push_frame(out: &mut Vec<u8>, record: &Record, mark: Mark) -> usize {
    let start = out.len();
    out.extend_from_slice(&MARKER);
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&mark.encode());
    let payload = out.len();
    out.extend_from_slice(&record.created.to_le_bytes());
    out.push(match record.topic {
        Topic::Events => 0,
        Topic::DeadLetters => 1,
    });
    // A record has four headers at most, and none is longer than a few hundred bytes.
    let headers = record.texts().count().min(255);
    out.push(headers as u8);
    push_text(out, &record.name);
    for (key, value) in record.texts().take(headers) {
        push_text(out, key);
        push_text(out, value);
    }
    out.extend_from_slice(&record.value);
    let length = ((out.len() - payload) as u32).to_le_bytes();
    let sum = checksum(&length, &out[payload..]);
    out[start + 4..start + 8].copy_from_slice(&length);
    out[start + 8..start + 12].copy_from_slice(&sum.to_le_bytes());
    out.len() - start
}

/// The bytes that [`push_frame`] will append.
pub(crate) fn frame_length(record: &Record) -> u64 {
    let headers: usize = record
        .texts()
        .map(|(key, value)| 8 + key.len() + value.len())
        .sum();
    (FRAME_HEAD + 14 + record.name.len() + headers + record.value.len()) as u64
}

/// The payload's length, of a frame's head, where it can be one.
pub(crate) fn payload_length(head: &[u8; FRAME_HEAD]) -> Option<usize> {
    let length = u32::from_le_bytes(array(head, 4)) as usize;
    (head[..4] == MARKER && length <= LARGEST_PAYLOAD).then_some(length)
}

/// Whether the payload is the one that was written.
pub(crate) fn is_intact(head: &[u8; FRAME_HEAD], payload: &[u8]) -> bool {
    checksum(&head[4..8], payload) == u32::from_le_bytes(array(head, 8))
}

pub(crate) fn mark_of(head: &[u8; FRAME_HEAD]) -> Mark {
    Mark::decode(&array(head, MARK_AT as usize))
}

/// When the record of this payload was made; milliseconds since 1970.
pub(crate) fn created(payload: &[u8]) -> i64 {
    payload
        .first_chunk()
        .map_or(0, |bytes| i64::from_le_bytes(*bytes))
}

/// Reads an intact payload.
pub(crate) fn parse_payload(payload: &[u8]) -> io::Result<Record> {
    let short = || io::Error::new(io::ErrorKind::InvalidData, "a record of the spool is too short");
    let mut rest = payload;
    let created = i64::from_le_bytes(*take::<8>(&mut rest).ok_or_else(short)?);
    let [topic, count] = *take::<2>(&mut rest).ok_or_else(short)?;
    let topic = match topic {
        0 => Topic::Events,
        _ => Topic::DeadLetters,
    };
    let name = take_text(&mut rest).ok_or_else(short)?;
    let (mut key, mut headers) = (None, Vec::with_capacity(usize::from(count)));
    for _ in 0..count {
        let name = take_text(&mut rest).ok_or_else(short)?;
        let text = take_text(&mut rest).ok_or_else(short)?;
        match name == KEY {
            true => key = Some(text),
            false => headers.push((name, text)),
        }
    }
    Ok(Record {
        created,
        topic,
        name,
        key,
        headers,
        value: rest.to_vec(),
    })
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn take<'b, const N: usize>(rest: &mut &'b [u8]) -> Option<&'b [u8; N]> {
    let (first, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(first)
}

fn take_text(rest: &mut &[u8]) -> Option<String> {
    let length = u32::from_le_bytes(*take::<4>(rest)?) as usize;
    let (text, after) = rest.split_at_checked(length)?;
    *rest = after;
    String::from_utf8(text.to_vec()).ok()
}

fn checksum(length: &[u8], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(length), payload)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn a_record() -> impl Strategy<Value = Record> {
        let headers = proptest::collection::vec((".{0,20}", ".{0,40}"), 0..5);
        let value = proptest::collection::vec(any::<u8>(), 0..2000);
        let key = proptest::option::of(".{0,20}");
        (any::<i64>(), any::<bool>(), ".{0,60}", key, headers, value).prop_map(
            |(created, letters, name, key, headers, value)| Record {
                created,
                topic: if letters {
                    Topic::DeadLetters
                } else {
                    Topic::Events
                },
                name,
                key,
                headers,
                value,
            },
        )
    }

    proptest! {
        #[test]
        fn a_frame_gives_its_record_back_and_nothing_else_passes(
            record in a_record(), flipped in any::<proptest::sample::Index>(), bit in 0..8u32,
        ) {
            let mut bytes = Vec::new();
            let length = push_frame(&mut bytes, &record, Mark::Certain);
            prop_assert_eq!(length as u64, frame_length(&record));
            let read = |bytes: &[u8]| {
                let head: [u8; FRAME_HEAD] = array(bytes, 0);
                let length = payload_length(&head)?;
                let payload = bytes.get(FRAME_HEAD..FRAME_HEAD + length)?;
                is_intact(&head, payload).then(|| (mark_of(&head), parse_payload(payload).ok()))
            };
            prop_assert_eq!(read(&bytes), Some((Mark::Certain, Some(record))));
            let at = flipped.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let marks = MARK_AT as usize..MARK_AT as usize + MARK;
            if marks.contains(&at) {
                let read = read(&bytes).map(|(mark, _)| mark);
                prop_assert_eq!(read, Some(Mark::Maybe(Place::ANYWHERE)), "the least that is safe");
            } else {
                prop_assert_eq!(read(&bytes), None);
            }
        }
    }

    #[test]
    fn marks_are_read_as_written() {
        let place = Place {
            partition: 7,
            floor: 1 << 40,
        };
        for mark in [Mark::Certain, Mark::Maybe(place), Mark::Done] {
            assert_eq!(Mark::decode(&mark.encode()), mark);
        }
        assert_eq!(Mark::decode(&[0; MARK]), Mark::Maybe(Place::ANYWHERE));
    }

    #[test]
    fn a_head_tells_its_version() {
        let mut head = segment_head();
        assert_eq!(judge_head(&head), Head::Known);
        head[8] = 2;
        assert_eq!(judge_head(&head), Head::Damaged);
        let sum = crc32c::crc32c(&head[..12]);
        head[12..].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(judge_head(&head), Head::Foreign(2));
    }
}
