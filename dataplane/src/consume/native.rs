//! Rows as ClickHouse's Native format holds them: one block, column by column.
//!
//! ```text
//! varint columns, varint rows, then for each column: name, type, values
//! ```
//!
//! A block is filled row by row, each field going to the end of its column, and becomes a request body without
//! being copied again. `LowCardinality` columns are sent as such, see [`Symbols`]: of them the texts are copied once.
//!
//! Invariant: every column holds exactly [`Block::rows`] values.

use std::fmt::Write as _;

use penstock_dataplane_config::record::LINE_VERSION;
use penstock_dataplane_config::table::{ColumnKind, NEVER_EXPIRES, inserted_columns};
use uuid::Uuid;

use super::column::{self, Column, push_varint};
use super::line::{Line, Text};
use super::position::Position;
use super::scan::unescape;
use super::symbols::{self, Symbols};
use crate::utc::DAY_MS;

// The columns by their place in `table::EVENT_COLUMNS`; a test compares the names.
const EVENT_ID: usize = 0;
const APP_ID: usize = 1;
const EVENT_NAME: usize = 2;
const USER_ID: usize = 3;
const DEVICE_ID: usize = 4;
const SESSION_ID: usize = 5;
const EVENT_TIMESTAMP: usize = 6;
const CLIENT_TIMESTAMP: usize = 7;
const RECEIVED_AT: usize = 8;
const PLATFORM: usize = 9;
const OS_VERSION: usize = 10;
const APP_VERSION: usize = 11;
const ATTRIBUTION: usize = 12;
const PROPERTIES: usize = 13;
const CONTEXT: usize = 14;
const IP: usize = 15;
const USER_AGENT: usize = 16;
const LIBRARY: usize = 17;
const SOURCE: usize = 18;
const SRC_PARTITION: usize = 19;
const SRC_OFFSET: usize = 20;
const SRC_ROW: usize = 21;
const EXPIRES_ON: usize = 22;
const COLUMNS: usize = 23;

/// A row's identity in the table: where it came from, and which event it is. The same position of a topic made
/// anew is another event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId {
    pub position: Position,
    pub event_id: u128,
}

/// What live figures are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fact<'a> {
    pub(super) app_id: u128,
    pub(super) user_id: &'a [u8],
    pub(super) timestamp: i64,
    pub(super) received_at: i64,
}

/// Rows of one partition.
#[derive(Clone, Debug)]
pub struct Block {
    columns: [Values; COLUMNS],
    rows: u32,
    bytes: usize,
    received: Option<(i64, i64)>,
    scratch: Vec<u8>,
}

/// The values of one column.
#[derive(Clone, Debug)]
enum Values {
    Plain(Column),
    Symbols(Symbols),
}

impl Values {
    fn of(kind: ColumnKind) -> Self {
        match kind {
            ColumnKind::Symbol => Self::Symbols(Symbols::default()),
            _ => Self::Plain(Column::default()),
        }
    }

    /// Adds a text; returns how many bytes that took.
    fn push_text(&mut self, text: &[u8]) -> usize {
        match self {
            Self::Plain(column) => column.push_string(text),
            Self::Symbols(symbols) => symbols.push(text),
        }
    }

    /// What is sent for each row: its value or, of symbols, its text's number.
    fn by_row(&self) -> &Column {
        match self {
            Self::Plain(column) => column,
            Self::Symbols(symbols) => symbols.numbers(),
        }
    }

    fn place(&self) -> Place {
        match self {
            Self::Plain(column) => Place::Plain(column.place()),
            Self::Symbols(symbols) => Place::Symbols(symbols.place()),
        }
    }

    fn go_back(&mut self, place: Place) {
        match (self, place) {
            (Self::Plain(column), Place::Plain(place)) => column.go_back(place),
            (Self::Symbols(symbols), Place::Symbols(place)) => symbols.go_back(place),
            _ => unreachable!("a place is of the column that it was taken of"),
        }
    }
}

/// Where a column's values stood.
#[derive(Clone, Copy, Debug)]
enum Place {
    Plain(column::Place),
    Symbols(symbols::Place),
}

/// Where a block stood, to go back to.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    places: [Place; COLUMNS],
    rows: u32,
    bytes: usize,
    received: Option<(i64, i64)>,
}

