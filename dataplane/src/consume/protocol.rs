//! The words of the exactly-once protocol: what the driver reports to the machine, and what it is told to do.

use std::time::Duration;

use super::clock::Moment;
use super::intent::Intent;
use super::position::{Part, Position, Span};

/// When a batch is full, and how long things stay true.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub max_rows: u32,
    pub max_bytes: usize,
    pub max_age: Duration,
    /// Kafka's `session.timeout.ms`.
    pub session: Duration,
    /// How long the table's memory of tokens is trusted without asking.
    pub blind: Duration,
    /// How long an INSERT that was given up may still be under way in ClickHouse.
    pub under_way: Duration,
}

/// An offset and its metadata, where the group has one.
pub type Committed = Option<(i64, String)>;

/// What the group and the log know of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    pub committed: Committed,
    /// The first offset that the log still has, and the one that it will give next.
    pub low: i64,
    pub high: i64,
}

/// One record as the driver parsed it.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    pub offset: i64,
    pub value: &'a [u8],
    /// Lines to store.
    pub rows: u32,
    /// Lines that cannot be stored.
    pub dead: u32,
    /// What the record adds to the memory of its batch.
    pub bytes: usize,
}

/// What the driver reports.
#[derive(Clone, Debug)]
pub enum Event {
    /// `None`: the group or the log could not be asked.
    Looked(Option<Lookup>),
    Committed(CommitOutcome),
    /// Whether the dead letters are safe.
    DeadLettered(bool),
    /// `None`: the table could not be asked.
    Asked(Option<Held>),
    Inserted(InsertOutcome),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitOutcome {
    Done,
    /// It may or may not have been applied.
    Retry,
    /// Not tried: the assignment has ended.
    Fenced,
    /// Not tried: the group's offset is none of those that this owner knows of. The topic was deleted, somebody set
    /// the offset, or a commit came late.
    Moved,
}

/// What the table holds of the rows in question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    All,
    None,
    /// Some; the number is a digest of the positions that are missing.
    Some(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertOutcome {
    Stored,
    /// Not stored, or nobody knows.
    Retry,
    /// Not sent, or not to its end: the intent was too old, or the assignment has ended.
    Stale,
    /// Not sent to its end while the intent was young, as rows from `middle` on are its second half.
    Cut {
        middle: Position,
    },
    /// ClickHouse refuses the data itself; `middle` begins the second half of the rows that were sent.
    Refused {
        middle: Position,
    },
    /// ClickHouse refuses the only row that was sent.
    RefusedRow {
        at: Position,
    },
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the group for the committed offset and the log for its bounds.
    Look,
    /// Read from this offset on; what was read ahead is void.
    Fetch {
        from: i64,
    },
    /// Forget the content of the forming batch.
    DropForming,
    /// The forming batch is the one in flight from now on.
    Seal,
    Commit {
        offset: i64,
        metadata: String,
        /// What the group may hold now, if nobody else touched it.
        known: Vec<Committed>,
    },
    /// Produce the lines that could not be read.
    DeadLetter,
    /// Produce the one row that ClickHouse refuses.
    DeadLetterRow {
        at: Position,
    },
    Ask {
        part: Part,
    },
    Insert {
        part: Part,
        /// Only what the last answer to `Ask` called missing.
        missing: Option<u64>,
        intent: Intent,
        intent_at: Moment,
    },
    /// The part is in the table, but for the row that ClickHouse refused, and not counted under another range: live
    /// figures may tell of it. What is formed again comes again, the same.
    Stored {
        span: Span,
        part: Part,
        refused: Option<Position>,
    },
    /// The batch in flight is stored; its content may go.
    Landed,
    /// Nothing is under way any more: give the partition back.
    Release,
    Report(Report),
}

/// What a person should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// An earlier owner left this batch open; it is formed again.
    Recovering(Span),
    /// Offsets that the log no longer had, `from` included, `to` not.
    DataLost { from: i64, to: i64 },
    /// The log is not the one that the group's offsets speak of: it was made anew or cut.
    OtherLog { committed: i64, high: i64 },
    /// The group's offset changed under this owner; the partition is looked at anew.
    Moved,
    /// ClickHouse acknowledged rows that it does not hold; they are sent under another token.
    TokenWithoutRows,
    /// The metadata could not be read; the table is asked about everything up to the log's end.
    UnknownMetadata(String),
}
