//! Where a request carries its key. Pure; the key is looked up by [`super::apps`].

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;

/// The key of a request's head: Bearer, the user of Basic, `X-API-Key`, or `writeKey` in the query, in this order.
pub(crate) fn of_head<'r>(headers: &'r HeaderMap, query: Option<&'r str>) -> Option<Cow<'r, str>> {
    if let Some(value) = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok())
        && let Some(key) = of_authorization(value)
    {
        return Some(key);
    }
    if let Some(key) = headers.get("x-api-key").and_then(|value| value.to_str().ok()) {
        return not_empty(Cow::Borrowed(key.trim()));
    }
    query?
        .split('&')
        .find_map(|pair| pair.strip_prefix("writeKey="))
        .map(percent_decoded)
        .and_then(not_empty)
}

fn of_authorization(value: &str) -> Option<Cow<'_, str>> {
    let (scheme, credentials) = value.trim().split_once(' ')?;
    let credentials = credentials.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return not_empty(Cow::Borrowed(credentials));
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let decoded = String::from_utf8(STANDARD.decode(credentials).ok()?).ok()?;
        let user = decoded.split(':').next().unwrap_or_default().to_owned();
        return not_empty(Cow::Owned(user));
    }
    None
}

fn not_empty(key: Cow<'_, str>) -> Option<Cow<'_, str>> {
    (!key.is_empty()).then_some(key)
}

/// Percent escapes resolved; what is not one stays as it is.
fn percent_decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escape = (*first == b'%').then(|| after.first_chunk::<2>()).flatten();
        let byte = escape.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match byte {
            Some(byte) => {
                out.push(byte);
                rest = &after[2..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn found(headers: &[(&'static str, &str)], query: Option<&str>) -> Option<String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        of_head(&map, query).map(Cow::into_owned)
    }

    #[test]
    fn every_place_in_its_order() {
        let basic = format!("Basic {}", STANDARD.encode("user:"));
        let no_colon = format!("basic {}", STANDARD.encode("user"));
        for (headers, query, expected) in [
            (&[][..], None, None),
            (&[("x-api-key", "k")][..], None, Some("k")),
            (&[("x-api-key", " k ")], None, Some("k")),
            (&[("x-api-key", "")], None, None),
            (
                &[("authorization", "Bearer b"), ("x-api-key", "k")],
                Some("writeKey=q"),
                Some("b"),
            ),
            (&[("authorization", "bearer  b ")], None, Some("b")),
            (&[("authorization", &basic)], None, Some("user")),
            (&[("authorization", &no_colon)], None, Some("user")),
            (
                &[("authorization", "Basic ???"), ("x-api-key", "k")],
                None,
                Some("k"),
            ),
            (
                &[("authorization", "Digest x")],
                Some("a=b&writeKey=q%2B1%zz"),
                Some("q+1%zz"),
            ),
            (&[], Some("writeKey="), None),
            (&[], Some("xwriteKey=1"), None),
        ] {
            assert_eq!(
                found(headers, query).as_deref(),
                expected,
                "{headers:?} {query:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_it_stumble(value in "[ -~]{0,80}", query in any::<String>()) {
            found(&[("authorization", &value)], Some(&query));
            found(&[("authorization", &format!("Basic {value}"))], Some(&format!("writeKey={query}")));
        }
    }
}
