//! ClickHouse from behind the operator's back.

use penstock_dataplane_config::table::{EventTable, quote_identifier, quote_literal};
use penstock_e2e::Instance;
use penstock_provision::TableSpec;
use penstock_provision::contract::{Change, ClickHouseSide, OWN_COMMENT, Side};

pub(crate) struct ClickHouse<'a>(pub(crate) &'a Instance);

impl ClickHouse<'_> {
    pub(crate) fn run(&self, statement: &str) -> String {
        self.0
            .clickhouse(statement)
            .unwrap_or_else(|error| panic!("{statement}: {error}"))
            .trim_end()
            .to_owned()
    }
}

fn full_name(spec: &TableSpec) -> String {
    format!(
        "{}.{}",
        quote_identifier(&spec.database),
        quote_identifier(&spec.table)
    )
}

fn is_this(spec: &TableSpec, table: &str) -> String {
    format!(
        "database = {} AND {table} = {}",
        quote_literal(&spec.database),
        quote_literal(&spec.table)
    )
}

impl ClickHouseSide for ClickHouse<'_> {
    fn create_table<'a>(&'a self, spec: &'a TableSpec, change: Change) -> Side<'a, ()> {
        Box::pin(async move {
            self.run(&format!(
                "CREATE DATABASE IF NOT EXISTS {}",
                quote_identifier(&spec.database)
            ));
            let statement = EventTable {
                database: &spec.database,
                table: &spec.table,
                cluster: None,
                comment: OWN_COMMENT,
                dedup_window: if change == Change::Window { 10 } else { 10_000 },
            }
            .create_statement();
            let changed = match change {
                Change::Nothing | Change::Window => statement.clone(),
                Change::ColumnType => statement.replace("`user_id` String", "`user_id` UInt64"),
                Change::OrderBy => statement.replace(EventTable::ORDER_BY, "event_id"),
                Change::Engine => statement.replace("ReplacingMergeTree(received_at)", "MergeTree"),
            };
            assert_eq!(
                changed == statement,
                matches!(change, Change::Nothing | Change::Window),
                "{statement}"
            );
            self.run(&changed);
        })
    }

    fn drop_column<'a>(&'a self, spec: &'a TableSpec, column: &'a str) -> Side<'a, ()> {
        Box::pin(async move {
            self.run(&format!(
                "ALTER TABLE {} DROP COLUMN {}",
                full_name(spec),
                quote_identifier(column)
            ));
        })
    }

    fn drop_table<'a>(&'a self, spec: &'a TableSpec) -> Side<'a, ()> {
        Box::pin(async move {
            self.run(&format!("DROP TABLE {} SYNC", full_name(spec)));
        })
    }

    fn comment<'a>(&'a self, spec: &'a TableSpec) -> Side<'a, Option<String>> {
        Box::pin(async move {
            let here = is_this(spec, "name");
            let count = self.run(&format!("SELECT count() FROM system.tables WHERE {here}"));
            (count == "1").then(|| self.run(&format!("SELECT comment FROM system.tables WHERE {here}")))
        })
    }

    fn has_column<'a>(&'a self, spec: &'a TableSpec, column: &'a str) -> Side<'a, bool> {
        Box::pin(async move {
            let (here, column) = (is_this(spec, "table"), quote_literal(column));
            self.run(&format!(
                "SELECT count() FROM system.columns WHERE {here} AND name = {column}"
            )) == "1"
        })
    }

    fn has_table<'a>(&'a self, database: &'a str, table: &'a str) -> Side<'a, bool> {
        Box::pin(async move {
            let (database, table) = (quote_literal(database), quote_literal(table));
            self.run(&format!(
                "SELECT count() FROM system.tables WHERE database = {database} AND name = {table}"
            )) == "1"
        })
    }

    fn has_database<'a>(&'a self, database: &'a str) -> Side<'a, bool> {
        Box::pin(async move {
            let name = quote_literal(database);
            self.run(&format!(
                "SELECT count() FROM system.databases WHERE name = {name}"
            )) == "1"
        })
    }

    fn remembered_blocks<'a>(&'a self, spec: &'a TableSpec) -> Side<'a, u64> {
        Box::pin(async move {
            let here = is_this(spec, "name");
            let window = self.run(&format!(
                "SELECT extract(engine_full, 'non_replicated_deduplication_window = (\\\\d+)') FROM system.tables \
                 WHERE {here}"
            ));
            window
                .parse()
                .unwrap_or_else(|_| panic!("no window in {window:?}"))
        })
    }
}
