//! What to do to a table: a pure comparison of the event table that is asked for with the table that is there.
//!
//! ```text
//! column missing                         added, online; where another column is different, with that
//! column different                       refused, with the statement; done when a person has named its fingerprint
//! key or engine different                refused, with the statement that a person would run
//! too few remembered blocks              ours: raised; adopted: refused, with the statement
//! more columns than asked for            none of our business
//! ```

use std::fmt::Write as _;

use penstock_dataplane_config::table::{
    EVENT_COLUMNS, EventTable, REPLICATED_WINDOW_SECONDS, column_definition, dedup_window, quote_identifier,
};

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::super::{APPLY_SCHEMA, TableSpec};
use super::extra;
use super::inspect::ColumnState;

/// A column as `system.columns` describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ObservedColumn {
    pub name: String,
    pub kind: String,
    /// Empty, `DEFAULT`, `MATERIALIZED`, `ALIAS` or `EPHEMERAL`.
    pub default_kind: String,
    pub default_expression: String,
}

impl ObservedColumn {
    /// Its type, and how it is filled where not by INSERTs.
    fn describe(&self) -> String {
        match self.default_kind.as_str() {
            "" => self.kind.clone(),
            kind => format!("{} {kind} {}", self.kind, self.default_expression),
        }
    }
}

/// A table as `system.tables` describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ObservedTable {
    pub engine: String,
    pub engine_full: String,
    pub partition_key: String,
    pub sorting_key: String,
    pub columns: Vec<ObservedColumn>,
    /// How long a replicated table remembers where it does not say.
    pub default_window_seconds: u64,
}

/// Why a table cannot be used as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Sharded(String),
    Schema(String),
    /// What would rewrite stored rows, and is done once a person says so.
    Rewrite(Rewrite),
    Window(String),
}

/// Statements that rewrite stored rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rewrite {
    name: String,
    /// What is wrong, each with the statement that mends it.
    wrong: Vec<(String, String)>,
    /// What rewrites nothing, and is done with it.
    pub(crate) online: Vec<Step>,
}

impl Rewrite {
    /// Names these statements and no others.
    pub(crate) fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for (_, statement) in &self.wrong {
            hash.update(statement.as_bytes());
            hash.update(b"\n");
        }
        let digest = hash.finalize();
        digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }

    /// What would be run.
    pub(crate) fn statements(&self) -> Vec<String> {
        self.wrong
            .iter()
            .map(|(_, statement)| statement.clone())
            .collect()
    }

    /// Those, and before them whatever else makes the table as asked: who has agreed waits for no other look. The other way
    /// round a replica would have each wait until stored rows are rewritten.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let step = |(is, statement): &(String, String)| Step {
            // The server goes on with it by itself; it is not waited for.
            statement: format!("{statement} SETTINGS alter_sync = 0"),
            does: format!("{is}: changed, as the annotation said"),
        };
        let rewrites = self.wrong.iter().map(step);
        self.online.iter().cloned().chain(rewrites).collect()
    }
}

impl std::fmt::Display for Rewrite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let wrong: Vec<String> = self
            .wrong
            .iter()
            .map(|(is, mend)| format!("{is}; {mend}"))
            .collect();
        write!(
            f,
            "{} differs in a way that rewrites what is stored, so a person must decide: {}. To have that done, set the \
             annotation {APPLY_SCHEMA} of the pipeline to {}",
            self.name,
            wrong.join("; "),
            self.fingerprint()
        )
    }
}

/// A statement that changes the table online, and what it does, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    pub statement: String,
    pub does: String,
}

/// Compares. `ours`: Penstock made the table, so its settings are ours to change.
pub(crate) fn changes(spec: &TableSpec, table: &ObservedTable, ours: bool) -> Result<Vec<Step>, Refusal> {
    let name = spec.quoted(&spec.table);
    layout_fits(spec, &name, table)?;
    let (mut online, wrong) = columns(spec, table);
    online.extend(window(spec, &name, table, ours)?);
    online.extend(ttl(spec, table, ours));
    if wrong.is_empty() {
        return Ok(online);
    }
    Err(Refusal::Rewrite(Rewrite { name, wrong, online }))
}

