//! A Kafka cluster in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use penstock_dataplane_config::KafkaCluster;

use super::super::contract::{Fields, KafkaSide, Side};
use super::super::kafka::plan::{self, ObservedTopic};
use super::super::ownership::{self, Claim, Mark, Owner, Verdict};
use super::super::{Answer, Deletion, Outcome, ProvisionError, Service, TopicAdmin, TopicSpec, TopicState};
use super::{answer, unavailable};

#[derive(Debug, Default)]
struct State {
    brokers: u32,
    down: bool,
    topics: BTreeMap<String, ObservedTopic>,
    marks: BTreeMap<String, (Mark, BTreeSet<String>)>,
    groups: BTreeSet<String>,
}

/// A cluster that answers at one bootstrap address.
#[derive(Debug)]
pub struct FakeKafka {
    bootstrap: String,
    state: Mutex<State>,
}

/// The settings of a broker that matter here.
fn effective(overrides: &Fields) -> Fields {
    let mut effective: Fields = [
        ("cleanup.policy".to_owned(), "delete".to_owned()),
        ("retention.ms".to_owned(), "604800000".to_owned()),
        ("min.insync.replicas".to_owned(), "1".to_owned()),
    ]
    .into();
    effective.extend(overrides.clone());
    effective
}

impl FakeKafka {
    pub fn new(bootstrap: &str, brokers: u32) -> Self {
        Self {
            bootstrap: bootstrap.into(),
            state: Mutex::new(State {
                brokers,
                ..State::default()
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops or starts the cluster.
    pub fn set_down(&self, down: bool) {
        self.state().down = down;
    }

    /// The settings of a topic.
    pub fn topic(&self, name: &str) -> Option<Fields> {
        self.state().topics.get(name).map(|topic| topic.overrides.clone())
    }

    pub fn topics(&self) -> Vec<String> {
        self.state().topics.keys().cloned().collect()
    }

    fn up(&self, cluster: &KafkaCluster) -> Result<MutexGuard<'_, State>, ProvisionError> {
        let state = self.state();
        if state.down || cluster.bootstrap != self.bootstrap {
            return Err(unavailable(Service::Kafka, &cluster.bootstrap));
        }
        Ok(state)
    }
}

/// A real broker judges every setting; this one knows that sizes are numbers.
fn accepts(spec: &TopicSpec) -> Result<(), ProvisionError> {
    for (key, value) in spec.config.iter().filter(|(key, _)| key.ends_with(".bytes")) {
        if value.parse::<i64>().is_err() {
            return Err(ProvisionError::Rejected {
                service: Service::Kafka,
                detail: format!("topic {} with {key}={value}", spec.name),
            });
        }
    }
    Ok(())
}

impl State {
    fn ensure(&mut self, spec: &TopicSpec, claim: &Claim) -> Result<(Outcome, TopicState), ProvisionError> {
        let name = &spec.name;
        let there = self.topics.get(name).cloned();
        let held = self.marks.get(name).cloned();
        let verdict = ownership::decide(there.is_some(), held.as_ref().map(|(mark, _)| mark), claim)
            .map_err(|why| ProvisionError::refused(format!("topic {name}"), why))?;
        let refuse = ProvisionError::NotSupported;
        plan::refuse_impossible(spec).map_err(refuse)?;
        let (mut topic, outcome) = match there {
            None => {
                let replication = spec
                    .replication
                    .unwrap_or_else(|| plan::default_replication(self.brokers));
                if replication > self.brokers {
                    return Err(refuse(format!(
                        "topic {name}: {replication} copies of each partition are asked for"
                    )));
                }
                accepts(spec)?;
                let overrides = plan::desired_config(spec, replication);
                let partitions = spec.partitions;
                let topic = ObservedTopic {
                    partitions,
                    replication,
                    overrides,
                    ..ObservedTopic::default()
                };
                (topic, Outcome::Created)
            }
            Some(mut topic) => {
                if verdict == Verdict::Adopt {
                    plan::refuse_adoption(spec, &topic).map_err(refuse)?;
                }
                let ours = held
                    .filter(|(mark, _)| mark.owner == claim.owner)
                    .map(|(_, keys)| keys)
                    .unwrap_or_default();
                let changes = plan::changes(spec, &topic, &ours).map_err(refuse)?;
                accepts(spec)?;
                let mut changed: Vec<String> = changes.changed_keys.into_iter().collect();
                if let Some(config) = changes.config {
                    topic.overrides = config;
                }
                if let Some(partitions) = changes.grow_to {
                    changed.push(format!("partitions {} -> {partitions}", topic.partitions));
                    topic.partitions = partitions;
                }
                let outcome = match verdict {
                    Verdict::Adopt => Outcome::Adopted,
                    _ if changed.is_empty() => Outcome::Unchanged,
                    _ => Outcome::Updated(changed),
                };
                (topic, outcome)
            }
        };
        topic.effective = effective(&topic.overrides);
        topic.brokers = self.brokers;
        let created = match (verdict, self.marks.get(name)) {
            (Verdict::Keep, Some((mark, _))) => mark.created,
            (verdict, _) => verdict == Verdict::Create,
        };
        let keys = plan::desired_config(spec, topic.replication)
            .into_keys()
            .collect();
        self.marks.insert(
            name.clone(),
            (
                Mark {
                    owner: claim.owner.clone(),
                    created,
                },
                keys,
            ),
        );
        let state = state_of(&topic);
        self.topics.insert(name.clone(), topic);
        Ok((outcome, state))
    }

    fn delete(&mut self, name: &str, owner: &Owner) -> Deletion {
        let exists = self.topics.contains_key(name);
        let Some((mark, _)) = self
            .marks
            .get(name)
            .filter(|(mark, _)| mark.owner == *owner)
            .cloned()
        else {
            return if exists { Deletion::Kept } else { Deletion::Absent };
        };
        self.marks.remove(name);
        match (exists, mark.created) {
            (false, _) => Deletion::Absent,
            (true, false) => Deletion::Kept,
            (true, true) => {
                self.topics.remove(name);
                Deletion::Deleted
            }
        }
    }
}

fn state_of(topic: &ObservedTopic) -> TopicState {
    TopicState {
        partitions: topic.partitions,
        replication: topic.replication,
        min_insync_replicas: topic.min_insync_replicas(),
        brokers: topic.brokers,
    }
}

impl TopicAdmin for FakeKafka {
    fn ensure_topic<'a>(
        &'a self,
        cluster: &'a KafkaCluster,
        spec: &'a TopicSpec,
        claim: &'a Claim,
    ) -> Answer<'a, (Outcome, TopicState)> {
        answer(self.up(cluster).and_then(|mut state| state.ensure(spec, claim)))
    }

    fn describe_topic<'a>(
        &'a self,
        cluster: &'a KafkaCluster,
        name: &'a str,
    ) -> Answer<'a, Option<TopicState>> {
        answer(self.up(cluster).map(|state| state.topics.get(name).map(state_of)))
    }

    fn delete_topic<'a>(
        &'a self,
        cluster: &'a KafkaCluster,
        name: &'a str,
        owner: &'a Owner,
    ) -> Answer<'a, Deletion> {
        answer(self.up(cluster).map(|mut state| state.delete(name, owner)))
    }

    fn delete_group<'a>(&'a self, cluster: &'a KafkaCluster, group: &'a str) -> Answer<'a, Deletion> {
        let deleted = |mut state: MutexGuard<'_, State>| {
            if state.groups.remove(group) {
                Deletion::Deleted
            } else {
                Deletion::Absent
            }
        };
        answer(self.up(cluster).map(deleted))
    }

    fn ping<'a>(&'a self, cluster: &'a KafkaCluster) -> Answer<'a, ()> {
        answer(self.up(cluster).map(|_| ()))
    }
}

