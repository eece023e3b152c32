//! A process as the driver is: machines, what they asked for, and what has been answered but not yet read.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use penstock_dataplane::consume::clock::Moment;
use penstock_dataplane::consume::fence::{Epoch, Fence};
use penstock_dataplane::consume::machine::Partition;
use penstock_dataplane::consume::position::Position;
use penstock_dataplane::consume::protocol::{Action, Event, Held, InsertOutcome, Limits, Report};

use crate::services::{Line, REQUEST_LIFE_MS};

/// The events that are told of under a partition and a range, as in Redis. All processes tell.
pub(crate) type Told = Rc<RefCell<BTreeMap<(i32, Position, Position), BTreeSet<u64>>>>;

/// How often the schedules reached what they are there to reach.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) recovered: u32,
    pub(crate) data_lost: u32,
    pub(crate) other_log: u32,
    pub(crate) all_held: u32,
    pub(crate) some_held: u32,
    pub(crate) split: u32,
    pub(crate) stale: u32,
    pub(crate) repeated: u32,
    pub(crate) moved: u32,
    pub(crate) rowless: u32,
    /// INSERTs that could not be sent to their end in time.
    pub(crate) cut: u32,
    /// Batches with lines that cannot be read.
    pub(crate) dead: u32,
    /// Offsets whose metadata somebody else wrote.
    pub(crate) foreign: u32,
    /// Events that are stored, that live figures tell of, and that those count more than once.
    pub(crate) stored: u32,
    pub(crate) told: u32,
    pub(crate) told_again: u32,
}

impl Seen {
    pub(crate) fn add(&mut self, other: Self) {
        self.recovered += other.recovered;
        self.data_lost += other.data_lost;
        self.other_log += other.other_log;
        self.all_held += other.all_held;
        self.some_held += other.some_held;
        self.split += other.split;
        self.stale += other.stale;
        self.repeated += other.repeated;
        self.moved += other.moved;
        self.rowless += other.rowless;
        self.cut += other.cut;
        self.dead += other.dead;
        self.foreign += other.foreign;
        self.stored += other.stored;
        self.told += other.told;
        self.told_again += other.told_again;
    }

    fn count(&mut self, event: &Event) {
        match event {
            Event::Asked(Some(Held::All)) => self.all_held += 1,
            Event::Asked(Some(Held::Some(_))) => self.some_held += 1,
            Event::Inserted(InsertOutcome::Stale) => self.stale += 1,
            Event::Inserted(InsertOutcome::Cut { .. }) => self.cut += 1,
            Event::Inserted(InsertOutcome::Refused { .. } | InsertOutcome::RefusedRow { .. }) => {
                self.split += 1;
            }
            _ => {}
        }
    }
}

pub(crate) const SESSION_MS: u64 = 30_000;

pub(crate) fn limits() -> Limits {
    Limits {
        max_rows: 12,
        max_bytes: 1 << 20,
        max_age: Duration::from_millis(1000),
        session: Duration::from_millis(SESSION_MS),
        blind: Duration::from_secs(60),
        under_way: Duration::from_millis(REQUEST_LIFE_MS),
    }
}

/// One assigned partition.
pub(crate) struct Run {
    pub(crate) machine: Partition,
    partition: i32,
    told: Told,
    pub(crate) epoch: Epoch,
    /// Where the next record is read; `None` until the machine said so.
    pub(crate) position: Option<i64>,
    /// A record was delivered out of turn; the same does not happen again at once.
    pub(crate) skipped: bool,
    pub(crate) forming: Vec<Line>,
    pub(crate) flight: Vec<Line>,
    /// Events whose lines cannot be read.
    pub(crate) forming_dead: Vec<u64>,
    pub(crate) flight_dead: Vec<u64>,
    pub(crate) missing: Vec<Position>,
    pub(crate) jobs: Vec<Action>,
    pub(crate) answers: VecDeque<Event>,
    /// The attempt whose answer from ClickHouse is awaited.
    pub(crate) awaiting: Option<u64>,
    pub(crate) revoked_at_ms: Option<u64>,
    pub(crate) released: bool,
    pub(crate) seen: Seen,
}

impl Run {
    fn new(partition: i32, epoch: Epoch, told: Told) -> Self {
        Self {
            machine: Partition::assigned(limits()),
            partition,
            told,
            epoch,
            position: None,
            skipped: false,
            forming: Vec::new(),
            flight: Vec::new(),
            forming_dead: Vec::new(),
            flight_dead: Vec::new(),
            missing: Vec::new(),
            jobs: Vec::new(),
            answers: VecDeque::new(),
            awaiting: None,
            revoked_at_ms: None,
            released: false,
            seen: Seen::default(),
        }
    }

