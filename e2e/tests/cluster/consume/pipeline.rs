//! A topic, its dead letters and an event table of a test's own, and questions about them.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use penstock_dataplane_config::table::{EventTable, dedup_window};
use penstock_e2e::trial::Turn;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::producer::{
    BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer,
};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::events;

pub(crate) struct Pipeline {
    pub(crate) kit: Turn,
    pub(crate) topic: String,
    pub(crate) database: String,
    pub(crate) folder: tempfile::TempDir,
    /// Event ids begin with it.
    pub(crate) run: u64,
    partitions: i32,
    runtime: tokio::runtime::Runtime,
    producer: ThreadedProducer<Deliveries>,
    /// Where its consumers tell how they are doing.
    pub(crate) admins: Mutex<Vec<u16>>,
}

/// Counts what Kafka did not take: `flush` alone does not tell.
#[derive(Default)]
struct Deliveries {
    failed: Mutex<Option<KafkaError>>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, delivery: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = delivery {
            *self.failed.lock().expect("not poisoned") = Some(error.clone());
        }
    }
}

fn producer(kit: &Turn) -> ThreadedProducer<Deliveries> {
    ClientConfig::new()
        .set("bootstrap.servers", kit.kafka_bootstrap().expect("Kafka runs"))
        .set("enable.idempotence", "true")
        .set("compression.type", "lz4")
        .set("linger.ms", "5")
        .create_with_context(Deliveries::default())
        .expect("a producer")
}

/// A dead letter: its headers and its value.
#[derive(Debug)]
pub(crate) struct Letter {
    pub(crate) reason: String,
    pub(crate) step: String,
    pub(crate) detail: String,
    pub(crate) origin: String,
    pub(crate) value: Vec<u8>,
}

impl Pipeline {
    /// Must be called on the test's thread before it starts others: it enters the instance's network.
    pub(crate) fn new(name: &str, partitions: i32) -> Self {
        Self::on(Turn::beside_others().expect("an instance"), name, partitions)
    }

    /// For a test in which nothing may be late.
    pub(crate) fn in_quiet(name: &str, partitions: i32) -> Self {
        Self::on(Turn::in_quiet().expect("an instance"), name, partitions)
    }

    /// For a test that takes a service away.
    pub(crate) fn alone(name: &str, partitions: i32) -> Self {
        Self::on(Turn::alone().expect("an instance"), name, partitions)
    }

    fn on(kit: Turn, name: &str, partitions: i32) -> Self {
        let run = u64::from_be_bytes(uuid::Uuid::new_v4().as_bytes()[..8].try_into().expect("8 bytes"));
        let database = format!("consume_{name}_{:08x}", run as u32);
        let pipeline = Self {
            topic: database.clone(),
            folder: tempfile::tempdir().expect("a folder"),
            runtime: tokio::runtime::Runtime::new().expect("a runtime"),
            database,
            producer: producer(&kit),
            kit,
            run,
            partitions,
            admins: Mutex::default(),
        };
        pipeline.create_topics();
        pipeline.create_table();
        pipeline
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new()
            .set(
                "bootstrap.servers",
                self.kit.kafka_bootstrap().expect("Kafka runs"),
            )
            .create()
            .expect("an admin client")
    }

    pub(crate) fn letters_topic(&self) -> String {
        format!("{}.dlq", self.topic)
    }

    fn create_topics(&self) {
        let letters = self.letters_topic();
        let topics = [
            NewTopic::new(&self.topic, self.partitions, TopicReplication::Fixed(1)),
            NewTopic::new(&letters, 1, TopicReplication::Fixed(1)),
        ];
        let mut kafka = ClientConfig::new();
        kafka.set("bootstrap.servers", self.kit.kafka_bootstrap().expect("Kafka"));
        crate::topics::create(&kafka, &topics);
    }

