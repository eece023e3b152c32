//! Claims that no pod has any more: after a scale-in, or when the spec has no spool any more. Pure.
//!
//! ```text
//! left over, mounted by nobody -> Job -> succeeded -> the claim is deleted; it goes when the Job does
//!                                     -> failed    -> said; both stay
//! a pod's again                -> the Job goes
//! ```
//!
//! A Job speaks for the one claim it was made for, by uid, and only while that is left over: what a pod wrote since
//! would not be in its verdict.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt as _;
use penstock_crds::pipeline::SpoolVolume;

use crate::controllers::pipeline::build::{CLAIM_UID, ordinal_of_claim, ordinal_of_job};

/// Jobs of one pipeline at the same time.
const AT_ONCE: usize = 8;

fn size(spec: &PersistentVolumeClaimSpec) -> Option<&Quantity> {
    spec.resources.as_ref()?.requests.as_ref()?.get("storage")
}

/// The volume that a StatefulSet gives each of its pods.
pub(crate) fn volume(set: &StatefulSet) -> Option<SpoolVolume> {
    let template = set.spec.as_ref()?.volume_claim_templates.as_ref()?.first()?;
    let spec = template.spec.as_ref()?;
    Some(SpoolVolume {
        size: size(spec)?.clone(),
        storage_class_name: spec.storage_class_name.clone(),
    })
}

/// A claim of a pipeline's spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub name: String,
    pub uid: String,
    pub ordinal: i32,
    pub deleting: bool,
    /// What was asked for when it was made.
    pub size: String,
    pub class: Option<String>,
}

impl Claim {
    /// Of what may be one of `pipeline`.
    pub(crate) fn of(pipeline: &str, claim: &PersistentVolumeClaim) -> Option<Self> {
        let name = claim.name_any();
        let spec = claim.spec.as_ref();
        Some(Self {
            ordinal: ordinal_of_claim(pipeline, &name)?,
            uid: claim.uid().unwrap_or_default(),
            deleting: claim.metadata.deletion_timestamp.is_some(),
            size: spec
                .and_then(size)
                .map_or_else(String::new, |size| size.0.clone()),
            class: spec.and_then(|spec| spec.storage_class_name.clone()),
            name,
        })
    }

    /// Whether a pod that asks for this volume may have it. The API server writes sizes in its own way, and fills in the
    /// default class.
    pub(crate) fn fits(&self, volume: &SpoolVolume) -> bool {
        let own = SpoolVolume {
            size: Quantity(self.size.clone()),
            storage_class_name: None,
        };
        let class = volume.storage_class_name.is_none() || volume.storage_class_name == self.class;
        class && own.bytes() == volume.bytes()
    }
}

/// How far a Job is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Running,
    Succeeded,
    Failed(String),
}

/// A Job that drains a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Draining {
    pub name: String,
    pub uid: String,
    pub ordinal: i32,
    pub claim_uid: String,
    pub deleting: bool,
    pub progress: Progress,
}

impl Draining {
    /// Of what may be one of `pipeline`.
    pub(crate) fn of(pipeline: &str, job: &Job) -> Option<Self> {
        let name = job.name_any();
        let conditions = job.status.iter().flat_map(|s| s.conditions.iter().flatten());
        let holds = |type_: &str| {
            conditions
                .clone()
                .find(|c| c.type_ == type_ && c.status == "True")
        };
        Some(Self {
            ordinal: ordinal_of_job(pipeline, &name)?,
            uid: job.uid().unwrap_or_default(),
            claim_uid: job.annotations().get(CLAIM_UID).cloned().unwrap_or_default(),
            deleting: job.metadata.deletion_timestamp.is_some(),
            progress: match (holds("Complete"), holds("Failed")) {
                (Some(_), _) => Progress::Succeeded,
                (None, Some(failed)) => Progress::Failed(failed.message.clone().unwrap_or_default()),
                (None, None) => Progress::Running,
            },
            name,
        })
    }
}

/// What is to be done, and what is to be said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Jobs that have nothing to say any more, by name and uid.
    pub delete_jobs: Vec<(String, String)>,
    /// Claims that hold nothing, by name and uid.
    pub delete_claims: Vec<(String, String)>,
    /// Claims to be drained, by ordinal and uid.
    pub start: Vec<(i32, String)>,
    /// Claims that a Job drains, by name.
    pub draining: Vec<String>,
    /// Jobs that failed, and why.
    pub failed: Vec<(String, String)>,
    /// Something is waited for that no watch tells of.
    pub soon: bool,
}

