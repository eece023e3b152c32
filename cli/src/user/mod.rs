//! `penstock user`: what is stored of one user, in the tables of all pipelines of a namespace or of some.

pub mod erase;
pub mod export;

use std::collections::BTreeSet;

use clap::{Args, Subcommand};
use penstock_dataplane_config::table::quote_literal;

use crate::cluster::{Cluster, Where};
use crate::exit::{End, Failure, Result};
use crate::output::note;
use crate::stored::{Reach, Stored};

#[derive(Clone, Debug, Subcommand)]
pub enum User {
    /// Every event and dead letter of a user, one JSON object a line
    #[command(
        after_help = "Examples:\n  penstock user export u-42 -n growth > u-42.ndjson\n  penstock user export u-42 --app shop --pipeline events"
    )]
    Export(export::Export),
    /// Delete every event and dead letter of a user, and say so when none is left
    #[command(
        after_help = "Examples:\n  penstock user erase u-42 -n growth --dry-run\n  penstock user erase u-42 -n growth --yes -o json"
    )]
    Erase(erase::Erase),
}

/// Whose events, and where.
#[derive(Clone, Debug, Args)]
pub struct Of {
    /// The `user_id` of the events
    pub user: String,
    /// Only events of this App
    #[arg(long, value_name = "NAME")]
    pub app: Option<String>,
    /// Only in the tables of these pipelines; default: of all in the namespace
    #[arg(long, value_name = "NAME")]
    pub pipeline: Vec<String>,
    #[command(flatten)]
    pub reach: Reach,
}

/// Where the user's rows are.
#[derive(Debug)]
pub struct Place {
    pub stored: Stored,
    /// The event table, and the table of dead letters where there is one.
    pub tables: Vec<Rows>,
    /// See [`penstock_provision::clickhouse::inspect::Inspection::mutations_sync`].
    pub sync: u8,
}

/// The user's rows of one table.
#[derive(Debug)]
pub struct Rows {
    /// Its name, in the pipeline's database.
    pub table: String,
    /// A condition that holds for the user's rows and for no others.
    pub which: String,
    pub order: &'static str,
}

impl Place {
    /// `database.table`.
    pub fn name_of(&self, rows: &Rows) -> String {
        format!("{}.{}", self.stored.spec.database, rows.table)
    }
}

impl Of {
    /// The tables of the pipelines, each once, for each is one pipeline's only.
    async fn find(&self, cluster: &Cluster) -> Result<Vec<Place>> {
        if self.user.is_empty() {
            return Err(Failure::Usage(
                "the user has no id: events without one cannot be told apart".into(),
            ));
        }
        let app = match &self.app {
            Some(name) => Some(cluster.app_id(name).await?),
            None => None,
        };
        let mut all = Vec::new();
        if self.pipeline.is_empty() {
            for pipeline in cluster.pipelines(false).await? {
                match pipeline.0 {
                    Ok(pipeline) => all.push(Stored::of(cluster, pipeline, &self.reach).await?),
                    Err(invalid) => {
                        // What is left out of an answer about all must be said aloud.
                        return Err(Failure::Failed(format!(
                            "this version of penstock cannot read the pipeline {}: {}; name the others with --pipeline",
                            invalid.metadata.name.unwrap_or_default(),
                            invalid.error
                        )));
                    }
                }
            }
        } else {
            for name in self.pipeline.iter().collect::<BTreeSet<_>>() {
                all.push(Stored::find(cluster, name, &self.reach).await?);
            }
        }
        let mut places = Vec::new();
        for stored in all {
            match stored.inspect_own().await? {
                Some(found) => {
                    let events = Rows {
                        table: stored.spec.table.clone(),
                        which: which(&self.user, app.as_deref()),
                        order: "event_timestamp, event_id",
                    };
                    let letters = found.dead_letters.iter().filter(|letters| letters.there);
                    let letters = letters.map(|letters| Rows {
                        table: letters.table.clone(),
                        which: which_letters(&self.user, app.as_deref()),
                        order: "failed_at, dlq_partition, dlq_offset",
                    });
                    places.push(Place {
                        sync: found.mutations_sync(),
                        tables: std::iter::once(events).chain(letters).collect(),
                        stored,
                    });
                }
                None => note(&format!("The pipeline {} has no table yet.", stored.name())),
            }
        }
        match places.is_empty() {
            true => Err(Failure::NotFound(format!(
                "no pipeline of the namespace {} has a table",
                cluster.namespace
            ))),
            false => Ok(places),
        }
    }
}

/// The hash stands in the sort key.
fn which(user: &str, app: Option<&str>) -> String {
    let user = quote_literal(user);
    let mut text = format!("user_hash = cityHash64({user}) AND user_id = {user}");
    if let Some(app) = app {
        text.push_str(&format!(" AND app_id = {}", quote_literal(app)));
    }
    text
}

/// Of a dead letter there are the bytes alone, which need not be JSON: it is the user's when they name the user where an
/// event or a line does.
fn which_letters(user: &str, app: Option<&str>) -> String {
    // What is no JSON as a whole is looked through for the member; a number is what a Segment event may have.
    let named = "[JSONExtractString(value, 'user_id'), JSONExtractString(value, 'userId'), JSONExtractRaw(value, 'userId'), \
                 simpleJSONExtractString(value, 'user_id'), simpleJSONExtractString(value, 'userId')]";
    let mut text = format!("has({named}, {})", quote_literal(user));
    if let Some(app) = app {
        let app = quote_literal(app);
        // Of a line that is no JSON consume does not know the App.
        text.push_str(&format!(
            " AND (app_id = {app} OR simpleJSONExtractString(value, 'app_id') = {app})"
        ));
    }
    text
}

pub async fn run(place: &Where, command: &User) -> Result<End> {
    let cluster = Cluster::connect(place).await?;
    match command {
        User::Export(export) => export::run(export.of.find(&cluster).await?).await,
        User::Erase(erase) => erase::run(&cluster, erase.of.find(&cluster).await?, erase).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_named_exactly_whatever_the_id() {
        assert_eq!(
            which("o'neil\\", Some("a-b")),
            r"user_hash = cityHash64('o\'neil\\') AND user_id = 'o\'neil\\' AND app_id = 'a-b'"
        );
        assert_eq!(which("u", None), "user_hash = cityHash64('u') AND user_id = 'u'");
        let letters = which_letters("o'neil\\", Some("a-b"));
        assert!(
            letters.starts_with("has([JSONExtractString(value, 'user_id'), ")
                && letters.ends_with(
                    r"], 'o\'neil\\') AND (app_id = 'a-b' OR simpleJSONExtractString(value, 'app_id') = 'a-b')"
                ),
            "{letters}"
        );
    }
}