impl Default for Block {
    fn default() -> Self {
        let mut kinds = inserted_columns().map(|column| column.kind);
        Self {
            columns: std::array::from_fn(|_| Values::of(kinds.next().unwrap_or(ColumnKind::Text))),
            rows: 0,
            bytes: 0,
            received: None,
            scratch: Vec::new(),
        }
    }
}

impl Block {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn rows(&self) -> u32 {
        self.rows
    }

    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Bytes of all values, and what is kept beside the texts of symbols.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The earliest and the latest `received_at`, in milliseconds.
    pub fn received(&self) -> Option<(i64, i64)> {
        self.received
    }

    /// Adds one row.
    pub fn push(&mut self, partition: i32, position: Position, line: &Line<'_>) {
        self.uuid(EVENT_ID, line.event_id);
        self.uuid(APP_ID, line.app_id);
        self.text(EVENT_NAME, line.event_type);
        self.text(USER_ID, line.user_id);
        self.text(DEVICE_ID, line.device_id);
        self.text(SESSION_ID, line.session_id);
        self.fixed(EVENT_TIMESTAMP, line.timestamp.to_le_bytes());
        self.fixed(CLIENT_TIMESTAMP, line.client_timestamp.to_le_bytes());
        self.fixed(RECEIVED_AT, line.received_at.to_le_bytes());
        self.text(PLATFORM, line.platform);
        self.text(OS_VERSION, line.os_version);
        self.text(APP_VERSION, line.app_version);
        self.string(ATTRIBUTION, line.attribution);
        self.string(PROPERTIES, line.event_data);
        self.string(CONTEXT, line.context);
        self.text(IP, line.ip);
        self.text(USER_AGENT, line.user_agent);
        self.text(LIBRARY, line.library);
        self.text(SOURCE, line.source);
        self.fixed(SRC_PARTITION, partition.to_le_bytes());
        self.fixed(SRC_OFFSET, position.offset.to_le_bytes());
        self.fixed(SRC_ROW, position.row.to_le_bytes());
        self.fixed(EXPIRES_ON, expires_on(line).to_le_bytes());
        self.rows += 1;
        self.see_received(line.received_at);
    }

    fn see_received(&mut self, at: i64) {
        self.received = Some(match self.received {
            Some((first, last)) => (first.min(at), last.max(at)),
            None => (at, at),
        });
    }

    fn fixed<const N: usize>(&mut self, column: usize, bytes: [u8; N]) {
        let Values::Plain(column) = &mut self.columns[column] else {
            unreachable!("values of one width are no symbols");
        };
        column.push_fixed(&bytes);
        self.bytes += N;
    }

