//! Self-clocked group commit: how the events of many requests become few records, without a timer.
//!
//! A shard has at most [`IN_FLIGHT`] records on their way to Kafka. What arrives meanwhile gathers in one group,
//! which leaves when an acknowledgement comes back or the group is full; so a lone event leaves at once, and groups
//! grow with the load. A request waits for the [`Outcome`] of each group that holds lines of it, and is answered
//! only when all of them are stored.
//!
//! ```text
//! append -> gathering -(full)-> waiting -(room in flight)-> Kafka -> settle -> every request of the group
//! ```
//!
//! The flusher runs as a task of the shard, so it comes after the connections that are ready: that is what gathers.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use ahash::AHashMap;
use penstock_dataplane_config::{KafkaTarget, PipelineRef};
use uuid::Uuid;

use super::budget::Permit;
use super::health::Health;
use super::kafka::{Delivered, Outcomes, Producer};
use super::line::{Letter, Lines};
use super::metrics::IngestMetrics;
use super::partition::Spread;

/// A record's value before compression. Brokers refuse records over 1 MB, and an idempotent producer does not
/// recover from that.
const FULL: usize = 600_000;
/// Records on their way at once: the next group is produced while the broker writes the one before.
const IN_FLIGHT: usize = 2;
/// Buffers kept for reuse.
const SPARE: usize = 4;
/// A cause that lasts must not make producers without end.
const REBUILD_EVERY: Duration = Duration::from_secs(1);
/// How long a stopping shard waits for its last acknowledgements.
const LAST_FLUSH: Duration = Duration::from_secs(5);

/// Whether records were stored; settled once, awaited by many.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Records that are not settled yet.
    open: Cell<usize>,
    failed: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

impl Outcome {
    fn of(records: usize) -> Rc<Self> {
        Rc::new(Self {
            open: Cell::new(records),
            ..Self::default()
        })
    }

    fn settle(&self, stored: bool) {
        self.failed.set(self.failed.get() || !stored);
        self.open.set(self.open.get().saturating_sub(1));
        if self.open.get() == 0 {
            self.waiting.borrow_mut().drain(..).for_each(Waker::wake);
        }
    }
}

/// Resolves to whether everything was stored.
#[derive(Debug)]
pub(crate) struct Settled(Rc<Outcome>);

impl Future for Settled {
    type Output = bool;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<bool> {
        if self.0.open.get() == 0 {
            return Poll::Ready(!self.0.failed.get());
        }
        let mut waiting = self.0.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            waiting.push(context.waker().clone());
        }
        Poll::Pending
    }
}

#[derive(Debug)]
struct Group {
    bytes: Vec<u8>,
    outcome: Rc<Outcome>,
    since: Instant,
    /// Held until the record is settled, also when the requests are gone.
    permit: Option<Permit>,
}

/// A record on its way.
#[derive(Debug)]
struct Flight {
    outcome: Rc<Outcome>,
    since: Instant,
    is_group: bool,
    _permit: Option<Permit>,
}

#[derive(Debug, Default)]
struct State {
    gathering: Option<Group>,
    waiting: VecDeque<Group>,
    flights: AHashMap<usize, Flight>,
    groups_in_flight: usize,
    spare: Vec<Vec<u8>>,
    sequence: usize,
}

/// One shard's groups.
#[derive(Debug)]
pub(crate) struct Groups {
    state: RefCell<State>,
    spread: RefCell<Spread>,
    producer: RefCell<Producer>,
    outcomes: Arc<Outcomes>,
    health: Arc<Health>,
    settings: Settings,
    /// Waiting and in flight, as the gauges have them.
    shown: Cell<(i64, i64)>,
    rebuilt: Cell<Option<Instant>>,
}

/// What a shard's groups are made with.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) target: KafkaTarget,
    pub(crate) pipeline: PipelineRef,
    /// How long a produced group may take.
    pub(crate) timeout: Duration,
    /// How long a group may wait to be produced: what the request's time leaves beside the former.
    pub(crate) patience: Duration,
    pub(crate) boot: Uuid,
    pub(crate) shard: usize,
    pub(crate) metrics: IngestMetrics,
}

