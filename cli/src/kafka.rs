//! Reading a topic without a group, and saying what is wrong when that cannot be done.
//!
//! Only what is committed is read: records of a replay that was cut short are never seen.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use penstock_connect::Unusable;
use penstock_connect::kafka::Reports;
use penstock_dataplane_config::KafkaCluster;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::exit::{Failure, Result};
use crate::output::note;

/// How long an answer may take.
pub const ANSWER: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);
/// Without a word from Kafka for so long, reading is given up.
const SILENCE: Duration = Duration::from_secs(20);
/// How often a topic that is followed is asked whether it has grown, and how long its records may wait for that.
const GROWTH: Duration = Duration::from_secs(5);
const GROWTH_ANSWER: Duration = Duration::from_secs(2);

/// A sentence about an address that does not answer.
pub fn unreachable(reports: &Reports, bootstrap: &str, error: &dyn std::fmt::Display) -> Failure {
    let why = reports.last().unwrap_or_else(|| error.to_string());
    Failure::Unreachable(match reports.refusal() {
        Some(_) => format!("Kafka at {bootstrap} does not let this in: {why}"),
        None => format!(
            "Kafka at {bootstrap} cannot be reached from here: {why}. Run this where its addresses resolve, as in a pod of the cluster, or give one that does with --kafka HOST:PORT"
        ),
    })
}

/// A Kafka, and what its clients say who they are with.
#[derive(Clone, PartialEq, Eq)]
pub struct Brokers {
    cluster: KafkaCluster,
    /// The files that a pipeline's pods have for it, by name; none where they are of this machine.
    files: Option<BTreeMap<String, Vec<u8>>>,
}

impl std::fmt::Debug for Brokers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Brokers({})", self.bootstrap())
    }
}

impl Brokers {
    /// As a person says, with files of this machine.
    pub fn at(cluster: KafkaCluster) -> Self {
        Self { cluster, files: None }
    }

    /// As a pipeline's pods reach it, with their files.
    pub fn of_pods(cluster: KafkaCluster, files: BTreeMap<String, Vec<u8>>) -> Self {
        Self {
            cluster,
            files: Some(files),
        }
    }

    pub fn bootstrap(&self) -> &str {
        &self.cluster.bootstrap
    }

    /// What every client has in common.
    pub fn client(&self) -> Result<ClientConfig> {
        let of_pods = |files: &BTreeMap<String, Vec<u8>>, path: &Path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let content = files.get(name.as_ref());
            content
                .cloned()
                .ok_or_else(|| Unusable::new(path, "is not in the Secret of the pipeline's consumers"))
        };
        let client = match &self.files {
            Some(files) => {
                penstock_connect::kafka::client_with(&self.cluster, &|path: &Path| of_pods(files, path))
            }
            None => penstock_connect::kafka::client(&self.cluster),
        };
        let mut client = client.map_err(|unusable| Failure::Failed(unusable.to_string()))?;
        common(&mut client);
        Ok(client)
    }
}

fn common(client: &mut ClientConfig) {
    client
        // What is logged goes to `Reports`, and nowhere else.
        .set_log_level(RDKafkaLogLevel::Info)
        .set("client.id", "penstock-cli")
        .set("allow.auto.create.topics", "false")
        .set("socket.timeout.ms", "10000")
        .set("reconnect.backoff.max.ms", "2000");
}

/// Offsets of a partition: the first that is there, and the one that comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub partition: i32,
    pub low: i64,
    pub high: i64,
}

/// A topic, open for reading.
pub struct Topic {
    name: String,
    brokers: Brokers,
    consumer: BaseConsumer<Reports>,
    pub bounds: Vec<Bounds>,
}

impl std::fmt::Debug for Topic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Topic({})", self.name)
    }
}

impl Topic {
    /// Learns the topic's partitions and what they hold now.
    pub fn open(brokers: &Brokers, name: &str) -> Result<Self> {
        let bootstrap = brokers.bootstrap();
        let consumer: BaseConsumer<Reports> = brokers
            .client()?
            // Asked for by librdkafka, and joined by nobody.
            .set("group.id", "penstock-cli")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            .set("auto.offset.reset", "earliest")
            .set("fetch.wait.max.ms", "100")
            .create_with_context(Reports::default())
            .map_err(|error| Failure::Usage(format!("{bootstrap} is no address of Kafka: {error}")))?;
        let mut topic = Self {
            name: name.to_owned(),
            brokers: brokers.clone(),
            consumer,
            bounds: Vec::new(),
        };
        let metadata = topic.consumer.fetch_metadata(Some(name), ANSWER);
        let metadata = metadata.map_err(|error| topic.failure(&error))?;
        let found = metadata.topics().iter().find(|found| found.name() == name);
        let partitions = match found {
            Some(found) if found.error().is_none() && !found.partitions().is_empty() => found.partitions(),
            _ => {
                return Err(Failure::NotFound(format!(
                    "there is no topic {name} in Kafka at {bootstrap}"
                )));
            }
        };
        for partition in partitions.iter().map(|partition| partition.id()) {
            let (low, high) = topic
                .consumer
                .fetch_watermarks(name, partition, ANSWER)
                .map_err(|error| topic.failure(&error))?;
            topic.bounds.push(Bounds { partition, low, high });
        }
        topic.bounds.sort_by_key(|bounds| bounds.partition);
        Ok(topic)
    }

