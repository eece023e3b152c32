//! What a request's head says beside its key. Pure.

use std::net::IpAddr;

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

/// The first address a proxy tells, else the peer's. It is stored, never trusted.
pub(crate) fn client_address(headers: &HeaderMap, peer: IpAddr) -> String {
    let forwarded = headers
        .get("x-forwarded-for")
        .and_then(|value| value.to_str().ok());
    let first = forwarded
        .and_then(|list| list.split(',').next())
        .and_then(|one| one.trim().parse::<IpAddr>().ok());
    first.unwrap_or(peer).to_canonical().to_string()
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
    fn the_address_is_the_first_that_a_proxy_tells() {
        let peer: IpAddr = "10.0.0.1".parse().unwrap();
        for (forwarded, expected) in [
            (None, "10.0.0.1"),
            (Some("203.0.113.7"), "203.0.113.7"),
            (Some("203.0.113.7, 10.0.0.9"), "203.0.113.7"),
            (Some("2001:db8::1"), "2001:db8::1"),
            (Some("::ffff:203.0.113.7"), "203.0.113.7"),
            (Some("\"x"), "10.0.0.1"),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(value) = forwarded {
                headers.insert("x-forwarded-for", HeaderValue::from_static(value));
            }
            assert_eq!(client_address(&headers, peer), expected, "{forwarded:?}");
        }
    }

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
