//! Back to Kafka: a thread that takes groups out of the spool in order, beside the new traffic, when Kafka is there.
//!
//! ```text
//! window -> those that Kafka may hold: barrier, looked up -> found: done
//!                                                         -> not found, and those that it certainly does not hold:
//!           noted as tried, durably -> produced -> acknowledged: done
//!                                               -> not in time: left with the producer, on to the next window
//! ```
//!
//! The producer is idempotent and never gives up by itself, so while the process lives a group is with Kafka once. What
//! it had when the process died, or when it could do nothing more, is looked up.
//!
//! A partition that does not acknowledge holds up nothing but its own: what it was sent stays with the producer, and until
//! that is acknowledged it is sent no more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::{AHashMap, AHashSet};
use penstock_dataplane_config::{KafkaTarget, PipelineRef};
use rdkafka::error::KafkaResult;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::floors::Floors;
use super::frame::{Place, Topic};
use super::lookup;
use super::segment::State;
use super::store::{Id, Pending};
use super::writer::Spool;
use crate::forgotten::Forgotten;
use crate::ingest::health::{Health, Home};
use crate::ingest::kafka::{Callbacks, Delivered, Outcomes, Producer, Trying, client_config};
use crate::ingest::partition::Spread;
use crate::ingest::statistics::ProducerSeries;
use crate::process::{RoleError, Shutdown};

/// Groups and bytes that are produced together.
const WINDOW: usize = 2048;
const WINDOW_BYTES: usize = 4_000_000;
/// Bytes that the producer has at most, with what partitions do not acknowledge.
const MOST_BYTES: usize = 16_000_000;
/// How often the gate is looked at while it is closed.
const CLOSED: Duration = Duration::from_millis(100);
/// Without a call the spool is looked at anyway, for groups that failed.
const IDLE: Duration = Duration::from_secs(1);
/// After a pass in which something failed; the longer the more of them could do nothing.
const BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(15);
/// Each pass reads all of the spool: how many times as long it rests at least, up to a bound.
const REST: u32 = 9;
const LONGEST_REST: Duration = Duration::from_secs(60);
/// How long Kafka must have answered before it is asked whether it holds a group: a broker that stood still first works
/// off what was sent to it.
const SETTLED: Duration = Duration::from_secs(2);
/// How long a barrier may take, before other groups have their turn.
const BARRIER: Duration = Duration::from_secs(10);
/// Since the shutdown began; what is not drained by then stays in the spool.
const LAST_DRAIN: Duration = Duration::from_secs(26);

/// What the drain works with.
#[derive(Debug)]
pub(crate) struct Drain {
    pub(crate) spool: Spool,
    pub(crate) health: Arc<Health>,
    pub(crate) series: Arc<ProducerSeries>,
    pub(crate) target: KafkaTarget,
    pub(crate) pipeline: PipelineRef,
    /// When a connection to a broker counts as dead.
    pub(crate) timeout: Duration,
    pub(crate) boot: Uuid,
    /// The number after the last shard's.
    pub(crate) shard: usize,
    pub(crate) shutdown: Shutdown,
    /// Nothing more will come; what is there is to be drained.
    pub(crate) finish: CancellationToken,
}

impl Drain {
    /// Starts the thread; it ends after `finish`.
    pub(crate) fn start(self) -> Result<std::thread::JoinHandle<()>, RoleError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        let outcomes = Arc::new(Outcomes::default());
        let producer = self.producer(&outcomes)?;
        let spread = Spread::new(&self.boot, self.shard, Instant::now());
        let pass = Pass {
            drain: self,
            outcomes,
            producer,
            spread,
            floors: Floors::default(),
            doubted: AHashMap::new(),
            number: 0,
            on_their_way: BTreeMap::new(),
            left_out: AHashSet::new(),
            failed: false,
            moved: false,
            again: None,
            backoff: BACKOFF,
            reading: Duration::ZERO,
            stuck: 0,
            freed: false,
        };
        let thread = std::thread::Builder::new()
            .name("spool-drain".into())
            .spawn(move || runtime.block_on(pass.run()))?;
        Ok(thread)
    }

    fn producer(&self, outcomes: &Arc<Outcomes>) -> KafkaResult<Producer> {
        let callbacks = Callbacks {
            outcomes: Arc::clone(outcomes),
            health: Arc::clone(&self.health),
            series: Arc::clone(&self.series),
            forgotten: Forgotten::default(),
        };
        let trying = Trying::Forever(self.timeout);
        Producer::new(&self.target, &self.pipeline, trying, callbacks)
    }

    /// Whether the drain is to end now.
    fn is_over(&self) -> bool {
        self.finish.is_cancelled()
            && (self.spool.groups() == 0
                || !self.health.is_open()
                || self.shutdown.remaining(LAST_DRAIN).is_zero())
    }
}

