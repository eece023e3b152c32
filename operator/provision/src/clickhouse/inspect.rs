//! A pipeline's tables as they are, and what the operator would do to them. Looks, and changes nothing.

use clickhouse::Row;
use penstock_dataplane_config::table::{quote_identifier, quote_literal};
use serde::{Deserialize, Serialize};

use super::super::TableSpec;
use super::super::error::ProvisionError;
use super::super::ownership::{Claim, Mark, Owner, Verdict};
use super::letters;
use super::observe::{self, Table};
use super::plan::{self, Refusal};
pub use super::plan::{Fit, Step};
use super::rollup::{self, Beside};
use super::{
    ChangesBeside, Server, adopted, changes_beside, create_database, create_event_table, fits_in, is_ours,
    judge, refused, set_comment,
};

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Inspection {
    /// `database.table`.
    pub table: String,
    /// Absent: there is no table yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored: Option<Stored>,
    pub columns: Vec<ColumnState>,
    pub rollups: Vec<RollupState>,
    /// Absent: there is none, and none is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letters: Option<LetterTableState>,
    pub plan: Plan,
    pub mutations: Vec<Mutation>,
}

/// The event table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stored {
    pub engine: String,
    /// Whose it is, `cluster/namespace/pipeline`, by its comment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Penstock made it; else it was there before.
    pub made: bool,
    pub rows: u64,
    /// On disk.
    pub bytes: u64,
    pub parts: u64,
    /// When rows go, as the definition says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
}

/// A column that is asked for, or is there, or both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ColumnState {
    pub name: String,
    pub fit: Fit,
    /// Its type, and its expression where ClickHouse computes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<String>,
}

/// A rollup that is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RollupState {
    pub name: String,
    pub table: String,
    pub there: bool,
    /// Its view counts what arrives.
    pub filled: bool,
}

/// The table of dead letters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LetterTableState {
    pub table: String,
    /// It is there, and the pipeline's.
    pub there: bool,
    /// A table of that name is there, and is not the pipeline's: it is left alone.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub others: bool,
}

/// What the operator would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// By itself, online.
    pub steps: Vec<Step>,
    /// What keeps it from going on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocked: Option<Blocked>,
    /// Why dead letters have no table, and what to do: it keeps nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub letters: Option<String>,
    /// The last step is that of the table of dead letters, which nothing waits for.
    #[serde(skip)]
    pub ends_with_letters: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Blocked {
    /// What is wrong and what to do, as the pipeline's condition says it.
    pub message: String,
    /// What it would do once a person agrees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agreement: Option<Agreement>,
}

impl Plan {
    /// Whether the tables are as asked, or will stay as they are without keeping anything.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.blocked.is_none()
    }

    /// Whether nothing is left to be waited for.
    pub fn is_settled(&self) -> bool {
        self.steps.len() == usize::from(self.ends_with_letters) && self.blocked.is_none()
    }
}

impl Blocked {
    fn by(error: &ProvisionError) -> Self {
        Self {
            message: error.to_string(),
            agreement: None,
        }
    }
}

/// A change that rewrites what is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Agreement {
    /// The value of the annotation [`super::super::APPLY_SCHEMA`].
    pub fingerprint: String,
    pub statements: Vec<String>,
    /// What rewrites nothing, and waits with them.
    pub steps: Vec<Step>,
}

/// A change of stored rows that ClickHouse has not finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Row)]
#[serde(rename_all(serialize = "camelCase"))]
pub struct Mutation {
    pub table: String,
    pub id: String,
    pub command: String,
    pub parts_to_do: i64,
    /// Why it failed last, or empty.
    pub failure: String,
    /// Seconds since 1970.
    pub since: u32,
}

impl Inspection {
    /// Whether the event table is there and the pipeline's, made or adopted.
    pub fn is_of(&self, namespace: &str, name: &str) -> bool {
        let owner = self.stored.as_ref().and_then(|stored| stored.owner.as_ref());
        owner.is_some_and(|owner| owner.is_of(namespace, name))
    }

    /// How a change of stored rows is begun, as a setting: a table of one server tells at once that there is one, and how far it
    /// is; a Replicated one is waited for, on all its servers.
    pub fn mutations_sync(&self) -> u8 {
        match &self.stored {
            Some(stored) if plan::is_replicated(&stored.engine) => 2,
            _ => 0,
        }
    }

    /// Whether nothing is left to be waited for, and nothing is under way. Dead letters may have no table yet: they are in
    /// their topic.
    pub fn is_settled(&self) -> bool {
        self.plan.is_settled() && self.mutations.is_empty()
    }
}

#[derive(Row, Deserialize)]
struct Parts {
    rows: u64,
    bytes: u64,
    parts: u64,
}

