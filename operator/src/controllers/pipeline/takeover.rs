//! The two kinds that run ingest, and how one takes over from the other. Pure.
//!
//! Ingest has a StatefulSet with a spool and a Deployment without one. Where the one that is there is not the one that
//! shall be, the new one is brought up beside it, and the old one goes when all pods of the new one are available.

use super::rollout::{Gate, Live};
use super::spool::hold::Hold;

/// What runs ingest: the kind that it shall be, and the other one, where that is still there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Takeover {
    pub live: Live,
    pub other: Live,
    /// The one that shall be is the StatefulSet.
    pub to_set: bool,
}

impl Takeover {
    /// Both as one: what serves, and whether all is as it shall be.
    pub(crate) fn whole(&self) -> Live {
        if !self.other.exists {
            return self.live.clone();
        }
        let running = if self.live.exists { &self.live } else { &self.other };
        Live {
            available: self.live.available + self.other.available,
            rolled_out: false,
            stuck: self.live.stuck.clone(),
            ..running.clone()
        }
    }

    /// Whether the other one may go: only when nothing is left that it does, and nothing is lost with it. `held`: why
    /// the pods of a StatefulSet must stay.
    pub(crate) fn may_end(&self, wanted: &Live, held: Option<&str>) -> bool {
        let replaced = self.live.is(wanted) && self.live.rolled_out && self.live.available >= wanted.replicas;
        self.other.exists && replaced && (self.to_set || held.is_none())
    }

    /// What is on its way, if the other one is still there.
    pub(crate) fn progress(&self, wanted: i32, held: Option<&str>) -> Option<String> {
        if !self.other.exists {
            return None;
        }
        let (new, old) = if self.to_set {
            ("StatefulSet", "Deployment")
        } else {
            ("Deployment", "StatefulSet")
        };
        if self.live.available < wanted || !self.live.rolled_out {
            return Some(format!(
                "{} of {wanted} pods of the {new} are available that takes over from the {old}",
                self.live.available
            ));
        }
        let why = held.filter(|_| !self.to_set);
        Some(match why {
            Some(why) => format!("the {old} stays beside the {new}: {why}"),
            None => format!("the {old} ends, the {new} has taken over"),
        })
    }
}

/// What of ingest is on its way, or held, beside what the figures say. `wanted`: as it shall be.
pub(crate) fn note(takeover: &Takeover, wanted: &Live, hold: &Hold) -> Option<String> {
    if let Some(progress) = takeover.progress(wanted.replicas, hold.rollout.as_deref()) {
        return Some(progress);
    }
    let live = &takeover.live;
    if !(takeover.to_set && live.exists) {
        return None;
    }
    let rollout = hold
        .rollout
        .as_ref()
        .filter(|_| !(live.is(wanted) && live.rolled_out));
    let scale_in = hold.scale_in.as_ref().filter(|_| live.replicas > wanted.replicas);
    match (rollout, scale_in) {
        (Some(why), _) => Some(format!("the rollout is held: {why}")),
        (None, Some(why)) => Some(format!(
            "{} pods stay that shall be {}: {why}",
            live.replicas, wanted.replicas
        )),
        (None, None) => None,
    }
}

/// Decides about volumes: those that a StatefulSet has stay what they are, and claims that are there already are taken as
/// they are.
pub(crate) fn volume_gate(gate: Gate, live: &Live, fits: bool) -> Gate {
    match gate {
        Gate::Open if !fits && live.exists => Gate::Held(
            "the StatefulSet has volumes of another size or class; remove spool until its claims are gone",
        ),
        Gate::Open if !fits => Gate::Held(
            "waiting for the claims of an earlier spool of another size or class, which are drained first",
        ),
        decided => decided,
    }
}

#[cfg(test)]
mod tests {
    use super::super::rollout::tests::live;
    use super::*;

    #[test]
    fn the_old_kind_goes_only_when_the_new_one_is_all_there() {
        let wanted = live("p", "h", 2, false);
        let whole = live("p", "h", 2, true);
        let old = live("p", "old", 2, true);
        let none = Live::default();
        for (name, new, other, to_set, held, ends) in [
            ("nothing there", &none, &none, true, None, false),
            ("no other", &whole, &none, true, None, false),
            ("not begun", &none, &old, true, None, false),
            ("half", &live("p", "h", 1, false), &old, true, None, false),
            (
                "of another template",
                &live("p", "x", 2, true),
                &old,
                true,
                None,
                false,
            ),
            (
                "of too few pods",
                &live("p", "h", 1, true),
                &old,
                true,
                None,
                false,
            ),
            ("whole", &whole, &old, true, None, true),
            (
                "a Deployment has no spool",
                &whole,
                &old,
                true,
                Some("held"),
                true,
            ),
            ("back", &whole, &old, false, None, true),
            ("its spools hold events", &whole, &old, false, Some("held"), false),
        ] {
            let takeover = Takeover {
                live: new.clone(),
                other: other.clone(),
                to_set,
            };
            assert_eq!(takeover.may_end(&wanted, held), ends, "{name}");
        }
    }

    #[test]
    fn both_kinds_serve_while_one_takes_over() {
        let takeover = Takeover {
            live: live("p:2", "h", 1, false),
            other: live("p:1", "old", 2, true),
            to_set: true,
        };
        let whole = takeover.whole();
        assert_eq!(
            (whole.available, whole.rolled_out, whole.image.as_str()),
            (3, false, "p:2")
        );
        assert_eq!(
            takeover.progress(2, None).unwrap(),
            "1 of 2 pods of the StatefulSet are available that takes over from the Deployment"
        );
        let back = Takeover {
            live: live("p", "h", 2, true),
            other: live("p", "old", 2, true),
            to_set: false,
        };
        assert_eq!(
            back.progress(2, Some("events wait")).unwrap(),
            "the StatefulSet stays beside the Deployment: events wait"
        );
        let alone = Takeover {
            other: Live::default(),
            ..back
        };
        assert_eq!(alone.progress(2, None), None);
        assert_eq!(alone.whole(), alone.live);
    }

    #[test]
    fn claims_of_another_size_are_waited_for() {
        let (none, some) = (Live::default(), live("p", "h", 1, true));
        for (live, fits, open) in [
            (&none, true, true),
            (&none, false, false),
            (&some, true, true),
            (&some, false, false),
        ] {
            assert_eq!(
                volume_gate(Gate::Open, live, fits) == Gate::Open,
                open,
                "{live:?} {fits}"
            );
        }
        assert_eq!(volume_gate(Gate::Held("why"), &none, false), Gate::Held("why"));
    }

    #[test]
    fn a_note_says_what_is_held() {
        let hold = Hold {
            rollout: Some("events wait".into()),
            scale_in: Some("events wait".into()),
        };
        let wanted = live("p", "h", 2, false);
        let noted = |live: Live, hold: &Hold| {
            let takeover = Takeover {
                live,
                other: Live::default(),
                to_set: true,
            };
            note(&takeover, &wanted, hold)
        };
        assert_eq!(
            noted(live("p", "h", 2, true), &hold),
            None,
            "nothing is to be rolled"
        );
        let held = Some("the rollout is held: events wait".to_owned());
        assert_eq!(noted(live("p", "old", 2, true), &hold), held, "not written yet");
        assert_eq!(noted(live("p", "h", 2, false), &hold), held, "written");
        assert_eq!(noted(live("p", "h", 2, false), &Hold::default()), None);
        assert_eq!(
            noted(live("p", "h", 3, true), &hold),
            Some("3 pods stay that shall be 2: events wait".to_owned())
        );
        assert_eq!(noted(Live::default(), &hold), None);
    }
}
