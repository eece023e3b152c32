//! `penstock schema repair`: ends changes of stored rows that fail again and again. ClickHouse works them off in their
//! order, so one that cannot be finished holds up all behind it.

use clap::Args;
use penstock_provision::clickhouse::inspect::{Mutation, kill};
use serde::Serialize;

use super::Of;
use super::status::under_way;
use crate::exit::{End, Result};
use crate::output::{Format, print};
use crate::stored::Stored;
use crate::text::count;

#[derive(Clone, Debug, Args)]
pub struct Repair {
    #[command(flatten)]
    pub of: Of,
    /// Say what would be ended, and end nothing
    #[arg(long)]
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
    let found = stored.inspect().await?;
    let (failed, others): (Vec<_>, Vec<_>) = found
        .mutations
        .into_iter()
        .partition(|mutation| !mutation.failure.is_empty());
    if !arguments.dry_run {
        for mutation in &failed {
            kill(&stored.server, &stored.spec, mutation).await?;
        }
    }
    let outcome = Outcome {
        table: found.table,
        dry_run: arguments.dry_run,
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
            "{} would be ended:\n{}",
            count(ended, "change"),
            under_way(&outcome.ended)
        ),
        (ended, false) => format!(
            "{} ended; rows that it had rewritten stay so:\n{}",
            count(ended, "change"),
            under_way(&outcome.ended)
        ),
    };
    if outcome.going_on > 0 {
        text.push_str(&format!("{} under way.\n", count(outcome.going_on, "change")));
    }
    text
}