struct Pass {
    drain: Drain,
    outcomes: Arc<Outcomes>,
    producer: Producer,
    spread: Spread,
    floors: Floors,
    /// Since when groups that Kafka may hold wait to be looked up.
    doubted: AHashMap<Id, Instant>,
    /// Of the last record that was produced.
    number: usize,
    /// What the producer has, by the records' numbers; the store has it as owned.
    on_their_way: BTreeMap<usize, Sent>,
    /// Partitions that were not sent all that is theirs in this pass, so that what comes later does not overtake it.
    left_out: AHashSet<(Topic, i32)>,
    /// Whether something of this pass has to be tried again, and whether something of it could be done.
    failed: bool,
    moved: bool,
    /// After a pass in which something failed: when all is looked through again.
    again: Option<Instant>,
    backoff: Duration,
    /// How long this pass has read.
    reading: Duration,
    /// The last record that was given up waiting for, and whether one of these was answered since.
    stuck: usize,
    freed: bool,
}

/// A record that the producer has.
struct Sent {
    /// `None`: a barrier.
    id: Option<Id>,
    topic: Topic,
    partition: i32,
    bytes: usize,
}

impl Pass {
    async fn run(mut self) {
        let mut cursor = None;
        while !self.drain.is_over() {
            self.take_delivered();
            if self.outcomes.is_suspect() {
                self.replace_if_dead();
            }
            if cursor.is_none() {
                // A pass begins.
                self.left_out.clear();
                (self.moved, self.reading) = (false, Duration::ZERO);
            }
            if !self.drain.health.is_open() {
                cursor = None;
                (self.again, self.backoff) = (None, BACKOFF);
                self.doubted.clear();
                tokio::time::sleep(CLOSED).await;
                continue;
            }
            // The more is stuck, the less is risked: some room is always left for other partitions.
            let bytes = WINDOW_BYTES.min(self.room() / 2);
            let (window, last) = {
                let mut store = self.drain.spool.store();
                let before = Instant::now();
                let window = store.window(cursor, WINDOW, bytes);
                self.reading += before.elapsed();
                window
            };
            if window.is_empty() {
                if self.rest().await {
                    cursor = None;
                }
                continue;
            }
            cursor = last;
            self.window(window).await;
        }
        // What is not acknowledged by now is noted as tried.
        if let Err(error) = self.producer.flush(Duration::ZERO) {
            tracing::debug!(%error, "the drain ended with groups on their way");
        }
    }

    /// Waits at the end of the spool for something to do. Whether all of it is to be looked through again, rather than what
    /// came since.
    async fn rest(&mut self) -> bool {
        if self.again.is_none() && std::mem::take(&mut self.failed) {
            self.backoff = next_backoff(self.backoff, self.moved);
            let rest = (self.reading * REST).min(LONGEST_REST).max(self.backoff);
            self.again = Some(Instant::now() + rest);
            tokio::time::sleep(BACKOFF).await;
        }
        let finishes = self.drain.finish.is_cancelled();
        let is_over = |at: Instant| finishes || Instant::now() >= at;
        if self.again.is_some_and(is_over) || std::mem::take(&mut self.freed) {
            self.again = None;
            return true;
        }
        // The gate is looked at meanwhile.
        let idle = Instant::now() + IDLE;
        let until = self.again.map_or(idle, |at| at.min(idle));
        tokio::select! {
            () = self.drain.spool.waiting() => {}
            () = self.outcomes.wake.notified() => {}
            () = self.drain.finish.cancelled() => tokio::time::sleep(CLOSED).await,
            () = tokio::time::sleep_until(until.into()) => {}
        }
        self.again.is_none()
    }