impl Groups {
    pub(crate) fn new(
        settings: Settings,
        outcomes: Arc<Outcomes>,
        health: Arc<Health>,
    ) -> Result<Self, rdkafka::error::KafkaError> {
        let producer = settings.producer(&outcomes, &health)?;
        let spread = Spread::new(&settings.boot, settings.shard, Instant::now());
        Ok(Self {
            state: RefCell::default(),
            spread: RefCell::new(spread),
            producer: RefCell::new(producer),
            outcomes,
            health,
            settings,
            shown: Cell::default(),
            rebuilt: Cell::default(),
        })
    }

    /// Adds the first `count` lines. What they need of `permit` goes with them, the rest is given back.
    pub(crate) fn append(&self, lines: &Lines, count: usize, mut permit: Permit) -> Vec<Settled> {
        let mut settled = Vec::with_capacity(1);
        let state = &mut *self.state.borrow_mut();
        let mut from = 0;
        let mut index = 0;
        while index < count {
            // As many lines as the group has room for, at least one into an empty group.
            let room = FULL.saturating_sub(state.gathering.as_ref().map_or(0, |group| group.bytes.len()));
            let fits = lines.lines[index..count].partition_point(|line| line.end - from <= room);
            if fits == 0 && state.gathering.is_some() {
                state.waiting.extend(state.gathering.take());
                continue;
            }
            let fits = fits.max(1);
            let to = lines.lines[index + fits - 1].end;
            let group = state.gathering.get_or_insert_with(|| Group {
                bytes: state.spare.pop().unwrap_or_default(),
                outcome: Outcome::of(1),
                since: Instant::now(),
                permit: None,
            });
            group.bytes.extend_from_slice(&lines.bytes[from..to]);
            // The group's own copy and librdkafka's.
            let share = ((to - from) * 2).min(permit.num_permits());
            if let Some(share) = permit.split(share) {
                match &mut group.permit {
                    Some(held) => held.merge(share),
                    none => *none = Some(share),
                }
            }
            settled.push(Settled(Rc::clone(&group.outcome)));
            (from, index) = (to, index + fits);
        }
        let waiting = state.waiting.len() + usize::from(state.gathering.is_some());
        if state.groups_in_flight < IN_FLIGHT && waiting > 0 {
            self.outcomes.wake.notify_one();
        }
        settled
    }

    /// Produces dead letters, each a record of its own.
    pub(crate) fn quarantine(&self, app: &str, letters: &[Letter]) -> Settled {
        let outcome = Outcome::of(letters.len());
        let producer = self.producer.borrow();
        for letter in letters {
            let number = self.state.borrow_mut().next_number();
            match producer.letter(number, app, letter) {
                Ok(()) => {
                    let flight = Flight {
                        outcome: Rc::clone(&outcome),
                        since: Instant::now(),
                        is_group: false,
                        _permit: None,
                    };
                    self.state.borrow_mut().flights.insert(number, flight);
                }
                Err(error) => {
                    tracing::warn!(%error, "a dead letter was not produced");
                    outcome.settle(false);
                }
            }
        }
        Settled(outcome)
    }

    /// Produces groups and settles them, until dropped.
    pub(crate) async fn run(&self) {
        let mut delivered = Vec::new();
        loop {
            self.outcomes.take(&mut delivered);
            self.settle(&mut delivered);
            if self.outcomes.is_suspect() {
                self.replace_if_dead();
            }
            if self.health.is_open() {
                self.produce();
                self.refuse_waiting(self.settings.patience);
            } else {
                self.refuse_waiting(Duration::ZERO);
            }
            self.show();
            self.outcomes.wake.notified().await;
        }
    }

    /// Waits for what librdkafka still has; for the end of the shard.
    pub(crate) fn finish(&self) {
        if let Err(error) = self.producer.borrow().flush(LAST_FLUSH) {
            tracing::warn!(%error, "the last groups were not acknowledged");
        }
    }

    fn settle(&self, delivered: &mut Vec<Delivered>) {
        let metrics = &self.settings.metrics;
        let state = &mut *self.state.borrow_mut();
        for one in delivered.drain(..) {
            let Some(flight) = state.flights.remove(&one.number) else {
                continue;
            };
            if flight.is_group {
                state.groups_in_flight -= 1;
                let counter = if one.stored {
                    &metrics.groups_acknowledged
                } else {
                    &metrics.groups_failed
                };
                counter.inc();
            }
            flight.outcome.settle(one.stored);
        }
    }

