//! What a pipeline needs outside the cluster's API: topics, tables, quota entries.
//!
//! Controllers see the three traits below and nothing else, so that they can be tested without a broker. Every call
//! is safe to repeat, is bounded in time (5 s unless a statement needs longer), and changes nothing when all is as
//! asked.
//!
//! ```text
//! controllers ──> TopicAdmin  ──> Kafka
//!             ──> TableAdmin  ──> ClickHouse
//!             ──> QuotaStore  ──> Redis
//! ```

pub mod clickhouse;
#[cfg(any(test, feature = "test-support"))]
pub mod contract;
pub mod error;
#[cfg(any(test, feature = "test-support"))]
pub mod fake;
pub mod kafka;
pub mod ownership;
pub mod redis;

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::BoxFuture;
use penstock_crds::IngestionPipeline;
use penstock_crds::pipeline::{DeadLetterTable, ExtraColumn, Rollup};
use penstock_dataplane_config::letters::letter_table;
use penstock_dataplane_config::table::{on_cluster, quote_identifier};
use penstock_dataplane_config::{KafkaCluster, Quota, RedisTarget};
use uuid::Uuid;

pub use clickhouse::{ClickHouseAdmin, ClickHouseServer};
pub use error::{Class, ProvisionError, Service};
pub use kafka::KafkaAdmin;
pub use ownership::{Claim, Owner};
pub use redis::RedisQuotas;

/// What a trait of this folder answers.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, ProvisionError>>;

/// What making something match has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Unchanged,
    Created,
    Adopted,
    /// What was changed, for an event: `retention.ms`, `partitions 3 -> 6`, `column ip added`.
    Updated(Vec<String>),
}

/// What deleting something has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    Deleted,
    /// It was not there.
    Absent,
    /// It is not ours to delete: adopted, or someone else's. The mark of ownership is gone where it was ours.
    Kept,
}

/// The annotation of a pipeline by which a person agrees that its topic, whose records have keys, is grown. Its value is
/// the number of partitions.
pub const GROW_PARTITIONS: &str = "penstock.dev/grow-partitions";

/// A topic as it shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    pub name: String,
    pub partitions: u32,
    /// Records have keys, which more partitions would part from what came before under the same key: the topic is not
    /// grown. See [`GROW_PARTITIONS`].
    pub keeps_keys: bool,
    /// Absent: min(3, brokers).
    pub replication: Option<u32>,
    pub retention: Duration,
    /// Further settings.
    pub config: BTreeMap<String, String>,
}

/// A topic as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicState {
    pub partitions: u32,
    pub replication: u32,
    pub min_insync_replicas: u32,
    /// Brokers of the cluster.
    pub brokers: u32,
}

/// Topics of Kafka clusters.
pub trait TopicAdmin: Send + Sync + 'static {
    /// Creates the topic, grows it, mends its settings; refuses what would lose data or belongs to another.
    fn ensure_topic<'a>(
        &'a self,
        cluster: &'a KafkaCluster,
        spec: &'a TopicSpec,
        claim: &'a Claim,
    ) -> Answer<'a, (Outcome, TopicState)>;

    /// Looks without touching; `None` when there is no such topic.
    fn describe_topic<'a>(
        &'a self,
        cluster: &'a KafkaCluster,
        name: &'a str,
    ) -> Answer<'a, Option<TopicState>>;

    /// Deletes the topic when `owner` created it; gives up the mark of ownership in any case.
    fn delete_topic<'a>(
        &'a self,
        cluster: &'a KafkaCluster,
        name: &'a str,
        owner: &'a Owner,
    ) -> Answer<'a, Deletion>;

    /// Deletes a consumer group and its offsets.
    fn delete_group<'a>(&'a self, cluster: &'a KafkaCluster, group: &'a str) -> Answer<'a, Deletion>;

    /// Whether the cluster answers.
    fn ping<'a>(&'a self, cluster: &'a KafkaCluster) -> Answer<'a, ()>;
}

/// The annotation of a pipeline by which a person agrees to a change that rewrites stored rows. Its value is the
/// fingerprint that the condition's message gives.
pub const APPLY_SCHEMA: &str = "penstock.dev/apply-schema";

/// A database and its event table as they shall be. Columns are `penstock_dataplane_config::table`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSpec {
    pub database: String,
    pub table: String,
    /// Made on every server of this cluster; absent: on one server.
    pub cluster: Option<String>,
    /// Partitions of the topic: how many consumers may insert at once, which decides how many blocks the table must
    /// remember.
    pub partitions: u32,
    /// Columns of the team's own.
    pub columns: Vec<ExtraColumn>,
    /// Made beside the table.
    pub rollups: Vec<Rollup>,
    /// How long dead letters are kept in a table beside it; absent: no such table is made.
    pub dead_letters: Option<penstock_dataplane_config::Duration>,
    /// The change that a person has agreed to, by its fingerprint: see [`APPLY_SCHEMA`].
    pub approved: Option<String>,
}

fn identifier(field: &str, name: &str) -> Result<String, String> {
    let mut bytes = name.bytes();
    let valid = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && name.len() <= 63;
    match valid {
        true => Ok(name.to_owned()),
        false => Err(format!(
            "{field}: the default `{name}` is no identifier; give a name"
        )),
    }
}

