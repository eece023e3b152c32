//! A ClickHouse server in memory: tables as descriptions, without rows.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use penstock_dataplane_config::table::{Column, EVENT_COLUMNS, EventTable, dedup_window};

use super::super::clickhouse::observe::{mark_of, with_mark, without_mark};
use super::super::clickhouse::plan::{self, ObservedColumn, ObservedTable};
use super::super::clickhouse::rollup::{self, Beside};
use super::super::clickhouse::{ChangesBeside, ClickHouseServer, changes_beside, extra, letters, refused};
use super::super::contract::{Change, ClickHouseSide, OWN_COMMENT, Side};
use super::super::ownership::{self, Claim, Mark, Owner, Verdict};
use super::super::{Answer, Deletion, Ensured, Outcome, ProvisionError, Service, TableAdmin, TableSpec};
use super::{answer, unavailable};

#[derive(Debug)]
struct Table {
    observed: ObservedTable,
    comment: String,
}

#[derive(Debug, Default)]
struct State {
    down: bool,
    /// With their comments.
    databases: BTreeMap<String, String>,
    tables: BTreeMap<(String, String), Table>,
    /// Rollups with their views, and tables of dead letters.
    beside: BTreeMap<(String, String), Beside>,
}

/// A server that answers at one URL.
#[derive(Debug)]
pub struct FakeClickHouse {
    url: String,
    state: Mutex<State>,
}

impl FakeClickHouse {
    pub fn new(url: &str) -> Self {
        Self {
            url: url.into(),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops or starts the server.
    pub fn set_down(&self, down: bool) {
        self.state().down = down;
    }

    /// Tables as `database.table`.
    pub fn tables(&self) -> Vec<String> {
        self.state()
            .tables
            .keys()
            .map(|(database, table)| format!("{database}.{table}"))
            .collect()
    }

    fn up(&self, server: &ClickHouseServer) -> Result<MutexGuard<'_, State>, ProvisionError> {
        let state = self.state();
        if state.down || server.url != self.url {
            return Err(unavailable(Service::ClickHouse, &server.url));
        }
        Ok(state)
    }
}

fn key(spec: &TableSpec) -> (String, String) {
    (spec.database.clone(), spec.table.clone())
}

fn described(column: &Column) -> ObservedColumn {
    let (kind, expression) = match (column.materialized, column.default) {
        (Some(expression), _) => ("MATERIALIZED", expression),
        (None, Some(value)) => ("DEFAULT", value),
        (None, None) => ("", ""),
    };
    ObservedColumn {
        name: column.name.into(),
        kind: column.kind.sql().into(),
        default_kind: kind.into(),
        default_expression: expression.into(),
    }
}

/// The event table as ClickHouse describes it.
fn event_table(spec: &TableSpec) -> ObservedTable {
    let own = spec.columns.iter().map(|column| ObservedColumn {
        name: column.name.clone(),
        kind: extra::kind(column),
        default_kind: "MATERIALIZED".into(),
        default_expression: extra::expression(column),
    });
    ObservedTable {
        engine: "ReplacingMergeTree".into(),
        engine_full: engine_full(dedup_window(spec.partitions)),
        partition_key: EventTable::PARTITION_BY.into(),
        sorting_key: EventTable::ORDER_BY.into(),
        columns: EVENT_COLUMNS.iter().map(described).chain(own).collect(),
        default_window_seconds: 3600,
    }
}

fn engine_full(window: u32) -> String {
    format!(
        "ReplacingMergeTree(received_at) TTL {} SETTINGS non_replicated_deduplication_window = {window}",
        EventTable::TTL
    )
}

impl State {
    fn ensure(&mut self, spec: &TableSpec, claim: &Claim) -> Result<Ensured, ProvisionError> {
        let outcome = self.ensure_events(spec, claim)?;
        let ChangesBeside { mut steps, letters } = changes_beside(spec, &self.beside(spec), claim)?;
        let letters = letters.map(|step| steps.extend(step)).err();
        if steps.is_empty() {
            return Ok(Ensured { outcome, letters });
        }
        for there in self.beside(spec).iter().filter(|there| there.is_view()) {
            self.beside.remove(&(spec.database.clone(), there.name.clone()));
        }
        for asked in &spec.rollups {
            for there in rollup::made(spec, asked, claim) {
                let key = (spec.database.clone(), there.name.clone());
                self.beside.insert(key, there);
            }
        }
        if let Some(letters) = letters::made(spec, claim).filter(|_| letters.is_none()) {
            let key = (spec.database.clone(), letters.name.clone());
            self.beside.insert(key, letters);
        }
        let done = steps.into_iter().map(|step| step.does).collect();
        let outcome = match outcome {
            Outcome::Unchanged => Outcome::Updated(done),
            Outcome::Updated(before) => Outcome::Updated([before, done].concat()),
            other => other,
        };
        Ok(Ensured { outcome, letters })
    }

