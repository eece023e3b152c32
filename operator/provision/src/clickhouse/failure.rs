//! From the client's errors to why provisioning failed.

use clickhouse::error::Error;

use super::super::error::{ProvisionError, Service};

/// A message longer than this says nothing more to a person; ClickHouse may append a whole query.
const LONGEST: usize = 600;

pub(super) fn of(url: &str, error: &Error) -> ProvisionError {
    match error {
        Error::BadResponse(text) => answered(url, text),
        Error::Network(source) => {
            // The outer error says "client error (Connect)", the inner one what happened.
            let mut cause: &dyn std::error::Error = source.as_ref();
            while let Some(inner) = cause.source() {
                cause = inner;
            }
            unavailable(url, cause.to_string())
        }
        Error::TimedOut => unavailable(url, "no answer in time"),
        other => ProvisionError::Rejected {
            service: Service::ClickHouse,
            detail: shortened(&other.to_string()),
        },
    }
}

pub(super) fn unavailable(url: &str, detail: impl Into<String>) -> ProvisionError {
    ProvisionError::Unavailable {
        service: Service::ClickHouse,
        address: url.into(),
        detail: detail.into(),
    }
}

/// The number of ClickHouse's own error.
pub(super) fn code(error: &Error) -> Option<u32> {
    match error {
        Error::BadResponse(text) => code_in(text),
        _ => None,
    }
}

fn code_in(text: &str) -> Option<u32> {
    let number = text.split_once("Code: ")?.1;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn answered(url: &str, text: &str) -> ProvisionError {
    match code_in(text) {
        Some(code) if !passes(code) => ProvisionError::Rejected {
            service: Service::ClickHouse,
            detail: shortened(text),
        },
        // Overloaded, or not ClickHouse at all: something in front of it that has lost it.
        _ => unavailable(url, shortened(text)),
    }
}

/// Whether a failure goes by itself.
fn passes(code: u32) -> bool {
    matches!(
        code,
        159   // TIMEOUT_EXCEEDED
        | 202 // TOO_MANY_SIMULTANEOUS_QUERIES
        | 209 // SOCKET_TIMEOUT
        | 210 // NETWORK_ERROR
        | 225 // NO_ZOOKEEPER
        | 236 // ABORTED: the server is stopping
        | 241 // MEMORY_LIMIT_EXCEEDED
        | 242 // TABLE_IS_READ_ONLY: a replica without its keeper
        | 394 // QUERY_WAS_CANCELLED
        | 473 // DEADLOCK_AVOIDED
        | 517 // CANNOT_ASSIGN_ALTER: a replica has not caught up with the change before
        | 999 // KEEPER_EXCEPTION
    )
}

fn shortened(text: &str) -> String {
    let text = text.trim();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use penstock_crds::Reason;

    use super::*;

    #[test]
    fn answers_are_told_from_silence() {
        let refused = "Code: 497. DB::Exception: default: Not enough privileges. (ACCESS_DENIED)";
        for (error, reason) in [
            (Error::BadResponse(refused.into()), Reason::ClickHouseRejected),
            (
                Error::BadResponse("Code: 241. DB::Exception: memory".into()),
                Reason::ClickHouseUnavailable,
            ),
            (
                Error::BadResponse("502 Bad Gateway".into()),
                Reason::ClickHouseUnavailable,
            ),
            (Error::TimedOut, Reason::ClickHouseUnavailable),
            (
                Error::Network("connection refused".into()),
                Reason::ClickHouseUnavailable,
            ),
            (Error::NotEnoughData, Reason::ClickHouseRejected),
        ] {
            assert_eq!(of("http://c:8123", &error).reason(), reason, "{error}");
        }
        assert_eq!(code(&Error::BadResponse(refused.into())), Some(497));
        assert_eq!(code(&Error::TimedOut), None);
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let long = format!("Code: 62. {}", "ö".repeat(2000));
        let text = of("http://c:8123", &Error::BadResponse(long)).to_string();
        assert!(text.ends_with('…') && text.chars().count() < 700);
    }
}
