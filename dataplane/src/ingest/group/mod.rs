//! Self-clocked group commit: how the events of many requests become few records. Only a small group that is not alone
//! waits for a timer ([`pace`]).
//!
//! A shard has at most [`IN_FLIGHT`] records on their way to Kafka. What arrives meanwhile gathers in one group,
//! which leaves when an acknowledgement comes back or the group is full; so a lone event leaves at once, and groups
//! grow with the load. A request waits for the [`Outcome`] of each group that holds lines of it, and is answered
//! only when all of them are stored.
//!
//! ```text
//! append -> gathering -(full)-> waiting -(room in flight)-> Kafka -> settle -> every request of the group
//!                                  '-(Kafka is away)-> spool, or refused --'
//! ```
//!
//! However long all of them take, a request is answered in its time: the shard looks a few times a second for what has been
//! here for so long, which costs no timer per request. What has only gathered by then is dropped; what has left may be stored
//! yet.
//!
//! With `recordFormat: Single` a group leaves as many records, a line each ([`single`]). Then what is in flight is bounded by
//! [`lanes`], for each goes to the partition of its key.
//!
//! With a spool nothing is given up: what could not be produced goes there as a group that Kafka certainly does not
//! hold; what was produced and is not acknowledged in time goes there as one that it may hold, and stays with the
//! producer, whose acknowledgement deletes it again.
//!
//! The flusher runs as a task of the shard, so it comes after the connections that are ready: that is what gathers. Where
//! requests come side by side a small group waits a moment for more ([`pace`]).

mod gathering;
mod lanes;
mod leave;
mod letters;
mod pace;
mod single;

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use penstock_dataplane_config::{Durability, KafkaTarget, PipelineRef, RecordKey};
use tokio::io::unix::AsyncFd;
use uuid::Uuid;

use self::gathering::Gathering;
use self::lanes::Lanes;
pub(crate) use self::letters::Letters;
use self::pace::{Alarm, Pace};
use crate::forgotten::Forgotten;
use crate::ingest::budget::{Permit, share_of};
use crate::ingest::fate::{Fate, Outcome, Settled};
use crate::ingest::flight::{Aside, Flight, InKafka, Then, next};
use crate::ingest::health::Health;
use crate::ingest::kafka::{
    Callbacks, Delivered, Kept, Outcomes, Outgoing, Producer, PutAside, Trying, letter_headers,
};
use crate::ingest::line::{Letter, Lines};
use crate::ingest::metrics::IngestMetrics;
use crate::ingest::outage::Outage;
use crate::ingest::partition::Spread;
use crate::ingest::spool::{Floors, Record, Topic};
use crate::ingest::statistics::ProducerSeries;
use crate::process::RoleError;
use crate::utc::now_ms;

/// Records on their way at once: the next group is produced while the broker writes the one before.
const IN_FLIGHT: usize = 2;
/// A cause that lasts must not make producers without end.
const REBUILD_EVERY: Duration = Duration::from_secs(1);
/// So many records are looked at whenever something happens, more of them only so often.
const FEW: usize = 64;
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a stopping shard waits for its last acknowledgements.
const LAST_FLUSH: Duration = Duration::from_secs(5);
const FLUSH_STEP: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
struct State {
    gathering: Gathering,
    flights: AHashMap<usize, Flight>,
    /// Records of events that Kafka has not answered for.
    in_flight: usize,
    /// The same by partition, where keys decide which one it is.
    lanes: Lanes,
    pace: Pace,
    groups_aside: usize,
    floors: Floors,
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
    alarm: Alarm,
    /// Room for answers, reused.
    answers: RefCell<(Vec<Delivered>, Vec<PutAside>)>,
    /// Waiting and in flight, as the gauges have them.
    shown: Cell<(i64, i64)>,
    rebuilt: Cell<Option<Instant>>,
    /// When all that is on its way was looked at last.
    looked: Cell<Instant>,
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
    /// How long after its first line came the requests of a group are answered, whatever is known then.
    pub(crate) time: Duration,
    pub(crate) boot: Uuid,
    pub(crate) shard: usize,
    pub(crate) letters: Letters,
    /// The key of each event, where each is a record of its own.
    pub(crate) single: Option<RecordKey>,
    pub(crate) durability: Durability,
    pub(crate) outage: Outage,
    pub(crate) metrics: IngestMetrics,
    pub(crate) series: Arc<ProducerSeries>,
}

