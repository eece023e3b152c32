use proptest::prelude::*;
use serde_json::json;

use super::super::client::{Sender, Shared};
use super::super::fixture::{NOW, stamp, stored};
use super::super::line::head_of;
use super::super::retention::Retention;
use super::*;

struct Shop;

impl Owner for Shop {
    fn is(&self, id: &str) -> bool {
        id == "shop" || id == Uuid::from_u128(7).to_string()
    }
}

fn read(body: &str, batch: bool) -> (Result<(), Refused>, Lines) {
    let head = head_of(&Uuid::from_u128(7));
    let shared = Shared::new(
        &Sender {
            ip: "203.0.113.7",
            user_agent: "curl/8 \"x\"",
        },
        "native",
        Retention::default(),
    );
    let stamp = stamp("native", &head, &shared);
    let mut lines = Lines::default();
    let mut native = Native {
        stamp: &stamp,
        owner: &Shop,
        random: || Uuid::from_u128(9),
    };
    let result = if batch {
        native.batch(body, false, &mut lines)
    } else {
        native.single(body, &mut lines)
    };
    (result, lines)
}

fn codes(lines: &Lines) -> Vec<(u32, &'static str, &str)> {
    lines
        .rejected
        .iter()
        .map(|one| (one.index, one.found.flaw.code(), &*one.found.field))
        .collect()
}

#[test]
fn a_full_event_becomes_the_line_of_the_contract() {
    let body = r#" {"event_type":"purchase","event_id":"0193F1C2-7B3E-7C31-A3C9-4B1F0A1D2E3F","app_id":"shop","timestamp":1763730000,
        "user_id":"u-1","device_id":"","session_id":null,"platform":"iOS","os_version":"18.1","app_version":"2.0",
        "attribution":{"source":"a\nb"},"event_data":{"amount":
        12.5},"context":{"x":1}} "#
        .replace("a\nb", "a\\nb");
    let (result, lines) = read(&body, false);
    assert_eq!(result, Ok(()));
    let expected = format!(
        "{{\"v\":1,\"app_id\":\"{}\",\"event_id\":\"0193f1c2-7b3e-7c31-a3c9-4b1f0a1d2e3f\",\"received_at\":{NOW},\
         \"timestamp\":1763730000000,\"client_timestamp\":1763730000000,\"ip\":\"203.0.113.7\",\
         \"user_agent\":\"curl/8 \\\"x\\\"\",\"library\":\"\",\"source\":\"native\",\"event_type\":\"purchase\",\
         \"user_id\":\"u-1\",\"platform\":\"iOS\",\"os_version\":\"18.1\",\"app_version\":\"2.0\",\
         \"attribution\":{{\"source\":\"a\\nb\"}},\"event_data\":{{\"amount\":        12.5}},\"context\":{{\"x\":1}}}}\n",
        Uuid::from_u128(7)
    );
    assert_eq!(String::from_utf8(lines.bytes).unwrap(), expected);
}

#[test]
fn what_has_no_column_goes_into_context_and_reserved_names_go() {
    let body = r#"{"event_type":"a","extra":[1],"ip":"9.9.9.9","v":7,"context":{"extra":2,"own":3},"k\u0065y":"\u00e9"}"#;
    let (result, lines) = read(body, false);
    assert_eq!(result, Ok(()));
    let line = &stored(&lines)[0];
    assert_eq!(line["context"], json!({"extra": [1], "key": "é", "own": 3}));
    assert_eq!(
        (line["ip"].as_str(), line["v"].as_i64(), lines.dropped),
        (Some("203.0.113.7"), Some(1), 2)
    );
}

