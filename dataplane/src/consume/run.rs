//! One assigned partition on the driver's side: its machine, its queue and the content of its batches.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::message::Message;

use super::clock::Moment;
use super::group::GroupContext;
use super::hot::{Figures, Told};
use super::jobs::{Answer, Found, Jobs, Rows, Tenure};
use super::machine::Partition;
use super::protocol::{Action, Limits, Record, Report};
use super::record::Content;
use super::stall::{Stall, Stalls};

/// Records taken from one partition before the next is looked at.
const STRETCH: usize = 32;
/// A partition whose batches are smaller than this may wait a little longer for more.
const QUIET_ROWS: u32 = 10_000;

pub(super) struct Run {
    pub(super) tenure: Tenure,
    machine: Partition,
    queue: PartitionQueue<GroupContext>,
    forming: Content,
    flight: Arc<Content>,
    flight_bytes: usize,
    missing: Arc<Vec<bool>>,
    refusal: String,
    /// Of the part that was sent last.
    figures: Option<Figures>,
    /// Where reading is to begin, until librdkafka has been told.
    seek: Option<i64>,
    /// Set once librdkafka reads from the place that the machine wants.
    reading: bool,
    /// Everything below is stored.
    done: Option<i64>,
    last_rows: u32,
    last_record: Option<Moment>,
    /// When the first records of the batches were produced, forming and in flight; milliseconds since 1970.
    forming_since: Option<i64>,
    flight_since: Option<i64>,
    stalls: Stalls,
    blocked: bool,
    /// When the record was produced at which it is blocked.
    blocked_since: Option<i64>,
    pub(super) revoked_at: Option<Moment>,
    pub(super) released: bool,
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Run({:?})", self.machine)
    }
}

impl Run {
    pub(super) fn new(tenure: Tenure, limits: Limits, queue: PartitionQueue<GroupContext>) -> Self {
        Self {
            tenure,
            machine: Partition::assigned(limits),
            queue,
            forming: Content::default(),
            flight: Arc::default(),
            flight_bytes: 0,
            missing: Arc::default(),
            refusal: String::new(),
            figures: None,
            seek: None,
            reading: false,
            done: None,
            last_rows: 0,
            last_record: None,
            forming_since: None,
            flight_since: None,
            stalls: Stalls::since(Moment::now()),
            blocked: false,
            blocked_since: None,
            revoked_at: None,
            released: false,
        }
    }

    pub(super) fn forming_bytes(&self) -> usize {
        self.machine.forming_bytes()
    }

    /// Bytes of rows held, forming and in flight.
    pub(super) fn bytes(&self) -> usize {
        self.machine.forming_bytes() + self.flight_bytes
    }

    pub(super) fn in_flight(&self) -> bool {
        self.machine.in_flight()
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.machine.is_waiting()
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.blocked
    }

    pub(super) fn wants_records(&self) -> bool {
        self.reading && self.machine.wants_records()
    }

    /// Records behind `end`.
    pub(super) fn lag(&self, end: i64) -> Option<i64> {
        self.done.map(|done| (end - done).max(0))
    }

    /// When the oldest record was produced that is read and not stored; milliseconds since 1970.
    pub(super) fn waits_since(&self) -> Option<i64> {
        self.flight_since.or(self.forming_since).or(self.blocked_since)
    }

    /// Whether records come now and then, in small numbers.
    pub(super) fn is_quiet_and_live(&self, now: Moment) -> bool {
        self.last_rows < QUIET_ROWS
            && self
                .last_record
                .is_some_and(|at| now.since(at) < Duration::from_secs(5))
    }

    pub(super) fn set_max_age(&mut self, age: Duration) {
        self.machine.set_max_age(age);
    }

    pub(super) fn squeeze(&mut self, now: Moment) {
        self.machine.squeeze(now);
    }

    pub(super) fn tick(&mut self, now: Moment) {
        self.machine.tick(now);
    }

    pub(super) fn revoke(&mut self, now: Moment) {
        self.revoked_at.get_or_insert(now);
        self.machine.revoke();
    }

    pub(super) fn abandon(&mut self) {
        self.machine.abandon();
    }

    pub(super) fn answer(&mut self, answer: Answer, now: Moment) {
        self.stalls.moved(now);
        let Found {
            missing,
            refusal,
            figures,
        } = answer.found;
        if let Some(missing) = missing {
            self.missing = missing;
        }
        if let Some(refusal) = refusal {
            self.refusal = refusal;
        }
        if figures.is_some() {
            self.figures = figures;
        }
        self.machine.on(answer.event, now);
    }

    /// The place that librdkafka is to read from, if it has not been told.
    pub(super) fn wanted_seek(&self) -> Option<i64> {
        self.seek
    }

    pub(super) fn sought(&mut self) {
        self.seek = None;
        self.reading = true;
    }

    /// Whether it stands still although there is something to do. `end`: of the log, where it is known. `bound`: an answer
    /// that takes longer will not come.
    pub(super) fn stall(&mut self, now: Moment, end: Option<i64>, bound: Duration) -> Option<Stall> {
        let asks = self.machine.awaits_answer() || self.seek.is_some();
        let lacks = self.wants_records() && end.is_some_and(|end| end > self.machine.next());
        self.stalls.look(now, asks, lacks, bound)
    }

    /// Reads on from where it stands, with a seek of its own.
    pub(super) fn read_again(&mut self) {
        self.seek = Some(self.machine.next());
        self.reading = false;
    }

