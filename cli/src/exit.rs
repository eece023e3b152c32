//! How a command ends: what it says when it fails, and the code that a script sees.

use std::io;

/// Why a command failed. Every message is a sentence that says what to do, where something can be done.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Kubernetes, Kafka or ClickHouse refused, or something broke.
    #[error("{0}")]
    Failed(String),
    /// What was asked for cannot be done as it was written.
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    NotFound(String),
    /// The API server, Kafka or ClickHouse.
    #[error("{0}")]
    Unreachable(String),
    /// Who read the output has seen enough.
    #[error("the output was closed")]
    OutputClosed,
}

pub type Result<T> = std::result::Result<T, Failure>;

/// How a command ended that did what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Done,
    /// Something that was shown is not Ready.
    NotReady,
    /// A letter that was named cannot be replayed.
    NotReplayable,
    /// The tables are not as the resource says, or something is under way.
    NotAsAsked,
}

impl End {
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::NotReady => 5,
            Self::NotReplayable => 6,
            Self::NotAsAsked => 7,
        }
    }
}

impl Failure {
    /// One of the same kind, and so with the same code, that says something else.
    pub fn instead(&self, text: String) -> Self {
        match self {
            Self::Failed(_) => Self::Failed(text),
            Self::Usage(_) => Self::Usage(text),
            Self::NotFound(_) => Self::NotFound(text),
            Self::Unreachable(_) => Self::Unreachable(text),
            Self::OutputClosed => Self::OutputClosed,
        }
    }

    pub const fn code(&self) -> u8 {
        match self {
            Self::OutputClosed => 0,
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::NotFound(_) => 3,
            Self::Unreachable(_) => 4,
        }
    }
}

/// After SIGINT, as a shell says it too of a program that the signal itself has ended.
pub const INTERRUPTED: u8 = 130;
/// After SIGTERM.
pub const TERMINATED: u8 = 143;

/// The codes and their meanings, for the reference.
pub const CODES: [(u8, &str); 10] = [
    (0, "it did what it was told"),
    (
        1,
        "it failed: Kubernetes, Kafka or ClickHouse refused something, or a record cannot be read by this version",
    ),
    (2, "it was called wrongly"),
    (
        3,
        "what was named does not exist: a pipeline, its topic or table, an App, a column or rollup, a letter",
    ),
    (
        4,
        "the API server, Kafka or ClickHouse cannot be reached from here",
    ),
    (5, "`status`: something that was shown is not Ready"),
    (
        6,
        "`dlq replay`: a letter that was named cannot be replayed; the others were",
    ),
    (
        7,
        "`schema status` and `plan`: the tables are not as asked, or a change is under way",
    ),
    (
        INTERRUPTED,
        "Ctrl-C (SIGINT) ended it; the first one while `replay` has consumers stopped only has it start them again",
    ),
    (TERMINATED, "SIGTERM ended it; with the same exception"),
];

/// From an error of writing the output.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Failed(format!("the output cannot be written: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scripts know them by their numbers.
    #[test]
    fn codes_are_those_of_the_reference() {
        let said = String::new;
        for (code, of, meaning) in [
            (0, End::Done.code(), "it did what it was told"),
            (0, Failure::OutputClosed.code(), "it did what it was told"),
            (1, Failure::Failed(said()).code(), "it failed"),
            (2, Failure::Usage(said()).code(), "it was called wrongly"),
            (
                3,
                Failure::NotFound(said()).code(),
                "what was named does not exist",
            ),
            (
                4,
                Failure::Unreachable(said()).code(),
                "the API server, Kafka or ClickHouse cannot be reached",
            ),
            (
                5,
                End::NotReady.code(),
                "`status`: something that was shown is not Ready",
            ),
            (
                6,
                End::NotReplayable.code(),
                "`dlq replay`: a letter that was named cannot be replayed",
            ),
            (
                7,
                End::NotAsAsked.code(),
                "`schema status` and `plan`: the tables are not as asked",
            ),
            (130, INTERRUPTED, "Ctrl-C (SIGINT) ended it"),
            (143, TERMINATED, "SIGTERM ended it"),
        ] {
            assert_eq!(of, code, "{meaning}");
            let told = CODES
                .iter()
                .find(|(told, _)| *told == code)
                .map(|(_, told)| *told);
            assert!(
                told.is_some_and(|told| told.starts_with(meaning)),
                "{code}: {told:?}"
            );
        }
    }
}
