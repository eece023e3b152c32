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

pub async fn run(place: &Where, command: &Schema) -> Result<End> {
    let cluster = Cluster::connect(place).await?;
    match command {
        Schema::Status(look) => status::run(&look.of.find(&cluster).await?, look.output).await,
        Schema::Plan(look) => plan::run(&look.of.find(&cluster).await?, look.output).await,
        Schema::Apply(apply) => apply::run(&cluster, &apply.of.find(&cluster).await?, apply).await,
        Schema::Repair(repair) => repair::run(&repair.of.find(&cluster).await?, repair).await,
    }
}
