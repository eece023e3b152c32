//! What reads a topic and stores its events: how each is started and stopped.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use penstock_e2e::error::Context as _;
use penstock_e2e::{Error, Result};
use tempfile::TempDir;

use crate::child::Pinned;
use crate::process;
use crate::server::{SERVER_CORE, answers, next_address};
use crate::store::table::{Client, Store, Table};
use crate::topic::letters;

/// What a sink is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Penstock's consumer as it ships.
    Penstock,
    /// The same with `clickhouse.compression: LZ4`.
    Compressed,
    /// The replaced platform's consumer, in batches of so many rows.
    Go { batch: usize },
    /// ClickHouse's Kafka engine and a materialized view, inside ClickHouse.
    Engine,
}

/// A sink that can be started.
#[derive(Clone, Debug)]
pub struct Sink {
    pub kind: Kind,
    /// Unused by the engine.
    pub program: PathBuf,
}

/// A sink that runs.
#[derive(Debug)]
pub struct Running {
    /// None where ClickHouse itself reads.
    process: Option<Pinned>,
    /// Where Penstock's metrics are.
    metrics: Option<String>,
    _engine: Option<Engine>,
    _folder: TempDir,
}

/// The engine's table and view; they go when this is dropped, so that ClickHouse reads no more.
#[derive(Debug)]
struct Engine {
    client: Client,
    database: String,
}

impl Drop for Engine {
    fn drop(&mut self) {
        for name in ["storing", "queue"] {
            // The whole database goes with the run.
            let _ = self
                .client
                .ask(&format!("DROP TABLE IF EXISTS {}.{name} SYNC", self.database));
        }
    }
}

impl Sink {
    /// For people.
    pub fn name(&self) -> String {
        match self.kind {
            Kind::Penstock => "Penstock consumer".into(),
            Kind::Compressed => "Penstock consumer, rows sent as LZ4".into(),
            Kind::Go { batch } => format!("kafka-go + clickhouse-go, {batch} rows a batch"),
            Kind::Engine => "ClickHouse's Kafka engine".into(),
        }
    }

    /// Starts it as the only member of a group that is named like the table's database.
    pub fn start(&self, bootstrap: &str, topic: &str, store: &Store, table: &Table) -> Result<Running> {
        let folder = tempfile::tempdir().doing("making a folder")?;
        let mut command = Command::new(&self.program);
        command.env_clear();
        let group = table.database.as_str();
        match self.kind {
            Kind::Penstock | Kind::Compressed => {
                let compression = match self.kind {
                    Kind::Compressed => "LZ4",
                    _ => "None",
                };
                let admin = next_address();
                let secret = |name: &str, value: &str| {
                    let path = folder.path().join(name);
                    std::fs::write(&path, value).doing("writing a secret")?;
                    Ok::<_, Error>(path.display().to_string())
                };
                let text = format!(
                    "version: 1\npipeline: {{namespace: bench, name: events}}\nadmin: {admin}\n\
                     kafka: {{bootstrap: '{bootstrap}', topic: {topic}, deadLetterTopic: {}}}\ngroup: {group}\n\
                     clickhouse: {{url: '{}', database: {}, table: events, usernameFile: {}, passwordFile: {}, \
                     compression: {compression}}}\n",
                    letters(topic),
                    store.url,
                    table.database,
                    secret("username", &store.consumer.user)?,
                    secret("password", &store.consumer.password)?,
                );
                let config = folder.path().join("config.yaml");
                std::fs::write(&config, text).doing("writing config.yaml")?;
                command.args(["consume", "--config"]).arg(&config);
                let mut process = Pinned::start(&mut command, SERVER_CORE, folder.path())?;
                let metrics = format!("http://{admin}/metrics");
                process.wait("listening", || answers(&metrics))?;
                Ok(Running {
                    process: Some(process),
                    metrics: Some(metrics),
                    _engine: None,
                    _folder: folder,
                })
            }
            Kind::Go { batch } => {
                let address = store.url.trim_start_matches("http://");
                // clickhouse-go says how it compresses as a setting, which the consumer's user may not give.
                let user = &table.client.admin;
                command
                    .env("KAFKA_BOOTSTRAP", bootstrap)
                    .env("TOPIC", topic)
                    .env("GROUP", group)
                    .env("CLICKHOUSE_ADDRESS", address)
                    .env("CLICKHOUSE_DATABASE", &table.database)
                    .env("CLICKHOUSE_USER", &user.user)
                    .env("CLICKHOUSE_PASSWORD", &user.password)
                    .env("BATCH_ROWS", batch.to_string())
                    .env("BATCH_WAIT", "1s");
                Ok(Running {
                    process: Some(Pinned::start(&mut command, SERVER_CORE, folder.path())?),
                    metrics: None,
                    _engine: None,
                    _folder: folder,
                })
            }
            Kind::Engine => {
                for statement in engine_statements(bootstrap, topic, group, &table.database) {
                    table.client.ask(&statement)?;
                }
                Ok(Running {
                    process: None,
                    metrics: None,
                    _engine: Some(Engine {
                        client: table.client.clone(),
                        database: table.database.clone(),
                    }),
                    _folder: folder,
                })
            }
        }
    }
}