/// Claims whose ordinal is `keep` or above belong to nobody, and so do those that are in `unfit`.
pub(crate) fn left_over<'a>(
    claims: &'a [Claim],
    keep: i32,
    unfit: &'a BTreeSet<String>,
) -> impl Iterator<Item = &'a Claim> {
    claims
        .iter()
        .filter(move |claim| claim.ordinal >= keep || unfit.contains(&claim.name))
}

/// Decides. `mounted`: the claims that pods have which are not at their end.
pub(crate) fn plan(
    claims: &[Claim],
    jobs: &[Draining],
    keep: i32,
    unfit: &BTreeSet<String>,
    mounted: &BTreeSet<String>,
) -> Plan {
    let mut plan = Plan::default();
    let mut running = 0;
    let left: Vec<&Claim> = left_over(claims, keep, unfit).collect();
    for job in jobs {
        let claim = left.iter().find(|claim| claim.uid == job.claim_uid);
        match claim {
            // Its verdict has been acted on, or counts no more.
            None if !job.deleting => plan.delete_jobs.push((job.name.clone(), job.uid.clone())),
            None => {}
            Some(_) if job.deleting => plan.soon = true,
            Some(claim) => match &job.progress {
                Progress::Running => {
                    running += 1;
                    plan.draining.push(claim.name.clone());
                }
                // Its pod has ended and still keeps the claim from going.
                Progress::Succeeded if claim.deleting => {
                    plan.delete_jobs.push((job.name.clone(), job.uid.clone()));
                }
                Progress::Succeeded => plan.delete_claims.push((claim.name.clone(), claim.uid.clone())),
                Progress::Failed(why) => plan.failed.push((claim.name.clone(), why.clone())),
            },
        }
    }
    for claim in left {
        // A Job of that name may still be there, about an earlier claim.
        let taken = jobs
            .iter()
            .any(|job| job.ordinal == claim.ordinal || job.claim_uid == claim.uid);
        if claim.deleting || taken {
            plan.soon |= jobs
                .iter()
                .any(|job| job.ordinal == claim.ordinal && job.claim_uid != claim.uid);
            continue;
        }
        if mounted.contains(&claim.name) || running >= AT_ONCE {
            plan.soon = true;
            continue;
        }
        running += 1;
        plan.start.push((claim.ordinal, claim.uid.clone()));
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(ordinal: i32, uid: &str) -> Claim {
        Claim {
            name: format!("spool-events-ingest-{ordinal}"),
            uid: uid.into(),
            ordinal,
            deleting: false,
            size: "1Gi".into(),
            class: Some("local".into()),
        }
    }

    fn job(ordinal: i32, claim_uid: &str, progress: Progress) -> Draining {
        Draining {
            name: format!("events-drain-{ordinal}"),
            uid: format!("job-{ordinal}"),
            ordinal,
            claim_uid: claim_uid.into(),
            deleting: false,
            progress,
        }
    }

    fn decide(claims: &[Claim], jobs: &[Draining], keep: i32, mounted: &[&str]) -> Plan {
        let mounted = mounted.iter().map(|name| (*name).to_owned()).collect();
        plan(claims, jobs, keep, &BTreeSet::new(), &mounted)
    }

    #[test]
    fn a_claim_is_drained_once_no_pod_has_it() {
        let claims = [claim(0, "a"), claim(1, "b"), claim(2, "c")];
        let all = decide(&claims, &[], 3, &[]);
        assert_eq!(all, Plan::default(), "every claim is a pod's");
        let scaled_in = decide(&claims, &[], 1, &["spool-events-ingest-1"]);
        assert_eq!(scaled_in.start, [(2, "c".to_owned())]);
        assert!(scaled_in.soon, "the pod of the other is on its way out");
        let removed = decide(&claims, &[], 0, &[]);
        assert_eq!(removed.start.len(), 3);
    }

    #[test]
    fn a_claim_goes_when_its_own_job_has_succeeded() {
        let claims = [claim(1, "b")];
        let done = decide(&claims, &[job(1, "b", Progress::Succeeded)], 1, &[]);
        assert_eq!(
            done.delete_claims,
            [("spool-events-ingest-1".to_owned(), "b".to_owned())]
        );
        assert!(done.start.is_empty() && done.delete_jobs.is_empty());

        let going = Claim {
            deleting: true,
            ..claim(1, "b")
        };
        let next = decide(&[going], &[job(1, "b", Progress::Succeeded)], 1, &[]);
        assert_eq!(
            next.delete_jobs,
            [("events-drain-1".to_owned(), "job-1".to_owned())]
        );
        assert!(next.delete_claims.is_empty() && next.start.is_empty());

        let running = decide(&claims, &[job(1, "b", Progress::Running)], 1, &[]);
        assert!(running.delete_claims.is_empty() && running.start.is_empty());
        assert_eq!(running.draining, ["spool-events-ingest-1"]);

        let failed = decide(&claims, &[job(1, "b", Progress::Failed("no".into()))], 1, &[]);
        assert_eq!(
            failed.failed,
            [("spool-events-ingest-1".to_owned(), "no".to_owned())]
        );
        assert!(failed.delete_claims.is_empty() && failed.delete_jobs.is_empty());
    }

    #[test]
    fn a_verdict_about_another_claim_or_another_time_counts_for_nothing() {
        let stale = [job(1, "earlier", Progress::Succeeded)];
        let plan = decide(&[claim(1, "b")], &stale, 1, &[]);
        assert_eq!(
            plan.delete_jobs,
            [("events-drain-1".to_owned(), "job-1".to_owned())]
        );
        assert!(plan.delete_claims.is_empty() && plan.start.is_empty());
        assert!(plan.soon, "until that Job is gone");

        let again_a_pods = [job(1, "b", Progress::Succeeded)];
        let plan = decide(&[claim(1, "b")], &again_a_pods, 2, &[]);
        assert!(plan.delete_claims.is_empty());
        assert_eq!(plan.delete_jobs.len(), 1);

        let gone = decide(&[], &again_a_pods, 1, &[]);
        assert_eq!(gone.delete_jobs.len(), 1, "the claim is gone, its Job follows");
    }

    #[test]
    fn few_are_drained_at_a_time() {
        let claims: Vec<Claim> = (0..20).map(|n| claim(n, &format!("u{n}"))).collect();
        let plan = decide(&claims, &[], 0, &[]);
        assert_eq!(plan.start.len(), AT_ONCE);
        assert!(plan.soon);
    }

    #[test]
    fn a_claim_of_another_size_belongs_to_nobody() {
        let claims = [claim(0, "a")];
        let unfit = ["spool-events-ingest-0".to_owned()].into();
        let plan = plan(&claims, &[], 2, &unfit, &BTreeSet::new());
        assert_eq!(plan.start.len(), 1);
    }

    #[test]
    fn claims_and_jobs_are_read() {
        let yaml = "metadata: {name: spool-events-ingest-1, uid: b}\n\
             spec: {storageClassName: local, resources: {requests: {storage: 1Gi}}}";
        let read: PersistentVolumeClaim = serde_yaml::from_str(yaml).unwrap();
        let read = Claim::of("events", &read).unwrap();
        assert_eq!(read, claim(1, "b"));
        let volume = |size: &str, class: Option<&str>| SpoolVolume {
            size: Quantity(size.into()),
            storage_class_name: class.map(str::to_owned),
        };
        for (size, class, fits) in [
            ("1Gi", None, true),
            ("1024Mi", Some("local"), true),
            ("2Gi", None, false),
            ("1Gi", Some("fast"), false),
        ] {
            assert_eq!(read.fits(&volume(size, class)), fits, "{size} {class:?}");
        }

        let progress = |conditions: &str| {
            let yaml = format!(
                "metadata: {{name: events-drain-1, uid: job-1, annotations: {{penstock.dev/claim-uid: b}}}}\n\
                 status: {{conditions: [{conditions}]}}"
            );
            let job: Job = serde_yaml::from_str(&yaml).unwrap();
            Draining::of("events", &job).unwrap().progress
        };
        assert_eq!(progress(""), Progress::Running);
        assert_eq!(progress("{type: Complete, status: 'True'}"), Progress::Succeeded);
        assert_eq!(
            progress("{type: FailureTarget, status: 'True'}, {type: Failed, status: 'True', message: why}"),
            Progress::Failed("why".into())
        );
    }
}
