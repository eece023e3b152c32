//! What the spools' contents mean: for the rollout, for a scale-in, and for what is said. Pure.

use penstock_crds::{ConditionType, Reason};

use super::depth::{Depth, PodSpool};
use crate::conditions::Statement;

/// Where every event goes by the spool, groups are always on their way; older than this they wait, seconds.
const ON_THE_WAY: u64 = 5;
/// Pods that a message names.
const NAMED: usize = 5;

/// Why something must not happen now. `None`: it may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hold {
    pub rollout: Option<String>,
    pub scale_in: Option<String>,
}

/// Whether events wait in a spool that should be with Kafka.
fn is_behind(one: &PodSpool, depth: Depth) -> bool {
    depth.groups > 0 && (!one.spools_all || depth.oldest > ON_THE_WAY)
}

/// Pods that say that events wait, or said so a moment ago.
fn behind(pods: &[PodSpool]) -> Vec<&PodSpool> {
    let says = |one: &&PodSpool| {
        let said = one.last.filter(|_| one.back_soon);
        one.depth.or(said).is_some_and(|depth| is_behind(one, depth))
    };
    pods.iter().filter(says).collect()
}

/// These, and pods that said so before they fell silent: what is on their volumes waits all the same.
fn degraded_pods(pods: &[PodSpool]) -> Vec<&PodSpool> {
    let said = |one: &&PodSpool| one.last.is_some_and(|depth| is_behind(one, depth));
    pods.iter().filter(said).collect()
}

/// Pods whose spool may hold anything. Not one that has not begun to run and left nothing before: it may never begin, and
/// whoever asked for too many pods must be able to take that back.
fn silent(pods: &[PodSpool]) -> Vec<&str> {
    let nothing = |one: &PodSpool| one.unborn && one.last.is_none_or(|depth| depth.groups == 0);
    pods.iter()
        .filter(|one| one.depth.is_none() && !nothing(one))
        .map(|one| one.pod.as_str())
        .collect()
}

/// What may happen to the pods. `pods`: `None` before they have been asked.
pub(crate) fn hold(pods: Option<&[PodSpool]>) -> Hold {
    let Some(pods) = pods else {
        let why = "the spools have not been looked at yet";
        return Hold {
            rollout: Some(why.into()),
            scale_in: Some(why.into()),
        };
    };
    let behind = behind(pods);
    if !behind.is_empty() {
        let why = format!(
            "Kafka has first to take what waits in spools: {}",
            describe(&behind)
        );
        return Hold {
            rollout: Some(why.clone()),
            scale_in: Some(why),
        };
    }
    let silent = silent(pods);
    Hold {
        // Its volume stays, and a pod that is broken has to be replaced by one that is not.
        rollout: None,
        scale_in: (!silent.is_empty()).then(|| {
            let pods = named(silent.iter().map(|pod| (*pod).to_owned()), silent.len());
            format!("it is not known what the spools hold of {pods}")
        }),
    }
}

/// `DurabilityDegraded`, while it is true.
pub(crate) fn degraded(pods: &[PodSpool]) -> Option<Statement> {
    let behind = degraded_pods(pods);
    if behind.is_empty() {
        return None;
    }
    let groups: u64 = behind.iter().filter_map(|one| Some(one.last?.groups)).sum();
    let message = format!(
        "{groups} groups of events wait for Kafka in the spools of {} of {} pods, each the only copy: {}",
        behind.len(),
        pods.len(),
        describe(&behind)
    );
    Some(Statement::new(
        ConditionType::DurabilityDegraded,
        true,
        Reason::Spooling,
        message,
    ))
}

/// Both at once: what asks for a person comes first.
pub(crate) fn worse(failed: Option<Statement>, spooling: Option<Statement>) -> Option<Statement> {
    match (failed, spooling) {
        (Some(failed), Some(spooling)) if spooling.reason == Reason::Spooling => Some(Statement {
            message: format!("{}; {}", failed.message, spooling.message),
            ..failed
        }),
        (Some(failed), _) => Some(failed),
        // It was remembered, and is over.
        (None, Some(spooling)) if spooling.reason == Reason::DrainFailed => None,
        (None, spooling) => spooling,
    }
}

