//! Conditions: what the operator says about an object.
//!
//! Types and reasons are closed sets. A reason is stable: alerts and scripts may match it; the message is for people.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One statement about an object, keyed by its type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What is stated, for example `Ready`.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 64))]
    pub type_: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// Why, in one word of a closed set.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Z][A-Za-z0-9]*$"))]
    pub reason: String,
    /// Why, for a person.
    #[serde(default)]
    #[schemars(length(max = 4096))]
    pub message: String,
    /// Since when the status is what it is.
    pub last_transition_time: Time,
    /// The generation of the object that this was said about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    True,
    False,
    Unknown,
}

/// Declares a closed set of words: the variants, their text and their meaning, once.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])+ $variant:ident),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[doc = $doc])+ $variant),+ }

        impl $name {
            /// Every word, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word as it stands in a condition, an event or a metric label.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant)),+ }
            }

            /// What it means, for the reference.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+)),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// What a condition is about.
    ConditionType {
        /// The object is valid, what it needs exists, and its workloads serve this generation.
        Ready,
        /// The topic and its dead-letter topic exist as the spec says.
        TopicsReady,
        /// The database and the table exist as the spec says, and what is beside it. Where only the table of dead letters does
        /// not, this is false, and `Ready` stays true: events are stored and pods are rolled out all the same.
        TablesReady,
        /// The limits of the bound Apps are in Redis, where the pods share their usage.
        QuotasReady,
        /// Ingest and consume have their pods.
        WorkloadsAvailable,
        /// The topic survives the loss of a broker.
        Durable,
        /// Acknowledged events wait on the disks of pods, each the only copy. Present only when true.
        DurabilityDegraded,
        /// The keys of the App exist.
        KeysReady,
        /// Writes are stopped by the annotation penstock.dev/paused. Present only when true.
        Paused,
        /// A change is on its way. Present only when true.
        Reconciling,
        /// Nothing goes on until someone changes something. Present only when true.
        Stalled,
    }
}

words! {
    /// Why a condition is what it is; also the reason of an event and the label of a metric.
    Reason {
        /// All is as the spec says.
        Available,
        /// First seen, or waiting for the step before.
        Pending,
        /// Not every pod of this generation is available yet.
        RollingOut,
        /// Fewer pods are available than the spec asks for, and none is on its way.
        PodsUnavailable,
        /// Created something outside Kubernetes.
        Created,
        /// Changed something to match the spec.
        Updated,
        /// Deleted something because the spec says so.
        Deleted,
        /// An annotation has stopped writes.
        PausedByAnnotation,
        /// The spec cannot be used; the message says which field and why.
        InvalidSpec,
        /// Another, older pipeline owns the topic or the table.
        ResourceConflict,
        /// The topic or database is outside what this namespace may use (the chart's `tenancy`).
        NameNotAllowed,
        /// The topic or table exists, belongs to nobody known, and `adoptionPolicy` is `Fail`.
        AdoptionRefused,
        /// The spec asks for what cannot be done to something that exists.
        NotSupported,
        /// The table differs from what is needed in a way that only a destructive statement would mend.
        SchemaConflict,
        /// An adopted table remembers too few insert blocks to recognise a repeated one.
        DedupWindowTooSmall,
        /// The address leads to more than one shard, and one is what is supported.
        ShardedTargetUnsupported,
        /// The topic has one replica: losing its broker loses events.
        SingleReplica,
        /// The topic has replicas, but one acknowledgement may mean one copy.
        WeakAcknowledgement,
        /// Events are kept in spools until Kafka takes them.
        Spooling,
        /// A claim of a spool that no pod has any more is being drained to Kafka.
        Draining,
        /// A claim of a spool that no pod has any more could not be drained to Kafka; it is kept.
        DrainFailed,
        /// Kafka cannot be reached or does not answer in time.
        KafkaUnavailable,
        /// Kafka refused a request.
        KafkaRejected,
        /// ClickHouse cannot be reached or does not answer in time.
        ClickHouseUnavailable,
        /// ClickHouse refused a statement.
        ClickHouseRejected,
        /// Redis cannot be reached; pods go on with the limits they know.
        RedisUnavailable,
        /// No connection is configured: neither the spec nor the installation names an address.
        NotConfigured,
        /// No Redis is configured: every pod enforces its own share of the limits.
        LocalOnly,
        /// An App that is named does not exist.
        AppNotFound,
        /// A Secret that is named does not exist, or lacks the key.
        SecretNotFound,
        /// A Secret holds something that cannot be a key.
        SecretInvalid,
        /// A Secret of that name exists and belongs to someone else.
        SecretConflict,
        /// A generated key was lost and a new one made.
        KeyRegenerated,
        /// A key is past its expiry.
        KeyExpired,
        /// The same key, id or alias belongs to more than one bound App.
        AppConflict,
        /// The API server refused a write.
        ApiRejected,
        /// The API server cannot be reached or does not answer in time.
        ApiUnavailable,
        /// The stored object cannot be read as this version of the API.
        Malformed,
        /// Waiting for something outside to be deleted.
        Deleting,
        /// This operator is no longer the one that may write.
        LeadershipLost,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn words_are_distinct_and_explained() {
        let words: BTreeSet<_> = Reason::ALL.iter().map(|r| r.as_str()).collect();
        assert_eq!(words.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert!(
                reason.meaning().trim_end().ends_with('.'),
                "{reason} is not explained by a sentence"
            );
        }
    }
}