impl TableSpec {
    /// As the resource says; a table without a name is called like the pipeline, and its database like the namespace.
    /// `Err` names the field whose default is no identifier.
    pub fn of(pipeline: &IngestionPipeline) -> Result<Self, String> {
        let spec = &pipeline.spec;
        let name = |field: &str, given: &Option<String>, of: &Option<String>| match given {
            Some(name) => Ok(name.clone()),
            None => identifier(field, &of.as_deref().unwrap_or_default().replace('-', "_")),
        };
        let annotations = pipeline.metadata.annotations.as_ref();
        Ok(Self {
            database: name(
                "clickhouse.database",
                &spec.clickhouse.database,
                &pipeline.metadata.namespace,
            )?,
            table: name(
                "clickhouse.table",
                &spec.clickhouse.table,
                &pipeline.metadata.name,
            )?,
            cluster: spec.clickhouse.cluster.clone(),
            partitions: u32::try_from(spec.kafka.partitions).unwrap_or(1),
            columns: spec.clickhouse.columns.clone(),
            rollups: spec.clickhouse.rollups.clone(),
            dead_letters: match spec.clickhouse.dead_letter_table {
                DeadLetterTable::Managed => Some(spec.kafka.dead_letter.retention),
                DeadLetterTable::None => None,
            },
            approved: annotations.and_then(|all| all.get(APPLY_SCHEMA)).cloned(),
        })
    }

    /// The name of the table of dead letters, where there is to be one.
    pub fn letter_table(&self) -> Option<String> {
        self.dead_letters.map(|_| letter_table(&self.table))
    }

    /// `` `database`.`name` ``: of the event table, or of one beside it.
    pub fn quoted(&self, name: &str) -> String {
        format!("{}.{}", quote_identifier(&self.database), quote_identifier(name))
    }

    /// What stands behind a name in a statement that changes something.
    pub(crate) fn on_cluster(&self) -> String {
        on_cluster(self.cluster.as_deref())
    }

    /// How a statement begins that changes the event table, or its rows.
    pub fn alter(&self) -> String {
        self.alter_beside(&self.table)
    }

    /// The same of a table beside it.
    pub fn alter_beside(&self, name: &str) -> String {
        format!("ALTER TABLE {}{}", self.quoted(name), self.on_cluster())
    }

    /// An event table with nothing beside it, and without anything of the team's own.
    pub fn new(database: &str, table: &str, partitions: u32) -> Self {
        Self {
            database: database.into(),
            table: table.into(),
            cluster: None,
            partitions,
            columns: Vec::new(),
            rollups: Vec::new(),
            dead_letters: None,
            approved: None,
        }
    }
}

/// What making tables match has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ensured {
    pub outcome: Outcome,
    /// Why the table of dead letters is not as asked: it is refused, or making or changing it has failed. It keeps nothing
    /// else: see [`TableSpec::without_letters`].
    pub letters: Option<ProvisionError>,
}

/// Tables of ClickHouse servers.
pub trait TableAdmin: Send + Sync + 'static {
    /// Creates database, table and what is beside it, adds what is missing; refuses what would need a destructive statement
    /// that nobody has agreed to. That of dead letters keeps none of the others: no event waits for it.
    fn ensure_table<'a>(
        &'a self,
        server: &'a ClickHouseServer,
        spec: &'a TableSpec,
        claim: &'a Claim,
    ) -> Answer<'a, Ensured>;

    /// Deletes the table and what is beside it when `owner` created them, then the database when `owner` created it and it is empty.
    fn delete_table<'a>(
        &'a self,
        server: &'a ClickHouseServer,
        spec: &'a TableSpec,
        owner: &'a Owner,
    ) -> Answer<'a, Deletion>;

    /// Whether the server answers.
    fn ping<'a>(&'a self, server: &'a ClickHouseServer) -> Answer<'a, ()>;
}

/// The limits of one App.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaEntry {
    pub app: Uuid,
    pub quota: Quota,
}

/// What an App has sent: accepted events, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub events: u64,
    pub bytes: u64,
}

impl Usage {
    /// Each pod keeps counts of its own, so that one which starts anew or counts twice harms nobody else's:
    /// `<pod>:events`, `<pod>:bytes`.
    pub fn of<'a>(fields: impl IntoIterator<Item = (&'a str, u64)>) -> Self {
        let mut usage = Self::default();
        for (field, count) in fields {
            let total = match field.rsplit_once(':') {
                Some((_, "events")) => &mut usage.events,
                Some((_, "bytes")) => &mut usage.bytes,
                _ => continue,
            };
            *total = total.saturating_add(count);
        }
        usage
    }
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.events = self.events.saturating_add(other.events);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// Quota entries of Redis servers, and what is counted against them.
pub trait QuotaStore: Send + Sync + 'static {
    /// Writes the entries, to live for `ttl`: what nobody writes again disappears by itself.
    fn put<'a>(&'a self, redis: &'a RedisTarget, entries: &'a [QuotaEntry], ttl: Duration) -> Answer<'a, ()>;

    /// Removes the entries of these Apps.
    fn remove<'a>(&'a self, redis: &'a RedisTarget, apps: &'a [Uuid]) -> Answer<'a, ()>;

    /// What all pods together have counted of an App on a UTC day, `YYYYMMDD`; nothing where nobody has.
    fn usage<'a>(&'a self, redis: &'a RedisTarget, app: Uuid, day: &'a str) -> Answer<'a, Usage>;

    /// Whether the server answers.
    fn ping<'a>(&'a self, redis: &'a RedisTarget) -> Answer<'a, ()>;
}
