//! Lines that cannot be stored, to the topic `<topic>.dlq`, acknowledged by all replicas before their batch is
//! completed. The headers are those of `docs/record.md`.
//!
//! A batch whose completion fails is gone through again, so a dead letter may be there twice; `penstock-origin`
//! tells.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::try_join_all;
use penstock_dataplane_config::{ConsumeConfig, record};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use uuid::Uuid;

use super::group::client;
use super::line::parse;
use super::position::Position;

/// Letters that are written at once, so that a batch of nothing else does not fill the producer's queue.
pub const AT_ONCE: usize = 256;
/// The longest value; a line that is longer is cut, because the broker would refuse it for ever. Half of it is sent where
/// the broker refuses that.
const LONGEST: usize = 900_000;
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the record that a refused row came from is waited for.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// Why a line is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is no line of this contract.
    Malformed,
    /// ClickHouse does not take it.
    Refused,
}

impl Reason {
    pub const ALL: [Self; 2] = [Self::Malformed, Self::Refused];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "Malformed",
            Self::Refused => "Refused",
        }
    }
}

/// One dead line, or the first of several.
#[derive(Clone, Copy, Debug)]
pub struct DeadLetter<'a> {
    pub partition: i32,
    pub position: Position,
    /// Of its record, from the position on.
    pub lines: u32,
    pub reason: Reason,
    pub detail: &'a str,
    /// Of the record that it came in, which it keeps: a replay needs it.
    pub key: Option<&'a [u8]>,
    pub value: &'a [u8],
}

/// The key of a record, and one of its lines.
pub type Original = (Option<Vec<u8>>, Vec<u8>);

/// The dead letters of one pipeline. The producer is made when the first one is written.
pub struct DeadLetters {
    config: ConsumeConfig,
    producer: Mutex<Option<FutureProducer>>,
}

impl std::fmt::Debug for DeadLetters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeadLetters({})", self.config.kafka.dead_letter_topic)
    }
}

impl DeadLetters {
    pub fn new(config: ConsumeConfig) -> Self {
        Self {
            config,
            producer: Mutex::default(),
        }
    }

    fn made(&self) -> MutexGuard<'_, Option<FutureProducer>> {
        self.producer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn producer(&self) -> Result<FutureProducer, KafkaError> {
        let mut producer = self.made();
        if let Some(made) = producer.as_ref() {
            return Ok(made.clone());
        }
        let made: FutureProducer = client(&self.config)?
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", MESSAGE_TIMEOUT.as_millis().to_string())
            .set("queue.buffering.max.kbytes", "16384")
            .create()?;
        *producer = Some(made.clone());
        Ok(made)
    }

    /// Writes them, at most [`AT_ONCE`]; returns when every one is acknowledged.
    pub async fn write(&self, letters: &[DeadLetter<'_>]) -> Result<(), KafkaError> {
        debug_assert!(letters.len() <= AT_ONCE);
        let producer = self.producer()?;
        let written = try_join_all(letters.iter().map(|letter| self.write_one(&producer, letter))).await;
        if let Err(error) = written {
            // Perhaps it can do nothing more. The next attempt has another; closing one takes its time.
            *self.made() = None;
            tokio::task::spawn_blocking(move || drop(producer));
            return Err(error);
        }
        Ok(())
    }

    async fn write_one(&self, producer: &FutureProducer, letter: &DeadLetter<'_>) -> Result<(), KafkaError> {
        match self.produce(producer, letter, LONGEST).await {
            Err(KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge)) => {
                self.produce(producer, letter, LONGEST / 2).await
            }
            outcome => outcome,
        }
    }

    async fn produce(
        &self,
        producer: &FutureProducer,
        letter: &DeadLetter<'_>,
        most: usize,
    ) -> Result<(), KafkaError> {
        let Position { offset, row } = letter.position;
        let origin = format!("{}/{}/{offset}/{row}", self.config.kafka.topic, letter.partition);
        let kept = letter.value.len().min(most);
        let detail = match kept < letter.value.len() {
            true => format!("{} (cut from {} bytes)", letter.detail, letter.value.len()),
            false => letter.detail.to_owned(),
        };
        let header = |key, value| Header {
            key,
            value: Some(value),
        };
        let headers = OwnedHeaders::new()
            .insert(header(record::REASON, letter.reason.name()))
            .insert(header(record::STEP, "consume"))
            .insert(header(record::DETAIL, &detail))
            .insert(header(record::ORIGIN, &origin));
        let app = parse(letter.value)
            .ok()
            .map(|line| Uuid::from_u128(line.app_id).to_string());
        let headers = match &app {
            Some(app) => headers.insert(header(record::APP, app)),
            None => headers,
        };
        let lines = letter.lines.to_string();
        let headers = match letter.lines {
            1 => headers,
            _ => headers.insert(header(record::LINES, &lines)),
        };
        let mut record = FutureRecord::<[u8], [u8]>::to(&self.config.kafka.dead_letter_topic)
            .payload(&letter.value[..kept])
            .headers(headers);
        record.key = letter.key;
        producer
            .send(record, MESSAGE_TIMEOUT)
            .await
            .map(drop)
            .map_err(|(error, _)| error)
    }

