//! What a request's head says beside its key. Pure.

use http::HeaderMap;
use http::header::{CONTENT_TYPE, USER_AGENT};

/// A header that names a request, so that its events get the same ids on every retry.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
const IDEMPOTENCY_KEY_LIMIT: usize = 255;
const USER_AGENT_LIMIT: usize = 512;

/// The request's own name, if it has one of a sensible length.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Option<&str> {
    let key = headers.get(IDEMPOTENCY_KEY)?.to_str().ok()?;
    (1..=IDEMPOTENCY_KEY_LIMIT).contains(&key.len()).then_some(key)
}

/// Whether the body says that it is one event a line.
pub(crate) fn is_ndjson(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    let kind = kind.split(';').next().unwrap_or("").trim();
    [
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "application/x-jsonlines",
    ]
    .iter()
    .any(|known| kind.eq_ignore_ascii_case(known))
}

/// The client's name for itself; the rest is cut.
pub(crate) fn user_agent(headers: &HeaderMap) -> &str {
    let text = headers
        .get(USER_AGENT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    text.get(..USER_AGENT_LIMIT).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn ndjson_is_told_by_its_content_type() {
        for (kind, expected) in [
            ("application/x-ndjson", true),
            ("application/JSONL; charset=utf-8", true),
            ("application/json", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            assert_eq!(is_ndjson(&headers), expected, "{kind}");
        }
    }

    #[test]
    fn a_request_may_have_a_name_of_its_own() {
        let long = "k".repeat(256);
        for (value, expected) in [
            (None, None),
            (Some("k-1"), Some("k-1")),
            (Some(""), None),
            (Some(&*long), None),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_str(value).unwrap());
            }
            assert_eq!(idempotency_key(&headers), expected, "{value:?}");
        }
    }
}
