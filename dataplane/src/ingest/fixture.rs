//! What the tests of the wire formats share: what a request came with, and the lines that came of it.

use serde_json::Value;
use uuid::Uuid;

use super::client::Shared;
use super::line::{Lines, Stamp};
use super::retention::Retention;

/// When requests are received.
pub(crate) const NOW: i64 = 1_763_730_000_123;

pub(crate) fn stamp<'r>(source: &'static str, head: &'r [u8], shared: &'r Shared) -> Stamp<'r> {
    Stamp {
        app: Uuid::from_u128(7),
        head,
        received_at: NOW,
        shared,
        on_behalf: None,
        source,
        retention: Retention::default(),
        idempotency_key: None,
        event_limit: 2000,
        batch_limit: 5,
    }
}

/// The events that were taken; where each ends is what their lines say.
pub(crate) fn stored(lines: &Lines) -> Vec<Value> {
    let text = std::str::from_utf8(&lines.bytes).unwrap();
    let values: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(values.len(), lines.lines.len());
    assert_eq!(lines.lines.last().map_or(0, |line| line.end), lines.bytes.len());
    values
}
