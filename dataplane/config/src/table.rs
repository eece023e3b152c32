//! The event table: its columns, in the order in which the consumer writes them, and the statement that makes it.
//!
//! The operator creates the table and the consumer fills it, so both take it from here. A column is only ever
//! added at the end of its group: what is stored never changes its meaning.

use std::fmt::Write as _;

/// What a column holds, and with that its ClickHouse type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnKind {
    Uuid,
    /// Text of any cardinality, JSON text too.
    Text,
    /// Text with few distinct values.
    Symbol,
    /// Milliseconds since 1970, UTC.
    Timestamp,
    Int32,
    Int64,
    UInt32,
    UInt64,
    Date,
}

impl ColumnKind {
    /// The type as ClickHouse writes it in `system.columns`.
    pub const fn sql(self) -> &'static str {
        match self {
            Self::Uuid => "UUID",
            Self::Text => "String",
            Self::Symbol => "LowCardinality(String)",
            Self::Timestamp => "DateTime64(3, 'UTC')",
            Self::Int32 => "Int32",
            Self::Int64 => "Int64",
            Self::UInt32 => "UInt32",
            Self::UInt64 => "UInt64",
            Self::Date => "Date",
        }
    }
}

/// One column of the event table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    pub kind: ColumnKind,
    /// Arguments of `CODEC(…)`; absent means the server's default.
    pub codec: Option<&'static str>,
    /// What a row has that says nothing, where that is not the type's zero.
    pub default: Option<&'static str>,
    /// The expression of a column that ClickHouse computes; such a column is never inserted.
    pub materialized: Option<&'static str>,
}

pub(crate) const fn stored(name: &'static str, kind: ColumnKind) -> Column {
    Column {
        name,
        kind,
        codec: None,
        default: None,
        materialized: None,
    }
}

pub(crate) const fn packed(name: &'static str, kind: ColumnKind, codec: &'static str) -> Column {
    Column {
        name,
        kind,
        codec: Some(codec),
        default: None,
        materialized: None,
    }
}

const fn computed(name: &'static str, kind: ColumnKind, expression: &'static str) -> Column {
    Column {
        name,
        kind,
        codec: None,
        default: None,
        materialized: Some(expression),
    }
}

/// `expires_on` of a row that is kept for good: 2106-01-01, in days since 1970. Later days are none of ClickHouse's
/// `DateTime`.
pub const NEVER_EXPIRES: u16 = 49_673;

/// Every column of the event table. First those that the consumer inserts, in its order, then the computed ones.
///
/// `src_partition`, `src_offset` and `src_row` say which line of the topic a row was: by them the consumer finds
/// out what the table holds of a range. They lie outside the sort key, and within one part they span so little
/// that `T64` leaves a few bits of each.
pub const EVENT_COLUMNS: &[Column] = &[
    stored("event_id", ColumnKind::Uuid),
    stored("app_id", ColumnKind::Uuid),
    stored("event_name", ColumnKind::Symbol),
    stored("user_id", ColumnKind::Text),
    stored("device_id", ColumnKind::Text),
    stored("session_id", ColumnKind::Text),
    packed("event_timestamp", ColumnKind::Timestamp, "T64, LZ4"),
    packed("client_timestamp", ColumnKind::Timestamp, "T64, LZ4"),
    packed("received_at", ColumnKind::Timestamp, "T64, LZ4"),
    stored("platform", ColumnKind::Symbol),
    stored("os_version", ColumnKind::Symbol),
    stored("app_version", ColumnKind::Symbol),
    stored("attribution", ColumnKind::Text),
    stored("properties", ColumnKind::Text),
    stored("context", ColumnKind::Text),
    stored("ip", ColumnKind::Text),
    stored("user_agent", ColumnKind::Text),
    stored("library", ColumnKind::Symbol),
    stored("source", ColumnKind::Symbol),
    packed("src_partition", ColumnKind::Int32, "T64, LZ4"),
    packed("src_offset", ColumnKind::Int64, "T64, LZ4"),
    packed("src_row", ColumnKind::UInt32, "T64, LZ4"),
    // Rows that were stored before there was such a column are kept.
    Column {
        default: Some("'2106-01-01'"),
        ..packed("expires_on", ColumnKind::Date, "T64, LZ4")
    },
    computed("event_date", ColumnKind::Date, "toDate(event_timestamp)"),
    computed("user_hash", ColumnKind::UInt64, "cityHash64(user_id)"),
];

