//! `App`: a product whose SDKs send events.

use kube::{CustomResource, KubeSchema};
use penstock_dataplane_config::{ByteSize, Duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::conditions::Condition;
use crate::schema;

/// What an App is.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "penstock.dev",
    version = "v1alpha1",
    kind = "App",
    namespaced,
    status = "AppStatus",
    derive = "PartialEq",
    shortname = "papp",
    category = "penstock",
    doc = "A product whose SDKs send events: its identity, its API keys and its limits.",
    validation = Rule::new("size(self.metadata.name) <= 40").message("metadata.name: at most 40 characters, because names of Secrets are derived from it"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message("metadata.name: lower-case letters, digits and '-', beginning with a letter"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "App ID", type_ = "string", json_path = ".status.appId"),
    printcolumn(name = "Events Today", type_ = "integer", json_path = ".status.usage.events"),
    printcolumn(name = "Suspended", type_ = "boolean", json_path = ".spec.suspended"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Display Name", type_ = "string", json_path = ".spec.displayName", priority = 1),
    printcolumn(name = "Pipelines", type_ = "string", json_path = ".status.boundPipelines", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(oldSelf.id) || (has(self.id) && self.id == oldSelf.id)")
        .message("id is set once: events are stored under it")
        .field_path(".id")
)]
pub struct AppSpec {
    /// UUID that events are stored under. Set once. Without it the id is derived from the cluster's id, the namespace
    /// and the name; the effective one is `status.appId`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 36),
        regex(pattern = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")
    )]
    pub id: Option<String>,
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100))]
    pub display_name: Option<String>,
    /// API keys. Several may be valid at once, so that a key is rotated without a gap: add the new one, change the
    /// clients, remove the old one.
    #[serde(default = "default_keys")]
    #[schemars(length(max = 16))]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["name".into()]),
        validation = Rule::new("self.all(k, !has(k.secretRef) || self.exists_one(o, has(o.secretRef) && o.secretRef.name == k.secretRef.name && o.secretRef.key == k.secretRef.key))")
            .message("two keys refer to the same key of the same Secret (secretRef)")
    )]
    pub keys: Vec<AppKey>,
    /// Limits. What is absent is unlimited.
    #[serde(default)]
    pub quota: AppQuota,
    /// How long events are kept, from when they happened: `400d`. Older ones are not stored but go to the dead-letter topic, as far as
    /// the quota has room.
    /// A change is for events that come after it. Absent: for good, and nothing older than 730 days is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", length(max = 5), regex(pattern = schema::DAYS))]
    pub retention: Option<Duration>,
    /// True: every request with a key of this App is refused with 403.
    #[serde(default)]
    pub suspended: bool,
    /// Web pages that may send with this App's keys, by their origin as browsers write it: `https://shop.example`. Of
    /// any other page requests are refused with 403. None: any page may send, without credentials. Who is no browser
    /// sends no origin, and is not asked for one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        inner(length(min = 4, max = 255), regex(pattern = schema::ORIGIN))
    )]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(o, !(o.startsWith('https://') && o.endsWith(':443')) && !(o.startsWith('http://') && o.endsWith(':80')))")
            .message("an origin has no port that is its scheme's own: browsers leave it out")
    )]
    pub origins: Vec<String>,
    /// Ids that the product had before, accepted wherever a body carries `app_id`. What is stored is the App's UUID.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(length(min = 1, max = 64), regex(pattern = r"^[!-~]+$"))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub aliases: Vec<String>,
}

fn default_keys() -> Vec<AppKey> {
    vec![AppKey {
        name: "default".into(),
        scope: KeyScope::Write,
        trusted: false,
        secret_ref: None,
        expires_at: None,
    }]
}

/// An API key: generated into the Secret `<app>-<name>`, or taken from a Secret that someone else keeps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AppKey {
    /// Name of the key within the App; without a `secretRef` the key is generated into the Secret `<app>-<name>`.
    #[schemars(length(min = 1, max = 20), regex(pattern = schema::LABEL))]
    pub name: String,
    /// What the key may do: `Write` sends events, `Read` is refused by ingest.
    #[serde(default)]
    pub scope: KeyScope,
    /// True for a backend that forwards the events of others: `ip` and `user_agent` in its events count. Of other keys
    /// they are dropped, because anybody could send them.
    #[serde(default)]
    pub trusted: bool,
    /// A Secret in the same namespace that holds the key. Absent: the operator generates one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKeyRef>,
    /// From this moment on the key is refused (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40), extend("format" = "date-time"))]
    pub expires_at: Option<String>,
}

/// What a key may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum KeyScope {
    #[default]
    Write,
    Read,
}

/// A value in a Secret of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::SUBDOMAIN))]
    pub name: String,
    /// Key within the Secret's data.
    #[serde(default = "SecretKeyRef::default_key")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

impl SecretKeyRef {
    fn default_key() -> String {
        "key".into()
    }
}

/// An App's limits, shared by all pods of a pipeline; days are UTC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.burst) || has(self.eventsPerSecond)")
        .message("burst needs eventsPerSecond")
        .field_path(".burst"),
    validation = Rule::new("!has(self.burst) || self.burst >= 1000")
        .message("burst must be at least 1000, because a batch may have that many events")
        .field_path(".burst")
)]
pub struct AppQuota {
    /// Events per second, on average.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub events_per_second: Option<i64>,
    /// How many events may come at once, at least 1000. Default: `eventsPerSecond`, at least 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 10_000_000_000i64))]
    pub burst: Option<i64>,
    /// Events per UTC day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000_000i64))]
    pub events_per_day: Option<i64>,
    /// Accepted bytes of events per UTC day, for example `10GB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", length(max = 12), regex(pattern = schema::SIZE))]
    pub bytes_per_day: Option<ByteSize>,
}

/// What the operator says about an App.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AppStatus {
    /// The generation that this status is about; -1 before the first look.
    #[serde(default = "crate::generate::never_observed")]
    pub observed_generation: i64,
    /// The effective id: `spec.id`, or the derived one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 36))]
    pub app_id: Option<String>,
    /// Ready, KeysReady; Paused, Reconciling and Stalled while true.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The keys in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub keys: Vec<KeyStatus>,
    /// The pipelines of this namespace that accept this App's events.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 253)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub bound_pipelines: Vec<String>,
    /// What the App has used today, about a minute old. Absent while nothing was sent, or where no pipeline has a Redis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageStatus>,
}

impl Default for AppStatus {
    fn default() -> Self {
        Self {
            observed_generation: crate::generate::never_observed(),
            app_id: None,
            conditions: Vec::new(),
            keys: Vec::new(),
            bound_pipelines: Vec::new(),
            usage: None,
        }
    }
}

/// A key in force, recognisable without being known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyStatus {
    /// Name of the key within the App.
    #[schemars(length(max = 20))]
    pub name: String,
    /// First 8 hex digits of the key's SHA-256.
    #[schemars(length(max = 8))]
    pub fingerprint: String,
    /// The Secret that holds the key.
    #[schemars(length(max = 253))]
    pub secret_name: String,
}

/// Accepted events of a UTC day, over all pipelines that accept the App.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsageStatus {
    /// The UTC day, for example `2026-11-21`.
    #[schemars(length(max = 10))]
    pub day: String,
    /// Accepted events.
    pub events: i64,
    /// Their bytes, as quotas count them.
    pub bytes: i64,
}
