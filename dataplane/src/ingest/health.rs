//! Whether Kafka can take groups now: a gate that refuses at once what would only wait and fail.
//!
//! A thread asks for the topic's metadata, every five seconds while all is well, at once when something is in doubt
//! (a failed delivery, all connections lost, a group that waits long), and several times a second while the gate is
//! closed, so that it opens by itself. The same answer tells which partitions have a leader, and how many copies of each are
//! in sync: with fewer than the topic's `min.insync.replicas` a leader takes nothing, and a producer only tries again. That
//! setting is asked for when a group waits long although nothing seems to be wrong.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ahash::AHashMap;
use arc_swap::ArcSwap;
use penstock_connect::kafka::Reports;
use penstock_dataplane_config::{KafkaTarget, PipelineRef, record};
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext};

use super::kafka::{METADATA, Outcomes, client_config, log};
use super::spool::Topic;
use crate::process::{Dependency, Shutdown};

const WELL: Duration = Duration::from_secs(5);
const CLOSED: Duration = Duration::from_millis(300);
const ANSWER: Duration = Duration::from_millis(1500);
/// A group that waits longer for its acknowledgement puts the broker in doubt.
const LONG_WAIT: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(500);
/// After so long without an answer another client asks: this one may hang on a connection to a node that is gone, or
/// have forgotten its brokers (see [`crate::forgotten`]).
const PATIENCE: Duration = Duration::from_secs(10);
/// A setting of the topic is asked for at most so often.
const SETTING: Duration = Duration::from_secs(30);
const MIN_IN_SYNC: &str = "min.insync.replicas";

/// The gate. Closed until the topic was seen once.
#[derive(Debug)]
pub(crate) struct Health {
    open: AtomicBool,
    partitions: ArcSwap<Vec<i32>>,
    /// How many the topic has, with a leader or without.
    count: AtomicI32,
    /// Where partitions ended when they were first seen; kept only for a spool.
    ends: ArcSwap<AHashMap<(Topic, i32), i64>>,
    doubt: Mutex<bool>,
    doubted: Condvar,
    started: Instant,
    /// Per shard: since when its oldest group waits, milliseconds after `started`, plus one; 0 for none.
    oldest: Vec<AtomicU64>,
}

/// Where a key's records go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Home {
    pub(crate) partition: i32,
    pub(crate) is_led: bool,
}

impl Health {
    pub(crate) fn new(shards: usize) -> Self {
        Self {
            open: AtomicBool::new(false),
            partitions: ArcSwap::default(),
            count: AtomicI32::new(0),
            ends: ArcSwap::default(),
            doubt: Mutex::new(false),
            doubted: Condvar::new(),
            started: Instant::now(),
            oldest: (0..shards).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// For tests: open, with leaders for these, of which there are no others.
    #[cfg(test)]
    pub(crate) fn open_to(partitions: Vec<i32>) -> Self {
        let health = Self::new(0);
        health.count.store(partitions.len() as i32, Relaxed);
        health.partitions.store(Arc::new(partitions));
        health.open.store(true, Relaxed);
        health
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Relaxed)
    }

    /// The partitions that can be written to. The same allocation until they change.
    pub(crate) fn partitions(&self) -> Arc<Vec<i32>> {
        self.partitions.load_full()
    }

    /// The partition of a key; `None` while that cannot be written to.
    pub(crate) fn partition_of(&self, key: &str) -> Option<i32> {
        let Home { partition, is_led } = self.home_of(key);
        is_led.then_some(partition)
    }

    /// The partition of a key, which may have no leader.
    pub(crate) fn home_of(&self, key: &str) -> Home {
        let partition = record::partition_of(key.as_bytes(), self.count.load(Relaxed));
        Home {
            partition,
            is_led: self.partitions.load().contains(&partition),
        }
    }

    /// An offset that a record produced from now on cannot be before; -1 when nothing is known.
    pub(crate) fn end(&self, topic: Topic, partition: i32) -> i64 {
        self.ends.load().get(&(topic, partition)).copied().unwrap_or(-1)
    }

    /// Has the broker looked at now.
    pub(crate) fn doubt(&self) {
        *self.doubt.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.doubted.notify_one();
    }

    /// A shard tells since when its oldest group waits.
    pub(crate) fn waits_since(&self, shard: usize, since: Option<Instant>) {
        if let Some(cell) = self.oldest.get(shard) {
            let since = since.map_or(0, |at| {
                at.saturating_duration_since(self.started).as_millis() as u64 + 1
            });
            cell.store(since, Relaxed);
        }
    }

    fn something_waits_long(&self) -> bool {
        let now = self.started.elapsed().as_millis() as u64;
        let long = LONG_WAIT.as_millis() as u64;
        self.oldest
            .iter()
            .map(|cell| cell.load(Relaxed))
            .any(|since| since > 0 && since + long < now)
    }

    /// Sleeps until the next look is due.
    fn rest(&self, shutdown: &Shutdown) {
        let until = Instant::now() + if self.is_open() { WELL } else { CLOSED };
        let mut doubt = self.doubt.lock().unwrap_or_else(PoisonError::into_inner);
        while !*doubt && !shutdown.is_begun() && !self.something_waits_long() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            doubt = self
                .doubted
                .wait_timeout(doubt, left.min(LOOK))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        *doubt = false;
    }
}

/// The thread behind the gate.
pub(crate) struct Checker {
    client: BaseProducer<Quiet>,
    target: KafkaTarget,
    pipeline: PipelineRef,
    /// With a spool: whose ends it wants to know, too.
    dead_letters: Option<String>,
    health: Arc<Health>,
    dependency: Dependency,
    shards: Vec<Arc<Outcomes>>,
    shutdown: Shutdown,
    /// Since when the topic has more partitions than is published.
    grown: Option<Instant>,
    /// So many copies of a partition must be in sync for it to take a record; 1 until it is known.
    min_in_sync: usize,
    /// When that was asked for.
    setting_asked: Option<Instant>,
    /// Whether a partition with a leader has fewer.
    lacks_copies: bool,
}

impl Checker {
    pub(crate) fn new(
        target: &KafkaTarget,
        pipeline: &PipelineRef,
        has_spool: bool,
        health: Arc<Health>,
        dependency: Dependency,
        shards: Vec<Arc<Outcomes>>,
        shutdown: Shutdown,
    ) -> KafkaResult<Self> {
        Ok(Self {
            client: client_config(target, pipeline)?.create_with_context(Quiet::default())?,
            target: target.clone(),
            pipeline: pipeline.clone(),
            dead_letters: has_spool.then(|| target.dead_letter_topic.clone()),
            health,
            dependency,
            shards,
            shutdown,
            grown: None,
            min_in_sync: 1,
            setting_asked: None,
            lacks_copies: false,
        })
    }

