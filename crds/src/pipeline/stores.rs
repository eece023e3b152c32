//! What lies outside the cluster's API beside the table: topic and usage.

use std::collections::BTreeMap;

use kube::KubeSchema;
use penstock_dataplane_config::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::access::{KafkaSasl, KafkaTls, RedisTls};
use crate::schema;

/// The topic that keeps events until they are stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.topic) == has(oldSelf.topic) && (!has(self.topic) || self.topic == oldSelf.topic)")
        .message("topic cannot change: events that wait in the old one would be left behind")
        .field_path(".topic"),
    validation = Rule::new("!has(self.topic) || !has(self.deadLetter.topic) || self.topic != self.deadLetter.topic")
        .message("deadLetter.topic must differ from topic")
        .field_path(".deadLetter.topic"),
    validation = Rule::new("!has(self.key) || self.recordFormat == 'Single'")
        .message("key is for recordFormat Single: a record of many events has no key")
        .field_path(".key"),
    validation = Rule::new("has(self.bootstrap) || !(has(self.tls) || has(self.sasl))")
        .message("tls and sasl are for brokers that bootstrap names: how the installation's are reached is the installation's to say")
        .field_path(".bootstrap"),
    validation = Rule::new("!has(self.tls) || !has(self.tls.adminCertSecret) || has(self.tls.certSecret)")
        .message("tls.adminCertSecret is the operator's beside the pods' own certificate: give certSecret, too")
        .field_path(".tls.adminCertSecret"),
    validation = Rule::new("!has(self.sasl) || self.sasl.mechanism != 'Plain' || has(self.tls)")
        .message("sasl.mechanism Plain sends the password itself: it needs tls, which may be {}")
        .field_path(".sasl.mechanism")
)]
pub struct Kafka {
    /// `host:port` of one or more brokers, comma-separated. Default: the installation's Kafka.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), regex(pattern = schema::BOOTSTRAP))]
    pub bootstrap: Option<String>,
    /// The brokers of `bootstrap` are spoken to over TLS; `{}` is enough where the system's authorities know them. The
    /// installation's brokers need none: what the installation has for them is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<KafkaTls>,
    /// Who the pipeline is to the brokers of `bootstrap`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sasl: Option<KafkaSasl>,
    /// Name of the topic; cannot change. Default: `<namespace>.<name>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200), regex(pattern = schema::TOPIC))]
    pub topic: Option<String>,
    /// Partitions; can grow, cannot shrink. With `recordFormat: Single` they grow only when the annotation
    /// `penstock.dev/grow-partitions` names the new number: keys move to other partitions.
    #[serde(default = "Kafka::default_partitions")]
    #[schemars(range(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new("self >= oldSelf").message("partitions can grow but not shrink: Kafka cannot remove a partition"))]
    pub partitions: i32,
    /// Copies of each partition; cannot change once set. Default: 3, or as many as there are brokers when fewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 9))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("replication cannot change: move the partitions with Kafka's own tools"))]
    pub replication: Option<i32>,
    /// How long the topic keeps events, stored or not: `12h`, `7d`.
    #[serde(default = "Kafka::default_retention")]
    #[schemars(with = "String", length(max = 8), regex(pattern = schema::RETENTION))]
    pub retention: Duration,
    /// What a record of the topic is. `Batch`: many events, which costs least. `Single`: one event, under a key that
    /// decides its partition, for stream processors and other readers of the topic.
    #[serde(default)]
    pub record_format: RecordFormat,
    /// What is the key of a record that is one event. An event without it has no key. Default: `UserId`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<RecordKey>,
    /// Further settings of the topic, for example `segment.bytes`. What a field of its own says cannot be said here. They are
    /// not those of the dead-letter topic.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::topic_config")]
    #[x_kube(
        validation = Rule::new("self.all(k, size(k) <= 100 && k.matches('^[a-z][a-z0-9.]*$'))")
            .message("config: names of topic settings are lower-case words joined by dots"),
        validation = Rule::new("!('retention.ms' in self)").message("config: retention.ms is said by retention"),
        validation = Rule::new("!('cleanup.policy' in self)").message("config: cleanup.policy is always delete: events are no state that a newer one of the same key replaces"),
        validation = Rule::new("!('min.insync.replicas' in self)").message("config: min.insync.replicas follows from replication")
    )]
    pub config: BTreeMap<String, String>,
    /// The topic for what could not be stored. It has one partition, as many copies as `replication` says, and nothing of
    /// `config`.
    #[serde(default)]
    pub dead_letter: DeadLetter,
}

impl Kafka {
    const fn default_partitions() -> i32 {
        3
    }

    const fn default_retention() -> Duration {
        Duration::from_secs(7 * 24 * 3600)
    }
}

impl Default for Kafka {
    fn default() -> Self {
        Self {
            bootstrap: None,
            tls: None,
            sasl: None,
            topic: None,
            partitions: Self::default_partitions(),
            replication: None,
            retention: Self::default_retention(),
            record_format: RecordFormat::default(),
            key: None,
            config: BTreeMap::new(),
            dead_letter: DeadLetter::default(),
        }
    }
}

/// What a record of the topic is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RecordFormat {
    #[default]
    Batch,
    Single,
}

/// What is the key of a record that is one event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RecordKey {
    #[default]
    UserId,
    DeviceId,
    SessionId,
    EventId,
    AppId,
}

/// The topic for what could not be stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.topic) == has(oldSelf.topic) && (!has(self.topic) || self.topic == oldSelf.topic)")
        .message("deadLetter.topic cannot change")
        .field_path(".topic")
)]
pub struct DeadLetter {
    /// Name of the topic; cannot change. Default: `<topic>.dlq`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200), regex(pattern = schema::TOPIC))]
    pub topic: Option<String>,
    /// How long dead letters are kept: `12h`, `30d`.
    #[serde(default = "DeadLetter::default_retention")]
    #[schemars(with = "String", length(max = 8), regex(pattern = schema::RETENTION))]
    pub retention: Duration,
}

impl DeadLetter {
    const fn default_retention() -> Duration {
        Duration::from_secs(30 * 24 * 3600)
    }
}

impl Default for DeadLetter {
    fn default() -> Self {
        Self {
            topic: None,
            retention: Self::default_retention(),
        }
    }
}

/// Where pods share how much of a quota is used, and where live figures are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.address) || !(has(self.tls) || has(self.secret))")
        .message("tls and secret are for a Redis that address names: how the installation's is reached is the installation's to say")
        .field_path(".address")
)]
pub struct Redis {
    /// `host:port`. Default: the installation's Redis; without any, each pod enforces its own share of the limits, and
    /// there are no live figures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 260), regex(pattern = schema::HOST_PORT))]
    pub address: Option<String>,
    /// The Redis at `address` is spoken to over TLS; `{}` is enough where the system's authorities know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<RedisTls>,
    /// A Secret of the namespace with `username` (Redis's own is `default`) and `password`. A change restarts no pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::SUBDOMAIN))]
    pub secret: Option<String>,
    /// Number of the database.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1023))]
    pub database: i32,
}
