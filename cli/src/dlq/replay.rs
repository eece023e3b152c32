//! `penstock dlq replay`: letters to the pipeline's topic again, each at most once, whatever dies in between.
//!
//! ```text
//! become the only replayer ─► read the whole topic ─► plan ─► read what is to be sent, and for some at a time:
//!  (init_transactions)         letters, receipts              ┌ transaction ──────────────────────────┐
//!                                                             │ lines   ─► the pipeline's topic       │
//!                                                             │ receipt ─► the dead-letter topic      │
//!                                                             └───────────────────────────────────────┘
//! ```
//!
//! Invariants:
//! - A line and the receipt for its letter are one transaction, so a receipt is there exactly where the line is.
//! - There is one replayer of a dead-letter topic: its transactional id is made of the topic's name, and Kafka fences
//!   the one before, having ended its transaction, when the next one begins. What is read after that is all there is.
//! - A receipt lies behind its letters in the same partition, so it outlives them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use clap::Args;
use penstock_connect::kafka::Reports;
use penstock_dataplane_config::record;
use rdkafka::Message as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};
use serde::Serialize;

use super::letter::{Entry, Why};
use super::offsets::{Named, Position, Positions};
use super::plan::{Known, Plan};
use super::{Of, reasons};
use crate::exit::{End, Failure, Result};
use crate::kafka::{Topic, failure, unreachable};
use crate::output::{Format, Progress, print};
use crate::place::Place;
use crate::text::count;

/// Letters in one transaction: while it is open, consumers do not read past it.
const LETTERS: usize = 500;
const BYTES: usize = 4_000_000;
/// What a replay that was killed holds consumers up for at most, unless it is begun again.
const TRANSACTION: Duration = Duration::from_secs(15);
const DELIVERY: Duration = Duration::from_secs(12);
const ANSWER: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, Args)]
pub struct Replay {
    #[command(flatten)]
    pub of: Of,
    /// Which ones: offsets and ranges A..B with both ends, behind a partition where that is not 0; default: all
    #[arg(value_name = "OFFSET|A..B")]
    pub letters: Vec<Named>,
    /// Only letters with this reason
    #[arg(long, value_parser = reasons())]
    pub reason: Option<String>,
    /// Say what would be replayed, and send nothing
    #[arg(long)]
    pub dry_run: bool,
    /// How to print the outcome
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
}

/// What became of the letters that were asked for.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    topic: String,
    dry_run: bool,
    replayed: usize,
    replayed_before: usize,
    cannot_be_replayed: Vec<Kept>,
}

#[derive(Debug, Serialize)]
struct Kept {
    position: String,
    why: &'static str,
}

pub fn run(place: &Place, arguments: &Replay) -> Result<End> {
    let pipeline = Topic::open(&place.brokers, &place.topic)?;
    // The replayer's before all reading: what another one was about is then over.
    let replayer = match arguments.dry_run {
        true => None,
        false => Some(Replayer::begin(
            place,
            pipeline.bounds.iter().map(|bounds| bounds.partition).collect(),
        )?),
    };
    let letters = Topic::open(&place.brokers, &place.dead_letter_topic)?;
    let plan = look(place, &letters, arguments)?;
    if let Some(replayer) = replayer
        && !plan.send.is_empty()
    {
        send(replayer, &letters, &plan)?;
    }
    let outcome = Outcome {
        topic: place.topic.clone(),
        dry_run: arguments.dry_run,
        replayed: plan.send.len(),
        replayed_before: plan.done,
        cannot_be_replayed: plan
            .cannot
            .iter()
            .map(|(position, why)| Kept {
                position: position.to_string(),
                why: why.sentence(),
            })
            .collect(),
    };
    print(arguments.output, &outcome, |outcome| {
        summary(outcome, &plan.cannot)
    })?;
    let named = |position: Position| {
        arguments
            .letters
            .iter()
            .any(|named| named.single() == Some(position))
    };
    Ok(match plan.cannot.iter().any(|(position, _)| named(*position)) {
        true => End::NotReplayable,
        false => End::Done,
    })
}

/// Reads everything and decides.
fn look(place: &Place, topic: &Topic, arguments: &Replay) -> Result<Plan> {
    let mut letters = Vec::new();
    let mut replayed = Positions::default();
    let from = topic.beginning();
    let mut progress = Progress::new(topic.length(&from));
    let wanted = |position: Position, reason: &str| {
        let named =
            arguments.letters.is_empty() || arguments.letters.iter().any(|named| named.contains(position));
        named && arguments.reason.as_ref().is_none_or(|wanted| wanted == reason)
    };
    topic.read(&from, false, |message| {
        progress.record();
        match Entry::of(message) {
            Entry::Letter(letter) => letters.push(Known {
                position: letter.position(),
                identity: letter.identity(message.payload().unwrap_or_default()),
                replayable: letter.replayable(),
                wanted: wanted(letter.position(), &letter.reason),
            }),
            Entry::Receipt(offsets) => replayed.add(message.partition(), &offsets),
            Entry::Foreign => {}
        }
        Ok(ControlFlow::Continue(()))
    })?;
    for position in arguments.letters.iter().filter_map(Named::single) {
        if !letters.iter().any(|letter| letter.position == position) {
            return Err(Failure::NotFound(format!(
                "there is no letter {position} in {}; nothing was replayed",
                place.dead_letter_topic
            )));
        }
    }
    Ok(Plan::of(&letters, &replayed))
}

