//! What each request is answered, and what is stored of it.

use std::io::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use uuid::Uuid;

use super::harness::{Ingest, OTHER, SHOP, apps, binary};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn an_accepted_event_is_in_the_topic() {
    let ingest = Ingest::start();
    let id = "0193f1c2-7b3e-7c31-a3c9-4b1f0a1d2e3f";
    let body = json!({"event_type": "purchase", "event_id": id, "app_id": SHOP, "user_id": "u-1", "event_data": {"a": 1}});
    let reply = ingest.post(
        "/v1/events/",
        &[
            ("x-api-key", "writer"),
            ("x-forwarded-for", "203.0.113.7"),
            ("user-agent", "test/1"),
        ],
        body.to_string(),
    );
    assert_eq!(
        (reply.status, &reply.body),
        (200, &json!({"status": "accepted", "event_id": id}))
    );
    let stored = ingest.stored(1);
    assert_eq!(stored.len(), 1);
    for (member, expected) in [
        ("v", json!(1)),
        ("app_id", json!(SHOP)),
        ("event_id", json!(id)),
        ("event_type", json!("purchase")),
        ("user_id", json!("u-1")),
        ("event_data", json!({"a": 1})),
        // Anybody can send that header.
        ("ip", json!("127.0.0.1")),
        ("user_agent", json!("test/1")),
        ("source", json!("native")),
    ] {
        assert_eq!(stored[0][member], expected, "{member}");
    }
    assert_eq!(
        ingest.metric(r#"penstock_ingest_events_total{app="growth/shop",outcome="accepted",reason=""}"#),
        1.0
    );
}

#[test]
fn requests_are_counted_and_timed_by_method_route_and_status() {
    const ROUND_TRIP: Duration = Duration::from_millis(300);
    let ingest = Ingest::start_with("shards: 1", &apps(""));
    let event = r#"{"event_type":"a"}"#;
    assert_eq!(ingest.write("/v1/events/batch", event).status, 200);
    ingest.kafka.broker_round_trip_time(1, ROUND_TRIP).unwrap();
    for _ in 0..2 {
        assert_eq!(ingest.write("/v1/events", event).status, 200);
    }
    ingest.kafka.broker_round_trip_time(1, Duration::ZERO).unwrap();
    assert_eq!(ingest.write("/v1/events", "{}").status, 400);
    assert_eq!(ingest.post("/v1/events", &[], event).status, 401);
    assert_eq!(ingest.request("PUT", "/v1/events/", &[], b"").status, 405);
    assert_eq!(
        ingest
            .post("/segment/v1/track", &[("x-api-key", "writer")], "{}")
            .status,
        400
    );
    assert_eq!(ingest.request("GET", "/health", &[], b"").status, 200);
    assert_eq!(ingest.request("GET", "/no/such/path", &[], b"").status, 404);
    let labels = |method: &str, route: &str, status: u16| {
        format!("method=\"{method}\",route=\"{route}\",status=\"{status}\"")
    };
    for (method, route, status, requests) in [
        ("POST", "/v1/events/batch", 200, 1.0),
        ("POST", "/v1/events", 200, 2.0),
        ("POST", "/v1/events", 400, 1.0),
        ("POST", "/v1/events", 401, 1.0),
        ("other", "/v1/events", 405, 1.0),
        ("POST", "/segment/v1/{call}", 400, 1.0),
        ("GET", "/health", 200, 1.0),
        ("GET", "other", 404, 1.0),
    ] {
        let labels = labels(method, route, status);
        let counted = ingest.metric(&format!("penstock_http_requests_total{{{labels}}}"));
        let timed = ingest.metric(&format!(
            "penstock_http_request_duration_seconds_count{{{labels}}}"
        ));
        assert_eq!((counted, timed), (requests, requests), "{labels}");
    }
    let seconds = |status| {
        let labels = labels("POST", "/v1/events", status);
        ingest.metric(&format!("penstock_http_request_duration_seconds_sum{{{labels}}}"))
    };
    let waited = 2.0 * ROUND_TRIP.as_secs_f64();
    assert!(seconds(200) >= waited, "Kafka is waited for: {}", seconds(200));
    assert!(
        seconds(401) < waited,
        "and not by who is refused: {}",
        seconds(401)
    );
    // Of requests whose events were good or not, and of no others.
    let stored = |what: &str| ingest.metric(&format!("penstock_ingest_duration_seconds_{what}"));
    assert_eq!(stored("count"), 5.0);
    assert!(stored("sum") >= waited, "{}", stored("sum"));
    let quickly = stored(r#"bucket{le="0.25"}"#);
    assert!(quickly <= 3.0, "two waited longer: {quickly}");
}

#[test]
fn what_librdkafka_counts_is_a_metric() {
    let ingest = Ingest::start_with("shards: 1", &apps(""));
    assert_eq!(ingest.write("/v1/events", r#"{"event_type":"a"}"#).status, 200);
    let shard = |name: &str| {
        ingest.metric(&format!(
            "penstock_ingest_producer_{name}{{producer=\"shard-0\"}}"
        ))
    };
    // It tells every five seconds.
    ingest.wait_for("statistics", || shard("batch_bytes") > 0.0);
    let round_trip = shard("round_trip_seconds");
    assert!(round_trip > 0.0 && round_trip <= shard("round_trip_p99_seconds").max(round_trip));
    assert_eq!(
        (
            shard("queue_records"),
            shard("queue_bytes"),
            shard("retries_total")
        ),
        (0.0, 0.0, 0.0)
    );
    assert_eq!(
        ingest.metric("penstock_ingest_quota_lease_age_seconds"),
        0.0,
        "there is no Redis"
    );
}

#[test]
fn each_bad_request_has_its_answer() {
    let ingest = Ingest::start();
    let event = r#"{"event_type":"a"}"#;
    let other_app = r#"{"event_type":"a","app_id":"6f0c4a4e-5d0b-5c58-9a52-0d9c9a8f3b12"}"#;
    let many = format!("[{}{event}]", format!("{event},").repeat(1000));
    let key = ("x-api-key", "writer");
    for (path, headers, body, status, code) in [
        ("/v1/events", &[][..], event, 401, "missing_key"),
        (
            "/v1/events",
            &[("x-api-key", "nobody")],
            event,
            401,
            "invalid_key",
        ),
        (
            "/v1/events",
            &[("authorization", "Bearer expired")],
            event,
            401,
            "expired_key",
        ),
        (
            "/v1/events",
            &[("x-api-key", "reader")],
            event,
            403,
            "wrong_scope",
        ),
        ("/v1/events", &[("x-api-key", "closed")], event, 403, "suspended"),
        ("/v1/events", &[key], other_app, 403, "app_mismatch"),
        ("/v1/events", &[key], "{\"event_type\"", 400, "invalid_json"),
        ("/v1/events", &[key], "{}", 400, "rejected"),
        ("/v1/events", &[key], "", 400, "invalid_json"),
        ("/v1/events/batch", &[key], "{\"events\":[]}", 400, "no_events"),
        ("/v1/events/batch", &[key], "[{},{}]", 400, "rejected"),
        ("/v1/events/batch", &[key], &many, 413, "too_many_events"),
        (
            "/v1/events",
            &[key, ("content-encoding", "compress")],
            event,
            415,
            "unsupported_encoding",
        ),
        (
            "/v1/events",
            &[key, ("content-encoding", "gzip")],
            event,
            400,
            "invalid_encoding",
        ),
        ("/segment/v1/batch", &[], "{\"batch\":[]}", 401, "missing_key"),
        (
            "/segment/v1/batch",
            &[],
            "{\"writeKey\":\"nobody\",\"batch\":[]}",
            401,
            "invalid_key",
        ),
        ("/segment/v1/batch", &[key], "{\"batch\":[", 400, "invalid_json"),
        ("/segment/v1/track", &[key], "{}", 400, "rejected"),
        (
            "/segment/v1/projects/nobody/settings",
            &[],
            "",
            405,
            "method_not_allowed",
        ),
        ("/v2/events", &[key], event, 404, "not_found"),
    ] {
        let reply = ingest.post(path, headers, body);
        assert_eq!(
            (reply.status, reply.body["code"].as_str()),
            (status, Some(code)),
            "{path} {headers:?}: {reply:?}"
        );
        let text = if path.starts_with("/segment") {
            "message"
        } else {
            "error"
        };
        assert!(
            reply.body[text].as_str().is_some_and(|text| !text.is_empty()),
            "{reply:?}"
        );
    }
    let reply = ingest.write("/v1/events", "{\"event_type\":\"a\",}");
    assert_eq!(
        (reply.body["error"].as_str(), &reply.body["details"]["offset"]),
        (Some("invalid JSON"), &json!(18))
    );
    let reply = ingest.write("/v1/events", b"{\"event_type\":\"\xff\"}");
    assert_eq!(
        (reply.status, &reply.body["details"]["offset"]),
        (400, &json!(15))
    );
    let reply = ingest.request("GET", "/v1/events", &[key], b"");
    assert_eq!((reply.status, reply.headers["allow"].as_str()), (405, "POST"));
    let reply = ingest.request("GET", "/v2/events", &[], b"");
    assert!(
        reply.body["details"]["paths"]
            .as_array()
            .unwrap()
            .contains(&json!("/v1/events/batch"))
    );
    assert!(ingest.stored(0).is_empty(), "nothing of all this is stored");
}

#[test]
fn health_needs_no_key() {
    let ingest = Ingest::start();
    for path in ["/health", "/health/", "/v1/healthcheck"] {
        let reply = ingest.request("GET", path, &[], b"");
        assert_eq!(
            (reply.status, &reply.body),
            (200, &json!({"status": "ok"})),
            "{path}"
        );
    }
}

#[test]
fn the_good_events_of_a_batch_are_stored_and_the_bad_ones_listed() {
    let ingest = Ingest::start();
    let body = r#"{"events":[{"event_type":"a"},{"event_type":""},{"event_type":"c","user_id":7},{"event_type":"d"}]}"#;
    let expected = json!({"status": "accepted", "accepted": 2, "rejected": [
        {"index": 1, "code": "too_short", "field": "event_type", "detail": "must not be empty"},
        {"index": 2, "code": "invalid_type", "field": "user_id", "detail": "must be a string"},
    ]});
    for (headers, body) in [
        (&[("x-api-key", "writer")][..], body.as_bytes().to_vec()),
        (&[("authorization", "Basic d3JpdGVyOg=="), ("content-encoding", "gzip")], gzip(body.as_bytes())),
        // Compressed, and not saying so.
        (&[("authorization", "Bearer writer")], gzip(body.as_bytes())),
        (
            &[("x-api-key", "writer"), ("content-type", "application/x-ndjson")],
            b"{\"event_type\":\"a\"}\n{\"event_type\":\"\"}\n{\"event_type\":\"c\",\"user_id\":7}\n{\"event_type\":\"d\"}".to_vec(),
        ),
    ] {
        let reply = ingest.post("/v1/events/batch", headers, body);
        assert_eq!((reply.status, &reply.body), (200, &expected), "{headers:?}");
    }
    let stored = ingest.stored(8);
    assert_eq!(
        stored.iter().filter(|event| event["event_type"] == "a").count(),
        4
    );
    assert_eq!(stored.len(), 8);
}

#[test]
fn the_events_of_a_request_that_is_refused_whole_are_counted() {
    let ingest = Ingest::start_with("limits: {batch: 3}", &apps(""));
    let event = r#"{"event_type":"a"}"#;
    for (path, body, status, reason, events) in [
        (
            "/v1/events/batch",
            format!(r#"{{"events":[{event},{{}}],"app_id":"{OTHER}"}}"#),
            403,
            "app_mismatch",
            2.0,
        ),
        (
            "/v1/events/batch",
            format!("[{event},{event} x"),
            400,
            "invalid_json",
            2.0,
        ),
        (
            "/segment/v1/batch",
            r#"{"batch":[{"type":"page"},{"type":"dance"}]"#.to_owned(),
            400,
            "invalid_json",
            4.0,
        ),
        // Nobody reads on to know how many there are.
        (
            "/v1/events/batch",
            format!("[{event},{event},{event},{event},{event}]"),
            413,
            "envelope",
            3.0,
        ),
    ] {
        assert_eq!(ingest.write(path, &body).status, status, "{body}");
        let counted = ingest.metric(&format!(
            r#"penstock_ingest_events_total{{app="growth/shop",outcome="rejected",reason="{reason}"}}"#
        ));
        assert_eq!(counted, events, "{body}");
    }
    let missing =
        r#"penstock_ingest_events_total{app="growth/shop",outcome="rejected",reason="missing_field"}"#;
    assert_eq!(ingest.metric(missing), 0.0, "each event once");
    assert!(ingest.stored(0).is_empty() && ingest.letters(0).is_empty());
}

/// Only an envelope is refused for it.
#[test]
fn a_clock_that_is_far_ahead_is_put_right() {
    let ingest = Ingest::start();
    let ahead = "2100-01-01T00:00:00Z";
    let native = json!({"event_type": "a", "timestamp": ahead}).to_string();
    for (path, body) in [
        ("/v1/events", native.clone()),
        ("/api/attribution/track", native),
        (
            "/v1/batch",
            json!({"batch": [{"type": "track", "event": "a", "userId": "u", "timestamp": ahead}]})
                .to_string(),
        ),
    ] {
        let reply = ingest.write(path, &body);
        assert_eq!(reply.status, 200, "{path}: {}", reply.body);
    }
    for event in ingest.stored(3) {
        assert_eq!(event["timestamp"], event["received_at"], "{event}");
        assert_eq!(event["client_timestamp"], json!(4_102_444_800_000_i64), "{event}");
    }
    let envelope = json!({"app_id": SHOP, "events": [{
        "event_id": "0193f1c2-7b3e-7c31-a3c9-4b1f0a1d2e3f", "event_name": "a", "user_id": "u", "timestamp": ahead
    }]});
    let reply = ingest.write("/api/v1/events", envelope.to_string());
    assert_eq!(
        (reply.status, reply.body["code"].as_str()),
        (400, Some("VALIDATION_ERROR"))
    );
    assert_eq!(ingest.metric("penstock_ingest_events_ahead_total"), 3.0);
}

#[test]
fn what_is_too_old_is_kept_beside() {
    let ingest = Ingest::start();
    let reply = ingest.write("/v1/events", r#"{"event_type":"a","timestamp":1000000000}"#);
    assert_eq!(
        (reply.status, &reply.body["details"]["rejected"][0]["code"]),
        (400, &json!("too_old"))
    );
    let letters = ingest.letters(1);
    assert_eq!(letters[0].0, r#"{"event_type":"a","timestamp":1000000000}"#);
    let headers = &letters[0].1;
    for (name, value) in [
        ("penstock-reason", "TooOld"),
        ("penstock-step", "ingest"),
        ("penstock-app", SHOP),
    ] {
        assert_eq!(headers[name], value);
    }
    assert!(headers["penstock-detail"].contains("730 days") && !headers.contains_key("penstock-origin"));
}

#[test]
fn segment_is_answered_as_its_sdks_expect() {
    let ingest = Ingest::start();
    let batch = r#"{"batch":[{"type":"track","event":"Order","messageId":"m-1","userId":"u"},{"type":"dance"}],"writeKey":"writer"}"#;
    for path in ["/segment/v1/batch", "/v1/batch", "/v1/b/", "/segment/v1/import"] {
        let reply = ingest.post(path, &[("content-type", "text/plain")], batch);
        assert_eq!(
            (reply.status, &reply.body),
            (200, &json!({"success": true})),
            "{path}"
        );
    }
    for (path, event_type) in [
        ("/segment/v1/p", "page"),
        ("/v1/identify", "identify"),
        ("/v1/a", "alias"),
    ] {
        let reply = ingest.post(
            path,
            &[("authorization", "Basic d3JpdGVyOg==")],
            r#"{"userId":"u"}"#,
        );
        assert_eq!(
            (reply.status, &reply.body),
            (200, &json!({"success": true})),
            "{path} {event_type}"
        );
    }
    let stored = ingest.stored(7);
    let id = Uuid::new_v5(&SHOP.parse().unwrap(), b"segment/m-1").to_string();
    assert_eq!(
        stored
            .iter()
            .filter(|event| event["event_id"] == id.as_str())
            .count(),
        4
    );
    for event_type in ["page", "identify", "alias"] {
        assert_eq!(
            stored
                .iter()
                .filter(|event| event["event_type"] == event_type)
                .count(),
            1
        );
    }
    let letters = ingest.letters(4);
    assert_eq!((letters.len(), letters[0].0.as_str()), (4, r#"{"type":"dance"}"#));
    let reply = ingest.request("GET", "/segment/v1/projects/writer/settings", &[], b"");
    assert_eq!(
        reply.body["integrations"]["Segment.io"]["apiHost"],
        "ingest.test/segment/v1"
    );
    assert_eq!(
        ingest
            .request("GET", "/segment/v1/projects/nobody/settings", &[], b"")
            .status,
        401
    );
}

#[test]
fn a_retry_with_the_same_idempotency_key_has_the_same_ids() {
    let ingest = Ingest::start();
    let headers = [("x-api-key", "writer"), ("idempotency-key", "order-7")];
    for _ in 0..2 {
        assert_eq!(
            ingest
                .post(
                    "/v1/events/batch",
                    &headers,
                    r#"[{"event_type":"a"},{"event_type":"b"}]"#
                )
                .status,
            200
        );
    }
    let stored = ingest.stored(4);
    let key = |index: usize| {
        (
            stored[index]["event_id"].clone(),
            stored[index]["client_timestamp"].clone(),
        )
    };
    assert_eq!((key(0), key(1)), (key(2), key(3)));
    assert_ne!(key(0).0, key(1).0);
}

#[test]
fn over_the_quota_a_batch_is_admitted_in_part_and_then_not_at_all() {
    let ingest = Ingest::start_with("", &apps("eventsPerDay: 3"));
    let batch = r#"[{"event_type":"a"},{"event_type":"b"},{"event_type":"c"},{"event_type":"d"}]"#;
    let reply = ingest.write("/v1/events/batch", batch);
    assert_eq!((reply.status, &reply.body["accepted"]), (200, &json!(3)));
    assert_eq!(
        (
            &reply.body["rejected"][0]["index"],
            &reply.body["rejected"][0]["code"]
        ),
        (&json!(3), &json!("quota"))
    );
    let reply = ingest.write("/v1/events", r#"{"event_type":"e"}"#);
    assert_eq!(
        (reply.status, reply.body["error"].as_str()),
        (429, Some("rate limit exceeded"))
    );
    assert!(reply.headers["retry-after"].parse::<u32>().unwrap() > 0);
    assert_eq!(
        (
            reply.headers["ratelimit-limit"].as_str(),
            reply.headers["ratelimit-remaining"].as_str()
        ),
        ("3", "0")
    );
    let reset: u64 = reply.headers["ratelimit-reset"].parse().expect("seconds");
    assert!((1..=86_400).contains(&reset), "the day ends in {reset} s");
    let reply = ingest.write("/v1/batch", r#"{"batch":[{"type":"track","event":"x"}]}"#);
    assert_eq!((reply.status, reply.body["code"].as_str()), (429, Some("quota")));
    assert!(reply.headers.contains_key("retry-after") && reply.body["message"].is_string());
    assert_eq!(ingest.stored(3).len(), 3);
}

#[test]
fn dead_letters_have_what_the_quota_leaves_after_events() {
    let ingest = Ingest::start_with("", &apps("eventsPerDay: 2"));
    let old = r#"{"event_type":"a","timestamp":1000000000}"#;
    let batch = format!(r#"[{old},{old},{{"event_type":"b"}}]"#);
    let reply = ingest.write("/v1/events/batch", &batch);
    assert_eq!((reply.status, &reply.body["accepted"]), (200, &json!(1)));
    assert_eq!(reply.body["rejected"].as_array().map(Vec::len), Some(2));
    let reply = ingest.write("/v1/events", old);
    assert_eq!(
        (reply.status, &reply.body["details"]["rejected"][0]["code"]),
        (400, &json!("too_old"))
    );
    assert_eq!((ingest.stored(1).len(), ingest.letters(1).len()), (1, 1));
    // One of the three was kept, and nobody is told that his was.
    assert_eq!(
        reply.body["details"]["rejected"][0]["detail"],
        "older than 730 days"
    );
}

#[test]
fn a_configuration_is_checked_without_starting() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.yaml");
    let check = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let output = binary()
            .args(["--check", "--config"])
            .arg(&path)
            .env("PENSTOCK_LIMITS__BATCH", "7")
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (
            output.status.success(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let good = "{version: 1, pipeline: {namespace: a, name: b}, appsFile: /nowhere, \
                kafka: {bootstrap: 'k:9092', topic: t, deadLetterTopic: d}}";
    let (ok, effective, _) = check(good);
    assert!(
        ok && effective.contains("batch: 7") && effective.contains("topic: t"),
        "{effective}"
    );
    let (ok, _, error) = check(&good.replace("topic: t,", ""));
    assert!(!ok && error.contains("topic"), "{error}");
}

#[test]
fn every_answer_names_its_request() {
    let ingest = Ingest::start();
    let own = ("x-request-id", "client-7/a_b.c:1");
    let reply = ingest.post("/v1/events", &[own], "{}");
    assert_eq!(
        (reply.status, reply.headers["x-request-id"].as_str()),
        (401, own.1)
    );
    let mut made = Vec::new();
    for given in [
        None,
        Some("with space"),
        Some("quo\"te"),
        Some(&*"x".repeat(129)),
        Some(""),
    ] {
        let mut headers = vec![("x-api-key", "writer")];
        headers.extend(given.map(|given| ("x-request-id", given)));
        let reply = ingest.post("/v1/events", &headers, r#"{"event_type":"a"}"#);
        let id = reply.headers["x-request-id"].clone();
        assert!(
            reply.status == 200 && id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{given:?}: {reply:?}"
        );
        made.push(id);
    }
    made.sort();
    made.dedup();
    assert_eq!(made.len(), 5, "each is another");
    for (method, path) in [
        ("GET", "/health"),
        ("OPTIONS", "/v1/events"),
        ("GET", "/nowhere"),
        ("PUT", "/v1/events"),
    ] {
        assert!(
            ingest
                .request(method, path, &[], b"")
                .headers
                .contains_key("x-request-id"),
            "{path}"
        );
    }
    // The log says which request it was.
    let log = ingest.directory.path().join("log.json");
    ingest.wait_for("the line of the refused request", || {
        let log = std::fs::read_to_string(&log).unwrap();
        log.lines()
            .any(|line| line.contains("\"request\"") && line.contains(own.1) && line.contains("missing_key"))
    });
}
