//! The exactly-once protocol of one assigned partition: events in, actions out, no I/O, no clock of its own.
//!
//! ```text
//! Look ─► Fetch ─► forming batch ─► Seal ─► Commit(first, intent) ─► DeadLetter ─► Ask ─► Insert ─► Commit(last+1)
//!           ▲        (the next one forms while one is in flight)         │refused: the part is halved,  │
//!           └── an open intent is formed again first, byte for byte      └ each half an intent ◄────────┘
//! ```
//!
//! Invariants:
//! - At most one batch is in flight, and no row of it is sent before its intent is committed.
//! - The committed offset stays at the batch's first until every row of it is stored or dead-lettered. The commit
//!   that completes a batch may be the one that opens the next.
//! - An INSERT is repeated blindly, with the same token and bytes, for at most [`Limits::blind`]; after that, and
//!   for whatever the log held when the partition was assigned, the table is asked first what it holds.
//! - An INSERT that is acknowledged after one of unknown outcome is confirmed by asking: the server may know the token
//!   without the rows. What is not there is sent under another token.
//! - An INSERT is sent only while its intent is younger than the session timeout: nobody else owns the partition.
//! - What was cut on its way is halved only when no INSERT of the whole may be under way any more.
//! - Nothing is committed over an offset that somebody else left: the topic may have been deleted and made anew while
//!   it was read, and Kafka forgets the group's offset with it.
//! - The partition is not released while a commit is under way: a commit that arrives late would set the group
//!   back behind the next owner.
//!
//! The content of batches stays with the driver; the machine knows offsets, counts and the digest.

use std::time::Duration;

use super::clock::Moment;
use super::flight::{Flight, Step};
use super::forming::Forming;
use super::intent::{Digest, Intent, Mark, encode_after};
use super::protocol::{
    Action, CommitOutcome, Committed, Event, Held, InsertOutcome, Limits, Lookup, Record, Report,
};

#[derive(Debug, PartialEq, Eq)]
enum State {
    Looking {
        busy: bool,
    },
    Reading,
    /// The broker refused a commit; the group will take the partition away.
    Fenced,
    Released,
}

/// One assignment of one partition.
#[derive(Debug)]
pub struct Partition {
    limits: Limits,
    state: State,
    revoking: bool,
    /// No more work: release as soon as no commit is under way.
    abandoned: bool,
    blocked: bool,
    /// The offset that is read next.
    next: i64,
    low: i64,
    high: i64,
    /// Batches that begin below this were perhaps stored before: the table is asked.
    verify_below: i64,
    /// When the partition was looked at: what others sent, and what this owner sent before, was sent until then.
    looked_at: Moment,
    /// An offset that came although it is not the next one, while the group and the log are asked why.
    astray: Option<i64>,
    /// An offset that came in place of the next one, which the log should have. If it comes again, the log has nothing
    /// in between.
    gap: Option<i64>,
    /// The digest that the record at `next` must have; the group's offset lies behind it.
    probe: Option<Digest>,
    reform: Option<Intent>,
    forming: Option<Forming>,
    flight: Option<Flight>,
    /// What the group's offset may be, if nobody else touched it, and the commit under way.
    known: Vec<Committed>,
    attempt: Committed,
    failures: u32,
    wait_until: Option<Moment>,
    actions: Vec<Action>,
}

impl Partition {
    /// A partition just assigned. It looks first.
    pub fn assigned(limits: Limits) -> Self {
        Self {
            limits,
            state: State::Looking { busy: true },
            revoking: false,
            abandoned: false,
            blocked: false,
            next: 0,
            low: 0,
            high: 0,
            verify_below: 0,
            looked_at: Moment::from_start(Duration::ZERO),
            astray: None,
            gap: None,
            probe: None,
            reform: None,
            forming: None,
            flight: None,
            known: Vec::new(),
            attempt: None,
            failures: 0,
            wait_until: None,
            actions: vec![Action::Look],
        }
    }

    /// What is to be done now, in order. Every action but `Fetch`, `DropForming`, `Seal`, `Stored`, `Landed`,
    /// `Release` and `Report` is answered by one event.
    pub fn actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Whether [`Self::actions`] has something to give.
    pub fn has_actions(&self) -> bool {
        !self.actions.is_empty()
    }