impl Groups {
    pub(crate) fn new(
        settings: Settings,
        outcomes: Arc<Outcomes>,
        health: Arc<Health>,
    ) -> Result<Self, RoleError> {
        let producer = settings.producer(&outcomes, &health)?;
        let spread = Spread::new(&settings.boot, settings.shard, Instant::now());
        let state = State {
            gathering: Gathering::new(settings.single.is_some()),
            ..State::default()
        };
        Ok(Self {
            state: RefCell::new(state),
            spread: RefCell::new(spread),
            producer: RefCell::new(producer),
            outcomes,
            health,
            settings,
            alarm: Alarm::new()?,
            answers: RefCell::default(),
            shown: Cell::default(),
            rebuilt: Cell::default(),
            looked: Cell::new(Instant::now()),
        })
    }

    /// Whether what is appended now can become durable, as far as is known.
    pub(crate) fn are_open(&self) -> bool {
        match &self.settings.outage {
            Outage::Reject => self.health.is_open(),
            Outage::Spool(spool) => (!self.spools_all() && self.health.is_open()) || spool.has_room(),
            Outage::Direct(direct) => self.health.is_open() || direct.takes_one(),
        }
    }

    fn spools_all(&self) -> bool {
        self.settings.durability == Durability::Spooled
    }

    /// Whether groups are not produced now.
    fn are_put_aside(&self) -> bool {
        self.spools_all() || !self.health.is_open()
    }

    /// Adds the first `count` lines. What they need of `permit` goes with them, the rest is given back.
    pub(crate) fn append(&self, lines: &mut Lines, count: usize, permit: Permit) -> Vec<Settled> {
        let state = &mut *self.state.borrow_mut();
        let settled = state.gathering.append(lines, count, permit);
        let room = match self.are_put_aside() {
            true => {
                // Where nothing of a request is left, nothing will show how the table is.
                if let Outage::Direct(direct) = &self.settings.outage
                    && count > 0
                {
                    direct.comes();
                }
                state.groups_aside < self.settings.outage.room()
            }
            false => {
                state.pace.came(state.in_flight);
                self.may_leave(state, Instant::now())
            }
        };
        if room && state.gathering.len() > 0 {
            self.outcomes.wake.notify_one();
        }
        if self.settings.durability == Durability::Memory {
            return vec![Settled::in_memory()];
        }
        settled
    }

    /// Whether dead letters have somewhere to go. Without it the whole request is refused: the events beside them would be
    /// stored again each time that it comes.
    pub(crate) fn take_letters(&self) -> bool {
        match self.settings.outage {
            Outage::Spool(_) => true,
            Outage::Reject => !self.settings.letters.are_full(),
            // There is no table for them here.
            Outage::Direct(_) => self.health.is_open() && !self.settings.letters.are_full(),
        }
    }

