//! Kafka from behind the operator's back.

use std::time::Duration;

use penstock_e2e::Result;
use penstock_e2e::trial::SpareKafka;
use penstock_provision::contract::{Fields, KafkaSide, Side};
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, ConfigSource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

const LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct Kafka<'a> {
    brokers: &'a SpareKafka<'a>,
    config: ClientConfig,
    admin: AdminClient<DefaultClientContext>,
    reader: BaseConsumer,
}

impl Kafka<'_> {
    pub(crate) fn new<'a>(brokers: &'a SpareKafka<'a>) -> Result<Kafka<'a>> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers.bootstrap());
        let admin = config.create().expect("a client");
        let reader = config
            .clone()
            .set("group.id", "contract")
            .create()
            .expect("a client");
        Ok(Kafka {
            brokers,
            config,
            admin,
            reader,
        })
    }

    /// A controller that accepted a change is ahead of the broker that answers.
    pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, look: impl Fn() -> F) -> T {
        let deadline = tokio::time::Instant::now() + LIMIT;
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            assert!(tokio::time::Instant::now() < deadline, "{what} did not come true");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn overrides(&self, name: &str) -> Option<Fields> {
        let metadata = self.reader.fetch_metadata(Some(name), LIMIT).expect("metadata");
        metadata
            .topics()
            .iter()
            .find(|topic| topic.name() == name && topic.error().is_none())?;
        let topic = ResourceSpecifier::Topic(name);
        let described = self
            .admin
            .describe_configs([&topic], &AdminOptions::new())
            .await
            .expect("settings");
        let entries = &described[0].as_ref().expect("settings").entries;
        let own = entries
            .iter()
            .filter(|entry| entry.source == ConfigSource::DynamicTopic);
        Some(
            own.map(|entry| (entry.name.clone(), entry.value.clone().unwrap_or_default()))
                .collect(),
        )
    }
}

impl KafkaSide for Kafka<'_> {
    fn create_topic<'a>(&'a self, name: &'a str, partitions: u32, config: &'a Fields) -> Side<'a, ()> {
        Box::pin(async move {
            let mut topic = NewTopic::new(name, partitions.cast_signed(), TopicReplication::Fixed(1));
            for (key, value) in config {
                topic = topic.set(key, value);
            }
            let made = self
                .admin
                .create_topics([&topic], &AdminOptions::new())
                .await
                .expect("an answer");
            assert!(made[0].is_ok(), "{made:?}");
            Self::until("the topic", || self.overrides(name)).await;
        })
    }

    fn delete_topic<'a>(&'a self, name: &'a str) -> Side<'a, ()> {
        Box::pin(async move {
            let gone = self
                .admin
                .delete_topics(&[name], &AdminOptions::new())
                .await
                .expect("an answer");
            assert!(gone[0].is_ok(), "{gone:?}");
            Self::until("the deletion", || async {
                self.overrides(name).await.is_none().then_some(())
            })
            .await;
        })
    }

    fn configure<'a>(&'a self, name: &'a str, config: &'a Fields) -> Side<'a, ()> {
        Box::pin(async move {
            let mut alter = AlterConfig::new(ResourceSpecifier::Topic(name));
            for (key, value) in config {
                alter = alter.set(key, value);
            }
            let altered = self
                .admin
                .alter_configs([&alter], &AdminOptions::new())
                .await
                .expect("an answer");
            assert!(altered[0].is_ok(), "{altered:?}");
            let there = || async { (self.overrides(name).await.as_ref() == Some(config)).then_some(()) };
            Self::until("the settings", there).await;
        })
    }

    fn config<'a>(&'a self, name: &'a str) -> Side<'a, Option<Fields>> {
        Box::pin(self.overrides(name))
    }

    fn create_group<'a>(&'a self, group: &'a str, topic: &'a str) -> Side<'a, ()> {
        Box::pin(async move {
            let consumer: BaseConsumer = self
                .config
                .clone()
                .set("group.id", group)
                .create()
                .expect("a client");
            let mut offsets = TopicPartitionList::new();
            offsets
                .add_partition_offset(topic, 0, Offset::Offset(0))
                .expect("an offset");
            let commit = || async { consumer.commit(&offsets, CommitMode::Sync).ok() };
            Self::until("the first commit", commit).await;
        })
    }

    fn stop(&self) -> Side<'_, ()> {
        Box::pin(async {
            self.brokers.kill().expect("the broker is killed");
        })
    }

    fn start(&self) -> Side<'_, ()> {
        Box::pin(async {
            self.brokers.start().expect("the broker starts");
        })
    }
}

/// Deletes what a suite left.
pub(crate) async fn remove(side: &Kafka<'_>, prefix: &str) {
    let metadata = side.reader.fetch_metadata(None, LIMIT).expect("metadata");
    let left: Vec<&str> = metadata
        .topics()
        .iter()
        .map(|t| t.name())
        .filter(|name| name.starts_with(prefix))
        .collect();
    if !left.is_empty() {
        side.admin
            .delete_topics(&left, &AdminOptions::new())
            .await
            .expect("an answer");
    }
}
