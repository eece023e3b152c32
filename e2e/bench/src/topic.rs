//! The topics that servers write to: one for each run, made before it and removed after it.

use std::time::{Duration, Instant};

use penstock_e2e::error::Context as _;
use penstock_e2e::{Error, Result};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};

const PATIENCE: Duration = Duration::from_secs(60);
/// Of every topic.
pub const PARTITIONS: i32 = 3;
/// A service that answers first and writes later has written all when nothing was added for so long.
const SETTLED: Duration = Duration::from_millis(1500);

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// Events, one a line.
    Lines,
    /// One event.
    Event,
    /// One request's events, however many.
    Request { events: u64 },
}

/// Makes, counts and removes topics.
pub struct Topics {
    bootstrap: String,
    admin: AdminClient<DefaultClientContext>,
    runtime: tokio::runtime::Runtime,
}

impl std::fmt::Debug for Topics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Topics")
            .field("bootstrap", &self.bootstrap)
            .finish_non_exhaustive()
    }
}

impl Topics {
    pub fn at(bootstrap: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .doing("starting a runtime")?;
        Ok(Self {
            bootstrap: bootstrap.to_owned(),
            admin: config(bootstrap).create().doing("connecting to Kafka")?,
            runtime,
        })
    }

    /// Makes a topic and its dead letters.
    pub fn create(&self, name: &str) -> Result<()> {
        let letters = letters(name);
        let topics = [
            NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1)),
            NewTopic::new(&letters, 1, TopicReplication::Fixed(1)),
        ];
        let until = Instant::now() + PATIENCE;
        loop {
            let created = self
                .runtime
                .block_on(self.admin.create_topics(&topics, &options()))
                .doing("creating topics")?;
            let failed = created.into_iter().find_map(|one| match one {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => None,
                Err(failed) => Some(failed),
            });
            match failed {
                None => return Ok(()),
                // The controller has not heard of its only broker for a moment, on a machine that stood still. A run of half an
                // hour shall not end by that.
                Some((_, RDKafkaErrorCode::InvalidReplicationFactor)) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(500));
                }
                Some((topic, error)) => return Err(Error::new(format!("creating {topic}: {error}"))),
            }
        }
    }

    pub fn delete(&self, name: &str) -> Result<()> {
        let letters = letters(name);
        self.runtime
            .block_on(self.admin.delete_topics(&[name, &letters], &options()))
            .doing("deleting topics")
            .map(drop)
    }

    /// The events of a topic.
    pub fn count(&self, name: &str, record: Record) -> Result<u64> {
        let consumer: BaseConsumer = config(&self.bootstrap)
            .set("group.id", "bench")
            .set("fetch.wait.max.ms", "10")
            .set("queued.min.messages", "1000")
            .create()
            .doing("connecting to Kafka")?;
        match record {
            Record::Lines => read_lines(&consumer, name),
            Record::Event => records(&consumer, name),
            Record::Request { events } => Ok(records(&consumer, name)? * events),
        }
    }

    /// Waits until a service that writes behind its answers has written all.
    pub fn settle(&self, name: &str) -> Result<()> {
        let consumer: BaseConsumer = config(&self.bootstrap).create().doing("connecting to Kafka")?;
        let (mut last, mut since, end) = (0, Instant::now(), Instant::now() + PATIENCE);
        while since.elapsed() < SETTLED {
            let now = records(&consumer, name)?;
            if now != last {
                (last, since) = (now, Instant::now());
            }
            if Instant::now() > end {
                return Err(Error::new(format!("{name} still grows after {PATIENCE:?}")));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

/// The dead letters of a topic.
pub fn letters(topic: &str) -> String {
    format!("{topic}.dlq")
}

fn config(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap);
    config
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(PATIENCE))
}

fn watermarks(consumer: &BaseConsumer, topic: &str, partition: i32) -> Result<(i64, i64)> {
    consumer
        .fetch_watermarks(topic, partition, PATIENCE)
        .doing(format_args!("asking for the end of {topic}/{partition}"))
}

fn records(consumer: &BaseConsumer, topic: &str) -> Result<u64> {
    (0..PARTITIONS).try_fold(0, |sum, partition| {
        let (low, high) = watermarks(consumer, topic, partition)?;
        Ok(sum + high.abs_diff(low))
    })
}

fn read_lines(consumer: &BaseConsumer, topic: &str) -> Result<u64> {
    let (mut list, mut left, mut lines) = (TopicPartitionList::new(), 0, 0);
    for partition in 0..PARTITIONS {
        list.add_partition_offset(topic, partition, Offset::Beginning)
            .doing("assigning partitions")?;
        let (low, high) = watermarks(consumer, topic, partition)?;
        left += high - low;
    }
    consumer.assign(&list).doing("assigning partitions")?;
    let end = Instant::now() + PATIENCE;
    while left > 0 {
        if Instant::now() > end {
            return Err(Error::new(format!(
                "{left} records of {topic} were not read in {PATIENCE:?}"
            )));
        }
        let Some(message) = consumer.poll(Duration::from_millis(200)) else {
            continue;
        };
        let message = match message {
            // A connection was closed; it is made anew.
            Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) => continue,
            message => message.doing(format_args!("reading {topic}"))?,
        };
        left -= 1;
        let value = message.payload().unwrap_or_default();
        lines += value.split(|byte| *byte == b'\n').count() as u64 - 1;
    }
    Ok(lines)
}