    /// Looks after the gate until the process ends.
    pub(crate) fn run(mut self) {
        let mut answered = Instant::now();
        // While the process stops, what is in flight still finishes or times out by itself.
        while !self.shutdown.is_begun() {
            let seen = self.look();
            let open = seen.is_ok();
            if open {
                answered = Instant::now();
            } else if answered.elapsed() >= PATIENCE {
                answered = Instant::now();
                self.ask_by_another();
            }
            let seen = seen.map(|partitions| {
                if **self.health.partitions.load() != partitions {
                    self.note_ends(&partitions);
                    self.health.partitions.store(Arc::new(partitions));
                }
            });
            if self.health.open.swap(open, Relaxed) != open {
                self.shards.iter().for_each(|outcomes| outcomes.wake.notify_one());
            }
            self.dependency.report(seen);
            // It may have been lowered since, and then the gate must not stay closed.
            if self.lacks_copies || open && self.health.something_waits_long() {
                self.ask_for_min_in_sync();
            }
            self.health.rest(&self.shutdown);
            if self.health.something_waits_long() {
                // It was asked a moment ago; once per look is enough.
                std::thread::sleep(if open { LOOK } else { CLOSED });
            }
        }
    }

    fn ask_by_another(&mut self) {
        let another = client_config(&self.target, &self.pipeline);
        match another.and_then(|config| config.create_with_context(Quiet::default())) {
            Ok(client) => {
                let old = std::mem::replace(&mut self.client, client);
                // Closing it may take a moment.
                std::thread::spawn(move || drop(old));
            }
            Err(error) => tracing::error!(%error, "cannot make another client to ask Kafka"),
        }
    }

    /// Asks where partitions end that were not seen before. One that does not say is looked through from its start
    /// when it has to be.
    fn note_ends(&self, partitions: &[i32]) {
        let Some(dead_letters) = &self.dead_letters else {
            return;
        };
        let mut ends = AHashMap::clone(&self.health.ends.load());
        let events = partitions
            .iter()
            .map(|id| (Topic::Events, &self.target.topic, *id));
        for (topic, name, id) in events.chain([(Topic::DeadLetters, dead_letters, 0)]) {
            if ends.contains_key(&(topic, id)) {
                continue;
            }
            match self.client.client().fetch_watermarks(name, id, ANSWER) {
                Ok((_, high)) => {
                    ends.insert((topic, id), high);
                }
                Err(error) => {
                    tracing::warn!(%error, topic = %name, partition = id, "cannot see where it ends");
                    // The others would most likely not answer either, and the gate waits for this.
                    break;
                }
            }
        }
        self.health.ends.store(Arc::new(ends));
    }

    /// Publishes how many partitions the topic has. More of them only once every producer knows them: one refuses what is
    /// for a partition that it has not heard of.
    fn count(&mut self, partitions: i32) {
        let known = self.health.count.load(Relaxed);
        if known > 0 && partitions > known {
            let since = self.grown.get_or_insert_with(Instant::now);
            if since.elapsed() < METADATA + ANSWER {
                return;
            }
        }
        self.grown = None;
        self.health.count.store(partitions, Relaxed);
    }

