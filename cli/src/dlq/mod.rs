//! `penstock dlq`: dead letters, and sending them again.
//!
//! ```text
//! letter     what a record of the dead-letter topic says
//! offsets    sets of offsets, as a person names them and as a receipt keeps them
//! list, show reading
//! plan       which letters are to be replayed: decided from all that the topic holds
//! replay     doing it, in transactions
//! ```

pub mod letter;
pub mod list;
pub mod offsets;
pub mod plan;
pub mod replay;
pub mod show;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};

use crate::cluster::Where;
use crate::exit::{End, Result};
use crate::place::{Given, Place};

/// Why letters are dead, as `docs/record.md` says.
pub const REASONS: [&str; 4] = ["TooOld", "Malformed", "TooLarge", "Refused"];

#[derive(Clone, Debug, Subcommand)]
pub enum Dlq {
    /// What could not be stored, and why
    #[command(
        after_help = "Examples:\n  penstock dlq list events -n growth\n  penstock dlq list events --reason Refused --since 24h -o json"
    )]
    List(list::List),
    /// One letter: its headers, and the bytes that could not be stored
    #[command(
        after_help = "Examples:\n  penstock dlq show events 17\n  penstock dlq show events 17 --raw > event.json"
    )]
    Show(show::Show),
    /// Send letters to the pipeline's topic again, each at most once
    #[command(
        after_help = "Examples:\n  penstock dlq replay events --reason Refused --dry-run\n  penstock dlq replay events --reason Refused\n  penstock dlq replay events 17 20..25"
    )]
    Replay(replay::Replay),
}

/// Whose letters.
#[derive(Clone, Debug, Args)]
pub struct Of {
    /// The pipeline
    pub pipeline: String,
    #[command(flatten)]
    pub given: Given,
    /// The topic of dead letters; default: the pipeline's, or TOPIC.dlq
    #[arg(long, value_name = "NAME", env = "PENSTOCK_KAFKA__DEAD_LETTER_TOPIC")]
    pub dead_letter_topic: Option<String>,
}

impl Of {
    async fn find(&self, place: &Where) -> Result<Place> {
        Place::find(
            place,
            &self.pipeline,
            &self.given,
            self.dead_letter_topic.as_deref(),
        )
        .await
    }
}

fn reasons() -> PossibleValuesParser {
    PossibleValuesParser::new(REASONS)
}

pub async fn run(place: &Where, command: &Dlq) -> Result<End> {
    match command {
        Dlq::List(list) => list::run(&list.of.find(place).await?, list),
        Dlq::Show(show) => show::run(&show.of.find(place).await?, show),
        Dlq::Replay(replay) => replay::run(&replay.of.find(place).await?, replay),
    }
}
