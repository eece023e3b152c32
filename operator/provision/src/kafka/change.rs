//! The requests that change a topic.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rdkafka::admin::{AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::RDKafkaErrorCode;

use super::super::TopicSpec;
use super::super::error::{ProvisionError, Service};
use super::connection::{Connection, options};
use super::plan::{Changes, ObservedTopic};
use super::{failure, observe, plan};

/// How long a setting that was accepted may take to reach the broker that describes it.
const EFFECT: Duration = Duration::from_secs(2);

pub(super) async fn create(
    connection: &Connection,
    spec: &TopicSpec,
    replication: u32,
) -> Result<(), ProvisionError> {
    let config = plan::desired_config(spec, replication);
    let results = connection
        .administer(|clients| {
            let config = &config;
            async move {
                let mut topic = NewTopic::new(
                    &spec.name,
                    spec.partitions.cast_signed(),
                    TopicReplication::Fixed(replication.cast_signed()),
                );
                for (key, value) in config {
                    topic = topic.set(key, value);
                }
                clients.admin.create_topics([&topic], &options()).await
            }
        })
        .await?;
    match results.into_iter().next() {
        Some(Ok(_)) => observe::wait_for_partitions(connection, &spec.name, spec.partitions).await,
        // Made since we looked, or still on its way out: looking again decides which.
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Err(ProvisionError::NotYet(format!(
            "topic {} appeared while it was being created",
            spec.name
        ))),
        Some(Err((_, RDKafkaErrorCode::InvalidConfig))) => {
            let keys: Vec<_> = spec.config.keys().map(String::as_str).collect();
            Err(refused_settings(&spec.name, &spec.config, &keys))
        }
        Some(Err((_, code))) => Err(failure::broker(
            &connection.bootstrap,
            code,
            Some(&format!("creating topic {}", spec.name)),
        )),
        None => Err(failure::unavailable(&connection.bootstrap, "an empty answer")),
    }
}

/// Kafka says only that some setting is wrong; the message names those that can be.
fn refused_settings(topic: &str, config: &BTreeMap<String, String>, keys: &[&str]) -> ProvisionError {
    let settings: Vec<_> = keys
        .iter()
        .map(|key| match config.get(*key) {
            Some(value) => format!("{key}={value}"),
            None => format!("{key} back to its default"),
        })
        .collect();
    ProvisionError::Rejected {
        service: Service::Kafka,
        detail: format!("settings of topic {topic}: {}", settings.join(", ")),
    }
}

/// Makes an existing topic match; says what was changed.
pub(super) async fn apply(
    connection: &Connection,
    spec: &TopicSpec,
    observed: &ObservedTopic,
    changes: Changes,
) -> Result<Vec<String>, ProvisionError> {
    let mut changed: Vec<String> = Vec::new();
    if let Some(config) = changes.config {
        configure(connection, &spec.name, &config, &changes.changed_keys).await?;
        changed.extend(changes.changed_keys);
    }
    if let Some(partitions) = changes.grow_to {
        grow(connection, &spec.name, partitions).await?;
        changed.push(format!("partitions {} -> {partitions}", observed.partitions));
    }
    Ok(changed)
}

async fn configure(
    connection: &Connection,
    topic: &str,
    config: &BTreeMap<String, String>,
    keys: &BTreeSet<String>,
) -> Result<(), ProvisionError> {
    connection
        .administer(|clients| async move {
            let mut alter = AlterConfig::new(ResourceSpecifier::Topic(topic));
            for (key, value) in config {
                alter = alter.set(key, value);
            }
            clients.admin.alter_configs([&alter], &options()).await
        })
        .await?;
    // librdkafka's Rust binding drops the error of a single resource: what was refused looks like what was done. So
    // the topic is asked.
    let deadline = Instant::now() + EFFECT;
    loop {
        let there = observe::topic(connection, topic)
            .await?
            .map(|observed| observed.overrides)
            .unwrap_or_default();
        let refused: Vec<&str> = keys
            .iter()
            .map(String::as_str)
            .filter(|key| match (config.get(*key), there.get(*key)) {
                (Some(asked), Some(there)) => !plan::same_value(asked, there),
                (asked, there) => asked.is_some() != there.is_some(),
            })
            .collect();
        if refused.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(refused_settings(topic, config, &refused));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn grow(connection: &Connection, topic: &str, partitions: u32) -> Result<(), ProvisionError> {
    let results = connection
        .administer(|clients| async move {
            let grown = NewPartitions::new(topic, partitions as usize);
            clients.admin.create_partitions([&grown], &options()).await
        })
        .await?;
    match results.into_iter().next() {
        Some(Err((_, code))) => {
            let about = format!("growing topic {topic} to {partitions} partitions");
            Err(failure::broker(&connection.bootstrap, code, Some(&about)))
        }
        _ => observe::wait_for_partitions(connection, topic, partitions).await,
    }
}
