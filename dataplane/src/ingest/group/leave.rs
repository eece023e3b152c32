//! How a group leaves: as one record or as many, to Kafka or aside of it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_dataplane_config::{Durability, RecordKey};

use super::gathering::Group;
use super::single::{self, Event};
use super::{Groups, IN_FLIGHT, State};
use crate::ingest::budget::{Permit, share_of};
use crate::ingest::fate::Fate;
use crate::ingest::flight::{Aside, Flight, InKafka};
use crate::ingest::kafka::{Outgoing, PutAside};
use crate::ingest::outage::Outage;
use crate::ingest::spool::{Keep, Record, State as Spooled, Topic};
use crate::utc::now_ms;

/// Records on their way aside of Kafka at once, where each line is one.
const ASIDE: usize = 1000;

impl Groups {
    /// Hands over what may leave.
    pub(super) fn produce(&self) {
        let state = &mut *self.state.borrow_mut();
        let now = Instant::now();
        while state.gathering.len() > 0 && self.may_leave(state, now) {
            let Some(group) = state.gathering.next(|_| true) else {
                return;
            };
            state.pace.leaves(now);
            let partitions = self.health.partitions();
            let partition = self
                .spread
                .borrow_mut()
                .choose(&partitions, group.bytes.len(), now);
            match self.settings.single {
                None => self.produce_whole(state, group, partition, now),
                Some(key) => self.produce_each(state, group, key, partition, now),
            }
        }
    }

    /// Whether what has gathered may leave for Kafka now. When it only has to wait for others to come, the alarm is set.
    pub(super) fn may_leave(&self, state: &State, now: Instant) -> bool {
        let has_room = match self.settings.single {
            None => state.in_flight < IN_FLIGHT,
            Some(_) => state.lanes.have_room(now) && state.groups_aside < ASIDE,
        };
        let wait = state.pace.wait(state.gathering.first_bytes(), now);
        if let Some(wait) = wait.filter(|_| has_room) {
            self.alarm.set(wait);
        }
        has_room && wait.is_none()
    }

    /// A group as one record.
    fn produce_whole(&self, state: &mut State, group: Group, partition: i32, now: Instant) {
        let number = state.next_number();
        let name = self.name(number);
        let outcomes = group.outcomes();
        let mut flight = Flight::new(outcomes, group.since, now, true, group.permit);
        flight.place = state.floors.place(&self.health, Topic::Events, partition);
        let outgoing = Outgoing {
            topic: Topic::Events,
            name: &name,
            key: None,
            value: &group.bytes,
        };
        let none = std::iter::empty();
        let sent = self.producer.borrow().send(number, partition, &outgoing, none);
        let bytes = group.bytes.len();
        match self.settings.outage {
            Outage::Spool(_) => flight.kept = Some(record_of(name, group.bytes)),
            Outage::Reject | Outage::Direct(_) => state.gathering.reuse(group.bytes),
        }
        match sent {
            Ok(()) => {
                self.settings.metrics.group_bytes.inc_by(bytes as u64);
                flight.kafka = InKafka::Out;
                state.in_flight += 1;
            }
            Err(error) => {
                tracing::warn!(%error, "a group was not produced");
                self.health.doubt();
                state.groups_aside += usize::from(flight.kept.is_some());
            }
        }
        state.flights.insert(number, flight);
        self.advance(state, number);
    }

    /// Each line as a record. `spread`: the partition of those without a key.
    fn produce_each(&self, state: &mut State, group: Group, key: RecordKey, spread: i32, now: Instant) {
        let events = single::events(&group.bytes, &group.parts, key);
        let mut places: Vec<Option<i32>> = events
            .iter()
            .map(|event| {
                let partition = match &event.key {
                    Some(key) => self.health.partition_of(key)?,
                    None => spread,
                };
                let takes = state.lanes.depart(partition, event.value.len(), now);
                takes.then_some(partition)
            })
            .collect();
        // What no partition takes would wait in vain. Without a spool its request is refused as a whole, before anything of
        // it leaves: it comes again as a whole.
        if self.settings.outage.spool().is_none() {
            let mut refused = vec![false; group.parts.len()];
            for (event, _) in events.iter().zip(&places).filter(|(_, place)| place.is_none()) {
                refused[event.part] = true;
            }
            for (event, place) in events.iter().zip(&mut places) {
                if let Some(partition) = place.take_if(|_| refused[event.part]) {
                    state.lanes.stay(partition, event.value.len());
                }
            }
        }
        let mut permit = group.permit;
        for (event, place) in events.iter().zip(places) {
            let (number, mut flight) = flight_of(state, event, &mut permit, group.since, now);
            let name = self.name(number);
            let sent = place.is_some_and(|partition| {
                flight.place = state.floors.place(&self.health, Topic::Events, partition);
                let sent = self.send(number, partition, &name, event);
                if !sent {
                    state.lanes.stay(partition, event.value.len());
                    self.health.doubt();
                }
                sent
            });
            flight.kept = self.settings.outage.spool().map(|_| event.record(name));
            if sent {
                self.settings.metrics.group_bytes.inc_by(event.value.len() as u64);
                flight.kafka = InKafka::Out;
                state.in_flight += 1;
            } else {
                state.groups_aside += usize::from(flight.kept.is_some());
            }
            state.flights.insert(number, flight);
            self.advance(state, number);
        }
        drop(events);
        state.gathering.reuse(group.bytes);
    }

