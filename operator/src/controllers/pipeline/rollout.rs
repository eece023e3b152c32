//! What may be rolled out now, and how far a rollout is. Pure.
//!
//! A Deployment waits for what its pods need, and ingest waits for consume when the image changes: a new ingest may
//! write records that only a new consumer reads. A Deployment that already is what it shall be is always applied, so
//! drift is mended while a broker is away.

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use penstock_crds::{ConditionType, Reason};

use super::build::{Role, Runner};
use super::spool::hold::Numbers;
use crate::conditions::Statement;
use crate::controllers::labels;

/// A Deployment or a StatefulSet as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Live {
    pub exists: bool,
    /// Pods that it is asked for.
    pub replicas: i32,
    pub image: String,
    pub hash: String,
    /// Pods that are available, of any generation.
    pub available: i32,
    /// Every pod is of the newest template, available, and no other is left.
    pub rolled_out: bool,
    /// The Deployment controller has given up waiting.
    pub stuck: Option<String>,
}

fn image_and_hash(template: Option<&PodTemplateSpec>) -> (String, String) {
    let image = template
        .and_then(|t| t.spec.as_ref())
        .and_then(|s| s.containers.first())
        .and_then(|c| c.image.clone());
    let hash = template
        .and_then(|t| t.metadata.as_ref())
        .and_then(|m| m.annotations.as_ref())
        .and_then(|a| a.get(labels::CONFIG_HASH).cloned());
    (image.unwrap_or_default(), hash.unwrap_or_default())
}

impl Live {
    pub(crate) fn of(deployment: Option<&Deployment>) -> Self {
        let Some(deployment) = deployment else {
            return Self::default();
        };
        let spec = deployment.spec.as_ref();
        let status = deployment.status.clone().unwrap_or_default();
        let wanted = spec.and_then(|s| s.replicas).unwrap_or(1);
        let current = status.observed_generation >= deployment.metadata.generation;
        let count = |number: Option<i32>| number.unwrap_or_default();
        let stuck = status.conditions.iter().flatten().find(|c| {
            c.type_ == "Progressing" && c.status == "False"
                || c.type_ == "ReplicaFailure" && c.status == "True"
        });
        let (image, hash) = image_and_hash(spec.map(|s| &s.template));
        Self {
            exists: true,
            replicas: wanted,
            image,
            hash,
            available: count(status.available_replicas),
            rolled_out: current
                && count(status.updated_replicas) == wanted
                && count(status.replicas) == wanted
                && count(status.available_replicas) == wanted,
            stuck: stuck.and_then(|c| c.message.clone()),
        }
    }

    pub(crate) fn of_set(set: Option<&StatefulSet>) -> Self {
        let Some(set) = set else {
            return Self::default();
        };
        let spec = set.spec.as_ref();
        let status = set.status.clone().unwrap_or_default();
        let wanted = spec.and_then(|s| s.replicas).unwrap_or(1);
        let current = status.observed_generation >= set.metadata.generation;
        let available = status.available_replicas.unwrap_or_default();
        let (image, hash) = image_and_hash(spec.map(|s| &s.template));
        Self {
            exists: true,
            replicas: wanted,
            image,
            hash,
            available,
            rolled_out: current
                && status.updated_replicas.unwrap_or_default() == wanted
                && status.replicas == wanted
                && available == wanted,
            // A StatefulSet does not give up.
            stuck: None,
        }
    }

    pub(crate) fn of_runner(runner: &Runner) -> Self {
        match runner {
            Runner::Deployment(deployment) => Self::of(Some(deployment)),
            Runner::StatefulSet(set) => Self::of_set(Some(set)),
        }
    }

    /// Whether it runs this template already.
    pub(crate) fn is(&self, wanted: &Self) -> bool {
        self.exists && self.hash == wanted.hash && self.image == wanted.image
    }
}

/// The numbers of a StatefulSet that holding is done with.
pub(crate) fn numbers(set: Option<&StatefulSet>) -> Option<Numbers> {
    let spec = set?.spec.as_ref()?;
    let strategy = spec.update_strategy.as_ref();
    Some(Numbers {
        replicas: spec.replicas.unwrap_or(1),
        partition: strategy
            .and_then(|strategy| strategy.rolling_update.as_ref()?.partition)
            .unwrap_or_default(),
    })
}

/// Whether a Deployment may be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    /// Not yet, and why.
    Held(&'static str),
}