    /// A UUID is two little-endian numbers, the high one first.
    fn uuid(&mut self, column: usize, id: u128) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&((id >> 64) as u64).to_le_bytes());
        bytes[8..].copy_from_slice(&(id as u64).to_le_bytes());
        self.fixed(column, bytes);
    }

    fn string(&mut self, column: usize, value: &[u8]) {
        self.bytes += self.columns[column].push_text(value);
    }

    fn text(&mut self, column: usize, text: Text<'_>) {
        if text.escaped {
            let mut scratch = std::mem::take(&mut self.scratch);
            scratch.clear();
            unescape(text.raw, &mut scratch);
            self.string(column, &scratch);
            self.scratch = scratch;
        } else {
            self.string(column, text.raw);
        }
    }

    pub fn mark(&self) -> Mark {
        Mark {
            places: std::array::from_fn(|column| self.columns[column].place()),
            rows: self.rows,
            bytes: self.bytes,
            received: self.received,
        }
    }

    /// Forgets the rows added since `mark`.
    pub fn go_back(&mut self, mark: Mark) {
        for (column, place) in self.columns.iter_mut().zip(mark.places) {
            column.go_back(place);
        }
        (self.rows, self.bytes, self.received) = (mark.rows, mark.bytes, mark.received);
    }

    /// The values of a column of fixed width.
    fn fixed_values<const N: usize>(&self, column: usize) -> impl Iterator<Item = &[u8; N]> {
        let pieces = self.columns[column].by_row().pieces();
        pieces.flat_map(|piece| piece.as_chunks::<N>().0)
    }

    /// The identity of each row, in order.
    pub fn row_ids(&self) -> impl Iterator<Item = RowId> {
        let ids = self.fixed_values::<16>(EVENT_ID);
        let offsets = self.fixed_values::<8>(SRC_OFFSET);
        let rows = self.fixed_values::<4>(SRC_ROW);
        ids.zip(offsets).zip(rows).map(|((id, offset), row)| RowId {
            position: Position::new(i64::from_le_bytes(*offset), u32::from_le_bytes(*row)),
            event_id: read_uuid(id),
        })
    }

    /// What live figures are made of, row by row.
    pub(super) fn facts(&self) -> impl Iterator<Item = Fact<'_>> {
        let apps = self.fixed_values::<16>(APP_ID);
        let users = texts(self.columns[USER_ID].by_row());
        let times = self.fixed_values::<8>(EVENT_TIMESTAMP);
        let receipts = self.fixed_values::<8>(RECEIVED_AT);
        let rows = apps.zip(users).zip(times.zip(receipts));
        rows.map(|((app, user_id), (timestamp, received_at))| Fact {
            app_id: read_uuid(app),
            user_id,
            timestamp: i64::from_le_bytes(*timestamp),
            received_at: i64::from_le_bytes(*received_at),
        })
    }

    /// A row as a line: what it says, not the bytes that it came in.
    pub(super) fn line(&self, at: Position) -> Option<Vec<u8>> {
        let keep: Vec<bool> = self.row_ids().map(|id| id.position == at).collect();
        let one = self.filtered(&keep);
        let text = |column: usize| match &one.columns[column] {
            Values::Plain(values) => texts(values).next().unwrap_or_default(),
            Values::Symbols(symbols) => symbols.rows().next().unwrap_or_default(),
        };
        let time = |column| one.fixed_values(column).next().map(|at| i64::from_le_bytes(*at));
        let id = |column| {
            let id = one.fixed_values(column).next().map(read_uuid);
            id.map(|id| Uuid::from_u128(id).to_string())
        };
        let timestamp = time(EVENT_TIMESTAMP)?;
        let mut line = format!(
            r#"{{"v":{LINE_VERSION},"app_id":"{}","event_id":"{}","received_at":{},"timestamp":{timestamp},"client_timestamp":{}"#,
            id(APP_ID)?,
            id(EVENT_ID)?,
            time(RECEIVED_AT)?,
            time(CLIENT_TIMESTAMP)?,
        );
        let mut member = |name: &str, value: &str| {
            let _ = write!(line, r#","{name}":{value}"#);
        };
        let string = |column| serde_json::Value::from(String::from_utf8_lossy(text(column))).to_string();
        for (name, column) in [
            ("ip", IP),
            ("user_agent", USER_AGENT),
            ("library", LIBRARY),
            ("source", SOURCE),
        ] {
            member(name, &string(column));
        }
        let end = one
            .fixed_values(EXPIRES_ON)
            .next()
            .map(|day| u16::from_le_bytes(*day))?;
        if end != NEVER_EXPIRES {
            let days = i64::from(end) - 1 - timestamp.div_euclid(DAY_MS);
            member("retention_days", &days.max(0).to_string());
        }
        member("event_type", &string(EVENT_NAME));
        for (name, column) in [
            ("user_id", USER_ID),
            ("device_id", DEVICE_ID),
            ("session_id", SESSION_ID),
            ("platform", PLATFORM),
            ("os_version", OS_VERSION),
            ("app_version", APP_VERSION),
        ] {
            if !text(column).is_empty() {
                member(name, &string(column));
            }
        }
        for (name, column) in [
            ("attribution", ATTRIBUTION),
            ("event_data", PROPERTIES),
            ("context", CONTEXT),
        ] {
            member(name, &String::from_utf8_lossy(text(column)));
        }
        line.push('}');
        Some(line.into_bytes())
    }

    /// The rows for which `keep` says so, by their number.
    pub fn filtered(&self, keep: &[bool]) -> Self {
        let mut kept = Self::new();
        let kinds = inserted_columns().map(|column| column.kind);
        for ((values, out), kind) in self.columns.iter().zip(&mut kept.columns).zip(kinds) {
            let mut keep = keep.iter();
            let mut is_kept = || keep.next() == Some(&true);
            match (values, out) {
                (Values::Symbols(symbols), out) => {
                    for text in symbols.rows().filter(|_| is_kept()) {
                        kept.bytes += out.push_text(text);
                    }
                }
                (Values::Plain(column), Values::Plain(out)) => {
                    for value in whole(kind, column).filter(|_| is_kept()) {
                        out.push_fixed(value);
                        kept.bytes += value.len();
                    }
                }
                (Values::Plain(_), Values::Symbols(_)) => {
                    unreachable!("both blocks have the table's columns")
                }
            }
        }
        kept.rows = keep.iter().filter(|keep| **keep).count() as u32;
        let received: Vec<[u8; 8]> = kept.fixed_values::<8>(RECEIVED_AT).copied().collect();
        for at in received {
            kept.see_received(i64::from_le_bytes(at));
        }
        kept
    }

    /// The body of an INSERT: heads, which are written here, and columns, which are where they are.
    pub(super) fn pieces(&self) -> Vec<Piece> {
        let mut pieces = Vec::with_capacity(2 * COLUMNS);
        let mut head = Vec::with_capacity(64);
        push_varint(&mut head, COLUMNS);
        push_varint(&mut head, self.rows as usize);
        for (index, column) in inserted_columns().enumerate() {
            for text in [column.name, column.kind.sql()] {
                push_varint(&mut head, text.len());
                head.extend_from_slice(text.as_bytes());
            }
            // Of no rows ClickHouse reads nothing.
            if let Values::Symbols(symbols) = &self.columns[index]
                && self.rows > 0
            {
                symbols.push_head(&mut head, self.rows);
            }
            pieces.push(Piece::Head(std::mem::take(&mut head)));
            let count = self.columns[index].by_row().count();
            pieces.extend((0..count).map(|piece| Piece::Values(index, piece)));
        }
        pieces
    }

    /// A piece of a column's values.
    pub(super) fn values(&self, column: usize, piece: usize) -> &[u8] {
        self.columns[column].by_row().piece(piece)
    }

    #[cfg(test)]
    fn column(&self, index: usize) -> Vec<u8> {
        self.columns[index].by_row().bytes()
    }

    /// The texts of all symbols, by column and row.
    #[cfg(test)]
    fn symbols(&self) -> Vec<Vec<&[u8]>> {
        let symbols = self.columns.iter().filter_map(|values| match values {
            Values::Plain(_) => None,
            Values::Symbols(symbols) => Some(symbols.rows().collect()),
        });
        symbols.collect()
    }
}

