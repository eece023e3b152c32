//! One record between a shard and the places that may keep it: Kafka, and aside of it the spool or the event table.
//!
//! Both answer when they will, in any order. [`next`] says what follows from what is known of both; it is the whole
//! rule by which nothing is answered before it is durable, and nothing is both dropped and forgotten.

use std::rc::Rc;
use std::time::Instant;

use super::budget::Permit;
use super::fate::{Fate, Outcome};
use super::kafka::Undelivered;
use super::spool::{Id, Place, Record};

/// What Kafka has of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InKafka {
    /// It was never given to the producer.
    Never,
    /// The producer has it.
    Out,
    Acknowledged,
    Failed(Undelivered),
}

/// What has been made of a record aside of Kafka.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aside {
    Nothing,
    Asked,
    /// In the spool.
    At(Id),
    /// In the event table.
    Inserted,
    /// It was not taken.
    Refused,
}

/// What to do with a record now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Next {
    /// What its requests are told, once.
    pub(crate) fate: Option<Fate>,
    pub(crate) then: Then,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    Wait,
    /// Have it kept aside.
    PutAside,
    /// Nothing more is to come.
    End,
    /// Nothing more is to come, and the spool need not keep it.
    Delete(Id),
    /// Nothing more is to come; the drain is to look after it.
    Release(Id),
}

/// What follows.
pub(crate) fn next(kafka: InKafka, aside: Aside, can_be_kept: bool) -> Next {
    use {Fate::Direct, Fate::Failed, Fate::Spooled, Fate::Stored};
    let (fate, then) = match (kafka, aside) {
        (InKafka::Out, Aside::Nothing | Aside::Asked) | (InKafka::Never, Aside::Asked) => (None, Then::Wait),
        (InKafka::Never, Aside::Nothing) if can_be_kept => (None, Then::PutAside),
        (InKafka::Out, Aside::At(_)) => (Some(Spooled), Then::Wait),
        (InKafka::Out, Aside::Refused) => (Some(Failed), Then::Wait),
        (InKafka::Acknowledged, Aside::Asked) => (Some(Stored), Then::Wait),
        (InKafka::Acknowledged, Aside::At(id)) => (Some(Stored), Then::Delete(id)),
        (InKafka::Acknowledged, Aside::Nothing | Aside::Refused) => (Some(Stored), Then::End),
        (InKafka::Failed(Undelivered::Unknown), Aside::Nothing) if can_be_kept => (None, Then::PutAside),
        (InKafka::Failed(_), Aside::Asked) => (None, Then::Wait),
        (InKafka::Failed(_), Aside::At(id)) => (Some(Spooled), Then::Release(id)),
        (InKafka::Never, Aside::At(_)) => (Some(Spooled), Then::End),
        // Only what Kafka never saw is inserted.
        (_, Aside::Inserted) => (Some(Direct), Then::End),
        (InKafka::Failed(_) | InKafka::Never, Aside::Refused | Aside::Nothing) => (Some(Failed), Then::End),
    };
    Next { fate, then }
}

/// A record on its way.
#[derive(Debug)]
pub(crate) struct Flight {
    /// Of the requests that have lines in it.
    outcomes: Vec<Rc<Outcome>>,
    told: Option<Fate>,
    /// When the first of its lines came.
    pub(crate) came: Instant,
    /// When it was given to the producer, or put aside.
    pub(crate) since: Instant,
    pub(crate) is_group: bool,
    pub(crate) kafka: InKafka,
    pub(crate) aside: Aside,
    /// Where Kafka may hold it.
    pub(crate) place: Place,
    /// Of its value, where that has to be known.
    pub(crate) bytes: usize,
    /// What would be kept aside; with no place for it there is nothing to keep.
    pub(crate) kept: Option<Record>,
    permit: Option<Permit>,
}

