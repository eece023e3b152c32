//! `penstock tail`: the events of a pipeline as they come, one a line.
//!
//! The topic is read beside its consumers and without a group, so nothing changes for them; partitions that it gets
//! meanwhile are read, too. A record is what `docs/record.md` says: lines of JSON, or nothing.

use std::borrow::Cow;
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;

use clap::Args;
use penstock_dataplane_config::Duration;
use penstock_dataplane_config::record::LINE_VERSION;
use rdkafka::message::Message as _;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::cluster::{Cluster, Where};
use crate::exit::{End, Failure, Result};
use crate::kafka::Topic;
use crate::output::{Format, note, yaml};
use crate::place::{Given, Place};
use crate::text::{cut, harmless};

#[derive(Clone, Debug, Args)]
pub struct Tail {
    /// The pipeline
    pub pipeline: String,
    /// Only events of this App, by its name or its UUID
    #[arg(long, value_name = "APP")]
    pub app: Option<String>,
    /// Only events of this type
    #[arg(long, value_name = "TYPE")]
    pub event: Option<String>,
    /// Begin with the oldest event that the topic holds
    #[arg(long, conflicts_with = "since")]
    pub from_beginning: bool,
    /// Begin with the events of the last 5m, 2h, 1d
    #[arg(long, value_name = "DURATION")]
    pub since: Option<Duration>,
    /// End after so many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// How to print events, in JSON as the lines that they are in the topic, in YAML each as a document
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
    #[command(flatten)]
    pub given: Given,
}

pub async fn run(place: &Where, arguments: &Tail) -> Result<End> {
    let found = Place::find(place, &arguments.pipeline, &arguments.given, None).await?;
    let app = match &arguments.app {
        Some(app) if !is_uuid(app) => Some(app_id(place, app).await?),
        app => app.as_ref().map(|id| id.to_ascii_lowercase()),
    };
    let topic = Topic::open(&found.brokers, &found.topic)?;
    let (from, start) = match (&arguments.since, arguments.from_beginning) {
        (Some(ago), _) => (topic.since(ago.get())?, format!("{ago} ago")),
        (None, true) => (topic.beginning(), "its beginning".into()),
        (None, false) => (topic.end(), "now".into()),
    };
    note(&format!("Reading {} from {start} on; Ctrl-C ends.", found.topic));
    let mut printer = Printer {
        app,
        event: arguments.event.clone(),
        left: arguments.limit,
        format: arguments.output,
        out: BufWriter::new(std::io::stdout().lock()),
    };
    printer.head()?;
    topic.read(&from, true, |message| {
        let flow = printer.record(
            message.partition(),
            message.offset(),
            message.payload().unwrap_or_default(),
        )?;
        printer.out.flush()?;
        Ok(flow)
    })?;
    Ok(End::Done)
}

fn is_uuid(text: &str) -> bool {
    let shape = |(at, byte): (usize, u8)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    text.len() == 36 && text.bytes().enumerate().all(shape)
}

async fn app_id(place: &Where, name: &str) -> Result<String> {
    let cluster = Cluster::connect(place).await?;
    let apps = cluster.apps().await?;
    let found = apps
        .into_iter()
        .filter_map(|app| app.0.ok())
        .find(|app| app.metadata.name.as_deref() == Some(name));
    let id = found.and_then(|app| app.status?.app_id);
    id.ok_or_else(|| {
        Failure::NotFound(format!(
            "no App {name} with an id in the namespace {}",
            cluster.namespace
        ))
    })
}

/// What is shown of a line.
#[derive(Debug, Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    app_id: Cow<'a, str>,
    received_at: i64,
    #[serde(borrow)]
    event_type: Cow<'a, str>,
    #[serde(borrow, default)]
    user_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    device_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    event_data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Version {
    v: u64,
}

struct Printer<W: Write> {
    app: Option<String>,
    event: Option<String>,
    /// Events that may still be printed.
    left: Option<u64>,
    format: Format,
    out: W,
}

impl<W: Write> Printer<W> {
    fn head(&mut self) -> Result<()> {
        if self.format == Format::Table {
            writeln!(
                self.out,
                "{:24}  {:8}  {:24}  {:24}  DATA",
                "RECEIVED", "APP", "EVENT", "USER"
            )?;
            self.out.flush()?;
        }
        Ok(())
    }

