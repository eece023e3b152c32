//! [`TopicAdmin`] on Kafka.
//!
//! ```text
//! ensure: observe ──> claim in the registry ──> create | grow, mend settings ──> settle the claim
//! ```
//!
//! The claim is written before the topic is made and says so (`pending`), so that an operator that dies in between
//! neither loses its right to the topic nor, later, deletes one that someone else made.

mod change;
mod connection;
mod failure;
mod observe;
pub(super) mod plan;
mod registry;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use penstock_dataplane_config::KafkaCluster;
use rdkafka::error::RDKafkaErrorCode;

use self::connection::{ANSWER, Connection, Connections, options};
use self::plan::ObservedTopic;
use self::registry::Entry;
use super::error::{Class, ProvisionError};
use super::ownership::{self, Claim, Owner, Verdict};
use super::{Answer, Deletion, Outcome, TopicAdmin, TopicSpec, TopicState};

/// Administers topics of any number of Kafka clusters.
#[derive(Clone)]
pub struct KafkaAdmin {
    connections: Connections,
}

impl fmt::Debug for KafkaAdmin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaAdmin").finish_non_exhaustive()
    }
}

impl KafkaAdmin {
    /// Connects to nothing yet. Must be called within a Tokio runtime.
    #[expect(
        clippy::new_without_default,
        reason = "a default that needs a runtime would surprise"
    )]
    pub fn new() -> Self {
        Self {
            connections: Connections::new(),
        }
    }

    /// Runs one job on the cluster's connection, and drops the connection when the cluster is away.
    async fn on<T, F>(
        &self,
        cluster: &KafkaCluster,
        job: impl FnOnce(Arc<Connection>) -> F,
    ) -> Result<T, ProvisionError>
    where
        F: Future<Output = Result<T, ProvisionError>>,
    {
        let connection = self.connections.get(cluster)?;
        // Who does not wait for the answer has had none.
        let mut unanswered = Unanswered {
            connections: &self.connections,
            connection: Some(Arc::clone(&connection)),
        };
        let mut answer = job(Arc::clone(&connection)).await;
        if let Err(ProvisionError::Unavailable { detail, .. }) = &mut answer {
            drop(unanswered);
            if let Some(why) = connection.refusal().await {
                *detail = why;
            }
        } else {
            unanswered.connection = None;
        }
        answer
    }
}

/// Forgets a connection that has not answered.
struct Unanswered<'c> {
    connections: &'c Connections,
    connection: Option<Arc<Connection>>,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some(connection) = &self.connection {
            self.connections.forget(connection);
        }
    }
}

impl TopicAdmin for KafkaAdmin {
    fn ensure_topic<'a>(
        &'a self,
        cluster: &'a KafkaCluster,
        spec: &'a TopicSpec,
        claim: &'a Claim,
    ) -> Answer<'a, (Outcome, TopicState)> {
        Box::pin(self.on(cluster, move |connection| async move {
            ensure(&connection, spec, claim).await
        }))
    }

    fn describe_topic<'a>(
        &'a self,
        cluster: &'a KafkaCluster,
        name: &'a str,
    ) -> Answer<'a, Option<TopicState>> {
        Box::pin(self.on(cluster, move |connection| async move {
            Ok(observe::topic(&connection, name).await?.as_ref().map(state))
        }))
    }

    fn delete_topic<'a>(
        &'a self,
        cluster: &'a KafkaCluster,
        name: &'a str,
        owner: &'a Owner,
    ) -> Answer<'a, Deletion> {
        Box::pin(self.on(cluster, move |connection| async move {
            delete(&connection, name, owner).await
        }))
    }

    fn delete_group<'a>(&'a self, cluster: &'a KafkaCluster, group: &'a str) -> Answer<'a, Deletion> {
        Box::pin(self.on(cluster, move |connection| async move {
            delete_group(&connection, group).await
        }))
    }

    fn ping<'a>(&'a self, cluster: &'a KafkaCluster) -> Answer<'a, ()> {
        Box::pin(self.on(cluster, move |connection| async move {
            connection
                .blocking(|clients| observe::brokers(&clients.reader, clients.patience()))
                .await
                .map(|_| ())
        }))
    }
}

