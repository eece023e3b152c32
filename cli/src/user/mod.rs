//! `penstock user`: what is stored of one user, in the tables of all pipelines of a namespace or of some.

pub mod erase;
pub mod export;

use std::collections::BTreeSet;

use clap::{Args, Subcommand};
use penstock_crds::IngestionPipeline;
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
    /// `database.table`: called like the pipeline's table of dead letters, and not the pipeline's.
    pub left_alone: Option<String>,
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

/// A pipeline whose tables could not be done.
#[derive(Debug)]
pub struct Undone {
    pub pipeline: String,
    pub failure: Failure,
}

/// What was found of all that was asked about.
#[derive(Debug)]
pub struct Found {
    /// At least one.
    pub places: Vec<Place>,
    pub undone: Vec<Undone>,
}

impl Found {
    /// All, or why not.
    fn whole(self) -> Result<Vec<Place>> {
        match self.undone.into_iter().next() {
            Some(undone) => Err(undone.failure),
            None => Ok(self.places),
        }
    }
}

impl Of {
    /// The tables of the pipelines, each once, for each is one pipeline's only.
    async fn find(&self, cluster: &Cluster) -> Result<Found> {
        if self.user.is_empty() {
            return Err(Failure::Usage(
                "the user has no id: events without one cannot be told apart".into(),
            ));
        }
        let app = match &self.app {
            Some(name) => Some(cluster.app_id(name).await?),
            None => None,
        };
        let mut asked = Vec::new();
        if self.pipeline.is_empty() {
            for pipeline in cluster.pipelines(false).await? {
                // What is left out of an answer about all must be said aloud.
                asked.push(pipeline.0.map_err(|invalid| {
                    let name = invalid.metadata.name.unwrap_or_default();
                    let why = format!(
                        "this version of penstock cannot read the pipeline {name}: {}",
                        invalid.error
                    );
                    Undone {
                        pipeline: name,
                        failure: Failure::Failed(why),
                    }
                }));
            }
        } else {
            for name in self.pipeline.iter().collect::<BTreeSet<_>>() {
                asked.push(Ok(cluster.readable_pipeline(name).await?));
            }
        }
        let (mut places, mut undone) = (Vec::new(), Vec::new());
        for asked in asked {
            let found = match asked {
                Ok(pipeline) => self.look(cluster, pipeline, app.as_deref()).await,
                Err(unreadable) => Err(unreadable),
            };
            match found {
                Ok(place) => places.extend(place),
                Err(one) => undone.push(one),
            }
        }
        match (places.is_empty(), undone.is_empty()) {
            (false, _) => Ok(Found { places, undone }),
            (true, false) => Err(undone.remove(0).failure),
            (true, true) => Err(Failure::NotFound(format!(
                "no pipeline of the namespace {} has a table",
                cluster.namespace
            ))),
        }
    }

    /// The pipeline's tables, if there are any yet.
    async fn look(
        &self,
        cluster: &Cluster,
        pipeline: IngestionPipeline,
        app: Option<&str>,
    ) -> std::result::Result<Option<Place>, Undone> {
        let name = pipeline.metadata.name.clone().unwrap_or_default();
        let failed = |failure| Undone {
            pipeline: name.clone(),
            failure,
        };
        let stored = Stored::of(cluster, pipeline, &self.reach).await.map_err(failed)?;
        let Some(found) = stored.inspect_own().await.map_err(failed)? else {
            note(&format!("The pipeline {name} has no table yet."));
            return Ok(None);
        };
        let events = Rows {
            table: stored.spec.table.clone(),
            which: which(&self.user, app),
            order: "event_timestamp, event_id",
        };
        let mut left_alone = None;
        if let Some(letters) = found.dead_letters.iter().find(|letters| !letters.there) {
            let said = format!("{}.{}", stored.spec.database, letters.table);
            // ClickHouse shows only what the user may read: "nothing is left" must not mean "nothing was seen".
            if !letters.others {
                return Err(failed(unseen(&said, &stored.table())));
            }
            if writes_letters(cluster, &name).await.map_err(failed)? {
                return Err(failed(Failure::Failed(format!(
                    "the table {said} is not marked as this pipeline's, and consumers are told to write dead letters to it: \
                     wait until the operator has seen that, or say clickhouse.deadLetterTable: None"
                ))));
            }
            left_alone = Some(said);
        }
        let letters = found.dead_letters.iter().filter(|letters| letters.there);
        let letters = letters.map(|letters| Rows {
            table: letters.table.clone(),
            which: which_letters(&self.user, app),
            order: "failed_at, dlq_partition, dlq_offset",
        });
        Ok(Some(Place {
            sync: found.mutations_sync(),
            tables: std::iter::once(events).chain(letters).collect(),
            left_alone,
            stored,
        }))
    }
}