    /// All that it holds.
    pub fn beginning(&self) -> Vec<(i32, i64)> {
        self.bounds
            .iter()
            .map(|bounds| (bounds.partition, bounds.low))
            .collect()
    }

    /// What comes from now on.
    pub fn end(&self) -> Vec<(i32, i64)> {
        self.bounds
            .iter()
            .map(|bounds| (bounds.partition, bounds.high))
            .collect()
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// What was written in the last `ago`.
    pub fn since(&self, ago: Duration) -> Result<Vec<(i32, i64)>> {
        let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
        self.at(jiff::Timestamp::now().as_millisecond().saturating_sub(ago).max(0))
    }

    /// What was written from then on, in milliseconds since 1970.
    pub fn at(&self, time: i64) -> Result<Vec<(i32, i64)>> {
        let mut asked = TopicPartitionList::new();
        for bounds in &self.bounds {
            asked
                .add_partition_offset(&self.name, bounds.partition, Offset::Offset(time))
                .map_err(|error| self.failure(&error))?;
        }
        let found = self.consumer.offsets_for_times(asked, ANSWER);
        let found = found.map_err(|error| self.failure(&error))?;
        let from = |bounds: &Bounds| match found
            .find_partition(&self.name, bounds.partition)
            .map(|e| e.offset())
        {
            Some(Offset::Offset(offset)) => (bounds.partition, offset),
            _ => (bounds.partition, bounds.high),
        };
        Ok(self.bounds.iter().map(from).collect())
    }

    /// How many offsets there are from there to the end.
    pub fn length(&self, from: &[(i32, i64)]) -> u64 {
        let length = |&(partition, offset): &(i32, i64)| {
            let bounds = self.bounds.iter().find(|bounds| bounds.partition == partition);
            bounds.map_or(0, |bounds| u64::try_from(bounds.high - offset).unwrap_or(0))
        };
        from.iter().map(length).sum()
    }

    /// Gives every record from there on to `each`, until it has enough; with `follow` also those to come, in partitions that
    /// are added meanwhile too.
    pub fn read(
        &self,
        from: &[(i32, i64)],
        follow: bool,
        mut each: impl FnMut(&BorrowedMessage<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let mut left: BTreeSet<i32> = BTreeSet::new();
        let mut list = TopicPartitionList::new();
        for &(partition, offset) in from {
            left.insert(partition);
            list.add_partition_offset(&self.name, partition, Offset::Offset(offset))
                .map_err(|error| self.failure(&error))?;
        }
        self.consumer
            .assign(&list)
            .map_err(|error| self.failure(&error))?;
        let mut assigned = left.clone();
        let mut look = Instant::now() + GROWTH;
        let mut heard = Instant::now();
        let mut complained = false;
        while follow || !left.is_empty() {
            if follow && Instant::now() >= look {
                self.assign_new(&mut assigned)?;
                look = Instant::now() + GROWTH;
            }
            match self.consumer.poll(POLL) {
                Some(Ok(message)) => {
                    (heard, complained) = (Instant::now(), false);
                    if each(&message)?.is_break() {
                        break;
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    (heard, complained) = (Instant::now(), false);
                    left.remove(&partition);
                }
                Some(Err(error)) if is_final(&error) => return Err(self.failure(&error)),
                Some(Err(error)) if follow && !complained => {
                    complained = true;
                    note(&format!("Kafka does not answer, waiting for it: {error}"));
                }
                Some(Err(_)) | None => {}
            }
            if !follow && heard.elapsed() > SILENCE {
                let reports = self.consumer.context();
                return Err(unreachable(
                    reports,
                    self.brokers.bootstrap(),
                    &"it does not answer",
                ));
            }
        }
        Ok(())
    }

    /// Has partitions read, too, that the topic has got since: from their beginning, for all in them is new.
    fn assign_new(&self, assigned: &mut BTreeSet<i32>) -> Result<()> {
        // When Kafka is away, reading says so.
        let Ok(metadata) = self.consumer.fetch_metadata(Some(&self.name), GROWTH_ANSWER) else {
            return Ok(());
        };
        let topics = metadata.topics().iter().filter(|topic| topic.name() == self.name);
        let mut list = TopicPartitionList::new();
        for partition in topics.flat_map(|topic| topic.partitions()).map(|one| one.id()) {
            if assigned.insert(partition) {
                note(&format!("Reading partition {partition}, which is new."));
                list.add_partition_offset(&self.name, partition, Offset::Beginning)
                    .map_err(|error| self.failure(&error))?;
            }
        }
        match list.count() {
            0 => Ok(()),
            // The others go on where they are.
            _ => self
                .consumer
                .incremental_assign(&list)
                .map_err(|error| self.failure(&error)),
        }
    }

    fn failure(&self, error: &KafkaError) -> Failure {
        // What was logged meanwhile waits to be taken.
        for _ in 0..20 {
            if self.consumer.context().last().is_some() {
                break;
            }
            let _ = self.consumer.poll(Duration::from_millis(10));
        }
        failure(self.brokers.bootstrap(), self.consumer.context(), error)
    }
}

/// How far a group has committed a topic, seen without joining it.
pub struct Committed {
    topic: Topic,
    /// All that the topic held, what is in an open transaction too.
    held: Vec<Bounds>,
    group: String,
    consumer: BaseConsumer<Reports>,
}

impl std::fmt::Debug for Committed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Committed({})", self.topic.name)
    }
}

impl Committed {
    /// Learns what the topic holds now.
    pub fn open(brokers: &Brokers, group: &str, topic: &str) -> Result<Self> {
        let bootstrap = brokers.bootstrap();
        let topic = Topic::open(brokers, topic)?;
        let consumer: BaseConsumer<Reports> = brokers
            .client()?
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_uncommitted")
            .create_with_context(Reports::default())
            .map_err(|error| failure(bootstrap, topic.consumer.context(), &error))?;
        let mut held = Vec::new();
        for partition in topic.bounds.iter().map(|bounds| bounds.partition) {
            let (low, high) = consumer
                .fetch_watermarks(&topic.name, partition, ANSWER)
                .map_err(|error| failure(bootstrap, consumer.context(), &error))?;
            held.push(Bounds { partition, low, high });
        }
        Ok(Self {
            topic,
            held,
            group: group.to_owned(),
            consumer,
        })
    }

