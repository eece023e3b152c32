//! The batch whose intent is open: which part of it is being stored, and how far that got.

use std::time::Duration;

use super::clock::Moment;
use super::forming::Forming;
use super::intent::{Digest, Intent};
use super::position::{Part, Position, Span};
use super::protocol::{Action, Held};

/// How long acknowledged rows may stay out of sight before they are sent again.
const UNSEEN_FOR: Duration = Duration::from_secs(3);

/// What is under way, or failed and is to be done again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Intending,
    DeadLettering,
    Asking,
    Inserting,
    /// The INSERT was acknowledged, but perhaps only because its token was known.
    Confirming,
    /// The one row that ClickHouse refuses goes to the dead letters.
    DeadLetteringRow(Position),
    Completing,
}

#[derive(Debug)]
pub(super) struct Flight {
    pub(super) span: Span,
    digest: Digest,
    /// The digest of the last record alone.
    pub(super) tail: Digest,
    pub(super) rows: u32,
    pub(super) dead: u32,
    pub(super) part: Part,
    /// Parts behind the current one, the nearest last.
    todo: Vec<Part>,
    pub(super) step: Step,
    pub(super) busy: bool,
    pub(super) dead_lettered: bool,
    /// Somebody may have stored rows of the part under another token, or long ago.
    ask: bool,
    answer: Option<(Moment, Held)>,
    /// No intent promised this span, so that rows of it may have been stored under others. The table's first answer
    /// tells.
    unpromised: bool,
    /// They were.
    stored_before: bool,
    /// The token was perhaps used before, by an INSERT that nobody knows the outcome of. A server that dies between
    /// writing down the token and storing the rows knows the one without the other.
    doubt: bool,
    /// Where others may have sent rows of it: since when they send none.
    others: Option<Moment>,
    /// When the last INSERT of the part was given up whose outcome nobody knows.
    unknown: Option<Moment>,
    attempt: u32,
    /// Since when rows that were acknowledged have not been seen.
    unseen_since: Option<Moment>,
    /// When the commit of the intent in force was begun.
    pub(super) intent_at: Moment,
    /// When the part was first sent.
    pub(super) first_try: Option<Moment>,
}

impl Flight {
    /// `others`: where somebody else may have stored rows of it, since when they send none.
    pub(super) fn new(forming: &Forming, others: Option<Moment>) -> Self {
        let ask = others.is_some();
        Self {
            span: forming.span,
            digest: forming.digest(),
            tail: forming.tail(),
            rows: forming.rows,
            dead: forming.dead,
            part: forming.span.whole(),
            todo: Vec::new(),
            step: Step::Intending,
            busy: false,
            dead_lettered: false,
            ask,
            answer: None,
            unpromised: ask,
            stored_before: false,
            doubt: ask,
            others,
            unknown: None,
            attempt: 1,
            unseen_since: None,
            intent_at: Moment::from_start(Duration::ZERO),
            first_try: None,
        }
    }

    /// A batch that an earlier owner left open. Its dead letters precede its first part, so an intent that names a
    /// part says that they are safe.
    pub(super) fn again(intent: Intent, forming: &Forming, others: Moment) -> Self {
        let mut flight = Self::new(forming, Some(others));
        let whole = intent.span.whole();
        flight.unpromised = false;
        flight.part = intent.part;
        flight.attempt = intent.attempt;
        flight.dead_lettered = intent.part != whole;
        if intent.part.to < whole.to {
            flight.todo.push(Part {
                from: intent.part.to.after(),
                to: whole.to,
            });
        }
        flight
    }

    pub(super) fn intent(&self) -> Intent {
        Intent {
            span: self.span,
            digest: self.digest,
            part: self.part,
            attempt: self.attempt,
        }
    }

    pub(super) fn begin(&mut self, step: Step) {
        self.step = step;
        self.busy = true;
    }

    /// Whether a commit is on its way to the broker.
    pub(super) fn is_committing(&self) -> bool {
        self.busy && matches!(self.step, Step::Intending | Step::Completing)
    }

    /// Whether the table has to say first what it holds. An answer is as good as a first try: it is trusted as
    /// long as the table's memory of tokens is.
    pub(super) fn must_ask(&self, now: Moment, blind: Duration) -> bool {
        let doubtful = self.ask || self.first_try.is_some_and(|first| now.since(first) > blind);
        doubtful && self.answer.is_none_or(|(at, _)| now.since(at) > blind)
    }

    /// The table has answered.
    pub(super) fn heard(&mut self, held: Held) {
        // A promised span was sent as a whole: where only some of it is there, that came under other spans.
        self.stored_before |= match held {
            Held::None => false,
            Held::All => self.unpromised,
            Held::Some(_) => self.first_try.is_none(),
        };
        self.unpromised = false;
    }

    /// What figures may tell of the part that is done. Nothing of a batch of which rows were stored under another
    /// range: they were told then, and would count twice.
    pub(super) fn stored(&self) -> Option<Action> {
        let again = self.step == Step::Completing;
        (self.rows > 0 && !self.stored_before && !again).then_some(Action::Stored {
            span: self.span,
            part: self.part,
            refused: match self.step {
                Step::DeadLetteringRow(at) => Some(at),
                _ => None,
            },
        })
    }

    pub(super) fn answered(&mut self, held: Held, now: Moment) {
        self.answer = Some((now, held));
    }

    /// An INSERT was given up, and its outcome is unknown.
    pub(super) fn doubt(&mut self, now: Moment) {
        self.doubt = true;
        self.unknown = Some(now);
    }

    /// Whether rows of the part may be stored at any time, by an INSERT that was given up. `bound` after that none is
    /// under way any more: without an end to it, a batch that is always cut would be sent whole for ever.
    pub(super) fn may_be_under_way(&self, now: Moment, bound: Duration) -> bool {
        let given_up = self.others.max(self.unknown);
        given_up.is_some_and(|at| now.since(at) <= bound)
    }

    /// Whether an acknowledgement has to be confirmed by the table.
    pub(super) fn is_doubtful(&self) -> bool {
        self.doubt
    }

    /// Rows that were acknowledged are not there. True once that has lasted: then they are sent under another
    /// token. An INSERT that is still under way has written down its token moments before its rows appear.
    pub(super) fn unseen(&mut self, held: Held, now: Moment) -> bool {
        let since = *self.unseen_since.get_or_insert(now);
        if now.since(since) < UNSEEN_FOR {
            return false;
        }
        self.turn_to(self.part);
        self.attempt += 1;
        self.doubt = false;
        self.answer = Some((now, held));
        true
    }

    /// The digest of what the table lacks, where it holds some.
    pub(super) fn missing(&self) -> Option<u64> {
        match self.answer {
            Some((_, Held::Some(digest))) => Some(digest),
            _ => None,
        }
    }

    /// Halves the part. The halves have tokens of their own, so the table is asked before each.
    pub(super) fn split(&mut self, middle: Position) {
        let (first, second) = self.part.split(middle);
        self.todo.push(second);
        self.turn_to(first);
    }

    /// Turns to the next part; false when there is none.
    pub(super) fn next_part(&mut self) -> bool {
        match self.todo.pop() {
            Some(part) => {
                self.turn_to(part);
                true
            }
            None => false,
        }
    }

    fn turn_to(&mut self, part: Part) {
        if part != self.part {
            self.attempt = 1;
            // Not so what others sent: nobody knows in which parts.
            self.unknown = None;
        }
        self.part = part;
        self.ask = true;
        self.answer = None;
        self.first_try = None;
        self.doubt = true;
        self.unseen_since = None;
    }
}
