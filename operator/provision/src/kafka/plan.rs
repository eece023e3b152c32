//! What to do to a topic: a pure comparison of what is asked with what is there.
//!
//! Only settings that Penstock made are ever changed. A setting that someone else gave the topic stays, a setting
//! that a person takes out of the spec goes back to the broker's default.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{GROW_PARTITIONS, TopicSpec};

/// A topic as the brokers describe it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ObservedTopic {
    pub partitions: u32,
    /// The smallest number of copies of any partition.
    pub replication: u32,
    /// Settings of the topic itself, without what it inherits from the broker.
    pub overrides: BTreeMap<String, String>,
    /// All settings that are in force.
    pub effective: BTreeMap<String, String>,
    /// Of the cluster.
    pub brokers: u32,
}

impl ObservedTopic {
    pub(crate) fn min_insync_replicas(&self) -> u32 {
        self.effective
            .get("min.insync.replicas")
            .and_then(|value| value.parse().ok())
            .unwrap_or(1)
    }
}

/// Copies of each partition where the spec does not say.
pub(crate) const fn default_replication(brokers: u32) -> u32 {
    if brokers < 3 { brokers } else { 3 }
}

/// How many copies must have a record before it is acknowledged: one broker may be away.
pub(crate) const fn min_insync_replicas(replication: u32) -> u32 {
    if replication > 1 { replication - 1 } else { 1 }
}

/// A setting that a spec cannot change, whatever it says.
const UNCLEAN: &str = "unclean.leader.election.enable";

/// Every setting that the spec asks for, at a given replication.
pub(crate) fn desired_config(spec: &TopicSpec, replication: u32) -> BTreeMap<String, String> {
    let mut config = spec.config.clone();
    config.insert("cleanup.policy".into(), "delete".into());
    config.insert("retention.ms".into(), spec.retention.as_millis().to_string());
    config.insert(
        "min.insync.replicas".into(),
        min_insync_replicas(replication).to_string(),
    );
    config.insert(UNCLEAN.into(), "false".into());
    config
}

/// What must change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// The new number of partitions.
    pub grow_to: Option<u32>,
    /// All settings that the topic shall have, the foreign ones included; `None` when they are right already.
    /// Whole, because librdkafka's safe interface has only AlterConfigs, which resets what it does not name.
    pub config: Option<BTreeMap<String, String>>,
    /// Which of our settings differ.
    pub changed_keys: BTreeSet<String>,
}

/// Compares. `ours`: the names of the settings that Penstock gave the topic before. The error is a sentence for a
/// person.
pub(crate) fn changes(
    spec: &TopicSpec,
    observed: &ObservedTopic,
    ours: &BTreeSet<String>,
) -> Result<Changes, String> {
    refuse_impossible(spec)?;
    let name = &spec.name;
    if spec.partitions < observed.partitions {
        return Err(format!(
            "topic {name} has {} partitions and {} are asked for: Kafka cannot remove a partition; ask for {}",
            observed.partitions, spec.partitions, observed.partitions
        ));
    }
    if spec.keeps_keys && spec.partitions > observed.partitions {
        return Err(format!(
            "topic {name} has {} partitions and {asked} are asked for: its records have keys, and events of one key would \
             go to another partition than those before. Set the annotation {GROW_PARTITIONS} of the pipeline to {asked} to \
             have it grown, or kafka.partitions back to {}",
            observed.partitions,
            observed.partitions,
            asked = spec.partitions,
        ));
    }
    if let Some(asked) = spec.replication
        && asked != observed.replication
    {
        return Err(format!(
            "topic {name} has {} copies of each partition and {asked} are asked for: move the partitions with \
             Kafka's own tools (kafka-reassign-partitions), then the spec holds again",
            observed.replication
        ));
    }
    let desired = desired_config(spec, observed.replication);
    let mut target = observed.overrides.clone();
    let mut changed_keys = BTreeSet::new();
    for key in ours.iter().filter(|key| !desired.contains_key(*key)) {
        if target.remove(key).is_some() {
            changed_keys.insert(key.clone());
        }
    }
    for (key, value) in desired {
        if !target.get(&key).is_some_and(|there| same_value(there, &value)) {
            changed_keys.insert(key.clone());
            target.insert(key, value);
        }
    }
    Ok(Changes {
        grow_to: (spec.partitions > observed.partitions).then_some(spec.partitions),
        config: (!changed_keys.is_empty()).then_some(target),
        changed_keys,
    })
}

