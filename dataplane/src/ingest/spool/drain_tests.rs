use std::collections::BTreeMap;

use penstock_dataplane_config::record;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::*;
use crate::ingest::spool::frame::Record;
use crate::ingest::spool::metrics::SpoolMetrics;
use crate::ingest::spool::writer::Keep;
use crate::ingest::statistics::ProducerMetrics;
use crate::process::Process;

const EVENTS: &str = "growth.events";
const LETTERS: &str = "growth.events.dlq";
const PARTITIONS: i32 = 3;
const PATIENCE: Duration = Duration::from_secs(30);

type Kafka = MockCluster<'static, DefaultProducerContext>;

fn kafka() -> Kafka {
    let kafka = MockCluster::new(1).unwrap();
    kafka.create_topic(EVENTS, PARTITIONS, 1).unwrap();
    kafka.create_topic(LETTERS, 1, 1).unwrap();
    kafka
}

/// A spool that is drained, by a drain that was told that every partition has a leader.
struct Draining {
    spool: Spool,
    finish: CancellationToken,
    threads: [std::thread::JoinHandle<()>; 2],
    kept: usize,
    _directory: tempfile::TempDir,
}

impl Draining {
    fn start(kafka: &Kafka) -> Self {
        let process = Process::new();
        let directory = tempfile::tempdir().unwrap();
        let metrics = SpoolMetrics::new(&process.metrics);
        let (spool, writer) = Spool::open(directory.path(), 64_000_000, EVENTS, false, metrics).unwrap();
        let finish = CancellationToken::new();
        let drain = Drain {
            spool: spool.clone(),
            health: Arc::new(Health::open_to((0..PARTITIONS).collect())),
            series: Arc::new(ProducerMetrics::new(&process.metrics).of("spool")),
            target: KafkaTarget {
                bootstrap: kafka.bootstrap_servers(),
                topic: EVENTS.to_owned(),
                dead_letter_topic: LETTERS.to_owned(),
                tls: None,
                sasl: None,
            },
            pipeline: PipelineRef {
                namespace: "growth".to_owned(),
                name: "events".to_owned(),
            },
            timeout: Duration::from_secs(1),
            boot: BOOT,
            shard: 0,
            shutdown: process.shutdown,
            finish: finish.clone(),
        };
        Self {
            spool,
            finish,
            threads: [writer, drain.start().unwrap()],
            kept: 0,
            _directory: directory,
        }
    }

    /// Spools one more; its name.
    fn keep(&mut self, topic: Topic, key: Option<String>) -> String {
        self.keep_as(topic, key, State::Certain, Place::ANYWHERE)
    }

    fn keep_as(&mut self, topic: Topic, key: Option<String>, state: State, place: Place) -> String {
        self.kept += 1;
        let name = format!("boot/0/{:04}", self.kept);
        let record = Record {
            created: 1_763_730_000_123,
            topic,
            name: name.clone(),
            key,
            headers: Vec::new(),
            value: b"{}\n".to_vec(),
        };
        let kept = self.spool.keep(Keep {
            record,
            state,
            place,
            until: Instant::now() + Duration::from_secs(60),
            number: self.kept,
            outcomes: Arc::default(),
        });
        assert!(kept);
        name
    }

    /// Until so many groups are left.
    fn wait_for(&self, groups: u64) {
        let what = format!("spool of {groups} groups");
        wait_until(&what, || self.spool.groups() == groups);
    }

    fn end(self) {
        self.finish.cancel();
        self.spool.close();
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "no {what} after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

const BOOT: Uuid = Uuid::from_u128(7);

/// The partition that the drain takes as long as it has little to do.
fn home() -> i32 {
    let mut spread = Spread::new(&BOOT, 0, Instant::now());
    spread.choose(&Arc::new((0..PARTITIONS).collect()), 1, Instant::now())
}

/// A key whose records are in this partition.
fn key_of(partition: i32) -> String {
    let mut keys = (0..).map(|number| format!("user-{number}"));
    keys.find(|key| record::partition_of(key.as_bytes(), PARTITIONS) == partition)
        .unwrap()
}

/// The groups of each partition, in order.
fn stored(kafka: &Kafka, count: usize) -> BTreeMap<(String, i32), Vec<String>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka.bootstrap_servers())
        .set("group.id", "reader")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    for (topic, partitions) in [(EVENTS, PARTITIONS), (LETTERS, 1)] {
        for partition in 0..partitions {
            list.add_partition_offset(topic, partition, Offset::Beginning)
                .unwrap();
        }
    }
    consumer.assign(&list).unwrap();
    let mut stored: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let (mut read, mut until) = (0, Instant::now() + PATIENCE);
    while Instant::now() < until {
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else {
            continue;
        };
        let group = message.headers().unwrap().get(0).value.unwrap();
        stored
            .entry((message.topic().to_owned(), message.partition()))
            .or_default()
            .push(String::from_utf8(group.to_vec()).unwrap());
        read += 1;
        if read == count {
            // One too many would come now.
            until = Instant::now() + Duration::from_millis(500);
        }
    }
    stored
}

