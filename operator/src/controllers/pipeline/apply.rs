//! Writing a pipeline's objects, each only where it is the pipeline's.
//!
//! Order: what pods read comes before pods, consume before ingest. An object of the same name that someone else made is
//! left alone and reported.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::ResourceExt;
use kube::api::ListParams;

use super::build::{Objects, Role, Runner};
use super::rollout::Gate;
use super::spool::hold::Numbers;
use super::validate::Validated;
use crate::api::{ApiError, Writable, Writer, Written};
use crate::controllers::cache::{Cached, Caches, Held};
use crate::controllers::labels;
use crate::controllers::subject::Subject;

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

/// What is to be done about the two roles' pods.
#[derive(Clone, Debug)]
pub(super) struct Gates {
    pub consume: Gate,
    pub ingest: Gate,
    /// Whether what runs the pods is there: a configuration that they read is not changed under them.
    pub consume_exists: bool,
    pub ingest_exists: bool,
    pub set: SetPlan,
}

/// How far the StatefulSet of ingest may go.
#[derive(Clone, Debug)]
pub(super) struct SetPlan {
    pub live: Option<Numbers>,
    pub numbers: Numbers,
    /// Its pods go on with what they run, even those that are replaced.
    pub held: bool,
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
    for (role, gate, exists) in [
        (&objects.consume, &gates.consume, gates.consume_exists),
        (&objects.ingest, &gates.ingest, gates.ingest_exists),
    ] {
        apply(&role.account, owner, caches, writer).await?;
        apply(&role.budget, owner, caches, writer).await?;
        let held = match role.runner {
            Runner::Deployment(_) => false,
            Runner::StatefulSet(_) => gates.set.held,
        };
        if (*gate == Gate::Open && !held) || !exists {
            if let Some(secret) = &role.secret {
                apply(secret, owner, caches, writer).await?;
            }
            apply(&role.config, owner, caches, writer).await?;
        }
        match &role.runner {
            Runner::Deployment(deployment) if *gate == Gate::Open => {
                apply(&**deployment, owner, caches, writer).await?;
            }
            Runner::StatefulSet(set) if *gate == Gate::Open => {
                apply(&with(set, gates.set.numbers), owner, caches, writer).await?;
            }
            // Nothing of it may change but how far a rollout goes, whoever asked for that.
            Runner::StatefulSet(set) => restrain(set, &gates.set, writer).await?,
            Runner::Deployment(_) => {}
        }
    }
    Ok(())
}

fn with(set: &StatefulSet, numbers: Numbers) -> StatefulSet {
    let mut set = set.clone();
    if let Some(spec) = &mut set.spec {
        spec.replicas = Some(numbers.replicas);
        let strategy = spec.update_strategy.as_mut();
        if let Some(rolling) = strategy.and_then(|strategy| strategy.rolling_update.as_mut()) {
            rolling.partition = Some(numbers.partition);
        }
    }
    set
}

async fn restrain(set: &StatefulSet, plan: &SetPlan, writer: &Writer) -> Result<(), ApiError> {
    let Some(live) = plan.live else {
        return Ok(());
    };
    let partition = plan.numbers.partition.min(live.replicas);
    if partition == live.partition {
        return Ok(());
    }
    let patch = serde_json::json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": partition}}}});
    let namespace = set.namespace().unwrap_or_default();
    writer
        .merge::<StatefulSet>(&namespace, &set.name_any(), &patch)
        .await
}

/// Removes what ran ingest before the kind that does now.
pub(super) async fn end_other(
    pipeline: &Validated,
    runner: &Runner,
    caches: &Caches,
    writer: &Writer,
) -> Result<(), ApiError> {
    let subject = &pipeline.subject;
    let name = Role::Ingest.object(&subject.name);
    match runner {
        Runner::StatefulSet(_) => end::<Deployment>(&subject.namespace, &name, subject, caches, writer).await,
        Runner::Deployment(_) => end::<StatefulSet>(&subject.namespace, &name, subject, caches, writer).await,
    }
}

async fn end<K>(
    namespace: &str,
    name: &str,
    owner: &Subject,
    caches: &Caches,
    writer: &Writer,
) -> Result<(), ApiError>
where
    K: Writable + Cached,
{
    match caches.held::<K>(namespace, name) {
        Some(held) if held.belongs_to(&owner.uid, &owner.name) => {
            writer.delete::<K>(namespace, name, Some(&held.uid)).await
        }
        _ => Ok(()),
    }
}

/// Whether the Secret that is there is for the services that this one is for.
pub(super) async fn has_same_services(secret: &Secret, writer: &Writer) -> Result<bool, ApiError> {
    let (namespace, name) = (secret.namespace().unwrap_or_default(), secret.name_any());
    let there = writer.api::<Secret>(&namespace).get_metadata_opt(&name).await;
    let there = there.map_err(|error| ApiError::from(format!("Secret {namespace}/{name}"), &error))?;
    let services = |annotations: &BTreeMap<String, String>| annotations.get(labels::SERVICES).cloned();
    Ok(there.is_some_and(|there| services(there.annotations()) == services(secret.annotations())))
}

/// Deletes the Secret of a role, if there is one.
pub(super) async fn end_secret(
    pipeline: &Validated,
    role: Role,
    caches: &Caches,
    writer: &Writer,
) -> Result<(), ApiError> {
    let owner = &pipeline.subject;
    end::<Secret>(&owner.namespace, &role.object(&owner.name), owner, caches, writer).await
}

/// Touches a role's running pods, so that kubelet renews what they are given to read now and not within a minute.
pub(super) async fn touch(
    pipeline: &Validated,
    role: Role,
    revision: &str,
    writer: &Writer,
) -> Result<(), ApiError> {
    let subject = &pipeline.subject;
    let selector = labels::selector(&subject.name, role.as_str());
    let selector: Vec<String> = selector
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let pods = writer
        .api::<Pod>(&subject.namespace)
        .list_metadata(&ListParams::default().labels(&selector.join(",")))
        .await
        .map_err(|error| ApiError::from(format!("pods of {}", subject.path()), &error))?;
    let patch = serde_json::json!({"metadata": {"annotations": {labels::FILES_REVISION: revision}}});
    for pod in pods {
        let current = pod
            .annotations()
            .get(labels::FILES_REVISION)
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
