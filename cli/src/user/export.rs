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
    let (mut lines, mut tables) = (0, 0);
    for table in places.iter().filter_map(|place| place.left_alone.as_ref()) {
        note(&format!(
            "The table {table} is not the pipeline's, and was left alone."
        ));
    }
    for (place, rows) in places
        .iter()
        .flat_map(|place| place.tables.iter().map(move |rows| (place, rows)))
    {
        tables += 1;
        // Columns that ClickHouse computes say nothing that the others do not; a retry that is not merged yet is not
        // printed twice. Bytes of a dead letter that are no text would make a line no JSON.
        let question = format!(
            "SELECT * FROM {} FINAL WHERE {} ORDER BY {} \
             SETTINGS output_format_json_quote_64bit_integers = 0, output_format_json_validate_utf8 = 1",
            place.stored.spec.quoted(&rows.table),
            rows.which,
            rows.order
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
    note(&format!("{} in {}.", count(lines, "row"), count(tables, "table")));
    Ok(End::Done)
}