#[test]
fn a_partition_that_does_not_acknowledge_holds_up_only_what_is_its_own() {
    let (kafka, stuck) = (kafka(), home());
    kafka.partition_leader(EVENTS, stuck, None).unwrap();
    let mut draining = Draining::start(&kafka);
    let mut own = vec![draining.keep(Topic::Events, Some(key_of(stuck)))];
    let is_sent = || draining.spool.store().window(None, 1, 1).0.is_empty();
    wait_until("way to Kafka", || draining.spool.groups() == 1 && is_sent());
    for _ in 0..10 {
        draining.keep(Topic::Events, None);
        draining.keep(Topic::DeadLetters, None);
        own.push(draining.keep(Topic::Events, Some(key_of(stuck))));
        draining.keep(Topic::Events, Some(key_of((stuck + 1) % PARTITIONS)));
    }
    draining.wait_for(own.len() as u64);
    kafka.partition_leader(EVENTS, stuck, Some(1)).unwrap();
    draining.wait_for(0);

    let stored = stored(&kafka, draining.kept);
    let names: Vec<_> = stored.values().flatten().collect();
    assert_eq!(names.len(), draining.kept, "each once: {stored:?}");
    assert_eq!(stored[&(EVENTS.to_owned(), stuck)], own, "in their order");
    draining.end();
}

#[test]
fn a_dead_letter_that_is_not_acknowledged_holds_no_events_up() {
    let kafka = kafka();
    kafka.partition_leader(LETTERS, 0, None).unwrap();
    let mut draining = Draining::start(&kafka);
    let letters = [1, 2].map(|_| draining.keep(Topic::DeadLetters, None));
    for partition in 0..PARTITIONS {
        draining.keep(Topic::Events, Some(key_of(partition)));
        draining.keep(Topic::Events, None);
    }
    draining.wait_for(2);
    // And goes on so.
    draining.keep(Topic::Events, None);
    draining.wait_for(2);
    kafka.partition_leader(LETTERS, 0, Some(1)).unwrap();
    draining.wait_for(0);
    let stored = stored(&kafka, draining.kept);
    assert_eq!(stored.values().flatten().count(), draining.kept, "{stored:?}");
    assert_eq!(stored[&(LETTERS.to_owned(), 0)], letters);
    draining.end();
}

#[test]
fn a_partition_that_shows_nothing_keeps_only_its_own_from_being_looked_up() {
    let (kafka, hidden) = (kafka(), home());
    kafka.partition_leader(EVENTS, hidden, None).unwrap();
    let mut draining = Draining::start(&kafka);
    for partition in 0..PARTITIONS {
        let place = Place { partition, floor: 0 };
        draining.keep_as(Topic::Events, None, State::Maybe, place);
    }
    draining.wait_for(1);
    // Once that is known, others have their turn at once.
    let before = Instant::now();
    draining.keep(Topic::Events, None);
    draining.wait_for(2);
    draining.wait_for(1);
    assert!(before.elapsed() < BARRIER / 2, "{:?}", before.elapsed());
    kafka.partition_leader(EVENTS, hidden, Some(1)).unwrap();
    draining.wait_for(0);
    draining.end();
}

#[test]
fn the_more_passes_do_nothing_the_longer_it_rests() {
    let rests = |moved: &[bool]| {
        let rest = |last: &mut Duration, moved: &bool| {
            *last = next_backoff(*last, *moved);
            Some(last.as_secs())
        };
        moved.iter().scan(BACKOFF, rest).collect::<Vec<_>>()
    };
    assert_eq!(rests(&[false, false, false, true, false]), [2, 4, 8, 1, 2]);
    assert_eq!(rests(&[false; 9])[8], LONGEST_BACKOFF.as_secs());
}

/// While it rests because of what is stuck, new groups are drained, and what is stuck is when its partition is back.
#[test]
fn a_long_rest_holds_nothing_up() {
    let (kafka, stuck) = (kafka(), home());
    kafka.partition_leader(EVENTS, stuck, None).unwrap();
    let mut draining = Draining::start(&kafka);
    let key = key_of(stuck);
    draining.keep(Topic::Events, Some(key.clone()));
    let is_sent = || draining.spool.store().window(None, 1, 1).0.is_empty();
    wait_until("way to Kafka", || draining.spool.groups() == 1 && is_sent());
    draining.keep(Topic::Events, Some(key));
    // Rests of 2 and 4 s have begun.
    std::thread::sleep(Duration::from_secs(4));
    let before = Instant::now();
    assert_eq!(draining.spool.metrics().drained.get(), 0);
    draining.keep(Topic::Events, None);
    wait_until("the new one's way", || {
        draining.spool.metrics().drained.get() == 1
    });
    assert_eq!(draining.spool.groups(), 2);
    assert!(
        before.elapsed() < Duration::from_secs(2),
        "{:?}",
        before.elapsed()
    );
    kafka.partition_leader(EVENTS, stuck, Some(1)).unwrap();
    draining.wait_for(0);
    draining.end();
}