    /// The topic's partitions that have a leader, or why it cannot be written to.
    fn look(&mut self) -> Result<Vec<i32>, String> {
        let name = self.target.topic.clone();
        self.client.poll(Duration::ZERO);
        let metadata = self
            .client
            .client()
            .fetch_metadata(Some(&name), ANSWER)
            .map_err(|error| self.client.context().0.explain(&error))?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == name);
        let topic = topic.ok_or_else(|| format!("the brokers do not know topic {name}"))?;
        if let Some(error) = topic.error() {
            return Err(format!("topic {name}: {error:?}"));
        }
        let count = topic.partitions().len() as i32;
        let led = topic.partitions().iter().filter(|one| one.leader() >= 0);
        let led: Vec<Led> = led
            .map(|one| Led {
                id: one.id(),
                in_sync: one.isr().len(),
                copies: one.replicas().len(),
            })
            .collect();
        self.count(count);
        if led.is_empty() {
            return Err(format!("no partition of topic {name} has a leader"));
        }
        let enough = led.iter().filter(|one| one.takes_records(self.min_in_sync));
        let partitions: Vec<i32> = enough.map(|one| one.id).collect();
        self.lacks_copies = partitions.len() < led.len();
        if partitions.is_empty() {
            return Err(format!(
                "no partition of topic {name} has the {} copies in sync that {MIN_IN_SYNC} asks for",
                self.min_in_sync
            ));
        }
        Ok(partitions)
    }

    /// Learns the topic's `min.insync.replicas`, unless that was tried a moment ago. By a client of its own, as it is seldom
    /// needed.
    fn ask_for_min_in_sync(&mut self) {
        if self.setting_asked.is_some_and(|at| at.elapsed() < SETTING) {
            return;
        }
        self.setting_asked = Some(Instant::now());
        match self.setting(MIN_IN_SYNC) {
            Ok(Some(least)) => self.min_in_sync = least,
            // Kafka leaves out what may not be seen.
            Ok(None) => tracing::warn!(
                topic = %self.target.topic,
                "cannot see {MIN_IN_SYNC} (Kafka's user may need DescribeConfigs there): a lack of copies in sync is not noticed"
            ),
            Err(error) => tracing::warn!(%error, topic = %self.target.topic, "cannot ask for {MIN_IN_SYNC}"),
        }
    }

    fn setting(&self, name: &str) -> Result<Option<usize>, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let config = client_config(&self.target, &self.pipeline);
        let admin = config.and_then(|config| config.create_with_context(Quiet::default()));
        let admin: AdminClient<Quiet> = admin.map_err(|error| error.to_string())?;
        let topic = ResourceSpecifier::Topic(&self.target.topic);
        let options = AdminOptions::new().request_timeout(Some(ANSWER));
        let described = runtime.block_on(admin.describe_configs([&topic], &options));
        // Closing it may take a moment.
        std::thread::spawn(move || drop(admin));
        let described = described.map_err(|error| error.to_string())?;
        let entries = described.into_iter().flatten().flat_map(|topic| topic.entries);
        let value = entries.into_iter().find(|entry| entry.name == name);
        Ok(value.and_then(|entry| entry.value?.parse().ok()))
    }
}

/// A partition that has a leader.
#[derive(Clone, Copy, Debug)]
struct Led {
    id: i32,
    in_sync: usize,
    copies: usize,
}

impl Led {
    /// Whether its leader takes a record with acks of all. Of a topic with fewer copies than `min.insync.replicas` it asks for
    /// all of them.
    fn takes_records(self, min_in_sync: usize) -> bool {
        self.in_sync >= min_in_sync.min(self.copies)
    }
}

impl std::fmt::Debug for Checker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checker")
            .field("topic", &self.target.topic)
            .finish_non_exhaustive()
    }
}

/// The checker's errors are its result; they need no lines of their own.
#[derive(Default)]
struct Quiet(Reports);

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.see(facility, message);
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka");
    }
}

impl ProducerContext for Quiet {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &rdkafka::message::DeliveryResult<'_>, (): ()) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_waits_long_puts_the_broker_in_doubt() {
        let mut health = Health::new(2);
        health.started = Instant::now() - Duration::from_secs(10);
        assert!(!health.something_waits_long());
        health.waits_since(1, Some(Instant::now()));
        assert!(!health.something_waits_long());
        health.waits_since(1, Some(Instant::now() - Duration::from_secs(3)));
        assert!(health.something_waits_long());
        health.waits_since(1, None);
        assert!(!health.something_waits_long());
    }

    #[test]
    fn a_partition_with_too_few_copies_in_sync_takes_nothing() {
        let takes = |in_sync, copies, least| {
            Led {
                id: 0,
                in_sync,
                copies,
            }
            .takes_records(least)
        };
        assert!(takes(3, 3, 2) && takes(2, 3, 2) && !takes(1, 3, 2));
        // Not known, or more than there are.
        assert!(takes(1, 3, 1) && takes(1, 1, 2) && !takes(1, 2, 3));
    }

    #[test]
    fn doubt_ends_the_rest() {
        let health = Arc::new(Health::new(1));
        health.open.store(true, Relaxed);
        let other = Arc::clone(&health);
        let before = Instant::now();
        let thread = std::thread::spawn(move || other.rest(&Shutdown::new()));
        health.doubt();
        thread.join().unwrap();
        assert!(before.elapsed() < WELL);
    }
}
