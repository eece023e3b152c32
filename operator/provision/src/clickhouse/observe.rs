//! What is there: databases, tables, columns, by the server's own `system` tables.

use clickhouse::Row;
use serde::Deserialize;

use super::super::TableSpec;
use super::super::error::ProvisionError;
use super::super::ownership::Mark;
use super::plan::{ObservedColumn, ObservedTable, is_replicated};
use super::rollup::Beside;
use super::{ANSWER, Server};

/// Between the mark and the comment that an adopted table had.
const SEPARATOR: &str = " | ";

/// A database.
#[derive(Debug, Row, Deserialize)]
pub(super) struct Database {
    pub engine: String,
    pub comment: String,
    pub tables: u64,
    /// Of a Replicated database, by the cluster that ClickHouse makes of it; 0 for others.
    pub shards: u64,
}

/// A table and what is written beside it.
#[derive(Debug)]
pub(super) struct Table {
    pub observed: ObservedTable,
    pub comment: String,
}

impl Table {
    pub(super) fn mark(&self) -> Option<Mark> {
        mark_of(&self.comment)
    }
}

/// The mark in a comment.
pub(crate) fn mark_of(comment: &str) -> Option<Mark> {
    Mark::from_comment(comment.split(SEPARATOR).next().unwrap_or(""))
}

/// The comment of a table that becomes ours and was not made by us.
pub(crate) fn with_mark(mark: &Mark, comment: &str) -> String {
    match without_mark(comment) {
        "" => mark.comment(),
        own => format!("{}{SEPARATOR}{own}", mark.comment()),
    }
}

/// The table's own comment.
pub(crate) fn without_mark(comment: &str) -> &str {
    let (first, rest) = comment.split_once(SEPARATOR).unwrap_or((comment, ""));
    if Mark::from_comment(first).is_some() {
        rest
    } else {
        comment
    }
}

pub(super) async fn database(server: &Server, name: &str) -> Result<Option<Database>, ProvisionError> {
    // ifNull: a scalar subquery is Nullable, whatever it counts.
    let question = server
        .client
        .query(
            "SELECT engine, comment, \
             ifNull((SELECT count() FROM system.tables WHERE database = ?), 0) AS tables, \
             ifNull((SELECT uniqExact(shard_num) FROM system.clusters WHERE cluster = ?), 0) AS shards \
             FROM system.databases WHERE name = ?",
        )
        .bind(name)
        .bind(name)
        .bind(name);
    server.within(ANSWER, question.fetch_optional::<Database>()).await
}

/// Shards of a cluster that the server knows; 0 where it knows none of that name.
pub(super) async fn shards(server: &Server, cluster: &str) -> Result<u64, ProvisionError> {
    let question = server
        .client
        .query("SELECT uniqExact(shard_num) FROM system.clusters WHERE cluster = ?")
        .bind(cluster);
    server.within(ANSWER, question.fetch_one::<u64>()).await
}

#[derive(Row, Deserialize)]
struct TableRow {
    engine: String,
    engine_full: String,
    partition_key: String,
    sorting_key: String,
    comment: String,
}

#[derive(Row, Deserialize)]
struct ColumnRow {
    name: String,
    kind: String,
    default_kind: String,
    default_expression: String,
}

pub(super) async fn table(server: &Server, spec: &TableSpec) -> Result<Option<Table>, ProvisionError> {
    let question = server
        .client
        .query(
            "SELECT engine, engine_full, partition_key, sorting_key, comment \
             FROM system.tables WHERE database = ? AND name = ?",
        )
        .bind(&spec.database)
        .bind(&spec.table);
    let Some(row) = server
        .within(ANSWER, question.fetch_optional::<TableRow>())
        .await?
    else {
        return Ok(None);
    };
    let question = server
        .client
        .query(
            "SELECT name, type AS kind, default_kind, default_expression \
             FROM system.columns WHERE database = ? AND table = ? ORDER BY position",
        )
        .bind(&spec.database)
        .bind(&spec.table);
    let columns = server.within(ANSWER, question.fetch_all::<ColumnRow>()).await?;
    let default_window_seconds = match is_replicated(&row.engine) {
        true => default_window_seconds(server).await?,
        false => 0,
    };
    Ok(Some(Table {
        comment: row.comment,
        observed: ObservedTable {
            engine: row.engine,
            engine_full: row.engine_full,
            partition_key: row.partition_key,
            sorting_key: row.sorting_key,
            columns: columns
                .into_iter()
                .map(|column| ObservedColumn {
                    name: column.name,
                    kind: column.kind,
                    default_kind: column.default_kind,
                    default_expression: column.default_expression,
                })
                .collect(),
            default_window_seconds,
        },
    }))
}

#[derive(Row, Deserialize)]
struct BesideRow {
    name: String,
    engine: String,
    engine_full: String,
    comment: String,
}

#[derive(Row, Deserialize)]
struct BesideColumn {
    table: String,
    name: String,
    kind: String,
}

/// The tables whose names begin with the event table's and `_`, the rollups among them.
pub(super) async fn beside(server: &Server, spec: &TableSpec) -> Result<Vec<Beside>, ProvisionError> {
    let prefix = format!("{}_", spec.table);
    let question = server
        .client
        .query(
            "SELECT name, engine, engine_full, comment FROM system.tables \
             WHERE database = ? AND startsWith(name, ?) ORDER BY name",
        )
        .bind(&spec.database)
        .bind(&prefix);
    let rows = server.within(ANSWER, question.fetch_all::<BesideRow>()).await?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let question = server
        .client
        .query(
            "SELECT table, name, type AS kind FROM system.columns \
             WHERE database = ? AND startsWith(table, ?) ORDER BY table, position",
        )
        .bind(&spec.database)
        .bind(&prefix);
    let columns = server
        .within(ANSWER, question.fetch_all::<BesideColumn>())
        .await?;
    let of = |table: &str| {
        let own = columns.iter().filter(|column| column.table == table);
        own.map(|column| (column.name.clone(), column.kind.clone()))
            .collect()
    };
    Ok(rows
        .into_iter()
        .map(|row| Beside {
            columns: of(&row.name),
            name: row.name,
            engine: row.engine,
            engine_full: row.engine_full,
            comment: row.comment,
        })
        .collect())
}

/// How long the server's replicated tables remember that say nothing about it.
async fn default_window_seconds(server: &Server) -> Result<u64, ProvisionError> {
    let question = server.client.query(
        "SELECT toUInt64(value) FROM system.replicated_merge_tree_settings \
         WHERE name = 'replicated_deduplication_window_seconds'",
    );
    let found = server.within(ANSWER, question.fetch_optional::<u64>()).await?;
    Ok(found.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::super::super::ownership::Owner;
    use super::*;

    #[test]
    fn an_adopted_table_gets_its_comment_back() {
        let mark = Mark {
            owner: Owner::new("c", "ns", "events"),
            created: false,
        };
        let other = Mark {
            owner: Owner::new("c", "ns", "other"),
            created: true,
        };
        for own in ["", "events of the shop", "a | b"] {
            let marked = with_mark(&mark, own);
            assert_eq!(without_mark(&marked), own);
            assert_eq!(mark_of(&marked), Some(mark.clone()));
            assert_eq!(
                with_mark(&other, &marked),
                with_mark(&other, own),
                "marks do not pile up"
            );
        }
        assert_eq!(without_mark("events | of the shop"), "events | of the shop");
    }
}
