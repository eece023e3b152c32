//! The table of dead letters, which is made beside the event table as a rollup is. Pure.

use penstock_dataplane_config::letters::{LETTER_COLUMNS, LetterTable, letter_table};
use penstock_dataplane_config::table::Column;

use super::super::TableSpec;
use super::super::error::ProvisionError;
use super::super::ownership::{self, Claim, Mark};
use super::inspect::LetterTableState;
use super::plan::{Step, ttl_in};
use super::rollup::Beside;

/// The statement that makes it; `None` where none is asked for.
pub(super) fn create_table(spec: &TableSpec, comment: &str) -> Option<String> {
    let retention = spec.dead_letters?;
    let table = LetterTable {
        database: &spec.database,
        table: &spec.letter_table()?,
        cluster: spec.cluster.as_deref(),
        comment,
        retention,
    };
    Some(table.create_statement())
}

impl TableSpec {
    /// What there is to say where dead letters do not have their table as asked.
    pub fn without_letters(&self, why: &ProvisionError) -> String {
        let table = letter_table(&self.table);
        let name = self.quoted(&table);
        if !why.is_refusal() {
            return format!(
                "the table of dead letters {name} is not as asked: {why}. Events are stored all the same, and dead letters are \
                 kept in their topic. To have no such table, say clickhouse.deadLetterTable: None"
            );
        }
        format!(
            "{why}. Events are stored all the same, and dead letters are in their topic alone. To have no such table, say \
             clickhouse.deadLetterTable: None; to let a new one be made, move that one aside: RENAME TABLE {name} TO {}{}",
            self.quoted(&format!("{table}_before")),
            self.on_cluster()
        )
    }
}

/// What to do so that it is there and its rows go when the topic's letters do. One that is the user's own keeps its TTL.
pub(crate) fn changes(
    spec: &TableSpec,
    beside: &[Beside],
    claim: &Claim,
) -> Result<Option<Step>, ProvisionError> {
    let (Some(retention), Some(table)) = (spec.dead_letters, spec.letter_table()) else {
        return Ok(None);
    };
    let there = beside.iter().find(|there| there.name == table);
    let mark = there.and_then(|there| Mark::from_comment(&there.comment));
    ownership::decide(there.is_some(), mark.as_ref(), claim)
        .map_err(|why| ProvisionError::refused(format!("table {}.{table}", spec.database), why))?;
    let Some(there) = there else {
        let comment = Mark::created_for(&claim.owner).comment();
        return Ok(create_table(spec, &comment).map(|statement| Step {
            statement,
            does: "table of dead letters made".into(),
        }));
    };
    fits(spec, there)?;
    let asked = LetterTable::ttl(retention);
    let ours = mark.is_some_and(|mark| mark.owner == claim.owner && mark.created);
    if !ours || ttl_in(&there.engine_full) == asked.as_deref() {
        return Ok(None);
    }
    let alter = spec.alter_beside(&table);
    Ok(Some(Step {
        statement: match asked {
            Some(ttl) => format!("{alter} MODIFY TTL {ttl}"),
            None => format!("{alter} REMOVE TTL"),
        },
        does: "retention of dead letters changed".into(),
    }))
}

/// The table of this pipeline's dead letters as it is; one that is asked for no longer, too.
pub(super) fn state(spec: &TableSpec, beside: &[Beside], claim: &Claim) -> Option<LetterTableState> {
    let table = letter_table(&spec.table);
    let found = beside.iter().find(|there| there.name == table);
    let mark = found.and_then(|there| Mark::from_comment(&there.comment));
    let there = match (found, &mark) {
        (_, Some(mark)) => mark.owner == claim.owner,
        (Some(found), None) => claim.adopt && spec.dead_letters.is_some() && fits(spec, found).is_ok(),
        (None, None) => false,
    };
    let others = found.is_some() && !there;
    (there || spec.dead_letters.is_some()).then_some(LetterTableState { table, there, others })
}

/// More columns than are asked for are none of our business.
fn fits(spec: &TableSpec, there: &Beside) -> Result<(), ProvisionError> {
    let engine = match spec.cluster {
        None => there.engine.ends_with("ReplacingMergeTree"),
        Some(_) => there.engine == "ReplicatedReplacingMergeTree",
    };
    let order = there
        .engine_full
        .contains(&format!(" ORDER BY ({})", LetterTable::ORDER_BY));
    let has = |column: &&Column| {
        let mut columns = there.columns.iter();
        columns.any(|(name, kind)| name == column.name && kind == column.kind.sql())
    };
    let wrong = match LETTER_COLUMNS.iter().find(|column| !has(column)) {
        _ if !engine || !order => format!(
            "it is {} and not {}ReplacingMergeTree ORDER BY ({})",
            there.engine_full,
            spec.cluster.as_ref().map_or("", |_| "Replicated"),
            LetterTable::ORDER_BY
        ),
        Some(column) => format!("it has no column {} {}", column.name, column.kind.sql()),
        None => return Ok(()),
    };
    Err(ProvisionError::SchemaConflict(format!(
        "{} cannot hold dead letters: {wrong}",
        spec.quoted(&there.name)
    )))
}

