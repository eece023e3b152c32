//! `penstock schema repair`: ends changes of stored rows that fail again and again. ClickHouse works them off in their
//! order, so one that cannot be finished holds up all behind it.

use clap::Args;
use penstock_provision::clickhouse::inspect::{Mutation, kill};
use serde::Serialize;

use super::Of;
use super::status::under_way;
use crate::exit::{End, Failure, Result};
use crate::output::{Format, print};
use crate::stored::Stored;
use crate::text::count;

#[derive(Clone, Debug, Args)]
pub struct Repair {
    #[command(flatten)]
    pub of: Of,
    /// End them; without it, it is said what would be ended
    #[arg(long)]
    pub yes: bool,
    /// Say what would be ended, and end nothing; so it is without --yes, too
    #[arg(long, conflicts_with = "yes")]
    pub dry_run: bool,
    /// How to print the outcome
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    table: String,
    dry_run: bool,
    /// Changes that failed, with the reason.
    ended: Vec<Mutation>,
    /// Changes that are under way and have not failed.
    going_on: usize,
}

pub async fn run(stored: &Stored, arguments: &Repair) -> Result<End> {
    let Some(found) = stored.inspect_own().await? else {
        return Err(Failure::NotFound(format!(
            "the pipeline {} has no table yet",
            stored.name()
        )));
    };
    let (failed, others): (Vec<_>, Vec<_>) = found
        .mutations
        .into_iter()
        .partition(|mutation| !mutation.failure.is_empty());
    if arguments.yes {
        for mutation in &failed {
            kill(&stored.server, &stored.spec, mutation).await?;
        }
    }
    let outcome = Outcome {
        table: found.table,
        dry_run: !arguments.yes,
        ended: failed,
        going_on: others.len(),
    };
    print(arguments.output, &outcome, text)?;
    Ok(End::Done)
}

fn text(outcome: &Outcome) -> String {
    let mut text = match (outcome.ended.len(), outcome.dry_run) {
        (0, _) => format!("Nothing to repair: no change of {} fails.\n", outcome.table),
        (ended, true) => format!(
            "{} would be ended with --yes:\n{}",
            count(ended, "change"),
            under_way(&outcome.ended)
        ),
        (ended, false) => format!(
            "{} ended; rows that it had rewritten stay so:\n{}",
            count(ended, "change"),
            under_way(&outcome.ended)
        ),
    };
    if outcome
        .ended
        .iter()
        .any(|one| one.command.contains("MODIFY COLUMN"))
    {
        text.push_str(
            "A column keeps the type that it was to have, and rows that do not fit cannot be read: give it the former type \
             in the resource, and agree to that change.\n",
        );
    }
    if outcome.going_on > 0 {
        text.push_str(&format!("{} under way.\n", count(outcome.going_on, "change")));
    }
    text
}