    /// Records that the topic held then and the group has not committed; `None` where there are none. What stands at the end
    /// and is no record, as the mark of a transaction or what one has left that was given up, nobody commits.
    pub fn behind(&self) -> Result<Option<i64>> {
        let committed = self.committed()?;
        let mut behind = 0;
        for &Bounds { partition, low, high } in &self.held {
            let found = committed.find_partition(&self.topic.name, partition);
            let next = match found.map(|element| element.offset()) {
                Some(Offset::Offset(offset)) => offset.max(low),
                _ => low,
            };
            if next < high && (self.is_open(partition, high)? || self.holds_record(partition, next, high)?) {
                behind += high - next;
            }
        }
        Ok((behind > 0).then_some(behind))
    }

    /// Whether a transaction is open before that offset, so that nobody can see what it holds.
    fn is_open(&self, partition: i32, high: i64) -> Result<bool> {
        // The topic is read as what is committed: it ends where an open transaction begins.
        let (_, end) = self
            .topic
            .consumer
            .fetch_watermarks(&self.topic.name, partition, ANSWER)
            .map_err(|error| self.topic.failure(&error))?;
        Ok(end < high)
    }

    /// The offsets that the group has committed; partitions without one are left out.
    pub fn offsets(&self) -> Result<Vec<(i32, i64)>> {
        let committed = self.committed()?;
        let offset =
            |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match element.offset() {
                Offset::Offset(offset) => Some((element.partition(), offset)),
                _ => None,
            };
        Ok(committed.elements().iter().filter_map(offset).collect())
    }

    fn committed(&self) -> Result<TopicPartitionList> {
        let mut asked = TopicPartitionList::new();
        for bounds in &self.topic.bounds {
            asked.add_partition(&self.topic.name, bounds.partition);
        }
        self.consumer
            .committed_offsets(asked, ANSWER)
            .map_err(|error| self.failure(&error))
    }

    fn failure(&self, error: &KafkaError) -> Failure {
        failure(self.topic.brokers.bootstrap(), self.consumer.context(), error)
    }

