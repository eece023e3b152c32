use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use super::super::flaw::Found;
use super::*;

fn parts(answer: Answer) -> (u16, http::HeaderMap, Value) {
    let (head, body) = answer.into_parts();
    let body = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(body.collect())
        .unwrap();
    (
        head.status.as_u16(),
        head.headers,
        serde_json::from_slice(&body.to_bytes()).unwrap(),
    )
}

#[test]
fn errors_speak_the_language_of_their_protocol() {
    let refusal = Refusal::from(Fault {
        offset: 7,
        expected: "`:`",
    });
    let (status, _, body) = parts(refusal.answer(&Route::Event));
    assert_eq!(status, 400);
    assert_eq!(
        body,
        json!({"status": "error", "error": "invalid JSON", "code": "invalid_json", "details": {"offset": 7, "expected": "`:`"}})
    );
    let (_, _, body) = parts(refusal.answer(&Route::SegmentBatch));
    assert_eq!(
        (body["code"].as_str(), body["message"].as_str()),
        (Some("invalid_json"), Some("invalid JSON"))
    );
}

#[test]
fn an_envelope_is_refused_in_the_codes_of_its_clients() {
    let found = Found::new(Flaw::MissingField, "events", "is required");
    for (refusal, status, code, error) in [
        (
            Refusal::from(Refused::Envelope(found)),
            400,
            "VALIDATION_ERROR",
            VALIDATION,
        ),
        (
            Refusal::from(Refused::NoEvents),
            400,
            "VALIDATION_ERROR",
            VALIDATION,
        ),
        (
            Refusal::from(Refused::TooManyEvents(1000)),
            400,
            "VALIDATION_ERROR",
            VALIDATION,
        ),
        (
            Refusal::all_rejected(&[], None),
            400,
            "VALIDATION_ERROR",
            VALIDATION,
        ),
        (Code::InvalidJson.into(), 400, "INVALID_REQUEST", "invalid JSON"),
        (
            Code::InvalidBody.into(),
            400,
            "INVALID_REQUEST",
            "incomplete or malformed body",
        ),
        (
            Code::BodyTooLarge.into(),
            413,
            "INVALID_REQUEST",
            "request body too large",
        ),
        (
            Code::InvalidEncoding.into(),
            400,
            "INVALID_REQUEST",
            "invalid compressed body",
        ),
        (
            Code::UnsupportedEncoding.into(),
            415,
            "INVALID_REQUEST",
            "unsupported content encoding",
        ),
        (Code::Timeout.into(), 408, "INVALID_REQUEST", "request timeout"),
        (Code::MissingKey.into(), 401, "UNAUTHORIZED", "missing API key"),
        (Code::UnknownKey.into(), 401, "UNAUTHORIZED", "invalid API key"),
        (
            Code::ExpiredKey.into(),
            401,
            "UNAUTHORIZED",
            "API key has expired",
        ),
        (Code::Suspended.into(), 403, "FORBIDDEN", "app is suspended"),
        (
            Code::OriginNotAllowed.into(),
            403,
            "FORBIDDEN",
            "origin is not allowed",
        ),
        (Code::Overloaded.into(), 503, "SERVICE_UNAVAILABLE", "overloaded"),
        (
            Code::Quota.into(),
            429,
            "RATE_LIMIT_EXCEEDED",
            "rate limit exceeded",
        ),
        (Code::Internal.into(), 500, "INTERNAL_ERROR", "internal error"),
        (
            Code::NotStored.into(),
            503,
            "DATABASE_ERROR",
            "failed to store events",
        ),
    ] {
        let (got, headers, body) = parts(refusal.answer(&Route::Envelope));
        assert_eq!(
            (
                got,
                body["status"].as_str(),
                body["code"].as_str(),
                body["error"].as_str()
            ),
            (status, Some("error"), Some(code), Some(error)),
            "{refusal:?}"
        );
        assert_eq!(headers.contains_key("retry-after"), status == 503, "{refusal:?}");
    }
    let (_, _, body) =
        parts(Refusal::from(Refused::Envelope(Found::new(Flaw::TooLong, "f", "d"))).answer(&Route::Envelope));
    assert_eq!(
        body["details"],
        json!({"field": "f", "code": "too_long", "detail": "d"})
    );
    let (status, _, body) = parts(received(3, Duration::from_micros(12_900)));
    assert_eq!(
        (status, body),
        (
            200,
            json!({
                "status": "success", "data": {"events_received": 3, "status": "processing"},
                "meta": {"processing_time_ms": 12, "count": 3}
            })
        )
    );
}

