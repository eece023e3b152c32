//! Does what is to be done about claims that no pod has any more.

use std::collections::BTreeSet;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt as _;
use kube::api::ListParams;
use penstock_crds::{ConditionType, IngestionPipeline, Reason};

use super::claims::{Claim, Draining, Plan, left_over, plan};
use crate::api::{ApiError, Writer};
use crate::conditions::Statement;
use crate::controllers::cache::Caches;
use crate::controllers::labels;
use crate::controllers::pipeline::apply::apply;
use crate::controllers::pipeline::build::{Objects, drain_job};
use crate::controllers::pipeline::validate::Validated;
use crate::controllers::subject::Subject;
use crate::events::Events;

/// What is left after this look.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// `DurabilityDegraded`, where a claim could not be drained.
    pub failed: Option<Statement>,
    /// What is being drained.
    pub draining: Option<String>,
    /// Look again in a few seconds.
    pub soon: bool,
}

/// The claims of a pipeline's spool, of whatever time.
pub(crate) fn claims(subject: &Subject, caches: &Caches) -> Vec<Claim> {
    let claims = caches.claims_of(&subject.namespace, &subject.name);
    claims
        .iter()
        .filter_map(|claim| Claim::of(&subject.name, claim))
        .collect()
}

/// The claims of a pipeline of which no pod has any use.
#[derive(Debug)]
pub(crate) struct Drainage<'a> {
    pub pipeline: &'a IngestionPipeline,
    pub validated: &'a Validated,
    pub objects: &'a Objects,
    /// How many pods have a spool, or shall have one.
    pub keep: i32,
    /// Claims that no pod can have, though one of its number shall be.
    pub unfit: &'a BTreeSet<String>,
}

impl Drainage<'_> {
    /// One step further with each of them.
    pub(crate) async fn settle(
        &self,
        claims: &[Claim],
        caches: &Caches,
        writer: &Writer,
        events: &Events,
    ) -> Result<Left, ApiError> {
        let Self {
            pipeline,
            validated,
            objects,
            keep,
            unfit,
        } = *self;
        let subject = &validated.subject;
        let jobs: Vec<Draining> = caches
            .jobs_of(&subject.namespace, &subject.name)
            .iter()
            .filter_map(|job| Draining::of(&subject.name, job))
            .collect();
        if jobs.is_empty() && left_over(claims, keep, unfit).next().is_none() {
            return Ok(Left::default());
        }
        let mounted = mounted(subject, writer).await?;
        let Plan {
            delete_jobs,
            delete_claims,
            start,
            draining,
            failed,
            soon,
        } = plan(claims, &jobs, keep, unfit, &mounted);
        let namespace = &subject.namespace;
        for (job, uid) in &delete_jobs {
            writer.delete::<Job>(namespace, job, Some(uid)).await?;
        }
        for (claim, uid) in &delete_claims {
            writer
                .delete::<PersistentVolumeClaim>(namespace, claim, Some(uid))
                .await?;
            let note = format!("deleted the claim {claim}: Kafka has every event of its spool");
            events.normal(pipeline, Reason::Deleted, "Drain", note).await;
        }
        if !start.is_empty() {
            apply(&objects.drain_config, &subject.uid, caches, writer).await?;
        }
        for (ordinal, uid) in &start {
            let job = drain_job(validated, *ordinal, uid);
            match writer.create(&job).await {
                Ok(_) => {
                    let note = format!(
                        "the Job {} drains the spool of a pod that is no more",
                        job.name_any()
                    );
                    events.normal(pipeline, Reason::Draining, "Drain", note).await;
                }
                // The cache does not know it yet.
                Err(ApiError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Left {
            failed: said(&failed),
            draining: (!draining.is_empty()).then(|| {
                let claims = draining.join(", ");
                format!("what is left on claims of pods that are no more is brought to Kafka: {claims}")
            }),
            soon,
        })
    }
}

fn said(failed: &[(String, String)]) -> Option<Statement> {
    let (claim, why) = failed.first()?;
    let others = match failed.len() {
        1 => String::new(),
        count => format!(" (and {} more)", count - 1),
    };
    let message = format!(
        "the claim {claim}{others} could not be drained, and is kept: {why}; its Job's pods say why, and deleting the Job tries again"
    );
    Some(Statement::new(
        ConditionType::DurabilityDegraded,
        true,
        Reason::DrainFailed,
        message,
    ))
}

/// The claims of the pipeline's pods that are not at their end. Asked anew: what decides over a claim is not guessed.
async fn mounted(subject: &Subject, writer: &Writer) -> Result<BTreeSet<String>, ApiError> {
    let selector = format!("{}={},{}", labels::PIPELINE, subject.name, labels::MANAGED);
    let pods = writer
        .api::<Pod>(&subject.namespace)
        .list(&ListParams::default().labels(&selector))
        .await
        .map_err(|error| ApiError::from(format!("pods of {}", subject.path()), &error))?;
    let mut mounted = BTreeSet::new();
    for pod in pods {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            continue;
        }
        let volumes = pod
            .spec
            .into_iter()
            .flat_map(|spec| spec.volumes.unwrap_or_default());
        mounted.extend(volumes.filter_map(|v| Some(v.persistent_volume_claim?.claim_name)));
    }
    Ok(mounted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_drained_is_said() {
        let failed = |claim: &str| (claim.to_owned(), "Job has reached its limit".to_owned());
        assert_eq!(said(&[]), None);
        let one = said(&[failed("spool-events-ingest-1")]).unwrap();
        assert_eq!(one.reason, Reason::DrainFailed);
        assert!(
            one.message
                .starts_with("the claim spool-events-ingest-1 could not")
        );
        let two = said(&[failed("a"), failed("b")]).unwrap();
        assert!(two.message.contains("a (and 1 more)"), "{}", two.message);
    }
}
