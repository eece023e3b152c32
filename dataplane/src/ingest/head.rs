//! What a request's head says beside its key. Pure.

use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue};

/// A header that names a request, so that its events get the same ids on every retry.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
const IDEMPOTENCY_KEY_LIMIT: usize = 255;

/// The request's own name, if it has one of a sensible length.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Option<&str> {
    let key = headers.get(IDEMPOTENCY_KEY)?.to_str().ok()?;
    (1..=IDEMPOTENCY_KEY_LIMIT).contains(&key.len()).then_some(key)
}

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REQUEST_ID_LIMIT: usize = 128;

/// The name that the client, or a proxy before us, has given the request; it goes into the log, so only plain ones.
pub(crate) fn request_id(headers: &HeaderMap) -> Option<&HeaderValue> {
    let id = headers.get(REQUEST_ID)?;
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(byte);
    let bytes = id.as_bytes();
    ((1..=REQUEST_ID_LIMIT).contains(&bytes.len()) && bytes.iter().all(plain)).then_some(id)
}

/// A name for a request that has none: 32 hex digits.
pub(crate) fn new_request_id(random: u128) -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0u8; 32];
    for (index, digit) in text.iter_mut().enumerate() {
        *digit = DIGITS[(random >> (4 * index) & 0xf) as usize];
    }
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("-"))
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

#[cfg(test)]
mod tests {
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
    fn a_plain_request_id_is_taken() {
        let long = "x".repeat(129);
        for (value, taken) in [
            ("0193f1c2-7b3e", true),
            ("a/b+c=d@e:f_g.h", true),
            (&long[1..], true),
            (&*long, false),
            ("", false),
            ("a b", false),
            ("a\"b", false),
            ("\u{e9}", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            assert_eq!(request_id(&headers).is_some(), taken, "{value}");
        }
        assert_eq!(new_request_id(0x1f), "f1000000000000000000000000000000");
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
