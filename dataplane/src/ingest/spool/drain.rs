//! Back to Kafka: a thread that takes groups out of the spool in order, beside the new traffic, when Kafka is there.
//!
//! ```text
//! window -> those that Kafka may hold: barrier, looked up -> found: done
//!                                                         -> not found, and those that it certainly does not hold:
//!           noted as tried, durably -> produced -> acknowledged: done
//! ```
//!
//! The producer is idempotent and never gives up by itself, so while the process lives a group is with Kafka once. What
//! it had when the process died, or when it could do nothing more, is looked up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use penstock_dataplane_config::{KafkaTarget, PipelineRef};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::floors::Floors;
use super::frame::{Place, Record, Topic};
use super::lookup;
use super::segment::State;
use super::store::{Id, Pending};
use super::writer::Spool;
use crate::forgotten::Forgotten;
use crate::ingest::health::Health;
use crate::ingest::kafka::{Callbacks, Outcomes, Producer, Trying, client_config};
use crate::ingest::partition::Spread;
use crate::ingest::statistics::ProducerSeries;
use crate::process::{RoleError, Shutdown};

/// Groups and bytes on their way at once.
const WINDOW: usize = 2048;
const WINDOW_BYTES: usize = 4_000_000;
/// How often the gate is looked at while it is closed.
const CLOSED: Duration = Duration::from_millis(100);
/// Without a call the spool is looked at anyway, for groups that failed.
const IDLE: Duration = Duration::from_secs(1);
/// After a pass in which something failed.
const BACKOFF: Duration = Duration::from_secs(1);
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
        };
        let thread = std::thread::Builder::new()
            .name("spool-drain".into())
            .spawn(move || runtime.block_on(pass.run()))?;
        Ok(thread)
    }

    fn producer(&self, outcomes: &Arc<Outcomes>) -> rdkafka::error::KafkaResult<Producer> {
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
    number: usize,
}

impl Pass {
    async fn run(mut self) {
        let (mut cursor, mut failed) = (None, false);
        while !self.drain.is_over() {
            if !self.drain.health.is_open() {
                cursor = None;
                self.doubted.clear();
                tokio::time::sleep(CLOSED).await;
                continue;
            }
            let (window, last) = self.drain.spool.store().window(cursor, WINDOW, WINDOW_BYTES);
            if window.is_empty() {
                cursor = None;
                if std::mem::take(&mut failed) {
                    tokio::time::sleep(BACKOFF).await;
                } else {
                    let something = self.drain.spool.waiting();
                    tokio::select! {
                        () = something => {}
                        () = self.drain.finish.cancelled() => tokio::time::sleep(CLOSED).await,
                        () = tokio::time::sleep(IDLE) => {}
                    }
                }
                continue;
            }
            cursor = last;
            if self.outcomes.is_suspect() {
                self.replace_if_dead();
            }
            failed |= !self.window(window).await;
        }
        // What is not acknowledged by now is noted as tried.
        if let Err(error) = self.producer.flush(Duration::ZERO) {
            tracing::debug!(%error, "the drain ended with groups on their way");
        }
    }