    /// Whether a record may be given to [`Self::push`].
    pub fn wants_records(&self) -> bool {
        self.state == State::Reading
            && !self.revoking
            && !self.blocked
            && self.astray.is_none()
            && (self.reform.is_some() || !self.forming.as_ref().is_some_and(|f| f.is_full(&self.limits)))
    }

    /// Whether a record is to be parsed and given to [`Self::push`]. The record before the committed offset is read
    /// only to see whether the log is still the same.
    pub fn accepts(&mut self, offset: i64, value: &[u8]) -> bool {
        if !self.wants_records() {
            return false;
        }
        if offset != self.next && self.gap != Some(offset) {
            // Perhaps it was read before the last seek. Perhaps the log does not have the next one any more, or is
            // another: then the reader went to the log's start by itself.
            self.astray = Some(offset);
            self.actions.push(Action::Look);
            return false;
        }
        self.gap = None;
        let Some(tail) = self.probe.take() else {
            return true;
        };
        let committed = self.next + 1;
        if offset == self.next && Digest::of(value) == tail {
            self.next = committed;
        } else {
            self.other_log(committed);
        }
        false
    }

    /// Bytes of the batch that forms.
    pub fn forming_bytes(&self) -> usize {
        self.forming.as_ref().map_or(0, |f| f.bytes)
    }

    /// Whether an intent is open.
    pub fn in_flight(&self) -> bool {
        self.flight.is_some()
    }

    /// The offset that is read next.
    pub fn next(&self) -> i64 {
        self.next
    }

    /// Whether an action waits for the event that answers it.
    pub fn awaits_answer(&self) -> bool {
        matches!(self.state, State::Looking { busy: true })
            || self.astray.is_some()
            || self.flight.as_ref().is_some_and(|flight| flight.busy)
    }

    /// Whether nothing will happen here before [`Self::tick`] or a record.
    pub fn is_waiting(&self) -> bool {
        self.wait_until.is_some()
    }

    /// Sets how old a batch may become.
    pub fn set_max_age(&mut self, age: Duration) {
        self.limits.max_age = age;
    }

    /// Stops before a record that this version cannot read.
    pub fn block(&mut self) {
        self.blocked = true;
    }

    /// Takes a record whose offset was accepted.
    pub fn push(&mut self, record: Record<'_>, now: Moment) {
        if let Some(intent) = self.reform
            && record.offset > intent.span.last
        {
            self.forget_intent(intent.span.last);
            return;
        }
        let forming = self
            .forming
            .get_or_insert_with(|| Forming::new(record.offset, now));
        forming.add(&record);
        self.next = record.offset + 1;
        match self.reform {
            Some(intent) if record.offset == intent.span.last => self.reformed(intent, now),
            Some(_) => {}
            None => self.seal_if_ready(now),
        }
    }

