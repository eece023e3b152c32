//! `penstock replay`: rows that the table lacks, out of the topic again.
//!
//! ```text
//! gaps    what the topic holds of a span of time, and which of its events the table does not have
//! rewind  consumers away ─► the group's offsets set back to the first missing row ─► consumers back
//! ```
//!
//! Invariant: only consumers write rows. One that begins behind what is stored asks the table before it stores anything,
//! so it stores what is missing, under the positions that the rows always had; however often that is begun, and whoever
//! dies meanwhile.

pub mod gaps;
pub mod rewind;
pub mod when;

use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;

use self::gaps::{Gap, Gaps};
use self::when::When;
use crate::access::KafkaFlags;
use crate::cluster::{Cluster, Where};
use crate::exit::{End, Failure, Result};
use crate::kafka::{Committed, Topic};
use crate::output::{Format, note, print};
use crate::stored::{Reach, Stored};
use crate::text::{Table, count};

#[derive(Clone, Debug, Args)]
pub struct Replay {
    /// The pipeline; with --topic it need not be said
    #[arg(required_unless_present = "topic")]
    pub pipeline: Option<String>,
    /// The topic, where only that is known: its pipeline is looked for in the namespace; beside PIPELINE it must be its topic
    #[arg(long, value_name = "NAME")]
    pub topic: Option<String>,
    /// What was sent since then: a time as 2026-11-28T10:00:00Z, so long ago as 2h, or `beginning`
    #[arg(long, value_name = "WHEN")]
    pub from: When,
    /// Compare only what was sent until then; default: now
    #[arg(long, value_name = "WHEN")]
    pub to: Option<When>,
    /// Say what is missing, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub kafka: KafkaFlags,
    #[command(flatten)]
    pub reach: Reach,
    /// How long to wait until the rows are there
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    pub timeout: penstock_dataplane_config::Duration,
    /// How to print the outcome
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
}

/// What was found, and done.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    topic: String,
    table: String,
    dry_run: bool,
    /// Records and events of the span that consumers have passed.
    records: u64,
    events: u64,
    /// Events that are in no row and no dead letter; in the end, those that were.
    missing: u64,
    partitions: Vec<Gap>,
}

pub async fn run(place: &Where, arguments: &Replay) -> Result<End> {
    let cluster = Cluster::connect(place).await?;
    let pipeline = match (&arguments.pipeline, &arguments.topic) {
        (Some(pipeline), _) => pipeline.clone(),
        (None, topic) => of_topic(&cluster, topic.as_deref().unwrap_or_default()).await?,
    };
    let stored = Stored::find(&cluster, &pipeline, &arguments.reach).await?;
    let consumer = cluster.consumer(&pipeline).await?;
    let name = &consumer.kafka.topic;
    if let Some(topic) = arguments.topic.as_ref().filter(|topic| *topic != name) {
        return Err(Failure::Usage(format!(
            "the topic of the pipeline {pipeline} is {name}, not {topic}"
        )));
    }
    let brokers = cluster.brokers(&pipeline, &consumer.kafka, &arguments.kafka);
    let brokers = brokers.await?;
    let topic = Topic::open(&brokers, name)?;
    let letters = Topic::open(&brokers, &consumer.kafka.dead_letter_topic)?;
    let group = Committed::open(&brokers, &consumer.group, name)?;
    if rewind::was_cut_short(&stored) && !arguments.dry_run {
        note("A replay of this pipeline was cut short; its consumers are started again first.");
        rewind::resume(&cluster, &stored, &group, arguments.timeout.get()).await?;
    }

    let from = arguments.from.offsets(&topic)?;
    let to = match &arguments.to {
        Some(to) => to.offsets(&topic)?,
        None => topic.end(),
    };
    // What consumers have not come to is not missing.
    let passed = group.offsets()?;
    let spans: Vec<(i32, i64, i64)> = from
        .iter()
        .filter_map(|&(partition, from)| {
            let at = |list: &[(i32, i64)]| list.iter().find(|(one, _)| *one == partition).map(|(_, at)| *at);
            let to = at(&to)?.min(at(&passed)?);
            (from < to).then_some((partition, from, to))
        })
        .collect();
    let gaps = Gaps::find(&stored, &topic, &letters, &spans).await?;
    let outcome = Outcome {
        topic: name.clone(),
        table: stored.table(),
        dry_run: arguments.dry_run,
        records: gaps.records,
        events: gaps.events,
        missing: gaps.missing(),
        partitions: gaps.partitions,
    };
    if outcome.missing > 0 && !arguments.dry_run {
        note(&format!(
            "{} missing; consumers are stopped, set back and started again",
            count(usize::try_from(outcome.missing).unwrap_or(usize::MAX), "event")
        ));
        let back: Vec<(i32, i64)> = outcome
            .partitions
            .iter()
            .filter_map(|gap| Some((gap.partition, gap.first_missing?)))
            .collect();
        rewind::run(&cluster, &stored, &group, &back, arguments.timeout.get()).await?;
        let left = Gaps::find(&stored, &topic, &letters, &spans).await?.missing();
        if left > 0 {
            return Err(Failure::Failed(format!(
                "consumers have read the topic again, and {} still missing: do the dead letters say why (`penstock dlq list {}`)?",
                match left {
                    1 => "1 event is".to_owned(),
                    _ => format!("{left} events are"),
                },
                pipeline
            )));
        }
    }
    print(arguments.output, &outcome, text)?;
    Ok(End::Done)
}

