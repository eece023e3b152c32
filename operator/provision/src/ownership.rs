//! Whose a topic, a database or a table is.
//!
//! Kubernetes cannot say: two clusters may share one Kafka, and a topic outlives the pipeline that made it. So the
//! mark of ownership lies beside the thing itself, and who comes first with which right is decided here, for all
//! kinds of things alike:
//!
//! ```text
//!             no mark             our mark            another's mark
//! absent      create              create again        Conflict
//! present     adopt, or refuse    take it (back)      Conflict, unless that owner is known to be gone and we may adopt
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

/// `<cluster id>/<namespace>/<name>` of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Owner(String);

impl Owner {
    pub fn new(cluster: &str, namespace: &str, name: &str) -> Self {
        Self(format!("{cluster}/{namespace}/{name}"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is a pipeline of this namespace and name, in whatever cluster.
    pub fn is_of(&self, namespace: &str, name: &str) -> bool {
        self.0
            .split_once('/')
            .is_some_and(|(_, rest)| rest.split_once('/') == Some((namespace, name)))
    }

    /// The namespace and name of the pipeline, where it belongs to this cluster.
    pub fn within(&self, cluster: &str) -> Option<(&str, &str)> {
        self.0.strip_prefix(cluster)?.strip_prefix('/')?.split_once('/')
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is written beside the thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub owner: Owner,
    /// True when Penstock made the thing, and so may delete it; false when it was adopted.
    pub created: bool,
}

impl Mark {
    /// Of what Penstock makes for this owner.
    pub fn created_for(owner: &Owner) -> Self {
        Self {
            owner: owner.clone(),
            created: true,
        }
    }

    /// The mark as the comment of a ClickHouse database or table.
    pub fn comment(&self) -> String {
        format!("penstock owner={} created={}", self.owner, self.created)
    }

    /// Reads a comment; `None` when it is not a mark.
    pub fn from_comment(comment: &str) -> Option<Self> {
        let mut owner = None;
        let mut created = None;
        let mut words = comment.split_ascii_whitespace();
        if words.next()? != "penstock" {
            return None;
        }
        for word in words {
            match word.split_once('=')? {
                ("owner", value) => owner = Some(Owner(value.to_owned())),
                ("created", value) => created = Some(value.parse().ok()?),
                _ => {}
            }
        }
        Some(Self {
            owner: owner?,
            created: created?,
        })
    }
}

/// Who asks, and with which rights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub owner: Owner,
    /// `adoptionPolicy: Adopt`.
    pub adopt: bool,
    /// An owner that is known to be gone, so that what it left behind may be adopted. Never set without having
    /// looked: two living pipelines in one topic would each store every event.
    pub gone: Option<Owner>,
}

impl Claim {
    pub fn new(owner: Owner, adopt: bool) -> Self {
        Self {
            owner,
            adopt,
            gone: None,
        }
    }
}

/// What a claim comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Make it; it will be ours to delete.
    Create,
    /// It is ours already.
    Keep,
    /// It exists and becomes ours, but not to delete.
    Adopt,
}

/// Why a claim fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Someone else's.
    OwnedBy(Owner),
    /// Nobody's that we know, and we may not adopt.
    Unmarked,
}

/// Decides a claim. `exists`: the thing is there; `mark`: what is written beside it.
pub fn decide(exists: bool, mark: Option<&Mark>, claim: &Claim) -> Result<Verdict, Refused> {
    match (exists, mark) {
        (_, Some(mark)) if mark.owner == claim.owner => {
            Ok(if exists { Verdict::Keep } else { Verdict::Create })
        }
        (_, Some(mark)) if claim.adopt && claim.gone.as_ref() == Some(&mark.owner) => {
            Ok(if exists { Verdict::Adopt } else { Verdict::Create })
        }
        (_, Some(mark)) => Err(Refused::OwnedBy(mark.owner.clone())),
        (false, None) => Ok(Verdict::Create),
        (true, None) if claim.adopt => Ok(Verdict::Adopt),
        (true, None) => Err(Refused::Unmarked),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims() {
        let us = Owner::new("c1", "growth", "events");
        let them = Owner::new("c1", "ads", "events");
        let ours = Mark {
            owner: us.clone(),
            created: true,
        };
        let theirs = Mark {
            owner: them.clone(),
            created: true,
        };
        let fail = Claim::new(us.clone(), false);
        let adopt = Claim::new(us, true);
        let inherit = Claim {
            gone: Some(them.clone()),
            ..adopt.clone()
        };
        let not_adopting = Claim {
            adopt: false,
            ..inherit.clone()
        };
        let conflict = || Err(Refused::OwnedBy(them.clone()));
        for (exists, mark, claim, expected) in [
            (false, None, &fail, Ok(Verdict::Create)),
            (false, Some(&ours), &fail, Ok(Verdict::Create)),
            (false, Some(&theirs), &fail, conflict()),
            (false, Some(&theirs), &adopt, conflict()),
            (false, Some(&theirs), &inherit, Ok(Verdict::Create)),
            (true, None, &fail, Err(Refused::Unmarked)),
            (true, None, &adopt, Ok(Verdict::Adopt)),
            (true, Some(&ours), &fail, Ok(Verdict::Keep)),
            (true, Some(&ours), &adopt, Ok(Verdict::Keep)),
            (true, Some(&theirs), &fail, conflict()),
            (true, Some(&theirs), &adopt, conflict()),
            (true, Some(&theirs), &inherit, Ok(Verdict::Adopt)),
            (true, Some(&theirs), &not_adopting, conflict()),
        ] {
            assert_eq!(
                decide(exists, mark, claim),
                expected,
                "exists={exists} mark={mark:?} claim={claim:?}"
            );
        }
    }

    #[test]
    fn comments_round_trip() {
        let mark = Mark {
            owner: Owner::new("c1", "growth", "events"),
            created: false,
        };
        assert_eq!(mark.comment(), "penstock owner=c1/growth/events created=false");
        assert_eq!(Mark::from_comment(&mark.comment()), Some(mark));
        for other in [
            "",
            "events of the shop",
            "penstock",
            "penstock owner=x",
            "penstock owner=x created=maybe",
        ] {
            assert_eq!(Mark::from_comment(other), None, "{other}");
        }
    }

    #[test]
    fn an_owner_knows_its_cluster() {
        let owner = Owner::new("c1", "growth", "events");
        assert_eq!(owner.within("c1"), Some(("growth", "events")));
        assert_eq!(owner.within("c"), None);
        assert_eq!(owner.within("c2"), None);
    }
}