    /// Seals the forming batch early, to free memory. Does nothing while a batch is in flight or formed again.
    pub fn squeeze(&mut self, now: Moment) {
        if self.flight.is_none() && self.reform.is_none() && self.forming.is_some() {
            self.seal(now);
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Moment) {
        if self.wait_until.is_some_and(|until| until <= now) {
            self.wait_until = None;
            if let State::Looking { busy } = &mut self.state {
                *busy = true;
                self.actions.push(Action::Look);
            } else if self.flight.is_some() {
                self.resume(now);
            }
        }
        self.seal_if_ready(now);
    }

    /// The group takes the partition back: finish what is in flight, begin nothing. Ends with [`Action::Release`].
    pub fn revoke(&mut self) {
        self.revoking = true;
        self.drop_forming();
        if self.flight.as_ref().is_none_or(|flight| !flight.busy) {
            self.abandon();
        }
    }

    /// Gives up what is in flight; its intent stands and the next owner finishes it.
    pub fn abandon(&mut self) {
        self.revoking = true;
        self.abandoned = true;
        self.drop_forming();
        let committing = self.flight.as_ref().is_some_and(Flight::is_committing);
        if !committing {
            self.release();
        }
    }

    /// Takes the answer to an action.
    pub fn on(&mut self, event: Event, now: Moment) {
        if self.state == State::Released {
            return;
        }
        if let Event::Looked(lookup) = event {
            match self.astray.take() {
                Some(offset) => self.gone_astray(offset, lookup),
                None => self.looked(lookup, now),
            }
            return;
        }
        let Some(flight) = self.flight.as_mut() else {
            return;
        };
        flight.busy = false;
        if self.abandoned {
            self.release();
            return;
        }
        match event {
            Event::Committed(outcome) => self.committed(outcome, now),
            Event::DeadLettered(true) => {
                self.failures = 0;
                if let Step::DeadLetteringRow(_) = flight.step {
                    // The table holds whatever else the part has: only one row was sent.
                    self.part_done(now);
                } else {
                    flight.dead_lettered = true;
                    self.proceed(now);
                }
            }
            Event::Asked(Some(held)) => {
                self.failures = 0;
                flight.heard(held);
                if held == Held::All {
                    self.part_done(now);
                } else if flight.step != Step::Confirming {
                    flight.answered(held, now);
                    self.proceed(now);
                } else if flight.unseen(held, now) {
                    self.actions.push(Action::Report(Report::TokenWithoutRows));
                    self.commit_intent(now);
                } else {
                    self.wait(now);
                }
            }
            Event::Inserted(outcome) => self.inserted(outcome, now),
            Event::DeadLettered(false) | Event::Asked(None) => self.wait(now),
            Event::Looked(_) => {}
        }
    }

    fn looked(&mut self, lookup: Option<Lookup>, now: Moment) {
        let State::Looking { busy } = &mut self.state else {
            return;
        };
        *busy = false;
        if self.revoking {
            self.release();
            return;
        }
        let Some(Lookup { committed, low, high }) = lookup else {
            self.wait(now);
            return;
        };
        self.failures = 0;
        (self.low, self.high) = (low, high);
        self.known = vec![committed.clone()];
        self.state = State::Reading;
        // The offset may lie behind what is stored: lost with its group, or set back by a commit that came late. What
        // the log held when the partition was assigned is stored only after the table was asked.
        self.verify_below = high;
        self.looked_at = now;
        let Some((offset, metadata)) = committed else {
            self.fetch(low);
            return;
        };
        let mark = Mark::decode(offset, &metadata).unwrap_or_else(|unknown| {
            self.actions
                .push(Action::Report(Report::UnknownMetadata(unknown.to_string())));
            Mark::Plain
        });
        let end = match mark {
            Mark::Open(intent) => intent.span.last + 1,
            Mark::Plain | Mark::After(_) => offset,
        };
        if end > high {
            self.other_log(offset);
        } else if offset < low {
            self.data_lost(offset);
            self.fetch(low);
        } else {
            match mark {
                Mark::Open(intent) => {
                    self.actions.push(Action::Report(Report::Recovering(intent.span)));
                    self.reform = Some(intent);
                    self.fetch(offset);
                }
                Mark::After(tail) if offset > low => {
                    self.probe = Some(tail);
                    self.fetch(offset - 1);
                }
                Mark::Plain | Mark::After(_) => self.fetch(offset),
            }
        }
    }

    /// A record came that is not the next one: why?
    fn gone_astray(&mut self, offset: i64, lookup: Option<Lookup>) {
        if self.state != State::Reading || self.revoking {
            return;
        }
        let (low, high) = match lookup {
            Some(Lookup { committed, low, high }) if self.known.contains(&committed) => (low, high),
            Some(_) if self.flight.is_none() => return self.moved(),
            // What is in flight finds out by itself when it commits; until then, and where nobody answered, the record
            // comes again.
            _ => return self.fetch(self.next),
        };
        (self.low, self.high) = (low, high);
        if self.next > high {
            self.other_log(self.next);
        } else if self.next < low {
            let from = self.next + i64::from(self.probe.take().is_some());
            if from < low {
                self.data_lost(from);
            }
            if let Some(intent) = self.reform {
                self.forget_intent(intent.span.last);
            } else {
                self.fetch(low);
            }
        } else {
            self.gap = (offset > self.next).then_some(offset);
            self.fetch(self.next);
        }
    }

    /// Somebody else changed the group's offset.
    fn moved(&mut self) {
        self.actions.push(Action::Report(Report::Moved));
        self.drop_forming();
        self.land();
        if self.revoking {
            self.release();
        } else {
            (self.astray, self.gap) = (None, None);
            (self.probe, self.reform) = (None, None);
            self.state = State::Looking { busy: true };
            self.actions.push(Action::Look);
        }
    }

    fn data_lost(&mut self, from: i64) {
        self.actions
            .push(Action::Report(Report::DataLost { from, to: self.low }));
    }

    /// The offsets that are known do not belong to this log. It is read from its start; what the table holds of it
    /// is found by asking.
    fn other_log(&mut self, committed: i64) {
        self.actions.push(Action::Report(Report::OtherLog {
            committed,
            high: self.high,
        }));
        self.forget_intent(self.high - 1);
    }

    /// The open intent cannot be formed again: reads from the log's start and asks about everything up to `last`.
    fn forget_intent(&mut self, last: i64) {
        (self.probe, self.reform) = (None, None);
        self.drop_forming();
        self.verify_below = self.verify_below.max(self.high).max(last + 1);
        self.fetch(self.low);
    }

    fn fetch(&mut self, from: i64) {
        self.next = from;
        self.actions.push(Action::Fetch { from });
    }

    fn drop_forming(&mut self) {
        if self.forming.take().is_some() {
            self.actions.push(Action::DropForming);
        }
    }

    fn reformed(&mut self, intent: Intent, now: Moment) {
        self.reform = None;
        let Some(forming) = self.forming.take() else {
            return;
        };
        if forming.span.first != intent.span.first || forming.digest() != intent.digest {
            self.forming = Some(forming);
            self.other_log(intent.span.first);
            return;
        }
        self.launch(Flight::again(intent, &forming, self.looked_at), now);
    }

    fn seal_if_ready(&mut self, now: Moment) {
        let ready = self
            .forming
            .as_ref()
            .is_some_and(|f| f.is_ready(now, &self.limits));
        if ready && self.flight.is_none() && self.reform.is_none() {
            self.seal(now);
        }
    }

    fn seal(&mut self, now: Moment) {
        if let Some(forming) = self.forming.take() {
            let others = (forming.span.first < self.verify_below).then_some(self.looked_at);
            self.launch(Flight::new(&forming, others), now);
        }
    }

    fn launch(&mut self, flight: Flight, now: Moment) {
        self.actions.push(Action::Seal);
        self.flight = Some(flight);
        self.commit_intent(now);
    }

    fn commit_intent(&mut self, now: Moment) {
        if let Some(flight) = self.flight.as_mut() {
            flight.begin(Step::Intending);
            flight.intent_at = now;
            let intent = flight.intent();
            self.commit(intent.span.first, intent.encode());
        }
    }

    /// Commits, if the group's offset is one that this owner left there. An attempt whose outcome is unknown counts.
    fn commit(&mut self, offset: i64, metadata: String) {
        let known = self.known.clone();
        let attempt = Some((offset, metadata.clone()));
        if !self.known.contains(&attempt) {
            self.known.push(attempt.clone());
        }
        self.attempt = attempt;
        self.actions.push(Action::Commit {
            offset,
            metadata,
            known,
        });
    }

    fn committed(&mut self, outcome: CommitOutcome, now: Moment) {
        if outcome == CommitOutcome::Done {
            self.known = vec![self.attempt.clone()];
        }
        let Some(flight) = self.flight.as_ref() else {
            return;
        };
        match (outcome, flight.step) {
            (CommitOutcome::Done, Step::Completing) => {
                self.failures = 0;
                self.land();
                if self.revoking {
                    self.release();
                } else {
                    self.seal_if_ready(now);
                }
            }
            (CommitOutcome::Done, _) => {
                self.failures = 0;
                self.proceed(now);
            }
            (CommitOutcome::Retry, _) => self.wait(now),
            (CommitOutcome::Moved, _) => self.moved(),
            (CommitOutcome::Fenced, _) => {
                self.drop_forming();
                self.land();
                self.state = State::Fenced;
                if self.revoking {
                    self.release();
                }
            }
        }
    }

    /// The intent is committed: whatever comes next for the part.
    fn proceed(&mut self, now: Moment) {
        let (session, blind) = (self.limits.session, self.limits.blind);
        let Some(flight) = self.flight.as_mut() else {
            return;
        };
        let part = flight.part;
        if flight.dead > 0 && !flight.dead_lettered {
            flight.begin(Step::DeadLettering);
            self.actions.push(Action::DeadLetter);
        } else if flight.rows == 0 {
            self.part_done(now);
        } else if flight.must_ask(now, blind) {
            flight.begin(Step::Asking);
            self.actions.push(Action::Ask { part });
        } else if now.since(flight.intent_at) > session / 2 {
            self.commit_intent(now);
        } else {
            flight.begin(Step::Inserting);
            flight.first_try.get_or_insert(now);
            self.actions.push(Action::Insert {
                part,
                missing: flight.missing(),
                intent: flight.intent(),
                intent_at: flight.intent_at,
            });
        }
    }

    fn inserted(&mut self, outcome: InsertOutcome, now: Moment) {
        let under_way = self.limits.under_way;
        let Some(flight) = self.flight.as_mut() else {
            return;
        };
        match outcome {
            InsertOutcome::Stored => {
                self.failures = 0;
                if flight.is_doubtful() {
                    self.confirm();
                } else {
                    self.part_done(now);
                }
            }
            InsertOutcome::Retry => {
                flight.doubt(now);
                self.wait(now);
            }
            InsertOutcome::Stale => self.commit_intent(now),
            InsertOutcome::Cut { middle } => {
                // Halves have tokens of their own, so nothing of the whole may still be under way.
                if !flight.may_be_under_way(now, under_way) {
                    flight.split(middle);
                }
                self.commit_intent(now);
            }
            InsertOutcome::Refused { middle } => {
                flight.split(middle);
                self.commit_intent(now);
            }
            InsertOutcome::RefusedRow { at } => {
                flight.begin(Step::DeadLetteringRow(at));
                self.actions.push(Action::DeadLetterRow { at });
            }
        }
    }

    /// Asks the table for rows that it says it has.
    fn confirm(&mut self) {
        if let Some(flight) = self.flight.as_mut() {
            flight.begin(Step::Confirming);
            self.actions.push(Action::Ask { part: flight.part });
        }
    }

    fn part_done(&mut self, now: Moment) {
        let Some(flight) = self.flight.as_mut() else {
            return;
        };
        self.actions.extend(flight.stored());
        if flight.next_part() {
            self.commit_intent(now);
            return;
        }
        let next_is_ready = self
            .forming
            .as_ref()
            .is_some_and(|f| f.is_ready(now, &self.limits));
        if next_is_ready && self.reform.is_none() {
            // The next intent's offset lies behind this batch, so committing it completes this one too.
            self.land();
            self.seal(now);
        } else {
            flight.begin(Step::Completing);
            let (offset, metadata) = (flight.span.last + 1, encode_after(flight.tail));
            self.commit(offset, metadata);
        }
    }

    /// Does again what failed.
    fn resume(&mut self, now: Moment) {
        let Some(flight) = self.flight.as_mut() else {
            return;
        };
        match flight.step {
            Step::Intending => self.commit_intent(now),
            Step::Completing => self.part_done(now),
            Step::Confirming => self.confirm(),
            Step::DeadLetteringRow(at) => self.inserted(InsertOutcome::RefusedRow { at }, now),
            Step::DeadLettering | Step::Asking | Step::Inserting => self.proceed(now),
        }
    }

    fn wait(&mut self, now: Moment) {
        if self.revoking {
            self.abandon();
            return;
        }
        self.failures = self.failures.saturating_add(1);
        self.wait_until = Some(now.plus(backoff(self.failures)));
    }

    fn land(&mut self) {
        if self.flight.take().is_some() {
            self.actions.push(Action::Landed);
        }
    }

    fn release(&mut self) {
        if self.state != State::Released {
            self.drop_forming();
            self.land();
            self.wait_until = None;
            self.state = State::Released;
            self.actions.push(Action::Release);
        }
    }
}

/// 200 ms, doubled with every failure in a row, up to 5 s.
fn backoff(failures: u32) -> Duration {
    Duration::from_millis(100 << failures.min(6)).min(Duration::from_secs(5))
}
