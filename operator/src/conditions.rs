//! Setting conditions without moving what did not change.
//!
//! `lastTransitionTime` is the moment the status flipped, so it is carried over from the conditions that are stored.
//! Conditions that are present only while true are left out when they are not.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use penstock_crds::{Condition, ConditionStatus, ConditionType, Reason};

/// Longest message that the schema accepts.
const MAX_MESSAGE: usize = 4096;

/// What is to be said, before it is known since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    pub about: ConditionType,
    pub status: ConditionStatus,
    pub reason: Reason,
    pub message: String,
}

impl Statement {
    pub fn new(about: ConditionType, holds: bool, reason: Reason, message: impl Into<String>) -> Self {
        let status = if holds {
            ConditionStatus::True
        } else {
            ConditionStatus::False
        };
        Self {
            about,
            status,
            reason,
            message: message.into(),
        }
    }

    pub fn unknown(about: ConditionType, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            about,
            status: ConditionStatus::Unknown,
            reason,
            message: message.into(),
        }
    }

    pub fn holds(&self) -> bool {
        self.status == ConditionStatus::True
    }
}

/// The conditions to store.
pub fn merge(
    stored: &[Condition],
    statements: &[Statement],
    generation: i64,
    now: Timestamp,
) -> Vec<Condition> {
    // The API server keeps whole seconds; more would read back as a change.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    statements
        .iter()
        .map(|statement| {
            let before = stored.iter().find(|c| c.type_ == statement.about.as_str());
            let since = before
                .filter(|c| c.status == statement.status)
                .map(|c| c.last_transition_time.clone());
            Condition {
                type_: statement.about.as_str().into(),
                status: statement.status,
                reason: statement.reason.as_str().into(),
                message: bounded(&statement.message),
                last_transition_time: since.unwrap_or(Time(now)),
                observed_generation: Some(generation),
            }
        })
        .collect()
}

/// What is stored about one thing.
pub fn find(stored: &[Condition], about: ConditionType) -> Option<&Condition> {
    stored.iter().find(|c| c.type_ == about.as_str())
}

fn bounded(message: &str) -> String {
    match message.char_indices().nth(MAX_MESSAGE - 3) {
        Some((end, _)) => format!("{}...", &message[..end]),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_time_moves_only_when_the_status_flips() {
        let ready = |holds| Statement::new(ConditionType::Ready, holds, Reason::Available, "");
        let first = merge(&[], &[ready(true)], 1, at(100));
        let same = merge(&first, &[ready(true)], 2, at(200));
        assert_eq!(same[0].last_transition_time.0, at(100));
        assert_eq!(same[0].observed_generation, Some(2));
        let flipped = merge(&same, &[ready(false)], 2, at(300));
        assert_eq!(flipped[0].last_transition_time.0, at(300));
    }

    #[test]
    fn what_is_not_said_is_gone() {
        let stored = merge(
            &[],
            &[Statement::new(
                ConditionType::Paused,
                true,
                Reason::PausedByAnnotation,
                "",
            )],
            1,
            at(1),
        );
        assert!(merge(&stored, &[], 1, at(2)).is_empty());
    }

    #[test]
    fn parts_of_a_second_are_dropped_and_messages_bounded() {
        let now = Timestamp::from_millisecond(1500).unwrap();
        let long = Statement::new(ConditionType::Ready, true, Reason::Available, "ü".repeat(5000));
        let merged = merge(&[], &[long], 1, now);
        assert_eq!(merged[0].last_transition_time.0, at(1));
        assert!(merged[0].message.chars().count() <= MAX_MESSAGE);
    }
}
