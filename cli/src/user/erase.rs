//! `penstock user erase`: deletes a user's rows, and says that it is done when it is.
//!
//! ```text
//! for each table: wait until what was sent before has been stored ─► DELETE ─► wait until every part is rewritten ─► count
//! ```
//!
//! Invariants:
//! - What a consumer has not committed yet may be written again after a crash, so nothing is deleted before the group has
//!   passed all that was in the topic when the command began. After that no row of it can come back.
//! - Done means counted: no row of the user is left that was there, and the change is finished in every part.
//!
//! Kafka deletes no single record. What the topics still hold of the user goes with their retention; the outcome says
//! when.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use uuid::Uuid;

use super::{Of, Place};
use crate::cluster::Cluster;
use crate::exit::{End, Failure, Result};
use crate::kafka::Committed;
use crate::output::{Format, print};
use crate::text::{Table, age, count, harmless};

const STATEMENT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_secs(1);

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
    /// Kafka's address; default: what the pipelines' pods use
    #[arg(long, value_name = "HOST:PORT", env = "PENSTOCK_KAFKA__BOOTSTRAP")]
    pub kafka: Option<String>,
    /// How long to wait for each table
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

pub async fn run(cluster: &Cluster, places: Vec<Place>, arguments: &Erase) -> Result<End> {
    let user = &arguments.of.user;
    let mut rows = Vec::new();
    for place in &places {
        rows.push(counted(place).await?);
    }
    if !arguments.dry_run && !places.is_empty() && !arguments.yes {
        agreed(user, rows.iter().sum(), places.len())?;
    }
    let mut tables = Vec::new();
    for (place, before) in places.iter().zip(rows) {
        let deleted = match arguments.dry_run {
            true => before,
            false => erase(cluster, place, arguments).await?,
        };
        let kafka = &place.stored.pipeline.spec.kafka;
        tables.push(Erased {
            pipeline: place.stored.name().to_owned(),
            table: place.stored.table(),
            rows: deleted,
            topic_keeps: age(kafka.retention.get()),
            dead_letters_keep: age(kafka.dead_letter.retention.get()),
        });
    }
    let outcome = Outcome {
        user: user.clone(),
        dry_run: arguments.dry_run,
        tables,
    };
    print(arguments.output, &outcome, text)?;
    Ok(End::Done)
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

async fn counted(place: &Place) -> Result<u64> {
    let rows: Vec<u64> = place
        .stored
        .server
        .ask(&format!(
            "SELECT count() FROM {} WHERE {}",
            place.table, place.which
        ))
        .await?;
    Ok(rows.first().copied().unwrap_or(0))
}

/// How many rows were deleted.
async fn erase(cluster: &Cluster, place: &Place, arguments: &Erase) -> Result<u64> {
    let limit = Instant::now() + arguments.timeout.get();
    let mut waiting = Waiting::new(place.stored.table(), limit);
    let consumer = cluster.consumer(place.stored.name()).await?;
    let bootstrap = arguments.kafka.as_deref().unwrap_or(&consumer.kafka.bootstrap);
    let group = Committed::open(bootstrap, &consumer.group, &consumer.kafka.topic)?;
    while let Some(behind) = group.behind()? {
        waiting
            .tick(&format!("{behind} records of the topic are not stored yet"))
            .await?;
    }
    let rows = counted(place).await?;
    if rows == 0 {
        return Ok(0);
    }
    // A name by which the change is found again.
    let name = format!("penstock-erase-{}", Uuid::new_v4());
    let statement = format!(
        "{} DELETE WHERE {} AND '{name}' != '' SETTINGS mutations_sync = 0",
        place.stored.spec.alter(),
        place.which
    );
    place.stored.server.run(&statement, STATEMENT).await?;
    while let Some((parts, failure)) = unfinished(place, &name).await? {
        if !failure.is_empty() {
            return Err(Failure::Failed(format!(
                "ClickHouse cannot finish deleting from {}: {}. Once the cause is gone it goes on by itself; run this again to see it done",
                place.stored.table(),
                harmless(&failure)
            )));
        }
        waiting
            .tick(&format!("{parts} parts are to be rewritten"))
            .await?;
    }
    match counted(place).await? {
        0 => Ok(rows),
        left => Err(Failure::Failed(format!(
            "{rows} rows were deleted from {}, and {left} of the user have come since: run it again once nothing more is sent",
            place.stored.table()
        ))),
    }
}

/// Parts that are left, and why it failed last.
async fn unfinished(place: &Place, name: &str) -> Result<Option<(i64, String)>> {
    let mutations =
        penstock_provision::clickhouse::inspect::mutations(&place.stored.server, &place.stored.spec).await?;
    let ours = mutations.into_iter().find(|one| one.command.contains(name));
    Ok(ours.map(|one| (one.parts_to_do, one.failure)))
}

/// Progress on standard error, and an end to patience.
struct Waiting {
    table: String,
    limit: Instant,
    shown: bool,
}

impl Waiting {
    fn new(table: String, limit: Instant) -> Self {
        Self {
            table,
            limit,
            shown: false,
        }
    }

    async fn tick(&mut self, what: &str) -> Result<()> {
        if Instant::now() > self.limit {
            return Err(Failure::Failed(format!(
                "{}: {what}, and the time to wait is over; run it again to go on",
                self.table
            )));
        }
        if io::stderr().is_terminal() {
            self.shown = true;
            let _ = write!(io::stderr(), "\r\x1b[K{}: {what}", self.table);
        }
        tokio::time::sleep(POLL).await;
        Ok(())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

fn text(outcome: &Outcome) -> String {
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
    let rows: u64 = outcome.tables.iter().map(|one| one.rows).sum();
    let user = harmless(&outcome.user);
    match outcome.dry_run {
        true => format!("{table}\n{rows} rows of {user} would be deleted.\n"),
        false => format!("{table}\n{rows} rows of {user} deleted; none is left.\n"),
    }
}
