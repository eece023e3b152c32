use proptest::prelude::*;
use serde_json::json;

use super::super::client::{Sender, Shared};
use super::super::fixture::{stamp, stored};
use super::super::line::head_of;
use super::super::retention::Retention;
use super::*;

fn read(body: &str, call: Option<Call>) -> (Result<(), Refused>, Lines) {
    let head = head_of(&Uuid::from_u128(7));
    let shared = Shared::new(
        &Sender {
            ip: "",
            user_agent: "",
        },
        "segment",
        Retention::default(),
    );
    let stamp = stamp("segment", &head, &shared);
    let mut lines = Lines::default();
    let mut segment = Segment {
        stamp: &stamp,
        random: || Uuid::from_u128(9),
    };
    let result = match call {
        Some(call) => segment.single(body, call, &mut lines),
        None => segment.batch(body, &mut lines),
    };
    (result, lines)
}

#[test]
fn what_the_sdks_send_is_stored_in_columns() {
    let body = r#"{"batch":[
        {"type":"track","event":"Order","messageId":"node-next-1-x","userId":42,"anonymousId":"an-1",
         "timestamp":"2025-11-21T13:00:00.000Z","properties":{"total":1},"integrations":{"All":true},
         "context":{"library":{"name":"@segment/analytics-node","version":"2.3.0"},"os":{"name":"iOS","version":"18"},
                    "app":{"version":"3"},"campaign":{"source":"x"},"sessionId":"s","ip":"1.2.3.4"}},
        {"type":"identify","userId":"u","traits":{"plan":"pro"},"messageId":"0193f1c2-7b3e-7c31-a3c9-4b1f0a1d2e3f"},
        {"type":"page","anonymousId":"a","name":"Home","properties":{"url":"/"}}
      ],"sentAt":"2025-11-21T13:00:01.000Z","writeKey":"k"}"#;
    let (result, lines) = read(body, None);
    assert_eq!(result, Ok(()));
    assert!(lines.letters.is_empty(), "{:?}", lines.letters);
    let events = stored(&lines);
    let track = &events[0];
    for (name, expected) in [
        ("event_type", json!("Order")),
        (
            "event_id",
            json!(Uuid::new_v5(&Uuid::from_u128(7), b"segment/node-next-1-x").to_string()),
        ),
        ("timestamp", json!(1_763_730_000_000_i64)),
        ("user_id", json!("42")),
        ("device_id", json!("an-1")),
        ("session_id", json!("s")),
        ("platform", json!("iOS")),
        ("os_version", json!("18")),
        ("app_version", json!("3")),
        ("library", json!("@segment/analytics-node/2.3.0")),
        ("source", json!("segment")),
        ("attribution", json!({"source": "x"})),
        ("event_data", json!({"total": 1})),
    ] {
        assert_eq!(track[name], expected, "{name}");
    }
    assert_eq!(
        track["context"]["segment"],
        json!({"type": "track", "messageId": "node-next-1-x", "integrations": {"All": true}})
    );
    assert_eq!(track["context"]["ip"], "1.2.3.4");
    assert_eq!(
        (events[1]["event_type"].as_str(), &events[1]["event_data"]),
        (Some("identify"), &json!({"plan": "pro"}))
    );
    assert_eq!(events[1]["client_timestamp"], json!(0x0193_f1c2_7b3e_i64));
    assert_eq!(
        events[2]["context"],
        json!({"segment": {"type": "page", "name": "Home"}})
    );
}

