//! The table that events are stored in, the columns that a team adds to it, and what is counted while rows arrive.

use kube::KubeSchema;
use penstock_dataplane_config::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// The table that events are stored in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.database) == has(oldSelf.database) && (!has(self.database) || self.database == oldSelf.database)")
        .message("database cannot change: the rows stay where they are")
        .field_path(".database"),
    validation = Rule::new("has(self.table) == has(oldSelf.table) && (!has(self.table) || self.table == oldSelf.table)")
        .message("table cannot change: the rows stay where they are")
        .field_path(".table"),
    validation = Rule::new("has(self.cluster) == has(oldSelf.cluster) && (!has(self.cluster) || self.cluster == oldSelf.cluster)")
        .message("cluster cannot change: the rows stay where they are")
        .field_path(".cluster"),
    validation = Rule::new("has(self.url) || !(has(self.caSecret) || has(self.secret) || has(self.adminSecret))")
        .message("caSecret, secret and adminSecret are for a ClickHouse that url names: how the installation's is reached is the installation's to say")
        .field_path(".url"),
    validation = Rule::new("!has(self.caSecret) || !has(self.url) || self.url.startsWith('https://')")
        .message("caSecret is for an url that begins with https://")
        .field_path(".caSecret"),
    validation = Rule::new("!has(self.adminSecret) || has(self.secret)")
        .message("adminSecret is the operator's beside the consumers' own user: give secret, too")
        .field_path(".adminSecret"),
    validation = Rule::new("!has(self.rollups) || self.rollups.all(r, !has(r.by) || r.by.all(b, b in ['event_name', 'platform', 'os_version', 'app_version', 'library', 'source'] || (has(self.columns) && self.columns.exists(c, c.name == b && c.type != 'Json'))))")
        .message("by names event_name, platform, os_version, app_version, library, source, or a column of columns")
        .field_path(".rollups")
)]
pub struct ClickHouse {
    /// `http://host:port` or `https://host:port`. Default: the installation's ClickHouse. The installation's credentials are
    /// sent to the installation's address only; another address is used as its default user, or that of `secret`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), regex(pattern = schema::HTTP_URL))]
    pub url: Option<String>,
    /// A Secret of the namespace with `ca.crt`: who may have signed the certificate at `url`. Default: the system's
    /// authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::SUBDOMAIN))]
    pub ca_secret: Option<String>,
    /// A Secret of the namespace with `username` and `password`, of the user that rows are inserted as. A change restarts no
    /// pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::SUBDOMAIN))]
    pub secret: Option<String>,
    /// The same for the operator, which makes databases and tables. Default: `secret`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::SUBDOMAIN))]
    pub admin_secret: Option<String>,
    /// Name of the database; cannot change. Default: the namespace, with `-` as `_`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = schema::IDENTIFIER))]
    #[x_kube(validation = Rule::new("!(self.lowerAscii() in ['system', 'default', 'information_schema'])").message("database must not be one of ClickHouse's own"))]
    pub database: Option<String>,
    /// Name of the table; cannot change. Default: the pipeline's name, with `-` as `_`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = schema::IDENTIFIER))]
    pub table: Option<String>,
    /// The servers that are to hold the tables, each all rows, by the name that ClickHouse has for them (`system.clusters`):
    /// tables are then made `ON CLUSTER`, with Replicated engines. It must have one shard, and `url` names one of its servers.
    /// Cannot change. Absent: the server at `url` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = schema::CLUSTER))]
    pub cluster: Option<String>,
    /// Columns of your own, which ClickHouse fills from the JSON of each event. A new one is there for rows that are stored
    /// already, too. One that is taken off this list stays in the table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["name".into()]),
        validation = Rule::new("self.all(c, !(c.name in ['event_id', 'app_id', 'event_name', 'user_id', 'device_id', 'session_id', 'event_timestamp', 'client_timestamp', 'received_at', 'platform', 'os_version', 'app_version', 'attribution', 'properties', 'context', 'ip', 'user_agent', 'library', 'source', 'src_partition', 'src_offset', 'src_row', 'expires_on', 'event_date', 'user_hash']))")
            .message("a column of columns must not have the name of one that every event table has")
    )]
    pub columns: Vec<ExtraColumn>,
    /// What is counted while rows arrive, each into a table of its own, `<table>_<name>`. One that is taken off this list
    /// is counted no longer; its table stays.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub rollups: Vec<Rollup>,
    /// The table `<table>_dead_letters`, for asking in SQL what could not be stored: `Managed`, it is made and filled from
    /// the dead-letter topic, and its rows go when `kafka.deadLetter.retention` says; `None`, dead letters are in their
    /// topic alone, and a table that is there stays as it is. A table of that name that is not the pipeline's is left alone:
    /// `TablesReady` says so and is false, `Ready` stays true, and events are stored all the same.
    #[serde(default)]
    pub dead_letter_table: DeadLetterTable,
    /// How rows are compressed on their way to ClickHouse. `LZ4` is for a network that is narrow or costs money: it takes
    /// more CPU of the consumers than it saves anywhere, and a compressed copy of what is on its way.
    #[serde(default)]
    pub compression: Compression,
}

