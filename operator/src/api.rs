//! Writing to the Kubernetes API: only while leading, only what differs.
//!
//! Objects are written by server-side apply with force, one field manager for each controller: what others added stays,
//! what is ours comes back. A write that would change nothing is not sent: the writer remembers what it sent last and
//! what came of it.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};

use k8s_openapi::NamespaceResourceScope;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt};
use penstock_crds::Reason;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::lease::Leadership;
use crate::metrics::Metrics;

/// Why a request to the API server failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("this operator no longer leads")]
    NotLeading,
    /// Nothing more can be made there, and nothing needs to be.
    #[error("the namespace of {what} is being deleted")]
    Terminating { what: String },
    #[error("the API server refused {what}: {message}")]
    Rejected { what: String, message: String },
    #[error("{what} has changed meanwhile")]
    Conflict { what: String },
    #[error("the API server did not answer about {what}: {message}")]
    Unavailable { what: String, message: String },
}

impl ApiError {
    /// From an error of the client; `what` names the object, never its content.
    pub fn from(what: impl Into<String>, error: &kube::Error) -> Self {
        let what = what.into();
        match error {
            kube::Error::Api(status) => match status.code {
                409 => Self::Conflict { what },
                403 if terminating(status) => Self::Terminating { what },
                400 | 403 | 404 | 405 | 413 | 415 | 422 => Self::Rejected {
                    what,
                    message: status.message.clone(),
                },
                _ => Self::Unavailable {
                    what,
                    message: status.message.clone(),
                },
            },
            kube::Error::SerdeError(error) => Self::Rejected {
                what,
                message: error.to_string(),
            },
            other => Self::Unavailable {
                what,
                message: other.to_string(),
            },
        }
    }

    pub const fn reason(&self) -> Reason {
        match self {
            Self::NotLeading => Reason::LeadershipLost,
            Self::Terminating { .. } => Reason::Deleting,
            Self::Rejected { .. } => Reason::ApiRejected,
            Self::Conflict { .. } | Self::Unavailable { .. } => Reason::ApiUnavailable,
        }
    }

    /// Whether trying again soon may help.
    pub const fn passes(&self) -> bool {
        !matches!(self, Self::Rejected { .. })
    }
}

/// Whether a refusal is due to the end of the namespace.
fn terminating(status: &kube::core::Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes
        .into_iter()
        .any(|cause| cause.reason == "NamespaceTerminating")
}

/// What tells one state of an object from another. A resourceVersion also moves with the status, which is not ours; where
/// the API server counts generations of the spec, those and the metadata tell what matters.
pub fn stamp(object: &impl Resource) -> String {
    let meta = object.meta();
    let Some(generation) = meta.generation else {
        return meta.resource_version.clone().unwrap_or_default();
    };
    let mut hasher = DefaultHasher::new();
    (&meta.uid, &meta.labels, &meta.annotations).hash(&mut hasher);
    for owner in meta.owner_references.iter().flatten() {
        (&owner.uid, owner.controller).hash(&mut hasher);
    }
    format!("{generation}-{:016x}", hasher.finish())
}

/// The namespaced kinds that the operator writes.
pub trait Writable:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned
{
}

impl<K> Writable for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
{
}

/// Kind, namespace and name.
type Key = (String, String, String);

struct Sent {
    content: u64,
    version: String,
}

/// What a write has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Whether it changed anything.
    pub changed: bool,
    /// The object's [`stamp`] now.
    pub version: String,
}

/// Writes as one field manager.
pub struct Writer {
    client: Client,
    leadership: Leadership,
    metrics: Metrics,
    manager: &'static str,
    sent: Mutex<HashMap<Key, Sent>>,
}

impl Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer")
            .field("manager", &self.manager)
            .finish_non_exhaustive()
    }
}

fn key<K: Writable>(object: &K) -> Key {
    (
        K::kind(&()).into_owned(),
        object.namespace().unwrap_or_default(),
        object.name_any(),
    )
}

