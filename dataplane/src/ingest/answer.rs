//! Answers: one closed set of refusals, written in the form that the protocol's clients read.
//!
//! ```text
//! native   {"status":"error","error":"rate limit exceeded","code":"quota","details":…}
//! Segment  {"success":false,"code":"quota","message":"rate limit exceeded"}
//! envelope {"status":"error","error":"rate limit exceeded","code":"RATE_LIMIT_EXCEEDED","details":…}
//! ```
//!
//! The native texts are those of the replaced platform. Segment's Python SDK reads `code` and `message` of every
//! error, and takes their absence for a lost connection.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use penstock_dataplane_config::Protocol;
use uuid::Uuid;

use super::apps::KeyRefused;
use super::encoding;
use super::flaw::{Flaw, Found, Rejection, push_rejections};
use super::json::Fault;
use super::native::Refused;
use super::quota;
use super::route::{self, Form, Route};
use super::text::{push_json_string, push_number};

pub(crate) type Answer = Response<Full<Bytes>>;

/// Why a whole request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    InvalidJson,
    InvalidBody,
    InvalidEncoding,
    NoEvents,
    AllRejected,
    BadEnvelope,
    MissingKey,
    UnknownKey,
    ExpiredKey,
    ReadOnlyKey,
    Suspended,
    AppMismatch,
    OriginNotAllowed,
    NotFound,
    MethodNotAllowed,
    Timeout,
    BodyTooLarge,
    TooManyEvents,
    UnsupportedEncoding,
    Quota,
    Internal,
    Overloaded,
    NotStored,
}

impl Code {
    /// Status, `code`, and the text for a person.
    fn parts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::InvalidJson => (StatusCode::BAD_REQUEST, "invalid_json", "invalid JSON"),
            Self::InvalidBody => (
                StatusCode::BAD_REQUEST,
                "invalid_body",
                "incomplete or malformed body",
            ),
            Self::InvalidEncoding => (
                StatusCode::BAD_REQUEST,
                "invalid_encoding",
                "invalid compressed body",
            ),
            Self::NoEvents => (StatusCode::BAD_REQUEST, "no_events", "no events"),
            Self::AllRejected => (StatusCode::BAD_REQUEST, "rejected", "no valid events"),
            Self::BadEnvelope => (StatusCode::BAD_REQUEST, "invalid_envelope", VALIDATION),
            Self::MissingKey => (StatusCode::UNAUTHORIZED, "missing_key", "missing API key"),
            Self::UnknownKey => (StatusCode::UNAUTHORIZED, "invalid_key", "invalid API key"),
            Self::ExpiredKey => (StatusCode::UNAUTHORIZED, "expired_key", "API key has expired"),
            Self::ReadOnlyKey => (StatusCode::FORBIDDEN, "wrong_scope", "API key may not write"),
            Self::Suspended => (StatusCode::FORBIDDEN, "suspended", "app is suspended"),
            Self::AppMismatch => (
                StatusCode::FORBIDDEN,
                "app_mismatch",
                "API key belongs to another app",
            ),
            Self::OriginNotAllowed => (
                StatusCode::FORBIDDEN,
                "origin_not_allowed",
                "origin is not allowed",
            ),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found", "not found"),
            Self::MethodNotAllowed => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "method not allowed",
            ),
            Self::Timeout => (StatusCode::REQUEST_TIMEOUT, "timeout", "request timeout"),
            Self::BodyTooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                "request body too large",
            ),
            Self::TooManyEvents => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "too_many_events",
                "too many events",
            ),
            Self::UnsupportedEncoding => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_encoding",
                "unsupported content encoding",
            ),
            Self::Quota => (StatusCode::TOO_MANY_REQUESTS, "quota", "rate limit exceeded"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "internal error"),
            Self::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "overloaded", "overloaded"),
            Self::NotStored => (
                StatusCode::SERVICE_UNAVAILABLE,
                "not_stored",
                "failed to store events",
            ),
        }
    }

    /// Seconds after which another attempt makes sense, where one does.
    fn retry_after(self) -> Option<u64> {
        matches!(self, Self::Overloaded | Self::NotStored).then_some(1)
    }

    pub(crate) fn name(self) -> &'static str {
        self.parts().1
    }

    /// Status, `code` and text as the envelope's clients know them. Whatever is wrong with what an envelope says is a
    /// broken rule of it, also how many events it holds.
    fn envelope_parts(self) -> (StatusCode, &'static str, &'static str) {
        let (status, _, text) = self.parts();
        let code = match self {
            Self::NoEvents | Self::TooManyEvents | Self::AllRejected | Self::BadEnvelope => {
                return (StatusCode::BAD_REQUEST, "VALIDATION_ERROR", VALIDATION);
            }
            Self::InvalidJson
            | Self::InvalidBody
            | Self::InvalidEncoding
            | Self::BodyTooLarge
            | Self::UnsupportedEncoding
            | Self::Timeout => "INVALID_REQUEST",
            Self::MissingKey | Self::UnknownKey | Self::ExpiredKey => "UNAUTHORIZED",
            Self::ReadOnlyKey | Self::Suspended | Self::AppMismatch | Self::OriginNotAllowed => "FORBIDDEN",
            Self::NotFound => "NOT_FOUND",
            Self::MethodNotAllowed => "METHOD_NOT_ALLOWED",
            Self::Quota => "RATE_LIMIT_EXCEEDED",
            Self::Internal => "INTERNAL_ERROR",
            Self::Overloaded => "SERVICE_UNAVAILABLE",
            Self::NotStored => "DATABASE_ERROR",
        };
        (status, code, text)
    }
}

