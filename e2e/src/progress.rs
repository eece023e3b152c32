//! What a person sees while the kit works: headings, finished steps with their time, and a sign of life.
//!
//! Steps run side by side, so a step is one line when it ends; while nothing ends, a line every few seconds names
//! what is still going on and the last line of its log. It reads the same in a terminal and in a CI log.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::{Result, last_lines};

const SILENCE: Duration = Duration::from_secs(15);
const LOG_WIDTH: usize = 90;

#[derive(Debug)]
struct Running {
    name: String,
    since: Instant,
    log: Option<PathBuf>,
}

#[derive(Debug)]
struct State {
    running: BTreeMap<u64, Running>,
    next_id: u64,
    last_printed: Instant,
    closed: bool,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug)]
pub struct Progress {
    shared: Arc<Shared>,
    started: Instant,
    ticker: Option<JoinHandle<()>>,
}

impl Progress {
    pub fn start() -> Self {
        let started = Instant::now();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                running: BTreeMap::new(),
                next_id: 0,
                last_printed: started,
                closed: false,
            }),
            wake: Condvar::new(),
        });
        let ticker = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || tick(&shared)
        });
        Self {
            shared,
            started,
            ticker: Some(ticker),
        }
    }

    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Opens a part of the work.
    pub fn heading(&self, title: &str) {
        self.line(&format!("==> {title}  [{}]", human(self.elapsed())));
    }

    pub fn line(&self, text: &str) {
        let mut state = lock(&self.shared);
        state.last_printed = Instant::now();
        println!("{text}");
    }

    /// Runs one step and prints its line when it ends. A step that had nothing to do says so in its outcome.
    pub fn step<T>(
        &self,
        name: &str,
        log: Option<&Path>,
        work: impl FnOnce() -> Result<Outcome<T>>,
    ) -> Result<T> {
        let id = {
            let mut state = lock(&self.shared);
            let id = state.next_id;
            state.next_id += 1;
            let running = Running {
                name: name.to_owned(),
                since: Instant::now(),
                log: log.map(Path::to_path_buf),
            };
            state.running.insert(id, running);
            id
        };
        let since = Instant::now();
        let outcome = work();
        let mut state = lock(&self.shared);
        state.running.remove(&id);
        state.last_printed = Instant::now();
        match &outcome {
            Ok(done) => println!("    ok  {name:<34} {:>7}  {}", human(since.elapsed()), done.note),
            Err(_) => println!("    !!  {name:<34} {:>7}  failed", human(since.elapsed())),
        }
        outcome.map(|done| done.value)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        lock(&self.shared).closed = true;
        self.shared.wake.notify_all();
        if let Some(ticker) = self.ticker.take() {
            // A ticker that panicked has nothing left to say.
            let _ = ticker.join();
        }
    }
}

/// What a step did, in a few words beside its name.
#[derive(Debug)]
pub struct Outcome<T> {
    value: T,
    note: String,
}

impl<T> Outcome<T> {
    pub fn of(value: T, note: impl Into<String>) -> Self {
        Self {
            value,
            note: note.into(),
        }
    }
}

impl Outcome<()> {
    pub fn done(note: impl Into<String>) -> Self {
        Self::of((), note)
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    shared.state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tick(shared: &Shared) {
    let mut state = lock(shared);
    while !state.closed {
        let waited = shared.wake.wait_timeout(state, Duration::from_secs(1));
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        if state.running.is_empty() || state.last_printed.elapsed() < SILENCE {
            continue;
        }
        state.last_printed = Instant::now();
        for running in state.running.values() {
            let last = running
                .log
                .as_deref()
                .and_then(|log| last_lines(log, 1).pop())
                .unwrap_or_default();
            let last: String = last.trim().chars().take(LOG_WIDTH).collect();
            println!(
                "    ..  {:<34} {:>7}  {last}",
                running.name,
                human(running.since.elapsed())
            );
        }
    }
}

/// `0.4s`, `12s`, `4m05s`.
pub fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1}s", duration.as_secs_f64()),
        10..60 => format!("{seconds}s"),
        _ => format!("{}m{:02}s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        let cases = [
            (400, "0.4s"),
            (9_949, "9.9s"),
            (12_600, "12s"),
            (60_000, "1m00s"),
            (245_000, "4m05s"),
        ];
        for (millis, text) in cases {
            assert_eq!(human(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn a_step_hands_on_its_value_and_its_error() {
        let progress = Progress::start();
        assert_eq!(
            progress
                .step("adds", None, || Ok(Outcome::of(3, "done")))
                .unwrap(),
            3
        );
        let failed = progress
            .step::<()>("fails", None, || Err(crate::error::Error::new("no")))
            .unwrap_err();
        assert_eq!(failed.message(), "no");
        assert!(lock(&progress.shared).running.is_empty());
    }
}