fn label<K: Writable>(namespace: &str, name: &str) -> String {
    format!("{} {namespace}/{name}", K::kind(&()))
}

impl Writer {
    pub fn new(client: Client, leadership: Leadership, metrics: Metrics, manager: &'static str) -> Self {
        Self {
            client,
            leadership,
            metrics,
            manager,
            sent: Mutex::default(),
        }
    }

    pub fn api<K: Writable>(&self, namespace: &str) -> Api<K> {
        Api::namespaced(self.client.clone(), namespace)
    }

    fn permit<K: Writable>(&self) -> Result<(), ApiError> {
        if !self.leadership.held() {
            return Err(ApiError::NotLeading);
        }
        self.metrics.wrote(kind_label::<K>());
        Ok(())
    }

    /// Makes the object so. `live`: the [`stamp`] of what the cache holds, if it holds the object.
    pub async fn apply<K: Writable>(&self, object: &K, live: Option<&str>) -> Result<Written, ApiError> {
        let key = key(object);
        let json = serde_json::to_value(object).map_err(|error| ApiError::Rejected {
            what: label::<K>(&key.1, &key.2),
            message: error.to_string(),
        })?;
        let mut hasher = DefaultHasher::new();
        json.to_string().hash(&mut hasher);
        let content = hasher.finish();
        {
            let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
            if let (Some(sent), Some(live)) = (sent.get(&key), live)
                && sent.content == content
                && sent.version == live
            {
                return Ok(Written {
                    changed: false,
                    version: live.to_owned(),
                });
            }
        }
        self.permit::<K>()?;
        let parameters = PatchParams::apply(self.manager).force();
        let stored: K = self
            .api(&key.1)
            .patch(&key.2, &parameters, &Patch::Apply(&json))
            .await
            .map_err(|error| ApiError::from(label::<K>(&key.1, &key.2), &error))?;
        let version = stamp(&stored);
        // The answer equals what is cached when nothing changed.
        let changed = Some(version.as_str()) != live;
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).insert(
            key,
            Sent {
                content,
                version: version.clone(),
            },
        );
        Ok(Written { changed, version })
    }

    /// Creates an object that must not exist yet.
    pub async fn create<K: Writable>(&self, object: &K) -> Result<K, ApiError> {
        self.permit::<K>()?;
        let (_, namespace, name) = key(object);
        let parameters = PostParams {
            field_manager: Some(self.manager.into()),
            ..PostParams::default()
        };
        let created = self.api(&namespace).create(&parameters, object).await;
        created.map_err(|error| ApiError::from(label::<K>(&namespace, &name), &error))
    }

    /// Deletes this very object, not a later one of its name. That it is gone already is fine.
    pub async fn delete<K: Writable>(
        &self,
        namespace: &str,
        name: &str,
        uid: Option<&str>,
    ) -> Result<(), ApiError> {
        self.permit::<K>()?;
        let mut parameters = DeleteParams::background();
        if let Some(uid) = uid {
            parameters = parameters.preconditions(Preconditions {
                uid: Some(uid.into()),
                resource_version: None,
            });
        }
        match self.api::<K>(namespace).delete(name, &parameters).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => return Err(ApiError::from(label::<K>(namespace, name), &error)),
        }
        let key = (K::kind(&()).into_owned(), namespace.to_owned(), name.to_owned());
        self.sent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&key);
        Ok(())
    }

    /// Forgets what was sent about objects of these names: they are gone with their owner.
    pub fn forget(&self, namespace: &str, names: &[String]) {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.retain(|(_, in_namespace, name), _| in_namespace != namespace || !names.contains(name));
    }

    /// Merges a patch into an object: for metadata that belongs to nobody's apply.
    pub async fn merge<K: Writable>(
        &self,
        namespace: &str,
        name: &str,
        patch: &serde_json::Value,
    ) -> Result<(), ApiError> {
        self.permit::<K>()?;
        let parameters = PatchParams {
            field_manager: Some(self.manager.into()),
            ..PatchParams::default()
        };
        match self
            .api::<K>(namespace)
            .patch_metadata(name, &parameters, &Patch::Merge(patch))
            .await
        {
            Ok(_) => Ok(()),
            Err(error) => Err(ApiError::from(label::<K>(namespace, name), &error)),
        }
    }

    /// Writes a status. The caller has compared: this is always sent.
    pub async fn status<K: Writable>(
        &self,
        namespace: &str,
        name: &str,
        status: &impl Serialize,
    ) -> Result<(), ApiError> {
        self.permit::<K>()?;
        let patch = serde_json::json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            "metadata": {"name": name},
            "status": status,
        });
        let parameters = PatchParams::apply(self.manager).force();
        let stored = self
            .api::<K>(namespace)
            .patch_subresource("status", name, &parameters, &Patch::Apply(&patch))
            .await;
        match stored {
            Ok(_) => Ok(()),
            // It was deleted meanwhile, and needs no status.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(ApiError::from(label::<K>(namespace, name), &error)),
        }
    }
}

