//! The Job that drains a claim which no pod has any more, and the names that tell which.

use k8s_openapi::api::batch::v1::{
    Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::{
    Container, PersistentVolumeClaimVolumeSource, PodSpec, PodTemplateSpec, Volume,
};
use kube::api::ObjectMeta;

use super::{Role, SPOOL, parts, pods};
use crate::controllers::pipeline::validate::{Validated, paths};

/// The role of the binary, and the component's label.
pub(crate) const DRAIN: &str = "drain";
/// Annotation of a Job: which claim of that name it is about.
pub(crate) const CLAIM_UID: &str = "penstock.dev/claim-uid";
/// How often a Job tries again, over a minute or so; a pod that was evicted does not count. That Kafka is away is no
/// failure.
const RETRIES: i32 = 3;

/// Name of the Jobs' ConfigMap.
pub(crate) fn drain_name(pipeline: &str) -> String {
    format!("{pipeline}-{DRAIN}")
}

fn claim_name(pipeline: &str, ordinal: i32) -> String {
    format!("{SPOOL}-{}-{ordinal}", Role::Ingest.object(pipeline))
}

fn job_name(pipeline: &str, ordinal: i32) -> String {
    format!("{}-{ordinal}", drain_name(pipeline))
}

fn ordinal(name: &str, named: impl Fn(i32) -> String) -> Option<i32> {
    let ordinal = name.rsplit_once('-')?.1.parse().ok()?;
    (named(ordinal) == name).then_some(ordinal)
}

/// Which pod of the pipeline a claim is for, if it is one of its spool.
pub(crate) fn ordinal_of_claim(pipeline: &str, claim: &str) -> Option<i32> {
    ordinal(claim, |ordinal| claim_name(pipeline, ordinal))
}

/// Which claim a Job is about, if it is one that drains.
pub(crate) fn ordinal_of_job(pipeline: &str, job: &str) -> Option<i32> {
    ordinal(job, |ordinal| job_name(pipeline, ordinal))
}

/// The Job for the claim of a pod that is no more.
pub(crate) fn drain_job(pipeline: &Validated, ordinal: i32, claim_uid: &str) -> Job {
    let name = &pipeline.subject.name;
    let made = parts::metadata(pipeline, DRAIN, job_name(name, ordinal));
    let labels = made.labels.clone();
    let volumes = vec![
        pods::config_map("config", drain_name(name)),
        Volume {
            name: SPOOL.into(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim_name(name, ordinal),
                ..PersistentVolumeClaimVolumeSource::default()
            }),
            ..Volume::default()
        },
        // There is none where Kafka asks nobody who it is.
        pods::secret_volume("connections", Role::Ingest.object(name), true),
    ];
    let mounts = vec![
        pods::config_mount(),
        pods::spool_mount(),
        pods::mount("connections", paths::CONNECTIONS),
    ];
    let container = Container {
        ports: Some(pods::admin_port()),
        ..pods::container(pipeline, DRAIN, &pipeline.ingest.resources, mounts)
    };
    Job {
        metadata: ObjectMeta {
            annotations: Some([(CLAIM_UID.to_owned(), claim_uid.to_owned())].into()),
            ..made
        },
        spec: Some(JobSpec {
            backoff_limit: Some(RETRIES),
            pod_failure_policy: Some(PodFailurePolicy {
                rules: vec![PodFailurePolicyRule {
                    action: "Ignore".into(),
                    on_pod_conditions: Some(vec![PodFailurePolicyOnPodConditionsPattern {
                        type_: "DisruptionTarget".into(),
                        status: "True".into(),
                    }]),
                    ..PodFailurePolicyRule::default()
                }],
            }),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels,
                    ..ObjectMeta::default()
                }),
                spec: Some(PodSpec {
                    // Failed pods stay until the Job goes: their logs say why.
                    restart_policy: Some("Never".into()),
                    ..pods::pod(pipeline, Role::Ingest.object(name), container, volumes)
                }),
            },
            ..JobSpec::default()
        }),
        ..Job::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_which_pod_they_are_about() {
        for (claim, ordinal) in [
            ("spool-events-ingest-0", Some(0)),
            ("spool-events-ingest-12", Some(12)),
            ("spool-events-ingest-012", None),
            ("spool-events-ingest--1", None),
            ("spool-other-ingest-1", None),
            ("spool-events-ingest-ingest-1", None),
            ("events-ingest-1", None),
        ] {
            assert_eq!(ordinal_of_claim("events", claim), ordinal, "{claim}");
        }
        assert_eq!(ordinal_of_job("events", "events-drain-3"), Some(3));
        assert_eq!(ordinal_of_job("events", "events-drain-x"), None);
    }
}
