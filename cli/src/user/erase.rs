//! `penstock user erase`: deletes a user's rows, and says that it is done when it is.
//!
//! ```text
//! for each pipeline: wait until what was sent is committed ─► for each table: DELETE ─► wait until every part is rewritten
//!                    ─► wait again ─► count
//! ```
//!
//! Invariants:
//! - What a consumer has not committed yet it may store again after a crash. So the group passes all that was in the topic
//!   before, so that it is there to be deleted, and again after: what was stored and not committed meanwhile. What it makes
//!   of that are dead letters, which another group passes then.
//! - Done means counted: no row of the user is left that was there, and the change is finished in every part.
//! - A pipeline that cannot be done keeps none of the others from it, and makes the whole fail.
//!
//! Kafka deletes no single record. What the topics still hold of the user goes with their retention, which the outcome
//! says.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use clap::Args;
use penstock_dataplane_config::letters::letter_group;
use penstock_dataplane_config::table::quote_literal;
use serde::Serialize;
use uuid::Uuid;

use super::{Found, Of, Place, Rows, Undone};
use crate::access::KafkaFlags;
use crate::cluster::Cluster;
use crate::exit::{End, Failure, Result};
use crate::kafka::Committed;
use crate::output::{Format, Waiting, note, print};
use crate::stored::SCAN;
use crate::text::{Table, age, count, harmless};

const AGAIN: &str = "run it again to go on";

#[derive(Clone, Debug, Args)]
pub struct Erase {
    #[command(flatten)]
    pub of: Of,
    /// Do it without asking
    #[arg(long)]
    pub yes: bool,
    /// Say what would be deleted, and delete nothing
    #[arg(long, conflicts_with = "yes")]
    pub dry_run: bool,
    #[command(flatten)]
    pub kafka: KafkaFlags,
    /// How long to wait for each pipeline: its consumers and all its tables together
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    pub timeout: penstock_dataplane_config::Duration,
    /// How to print the outcome
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    user: String,
    dry_run: bool,
    tables: Vec<Erased>,
    /// Called like a pipeline's table of dead letters, and not the pipeline's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    left_alone: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_done: Vec<NotDone>,
}

/// A pipeline that rows of the user may still be in the tables of.
#[derive(Debug, Serialize)]
struct NotDone {
    pipeline: String,
    why: String,
}

/// What became of one table.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Erased {
    pipeline: String,
    table: String,
    /// Rows that were deleted, or would be.
    rows: u64,
    /// How long the topic keeps what the user sent, and the dead letters.
    topic_keeps: String,
    dead_letters_keep: String,
}

pub async fn run(cluster: &Cluster, found: Found, arguments: &Erase) -> Result<End> {
    let user = &arguments.of.user;
    let Found { places, mut undone } = found;
    let all = places.len() + undone.len();
    let mut counts = Vec::new();
    for place in &places {
        match counted(place).await {
            Ok(before) => counts.push((place, before)),
            Err(failure) => undone.push(Undone::new(place, failure)),
        }
    }
    if all > 1 {
        undone.iter().for_each(Undone::say);
    }
    if !arguments.dry_run && !arguments.yes && !counts.is_empty() {
        let rows: Vec<u64> = counts.iter().flat_map(|(_, before)| before).copied().collect();
        agreed(user, rows.iter().sum(), rows.len())?;
    }
    let mut outcome = Outcome {
        user: user.clone(),
        dry_run: arguments.dry_run,
        tables: Vec::new(),
        left_alone: Vec::new(),
        not_done: Vec::new(),
    };
    for (place, before) in counts {
        let deleted = match arguments.dry_run {
            true => Ok(before),
            false => erase(cluster, place, arguments).await,
        };
        match deleted {
            Ok(deleted) => {
                outcome.left_alone.extend(place.left_alone.clone());
                let kafka = &place.stored.pipeline.spec.kafka;
                for (rows, deleted) in place.tables.iter().zip(deleted) {
                    outcome.tables.push(Erased {
                        pipeline: place.stored.name().to_owned(),
                        table: place.name_of(rows),
                        rows: deleted,
                        topic_keeps: age(kafka.retention.get()),
                        dead_letters_keep: age(kafka.dead_letter.retention.get()),
                    });
                }
            }
            // The user is erased from the others all the same.
            Err(failure) => {
                let one = Undone::new(place, failure);
                if all > 1 {
                    one.say();
                }
                undone.push(one);
            }
        }
    }
    outcome.not_done.extend(undone.iter().map(|one| NotDone {
        pipeline: one.pipeline.clone(),
        why: one.failure.to_string(),
    }));
    let printed = match outcome.tables.is_empty() {
        true => Ok(()),
        false => print(arguments.output, &outcome, text),
    };
    // What is left is said by the exit code, also to who reads no output.
    let end = end(all, undone)?;
    printed.map(|()| end)
}

