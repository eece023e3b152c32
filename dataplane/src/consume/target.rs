//! The event table as the consumer finds it: fit to be written to, and what it holds of a range.

use penstock_dataplane_config::table::{inserted_columns, quote_literal};

use super::clickhouse::ClickHouse;
use super::failure::{Class, Failure};
use super::native::{Block, RowId, read_uuid};
use super::position::{Part, Position};

/// Tokens that the table must remember for each partition: ten times what a minute of inserts makes.
const TOKENS_PER_PARTITION: u64 = 600;
/// A position as RowBinary: offset, row, event id.
const ROW: usize = 8 + 4 + 16;

/// Whether rows may be sent: the columns are there and the table remembers enough tokens.
pub async fn check(clickhouse: &ClickHouse, partitions: u32) -> Result<(), Failure> {
    let target = clickhouse.target();
    let (database, table) = (quote_literal(&target.database), quote_literal(&target.table));
    let engine = clickhouse
        .ask(format!(
            "SELECT engine_full FROM system.tables WHERE database = {database} AND name = {table} FORMAT TSVRaw"
        ))
        .await?;
    let engine = String::from_utf8_lossy(&engine);
    if engine.trim().is_empty() {
        return Err(schema(format!("there is no table {}", clickhouse.table())));
    }
    let columns = clickhouse
        .ask(format!(
            "SELECT name, type FROM system.columns WHERE database = {database} AND table = {table} FORMAT TSVRaw"
        ))
        .await?;
    judge_columns(&String::from_utf8_lossy(&columns))?;
    judge_window(&engine, partitions)
}

fn schema(detail: impl Into<String>) -> Failure {
    Failure::new(Class::Schema, detail)
}

fn judge_columns(columns: &str) -> Result<(), Failure> {
    let found: Vec<(&str, &str)> = columns.lines().filter_map(|line| line.split_once('\t')).collect();
    for column in inserted_columns() {
        let Some((_, kind)) = found.iter().find(|(name, _)| *name == column.name) else {
            return Err(schema(format!("the table has no column {}", column.name)));
        };
        if *kind != column.kind.sql() {
            let detail = format!("column {} is {kind}, not {}", column.name, column.kind.sql());
            return Err(schema(detail));
        }
    }
    Ok(())
}

fn judge_window(engine: &str, partitions: u32) -> Result<(), Failure> {
    let setting = if engine.starts_with("Replicated") || engine.starts_with("Shared") {
        "replicated_deduplication_window"
    } else {
        "non_replicated_deduplication_window"
    };
    let needed = TOKENS_PER_PARTITION * u64::from(partitions);
    let window = setting_value(engine, setting);
    if window < needed {
        return Err(schema(format!(
            "DedupWindowTooSmall: {setting} is {window}, {partitions} partitions need {needed}"
        )));
    }
    Ok(())
}

/// A number among the engine's settings; 0 where it is not said, although a replicated table remembers more by
/// itself: what nobody wrote down may change with the server.
fn setting_value(engine: &str, setting: &str) -> u64 {
    let assignment = engine.match_indices(setting).find_map(|(at, name)| {
        let alone = !engine[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        alone.then(|| engine[at + name.len()..].trim_start().strip_prefix('='))?
    });
    let digits = assignment.unwrap_or("").trim_start();
    digits
        .split(|c: char| !c.is_ascii_digit())
        .next()
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(0)
}

/// What ClickHouse makes of the rows of a range, so that all that are there need not be sent: their number and a digest in
/// which their order does not count. [`Sum`] makes the same of rows that are here. Whatever makes up a row goes through the
/// hash by itself: ids may count as rows do, and taken together the two would cancel out.
pub const SUM: &str = "count(), sum(intHash64(bitXor(intHash64(bitXor(intHash64(bitXor(intHash64(\
     toUInt64(reinterpret(event_id, 'UInt128'))), \
     toUInt64(bitShiftRight(reinterpret(event_id, 'UInt128'), 64)))), \
     reinterpret(src_offset, 'UInt64'))), \
     toUInt64(src_row))))";

/// See [`SUM`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    pub rows: u64,
    pub digest: u64,
}