    /// Produces dead letters, each a record of its own, which takes what it needs of `permit` with it.
    pub(crate) fn quarantine(&self, app: &str, letters: &[Letter], permit: &mut Permit) -> Settled {
        let outcome = Outcome::of(letters.len());
        let state = &mut *self.state.borrow_mut();
        let away = self.are_put_aside();
        // A request's letters go together, so that one with many is not refused for ever.
        let full = self.settings.letters.are_full();
        for letter in letters {
            let number = state.next_number();
            let name = self.name(number);
            let kept = self.settings.outage.spool().map(|_| Record {
                created: now_ms(),
                topic: Topic::DeadLetters,
                name: name.clone(),
                key: None,
                headers: letter_headers(app, letter)
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
                value: letter.bytes.clone(),
            });
            let now = Instant::now();
            let waiting = vec![Rc::clone(&outcome)];
            let share = share_of(permit, letter.bytes.len());
            let mut flight = Flight::new(waiting, now, now, false, share);
            flight.kept = kept;
            if !full && (!away || matches!(self.settings.outage, Outage::Reject)) {
                flight.place = state.floors.place(&self.health, Topic::DeadLetters, 0);
                // Which partition takes it is librdkafka's choice, unless it may have to be found again.
                let partition = match flight.kept {
                    Some(_) => flight.place.partition,
                    None => -1,
                };
                let outgoing = Outgoing {
                    topic: Topic::DeadLetters,
                    name: &name,
                    key: None,
                    value: &letter.bytes,
                };
                let headers = letter_headers(app, letter).into_iter();
                let produced = self.producer.borrow().send(number, partition, &outgoing, headers);
                match produced {
                    Ok(()) => {
                        flight.kafka = InKafka::Out;
                        flight.bytes = letter.bytes.len();
                        self.settings.letters.depart(flight.bytes);
                    }
                    Err(error) => tracing::warn!(%error, "a dead letter was not produced"),
                }
            }
            state.flights.insert(number, flight);
            self.advance(state, number);
        }
        if self.settings.durability == Durability::Memory {
            return Settled::in_memory();
        }
        Settled(outcome)
    }

    /// What [`Self::run`] listens to; in a runtime.
    pub(crate) fn bell(&self) -> std::io::Result<AsyncFd<OwnedFd>> {
        self.alarm.bell()
    }

    /// Produces groups and settles them, until dropped.
    pub(crate) async fn run(&self, bell: AsyncFd<OwnedFd>) {
        loop {
            self.turn();
            tokio::select! {
                () = self.outcomes.wake.notified() => {}
                () = self.alarm.rings(&bell) => {}
            }
        }
    }

    /// Does what can be done now.
    fn turn(&self) {
        self.settle();
        if self.outcomes.is_suspect() {
            self.replace_if_dead();
        }
        if self.are_put_aside() {
            self.put_aside(Duration::ZERO);
        } else {
            self.produce();
            self.put_aside(self.settings.patience);
        }
        if self.looks_due() {
            self.spool_overdue();
            self.answer_overdue();
            self.show();
        }
    }

    /// Looking at all that is on its way costs nothing for a few records, and too much for thousands at each of their
    /// acknowledgements.
    fn looks_due(&self) -> bool {
        let many = self.state.borrow().flights.len() > FEW;
        let due = !many || self.looked.get().elapsed() >= LOOK_EVERY;
        if due {
            self.looked.set(Instant::now());
        }
        due
    }

    /// Brings everything on its way to an end, as far as that is possible in [`LAST_FLUSH`].
    pub(crate) fn finish(&self) {
        let until = Instant::now() + LAST_FLUSH;
        loop {
            self.turn();
            let state = self.state.borrow();
            let left = state.flights.len() + state.gathering.len();
            if left == 0 {
                return;
            }
            if Instant::now() >= until {
                tracing::warn!(records = left, "the last groups were not acknowledged");
                return;
            }
            drop(state);
            // Returns at once when the producer has nothing; the spool is waited for, too.
            if self.producer.borrow().flush(FLUSH_STEP).is_ok() {
                std::thread::sleep(FLUSH_STEP);
            }
        }
    }

    /// Takes in what Kafka and the spool have answered.
    fn settle(&self) {
        let (mut delivered, mut put_aside) = self.answers.take();
        self.outcomes.take(&mut delivered);
        self.outcomes.take_put_aside(&mut put_aside);
        let state = &mut *self.state.borrow_mut();
        let now = Instant::now();
        for Delivered { number, stored } in delivered.drain(..) {
            let Some(flight) = state.flights.get_mut(&number) else {
                continue;
            };
            if flight.is_group {
                state.in_flight -= 1;
            } else {
                self.settings.letters.arrive(flight.bytes);
            }
            if self.settings.single.is_some() && flight.is_group {
                let partition = flight.place.partition;
                state.lanes.arrive(partition, flight.bytes, stored.is_ok(), now);
            }
            flight.kafka = match stored {
                Ok((partition, offset)) => {
                    let topic = if flight.is_group {
                        Topic::Events
                    } else {
                        Topic::DeadLetters
                    };
                    state.floors.acknowledged(topic, partition, offset);
                    InKafka::Acknowledged
                }
                Err(cause) => InKafka::Failed(cause),
            };
            self.advance(state, number);
        }
        for PutAside { number, kept } in put_aside.drain(..) {
            let Some(flight) = state.flights.get_mut(&number) else {
                continue;
            };
            if flight.is_group && flight.kafka == InKafka::Never {
                state.groups_aside -= 1;
            }
            flight.aside = match kept {
                Some(Kept::Spooled(id)) => Aside::At(id),
                Some(Kept::Inserted) => Aside::Inserted,
                None => Aside::Refused,
            };
            self.advance(state, number);
        }
        self.answers.replace((delivered, put_aside));
    }

