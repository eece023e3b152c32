//! What went wrong with a request to ClickHouse, and what that means for the batch.
//!
//! Only errors that the data itself causes may send a row to the dead letters, and only those that are known to be
//! of that kind: anything else is tried again with the same bytes, however long it takes.

use std::fmt;

/// The closed set of what can go wrong; a label of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// No connection, or it broke: the outcome is unknown.
    Unreachable,
    /// No answer in time: the outcome is unknown.
    Timeout,
    /// The request was ended by this process before all of it was sent: nothing is stored.
    Cut,
    /// Too many parts, queries or bytes of memory.
    Overloaded,
    /// The disk is full.
    DiskFull,
    /// The server or the table takes no writes.
    ReadOnly,
    /// Wrong user or password, or a missing grant.
    Denied,
    /// The database, the table or a column is not what the consumer writes to.
    Schema,
    /// The data itself.
    Data,
    /// Anything else that the server reports.
    Server,
}

impl Class {
    pub const ALL: [Self; 10] = [
        Self::Unreachable,
        Self::Timeout,
        Self::Cut,
        Self::Overloaded,
        Self::DiskFull,
        Self::ReadOnly,
        Self::Denied,
        Self::Schema,
        Self::Data,
        Self::Server,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Cut => "cut",
            Self::Overloaded => "overloaded",
            Self::DiskFull => "disk_full",
            Self::ReadOnly => "read_only",
            Self::Denied => "denied",
            Self::Schema => "schema",
            Self::Data => "data",
            Self::Server => "server",
        }
    }

    /// By ClickHouse's error code (`ErrorCodes.cpp`).
    pub const fn of_code(code: u32) -> Self {
        match code {
            // NETWORK_ERROR, UNKNOWN_STATUS_OF_INSERT, ABORTED, QUERY_WAS_CANCELLED
            210 | 319 | 236 | 394 => Self::Unreachable,
            // TIMEOUT_EXCEEDED, SOCKET_TIMEOUT
            159 | 209 => Self::Timeout,
            // TOO_MANY_SIMULTANEOUS_QUERIES, MEMORY_LIMIT_EXCEEDED, TOO_MANY_PARTS, QUOTA_EXCEEDED
            202 | 241 | 252 | 201 => Self::Overloaded,
            // NOT_ENOUGH_SPACE, CANNOT_WRITE_TO_FILE_DESCRIPTOR
            243 | 75 => Self::DiskFull,
            // READONLY, TABLE_IS_READ_ONLY
            164 | 242 => Self::ReadOnly,
            // UNKNOWN_USER, WRONG_PASSWORD, REQUIRED_PASSWORD, ACCESS_DENIED, AUTHENTICATION_FAILED
            192..=194 | 497 | 516 => Self::Denied,
            // NO_SUCH_COLUMN_IN_TABLE, UNKNOWN_IDENTIFIER, TYPE_MISMATCH, UNKNOWN_TABLE, UNKNOWN_DATABASE,
            // THERE_IS_NO_COLUMN, ILLEGAL_COLUMN, UNKNOWN_SETTING, CANNOT_CONVERT_TYPE
            16 | 47 | 53 | 60 | 81 | 8 | 44 | 115 | 70 => Self::Schema,
            // CANNOT_PARSE_*, ARGUMENT_OUT_OF_BOUND, INCORRECT_DATA, TOO_LARGE_STRING_SIZE, TOO_LARGE_ARRAY_SIZE,
            // VIOLATED_CONSTRAINT, FUNCTION_THROW_IF_VALUE_IS_NON_ZERO, DECIMAL_OVERFLOW,
            // VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
            6 | 26 | 27 | 38 | 41 | 72 | 69 | 117 | 131 | 128 | 469 | 395 | 407 | 321 => Self::Data,
            _ => Self::Server,
        }
    }
}

/// A request that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub class: Class,
    /// ClickHouse's error code, where it sent one.
    pub code: Option<u32>,
    /// A sentence for a person; no secret is in it.
    pub detail: String,
}

impl Failure {
    pub fn new(class: Class, detail: impl Into<String>) -> Self {
        Self {
            class,
            code: None,
            detail: detail.into(),
        }
    }

    /// From an answer that is no success: the code comes in a header or at the beginning of the text.
    pub fn from_answer(status: u16, header: Option<&str>, body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        let code = header.and_then(|code| code.trim().parse().ok()).or_else(|| {
            let (_, rest) = text.split_once("Code: ")?;
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        });
        let class = match (code, status) {
            (Some(code), _) => Class::of_code(code),
            (None, 401 | 403) => Class::Denied,
            (None, 408 | 504) => Class::Timeout,
            (None, 429 | 502 | 503) => Class::Overloaded,
            (None, _) => Class::Server,
        };
        let line = text.lines().next().unwrap_or("").trim();
        let detail = match line.char_indices().nth(400) {
            Some((end, _)) => format!("{}…", &line[..end]),
            None if line.is_empty() => format!("HTTP {status} without a reason"),
            None => line.to_owned(),
        };
        Self { class, code, detail }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.class.name(), self.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_decides_wherever_it_stands() {
        let poison =
            b"Code: 469. DB::Exception: Constraint `c` for table t is violated (VIOLATED_CONSTRAINT)";
        for (status, header, body, class, code) in [
            (
                500,
                Some("252"),
                &b"Too many parts"[..],
                Class::Overloaded,
                Some(252),
            ),
            (400, None, &poison[..], Class::Data, Some(469)),
            (
                404,
                None,
                &b"Code: 60. DB::Exception: no table"[..],
                Class::Schema,
                Some(60),
            ),
            (500, None, &b"Code: 243."[..], Class::DiskFull, Some(243)),
            // Of a replicated table without its Keeper.
            (
                500,
                None,
                &b"Code: 242. DB::Exception: Table is in readonly mode"[..],
                Class::ReadOnly,
                Some(242),
            ),
            (403, None, &b"no"[..], Class::Denied, None),
            (503, None, &b""[..], Class::Overloaded, None),
            (500, None, &b"?"[..], Class::Server, None),
            (400, Some("99999"), &b""[..], Class::Server, Some(99999)),
        ] {
            let failure = Failure::from_answer(status, header, body);
            assert_eq!((failure.class, failure.code), (class, code), "{status} {body:?}");
        }
        assert_eq!(
            Failure::from_answer(500, None, b"").detail,
            "HTTP 500 without a reason"
        );
        let long = "ä".repeat(1000);
        assert_eq!(
            Failure::from_answer(500, None, long.as_bytes())
                .detail
                .chars()
                .count(),
            401
        );
    }
}
