//! Where results go: to standard output, as a table for people or as JSON or YAML for programs.
//!
//! Only results go there. What is said about them, as "no dead letters" or how far a long read has come, goes to
//! standard error, so that a pipe gets nothing else.

use std::io::{self, BufWriter, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde::Serialize;

use crate::exit::{Failure, Result};
use crate::text::age;

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    Json,
    Yaml,
}

/// Prints a value as `format` says; `table` is what a person gets.
pub fn print<T: Serialize>(format: Format, value: &T, table: impl FnOnce(&T) -> String) -> Result<()> {
    let failed =
        |error: &dyn std::fmt::Display| Failure::Failed(format!("the result cannot be written: {error}"));
    let text = match format {
        Format::Table => table(value),
        Format::Json => serde_json::to_string_pretty(value).map_err(|error| failed(&error))? + "\n",
        Format::Yaml => serde_yaml::to_string(value).map_err(|error| failed(&error))?,
    };
    write(text.as_bytes())
}

/// Writes bytes as they are.
pub fn write(bytes: &[u8]) -> Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    out.write_all(bytes)?;
    out.flush()?;
    Ok(())
}

/// Says something to the person, beside the result.
pub fn note(text: &str) {
    // Nobody listens: then nobody misses it.
    let _ = writeln!(io::stderr(), "{text}");
}

/// How far a long read has come: one line on standard error, written over again and again, and removed at the end. Silent
/// where standard error is no terminal.
#[derive(Debug)]
pub struct Progress {
    done: u64,
    of: u64,
    terminal: bool,
    shown: bool,
    due: Instant,
}

/// What takes less time shows nothing.
const PATIENCE: Duration = Duration::from_millis(700);
const EVERY: Duration = Duration::from_millis(200);

impl Progress {
    /// Of a read of so many records.
    pub fn new(of: u64) -> Self {
        Self {
            done: 0,
            of,
            terminal: io::stderr().is_terminal(),
            shown: false,
            due: Instant::now() + PATIENCE,
        }
    }

    /// One more was read.
    pub fn record(&mut self) {
        self.done += 1;
        let now = Instant::now();
        if self.terminal && now >= self.due {
            (self.shown, self.due) = (true, now + EVERY);
            let _ = write!(
                io::stderr(),
                "\r\x1b[KReading: {} of {} records",
                self.done,
                self.of
            );
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// Waiting for others: what for, and for how long already, on the line of standard error that [`Progress`] uses. Silent
/// where that is no terminal.
#[derive(Debug)]
pub struct Waiting {
    began: Instant,
    limit: Duration,
    terminal: bool,
    shown: bool,
}

const POLL: Duration = Duration::from_secs(1);

impl Waiting {
    /// For so long at most.
    pub fn new(limit: Duration) -> Self {
        Self {
            began: Instant::now(),
            limit,
            terminal: io::stderr().is_terminal(),
            shown: false,
        }
    }

    /// Waits a moment more for `what`, a phrase such as `3 parts are to be rewritten`. When the time is over, it says so, and
    /// with `then` what comes of it.
    pub async fn tick(&mut self, what: &str, then: &str) -> Result<()> {
        let waited = self.began.elapsed();
        if waited > self.limit {
            return Err(Failure::Failed(format!(
                "after {} {what}; {then}",
                age(self.limit)
            )));
        }
        if self.terminal && waited >= PATIENCE {
            self.shown = true;
            let _ = write!(io::stderr(), "\r\x1b[K{what}, {}", age(waited));
        }
        tokio::time::sleep(POLL).await;
        Ok(())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