/// Of `all` pipelines some may be left.
fn end(all: usize, mut undone: Vec<Undone>) -> Result<End> {
    match (all, undone.len()) {
        (_, 0) => Ok(End::Done),
        (1, _) => Err(undone.remove(0).failure),
        (all, left) => {
            let names: Vec<_> = undone.iter().map(|one| one.pipeline.as_str()).collect();
            Err(undone[0].failure.instead(format!(
                "{left} of {all} pipelines not done: {}; {AGAIN}",
                names.join(", ")
            )))
        }
    }
}

impl Undone {
    fn new(place: &Place, failure: Failure) -> Self {
        Self {
            pipeline: place.stored.name().to_owned(),
            failure,
        }
    }

    fn say(&self) {
        note(&format!("The pipeline {}: {}", self.pipeline, self.failure));
    }
}

/// Asks the person.
fn agreed(user: &str, rows: u64, tables: usize) -> Result<()> {
    let what = format!(
        "{rows} rows of the user {} in {}",
        harmless(user),
        count(tables, "table")
    );
    if !io::stdin().is_terminal() {
        return Err(Failure::Usage(format!(
            "{what} would be deleted for good: say --yes, or --dry-run to see where they are"
        )));
    }
    let _ = write!(
        io::stderr(),
        "{what} are deleted for good, and what arrives of the user until it is done. Type the user's id to go on: "
    );
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    match answer.trim_end_matches(['\r', '\n']) == user {
        true => Ok(()),
        false => Err(Failure::Usage("nothing was deleted".into())),
    }
}

/// The user's rows in each table.
async fn counted(place: &Place) -> Result<Vec<u64>> {
    let mut counts = Vec::new();
    for rows in &place.tables {
        let table = place.stored.spec.quoted(&rows.table);
        let question = format!("SELECT count() FROM {table} WHERE {}", rows.which);
        let found: Vec<u64> = place.stored.server.ask_within(&question, SCAN).await?;
        counts.push(found.first().copied().unwrap_or(0));
    }
    Ok(counts)
}

/// How many rows were deleted from each table.
async fn erase(cluster: &Cluster, place: &Place, arguments: &Erase) -> Result<Vec<u64>> {
    let mut waiting = Waiting::new(arguments.timeout.get());
    // Whoever may not see changes could not tell that these are finished.
    for rows in &place.tables {
        finished(place, rows, "").await?;
    }
    passed(cluster, place, arguments, &mut waiting).await?;
    let before = counted(place).await?;
    for (rows, _) in place.tables.iter().zip(&before).filter(|(_, count)| **count > 0) {
        delete(place, rows, arguments, &mut waiting).await?;
    }
    if before.iter().all(|count| *count == 0) {
        return Ok(before);
    }
    // A batch that was stored and not committed when its rows were deleted would be missed, and stored again.
    passed(cluster, place, arguments, &mut waiting).await?;
    match counted(place).await?.iter().sum::<u64>() {
        0 => Ok(before),
        left => Err(Failure::Failed(format!(
            "{} rows were deleted from {}, and {left} of the user have come since: run it again once nothing more is sent",
            before.iter().sum::<u64>(),
            place.stored.table()
        ))),
    }
}

/// Deletes the user's rows of one table; returns when every part is rewritten.
async fn delete(place: &Place, rows: &Rows, arguments: &Erase, waiting: &mut Waiting) -> Result<()> {
    // A name by which the change is found again.
    let name = format!("penstock-erase-{}", Uuid::new_v4());
    let statement = format!(
        "{} DELETE WHERE {} AND '{name}' != '' SETTINGS mutations_sync = {}",
        place.stored.spec.alter_beside(&rows.table),
        rows.which,
        place.sync
    );
    place
        .stored
        .server
        .run(&statement, arguments.timeout.get())
        .await?;
    while !finished(place, rows, &name).await? {
        let what = format!("parts of {} are still to be rewritten", place.name_of(rows));
        waiting.tick(&what, AGAIN).await?;
    }
    Ok(())
}

/// Waits until consumers have committed all that the topic holds now, and then all dead letters.
async fn passed(cluster: &Cluster, place: &Place, arguments: &Erase, waiting: &mut Waiting) -> Result<()> {
    let consumer = cluster.consumer(place.stored.name()).await?;
    let brokers = cluster.brokers(place.stored.name(), &consumer.kafka, &arguments.kafka);
    let brokers = brokers.await?;
    let mut groups = vec![(consumer.group.clone(), &consumer.kafka.topic)];
    if consumer.dead_letter_table.is_some() {
        groups.push((letter_group(&consumer.group), &consumer.kafka.dead_letter_topic));
    }
    for (group, topic) in groups {
        let group = Committed::open(&brokers, &group, topic)?;
        while let Some(behind) = group.behind()? {
            let what = format!("{behind} records of {topic} are not stored yet");
            waiting.tick(&what, AGAIN).await?;
        }
    }
    Ok(())
}