    /// Deletes the topic and makes it anew; the group and the table stay.
    pub(crate) fn recreate_topic(&self) {
        let gone = self
            .runtime
            .block_on(self.admin().delete_topics(&[&self.topic], &AdminOptions::new()))
            .expect("Kafka answers");
        gone.into_iter().for_each(|topic| drop(topic.expect("deleted")));
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let topic = NewTopic::new(&self.topic, self.partitions, TopicReplication::Fixed(1));
            let made = self
                .runtime
                .block_on(self.admin().create_topics(&[topic], &AdminOptions::new()))
                .expect("Kafka answers")
                .remove(0);
            match made {
                Ok(_) => return,
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(error) => panic!("cannot make the topic anew: {error:?}"),
            }
        }
    }

    /// Gives the topic more partitions, and has events go to them, too.
    pub(crate) fn grow(&mut self, partitions: i32) {
        self.flush();
        let grown = NewPartitions::new(&self.topic, partitions as usize);
        let grown = self
            .runtime
            .block_on(self.admin().create_partitions([&grown], &AdminOptions::new()))
            .expect("Kafka answers");
        grown.into_iter().for_each(|topic| drop(topic.expect("grown")));
        // One that knows the topic hears of it in five minutes.
        self.producer = producer(&self.kit);
        self.partitions = partitions;
    }

    /// As retention does.
    pub(crate) fn delete_records_before(&self, partition: i32, offset: i64) {
        let mut bounds = TopicPartitionList::new();
        bounds
            .add_partition_offset(&self.topic, partition, Offset::Offset(offset))
            .expect("a list");
        let deleted = self
            .runtime
            .block_on(self.admin().delete_records(&bounds, &AdminOptions::new()))
            .expect("Kafka answers");
        for element in deleted.elements() {
            element.error().expect("deleted");
        }
    }

    fn create_table(&self) {
        self.sql(&format!("CREATE DATABASE {}", self.database));
        let statement = EventTable {
            database: &self.database,
            table: "events",
            cluster: None,
            comment: "test",
            dedup_window: dedup_window(self.partitions as u32),
        }
        .create_statement();
        self.sql(&statement);
    }

    pub(crate) fn sql(&self, statement: &str) -> String {
        self.kit
            .clickhouse(statement)
            .unwrap_or_else(|error| panic!("{statement}: {error}"))
    }

    /// `events` in the test's database.
    pub(crate) fn table(&self) -> String {
        format!("{}.events", self.database)
    }

    pub(crate) fn produce(&self, partition: i32, value: &[u8]) {
        loop {
            let record = BaseRecord::<(), [u8]>::to(&self.topic)
                .partition(partition)
                .payload(value);
            match self.producer.send(record) {
                Ok(()) => return,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err((error, _)) => panic!("cannot produce: {error}"),
            }
        }
    }

    /// Into the first partition, and waits until it is committed.
    pub(crate) fn produce_in_a_transaction(&self, value: &[u8]) {
        let patience = Duration::from_secs(60);
        let producer: BaseProducer = ClientConfig::new()
            .set(
                "bootstrap.servers",
                self.kit.kafka_bootstrap().expect("Kafka runs"),
            )
            .set("transactional.id", &self.topic)
            .create()
            .expect("a producer");
        producer.init_transactions(patience).expect("a coordinator");
        producer.begin_transaction().expect("a transaction");
        let record = BaseRecord::<(), [u8]>::to(&self.topic)
            .partition(0)
            .payload(value);
        producer.send(record).expect("queued");
        producer.commit_transaction(patience).expect("committed");
    }

    /// Events numbered `first..first + count`, `per_record` to a record, over all partitions in turn.
    pub(crate) fn produce_events(&self, first: u64, count: u64, per_record: u64) {
        let mut next = first;
        while next < first + count {
            let lines = per_record.min(first + count - next);
            let partition = (next / per_record) as i32 % self.partitions;
            self.produce(partition, events::record(self.run, next, lines).as_bytes());
            next += lines;
        }
    }

    pub(crate) fn flush(&self) {
        self.producer
            .flush(Duration::from_secs(60))
            .expect("everything is produced");
        let failed = self.producer.context().failed.lock().expect("not poisoned");
        assert!(failed.is_none(), "{failed:?}");
    }

    /// Rows and distinct events.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let answer = self.sql(&format!(
            "SELECT count(), uniqExact(event_id) FROM {} FORMAT TSV",
            self.table()
        ));
        let mut numbers = answer.split_whitespace().map(|n| n.parse().expect("a number"));
        (numbers.next().expect("rows"), numbers.next().expect("events"))
    }

    /// Waits until as many rows are stored, and makes sure that it stays at that and that none is there twice.
    pub(crate) fn expect_rows(&self, rows: u64, patience: Duration) {
        let deadline = Instant::now() + patience;
        while self.counts().0 < rows {
            assert!(
                Instant::now() < deadline,
                "{:?} rows and events of {rows} after {patience:?}; logs in {}",
                self.counts(),
                self.keep().display()
            );
            std::thread::sleep(Duration::from_millis(250));
        }
        std::thread::sleep(Duration::from_millis(1500));
        assert_eq!(self.counts(), (rows, rows), "logs in {}", self.keep().display());
    }

    /// Keeps what tells why a test fails: logs, metrics of the consumers that run, what is stored of each partition.
    pub(crate) fn keep(&self) -> PathBuf {
        let kept = std::env::temp_dir().join(format!("penstock-{}", self.database));
        let _ = std::fs::create_dir_all(&kept);
        for admin in self.admins.lock().expect("not poisoned").iter() {
            if let Ok((_, metrics)) = super::consumer::get(*admin, "/metrics") {
                let _ = std::fs::write(kept.join(format!("metrics-{admin}.txt")), metrics);
            }
        }
        let stored = self.kit.clickhouse(&format!(
            "SELECT src_partition, count(), min(src_offset), max(src_offset), uniqExact(src_offset) FROM {} \
             GROUP BY src_partition ORDER BY src_partition FORMAT PrettyCompactMonoBlock",
            self.table()
        ));
        let _ = std::fs::write(kept.join("stored.txt"), stored.unwrap_or_default());
        for entry in std::fs::read_dir(self.folder.path())
            .into_iter()
            .flatten()
            .flatten()
        {
            if entry
                .path()
                .extension()
                .is_some_and(|extension| extension == "log")
            {
                let _ = std::fs::copy(entry.path(), kept.join(entry.file_name()));
            }
        }
        kept
    }

    fn reader(&self) -> BaseConsumer {
        self.reader_in(&format!("{}-reader", self.topic))
    }

    /// For looking at the consumer's group and setting its offsets, without being a member.
    pub(crate) fn in_group(&self) -> BaseConsumer {
        self.reader_in(&format!("penstock.test.{}", self.topic))
    }

    pub(super) fn reader_in(&self, group: &str) -> BaseConsumer {
        ClientConfig::new()
            .set(
                "bootstrap.servers",
                self.kit.kafka_bootstrap().expect("Kafka runs"),
            )
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .create()
            .expect("a reader")
    }

    /// The first `count` dead letters, in the order in which they were written.
    pub(crate) fn letters(&self, count: usize, patience: Duration) -> Vec<Letter> {
        let reader = self.reader();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.letters_topic(), 0, Offset::Beginning)
            .expect("a list");
        reader.assign(&list).expect("assigned");
        let deadline = Instant::now() + patience;
        let mut letters = Vec::new();
        while letters.len() < count {
            assert!(
                Instant::now() < deadline,
                "{} of {count} dead letters: {letters:?}",
                letters.len()
            );
            let Some(Ok(message)) = reader.poll(Duration::from_millis(200)) else {
                continue;
            };
            let headers = message.headers().expect("dead letters have headers");
            let header = |name: &str| {
                let found = headers.iter().find(|header| header.key == name);
                let value = found.and_then(|header| header.value).unwrap_or_default();
                String::from_utf8(value.to_vec()).expect("text")
            };
            letters.push(Letter {
                reason: header("penstock-reason"),
                step: header("penstock-step"),
                detail: header("penstock-detail"),
                origin: header("penstock-origin"),
                value: message.payload().unwrap_or_default().to_vec(),
            });
        }
        letters
    }

    /// How many dead letters there are.
    pub(crate) fn letter_count(&self) -> i64 {
        let (low, high) = self
            .reader()
            .fetch_watermarks(&self.letters_topic(), 0, Duration::from_secs(10))
            .expect("watermarks");
        high - low
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = self
                .kit
                .clickhouse(&format!("DROP DATABASE IF EXISTS {}", self.database));
            let (topic, letters) = (self.topic.clone(), self.letters_topic());
            let _ = self.runtime.block_on(
                self.admin()
                    .delete_topics(&[&topic, &letters], &AdminOptions::new()),
            );
        }
    }
}