/// The engine's table and the view that makes rows of what it reads: blocks and waits as Penstock's consumer has them.
fn engine_statements(bootstrap: &str, topic: &str, group: &str, database: &str) -> [String; 2] {
    let queue = format!(
        "CREATE TABLE {database}.queue (event_id UUID, app_id UUID, event_type String, user_id String, device_id String,
             session_id String, timestamp Int64, client_timestamp Int64, received_at Int64, platform String,
             os_version String, app_version String, attribution String, event_data String, context String, ip String,
             user_agent String, library String, source String)
         ENGINE = Kafka SETTINGS kafka_broker_list = '{bootstrap}', kafka_topic_list = '{topic}',
             kafka_group_name = '{group}', kafka_format = 'JSONEachRow', kafka_num_consumers = 1,
             kafka_max_block_size = 200000, kafka_flush_interval_ms = 1000"
    );
    let view = format!(
        "CREATE MATERIALIZED VIEW {database}.storing TO {database}.events AS
         SELECT event_id, app_id, event_type AS event_name, user_id, device_id, session_id,
             fromUnixTimestamp64Milli(timestamp, 'UTC') AS event_timestamp,
             fromUnixTimestamp64Milli(client_timestamp, 'UTC') AS client_timestamp,
             fromUnixTimestamp64Milli(queue.received_at, 'UTC') AS received_at, platform, os_version, app_version,
             attribution, event_data AS properties, context, ip, user_agent, library, source,
             toInt32(_partition) AS src_partition, toInt64(_offset) AS src_offset
         FROM {database}.queue"
    );
    [queue, view]
}

impl Running {
    /// User and system time of its own process; none where it has none.
    pub fn cpu(&self) -> Result<Option<Duration>> {
        self.process
            .as_ref()
            .map(|process| process::cpu(process.pid()))
            .transpose()
    }

    /// The most memory that it had, bytes; none where it has no process.
    pub fn peak(&self) -> Result<Option<u64>> {
        let process = self.process.as_ref();
        process
            .map(|process| Ok(process::memory(process.pid())?.peak))
            .transpose()
    }

    /// An error when it has ended.
    pub fn must_run(&mut self) -> Result<()> {
        self.process.as_mut().map_or(Ok(()), Pinned::must_run)
    }

    /// How often Penstock's consumer gave a partition away or lost its place in the group; none of the others say.
    pub fn left_the_group(&self) -> Result<Option<u64>> {
        let Some(url) = &self.metrics else { return Ok(None) };
        let text = ureq::get(url)
            .call()
            .doing("asking for metrics")?
            .body_mut()
            .read_to_string()
            .doing("reading metrics")?;
        Ok(Some(departures(&text)))
    }
}

fn departures(metrics: &str) -> u64 {
    let counts = |line: &&str| {
        line.starts_with("penstock_consume_members_replaced_total")
            || (line.starts_with("penstock_consume_rebalanced_partitions_total")
                && !line.contains("assigned"))
    };
    metrics
        .lines()
        .filter(counts)
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_that_were_given_are_no_departure() {
        let metrics = "# TYPE penstock_consume_rebalanced_partitions counter\n\
            penstock_consume_rebalanced_partitions_total{reason=\"assigned\",pipeline=\"p\"} 3\n\
            penstock_consume_members_replaced_total{pipeline=\"p\"} 0\n";
        assert_eq!(departures(metrics), 0);
        let left = "penstock_consume_rebalanced_partitions_total{reason=\"lost\"} 2\n\
            penstock_consume_rebalanced_partitions_total{reason=\"revoked\"} 1\n\
            penstock_consume_members_replaced_total 1\n";
        assert_eq!(departures(left), 4);
    }
}
