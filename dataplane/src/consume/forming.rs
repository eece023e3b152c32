//! A batch that still takes records: its span, its counts and its digest.

use super::clock::Moment;
use super::intent::{Digest, Digester};
use super::position::Span;
use super::protocol::{Limits, Record};

#[derive(Debug)]
pub(super) struct Forming {
    pub(super) span: Span,
    pub(super) rows: u32,
    pub(super) dead: u32,
    pub(super) bytes: usize,
    since: Moment,
    digester: Digester,
}

impl Forming {
    /// An empty batch that will begin at `first`.
    pub(super) fn new(first: i64, now: Moment) -> Self {
        Self {
            span: Span::new(first, first),
            rows: 0,
            dead: 0,
            bytes: 0,
            since: now,
            digester: Digester::new(),
        }
    }

    pub(super) fn add(&mut self, record: &Record<'_>) {
        self.span.last = record.offset;
        self.rows += record.rows;
        self.dead += record.dead;
        self.bytes += record.bytes;
        self.digester.add(record.offset, record.value);
    }

    pub(super) fn digest(&self) -> Digest {
        self.digester.digest()
    }

    /// The digest of the last record alone.
    pub(super) fn tail(&self) -> Digest {
        self.digester.tail()
    }

    /// Whether it must not grow any more.
    pub(super) fn is_full(&self, limits: &Limits) -> bool {
        self.rows.saturating_add(self.dead) >= limits.max_rows || self.bytes >= limits.max_bytes
    }

    /// Whether it is full or has waited long enough.
    pub(super) fn is_ready(&self, now: Moment, limits: &Limits) -> bool {
        self.is_full(limits) || now.since(self.since) >= limits.max_age
    }
}