/// What an envelope's client reads of every broken rule; `details` says which.
const VALIDATION: &str = "validation failed";

/// A refusal with what the client should know beside its code.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    /// JSON; empty for none.
    details: Vec<u8>,
    quota: Option<quota::Refusal>,
    /// The connection is not worth keeping.
    close: bool,
}

impl From<Code> for Refusal {
    fn from(code: Code) -> Self {
        let close = matches!(
            code,
            Code::Overloaded | Code::Timeout | Code::InvalidBody | Code::BodyTooLarge
        );
        Self {
            code,
            details: Vec::new(),
            quota: None,
            close,
        }
    }
}

impl From<KeyRefused> for Refusal {
    fn from(refused: KeyRefused) -> Self {
        Self::from(match refused {
            KeyRefused::Unknown => Code::UnknownKey,
            KeyRefused::Expired => Code::ExpiredKey,
            KeyRefused::ReadOnly => Code::ReadOnlyKey,
            KeyRefused::Suspended => Code::Suspended,
        })
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        let mut details = b"{\"offset\":".to_vec();
        push_number(&mut details, i64::try_from(fault.offset).unwrap_or(i64::MAX));
        details.extend_from_slice(b",\"expected\":");
        push_json_string(&mut details, fault.expected);
        details.push(b'}');
        Self {
            details,
            ..Self::from(Code::InvalidJson)
        }
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Json(fault) => fault.into(),
            Refused::TooManyEvents(limit) => Self::over(Code::TooManyEvents, limit as u64),
            Refused::NoEvents => Code::NoEvents.into(),
            Refused::AppMismatch => Code::AppMismatch.into(),
            Refused::Envelope(found) => Self::envelope(&found),
        }
    }
}

impl Refusal {
    /// A limit was passed; `limit` is its value.
    pub(crate) fn over(code: Code, limit: u64) -> Self {
        let mut details = b"{\"limit\":".to_vec();
        push_number(&mut details, i64::try_from(limit).unwrap_or(i64::MAX));
        details.push(b'}');
        Self {
            details,
            ..Self::from(code)
        }
    }

    /// A rule of the envelope itself, not of one of its events.
    fn envelope(found: &Found) -> Self {
        let mut details = b"{\"field\":".to_vec();
        push_json_string(&mut details, &found.field);
        details.extend_from_slice(b",\"code\":\"");
        details.extend_from_slice(found.flaw.code().as_bytes());
        details.extend_from_slice(b"\",\"detail\":");
        push_json_string(&mut details, &found.detail);
        details.push(b'}');
        Self {
            details,
            ..Self::from(Code::BadEnvelope)
        }
    }

    /// Nothing of the request was accepted, each event for a reason of its own. When all share one that a status
    /// tells better, the status is that.
    pub(crate) fn all_rejected(rejections: &[Rejection], quota: Option<quota::Refusal>) -> Self {
        let all = |flaw| !rejections.is_empty() && rejections.iter().all(|one| one.found.flaw == flaw);
        let code = if quota.is_some() && all(Flaw::Quota) {
            Code::Quota
        } else if all(Flaw::AppMismatch) {
            Code::AppMismatch
        } else {
            Code::AllRejected
        };
        let mut details = b"{\"rejected\":".to_vec();
        push_rejections(&mut details, rejections);
        details.push(b'}');
        Self {
            details,
            quota: quota.filter(|_| code == Code::Quota),
            ..Self::from(code)
        }
    }

    /// The quota left no room for any event.
    pub(crate) fn quota(refusal: quota::Refusal) -> Self {
        Self {
            quota: Some(refusal),
            ..Self::from(Code::Quota)
        }
    }

