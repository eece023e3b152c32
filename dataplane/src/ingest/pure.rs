//! From a body to lines, without HTTP, clock or Kafka: what counts of instructions and searches for crashes drive.

use uuid::Uuid;

use super::client::{Sender, Shared};
use super::line::{Lines, Stamp, head_of};
use super::native::{Native, Owner};
use super::retention::Retention;

/// 2025-11-21, for the same body has to give the same lines whenever it is read.
const RECEIVED_AT: i64 = 1_763_740_060_000;
const SOURCE: &str = "native";
const EVENT_LIMIT: usize = 256_000;
const BATCH_LIMIT: usize = 1000;

/// The part of a shard that reads bodies.
#[derive(Debug)]
pub struct Reader {
    app: Uuid,
    head: Vec<u8>,
    shared: Shared,
    lines: Lines,
}

/// Every id is the App's.
struct Anybody;

impl Owner for Anybody {
    fn is(&self, _id: &str) -> bool {
        true
    }
}

impl Reader {
    pub fn new() -> Self {
        let app = Uuid::from_u128(7);
        Self {
            app,
            head: head_of(&app),
            shared: Shared::new(
                &Sender {
                    ip: "192.0.2.1",
                    user_agent: "bench",
                },
                SOURCE,
                Retention::default(),
            ),
            lines: Lines::default(),
        }
    }

    /// Reads a body of `/v1/events/batch`: how many events were accepted, and the lines they became. `None` when it is no
    /// text, or refused whole.
    pub fn batch(&mut self, body: &[u8]) -> Option<(usize, &[u8])> {
        let text = simdutf8::compat::from_utf8(body).ok()?;
        let stamp = Stamp {
            app: self.app,
            head: &self.head,
            received_at: RECEIVED_AT,
            shared: &self.shared,
            on_behalf: None,
            source: SOURCE,
            retention: Retention::default(),
            idempotency_key: None,
            event_limit: EVENT_LIMIT,
            batch_limit: BATCH_LIMIT,
        };
        self.lines.clear();
        let mut native = Native {
            stamp: &stamp,
            owner: &Anybody,
            random: Uuid::nil,
        };
        native.batch(text, false, &mut self.lines).ok()?;
        Some((self.lines.lines.len(), &self.lines.bytes))
    }
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_body_gives_the_same_lines() {
        let body =
            br#"{"events":[{"event_type":"a","event_id":"e-1"},{"event_type":""},{"event_type":"b"}]}"#;
        let mut reader = Reader::new();
        let (count, lines) = reader.batch(body).unwrap();
        let lines = lines.to_vec();
        assert_eq!(
            (count, lines.iter().filter(|byte| **byte == b'\n').count()),
            (2, 2)
        );
        assert_eq!(reader.batch(body).unwrap(), (2, &lines[..]));
        assert!(reader.batch(b"{\"events\":[]}").is_none() && reader.batch(b"\xff").is_none());
    }
}
