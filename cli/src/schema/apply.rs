//! `penstock schema apply`: what a person decides about stored rows, done and waited for.
//!
//! ```text
//! --agree        an annotation of the pipeline: the operator runs the statements that it names, and no others
//! --backfill     a column written into old rows, or a rollup counted for the past
//! --retention    the end of old rows by what their Apps say now
//! ```
//!
//! Each may be asked for again, or cut short and asked for again, and comes to the same.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use clap::Args;
use penstock_crds::App;
use penstock_dataplane_config::table::{NEVER_EXPIRES, quote_identifier, quote_literal};
use penstock_provision::APPLY_SCHEMA;
use penstock_provision::clickhouse::inspect::{Inspection, fill_rollup, months, write_column};
use serde::Serialize;

use super::Of;
use crate::cluster::Cluster;
use crate::exit::{End, Failure, Result};
use crate::output::{Format, note, print};
use crate::stored::Stored;
use crate::text::{age, count, harmless};

/// A statement that only begins something.
const STATEMENT: Duration = Duration::from_secs(30);
/// One that counts a month of events.
const FILL: Duration = Duration::from_secs(3600);
const POLL: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, Args)]
pub struct Apply {
    #[command(flatten)]
    pub of: Of,
    /// Agree to the change with this fingerprint, which `penstock schema plan` shows
    #[arg(long, value_name = "FINGERPRINT")]
    pub agree: Option<String>,
    /// Write this column into rows that were stored before it was declared, or count this rollup for the past
    #[arg(long, value_name = "NAME")]
    pub backfill: Vec<String>,
    /// Let old rows go when the retention of their Apps says now; ClickHouse then deletes those whose day is past
    #[arg(long)]
    pub retention: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// How long to wait until it is done; it goes on when nobody waits any more
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    pub timeout: penstock_dataplane_config::Duration,
    /// How to print the outcome
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
}

/// What was done, or would be.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    table: String,
    dry_run: bool,
    /// The fingerprint that the pipeline is annotated with.
    #[serde(skip_serializing_if = "Option::is_none")]
    agreed: Option<String>,
    statements: Vec<String>,
    /// Rows whose end `--retention` changes, by App.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    rows: BTreeMap<String, Rewritten>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Rewritten {
    changed: u64,
    /// Of these, past their day: ClickHouse deletes them.
    over: u64,
}

pub async fn run(cluster: &Cluster, stored: &Stored, arguments: &Apply) -> Result<End> {
    let found = stored.inspect().await?;
    let mut outcome = Outcome {
        table: found.table.clone(),
        dry_run: arguments.dry_run,
        ..Outcome::default()
    };
    if let Some(fingerprint) = &arguments.agree {
        outcome.statements.extend(agreed(&found, fingerprint, stored)?);
        outcome.agreed = Some(fingerprint.clone());
    } else if let Some(blocked) = &found.plan.blocked {
        return Err(Failure::Failed(format!(
            "the tables are not as asked, and nothing more is done to them before: {}",
            harmless(&blocked.message)
        )));
    }
    let months = match arguments.backfill.is_empty() {
        true => Vec::new(),
        false => months(&stored.server, &stored.spec).await?,
    };
    let mut begun = Vec::new();
    for name in &arguments.backfill {
        begun.extend(backfill(stored, name, &months)?);
    }
    if arguments.retention {
        let apps = cluster.apps().await?.into_iter().filter_map(|app| app.0.ok());
        for (app, statement, rewritten) in retention(stored, apps).await? {
            if rewritten.changed > 0 {
                begun.push((statement, STATEMENT));
            }
            outcome.rows.insert(app, rewritten);
        }
    }
    outcome
        .statements
        .extend(begun.iter().map(|(statement, _)| statement.clone()));
    if !arguments.dry_run {
        if let Some(fingerprint) = &arguments.agree {
            cluster
                .annotate_pipeline(&stored.pipeline, APPLY_SCHEMA, Some(fingerprint))
                .await?;
        }
        let steps = begun.len();
        for (step, (statement, limit)) in begun.into_iter().enumerate() {
            if steps > 1 {
                note(&format!("{} of {steps}: {}", step + 1, harmless(&statement)));
            }
            stored.server.run(&statement, limit).await?;
        }
        wait(cluster, stored, arguments.timeout.get()).await?;
    }
    print(arguments.output, &outcome, text)?;
    Ok(End::Done)
}