async fn ensure(
    connection: &Connection,
    spec: &TopicSpec,
    claim: &Claim,
) -> Result<(Outcome, TopicState), ProvisionError> {
    let observed = observe::topic(connection, &spec.name).await?;
    let (verdict, entry) = take(connection, spec, claim, observed.as_ref()).await?;
    let outcome = match (verdict, &observed) {
        (Verdict::Create, _) | (_, None) => {
            if let Err(error) = change::create(connection, spec, replication(connection, spec).await?).await {
                if error.class() == Class::Permanent {
                    // Nothing was made, and the name shall not stay reserved for it.
                    let mut known = connection.registry.lock().await;
                    registry::write(connection, &mut known, &spec.name, None).await?;
                }
                return Err(error);
            }
            Outcome::Created
        }
        (verdict, Some(observed)) => {
            let changes =
                plan::changes(spec, observed, &entry.config).map_err(ProvisionError::NotSupported)?;
            let changed = change::apply(connection, spec, observed, changes).await?;
            match verdict {
                Verdict::Adopt => Outcome::Adopted,
                // An earlier try made it and could not yet say so.
                _ if entry.pending => Outcome::Created,
                _ if changed.is_empty() => Outcome::Unchanged,
                _ => Outcome::Updated(changed),
            }
        }
    };
    let observed = match (&outcome, observed) {
        (Outcome::Unchanged, Some(observed)) => observed,
        _ => observe::topic(connection, &spec.name).await?.ok_or_else(|| {
            ProvisionError::NotYet(format!("topic {} vanished while it was made", spec.name))
        })?,
    };
    settle(connection, spec, entry, observed.replication).await?;
    Ok((outcome, state(&observed)))
}

/// Whether the spec can be granted at all; asked before anything is claimed or made.
async fn check(
    connection: &Connection,
    spec: &TopicSpec,
    verdict: Verdict,
    observed: Option<&ObservedTopic>,
) -> Result<(), ProvisionError> {
    plan::refuse_impossible(spec).map_err(ProvisionError::NotSupported)?;
    match observed {
        Some(observed) => {
            if verdict == Verdict::Adopt {
                plan::refuse_adoption(spec, observed).map_err(ProvisionError::NotSupported)?;
            }
            plan::changes(spec, observed, &BTreeSet::new())
                .map(|_| ())
                .map_err(ProvisionError::NotSupported)
        }
        None => replication(connection, spec).await.map(|_| ()),
    }
}

/// Copies of each partition of a topic to be made.
async fn replication(connection: &Connection, spec: &TopicSpec) -> Result<u32, ProvisionError> {
    let brokers = connection
        .blocking(|clients| observe::brokers(&clients.reader, ANSWER))
        .await?;
    match spec.replication {
        None => Ok(plan::default_replication(brokers)),
        Some(asked) if asked <= brokers => Ok(asked),
        Some(asked) => Err(ProvisionError::NotSupported(format!(
            "topic {}: {asked} copies of each partition are asked for, and the cluster has {brokers} broker{}",
            spec.name,
            if brokers == 1 { "" } else { "s" },
        ))),
    }
}

/// Claims the topic in the registry, or finds that it is ours.
async fn take(
    connection: &Connection,
    spec: &TopicSpec,
    claim: &Claim,
    observed: Option<&ObservedTopic>,
) -> Result<(Verdict, Entry), ProvisionError> {
    let mut known = connection.registry.lock().await;
    registry::refresh(connection, &mut known).await?;
    let held = known.get(&spec.name).cloned();
    let refused = |why| ProvisionError::refused(format!("topic {}", spec.name), why);
    // A pending claim of ours on a topic that does not look like one we make: someone else made it meanwhile.
    let mark = held
        .as_ref()
        .filter(|entry| !(entry.pending && observed.is_some_and(|observed| !made_here(spec, observed))))
        .map(Entry::mark);
    let verdict = ownership::decide(observed.is_some(), mark.as_ref(), claim).map_err(refused)?;
    check(connection, spec, verdict, observed).await?;
    let entry = match (verdict, held) {
        (Verdict::Keep, Some(entry)) => return Ok((verdict, entry)),
        (Verdict::Create, Some(entry)) if entry.owner == claim.owner => Entry {
            created: true,
            pending: true,
            config: BTreeSet::new(),
            ..entry
        },
        (verdict, held) => Entry {
            owner: claim.owner.clone(),
            created: verdict == Verdict::Create,
            pending: verdict == Verdict::Create,
            config: BTreeSet::new(),
            follows: held
                .as_ref()
                .map(|entry| entry.owner.clone())
                .filter(|owner| *owner != claim.owner),
        },
    };
    if known.get(&spec.name) == Some(&entry) {
        // An earlier try came this far.
        return Ok((verdict, entry));
    }
    registry::write(connection, &mut known, &spec.name, Some(&entry)).await?;
    match known.get(&spec.name) {
        Some(stands) if stands.owner != claim.owner => {
            Err(refused(ownership::Refused::OwnedBy(stands.owner.clone())))
        }
        _ => Ok((verdict, entry)),
    }
}

