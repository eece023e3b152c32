use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::consume::scan::unescape;

const EXAMPLE: &str = r#"{"v":1,"app_id":"6f0c4a4e-5d0b-5c58-9a52-0d9c9a8f3b11","event_id":"0193f1c2-7b3e-7c31-a3c9-4b1f0a1d2e3f","received_at":1763730000123,"timestamp":1763730000000,"client_timestamp":1763730000000,"ip":"203.0.113.7","user_agent":"curl/8","library":"","source":"native","event_type":"purchase","user_id":"u-1","event_data":{"amount":12.5}}"#;

fn text(text: Text<'_>) -> String {
    let mut out = Vec::new();
    unescape(text.raw, &mut out);
    String::from_utf8(out).unwrap()
}

/// The page that other programs read the topic by holds a line that this reader takes.
#[test]
fn the_example_of_the_page_is_read() {
    let page = include_str!("../../../docs/record.md");
    assert!(page.contains(EXAMPLE), "the example in docs/record.md changed");
    let line = parse(EXAMPLE.as_bytes()).unwrap();
    assert_eq!(line.app_id, 0x6f0c_4a4e_5d0b_5c58_9a52_0d9c_9a8f_3b11);
    assert_eq!(line.event_id, 0x0193_f1c2_7b3e_7c31_a3c9_4b1f_0a1d_2e3f);
    assert_eq!(
        (line.received_at, line.timestamp, line.client_timestamp),
        (1_763_730_000_123, 1_763_730_000_000, 1_763_730_000_000)
    );
    assert_eq!(
        [
            line.ip,
            line.user_agent,
            line.library,
            line.source,
            line.event_type,
            line.user_id
        ]
        .map(text),
        ["203.0.113.7", "curl/8", "", "native", "purchase", "u-1"]
    );
    assert_eq!(
        (line.event_data, line.context, line.attribution),
        (&br#"{"amount":12.5}"#[..], &b"{}"[..], &b"{}"[..])
    );
}

#[test]
fn a_newer_version_is_told_from_a_broken_line() {
    for (line, error) in [
        (r#"{"v":2,"what":"ever"}"#, LineError::UnknownVersion(2)),
        (r#"{ "v" : 7 , "x":1}"#, LineError::UnknownVersion(7)),
        (r#"{"v":2 something else entirely"#, LineError::UnknownVersion(2)),
    ] {
        assert_eq!(parse(line.as_bytes()), Err(error), "{line}");
    }
}

#[test]
fn what_is_wrong_is_said() {
    let change = |from: &str, to: &str| {
        assert!(EXAMPLE.contains(from), "{from}");
        EXAMPLE.replacen(from, to, 1)
    };
    for (line, says) in [
        (String::new(), "no JSON object"),
        ("hello".into(), "no JSON object"),
        ("{}".into(), "does not begin with its version"),
        (
            r#"{"app_id":"x","v":1}"#.into(),
            "does not begin with its version",
        ),
        (change(r#""v":1"#, r#""v":"1""#), "`v` is no version"),
        (change(r#""v":1"#, r#""v":0"#), "`v` is no version"),
        (change("6f0c4a4e-", "6f0c4a4eX"), "no UUID"),
        (change("1763730000123", "-5"), "`received_at` is out of range"),
        (change("1763730000123", "1e3"), "neither"),
        (change("1763730000123", r#""now""#), "no whole number"),
        (change("1763730000123", "99999999999999999999"), "no whole number"),
        (
            change(r#""timestamp":1763730000000"#, r#""timestamp":10413792000000"#),
            "a time is out of range",
        ),
        (change(r#""event_type":"purchase","#, ""), "no `event_type`"),
        (
            change(r#""event_type":"purchase""#, r#""event_type":"""#),
            "no `event_type`",
        ),
        (
            change(r#""event_type":"purchase""#, r#""event_type":7"#),
            "no string",
        ),
        (change(r#""user_id":"u-1""#, r#""user_id":null"#), "no string"),
        (change(r#"{"amount":12.5}"#, "[1]"), "no object"),
        (change(r#"{"amount":12.5}"#, r#"{"amount":12.5]"#), "does not end"),
        (change(r#""u-1""#, "\"u\u{1}1\""), "holds what no string may"),
        (change(r#""u-1""#, r#""u\z1""#), "holds what no string may"),
        (change(r#""ip":"203.0.113.7","#, r#""v":1,"#), "a second version"),
        (
            change(r#""ip""#, r#""retention_days":0,"ip""#),
            "no number of days",
        ),
        (
            change(r#""ip""#, r#""retention_days":65536,"ip""#),
            "no number of days",
        ),
        (EXAMPLE[..EXAMPLE.len() - 1].into(), "neither"),
        (EXAMPLE[..EXAMPLE.len() - 4].into(), "does not end"),
        (format!("{EXAMPLE}{EXAMPLE}"), "more after the end"),
    ] {
        let error = parse(line.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(says), "{line}\nsays: {error}\nnot: {says}");
    }
}

#[test]
fn order_spaces_and_unknown_members_do_not_matter() {
    let plain = parse(EXAMPLE.as_bytes()).unwrap();
    let known: Value = serde_json::from_str(EXAMPLE).unwrap();
    let mut spelled = String::from("{ \"v\" : 1");
    for (key, value) in known
        .as_object()
        .unwrap()
        .iter()
        .rev()
        .filter(|(key, _)| *key != "v")
    {
        spelled.push_str(&format!(
            " ,\t\"new\" : [{{\"a\":\"]\"}}], {} :  {value}",
            json!(key)
        ));
    }
    spelled.push_str(r#","yes":true,"n":-1.5e+3,"s":"x"}  "#);
    assert_eq!(parse(spelled.as_bytes()), Ok(plain));
}

fn event() -> impl Strategy<Value = Value> {
    let texts = proptest::collection::vec(".{0,20}", 10);
    (texts, any::<u128>(), 0..4_294_967_295_000_i64, "[a-z]{1,9}").prop_map(|(texts, id, at, name)| {
        json!({
            "v": 1,
            "app_id": uuid::Uuid::from_u128(id).to_string(),
            "event_id": uuid::Uuid::from_u128(!id).to_string(),
            "received_at": at, "timestamp": at / 2, "client_timestamp": -at / 3,
            "ip": texts[0], "user_agent": texts[1], "library": texts[2], "source": texts[3],
            "event_type": name, "user_id": texts[4], "device_id": texts[5], "session_id": texts[6],
            "platform": texts[7], "os_version": texts[8], "app_version": texts[9],
            "attribution": {"a": texts[0], "n": [1, {"deep": texts[9]}]},
            "event_data": {texts[1].clone(): at},
        })
    })
}

/// Writes a line as ingest does: the server's members first.
fn spell(event: &Value) -> String {
    const FIRST: [&str; 10] = [
        "v",
        "app_id",
        "event_id",
        "received_at",
        "timestamp",
        "client_timestamp",
        "ip",
        "user_agent",
        "library",
        "source",
    ];
    let members = event.as_object().unwrap();
    let rest = members
        .keys()
        .map(String::as_str)
        .filter(|key| !FIRST.contains(key));
    let all: Vec<String> = FIRST
        .into_iter()
        .chain(rest)
        .map(|key| format!("{}:{}", json!(key), members[key]))
        .collect();
    format!("{{{}}}", all.join(","))
}

proptest! {
    #[test]
    fn every_event_reads_back(event in event()) {
        let spelled = spell(&event);
        let line = parse(spelled.as_bytes()).unwrap();
        prop_assert_eq!(uuid::Uuid::from_u128(line.app_id).to_string(), event["app_id"].as_str().unwrap());
        prop_assert_eq!(uuid::Uuid::from_u128(line.event_id).to_string(), event["event_id"].as_str().unwrap());
        prop_assert_eq!(line.received_at, event["received_at"].as_i64().unwrap());
        prop_assert_eq!(line.client_timestamp, event["client_timestamp"].as_i64().unwrap());
        for (key, read) in [
            ("ip", line.ip), ("user_agent", line.user_agent), ("library", line.library), ("source", line.source),
            ("event_type", line.event_type), ("user_id", line.user_id), ("device_id", line.device_id),
            ("session_id", line.session_id), ("platform", line.platform), ("os_version", line.os_version),
            ("app_version", line.app_version),
        ] {
            prop_assert_eq!(text(read), event[key].as_str().unwrap(), "{}", key);
        }
        prop_assert_eq!(serde_json::from_slice::<Value>(line.attribution).unwrap(), event["attribution"].clone());
        prop_assert_eq!(serde_json::from_slice::<Value>(line.event_data).unwrap(), event["event_data"].clone());
    }

    /// What is remembered of other lines, be they whole or damaged, changes nothing.
    #[test]
    fn a_line_reads_the_same_behind_others(
        lines in proptest::collection::vec((event(), any::<u64>(), proptest::option::of((any::<prop::sample::Index>(), 0x20_u8..0x7f))), 1..6),
    ) {
        let mut before = Before::default();
        for (event, order, damage) in lines {
            let mut line = spell(&event).into_bytes();
            if order % 3 == 0 {
                // The client's members in another order, with white space about them.
                let members = event.as_object().unwrap();
                let mut names: Vec<&String> = members.keys().filter(|name| *name != "v").collect();
                let by = order as usize % names.len();
                names.rotate_left(by);
                let members: Vec<String> = names.iter().map(|name| format!(" {} : {}", json!(name), members[*name])).collect();
                line = format!("{{\"v\":1,{}}}", members.join(" ,")).into_bytes();
            }
            if let Some((at, byte)) = damage {
                let at = at.index(line.len());
                line[at] = byte;
            }
            prop_assert_eq!(parse_next(&line, &mut before), parse(&line), "{}", String::from_utf8_lossy(&line));
        }
    }

    /// Cut, overwritten or doubled bytes never panic, and never pass for another version of a whole line.
    #[test]
    fn damage_is_an_error_or_harmless(event in event(), at in any::<prop::sample::Index>(), byte in 0x20_u8..0x7f) {
        let spelled = spell(&event).into_bytes();
        let at = at.index(spelled.len());
        prop_assert!(parse(&spelled[..at]).is_err());
        let mut damaged = spelled;
        damaged[at] = byte;
        let _ = parse(&damaged);
    }
}