/// Engine, partitions and sort key: what no statement changes.
fn layout_fits(spec: &TableSpec, name: &str, table: &ObservedTable) -> Result<(), Refusal> {
    if table.engine == "Distributed" {
        return Err(Refusal::Sharded(format!(
            "{name} is a Distributed table, and a pipeline writes to one server: name the local table at the address \
             of one server"
        )));
    }
    let (engine, full) = (&table.engine, &table.engine_full);
    let mut differences = Vec::new();
    if !matches!(
        engine.as_str(),
        "ReplacingMergeTree" | "ReplicatedReplacingMergeTree" | "SharedReplacingMergeTree"
    ) {
        differences.push(format!("its engine is {engine} and not ReplacingMergeTree"));
    } else if !version_is_received_at(full) {
        differences.push(format!("its engine is not versioned by {}", EventTable::VERSION));
    }
    if let Some(cluster) = &spec.cluster
        && engine == "ReplacingMergeTree"
    {
        differences.push(format!(
            "its engine is not Replicated, so the other servers of {cluster} would not have its rows"
        ));
    }
    for (what, there, asked) in [
        ("ORDER BY", &table.sorting_key, EventTable::ORDER_BY),
        ("PARTITION BY", &table.partition_key, EventTable::PARTITION_BY),
    ] {
        if plain(there) != plain(asked) {
            let there = if there.is_empty() { "nothing" } else { there };
            differences.push(format!("its {what} is {there} and not {asked}"));
        }
    }
    if differences.is_empty() {
        return Ok(());
    }
    Err(Refusal::Schema(format!(
        "{name} cannot hold events: {}. No statement changes that in place; to let a new table be made, move this one \
         aside: RENAME TABLE {name} TO {}{}",
        differences.join("; "),
        spec.quoted(&format!("{}_before_penstock", spec.table)),
        spec.on_cluster(),
    )))
}

/// `ReplacingMergeTree(received_at)`, or with the paths of a Replicated table before the version.
fn version_is_received_at(engine_full: &str) -> bool {
    let arguments = engine_full.split_once('(').map_or("", |(_, rest)| rest);
    let arguments = arguments.split(") ").next().unwrap_or("").trim_end_matches(')');
    arguments
        .split(',')
        .any(|argument| plain(argument) == EventTable::VERSION)
}

/// A column as it shall be.
struct Asked {
    name: String,
    kind: String,
    materialized: Option<String>,
    definition: String,
}

fn asked(spec: &TableSpec) -> impl Iterator<Item = Asked> {
    let every = EVENT_COLUMNS.iter().map(|column| Asked {
        name: column.name.into(),
        kind: column.kind.sql().into(),
        materialized: column.materialized.map(Into::into),
        definition: column_definition(column),
    });
    let own = spec.columns.iter().map(|column| {
        let (kind, expression) = (extra::kind(column), extra::expression(column));
        Asked {
            definition: format!(
                "{} {kind} MATERIALIZED {expression}",
                quote_identifier(&column.name)
            ),
            name: column.name.clone(),
            kind,
            materialized: Some(expression),
        }
    });
    every.chain(own)
}

/// How a column that is there compares with what is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Fit {
    AsAsked,
    Missing,
    Different,
    /// Nobody asked for it; it is left alone.
    Extra,
}

fn fit(asked: &Asked, there: Option<&ObservedColumn>) -> Fit {
    let Some(there) = there else { return Fit::Missing };
    let same_kind = plain(&there.kind) == plain(&asked.kind);
    let same_expression = match &asked.materialized {
        // An ordinary column without a default that we do not fill is fine: ClickHouse fills it with its zero.
        None => matches!(there.default_kind.as_str(), "" | "DEFAULT"),
        Some(expression) => {
            there.default_kind == "MATERIALIZED" && plain(&there.default_expression) == plain(expression)
        }
    };
    match same_kind && same_expression {
        true => Fit::AsAsked,
        false => Fit::Different,
    }
}

/// Every column that is asked for or is there: first those that are asked for, in their order.
pub(crate) fn fits(spec: &TableSpec, there: &[ObservedColumn]) -> Vec<ColumnState> {
    let every: Vec<Asked> = asked(spec).collect();
    let extra = there
        .iter()
        .filter(|column| every.iter().all(|asked| asked.name != column.name));
    let extra = extra.map(|column| ColumnState {
        name: column.name.clone(),
        fit: Fit::Extra,
        is: Some(column.describe()),
        asked: None,
    });
    let states = every.iter().map(|asked| {
        let found = there.iter().find(|column| column.name == asked.name);
        let mut describes = asked.kind.clone();
        if let Some(expression) = &asked.materialized {
            let _ = write!(describes, " MATERIALIZED {expression}");
        }
        ColumnState {
            name: asked.name.clone(),
            fit: fit(asked, found),
            is: found.map(ObservedColumn::describe),
            asked: Some(describes),
        }
    });
    states.chain(extra).collect()
}

/// What adds those that are missing; and those that differ, each with the statement that mends it.
fn columns(spec: &TableSpec, table: &ObservedTable) -> (Vec<Step>, Vec<(String, String)>) {
    let alter = spec.alter();
    let mut steps = Vec::new();
    let mut wrong = Vec::new();
    for asked in asked(spec) {
        let there = table.columns.iter().find(|column| column.name == asked.name);
        match (fit(&asked, there), there) {
            (Fit::Different, Some(there)) => wrong.push((
                format!("column {} is {}", asked.name, there.describe()),
                format!("{alter} MODIFY COLUMN {}", asked.definition),
            )),
            (Fit::Missing, _) => steps.push(add(spec, &asked)),
            _ => {}
        }
    }
    (steps, wrong)
}

