//! The suite for [`TableAdmin`].

use std::time::Instant;

use penstock_crds::Reason;
use penstock_crds::pipeline::{Counted, Every, ExtraColumn, ExtraKind, Rollup};
use penstock_dataplane_config::Duration;

use super::super::{
    Claim, Class, ClickHouseServer, Deletion, Outcome, ProvisionError, TableAdmin, TableSpec,
};
use super::{Side, owner};

/// The server, from behind the operator's back.
pub trait ClickHouseSide: Send + Sync {
    /// Makes the event table as Penstock does, without a mark; with what is given changed.
    fn create_table<'a>(&'a self, spec: &'a TableSpec, change: Change) -> Side<'a, ()>;
    fn drop_column<'a>(&'a self, spec: &'a TableSpec, column: &'a str) -> Side<'a, ()>;
    fn drop_table<'a>(&'a self, spec: &'a TableSpec) -> Side<'a, ()>;
    /// The comment of the table; `None` when there is no such table.
    fn comment<'a>(&'a self, spec: &'a TableSpec) -> Side<'a, Option<String>>;
    fn has_column<'a>(&'a self, spec: &'a TableSpec, column: &'a str) -> Side<'a, bool>;
    fn has_table<'a>(&'a self, database: &'a str, table: &'a str) -> Side<'a, bool>;
    fn has_database<'a>(&'a self, database: &'a str) -> Side<'a, bool>;
    fn remembered_blocks<'a>(&'a self, spec: &'a TableSpec) -> Side<'a, u64>;
}

/// How a table that is found differs from the one that Penstock makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Nothing,
    /// `user_id` is a number.
    ColumnType,
    /// The sort key is `event_id`.
    OrderBy,
    /// MergeTree.
    Engine,
    /// Remembers 10 blocks.
    Window,
}

struct Suite<'a> {
    admin: &'a dyn TableAdmin,
    side: &'a dyn ClickHouseSide,
    server: &'a ClickHouseServer,
    prefix: &'a str,
}

/// The comment that a table has before it is adopted.
pub const OWN_COMMENT: &str = "events of the shop";

/// Runs every case, in databases whose names begin with `prefix`, which must be an identifier.
pub async fn tables(
    admin: &dyn TableAdmin,
    side: &dyn ClickHouseSide,
    server: &ClickHouseServer,
    prefix: &str,
) {
    let suite = Suite {
        admin,
        side,
        server,
        prefix,
    };
    suite.ten_tables_are_made_once().await;
    suite.missing_columns_are_added().await;
    suite.more_partitions_raise_the_window().await;
    suite.what_rewrites_rows_is_refused().await;
    suite.a_rewrite_is_done_once_a_person_agrees().await;
    suite.columns_of_the_team_are_added().await;
    suite.rollups_are_made_and_kept().await;
    suite.dead_letters_have_a_table_of_their_own().await;
    suite
        .a_table_of_dead_letters_that_is_not_ours_keeps_nothing_else()
        .await;
    suite.adopting_needs_leave_and_gives_the_comment_back().await;
    suite.a_small_window_of_an_adopted_table_is_refused().await;
    suite.of_two_owners_the_first_holds().await;
    suite.what_a_gone_owner_left_can_be_adopted().await;
    suite.a_dropped_table_comes_back().await;
    suite.only_what_was_made_is_deleted().await;
    suite.an_unreachable_server_is_reported_in_time().await;
}