    /// Takes what the partition's queue holds, up to a bound. Returns whether there was anything.
    pub(super) fn read(&mut self, now: Moment) -> bool {
        let mut read = false;
        for _ in 0..STRETCH {
            // What the machine asks for comes first: a full batch is taken out of the way, a seek is done.
            if !self.wants_records() || self.machine.has_actions() {
                break;
            }
            let message = match self.queue.poll(Duration::ZERO) {
                None => break,
                Some(Ok(message)) => message,
                Some(Err(error)) => {
                    tracing::warn!(partition = self.tenure.partition, %error, "cannot read");
                    break;
                }
            };
            read = true;
            self.last_record = Some(now);
            self.stalls.moved(now);
            let (offset, value) = (message.offset(), message.payload().unwrap_or_default());
            if !self.machine.accepts(offset, value) {
                continue;
            }
            let added = self
                .forming
                .add(self.tenure.partition, offset, message.key(), value);
            match added {
                Ok(added) => {
                    if self.forming_since.is_none() {
                        self.forming_since = message.timestamp().to_millis();
                    }
                    self.machine.push(
                        Record {
                            offset,
                            value,
                            rows: added.rows,
                            dead: added.dead,
                            bytes: added.bytes,
                        },
                        now,
                    );
                }
                Err(unknown) => {
                    self.blocked = true;
                    self.blocked_since = message.timestamp().to_millis();
                    self.machine.block();
                    tracing::error!(
                        partition = self.tenure.partition,
                        offset,
                        version = unknown.0,
                        "the partition waits: this record was written by a newer Penstock; upgrade the consumer"
                    );
                }
            }
        }
        read
    }

    /// Does what the machine asks for.
    pub(super) fn act(&mut self, jobs: &Jobs) {
        for action in self.machine.actions() {
            match action {
                Action::Look => jobs.look(self.tenure),
                Action::Fetch { from } => {
                    self.done.get_or_insert(from);
                    self.seek = Some(from);
                    self.reading = false;
                }
                Action::DropForming => {
                    self.forming = Content::default();
                    self.forming_since = None;
                }
                Action::Seal => self.seal(),
                Action::Stored { span, part, refused } => {
                    let told = Told { span, part, refused };
                    let counted = self.figures.take().filter(|figures| figures.are_of(told));
                    jobs.tell(self.tenure, &self.flight, told, counted);
                }
                Action::Landed => self.landed(),
                Action::Commit {
                    offset,
                    metadata,
                    known,
                } => {
                    self.done = Some(offset);
                    jobs.commit(self.tenure, offset, metadata, known);
                }
                Action::DeadLetter => jobs.dead_letter(self.tenure, Arc::clone(&self.flight)),
                Action::DeadLetterRow { at } => {
                    let content = Arc::clone(&self.flight);
                    jobs.dead_letter_row(self.tenure, content, at, self.refusal.clone());
                }
                Action::Ask { part } => jobs.ask(self.tenure, Arc::clone(&self.flight), part),
                Action::Insert {
                    part,
                    missing,
                    intent,
                    intent_at,
                } => jobs.insert(
                    self.tenure,
                    Rows {
                        content: Arc::clone(&self.flight),
                        part,
                        missing: missing.map(|digest| (digest, Arc::clone(&self.missing))),
                        intent,
                        intent_at,
                    },
                ),
                Action::Release => self.released = true,
                Action::Report(report) => self.report(report, jobs),
            }
        }
    }

    fn seal(&mut self) {
        let content = std::mem::take(&mut self.forming);
        self.flight_bytes = content.bytes();
        self.last_rows = content.block.rows();
        self.flight_since = self.forming_since.take();
        self.flight = Arc::new(content);
    }

    fn landed(&mut self) {
        self.flight = Arc::default();
        self.flight_bytes = 0;
        self.flight_since = None;
        self.figures = None;
        self.missing = Arc::default();
    }

    fn report(&self, report: Report, jobs: &Jobs) {
        let partition = self.tenure.partition;
        match report {
            Report::Recovering(span) => {
                jobs.metrics.recovered.inc();
                tracing::info!(partition, %span, "finishing a batch that an earlier owner left open");
            }
            Report::DataLost { from, to } => {
                jobs.metrics.lost_offsets.inc_by((to - from).max(0) as u64);
                tracing::error!(
                    partition,
                    from,
                    to,
                    lost = to - from,
                    "DataLost: the topic no longer has these offsets; going on at its start"
                );
            }
            Report::OtherLog { committed, high } => {
                jobs.metrics.other_logs.inc();
                tracing::error!(
                    partition,
                    committed,
                    end = high,
                    "the group's offset does not belong to this log; reading it from its start"
                );
            }
            Report::Moved => {
                jobs.metrics.other_logs.inc();
                tracing::warn!(
                    partition,
                    "the group's offset changed under this owner; looking at the partition anew"
                );
            }
            Report::TokenWithoutRows => {
                jobs.metrics.tokens_without_rows.inc();
                tracing::warn!(
                    partition,
                    "ClickHouse knows the token of rows that it does not hold; sending them under another"
                );
            }
            Report::UnknownMetadata(detail) => {
                tracing::error!(
                    partition,
                    detail,
                    "cannot read the offset's metadata; asking the table instead"
                );
            }
        }
    }
}