/// How rows are compressed on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Compression {
    #[default]
    None,
    #[serde(rename = "LZ4")]
    Lz4,
}

/// Whether dead letters are stored in a table, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeadLetterTable {
    #[default]
    Managed,
    None,
}

/// A column of a team's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.type == 'Json' || self.from.contains('.')")
        .message("from names a value, for example properties.amount; a whole column of JSON is for the type Json")
        .field_path(".from"),
    validation = Rule::new("self.type != 'Json' || !has(self.nullable) || !self.nullable")
        .message("a column of the type Json is not nullable: of an event without the value it is {}")
        .field_path(".nullable")
)]
pub struct ExtraColumn {
    /// Its name.
    #[schemars(length(min = 1, max = 63), regex(pattern = schema::IDENTIFIER))]
    pub name: String,
    /// What it holds. Of an event without the value, or with one of another type, it holds the type's zero.
    #[serde(rename = "type")]
    pub kind: ExtraKind,
    /// Where the value is: a column of JSON, `properties`, `attribution` or `context`, and the names on the way, for
    /// example `properties.cart.total`; for the type `Json` also the column itself.
    #[schemars(length(max = 200), regex(pattern = schema::JSON_PATH))]
    pub from: String,
    /// True: of an event without the value it holds NULL.
    #[serde(default)]
    pub nullable: bool,
}

/// What a column of a team's own holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ExtraKind {
    String,
    /// Text with few distinct values: `LowCardinality(String)`.
    Symbol,
    Int64,
    UInt64,
    Float64,
    Bool,
    /// A time, RFC 3339 in the JSON.
    Timestamp,
    /// An object, as ClickHouse's type JSON: each path in it is stored as a column of its own. What is no object, or has a
    /// path twice, is `{}`.
    Json,
}

/// A count that is kept while rows arrive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.count == oldSelf.count && self.every == oldSelf.every && has(self.by) == has(oldSelf.by) && (!has(self.by) || self.by == oldSelf.by)")
        .message("a rollup cannot change, only its retention: what is counted already would mean something else; give the new one another name")
)]
pub struct Rollup {
    /// Its name; the table is called `<table>_<name>`.
    #[schemars(length(min = 1, max = 40), regex(pattern = schema::ROLLUP))]
    #[x_kube(
        validation = Rule::new("self != 'dead_letters'").message("name must not be dead_letters: the table of dead letters is called so"),
        validation = Rule::new("!self.endsWith('_view')").message("name must not end with _view: what fills the table of a rollup is called so")
    )]
    pub name: String,
    /// What is counted, each once however often it comes: `Users` by their `user_id`, `Events` by their `event_id`.
    pub count: Counted,
    /// The span of time that a row stands for.
    pub every: Every,
    /// What is counted apart, beside the App: columns of text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 4),
        inner(length(min = 1, max = 63), regex(pattern = schema::IDENTIFIER))
    )]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(b, !(b in ['time', 'counted']))").message("by must not name a column time or counted: every rollup has these of its own")
    )]
    pub by: Vec<String>,
    /// How long counts are kept: `400d`. Absent: for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", length(max = 5), regex(pattern = schema::DAYS))]
    pub retention: Option<Duration>,
}

/// What a rollup counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Counted {
    Events,
    Users,
}

/// The span of time that a row of a rollup stands for, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Every {
    Minute,
    Hour,
    Day,
}

#[cfg(test)]
mod tests {
    use penstock_dataplane_config::table::EVENT_COLUMNS;

    #[test]
    fn the_rule_names_every_column_that_a_table_has() {
        let rule = include_str!("tables.rs");
        let names: Vec<String> = EVENT_COLUMNS
            .iter()
            .map(|column| format!("'{}'", column.name))
            .collect();
        assert!(
            rule.contains(&format!("(c.name in [{}])", names.join(", "))),
            "{names:?}"
        );
    }
}