/// The statements of that fingerprint, if they are what is waited for.
fn agreed(found: &Inspection, fingerprint: &str, stored: &Stored) -> Result<Vec<String>> {
    if stored.spec.approved.as_deref() == Some(fingerprint) && found.plan.blocked.is_none() {
        // Agreed before: it is done, or under way.
        return Ok(Vec::new());
    }
    let waiting = found.plan.blocked.as_ref().map(|blocked| &blocked.agreement);
    match waiting {
        Some(Some(agreement)) if agreement.fingerprint == fingerprint => Ok(agreement.statements.clone()),
        Some(Some(agreement)) => Err(Failure::Usage(format!(
            "{fingerprint} is not what the operator waits for; that is {} now: look at `penstock schema plan {}` again",
            agreement.fingerprint,
            stored.name()
        ))),
        Some(None) => Err(Failure::Failed(format!(
            "this cannot be agreed to; `penstock schema plan {}` says what to do",
            stored.name()
        ))),
        None => Err(Failure::Usage(
            "there is nothing to agree to: the operator waits for nobody".into(),
        )),
    }
}

/// Statements, and how long each may take.
fn backfill(stored: &Stored, name: &str, months: &[u32]) -> Result<Vec<(String, Duration)>> {
    if let Some(statement) = write_column(&stored.spec, name) {
        return Ok(vec![(
            format!("{statement} SETTINGS mutations_sync = 0"),
            STATEMENT,
        )]);
    }
    let months = months.iter().map(|&month| fill_rollup(&stored.spec, name, month));
    let statements: Option<Vec<String>> = match stored.spec.rollups.iter().any(|rollup| rollup.name == name) {
        true => months.collect(),
        false => None,
    };
    let statements = statements.ok_or_else(|| {
        Failure::NotFound(format!(
            "the pipeline {} declares neither a column nor a rollup {name}",
            stored.name()
        ))
    })?;
    Ok(statements
        .into_iter()
        .map(|statement| (statement, FILL))
        .collect())
}

/// By App: what is done, and to how many rows.
async fn retention(
    stored: &Stored,
    apps: impl Iterator<Item = App>,
) -> Result<Vec<(String, String, Rewritten)>> {
    let mut all = Vec::new();
    for app in apps {
        let status = app.status.unwrap_or_default();
        let bound = status.bound_pipelines.iter().any(|bound| bound == stored.name());
        let (true, Some(id)) = (bound, status.app_id) else {
            continue;
        };
        let end = end_of_life(app.spec.retention.map(penstock_dataplane_config::Duration::days));
        let table = format!(
            "{}.{}",
            quote_identifier(&stored.spec.database),
            quote_identifier(&stored.spec.table)
        );
        let which = format!("app_id = {} AND expires_on != {end}", quote_literal(&id));
        let counted: Vec<(u64, u64)> = stored
            .server
            .ask(&format!(
                "SELECT count(), countIf({end} <= today()) FROM {table} WHERE {which}"
            ))
            .await?;
        let (changed, over) = counted.first().copied().unwrap_or_default();
        let name = app.metadata.name.unwrap_or_default();
        let statement = format!(
            "{} UPDATE expires_on = {end} WHERE {which} SETTINGS mutations_sync = 0",
            stored.spec.alter()
        );
        all.push((name, statement, Rewritten { changed, over }));
    }
    if all.is_empty() {
        return Err(Failure::NotFound(format!(
            "no App of the namespace {} sends to the pipeline {}",
            stored.namespace,
            stored.name()
        )));
    }
    Ok(all)
}

/// The day on which a row goes, as the consumer writes it into new ones.
fn end_of_life(days: Option<u64>) -> String {
    match days {
        None => format!("toDate({NEVER_EXPIRES})"),
        Some(days) => {
            let day =
                format!("toInt64(floor(toUnixTimestamp64Milli(event_timestamp) / 86400000)) + 1 + {days}");
            format!("toDate(toUInt16(least(greatest({day}, 0), {NEVER_EXPIRES})))")
        }
    }
}