#[test]
fn a_bad_event_of_a_batch_becomes_a_dead_letter() {
    let large = format!(
        r#"{{"type":"track","event":"a","properties":{{"x":"{}"}}}}"#,
        "y".repeat(2000)
    );
    for (event, reason, word) in [
        (r#"{"type":"track"}"#, "Malformed", "event"),
        (r#"{"event":"a"}"#, "Malformed", "type"),
        (r#"{"type":"dance"}"#, "Malformed", "type"),
        (
            r#"{"type":"track","event":"a","event":"b"}"#,
            "Malformed",
            "event",
        ),
        (
            r#"{"type":"track","event":"a","userId":{}}"#,
            "Malformed",
            "userId",
        ),
        (
            r#"{"type":"track","event":"a","timestamp":"2001-01-01T00:00:00Z"}"#,
            "TooOld",
            "timestamp",
        ),
        (large.as_str(), "TooLarge", "2000"),
        ("7", "Malformed", "object"),
    ] {
        let (result, lines) = read(
            &format!(r#"{{"batch":[{event},{{"type":"track","event":"ok"}}]}}"#),
            None,
        );
        assert_eq!(result, Ok(()), "{event}");
        assert_eq!(lines.lines.len(), 1, "{event}");
        assert!(lines.rejected.is_empty());
        let [letter] = &lines.letters[..] else {
            panic!("{event}: {:?}", lines.letters)
        };
        assert_eq!(
            (letter.reason, letter.bytes.as_slice()),
            (reason, event.as_bytes())
        );
        assert!(letter.detail.contains(word), "{event}: {}", letter.detail);
    }
}

#[test]
fn a_single_call_is_refused_alone_and_needs_no_type() {
    let (result, lines) = read(r#"{"event":"a","writeKey":"k","userId":"u"}"#, Some(Call::Track));
    assert_eq!((result, lines.lines.len()), (Ok(()), 1));
    assert!(!String::from_utf8(lines.bytes).unwrap().contains("writeKey"));
    let (_, lines) = read(r#"{"userId":"u"}"#, Some(Call::Track));
    assert_eq!((lines.rejected.len(), lines.letters.len()), (1, 0));
}

#[test]
fn a_dead_letter_has_no_key_and_is_else_what_was_sent() {
    const OLD: &str = r#""event":"a","timestamp":"2001-01-01T00:00:00Z""#;
    for (sent, kept) in [
        (
            format!(r#"{{ "writeKey" : "secret", {OLD}}}"#),
            format!(r#"{{ "writeKey" : "***", {OLD}}}"#),
        ),
        (
            format!(r#"{{{OLD},"\u0077riteKey":["sec",{{"ret":1}}] }}"#),
            format!(r#"{{{OLD},"\u0077riteKey":"***" }}"#),
        ),
        // Not a key of Penstock's, but what the event says.
        (
            format!(r#"{{{OLD},"properties":{{"writeKey":"x"}}}}"#),
            format!(r#"{{{OLD},"properties":{{"writeKey":"x"}}}}"#),
        ),
        // What is wrong here is that there are two.
        (
            r#"{"event":"a","writeKey":"secret","userId":"ü","writeKey":"secret"}"#.to_owned(),
            r#"{"event":"a","writeKey":"***","userId":"ü","writeKey":"***"}"#.to_owned(),
        ),
    ] {
        let (result, lines) = read(&format!(r#"{{"batch":[{sent}, {sent}],"writeKey":"k"}}"#), None);
        assert_eq!(result, Ok(()));
        assert_eq!(lines.letters.len(), 2, "{sent}");
        for letter in &lines.letters {
            assert_eq!(std::str::from_utf8(&letter.bytes).unwrap(), kept);
        }
        let (_, lines) = read(&sent, Some(Call::Track));
        for letter in &lines.letters {
            assert_eq!(
                (letter.reason, letter.bytes.as_slice()),
                ("TooOld", kept.as_bytes())
            );
        }
        assert_eq!(lines.letters.len(), usize::from(sent.contains("2001")), "{sent}");
    }
}

#[test]
fn whole_requests_are_refused_where_they_must_be() {
    for (body, expected) in [
        (r#"{"batch":[]}"#, Refused::NoEvents),
        ("{}", Refused::NoEvents),
        (r#"{"batch":[1,2,3,4,5,6]}"#, Refused::TooManyEvents(5)),
        (
            r#"{"batch":{}}"#,
            Refused::Json(Fault {
                offset: 9,
                expected: "one array `batch`",
            }),
        ),
        (
            "[]",
            Refused::Json(Fault {
                offset: 0,
                expected: "`{`",
            }),
        ),
    ] {
        assert_eq!(read(body, None).0, Err(expected), "{body}");
    }
}

#[test]
fn the_key_is_found_at_the_top_level_only() {
    for (body, key) in [
        (
            r#"{"batch":[{"writeKey":"inner"}],"writeKey":"outer"}"#,
            Some("outer"),
        ),
        (r#"{"batch":[{"writeKey":"inner"}]}"#, None),
        (r#"{"writeKey":7}"#, None),
        ("[", None),
    ] {
        assert_eq!(write_key(body).as_deref(), key, "{body}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn lines_are_always_json(
        pieces in prop::collection::vec(
            prop::sample::select(vec![
                "{", "}", "[", "]", ",", ":", "\n", "\"batch\"", "\"type\"", "\"track\"", "\"event\"", "\"context\"",
                "\"library\"", "\"name\"", "{}", "1", "null", "{\"type\":\"track\",\"event\":\"a\"}",
                "{\"type\":\"page\",\"context\":{\"segment\":1,\"os\":{\"name\":\n\"x\"}},\"zz\":[\n1]}",
            ]),
            0..20,
        ),
    ) {
        for call in [None, Some(Call::Identify)] {
            let (result, lines) = read(&pieces.concat(), call);
            if result.is_ok() {
                stored(&lines);
            }
        }
        let (result, lines) = read(&format!("{{\"batch\":[{}]}}", pieces.concat()), None);
        if result.is_ok() {
            stored(&lines);
        }
    }
}

#[test]
fn a_key_that_speaks_for_others_says_who_the_client_is() {
    let head = head_of(&Uuid::from_u128(7));
    let own = Sender {
        ip: "198.51.100.1",
        user_agent: "backend/1",
    };
    let shared = Shared::new(&own, "segment", Retention::default());
    for (on_behalf, context, expected) in [
        (
            Some(own),
            r#"{"ip":"203.0.113.9","userAgent":"Mozilla"}"#,
            ["203.0.113.9", "Mozilla"],
        ),
        (
            Some(own),
            r#"{"ip":"here","userAgent":7}"#,
            ["198.51.100.1", "backend/1"],
        ),
        (
            None,
            r#"{"ip":"203.0.113.9","userAgent":"Mozilla"}"#,
            ["198.51.100.1", "backend/1"],
        ),
    ] {
        let stamp = Stamp {
            on_behalf,
            ..stamp("segment", &head, &shared)
        };
        let mut lines = Lines::default();
        let body = format!(r#"{{"batch":[{{"type":"page","context":{context}}}]}}"#);
        let mut segment = Segment {
            stamp: &stamp,
            random: || Uuid::from_u128(9),
        };
        assert_eq!(segment.batch(&body, &mut lines), Ok(()));
        let line = &stored(&lines)[0];
        assert_eq!([&line["ip"], &line["user_agent"]], expected, "{context}");
        assert!(
            line["context"]["ip"].is_string(),
            "what the client sent is kept where it sent it"
        );
    }
}

#[test]
fn a_line_that_no_record_could_hold_becomes_a_dead_letter() {
    // The campaign is kept twice, as attribution and in the context.
    let campaign = "y".repeat(500_000);
    let body = format!(
        r#"{{"batch":[{{"type":"track","event":"a","context":{{"campaign":{{"x":"{campaign}"}}}}}},{{"type":"page"}}]}}"#
    );
    let (head, shared) = (
        head_of(&Uuid::from_u128(7)),
        Shared::new(
            &Sender {
                ip: "",
                user_agent: "",
            },
            "segment",
            Retention::default(),
        ),
    );
    let stamp = Stamp {
        event_limit: 600_000,
        ..stamp("segment", &head, &shared)
    };
    let mut lines = Lines::default();
    let read = Segment {
        stamp: &stamp,
        random: || Uuid::from_u128(9),
    }
    .batch(&body, &mut lines);
    assert_eq!((read, lines.lines.len()), (Ok(()), 1));
    assert_eq!((lines.letters.len(), lines.letters[0].reason), (1, "TooLarge"));
    assert_eq!(stored(&lines)[0]["event_type"], "page");
}