impl Flight {
    pub(crate) fn new(
        outcomes: Vec<Rc<Outcome>>,
        came: Instant,
        since: Instant,
        is_group: bool,
        permit: Option<Permit>,
    ) -> Self {
        Self {
            outcomes,
            told: None,
            came,
            since,
            is_group,
            kafka: InKafka::Never,
            aside: Aside::Nothing,
            place: Place::ANYWHERE,
            bytes: 0,
            kept: None,
            permit,
        }
    }

    /// Tells the requests what became of them, unless they know.
    pub(crate) fn tell(&mut self, fate: Fate) {
        if self.told.is_none() {
            self.told = Some(fate);
            self.outcomes.iter().for_each(|outcome| outcome.settle(fate));
            // What the spool has needs no memory here, and groups are few in librdkafka. Of letters it may have any number.
            if self.is_group || self.kafka != InKafka::Out {
                self.permit = None;
            }
        }
    }

    /// Tells the requests that their time is over. What becomes of it later is for nobody, but it is still here.
    pub(crate) fn give_up(&mut self) {
        self.told = Some(Fate::Failed);
        self.outcomes
            .iter()
            .for_each(|outcome| outcome.settle(Fate::Failed));
    }

    /// What its requests were told.
    pub(crate) fn told(&self) -> Option<Fate> {
        self.told
    }

    /// Whether its requests still wait for Kafka alone.
    pub(crate) fn waits(&self) -> bool {
        self.kafka == InKafka::Out && self.aside == Aside::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNKNOWN: InKafka = InKafka::Failed(Undelivered::Unknown);
    const REFUSED: InKafka = InKafka::Failed(Undelivered::Refused);

    /// Every order in which the answers of Kafka and of the spool may come, for a record that was given to `first`.
    #[test]
    fn whatever_comes_first_nothing_is_forgotten() {
        let id = crate::ingest::spool::Id::default();
        for kafka in [InKafka::Acknowledged, UNKNOWN, REFUSED] {
            for kept in [Aside::At(id), Aside::Refused] {
                for kafka_first in [true, false] {
                    let steps = match kafka_first {
                        true => [(kafka, Aside::Asked), (kafka, kept)],
                        false => [(InKafka::Out, kept), (kafka, kept)],
                    };
                    let [first, last] = steps.map(|(kafka, spool)| next(kafka, spool, true));
                    assert_eq!(first.then, Then::Wait, "both have to answer: {steps:?}");
                    let told = first.fate.or(last.fate);
                    let durable = kafka == InKafka::Acknowledged || kept == Aside::At(id);
                    let early_refusal = !kafka_first && kept == Aside::Refused;
                    assert_eq!(told != Some(Fate::Failed), durable && !early_refusal, "{steps:?}");
                    let expected = match (kafka, kept) {
                        (InKafka::Acknowledged, Aside::At(_)) => Then::Delete(id),
                        (_, Aside::At(_)) => Then::Release(id),
                        _ => Then::End,
                    };
                    assert_eq!(last.then, expected, "{steps:?}");
                }
            }
        }
    }

    #[test]
    fn what_kafka_fails_is_spooled_unless_kafka_never_takes_it() {
        let failed = Next {
            fate: Some(Fate::Failed),
            then: Then::End,
        };
        assert_eq!(next(UNKNOWN, Aside::Nothing, true).then, Then::PutAside);
        assert_eq!(next(UNKNOWN, Aside::Nothing, false), failed);
        assert_eq!(next(REFUSED, Aside::Nothing, true), failed);
        assert_eq!(next(InKafka::Never, Aside::Nothing, true).then, Then::PutAside);
        assert_eq!(next(InKafka::Never, Aside::Nothing, false), failed);
        assert_eq!(next(InKafka::Never, Aside::Refused, true), failed);
        let end = |fate| Next {
            fate: Some(fate),
            then: Then::End,
        };
        let id = crate::ingest::spool::Id::default();
        assert_eq!(next(InKafka::Never, Aside::At(id), true), end(Fate::Spooled));
        assert_eq!(next(InKafka::Never, Aside::Inserted, true), end(Fate::Direct));
    }
}
