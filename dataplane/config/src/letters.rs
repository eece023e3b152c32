//! The table of dead letters, beside the event table: its columns, in the order in which the consumer writes them, and
//! the statement that makes it. What each column holds is said in `docs/record.md` of the header that it comes from.
//!
//! The sort key is what tells letters apart. A line that is written twice, because a consumer died behind writing it, has
//! the same origin; what ingest writes has a name of its own; and a topic that was made anew gives the same origin to
//! other bytes. So a letter that is stored twice is one row once ClickHouse has merged the two, and with FINAL.

use std::fmt::Write as _;

use crate::table::{
    Column, ColumnKind, REPLICA, column_definition, on_cluster, packed, quote_identifier, quote_literal,
    stored,
};
use crate::units::Duration;

/// Every column, in the order in which they are inserted.
pub const LETTER_COLUMNS: &[Column] = &[
    // When the letter was written to its topic.
    packed("failed_at", ColumnKind::Timestamp, "T64, LZ4"),
    stored("reason", ColumnKind::Symbol),
    stored("step", ColumnKind::Symbol),
    packed("detail", ColumnKind::Text, "ZSTD(1)"),
    // Zero where the App is not known.
    stored("app_id", ColumnKind::Uuid),
    // Of a line: where it was. Empty and zero where ingest wrote the letter.
    stored("src_topic", ColumnKind::Symbol),
    stored("src_partition", ColumnKind::Int32),
    stored("src_offset", ColumnKind::Int64),
    stored("src_row", ColumnKind::UInt32),
    // What ingest calls the letter; empty where consume wrote it.
    stored("src_group", ColumnKind::Text),
    // Where the letter is in the dead-letter topic.
    stored("dlq_partition", ColumnKind::Int32),
    stored("dlq_offset", ColumnKind::Int64),
    stored("key", ColumnKind::Text),
    // The original bytes, which need not be UTF-8.
    packed("value", ColumnKind::Text, "ZSTD(1)"),
];

/// What is longer than this is for good: a day so far ahead is none of ClickHouse's `DateTime`.
const LONGEST: Duration = Duration::from_days(50 * 365);

/// The name of the table of an event table's dead letters.
pub fn letter_table(events: &str) -> String {
    format!("{events}_dead_letters")
}

/// The consumer group that reads the dead-letter topic for the table. No pipeline's name has a dot, so it is no other
/// pipeline's group.
pub fn letter_group(group: &str) -> String {
    format!("{group}.dead-letters")
}

/// What differs between one table of dead letters and another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LetterTable<'a> {
    pub database: &'a str,
    pub table: &'a str,
    /// As of the event table.
    pub cluster: Option<&'a str>,
    /// The mark of ownership.
    pub comment: &'a str,
    /// How long the topic keeps letters, and with that the table.
    pub retention: Duration,
}

impl LetterTable<'_> {
    /// Of rows with the same sort key, the one that was written last stays.
    pub const VERSION: &'static str = "failed_at";
    pub const ORDER_BY: &'static str =
        "app_id, src_topic, src_partition, src_offset, src_row, src_group, cityHash64(value)";
    /// Months: letters of any age may come in one INSERT, when the topic is read from its start.
    pub const PARTITION_BY: &'static str = "toYYYYMM(failed_at)";

    /// When rows go, as ClickHouse writes it; `None`: they are kept for good.
    pub fn ttl(retention: Duration) -> Option<String> {
        (retention <= LONGEST).then(|| {
            format!(
                "toDateTime(failed_at) + toIntervalSecond({})",
                retention.get().as_secs()
            )
        })
    }

    /// The statement that creates the table where it does not exist.
    pub fn create_statement(&self) -> String {
        let columns: Vec<String> = LETTER_COLUMNS
            .iter()
            .map(|column| format!("    {}", column_definition(column)))
            .collect();
        let mut sql = format!(
            "CREATE TABLE IF NOT EXISTS {}.{}{} (\n{}\n)\n",
            quote_identifier(self.database),
            quote_identifier(self.table),
            on_cluster(self.cluster),
            columns.join(",\n")
        );
        let _ = match self.cluster {
            None => writeln!(sql, "ENGINE = ReplacingMergeTree({})", Self::VERSION),
            Some(_) => writeln!(
                sql,
                "ENGINE = ReplicatedReplacingMergeTree({REPLICA}, {})",
                Self::VERSION
            ),
        };
        let _ = writeln!(sql, "PARTITION BY {}", Self::PARTITION_BY);
        let _ = writeln!(sql, "ORDER BY ({})", Self::ORDER_BY);
        if let Some(ttl) = Self::ttl(self.retention) {
            let _ = writeln!(sql, "TTL {ttl}");
        }
        let _ = write!(sql, "COMMENT {}", quote_literal(self.comment));
        sql
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: LetterTable<'_> = LetterTable {
        database: "growth",
        table: "events_dead_letters",
        cluster: None,
        comment: "it's",
        retention: Duration::from_days(30),
    };

    #[test]
    fn of_one_server() {
        assert_eq!(
            TABLE.create_statement(),
            "CREATE TABLE IF NOT EXISTS `growth`.`events_dead_letters` (\n    \
             `failed_at` DateTime64(3, 'UTC') CODEC(T64, LZ4),\n    `reason` LowCardinality(String),\n    \
             `step` LowCardinality(String),\n    `detail` String CODEC(ZSTD(1)),\n    `app_id` UUID,\n    \
             `src_topic` LowCardinality(String),\n    `src_partition` Int32,\n    `src_offset` Int64,\n    \
             `src_row` UInt32,\n    `src_group` String,\n    `dlq_partition` Int32,\n    `dlq_offset` Int64,\n    \
             `key` String,\n    `value` String CODEC(ZSTD(1))\n)\n\
             ENGINE = ReplacingMergeTree(failed_at)\nPARTITION BY toYYYYMM(failed_at)\n\
             ORDER BY (app_id, src_topic, src_partition, src_offset, src_row, src_group, cityHash64(value))\n\
             TTL toDateTime(failed_at) + toIntervalSecond(2592000)\nCOMMENT 'it\\'s'"
        );
    }

    #[test]
    fn of_a_cluster() {
        let sql = LetterTable {
            cluster: Some("main"),
            ..TABLE
        }
        .create_statement();
        assert!(
            sql.starts_with(
                "CREATE TABLE IF NOT EXISTS `growth`.`events_dead_letters` ON CLUSTER `main` (\n"
            ),
            "{sql}"
        );
        let engine = "\nENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}', failed_at)\n";
        assert!(sql.contains(engine), "{sql}");
    }

    #[test]
    fn what_is_kept_beyond_clickhouses_days_is_kept_for_good() {
        let kept = LetterTable {
            retention: Duration::from_days(99_999),
            ..TABLE
        };
        assert!(!kept.create_statement().contains("TTL"), "{kept:?}");
    }
}
