//! `penstock user export`.

use std::cell::Cell;

use clap::Args;
use penstock_provision::ProvisionError;

use super::{Of, Place};
use crate::exit::{End, Failure, Result};
use crate::output::{Ongoing, note, write};
use crate::stored::SCAN;
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
    let (lines, mut tables) = (Cell::new(0), 0);
    let ongoing = Ongoing::begin();
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
        let table = place.name_of(rows);
        let so_far = || format!("Reading {table}: {} so far", count(lines.get(), "row"));
        // Nothing comes while ClickHouse looks through the table for a row.
        let server = &place.stored.server;
        let read = server.stream(&question, "JSONEachRow", SCAN, |piece| {
            lines.set(lines.get() + piece.iter().filter(|&&byte| byte == b'\n').count());
            ongoing.results();
            write(piece).map_err(Ended::Output)
        });
        ongoing.during(so_far, read).await.map_err(|ended| match ended {
            Ended::Server(error) => Failure::from(error),
            Ended::Output(failure) => failure,
        })?;
    }
    note(&format!(
        "{} in {}.",
        count(lines.get(), "row"),
        count(tables, "table")
    ));
    Ok(End::Done)
}