/// Sends what the plan says, in the order of the topic.
fn send(mut replayer: Replayer<'_>, topic: &Topic, plan: &Plan) -> Result<()> {
    let mut from: BTreeMap<i32, i64> = BTreeMap::new();
    for position in plan.send.keys() {
        from.entry(position.partition).or_insert(position.offset);
    }
    let from: Vec<_> = from.into_iter().collect();
    let mut progress = Progress::new(topic.length(&from));
    let mut left = plan.send.len();
    topic.read(&from, false, |message| {
        progress.record();
        let position = Position {
            partition: message.partition(),
            offset: message.offset(),
        };
        if let Some(twins) = plan.send.get(&position) {
            let line = message.payload().unwrap_or_default();
            replayer.add(position, message.key(), line, twins)?;
            left -= 1;
        }
        Ok(match left {
            0 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        })
    })?;
    replayer.commit()?;
    match left {
        0 => Ok(()),
        _ => Err(Failure::Failed(format!(
            "{} left the dead-letter topic while they were being replayed; the others are replayed",
            count(left, "letter")
        ))),
    }
}

/// The only one that replays letters of a dead-letter topic.
struct Replayer<'p> {
    place: &'p Place,
    producer: ThreadedProducer<Reports>,
    reports: Reports,
    /// Of the pipeline's topic. Lines without a key go to one of them in each transaction, because it leaves a mark in
    /// each that it touches.
    partitions: Vec<i32>,
    turn: usize,
    /// The open transaction: letters, bytes, and what its receipts will say.
    letters: usize,
    bytes: usize,
    receipts: Positions,
    /// Letters whose transactions are committed.
    done: usize,
}

impl<'p> Replayer<'p> {
    fn begin(place: &'p Place, partitions: Vec<i32>) -> Result<Self> {
        let reports = Reports::default();
        let producer: ThreadedProducer<Reports> = place
            .brokers
            .client()?
            .set(
                "transactional.id",
                format!("penstock-replay.{}", place.dead_letter_topic),
            )
            .set("transaction.timeout.ms", TRANSACTION.as_millis().to_string())
            .set("message.timeout.ms", DELIVERY.as_millis().to_string())
            .set("acks", "all")
            .set("compression.type", "lz4")
            .create_with_context(reports.clone())
            .map_err(|error| failure(place.brokers.bootstrap(), &reports, &error))?;
        let replayer = Self {
            place,
            producer,
            reports,
            turn: std::process::id() as usize,
            partitions,
            letters: 0,
            bytes: 0,
            receipts: Positions::default(),
            done: 0,
        };
        let begun = replayer.producer.init_transactions(ANSWER);
        begun.map_err(|error| replayer.failure(&error))?;
        Ok(replayer)
    }

    /// `key`: of the record that the line came in; then it is a record of one event again.
    fn add(&mut self, position: Position, key: Option<&[u8]>, line: &[u8], twins: &[Position]) -> Result<()> {
        if self.letters == LETTERS || (self.letters > 0 && self.bytes + line.len() > BYTES) {
            self.commit()?;
        }
        if self.letters == 0 {
            self.turn += 1;
            self.producer
                .begin_transaction()
                .map_err(|error| self.failure(&error))?;
        }
        let name = format!("{}/{position}", self.place.dead_letter_topic);
        let value = value(key, line);
        let partition = match key {
            Some(key) => record::partition_of(key, self.partitions.len() as i32),
            None => self.partitions[self.turn % self.partitions.len()],
        };
        self.produce(&self.place.topic, partition, key, &value, record::REPLAY, &name)?;
        self.letters += 1;
        self.bytes += line.len();
        self.receipts.add_one(position);
        twins.iter().for_each(|&twin| self.receipts.add_one(twin));
        Ok(())
    }

    /// Commits what was added, with its receipts.
    fn commit(&mut self) -> Result<()> {
        if self.letters == 0 {
            return Ok(());
        }
        for (partition, offsets) in self.receipts.partitions() {
            let offsets = offsets.to_string();
            self.produce(
                &self.place.dead_letter_topic,
                partition,
                None,
                &[],
                record::REPLAYED,
                &offsets,
            )?;
        }
        let mut attempts = 0;
        while let Err(error) = self.producer.commit_transaction(ANSWER) {
            attempts += 1;
            let passes = matches!(&error, KafkaError::Transaction(cause) if cause.is_retriable());
            if !passes || attempts == 3 {
                return Err(self.failure(&error));
            }
        }
        self.done += self.letters;
        (self.letters, self.bytes, self.receipts) = (0, 0, Positions::default());
        Ok(())
    }

