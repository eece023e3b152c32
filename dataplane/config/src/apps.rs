//! `apps.yaml`: which Apps a pipeline accepts, by which keys and within which limits.
//!
//! Read again whenever it changes, so a new App is accepted and a revoked key refused without a restart. A file
//! that cannot be read or parsed leaves the last good one in force.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::units::Duration;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AppsFile {
    /// [`crate::CONFIG_VERSION`].
    pub version: u32,
    /// How many ingest pods share the quotas; a pod that has never reached Redis takes limit/replicas.
    pub replicas: u32,
    #[serde(default)]
    pub apps: Vec<AppEntry>,
}

/// One App as ingest sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AppEntry {
    /// The effective id (`status.appId`): what is stored as `app_id`.
    pub id: Uuid,
    /// `namespace/name` of the App, for logs and metric labels.
    pub name: String,
    /// Ids the product had before, accepted wherever a body carries `app_id`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// A suspended App's requests are refused with 403.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspended: bool,
    /// Origins of web pages that may send, as browsers write them: `https://shop.example`. None means any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<String>,
    /// How long events are kept, in whole days: `400d`. Absent: for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Duration>,
    #[serde(default, skip_serializing_if = "Quota::is_unlimited")]
    pub quota: Quota,
    #[serde(default)]
    pub keys: Vec<KeyEntry>,
}

/// A key, by its digest. The key itself never reaches a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyEntry {
    /// The key's name in the App.
    pub name: String,
    /// SHA-256 of the key's bytes, in lower-case hex.
    pub digest: String,
    pub scope: KeyScope,
    /// Whether `ip` and `user_agent` of an event count, because the sender speaks for others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub trusted: bool,
    /// RFC 3339; from this moment on the key is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

/// What a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyScope {
    /// Send events.
    Write,
    /// Read what was stored; refused by ingest.
    Read,
}

/// An App's limits, shared by all pods of a pipeline. Absent means unlimited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Quota {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events_per_second: Option<u64>,
    /// How many events may come at once; defaults to `events_per_second`, at least 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u64>,
    /// Per UTC day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events_per_day: Option<u64>,
    /// Accepted event bytes per UTC day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_day: Option<u64>,
}

impl Quota {
    /// True when no limit is set.
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }
}
