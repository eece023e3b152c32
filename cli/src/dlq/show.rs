//! `penstock dlq show`: one letter, whole.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use clap::Args;
use rdkafka::message::{Headers as _, Message as _};
use serde::Serialize;

use super::Of;
use super::letter::Entry;
use super::offsets::Named;
use crate::exit::{End, Failure, Result};
use crate::kafka::Topic;
use crate::output::{Format, print, write};
use crate::place::Place;
use crate::text::{age_of, harmless, size};

#[derive(Clone, Debug, Args)]
pub struct Show {
    #[command(flatten)]
    pub of: Of,
    /// Which one: its offset, behind its partition where that is not 0, as in 1/17
    #[arg(value_name = "OFFSET")]
    pub letter: Named,
    /// Only the bytes that could not be stored, as they are
    #[arg(long, conflicts_with = "output")]
    pub raw: bool,
    /// How to print it
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
}

/// A letter as it is shown.
#[derive(Debug, Serialize)]
struct View {
    position: String,
    #[serde(rename = "writtenAt")]
    written_at: i64,
    headers: BTreeMap<String, String>,
    /// The bytes, as text.
    value: String,
    #[serde(skip)]
    bytes: Vec<u8>,
}

pub fn run(place: &Place, arguments: &Show) -> Result<End> {
    let Some(position) = arguments.letter.single() else {
        return Err(Failure::Usage(
            "one letter is shown at a time; `penstock dlq list` shows several".into(),
        ));
    };
    let topic = Topic::open(&place.brokers, &place.dead_letter_topic)?;
    let absent = || {
        Failure::NotFound(format!(
            "there is no letter {position} in {}",
            place.dead_letter_topic
        ))
    };
    let bounds = topic
        .bounds
        .iter()
        .find(|bounds| bounds.partition == position.partition);
    if !bounds.is_some_and(|bounds| (bounds.low..bounds.high).contains(&position.offset)) {
        return Err(absent());
    }
    let mut found = None;
    topic.read(&[(position.partition, position.offset)], false, |message| {
        if message.offset() == position.offset && matches!(Entry::of(message), Entry::Letter(_)) {
            let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
            let bytes = message.payload().unwrap_or_default().to_vec();
            found = Some(View {
                position: position.to_string(),
                written_at: message.timestamp().to_millis().unwrap_or(0),
                headers: headers
                    .map(|header| {
                        let value = String::from_utf8_lossy(header.value.unwrap_or_default());
                        (header.key.to_owned(), value.into_owned())
                    })
                    .collect(),
                value: String::from_utf8_lossy(&bytes).into_owned(),
                bytes,
            });
        }
        Ok(ControlFlow::Break(()))
    })?;
    let view = found.ok_or_else(absent)?;
    match arguments.raw {
        true => write(&view.bytes)?,
        false => print(arguments.output, &view, detail)?,
    }
    Ok(End::Done)
}

fn detail(view: &View) -> String {
    let mut text = format!(
        "position            {}\nage                 {}\nsize                {}\n",
        view.position,
        age_of(view.written_at),
        size(view.bytes.len() as u64)
    );
    for (key, value) in &view.headers {
        text.push_str(&format!("{:18}  {}\n", harmless(key), harmless(value)));
    }
    text.push('\n');
    match pretty(&view.bytes) {
        Some(json) => text.push_str(&json),
        None => text.extend(view.value.lines().map(|line| harmless(line) + "\n")),
    }
    text
}

/// JSON, a member a line. Numbers stay as they were written.
fn pretty(bytes: &[u8]) -> Option<String> {
    let members: BTreeMap<String, &serde_json::value::RawValue> = serde_json::from_slice(bytes).ok()?;
    let mut text = String::from("{\n");
    let count = members.len();
    for (index, (name, value)) in members.into_iter().enumerate() {
        let comma = if index + 1 < count { "," } else { "" };
        let name = serde_json::to_string(&name).ok()?;
        text.push_str(&format!(
            "  {}: {}{comma}\n",
            harmless(&name),
            harmless(value.get())
        ));
    }
    text.push_str("}\n");
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_a_member_a_line_and_anything_else_is_shown_as_it_is() {
        assert_eq!(
            pretty(br#"{"b":1.50,"a":{"x":[1]}}"#).unwrap(),
            "{\n  \"a\": {\"x\":[1]},\n  \"b\": 1.50\n}\n"
        );
        assert_eq!(pretty(b"{}").unwrap(), "{\n}\n");
        assert_eq!(pretty(b"not ours\x1b"), None);
        let view = View {
            position: "0/1".into(),
            written_at: 0,
            headers: [("penstock-reason".into(), "Malformed".into())].into(),
            value: "not\u{1b} ours".into(),
            bytes: b"not\x1b ours".to_vec(),
        };
        let text = detail(&view);
        assert!(
            text.ends_with("penstock-reason     Malformed\n\nnot· ours\n"),
            "{text}"
        );
    }
}