    fn beside(&self, spec: &TableSpec) -> Vec<Beside> {
        let here = |(database, table): &(String, String)| {
            *database == spec.database && table.starts_with(&format!("{}_", spec.table))
        };
        let tables = self.tables.iter().filter(|(name, _)| here(name));
        let tables = tables.map(|((_, name), table)| Beside {
            name: name.clone(),
            engine: table.observed.engine.clone(),
            engine_full: table.observed.engine_full.clone(),
            comment: table.comment.clone(),
            columns: table
                .observed
                .columns
                .iter()
                .map(|column| (column.name.clone(), column.kind.clone()))
                .collect(),
        });
        let made = self.beside.iter().filter(|(name, _)| here(name));
        tables.chain(made.map(|(_, there)| there.clone())).collect()
    }

    fn ensure_events(&mut self, spec: &TableSpec, claim: &Claim) -> Result<Outcome, ProvisionError> {
        let created = Mark::created_for(&claim.owner);
        self.databases
            .entry(spec.database.clone())
            .or_insert_with(|| created.comment());
        let mark = self
            .tables
            .get(&key(spec))
            .and_then(|table| mark_of(&table.comment));
        let exists = self.tables.contains_key(&key(spec));
        let verdict = ownership::decide(exists, mark.as_ref(), claim)
            .map_err(|why| ProvisionError::refused(format!("table {}.{}", spec.database, spec.table), why))?;
        let Some(table) = self.tables.get_mut(&key(spec)) else {
            let table = Table {
                observed: event_table(spec),
                comment: created.comment(),
            };
            self.tables.insert(key(spec), table);
            return Ok(Outcome::Created);
        };
        let ours = mark.is_some_and(|mark| mark.owner == claim.owner && mark.created);
        let steps = plan::changes(spec, &table.observed, ours).or_else(|refusal| refused(spec, refusal))?;
        if !steps.is_empty() {
            table.observed = event_table(spec);
        }
        if verdict == Verdict::Adopt {
            let mark = Mark {
                owner: claim.owner.clone(),
                created: false,
            };
            table.comment = with_mark(&mark, &table.comment);
            return Ok(Outcome::Adopted);
        }
        Ok(match steps.is_empty() {
            true => Outcome::Unchanged,
            false => Outcome::Updated(steps.into_iter().map(|step| step.does).collect()),
        })
    }

