//! One schedule: a seed decides what happens next, until everything produced has arrived.

use std::collections::{BTreeMap, BTreeSet, hash_map::DefaultHasher};
use std::hash::{Hash, Hasher};

use penstock_dataplane::consume::position::Position;
use penstock_dataplane::consume::protocol::{
    Action, CommitOutcome, Event, Held, InsertOutcome, Lookup, Record,
};

use crate::process::{Process, SESSION_MS, Seen, Told, at};
use crate::random::Random;
use crate::services::{
    Broker, LateCommit, Line, Log, REQUEST_LIFE_MS, Request, Table, is_malformed, is_poison,
};

const PARTITIONS: i32 = 2;
const PROCESSES: usize = 3;

#[derive(Clone, Copy)]
pub(crate) struct Faults {
    pub(crate) unknown: bool,
    pub(crate) deaths: bool,
    pub(crate) freezes: bool,
    pub(crate) rebalances: bool,
    pub(crate) poison: bool,
    pub(crate) malformed: bool,
    pub(crate) trims: bool,
    pub(crate) recreations: bool,
    /// The group's offsets vanish, or somebody else sets their metadata.
    pub(crate) amnesia: bool,
    /// Processes ignore the fence and the age of intents.
    pub(crate) reckless: bool,
    pub(crate) token_memory_ms: u64,
    pub(crate) request_life_ms: u64,
    /// Rows that a slow line carries while an intent is young. It is slow now and then, and in the second half always.
    pub(crate) carries: usize,
}

impl Faults {
    pub(crate) fn none() -> Self {
        Self {
            unknown: false,
            deaths: false,
            freezes: false,
            rebalances: false,
            poison: false,
            malformed: false,
            trims: false,
            recreations: false,
            amnesia: false,
            reckless: false,
            token_memory_ms: 600_000,
            request_life_ms: REQUEST_LIFE_MS,
            carries: usize::MAX,
        }
    }

    pub(crate) fn all() -> Self {
        Self {
            unknown: true,
            deaths: true,
            freezes: true,
            rebalances: true,
            poison: true,
            malformed: true,
            amnesia: true,
            ..Self::none()
        }
    }
}

pub(crate) struct Schedule {
    random: Random,
    faults: Faults,
    now_ms: u64,
    broker: Broker,
    table: Table,
    dead_letters: BTreeSet<u64>,
    processes: Vec<Process>,
    told: Told,
    /// No commit comes late and no offset is lost, so that all rows are told once.
    tells_all: bool,
    /// Who is to own what once those who must let go have done so.
    target: Option<BTreeMap<i32, usize>>,
    owners: BTreeMap<i32, usize>,
    events: u64,
    attempts: u64,
    /// The second half of a schedule: no more faults, nothing new.
    draining: bool,
    /// Events that the log lost before anybody read them: stored or not, but never twice.
    excused: BTreeSet<u64>,
}

