//! What the committed offset's metadata says, and the token by which ClickHouse knows a batch again.
//!
//! ```text
//! offset = first   {"v":1,"last":1234,"xxh3":"0f…32 hex…"}                                  open: the whole span
//! offset = first   {"v":1,"last":1234,"xxh3":"0f…","from":[1200,7],"to":[1210,3]}           open: one part; what lies
//!                                                                                           before it is done
//!                  …,"try":2}                                                               under another token
//! offset = last+1  {"v":1,"after":"0f…"}                                                    done; the digest of the
//!                                                                                           record at `last`
//! ```
//!
//! Invariants: digests are of the raw Kafka values, so configuration and code never alter them, and different data
//! never shares a token, not even under the same offsets of a topic made anew. The metadata stays far below the
//! broker's limit of 4096 bytes.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::position::{Part, Position, Span};

/// The version of the metadata.
const VERSION: u32 = 1;

/// XXH3-128, of one value or of a span: of its records' offsets, lengths and digests in order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest(pub u128);

impl Digest {
    /// The digest of one record's value.
    pub fn of(value: &[u8]) -> Self {
        Self(xxh3_128(value))
    }

    fn parse(text: &str) -> Option<Self> {
        (text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit()))
            .then(|| u128::from_str_radix(text, 16).ok())
            .flatten()
            .map(Self)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Computes the digest of a span while its records arrive.
#[derive(Clone)]
pub struct Digester {
    span: Xxh3,
    tail: Digest,
}

impl Digester {
    pub fn new() -> Self {
        Self {
            span: Xxh3::new(),
            tail: Digest(0),
        }
    }

    /// Adds one record. The offset and the length keep two ways of cutting the same bytes apart.
    pub fn add(&mut self, offset: i64, value: &[u8]) {
        self.tail = Digest::of(value);
        let mut line = [0_u8; 32];
        line[..8].copy_from_slice(&offset.to_le_bytes());
        line[8..16].copy_from_slice(&(value.len() as u64).to_le_bytes());
        line[16..].copy_from_slice(&self.tail.0.to_le_bytes());
        self.span.update(&line);
    }

    /// The digest of all records so far.
    pub fn digest(&self) -> Digest {
        Digest(self.span.digest128())
    }

    /// The digest of the record added last.
    pub fn tail(&self) -> Digest {
        self.tail
    }
}

impl Default for Digester {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Digester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digester({})", self.digest())
    }
}

/// An open batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intent {
    pub span: Span,
    pub digest: Digest,
    /// What is being stored now; everything of the span before it is done, everything behind it is not.
    pub part: Part,
    /// 1, or more after the server turned out to know a token without its rows.
    pub attempt: u32,
}

/// What a committed offset means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Everything below the offset is done.
    Plain,
    /// Everything below the offset is done, and this was the record before it.
    After(Digest),
    /// The batch that begins at the offset is open.
    Open(Intent),
}

/// Metadata that this program did not write, or a newer one did.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the committed offset's metadata is of no known kind: {0}")]
pub struct UnknownMetadata(String);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    v: u32,
    #[serde(default)]
    after: Option<String>,
    #[serde(default)]
    last: Option<i64>,
    #[serde(default)]
    xxh3: Option<String>,
    #[serde(default)]
    from: Option<(i64, u32)>,
    #[serde(default)]
    to: Option<(i64, u32)>,
    #[serde(default, rename = "try")]
    attempt: Option<u32>,
}

impl Mark {
    /// Reads the metadata committed with `offset`.
    pub fn decode(offset: i64, metadata: &str) -> Result<Self, UnknownMetadata> {
        if metadata.is_empty() {
            return Ok(Self::Plain);
        }
        Self::read(offset, metadata).ok_or_else(|| UnknownMetadata(metadata.chars().take(100).collect()))
    }

    fn read(offset: i64, metadata: &str) -> Option<Self> {
        let wire: Wire = serde_json::from_str(metadata)
            .ok()
            .filter(|w: &Wire| w.v == VERSION)?;
        if let Some(after) = wire.after {
            return Digest::parse(&after).map(Self::After);
        }
        let span = Span::new(offset, wire.last?);
        let digest = Digest::parse(&wire.xxh3?)?;
        let whole = span.whole();
        let part = Part {
            from: wire.from.map_or(whole.from, |(o, r)| Position::new(o, r)),
            to: wire.to.map_or(whole.to, |(o, r)| Position::new(o, r)),
        };
        let sound =
            span.first <= span.last && whole.from <= part.from && part.from <= part.to && part.to <= whole.to;
        sound.then_some(Self::Open(Intent {
            span,
            digest,
            part,
            attempt: wire.attempt.unwrap_or(1),
        }))
    }
}

