//! Which web pages may send, and what their browsers are told.

use super::harness::{Ingest, apps};

#[test]
fn a_browser_may_send_from_anywhere_and_read_the_answer() {
    let ingest = Ingest::start();
    let origin = ("origin", "https://shop.example");
    let reply = ingest.request(
        "OPTIONS",
        "/segment/v1/t",
        &[origin, ("access-control-request-method", "POST")],
        b"",
    );
    assert_eq!(
        (
            reply.status,
            reply.headers["access-control-allow-methods"].as_str()
        ),
        (204, "POST")
    );
    assert!(reply.headers["access-control-allow-headers"].contains("authorization"));
    assert_eq!(reply.headers["access-control-allow-origin"], "*");
    let refused = ingest.post("/segment/v1/t", &[origin], "{}");
    assert_eq!(
        (
            refused.status,
            refused.headers["access-control-allow-origin"].as_str()
        ),
        (401, "*")
    );
    assert_eq!(ingest.request("OPTIONS", "/nowhere", &[origin], b"").status, 404);
    assert!(
        !ingest
            .post("/v1/events", &[], "{}")
            .headers
            .contains_key("access-control-allow-origin")
    );
}

#[test]
fn a_page_that_an_app_does_not_list_may_not_send() {
    let listed = apps("").replace(
        "name: growth/shop,",
        "name: growth/shop, origins: ['https://shop.example'],",
    );
    let listed = listed.replace(
        "name: growth/other,",
        "name: growth/other, origins: ['https://other.example'],",
    );
    // The third App is suspended; it lists one too, or it would let everybody in.
    let listed = listed.replace(
        "suspended: true,",
        "suspended: true, origins: ['https://closed.example'],",
    );
    let ingest = Ingest::start_with("", &listed);
    let event = r#"{"event_type":"a"}"#;
    let batch = r#"{"batch":[{"type":"page"}],"writeKey":"writer"}"#;
    for (path, headers, body, status, allowed) in [
        (
            "/v1/events",
            &[("x-api-key", "writer"), ("origin", "https://shop.example")][..],
            event,
            200,
            true,
        ),
        ("/v1/events", &[("x-api-key", "writer")], event, 200, false),
        (
            "/v1/events",
            &[("x-api-key", "writer"), ("origin", "https://evil.example")],
            event,
            403,
            false,
        ),
        (
            "/v1/events",
            &[("x-api-key", "writer"), ("origin", "https://other.example")],
            event,
            403,
            false,
        ),
        (
            "/v1/events",
            &[("x-api-key", "writer"), ("origin", "https://shop.example")],
            "{}",
            400,
            true,
        ),
        // No key, no App: who is listed by any of them may read why.
        (
            "/v1/events",
            &[("origin", "https://other.example")],
            event,
            401,
            true,
        ),
        (
            "/v1/events",
            &[("origin", "https://evil.example")],
            event,
            401,
            false,
        ),
        (
            "/v1/batch",
            &[("origin", "https://shop.example")],
            batch,
            200,
            true,
        ),
        (
            "/v1/batch",
            &[("origin", "https://other.example")],
            batch,
            403,
            false,
        ),
    ] {
        let reply = ingest.post(path, headers, body);
        assert_eq!(reply.status, status, "{headers:?}: {reply:?}");
        let origin = headers
            .iter()
            .find(|(name, _)| *name == "origin")
            .map(|(_, origin)| *origin);
        let said = reply
            .headers
            .get("access-control-allow-origin")
            .map(String::as_str);
        assert_eq!(said, origin.filter(|_| allowed), "{headers:?}: {reply:?}");
        assert_eq!(
            reply.headers.contains_key("access-control-allow-credentials"),
            allowed
        );
        if status == 403 {
            assert_eq!(reply.body["code"], "origin_not_allowed");
        }
    }
    for (origin, allowed) in [
        ("https://shop.example", true),
        ("https://other.example", true),
        ("https://evil.example", false),
    ] {
        let headers = [("origin", origin), ("access-control-request-method", "POST")];
        let reply = ingest.request("OPTIONS", "/v1/events", &headers, b"");
        assert_eq!((reply.status, reply.headers["vary"].as_str()), (204, "origin"));
        let said = reply
            .headers
            .get("access-control-allow-origin")
            .map(String::as_str);
        assert_eq!(said, allowed.then_some(origin), "{reply:?}");
    }
    assert_eq!(ingest.stored(3).len(), 3);
}