    fn delete(&mut self, spec: &TableSpec, owner: &Owner) -> Deletion {
        for name in rollup::owned(spec, &self.beside(spec), owner) {
            self.beside.remove(&(spec.database.clone(), name));
        }
        let deletion = match self.tables.get_mut(&key(spec)) {
            None => Deletion::Absent,
            Some(table) => match mark_of(&table.comment) {
                Some(mark) if mark.owner == *owner && mark.created => {
                    self.tables.remove(&key(spec));
                    Deletion::Deleted
                }
                Some(mark) if mark.owner == *owner => {
                    table.comment = without_mark(&table.comment).to_owned();
                    Deletion::Kept
                }
                _ => Deletion::Kept,
            },
        };
        let mut left = self.tables.keys().chain(self.beside.keys());
        let empty = !left.any(|(database, _)| *database == spec.database);
        let ours = self
            .databases
            .get(&spec.database)
            .and_then(|comment| mark_of(comment))
            .is_some_and(|mark| mark.owner == *owner && mark.created);
        if deletion != Deletion::Kept && empty && ours {
            self.databases.remove(&spec.database);
        }
        deletion
    }
}

impl TableAdmin for FakeClickHouse {
    fn ensure_table<'a>(
        &'a self,
        server: &'a ClickHouseServer,
        spec: &'a TableSpec,
        claim: &'a Claim,
    ) -> Answer<'a, Ensured> {
        answer(self.up(server).and_then(|mut state| state.ensure(spec, claim)))
    }

    fn delete_table<'a>(
        &'a self,
        server: &'a ClickHouseServer,
        spec: &'a TableSpec,
        owner: &'a Owner,
    ) -> Answer<'a, Deletion> {
        answer(self.up(server).map(|mut state| state.delete(spec, owner)))
    }

    fn ping<'a>(&'a self, server: &'a ClickHouseServer) -> Answer<'a, ()> {
        answer(self.up(server).map(|_| ()))
    }
}

impl ClickHouseSide for FakeClickHouse {
    fn create_table<'a>(&'a self, spec: &'a TableSpec, change: Change) -> Side<'a, ()> {
        let mut observed = event_table(spec);
        match change {
            Change::Nothing => {}
            Change::ColumnType => {
                for column in observed
                    .columns
                    .iter_mut()
                    .filter(|column| column.name == "user_id")
                {
                    column.kind = "UInt64".into();
                }
            }
            Change::OrderBy => observed.sorting_key = "event_id".into(),
            Change::Engine => observed.engine = "MergeTree".into(),
            Change::Window => observed.engine_full = engine_full(10),
        }
        let mut state = self.state();
        state.databases.entry(spec.database.clone()).or_default();
        state.tables.insert(
            key(spec),
            Table {
                observed,
                comment: OWN_COMMENT.into(),
            },
        );
        Box::pin(std::future::ready(()))
    }

    fn drop_column<'a>(&'a self, spec: &'a TableSpec, column: &'a str) -> Side<'a, ()> {
        if let Some(table) = self.state().tables.get_mut(&key(spec)) {
            table.observed.columns.retain(|there| there.name != column);
        }
        Box::pin(std::future::ready(()))
    }

    fn drop_table<'a>(&'a self, spec: &'a TableSpec) -> Side<'a, ()> {
        self.state().tables.remove(&key(spec));
        Box::pin(std::future::ready(()))
    }

    fn comment<'a>(&'a self, spec: &'a TableSpec) -> Side<'a, Option<String>> {
        let comment = self
            .state()
            .tables
            .get(&key(spec))
            .map(|table| table.comment.clone());
        Box::pin(std::future::ready(comment))
    }

    fn has_column<'a>(&'a self, spec: &'a TableSpec, column: &'a str) -> Side<'a, bool> {
        let state = self.state();
        let has = state
            .tables
            .get(&key(spec))
            .is_some_and(|t| t.observed.columns.iter().any(|c| c.name == column));
        Box::pin(std::future::ready(has))
    }

    fn has_table<'a>(&'a self, database: &'a str, table: &'a str) -> Side<'a, bool> {
        let (state, key) = (self.state(), (database.to_owned(), table.to_owned()));
        let has = state.tables.contains_key(&key) || state.beside.contains_key(&key);
        Box::pin(std::future::ready(has))
    }

    fn has_database<'a>(&'a self, database: &'a str) -> Side<'a, bool> {
        Box::pin(std::future::ready(self.state().databases.contains_key(database)))
    }

    fn remembered_blocks<'a>(&'a self, spec: &'a TableSpec) -> Side<'a, u64> {
        let state = self.state();
        let window = state
            .tables
            .get(&key(spec))
            .and_then(|table| plan::window_of(&table.observed.engine_full));
        Box::pin(std::future::ready(window.unwrap_or(0)))
    }
}