impl KafkaSide for FakeKafka {
    fn create_topic<'a>(&'a self, name: &'a str, partitions: u32, config: &'a Fields) -> Side<'a, ()> {
        let mut state = self.state();
        let topic = ObservedTopic {
            partitions,
            replication: plan::default_replication(state.brokers),
            overrides: config.clone(),
            effective: effective(config),
            brokers: state.brokers,
        };
        state.topics.insert(name.into(), topic);
        Box::pin(std::future::ready(()))
    }

    fn delete_topic<'a>(&'a self, name: &'a str) -> Side<'a, ()> {
        self.state().topics.remove(name);
        Box::pin(std::future::ready(()))
    }

    fn configure<'a>(&'a self, name: &'a str, config: &'a Fields) -> Side<'a, ()> {
        if let Some(topic) = self.state().topics.get_mut(name) {
            topic.overrides = config.clone();
            topic.effective = effective(config);
        }
        Box::pin(std::future::ready(()))
    }

    fn config<'a>(&'a self, name: &'a str) -> Side<'a, Option<Fields>> {
        Box::pin(std::future::ready(self.topic(name)))
    }

    fn create_group<'a>(&'a self, group: &'a str, _topic: &'a str) -> Side<'a, ()> {
        self.state().groups.insert(group.into());
        Box::pin(std::future::ready(()))
    }

    fn stop(&self) -> Side<'_, ()> {
        self.set_down(true);
        Box::pin(std::future::ready(()))
    }

    fn start(&self) -> Side<'_, ()> {
        self.set_down(false);
        Box::pin(std::future::ready(()))
    }
}