impl Sum {
    pub fn add(&mut self, id: RowId) {
        // A UUID's first half comes first in memory, so that a number made of it has it below.
        let (first, second) = ((id.event_id >> 64) as u64, id.event_id as u64);
        let event = int_hash(int_hash(first) ^ second);
        let row = int_hash(int_hash(event ^ id.position.offset as u64) ^ u64::from(id.position.row));
        self.rows += 1;
        self.digest = self.digest.wrapping_add(row);
    }

    /// Of an answer in RowBinary.
    fn read(answer: &[u8]) -> Option<Self> {
        let (rows, digest) = answer.split_first_chunk::<8>()?;
        Some(Self {
            rows: u64::from_le_bytes(*rows),
            digest: u64::from_le_bytes(digest.try_into().ok()?),
        })
    }
}

/// `intHash64` of ClickHouse.
fn int_hash(number: u64) -> u64 {
    let mut x = number ^ 0x4CF2_D2BA_AE6D_A887;
    x ^= x >> 33;
    x = x.wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    x ^= x >> 33;
    x = x.wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    x ^ (x >> 33)
}

/// Which rows of a part the table lacks: one flag per row of the block, set for those in the part that are missing.
///
/// Mostly all are missing, before they are sent, or none is, afterwards. Only when it is neither are they told one by one.
pub async fn missing(
    clickhouse: &ClickHouse,
    partition: i32,
    block: &Block,
    part: Part,
) -> Result<Vec<bool>, Failure> {
    let mut asked: Vec<bool> = block.row_ids().map(|id| part.contains(id.position)).collect();
    let Some((first, last)) = block.received().filter(|_| asked.contains(&true)) else {
        return Ok(asked);
    };
    let (from, to) = (part.from, part.to);
    let question = |what: &str| {
        // The time of receipt prunes the table's partitions; the rows in question were all received within these bounds. A
        // part may begin and end within a record.
        format!(
            "SELECT {what} FROM {} WHERE src_partition = {partition} AND src_offset BETWEEN {} AND {} \
             AND (src_offset > {1} OR src_row >= {}) AND (src_offset < {2} OR src_row <= {}) \
             AND received_at BETWEEN fromUnixTimestamp64Milli({first}, 'UTC') AND fromUnixTimestamp64Milli({last}, 'UTC') \
             FORMAT RowBinary",
            clickhouse.table(),
            from.offset,
            to.offset,
            from.row,
            to.row,
        )
    };
    let answer = clickhouse.ask(question(SUM)).await?;
    let held =
        Sum::read(&answer).ok_or_else(|| Failure::new(Class::Server, "the answer about a range is cut"))?;
    if held.rows == 0 {
        return Ok(asked);
    }
    let mut here = Sum::default();
    for (id, _) in block.row_ids().zip(&asked).filter(|(_, asked)| **asked) {
        here.add(id);
    }
    if here == held {
        return Ok(vec![false; asked.len()]);
    }
    let answer = clickhouse.ask(question("src_offset, src_row, event_id")).await?;
    let (rows, rest) = answer.as_chunks::<ROW>();
    if !rest.is_empty() {
        return Err(Failure::new(Class::Server, "the answer about positions is cut"));
    }
    let mut held: Vec<RowId> = rows.iter().map(read_row).collect();
    held.sort_unstable();
    for (asked, id) in asked.iter_mut().zip(block.row_ids()) {
        *asked = *asked && held.binary_search(&id).is_err();
    }
    Ok(asked)
}

fn read_row(row: &[u8; ROW]) -> RowId {
    let (mut offset, mut number, mut id) = ([0; 8], [0; 4], [0; 16]);
    offset.copy_from_slice(&row[..8]);
    number.copy_from_slice(&row[8..12]);
    id.copy_from_slice(&row[12..]);
    RowId {
        position: Position::new(i64::from_le_bytes(offset), u32::from_le_bytes(number)),
        event_id: read_uuid(&id),
    }
}

