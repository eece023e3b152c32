//! What must not be asked of a table, its columns and its rollups.

use super::{Case, pipeline};

pub(super) fn cases() -> Vec<Case> {
    [tables(), columns(), rollups()].into_iter().flatten().collect()
}

fn tables() -> Vec<Case> {
    vec![
        pipeline(
            "ClickHouse without a scheme",
            "clickhouse: {url: 'clickhouse:8123'}",
            &["spec.clickhouse.url"],
        ),
        pipeline(
            "ClickHouse with a path",
            "clickhouse: {url: 'http://clickhouse:8123/db'}",
            &["spec.clickhouse.url"],
        ),
        pipeline(
            "ClickHouse with a password",
            "clickhouse: {url: 'http://u:p@clickhouse:8123'}",
            &["spec.clickhouse.url"],
        ),
        pipeline(
            "a database with a dash",
            "clickhouse: {database: my-team}",
            &["spec.clickhouse.database"],
        ),
        pipeline(
            "ClickHouse's own database",
            "clickhouse: {database: system}",
            &["spec.clickhouse.database"],
        ),
        pipeline(
            "ClickHouse's own database in capitals",
            "clickhouse: {database: INFORMATION_SCHEMA}",
            &["spec.clickhouse.database"],
        ),
        pipeline(
            "a table that begins with a digit",
            "clickhouse: {table: 1events}",
            &["spec.clickhouse.table"],
        ),
        pipeline(
            "a table with a quote",
            "clickhouse: {table: 'e`; DROP TABLE x'}",
            &["spec.clickhouse.table"],
        ),
        pipeline(
            "a cluster with a quote",
            "clickhouse: {cluster: 'main`'}",
            &["spec.clickhouse.cluster"],
        ),
        pipeline(
            "a table of dead letters by name",
            "clickhouse: {deadLetterTable: letters}",
            &["spec.clickhouse.deadLetterTable"],
        ),
    ]
}

fn columns() -> Vec<Case> {
    vec![
        pipeline(
            "a column of an unknown type",
            "clickhouse: {columns: [{name: a, type: Decimal, from: properties.a}]}",
            &["spec.clickhouse.columns[0].type"],
        ),
        pipeline(
            "a column from nowhere",
            "clickhouse: {columns: [{name: a, type: String}]}",
            &["spec.clickhouse.columns[0].from"],
        ),
        pipeline(
            "a column from a column that is no JSON",
            "clickhouse: {columns: [{name: a, type: String, from: user_id.a}]}",
            &["spec.clickhouse.columns[0].from"],
        ),
        pipeline(
            "a column from a path with a quote",
            "clickhouse: {columns: [{name: a, type: String, from: \"properties.a')\"}]}",
            &["spec.clickhouse.columns[0].from"],
        ),
        pipeline(
            "a column with the name of another",
            "clickhouse: {columns: [{name: user_id, type: String, from: properties.a}]}",
            &["spec.clickhouse.columns", "every event table has"],
        ),
        pipeline(
            "two columns of one name",
            "clickhouse: {columns: [{name: a, type: String, from: properties.a}, {name: a, type: Int64, from: properties.b}]}",
            &["spec.clickhouse.columns[1]"],
        ),
        pipeline(
            "a whole column of JSON as text",
            "clickhouse: {columns: [{name: a, type: String, from: properties}]}",
            &["spec.clickhouse.columns[0].from", "for the type Json"],
        ),
        pipeline(
            "JSON that may be NULL",
            "clickhouse: {columns: [{name: a, type: Json, from: properties, nullable: true}]}",
            &["spec.clickhouse.columns[0].nullable", "is not nullable"],
        ),
    ]
}

fn rollups() -> Vec<Case> {
    vec![
        pipeline(
            "a rollup that is called like the table of dead letters",
            "clickhouse: {rollups: [{name: dead_letters, count: Users, every: Day}]}",
            &["spec.clickhouse.rollups[0].name", "dead_letters"],
        ),
        pipeline(
            "a rollup that is called like what fills another",
            "clickhouse: {rollups: [{name: a_view, count: Users, every: Day}]}",
            &["spec.clickhouse.rollups[0].name", "_view"],
        ),
        pipeline(
            "a rollup by a column that every rollup has",
            "clickhouse: {columns: [{name: time, type: String, from: properties.time}], \
             rollups: [{name: a, count: Users, every: Day, by: [time]}]}",
            &["spec.clickhouse.rollups[0].by", "time or counted"],
        ),
        pipeline(
            "a rollup of what cannot be counted",
            "clickhouse: {rollups: [{name: a, count: Money, every: Day}]}",
            &["spec.clickhouse.rollups[0].count"],
        ),
        pipeline(
            "a rollup of no time",
            "clickhouse: {rollups: [{name: a, count: Users}]}",
            &["spec.clickhouse.rollups[0].every"],
        ),
        pipeline(
            "a rollup in capitals",
            "clickhouse: {rollups: [{name: Daily, count: Users, every: Day}]}",
            &["spec.clickhouse.rollups[0].name"],
        ),
        pipeline(
            "a rollup by a column that there is not",
            "clickhouse: {rollups: [{name: a, count: Users, every: Day, by: [country]}]}",
            &["spec.clickhouse.rollups", "or a column of columns"],
        ),
        pipeline(
            "a rollup by JSON",
            "clickhouse: {columns: [{name: a, type: Json, from: properties}], rollups: [{name: a, count: Users, every: Day, by: [a]}]}",
            &["spec.clickhouse.rollups", "or a column of columns"],
        ),
        pipeline(
            "a rollup that is kept for hours",
            "clickhouse: {rollups: [{name: a, count: Users, every: Day, retention: 24h}]}",
            &["spec.clickhouse.rollups[0].retention"],
        ),
    ]
}