    fn produce(
        &self,
        topic: &str,
        partition: i32,
        key: Option<&[u8]>,
        value: &[u8],
        header: &str,
        text: &str,
    ) -> Result<()> {
        let headers = OwnedHeaders::new_with_capacity(1).insert(Header {
            key: header,
            value: Some(text),
        });
        let mut record = BaseRecord::<[u8], [u8]>::to(topic)
            .partition(partition)
            .payload(value)
            .headers(headers);
        record.key = key;
        self.producer
            .send(record)
            .map_err(|(error, _)| self.failure(&error))
    }

    fn failure(&self, error: &KafkaError) -> Failure {
        let code = match error {
            KafkaError::Transaction(cause) => Some(cause.code()),
            other => other.rdkafka_error_code(),
        };
        use RDKafkaErrorCode as Code;
        let so_far = match self.done {
            0 => "nothing was replayed".to_owned(),
            done => format!("{} replayed until then, once", count(done, "letter")),
        };
        // A fatal error that follows another hides its code.
        let fatal = self.producer.client().fatal_error().map(|(code, _)| code);
        match fatal.or(code) {
            Some(Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch) => {
                Failure::Failed(format!(
                    "Kafka ended this replay, because another one of {} has begun, or because it took too long: {so_far}",
                    self.place.dead_letter_topic
                ))
            }
            Some(Code::TransactionalIdAuthorizationFailed) => {
                Failure::Failed("Kafka does not allow transactions to this user".into())
            }
            Some(Code::OperationTimedOut | Code::MessageTimedOut | Code::BrokerTransportFailure) => {
                let unreachable = unreachable(&self.reports, self.place.brokers.bootstrap(), error);
                Failure::Unreachable(format!("{unreachable}. {so_far}; run it again"))
            }
            _ => Failure::Failed(format!(
                "Kafka at {} refused: {error}. {so_far}; run it again",
                self.place.brokers.bootstrap()
            )),
        }
    }
}

/// Of the record that a letter becomes. One without a key ends in a line break, which a letter with the rest of a record has
/// already: a second one would be an empty line, and a dead letter again.
fn value(key: Option<&[u8]>, line: &[u8]) -> Vec<u8> {
    let mut value = line.to_vec();
    if key.is_none() && !line.ends_with(b"\n") {
        value.push(b'\n');
    }
    value
}

fn summary(outcome: &Outcome, cannot: &[(Position, Why)]) -> String {
    let mut text = match (outcome.replayed, outcome.dry_run) {
        (0, _) => "Nothing to replay.\n".to_owned(),
        (letters, true) => format!(
            "{} would be replayed to {}.\n",
            count(letters, "letter"),
            outcome.topic
        ),
        (letters, false) => format!("{} replayed to {}.\n", count(letters, "letter"), outcome.topic),
    };
    if outcome.replayed_before > 0 {
        text.push_str(&format!(
            "{} replayed before.\n",
            count(outcome.replayed_before, "letter")
        ));
    }
    let mut reasons: BTreeMap<Why, usize> = BTreeMap::new();
    cannot
        .iter()
        .for_each(|(_, why)| *reasons.entry(*why).or_default() += 1);
    for (why, letters) in reasons {
        text.push_str(&format!(
            "{} cannot be replayed: {}.\n",
            count(letters, "letter"),
            why.sentence()
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_becomes_a_record_of_its_lines_and_no_others() {
        for (key, line, expected) in [
            (None, "one", "one\n"),
            (None, "", "\n"),
            (None, "bad\ngood\n", "bad\ngood\n"),
            (None, "bad\ngood", "bad\ngood\n"),
            (Some(&b"k"[..]), "one", "one"),
            (Some(b"k"), "bad\ngood\n", "bad\ngood\n"),
        ] {
            assert_eq!(value(key, line.as_bytes()), expected.as_bytes(), "{line:?}");
        }
    }

    #[test]
    fn the_summary_counts_what_was_asked_for() {
        let mut outcome = Outcome {
            topic: "growth.events".into(),
            dry_run: false,
            replayed: 2,
            replayed_before: 1,
            cannot_be_replayed: Vec::new(),
        };
        let at = |offset| Position { partition: 0, offset };
        let cannot = [(at(1), Why::TooOld), (at(2), Why::Cut), (at(3), Why::TooOld)];
        assert_eq!(
            summary(&outcome, &cannot),
            format!(
                "2 letters replayed to growth.events.\n1 letter replayed before.\n2 letters cannot be replayed: {}.\n1 letter cannot be replayed: {}.\n",
                Why::TooOld.sentence(),
                Why::Cut.sentence()
            )
        );
        (outcome.replayed, outcome.replayed_before, outcome.dry_run) = (1, 0, true);
        assert_eq!(
            summary(&outcome, &[]),
            "1 letter would be replayed to growth.events.\n"
        );
        outcome.replayed = 0;
        assert_eq!(summary(&outcome, &[]), "Nothing to replay.\n");
    }
}
