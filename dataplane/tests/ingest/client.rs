//! Which address and user agent an event is stored with.

use serde_json::json;

use super::harness::{Ingest, apps};

#[test]
fn a_trusted_key_may_say_who_its_client_is() {
    let ingest = Ingest::start();
    let event = json!({"event_type": "a", "ip": "203.0.113.9", "user_agent": "Mozilla"}).to_string();
    for (key, ip, agent) in [
        ("writer", "127.0.0.1", "test/1"),
        ("backend", "203.0.113.9", "Mozilla"),
    ] {
        let reply = ingest.post(
            "/v1/events",
            &[("x-api-key", key), ("user-agent", "test/1")],
            &event,
        );
        assert_eq!(reply.status, 200, "{reply:?}");
        ingest.wait_for("the event", || {
            ingest
                .stored(1)
                .iter()
                .any(|event| event["ip"] == ip && event["user_agent"] == agent)
        });
    }
    assert_eq!(ingest.metric("penstock_ingest_members_dropped_total"), 2.0);
}

#[test]
fn a_trusted_proxy_says_where_a_request_comes_from() {
    let ingest = Ingest::start_with("trustedProxies: [127.0.0.0/8, 10.0.0.0/8]", &apps(""));
    let headers = [
        ("x-api-key", "writer"),
        ("x-forwarded-for", "1.1.1.1, 203.0.113.7, 10.0.0.2"),
    ];
    assert_eq!(
        ingest
            .post("/v1/events", &headers, r#"{"event_type":"a"}"#)
            .status,
        200
    );
    assert_eq!(ingest.stored(1)[0]["ip"], "203.0.113.7");
}