    fn produce(&self) {
        let state = &mut *self.state.borrow_mut();
        while state.groups_in_flight < IN_FLIGHT {
            let Some(group) = state.waiting.pop_front().or_else(|| state.gathering.take()) else {
                return;
            };
            let now = Instant::now();
            let partition =
                self.spread
                    .borrow_mut()
                    .choose(&self.health.partitions(), group.bytes.len(), now);
            let number = state.next_number();
            let Settings {
                boot, shard, metrics, ..
            } = &self.settings;
            let name = format!("{boot}/{shard}/{number}");
            match self
                .producer
                .borrow()
                .group(number, partition, &name, &group.bytes)
            {
                Ok(()) => {
                    metrics.group_bytes.inc_by(group.bytes.len() as u64);
                    let flight = Flight {
                        outcome: group.outcome,
                        since: now,
                        is_group: true,
                        _permit: group.permit,
                    };
                    state.flights.insert(number, flight);
                    state.groups_in_flight += 1;
                }
                Err(error) => {
                    tracing::warn!(%error, "a group was not produced");
                    metrics.groups_failed.inc();
                    self.health.doubt();
                    group.outcome.settle(false);
                }
            }
            state.keep(group.bytes);
        }
    }

    /// Has the flusher look at the groups that wait; called now and then, for their time runs out without an event.
    pub(crate) fn look(&self) {
        let state = self.state.borrow();
        if !state.waiting.is_empty() || state.gathering.is_some() || self.outcomes.is_suspect() {
            self.outcomes.wake.notify_one();
        }
    }

    /// Kafka is away, or too slow: what has waited so long and was not produced is refused, and nothing of it can be
    /// stored later.
    fn refuse_waiting(&self, longest: Duration) {
        let state = &mut *self.state.borrow_mut();
        let now = Instant::now();
        let over = |group: &Group| now.saturating_duration_since(group.since) >= longest;
        while state.waiting.front().is_some_and(over) {
            let refused = state.waiting.pop_front();
            self.refuse(state, refused);
        }
        if state.gathering.as_ref().is_some_and(over) {
            let refused = state.gathering.take();
            self.refuse(state, refused);
        }
    }

    fn refuse(&self, state: &mut State, group: Option<Group>) {
        let Some(group) = group else { return };
        self.settings.metrics.groups_failed.inc();
        group.outcome.settle(false);
        state.keep(group.bytes);
    }

    /// Replaces a producer that can do nothing more, at most once in [`REBUILD_EVERY`]. What it had in flight comes
    /// back as failed.
    fn replace_if_dead(&self) {
        let Some(reason) = self.producer.borrow().fatal_error() else {
            return self.outcomes.clear_suspicion();
        };
        if self.rebuilt.get().is_some_and(|at| at.elapsed() < REBUILD_EVERY) {
            return;
        }
        self.rebuilt.set(Some(Instant::now()));
        match self.settings.producer(&self.outcomes, &self.health) {
            Ok(producer) => {
                self.outcomes.clear_suspicion();
                self.settings.metrics.producers_rebuilt.inc();
                tracing::warn!(
                    shard = self.settings.shard,
                    reason,
                    "producer replaced after a fatal error"
                );
                let old = self.producer.replace(producer);
                // Giving up what is in flight takes up to half a second.
                std::thread::spawn(move || drop(old));
            }
            Err(error) => tracing::error!(%error, reason, "cannot replace the producer"),
        }
    }

    fn show(&self) {
        let state = self.state.borrow();
        let oldest = state.flights.values().map(|flight| flight.since).min();
        self.health.waits_since(self.settings.shard, oldest);
        let waiting = state.waiting.len() + usize::from(state.gathering.is_some());
        // The gauges are the sum of all shards.
        let now = (waiting as i64, state.groups_in_flight as i64);
        let before = self.shown.replace(now);
        self.settings.metrics.groups_waiting.inc_by(now.0 - before.0);
        self.settings.metrics.groups_in_flight.inc_by(now.1 - before.1);
    }
}

impl State {
    fn next_number(&mut self) -> usize {
        self.sequence += 1;
        self.sequence
    }

    fn keep(&mut self, mut bytes: Vec<u8>) {
        if self.spare.len() < SPARE {
            bytes.clear();
            self.spare.push(bytes);
        }
    }
}

impl Settings {
    fn producer(
        &self,
        outcomes: &Arc<Outcomes>,
        health: &Arc<Health>,
    ) -> Result<Producer, rdkafka::error::KafkaError> {
        Producer::new(
            &self.target,
            &self.pipeline,
            self.timeout,
            Arc::clone(outcomes),
            Arc::clone(health),
        )
    }
}
