//! One Kafka record into a batch: its lines become rows or dead letters.
//!
//! A record is taken whole or not at all: a single line of an unknown version leaves the batch as it was, because
//! the record was written by a newer Penstock. Dead lines count into the bytes of a batch, with what keeping each costs:
//! others may write to the topic, too, and what they write is bounded like rows.

use std::sync::Arc;

use super::line::{Before, LineError, parse_next};
use super::native::Block;
use super::position::Position;

/// So many lines of one record are dead letters of their own; the next is one with all that follows it. A record that is
/// nothing but line breaks, and takes a thousandth of that on its way, would otherwise be millions of them.
pub(super) const MOST_DEAD: usize = 1_000;

/// A line that cannot be stored, or such a line with all that follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLine {
    pub position: Position,
    /// Lines of the record that are in it.
    pub lines: u32,
    /// A sentence for a person.
    pub detail: String,
    /// Of the record that it came in, shared by its lines.
    pub key: Option<Arc<[u8]>>,
    pub value: Vec<u8>,
}

impl DeadLine {
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.detail.len() + self.value.len()
    }
}

/// What a batch holds.
#[derive(Debug, Default)]
pub struct Content {
    /// Shared with nobody while the batch forms.
    pub block: Arc<Block>,
    pub dead: Vec<DeadLine>,
    dead_bytes: usize,
}

/// What a record added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Added {
    pub rows: u32,
    pub dead: u32,
    pub bytes: usize,
}

/// The version that this program does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownVersion(pub u64);

impl Content {
    /// What it takes of memory.
    pub fn bytes(&self) -> usize {
        self.block.bytes() + self.dead_bytes
    }

    /// Adds the lines of a record.
    pub fn add(
        &mut self,
        partition: i32,
        offset: i64,
        key: Option<&[u8]>,
        value: &[u8],
    ) -> Result<Added, UnknownVersion> {
        let (bytes, dead) = (self.bytes(), self.dead.len());
        let block = Arc::make_mut(&mut self.block);
        let mark = block.mark();
        let rows = block.rows();
        let text = simdutf8::basic::from_utf8(value).is_ok();
        let mut before = Before::default();
        let mut shared_key = None;
        let mut dead_bytes = 0;
        for (row, (at, line)) in lines(value).enumerate() {
            let position = Position::new(offset, row as u32);
            let judged = if text || simdutf8::basic::from_utf8(line).is_ok() {
                parse_next(line, &mut before)
            } else {
                Err(LineError::Malformed {
                    what: "the line is not UTF-8",
                    at: 0,
                })
            };
            match judged {
                Ok(line) => block.push(partition, position, &line),
                Err(LineError::UnknownVersion(version)) => {
                    block.go_back(mark);
                    self.dead.truncate(dead);
                    return Err(UnknownVersion(version));
                }
                Err(error @ LineError::Malformed { .. }) => {
                    let last = self.dead.len() - dead == MOST_DEAD;
                    let rest = &value[at..];
                    let line = DeadLine {
                        position,
                        lines: if last { lines(rest).count() as u32 } else { 1 },
                        detail: match last {
                            false => error.to_string(),
                            true => format!(
                                "{error}; what follows it is here, too: {MOST_DEAD} lines before it are dead"
                            ),
                        },
                        key: key.map(|key| Arc::clone(shared_key.get_or_insert_with(|| key.into()))),
                        value: if last { rest.to_vec() } else { line.to_vec() },
                    };
                    dead_bytes += line.bytes();
                    self.dead.push(line);
                    if last {
                        break;
                    }
                }
            }
        }
        self.dead_bytes += dead_bytes;
        Ok(Added {
            rows: self.block.rows() - rows,
            dead: (self.dead.len() - dead) as u32,
            bytes: self.bytes() - bytes,
        })
    }
}

/// The lines of a value, and where each begins. The last line break ends a line and begins none; an empty value has
/// none: it is a barrier.
fn lines(value: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let text = value.strip_suffix(b"\n").unwrap_or(value);
    let mut next = (!value.is_empty()).then_some(0);
    std::iter::from_fn(move || {
        let from = next?;
        let end = memchr::memchr(b'\n', &text[from..]).map(|length| from + length);
        next = end.map(|end| end + 1);
        Some((from, &text[from..end.unwrap_or(text.len())]))
    })
}