#[test]
fn a_key_that_speaks_for_others_says_who_the_client_is() {
    let head = head_of(&Uuid::from_u128(7));
    let own = Sender {
        ip: "198.51.100.1",
        user_agent: "backend/1",
    };
    let shared = Shared::new(&own, "native", Retention::default());
    let stamp = Stamp {
        on_behalf: Some(own),
        ..stamp("native", &head, &shared)
    };
    let mut lines = Lines::default();
    let mut native = Native {
        stamp: &stamp,
        owner: &Shop,
        random: || Uuid::from_u128(9),
    };
    let body = r#"[{"event_type":"a","ip":"203.0.113.9","user_agent":"Mozilla \"5\""},{"event_type":"b","ip":"2001:db8::1"},
        {"event_type":"c"},{"event_type":"d","ip":"here"}]"#;
    assert_eq!(native.batch(body, false, &mut lines), Ok(()));
    let said: Vec<_> = stored(&lines)
        .iter()
        .map(|line| (line["ip"].clone(), line["user_agent"].clone()))
        .collect();
    let expected = [
        ("203.0.113.9", "Mozilla \"5\""),
        ("2001:db8::1", "backend/1"),
        ("198.51.100.1", "backend/1"),
    ];
    assert_eq!(said, expected.map(|(ip, agent)| (json!(ip), json!(agent))));
    assert_eq!(
        (codes(&lines), lines.dropped),
        (vec![(3, "invalid_type", "ip")], 0)
    );
}

