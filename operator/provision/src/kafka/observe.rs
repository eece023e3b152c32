//! What is there: brokers, partitions, copies, settings.

use std::time::{Duration, Instant};

use rdkafka::admin::{ConfigSource, ResourceSpecifier};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::super::error::ProvisionError;
use super::connection::{ANSWER, Connection, options};
use super::failure;
use super::plan::ObservedTopic;
use super::registry;

/// Partitions and copies of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub partitions: u32,
    pub replication: u32,
    /// Every partition has a leader.
    pub led: bool,
    /// Of the cluster.
    pub brokers: u32,
}

/// How many brokers are in the cluster now.
pub(super) fn brokers(reader: &BaseConsumer, patience: Duration) -> Result<u32, KafkaError> {
    // One topic's metadata names all brokers; asking for no topic in particular would list all of them.
    let metadata = reader.fetch_metadata(Some(registry::TOPIC), patience)?;
    Ok(u32::try_from(metadata.brokers().len()).unwrap_or(u32::MAX))
}

/// `None` where the topic does not exist.
pub(super) fn topic_metadata(reader: &BaseConsumer, topic: &str) -> Result<Option<Shape>, KafkaError> {
    let metadata = reader.fetch_metadata(Some(topic), ANSWER)?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
        return Ok(None);
    };
    match found.error().map(RDKafkaErrorCode::from) {
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => return Ok(None),
        // Just made, or a broker is away: the topic is there.
        None | Some(RDKafkaErrorCode::LeaderNotAvailable) => {}
        Some(code) => return Err(KafkaError::MetadataFetch(code)),
    }
    let partitions = found.partitions();
    if partitions.is_empty() {
        return Ok(None);
    }
    Ok(Some(Shape {
        partitions: u32::try_from(partitions.len()).unwrap_or(u32::MAX),
        replication: partitions
            .iter()
            .map(|partition| u32::try_from(partition.replicas().len()).unwrap_or(u32::MAX))
            .min()
            .unwrap_or(0),
        brokers: u32::try_from(metadata.brokers().len()).unwrap_or(u32::MAX),
        led: partitions.iter().all(|partition| partition.leader() >= 0),
    }))
}

/// The topic with its settings.
pub(super) async fn topic(
    connection: &Connection,
    name: &str,
) -> Result<Option<ObservedTopic>, ProvisionError> {
    let wanted = name.to_owned();
    let Some(shape) = connection
        .blocking(move |clients| topic_metadata(&clients.reader, &wanted))
        .await?
    else {
        return Ok(None);
    };
    let described = connection
        .administer(|clients| async move {
            clients
                .admin
                .describe_configs([&ResourceSpecifier::Topic(name)], &options())
                .await
        })
        .await?;
    let settings = match described.into_iter().next() {
        Some(Ok(resource)) => resource.entries,
        Some(Err(code)) => {
            return Err(failure::broker(
                &connection.bootstrap,
                code,
                Some(&format!("settings of topic {name}")),
            ));
        }
        None => Vec::new(),
    };
    if settings.is_empty() {
        // A topic always has settings. librdkafka's Rust binding drops the error of a single resource, so it is not
        // known why there are none: the broker that was asked may not have heard of the topic yet.
        return Err(ProvisionError::NotYet(format!(
            "settings of topic {name} cannot be read yet (if this stays, the operator may not DescribeConfigs there)"
        )));
    }
    let mut observed = ObservedTopic {
        partitions: shape.partitions,
        replication: shape.replication,
        brokers: shape.brokers,
        ..ObservedTopic::default()
    };
    for setting in settings {
        let Some(value) = setting.value else { continue };
        if setting.source == ConfigSource::DynamicTopic {
            observed.overrides.insert(setting.name.clone(), value.clone());
        }
        observed.effective.insert(setting.name, value);
    }
    Ok(Some(observed))
}

/// Waits until the brokers that we ask know of a change that the controller has accepted.
pub(super) async fn wait_for_partitions(
    connection: &Connection,
    topic: &str,
    partitions: u32,
) -> Result<(), ProvisionError> {
    let deadline = Instant::now() + ANSWER;
    loop {
        let wanted = topic.to_owned();
        let shape = connection
            .blocking(move |clients| topic_metadata(&clients.reader, &wanted))
            .await?;
        if shape.is_some_and(|shape| shape.led && shape.partitions >= partitions) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(ProvisionError::NotYet(format!(
                "topic {topic}: not all of its {partitions} partitions have a leader yet"
            )));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
