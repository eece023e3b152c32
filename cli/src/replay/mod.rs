//! `penstock replay`: rows that the table lacks, out of the topic again.
//!
//! ```text
//! gaps    what the topic holds of a span of time, and which of its events the table does not have
//! rewind  consumers away ─► the group's offsets set back to the first missing row ─► consumers back
//! ```
//!
//! Invariant: only consumers write rows. One that begins behind what is stored asks the table before it stores anything,
//! so it stores what is missing and nothing else, under the positions that the rows always had; however often that is
//! begun, and whoever dies meanwhile.

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
    /// The pipeline
    pub pipeline: String,
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
    let stored = Stored::find(&cluster, &arguments.pipeline, &arguments.reach).await?;
    let consumer = cluster.consumer(&arguments.pipeline).await?;
    let brokers = cluster.brokers(&arguments.pipeline, &consumer.kafka, &arguments.kafka);
    let brokers = brokers.await?;
    let name = &consumer.kafka.topic;
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
                arguments.pipeline
            )));
        }
    }
    print(arguments.output, &outcome, text)?;
    Ok(End::Done)
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
