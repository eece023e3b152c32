//! `penstock user export`.

use clap::Args;
use penstock_provision::ProvisionError;

use super::{Of, Place};
use crate::exit::{End, Failure, Result};
use crate::output::{note, write};
use crate::text::count;

#[derive(Clone, Debug, Args)]
pub struct Export {
    #[command(flatten)]
    pub of: Of,
}

/// Of reading: both can fail while the answer comes.
enum Ended {
    Server(ProvisionError),
    Output(Failure),
}

impl From<ProvisionError> for Ended {
    fn from(error: ProvisionError) -> Self {
        Self::Server(error)
    }
}

pub async fn run(places: Vec<Place>) -> Result<End> {
    let mut lines = 0;
    for place in &places {
        // Columns that ClickHouse computes say nothing that the others do not; a retry that is not merged yet is not
        // printed twice.
        let question = format!(
            "SELECT * FROM {} FINAL WHERE {} ORDER BY event_timestamp, event_id \
             SETTINGS output_format_json_quote_64bit_integers = 0",
            place.stored.quoted(),
            place.which
        );
        let read = place
            .stored
            .server
            .stream(&question, "JSONEachRow", |piece| {
                lines += piece.iter().filter(|&&byte| byte == b'\n').count();
                write(piece).map_err(Ended::Output)
            })
            .await;
        read.map_err(|ended| match ended {
            Ended::Server(error) => Failure::from(error),
            Ended::Output(failure) => failure,
        })?;
    }
    note(&format!(
        "{} in {}.",
        count(lines, "event"),
        count(places.len(), "table")
    ));
    Ok(End::Done)
}