/// Looks at the tables of the pipeline `namespace`/`name`.
pub async fn inspect(
    server: &Server,
    spec: &TableSpec,
    pipeline: (&str, &str),
    adopt: bool,
) -> Result<Inspection, ProvisionError> {
    let table = observe::table(server, spec).await?;
    let beside = observe::beside(server, spec).await?;
    let mark = table.as_ref().and_then(Table::mark);
    let owner = mark.as_ref().map(|mark| mark.owner.clone());
    // Which cluster this is, only the operator knows; a mark for this namespace and name is taken for this pipeline's.
    let marks = beside
        .iter()
        .filter_map(|there| Mark::from_comment(&there.comment));
    let own = owner
        .clone()
        .into_iter()
        .chain(marks.map(|mark| mark.owner))
        .find(|owner| owner.is_of(pipeline.0, pipeline.1));
    let claim = Claim::new(
        own.unwrap_or_else(|| Owner::new("this-cluster", pipeline.0, pipeline.1)),
        adopt,
    );
    let stored = match &table {
        None => None,
        Some(table) => {
            let parts = parts(server, spec).await?;
            Some(Stored {
                engine: table.observed.engine.clone(),
                owner,
                made: mark.as_ref().is_some_and(|mark| mark.created),
                rows: parts.rows,
                bytes: parts.bytes,
                parts: parts.parts,
                ttl: plan::ttl_in(&table.observed.engine_full).map(str::to_owned),
            })
        }
    };
    Ok(Inspection {
        table: format!("{}.{}", spec.database, spec.table),
        stored,
        columns: plan::fits(spec, table.as_ref().map_or(&[], |table| &table.observed.columns)),
        rollups: rollup::states(spec, &beside),
        dead_letters: letters::state(spec, &beside, &claim),
        plan: match fits_in(server, spec).await {
            Ok(database) => make_plan(spec, database, table.as_ref(), &beside, &claim),
            Err(error @ (ProvisionError::Sharded(_) | ProvisionError::NotSupported(_))) => Plan {
                blocked: Some(Blocked::by(&error)),
                ..Plan::default()
            },
            Err(error) => return Err(error),
        },
        mutations: mutations(server, spec).await?,
    })
}

/// What `ensure` would do, in its order.
fn make_plan(
    spec: &TableSpec,
    database: bool,
    table: Option<&Table>,
    beside: &[Beside],
    claim: &Claim,
) -> Plan {
    let mut plan = Plan::default();
    let verdict = match judge(spec, table, claim) {
        Ok(verdict) => verdict,
        Err(error) => {
            plan.blocked = Some(Blocked::by(&error));
            return plan;
        }
    };
    let created = Mark::created_for(&claim.owner).comment();
    let step = |statement, does: &str| Step {
        statement,
        does: does.to_owned(),
    };
    match table {
        None => {
            if !database {
                plan.steps
                    .push(step(create_database(spec, &created), "database made"));
            }
            plan.steps
                .push(step(create_event_table(spec, &created), "event table made"));
            plan.steps.extend(plan::own_columns(spec));
        }
        Some(table) => match plan::changes(spec, &table.observed, is_ours(table, claim)) {
            Ok(steps) => {
                if verdict == Verdict::Adopt {
                    let statement = set_comment(spec, &adopted(table, claim));
                    plan.steps.push(step(statement, "marked as adopted"));
                }
                plan.steps.extend(steps);
            }
            Err(refusal) => {
                let agreement = match &refusal {
                    Refusal::Rewrite(rewrite) => Some(Agreement {
                        fingerprint: rewrite.fingerprint(),
                        statements: rewrite.statements(),
                        steps: rewrite.online.clone(),
                    }),
                    _ => None,
                };
                match refused(spec, refusal) {
                    Ok(steps) => plan.steps.extend(steps),
                    Err(error) => {
                        plan.blocked = Some(Blocked {
                            agreement,
                            ..Blocked::by(&error)
                        });
                        return plan;
                    }
                }
            }
        },
    }
    match changes_beside(spec, beside, claim) {
        Ok(ChangesBeside { steps, letters }) => {
            plan.steps.extend(steps);
            match letters {
                Ok(step) => {
                    plan.ends_with_letters = step.is_some();
                    plan.steps.extend(step);
                }
                Err(why) => plan.letters = Some(spec.without_letters(&why)),
            }
        }
        Err(error) => plan.blocked = Some(Blocked::by(&error)),
    }
    plan
}

