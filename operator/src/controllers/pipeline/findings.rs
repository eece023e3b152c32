//! What a look at a pipeline comes to, from what runs to what failed.

use std::collections::BTreeSet;

use penstock_crds::pipeline::SpoolVolume;
use penstock_crds::{ConditionType, IngestionPipeline, Reason};

use super::Context;
use super::apply::SetPlan;
use super::build::Role;
use super::external::External;
use super::rollout::{self, Gate, Live};
use super::spool::claims::{self, Claim};
use super::spool::hold::{self, Hold, Numbers};
use super::status;
use super::takeover::Takeover;
use super::target::{Invalid, Target};
use super::validate::Validated;
use crate::api::ApiError;
use crate::conditions::Statement;
use crate::controllers::subject::Subject;

/// What a look has come to, before it is said.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub invalid: Option<Invalid>,
    pub incomplete: Option<Invalid>,
    pub external: Option<External>,
    pub failure: Option<ApiError>,
    pub target: Option<Target>,
    pub ingest: Takeover,
    /// Of the StatefulSet of ingest, where there is one.
    pub numbers: Option<Numbers>,
    pub volume: Option<SpoolVolume>,
    pub consume: Live,
    pub gates: Option<(Gate, Gate)>,
    pub hold: Hold,
    /// Whether the pods have said what their spools hold.
    pub asked: bool,
    pub degraded: Option<Statement>,
    /// What is on its way of ingest, or what that waits for.
    pub note: Option<String>,
    /// Something is waited for that no watch tells of.
    pub soon: bool,
    /// Not all keys have been read since this process started; the App controller says when they have.
    pub waiting: bool,
}

impl Findings {
    /// What runs, and what its spools are known to hold.
    pub(super) fn of(pipeline: &IngestionPipeline, subject: &Subject, context: &Context) -> Self {
        let Subject {
            namespace, name, uid, ..
        } = subject;
        let deployment = |role: Role| {
            let deployment = context.caches.deployment(namespace, &role.object(name));
            Live::of(deployment.as_deref())
        };
        let set = context.caches.stateful_set(namespace, &Role::Ingest.object(name));
        let (deployed, in_set) = (deployment(Role::Ingest), Live::of_set(set.as_deref()));
        let to_set = pipeline.spec.ingest.spool.is_some();
        let (live, other) = if to_set {
            (in_set, deployed)
        } else {
            (deployed, in_set)
        };
        let mut found = Self {
            ingest: Takeover { live, other, to_set },
            numbers: rollout::numbers(set.as_deref()),
            volume: set.as_deref().and_then(claims::volume),
            consume: deployment(Role::Consume),
            ..Self::default()
        };
        if set.is_some() {
            let pods = context.spools.of(uid);
            found.asked = pods.is_some();
            found.hold = hold::hold(pods.as_deref());
            found.degraded = match &pods {
                Some(pods) => hold::degraded(pods),
                // Until they are asked, what was said of them holds.
                None => status::remembered(pipeline, ConditionType::DurabilityDegraded),
            };
        }
        found
    }

    /// What was said of claims that could not be drained holds as long as nobody looks at them.
    pub(super) fn remember(&mut self, pipeline: &IngestionPipeline) {
        let said = status::remembered(pipeline, ConditionType::DurabilityDegraded);
        if self.gates.is_none() && self.degraded.is_none() {
            self.degraded = said.filter(|said| said.reason == Reason::DrainFailed);
        }
    }

    /// Takes in what is known now of that which runs.
    pub(super) fn renew(&mut self, now: Self) {
        self.ingest = now.ingest;
        self.numbers = now.numbers;
        self.volume = now.volume;
        self.consume = now.consume;
        self.hold = now.hold;
        self.asked = now.asked;
        self.degraded = now.degraded;
    }

    /// Whether the pods of the StatefulSet can have the volume that is asked for.
    pub(super) fn fits(
        &self,
        claims: &[Claim],
        unfit: &BTreeSet<String>,
        wanted: &Live,
        validated: &Validated,
    ) -> bool {
        match (&validated.volume, &self.volume) {
            (None, _) => true,
            (Some(volume), Some(has)) => {
                has.bytes() == volume.bytes() && has.storage_class_name == volume.storage_class_name
            }
            (Some(_), None) => !claims
                .iter()
                .any(|claim| claim.ordinal < wanted.replicas && unfit.contains(&claim.name)),
        }
    }

    /// Claims that the pods of a StatefulSet which is yet to be made cannot have.
    pub(super) fn unfit(&self, claims: &[Claim], validated: &Validated) -> BTreeSet<String> {
        match &validated.volume {
            Some(volume) if !self.ingest.live.exists => claims
                .iter()
                .filter(|claim| !claim.fits(volume))
                .map(|claim| claim.name.clone())
                .collect(),
            _ => BTreeSet::new(),
        }
    }

    /// How many pods with a spool there are or shall be: their claims are theirs.
    pub(super) fn pods_kept(&self, wanted: &Live) -> i32 {
        let are = self.numbers.map_or(0, |numbers| numbers.replicas);
        let shall_be = if self.ingest.to_set { wanted.replicas } else { 0 };
        are.max(shall_be)
    }

    pub(super) fn set_plan(&self, wanted: &Live) -> SetPlan {
        let live = self.ingest.to_set.then_some(self.numbers).flatten();
        let changes = !self.ingest.live.is(wanted) || self.ingest.live.replicas != wanted.replicas;
        SetPlan {
            live,
            numbers: hold::numbers(wanted.replicas, live, &self.hold, self.asked, changes),
            held: live.is_some() && self.hold.rollout.is_some(),
        }
    }
}
