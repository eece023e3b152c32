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
            Self::Rejected { .. } => Reason::ApiRejected,
            Self::Conflict { .. } | Self::Unavailable { .. } => Reason::ApiUnavailable,
        }
    }

    /// Whether trying again soon may help.
    pub const fn passes(&self) -> bool {
        !matches!(self, Self::Rejected { .. })
    }
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
    /// The object's resourceVersion now.
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

    /// Makes the object so. `live`: the resourceVersion that the cache holds, if it holds the object.
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
        let version = stored.resource_version().unwrap_or_default();
        // The answer's version equals the cached one when nothing changed.
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
        "Service" => "Service",
        "ServiceAccount" => "ServiceAccount",
        "ConfigMap" => "ConfigMap",
        "Secret" => "Secret",
        "PodDisruptionBudget" => "PodDisruptionBudget",
        "Pod" => "Pod",
        _ => "other",
    }
}