/// Whether two looks lead to the same decisions.
pub(crate) fn same(one: &[PodSpool], other: &[PodSpool]) -> bool {
    let names = |pods: Vec<&PodSpool>| -> Vec<String> { pods.iter().map(|one| one.pod.clone()).collect() };
    names(behind(one)) == names(behind(other))
        && names(degraded_pods(one)) == names(degraded_pods(other))
        && silent(one) == silent(other)
}

/// Whether events of any pod wait.
pub(crate) fn any_degraded(pods: &[PodSpool]) -> bool {
    !degraded_pods(pods).is_empty()
}

fn describe(pods: &[&PodSpool]) -> String {
    let each = pods.iter().map(|one| {
        let depth = one.last.unwrap_or_default();
        let when = if one.depth.is_some() {
            ""
        } else {
            ", when it last said so"
        };
        format!(
            "{} ({} groups, {}, oldest {} s{when})",
            one.pod,
            depth.groups,
            size(depth.bytes),
            depth.oldest
        )
    });
    named(each, pods.len())
}

/// The first few of them.
fn named(each: impl Iterator<Item = String>, count: usize) -> String {
    let mut text = each.take(NAMED).collect::<Vec<_>>().join(", ");
    if count > NAMED {
        text.push_str(&format!(" and {} more", count - NAMED));
    }
    text
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{} kB", bytes / 1_000),
        1_000_000..1_000_000_000 => format!("{} MB", bytes / 1_000_000),
        _ => format!("{} GB", bytes / 1_000_000_000),
    }
}

/// A StatefulSet's two numbers that holding is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Numbers {
    pub replicas: i32,
    /// Pods from this ordinal on are rolled; `replicas` means none.
    pub partition: i32,
}

