//! `config.yaml`: the settings of one role.

use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::units::{ByteSize, Duration};

/// Which pipeline a process serves: the labels of its metrics and logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PipelineRef {
    pub namespace: String,
    pub name: String,
}

/// How a connection is encrypted: files of PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientTls {
    /// Who may have signed the server's certificate; absent: the system's authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// What this side shows the server, then those it is signed by. With `keyFile` or not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

/// How Kafka is told who is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SaslMechanism {
    ScramSha512,
    ScramSha256,
    /// The password itself; only where the connection is encrypted.
    Plain,
}

/// Who is there, by files.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sasl {
    pub mechanism: SaslMechanism,
    pub username_file: PathBuf,
    pub password_file: PathBuf,
}

/// A Kafka cluster, and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KafkaCluster {
    /// `host:port`, comma-separated.
    pub bootstrap: String,
    pub tls: Option<ClientTls>,
    pub sasl: Option<Sasl>,
}

impl KafkaCluster {
    /// One that is not encrypted and asks nobody who it is.
    pub fn open(bootstrap: &str) -> Self {
        Self {
            bootstrap: bootstrap.to_owned(),
            tls: None,
            sasl: None,
        }
    }
}

/// Where events are kept until they are stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KafkaTarget {
    /// `host:port`, comma-separated.
    pub bootstrap: String,
    pub topic: String,
    pub dead_letter_topic: String,
    /// Absent: the connection is not encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTls>,
    /// Absent: Kafka is told no name, or takes it from the certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sasl: Option<Sasl>,
}

impl KafkaTarget {
    /// The cluster without the topics.
    pub fn cluster(&self) -> KafkaCluster {
        KafkaCluster {
            bootstrap: self.bootstrap.clone(),
            tls: self.tls.clone(),
            sasl: self.sasl.clone(),
        }
    }
}

/// Where quota usage is shared and live figures are kept. Without it each pod of ingest keeps its own share of the
/// limits, and consume keeps no figures.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedisTarget {
    /// `host:port`.
    pub address: String,
    #[serde(default)]
    pub database: u16,
    #[serde(default = "RedisTarget::default_connect_timeout")]
    pub connect_timeout: Duration,
    #[serde(default = "RedisTarget::default_command_timeout")]
    pub command_timeout: Duration,
    /// Keys start with this; the operator sets the cluster's id, so clusters may share a Redis.
    #[serde(default = "RedisTarget::default_prefix")]
    pub prefix: String,
    /// Absent: the connection is not encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTls>,
    /// A user of Redis's access lists; absent with a password: the default user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
}

impl RedisTarget {
    /// An address without a user, with all else as it is by default.
    pub fn at(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            database: 0,
            connect_timeout: Self::default_connect_timeout(),
            command_timeout: Self::default_command_timeout(),
            prefix: Self::default_prefix(),
            tls: None,
            username_file: None,
            password_file: None,
        }
    }

    fn default_connect_timeout() -> Duration {
        Duration::from_secs(5)
    }
    fn default_command_timeout() -> Duration {
        Duration::from_secs(3)
    }
    fn default_prefix() -> String {
        "penstock".into()
    }
}

/// Where events are stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClickHouseTarget {
    /// `http://host:port`, or `https://host:port`.
    pub url: String,
    pub database: String,
    pub table: String,
    /// Files that hold the user's name and password; absent means the server's default user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// How an `https` address is spoken to; absent: with the system's authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTls>,
    /// How long one INSERT may take; must be below Kafka's `max.poll.interval.ms` (5 minutes).
    #[serde(default = "ClickHouseTarget::default_insert_timeout")]
    pub insert_timeout: Duration,
    #[serde(default, skip_serializing_if = "Compression::is_none")]
    pub compression: Compression,
}

/// How the bodies of INSERTs are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compression {
    #[default]
    None,
    /// ClickHouse's own blocks of LZ4.
    #[serde(rename = "LZ4")]
    Lz4,
}

impl Compression {
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

impl ClickHouseTarget {
    fn default_insert_timeout() -> Duration {
        Duration::from_secs(120)
    }
}

/// An HTTP contract that ingest can speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// `/v1/events`, `/v1/events/batch`, and the same two under `/api/attribution`.
    Native,
    /// `/segment/v1/*`, and the same calls below `/v1/`.
    Segment,
    /// `/api/v1/events`: the replaced platform's envelope, with its answers and codes.
    Envelope,
}

/// What a port speaks TLS with, PEM; read again when they change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsFiles {
    /// The certificate, then those it is signed by.
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

/// Bounds of ingest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct IngestLimits {
    /// A request's body, after decompression.
    pub body: ByteSize,
    /// One event.
    pub event: ByteSize,
    /// Events in one request.
    pub batch: u32,
    /// All bodies and groups in flight together, a request with three times its bytes and 1 kB; over it requests wait up to
    /// 1 s, then get 503.
    pub memory: ByteSize,
    /// Connections of the process; one more gets 503 and is closed.
    pub connections: u32,
    /// From a request's head to its answer; must exceed `kafka_timeout` by at least 1 s.
    pub request_timeout: Duration,
    /// How long a produced group may wait for its acknowledgement before the answer is 503.
    pub kafka_timeout: Duration,
}

impl Default for IngestLimits {
    fn default() -> Self {
        Self {
            body: ByteSize::mb(8),
            event: ByteSize::kb(256),
            batch: 1000,
            memory: ByteSize::mb(64),
            connections: 5_000,
            request_timeout: Duration::from_secs(10),
            kafka_timeout: Duration::from_secs(8),
        }
    }
}