    /// Prints what is wanted of a record.
    fn record(&mut self, partition: i32, offset: i64, value: &[u8]) -> Result<ControlFlow<()>> {
        // An empty value holds no events; the last line break ends a line and begins none.
        let lines = value.strip_suffix(b"\n").unwrap_or(value);
        for (row, line) in lines.split(|byte| *byte == b'\n').enumerate() {
            if value.is_empty() {
                break;
            }
            match serde_json::from_slice(line) {
                Ok(Version { v: LINE_VERSION }) => {}
                Ok(Version { v }) => {
                    return Err(Failure::Failed(format!(
                        "the record at {partition}/{offset} was written by a newer Penstock (version {v}); use a newer penstock"
                    )));
                }
                Err(_) => {
                    note(&format!(
                        "Line {row} of the record at {partition}/{offset} is no event."
                    ));
                    continue;
                }
            }
            match serde_json::from_slice::<Event<'_>>(line) {
                Ok(event) if self.wants(&event) => self.print(&event, line)?,
                Ok(_) => {}
                Err(error) => {
                    note(&format!(
                        "Line {row} of the record at {partition}/{offset} is no event: {error}."
                    ));
                }
            }
            if self.left == Some(0) {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn wants(&self, event: &Event<'_>) -> bool {
        self.app.as_ref().is_none_or(|app| *app == event.app_id)
            && self.event.as_ref().is_none_or(|kind| *kind == event.event_type)
    }

    fn print(&mut self, event: &Event<'_>, line: &[u8]) -> Result<()> {
        self.left = self.left.map(|left| left - 1);
        match self.format {
            Format::Table => self.row(event),
            Format::Json => {
                self.out.write_all(line)?;
                self.out.write_all(b"\n")?;
                Ok(())
            }
            Format::Yaml => self.document(line),
        }
    }

    /// The line's members, sorted, as a document of a stream that has no end.
    fn document(&mut self, line: &[u8]) -> Result<()> {
        let members: serde_json::Value = serde_json::from_slice(line).map_err(|error| {
            Failure::Failed(format!(
                "an event cannot be written as YAML: {error}; -o json prints it as it is"
            ))
        })?;
        write!(self.out, "---\n{}", yaml(&members)?)?;
        Ok(())
    }

    fn row(&mut self, event: &Event<'_>) -> Result<()> {
        let received = jiff::Timestamp::from_millisecond(event.received_at);
        let received = received.map_or_else(|_| "-".into(), |at| format!("{at:.3}"));
        let user = event
            .user_id
            .as_deref()
            .or(event.device_id.as_deref())
            .unwrap_or("-");
        let cell = |text: &str, most: usize| harmless(&cut(text, most));
        writeln!(
            self.out,
            "{received:24}  {:8}  {:24}  {:24}  {}",
            event.app_id.chars().take(8).collect::<String>(),
            cell(&event.event_type, 23),
            cell(user, 23),
            cell(event.event_data.map_or("-", RawValue::get), 120),
        )?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const APP: &str = "6f0c4a4e-5d0b-5c58-9a52-0d9c9a8f3b11";

    fn line(kind: &str) -> String {
        format!(
            "{{\"v\":1,\"app_id\":\"{APP}\",\"event_id\":\"x\",\"received_at\":1763730000123,\"event_type\":\"{kind}\",\"user_id\":\"u\\u001b[2J\",\"event_data\":{{\"a\":1.50}}}}\n"
        )
    }

    fn printer(format: Format, event: Option<&str>, left: Option<u64>) -> Printer<Vec<u8>> {
        Printer {
            app: Some(APP.into()),
            event: event.map(Into::into),
            left,
            format,
            out: Vec::new(),
        }
    }

    fn text(printer: Printer<Vec<u8>>) -> String {
        String::from_utf8(printer.out).unwrap()
    }

    #[test]
    fn json_is_the_line_as_it_is() {
        let mut all = printer(Format::Json, Some("b"), None);
        let value = format!("{}{}nonsense\n\n{}", line("a"), line("b"), line("b"));
        assert!(all.record(0, 1, value.as_bytes()).unwrap().is_continue());
        assert_eq!(text(all), line("b").repeat(2));
    }

    #[test]
    fn yaml_is_a_document_for_each_event() {
        let mut all = printer(Format::Yaml, None, None);
        let odd = line("yes").replace(
            r#"{"a":1.50}"#,
            r#"{"a":[null,"1.5","---\n- ~",{"b":18446744073709551615}]}"#,
        );
        let value = line("a") + &odd;
        assert!(all.record(0, 1, value.as_bytes()).unwrap().is_continue());
        assert!(all.record(0, 2, line("c").as_bytes()).unwrap().is_continue());
        let printed = text(all);
        assert!(
            printed.starts_with("---\n") && !printed.contains('\u{1b}'),
            "{printed}"
        );
        let documents: Vec<serde_json::Value> = serde_yaml::from_multiple(&printed).unwrap();
        let lines: Vec<serde_json::Value> = [line("a"), odd, line("c")]
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(documents, lines, "{printed}");
    }

    #[test]
    fn it_ends_at_its_limit() {
        let mut some = printer(Format::Json, None, Some(2));
        assert!(some.record(0, 1, line("a").as_bytes()).unwrap().is_continue());
        assert!(
            some.record(0, 2, line("b").repeat(3).as_bytes())
                .unwrap()
                .is_break()
        );
        assert_eq!(text(some), line("a") + &line("b"));
    }

    #[test]
    fn a_table_shows_what_matters_and_moves_no_cursor() {
        let mut table = printer(Format::Table, None, None);
        assert!(table.record(0, 1, line("buy").as_bytes()).unwrap().is_continue());
        let printed = text(table);
        let cells: Vec<_> = printed.split_whitespace().collect();
        assert_eq!(
            cells,
            [
                "2025-11-21T13:00:00.123Z",
                "6f0c4a4e",
                "buy",
                "u·[2J",
                "{\"a\":1.50}"
            ]
        );
    }

    #[test]
    fn an_empty_record_is_nothing_and_an_unknown_version_the_end() {
        let mut all = printer(Format::Json, None, None);
        assert!(all.record(0, 1, b"").unwrap().is_continue());
        let newer = line("a").replace("\"v\":1", "\"v\":2");
        let error = all.record(3, 4, newer.as_bytes()).unwrap_err();
        assert!(
            error.to_string().contains("3/4") && error.to_string().contains("version 2"),
            "{error}"
        );
        assert!(text(all).is_empty());
    }

    #[test]
    fn apps_are_told_from_ids() {
        assert!(is_uuid(APP) && is_uuid(&APP.to_uppercase()));
        assert!(!is_uuid("shop") && !is_uuid(&APP.replace('-', "a")));
    }
}
