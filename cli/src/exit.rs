//! How a command ends: what it says when it fails, and the code that a script sees.

use std::io;
use std::process::ExitCode;

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

impl From<End> for ExitCode {
    fn from(end: End) -> Self {
        Self::from(match end {
            End::Done => 0,
            End::NotReady => 5,
            End::NotReplayable => 6,
            End::NotAsAsked => 7,
        })
    }
}

impl Failure {
    pub fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::OutputClosed => 0,
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::NotFound(_) => 3,
            Self::Unreachable(_) => 4,
        })
    }
}

/// The codes and their meanings, for the reference.
pub const CODES: [(u8, &str); 8] = [
    (0, "it did what it was told"),
    (
        1,
        "it failed: Kubernetes, Kafka or ClickHouse refused something, or a record cannot be read by this version",
    ),
    (2, "it was called wrongly"),
    (
        3,
        "what was named does not exist: the pipeline, its topic, the letter",
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
