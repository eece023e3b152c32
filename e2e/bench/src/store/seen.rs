//! When the requests of a load can be read: a thread asks the table again and again which of them it holds.
//!
//! A request counts from the moment at which it was asked about and was there with all its events, so what is told is up to
//! one question's interval too long, never too short.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use penstock_e2e::{Error, Result};

use crate::store::pipeline::FIRST_NUMBER;
use crate::store::table::{Client, Table};

/// Between two questions. They cost ClickHouse about a tenth of a core.
pub const INTERVAL: Duration = Duration::from_millis(50);
/// Rows may be received in another order than their requests were sent by so much.
const DISORDER_MS: i64 = 5000;

/// A request whose events are all there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sight {
    pub at: Instant,
    /// Milliseconds since the server had read it.
    pub after_receipt: i64,
}

/// What was seen so far.
#[derive(Clone, Debug)]
pub struct Sights {
    /// Of one request.
    events: u64,
    requests: Vec<Option<Sight>>,
    /// All before it were seen.
    lowest: usize,
    /// When the newest event that was seen was received, ms since 1970.
    newest: i64,
    /// How old it was at each question that counts, ms.
    pub ages: Vec<i64>,
}

impl Sights {
    fn new(events: u64) -> Self {
        Self {
            events,
            requests: Vec::new(),
            lowest: 0,
            newest: 0,
            ages: Vec::new(),
        }
    }

    /// For rows that may hold a request not seen yet: its number, its events, when they were received.
    fn question(&self, database: &str) -> String {
        format!(
            "SELECT intDiv(n, {}) AS request, count(), max(received) FROM (
                 SELECT toUInt64(toUInt128(event_id) % 281474976710656) AS n,
                     toUnixTimestamp64Milli(received_at) AS received
                 FROM {database}.events WHERE received_at >= fromUnixTimestamp64Milli({}))
             WHERE n >= {} AND n < {FIRST_NUMBER} GROUP BY request FORMAT TSV",
            self.events,
            (self.newest - DISORDER_MS).max(0),
            self.lowest as u64 * self.events
        )
    }

    /// Takes an answer to the question that was asked at `at`, when the clock said `clock`.
    fn take(&mut self, answer: &str, at: Instant, clock: i64) -> Result<()> {
        for line in answer.lines() {
            let mut fields = line.split('\t').map(str::parse::<i64>);
            let (Some(Ok(request)), Some(Ok(events)), Some(Ok(received))) =
                (fields.next(), fields.next(), fields.next())
            else {
                return Err(Error::new(format!("`{line}` is not what was asked for")));
            };
            self.newest = self.newest.max(received);
            let request = request as usize;
            if self.requests.len() <= request {
                self.requests.resize(request + 1, None);
            }
            if events.cast_unsigned() >= self.events {
                self.requests[request].get_or_insert(Sight {
                    at,
                    after_receipt: clock - received,
                });
            }
        }
        while self.requests.get(self.lowest).is_some_and(Option::is_some) {
            self.lowest += 1;
        }
        Ok(())
    }

    /// The requests by number.
    pub fn requests(&self) -> impl Iterator<Item = Sight> {
        self.requests.iter().filter_map(|sight| *sight)
    }
}

/// A thread that looks.
#[derive(Debug)]
pub struct Watch {
    flags: Arc<Flags>,
    thread: Option<JoinHandle<Result<Sights>>>,
}

#[derive(Debug, Default)]
struct Flags {
    over: AtomicBool,
    ages: AtomicBool,
}

impl Watch {
    /// Looks at the requests of a load, each of so many events, numbered from 0.
    pub fn start(table: &Table, events: usize) -> Self {
        let flags = Arc::new(Flags::default());
        let (told, client, database) = (Arc::clone(&flags), table.client.clone(), table.database.clone());
        let thread = std::thread::spawn(move || look(&client, &database, events as u64, &told));
        Self {
            flags,
            thread: Some(thread),
        }
    }

    /// From now on the age of the newest event counts.
    pub fn count_ages(&self) {
        self.flags.ages.store(true, Relaxed);
    }

    /// It counts no more: when nothing is sent, what is stored grows old.
    pub fn leave_ages(&self) {
        self.flags.ages.store(false, Relaxed);
    }

    /// What was seen; to be called when all rows are there.
    pub fn stop(mut self) -> Result<Sights> {
        self.flags.over.store(true, Relaxed);
        let thread = self
            .thread
            .take()
            .ok_or_else(|| Error::new("it was stopped before"))?;
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.flags.over.store(true, Relaxed);
    }
}

fn look(client: &Client, database: &str, events: u64, flags: &Flags) -> Result<Sights> {
    let mut sights = Sights::new(events);
    loop {
        let last = flags.over.load(Relaxed);
        let at = Instant::now();
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let answer = client.ask(&sights.question(database))?;
        let clock = i64::try_from(clock.as_millis()).unwrap_or(i64::MAX);
        sights.take(&answer, at, clock)?;
        if flags.ages.load(Relaxed) {
            sights.ages.push(clock - sights.newest);
        }
        if last {
            return Ok(sights);
        }
        std::thread::sleep(INTERVAL.saturating_sub(at.elapsed()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_seen_when_all_its_events_are() {
        let (mut sights, start) = (Sights::new(100), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        sights.take("", at(0), 1_000_000).unwrap();
        sights
            .take("0\t100\t1000050\n2\t40\t1000070\n", at(100), 1_000_100)
            .unwrap();
        assert!(
            sights.question("d").contains("n >= 100 "),
            "{}",
            sights.question("d")
        );
        sights
            .take("1\t100\t1000060\n2\t100\t1000070\n", at(200), 1_000_200)
            .unwrap();
        let seen: Vec<_> = sights
            .requests()
            .map(|sight| (sight.at, sight.after_receipt))
            .collect();
        assert_eq!(seen, [(at(100), 50), (at(200), 140), (at(200), 130)]);
        // Seen again: the first time counts.
        sights.take("2\t100\t1000070\n", at(300), 1_000_300).unwrap();
        assert_eq!((sights.requests().count(), sights.lowest), (3, 3));
        assert_eq!(sights.newest, 1_000_070);
        assert!(sights.take("Code: 42\n", at(400), 0).is_err());
    }
}