    /// Drains these; whether all of them are in Kafka now.
    async fn window(&mut self, mut window: Vec<Pending>) -> bool {
        let (before, now) = (window.len(), Instant::now());
        window.retain(|one| self.has_settled(one, now));
        let mut all = window.len() == before;
        self.drop_found(&mut window).await;
        let looked_up = window.len();
        window.retain(|one| one.state == State::Certain);
        all &= window.len() == looked_up;
        if !window.is_empty() {
            all &= self.produce(window).await;
        }
        let spool = &self.drain.spool;
        spool.publish(&mut spool.store());
        all
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
            let wanted: Vec<(&str, Place)> = window
                .iter()
                .filter(|one| is_one(one))
                .map(|one| (one.record.name.as_str(), one.place))
                .collect();
            if wanted.is_empty() {
                continue;
            }
            // Not in the dead-letter topic, whose readers expect letters.
            if topic == Topic::Events && !self.barrier(&wanted).await {
                tracing::warn!(
                    groups = wanted.len(),
                    "Kafka does not acknowledge in the partitions where groups of the spool may be"
                );
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

    /// Has all be visible that Kafka took where these may be; whether it is. A leader shows a record only when the
    /// replicas in sync have it, so one that a dead process sent may be there unseen; and it acknowledges one only when it
    /// shows all before it.
    async fn barrier(&mut self, wanted: &[(&str, Place)]) -> bool {
        // One that is no more, because the topic was made anew with fewer, has none of them.
        let mut partitions = match self.producer.partitions() {
            Ok(partitions) => partitions,
            Err(error) => {
                tracing::warn!(%error, "cannot see the topic's partitions");
                return false;
            }
        };
        if wanted.iter().all(|(_, place)| place.partition >= 0) {
            partitions.retain(|partition| wanted.iter().any(|(_, place)| place.partition == *partition));
        }
        let first = self.number + 1;
        for partition in partitions {
            self.number += 1;
            if let Err(error) = self.producer.barrier(self.number, partition) {
                tracing::warn!(%error, partition, "a barrier was not produced");
                return false;
            }
        }
        let (mut left, until) = (self.number + 1 - first, Instant::now() + BARRIER);
        let mut delivered = Vec::new();
        loop {
            self.outcomes.take(&mut delivered);
            for one in delivered.drain(..).filter(|one| one.number >= first) {
                if one.stored.is_err() {
                    return false;
                }
                left -= 1;
            }
            let rest = until.saturating_duration_since(Instant::now());
            if left == 0 || rest.is_zero() || self.drain.is_over() {
                return left == 0;
            }
            let _ = tokio::time::timeout(rest.min(IDLE), self.outcomes.wake.notified()).await;
        }
    }

    /// Produces these and waits for all of them; whether each was acknowledged.
    async fn produce(&mut self, window: Vec<Pending>) -> bool {
        let health = Arc::clone(&self.drain.health);
        let bytes = window.iter().map(|one| one.record.value.len()).sum();
        let partition = self.spread.choose(&health.partitions(), bytes, Instant::now());
        let partition_of = |record: &Record| match (record.topic, &record.key) {
            (Topic::Events, None) => Some(partition),
            (Topic::Events, Some(key)) => health.partition_of(key),
            // The dead-letter topic always has this one, and most often no other.
            (Topic::DeadLetters, _) => Some(0),
        };
        let all = window.len();
        let window: Vec<(Pending, i32)> = window
            .into_iter()
            .filter_map(|one| partition_of(&one.record).map(|partition| (one, partition)))
            .collect();
        // Those whose partition has no leader have their turn later.
        let mut all = window.len() == all;
        let attempts: Vec<(Id, Place)> = window
            .iter()
            .map(|(one, partition)| {
                let place = self.floors.place(&health, one.record.topic, *partition);
                (one.id, place)
            })
            .collect();
        let noted = self.drain.spool.store().attempt(&attempts);
        if let Err(error) = noted {
            tracing::error!(%error, "cannot note in the spool what is to be produced");
            return false;
        }
        let mut on_their_way = AHashMap::with_capacity(window.len());
        for (one, partition) in window {
            self.number += 1;
            let Pending { id, record, .. } = one;
            let topic = record.topic;
            match self.producer.spooled(self.number, partition, &record) {
                Ok(()) => {
                    on_their_way.insert(self.number, (id, topic));
                }
                Err(error) => {
                    tracing::warn!(%error, "a group of the spool was not produced");
                    all = false;
                }
            }
        }
        let mut delivered = Vec::new();
        while !on_their_way.is_empty() {
            self.outcomes.take(&mut delivered);
            for one in delivered.drain(..) {
                let Some((id, topic)) = on_their_way.remove(&one.number) else {
                    continue;
                };
                let spool = &self.drain.spool;
                if let Ok((partition, offset)) = one.stored {
                    self.floors.acknowledged(topic, partition, offset);
                    spool.store().done(id);
                    spool.metrics().drained.inc();
                } else {
                    spool.metrics().undrained.inc();
                    all = false;
                }
            }
            if on_their_way.is_empty() {
                break;
            }
            if self.outcomes.is_suspect() {
                self.replace_if_dead();
            }
            tokio::select! {
                () = self.outcomes.wake.notified() => {}
                () = tokio::time::sleep(IDLE) => {}
            }
            if self.drain.is_over() {
                return false;
            }
        }
        all
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
