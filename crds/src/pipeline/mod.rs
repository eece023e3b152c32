//! `IngestionPipeline`: from Apps through a topic into a table.

mod access;
mod apps;
mod status;
mod stores;
mod tables;
mod workloads;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use access::{KafkaSasl, KafkaTls, RedisTls, SaslMechanism};
pub use apps::{AppSelection, LabelExpression, LabelOperator, LabelSelector};
pub use status::{EndpointStatus, IngestionPipelineStatus, ReplicaStatus};
pub use stores::{DeadLetter, Kafka, RecordFormat, RecordKey, Redis};
pub use tables::{ClickHouse, Compression, Counted, DeadLetterTable, Every, ExtraColumn, ExtraKind, Rollup};
pub use workloads::{
    Batch, Consume, Durability, Endpoint, EndpointTls, GroupProtocol, Ingest, IngestLimits, KafkaOutage,
    Protocol, Requested, Resources, Scaling, ScalingMode, Spool, SpoolVolume,
};

/// What a pipeline is.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "penstock.dev",
    version = "v1alpha1",
    kind = "IngestionPipeline",
    namespaced,
    status = "IngestionPipelineStatus",
    derive = "PartialEq",
    shortname = "ipl",
    category = "penstock",
    doc = "Takes events of Apps over HTTP, keeps them in a Kafka topic and stores each once in a ClickHouse table.",
    validation = Rule::new("size(self.metadata.name) <= 40").message("metadata.name: at most 40 characters, because names of Services and Deployments are derived from it"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message("metadata.name: lower-case letters, digits and '-', beginning with a letter"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Endpoint URL", type_ = "string", json_path = ".status.endpoints[0].url"),
    printcolumn(name = "Topic", type_ = "string", json_path = ".status.topic"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Table", type_ = "string", json_path = ".status.table", priority = 1),
    printcolumn(name = "Ingest", type_ = "integer", json_path = ".status.replicas.ingest", priority = 1),
    printcolumn(name = "Consume", type_ = "integer", json_path = ".status.replicas.consume", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.consume.scaling.replicas <= self.kafka.partitions")
        .message("consume.scaling.replicas must not exceed kafka.partitions: a consumer without a partition does nothing")
        .field_path(".consume.scaling.replicas")
)]
pub struct IngestionPipelineSpec {
    /// Whose events are accepted. Only Apps of the same namespace.
    pub apps: AppSelection,
    /// How SDKs reach the pipeline.
    #[serde(default)]
    pub endpoint: Endpoint,
    /// The pods that take events.
    #[serde(default)]
    pub ingest: Ingest,
    /// The topic that keeps events until they are stored.
    #[serde(default)]
    pub kafka: Kafka,
    /// The pods that store events.
    #[serde(default)]
    pub consume: Consume,
    /// The table that events are stored in.
    #[serde(default)]
    pub clickhouse: ClickHouse,
    /// Where pods share how much of a quota is used, and where live figures are kept.
    #[serde(default)]
    pub redis: Redis,
    /// What becomes of topic, table and consumer group when the pipeline is deleted. `Delete` removes only what
    /// Penstock created, never what it adopted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// What to do when the topic or the table exists already and is not marked as this pipeline's.
    #[serde(default)]
    pub adoption_policy: AdoptionPolicy,
}

/// What becomes of the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    #[default]
    Retain,
    Delete,
}

/// What to do with something that exists already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AdoptionPolicy {
    Adopt,
    #[default]
    Fail,
}
