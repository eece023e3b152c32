//! Where results go: to standard output, as a table for people or as JSON or YAML for programs.
//!
//! Only results go there. What is said about them, as "no dead letters" or how far a long read has come, goes to
//! standard error, so that a pipe gets nothing else.

use std::cell::RefCell;
use std::fmt::Arguments;
use std::io::{self, BufWriter, IsTerminal as _, Stderr, Write};
use std::pin::pin;
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
    write(text(format, value, table)?.as_bytes())
}

fn text<T: Serialize>(format: Format, value: &T, table: impl FnOnce(&T) -> String) -> Result<String> {
    Ok(match format {
        Format::Table => table(value),
        Format::Json => serde_json::to_string_pretty(value).map_err(|error| unwritable(&error))? + "\n",
        Format::Yaml => yaml(value)?,
    })
}

/// A document of YAML, with its last line break.
pub fn yaml<T: Serialize>(value: &T) -> Result<String> {
    serde_yaml::to_string(value).map_err(|error| unwritable(&error))
}

fn unwritable(error: &dyn std::fmt::Display) -> Failure {
    Failure::Failed(format!("the result cannot be written: {error}"))
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

/// What is said while something takes long: one line on standard error, written over again and again, and removed at the
/// end.
#[derive(Debug)]
struct Line<W: Write = Stderr> {
    /// None where nobody looks: standard error is no terminal.
    out: Option<W>,
    shown: bool,
}

impl Line {
    fn of_the_terminal() -> Self {
        let out = io::stderr();
        Self::on(out.is_terminal().then_some(out))
    }
}

impl<W: Write> Line<W> {
    fn on(out: Option<W>) -> Self {
        Self { out, shown: false }
    }

    fn show(&mut self, text: Arguments<'_>) {
        if let Some(out) = &mut self.out {
            self.shown = true;
            let _ = write!(out, "\r\x1b[K{text}");
        }
    }

    fn remove(&mut self) {
        if let Some(out) = &mut self.out
            && self.shown
        {
            self.shown = false;
            let _ = write!(out, "\r\x1b[K");
        }
    }
}

impl<W: Write> Drop for Line<W> {
    fn drop(&mut self) {
        self.remove();
    }
}

/// How far a long read has come.
#[derive(Debug)]
pub struct Progress<W: Write = Stderr> {
    done: u64,
    of: u64,
    line: Line<W>,
    due: Instant,
}

/// What takes less time shows nothing.
const PATIENCE: Duration = Duration::from_millis(700);
const EVERY: Duration = Duration::from_millis(200);

impl Progress {
    /// Of a read of so many records.
    pub fn new(of: u64) -> Self {
        Self::on(Line::of_the_terminal(), of, Instant::now() + PATIENCE)
    }
}

impl<W: Write> Progress<W> {
    fn on(line: Line<W>, of: u64, due: Instant) -> Self {
        Self {
            done: 0,
            of,
            line,
            due,
        }
    }

    /// One more was read.
    pub fn record(&mut self) {
        self.done += 1;
        let now = Instant::now();
        if now >= self.due {
            self.due = now + EVERY;
            self.line
                .show(format_args!("Reading: {} of {} records", self.done, self.of));
        }
    }
}

/// Waiting for others: what for, and for how long already.
#[derive(Debug)]
pub struct Waiting<W: Write = Stderr> {
    began: Instant,
    limit: Duration,
    line: Line<W>,
}

const POLL: Duration = Duration::from_secs(1);

impl Waiting {
    /// For so long at most.
    pub fn new(limit: Duration) -> Self {
        Self::on(Line::of_the_terminal(), Instant::now(), limit)
    }
}

impl<W: Write> Waiting<W> {
    fn on(line: Line<W>, began: Instant, limit: Duration) -> Self {
        Self { began, limit, line }
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
        if waited >= PATIENCE {
            self.line.show(format_args!("{what}, {}", age(waited)));
        }
        tokio::time::sleep(POLL).await;
        Ok(())
    }
}

/// What takes long and says nothing of its course: what it is, and how long it takes already.
#[derive(Debug)]
pub struct Ongoing<W: Write = Stderr> {
    line: RefCell<Line<W>>,
    /// Results go to a terminal, which is taken for the same one.
    among_results: bool,
}

impl Ongoing {
    pub fn begin() -> Self {
        Self::on(Line::of_the_terminal(), io::stdout().is_terminal())
    }
}

impl<W: Write> Ongoing<W> {
    fn on(line: Line<W>, among_results: bool) -> Self {
        Self {
            line: RefCell::new(line),
            among_results,
        }
    }

    /// Does the job; `what` is asked again and again for a phrase such as `Reading growth.events: 3 rows so far`.
    pub async fn during<T>(&self, what: impl Fn() -> String, job: impl Future<Output = T>) -> T {
        let began = Instant::now();
        let mut job = pin!(job);
        let mut quiet = PATIENCE;
        loop {
            if let Ok(done) = tokio::time::timeout(quiet, job.as_mut()).await {
                self.line.borrow_mut().remove();
                return done;
            }
            let mut line = self.line.borrow_mut();
            line.show(format_args!("{}, {}", what(), age(began.elapsed())));
            quiet = POLL;
        }
    }

    /// Results are printed from now on. On the same terminal they say enough, and the line would overwrite them.
    pub fn results(&self) {
        if self.among_results {
            let mut line = self.line.borrow_mut();
            line.remove();
            line.out = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_get_the_same_in_json_and_in_yaml() {
        // What a reader of YAML might take for something else than text.
        let value = serde_json::json!({
            "name": "no", "version": "1.0", "at": "2026-11-28", "text": "a: b\n- \u{1b}[2J", "none": null,
            "list": [{"offset": 9_007_199_254_740_993_u64}, {}, []],
        });
        let as_json = text(Format::Json, &value, |_| unreachable!("no table")).unwrap();
        let as_yaml = text(Format::Yaml, &value, |_| unreachable!("no table")).unwrap();
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&as_json).unwrap(),
            value
        );
        assert_eq!(
            serde_yaml::from_str::<serde_json::Value>(&as_yaml).unwrap(),
            value,
            "{as_yaml}"
        );
        assert_ne!(as_json, as_yaml);
        assert!(
            as_yaml.ends_with('\n') && !as_yaml.contains('\u{1b}'),
            "{as_yaml}"
        );
        assert_eq!(
            text(Format::Table, &value, |_| "people\n".into()).unwrap(),
            "people\n"
        );
    }

    #[test]
    fn a_long_read_shows_how_far_it_is_and_leaves_nothing() {
        let mut said = Vec::new();
        let now = Instant::now();
        let mut progress = Progress::on(Line::on(Some(&mut said)), 3, now);
        progress.record();
        // At once: it is not written over for each record.
        progress.due = now + Duration::from_secs(60);
        progress.record();
        progress.due = now;
        progress.record();
        drop(progress);
        assert_eq!(
            String::from_utf8(said).unwrap(),
            "\r\x1b[KReading: 1 of 3 records\r\x1b[KReading: 3 of 3 records\r\x1b[K"
        );
    }

    #[test]
    fn what_is_over_soon_shows_nothing() {
        let mut said = Vec::new();
        let mut progress = Progress::on(Line::on(Some(&mut said)), 1, Instant::now() + PATIENCE);
        progress.record();
        drop(progress);
        assert_eq!(said, b"");
    }

    #[tokio::test]
    async fn waiting_says_what_for_and_ends() {
        let mut said = Vec::new();
        let began = Instant::now().checked_sub(Duration::from_secs(70)).unwrap();
        let mut waiting = Waiting::on(Line::on(Some(&mut said)), began, Duration::from_secs(3600));
        waiting.tick("3 parts are to be rewritten", "").await.unwrap();
        waiting.limit = Duration::from_secs(60);
        let over = waiting.tick("2 parts are to be rewritten", "run it again").await;
        assert_eq!(
            over.unwrap_err().to_string(),
            "after 1m 2 parts are to be rewritten; run it again"
        );
        drop(waiting);
        assert_eq!(
            String::from_utf8(said).unwrap(),
            "\r\x1b[K3 parts are to be rewritten, 1m10s\r\x1b[K"
        );
    }

    /// What is seen of a job that prints results once it was asked how far it is, and ends when it was asked again.
    async fn seen(among_results: bool) -> Vec<String> {
        let mut said = Vec::new();
        let ongoing = Ongoing::on(Line::on(Some(&mut said)), among_results);
        let (rows, asked) = (std::cell::Cell::new(0), tokio::sync::Notify::new());
        let job = async {
            asked.notified().await;
            ongoing.results();
            rows.set(5);
            asked.notified().await;
            "done"
        };
        let what = || {
            asked.notify_one();
            format!("{} rows", rows.get())
        };
        assert_eq!(ongoing.during(what, job).await, "done");
        drop(ongoing);
        let said = String::from_utf8(said).unwrap();
        // How long it took is not told here.
        let line = |line: &str| line.split(',').next().unwrap_or_default().to_owned();
        said.split("\r\x1b[K").map(line).collect()
    }

    #[tokio::test]
    async fn what_is_silent_shows_that_it_goes_on() {
        assert_eq!(seen(false).await, ["", "0 rows", "5 rows", ""]);
        // Results on the same terminal are not written over.
        assert_eq!(seen(true).await, ["", "0 rows", ""]);
    }
}