/// Whether the change of that name is there and finished. Of no name: whether changes can be seen at all.
async fn finished(place: &Place, rows: &Rows, name: &str) -> Result<bool> {
    let spec = &place.stored.spec;
    let question = format!(
        "SELECT is_done, latest_fail_reason FROM system.mutations \
         WHERE database = {} AND table = {} AND position(command, {}) > 0",
        quote_literal(&spec.database),
        quote_literal(&rows.table),
        quote_literal(name)
    );
    let found: Vec<(u8, String)> = place.stored.server.ask(&question).await?;
    if name.is_empty() {
        return Ok(true);
    }
    if let Some((_, failure)) = found
        .iter()
        .find(|(done, failure)| *done == 0 && !failure.is_empty())
    {
        return Err(Failure::Failed(format!(
            "ClickHouse cannot finish deleting from {}: {}. Once the cause is gone it goes on by itself; run this again to see it done",
            place.name_of(rows),
            harmless(failure)
        )));
    }
    Ok(!found.is_empty() && found.iter().all(|(done, _)| *done == 1))
}

fn table(outcome: &Outcome) -> String {
    let mut table = Table::new(&["PIPELINE", "TABLE", "ROWS", "TOPIC KEEPS", "DEAD LETTERS KEEP"]);
    for one in &outcome.tables {
        table.row([
            one.pipeline.clone(),
            one.table.clone(),
            one.rows.to_string(),
            one.topic_keeps.clone(),
            one.dead_letters_keep.clone(),
        ]);
    }
    table.to_string()
}

fn text(outcome: &Outcome) -> String {
    let rows: u64 = outcome.tables.iter().map(|one| one.rows).sum();
    let user = harmless(&outcome.user);
    let mut end = match (outcome.dry_run, outcome.not_done.is_empty()) {
        (true, _) => format!("{rows} rows of {user} would be deleted."),
        (false, true) => format!("{rows} rows of {user} deleted; none is left."),
        (false, false) => format!("{rows} rows of {user} deleted; none is left in these tables."),
    };
    if !outcome.left_alone.is_empty() {
        end.push_str(&format!(
            " Not the pipelines', and left alone: {}.",
            outcome.left_alone.join(", ")
        ));
    }
    if !outcome.not_done.is_empty() {
        let names: Vec<_> = outcome.not_done.iter().map(|one| one.pipeline.as_str()).collect();
        end.push_str(&format!(" Not done: {}.", names.join(", ")));
    }
    format!("{}\n{end}\n", table(outcome))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn undone(pipeline: &str, failure: Failure) -> Undone {
        Undone {
            pipeline: pipeline.into(),
            failure,
        }
    }

    #[test]
    fn what_is_not_done_is_a_failure_of_its_kind() {
        assert!(matches!(end(3, Vec::new()), Ok(End::Done)));
        let away = || undone("ads", Failure::Unreachable("ClickHouse is away".into()));
        let alone = end(1, vec![away()]).unwrap_err();
        assert_eq!(
            (alone.code(), alone.to_string().as_str()),
            (4, "ClickHouse is away")
        );
        let two = vec![away(), undone("shop", Failure::Failed("refused".into()))];
        let failure = end(3, two).unwrap_err();
        assert_eq!(
            (failure.code(), failure.to_string().as_str()),
            (4, "2 of 3 pipelines not done: ads, shop; run it again to go on")
        );
    }

    #[test]
    fn the_outcome_names_what_is_not_done() {
        let mut outcome = Outcome {
            user: "u\u{1b}1".into(),
            dry_run: false,
            tables: vec![Erased {
                pipeline: "events".into(),
                table: "g.events".into(),
                rows: 3,
                topic_keeps: "7d".into(),
                dead_letters_keep: "30d".into(),
            }],
            left_alone: Vec::new(),
            not_done: Vec::new(),
        };
        let head = "PIPELINE  TABLE     ROWS  TOPIC KEEPS  DEAD LETTERS KEEP\nevents    g.events  3     7d           30d\n\n";
        assert_eq!(
            text(&outcome),
            format!("{head}3 rows of u·1 deleted; none is left.\n")
        );
        outcome.not_done.push(NotDone {
            pipeline: "ads".into(),
            why: "away".into(),
        });
        assert_eq!(
            text(&outcome),
            format!("{head}3 rows of u·1 deleted; none is left in these tables. Not done: ads.\n")
        );
        let json = serde_json::to_value(&outcome).unwrap();
        assert_eq!(
            json["notDone"],
            serde_json::json!([{"pipeline": "ads", "why": "away"}])
        );
        outcome.dry_run = true;
        assert_eq!(
            text(&outcome),
            format!("{head}3 rows of u·1 would be deleted. Not done: ads.\n")
        );
        outcome.not_done.clear();
        outcome.left_alone.push("g.events_dead_letters".into());
        assert_eq!(
            text(&outcome),
            format!(
                "{head}3 rows of u·1 would be deleted. Not the pipelines', and left alone: g.events_dead_letters.\n"
            )
        );
        let json = serde_json::to_value(&outcome).unwrap();
        assert_eq!(json["leftAlone"], serde_json::json!(["g.events_dead_letters"]));
    }
}
