//! The end of a pipeline with `deletionPolicy: Delete`: pods, then the claims of their spools, topics, groups and tables,
//! then the finalizer.
//!
//! Without that policy there is no finalizer and nothing to do: Kubernetes removes what the pipeline owns, and the data
//! stays. So do the claims, which have no owner: a pipeline of that name takes them up again.

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::ListParams;
use penstock_crds::pipeline::DeletionPolicy;
use penstock_crds::{FINALIZER, FORCE_DELETE, IngestionPipeline, Reason};
use serde_json::json;

use super::build::{Role, ordinal_of_job};
use super::spool;
use super::target::Target;
use crate::api::{ApiError, Writer};
use crate::controllers::cache::Caches;
use crate::controllers::context::Shared;
use crate::controllers::labels;
use crate::controllers::subject::{Subject, annotated};
use penstock_dataplane_config::letters::letter_group;
use penstock_provision::{Deletion, ProvisionError};

/// How far a deletion is.
#[derive(Debug)]
pub(super) enum Progress {
    /// The finalizer is gone, or was never there.
    Done,
    /// Looked at again soon.
    Waiting(&'static str),
    Failed(ProvisionError),
}

/// Whether our finalizer is on it.
pub(super) fn finalized(pipeline: &IngestionPipeline) -> bool {
    pipeline.finalizers().iter().any(|f| f == FINALIZER)
}

/// Puts our finalizer on or takes it off, and no one else's. Whether anything changed.
pub(super) async fn settle_finalizer(
    pipeline: &IngestionPipeline,
    wanted: bool,
    subject: &Subject,
    writer: &Writer,
) -> Result<bool, ApiError> {
    if finalized(pipeline) == wanted {
        return Ok(false);
    }
    let mut finalizers: Vec<&str> = pipeline.finalizers().iter().map(String::as_str).collect();
    if wanted {
        finalizers.push(FINALIZER);
    } else {
        finalizers.retain(|f| *f != FINALIZER);
    }
    // With the version, so that a finalizer that someone else has added meanwhile is not lost.
    let patch = json!({"metadata": {
        "resourceVersion": pipeline.resource_version(),
        "finalizers": finalizers,
    }});
    match writer
        .merge::<IngestionPipeline>(&subject.namespace, &subject.name, &patch)
        .await
    {
        Ok(()) => Ok(true),
        // Gone already.
        Err(ApiError::Rejected { .. }) if subject.deleting => Ok(true),
        Err(error) => Err(error),
    }
}

/// One step further.
pub(super) async fn advance(
    pipeline: &IngestionPipeline,
    subject: &Subject,
    target: Option<&Target>,
    shared: &Shared,
    caches: &Caches,
    writer: &Writer,
) -> Result<Progress, ApiError> {
    if !finalized(pipeline) {
        return Ok(Progress::Done);
    }
    if pipeline.spec.deletion_policy == DeletionPolicy::Delete {
        if stop_pods(subject, caches, writer).await? {
            return Ok(Progress::Waiting("waiting for the pods to end"));
        }
        for claim in spool::drain::claims(subject, caches) {
            writer
                .delete::<PersistentVolumeClaim>(&subject.namespace, &claim.name, Some(&claim.uid))
                .await?;
        }
        match target {
            Some(target) => {
                let deleted = delete_data(pipeline, target, shared).await;
                match deleted {
                    Ok(()) => {}
                    Err(error) if annotated(pipeline, FORCE_DELETE) => {
                        let note =
                            format!("{FORCE_DELETE} is set: what could not be deleted stays ({error})");
                        shared
                            .events
                            .warning(pipeline, error.reason(), "Delete", note)
                            .await;
                    }
                    Err(error) => return Ok(Progress::Failed(error)),
                }
            }
            None => {
                let note = "the spec does not lead to a topic and a table that this namespace may use: nothing is deleted";
                shared
                    .events
                    .warning(pipeline, Reason::InvalidSpec, "Delete", note)
                    .await;
            }
        }
    }
    settle_finalizer(pipeline, false, subject, writer).await?;
    Ok(Progress::Done)
}

/// Ends the pods: a consumer that still runs would create its group again. Whether any is left.
async fn stop_pods(subject: &Subject, caches: &Caches, writer: &Writer) -> Result<bool, ApiError> {
    let mut left = false;
    for role in [Role::Ingest, Role::Consume] {
        let name = role.object(&subject.name);
        if let Some(held) = caches.held::<Deployment>(&subject.namespace, &name)
            && held.belongs_to(&subject.uid, &subject.name)
        {
            left = true;
            writer
                .delete::<Deployment>(&subject.namespace, &name, Some(&held.uid))
                .await?;
        }
    }
    let set = Role::Ingest.object(&subject.name);
    if let Some(held) = caches.held::<StatefulSet>(&subject.namespace, &set)
        && held.belongs_to(&subject.uid, &subject.name)
    {
        left = true;
        writer
            .delete::<StatefulSet>(&subject.namespace, &set, Some(&held.uid))
            .await?;
    }
    for job in caches.jobs_of(&subject.namespace, &subject.name) {
        if ordinal_of_job(&subject.name, &job.name_any()).is_some() {
            left = true;
            writer
                .delete::<Job>(&subject.namespace, &job.name_any(), job.uid().as_deref())
                .await?;
        }
    }
    if left {
        return Ok(true);
    }
    let selector = format!("{}={},{}", labels::PIPELINE, subject.name, labels::MANAGED);
    let pods = writer
        .api::<Pod>(&subject.namespace)
        .list_metadata(&ListParams::default().labels(&selector))
        .await
        .map_err(|error| ApiError::from(format!("pods of {}", subject.path()), &error))?;
    Ok(!pods.items.is_empty())
}

async fn delete_data(
    pipeline: &IngestionPipeline,
    target: &Target,
    shared: &Shared,
) -> Result<(), ProvisionError> {
    let topics = &shared.services.topics;
    let (at, owner) = (&target.kafka(), &target.owner);
    for group in [letter_group(&target.group), target.group.clone()] {
        topics.delete_group(at, &group).await?;
    }
    for (action, topic) in [
        ("DeleteTopic", &target.topic.name),
        ("DeleteDeadLetters", &target.dead_letters.name),
    ] {
        let outcome = topics.delete_topic(at, topic, owner).await?;
        say(pipeline, shared, action, &format!("topic {topic}"), outcome).await;
    }
    let outcome = shared
        .services
        .tables
        .delete_table(&target.clickhouse(), &target.table, owner)
        .await?;
    say(
        pipeline,
        shared,
        "DeleteTable",
        &format!("table {}", target.table_name()),
        outcome,
    )
    .await;
    Ok(())
}

async fn say(pipeline: &IngestionPipeline, shared: &Shared, action: &str, what: &str, outcome: Deletion) {
    let note = match outcome {
        Deletion::Deleted => format!("deleted {what}"),
        Deletion::Kept => format!("kept {what}: Penstock did not create it for this pipeline"),
        Deletion::Absent => return,
    };
    shared
        .events
        .normal(pipeline, Reason::Deleted, action, note)
        .await;
}