impl Suite<'_> {
    fn spec(&self, database: &str) -> TableSpec {
        TableSpec::new(&format!("{}_{database}", self.prefix), "events", 3)
    }

    fn claim(&self, name: &str) -> Claim {
        Claim::new(owner(self.prefix, name), false)
    }

    fn adopting(&self, name: &str) -> Claim {
        Claim::new(owner(self.prefix, name), true)
    }

    async fn ensure(&self, spec: &TableSpec, claim: &Claim) -> Result<Outcome, ProvisionError> {
        let ensured = self.admin.ensure_table(self.server, spec, claim).await?;
        assert_eq!(ensured.letters, None);
        Ok(ensured.outcome)
    }

    async fn delete(&self, spec: &TableSpec, name: &str) -> Result<Deletion, ProvisionError> {
        self.admin
            .delete_table(self.server, spec, &owner(self.prefix, name))
            .await
    }

    #[track_caller]
    fn reason<T: std::fmt::Debug>(result: &Result<T, ProvisionError>) -> Reason {
        match result {
            Ok(value) => panic!("expected a refusal, got {value:?}"),
            Err(error) => error.reason(),
        }
    }

    async fn ten_tables_are_made_once(&self) {
        for number in 0..10 {
            let spec = TableSpec {
                table: format!("events_{number}"),
                ..self.spec("many")
            };
            let claim = self.claim("many");
            assert_eq!(self.ensure(&spec, &claim).await, Ok(Outcome::Created));
            assert_eq!(self.ensure(&spec, &claim).await, Ok(Outcome::Unchanged));
            let comment = self.side.comment(&spec).await.expect("the table exists");
            assert_eq!(comment, format!("penstock owner={} created=true", claim.owner));
        }
    }

    async fn missing_columns_are_added(&self) {
        let spec = self.spec("columns");
        let claim = self.claim("columns");
        assert_eq!(self.ensure(&spec, &claim).await, Ok(Outcome::Created));
        self.side.drop_column(&spec, "library").await;
        assert_eq!(
            self.ensure(&spec, &claim).await,
            Ok(Outcome::Updated(vec!["column library added".into()]))
        );
        assert!(self.side.has_column(&spec, "library").await);
        assert_eq!(self.ensure(&spec, &claim).await, Ok(Outcome::Unchanged));
    }

    async fn more_partitions_raise_the_window(&self) {
        let spec = self.spec("window");
        let claim = self.claim("window");
        assert_eq!(self.ensure(&spec, &claim).await, Ok(Outcome::Created));
        assert_eq!(self.side.remembered_blocks(&spec).await, 10_000);
        let more = TableSpec {
            partitions: 100,
            ..spec
        };
        assert!(matches!(
            self.ensure(&more, &claim).await,
            Ok(Outcome::Updated(_))
        ));
        assert_eq!(self.side.remembered_blocks(&more).await, 60_000);
        assert_eq!(self.ensure(&more, &claim).await, Ok(Outcome::Unchanged));
    }

    async fn what_rewrites_rows_is_refused(&self) {
        for (database, change, says) in [
            ("type", Change::ColumnType, "MODIFY COLUMN `user_id` String"),
            ("key", Change::OrderBy, "RENAME TABLE"),
            ("engine", Change::Engine, "its engine is MergeTree"),
        ] {
            let spec = self.spec(database);
            self.side.create_table(&spec, change).await;
            let refused = self.ensure(&spec, &self.adopting("schema")).await;
            assert_eq!(Self::reason(&refused), Reason::SchemaConflict, "{change:?}");
            assert!(refused.is_err_and(|e| e.to_string().contains(says)), "{change:?}");
            assert_eq!(
                self.side.comment(&spec).await.as_deref(),
                Some(OWN_COMMENT),
                "refused and untouched"
            );
        }
    }

    async fn a_rewrite_is_done_once_a_person_agrees(&self) {
        let spec = self.spec("agreed");
        self.side.create_table(&spec, Change::ColumnType).await;
        // A column that is new waits with it, and comes with it.
        let spec = TableSpec {
            columns: vec![ExtraColumn {
                name: "amount".into(),
                kind: ExtraKind::Float64,
                from: "properties.amount".into(),
                nullable: false,
            }],
            ..spec
        };
        let claim = self.adopting("agreed");
        let refused = self
            .ensure(&spec, &claim)
            .await
            .expect_err("a number is no text")
            .to_string();
        assert!(!self.side.has_column(&spec, "amount").await);
        let fingerprint = refused.rsplit(' ').next().unwrap_or_default();
        let other = TableSpec {
            approved: Some("0123456789ab".into()),
            ..spec.clone()
        };
        assert_eq!(
            Self::reason(&self.ensure(&other, &claim).await),
            Reason::SchemaConflict
        );
        let agreed = TableSpec {
            approved: Some(fingerprint.into()),
            ..spec
        };
        assert_eq!(self.ensure(&agreed, &claim).await, Ok(Outcome::Adopted));
        assert!(self.side.has_column(&agreed, "amount").await);
        assert_eq!(self.ensure(&agreed, &claim).await, Ok(Outcome::Unchanged));
    }

    async fn columns_of_the_team_are_added(&self) {
        let (spec, claim) = (self.spec("own"), self.claim("own"));
        assert_eq!(self.ensure(&spec, &claim).await, Ok(Outcome::Created));
        let column = |name: &str, kind, nullable| ExtraColumn {
            name: name.into(),
            kind,
            from: format!("properties.{name}.value"),
            nullable,
        };
        let kinds = [
            ExtraKind::String,
            ExtraKind::Symbol,
            ExtraKind::Int64,
            ExtraKind::UInt64,
            ExtraKind::Float64,
            ExtraKind::Bool,
            ExtraKind::Timestamp,
        ];
        let columns = kinds.into_iter().enumerate().flat_map(|(number, kind)| {
            [
                column(&format!("plain_{number}"), kind, false),
                column(&format!("nullable_{number}"), kind, true),
            ]
        });
        let wider = TableSpec {
            columns: columns.collect(),
            ..spec.clone()
        };
        assert!(matches!(self.ensure(&wider, &claim).await, Ok(Outcome::Updated(done)) if done.len() == 14));
        assert_eq!(
            self.ensure(&wider, &claim).await,
            Ok(Outcome::Unchanged),
            "the server says it as we do"
        );
        assert_eq!(self.ensure(&spec, &claim).await, Ok(Outcome::Unchanged));
        assert!(
            self.side.has_column(&spec, "plain_4").await,
            "what is stored stays"
        );
    }

    async fn rollups_are_made_and_kept(&self) {
        let (spec, claim) = (self.spec("rollups"), self.claim("rollups"));
        let rollup = |name: &str, count, every, by: &[&str]| Rollup {
            name: name.into(),
            count,
            every,
            by: by.iter().map(|name| (*name).into()).collect(),
            retention: None,
        };
        let with = |rollups: Vec<Rollup>| TableSpec {
            columns: vec![ExtraColumn {
                name: "country".into(),
                kind: ExtraKind::Symbol,
                from: "context.country".into(),
                nullable: true,
            }],
            rollups,
            ..spec.clone()
        };
        let days = rollup("users_per_day", Counted::Users, Every::Day, &["country"]);
        let minutes = rollup("per_minute", Counted::Events, Every::Minute, &["event_name"]);
        let hours = rollup("per_hour", Counted::Events, Every::Hour, &[]);
        let all = with(vec![days.clone(), minutes, hours]);
        assert_eq!(self.ensure(&all, &claim).await, Ok(Outcome::Created));
        assert_eq!(self.ensure(&all, &claim).await, Ok(Outcome::Unchanged));
        let database = &spec.database;
        assert!(self.side.has_table(database, "events_per_minute_view").await);

        let shorter = Rollup {
            retention: Some(Duration::from_days(30)),
            ..days.clone()
        };
        let one = with(vec![shorter]);
        assert!(matches!(self.ensure(&one, &claim).await, Ok(Outcome::Updated(done)) if done.len() == 3));
        assert_eq!(self.ensure(&one, &claim).await, Ok(Outcome::Unchanged));
        assert!(!self.side.has_table(database, "events_per_minute_view").await);
        assert!(
            self.side.has_table(database, "events_per_minute").await,
            "counts stay"
        );
        assert!(matches!(
            self.ensure(&with(vec![days]), &claim).await,
            Ok(Outcome::Updated(_))
        ));

        let other = rollup("per_minute", Counted::Users, Every::Minute, &["event_name"]);
        let refused = self.ensure(&with(vec![other]), &claim).await;
        assert_eq!(Self::reason(&refused), Reason::SchemaConflict);
        assert!(refused.is_err_and(|error| error.to_string().contains("RENAME TABLE")));

        assert_eq!(self.delete(&spec, "rollups").await, Ok(Deletion::Deleted));
        assert!(
            !self.side.has_database(database).await,
            "rollups go with their table"
        );
    }

    async fn dead_letters_have_a_table_of_their_own(&self) {
        let (spec, claim) = (self.spec("letters"), self.claim("letters"));
        let kept = |days| TableSpec {
            dead_letters: Some(Duration::from_days(days)),
            ..spec.clone()
        };
        assert_eq!(self.ensure(&kept(30), &claim).await, Ok(Outcome::Created));
        assert_eq!(self.ensure(&kept(30), &claim).await, Ok(Outcome::Unchanged));
        assert!(matches!(self.ensure(&kept(7), &claim).await, Ok(Outcome::Updated(done)) if done.len() == 1));
        assert_eq!(self.ensure(&kept(7), &claim).await, Ok(Outcome::Unchanged));
        assert_eq!(self.ensure(&spec, &claim).await, Ok(Outcome::Unchanged));
        let (database, table) = (&spec.database, "events_dead_letters");
        assert!(self.side.has_table(database, table).await, "it stays");

        assert_eq!(self.delete(&spec, "letters").await, Ok(Deletion::Deleted));
        assert!(!self.side.has_database(database).await, "it goes with its table");
    }

    async fn a_table_of_dead_letters_that_is_not_ours_keeps_nothing_else(&self) {
        let claim = self.claim("foreign");
        let spec = TableSpec {
            dead_letters: Some(Duration::from_days(30)),
            ..self.spec("foreign")
        };
        let own = TableSpec {
            table: "events_dead_letters".into(),
            ..self.spec("foreign")
        };
        self.side.create_table(&own, Change::Nothing).await;
        let rollup = Rollup {
            name: "per_minute".into(),
            count: Counted::Events,
            every: Every::Minute,
            by: Vec::new(),
            retention: None,
        };
        let more = TableSpec {
            rollups: vec![rollup],
            ..spec.clone()
        };
        let ensure = async |spec: &TableSpec| match self.admin.ensure_table(self.server, spec, &claim).await {
            Ok(done) => (done.outcome, done.letters.map(|why| why.reason())),
            Err(error) => panic!("events have no table: {error}"),
        };
        let refused = Some(Reason::AdoptionRefused);
        assert_eq!(ensure(&spec).await, (Outcome::Created, refused));
        assert_eq!(ensure(&spec).await, (Outcome::Unchanged, refused));
        assert!(
            matches!(ensure(&more).await, (Outcome::Updated(done), why) if done.len() == 2 && why == refused)
        );
        assert_eq!(
            self.side.comment(&own).await.as_deref(),
            Some(OWN_COMMENT),
            "it is left alone"
        );
        let none = TableSpec {
            dead_letters: None,
            ..more.clone()
        };
        assert_eq!(ensure(&none).await, (Outcome::Unchanged, None));
        self.side.drop_table(&own).await;
        assert!(matches!(ensure(&more).await, (Outcome::Updated(done), None) if done.len() == 1));
        assert_eq!(self.delete(&spec, "foreign").await, Ok(Deletion::Deleted));
    }

    async fn adopting_needs_leave_and_gives_the_comment_back(&self) {
        let spec = self.spec("found");
        self.side.create_table(&spec, Change::Nothing).await;
        let refused = self.ensure(&spec, &self.claim("finder")).await;
        assert_eq!(Self::reason(&refused), Reason::AdoptionRefused);
        assert_eq!(
            self.ensure(&spec, &self.adopting("finder")).await,
            Ok(Outcome::Adopted)
        );
        assert_eq!(
            self.ensure(&spec, &self.claim("finder")).await,
            Ok(Outcome::Unchanged)
        );
        assert_eq!(self.delete(&spec, "finder").await, Ok(Deletion::Kept));
        assert_eq!(self.side.comment(&spec).await.as_deref(), Some(OWN_COMMENT));
    }

    async fn a_small_window_of_an_adopted_table_is_refused(&self) {
        let spec = self.spec("small");
        self.side.create_table(&spec, Change::Window).await;
        let refused = self.ensure(&spec, &self.adopting("small")).await;
        assert_eq!(Self::reason(&refused), Reason::DedupWindowTooSmall);
        assert!(refused.is_err_and(|e| e.to_string().contains("MODIFY SETTING")));
        assert_eq!(self.side.remembered_blocks(&spec).await, 10);
    }

    async fn of_two_owners_the_first_holds(&self) {
        let spec = self.spec("two");
        assert_eq!(
            self.ensure(&spec, &self.claim("first")).await,
            Ok(Outcome::Created)
        );
        for claim in [self.claim("second"), self.adopting("second")] {
            let refused = self.ensure(&spec, &claim).await;
            assert_eq!(Self::reason(&refused), Reason::ResourceConflict);
            assert!(refused.is_err_and(|e| e.to_string().contains(owner(self.prefix, "first").as_str())));
        }
        let beside = TableSpec {
            table: "others".into(),
            ..spec.clone()
        };
        assert_eq!(
            self.ensure(&beside, &self.claim("second")).await,
            Ok(Outcome::Created),
            "a database is shared"
        );
        assert_eq!(self.delete(&spec, "first").await, Ok(Deletion::Deleted));
        assert!(
            self.side.has_database(&spec.database).await,
            "it still holds the other's table"
        );
    }

    async fn what_a_gone_owner_left_can_be_adopted(&self) {
        let spec = self.spec("left");
        assert_eq!(
            self.ensure(&spec, &self.claim("before")).await,
            Ok(Outcome::Created)
        );
        let heir = Claim {
            gone: Some(owner(self.prefix, "before")),
            ..self.adopting("heir")
        };
        assert_eq!(self.ensure(&spec, &heir).await, Ok(Outcome::Adopted));
        assert_eq!(
            Self::reason(&self.ensure(&spec, &self.claim("before")).await),
            Reason::ResourceConflict
        );
        assert_eq!(self.delete(&spec, "heir").await, Ok(Deletion::Kept));
    }

    async fn a_dropped_table_comes_back(&self) {
        let spec = self.spec("vanished");
        let claim = self.claim("vanished");
        assert_eq!(self.ensure(&spec, &claim).await, Ok(Outcome::Created));
        self.side.drop_table(&spec).await;
        assert_eq!(self.ensure(&spec, &claim).await, Ok(Outcome::Created));
    }

    async fn only_what_was_made_is_deleted(&self) {
        let spec = self.spec("deleted");
        assert_eq!(self.delete(&spec, "deleted").await, Ok(Deletion::Absent));
        assert_eq!(
            self.ensure(&spec, &self.claim("deleted")).await,
            Ok(Outcome::Created)
        );
        assert_eq!(self.delete(&spec, "someone-else").await, Ok(Deletion::Kept));
        assert_eq!(self.delete(&spec, "deleted").await, Ok(Deletion::Deleted));
        assert_eq!(self.side.comment(&spec).await, None);
        assert!(
            !self.side.has_database(&spec.database).await,
            "the empty database that was made for it goes too"
        );
        assert_eq!(self.delete(&spec, "deleted").await, Ok(Deletion::Absent));
    }

    async fn an_unreachable_server_is_reported_in_time(&self) {
        let nowhere = &ClickHouseServer::open("http://127.0.0.1:1");
        let begun = Instant::now();
        let result = self
            .admin
            .ensure_table(nowhere, &self.spec("nowhere"), &self.claim("nowhere"))
            .await;
        assert_eq!(Self::reason(&result), Reason::ClickHouseUnavailable);
        assert!(result.is_err_and(|e| e.class() == Class::Transient && e.to_string().contains(&nowhere.url)));
        assert_eq!(
            Self::reason(&self.admin.ping(nowhere).await),
            Reason::ClickHouseUnavailable
        );
        assert!(begun.elapsed().as_secs() < 10, "took {:?}", begun.elapsed());
        assert_eq!(self.admin.ping(self.server).await, Ok(()));
    }
}
