//! What went wrong, where its log is, and the next step to take.
//!
//! Invariant: an error that reaches a person says what to do next, unless the message says it already.

use std::fmt;
use std::path::{Path, PathBuf};

pub type Result<T> = std::result::Result<T, Error>;

/// How many of a log's last lines an error shows.
const LOG_LINES: usize = 12;

#[derive(Debug, Clone)]
pub struct Error {
    message: String,
    log: Option<PathBuf>,
    next: Option<String>,
}

impl Error {
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            log: None,
            next: None,
        }
    }

    /// The log whose last lines explain the error.
    #[must_use]
    pub fn log(mut self, path: impl Into<PathBuf>) -> Self {
        self.log = Some(path.into());
        self
    }

    /// What to do about it.
    #[must_use]
    pub fn next(mut self, step: impl Into<String>) -> Self {
        self.next = Some(step.into());
        self
    }

    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        if let Some(log) = &self.log {
            let lines = last_lines(log, LOG_LINES);
            if lines.is_empty() {
                write!(f, "\n  its log is empty: {}", log.display())?;
            } else {
                write!(f, "\n  last lines of {}:", log.display())?;
                for line in lines {
                    write!(f, "\n    | {line}")?;
                }
            }
        }
        if let Some(next) = &self.next {
            write!(f, "\n  next: {next}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// Names what was being done when an I/O call failed.
pub trait Context<T> {
    fn doing(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn doing(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Error::new(format!("{what}: {error}")))
    }
}

/// The last `count` lines of a file; none when it cannot be read.
pub fn last_lines(path: &Path, count: usize) -> Vec<String> {
    let Ok(bytes) = std::fs::read(path) else {
        return Vec::new();
    };
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..]
        .iter()
        .map(|line| (*line).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_the_end_of_its_log_and_the_next_step() {
        let dir = std::env::temp_dir().join(format!("penstock-error-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let log = dir.join("x.log");
        let text: String = (0..40).map(|n| format!("line {n}\n")).collect();
        std::fs::write(&log, text).unwrap();
        let shown = Error::new("redis did not start")
            .log(&log)
            .next("./e2e/kit logs redis")
            .to_string();
        assert!(shown.starts_with("redis did not start\n"), "{shown}");
        assert!(
            shown.contains("| line 39") && shown.contains("| line 28") && !shown.contains("line 27"),
            "{shown}"
        );
        assert!(shown.ends_with("next: ./e2e/kit logs redis"), "{shown}");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
