//! `penstock schema status`.

use std::fmt::Write as _;

use penstock_dataplane_config::table::expiry;
use penstock_provision::clickhouse::inspect::{Fit, Inspection, Mutation};

use super::end;
use crate::exit::{End, Result};
use crate::output::{Format, print};
use crate::stored::Stored;
use crate::text::{Table, age_of, count, cut, harmless, size};

pub async fn run(stored: &Stored, format: Format) -> Result<End> {
    let found = stored.inspect().await?;
    print(format, &found, |found| text(found, stored.name()))?;
    Ok(end(&found))
}

fn text(found: &Inspection, pipeline: &str) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = match &found.stored {
        None => writeln!(text, "{}: there is no table yet", found.table),
        Some(stored) => writeln!(
            text,
            "{}: {}, {} rows, {} in {}, {}\nRows go: {}",
            found.table,
            stored.engine,
            stored.rows,
            size(stored.bytes),
            count(usize::try_from(stored.parts).unwrap_or(usize::MAX), "part"),
            match (&stored.owner, stored.made) {
                (Some(_), true) => "made by Penstock",
                (Some(_), false) => "adopted",
                (None, _) => "not Penstock's",
            },
            match expiry(stored.ttl.as_deref().unwrap_or_default())
                .join(", ")
                .as_str()
            {
                "" => "never".to_owned(),
                rules => format!("by {}", harmless(rules)),
            },
        ),
    };
    let mut columns = Table::new(&["COLUMN", "TYPE", "STATE"]);
    for column in &found.columns {
        let state = match column.fit {
            Fit::AsAsked => "as asked".to_owned(),
            Fit::Missing => "missing".to_owned(),
            Fit::Different => format!("asked: {}", column.asked.as_deref().unwrap_or_default()),
            Fit::Extra => "your own".to_owned(),
        };
        let is = column.is.as_ref().or(column.asked.as_ref());
        columns.row([
            column.name.clone(),
            cut(is.map_or("", |is| is.as_str()), 60),
            state,
        ]);
    }
    let _ = write!(text, "\n{columns}");
    if !found.rollups.is_empty() {
        let mut rollups = Table::new(&["ROLLUP", "TABLE", "STATE"]);
        for rollup in &found.rollups {
            let state = match (rollup.there, rollup.filled) {
                (true, true) => "counting",
                (true, false) => "not filled",
                (false, _) => "missing",
            };
            rollups.row([rollup.name.clone(), rollup.table.clone(), state.into()]);
        }
        let _ = write!(text, "\n{rollups}");
    }
    if let Some(letters) = &found.dead_letters {
        let state = match (letters.there, letters.others) {
            (true, _) => "there",
            (_, true) => "not this pipeline's, and left alone",
            (false, false) => "missing",
        };
        let _ = writeln!(text, "\nDead letters: {}, {state}", letters.table);
    }
    if !found.mutations.is_empty() {
        let _ = write!(text, "\n{}", under_way(&found.mutations));
    }
    if !found.plan.is_empty() || found.plan.letters.is_some() {
        let _ = writeln!(
            text,
            "\nNot as asked; `penstock schema plan {pipeline}` says more."
        );
    }
    text
}

/// Changes that ClickHouse has not finished.
pub fn under_way(mutations: &[Mutation]) -> Table {
    let mut table = Table::new(&[
        "UNDER WAY",
        "TABLE",
        "SINCE",
        "PARTS LEFT",
        "CHANGE",
        "FAILS WITH",
    ]);
    for mutation in mutations {
        table.row([
            mutation.id.clone(),
            mutation.table.clone(),
            age_of(i64::from(mutation.since) * 1000),
            mutation.parts_to_do.to_string(),
            cut(&mutation.command, 60),
            cut(&mutation.failure, 100),
        ]);
    }
    table
}
