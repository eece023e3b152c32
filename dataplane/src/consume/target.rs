//! The event table as the consumer finds it: fit to be written to, and what it holds of a range.

use std::fmt::Write as _;

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

/// Which rows of a part the table lacks: one flag per row of the block, set for those in the part that are missing.
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
    let mut query = format!(
        "SELECT src_offset, src_row, event_id FROM {} WHERE src_partition = {partition} AND src_offset BETWEEN {} AND {}",
        clickhouse.table(),
        part.from.offset,
        part.to.offset
    );
    // Prunes the table's partitions; the rows in question were all received within these bounds.
    let _ = write!(
        query,
        " AND received_at BETWEEN fromUnixTimestamp64Milli({first}, 'UTC') AND fromUnixTimestamp64Milli({last}, 'UTC') FORMAT RowBinary"
    );
    let answer = clickhouse.ask(query).await?;
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