/// Refuses to adopt what would lose records by becoming ours.
pub(crate) fn refuse_adoption(spec: &TopicSpec, observed: &ObservedTopic) -> Result<(), String> {
    let name = &spec.name;
    let effective = |key: &str| observed.effective.get(key).map_or("", |value| value.trim());
    if effective("cleanup.policy").contains("compact") {
        return Err(format!(
            "topic {name} is compacted, which a topic of events cannot be: choose another name"
        ));
    }
    let asked = spec.retention.as_millis();
    match effective("retention.ms").parse::<i128>() {
        Ok(kept) if kept < 0 => Err(format!(
            "topic {name} keeps its records for ever and {asked} ms are asked for: adopting it would delete records. \
             Set retention.ms of the topic yourself first"
        )),
        Ok(kept) if kept.unsigned_abs() > asked => Err(format!(
            "topic {name} keeps its records for {kept} ms and {asked} ms are asked for: adopting it would delete \
             records. Set kafka.retention to at least {kept}ms, or retention.ms of the topic yourself first"
        )),
        _ => Ok(()),
    }
}

/// Refuses what could never be granted, before anything is made.
pub(crate) fn refuse_impossible(spec: &TopicSpec) -> Result<(), String> {
    match spec.config.get(UNCLEAN) {
        Some(value) if value.trim() != "false" => Err(format!(
            "config: {UNCLEAN} is always false: an unclean election throws acknowledged events away"
        )),
        _ => Ok(()),
    }
}

