//! What a record of the dead-letter topic says, by the contract of `docs/record.md`: a letter, a receipt for letters
//! that were replayed, or something that is neither.

use penstock_dataplane_config::record;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_128;

use super::offsets::{Offsets, Position};

/// A letter, without its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Letter {
    pub partition: i32,
    pub offset: i64,
    /// When it was written, in milliseconds since 1970.
    pub written_at: i64,
    pub reason: String,
    pub step: String,
    pub detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// `topic/partition/offset/row`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// Lines of the record that it has, from its origin on, where that is more than one: then all that follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lines: Option<u32>,
    /// Bytes that are kept of it.
    pub size: usize,
}

/// Why a letter cannot be replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    TooOld,
    /// Ingest refused it.
    NotALine,
    Cut,
}

impl Why {
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::TooOld => "the event is older than its App keeps events, and would be refused again",
            Self::NotALine => {
                "it is what a client sent, and ingest would refuse it again: print it with `penstock dlq show --raw`, mend it and send it to the endpoint"
            }
            Self::Cut => "it was too large to be kept whole",
        }
    }
}

/// A record of the dead-letter topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    Letter(Letter),
    /// These letters of the same partition were replayed.
    Receipt(Offsets),
    /// Written by another program.
    Foreign,
}

impl Entry {
    pub fn of(message: &BorrowedMessage<'_>) -> Self {
        let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
        let headers = headers.map(|header| {
            let value = String::from_utf8_lossy(header.value.unwrap_or_default());
            (header.key.to_owned(), value.into_owned())
        });
        Self::read(
            Position {
                partition: message.partition(),
                offset: message.offset(),
            },
            message.timestamp().to_millis().unwrap_or(0),
            message.payload().unwrap_or_default().len(),
            headers,
        )
    }

    fn read(
        position: Position,
        written_at: i64,
        size: usize,
        headers: impl Iterator<Item = (String, String)>,
    ) -> Self {
        let mut letter = Letter {
            partition: position.partition,
            offset: position.offset,
            written_at,
            reason: String::new(),
            step: String::new(),
            detail: String::new(),
            app: None,
            origin: None,
            lines: None,
            size,
        };
        for (key, value) in headers {
            match key.as_str() {
                record::REASON => letter.reason = value,
                record::STEP => letter.step = value,
                record::DETAIL => letter.detail = value,
                record::APP => letter.app = Some(value),
                record::ORIGIN => letter.origin = Some(value),
                record::LINES => letter.lines = value.parse().ok(),
                record::REPLAYED => return value.parse().map_or(Self::Foreign, Self::Receipt),
                _ => {}
            }
        }
        match letter.reason.is_empty() {
            true => Self::Foreign,
            false => Self::Letter(letter),
        }
    }
}

impl Letter {
    pub fn position(&self) -> Position {
        Position {
            partition: self.partition,
            offset: self.offset,
        }
    }

    /// Whether it is a line of the topic, which is what can be sent there again.
    pub fn replayable(&self) -> Result<(), Why> {
        match self.step.as_str() {
            "consume" if self.is_cut() => Err(Why::Cut),
            "consume" => Ok(()),
            _ if self.reason == "TooOld" => Err(Why::TooOld),
            _ => Err(Why::NotALine),
        }
    }

    /// Whether it has less than the whole: its detail then ends with how long that was.
    pub fn is_cut(&self) -> bool {
        let Some((_, end)) = self.detail.rsplit_once(" (cut from ") else {
            return false;
        };
        let number = end.strip_suffix(" bytes)");
        number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
    }

    /// Tells letters apart. One may be written twice, when a consumer dies behind writing it; both have the same origin
    /// and the same bytes. A topic that was made anew gives the same origin to other bytes.
    pub fn identity(&self, value: &[u8]) -> u128 {
        let mut text = self
            .origin
            .clone()
            .unwrap_or_else(|| self.position().to_string())
            .into_bytes();
        text.push(0);
        text.extend_from_slice(value);
        xxh3_128(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(headers: &[(&str, &str)]) -> Entry {
        let position = Position {
            partition: 1,
            offset: 7,
        };
        let headers = headers
            .iter()
            .map(|&(key, value)| (key.to_owned(), value.to_owned()));
        Entry::read(position, 5, 3, headers)
    }

    fn letter(step: &str, reason: &str, detail: &str) -> Letter {
        let headers = [
            ("penstock-reason", reason),
            ("penstock-step", step),
            ("penstock-detail", detail),
            ("penstock-origin", "t/0/1/2"),
        ];
        match entry(&headers) {
            Entry::Letter(letter) => letter,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn letters_receipts_and_what_is_neither() {
        let found = letter("consume", "Refused", "no");
        assert_eq!(
            (found.position().to_string().as_str(), found.size, found.app),
            ("1/7", 3, None)
        );
        assert_eq!(
            entry(&[(record::REPLAYED, "1..3,9")]),
            Entry::Receipt("1..3,9".parse().unwrap())
        );
        let several = [
            (record::REASON, "Malformed"),
            (record::ORIGIN, "t/0/1/1000"),
            (record::LINES, "48577"),
        ];
        assert!(matches!(entry(&several), Entry::Letter(letter) if letter.lines == Some(48_577)));
        assert_eq!(found.lines, None);
        assert_eq!(entry(&[]), Entry::Foreign);
        assert_eq!(entry(&[(record::REPLAYED, "x")]), Entry::Foreign);
    }

    #[test]
    fn whole_lines_of_the_topic_can_be_replayed() {
        for (step, reason, detail, expected) in [
            ("consume", "Refused", "no", Ok(())),
            (
                "consume",
                "Malformed",
                "the line is no JSON object at byte 0",
                Ok(()),
            ),
            ("consume", "Malformed", "x (cut from ropes)", Ok(())),
            (
                "consume",
                "Malformed",
                "x (cut from 1200000 bytes)",
                Err(Why::Cut),
            ),
            (
                "ingest",
                "TooOld",
                "timestamp: older than 730 days",
                Err(Why::TooOld),
            ),
            ("ingest", "Malformed", "event: is required", Err(Why::NotALine)),
            ("later", "New", "?", Err(Why::NotALine)),
        ] {
            assert_eq!(
                letter(step, reason, detail).replayable(),
                expected,
                "{step} {reason} {detail}"
            );
        }
    }

    #[test]
    fn the_same_line_written_twice_is_one_letter() {
        let first = letter("consume", "Refused", "no");
        let again = Letter {
            offset: 9,
            ..first.clone()
        };
        assert_eq!(first.identity(b"a"), again.identity(b"a"));
        assert_ne!(first.identity(b"a"), again.identity(b"b"), "a topic made anew");
    }
}
