//! `penstock schema`: a pipeline's tables, how they compare with its resource, and what is done about it.
//!
//! The operator makes tables match, by itself where that rewrites nothing. Here a person sees what it finds, agrees to
//! what it would not do alone, has old rows rewritten, and ends changes that cannot be finished.
//!
//! ```text
//! status, plan   look
//! apply          agree (an annotation of the pipeline), rewrite old rows (statements), and wait until all is done
//! repair         end changes that cannot be finished
//! ```

pub mod apply;
pub mod plan;
pub mod repair;
pub mod status;

use clap::{Args, Subcommand};
use penstock_provision::clickhouse::inspect::Inspection;

use crate::cluster::{Cluster, Where};
use crate::exit::{End, Result};
use crate::output::Format;
use crate::stored::{Reach, Stored};

#[derive(Clone, Debug, Subcommand)]
pub enum Schema {
    /// The tables as they are: columns, rollups, size, changes under way
    #[command(
        after_help = "Examples:\n  penstock schema status events -n growth\n  penstock schema status events -o json | jq '.columns[] | select(.fit != \"AsAsked\")'"
    )]
    Status(Look),
    /// What the operator would do to the tables, and what it waits for a person to agree to
    #[command(after_help = "Examples:\n  penstock schema plan events -n growth")]
    Plan(Look),
    /// Agree to what the plan shows, have old rows rewritten, and wait until it is done
    #[command(
        after_help = "Examples:\n  penstock schema apply events --agree 3f9a1c22b0d4\n  penstock schema apply events --backfill amount --backfill events_per_minute\n  penstock schema apply events --retention --dry-run"
    )]
    Apply(apply::Apply),
    /// End changes of stored rows that fail again and again, and hold up those behind them
    #[command(
        after_help = "Examples:\n  penstock schema repair events\n  penstock schema repair events --yes"
    )]
    Repair(repair::Repair),
}

/// Whose tables, and how to print.
#[derive(Clone, Debug, Args)]
pub struct Look {
    #[command(flatten)]
    pub of: Of,
    /// How to print it
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
}

/// Whose tables.
#[derive(Clone, Debug, Args)]
pub struct Of {
    /// The pipeline
    pub pipeline: String,
    #[command(flatten)]
    pub reach: Reach,
}

impl Of {
    async fn find(&self, cluster: &Cluster) -> Result<Stored> {
        Stored::find(cluster, &self.pipeline, &self.reach).await
    }
}

/// How a look ends. A table of dead letters that is refused counts here, though the operator waits for none: it is not as
/// asked.
fn end(found: &Inspection) -> End {
    let as_asked = found.plan.is_empty() && found.plan.letters.is_none();
    match as_asked && found.mutations.is_empty() {
        true => End::Done,
        false => End::NotAsAsked,
    }
}

pub async fn run(place: &Where, command: &Schema) -> Result<End> {
    let cluster = Cluster::connect(place).await?;
    match command {
        Schema::Status(look) => status::run(&look.of.find(&cluster).await?, look.output).await,
        Schema::Plan(look) => plan::run(&look.of.find(&cluster).await?, look.output).await,
        Schema::Apply(apply) => apply::run(&cluster, &apply.of.find(&cluster).await?, apply).await,
        Schema::Repair(repair) => repair::run(&repair.of.find(&cluster).await?, repair).await,
    }
}

#[cfg(test)]
mod tests {
    use penstock_provision::clickhouse::inspect::{Blocked, Mutation, Plan, Step};

    use super::*;

    #[test]
    fn a_look_ends_well_when_all_is_as_asked_and_nothing_is_under_way() {
        let step = Step {
            statement: "ALTER TABLE x".into(),
            does: "column amount added".into(),
        };
        let mutation = Mutation {
            table: "events".into(),
            id: "mutation_3.txt".into(),
            command: "MATERIALIZE COLUMN amount".into(),
            parts_to_do: 2,
            failure: String::new(),
            since: 1_700_000_000,
        };
        for (what, plan, mutations, code) in [
            ("as asked", Plan::default(), vec![], 0),
            (
                "a step",
                Plan {
                    steps: vec![step],
                    ..Plan::default()
                },
                vec![],
                7,
            ),
            (
                "a person is waited for",
                Plan {
                    blocked: Some(Blocked {
                        message: "differs".into(),
                        agreement: None,
                    }),
                    ..Plan::default()
                },
                vec![],
                7,
            ),
            (
                "dead letters are refused",
                Plan {
                    letters: Some("table g.events_dead_letters exists".into()),
                    ..Plan::default()
                },
                vec![],
                7,
            ),
            ("a change", Plan::default(), vec![mutation], 7),
        ] {
            let found = Inspection {
                table: "g.events".into(),
                stored: None,
                columns: Vec::new(),
                rollups: Vec::new(),
                dead_letters: None,
                plan,
                mutations,
            };
            assert_eq!(end(&found).code(), code, "{what}");
        }
    }
}
