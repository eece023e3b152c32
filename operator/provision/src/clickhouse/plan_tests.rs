use penstock_crds::pipeline::{ExtraColumn, ExtraKind};

use super::*;

fn spec() -> TableSpec {
    TableSpec::new("growth", "events", 3)
}

/// The table as ClickHouse describes it after we made it.
pub(crate) fn made() -> ObservedTable {
    ObservedTable {
        engine: "ReplacingMergeTree".into(),
        engine_full: format!(
            "ReplacingMergeTree(received_at) PARTITION BY {} ORDER BY ({}) TTL {} SETTINGS \
             non_replicated_deduplication_window = 10000, index_granularity = 8192",
            EventTable::PARTITION_BY,
            EventTable::ORDER_BY,
            EventTable::TTL
        ),
        partition_key: EventTable::PARTITION_BY.into(),
        sorting_key: EventTable::ORDER_BY.into(),
        columns: EVENT_COLUMNS
            .iter()
            .map(|column| ObservedColumn {
                name: column.name.into(),
                kind: column.kind.sql().into(),
                default_kind: match (column.materialized, column.default) {
                    (Some(_), _) => "MATERIALIZED",
                    (None, Some(_)) => "DEFAULT",
                    (None, None) => "",
                }
                .into(),
                default_expression: column.materialized.or(column.default).unwrap_or("").into(),
            })
            .collect(),
        default_window_seconds: 3600,
    }
}

fn column<'a>(table: &'a mut ObservedTable, name: &str) -> &'a mut ObservedColumn {
    table
        .columns
        .iter_mut()
        .find(|column| column.name == name)
        .unwrap()
}

#[test]
fn what_we_made_needs_nothing() {
    assert_eq!(changes(&spec(), &made(), true), Ok(vec![]));
    assert_eq!(changes(&spec(), &made(), false), Ok(vec![]));
}

#[test]
fn a_missing_column_is_added() {
    let mut table = made();
    table.columns.retain(|column| column.name != "library");
    let steps = changes(&spec(), &table, false).unwrap();
    assert_eq!(
        steps,
        [Step {
            statement:
                "ALTER TABLE `growth`.`events` ADD COLUMN IF NOT EXISTS `library` LowCardinality(String)"
                    .into(),
            does: "column library added".into(),
        }]
    );
}

#[test]
fn rows_of_our_own_table_go_when_their_day_has_come() {
    let mut table = made();
    table.engine_full = table
        .engine_full
        .replace(&format!(" TTL {}", EventTable::TTL), "");
    let steps = changes(&spec(), &table, true).unwrap();
    assert_eq!(
        steps[0].statement,
        "ALTER TABLE `growth`.`events` MODIFY TTL expires_on, toDateTime(received_at) + toIntervalDay(1) \
         RECOMPRESS CODEC(ZSTD(1)) SETTINGS materialize_ttl_after_modify = 0"
    );
    assert_eq!(
        changes(&spec(), &table, false),
        Ok(vec![]),
        "an adopted table keeps its own rules"
    );
    table.engine_full = table
        .engine_full
        .replace(" SETTINGS", " TTL received_at + toIntervalDay(9) SETTINGS");
    assert_eq!(changes(&spec(), &table, true), Ok(vec![]));
}

#[test]
fn columns_of_others_stay() {
    let mut table = made();
    table.columns.push(ObservedColumn {
        name: "note".into(),
        kind: "String".into(),
        default_kind: String::new(),
        default_expression: String::new(),
    });
    assert_eq!(changes(&spec(), &table, true), Ok(vec![]));
}