/// The metadata that completes a batch.
pub fn encode_after(tail: Digest) -> String {
    format!(r#"{{"v":{VERSION},"after":"{tail}"}}"#)
}

impl Intent {
    fn is_whole(&self) -> bool {
        self.part == self.span.whole()
    }

    /// The metadata to commit with the offset `span.first`.
    pub fn encode(&self) -> String {
        let mut text = format!(
            r#"{{"v":{VERSION},"last":{},"xxh3":"{}""#,
            self.span.last, self.digest
        );
        if !self.is_whole() {
            let Part { from, to } = self.part;
            let _ = write!(
                text,
                r#","from":[{},{}],"to":[{},{}]"#,
                from.offset, from.row, to.offset, to.row
            );
        }
        if self.attempt > 1 {
            let _ = write!(text, r#","try":{}"#, self.attempt);
        }
        text.push('}');
        text
    }

    /// The name under which ClickHouse stores these rows at most once.
    pub fn token(&self, topic: &str, partition: i32) -> String {
        let mut token = format!("{topic}/{partition}/{}/{}", self.span, self.digest);
        if !self.is_whole() {
            let Part { from, to } = self.part;
            let _ = write!(token, "/{}.{}-{}.{}", from.offset, from.row, to.offset, to.row);
        }
        if self.attempt > 1 {
            let _ = write!(token, "#{}", self.attempt);
        }
        token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest_of(records: &[(i64, &[u8])]) -> Digest {
        let mut digester = Digester::new();
        for (offset, value) in records {
            digester.add(*offset, value);
        }
        digester.digest()
    }

    #[test]
    fn an_intent_reads_back_as_written_and_fits() {
        let span = Span::new(i64::MAX - 9, i64::MAX);
        for part in [
            span.whole(),
            Part {
                from: Position::new(i64::MAX - 8, u32::MAX),
                to: Position::new(i64::MAX - 1, u32::MAX),
            },
        ] {
            let intent = Intent {
                span,
                digest: digest_of(&[(1, b"a")]),
                part,
                attempt: if part == span.whole() { 1 } else { u32::MAX },
            };
            let text = intent.encode();
            assert!(text.len() < 4096 / 8, "{text}");
            assert_eq!(Mark::decode(span.first, &text), Ok(Mark::Open(intent)));
        }
        let tail = digest_of(&[(1, b"a")]);
        assert_eq!(Mark::decode(7, &encode_after(tail)), Ok(Mark::After(tail)));
        assert_eq!(Mark::decode(7, ""), Ok(Mark::Plain));
    }

    #[test]
    fn foreign_metadata_is_named() {
        let good = r#"{"v":1,"last":9,"xxh3":"00000000000000000000000000000001"}"#;
        assert!(Mark::decode(9, good).is_ok());
        for bad in [
            "x",
            "{}",
            r#"{"v":1}"#,
            r#"{"v":1,"after":"1"}"#,
            r#"{"v":1,"last":9,"xxh3":"00000000000000000000000000000001","new":1}"#,
            r#"{"v":2,"last":9,"xxh3":"00000000000000000000000000000001"}"#,
            r#"{"v":1,"last":9,"xxh3":"1"}"#,
            r#"{"v":1,"last":9,"xxh3":"0000000000000000000000000000000g"}"#,
            r#"{"v":1,"last":9,"xxh3":"+0000000000000000000000000000001"}"#,
            r#"{"v":1,"last":9,"xxh3":"00000000000000000000000000000001","from":[3,0],"to":[9,1]}"#,
            r#"{"v":1,"last":9,"xxh3":"00000000000000000000000000000001","from":[9,2],"to":[9,1]}"#,
        ] {
            assert!(Mark::decode(9, bad).is_err(), "{bad}");
        }
        assert!(
            Mark::decode(10, good).is_err(),
            "a batch that ends before it begins"
        );
    }

    #[test]
    fn different_data_never_shares_a_token() {
        let token = |records: &[(i64, &[u8])]| {
            let span = Span::new(0, 1);
            Intent {
                span,
                digest: digest_of(records),
                part: span.whole(),
                attempt: 1,
            }
            .token("t", 0)
        };
        let ours = token(&[(0, b"ab"), (1, b"c")]);
        assert_eq!(ours, token(&[(0, b"ab"), (1, b"c")]));
        assert_ne!(ours, token(&[(0, b"a"), (1, b"bc")]), "cut differently");
        assert_ne!(ours, token(&[(0, b"ab"), (1, b"d")]), "a topic made anew");
        assert!(ours.starts_with("t/0/0-1/"), "{ours}");
    }

    #[test]
    fn parts_have_tokens_of_their_own() {
        let span = Span::new(0, 1);
        let whole = Intent {
            span,
            digest: digest_of(&[(0, b"a")]),
            part: span.whole(),
            attempt: 1,
        };
        let (first, second) = span.whole().split(Position::new(1, 0));
        let tokens: Vec<_> = [whole.part, first, second]
            .into_iter()
            .map(|part| Intent { part, ..whole }.token("t", 0))
            .collect();
        assert!(tokens[0] != tokens[1] && tokens[1] != tokens[2] && tokens[0] != tokens[2]);
        let again = Intent { attempt: 2, ..whole }.token("t", 0);
        assert_eq!(again, format!("{}#2", tokens[0]));
    }
}