    /// How many consumers are in the group.
    pub fn members(&self) -> Result<usize> {
        let listed = self
            .consumer
            .fetch_group_list(Some(&self.group), ANSWER)
            .map_err(|error| self.failure(&error))?;
        Ok(listed.groups().iter().map(|group| group.members().len()).sum())
    }

    /// Sets the group back to these offsets; those that it is behind already stay. False: it has members, and Kafka allows it to
    /// them only.
    pub fn set_back(&self, offsets: &[(i32, i64)]) -> Result<bool> {
        let committed = self.committed()?;
        let mut list = TopicPartitionList::new();
        for &(partition, offset) in offsets {
            let Some(element) = committed.find_partition(&self.topic.name, partition) else {
                continue;
            };
            // A consumer promises a batch before it sends it, and the next one keeps the promise.
            if element.metadata().contains("\"last\"") {
                return Err(Failure::Failed(format!(
                    "a consumer has left partition {partition} in the middle of a batch; the next one finishes it. Run this again in a minute"
                )));
            }
            if matches!(element.offset(), Offset::Offset(at) if at > offset) {
                list.add_partition_offset(&self.topic.name, partition, Offset::Offset(offset))
                    .map_err(|error| self.failure(&error))?;
            }
        }
        if list.count() == 0 {
            return Ok(true);
        }
        use RDKafkaErrorCode as Code;
        match self.consumer.commit(&list, CommitMode::Sync) {
            Ok(()) => Ok(true),
            Err(error) => match error.rdkafka_error_code() {
                Some(Code::UnknownMemberId | Code::IllegalGeneration | Code::RebalanceInProgress) => {
                    Ok(false)
                }
                _ => Err(self.failure(&error)),
            },
        }
    }

    fn holds_record(&self, partition: i32, from: i64, high: i64) -> Result<bool> {
        let mut found = false;
        self.topic.read(&[(partition, from)], false, |message| {
            found = message.offset() < high;
            Ok(ControlFlow::Break(()))
        })?;
        Ok(found)
    }
}

/// Whether waiting cannot help.
fn is_final(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::UnknownTopic
                | Code::UnknownTopicOrPartition
                | Code::UnknownPartition
                | Code::TopicAuthorizationFailed
        )
    )
}

/// A sentence about a request that failed.
pub fn failure(bootstrap: &str, reports: &Reports, error: &KafkaError) -> Failure {
    use RDKafkaErrorCode as Code;
    match error.rdkafka_error_code() {
        Some(
            Code::BrokerTransportFailure
            | Code::OperationTimedOut
            | Code::MessageTimedOut
            | Code::AllBrokersDown
            | Code::Resolve,
        ) => unreachable(reports, bootstrap, error),
        Some(code) => Failure::Failed(format!("Kafka at {bootstrap} refused: {code}")),
        None => Failure::Failed(format!("Kafka at {bootstrap}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};

    use super::*;

    #[test]
    fn a_partition_that_is_added_is_read_from_its_beginning() {
        const PATIENCE: Duration = Duration::from_secs(60);
        let kafka: MockCluster<'_, DefaultProducerContext> = MockCluster::new(1).unwrap();
        kafka.create_topic("t", 2, 1).unwrap();
        let brokers = Brokers::at(KafkaCluster::open(&kafka.bootstrap_servers()));
        let producer: BaseProducer = brokers.client().unwrap().create().unwrap();
        let produce = |partition, value: &str| {
            let record = BaseRecord::<(), _>::to("t").partition(partition).payload(value);
            producer.send(record).unwrap();
            producer.flush(PATIENCE).unwrap();
        };
        produce(0, "before");
        produce(1, "first");
        let mut topic = Topic::open(&brokers, "t").unwrap();
        assert_eq!(topic.bounds.len(), 2);
        // Topics of the mock do not grow: this is as if it had one partition when it was opened.
        topic.bounds.truncate(1);
        let (sender, read) = mpsc::channel();
        std::thread::spawn(move || {
            topic.read(&topic.end(), true, |message| {
                let value = String::from_utf8_lossy(message.payload().unwrap()).into_owned();
                Ok(match sender.send((message.partition(), value)) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(_) => ControlFlow::Break(()),
                })
            })
        });
        let next = || read.recv_timeout(PATIENCE).unwrap();
        assert_eq!(next(), (1, "first".to_owned()));
        // The other one goes on where it was.
        produce(0, "after");
        assert_eq!(next(), (0, "after".to_owned()));
        produce(1, "second");
        assert_eq!(next(), (1, "second".to_owned()));
    }
}