    /// Drains these.
    async fn window(&mut self, mut window: Vec<Pending>) {
        let (before, now) = (window.len(), Instant::now());
        window.retain(|one| self.has_settled(one, now));
        self.failed |= window.len() < before;
        self.drop_found(&mut window).await;
        let looked_up = window.len();
        window.retain(|one| one.state == State::Certain);
        self.failed |= window.len() < looked_up;
        let first = self.number + 1;
        self.produce(window);
        self.wait(first).await;
        let spool = &self.drain.spool;
        spool.publish(&mut spool.store());
    }

    /// Whether something can be done about a group now. The time of one in doubt begins when it is first seen here with
    /// Kafka answering, and anew with each doubt.
    fn has_settled(&mut self, one: &Pending, now: Instant) -> bool {
        if one.state == State::Certain {
            return true;
        }
        let since = *self.doubted.entry(one.id).or_insert(now);
        let settled = now.saturating_duration_since(since) >= SETTLED;
        if settled {
            self.doubted.remove(&one.id);
        }
        settled
    }

    /// Looks those up that Kafka may hold. The rest of them it certainly does not.
    async fn drop_found(&mut self, window: &mut Vec<Pending>) {
        for topic in [Topic::Events, Topic::DeadLetters] {
            let is_one = |one: &Pending| one.state == State::Maybe && one.record.topic == topic;
            let places: Vec<Place> = window
                .iter()
                .filter(|one| is_one(one))
                .map(|one| one.place)
                .collect();
            let hidden = match topic {
                Topic::Events if !places.is_empty() => self.barrier(&places).await,
                // Not in the dead-letter topic, whose readers expect letters.
                _ => Ok(AHashSet::new()),
            };
            let hidden = match hidden {
                Ok(hidden) => hidden,
                Err(error) => {
                    tracing::warn!(%error, "cannot see the topic's partitions");
                    continue;
                }
            };
            let is_one = |one: &Pending| {
                let is_hidden = match one.place.partition {
                    0.. => hidden.contains(&one.place.partition),
                    _ => !hidden.is_empty(),
                };
                is_one(one) && !is_hidden
            };
            let wanted: Vec<(&str, Place)> = window
                .iter()
                .filter(|one| is_one(one))
                .map(|one| (one.record.name.as_str(), one.place))
                .collect();
            if wanted.is_empty() {
                continue;
            }
            let Drain {
                target,
                pipeline,
                spool,
                ..
            } = &self.drain;
            let name = match topic {
                Topic::Events => &target.topic,
                Topic::DeadLetters => &target.dead_letter_topic,
            };
            let config = client_config(target, pipeline);
            let found = match config.and_then(|config| lookup::find(config, name, &wanted)) {
                Ok(found) => found,
                Err(error) => {
                    tracing::warn!(%error, topic = %name, groups = wanted.len(), "cannot look groups of the spool up");
                    continue;
                }
            };
            tracing::info!(topic = %name, groups = wanted.len(), found = found.len(), "looked groups of the spool up");
            let mut store = spool.store();
            window.retain_mut(|one| {
                if !is_one(one) {
                    return true;
                }
                self.moved = true;
                if found.contains(&one.record.name) {
                    store.done(one.id);
                    spool.metrics().found.inc();
                    return false;
                }
                one.state = State::Certain;
                true
            });
        }
    }

