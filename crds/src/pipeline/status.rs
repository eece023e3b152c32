//! What the operator says about a pipeline.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::workloads::Protocol;
use crate::conditions::Condition;

/// What the operator says about a pipeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct IngestionPipelineStatus {
    /// The generation that this status is about; -1 before the first look.
    #[serde(default = "crate::generate::never_observed")]
    pub observed_generation: i64,
    /// Ready, TopicsReady, TablesReady, QuotasReady, WorkloadsAvailable, Durable; DurabilityDegraded, Paused, Reconciling
    /// and Stalled while true.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Where SDKs send events.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["protocol".into()]))]
    pub endpoints: Vec<EndpointStatus>,
    /// The topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 249))]
    pub topic: Option<String>,
    /// The topic for what could not be stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 249))]
    pub dead_letter_topic: Option<String>,
    /// The table, `database.table`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 130))]
    pub table: Option<String>,
    /// Available pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<ReplicaStatus>,
}

impl Default for IngestionPipelineStatus {
    fn default() -> Self {
        Self {
            observed_generation: crate::generate::never_observed(),
            conditions: Vec::new(),
            endpoints: Vec::new(),
            topic: None,
            dead_letter_topic: None,
            table: None,
            replicas: None,
        }
    }
}

/// One address and what is spoken there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointStatus {
    /// The HTTP contract.
    pub protocol: Protocol,
    /// What an SDK is given as its address.
    #[schemars(length(max = 512))]
    pub url: String,
}

/// Available pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaStatus {
    /// Pods that take events.
    pub ingest: i32,
    /// Pods that store events.
    pub consume: i32,
}