/// Whether a topic has every setting that a topic made from this spec has.
fn made_here(spec: &TopicSpec, observed: &ObservedTopic) -> bool {
    plan::changes(spec, observed, &BTreeSet::new()).is_ok_and(|changes| changes.config.is_none())
}

/// Records that the topic is as the spec says, and which settings are ours.
async fn settle(
    connection: &Connection,
    spec: &TopicSpec,
    entry: Entry,
    replication: u32,
) -> Result<(), ProvisionError> {
    let config: BTreeSet<String> = plan::desired_config(spec, replication).into_keys().collect();
    if !entry.pending && entry.config == config {
        return Ok(());
    }
    let settled = Entry {
        pending: false,
        config,
        ..entry
    };
    let mut known = connection.registry.lock().await;
    registry::write(connection, &mut known, &spec.name, Some(&settled)).await
}

fn state(observed: &ObservedTopic) -> TopicState {
    TopicState {
        partitions: observed.partitions,
        replication: observed.replication,
        min_insync_replicas: observed.min_insync_replicas(),
        brokers: observed.brokers,
    }
}

async fn delete(connection: &Connection, name: &str, owner: &Owner) -> Result<Deletion, ProvisionError> {
    let mut known = connection.registry.lock().await;
    registry::refresh(connection, &mut known).await?;
    let wanted = name.to_owned();
    let exists = connection
        .blocking(move |clients| observe::topic_metadata(&clients.reader, &wanted))
        .await?
        .is_some();
    let Some(entry) = known.get(name).filter(|entry| entry.owner == *owner).cloned() else {
        return Ok(if exists { Deletion::Kept } else { Deletion::Absent });
    };
    let deletion = match (exists, entry.created && !entry.pending) {
        (false, _) => Deletion::Absent,
        // A pending claim proves nothing: the topic may be anybody's.
        (true, false) => Deletion::Kept,
        (true, true) => {
            let results = connection
                .administer(|clients| async move { clients.admin.delete_topics(&[name], &options()).await })
                .await?;
            match results.into_iter().next() {
                Some(Ok(_)) => Deletion::Deleted,
                Some(Err((_, RDKafkaErrorCode::UnknownTopicOrPartition))) => Deletion::Absent,
                Some(Err((_, RDKafkaErrorCode::TopicDeletionDisabled))) => {
                    return Err(ProvisionError::NotSupported(format!(
                        "topic {name} cannot be deleted: the brokers have delete.topic.enable=false"
                    )));
                }
                Some(Err((_, code))) => {
                    return Err(failure::broker(
                        &connection.bootstrap,
                        code,
                        Some(&format!("deleting topic {name}")),
                    ));
                }
                None => return Err(failure::unavailable(&connection.bootstrap, "an empty answer")),
            }
        }
    };
    // The mark goes last: until then a repeated delete knows its right.
    registry::write(connection, &mut known, name, None).await?;
    Ok(deletion)
}

async fn delete_group(connection: &Connection, group: &str) -> Result<Deletion, ProvisionError> {
    let results = connection
        .administer(|clients| async move { clients.admin.delete_groups(&[group], &options()).await })
        .await?;
    match results.into_iter().next() {
        Some(Ok(_)) => Ok(Deletion::Deleted),
        Some(Err((_, RDKafkaErrorCode::GroupIdNotFound))) => Ok(Deletion::Absent),
        // Consumers that were told to stop are still leaving.
        Some(Err((_, RDKafkaErrorCode::NonEmptyGroup))) => Err(ProvisionError::NotYet(format!(
            "consumer group {group} still has members"
        ))),
        Some(Err((_, code))) => Err(failure::broker(
            &connection.bootstrap,
            code,
            Some(&format!("deleting group {group}")),
        )),
        None => Err(failure::unavailable(&connection.bootstrap, "an empty answer")),
    }
}