    /// Has all be visible that Kafka took where these may be; the partitions in which it may not be. A leader shows a
    /// record only when the replicas in sync have it, so one that a dead process sent may be there unseen; and it
    /// acknowledges one only when it shows all before it.
    async fn barrier(&mut self, wanted: &[Place]) -> KafkaResult<AHashSet<i32>> {
        // One that is no more, because the topic was made anew with fewer, has none of them.
        let mut hidden: AHashSet<i32> = self.producer.partitions()?.into_iter().collect();
        if wanted.iter().all(|place| place.partition >= 0) {
            hidden.retain(|partition| wanted.iter().any(|place| place.partition == *partition));
        }
        let (first, busy) = (self.number + 1, self.busy());
        for partition in hidden.difference(&busy).copied() {
            self.number += 1;
            match self.producer.barrier(self.number, partition) {
                Ok(()) => {
                    let sent = Sent {
                        id: None,
                        topic: Topic::Events,
                        partition,
                        bytes: 0,
                    };
                    self.on_their_way.insert(self.number, sent);
                }
                Err(error) => tracing::warn!(%error, partition, "a barrier was not produced"),
            }
        }
        let until = Instant::now() + BARRIER;
        loop {
            for one in self.take_delivered() {
                if let Ok((partition, _)) = one.stored
                    && one.number >= first
                {
                    hidden.remove(&partition);
                }
            }
            let rest = until.saturating_duration_since(Instant::now());
            let waiting = self.on_their_way.range(first..).count();
            if waiting > 0 && rest.is_zero() {
                tracing::warn!(
                    partitions = waiting,
                    "Kafka does not acknowledge in partitions where groups of the spool may be"
                );
            }
            if waiting == 0 || rest.is_zero() || self.drain.is_over() {
                if waiting > 0 {
                    self.stuck = self.number;
                }
                return Ok(hidden);
            }
            let _ = tokio::time::timeout(rest.min(IDLE), self.outcomes.wake.notified()).await;
        }
    }

    /// Produces those whose partition takes something now.
    fn produce(&mut self, window: Vec<Pending>) {
        let (asked, window) = (window.len(), self.placed(window));
        self.failed |= window.len() < asked;
        if window.is_empty() {
            return;
        }
        self.moved = true;
        let attempts: Vec<(Id, Place)> = window
            .iter()
            .map(|(one, partition)| {
                let place = self
                    .floors
                    .place(&self.drain.health, one.record.topic, *partition);
                (one.id, place)
            })
            .collect();
        let noted = self.drain.spool.store().attempt(&attempts);
        if let Err(error) = noted {
            tracing::error!(%error, "cannot note in the spool what is to be produced");
            self.failed = true;
            return;
        }
        for (one, partition) in window {
            self.number += 1;
            let Pending { id, record, .. } = one;
            match self.producer.spooled(self.number, partition, &record) {
                Ok(()) => {
                    let sent = Sent {
                        id: Some(id),
                        topic: record.topic,
                        partition,
                        bytes: record.value.len(),
                    };
                    self.on_their_way.insert(self.number, sent);
                }
                Err(error) => {
                    tracing::warn!(%error, "a group of the spool was not produced");
                    self.drain.spool.store().set(id, State::Certain);
                    self.failed = true;
                }
            }
        }
    }

    /// Where each goes. One whose partition has no leader, or has not acknowledged what it was sent before, has its turn
    /// later; in the latter case nothing overtakes it.
    fn placed(&mut self, window: Vec<Pending>) -> Vec<(Pending, i32)> {
        let health = Arc::clone(&self.drain.health);
        let sent = self.on_their_way.values();
        self.left_out.extend(sent.map(|one| (one.topic, one.partition)));
        let bytes = window.iter().map(|one| one.record.value.len()).sum();
        let free = self.free();
        let chosen = (!free.is_empty()).then(|| self.spread.choose(&free, bytes, Instant::now()));
        let mut placed = Vec::with_capacity(window.len());
        for one in window {
            let (topic, key) = (one.record.topic, &one.record.key);
            let partition = match (topic, key) {
                // Without a key there is no order to be kept.
                (Topic::Events, None) => chosen,
                (Topic::Events, Some(key)) => {
                    let Home { partition, is_led } = health.home_of(key);
                    if !is_led {
                        self.left_out.insert((topic, partition));
                    }
                    Some(partition)
                }
                // The dead-letter topic always has this one, and most often no other.
                (Topic::DeadLetters, _) => Some(0),
            };
            let in_order = topic == Topic::DeadLetters || key.is_some();
            let takes = |partition: &i32| !in_order || !self.left_out.contains(&(topic, *partition));
            if let Some(partition) = partition.filter(takes) {
                placed.push((one, partition));
            }
        }
        placed
    }

