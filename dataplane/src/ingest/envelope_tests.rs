use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::client::{Sender, Shared};
use super::super::fixture::{NOW, stamp, stored};
use super::super::json::Fault;
use super::super::line::head_of;
use super::super::retention::Retention;
use super::*;

const ID: &str = "0193f1c2-7b3e-7c31-a3c9-4b1f0a1d2e3f";

struct Shop;

impl Owner for Shop {
    fn is(&self, id: &str) -> bool {
        id == "shop"
    }
}

fn read(body: &str) -> (Result<(), Refused>, Lines) {
    read_with(body, |_| ())
}

fn read_with(body: &str, change: impl FnOnce(&mut Stamp<'_>)) -> (Result<(), Refused>, Lines) {
    let head = head_of(&Uuid::from_u128(7));
    let shared = Shared::new(
        &Sender {
            ip: "203.0.113.7",
            user_agent: "",
        },
        "envelope",
        Retention::default(),
    );
    let mut stamp = stamp("envelope", &head, &shared);
    change(&mut stamp);
    let mut lines = Lines::default();
    let mut envelope = Envelope {
        stamp: &stamp,
        owner: &Shop,
        random: || Uuid::from_u128(9),
    };
    let result = envelope.read(body, &mut lines);
    (result, lines)
}

/// A good event with some members changed; `null` takes one away.
fn event(changes: Value) -> Value {
    let mut event = json!({
        "event_id": ID, "event_name": "purchase", "user_id": "u-1", "timestamp": "2025-11-21T13:00:00Z",
        "properties": {"amount": 12.5}
    });
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => event.as_object_mut().unwrap().remove(name),
            value => event.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    event
}

fn envelope(events: &[Value]) -> String {
    json!({"app_id": "shop", "events": events}).to_string()
}

#[test]
fn a_thousand_events_are_the_most_whatever_other_routes_take() {
    let large = |stamp: &mut Stamp<'_>| stamp.batch_limit = 5000;
    let events = vec![event(json!({})); 1001];
    let (result, lines) = read_with(&envelope(&events[..1000]), large);
    assert_eq!((result, lines.seen), (Ok(()), 1000));
    let (result, _) = read_with(&envelope(&events), large);
    assert_eq!(result, Err(Refused::TooManyEvents(1000)));
}

#[test]
fn a_backend_says_whose_events_they_are() {
    let body = envelope(&[
        event(json!({"ip": "203.0.113.9", "user_agent": "Mozilla/5"})),
        event(json!({})),
    ]);
    let sender = Sender {
        ip: "203.0.113.7",
        user_agent: "",
    };
    let (result, lines) = read_with(&body, |stamp| stamp.on_behalf = Some(sender));
    assert_eq!(result, Ok(()));
    let said = stored(&lines);
    let said: Vec<_> = said
        .iter()
        .map(|line| (&line["ip"], &line["user_agent"]))
        .collect();
    assert_eq!(
        said,
        [
            (&json!("203.0.113.9"), &json!("Mozilla/5")),
            (&json!("203.0.113.7"), &json!(""))
        ]
    );
}

#[test]
fn a_full_event_becomes_a_line() {
    let body = envelope(&[event(
        json!({"platform": "iOS", "extra": 1, "ip": "9.9.9.9", "app_id": "shop"}),
    )]);
    let (result, lines) = read(&body);
    assert_eq!((result, lines.seen, lines.dropped), (Ok(()), 1, 1));
    let line = &stored(&lines)[0];
    let expected = json!({
        "v": 1, "app_id": Uuid::from_u128(7).to_string(), "event_id": ID, "received_at": NOW,
        "timestamp": 1_763_730_000_000_i64, "client_timestamp": 1_763_730_000_000_i64,
        "ip": "203.0.113.7", "user_agent": "", "library": "", "source": "envelope",
        "event_type": "purchase", "user_id": "u-1", "platform": "iOS", "event_data": {"amount": 12.5},
        "context": {"extra": 1}
    });
    assert_eq!(*line, expected);
    for changes in [
        json!({"properties": null}),
        json!({"timestamp": "2025-11-21T13:05:00.123Z"}),
    ] {
        let (result, lines) = read(&envelope(&[event(changes.clone())]));
        assert!(
            result.is_ok() && lines.rejected.is_empty() && lines.lines.len() == 1,
            "{changes}: {lines:?}"
        );
    }
}

#[test]
fn each_broken_rule_names_its_event_and_field() {
    for (changes, code, field) in [
        (json!({"event_id": null}), "missing_field", "event_id"),
        (json!({"event_id": "m-1"}), "invalid_type", "event_id"),
        (json!({"event_id": 5}), "invalid_type", "event_id"),
        (json!({"event_name": null}), "missing_field", "event_name"),
        (json!({"event_name": ""}), "too_short", "event_name"),
        (json!({"event_name": "x".repeat(101)}), "too_long", "event_name"),
        (json!({"user_id": null}), "missing_field", "user_id"),
        (json!({"user_id": "x".repeat(256)}), "too_long", "user_id"),
        (json!({"user_id": 7}), "invalid_type", "user_id"),
        (json!({"timestamp": null}), "missing_field", "timestamp"),
        (json!({"timestamp": 1_763_730_000}), "invalid_type", "timestamp"),
        (json!({"timestamp": "yesterday"}), "invalid_time", "timestamp"),
        (
            json!({"timestamp": "2025-11-21T13:05:00.124Z"}),
            "invalid_time",
            "timestamp",
        ),
        (json!({"properties": [1]}), "invalid_type", "properties"),
        (json!({"app_id": "other"}), "app_mismatch", "app_id"),
        (
            json!({"properties": {"x": "y".repeat(2000)}}),
            "event_too_large",
            "",
        ),
    ] {
        let (result, lines) = read(&envelope(&[event(json!({})), event(changes.clone())]));
        assert_eq!(result, Ok(()), "{changes}");
        let rejected: Vec<_> = lines
            .rejected
            .iter()
            .map(|one| (one.index, one.found.flaw.code(), &*one.found.field))
            .collect();
        assert_eq!(rejected, [(1, code, field)], "{changes}");
        assert!(lines.letters.is_empty());
    }
    let (_, lines) = read(r#"{"app_id":"shop","events":[5,{"event_id":"a","event_id":"b"}]}"#);
    let codes: Vec<_> = lines.rejected.iter().map(|one| one.found.flaw.code()).collect();
    assert_eq!(codes, ["invalid_type", "duplicate_member"]);
}

#[test]
fn what_is_too_old_is_kept_beside_and_breaks_no_rule() {
    let old = event(json!({"timestamp": "2020-01-01T00:00:00Z"}));
    let (result, lines) = read(&envelope(&[old.clone(), event(json!({}))]));
    assert_eq!(
        (result, lines.rejected.len(), lines.lines.len(), lines.seen),
        (Ok(()), 0, 1, 2)
    );
    assert_eq!(
        serde_json::from_slice::<Value>(&lines.letters[0].bytes).unwrap(),
        old
    );
    assert_eq!(lines.letters[0].reason, "TooOld");
}

#[test]
fn the_envelope_has_rules_of_its_own() {
    let broken = |flaw, field: &'static str, detail| Err(broken(flaw, field, detail));
    let required = "is required";
    let object = "the body must be an object";
    for (body, expected) in [
        ("[]", broken(Flaw::InvalidType, "", object)),
        ("5", broken(Flaw::InvalidType, "", object)),
        ("{}", broken(Flaw::MissingField, "app_id", required)),
        (
            r#"{"events":[1]}"#,
            broken(Flaw::MissingField, "app_id", required),
        ),
        (
            r#"{"app_id":7,"events":[1]}"#,
            broken(Flaw::InvalidType, "app_id", "must be a string"),
        ),
        (
            r#"{"app_id":"shop"}"#,
            broken(Flaw::MissingField, "events", required),
        ),
        (
            r#"{"app_id":"shop","events":null}"#,
            broken(Flaw::MissingField, "events", required),
        ),
        (
            r#"{"app_id":"shop","events":{}}"#,
            broken(Flaw::InvalidType, "events", "must be an array"),
        ),
        (
            r#"{"events":[1],"events":[2],"app_id":"shop"}"#,
            broken(Flaw::DuplicateMember, "events", "given more than once"),
        ),
        (
            r#"{"app_id":"shop","app_id":"shop","events":[1]}"#,
            broken(Flaw::DuplicateMember, "app_id", "given more than once"),
        ),
        (r#"{"events":[1],"app_id":"other"}"#, Err(Refused::AppMismatch)),
        (
            r#"{"events":[],"app_id":"shop","sent":1}"#,
            Err(Refused::NoEvents),
        ),
        (
            r#"{"app_id":"shop","events":[1,2,3,4,5,6]}"#,
            Err(Refused::TooManyEvents(5)),
        ),
        (
            r#"{"events":{},"app_id":"shop""#,
            Err(Refused::Json(Fault {
                offset: 28,
                expected: "`,` or `}`",
            })),
        ),
        (
            "",
            Err(Refused::Json(Fault {
                offset: 0,
                expected: "a value",
            })),
        ),
    ] {
        assert_eq!(read(body).0, expected, "{body}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn no_body_makes_it_stumble(
        pieces in prop::collection::vec(
            prop::sample::select(vec![
                "{", "}", "[", "]", ",", ":", "\n", " ", "\"events\"", "\"app_id\"", "\"shop\"", "\"event_id\"", "1", "null",
                "{\"event_name\":\"a\"}", "\"events\":[", "\"app_id\":\"shop\"",
            ]),
            0..20,
        ),
        text in any::<String>(),
    ) {
        for body in [pieces.concat(), text] {
            let (result, lines) = read(&body);
            if result.is_ok() {
                prop_assert_eq!(lines.seen as usize, lines.lines.len() + lines.rejected.len() + lines.letters.len());
                prop_assert!(serde_json::from_str::<Value>(&body).is_ok());
            }
        }
    }
}