    /// Does what follows from what is known of a record.
    fn advance(&self, state: &mut State, number: usize) {
        let spool = self.settings.outage.spool();
        let then = loop {
            let Some(flight) = state.flights.get_mut(&number) else {
                return;
            };
            let step = next(flight.kafka, flight.aside, flight.kept.is_some());
            if let Some(fate) = step.fate.filter(|_| flight.told().is_none()) {
                flight.tell(fate);
                let metrics = &self.settings.metrics;
                match fate {
                    Fate::Stored if flight.is_group => _ = metrics.groups_acknowledged.inc(),
                    Fate::Failed if flight.is_group => _ = metrics.groups_failed.inc(),
                    _ => {}
                }
            }
            match step.then {
                Then::PutAside => self.keep_aside(number, flight),
                then => break then,
            }
        };
        if then == Then::Wait {
            return;
        }
        let Some(flight) = state.flights.remove(&number) else {
            return;
        };
        match (then, spool) {
            (Then::Delete(id), Some(spool)) => spool.done(id),
            (Then::Release(id), Some(spool)) => spool.release(id),
            _ => {}
        }
        if let Some(record) = flight.kept
            && self.settings.single.is_none()
        {
            state.gathering.reuse(record.value);
        }
    }

    /// Has the flusher look at what waits; called now and then, for time runs out without an event.
    pub(crate) fn look(&self) {
        let state = self.state.borrow();
        let waits = state.gathering.len() > 0 || !state.flights.is_empty();
        if waits || self.outcomes.is_suspect() {
            self.outcomes.wake.notify_one();
        }
    }

    fn name(&self, number: usize) -> String {
        format!("{}/{}/{number}", self.settings.boot, self.settings.shard)
    }

    /// Replaces a producer that can do nothing more, at most once in [`REBUILD_EVERY`]. What it had in flight comes
    /// back as failed.
    fn replace_if_dead(&self) {
        let Some(reason) = self.producer.borrow().is_dead() else {
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
                tracing::warn!(shard = self.settings.shard, reason, "dead producer replaced");
                let old = self.producer.replace(producer);
                // Giving up what is in flight takes up to half a second.
                std::thread::spawn(move || drop(old));
            }
            Err(error) => tracing::error!(%error, reason, "cannot replace the producer"),
        }
    }

    fn show(&self) {
        let state = self.state.borrow();
        let out = state
            .flights
            .values()
            .filter(|flight| flight.kafka == InKafka::Out);
        let oldest = out.map(|flight| flight.since).min();
        self.health.waits_since(self.settings.shard, oldest);
        // The gauges are the sum of all shards.
        let now = (state.gathering.len() as i64, state.in_flight as i64);
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
}

impl Settings {
    fn producer(
        &self,
        outcomes: &Arc<Outcomes>,
        health: &Arc<Health>,
    ) -> Result<Producer, rdkafka::error::KafkaError> {
        let trying = match self.outage.spool() {
            Some(_) => Trying::Forever(self.timeout),
            None => Trying::For(self.timeout),
        };
        let callbacks = Callbacks {
            outcomes: Arc::clone(outcomes),
            health: Arc::clone(health),
            series: Arc::clone(&self.series),
            forgotten: Forgotten::default(),
        };
        Producer::new(&self.target, &self.pipeline, trying, callbacks)
    }
}