#[test]
fn each_flaw_is_named_with_its_field() {
    let long = "x".repeat(101);
    let longer = "x".repeat(1001);
    for (body, code, field) in [
        ("{}".to_owned(), "missing_field", "event_type"),
        (r#"{"event_type":null}"#.into(), "missing_field", "event_type"),
        (r#"{"event_type":""}"#.into(), "too_short", "event_type"),
        (r#"{"event_type":7}"#.into(), "invalid_type", "event_type"),
        (r#"{"event_type":"\ud800"}"#.into(), "invalid_type", "event_type"),
        (format!(r#"{{"event_type":"{long}"}}"#), "too_long", "event_type"),
        (
            format!(r#"{{"event_type":"a","user_id":"{longer}"}}"#),
            "too_long",
            "user_id",
        ),
        (
            r#"{"event_type":"a","user_id":5}"#.into(),
            "invalid_type",
            "user_id",
        ),
        (
            r#"{"event_type":"a","event_data":"x"}"#.into(),
            "invalid_type",
            "event_data",
        ),
        (
            r#"{"event_type":"a","attribution":[]}"#.into(),
            "invalid_type",
            "attribution",
        ),
        (
            r#"{"event_type":"a","timestamp":"yesterday"}"#.into(),
            "invalid_time",
            "timestamp",
        ),
        (
            r#"{"event_type":"a","timestamp":-1}"#.into(),
            "invalid_time",
            "timestamp",
        ),
        (
            r#"{"event_type":"a","timestamp":true}"#.into(),
            "invalid_type",
            "timestamp",
        ),
        (
            r#"{"event_type":"a","timestamp":1}"#.into(),
            "too_old",
            "timestamp",
        ),
        (
            r#"{"event_type":"a","app_id":"other"}"#.into(),
            "app_mismatch",
            "app_id",
        ),
        (
            r#"{"event_type":"a","event_type":"b"}"#.into(),
            "duplicate_member",
            "event_type",
        ),
        (
            format!(
                r#"{{"event_type":"a","event_data":{{"x":"{}"}}}}"#,
                "y".repeat(2000)
            ),
            "event_too_large",
            "",
        ),
        ("[]".into(), "invalid_type", ""),
    ] {
        let (result, lines) = read(&body, false);
        assert_eq!(result, Ok(()), "{body}");
        assert_eq!(codes(&lines), [(0, code, field)], "{body}");
        assert!(stored(&lines).is_empty());
        assert_eq!(lines.letters.len(), usize::from(code == "too_old"), "{body}");
    }
    let escaped = format!(r#"{{"event_type":"{}"}}"#, "\\u0041".repeat(100));
    assert!(
        read(&escaped, false).1.rejected.is_empty(),
        "the limit counts decoded bytes"
    );
}

#[test]
fn a_bad_event_never_sinks_its_batch() {
    for body in [
        r#"{"events":[{"event_type":"a"},{"x":1},5,{"event_type":"d"}],"sent":1}"#,
        r#"[{"event_type":"a"},{"x":1},5,{"event_type":"d"}]"#,
        "{\"event_type\":\"a\"}\n{\"x\":1}\r\n\n5\n{\"event_type\":\"d\"}\n",
    ] {
        let (result, lines) = read(body, true);
        assert_eq!(result, Ok(()), "{body}");
        assert_eq!(
            codes(&lines),
            [(1, "missing_field", "event_type"), (2, "invalid_type", "")],
            "{body}"
        );
        let kinds: Vec<_> = stored(&lines)
            .iter()
            .map(|line| line["event_type"].clone())
            .collect();
        assert_eq!(kinds, ["a", "d"]);
        assert_eq!(
            lines.lines.iter().map(|line| line.index).collect::<Vec<_>>(),
            [0, 3]
        );
    }
}

#[test]
fn a_broken_line_is_refused_alone() {
    let (result, lines) = read(
        "{\"event_type\":\"a\"}\n{\"event_type\":\"b\"} x\n{\"event_type\":\n{\"event_type\":\"d\"}",
        true,
    );
    assert_eq!(result, Ok(()));
    assert_eq!(codes(&lines), [(1, "invalid_json", ""), (2, "invalid_json", "")]);
    assert!(
        lines.rejected[0].found.detail.starts_with("byte 38: "),
        "{}",
        lines.rejected[0].found.detail
    );
    assert_eq!(stored(&lines).len(), 2);
}

#[test]
fn whole_requests_are_refused_where_nothing_can_be_told_apart() {
    let fault = |offset, expected| Err(Refused::Json(Fault { offset, expected }));
    for (body, expected) in [
        ("", fault(0, "a value")),
        (r#"{"events":[{"event_type":"a"},]}"#, fault(30, "a value")),
        (r#"{"events":[{"event_type":"a"}]"#, fault(30, "`,` or `}`")),
        (r#"{"events":{}}"#, fault(10, "one array `events`")),
        (r#"{"events":[],"events":[]}"#, fault(22, "one array `events`")),
        (r#"{"events":[]}"#, Err(Refused::NoEvents)),
        ("{}", Err(Refused::NoEvents)),
        ("[]", Err(Refused::NoEvents)),
        ("[1,2,3,4,5,6]", Err(Refused::TooManyEvents(5))),
        ("1\n2\n3\n4\n5\n6", fault(0, "`{`")),
        ("{}\n{}\n{}\n{}\n{}\n{}", Err(Refused::TooManyEvents(5))),
        (
            r#"{"app_id":"other","events":[{"event_type":"a"}]}"#,
            Err(Refused::AppMismatch),
        ),
        (r#"{"events":[{"event_type":"a"}],"app_id":"shop"}"#, Ok(())),
    ] {
        assert_eq!(read(body, true).0, expected, "{body}");
    }
    assert_eq!(
        read(r#"{"event_type":"a"} {}"#, false).0,
        fault(19, "the end of the text")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever arrives, the lines that come out are those of the contract.
    #[test]
    fn lines_are_always_canonical(
        pieces in prop::collection::vec(
            prop::sample::select(vec![
                "{", "}", "[", "]", ",", ":", "\n", " ", "\"event_type\"", "\"events\"", "\"timestamp\"", "\"user_id\"",
                "\"event_data\"", "\"a\"", "\"\\n\"", "1763730000", "1", "null", "{\"event_type\":\"a\"}",
                "{\"event_type\":\"a\",\"event_data\":{\"b\":\n[1]}}",
            ]),
            0..20,
        ),
    ) {
        for batch in [false, true] {
            let (result, lines) = read(&pieces.concat(), batch);
            if result.is_ok() {
                for line in stored(&lines) {
                    prop_assert_eq!(&line["v"], &json!(1));
                    prop_assert!(line["event_type"].as_str().is_some_and(|kind| !kind.is_empty()));
                }
                prop_assert_eq!(lines.seen as usize, lines.lines.len() + lines.rejected.len());
            }
        }
    }

    #[test]
    fn no_body_makes_it_stumble(body in any::<String>()) {
        let _ = read(&body, true);
        let _ = read(&body, false);
    }
}