    /// The partitions of the events that have a leader, and nothing on its way to them.
    fn free(&self) -> Arc<Vec<i32>> {
        let (led, busy) = (self.drain.health.partitions(), self.busy());
        if busy.is_empty() {
            return led;
        }
        let free = led.iter().filter(|partition| !busy.contains(*partition));
        Arc::new(free.copied().collect())
    }

    /// The partitions of the events that something is on its way to.
    fn busy(&self) -> AHashSet<i32> {
        let sent = self.on_their_way.values();
        let events = sent.filter(|one| one.topic == Topic::Events);
        events.map(|one| one.partition).collect()
    }

    /// Waits until all from `first` on is acknowledged, though not much longer than a client would if others can have
    /// their turn. What is stuck then stays with the producer.
    async fn wait(&mut self, first: usize) {
        let until = Instant::now() + self.drain.timeout;
        loop {
            self.take_delivered();
            if self.on_their_way.range(first..).next().is_none() || self.drain.is_over() {
                return;
            }
            if Instant::now() >= until && self.room() > 0 && !self.free().is_empty() {
                break;
            }
            if self.outcomes.is_suspect() {
                self.replace_if_dead();
            }
            tokio::select! {
                () = self.outcomes.wake.notified() => {}
                () = tokio::time::sleep(IDLE) => {}
            }
        }
        self.stuck = self.number;
        tracing::warn!(
            groups = self.on_their_way.range(first..).count(),
            "Kafka does not acknowledge groups of the spool; others have their turn"
        );
    }

    /// Bytes that the producer may be given beside what it has.
    fn room(&self) -> usize {
        let sent = self.on_their_way.values();
        MOST_BYTES.saturating_sub(sent.map(|one| one.bytes).sum())
    }

    /// Notes what became of groups on their way; what is returned are barriers.
    fn take_delivered(&mut self) -> Vec<Delivered> {
        let mut delivered = Vec::new();
        self.outcomes.take(&mut delivered);
        if delivered.is_empty() {
            return delivered;
        }
        let spool = &self.drain.spool;
        let mut store = spool.store();
        delivered.retain(|one| {
            let sent = self.on_their_way.remove(&one.number);
            self.freed |= one.number <= self.stuck;
            let Some(Sent {
                id: Some(id), topic, ..
            }) = sent
            else {
                return true;
            };
            if let Ok((partition, offset)) = one.stored {
                self.floors.acknowledged(topic, partition, offset);
                store.done(id);
                spool.metrics().drained.inc();
            } else {
                store.set(id, State::Maybe);
                spool.metrics().undrained.inc();
                self.failed = true;
            }
            false
        });
        spool.publish(&mut store);
        delivered
    }

    /// Replaces a producer that can do nothing more; what it had comes back as failed, and is looked up.
    fn replace_if_dead(&mut self) {
        let Some(reason) = self.producer.is_dead() else {
            return self.outcomes.clear_suspicion();
        };
        match self.drain.producer(&self.outcomes) {
            Ok(producer) => {
                self.outcomes.clear_suspicion();
                tracing::warn!(reason, "the spool's dead producer replaced");
                let old = std::mem::replace(&mut self.producer, producer);
                // Giving up what is in flight takes up to half a second.
                std::thread::spawn(move || drop(old));
            }
            Err(error) => tracing::error!(%error, reason, "cannot replace the spool's producer"),
        }
    }
}

/// How long to rest after a pass in which something failed, if something `moved` in it or not.
fn next_backoff(last: Duration, moved: bool) -> Duration {
    match moved {
        true => BACKOFF,
        false => (last * 2).min(LONGEST_BACKOFF),
    }
}

#[cfg(test)]
#[path = "drain_tests.rs"]
mod tests;
