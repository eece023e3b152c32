use proptest::prelude::*;
use serde_json::value::RawValue;

use super::*;

/// One event as SDKs send it, with every kind of value, escape and nesting.
const EVENT: &str = r#"{"event_type":"purchase","user_id":"u-\u00e9\ud83d\ude00","timestamp":1763730000,"n":[-0.5e+3,0,1E9,true,false,null,[],{}],
 "event_data":{"a":{"b":[{"c":"d\\\"\/\b\f\n\r\t"}]},"ключ":"значение"},"x":""}"#;

fn ours(text: &str) -> Result<&str, Fault> {
    let mut scanner = Scanner::new(text);
    let raw = scanner.value()?;
    scanner.end()?;
    Ok(raw.text)
}

fn agrees(text: &str) {
    let theirs = serde_json::from_str::<&RawValue>(text);
    match (ours(text), theirs) {
        (Ok(ours), Ok(theirs)) => assert_eq!(ours, theirs.get()),
        (Err(_), Err(_)) => {}
        (ours, theirs) => panic!("{text:?}: ours {ours:?}, serde_json {theirs:?}"),
    }
}

/// Every member of an object, decoded, through the calls that parsers use.
fn members(text: &str) -> Result<Vec<(String, String)>, Fault> {
    let mut scanner = Scanner::new(text);
    scanner.object_start()?;
    let (mut first, mut found) = (true, Vec::new());
    while let Some(key) = scanner.object_next(&mut first)? {
        let value = scanner.value()?;
        found.push((
            key.decoded().unwrap_or_default().into_owned(),
            value.text.to_owned(),
        ));
    }
    scanner.end()?;
    Ok(found)
}

#[test]
fn faults_name_the_offending_byte() {
    for (text, offset, expected) in [
        ("", 0, "a value"),
        ("  ", 2, "a value"),
        ("{\"a\" 1}", 5, "`:`"),
        ("{\"a\":1,}", 7, "a member's name"),
        ("{\"a\":1 \"b\":2}", 7, "`,` or `}`"),
        ("[1,]", 3, "a value"),
        ("[1 2]", 3, "`,` or `]`"),
        ("[1}", 2, "`,` or `]`"),
        ("\"a\u{1}\"", 2, "no control character"),
        ("\"abc", 4, "`\""),
        ("\"\\x\"", 2, "an escape"),
        ("\"\\u12g4\"", 5, "a hexadecimal digit"),
        ("01", 1, "the end of the text"),
        ("1.", 2, "a digit"),
        ("-", 1, "a digit"),
        ("1e", 2, "a digit"),
        ("nul", 3, "`true`"),
        ("{} x", 3, "the end of the text"),
    ] {
        let fault = ours(text).unwrap_err();
        assert_eq!(fault.offset, offset, "{text:?}");
        assert!(
            fault.expected.starts_with(expected),
            "{text:?}: {}",
            fault.expected
        );
        assert!(serde_json::from_str::<&RawValue>(text).is_err(), "{text:?}");
    }
}

#[test]
fn nesting_ends_where_it_says() {
    let nested = |depth: u32| format!("{}{}", "[".repeat(depth as usize), "]".repeat(depth as usize));
    assert!(ours(&nested(MAX_DEPTH)).is_ok());
    assert_eq!(ours(&nested(MAX_DEPTH + 2)).unwrap_err().expected, "less nesting");
    let huge = "[".repeat(1_000_000);
    assert_eq!(ours(&huge).unwrap_err().offset, MAX_DEPTH as usize);
}

#[test]
fn flags_tell_what_a_slice_holds() {
    for (text, kind, breaks, escapes) in [
        ("{\"a\":\n1}", Kind::Object, true, false),
        ("\n{\"a\":\"\\n\"}", Kind::Object, false, false),
        ("\"a\\n\"", Kind::String, false, true),
        ("\"a\"", Kind::String, false, false),
        ("[1,\r\n2]", Kind::Array, true, false),
        ("-1", Kind::Number, false, false),
    ] {
        let raw = Scanner::new(text).value().unwrap();
        assert_eq!(
            (raw.kind, raw.breaks, raw.escapes),
            (kind, breaks, escapes),
            "{text:?}"
        );
    }
}

#[test]
fn every_one_byte_mutation_is_judged_as_serde_json_does() {
    let original = EVENT.as_bytes();
    for index in 0..original.len() {
        for byte in 0..=255u8 {
            let mut mutated = original.to_vec();
            mutated[index] = byte;
            if let Ok(text) = std::str::from_utf8(&mutated) {
                agrees(text);
            }
        }
        let mut cut = original.to_vec();
        cut.remove(index);
        if let Ok(text) = std::str::from_utf8(&cut) {
            agrees(text);
        }
        if let Ok(text) = std::str::from_utf8(&original[..index]) {
            agrees(text);
        }
    }
}

#[test]
fn decoded_strings_are_those_of_serde_json() {
    for raw in [
        r"\u00e9",
        r"\ud83d\ude00",
        r"a\/b\\c",
        r"\ud83d",
        r"\ud83dx",
        r"\ude00",
        r"\ud83d\u0041",
        r"\u0000",
        "",
    ] {
        let theirs = serde_json::from_str::<String>(&format!("\"{raw}\"")).ok();
        assert_eq!(
            unescape(raw, raw.contains('\\')).map(Cow::into_owned),
            theirs,
            "{raw}"
        );
    }
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(6, 64, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Into::into),
            prop::collection::hash_map(any::<String>(), inner, 0..8)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Without white space, whichever way it was written; what is lost inside strings is lost on both sides.
fn compact(value: &serde_json::Value) -> String {
    value.to_string().split_whitespace().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_serde_json_writes_is_read(value in json(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        prop_assert_eq!(ours(&text), Ok(text.as_str()));
        if let serde_json::Value::Object(map) = &value {
            let found = members(&text).unwrap();
            prop_assert_eq!(found.len(), map.len());
            for (name, raw) in found {
                prop_assert_eq!(raw.split_whitespace().collect::<String>(), compact(&map[&name]));
            }
        }
    }

    #[test]
    fn soup_of_json_pieces_is_judged_as_serde_json_does(
        pieces in prop::collection::vec(
            prop::sample::select(vec![
                "{", "}", "[", "]", ",", ":", "\"", "\"a\"", "\"\\u0041\"", "\\", "1", "-", "0", ".", "e", "+", "true", "nul",
                "null", " ", "\n", "é", "\u{7f}", "\t", "\u{1f}", "12345678", "abcdefgh",
            ]),
            0..24,
        ),
    ) {
        agrees(&pieces.concat());
    }

    #[test]
    fn any_text_is_judged_as_serde_json_does(text in any::<String>()) {
        agrees(&text);
        agrees(&format!("\"{text}\""));
        agrees(&format!("{{\"{text}\":[\"{text}\"]}}"));
    }
}