    /// The answer, in the form of the route's protocol.
    pub(crate) fn answer(&self, route: &Route<'_>) -> Answer {
        let form = route.form();
        let (status, code, text) = match form {
            Form::Native | Form::Segment => self.code.parts(),
            Form::Envelope => self.code.envelope_parts(),
        };
        let mut body = Vec::with_capacity(96 + self.details.len());
        let parts = match form {
            Form::Segment => ["{\"success\":false,\"code\":\"", code, "\",\"message\":\"", text],
            Form::Native | Form::Envelope => {
                ["{\"status\":\"error\",\"error\":\"", text, "\",\"code\":\"", code]
            }
        };
        parts
            .iter()
            .for_each(|part| body.extend_from_slice(part.as_bytes()));
        body.extend_from_slice(b"\",\"details\":");
        if self.details.is_empty() {
            body.extend_from_slice(b"null");
        } else {
            body.extend_from_slice(&self.details);
        }
        body.push(b'}');
        let mut answer = json(status, Bytes::from(body));
        let headers = answer.headers_mut();
        if let Some(refusal) = self.quota {
            headers.insert(RETRY_AFTER, HeaderValue::from(refusal.retry_after_seconds));
            headers.insert(
                HeaderName::from_static("ratelimit-limit"),
                HeaderValue::from(refusal.limit),
            );
            headers.insert(
                HeaderName::from_static("ratelimit-remaining"),
                HeaderValue::from(0),
            );
            headers.insert(
                HeaderName::from_static("ratelimit-reset"),
                HeaderValue::from(refusal.retry_after_seconds),
            );
        } else if let Some(seconds) = self.code.retry_after() {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        match self.code {
            Code::MethodNotAllowed => {
                headers.insert(ALLOW, HeaderValue::from_static(route.allow()));
            }
            Code::UnsupportedEncoding => {
                headers.insert(
                    http::header::ACCEPT_ENCODING,
                    HeaderValue::from_static(encoding::ACCEPTED),
                );
            }
            _ => {}
        }
        answer
    }
}

/// No such path: names those that exist for a pipeline that speaks `protocols`.
pub(crate) fn not_found(protocols: &[Protocol]) -> Refusal {
    let mut details = b"{\"paths\":[".to_vec();
    for (position, path) in route::paths(protocols).enumerate() {
        if position > 0 {
            details.push(b',');
        }
        push_json_string(&mut details, path);
    }
    details.extend_from_slice(b"]}");
    Refusal {
        details,
        ..Refusal::from(Code::NotFound)
    }
}

/// `{"status":"accepted","event_id":…}`
pub(crate) fn accepted_one(id: &Uuid) -> Answer {
    let mut body = Vec::with_capacity(80);
    body.extend_from_slice(b"{\"status\":\"accepted\",\"event_id\":\"");
    let mut text = [0u8; uuid::fmt::Hyphenated::LENGTH];
    body.extend_from_slice(id.hyphenated().encode_lower(&mut text).as_bytes());
    body.extend_from_slice(b"\"}");
    json(StatusCode::OK, Bytes::from(body))
}

/// `{"status":"accepted","accepted":n,"rejected":[…]}`
pub(crate) fn accepted_batch(accepted: usize, rejections: &[Rejection]) -> Answer {
    let mut body = Vec::with_capacity(64 + rejections.len() * 96);
    body.extend_from_slice(b"{\"status\":\"accepted\",\"accepted\":");
    push_number(&mut body, i64::try_from(accepted).unwrap_or(i64::MAX));
    body.extend_from_slice(b",\"rejected\":");
    push_rejections(&mut body, rejections);
    body.push(b'}');
    json(StatusCode::OK, Bytes::from(body))
}

/// `{"status":"success","data":{"events_received":n,"status":"processing"},"meta":{"processing_time_ms":…,"count":n}}`
pub(crate) fn received(events: u32, took: Duration) -> Answer {
    let mut body = Vec::with_capacity(128);
    body.extend_from_slice(b"{\"status\":\"success\",\"data\":{\"events_received\":");
    push_number(&mut body, i64::from(events));
    body.extend_from_slice(b",\"status\":\"processing\"},\"meta\":{\"processing_time_ms\":");
    push_number(&mut body, i64::try_from(took.as_millis()).unwrap_or(i64::MAX));
    body.extend_from_slice(b",\"count\":");
    push_number(&mut body, i64::from(events));
    body.extend_from_slice(b"}}");
    json(StatusCode::OK, Bytes::from(body))
}

/// Segment's success.
pub(crate) fn success() -> Answer {
    json(StatusCode::OK, Bytes::from_static(b"{\"success\":true}"))
}

/// Without a body.
pub(crate) fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::new()));
    *answer.status_mut() = status;
    answer
}

pub(crate) fn healthy() -> Answer {
    json(StatusCode::OK, Bytes::from_static(b"{\"status\":\"ok\"}"))
}

/// What a browser SDK needs to start: where to send, and that everything is on.
pub(crate) fn segment_settings(key: &str, host: &str) -> Answer {
    let mut body = b"{\"integrations\":{\"Segment.io\":{\"apiKey\":".to_vec();
    push_json_string(&mut body, key);
    body.extend_from_slice(b",\"apiHost\":");
    push_json_string(&mut body, &format!("{host}/segment/v1"));
    body.extend_from_slice(
        b",\"unbundledIntegrations\":[],\"addBundledMetadata\":true}},\"plan\":{\"track\":{\"__default\":\
          {\"enabled\":true,\"integrations\":{}}},\"identify\":{\"__default\":{\"enabled\":true}},\"group\":\
          {\"__default\":{\"enabled\":true}}},\"edgeFunction\":{},\"metrics\":{\"sampleRate\":0}}",
    );
    json(StatusCode::OK, Bytes::from(body))
}

fn json(status: StatusCode, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
