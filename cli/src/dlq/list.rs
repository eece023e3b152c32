//! `penstock dlq list`: the newest letters, and which of them were replayed.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use clap::Args;
use penstock_dataplane_config::Duration;
use serde::Serialize;

use super::letter::{Entry, Letter};
use super::offsets::Positions;
use super::{Of, reasons};
use crate::exit::{End, Result};
use crate::kafka::Topic;
use crate::output::{Format, Progress, note, print};
use crate::place::Place;
use crate::text::{Table, age_of, count, cut, size};

#[derive(Clone, Debug, Args)]
pub struct List {
    #[command(flatten)]
    pub of: Of,
    /// Only letters with this reason
    #[arg(long, value_parser = reasons())]
    pub reason: Option<String>,
    /// Only letters of the last 24h, 30m, 7d
    #[arg(long, value_name = "DURATION")]
    pub since: Option<Duration>,
    /// At most so many, the newest; 0 for all
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,
    /// How to print them
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
}

/// A letter as it is shown.
#[derive(Clone, Debug, Serialize)]
struct View {
    #[serde(flatten)]
    letter: Letter,
    replayed: bool,
}

pub fn run(place: &Place, arguments: &List) -> Result<End> {
    let topic = Topic::open(&place.brokers, &place.dead_letter_topic)?;
    let from = match &arguments.since {
        Some(ago) => topic.since(ago.get())?,
        None => topic.beginning(),
    };
    let mut progress = Progress::new(topic.length(&from));
    let mut replayed = Positions::default();
    let mut found = VecDeque::new();
    let mut total = 0;
    topic.read(&from, false, |message| {
        progress.record();
        match Entry::of(message) {
            Entry::Letter(letter)
                if arguments
                    .reason
                    .as_ref()
                    .is_none_or(|reason| *reason == letter.reason) =>
            {
                total += 1;
                found.push_back(letter);
                if arguments.limit > 0 && found.len() > arguments.limit {
                    found.pop_front();
                }
            }
            Entry::Receipt(offsets) => replayed.add(rdkafka::Message::partition(message), &offsets),
            Entry::Letter(_) | Entry::Foreign => {}
        }
        Ok(ControlFlow::Continue(()))
    })?;
    drop(progress);
    let view = |letter: Letter| View {
        replayed: replayed.contains(letter.position()),
        letter,
    };
    let views: Vec<View> = found.into_iter().map(view).collect();
    if total == 0 && arguments.output == Format::Table {
        note(&match arguments.reason.is_some() || arguments.since.is_some() {
            true => format!("No such dead letters in {}.", place.dead_letter_topic),
            false => format!("No dead letters in {}.", place.dead_letter_topic),
        });
        return Ok(End::Done);
    }
    print(arguments.output, &views, table)?;
    if total > views.len() {
        note(&format!(
            "The newest {} of {total} letters; --limit 0 shows all.",
            views.len()
        ));
    }
    Ok(End::Done)
}

/// Where its line was, and how many lines it has where it has more.
fn origin(letter: &Letter) -> String {
    let origin = letter.origin.as_deref().unwrap_or_default();
    match letter.lines {
        Some(lines) => format!("{origin} ({})", count(lines as usize, "line")),
        None => origin.to_owned(),
    }
}

fn table(views: &Vec<View>) -> String {
    let head = [
        "POSITION", "AGE", "REASON", "STEP", "REPLAYED", "SIZE", "APP", "ORIGIN", "DETAIL",
    ];
    let mut table = Table::new(&head);
    for View { letter, replayed } in views {
        table.row([
            letter.position().to_string(),
            age_of(letter.written_at),
            letter.reason.clone(),
            letter.step.clone(),
            if *replayed { "yes".into() } else { "no".into() },
            size(letter.size as u64),
            letter.app.clone().unwrap_or_default(),
            origin(letter),
            cut(&letter.detail, 120),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_with_the_rest_of_a_record_says_so() {
        let mut letter = Letter {
            partition: 0,
            offset: 7,
            written_at: 0,
            reason: "Malformed".into(),
            step: "consume".into(),
            detail: String::new(),
            app: None,
            origin: Some("t/0/1/1000".into()),
            lines: Some(48_577),
            size: 3,
        };
        assert_eq!(origin(&letter), "t/0/1/1000 (48577 lines)");
        let json = serde_json::to_value(&letter).unwrap();
        assert_eq!(json["lines"], 48_577);
        letter.lines = None;
        assert_eq!(origin(&letter), "t/0/1/1000");
    }
}