#[test]
fn what_would_rewrite_rows_is_refused_with_its_statement() {
    let refused = |change: &dyn Fn(&mut ObservedTable)| {
        let mut table = made();
        change(&mut table);
        match changes(&spec(), &table, true) {
            Err(Refusal::Schema(text)) => text,
            Err(Refusal::Rewrite(rewrite)) => rewrite.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let text = refused(&|t| column(t, "user_id").kind = "UInt64".into());
    assert!(
        text.contains(
            "column user_id is UInt64; ALTER TABLE `growth`.`events` MODIFY COLUMN `user_id` String"
        )
    );
    let text = refused(&|t| column(t, "user_hash").default_expression = "sipHash64(user_id)".into());
    assert!(text.contains("MATERIALIZED sipHash64(user_id)"), "{text}");
    let text = refused(&|t| column(t, "ip").default_kind = "ALIAS".into());
    assert!(text.contains("column ip"), "{text}");
    let text = refused(&|t| t.sorting_key = "event_id".into());
    assert!(text.contains("its ORDER BY is event_id and not app_id"), "{text}");
    assert!(
        text.contains("RENAME TABLE `growth`.`events` TO `growth`.`events_before_penstock`"),
        "{text}"
    );
    let text = refused(&|t| t.partition_key = String::new());
    assert!(
        text.contains("its PARTITION BY is nothing and not toYYYYMM(received_at)"),
        "{text}"
    );
    let text = refused(&|t| t.engine = "MergeTree".into());
    assert!(text.contains("its engine is MergeTree"), "{text}");
    let text = refused(&|t| t.engine_full = "ReplacingMergeTree ORDER BY x".into());
    assert!(text.contains("not versioned by received_at"), "{text}");
}

#[test]
fn a_column_of_the_team_is_added_and_its_change_is_named() {
    let column = |from: &str| ExtraColumn {
        name: "amount".into(),
        kind: ExtraKind::Float64,
        from: from.into(),
        nullable: false,
    };
    let with = |column| TableSpec {
        columns: vec![column],
        ..spec()
    };
    let steps = changes(&with(column("properties.amount")), &made(), false).unwrap();
    let added = "`amount` Float64 MATERIALIZED JSONExtract(properties, 'amount', 'Float64')";
    assert_eq!(
        steps[0].statement,
        format!("ALTER TABLE `growth`.`events` ADD COLUMN IF NOT EXISTS {added}")
    );
    let mut table = made();
    table.columns.push(ObservedColumn {
        name: "amount".into(),
        kind: "Float64".into(),
        default_kind: "MATERIALIZED".into(),
        default_expression: "JSONExtract(properties, 'amount', 'Float64')".into(),
    });
    assert_eq!(
        changes(&with(column("properties.amount")), &table, true),
        Ok(vec![])
    );
    let Err(Refusal::Rewrite(rewrite)) = changes(&with(column("properties.total")), &table, true) else {
        panic!()
    };
    let text = rewrite.to_string();
    let fingerprint = rewrite.fingerprint();
    assert!(
        text.ends_with(&format!(
            "penstock.dev/apply-schema of the pipeline to {fingerprint}"
        )),
        "{text}"
    );
    assert_eq!(fingerprint.len(), 12);
    let Err(Refusal::Rewrite(other)) = changes(&with(column("properties.sum")), &table, true) else {
        panic!()
    };
    assert_ne!(
        other.fingerprint(),
        fingerprint,
        "leave for one statement is none for another"
    );
    assert!(
        rewrite.steps()[0]
            .statement
            .contains("MODIFY COLUMN `amount` Float64 MATERIALIZED JSONExtract(properties, 'total'")
    );
}

#[test]
fn what_rewrites_nothing_is_done_with_what_was_agreed_to() {
    let mut table = made();
    table.columns.retain(|column| column.name != "library");
    column(&mut table, "user_id").kind = "UInt64".into();
    let more = TableSpec {
        partitions: 100,
        ..spec()
    };
    let Err(Refusal::Rewrite(rewrite)) = changes(&more, &table, true) else {
        panic!()
    };
    let does: Vec<String> = rewrite.steps().into_iter().map(|step| step.does).collect();
    assert_eq!(
        does,
        [
            "column library added",
            "non_replicated_deduplication_window = 60000",
            "column user_id is UInt64: changed, as the annotation said",
        ]
    );
    assert_eq!(rewrite.statements().len(), 1, "only that is agreed to");
    assert!(
        matches!(changes(&more, &table, false), Err(Refusal::Window(_))),
        "what nobody can agree to comes first"
    );
}

#[test]
fn a_small_window_is_raised_on_our_table_and_refused_on_an_adopted_one() {
    let more = TableSpec {
        partitions: 100,
        ..spec()
    };
    let steps = changes(&more, &made(), true).unwrap();
    assert_eq!(
        steps[0].statement,
        "ALTER TABLE `growth`.`events` MODIFY SETTING non_replicated_deduplication_window = 60000"
    );
    let Err(Refusal::Window(text)) = changes(&more, &made(), false) else {
        panic!()
    };
    assert!(
        text.contains("remembers 10000 blocks and 60000 are needed"),
        "{text}"
    );

    let mut silent = made();
    silent.engine_full = silent
        .engine_full
        .replace("non_replicated_deduplication_window = 10000, ", "");
    let Err(Refusal::Window(text)) = changes(&spec(), &silent, false) else {
        panic!()
    };
    assert!(text.contains("remembers 0 blocks and 10000 are needed"), "{text}");
}

#[test]
fn a_replicated_table_must_remember_for_a_day() {
    let mut table = made();
    table.engine = "ReplicatedReplacingMergeTree".into();
    table.engine_full = "ReplicatedReplacingMergeTree('/t/{shard}', '{replica}', received_at) PARTITION BY \
                         toYYYYMM(received_at) ORDER BY event_id SETTINGS replicated_deduplication_window = 20000"
        .into();
    let Err(Refusal::Window(text)) = changes(&spec(), &table, false) else {
        panic!()
    };
    assert!(text.contains("remembers 3600 s and 86400 s are needed"), "{text}");
    table.default_window_seconds = 604_800;
    assert_eq!(changes(&spec(), &table, false), Ok(vec![]));
    // Consumers go by what it says.
    table.engine_full = table
        .engine_full
        .replace(" SETTINGS replicated_deduplication_window = 20000", "");
    let Err(Refusal::Window(text)) = changes(&spec(), &table, false) else {
        panic!()
    };
    assert!(
        text.contains("remembers 0 blocks and 10000 are needed")
            && text.ends_with("MODIFY SETTING replicated_deduplication_window = 10000"),
        "{text}"
    );
}

#[test]
fn a_distributed_table_is_sharded() {
    let mut table = made();
    table.engine = "Distributed".into();
    assert!(matches!(
        changes(&spec(), &table, false),
        Err(Refusal::Sharded(_))
    ));
}

#[test]
fn brackets_and_spaces_do_not_matter() {
    assert_eq!(plain("(a, b)"), plain("a,b"));
    assert_ne!(plain("(a), (b)"), plain("a,b"));
    assert_eq!(plain("DateTime64(3, 'UTC')"), plain("DateTime64(3,'UTC')"));
}