/// The columns that the consumer inserts, in its order.
pub fn inserted_columns() -> impl Iterator<Item = &'static Column> {
    EVENT_COLUMNS
        .iter()
        .filter(|column| column.materialized.is_none())
}

/// How many insert tokens the table remembers. A pipeline with P partitions makes about P inserts a second, and a
/// batch whose outcome is unknown is re-sent blindly for at most a minute: ten times that. At the shortest age of a batch,
/// 100 ms, it is that minute; and what is full has [`FEWEST_ROWS`] or 1 MB, so that no server takes as many.
///
/// [`FEWEST_ROWS`]: crate::ConsumeBatch::FEWEST_ROWS
pub fn dedup_window(partitions: u32) -> u32 {
    partitions.saturating_mul(10 * 60).max(10_000)
}

/// How long a Replicated table must remember a token: longer than any outage after which a batch is sent again without
/// asking.
pub const REPLICATED_WINDOW_SECONDS: u64 = 24 * 3600;

/// Parts of fewer bytes, uncompressed, are one file: those of INSERTs, which are made by the second and soon merged.
const WIDE_PART_BYTES: u64 = 128 << 20;

/// The first arguments of a Replicated engine. `ON CLUSTER` gives a table the same UUID on every server, and a table that is
/// made again another one, so that nothing of the one before is in its way.
pub const REPLICA: &str = "'/clickhouse/tables/{uuid}/{shard}', '{replica}'";

/// What stands behind a name in a statement that every server of a cluster is to run.
pub fn on_cluster(cluster: Option<&str>) -> String {
    cluster.map_or_else(String::new, |name| {
        format!(" ON CLUSTER {}", quote_identifier(name))
    })
}

/// What differs between one event table and another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventTable<'a> {
    pub database: &'a str,
    pub table: &'a str,
    /// The servers that hold it, each all of it, by the name that ClickHouse has for them; absent: one server.
    pub cluster: Option<&'a str>,
    /// The mark of ownership.
    pub comment: &'a str,
    /// See [`dedup_window`].
    pub dedup_window: u32,
}

impl EventTable<'_> {
    /// Of rows with the same sort key, the one with the greatest version stays.
    pub const VERSION: &'static str = "received_at";
    /// Rows go when their day has come.
    pub const EXPIRY: &'static str = "expires_on";
    /// [`EventTable::EXPIRY`]; and a part all of whose rows are a day old is packed tightly. What is younger is merged again
    /// and again, and each time would pay for it.
    pub const TTL: &'static str =
        "expires_on, toDateTime(received_at) + toIntervalDay(1) RECOMPRESS CODEC(ZSTD(1))";
    pub const PARTITION_BY: &'static str = "toYYYYMM(received_at)";
    pub const ORDER_BY: &'static str =
        "app_id, toDate(client_timestamp), event_name, user_hash, client_timestamp, event_id";

    /// The statement that creates the table where it does not exist.
    ///
    /// `PARTITION BY` the time of receipt makes an INSERT one part, whatever clients' clocks say; the sort key holds
    /// the client's own time, which is the same in every retry, so that retries collapse. Parts are made and merged
    /// in the order of offsets, so the index on `src_offset` leaves a question about a range the few parts around it.
    ///
    /// What an INSERT makes is one file and not one for each column; only merges make those.
    pub fn create_statement(&self) -> String {
        let mut sql = format!(
            "CREATE TABLE IF NOT EXISTS {}.{}{} (\n",
            quote_identifier(self.database),
            quote_identifier(self.table),
            on_cluster(self.cluster)
        );
        for column in EVENT_COLUMNS {
            sql.push_str("    ");
            sql.push_str(&column_definition(column));
            sql.push_str(",\n");
        }
        sql.push_str("    INDEX event_timestamp_range event_timestamp TYPE minmax GRANULARITY 1,\n");
        sql.push_str("    INDEX src_offset_range src_offset TYPE minmax GRANULARITY 1\n)\n");
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
        let _ = writeln!(sql, "TTL {}", Self::TTL);
        let window = self.dedup_window;
        let _ = match self.cluster {
            None => write!(sql, "SETTINGS non_replicated_deduplication_window = {window}"),
            Some(_) => write!(
                sql,
                "SETTINGS replicated_deduplication_window = {window}, replicated_deduplication_window_seconds = {REPLICATED_WINDOW_SECONDS}"
            ),
        };
        let _ = writeln!(sql, ", min_bytes_for_wide_part = {WIDE_PART_BYTES}");
        let _ = write!(sql, "COMMENT {}", quote_literal(self.comment));
        sql
    }
}

