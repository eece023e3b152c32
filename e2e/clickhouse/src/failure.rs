//! What a client is told when a request fails: the server's error codes, their names and their HTTP status.

use std::fmt;

use hyper::StatusCode;

/// The codes that this program gives by itself. The engine's own errors keep their number as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    BadArguments,
    ChecksumDoesntMatch,
    CannotDecompress,
    NotImplemented,
    LogicalError,
    SyntaxError,
    UnknownSetting,
    CannotReadAllData,
    UnknownCompressionMethod,
    Readonly,
    QueryIsTooLarge,
    IntoOutfileNotAllowed,
    SessionNotFound,
    SessionIsLocked,
    InvalidSessionTimeout,
    CannotScheduleTask,
    AccessDenied,
    AuthenticationFailed,
    BadRequestParameter,
}

impl Code {
    fn number_and_name(self) -> (u32, &'static str) {
        match self {
            Self::BadArguments => (36, "BAD_ARGUMENTS"),
            Self::ChecksumDoesntMatch => (40, "CHECKSUM_DOESNT_MATCH"),
            Self::CannotDecompress => (271, "CANNOT_DECOMPRESS"),
            Self::NotImplemented => (48, "NOT_IMPLEMENTED"),
            Self::LogicalError => (49, "LOGICAL_ERROR"),
            Self::SyntaxError => (62, "SYNTAX_ERROR"),
            Self::UnknownSetting => (115, "UNKNOWN_SETTING"),
            Self::CannotReadAllData => (33, "CANNOT_READ_ALL_DATA"),
            Self::UnknownCompressionMethod => (89, "UNKNOWN_COMPRESSION_METHOD"),
            Self::Readonly => (164, "READONLY"),
            Self::QueryIsTooLarge => (229, "QUERY_IS_TOO_LARGE"),
            Self::IntoOutfileNotAllowed => (358, "INTO_OUTFILE_NOT_ALLOWED"),
            Self::SessionNotFound => (372, "SESSION_NOT_FOUND"),
            Self::SessionIsLocked => (373, "SESSION_IS_LOCKED"),
            Self::InvalidSessionTimeout => (374, "INVALID_SESSION_TIMEOUT"),
            Self::CannotScheduleTask => (439, "CANNOT_SCHEDULE_TASK"),
            Self::AccessDenied => (497, "ACCESS_DENIED"),
            Self::AuthenticationFailed => (516, "AUTHENTICATION_FAILED"),
            Self::BadRequestParameter => (408, "BAD_REQUEST_PARAMETER"),
        }
    }
}

/// A failed request: `Code: N. DB::Exception: … (NAME)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    number: u32,
    text: String,
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl fmt::Display) -> Self {
        let (number, name) = code.number_and_name();
        Self {
            number,
            text: format!("Code: {number}. DB::Exception: {message}. ({name})"),
        }
    }

    /// The engine's own text, which begins with its code; one that does not is a logical error.
    pub(crate) fn from_engine(text: String) -> Self {
        let number = text
            .strip_prefix("Code: ")
            .and_then(|rest| rest.split_once('.'))
            .and_then(|(number, _)| number.parse().ok());
        match number {
            Some(number) => Self { number, text },
            None => Self::new(Code::LogicalError, text),
        }
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The text as the server sends it, with the engine's version at the end.
    pub(crate) fn body(&self, version: &str) -> String {
        let text = self.text.trim_end();
        if text.contains("(version ") {
            format!("{text}\n")
        } else {
            format!("{text} (version {version})\n")
        }
    }

    /// The server's mapping from error code to HTTP status (`exceptionCodeToHTTPStatus`); the numbers are those that
    /// `errorCodeToName` gives in engine 26.7.2.
    pub(crate) fn status(&self) -> StatusCode {
        match self.number {
            194 => StatusCode::UNAUTHORIZED,
            192 | 193 | 497 | 512 | 516 => StatusCode::FORBIDDEN,
            6 | 8 | 15 | 25 | 26 | 27 | 36 | 37 | 38 | 41 | 44 | 53 | 62 | 72 | 117 | 123 | 167 | 168
            | 223 | 321 | 376 | 427 | 441 | 675 | 676 => StatusCode::BAD_REQUEST,
            46 | 47 | 50 | 56 | 60 | 63 | 73 | 78 | 81 | 115 | 152 | 336 | 511 => StatusCode::NOT_FOUND,
            229 => StatusCode::PAYLOAD_TOO_LARGE,
            48 => StatusCode::NOT_IMPLEMENTED,
            76 | 209 | 439 => StatusCode::SERVICE_UNAVAILABLE,
            779 => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            381 => StatusCode::LENGTH_REQUIRED,
            159 => StatusCode::REQUEST_TIMEOUT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}