    fn send(&self, number: usize, partition: i32, name: &str, event: &Event<'_>) -> bool {
        let outgoing = Outgoing {
            topic: Topic::Events,
            name,
            key: event.key.as_deref(),
            value: event.value,
        };
        let headers = event.headers().into_iter();
        let sent = self.producer.borrow().send(number, partition, &outgoing, headers);
        sent.inspect_err(|error| tracing::debug!(%error, "an event was not produced"))
            .is_ok()
    }

    /// Each line into the spool.
    fn keep_each(&self, state: &mut State, group: Group, key: RecordKey, now: Instant) {
        let mut permit = group.permit;
        for event in single::events(&group.bytes, &group.parts, key) {
            let (number, mut flight) = flight_of(state, &event, &mut permit, group.since, now);
            flight.kept = Some(event.record(self.name(number)));
            state.groups_aside += 1;
            state.flights.insert(number, flight);
            self.advance(state, number);
        }
        state.gathering.reuse(group.bytes);
    }

    /// Kafka is away, or too slow: what has waited so long and was not produced goes elsewhere. With no such place it is
    /// refused, and nothing of it can be stored later.
    pub(super) fn put_aside(&self, longest: Duration) {
        let state = &mut *self.state.borrow_mut();
        let now = Instant::now();
        let has_place = !matches!(self.settings.outage, Outage::Reject);
        while state.groups_aside < self.settings.outage.room() {
            let over = |group: &Group| now.saturating_duration_since(group.since) >= longest;
            let Some(group) = state.gathering.next(over) else {
                return;
            };
            if let (Some(key), Outage::Spool(_)) = (self.settings.single, &self.settings.outage) {
                self.keep_each(state, group, key, now);
                continue;
            }
            let number = state.next_number();
            let outcomes = group.outcomes();
            let mut flight = Flight::new(outcomes, group.since, group.since, true, group.permit);
            if has_place {
                flight.kept = Some(record_of(self.name(number), group.bytes));
                state.groups_aside += 1;
            } else {
                state.gathering.reuse(group.bytes);
            }
            state.flights.insert(number, flight);
            self.advance(state, number);
        }
    }

    /// What Kafka has not acknowledged for as long as a request waits for it is kept in the spool as well.
    pub(super) fn spool_overdue(&self) {
        if self.settings.outage.spool().is_none() {
            return;
        }
        let state = &mut *self.state.borrow_mut();
        let now = Instant::now();
        for (number, flight) in &mut state.flights {
            if flight.waits() && now.saturating_duration_since(flight.came) >= self.settings.timeout {
                self.keep_aside(*number, flight);
            }
        }
    }

    /// Answers for what is not settled in the time of its requests. What has only gathered is dropped; what is on its way may
    /// be stored yet, and is when its client sends it again.
    pub(super) fn answer_overdue(&self) {
        if self.settings.durability == Durability::Memory {
            // Nobody waits.
            return;
        }
        let state = &mut *self.state.borrow_mut();
        let (now, time) = (Instant::now(), self.settings.time);
        let is_over = |came: Instant| now.saturating_duration_since(came) >= time;
        let failed = &self.settings.metrics.groups_failed;
        while let Some(group) = state.gathering.next(|group| is_over(group.since)) {
            let outcomes = group.parts.iter().map(|part| &part.outcome);
            outcomes.for_each(|outcome| outcome.settle(Fate::Failed));
            failed.inc();
            state.gathering.reuse(group.bytes);
        }
        let flights = state.flights.values_mut();
        for flight in flights.filter(|flight| flight.told().is_none() && is_over(flight.came)) {
            flight.give_up();
            failed.inc_by(u64::from(flight.is_group));
        }
    }

    /// Has a record kept aside of Kafka.
    pub(super) fn keep_aside(&self, number: usize, flight: &mut Flight) {
        let Some(record) = flight.kept.take() else { return };
        let waited_for = match self.settings.durability {
            Durability::Memory => Instant::now(),
            Durability::Replicated | Durability::Spooled => flight.came,
        };
        let keep = Keep {
            record,
            until: waited_for + self.settings.time,
            state: match flight.kafka {
                InKafka::Never => Spooled::Certain,
                InKafka::Out => Spooled::Owned,
                InKafka::Acknowledged | InKafka::Failed(_) => Spooled::Maybe,
            },
            place: flight.place,
            number,
            outcomes: Arc::clone(&self.outcomes),
        };
        flight.aside = Aside::Asked;
        if !self.settings.outage.keep(keep) {
            // As if it had been tried: the answer comes with the others.
            self.outcomes.tell(PutAside { number, kept: None });
        }
    }
}

/// The record of a line, with its share of the group's permit.
fn flight_of(
    state: &mut State,
    event: &Event<'_>,
    permit: &mut Option<Permit>,
    came: Instant,
    now: Instant,
) -> (usize, Flight) {
    let share = permit
        .as_mut()
        .and_then(|permit| share_of(permit, event.value.len()));
    let outcomes = vec![Rc::clone(event.outcome)];
    let mut flight = Flight::new(outcomes, came, now, true, share);
    flight.bytes = event.value.len();
    (state.next_number(), flight)
}

fn record_of(name: String, value: Vec<u8>) -> Record {
    Record {
        created: now_ms(),
        topic: Topic::Events,
        name,
        key: None,
        headers: Vec::new(),
        value,
    }
}
