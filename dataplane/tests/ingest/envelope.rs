//! The replaced platform's API, as its clients meet it.

use serde_json::{Value, json};

use super::harness::{Ingest, OTHER, Reply, SHOP, apps};

const PATH: &str = "/api/v1/events";
const ID: &str = "0193f1c2-7b3e-7c31-a3c9-4b1f0a1d2e3f";

/// Now and a few seconds, RFC 3339.
fn soon(seconds: i64) -> String {
    let at = time::OffsetDateTime::now_utc() + time::Duration::seconds(seconds);
    at.format(&time::format_description::well_known::Rfc3339).unwrap()
}

fn event() -> Value {
    json!({"event_id": ID, "event_name": "purchase", "user_id": "u-1", "timestamp": soon(0), "properties": {"a": 1}})
}

fn envelope(app_id: &str, events: &[Value]) -> String {
    json!({"app_id": app_id, "events": events}).to_string()
}

fn said(reply: &Reply) -> (u16, Option<&str>) {
    (reply.status, reply.body["code"].as_str())
}

#[test]
fn an_envelope_is_answered_as_before_and_stored() {
    let ingest = Ingest::start();
    for app_id in ["old-shop", SHOP] {
        let reply = ingest.write(PATH, envelope(app_id, &[event(), event()]));
        assert_eq!(reply.status, 200, "{reply:?}");
        assert!(
            reply.body["meta"]["processing_time_ms"].is_u64(),
            "{:?}",
            reply.body
        );
        assert_eq!(
            (
                &reply.body["status"],
                &reply.body["data"],
                &reply.body["meta"]["count"]
            ),
            (
                &json!("success"),
                &json!({"events_received": 2, "status": "processing"}),
                &json!(2)
            )
        );
    }
    let stored = ingest.stored(4);
    assert_eq!(stored.len(), 4);
    for (member, expected) in [
        ("app_id", json!(SHOP)),
        ("event_id", json!(ID)),
        ("event_type", json!("purchase")),
        ("user_id", json!("u-1")),
        ("event_data", json!({"a": 1})),
        ("source", json!("envelope")),
    ] {
        assert_eq!(stored[0][member], expected, "{member}");
    }
}

#[test]
fn one_bad_event_sinks_its_envelope() {
    let ingest = Ingest::start();
    let (mut ahead, mut nameless) = (event(), event());
    ahead["timestamp"] = json!(soon(400));
    nameless["event_name"] = json!("");
    let reply = ingest.write(PATH, envelope(SHOP, &[event(), ahead, nameless]));
    assert_eq!(said(&reply), (400, Some("VALIDATION_ERROR")));
    let rejected = &reply.body["details"]["rejected"];
    assert_eq!(
        (&rejected[0]["index"], &rejected[0]["field"]),
        (&json!(1), &json!("timestamp"))
    );
    assert_eq!(
        (&rejected[1]["index"], &rejected[1]["field"]),
        (&json!(2), &json!("event_name"))
    );

    let many: Vec<Value> = (0..1001).map(|_| event()).collect();
    for (body, status, code) in [
        (envelope(SHOP, &[]), 400, "VALIDATION_ERROR"),
        (envelope(SHOP, &many), 400, "VALIDATION_ERROR"),
        (json!({"events": [event()]}).to_string(), 400, "VALIDATION_ERROR"),
        (envelope(OTHER, &[event()]), 403, "FORBIDDEN"),
        ("{\"app_id\"".into(), 400, "INVALID_REQUEST"),
    ] {
        let reply = ingest.write(PATH, &body);
        assert_eq!(said(&reply), (status, Some(code)), "{reply:?}");
        assert!(
            reply.body["status"] == "error" && reply.body["error"].is_string(),
            "{reply:?}"
        );
    }
    for (headers, status, code) in [
        (&[][..], 401, "UNAUTHORIZED"),
        (&[("x-api-key", "nobody")], 401, "UNAUTHORIZED"),
        (&[("x-api-key", "reader")], 403, "FORBIDDEN"),
    ] {
        let reply = ingest.post(PATH, headers, envelope(SHOP, &[event()]));
        assert_eq!(said(&reply), (status, Some(code)), "{reply:?}");
    }
    assert_eq!(
        said(&ingest.request("GET", PATH, &[], b"")),
        (405, Some("METHOD_NOT_ALLOWED"))
    );
    assert!(ingest.stored(0).is_empty(), "nothing of all this is stored");
    let rejected = |reason: &str| {
        ingest.metric(&format!(
            r#"penstock_ingest_events_total{{app="growth/shop",outcome="rejected",reason="{reason}"}}"#
        ))
    };
    // Beside the event that was good, as many as were read of the envelope that has too many.
    assert_eq!(
        (
            rejected("invalid_time"),
            rejected("too_short"),
            rejected("envelope"),
            rejected("app_mismatch"),
            // The envelope without an `app_id`.
            rejected("missing_field"),
        ),
        (1.0, 1.0, 1001.0, 1.0, 1.0)
    );
}

#[test]
fn an_envelope_is_within_the_quota_or_not_at_all() {
    let ingest = Ingest::start_with("", &apps("eventsPerDay: 3"));
    let two = envelope(SHOP, &[event(), event()]);
    assert_eq!(ingest.write(PATH, &two).status, 200);
    let reply = ingest.write(PATH, &two);
    assert_eq!(said(&reply), (429, Some("RATE_LIMIT_EXCEEDED")));
    assert!(reply.headers.contains_key("retry-after"), "{reply:?}");
    assert_eq!(ingest.stored(2).len(), 2);
}

#[test]
fn without_kafka_an_envelope_is_refused_in_its_own_words() {
    let ingest = Ingest::start();
    ingest.kafka.down();
    let body = envelope(SHOP, &[event()]);
    ingest.wait_for("the refusal", || {
        let reply = ingest.write(PATH, &body);
        if reply.status != 503 {
            return false;
        }
        assert_eq!(said(&reply), (503, Some("DATABASE_ERROR")));
        assert_eq!(
            (
                reply.body["error"].as_str(),
                reply.headers["retry-after"].as_str()
            ),
            (Some("failed to store events"), "1")
        );
        true
    });
}

#[test]
fn attribution_paths_are_those_of_single_events_and_batches() {
    let ingest = Ingest::start();
    let one = format!(r#"{{"event_type":"install","event_id":"{ID}"}}"#);
    let reply = ingest.write("/api/attribution/track", &one);
    assert_eq!(
        (reply.status, &reply.body),
        (200, &json!({"status": "accepted", "event_id": ID}))
    );
    let reply = ingest.write("/api/attribution/batch", format!("[{one},{{}}]"));
    assert_eq!((reply.status, &reply.body["accepted"]), (200, &json!(1)));
    assert_eq!(reply.body["rejected"][0]["code"], "missing_field");
    assert_eq!(ingest.stored(2).len(), 2);
}

#[test]
fn what_is_switched_off_is_not_there() {
    let ingest = Ingest::start_with("protocols: [Native]", &apps(""));
    let reply = ingest.write(PATH, envelope(SHOP, &[event()]));
    assert_eq!(reply.status, 404);
    assert_eq!(
        reply.body["details"]["paths"],
        json!([
            "/v1/events",
            "/v1/events/batch",
            "/api/attribution/track",
            "/api/attribution/batch",
            "/health",
            "/v1/healthcheck",
        ])
    );
    assert_eq!(
        ingest
            .write("/api/attribution/track", r#"{"event_type":"a"}"#)
            .status,
        200
    );
}