async fn parts(server: &Server, spec: &TableSpec) -> Result<Parts, ProvisionError> {
    let found = server
        .ask(&format!(
            "SELECT sum(rows) AS rows, sum(bytes_on_disk) AS bytes, count() AS parts FROM system.parts \
             WHERE active AND database = {} AND table = {}",
            quote_literal(&spec.database),
            quote_literal(&spec.table)
        ))
        .await?;
    Ok(found.into_iter().next().unwrap_or(Parts {
        rows: 0,
        bytes: 0,
        parts: 0,
    }))
}

/// Of the event table and what is beside it.
pub async fn mutations(server: &Server, spec: &TableSpec) -> Result<Vec<Mutation>, ProvisionError> {
    let rollups = spec.rollups.iter().map(|one| rollup::table_name(spec, one));
    let tables: Vec<String> = std::iter::once(spec.table.clone())
        .chain(rollups)
        .chain(spec.letter_table())
        .map(|table| quote_literal(&table))
        .collect();
    server
        .ask(&format!(
            "SELECT table, mutation_id AS id, command, parts_to_do, latest_fail_reason AS failure, \
             toUnixTimestamp(create_time) AS since FROM system.mutations \
             WHERE NOT is_done AND database = {} AND table IN ({}) ORDER BY create_time, mutation_id",
            quote_literal(&spec.database),
            tables.join(", ")
        ))
        .await
}

/// Ends a change that cannot be finished. What it has rewritten stays so.
pub async fn kill(server: &Server, spec: &TableSpec, mutation: &Mutation) -> Result<(), ProvisionError> {
    server.execute(&kill_statement(spec, mutation)).await
}

pub(super) fn kill_statement(spec: &TableSpec, mutation: &Mutation) -> String {
    format!(
        "KILL MUTATION{} WHERE database = {} AND table = {} AND mutation_id = {} SYNC",
        spec.on_cluster(),
        quote_literal(&spec.database),
        quote_literal(&mutation.table),
        quote_literal(&mutation.id)
    )
}

/// The statement that writes a column of the team's own into rows that were stored before there was one; `None` where no
/// such column is asked for.
pub fn write_column(spec: &TableSpec, column: &str) -> Option<String> {
    let asked = spec.columns.iter().any(|asked| asked.name == column);
    asked.then(|| format!("{} MATERIALIZE COLUMN {}", spec.alter(), quote_identifier(column)))
}

/// The statement that counts what was stored in a month, `YYYYMM`, before there was a rollup; `None` where no such rollup
/// is asked for. What is counted already is not counted again.
pub fn fill_rollup(spec: &TableSpec, name: &str, month: u32) -> Option<String> {
    let rollup = spec.rollups.iter().find(|rollup| rollup.name == name)?;
    Some(rollup::fill(spec, rollup, month))
}

/// The months, `YYYYMM`, in which stored rows were received.
pub async fn months(server: &Server, spec: &TableSpec) -> Result<Vec<u32>, ProvisionError> {
    #[derive(Row, Deserialize)]
    struct Month {
        month: u32,
    }
    let months: Vec<Month> = server
        .ask(&format!(
            "SELECT DISTINCT toUInt32OrZero(partition) AS month FROM system.parts \
             WHERE active AND database = {} AND table = {} ORDER BY month",
            quote_literal(&spec.database),
            quote_literal(&spec.table)
        ))
        .await?;
    Ok(months.into_iter().map(|row| row.month).collect())
}

#[cfg(test)]
mod tests {
    use penstock_dataplane_config::Duration;

    use super::super::plan::tests::made;
    use super::*;

    #[test]
    fn a_table_of_dead_letters_is_never_waited_for() {
        let spec = TableSpec {
            dead_letters: Some(Duration::from_days(30)),
            ..TableSpec::new("growth", "events", 3)
        };
        let claim = Claim::new(Owner::new("c", "growth", "events"), false);
        let table = Table {
            observed: made(),
            comment: Mark::created_for(&claim.owner).comment(),
        };
        let plan = |beside: &[Beside]| make_plan(&spec, true, Some(&table), beside, &claim);
        let ours = letters::made(&spec, &claim).unwrap();
        let as_asked = plan(std::slice::from_ref(&ours));
        assert_eq!(as_asked, Plan::default());

        let missing = plan(&[]);
        assert_eq!((missing.steps.len(), missing.is_empty()), (1, false));
        assert!(missing.is_settled());

        let others = Beside {
            comment: "my own".into(),
            ..ours
        };
        let refused = plan(&[others]);
        assert!(refused.is_empty() && refused.is_settled(), "{refused:?}");
        let said = refused.letters.unwrap();
        assert!(
            said.contains("deadLetterTable: None") && said.contains("RENAME TABLE"),
            "{said}"
        );

        let waiting = Plan {
            steps: missing.steps,
            ..Plan::default()
        };
        assert!(!waiting.is_settled(), "of an event table");
    }
}