/// The kind as a label of a metric.
fn kind_label<K: Writable>() -> &'static str {
    match K::kind(&()).as_ref() {
        "App" => "App",
        "IngestionPipeline" => "IngestionPipeline",
        "Deployment" => "Deployment",
        "StatefulSet" => "StatefulSet",
        "PersistentVolumeClaim" => "PersistentVolumeClaim",
        "Job" => "Job",
        "Service" => "Service",
        "ServiceAccount" => "ServiceAccount",
        "ConfigMap" => "ConfigMap",
        "Secret" => "Secret",
        "PodDisruptionBudget" => "PodDisruptionBudget",
        "Pod" => "Pod",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::core::Status;
    use kube::core::response::{StatusCause, StatusDetails};

    use super::*;

    #[test]
    fn refusals_are_told_apart() {
        let from = |status: Status| ApiError::from("Secret a/b", &kube::Error::Api(status.boxed()));
        let status = |code| Status::failure("no", "Reason").with_code(code);
        for (code, reason, passes) in [
            (403, Reason::ApiRejected, false),
            (422, Reason::ApiRejected, false),
            (409, Reason::ApiUnavailable, true),
            (429, Reason::ApiUnavailable, true),
            (500, Reason::ApiUnavailable, true),
        ] {
            let error = from(status(code));
            assert_eq!((error.reason(), error.passes()), (reason, passes), "{code}");
        }
        let cause = StatusCause {
            reason: "NamespaceTerminating".into(),
            message: String::new(),
            field: String::new(),
        };
        let details = StatusDetails {
            causes: vec![cause],
            ..serde_json::from_str("{}").unwrap()
        };
        assert_eq!(from(status(403).with_details(details)).reason(), Reason::Deleting);
    }

    #[test]
    fn a_status_is_no_change_but_a_label_is() {
        let deployment = |yaml: &str| serde_yaml::from_str::<Deployment>(yaml).unwrap();
        let one = deployment("metadata: {resourceVersion: '1', generation: 3, labels: {a: b}}");
        let two = deployment("metadata: {resourceVersion: '2', generation: 3, labels: {a: b}}");
        let other = deployment("metadata: {resourceVersion: '3', generation: 3, labels: {a: c}}");
        let newer = deployment("metadata: {resourceVersion: '4', generation: 4, labels: {a: b}}");
        assert_eq!(stamp(&one), stamp(&two));
        assert_ne!(stamp(&one), stamp(&other));
        assert_ne!(stamp(&one), stamp(&newer));
        let map: ConfigMap = serde_yaml::from_str("metadata: {resourceVersion: '7'}").unwrap();
        assert_eq!(stamp(&map), "7");
    }
}
