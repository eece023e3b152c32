//! One Kafka record into a batch: its lines become rows or dead letters.
//!
//! A record is taken whole or not at all: a single line of an unknown version leaves the batch as it was, because
//! the record was written by a newer Penstock.

use std::sync::Arc;

use super::line::{Before, LineError, parse_next};
use super::native::Block;
use super::position::Position;

/// A line that cannot be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLine {
    pub position: Position,
    /// A sentence for a person.
    pub detail: String,
    /// Of the record that it came in.
    pub key: Option<Vec<u8>>,
    pub value: Vec<u8>,
}

/// What a batch holds.
#[derive(Debug, Default)]
pub struct Content {
    /// Shared with nobody while the batch forms.
    pub block: Arc<Block>,
    pub dead: Vec<DeadLine>,
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
    /// Adds the lines of a record.
    pub fn add(
        &mut self,
        partition: i32,
        offset: i64,
        key: Option<&[u8]>,
        value: &[u8],
    ) -> Result<Added, UnknownVersion> {
        let block = Arc::make_mut(&mut self.block);
        let mark = block.mark();
        let (rows, dead, bytes) = (block.rows(), self.dead.len(), block.bytes());
        let text = simdutf8::basic::from_utf8(value).is_ok();
        let mut dead_bytes = 0;
        let mut before = Before::default();
        for (row, line) in lines(value).enumerate() {
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
                    dead_bytes += line.len();
                    self.dead.push(DeadLine {
                        position,
                        detail: error.to_string(),
                        key: key.map(<[u8]>::to_vec),
                        value: line.to_vec(),
                    });
                }
            }
        }
        Ok(Added {
            rows: block.rows() - rows,
            dead: (self.dead.len() - dead) as u32,
            bytes: block.bytes() - bytes + dead_bytes,
        })
    }
}

/// The lines of a value. The last line break ends a line and begins none; an empty value has none: it is a barrier.
fn lines(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = (!value.is_empty()).then(|| value.strip_suffix(b"\n").unwrap_or(value));
    std::iter::from_fn(move || {
        let text = rest?;
        match memchr::memchr(b'\n', text) {
            Some(at) => {
                rest = Some(&text[at + 1..]);
                Some(&text[..at])
            }
            None => rest.take(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"v":1,"app_id":"6f0c4a4e-5d0b-5c58-9a52-0d9c9a8f3b11","event_id":"0193f1c2-7b3e-7c31-a3c9-4b1f0a1d2e3f","received_at":1,"timestamp":2,"client_timestamp":3,"ip":"","user_agent":"","library":"","source":"","event_type":"e"}"#;

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
    fn an_unknown_version_takes_nothing_of_the_record() {
        let mut content = Content::default();
        let before = content.add(0, 1, None, GOOD.as_bytes()).unwrap();
        assert_eq!((before.rows, before.dead), (1, 0));
        let value = format!("{GOOD}\nnot ours\n{{\"v\":2,\"new\":true}}\n");
        assert_eq!(content.add(0, 2, None, value.as_bytes()), Err(UnknownVersion(2)));
        assert_eq!((content.block.rows(), content.dead.len()), (1, 0));
        assert_eq!(content.block.bytes(), before.bytes);
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
