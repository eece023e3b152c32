//! How a group leaves: as one record or as many, to Kafka or aside of it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_dataplane_config::RecordKey;

use super::gathering::Group;
use super::single::{self, Event};
use super::{Groups, State};
use crate::ingest::flight::{Aside, Flight, InKafka};
use crate::ingest::kafka::{Outgoing, PutAside};
use crate::ingest::outage::Outage;
use crate::ingest::spool::{Keep, Record, State as Spooled, Topic};
use crate::utc::now_ms;

impl Groups {
    /// Hands over what may leave.
    pub(super) fn produce(&self) {
        let state = &mut *self.state.borrow_mut();
        while state.in_flight < self.settings.in_flight() {
            let Some(group) = state.gathering.next(|_| true) else {
                return;
            };
            let now = Instant::now();
            let partitions = self.health.partitions();
            let partition = self
                .spread
                .borrow_mut()
                .choose(&partitions, group.bytes.len(), now);
            match self.settings.single {
                None => self.produce_whole(state, group, partition, now),
                Some(key) => self.each(state, group, key, |state, flight, number, event| {
                    let partition = match &event.key {
                        Some(key) => self.health.partition_of(key),
                        None => Some(partition),
                    };
                    self.produce_one(state, flight, number, event, partition);
                }),
            }
        }
    }

    /// A group as one record.
    fn produce_whole(&self, state: &mut State, group: Group, partition: i32, now: Instant) {
        let number = state.next_number();
        let name = self.name(number);
        let outcomes = group.outcomes();
        let mut flight = Flight::new(outcomes, now, true, InKafka::Never, group.permit);
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
        if let Err(error) = &sent {
            tracing::warn!(%error, "a group was not produced");
        }
        self.depart(state, number, flight, sent.is_ok().then_some(bytes));
    }

    /// One line as a record. `partition`: `None` where it has no leader; it would wait in vain.
    fn produce_one(
        &self,
        state: &mut State,
        mut flight: Flight,
        number: usize,
        event: &Event<'_>,
        partition: Option<i32>,
    ) {
        let name = self.name(number);
        let sent = partition.is_some_and(|partition| {
            flight.place = state.floors.place(&self.health, Topic::Events, partition);
            let outgoing = Outgoing {
                topic: Topic::Events,
                name: &name,
                key: event.key.as_deref(),
                value: event.value,
            };
            let headers = event.headers().into_iter();
            let sent = self.producer.borrow().send(number, partition, &outgoing, headers);
            sent.inspect_err(|error| tracing::debug!(%error, "an event was not produced"))
                .is_ok()
        });
        flight.kept = self.settings.outage.spool().map(|_| event.record(name));
        self.depart(state, number, flight, sent.then_some(event.value.len()));
    }

    /// A record is on its way: to Kafka with so many bytes, or elsewhere.
    fn depart(&self, state: &mut State, number: usize, mut flight: Flight, sent: Option<usize>) {
        match sent {
            Some(bytes) => {
                self.settings.metrics.group_bytes.inc_by(bytes as u64);
                flight.kafka = InKafka::Out;
                state.in_flight += 1;
            }
            None => {
                self.health.doubt();
                state.groups_aside += usize::from(flight.kept.is_some());
            }
        }
        state.flights.insert(number, flight);
        self.advance(state, number);
    }

    /// Has something done with each line of a group, as a record of its own.
    fn each(
        &self,
        state: &mut State,
        mut group: Group,
        key: RecordKey,
        mut with: impl FnMut(&mut State, Flight, usize, &Event<'_>),
    ) {
        let now = Instant::now();
        for event in single::events(&group.bytes, &group.parts, key) {
            let number = state.next_number();
            // The line's own copies here and in librdkafka.
            let permit = group
                .permit
                .as_mut()
                .and_then(|permit| permit.split((event.value.len() * 2).min(permit.num_permits())));
            let outcomes = vec![Rc::clone(event.outcome)];
            let flight = Flight::new(outcomes, now, true, InKafka::Never, permit);
            with(state, flight, number, &event);
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
                self.each(state, group, key, |state, mut flight, number, event| {
                    flight.kept = Some(event.record(self.name(number)));
                    state.groups_aside += 1;
                    state.flights.insert(number, flight);
                    self.advance(state, number);
                });
                continue;
            }
            let number = state.next_number();
            let outcomes = group.outcomes();
            let mut flight = Flight::new(outcomes, group.since, true, InKafka::Never, group.permit);
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

    /// What the producer has had for longer than a request can wait is kept in the spool as well.
    pub(super) fn spool_overdue(&self) {
        if self.settings.outage.spool().is_none() {
            return;
        }
        let state = &mut *self.state.borrow_mut();
        for (number, flight) in &mut state.flights {
            if flight.waits() && flight.since.elapsed() >= self.settings.timeout {
                self.keep_aside(*number, flight);
            }
        }
    }

    /// Has a record kept aside of Kafka.
    pub(super) fn keep_aside(&self, number: usize, flight: &mut Flight) {
        let Some(record) = flight.kept.take() else { return };
        let keep = Keep {
            record,
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
