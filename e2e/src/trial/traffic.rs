//! Events into a pipeline, and which of them were acknowledged.
//!
//! Every attempt has event ids of its own: an attempt that got no answer may be stored or not, and nothing follows from
//! it; an attempt that got 200 must be stored, once.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::meanwhile;
use crate::error::{Error, Result};
use crate::{probe, secret};

const PATIENCE: Duration = Duration::from_secs(15);

/// A client with a key.
#[derive(Clone, Debug)]
pub struct Traffic {
    url: String,
    key: String,
    /// First group of the UUIDs, which tells these events from others.
    run: String,
    next: Arc<AtomicU64>,
}

/// What came of sending.
#[derive(Debug, Default)]
pub struct Acknowledged {
    /// Ids of events that were answered with 200.
    pub ids: HashSet<String>,
    /// Attempts that got no answer, or another one, with the first few of their errors.
    pub failed: u64,
    pub errors: Vec<String>,
    /// The slowest answer.
    pub slowest: Duration,
    runs: HashSet<String>,
}

impl Acknowledged {
    /// Whether an id was made by the clients whose outcome this is.
    pub fn knows(&self, id: &str) -> bool {
        id.get(..8).is_some_and(|run| self.runs.contains(run))
    }

    /// Sends over and over until a scenario is over: what came of all of it, and what the scenario gives.
    pub fn meanwhile<T>(
        send: impl Fn() -> Result<Self> + Sync,
        scenario: impl FnOnce() -> Result<T>,
    ) -> Result<(Self, T)> {
        let sent = Mutex::new(Self::default());
        let work = |_| {
            let more = send()?;
            sent.lock().unwrap_or_else(PoisonError::into_inner).merge(more);
            Ok(())
        };
        let given = meanwhile(1, work, scenario)?;
        Ok((sent.into_inner().unwrap_or_else(PoisonError::into_inner), given))
    }

    /// Adds what another client saw.
    pub fn merge(&mut self, other: Self) {
        self.ids.extend(other.ids);
        self.runs.extend(other.runs);
        self.failed += other.failed;
        self.errors.extend(other.errors);
        self.slowest = self.slowest.max(other.slowest);
    }
}

impl Traffic {
    pub(super) fn new(url: String, key: String) -> Result<Self> {
        let run = secret::short_id()?;
        Ok(Self {
            url,
            key,
            run,
            next: Arc::default(),
        })
    }

    fn id(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{}-0000-4000-8000-{number:012x}", self.run)
    }

    /// One event as it is given; what was answered, whatever the status.
    pub fn json(&self, event: &str) -> Result<String> {
        let failed = |error: ureq::Error| Error::new(format!("{}: {error}", self.url));
        let mut answer = probe::agent(PATIENCE)
            .post(format!("{}/v1/events", self.url))
            .config()
            .http_status_as_error(false)
            .build()
            .header("X-API-Key", &self.key)
            .send(event)
            .map_err(failed)?;
        answer.body_mut().read_to_string().map_err(failed)
    }

    /// One event; the status of the answer.
    pub fn once(&self) -> Result<u16> {
        Ok(self.once_told()?.0)
    }

    /// One event; the status of the answer, and its header `Penstock-Durability`.
    pub fn once_told(&self) -> Result<(u16, Option<String>)> {
        let body = format!(r#"{{"event_type":"once","event_id":"{}"}}"#, self.id());
        let answer = probe::agent(PATIENCE)
            .post(format!("{}/v1/events", self.url))
            .config()
            .http_status_as_error(false)
            .build()
            .header("X-API-Key", &self.key)
            .send(body)
            .map_err(|error| Error::new(format!("{}: {error}", self.url)))?;
        let told = answer.headers().get("penstock-durability");
        let told = told.and_then(|value| Some(value.to_str().ok()?.to_owned()));
        Ok((answer.status().as_u16(), told))
    }

    /// Sends batches of `batch` from `clients` threads until `events` are acknowledged, each at least `pause` after the
    /// one before; goes on after failures, and gives up at the deadline.
    pub fn send(
        &self,
        events: u64,
        batch: u64,
        clients: u32,
        pause: Duration,
        within: Duration,
    ) -> Result<Acknowledged> {
        let deadline = Instant::now() + within;
        let claimed = AtomicU64::new(0);
        let outcome = Mutex::new(Acknowledged {
            runs: [self.run.clone()].into(),
            ..Acknowledged::default()
        });
        std::thread::scope(|scope| {
            for _ in 0..clients {
                scope.spawn(|| self.client(events, batch, pause, deadline, &claimed, &outcome));
            }
        });
        let outcome = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
        if (outcome.ids.len() as u64) < events {
            return Err(Error::new(format!(
                "{} of {events} events were acknowledged within {} s; {} attempts failed: {:?}",
                outcome.ids.len(),
                within.as_secs(),
                outcome.failed,
                outcome.errors
            )));
        }
        Ok(outcome)
    }

    fn client(
        &self,
        events: u64,
        batch: u64,
        pause: Duration,
        deadline: Instant,
        claimed: &AtomicU64,
        outcome: &Mutex<Acknowledged>,
    ) {
        let agent = probe::agent(PATIENCE);
        while claimed.fetch_add(batch, Ordering::Relaxed) < events {
            // The batch is claimed; it is sent until it is acknowledged.
            loop {
                if Instant::now() > deadline {
                    return;
                }
                let ids: Vec<String> = (0..batch).map(|_| self.id()).collect();
                let body = body(&ids);
                let started = Instant::now();
                let answer = agent
                    .post(format!("{}/v1/events/batch", self.url))
                    .config()
                    .http_status_as_error(false)
                    .build()
                    .header("X-API-Key", &self.key)
                    .send(body);
                let said = match answer {
                    Ok(mut response) => {
                        let status = response.status().as_u16();
                        let text = response.body_mut().read_to_string().unwrap_or_default();
                        if status == 200 && text.contains(&format!("\"accepted\":{batch}")) {
                            Ok(())
                        } else {
                            Err(format!("{status} {text}"))
                        }
                    }
                    Err(error) => Err(error.to_string()),
                };
                let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
                outcome.slowest = outcome.slowest.max(started.elapsed());
                match said {
                    Ok(()) => {
                        outcome.ids.extend(ids);
                        drop(outcome);
                        std::thread::sleep(pause);
                        break;
                    }
                    Err(error) => {
                        outcome.failed += 1;
                        if outcome.errors.len() < 5 {
                            outcome.errors.push(error);
                        }
                        drop(outcome);
                        std::thread::sleep(Duration::from_millis(100));
                    }
                }
            }
        }
    }
}

fn body(ids: &[String]) -> String {
    let mut body = String::with_capacity(ids.len() * 160);
    body.push_str(r#"{"events":["#);
    for (index, id) in ids.iter().enumerate() {
        if index > 0 {
            body.push(',');
        }
        body.push_str(r#"{"event_type":"purchase","event_id":""#);
        body.push_str(id);
        body.push_str(r#"","user_id":"u-"#);
        body.push_str(&id[id.len() - 4..]);
        body.push_str(r#"","platform":"web","event_data":{"amount":12.5,"currency":"EUR"}}"#);
    }
    body.push_str("]}");
    body
}