    /// Gives the machine an answer.
    pub(crate) fn answer(&mut self, event: Event, now_ms: u64) {
        self.seen.count(&event);
        self.machine.on(event, at(now_ms));
        self.collect();
    }

    /// Does what needs nobody else, and keeps the rest as jobs.
    pub(crate) fn collect(&mut self) {
        for action in self.machine.actions() {
            match action {
                Action::Fetch { from } => self.position = Some(from),
                Action::DropForming => {
                    self.forming.clear();
                    self.forming_dead.clear();
                }
                Action::Seal => {
                    self.flight = std::mem::take(&mut self.forming);
                    self.flight_dead = std::mem::take(&mut self.forming_dead);
                }
                Action::Stored { part, refused, .. } => {
                    let lines = self.flight.iter().filter(|line| part.contains(line.0));
                    let events = lines.filter(|line| Some(line.0) != refused).map(|line| line.1);
                    self.told
                        .borrow_mut()
                        .insert((self.partition, part.from, part.to), events.collect());
                }
                Action::Landed => {
                    self.flight.clear();
                    self.flight_dead.clear();
                }
                Action::Release => self.released = true,
                Action::Report(report) => match report {
                    Report::Recovering(_) => self.seen.recovered += 1,
                    Report::DataLost { .. } => self.seen.data_lost += 1,
                    Report::OtherLog { .. } => self.seen.other_log += 1,
                    Report::Moved => self.seen.moved += 1,
                    Report::TokenWithoutRows => self.seen.rowless += 1,
                    Report::UnknownMetadata(_) => self.seen.foreign += 1,
                },
                job => {
                    self.seen.dead += u32::from(job == Action::DeadLetter);
                    self.jobs.push(job);
                }
            }
        }
    }
}

pub(crate) struct Process {
    pub(crate) alive: bool,
    pub(crate) frozen_since_ms: Option<u64>,
    /// The group has given it up; it finds out when it next runs.
    pub(crate) expelled: bool,
    pub(crate) generation: u64,
    pub(crate) fence: Fence,
    pub(crate) runs: HashMap<i32, Run>,
    pub(crate) seen: Seen,
    told: Told,
}

impl Process {
    pub(crate) fn new(told: Told) -> Self {
        Self {
            told,
            alive: true,
            frozen_since_ms: None,
            expelled: false,
            generation: 0,
            fence: Fence::new(),
            runs: HashMap::new(),
            seen: Seen::default(),
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.alive && self.frozen_since_ms.is_none()
    }

    pub(crate) fn is_member(&self) -> bool {
        self.alive && !self.expelled
    }

    pub(crate) fn assign(&mut self, partition: i32) {
        let mut run = Run::new(partition, self.fence.begin(partition), Rc::clone(&self.told));
        run.collect();
        self.runs.insert(partition, run);
    }

    pub(crate) fn revoke(&mut self, partition: i32, now_ms: u64) {
        if let Some(run) = self.runs.get_mut(&partition)
            && run.revoked_at_ms.is_none()
        {
            run.revoked_at_ms = Some(now_ms);
            run.machine.revoke();
            run.collect();
        }
        self.let_go();
    }

    /// The group told it that its partitions are gone.
    pub(crate) fn lose_all(&mut self) {
        for (partition, run) in &mut self.runs {
            self.fence.end(*partition);
            run.machine.abandon();
            run.collect();
        }
        self.let_go();
    }

    /// Ends the epochs of what was released.
    pub(crate) fn let_go(&mut self) {
        let (fence, seen) = (&self.fence, &mut self.seen);
        self.runs.retain(|partition, run| {
            if run.released {
                fence.end(*partition);
                seen.add(run.seen);
            }
            !run.released
        });
    }

    pub(crate) fn die(&mut self) {
        for run in self.runs.values() {
            self.seen.add(run.seen);
        }
        *self = Self {
            alive: false,
            seen: self.seen,
            ..Self::new(Rc::clone(&self.told))
        };
    }

    /// Memory is full.
    pub(crate) fn squeeze(&mut self, now_ms: u64) {
        for run in self.runs.values_mut() {
            run.machine.squeeze(at(now_ms));
            run.collect();
        }
    }

    pub(crate) fn tick(&mut self, now_ms: u64) {
        for run in self.runs.values_mut() {
            if run.revoked_at_ms.is_some_and(|at| now_ms - at > 20_000) {
                run.machine.abandon();
            }
            run.machine.tick(at(now_ms));
            run.collect();
        }
        self.let_go();
    }
}

pub(crate) fn at(ms: u64) -> Moment {
    Moment::from_start(Duration::from_millis(ms))
}