/// As it is once it has been made.
#[cfg(any(test, feature = "test-support"))]
pub(crate) fn made(spec: &TableSpec, claim: &Claim) -> Option<Beside> {
    let ttl = LetterTable::ttl(spec.dead_letters?).map_or_else(String::new, |ttl| format!(" TTL {ttl}"));
    let engine = match spec.cluster {
        None => "ReplacingMergeTree",
        Some(_) => "ReplicatedReplacingMergeTree",
    };
    Some(Beside {
        name: spec.letter_table()?,
        engine: engine.into(),
        engine_full: format!(
            "{engine}(failed_at) PARTITION BY {} ORDER BY ({}){ttl} SETTINGS index_granularity = 8192",
            LetterTable::PARTITION_BY,
            LetterTable::ORDER_BY
        ),
        comment: Mark::created_for(&claim.owner).comment(),
        columns: LETTER_COLUMNS
            .iter()
            .map(|column| (column.name.into(), column.kind.sql().into()))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use penstock_dataplane_config::Duration;

    use super::super::super::{Owner, Service};
    use super::*;

    fn spec(days: u64) -> TableSpec {
        TableSpec {
            dead_letters: Some(Duration::from_days(days)),
            ..TableSpec::new("growth", "events", 3)
        }
    }

    fn claim(adopt: bool) -> Claim {
        Claim::new(Owner::new("c", "growth", "events"), adopt)
    }

    fn statement(spec: &TableSpec, beside: &[Beside]) -> Option<String> {
        changes(spec, beside, &claim(false))
            .unwrap()
            .map(|step| step.statement)
    }

    #[test]
    fn it_is_made_once_and_follows_the_topics_retention() {
        let made = made(&spec(30), &claim(false)).unwrap();
        let create = statement(&spec(30), &[]).unwrap();
        assert!(create.starts_with("CREATE TABLE IF NOT EXISTS `growth`.`events_dead_letters` ("));
        assert_eq!(statement(&spec(30), std::slice::from_ref(&made)), None);
        assert_eq!(
            statement(&spec(7), std::slice::from_ref(&made)).unwrap(),
            "ALTER TABLE `growth`.`events_dead_letters` MODIFY TTL toDateTime(failed_at) + toIntervalSecond(604800)"
        );
        assert_eq!(
            statement(&spec(99_999), std::slice::from_ref(&made)).unwrap(),
            "ALTER TABLE `growth`.`events_dead_letters` REMOVE TTL"
        );
        let none = TableSpec::new("growth", "events", 3);
        assert_eq!(statement(&none, &[]), None);
        assert_eq!(
            statement(&none, std::slice::from_ref(&made)),
            None,
            "what is there stays"
        );

        // Whether it is there and the pipeline's, and whether it is another's.
        let is = |spec: &TableSpec, beside: &[Beside], claim: &Claim| {
            state(spec, beside, claim).map(|state| (state.there, state.others))
        };
        let unmarked = Beside {
            comment: "my own".into(),
            ..made.clone()
        };
        let unfit = Beside {
            columns: Vec::new(),
            ..unmarked.clone()
        };
        let made = [made];
        let other = Claim::new(Owner::new("c", "growth", "other"), true);
        let (ours, others, missing) = (Some((true, false)), Some((false, true)), Some((false, false)));
        assert_eq!(is(&spec(30), &made, &claim(false)), ours);
        assert_eq!(is(&none, &made, &claim(false)), ours, "it holds letters");
        assert_eq!(is(&spec(30), &[], &claim(false)), missing);
        assert_eq!(is(&none, &[], &claim(false)), None);
        assert_eq!(is(&spec(30), &made, &other), others);
        assert_eq!(is(&none, &made, &other), None);
        for (there, adopt, expected) in [
            (&unmarked, true, ours),
            (&unmarked, false, others),
            (&unfit, true, others),
        ] {
            let there = std::slice::from_ref(there);
            assert_eq!(is(&spec(30), there, &claim(adopt)), expected, "{there:?}");
        }
    }

    #[test]
    fn one_of_another_or_of_another_kind_is_refused() {
        let ours = made(&spec(30), &claim(false)).unwrap();
        let own = Beside {
            comment: "my own".into(),
            engine_full: ours.engine_full.split(" TTL ").next().unwrap().into(),
            ..ours.clone()
        };
        assert!(changes(&spec(30), std::slice::from_ref(&own), &claim(false)).is_err());
        assert_eq!(
            changes(&spec(30), std::slice::from_ref(&own), &claim(true)),
            Ok(None),
            "it keeps its TTL"
        );
        let other = Claim::new(Owner::new("c", "growth", "other"), true);
        assert!(changes(&spec(30), std::slice::from_ref(&ours), &other).is_err());

        let mut lacking = ours.clone();
        lacking.columns.pop();
        let unordered = Beside {
            engine_full: "ReplacingMergeTree ORDER BY reason".into(),
            ..ours.clone()
        };
        let plain = Beside {
            engine: "MergeTree".into(),
            ..ours.clone()
        };
        for (there, word) in [
            (lacking, "no column value String"),
            (unordered, "ORDER BY reason"),
            (plain, "and not ReplacingMergeTree"),
        ] {
            let refused = changes(&spec(30), &[there], &claim(false)).unwrap_err();
            assert!(refused.to_string().contains(word), "{refused}");
        }
        let said = spec(30).without_letters(&changes(&spec(30), &[own], &claim(false)).unwrap_err());
        for word in [
            "table growth.events_dead_letters exists already",
            "clickhouse.deadLetterTable: None",
            "RENAME TABLE `growth`.`events_dead_letters` TO `growth`.`events_dead_letters_before`",
        ] {
            assert!(said.contains(word), "{said}");
        }
        let failed = ProvisionError::Rejected {
            service: Service::ClickHouse,
            detail: "Not enough privileges".into(),
        };
        let said = spec(30).without_letters(&failed);
        assert!(
            said.contains(
                "`events_dead_letters` is not as asked: ClickHouse refused: Not enough privileges. Events are"
            ) && said.contains("deadLetterTable: None")
                && !said.contains("RENAME"),
            "{said}"
        );
        let mut more = ours;
        more.columns.push(("note".into(), "String".into()));
        assert_eq!(changes(&spec(30), &[more], &claim(false)), Ok(None));
    }
}