/// The pipeline of the namespace that has this topic.
async fn of_topic(cluster: &Cluster, topic: &str) -> Result<String> {
    let pipelines = cluster.pipelines(false).await?;
    let known = pipelines.into_iter().map(|pipeline| match pipeline.0 {
        Ok(pipeline) => (
            pipeline.metadata.name.unwrap_or_default(),
            pipeline.status.and_then(|status| status.topic),
        ),
        // Its topic is not known, like that of a pipeline that the operator has not come to.
        Err(invalid) => (invalid.metadata.name.unwrap_or_default(), None),
    });
    the_one(known, topic, &cluster.namespace)
}

/// Of pipelines with their topics, as far as these are known.
fn the_one(
    known: impl Iterator<Item = (String, Option<String>)>,
    topic: &str,
    namespace: &str,
) -> Result<String> {
    let (mut found, mut unknown) = (Vec::new(), Vec::new());
    for (pipeline, its) in known {
        match its {
            Some(its) if its == topic => found.push(pipeline),
            Some(_) => {}
            None => unknown.push(pipeline),
        }
    }
    match (found.as_slice(), unknown.as_slice()) {
        ([pipeline], _) => Ok(pipeline.clone()),
        ([], []) => Err(Failure::NotFound(format!(
            "no pipeline of the namespace {namespace} has the topic {topic}; `penstock status -A -o json` says which have which"
        ))),
        ([], unknown) => Err(Failure::NotFound(format!(
            "no pipeline of the namespace {namespace} is known to have the topic {topic}; of {} it is not known: name the pipeline",
            unknown.join(", ")
        ))),
        // Of two in one Kafka only the oldest has it, and there may be two Kafkas.
        (several, _) => Err(Failure::Usage(format!(
            "the pipelines {} name the topic {topic}: say which one is meant",
            several.join(", ")
        ))),
    }
}

fn text(outcome: &Outcome) -> String {
    let mut text = String::new();
    if outcome.missing > 0 {
        let mut table = Table::new(&["PARTITION", "FROM", "TO", "MISSING", "FIRST"]);
        for gap in outcome.partitions.iter().filter(|gap| gap.missing > 0) {
            table.row([
                gap.partition.to_string(),
                gap.from.to_string(),
                gap.to.to_string(),
                gap.missing.to_string(),
                gap.first_missing
                    .map_or_else(String::new, |first| first.to_string()),
            ]);
        }
        text = format!("{table}\n");
    }
    // Writing to a String cannot fail.
    let _ = match (outcome.missing, outcome.dry_run) {
        (0, _) => writeln!(
            text,
            "Nothing is missing: of {} events of {}, each is in {} or a dead letter.",
            outcome.events, outcome.topic, outcome.table
        ),
        (missing, true) => writeln!(
            text,
            "{missing} of {} events of {} are missing in {}.",
            outcome.events, outcome.topic, outcome.table
        ),
        (missing, false) => writeln!(
            text,
            "{missing} of {} events of {} were missing in {}, and are there now.",
            outcome.events, outcome.topic, outcome.table
        ),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_names_its_pipeline() {
        let of = |topic: &str, known: &[(&str, Option<&str>)]| {
            let known = known
                .iter()
                .map(|&(pipeline, topic)| (pipeline.to_owned(), topic.map(str::to_owned)));
            the_one(known, topic, "growth").map_err(|failure| failure.to_string())
        };
        let known = [("clicks", Some("growth.clicks")), ("events", Some("shop"))];
        assert_eq!(of("shop", &known), Ok("events".into()));
        let absent = of("events", &known).unwrap_err();
        assert!(
            absent.starts_with("no pipeline of the namespace growth has the topic events;"),
            "{absent}"
        );
        let with_unknown = [known[0], ("new", None), known[1]];
        assert_eq!(of("shop", &with_unknown), Ok("events".into()));
        let unknown = of("growth.new", &with_unknown).unwrap_err();
        assert!(unknown.contains("of new it is not known"), "{unknown}");
        let twice = of("shop", &[known[1], ("young", Some("shop"))]).unwrap_err();
        assert!(
            twice.contains("events, young") && twice.contains("say which"),
            "{twice}"
        );
    }
}