/// One column as `CREATE TABLE` and `ALTER TABLE … ADD COLUMN` take it.
pub fn column_definition(column: &Column) -> String {
    let mut sql = format!("{} {}", quote_identifier(column.name), column.kind.sql());
    if let Some(value) = column.default {
        let _ = write!(sql, " DEFAULT {value}");
    }
    if let Some(expression) = column.materialized {
        let _ = write!(sql, " MATERIALIZED {expression}");
    }
    if let Some(codec) = column.codec {
        let _ = write!(sql, " CODEC({codec})");
    }
    sql
}

/// The rules of a TTL by which rows go; by others they are packed anew, or moved.
pub fn expiry(ttl: &str) -> Vec<&str> {
    let mut depth = 0;
    let rules = ttl.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    });
    rules
        .map(str::trim)
        .filter(|rule| {
            ![" RECOMPRESS ", " TO DISK ", " TO VOLUME "]
                .iter()
                .any(|other| rule.contains(other))
        })
        .collect()
}

/// A name in backticks.
pub fn quote_identifier(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

/// A text in single quotes.
pub fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inserted_columns_come_first_and_are_named_once() {
        let computed_from = EVENT_COLUMNS
            .iter()
            .position(|c| c.materialized.is_some())
            .unwrap();
        assert_eq!(inserted_columns().count(), computed_from);
        let mut names: Vec<_> = EVENT_COLUMNS.iter().map(|c| c.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), EVENT_COLUMNS.len());
    }

    #[test]
    fn the_statement_names_every_column_and_quotes_what_it_is_given() {
        let sql = EventTable {
            database: "growth",
            table: "ev`ents",
            cluster: None,
            comment: "penstock owner=c/growth/it's",
            dedup_window: dedup_window(3),
        }
        .create_statement();
        for column in EVENT_COLUMNS {
            assert!(
                sql.contains(&column_definition(column)),
                "{} is missing in\n{sql}",
                column.name
            );
        }
        assert!(
            sql.starts_with("CREATE TABLE IF NOT EXISTS `growth`.`ev\\`ents` ("),
            "{sql}"
        );
        assert!(
            sql.contains("\nSETTINGS non_replicated_deduplication_window = 10000, min_bytes_for_wide_part = 134217728\n"),
            "{sql}"
        );
        assert!(sql.ends_with("COMMENT 'penstock owner=c/growth/it\\'s'"), "{sql}");
    }

    #[test]
    fn every_server_of_a_cluster_makes_the_table_and_holds_all_of_it() {
        let sql = EventTable {
            database: "growth",
            table: "events",
            cluster: Some("main"),
            comment: "",
            dedup_window: 10_000,
        }
        .create_statement();
        assert!(
            sql.starts_with("CREATE TABLE IF NOT EXISTS `growth`.`events` ON CLUSTER `main` (\n"),
            "{sql}"
        );
        let end = "\nENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}', received_at)\n";
        assert!(sql.contains(end), "{sql}");
        let settings = "\nSETTINGS replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 86400, min_bytes_for_wide_part = 134217728\n";
        assert!(sql.contains(settings), "{sql}");
    }

    #[test]
    fn rows_go_by_some_rules_only() {
        assert_eq!(expiry(EventTable::TTL), [EventTable::EXPIRY]);
        let own = "greatest(received_at, event_timestamp) + toIntervalDay(9), received_at TO VOLUME 'cold'";
        assert_eq!(
            expiry(own),
            ["greatest(received_at, event_timestamp) + toIntervalDay(9)"]
        );
        assert_eq!(
            expiry("received_at RECOMPRESS CODEC(ZSTD(1))"),
            Vec::<&str>::new()
        );
    }

    #[test]
    fn the_window_grows_with_the_partitions() {
        assert_eq!(dedup_window(1), 10_000);
        assert_eq!(dedup_window(100), 60_000);
        assert_eq!(dedup_window(u32::MAX), u32::MAX);
    }
}