    /// Reads one line of the topic again, and its record's key: a batch keeps columns, not the bytes they came from.
    /// Blocks.
    pub fn original(&self, partition: i32, position: Position) -> Result<Original, KafkaError> {
        let consumer: BaseConsumer = client(&self.config)?
            .set("group.id", &self.config.group)
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "error")
            .create()?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(
            &self.config.kafka.topic,
            partition,
            Offset::Offset(position.offset),
        )?;
        consumer.assign(&list)?;
        let deadline = std::time::Instant::now() + READ_TIMEOUT;
        while std::time::Instant::now() < deadline {
            let Some(polled) = consumer.poll(Duration::from_millis(200)) else {
                continue;
            };
            let message = polled?;
            if message.offset() != position.offset {
                break;
            }
            let line = message
                .payload()
                .unwrap_or_default()
                .split(|byte| *byte == b'\n')
                .nth(position.row as usize);
            let key = message.key().map(<[u8]>::to_vec);
            return Ok((key, line.unwrap_or_default().to_vec()));
        }
        Err(KafkaError::MessageConsumption(
            RDKafkaErrorCode::OffsetNotAvailable,
        ))
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::message::Headers as _;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::DefaultProducerContext;

    use super::*;

    #[test]
    fn a_letter_says_how_many_lines_it_has_and_what_was_cut() {
        let kafka: MockCluster<'_, DefaultProducerContext> = MockCluster::new(1).unwrap();
        kafka.create_topic("t.dlq", 1, 1).unwrap();
        let config: ConsumeConfig = serde_json::from_value(serde_json::json!({
            "version": 1,
            "pipeline": {"namespace": "n", "name": "p"},
            "kafka": {"bootstrap": kafka.bootstrap_servers(), "topic": "t", "deadLetterTopic": "t.dlq"},
            "group": "g",
            "clickhouse": {"url": "http://127.0.0.1:1", "database": "d", "table": "t"},
        }))
        .unwrap();
        let letter = |row, lines, value| DeadLetter {
            partition: 0,
            position: Position::new(17, row),
            lines,
            reason: Reason::Malformed,
            detail: "no",
            key: None,
            value,
        };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let letters = DeadLetters::new(config.clone());
        // One after the other, so that they lie in that order.
        for letter in [letter(999, 1, &b"x"[..]), letter(1000, 3, b"x\ny\nz\n")] {
            runtime.block_on(letters.write(&[letter])).unwrap();
        }
        let mut reader = client(&config).unwrap();
        let reader: BaseConsumer = reader.set("group.id", "reader").create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset("t.dlq", 0, Offset::Beginning).unwrap();
        reader.assign(&list).unwrap();
        let next = || {
            let message = reader.poll(Duration::from_secs(60)).unwrap().unwrap().detach();
            let headers = message.headers().unwrap();
            let headers = headers.iter().map(|header| {
                let value = String::from_utf8(header.value.unwrap().to_vec()).unwrap();
                (header.key.to_owned(), value)
            });
            headers.collect::<std::collections::BTreeMap<_, _>>()
        };
        let one = next();
        assert_eq!(
            (one["penstock-origin"].as_str(), one.get("penstock-lines")),
            ("t/0/17/999", None)
        );
        let rest = next();
        assert_eq!(
            (rest["penstock-origin"].as_str(), rest["penstock-lines"].as_str()),
            ("t/0/17/1000", "3")
        );

        let long = vec![b'x'; 1_200_000];
        runtime.block_on(letters.write(&[letter(0, 1, &long)])).unwrap();
        let cut = reader.poll(Duration::from_secs(60)).unwrap().unwrap().detach();
        assert_eq!(cut.payload().map(<[u8]>::len), Some(LONGEST));
        let mut headers = cut.headers().unwrap().iter();
        let detail = headers.find(|header| header.key == record::DETAIL).unwrap();
        assert_eq!(detail.value, Some(&b"no (cut from 1200000 bytes)"[..]));
    }
}
