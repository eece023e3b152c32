//! From a validated pipeline to the objects it is made of. Pure and infallible.
//!
//! ```text
//! NAME-ingest        Deployment, Service, PodDisruptionBudget, ServiceAccount, ConfigMap, Secret
//!                    with a spool a StatefulSet, whose ConfigMap is NAME-ingest-spool
//! NAME-consume       Deployment, PodDisruptionBudget, ServiceAccount, ConfigMap, Secret
//! NAME-apps          ConfigMap; not part of any pod template's hash
//! NAME-drain-N       Job that drains the claim spool-NAME-ingest-N, configured by the ConfigMap NAME-drain
//! ```
//!
//! Nothing here depends on the operator's version or the time: pods restart only when what they run or read at start
//! has changed.

mod drain;
mod parts;
mod pods;

use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde::Serialize;
use sha2::{Digest, Sha256};

pub(crate) use self::drain::{CLAIM_UID, DRAIN, drain_job, drain_name, ordinal_of_claim, ordinal_of_job};
use super::secrets::{Credentials, Files};
use super::validate::Validated;
use crate::controllers::labels;
use crate::identity::hex;

/// A role of the data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Ingest,
    Consume,
}

impl Role {
    /// The role as the binary's argument, the component's label and the names' suffix.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Consume => "consume",
        }
    }

    /// The name that the role's objects have.
    pub(crate) fn object(self, pipeline: &str) -> String {
        format!("{pipeline}-{}", self.as_str())
    }
}

/// The objects of one role.
#[derive(Clone)]
pub(crate) struct RoleObjects {
    pub account: ServiceAccount,
    pub config: ConfigMap,
    /// What its pods say who they are with, where they have to.
    pub secret: Option<Secret>,
    pub budget: PodDisruptionBudget,
    pub runner: Runner,
}

/// Without the Secret.
impl std::fmt::Debug for RoleObjects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RoleObjects")
            .field("account", &self.account)
            .field("config", &self.config)
            .field("budget", &self.budget)
            .field("runner", &self.runner)
            .finish_non_exhaustive()
    }
}

/// What keeps a role's pods running.
#[derive(Clone, Debug)]
pub(crate) enum Runner {
    Deployment(Box<Deployment>),
    /// Ingest with a spool.
    StatefulSet(Box<StatefulSet>),
}

/// All objects of a pipeline.
#[derive(Clone, Debug)]
pub(crate) struct Objects {
    pub apps: ConfigMap,
    /// Short digest of what running pods read again: the list of Apps, and the Secrets.
    pub revision: String,
    pub service: Service,
    pub ingest: RoleObjects,
    pub consume: RoleObjects,
    /// For Jobs that drain claims; there is a need for it only when there is one for them.
    pub drain_config: ConfigMap,
}

/// The volume of a spool in its pod, and the first part of its claim's name.
pub(crate) const SPOOL: &str = "spool";

/// The list of Apps in its ConfigMap.
pub(crate) const APPS_FILE: &str = "apps.yaml";

/// Name of the ConfigMap that holds the list of Apps.
pub(crate) fn apps_name(pipeline: &str) -> String {
    format!("{pipeline}-apps")
}

/// Name of the ConfigMap of ingest with a spool. It has one of its own: while a StatefulSet takes over from a Deployment,
/// or the other way round, the pods of both restart with what is theirs.
pub(crate) fn spool_config_name(pipeline: &str) -> String {
    format!("{}-{SPOOL}", Role::Ingest.object(pipeline))
}

/// The Secret of a role's pods, if they need one. It is made before they are.
fn secret(pipeline: &Validated, role: Role, files: &Files) -> Option<Secret> {
    let data = files
        .iter()
        .map(|(name, content)| (name.to_owned(), ByteString(content.to_vec())));
    let mut metadata = parts::metadata(pipeline, role.as_str(), role.object(&pipeline.subject.name));
    let target = &pipeline.target;
    let redis = target.redis.as_ref().map_or("", |redis| redis.address.as_str());
    let services = format!("{} {} {redis}", target.bootstrap, target.clickhouse_url);
    metadata
        .annotations
        .get_or_insert_default()
        .insert(labels::SERVICES.to_owned(), services);
    (!files.is_empty()).then(|| Secret {
        metadata,
        data: Some(data.collect()),
        type_: Some("Opaque".into()),
        ..Secret::default()
    })
}

/// Builds.
pub(crate) fn build(pipeline: &Validated, credentials: &Credentials) -> Objects {
    let ingest_config = yaml(&pipeline.ingest.config);
    let consume_config = yaml(&pipeline.consume.config);
    let apps = yaml(&pipeline.apps.file);
    let role = |role: Role, config: String, files: &Files| {
        let secret = secret(pipeline, role, files);
        let has_secret = secret.is_some();
        let hash = fingerprint(&[&config, &files.restarts()]);
        let runner = match &pipeline.volume {
            Some(volume) if role == Role::Ingest => {
                Runner::StatefulSet(Box::new(pods::stateful_set(pipeline, volume, &hash, has_secret)))
            }
            _ => Runner::Deployment(Box::new(pods::deployment(pipeline, role, &hash, has_secret))),
        };
        RoleObjects {
            account: parts::account(pipeline, role),
            budget: parts::budget(pipeline, role),
            runner,
            secret,
            config: parts::config_map(
                pipeline,
                role.as_str(),
                parts::config_name(pipeline, role),
                "config.yaml",
                config,
            ),
        }
    };
    Objects {
        revision: fingerprint(&[
            &apps,
            &credentials.ingest.revision(),
            &credentials.consume.revision(),
        ]),
        apps: parts::config_map(
            pipeline,
            "apps",
            apps_name(&pipeline.subject.name),
            APPS_FILE,
            apps,
        ),
        service: parts::service(pipeline),
        ingest: role(Role::Ingest, ingest_config, &credentials.ingest),
        consume: role(Role::Consume, consume_config, &credentials.consume),
        drain_config: parts::config_map(
            pipeline,
            DRAIN,
            drain_name(&pipeline.subject.name),
            "config.yaml",
            yaml(&pipeline.drain),
        ),
    }
}

/// 16 hex digits of SHA-256: enough to see that something changed.
fn fingerprint(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hex(&hash.finalize())[..16].to_owned()
}

/// A file of the data plane. Its types are maps, lists and text, which YAML always holds.
fn yaml(config: &impl Serialize) -> String {
    serde_yaml::to_string(config).unwrap_or_default()
}
