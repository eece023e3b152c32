//! Every statement for a cluster, word for word: no test here has a cluster of servers to run them.

use penstock_crds::pipeline::{Counted, Every, ExtraColumn, ExtraKind, Rollup};
use penstock_dataplane_config::Duration;

use super::super::TableSpec;
use super::super::ownership::{Claim, Owner};
use super::inspect::{Mutation, kill_statement, write_column};
use super::plan::{self, ObservedTable, Refusal};
use super::{
    ProvisionError, create_database, create_event_table, drop_database, drop_table_statement, fit_cluster,
    letters, rollup, set_comment,
};

fn spec() -> TableSpec {
    TableSpec {
        cluster: Some("main".into()),
        columns: vec![ExtraColumn {
            name: "amount".into(),
            kind: ExtraKind::Float64,
            from: "properties.amount".into(),
            nullable: false,
        }],
        rollups: vec![Rollup {
            name: "users_per_day".into(),
            count: Counted::Users,
            every: Every::Day,
            by: vec!["event_name".into()],
            retention: Some(Duration::from_days(400)),
        }],
        dead_letters: Some(Duration::from_days(30)),
        ..TableSpec::new("growth", "events", 3)
    }
}

/// An event table with less than is asked for.
fn lacking(engine: &str) -> ObservedTable {
    let columns = super::plan::tests::made().columns;
    ObservedTable {
        engine: engine.into(),
        engine_full: format!(
            "{engine}('/a/{{uuid}}/{{shard}}', '{{replica}}', received_at) SETTINGS index_granularity = 8192"
        ),
        default_window_seconds: 3600,
        columns,
        ..super::plan::tests::made()
    }
}

#[test]
fn every_server_runs_every_statement() {
    let spec = spec();
    let claim = Claim::new(Owner::new("c", "growth", "events"), false);
    let mutation = Mutation {
        table: "events".into(),
        id: "0000000003".into(),
        command: String::new(),
        parts_to_do: 1,
        failure: String::new(),
        since: 0,
    };
    let mut statements = vec![
        create_database(&spec, "mark"),
        create_event_table(&spec, "mark"),
        set_comment(&spec, "mark"),
        drop_table_statement(&spec, "events"),
        drop_database(&spec),
        kill_statement(&spec, &mutation),
    ];
    let steps = plan::changes(&spec, &lacking("ReplicatedReplacingMergeTree"), true).unwrap();
    statements.extend(steps.into_iter().map(|step| step.statement));
    let steps = rollup::changes(&spec, &[], &claim).unwrap();
    statements.extend(steps.into_iter().map(|step| step.statement));
    // Taken off the list again; and with another retention.
    let made = rollup::made(&spec, &spec.rollups[0], &claim);
    let mut less = spec.clone();
    less.rollups.clear();
    let steps = rollup::changes(&less, &made, &claim).unwrap();
    statements.extend(steps.into_iter().map(|step| step.statement));
    let mut longer = spec.clone();
    longer.rollups[0].retention = None;
    let steps = rollup::changes(&longer, &made, &claim).unwrap();
    statements.extend(steps.into_iter().map(|step| step.statement));
    statements.extend(write_column(&spec, "amount"));
    let step = letters::changes(&spec, &[], &claim).unwrap();
    statements.extend(step.map(|step| step.statement));
    let made = letters::made(&spec, &claim).unwrap();
    for days in [7, 99_999] {
        let other = TableSpec {
            dead_letters: Some(Duration::from_days(days)),
            ..spec.clone()
        };
        let step = letters::changes(&other, std::slice::from_ref(&made), &claim).unwrap();
        statements.extend(step.map(|step| step.statement));
    }
    assert!(
        statements.iter().all(|one| one.contains(" ON CLUSTER `main`")),
        "{statements:#?}"
    );
    insta::assert_snapshot!(statements.join(";\n\n"));
}

#[test]
fn a_table_of_one_server_is_none_of_a_cluster() {
    let refused = plan::changes(&spec(), &super::plan::tests::made(), true);
    let Err(Refusal::Schema(text)) = refused else {
        panic!("{refused:?}");
    };
    assert!(
        text.contains("the other servers of main would not have its rows"),
        "{text}"
    );
    assert!(
        text.ends_with("`growth`.`events_before_penstock` ON CLUSTER `main`"),
        "{text}"
    );
}

#[test]
fn a_cluster_has_one_shard() {
    assert_eq!(fit_cluster("main", 1), Ok(()));
    assert!(
        matches!(fit_cluster("main", 0), Err(ProvisionError::NotSupported(text)) if text.contains("knows no cluster main"))
    );
    assert!(
        matches!(fit_cluster("main", 2), Err(ProvisionError::Sharded(text)) if text.contains("2 shards"))
    );
}
