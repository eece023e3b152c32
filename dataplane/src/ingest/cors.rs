//! Which web pages may send: the origins of an App, and what a browser is told about them.
//!
//! ```text
//! an App that lists none      any origin, without credentials   Access-Control-Allow-Origin: *
//! an origin that is listed    with credentials                  its own name
//! any other                   nothing; the request is refused   -
//! ```
//! A preflight carries no key, so it is answered by the union of all Apps; the request itself by its own App.

use ahash::AHashSet;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::answer::{Answer, Code, Refusal, empty};
use super::route::Route;

/// The origins of an App, or of all Apps together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origins {
    /// Somebody lists none, and so allows all.
    any: bool,
    listed: AHashSet<Box<[u8]>>,
}

/// What a browser is told about an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Any,
    Listed,
    Refused,
}

impl Origins {
    /// Of one App; `list` as browsers write origins, `https://shop.example`.
    pub(crate) fn of_app(list: &[String]) -> Self {
        Self {
            any: list.is_empty(),
            listed: list.iter().map(|origin| origin.as_bytes().into()).collect(),
        }
    }

    /// Of several Apps; of none of them, any origin.
    pub(crate) fn union<'o>(all: impl Iterator<Item = &'o Self>) -> Self {
        let mut union = Self::default();
        for one in all {
            union.any |= one.any;
            union.listed.extend(one.listed.iter().cloned());
        }
        union.any |= union.listed.is_empty();
        union
    }

    fn judge(&self, origin: &HeaderValue) -> Verdict {
        // Nothing is listed where nothing is looked up: most Apps are of servers and phones.
        if !self.listed.is_empty() && self.listed.contains(origin.as_bytes()) {
            Verdict::Listed
        } else if self.any {
            Verdict::Any
        } else {
            Verdict::Refused
        }
    }

    /// Refuses a page that this App does not list. Who sends no `Origin` is no page.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        match headers.get(ORIGIN).map(|origin| self.judge(origin)) {
            Some(Verdict::Refused) => Err(Code::OriginNotAllowed.into()),
            _ => Ok(()),
        }
    }

    /// Lets a page's script read the answer, errors too.
    pub(crate) fn tell(&self, origin: &HeaderValue, answer: &mut Answer) {
        let headers = answer.headers_mut();
        match self.judge(origin) {
            Verdict::Any => {
                headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            }
            Verdict::Listed => {
                headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
                headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            }
            Verdict::Refused => {}
        }
        let exposed = "retry-after, ratelimit-limit, ratelimit-remaining, ratelimit-reset, x-request-id, penstock-durability";
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(exposed));
        if !self.listed.is_empty() {
            headers.insert(VARY, HeaderValue::from_static("origin"));
        }
    }
}

/// The answer to a browser that asks before it sends.
pub(crate) fn preflight(route: &Route<'_>) -> Answer {
    let mut answer = empty(StatusCode::NO_CONTENT);
    let headers = answer.headers_mut();
    headers.insert(
        ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static(route.allow()),
    );
    let allowed = "authorization, content-type, content-encoding, x-api-key, idempotency-key, x-request-id";
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(allowed));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(origins: &Origins, origin: &'static str) -> [Option<String>; 3] {
        let mut answer = empty(StatusCode::OK);
        origins.tell(&HeaderValue::from_static(origin), &mut answer);
        [
            ACCESS_CONTROL_ALLOW_ORIGIN,
            ACCESS_CONTROL_ALLOW_CREDENTIALS,
            VARY,
        ]
        .map(|name| Some(answer.headers().get(name)?.to_str().unwrap().to_owned()))
    }

    fn refused(origins: &Origins, origin: Option<&'static str>) -> bool {
        let mut headers = HeaderMap::new();
        if let Some(origin) = origin {
            headers.insert(ORIGIN, HeaderValue::from_static(origin));
        }
        origins.check(&headers).is_err()
    }

    #[test]
    fn an_app_lets_in_whom_it_lists() {
        let shop = Origins::of_app(&["https://shop.example".into()]);
        let (listed, vary) = (Some("https://shop.example".to_owned()), Some("origin".to_owned()));
        assert_eq!(
            told(&shop, "https://shop.example"),
            [listed, Some("true".into()), vary.clone()]
        );
        for other in ["https://shop.example.evil", "http://shop.example", "null", ""] {
            assert_eq!(told(&shop, other), [None, None, vary.clone()], "{other}");
            assert!(refused(&shop, Some(other)), "{other}");
        }
        assert!(!refused(&shop, Some("https://shop.example")) && !refused(&shop, None));
    }

    #[test]
    fn an_app_that_lists_none_lets_all_in_without_credentials() {
        let open = Origins::of_app(&[]);
        assert_eq!(told(&open, "https://any.example"), [Some("*".into()), None, None]);
        assert!(!refused(&open, Some("null")));
    }

    #[test]
    fn a_preflight_is_answered_by_all_apps_together() {
        let shop = Origins::of_app(&["https://shop.example".into()]);
        let blog = Origins::of_app(&["https://blog.example".into()]);
        let open = Origins::of_app(&[]);
        for (apps, origin, expected) in [
            (
                vec![&shop, &blog],
                "https://blog.example",
                Some("https://blog.example"),
            ),
            (vec![&shop, &blog], "https://evil.example", None),
            (
                vec![&shop, &open],
                "https://shop.example",
                Some("https://shop.example"),
            ),
            (vec![&shop, &open], "https://evil.example", Some("*")),
            (vec![], "https://evil.example", Some("*")),
        ] {
            let union = Origins::union(apps.into_iter());
            assert_eq!(told(&union, origin)[0].as_deref(), expected, "{origin}");
        }
    }
}