/// Waits until the tables are as asked and nothing is under way.
async fn wait(cluster: &Cluster, stored: &Stored, limit: Duration) -> Result<()> {
    let began = Instant::now();
    let mut said = false;
    let terminal = io::stderr().is_terminal();
    let done = loop {
        // With the annotation that may just have been set.
        let pipeline = cluster.readable_pipeline(stored.name()).await?;
        let approved = penstock_provision::TableSpec::of(&pipeline).map_err(Failure::Failed)?;
        let now = Stored {
            namespace: stored.namespace.clone(),
            pipeline,
            spec: approved,
            server: stored.server.clone(),
        };
        let found = now.inspect().await?;
        if let Some(failed) = found.mutations.iter().find(|one| !one.failure.is_empty()) {
            break Err(Failure::Failed(format!(
                "ClickHouse cannot finish {} of {}: {}. Once the cause is gone it goes on by itself; `penstock schema repair {}` ends it",
                harmless(&failed.command),
                failed.table,
                harmless(&failed.failure),
                stored.name()
            )));
        }
        if found.is_settled() {
            break Ok(());
        }
        if began.elapsed() > limit {
            break Err(Failure::Failed(format!(
                "after {} it is not done; it goes on, and `penstock schema status {}` says how far it is",
                age(limit),
                stored.name()
            )));
        }
        if terminal && began.elapsed() > POLL {
            said = true;
            let parts: i64 = found.mutations.iter().map(|one| one.parts_to_do).sum();
            let what = match found.mutations.is_empty() {
                true => "waiting for the operator".to_owned(),
                false => format!(
                    "ClickHouse rewrites {}",
                    count(usize::try_from(parts).unwrap_or(0), "part")
                ),
            };
            let _ = write!(io::stderr(), "\r\x1b[K{what}, {}", age(began.elapsed()));
        }
        tokio::time::sleep(POLL).await;
    };
    if said {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
    done
}

fn text(outcome: &Outcome) -> String {
    let mut text = String::new();
    for (app, rows) in &outcome.rows {
        let would = if outcome.dry_run { "would " } else { "" };
        text.push_str(&match (rows.changed, rows.over) {
            (0, _) => format!("App {app}: every row ends when it shall.\n"),
            (changed, 0) => format!("App {app}: {changed} rows {would}have another end.\n"),
            (changed, over) => format!(
                "App {app}: {changed} rows {would}have another end; of {over} the day is past, ClickHouse {would}delete them.\n"
            ),
        });
    }
    match (outcome.dry_run, outcome.statements.is_empty()) {
        (_, true) => text.push_str(&format!("Nothing to do: {} is as asked.\n", outcome.table)),
        (true, false) => {
            text.push_str("Would be done:\n");
            for statement in &outcome.statements {
                text.push_str(&format!("{};\n", harmless(statement)));
            }
        }
        (false, false) => text.push_str(&format!("Done: {} is as asked.\n", outcome.table)),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_row_is_that_of_the_consumer() {
        assert_eq!(end_of_life(None), "toDate(49673)");
        assert_eq!(
            end_of_life(Some(400)),
            "toDate(toUInt16(least(greatest(toInt64(floor(toUnixTimestamp64Milli(event_timestamp) / 86400000)) + 1 + 400, 0), 49673)))"
        );
    }

    #[test]
    fn the_outcome_says_what_goes() {
        let mut outcome = Outcome {
            table: "g.events".into(),
            dry_run: true,
            statements: vec!["ALTER TABLE x UPDATE y".into()],
            rows: [("shop".to_owned(), Rewritten { changed: 5, over: 2 })].into(),
            ..Outcome::default()
        };
        assert_eq!(
            text(&outcome),
            "App shop: 5 rows would have another end; of 2 the day is past, ClickHouse would delete them.\n\
             Would be done:\nALTER TABLE x UPDATE y;\n"
        );
        (outcome.dry_run, outcome.rows) = (false, BTreeMap::new());
        assert_eq!(text(&outcome), "Done: g.events is as asked.\n");
        outcome.statements.clear();
        assert_eq!(text(&outcome), "Nothing to do: g.events is as asked.\n");
    }
}