/// That no table of dead letters is to be seen.
fn unseen(letters: &str, events: &str) -> Failure {
    Failure::NotFound(format!(
        "the table of dead letters {letters} is not there yet, or not shown to this user of ClickHouse, who needs the same \
         rights on it as on {events}; a pipeline that is to have none says clickhouse.deadLetterTable: None"
    ))
}

/// Whether consumers are told to write to the table of dead letters, whatever its mark says.
async fn writes_letters(cluster: &Cluster, pipeline: &str) -> Result<bool> {
    match cluster.consumer(pipeline).await {
        Ok(consumer) => Ok(consumer.dead_letter_table.is_some()),
        // There are none yet.
        Err(Failure::NotFound(_)) => Ok(false),
        Err(failure) => Err(failure),
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
/// event or a line does. They may be the rest of a record, which has lines of several users and Apps: both are asked of the
/// same line.
fn which_letters(user: &str, app: Option<&str>) -> String {
    let number = serde_json::from_str::<serde_json::Number>(user).is_ok();
    let mut named = Vec::new();
    for member in ["'user_id'", "'userId'"] {
        // As a string ClickHouse gives `true` and objects, too, which name nobody.
        named.push(format!(
            "if(JSONType(text, {member}) = 'String', JSONExtractString(text, {member}), '')"
        ));
        // What is no JSON as a whole is looked through for the member.
        named.push(format!("simpleJSONExtractString(text, {member})"));
        // A number is what a Segment event may have.
        if number {
            named.push(format!("JSONExtractRaw(text, {member})"));
        }
    }
    let mut is_theirs = format!("has([{}], {})", named.join(", "), quote_literal(user));
    if let Some(app) = app {
        let app = quote_literal(app);
        // Of a line that is no JSON consume does not know the App.
        is_theirs.push_str(&format!(
            " AND (app_id = {app} OR simpleJSONExtractString(text, 'app_id') = {app})"
        ));
    }
    // What a client sent may have line breaks within an event: it is JSON as a whole then, which several lines are not.
    format!(
        "arrayExists(text -> {is_theirs}, \
         arrayPushFront(splitByChar('\\n', value), if(isValidJSON(value), value, '')))"
    )
}

pub async fn run(place: &Where, command: &User) -> Result<End> {
    let cluster = Cluster::connect(place).await?;
    match command {
        User::Export(export) => export::run(export.of.find(&cluster).await?.whole()?).await,
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
            letters.starts_with("arrayExists(text -> has([if(JSONType(text, 'user_id') = 'String', ")
                && letters.contains(
                    r"], 'o\'neil\\') AND (app_id = 'a-b' OR simpleJSONExtractString(text, 'app_id') = 'a-b'), "
                )
                && letters.ends_with(
                    r", arrayPushFront(splitByChar('\n', value), if(isValidJSON(value), value, '')))"
                ),
            "{letters}"
        );
    }

    #[test]
    fn user_and_app_of_a_letter_are_those_of_one_line() {
        let letters = which_letters("u", Some("a"));
        let (condition, lines) = letters
            .strip_prefix("arrayExists(text -> ")
            .and_then(|rest| rest.split_once(", arrayPushFront("))
            .unwrap();
        // Several lines together are no JSON: none of them is asked with another.
        assert_eq!(condition.matches("value").count(), 0, "{letters}");
        assert_eq!(
            lines,
            r"splitByChar('\n', value), if(isValidJSON(value), value, '')))"
        );
        for asked in [
            "simpleJSONExtractString(text, 'user_id')",
            "simpleJSONExtractString(text, 'app_id') = 'a'",
        ] {
            assert!(condition.contains(asked), "{letters}");
        }
    }

    #[test]
    fn a_table_that_is_not_seen_is_not_nothing() {
        let failure = unseen("g.events_dead_letters", "g.events");
        assert_eq!(failure.code(), 3);
        let said = failure.to_string();
        assert!(
            said.contains("g.events_dead_letters is not there yet")
                && said.contains("as on g.events;")
                && said.ends_with("clickhouse.deadLetterTable: None"),
            "{said}"
        );
    }

    #[test]
    fn of_json_only_strings_and_numbers_name_a_user() {
        for (user, raw) in [
            ("42", true),
            ("-1.5e3", true),
            ("null", false),
            ("true", false),
            ("false", false),
            ("{}", false),
            ("[]", false),
            ("\"u\"", false),
            ("u-42", false),
        ] {
            let letters = which_letters(user, None);
            assert_eq!(letters.contains("JSONExtractRaw(text, 'userId')"), raw, "{user}");
            let strings = letters.matches("JSONExtractString(text, 'userId')").count();
            let checked = "if(JSONType(text, 'userId') = 'String', JSONExtractString(text, 'userId'), '')";
            assert!(letters.contains(checked), "{letters}");
            // Alone, and in what reads a part of it.
            assert_eq!(strings, 2, "{letters}");
        }
    }
}
