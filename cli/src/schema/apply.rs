//! `penstock schema apply`: what a person decides about stored rows, done and waited for.
//!
//! ```text
//! --agree        an annotation of the pipeline: of what rewrites rows, the operator runs the statements that it names, and
//!                no others
//! --backfill     a column written into old rows, or a rollup counted for the past
//! --retention    the end of old rows by what their Apps say now
//! ```
//!
//! Each may be asked for again, or cut short and asked for again, and comes to the same.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use penstock_crds::App;
use penstock_dataplane_config::table::{EventTable, NEVER_EXPIRES, expiry, quote_literal};
use penstock_provision::clickhouse::inspect::{Inspection, fill_rollup, months, write_column};
use penstock_provision::{APPLY_SCHEMA, TableSpec};
use serde::Serialize;

use super::Of;
use crate::cluster::Cluster;
use crate::exit::{End, Failure, Result};
use crate::output::{Format, Ongoing, Waiting, note, print};
use crate::stored::{SCAN, Stored};
use crate::text::{cut, harmless};

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
    /// The table's own TTL decides when rows go, not their end.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    own_ttl: bool,
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
    // First the tables are as asked: a column is filled by what it is then.
    let limit = arguments.timeout.get();
    if !arguments.dry_run && (arguments.agree.is_some() || !found.plan.steps.is_empty()) {
        if let Some(fingerprint) = &arguments.agree {
            let annotation = [(APPLY_SCHEMA, Some(fingerprint.as_str()))];
            cluster.annotate_pipeline(&stored.pipeline, &annotation).await?;
        }
        wait(cluster, stored, limit).await?;
    }
    let months = match arguments.backfill.is_empty() {
        true => Vec::new(),
        false => months(&stored.server, &stored.spec).await?,
    };
    let sync = found.mutations_sync();
    let mut begun = Vec::new();
    for name in &arguments.backfill {
        begun.extend(backfill(stored, name, &months, sync)?);
    }
    if arguments.retention {
        let mut apps = Vec::new();
        for app in cluster.apps().await? {
            apps.push(app.0.map_err(|invalid| {
                Failure::Failed(format!(
                    "this version of penstock cannot read the App {}, and so not its retention: {}",
                    invalid.metadata.name.unwrap_or_default(),
                    invalid.error
                ))
            })?);
        }
        for (app, statement, rewritten) in retention(stored, apps, sync).await? {
            if rewritten.changed > 0 {
                begun.push(statement);
            }
            outcome.rows.insert(app, rewritten);
        }
        let ttl = found.stored.as_ref().and_then(|stored| stored.ttl.as_deref());
        outcome.own_ttl = !ttl.is_some_and(|ttl| expiry(ttl).contains(&EventTable::EXPIRY));
    }
    outcome.statements.extend(begun.iter().cloned());
    if !arguments.dry_run && !begun.is_empty() {
        for (step, statement) in begun.iter().enumerate() {
            if begun.len() > 1 {
                note(&format!(
                    "{} of {}: {}",
                    step + 1,
                    begun.len(),
                    harmless(statement)
                ));
            }
            // A rollup is filled, and a Replicated table rewritten, before ClickHouse answers.
            let what = || cut(&harmless(statement), 60);
            let run = stored.server.run(statement, limit);
            Ongoing::begin().during(what, run).await?;
        }
        wait(cluster, stored, limit).await?;
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

fn backfill(stored: &Stored, name: &str, months: &[u32], sync: u8) -> Result<Vec<String>> {
    if let Some(statement) = write_column(&stored.spec, name) {
        return Ok(vec![format!("{statement} SETTINGS mutations_sync = {sync}")]);
    }
    if !stored.spec.rollups.iter().any(|rollup| rollup.name == name) {
        return Err(Failure::NotFound(format!(
            "the pipeline {} declares neither a column nor a rollup {name}",
            stored.name()
        )));
    }
    let months = months.iter();
    Ok(months
        .filter_map(|&month| fill_rollup(&stored.spec, name, month))
        .collect())
}

/// By App: what is done, and to how many rows.
async fn retention(stored: &Stored, apps: Vec<App>, sync: u8) -> Result<Vec<(String, String, Rewritten)>> {
    let mut all = Vec::new();
    for app in apps {
        let status = app.status.unwrap_or_default();
        let bound = status.bound_pipelines.iter().any(|bound| bound == stored.name());
        let (true, Some(id)) = (bound, status.app_id) else {
            continue;
        };
        let end = end_of_life(app.spec.retention.map(penstock_dataplane_config::Duration::days));
        let table = stored.quoted();
        let which = format!("app_id = {} AND expires_on != {end}", quote_literal(&id));
        let counted: Vec<(u64, u64)> = stored
            .server
            .ask_within(
                &format!("SELECT count(), countIf({end} <= today()) FROM {table} WHERE {which}"),
                SCAN,
            )
            .await?;
        let (changed, over) = counted.first().copied().unwrap_or_default();
        let name = app.metadata.name.unwrap_or_default();
        let statement = format!(
            "{} UPDATE expires_on = {end} WHERE {which} SETTINGS mutations_sync = {sync}",
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
    let mut waiting = Waiting::new(limit);
    loop {
        // With the annotation that may just have been set.
        let pipeline = cluster.readable_pipeline(stored.name()).await?;
        let now = Stored {
            namespace: stored.namespace.clone(),
            spec: TableSpec::of(&pipeline).map_err(Failure::Failed)?,
            pipeline,
            server: stored.server.clone(),
        };
        let found = now.inspect().await?;
        if let Some(failed) = found.mutations.iter().find(|one| !one.failure.is_empty()) {
            return Err(Failure::Failed(format!(
                "ClickHouse cannot finish {} of {}: {}. Once the cause is gone it goes on by itself; `penstock schema repair {}` ends it",
                harmless(&failed.command),
                failed.table,
                harmless(&failed.failure),
                stored.name()
            )));
        }
        if found.is_settled() {
            return Ok(());
        }
        let parts: i64 = found.mutations.iter().map(|one| one.parts_to_do).sum();
        let what = match found.mutations.is_empty() {
            true => "the operator has not changed the tables yet".to_owned(),
            false => format!("{parts} parts are to be rewritten"),
        };
        let then = format!(
            "it goes on, and `penstock schema status {}` says how far it is",
            stored.name()
        );
        waiting.tick(&what, &then).await?;
    }
}

fn text(outcome: &Outcome) -> String {
    let mut text = String::new();
    for (app, rows) in &outcome.rows {
        let would = if outcome.dry_run { "would " } else { "" };
        text.push_str(&match (rows.changed, rows.over) {
            (0, _) => format!("App {app}: every row ends when it shall.\n"),
            (changed, 0) => format!("App {app}: {changed} rows {would}have another end.\n"),
            (changed, _) if outcome.own_ttl => format!(
                "App {app}: {changed} rows {would}have another end, which the table's own TTL does not ask for.\n"
            ),
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