/// Decides for consume. `provisioned`: topics and tables are as the spec says.
pub(crate) fn consume_gate(provisioned: bool, live: &Live, wanted: &Live) -> Gate {
    if provisioned || live.is(wanted) {
        Gate::Open
    } else {
        Gate::Held("waiting for the topics and the table")
    }
}

/// Decides for ingest, given how consume is.
pub(crate) fn ingest_gate(
    provisioned: bool,
    live: &Live,
    wanted: &Live,
    consume: &Live,
    consume_wanted: &Live,
) -> Gate {
    if !provisioned && !live.is(wanted) {
        return Gate::Held("waiting for the topics and the table");
    }
    let new_image = live.exists && live.image != wanted.image;
    if new_image && !(consume.is(consume_wanted) && consume.rolled_out) {
        return Gate::Held("waiting for consume, which is upgraded first");
    }
    Gate::Open
}

/// A role and what it shall have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'a> {
    pub role: Role,
    pub live: &'a Live,
    pub wanted: i32,
    pub gate: &'a Gate,
    /// What is on its way beside a rollout, or what that waits for.
    pub note: Option<&'a str>,
}

/// `WorkloadsAvailable`. `before`: whether it held; then one pod may be missing, as while a node is drained.
pub(crate) fn availability(parts: &[Part<'_>], before: bool) -> Statement {
    let about = ConditionType::WorkloadsAvailable;
    let mut problems: Vec<(Reason, String)> = Vec::new();
    for Part {
        role,
        live,
        wanted,
        gate,
        note: _,
    } in parts
    {
        let role = role.as_str();
        let enough = if before { (wanted - 1).max(1) } else { *wanted };
        if live.exists && live.available >= enough {
            continue;
        }
        problems.push(match (gate, &live.stuck) {
            (Gate::Held(why), _) if !live.exists => (Reason::Pending, format!("{role}: {why}")),
            (_, Some(why)) => (
                Reason::PodsUnavailable,
                format!("{role}: {} of {wanted} pods are available: {why}", live.available),
            ),
            (_, None) if before => (
                Reason::PodsUnavailable,
                format!("{role}: {} of {wanted} pods are available", live.available),
            ),
            (_, None) => (
                Reason::RollingOut,
                format!("{role}: {} of {wanted} pods are available", live.available),
            ),
        });
    }
    match problems.first() {
        None => Statement::new(about, true, Reason::Available, ""),
        Some((reason, _)) => {
            let all: Vec<&str> = problems.iter().map(|(_, message)| message.as_str()).collect();
            Statement::new(about, false, *reason, all.join("; "))
        }
    }
}

/// What is on its way, if anything.
pub(crate) fn in_progress(parts: &[Part<'_>]) -> Option<String> {
    let moving: Vec<String> = parts
        .iter()
        .filter_map(
            |Part {
                 role,
                 live,
                 wanted,
                 gate,
                 note,
             }| match gate {
                Gate::Held(why) => {
                    let note = note.map_or_else(String::new, |note| format!("; {note}"));
                    Some(format!("{}: {why}{note}", role.as_str()))
                }
                Gate::Open if note.is_some() => {
                    Some(format!("{}: {}", role.as_str(), note.unwrap_or_default()))
                }
                Gate::Open if !live.rolled_out => Some(format!(
                    "{}: {} of {wanted} pods are available",
                    role.as_str(),
                    live.available
                )),
                Gate::Open => None,
            },
        )
        .collect();
    (!moving.is_empty()).then(|| moving.join("; "))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn live(image: &str, hash: &str, available: i32, rolled_out: bool) -> Live {
        Live {
            exists: true,
            replicas: available,
            image: image.into(),
            hash: hash.into(),
            available,
            rolled_out,
            stuck: None,
        }
    }

    #[test]
    fn nothing_new_starts_before_what_it_needs() {
        let wanted = live("p:1", "h1", 0, false);
        let open = |provisioned, live: &Live| consume_gate(provisioned, live, &wanted) == Gate::Open;
        assert!(open(true, &Live::default()));
        assert!(!open(false, &Live::default()), "first rollout");
        assert!(!open(false, &live("p:1", "h0", 1, true)), "another configuration");
        assert!(!open(false, &live("p:0", "h1", 1, true)), "another image");
        assert!(
            open(false, &live("p:1", "h1", 1, true)),
            "drift is mended while a broker is away"
        );
    }

    #[test]
    fn consume_is_upgraded_before_ingest() {
        let wanted = live("p:2", "h", 0, false);
        let old = live("p:1", "h", 2, true);
        let gate = |consume: &Live| ingest_gate(true, &old, &wanted, consume, &wanted);
        assert_eq!(
            gate(&live("p:1", "h", 1, true)),
            Gate::Held("waiting for consume, which is upgraded first")
        );
        assert_ne!(gate(&live("p:2", "h", 1, false)), Gate::Open, "on its way");
        assert_eq!(gate(&live("p:2", "h", 1, true)), Gate::Open);
        let configuration = live("p:1", "h2", 0, false);
        assert_eq!(
            ingest_gate(true, &old, &configuration, &Live::default(), &wanted),
            Gate::Open,
            "same image"
        );
        assert_eq!(
            ingest_gate(true, &Live::default(), &wanted, &Live::default(), &wanted),
            Gate::Open,
            "first rollout"
        );
    }

    fn statement(available: i32, wanted: i32, before: bool) -> Statement {
        let live = live("p", "h", available, available == wanted);
        availability(
            &[Part {
                role: Role::Ingest,
                live: &live,
                wanted,
                gate: &Gate::Open,
                note: None,
            }],
            before,
        )
    }

    #[test]
    fn availability_does_not_flap_in_a_rolling_update() {
        assert!(statement(2, 2, false).holds());
        assert_eq!(
            statement(1, 2, false).reason,
            Reason::RollingOut,
            "the first time all must come up"
        );
        assert!(statement(1, 2, true).holds(), "one pod may be missing later");
        assert_eq!(statement(0, 2, true).reason, Reason::PodsUnavailable);
        assert!(statement(1, 1, true).holds());
        assert!(!statement(0, 1, true).holds());
        assert!(statement(3, 2, true).holds(), "a surge is no problem");
    }

    #[test]
    fn a_held_first_rollout_says_what_it_waits_for() {
        let none = Live::default();
        let gate = Gate::Held("waiting for the topics and the table");
        let part = Part {
            role: Role::Consume,
            live: &none,
            wanted: 1,
            gate: &gate,
            note: None,
        };
        let said = availability(&[part], false);
        assert_eq!(
            (said.reason, said.message.as_str()),
            (Reason::Pending, "consume: waiting for the topics and the table")
        );
        assert!(in_progress(&[part]).is_some());
    }

    #[test]
    fn a_deployment_is_read() {
        let yaml = r"
metadata: {generation: 2}
spec:
  replicas: 2
  selector: {}
  template:
    metadata: {annotations: {penstock.dev/config-hash: h}}
    spec: {containers: [{name: ingest, image: 'p:1'}]}
status: {observedGeneration: 2, replicas: 2, updatedReplicas: 2, availableReplicas: 2}
";
        let mut deployment: Deployment = serde_yaml::from_str(yaml).unwrap();
        assert_eq!(Live::of(Some(&deployment)), live("p:1", "h", 2, true));
        deployment.metadata.generation = Some(3);
        assert!(
            !Live::of(Some(&deployment)).rolled_out,
            "the controller has not seen the newest generation"
        );
        assert_eq!(Live::of(None), Live::default());
    }

    #[test]
    fn a_stateful_set_is_read() {
        let yaml = r"
metadata: {generation: 2}
spec:
  replicas: 2
  serviceName: ''
  selector: {}
  updateStrategy: {type: RollingUpdate, rollingUpdate: {partition: 2}}
  template:
    metadata: {annotations: {penstock.dev/config-hash: h}}
    spec: {containers: [{name: ingest, image: 'p:1'}]}
status: {observedGeneration: 2, replicas: 2, updatedReplicas: 2, availableReplicas: 2}
";
        let mut set: StatefulSet = serde_yaml::from_str(yaml).unwrap();
        assert_eq!(Live::of_set(Some(&set)), live("p:1", "h", 2, true));
        let held = Numbers {
            replicas: 2,
            partition: 2,
        };
        assert_eq!(numbers(Some(&set)), Some(held));
        set.status.as_mut().unwrap().updated_replicas = Some(1);
        assert!(!Live::of_set(Some(&set)).rolled_out);
        assert_eq!((Live::of_set(None), numbers(None)), (Live::default(), None));
    }

    #[test]
    fn a_note_says_what_a_rollout_waits_for() {
        let whole = live("p", "h", 2, true);
        let part = Part {
            role: Role::Ingest,
            live: &whole,
            wanted: 2,
            gate: &Gate::Open,
            note: Some("held"),
        };
        assert_eq!(in_progress(&[part]).unwrap(), "ingest: held");
    }
}