/// Without remembered blocks a repeated INSERT is stored twice.
fn window(spec: &TableSpec, name: &str, table: &ObservedTable, ours: bool) -> Result<Option<Step>, Refusal> {
    let needed = u64::from(dedup_window(spec.partitions));
    let replicated = is_replicated(&table.engine);
    let setting = if replicated {
        "replicated_deduplication_window"
    } else {
        "non_replicated_deduplication_window"
    };
    // Consumers go by what the table says, too: what nobody wrote down may change with the server.
    let remembered = setting_in(&table.engine_full, setting).unwrap_or(0);
    let mut wanted = Vec::new();
    let mut short = Vec::new();
    if remembered < needed {
        wanted.push(format!("{setting} = {needed}"));
        short.push(format!("{remembered} blocks and {needed} are needed"));
    }
    if replicated {
        let setting = "replicated_deduplication_window_seconds";
        let seconds = setting_in(&table.engine_full, setting).unwrap_or(table.default_window_seconds);
        if seconds < REPLICATED_WINDOW_SECONDS {
            wanted.push(format!("{setting} = {REPLICATED_WINDOW_SECONDS}"));
            short.push(format!(
                "{seconds} s and {REPLICATED_WINDOW_SECONDS} s are needed"
            ));
        }
    }
    if wanted.is_empty() {
        return Ok(None);
    }
    let statement = format!("{} MODIFY SETTING {}", spec.alter(), wanted.join(", "));
    if ours {
        return Ok(Some(Step {
            statement,
            does: wanted.join(", "),
        }));
    }
    Err(Refusal::Window(format!(
        "{name} remembers {}, so an INSERT that is sent again could be stored twice; run: {statement}",
        short.join(" and ")
    )))
}

/// Rows go when their day has come, unless somebody has decided otherwise: a table that is adopted keeps its own rules,
/// and so does one whose TTL a person has changed.
fn ttl(spec: &TableSpec, table: &ObservedTable, ours: bool) -> Option<Step> {
    (ours && ttl_in(&table.engine_full).is_none()).then(|| Step {
        // Rows that are there need not be looked through: they are kept for good.
        statement: format!(
            "{} MODIFY TTL {} SETTINGS materialize_ttl_after_modify = 0",
            spec.alter(),
            EventTable::TTL
        ),
        does: format!("TTL {}", EventTable::TTL),
    })
}

/// Whether other servers copy its rows.
pub(crate) fn is_replicated(engine: &str) -> bool {
    engine.starts_with("Replicated") || engine.starts_with("Shared")
}

/// What stands behind TTL in a table's definition.
pub(crate) fn ttl_in(engine_full: &str) -> Option<&str> {
    let (_, rest) = engine_full.split_once(" TTL ")?;
    Some(rest.split(" SETTINGS ").next().unwrap_or(rest))
}

/// What adds the columns of the team's own to a table that has just been made.
pub(crate) fn own_columns(spec: &TableSpec) -> impl Iterator<Item = Step> {
    asked(spec)
        .skip(EVENT_COLUMNS.len())
        .map(|asked| add(spec, &asked))
}

fn add(spec: &TableSpec, asked: &Asked) -> Step {
    Step {
        statement: format!("{} ADD COLUMN IF NOT EXISTS {}", spec.alter(), asked.definition),
        does: format!("column {} added", asked.name),
    }
}

/// How many blocks the definition says that the table remembers.
#[cfg(any(test, feature = "test-support"))]
pub(crate) fn window_of(engine_full: &str) -> Option<u64> {
    setting_in(engine_full, "non_replicated_deduplication_window")
}

/// A number from the SETTINGS of a table's definition.
fn setting_in(engine_full: &str, name: &str) -> Option<u64> {
    let (_, settings) = engine_full.rsplit_once("SETTINGS ")?;
    settings.split(',').find_map(|setting| {
        let (key, value) = setting.split_once('=')?;
        (key.trim() == name).then(|| value.trim().trim_matches('\'').parse().ok())?
    })
}

/// Spelling apart, two expressions are the same: spaces, and brackets around the whole.
fn plain(expression: &str) -> String {
    let text: String = expression
        .chars()
        .filter(|c| !c.is_whitespace() && *c != '`')
        .collect();
    match text.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')) {
        Some(inner) if balanced(inner) => inner.to_owned(),
        _ => text,
    }
}

fn balanced(text: &str) -> bool {
    let mut depth = 0i32;
    for c in text.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth < 0 {
            return false;
        }
    }
    depth == 0
}

#[cfg(test)]
#[path = "plan_tests.rs"]
pub(super) mod tests;
