//! Writing a pipeline's objects, each only where it is the pipeline's.
//!
//! Order: what pods read comes before pods, consume before ingest. An object of the same name that someone else made is
//! left alone and reported.

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::ResourceExt;
use kube::api::ListParams;

use super::build::{Objects, Role, RoleObjects};
use super::rollout::Gate;
use super::validate::Validated;
use crate::api::{ApiError, Writable, Writer, Written};
use crate::controllers::cache::{Cached, Caches, Held};
use crate::controllers::labels;

/// Applies one object of ours.
pub(super) async fn apply<K>(
    object: &K,
    owner: &str,
    caches: &Caches,
    writer: &Writer,
) -> Result<Written, ApiError>
where
    K: Writable + Cached,
{
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let cached = caches.held::<K>(&namespace, &name);
    let held = match cached {
        Some(held) => Some(held),
        // The caches hold what bears our label. Something else may have the name.
        None => writer
            .api::<K>(&namespace)
            .get_metadata_opt(&name)
            .await
            .map_err(|error| ApiError::from(format!("{} {namespace}/{name}", K::kind(&())), &error))?
            .map(|found| Held::of(&found)),
    };
    if let Some(held) = &held
        && !held.belongs_to(
            owner,
            object.labels().get(labels::PIPELINE).map_or("", String::as_str),
        )
    {
        let what = format!("{} {namespace}/{name}", K::kind(&()));
        return Err(if held.controller.is_some() {
            // Most likely of a pipeline of this name that was deleted a moment ago; then it goes by itself.
            ApiError::Conflict {
                what: format!("{what} belongs to another object, which"),
            }
        } else {
            ApiError::Rejected {
                what,
                message: "it exists and was not made by Penstock; delete or rename it".into(),
            }
        });
    }
    writer
        .apply(object, held.as_ref().map(|h| h.version.as_str()))
        .await
}

/// Applies the credentials of consumers; their version enters the pods' hash.
pub(super) async fn credentials(
    secret: &Secret,
    owner: &str,
    caches: &Caches,
    writer: &Writer,
) -> Result<String, ApiError> {
    Ok(apply(secret, owner, caches, writer).await?.version)
}

/// What is to be done about the two Deployments.
#[derive(Clone, Debug)]
pub(super) struct Gates {
    pub consume: Gate,
    pub ingest: Gate,
    /// Whether the Deployments are there: a configuration that they read is not changed under them.
    pub consume_exists: bool,
    pub ingest_exists: bool,
}

/// Applies what may be applied now of all that the list of Apps is not.
pub(super) async fn objects(
    pipeline: &Validated,
    objects: &Objects,
    gates: &Gates,
    caches: &Caches,
    writer: &Writer,
) -> Result<(), ApiError> {
    let owner = pipeline.subject.uid.as_str();
    apply(&objects.service, owner, caches, writer).await?;
    role(
        &objects.consume,
        &gates.consume,
        gates.consume_exists,
        owner,
        caches,
        writer,
    )
    .await?;
    role(
        &objects.ingest,
        &gates.ingest,
        gates.ingest_exists,
        owner,
        caches,
        writer,
    )
    .await
}

async fn role(
    objects: &RoleObjects,
    gate: &Gate,
    exists: bool,
    owner: &str,
    caches: &Caches,
    writer: &Writer,
) -> Result<(), ApiError> {
    apply(&objects.account, owner, caches, writer).await?;
    apply(&objects.budget, owner, caches, writer).await?;
    if *gate == Gate::Open || !exists {
        apply(&objects.config, owner, caches, writer).await?;
    }
    if *gate == Gate::Open {
        apply(&objects.deployment, owner, caches, writer).await?;
    }
    Ok(())
}

/// Touches the running ingest pods, so that kubelet renews their list of Apps now and not within a minute.
pub(super) async fn touch(pipeline: &Validated, revision: &str, writer: &Writer) -> Result<(), ApiError> {
    let subject = &pipeline.subject;
    let selector = labels::selector(&subject.name, Role::Ingest.as_str());
    let selector: Vec<String> = selector
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let pods = writer
        .api::<Pod>(&subject.namespace)
        .list_metadata(&ListParams::default().labels(&selector.join(",")))
        .await
        .map_err(|error| ApiError::from(format!("pods of {}", subject.path()), &error))?;
    let patch = serde_json::json!({"metadata": {"annotations": {labels::APPS_REVISION: revision}}});
    for pod in pods {
        let current = pod
            .annotations()
            .get(labels::APPS_REVISION)
            .is_some_and(|r| r == revision);
        if current || pod.metadata.deletion_timestamp.is_some() {
            continue;
        }
        match writer
            .merge::<Pod>(&subject.namespace, &pod.name_any(), &patch)
            .await
        {
            Ok(()) => {}
            // Gone meanwhile; its successor reads the new list.
            Err(ApiError::Rejected { .. } | ApiError::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