/// What stands behind a 2xx.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Durability {
    /// Kafka has acknowledged the events (`acks=all`).
    #[default]
    Replicated,
    /// They are on the spool's disk, and go to Kafka from there.
    Spooled,
    /// They are in memory: the answer is 202, and what the process holds is lost with it.
    Memory,
}

/// What ingest does while Kafka is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KafkaOutage {
    /// Keeps events in the spool as long as it has room.
    Spool,
    /// Stores events in ClickHouse without Kafka; other readers of the topic do not see them.
    Direct,
    /// Answers 503 at once.
    Reject,
}

/// What a record of the topic is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecordFormat {
    /// Many events, one a line, without a key.
    #[default]
    Batch,
    /// One event, under a key that decides its partition.
    Single,
}

/// What a record that is one event has as its key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecordKey {
    #[default]
    UserId,
    DeviceId,
    SessionId,
    EventId,
    AppId,
}

/// The disk that keeps events which Kafka has not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SpoolConfig {
    /// A directory of its own, on a volume that outlives the process. One process uses it at a time.
    pub dir: PathBuf,
    /// All its files together.
    pub max_bytes: ByteSize,
}

/// `penstock-dataplane ingest`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IngestConfig {
    pub version: u32,
    pub pipeline: PipelineRef,
    #[serde(default = "default_listen")]
    pub listen: String,
    /// `/metrics`, `/livez`, `/readyz`.
    #[serde(default = "default_admin")]
    pub admin: String,
    pub kafka: KafkaTarget,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<RedisTarget>,
    /// `apps.yaml`.
    pub apps_file: PathBuf,
    #[serde(default = "default_protocols")]
    pub protocols: Vec<Protocol>,
    /// Networks of proxies in front: what they say in X-Forwarded-For about where a request comes from counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trusted_proxies: Vec<IpNet>,
    /// Without it `listen` speaks no TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsFiles>,
    /// The `Server` header of answers; absent means none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_header: Option<String>,
    #[serde(default)]
    pub limits: IngestLimits,
    #[serde(default)]
    pub record_format: RecordFormat,
    /// Of records that are one event; absent: the user's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record_key: Option<RecordKey>,
    #[serde(default)]
    pub durability: Durability,
    /// `Spool` with a spool, else `Reject`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_kafka_outage: Option<KafkaOutage>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spool: Option<SpoolConfig>,
    /// Where `onKafkaOutage: Direct` stores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clickhouse: Option<ClickHouseTarget>,
    /// Threads that serve requests; 0 means one per core that the process may use.
    #[serde(default)]
    pub shards: u16,
}

impl IngestConfig {
    /// The key of each event, where each is a record of its own.
    pub fn single_records(&self) -> Option<RecordKey> {
        match self.record_format {
            RecordFormat::Batch => None,
            RecordFormat::Single => Some(self.record_key.unwrap_or_default()),
        }
    }

    /// What happens while Kafka is away: as configured, or by whether there is a spool.
    pub fn kafka_outage(&self) -> KafkaOutage {
        self.on_kafka_outage.unwrap_or(match self.spool {
            Some(_) => KafkaOutage::Spool,
            None => KafkaOutage::Reject,
        })
    }
}

/// `penstock-dataplane drain`: a spool that no other process uses any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DrainConfig {
    pub version: u32,
    pub pipeline: PipelineRef,
    #[serde(default = "default_admin")]
    pub admin: String,
    pub kafka: KafkaTarget,
    /// The spool's directory.
    pub dir: PathBuf,
    /// When a broker that does not answer counts as away, as `limits.kafkaTimeout` of ingest.
    #[serde(default = "DrainConfig::default_kafka_timeout")]
    pub kafka_timeout: Duration,
}

impl DrainConfig {
    fn default_kafka_timeout() -> Duration {
        IngestLimits::default().kafka_timeout
    }
}

/// When a batch of the consumer is full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ConsumeBatch {
    pub max_rows: u32,
    pub max_bytes: ByteSize,
    pub max_age: Duration,
}

impl ConsumeBatch {
    /// The least that a full batch may hold: many small INSERTs would be more than the table remembers tokens of.
    pub const FEWEST_ROWS: u32 = 10_000;
}

impl Default for ConsumeBatch {
    fn default() -> Self {
        Self {
            max_rows: 200_000,
            max_bytes: ByteSize::mb(24),
            max_age: Duration::from_secs(1),
        }
    }
}

/// Who decides which member of the consumer group has which partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupProtocol {
    /// The members, cooperatively.
    #[default]
    Classic,
    /// The brokers (KIP-848).
    Consumer,
}

/// `penstock-dataplane consume`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConsumeConfig {
    pub version: u32,
    pub pipeline: PipelineRef,
    #[serde(default = "default_admin")]
    pub admin: String,
    pub kafka: KafkaTarget,
    /// Consumer group, `penstock.<namespace>.<name>`.
    pub group: String,
    #[serde(default)]
    pub group_protocol: GroupProtocol,
    pub clickhouse: ClickHouseTarget,
    /// The table of the same database that dead letters are stored in; absent: they are in their topic alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter_table: Option<String>,
    /// Where figures of what was stored are kept for live views; absent means none are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<RedisTarget>,
    #[serde(default)]
    pub batch: ConsumeBatch,
}

fn default_listen() -> String {
    "0.0.0.0:8080".into()
}

fn default_admin() -> String {
    "0.0.0.0:9090".into()
}

fn default_protocols() -> Vec<Protocol> {
    vec![Protocol::Native, Protocol::Segment, Protocol::Envelope]
}