/// A line as ingest writes it, for tests.
#[cfg(test)]
pub(super) const GOOD: &str = r#"{"v":1,"app_id":"6f0c4a4e-5d0b-5c58-9a52-0d9c9a8f3b11","event_id":"0193f1c2-7b3e-7c31-a3c9-4b1f0a1d2e3f","received_at":1,"timestamp":2,"client_timestamp":3,"ip":"","user_agent":"","library":"","source":"","event_type":"e"}"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_lines_are_dead_and_their_neighbours_stored() {
        let mut content = Content::default();
        let mut value = format!("{GOOD}\nnot ours\n\n{GOOD}\n").into_bytes();
        value.extend_from_slice(b"{\"v\":1,\"x\":\"\xff\"}\n");
        value.extend_from_slice(&GOOD.as_bytes()[..100]);
        let added = content.add(3, 50, Some(b"k"), &value).unwrap();
        assert_eq!((added.rows, added.dead), (2, 4));
        let dead: Vec<_> = content
            .dead
            .iter()
            .map(|d| (d.position.row, d.detail.as_str()))
            .collect();
        assert_eq!(dead[0], (1, "the line is no JSON object at byte 0"));
        assert_eq!(dead[1].0, 2, "an empty line counts");
        assert_eq!(dead[2], (4, "the line is not UTF-8 at byte 0"));
        assert_eq!(dead[3].0, 5, "a line cut short");
        assert_eq!(content.dead[3].value, &GOOD.as_bytes()[..100]);
        assert!(content.dead.iter().all(|dead| dead.key.as_deref() == Some(b"k")));
        let rows: Vec<_> = content.block.row_ids().map(|id| id.position.row).collect();
        assert_eq!(rows, [0, 3]);
    }

    #[test]
    fn dead_lines_count_and_are_bounded() {
        let mut content = Content::default();
        let garbage = "\n".repeat(1 << 20);
        let value = format!("{GOOD}\n{garbage}{GOOD}\n");
        let added = content.add(0, 9, Some(b"key"), value.as_bytes()).unwrap();
        assert_eq!((added.rows, added.dead as usize), (1, MOST_DEAD + 1));
        let last = content.dead.last().unwrap();
        assert_eq!(last.position.row as usize, 1 + MOST_DEAD);
        assert_eq!(last.value, &value.as_bytes()[GOOD.len() + 1 + MOST_DEAD..]);
        // What was not looked at is named, too: a good line among it is neither stored nor lost.
        assert_eq!(last.lines as usize, (1 << 20) - MOST_DEAD + 1);
        assert!(content.dead[..MOST_DEAD].iter().all(|dead| dead.lines == 1));
        assert!(last.detail.contains("what follows it is here"), "{}", last.detail);
        let kept: usize = content.dead.iter().map(|dead| dead.value.len()).sum();
        assert!(added.bytes > kept + MOST_DEAD * size_of::<DeadLine>());
        assert_eq!(added.bytes, content.bytes());

        // As many as are letters of their own, and not one more.
        let exactly = "x\n".repeat(MOST_DEAD);
        let added = content.add(0, 10, None, exactly.as_bytes()).unwrap();
        assert_eq!(added.dead as usize, MOST_DEAD);
        assert_eq!(content.dead.last().unwrap().value, b"x");
    }

    #[test]
    fn an_unknown_version_takes_nothing_of_the_record() {
        let mut content = Content::default();
        let before = content.add(0, 1, None, GOOD.as_bytes()).unwrap();
        assert_eq!((before.rows, before.dead), (1, 0));
        let value = format!("{GOOD}\nnot ours\n{{\"v\":2,\"new\":true}}\n");
        assert_eq!(content.add(0, 2, None, value.as_bytes()), Err(UnknownVersion(2)));
        assert_eq!((content.block.rows(), content.dead.len()), (1, 0));
        assert_eq!(content.bytes(), before.bytes);
    }

    #[test]
    fn an_empty_line_is_dead_and_an_empty_record_is_nothing() {
        for (value, dead) in [(&b""[..], 0), (b"\n", 1)] {
            let mut content = Content::default();
            assert_eq!(
                content
                    .add(0, 0, None, value)
                    .map(|added| (added.rows, added.dead)),
                Ok((0, dead))
            );
        }
    }
}