#[cfg(test)]
mod tests {
    use penstock_dataplane_config::table::EVENT_COLUMNS;

    use super::*;

    #[test]
    fn the_window_is_read_from_the_engine() {
        let engine =
            |settings: &str| format!("ReplacingMergeTree(received_at) ORDER BY x SETTINGS {settings}");
        for (settings, partitions, good) in [
            ("non_replicated_deduplication_window = 10000", 16, true),
            (
                "non_replicated_deduplication_window = 10000, index_granularity = 8192",
                17,
                false,
            ),
            (
                "index_granularity = 8192, non_replicated_deduplication_window=600",
                1,
                true,
            ),
            ("index_granularity = 8192", 1, false),
            ("replicated_deduplication_window = 10000", 1, false),
        ] {
            assert_eq!(
                judge_window(&engine(settings), partitions).is_ok(),
                good,
                "{settings}"
            );
        }
        let replicated = "ReplicatedReplacingMergeTree('/x', '{replica}') SETTINGS non_replicated_deduplication_window = 9, replicated_deduplication_window = 1200";
        assert!(judge_window(replicated, 2).is_ok() && judge_window(replicated, 3).is_err());
    }

    #[test]
    fn the_order_of_rows_does_not_count_and_everything_else_does() {
        let id = |offset, row, event_id| RowId {
            position: Position::new(offset, row),
            event_id,
        };
        let sum = |ids: &[RowId]| {
            let mut sum = Sum::default();
            ids.iter().for_each(|&id| sum.add(id));
            sum
        };
        let ids = [id(1, 0, 7 << 64 | 9), id(1, 1, 7), id(2, 0, 9 << 64)];
        assert_eq!(sum(&ids), sum(&[ids[2], ids[0], ids[1]]));
        for other in [
            id(3, 0, 9 << 64),
            id(2, 1, 9 << 64),
            id(2, 0, 9),
            id(2, 0, 8 << 64),
        ] {
            assert_ne!(sum(&ids), sum(&[ids[0], ids[1], other]), "{other:?}");
        }
        // Ids that count as rows do.
        let counting = |rows: std::ops::Range<u32>| -> Vec<RowId> {
            rows.map(|row| id(0, row, 7 << 64 | u128::from(row))).collect()
        };
        assert_ne!(sum(&counting(0..3)), sum(&counting(3..6)));
        let along = |offsets: std::ops::Range<i64>| -> Vec<RowId> {
            offsets.map(|o| id(o, 0, (o as u128) << 64)).collect()
        };
        assert_ne!(sum(&along(0..3)), sum(&along(3..6)));
        // An event that changed places with another is at another position.
        let swapped = [id(1, 0, 7), id(1, 1, 7 << 64 | 9), ids[2]];
        assert_ne!(sum(&ids), sum(&swapped));
        assert_eq!(
            Sum::read(&[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]),
            Some(Sum { rows: 1, digest: 2 })
        );
        assert_eq!(Sum::read(&[0; 15]), None);
        assert_eq!(Sum::read(&[0; 17]), None);
    }

    #[test]
    fn a_missing_or_different_column_is_named() {
        let columns = |change: fn(&str) -> Option<&str>| -> String {
            EVENT_COLUMNS
                .iter()
                .filter_map(|c| {
                    change(c.name).map(|kind| (c.name, if kind.is_empty() { c.kind.sql() } else { kind }))
                })
                .map(|(name, kind)| format!("{name}\t{kind}\n"))
                .collect()
        };
        assert_eq!(judge_columns(&columns(|_| Some(""))), Ok(()));
        let gone = judge_columns(&columns(|name| (name != "src_row").then_some(""))).unwrap_err();
        assert!(gone.detail.contains("no column src_row"), "{gone}");
        let other = judge_columns(&columns(|name| {
            Some(if name == "user_id" { "UInt64" } else { "" })
        }))
        .unwrap_err();
        assert!(
            other.detail.contains("column user_id is UInt64, not String"),
            "{other}"
        );
    }
}