/// A stretch of the body.
#[derive(Debug)]
pub(super) enum Piece {
    Head(Vec<u8>),
    /// Values, by the places of the column and of the piece in it.
    Values(usize, usize),
}

/// The day, counted from 1970, whose beginning ends a row's life: it has then been kept for all of its retention, and less
/// than a day longer.
fn expires_on(line: &Line<'_>) -> u16 {
    let Some(days) = line.retention_days else {
        return NEVER_EXPIRES;
    };
    let day = line.timestamp.div_euclid(DAY_MS) + 1 + i64::from(days);
    u16::try_from(day.max(0)).map_or(NEVER_EXPIRES, |day| day.min(NEVER_EXPIRES))
}

/// How long the first value of a column's rest is.
fn value_length(kind: ColumnKind, rest: &[u8]) -> usize {
    match kind {
        ColumnKind::Uuid => 16,
        ColumnKind::Timestamp | ColumnKind::Int64 | ColumnKind::UInt64 => 8,
        ColumnKind::Int32 | ColumnKind::UInt32 => 4,
        ColumnKind::Date => 2,
        ColumnKind::Text | ColumnKind::Symbol => {
            let (length, used) = read_varint(rest);
            used + length
        }
    }
}

/// A length as ClickHouse writes it, and how many bytes that took.
pub(super) fn read_varint(bytes: &[u8]) -> (usize, usize) {
    if let Some(&byte @ ..0x80) = bytes.first() {
        return (usize::from(byte), 1);
    }
    let (mut length, mut used) = (0_usize, 0);
    while let Some(byte) = bytes.get(used) {
        length |= usize::from(byte & 0x7f) << (7 * used);
        used += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    (length, used)
}

/// The values of a column, each with the length that comes before it.
fn whole(kind: ColumnKind, column: &Column) -> impl Iterator<Item = &[u8]> {
    column.pieces().flat_map(move |piece| {
        let mut rest = piece;
        std::iter::from_fn(move || {
            let length = (!rest.is_empty()).then(|| value_length(kind, rest))?;
            let (value, tail) = rest.split_at(length);
            rest = tail;
            Some(value)
        })
    })
}

/// The values of a column of texts.
fn texts(column: &Column) -> impl Iterator<Item = &[u8]> {
    whole(ColumnKind::Text, column).map(|value| &value[read_varint(value).1..])
}

/// Reads a UUID as ClickHouse writes it.
pub(super) fn read_uuid(bytes: &[u8; 16]) -> u128 {
    let mut high = [0; 8];
    let mut low = [0; 8];
    high.copy_from_slice(&bytes[..8]);
    low.copy_from_slice(&bytes[8..]);
    u128::from(u64::from_le_bytes(high)) << 64 | u128::from(u64::from_le_bytes(low))
}

#[cfg(test)]
mod tests {
    use super::super::line::parse;
    use super::*;

    fn line(user: &str, received_at: i64) -> String {
        format!(
            r#"{{"v":1,"app_id":"6f0c4a4e-5d0b-5c58-9a52-0d9c9a8f3b11","event_id":"0193f1c2-7b3e-7c31-a3c9-4b1f0a1d2e3f","received_at":{received_at},"timestamp":2,"client_timestamp":3,"ip":"i","user_agent":"a","library":"l","source":"s","event_type":"e","user_id":"{user}"}}"#
        )
    }

    fn block(users: &[&str]) -> Block {
        let mut block = Block::new();
        for (row, user) in users.iter().enumerate() {
            let text = line(user, row as i64);
            block.push(7, Position::new(40, row as u32), &parse(text.as_bytes()).unwrap());
        }
        block
    }

    /// Bytes of all values, counted anew: what a column of symbols has even when it is empty is none.
    fn total(block: &Block) -> usize {
        let symbols = |symbols: &Symbols| {
            let mut head = Vec::new();
            symbols.push_head(&mut head, 0);
            head.len() + symbols.beside()
        };
        let bytes = |values: &Values| {
            let numbers_or_values = values.by_row().bytes().len();
            numbers_or_values
                + match values {
                    Values::Plain(_) => 0,
                    Values::Symbols(texts) => symbols(texts) - symbols(&Symbols::default()),
                }
        };
        block.columns.iter().map(bytes).sum()
    }

    #[test]
    fn places_match_the_table() {
        let names: Vec<_> = inserted_columns().map(|column| column.name).collect();
        assert_eq!(names.len(), COLUMNS);
        for (place, name) in [
            (EVENT_ID, "event_id"),
            (APP_ID, "app_id"),
            (EVENT_NAME, "event_name"),
            (USER_ID, "user_id"),
            (DEVICE_ID, "device_id"),
            (SESSION_ID, "session_id"),
            (EVENT_TIMESTAMP, "event_timestamp"),
            (CLIENT_TIMESTAMP, "client_timestamp"),
            (RECEIVED_AT, "received_at"),
            (PLATFORM, "platform"),
            (OS_VERSION, "os_version"),
            (APP_VERSION, "app_version"),
            (ATTRIBUTION, "attribution"),
            (PROPERTIES, "properties"),
            (CONTEXT, "context"),
            (IP, "ip"),
            (USER_AGENT, "user_agent"),
            (LIBRARY, "library"),
            (SOURCE, "source"),
            (SRC_PARTITION, "src_partition"),
            (SRC_OFFSET, "src_offset"),
            (SRC_ROW, "src_row"),
            (EXPIRES_ON, "expires_on"),
        ] {
            assert_eq!(names[place], name);
        }
    }

    #[test]
    fn a_block_knows_its_rows_and_goes_back() {
        let mut all = block(&["a", "b"]);
        let mark = all.mark();
        let (rows, bytes) = (all.rows(), all.bytes());
        let text = line("long\\n\\u0041", 99);
        all.push(7, Position::new(41, 0), &parse(text.as_bytes()).unwrap());
        assert_eq!(all.received(), Some((0, 99)));
        assert!(all.column(USER_ID).ends_with(b"\x06long\nA"));
        assert_eq!(all.bytes(), total(&all));
        all.go_back(mark);
        assert_eq!(
            (all.rows(), all.bytes(), all.received()),
            (rows, bytes, Some((0, 1)))
        );
        assert_eq!(all.column(USER_ID), b"\x01a\x01b");
        let ids: Vec<_> = all.row_ids().collect();
        assert_eq!(
            ids[1],
            RowId {
                position: Position::new(40, 1),
                event_id: 0x0193_f1c2_7b3e_7c31_a3c9_4b1f_0a1d_2e3f
            }
        );
    }

    #[test]
    fn a_row_is_kept_for_its_retention() {
        let expires = |timestamp: i64, retention: &str| {
            let text = line("u", 5).replace(
                "\"timestamp\":2,",
                &format!("\"timestamp\":{timestamp},{retention}"),
            );
            expires_on(&parse(text.as_bytes()).unwrap())
        };
        let day = 86_400_000;
        assert_eq!(expires(20_000 * day, ""), NEVER_EXPIRES);
        assert_eq!(expires(20_000 * day, "\"retention_days\":1,"), 20_002);
        assert_eq!(expires(20_001 * day - 1, "\"retention_days\":400,"), 20_401);
        assert_eq!(expires(-9 * day, "\"retention_days\":3,"), 0);
        assert_eq!(expires(20_000 * day, "\"retention_days\":65535,"), NEVER_EXPIRES);
    }

    #[test]
    fn a_row_written_as_a_line_is_read_as_that_row() {
        let full = r#"{"v":1,"app_id":"6f0c4a4e-5d0b-5c58-9a52-0d9c9a8f3b11","event_id":"0193f1c2-7b3e-7c31-a3c9-4b1f0a1d2e3f","received_at":1763730000123,"timestamp":1763730000000,"client_timestamp":1763730000001,"ip":"203.0.113.7","user_agent":"a \"b\" \u00e9","library":"l/1","source":"native","retention_days":30,"event_type":"e\n","user_id":"u","device_id":"d","session_id":"s","platform":"p","os_version":"1","app_version":"2","attribution":{"a":1},"event_data":{"b":"\"c"},"context":{"d":[]}}"#;
        let plain = line("", 7);
        let mut block = Block::new();
        for (row, text) in [plain.as_str(), full].into_iter().enumerate() {
            block.push(7, Position::new(40, row as u32), &parse(text.as_bytes()).unwrap());
        }
        for row in 0..2 {
            let at = Position::new(40, row);
            let written = block.line(at).unwrap();
            let mut again = Block::new();
            again.push(7, at, &parse(&written).unwrap());
            let same = block.filtered(&[row == 0, row == 1]);
            for column in 0..COLUMNS {
                assert_eq!(again.column(column), same.column(column), "{column}");
            }
            assert_eq!(again.symbols(), same.symbols());
        }
        assert_eq!(block.line(Position::new(40, 2)), None);
    }

    #[test]
    fn facts_are_those_of_the_rows() {
        let long = "x".repeat(300);
        let block = block(&["a", long.as_str(), "", "\\u0041"]);
        let facts: Vec<_> = block.facts().collect();
        let users: Vec<_> = facts.iter().map(|fact| fact.user_id).collect();
        assert_eq!(users, [b"a", long.as_bytes(), b"", b"A"]);
        assert_eq!(
            facts[3],
            Fact {
                app_id: 0x6f0c_4a4e_5d0b_5c58_9a52_0d9c_9a8f_3b11,
                user_id: b"A",
                timestamp: 2,
                received_at: 3
            }
        );
    }

    #[test]
    fn a_filtered_block_is_the_block_of_those_rows() {
        let long = "x".repeat(300);
        let users = ["a", long.as_str(), "", "d"];
        let mut all = block(&users[..3]);
        let other = line("d", 3).replace("\"event_type\":\"e\"", "\"event_type\":\"other\"");
        all.push(7, Position::new(40, 3), &parse(other.as_bytes()).unwrap());
        let kept = all.filtered(&[false, true, false, true]);
        assert_eq!((kept.rows(), kept.received()), (2, Some((1, 3))));
        let mut expected = vec![0xac, 0x02];
        expected.extend_from_slice(long.as_bytes());
        expected.extend_from_slice(b"\x01d");
        assert_eq!(kept.column(USER_ID), expected);
        let Values::Symbols(names) = &kept.columns[EVENT_NAME] else {
            panic!("event_name is a column of symbols");
        };
        assert!(names.rows().eq(["e".as_bytes(), b"other"]));
        assert_eq!(
            kept.row_ids().map(|id| id.position.row).collect::<Vec<_>>(),
            [1, 3]
        );
        assert_eq!(kept.bytes(), total(&kept));
    }
}