impl Schedule {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        let mut broker = Broker::default();
        let told = Told::default();
        broker.logs.resize_with(PARTITIONS as usize, Log::default);
        Self {
            random: Random::new(seed),
            faults,
            now_ms: 1_000_000,
            broker,
            table: Table::default(),
            dead_letters: BTreeSet::new(),
            processes: (0..PROCESSES).map(|_| Process::new(told.clone())).collect(),
            told,
            tells_all: !(faults.unknown || faults.trims || faults.recreations || faults.amnesia),
            target: None,
            owners: BTreeMap::new(),
            events: 0,
            attempts: 0,
            draining: false,
            excused: BTreeSet::new(),
        }
    }

    pub(crate) fn run(mut self) -> Result<Seen, String> {
        self.rebalance();
        for _ in 0..1500 {
            self.step();
            self.check_twice()?;
        }
        self.draining = true;
        self.faults = Faults {
            reckless: self.faults.reckless,
            poison: self.faults.poison,
            malformed: self.faults.malformed,
            token_memory_ms: self.faults.token_memory_ms,
            request_life_ms: self.faults.request_life_ms,
            carries: self.faults.carries,
            ..Faults::none()
        };
        for process in 0..PROCESSES {
            self.thaw(process);
            self.processes[process].alive = true;
        }
        self.rebalance();
        for _ in 0..300_000 {
            if self.is_done() {
                self.check_all()?;
                return self.check_told(self.seen());
            }
            self.step();
            self.check_twice()?;
        }
        Err(format!("stuck: {}", self.describe()))
    }

    fn step(&mut self) {
        let process = self.random.below(PROCESSES);
        let faults = self.faults;
        match self.random.below(100) {
            0..=9 if !self.draining => self.produce(),
            10..=34 => self.deliver(process),
            35..=64 => self.execute(process),
            65..=79 => self.read_answer(process),
            80..=87 => self.serve_request(),
            88..=92 => self.pass_time(),
            93 if faults.deaths => self.kill_or_start(process),
            94 if faults.freezes => self.freeze_or_thaw(process),
            95 if faults.rebalances => self.rebalance(),
            96 if faults.unknown => self.apply_late_commit(),
            97 if faults.trims => self.trim(),
            98 if faults.recreations && self.random.chance(15) => self.recreate(),
            99 if faults.amnesia && self.random.chance(15) => self.forget_offset(),
            _ => {}
        }
        self.settle_group();
    }

    fn produce(&mut self) {
        let partition = self.random.below(PARTITIONS as usize);
        let events: Vec<u64> = (0..1 + self.random.below(4))
            .map(|_| {
                self.events += 1;
                // Where a schedule has none of a kind, the events that would be are left out.
                while (!self.faults.poison && is_poison(self.events))
                    || (!self.faults.malformed && is_malformed(self.events))
                {
                    self.events += 1;
                }
                self.events
            })
            .collect();
        self.broker.logs[partition].append(&events);
    }

    fn deliver(&mut self, process: usize) {
        let partition = self.random.below(PARTITIONS as usize) as i32;
        let (again, skipped) = (self.random.chance(10), self.random.chance(5));
        let log = &self.broker.logs[partition as usize];
        let now = at(self.now_ms);
        let process = &mut self.processes[process];
        if !process.is_running() {
            return;
        }
        let Some(run) = process.runs.get_mut(&partition) else {
            return;
        };
        let Some(position) = run.position else { return };
        if position < log.low || position > log.high {
            // As librdkafka does by itself where the log does not have the offset.
            run.position = Some(log.low);
            return;
        }
        if !run.machine.wants_records() {
            return;
        }
        let skipped = skipped && !run.skipped;
        run.skipped = skipped || (run.skipped && again);
        let offset = position + i64::from(skipped) - i64::from(again);
        let Some(record) = log.records.get(&offset) else {
            return;
        };
        if run.machine.accepts(record.offset, &record.value) {
            let (dead, lines): (Vec<Line>, Vec<Line>) =
                record.lines.iter().partition(|line| is_malformed(line.1));
            run.forming.extend(&lines);
            run.forming_dead.extend(dead.iter().map(|line| line.1));
            run.machine.push(
                Record {
                    offset,
                    value: &record.value,
                    rows: lines.len() as u32,
                    dead: dead.len() as u32,
                    bytes: record.value.len(),
                },
                now,
            );
        }
        run.position = Some(position.max(offset + 1));
        run.collect();
    }

    fn execute(&mut self, index: usize) {
        let partition = self.random.below(PARTITIONS as usize) as i32;
        let process = &mut self.processes[index];
        if !process.is_running() {
            return;
        }
        let generation = process.generation;
        let Some(run) = process.runs.get_mut(&partition) else {
            return;
        };
        if run.jobs.is_empty() {
            return;
        }
        let job = run.jobs.remove(0);
        let holds = self.faults.reckless || process.fence.holds(partition, run.epoch);
        let unknown = |random: &mut Random, percent| self.faults.unknown && random.chance(percent);
        match job {
            Action::Look => {
                let log = &self.broker.logs[partition as usize];
                let lookup = (!unknown(&mut self.random, 10)).then(|| Lookup {
                    committed: log.committed.clone(),
                    low: log.low,
                    high: log.high,
                });
                run.answers.push_back(Event::Looked(lookup));
            }
            Action::Commit {
                offset,
                metadata,
                known,
            } => {
                let committed = &self.broker.logs[partition as usize].committed;
                let outcome = if !holds {
                    CommitOutcome::Fenced
                } else if !known.contains(committed) {
                    CommitOutcome::Moved
                } else if unknown(&mut self.random, 10) {
                    self.broker.late.push(LateCommit {
                        partition,
                        generation,
                        offset,
                        metadata,
                    });
                    CommitOutcome::Retry
                } else if !self.broker.commit(partition, generation, offset, metadata) {
                    // A generation that is not current says nothing about the partition: the group tells.
                    CommitOutcome::Retry
                } else if unknown(&mut self.random, 10) {
                    CommitOutcome::Retry
                } else {
                    CommitOutcome::Done
                };
                run.answers.push_back(Event::Committed(outcome));
            }
            Action::DeadLetter => {
                let safe = !unknown(&mut self.random, 20);
                let written = match safe {
                    true => run.flight_dead.len(),
                    false => self.random.below(run.flight_dead.len() + 1),
                };
                self.dead_letters.extend(&run.flight_dead[..written]);
                run.answers.push_back(Event::DeadLettered(safe));
            }
            Action::DeadLetterRow { at } => {
                let safe = !unknown(&mut self.random, 20);
                if safe || self.random.chance(50) {
                    let dead = run.flight.iter().filter(|line| line.0 == at);
                    self.dead_letters.extend(dead.map(|line| line.1));
                }
                run.answers.push_back(Event::DeadLettered(safe));
            }
            Action::Ask { part } => {
                let held = if unknown(&mut self.random, 10) {
                    None
                } else {
                    let asked: Vec<&Line> = run.flight.iter().filter(|line| part.contains(line.0)).collect();
                    let missing: Vec<Position> = asked
                        .iter()
                        .filter(|line| !self.table.holds(partition, line))
                        .map(|line| line.0)
                        .collect();
                    let held = match missing.len() {
                        0 => Held::All,
                        n if n == asked.len() => Held::None,
                        _ => {
                            let mut hasher = DefaultHasher::new();
                            missing.hash(&mut hasher);
                            Held::Some(hasher.finish())
                        }
                    };
                    run.missing = missing;
                    Some(held)
                };
                run.answers.push_back(Event::Asked(held));
            }
            Action::Insert {
                part,
                missing,
                intent,
                intent_at,
            } => {
                let young = at(self.now_ms).since(intent_at).as_millis() < u128::from(SESSION_MS);
                if !(holds && young || self.faults.reckless) {
                    run.answers.push_back(Event::Inserted(InsertOutcome::Stale));
                    return;
                }
                let lines: Vec<Line> = run
                    .flight
                    .iter()
                    .filter(|line| {
                        part.contains(line.0) && (missing.is_none() || run.missing.contains(&line.0))
                    })
                    .copied()
                    .collect();
                let slow = lines.len() > self.faults.carries && (self.draining || self.random.chance(50));
                let cut = slow || (self.faults.unknown && lines.len() > 1 && self.random.chance(10));
                if cut {
                    // It could not be sent to its end while the intent was young.
                    let middle = lines[lines.len() / 2].0;
                    run.answers
                        .push_back(Event::Inserted(InsertOutcome::Cut { middle }));
                    return;
                }
                if lines.iter().any(|line| is_poison(line.1)) {
                    let middle = lines[lines.len() / 2].0;
                    run.answers.push_back(Event::Inserted(match lines.len() {
                        1 => InsertOutcome::RefusedRow { at: middle },
                        _ => InsertOutcome::Refused { middle },
                    }));
                    return;
                }
                let mut token = intent.token("topic", partition);
                if let Some(missing) = missing {
                    token.push_str(&format!("/{missing:x}"));
                }
                self.attempts += 1;
                run.awaiting = Some(self.attempts);
                self.table.requests.push(Request {
                    token,
                    partition,
                    lines,
                    sent_ms: self.now_ms,
                    client: Some((index, self.attempts)),
                });
            }
            Action::Fetch { .. }
            | Action::DropForming
            | Action::Seal
            | Action::Stored { .. }
            | Action::Landed
            | Action::Release
            | Action::Report(_) => unreachable!("done when collected"),
        }
    }

    fn read_answer(&mut self, index: usize) {
        let partition = self.random.below(PARTITIONS as usize) as i32;
        let process = &mut self.processes[index];
        if !process.is_running() {
            return;
        }
        if let Some(run) = process.runs.get_mut(&partition)
            && let Some(event) = run.answers.pop_front()
        {
            run.answer(event, self.now_ms);
        }
        process.let_go();
    }

    /// ClickHouse works on one of its requests, or a client stops waiting for one.
    fn serve_request(&mut self) {
        if self.table.requests.is_empty() {
            return;
        }
        let index = self.random.below(self.table.requests.len());
        let given_up = self.table.requests[index].client.is_none();
        if self.faults.unknown && given_up && self.random.chance(90) {
            // It lives on while its client tries again, and does other things.
            return;
        }
        if self.faults.unknown && self.random.chance(30) {
            if let Some(client) = self.table.requests[index].client.take() {
                self.answer(client, InsertOutcome::Retry);
            }
            return;
        }
        let request = self.table.requests.remove(index);
        let expired = self.now_ms - request.sent_ms > self.faults.request_life_ms;
        let lost = expired || (self.faults.unknown && self.random.chance(15));
        if !lost {
            let dies = self.faults.unknown && self.random.chance(5);
            self.table
                .apply(&request, self.now_ms, self.faults.token_memory_ms, dies);
            if let Some(client) = request.client {
                let outcome = if dies {
                    InsertOutcome::Retry
                } else {
                    InsertOutcome::Stored
                };
                self.answer(client, outcome);
            }
        } else if let Some(client) = request.client {
            self.answer(client, InsertOutcome::Retry);
        }
    }

    fn answer(&mut self, (process, attempt): (usize, u64), outcome: InsertOutcome) {
        for run in self.processes[process].runs.values_mut() {
            if run.awaiting == Some(attempt) {
                run.awaiting = None;
                run.answers.push_back(Event::Inserted(outcome));
            }
        }
    }

    fn pass_time(&mut self) {
        self.now_ms += match self.random.below(20) {
            0 if self.faults.unknown => 700_000,
            1 | 2 if self.faults.freezes => 40_000,
            _ => 50 + self.random.below(1500) as u64,
        };
        let full = self.random.chance(5);
        for process in &mut self.processes {
            if process.is_running() {
                if full {
                    process.squeeze(self.now_ms);
                }
                process.tick(self.now_ms);
            }
        }
    }

    fn kill_or_start(&mut self, index: usize) {
        if self.processes[index].alive {
            self.processes[index].die();
        } else {
            self.processes[index].alive = true;
        }
        // The group learns of a death by the session's end, which may be any time from now.
        self.rebalance();
    }

    fn freeze_or_thaw(&mut self, index: usize) {
        if self.processes[index].frozen_since_ms.is_some() {
            self.thaw(index);
        } else if self.processes[index].alive {
            self.processes[index].frozen_since_ms = Some(self.now_ms);
        }
    }

    fn thaw(&mut self, index: usize) {
        let process = &mut self.processes[index];
        if process.frozen_since_ms.take().is_none() || !process.expelled {
            return;
        }
        // Its threads run again in any order: an action it had begun may be executed before it learns of its fate.
        self.execute(index);
        self.execute(index);
        self.processes[index].lose_all();
    }

    fn apply_late_commit(&mut self) {
        if !self.broker.late.is_empty() {
            let index = self.random.below(self.broker.late.len());
            let late = self.broker.late.swap_remove(index);
            self.broker
                .commit(late.partition, late.generation, late.offset, late.metadata);
        }
    }

    fn trim(&mut self) {
        let partition = self.random.below(PARTITIONS as usize);
        let log = &mut self.broker.logs[partition];
        let ahead = (log.high - log.low) as usize;
        log.low += self.random.below(ahead / 2 + 1) as i64;
        let low = log.low;
        let kept = log.records.split_off(&low);
        for record in std::mem::replace(&mut log.records, kept).values() {
            self.excused.extend(record.lines.iter().map(|line| line.1));
        }
    }

    fn recreate(&mut self) {
        let partition = self.random.below(PARTITIONS as usize);
        let log = &mut self.broker.logs[partition];
        for record in log.records.values() {
            self.excused.extend(record.lines.iter().map(|line| line.1));
        }
        let committed = log.committed.take();
        *log = Log::default();
        // What was on its way meets a topic that does not exist.
        self.broker.late.retain(|late| late.partition != partition as i32);
        if committed.is_some() && self.random.chance(50) {
            // So fast that no member noticed; Kafka forgets the group's offset, and that is noticed. (Before the very
            // first commit there is none to forget: a topic made anew within its first second of use is not told.)
            return;
        }
        // The topic vanishes from the members' metadata, which takes the partition from them; who sleeps through it
        // has lost it. The offset survives.
        log.committed = committed;
        for process in &mut self.processes {
            if process.is_running() {
                process.revoke(partition as i32, self.now_ms);
            } else if process.alive {
                process.expelled = true;
            }
        }
        self.rebalance();
    }

    fn forget_offset(&mut self) {
        let partition = self.random.below(PARTITIONS as usize);
        let committed = &mut self.broker.logs[partition].committed;
        *committed = match committed.take() {
            // Of a topic made anew, too, nobody could tell that it is another.
            Some((offset, _)) if !self.faults.recreations && self.random.chance(50) => {
                Some((offset, "of somebody else".into()))
            }
            _ => None,
        };
        for process in &mut self.processes {
            if process.is_running() {
                process.revoke(partition as i32, self.now_ms);
            }
        }
    }

    fn rebalance(&mut self) {
        let members: Vec<usize> = (0..PROCESSES)
            .filter(|index| self.processes[*index].is_member())
            .collect();
        if members.is_empty() {
            return;
        }
        let target = (0..PARTITIONS)
            .map(|partition| (partition, members[self.random.below(members.len())]))
            .collect();
        self.target = Some(target);
    }

    /// Cooperative rebalancing: owners that are to lose a partition give it back; when all have, a new generation
    /// begins and the partitions go to their new owners.
    fn settle_group(&mut self) {
        for index in 0..PROCESSES {
            let process = &mut self.processes[index];
            let silent = process
                .frozen_since_ms
                .is_some_and(|at| self.now_ms - at > SESSION_MS);
            if silent && !process.expelled {
                process.expelled = true;
                self.rebalance();
            } else if process.expelled && process.is_running() && process.runs.is_empty() {
                process.expelled = false;
                self.rebalance();
            }
        }
        let Some(target) = self.target.clone() else {
            return;
        };
        let mut waiting = false;
        for (partition, next) in &target {
            for index in 0..PROCESSES {
                let process = &mut self.processes[index];
                if !process.is_member() || !process.runs.contains_key(partition) {
                    continue;
                }
                let stays = index == *next && self.owners.get(partition) == Some(&index);
                let leaving = process.runs[partition].revoked_at_ms.is_some();
                if stays && !leaving {
                    continue;
                }
                waiting = true;
                if process.is_running() {
                    process.revoke(*partition, self.now_ms);
                }
            }
        }
        let unreachable = target.values().any(|index| !self.processes[*index].is_member());
        if unreachable {
            self.target = None;
            self.rebalance();
            return;
        }
        let frozen = self
            .processes
            .iter()
            .any(|process| process.is_member() && !process.is_running());
        if waiting || frozen {
            return;
        }
        self.target = None;
        self.broker.generation += 1;
        for process in &mut self.processes {
            if process.is_member() {
                process.generation = self.broker.generation;
            }
        }
        for (partition, next) in target {
            if !self.processes[next].runs.contains_key(&partition) {
                self.processes[next].assign(partition);
            }
            self.owners.insert(partition, next);
        }
    }

    fn is_done(&self) -> bool {
        self.target.is_none()
            && self.broker.logs.iter().all(|log| {
                log.high == log.low
                    || log
                        .committed
                        .as_ref()
                        .is_some_and(|c| c.0 == log.high && !c.1.contains("last"))
            })
    }

    fn check_twice(&self) -> Result<(), String> {
        match self.table.doubled {
            Some(event) => Err(format!("event {event} is stored twice: {}", self.describe())),
            None => Ok(()),
        }
    }

    fn check_all(&self) -> Result<(), String> {
        for event in self.broker.logs.iter().flat_map(|log| {
            log.records
                .values()
                .flat_map(|record| record.lines.iter().map(|line| line.1))
        }) {
            let stored = self.table.count.contains_key(&event);
            let right = if is_poison(event) || is_malformed(event) {
                !stored && self.dead_letters.contains(&event)
            } else {
                stored && !self.dead_letters.contains(&event)
            };
            if !right && !self.excused.contains(&event) {
                return Err(format!("event {event} is lost: {}", self.describe()));
            }
        }
        Ok(())
    }

    /// What is told is stored. Where no commit comes late and no offset is lost, everything is told, and once.
    fn check_told(&self, mut seen: Seen) -> Result<Seen, String> {
        let mut told = BTreeMap::new();
        for (range, events) in self.told.borrow().iter() {
            for event in events {
                if !self.table.count.contains_key(event) {
                    return Err(format!("event {event} is told in {range:?} and not stored"));
                }
                if let Some(before) = told.insert(*event, *range) {
                    seen.told_again += 1;
                    if self.tells_all {
                        return Err(format!("event {event} is told in {before:?} and in {range:?}"));
                    }
                }
            }
        }
        if self.tells_all && told.len() != self.table.count.len() {
            return Err(format!("{} of {} are told", told.len(), self.table.count.len()));
        }
        (seen.stored, seen.told) = (self.table.count.len() as u32, told.len() as u32);
        Ok(seen)
    }

    fn seen(&self) -> Seen {
        let mut seen = Seen {
            repeated: self.table.dropped,
            ..Seen::default()
        };
        for process in &self.processes {
            seen.add(process.seen);
            process.runs.values().for_each(|run| seen.add(run.seen));
        }
        seen
    }

    fn describe(&self) -> String {
        let logs: Vec<String> = self
            .broker
            .logs
            .iter()
            .map(|log| format!("{}..{} committed {:?}", log.low, log.high, log.committed))
            .collect();
        let runs: Vec<String> = self
            .processes
            .iter()
            .flat_map(|process| process.runs.values().map(|run| format!("{:?}", run.machine)))
            .collect();
        format!("{logs:#?} {runs:#?}")
    }
}