/// The numbers to write. `live`: those in force, where there is a StatefulSet. `asked`: whether the pods have been asked;
/// before, nothing is changed for the sake of not knowing, unless something is changed anyway (`changes`).
pub(crate) fn numbers(
    wanted: i32,
    live: Option<Numbers>,
    hold: &Hold,
    asked: bool,
    changes: bool,
) -> Numbers {
    let Some(live) = live else {
        return Numbers {
            replicas: wanted,
            partition: 0,
        };
    };
    let replicas = match hold.scale_in {
        Some(_) => wanted.max(live.replicas),
        None => wanted,
    };
    let partition = match hold.rollout {
        None => 0,
        Some(_) if !asked && !changes => live.partition,
        Some(_) => replicas,
    };
    Numbers { replicas, partition }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, figures: Option<(u64, u64)>) -> PodSpool {
        let depth = figures.map(|(groups, oldest)| Depth {
            groups,
            bytes: groups * 400_000,
            oldest,
        });
        PodSpool::new(name.into(), depth)
    }

    #[test]
    fn a_spool_that_is_behind_holds_both_and_one_that_is_silent_only_the_scale_in() {
        let spooled = |figures| PodSpool {
            spools_all: true,
            ..pod("a", Some(figures))
        };
        for (pods, rollout, scale_in) in [
            (vec![], false, false),
            (vec![pod("a", Some((0, 0)))], false, false),
            (vec![pod("a", Some((1, 0)))], true, true),
            (vec![spooled((1, 5))], false, false),
            (vec![spooled((1, 6))], true, true),
            (vec![pod("a", None)], false, true),
            (vec![pod("a", None), pod("b", Some((0, 0)))], false, true),
            (vec![pod("a", None), pod("b", Some((2, 9)))], true, true),
        ] {
            let hold = hold(Some(&pods));
            assert_eq!(
                (hold.rollout.is_some(), hold.scale_in.is_some()),
                (rollout, scale_in),
                "{pods:?}"
            );
            assert_eq!(degraded(&pods).is_some(), rollout, "{pods:?}");
        }
        let mut unborn = pod("a", None);
        unborn.unborn = true;
        assert_eq!(
            hold(Some(std::slice::from_ref(&unborn))),
            Hold::default(),
            "it may never begin"
        );
        unborn.last = pod("a", Some((1, 1))).depth;
        assert!(hold(Some(&[unborn])).scale_in.is_some(), "its volume has some");
        let unasked = hold(None);
        assert!(unasked.rollout.is_some() && unasked.scale_in.is_some());
    }

    #[test]
    fn the_message_says_who_and_how_much() {
        let pods = [
            pod("events-ingest-0", Some((3, 40))),
            pod("events-ingest-1", None),
        ];
        let said = degraded(&pods).unwrap();
        assert_eq!(said.reason, Reason::Spooling);
        assert_eq!(
            said.message,
            "3 groups of events wait for Kafka in the spools of 1 of 2 pods, each the only copy: \
             events-ingest-0 (3 groups, 1 MB, oldest 40 s)"
        );
        let many: Vec<PodSpool> = (0..8).map(|n| pod(&format!("p-{n}"), Some((1, 1)))).collect();
        let said = degraded(&many).unwrap().message;
        assert!(
            said.ends_with("p-4 (1 groups, 400 kB, oldest 1 s) and 3 more"),
            "{said}"
        );
    }

    #[test]
    fn a_pod_that_fell_silent_with_events_is_still_spoken_of() {
        let mut silent = pod("a", None);
        silent.last = Some(Depth {
            groups: 2,
            bytes: 800,
            oldest: 7,
        });
        let pods = [silent, pod("b", Some((0, 0)))];
        assert_eq!(hold(Some(&pods)).rollout, None, "it may be broken");
        assert!(hold(Some(&pods)).scale_in.is_some());
        let said = degraded(&pods).unwrap().message;
        assert!(
            said.ends_with("a (2 groups, 800 B, oldest 7 s, when it last said so)"),
            "{said}"
        );
        assert!(!same(&pods, &[pod("a", None), pod("b", Some((0, 0)))]));
        // One that restarts is not broken: to roll the others meanwhile would restart more of those that hold events.
        let mut restarting = pods.clone();
        restarting[0].back_soon = true;
        let why = hold(Some(&restarting)).rollout.unwrap();
        assert!(why.ends_with("when it last said so)"), "{why}");
        assert!(!same(&pods, &restarting), "its time is over");
    }

    #[test]
    fn only_what_changes_a_decision_is_a_change() {
        let one = [pod("a", Some((3, 40))), pod("b", Some((0, 0)))];
        let more = [pod("a", Some((9, 60))), pod("b", Some((0, 0)))];
        let both = [pod("a", Some((9, 60))), pod("b", Some((1, 0)))];
        let silent = [pod("a", Some((3, 40))), pod("b", None)];
        assert!(same(&one, &more));
        assert!(!same(&one, &both));
        assert!(!same(&one, &silent));
    }

    #[test]
    fn what_is_held_is_neither_rolled_nor_scaled_in() {
        let free = Hold::default();
        let behind = Hold {
            rollout: Some("behind".into()),
            scale_in: Some("behind".into()),
        };
        let silent = Hold {
            rollout: None,
            scale_in: Some("silent".into()),
        };
        let at = |replicas, partition| Numbers { replicas, partition };
        for (wanted, live, hold, asked, changes, expected) in [
            // The first time there is nothing to hold.
            (2, None, &behind, false, true, at(2, 0)),
            (2, Some(at(2, 0)), &free, true, false, at(2, 0)),
            (2, Some(at(2, 2)), &free, true, true, at(2, 0)),
            (2, Some(at(2, 0)), &behind, true, false, at(2, 2)),
            (1, Some(at(3, 0)), &behind, true, true, at(3, 3)),
            (1, Some(at(3, 0)), &silent, true, true, at(3, 0)),
            (1, Some(at(3, 3)), &free, true, true, at(1, 0)),
            // More pods is always fine; none of them is rolled.
            (4, Some(at(2, 2)), &behind, true, true, at(4, 4)),
            // After a start of the operator.
            (2, Some(at(2, 0)), &behind, false, false, at(2, 0)),
            (2, Some(at(2, 2)), &behind, false, false, at(2, 2)),
            (2, Some(at(2, 0)), &behind, false, true, at(2, 2)),
            (1, Some(at(2, 0)), &behind, false, true, at(2, 2)),
        ] {
            assert_eq!(
                numbers(wanted, live, hold, asked, changes),
                expected,
                "{wanted} {live:?} {hold:?} {asked} {changes}"
            );
        }
    }
}