/// The broker stores what it is given, but may write it its own way (`1.50` as `1.5`, `a, b` as `a,b`): that is no
/// drift.
pub(crate) fn same_value(a: &str, b: &str) -> bool {
    let plain = |text: &str| text.split(',').map(str::trim).collect::<Vec<_>>().join(",");
    let (a, b) = (plain(a), plain(b));
    a == b
        || a.eq_ignore_ascii_case(&b) && matches!(b.to_ascii_lowercase().as_str(), "true" | "false")
        || match (a.parse::<f64>(), b.parse::<f64>()) {
            (Ok(a), Ok(b)) => a == b,
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn spec() -> TopicSpec {
        TopicSpec {
            name: "growth.events".into(),
            partitions: 3,
            keeps_keys: false,
            replication: None,
            retention: Duration::from_secs(3600),
            config: [("segment.bytes".into(), "1000000".into())].into(),
        }
    }

    /// The topic as it is after the spec has been applied.
    fn applied(spec: &TopicSpec, replication: u32) -> (ObservedTopic, BTreeSet<String>) {
        let overrides = desired_config(spec, replication);
        let ours = overrides.keys().cloned().collect();
        let effective = overrides.clone();
        (
            ObservedTopic {
                partitions: spec.partitions,
                replication,
                overrides,
                effective,
                brokers: replication,
            },
            ours,
        )
    }

    #[test]
    fn replication_follows_the_brokers() {
        for (brokers, replication, in_sync) in [(1, 1, 1), (2, 2, 1), (3, 3, 2), (12, 3, 2)] {
            assert_eq!(default_replication(brokers), replication);
            assert_eq!(min_insync_replicas(replication), in_sync);
        }
    }

    #[test]
    fn nothing_changes_once_applied() {
        let (observed, ours) = applied(&spec(), 3);
        assert_eq!(changes(&spec(), &observed, &ours), Ok(Changes::default()));
        assert_eq!(observed.overrides["min.insync.replicas"], "2");
        assert_eq!(observed.overrides["unclean.leader.election.enable"], "false");
        assert_eq!(observed.overrides["retention.ms"], "3600000");
    }

    #[test]
    fn partitions_grow_and_never_shrink() {
        let (observed, ours) = applied(&spec(), 1);
        let more = TopicSpec {
            partitions: 6,
            ..spec()
        };
        assert_eq!(changes(&more, &observed, &ours).unwrap().grow_to, Some(6));
        let keyed = TopicSpec {
            keeps_keys: true,
            ..more
        };
        let refused = changes(&keyed, &observed, &ours).unwrap_err();
        assert!(
            refused.contains("penstock.dev/grow-partitions of the pipeline to 6"),
            "{refused}"
        );
        let fewer = TopicSpec {
            partitions: 2,
            ..spec()
        };
        let refused = changes(&fewer, &observed, &ours).unwrap_err();
        assert!(refused.contains("3 partitions and 2 are asked for"), "{refused}");
    }

    #[test]
    fn replication_is_refused_where_it_differs_and_left_alone_where_unsaid() {
        let (observed, ours) = applied(&spec(), 1);
        let two = TopicSpec {
            replication: Some(2),
            ..spec()
        };
        assert!(
            changes(&two, &observed, &ours)
                .unwrap_err()
                .contains("1 copies of each partition and 2 are asked")
        );
        let one = TopicSpec {
            replication: Some(1),
            ..spec()
        };
        assert_eq!(changes(&one, &observed, &ours), Ok(Changes::default()));
    }

    #[test]
    fn drift_is_mended_and_foreign_settings_stay() {
        let (mut observed, ours) = applied(&spec(), 1);
        observed.overrides.insert("retention.ms".into(), "1".into());
        observed.overrides.insert("flush.ms".into(), "100".into());
        let found = changes(&spec(), &observed, &ours).unwrap();
        let target = found.config.unwrap();
        assert_eq!(found.changed_keys, ["retention.ms".to_owned()].into());
        assert_eq!(target["retention.ms"], "3600000");
        assert_eq!(target["flush.ms"], "100");
    }

    #[test]
    fn a_setting_taken_out_of_the_spec_goes_back_to_the_default() {
        let (mut observed, ours) = applied(&spec(), 1);
        observed.overrides.insert("flush.ms".into(), "100".into());
        let without = TopicSpec {
            config: BTreeMap::new(),
            ..spec()
        };
        let found = changes(&without, &observed, &ours).unwrap();
        let target = found.config.unwrap();
        assert!(!target.contains_key("segment.bytes"));
        assert!(
            target.contains_key("flush.ms"),
            "a foreign setting was taken away"
        );
        assert_eq!(found.changed_keys, ["segment.bytes".to_owned()].into());
    }

    #[test]
    fn another_spelling_is_no_drift() {
        for (a, b) in [("0.50", "0.5"), ("a, b", "a,b"), ("TRUE", "true"), (" 7 ", "7")] {
            assert!(same_value(a, b), "{a} {b}");
        }
        for (a, b) in [
            ("0.5", "0.6"),
            ("a", "A"),
            ("delete", "compact,delete"),
            ("1", ""),
        ] {
            assert!(!same_value(a, b), "{a} {b}");
        }
    }

    #[test]
    fn adopting_never_deletes_records() {
        let (observed, _) = applied(&spec(), 1);
        let with = |key: &str, value: &str| {
            let mut observed = observed.clone();
            observed.effective.insert(key.into(), value.into());
            refuse_adoption(&spec(), &observed)
        };
        assert_eq!(refuse_adoption(&spec(), &observed), Ok(()));
        assert_eq!(with("retention.ms", "3599999"), Ok(()));
        assert!(
            with("retention.ms", "3600001")
                .unwrap_err()
                .contains("at least 3600001ms")
        );
        assert!(with("retention.ms", "-1").unwrap_err().contains("for ever"));
        assert!(with("cleanup.policy", "compact").is_err());
        assert!(with("cleanup.policy", "delete,compact").is_err());
    }

    #[test]
    fn unclean_election_cannot_be_switched_on() {
        let mut spec = spec();
        spec.config
            .insert("unclean.leader.election.enable".into(), "true".into());
        assert!(refuse_impossible(&spec).is_err());
        spec.config
            .insert("unclean.leader.election.enable".into(), "false".into());
        assert!(refuse_impossible(&spec).is_ok());
    }
}