#[test]
fn each_refusal_has_its_status_and_headers() {
    for (code, status, header, value) in [
        (Code::MissingKey, 401, "content-type", "application/json"),
        (Code::ReadOnlyKey, 403, "content-type", "application/json"),
        (Code::MethodNotAllowed, 405, "allow", "POST"),
        (Code::Timeout, 408, "connection", "close"),
        (Code::BodyTooLarge, 413, "connection", "close"),
        (
            Code::UnsupportedEncoding,
            415,
            "accept-encoding",
            "gzip, deflate, zstd, br",
        ),
        (Code::Overloaded, 503, "retry-after", "1"),
        (Code::Overloaded, 503, "connection", "close"),
        (Code::NotStored, 503, "retry-after", "1"),
    ] {
        let (got, headers, body) = parts(Refusal::from(code).answer(&Route::Event));
        assert_eq!(
            (got, headers[header].to_str().unwrap()),
            (status, value),
            "{code:?}"
        );
        assert_eq!(body["code"], code.name());
    }
    let refusal = Refusal::quota(quota::Refusal {
        limit: 50,
        retry_after_seconds: 9,
    });
    let (status, headers, _) = parts(refusal.answer(&Route::SegmentBatch));
    assert_eq!(status, 429);
    for (name, value) in [
        ("retry-after", "9"),
        ("ratelimit-limit", "50"),
        ("ratelimit-remaining", "0"),
    ] {
        assert_eq!(headers[name], value);
    }
}

#[test]
fn when_nothing_was_accepted_the_status_tells_the_common_reason() {
    let rejections = |flaws: &[Flaw]| -> Vec<Rejection> {
        let found = |flaw| Found::new(flaw, "f", "d");
        flaws
            .iter()
            .enumerate()
            .map(|(index, flaw)| Rejection {
                index: index as u32,
                found: found(*flaw),
            })
            .collect()
    };
    let limit = Some(quota::Refusal {
        limit: 1,
        retry_after_seconds: 1,
    });
    for (flaws, quota, expected) in [
        (&[Flaw::Quota, Flaw::Quota][..], limit, Code::Quota),
        (&[Flaw::Quota, Flaw::TooLong], limit, Code::AllRejected),
        (&[Flaw::AppMismatch], None, Code::AppMismatch),
        (&[Flaw::AppMismatch, Flaw::TooLong], None, Code::AllRejected),
    ] {
        let refusal = Refusal::all_rejected(&rejections(flaws), quota);
        assert_eq!(refusal.code, expected);
        let (_, _, body) = parts(refusal.answer(&Route::Batch));
        assert_eq!(body["details"]["rejected"].as_array().unwrap().len(), flaws.len());
    }
}

#[test]
fn successes_are_json_whatever_the_names() {
    let (status, _, body) = parts(accepted_one(&Uuid::from_u128(1)));
    assert_eq!(
        (status, &body["event_id"]),
        (200, &json!("00000000-0000-0000-0000-000000000001"))
    );
    let rejection = Rejection {
        index: 3,
        found: Found {
            flaw: Flaw::TooLong,
            field: "a\"b".into(),
            detail: "é\n".into(),
        },
    };
    let (_, _, body) = parts(accepted_batch(2, &[rejection]));
    assert_eq!(
        body,
        json!({"status": "accepted", "accepted": 2, "rejected": [{"index": 3, "code": "too_long", "field": "a\"b", "detail": "é\n"}]})
    );
    let (_, _, body) = parts(segment_settings("k\"", "localhost:8080"));
    assert_eq!(
        body["integrations"]["Segment.io"]["apiHost"],
        "localhost:8080/segment/v1"
    );
    assert_eq!(parts(success()).2, json!({"success": true}));
    assert_eq!(parts(healthy()).2, json!({"status": "ok"}));
    assert_eq!(
        parts(not_found(&[Protocol::Native]).answer(&Route::Unknown)).0,
        404
    );
}
