use proptest::prelude::*;
use serde_json::Value;

use super::*;

static PROTOCOL: Protocol = Protocol::new(&[
    Known::same("a", Rule::Text(10)),
    Known::column("b", Rule::Object, "bee"),
    Known::own("c"),
    Known::same("d", Rule::Text(10)),
]);

/// What is found in the last of these, all read with one shape, and the line they become.
fn read(texts: &[&str]) -> (Option<Found>, String) {
    let mut shape = Shape::default();
    let mut last = None;
    for text in texts {
        let mut members = Members::new(&PROTOCOL);
        let (_, found) = members.read(&mut Scanner::new(text), &mut shape, 10_000).unwrap();
        let mut line = b"{\"v\":1".to_vec();
        let found = found.or_else(|| match members.check() {
            Ok(slots) => {
                members.push(slots, &mut line);
                None
            }
            Err(found) => Some(found),
        });
        line.push(b'}');
        last = Some((found, String::from_utf8(line).unwrap()));
    }
    last.unwrap()
}

#[test]
fn a_member_comes_once() {
    let many: String = (0..50).map(|index| format!("\"k{index}\":1,")).collect();
    for (text, field) in [
        (r#"{"a":"1","d":"2"}"#.to_owned(), None),
        (r#"{"a":"1","a":"2"}"#.to_owned(), Some("a")),
        (r#"{"a":"1","\u0061":"2"}"#.to_owned(), Some("a")),
        (r#"{"x":1,"y":2,"x":3}"#.to_owned(), Some("x")),
        (r#"{"x":1,"\u0078":3}"#.to_owned(), Some("x")),
        (format!("{{{many}\"k7\":1}}"), Some("k7")),
        (format!("{{{many}\"k\":1}}"), None),
    ] {
        for texts in [vec![&*text], vec![&text, &text]] {
            let (found, _) = read(&texts);
            assert_eq!(found.as_ref().map(|found| &*found.field), field, "{text}");
            assert!(found.is_none_or(|found| found.flaw == Flaw::DuplicateMember));
        }
    }
}

#[test]
fn what_needs_no_change_is_copied_and_the_rest_written() {
    for (text, line) in [
        (r#"{"a":"1","d":"2"}"#, r#"{"v":1,"a":"1","d":"2"}"#),
        (r#"{"a":"1","c":0,"d":"2"}"#, r#"{"v":1,"a":"1","d":"2"}"#),
        (r#"{"c":0,"x":[],"d":"2"}"#, r#"{"v":1,"d":"2"}"#),
        (r#"{"a":"","d":null}"#, r#"{"v":1}"#),
        (
            r#"{"a":"1","b":{},"d":"2"}"#,
            r#"{"v":1,"a":"1","bee":{},"d":"2"}"#,
        ),
        (r#"{"a" : "1","d": "2"}"#, r#"{"v":1,"a":"1","d":"2"}"#),
        (r#"{"a":"1" ,"d":"2"}"#, r#"{"v":1,"a":"1","d":"2"}"#),
        (
            "{\"b\":{\"x\":\n1},\n\"a\":\"1\"}",
            r#"{"v":1,"bee":{"x":1},"a":"1"}"#,
        ),
        (r#"{"\u0061":"1"}"#, r#"{"v":1,"a":"1"}"#),
        ("{}", r#"{"v":1}"#),
    ] {
        assert_eq!(read(&[text]), (None, line.to_owned()), "{text}");
        assert_eq!(
            read(&[r#"{"a":"9","d":"9"}"#, text]),
            (None, line.to_owned()),
            "{text}"
        );
    }
}

#[test]
fn a_shape_is_of_one_protocol() {
    static OTHER: Protocol = Protocol::new(&[Known::same("d", Rule::Text(10))]);
    let mut shape = Shape::default();
    let text = r#"{"a":"1","d":"2"}"#;
    for (protocol, unknown) in [(&PROTOCOL, 0), (&OTHER, 1), (&PROTOCOL, 0)] {
        let mut members = Members::new(protocol);
        members.read(&mut Scanner::new(text), &mut shape, 100).unwrap();
        assert_eq!(members.unknown.len(), unknown);
    }
}

fn event() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        "[abcdx]",
        Just("\\u0061".to_owned()),
        Just("longer than any place remembers it".to_owned())
    ];
    let value = prop_oneof![
        Just("null".to_owned()),
        Just("\"\"".to_owned()),
        "\"[a-z]{1,12}\"",
        Just("{\"n\":\n[1, 2]}".to_owned()),
        "[1-9]{1,3}",
    ];
    let space = || prop_oneof![4 => Just(""), 1 => Just(" "), 1 => Just("\n")];
    let member = (name, value, space(), space(), space())
        .prop_map(|(name, value, one, two, three)| format!("{one}\"{name}\"{two}:{three}{value}"));
    proptest::collection::vec(member, 0..8).prop_map(|members| format!("{{{}}}", members.join(",")))
}

proptest! {
    /// Whatever was read before, an event becomes the same line, and that line holds what the event did.
    #[test]
    fn a_shape_changes_nothing(events in proptest::collection::vec(event(), 1..4)) {
        let texts: Vec<&str> = events.iter().map(String::as_str).collect();
        let (found, line) = read(&texts);
        let alone = read(&texts[texts.len() - 1..]);
        prop_assert_eq!(found.as_ref().map(|found| found.flaw), alone.0.map(|found| found.flaw));
        prop_assert_eq!(&line, &alone.1);
        let (Ok(line), None) = (serde_json::from_str::<Value>(&line), found) else {
            return Ok(());
        };
        let event: Value = serde_json::from_str(texts[texts.len() - 1]).unwrap();
        for (name, column) in [("a", "a"), ("b", "bee"), ("d", "d")] {
            let given = event.get(name).filter(|value| !value.is_null() && *value != "");
            prop_assert_eq!(line.get(column), given);
        }
    }
}
