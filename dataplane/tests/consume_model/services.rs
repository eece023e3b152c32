//! Kafka and ClickHouse as the protocol meets them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use penstock_dataplane::consume::position::Position;

/// An INSERT that has not begun by then never will: the server closed the connection.
pub(crate) const REQUEST_LIFE_MS: u64 = 150_000;

/// A line: its position, and the event it carries.
pub(crate) type Line = (Position, u64);

/// ClickHouse refuses this event.
pub(crate) fn is_poison(event: u64) -> bool {
    event % 151 == 150
}

/// The consumer cannot read the line of this event.
pub(crate) fn is_malformed(event: u64) -> bool {
    event % 37 == 36
}

#[derive(Clone)]
pub(crate) struct Stored {
    pub(crate) offset: i64,
    pub(crate) value: Vec<u8>,
    pub(crate) lines: Vec<Line>,
}

/// One partition's log and the group's offset in it.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) records: BTreeMap<i64, Stored>,
    pub(crate) low: i64,
    pub(crate) high: i64,
    pub(crate) committed: Option<(i64, String)>,
}

impl Log {
    pub(crate) fn append(&mut self, events: &[u64]) {
        let offset = self.high;
        let lines = events
            .iter()
            .enumerate()
            .map(|(row, event)| (Position::new(offset, row as u32), *event))
            .collect();
        let value = events.iter().flat_map(|event| event.to_le_bytes()).collect();
        let record = Stored { offset, value, lines };
        self.records.insert(offset, record);
        self.high += 1;
    }
}

/// A commit that the broker will handle although its client has given up.
pub(crate) struct LateCommit {
    pub(crate) partition: i32,
    pub(crate) generation: u64,
    pub(crate) offset: i64,
    pub(crate) metadata: String,
}

#[derive(Default)]
pub(crate) struct Broker {
    pub(crate) logs: Vec<Log>,
    pub(crate) generation: u64,
    pub(crate) late: Vec<LateCommit>,
}

impl Broker {
    /// Checks the generation, and nothing else.
    pub(crate) fn commit(&mut self, partition: i32, generation: u64, offset: i64, metadata: String) -> bool {
        if generation != self.generation {
            return false;
        }
        self.logs[partition as usize].committed = Some((offset, metadata));
        true
    }
}

/// An INSERT on its way or under way.
pub(crate) struct Request {
    pub(crate) token: String,
    pub(crate) partition: i32,
    pub(crate) lines: Vec<Line>,
    pub(crate) sent_ms: u64,
    /// Who waits for the answer: a process and the number of its attempt.
    pub(crate) client: Option<(usize, u64)>,
}

#[derive(Default)]
pub(crate) struct Table {
    pub(crate) rows: HashMap<(i32, Position), BTreeSet<u64>>,
    pub(crate) count: HashMap<u64, u32>,
    /// An event that is stored more than once.
    pub(crate) doubled: Option<u64>,
    tokens: HashMap<String, u64>,
    /// Requests that were not applied because their token was known.
    pub(crate) dropped: u32,
    pub(crate) requests: Vec<Request>,
}

impl Table {
    /// `dies`: the server is killed after it wrote down the token and before it stored the rows.
    pub(crate) fn apply(&mut self, request: &Request, now_ms: u64, memory_ms: u64, dies: bool) {
        let known = self
            .tokens
            .get(&request.token)
            .is_some_and(|at| now_ms - at < memory_ms);
        if known {
            self.dropped += 1;
            return;
        }
        self.tokens.insert(request.token.clone(), now_ms);
        if dies {
            return;
        }
        for (position, event) in &request.lines {
            self.rows
                .entry((request.partition, *position))
                .or_default()
                .insert(*event);
            let count = self.count.entry(*event).or_default();
            *count += 1;
            if *count > 1 {
                self.doubled = Some(*event);
            }
        }
    }

    pub(crate) fn holds(&self, partition: i32, line: &Line) -> bool {
        self.rows
            .get(&(partition, line.0))
            .is_some_and(|events| events.contains(&line.1))
    }
}
