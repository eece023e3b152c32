//! The operator's provisioning on real services: the same contract that its fakes keep.
//!
//! In a binary of its own, because one of the cases stops Kafka.

use std::collections::BTreeMap;
use std::time::Duration;

use penstock_dataplane_config::table::{EventTable, quote_identifier, quote_literal};
use penstock_dataplane_config::{Duration as Span, RedisTarget};
use penstock_e2e::{Component, Instance, Result};
use penstock_operator::provision::clickhouse::Installation;
use penstock_operator::provision::contract::{
    self, Change, ClickHouseSide, Fields, KafkaSide, OWN_COMMENT, RedisSide, Side,
};
use penstock_operator::provision::{
    Claim, Class, ClickHouseAdmin, KafkaAdmin, Owner, ProvisionError, RedisQuotas, TableAdmin, TableSpec,
    TopicAdmin, TopicSpec,
};
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, ConfigSource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

const LIMIT: Duration = Duration::from_secs(10);

/// One run of everything, in order: the case that stops Kafka must not meet another.
#[test]
fn provisioning_keeps_its_contract_on_real_services() -> Result<()> {
    let kit = Instance::from_environment("test")?;
    kit.enter()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let run = uuid::Uuid::new_v4().simple().to_string()[..8].to_owned();
    runtime.block_on(async {
        quotas(&kit, &run).await;
        tables(&kit, &run).await?;
        topics(&kit, &run).await?;
        two_operators_that_know_nothing_of_each_other_agree(&kit, &run).await?;
        a_hundred_pipelines_hear_of_an_outage_in_time(&kit, &run).await?;
        Ok(())
    })
}

// === Redis ===

struct Redis(redis::Client);

impl RedisSide for Redis {
    fn fields<'a>(&'a self, key: &'a str) -> Side<'a, Fields> {
        Box::pin(async move {
            let mut connection = self
                .0
                .get_multiplexed_async_connection()
                .await
                .expect("Redis answers");
            redis::cmd("HGETALL")
                .arg(key)
                .query_async(&mut connection)
                .await
                .expect("HGETALL")
        })
    }

    fn lives<'a>(&'a self, key: &'a str) -> Side<'a, Option<u64>> {
        Box::pin(async move {
            let mut connection = self
                .0
                .get_multiplexed_async_connection()
                .await
                .expect("Redis answers");
            let seconds: i64 = redis::cmd("TTL")
                .arg(key)
                .query_async(&mut connection)
                .await
                .expect("TTL");
            u64::try_from(seconds).ok()
        })
    }
}

async fn quotas(kit: &Instance, run: &str) {
    let address = kit.redis_address();
    let side = Redis(redis::Client::open(format!("redis://{address}/3")).expect("an address"));
    let target = RedisTarget {
        address,
        database: 3,
        connect_timeout: Span::from_secs(5),
        command_timeout: Span::from_secs(3),
        prefix: format!("contract-{run}"),
    };
    contract::quotas(&RedisQuotas::new(), &side, &target).await;
}

// === ClickHouse ===

struct ClickHouse<'a>(&'a Instance);

impl ClickHouse<'_> {
    fn run(&self, statement: &str) -> String {
        self.0
            .clickhouse(statement)
            .unwrap_or_else(|error| panic!("{statement}: {error}"))
            .trim_end()
            .to_owned()
    }
}

fn full_name(spec: &TableSpec) -> String {
    format!(
        "{}.{}",
        quote_identifier(&spec.database),
        quote_identifier(&spec.table)
    )
}

fn is_this(spec: &TableSpec, table: &str) -> String {
    format!(
        "database = {} AND {table} = {}",
        quote_literal(&spec.database),
        quote_literal(&spec.table)
    )
}

impl ClickHouseSide for ClickHouse<'_> {
    fn create_table<'a>(&'a self, spec: &'a TableSpec, change: Change) -> Side<'a, ()> {
        Box::pin(async move {
            self.run(&format!(
                "CREATE DATABASE IF NOT EXISTS {}",
                quote_identifier(&spec.database)
            ));
            let statement = EventTable {
                database: &spec.database,
                table: &spec.table,
                comment: OWN_COMMENT,
                dedup_window: if change == Change::Window { 10 } else { 10_000 },
            }
            .create_statement();
            let changed = match change {
                Change::Nothing | Change::Window => statement.clone(),
                Change::ColumnType => statement.replace("`user_id` String", "`user_id` UInt64"),
                Change::OrderBy => statement.replace(EventTable::ORDER_BY, "event_id"),
                Change::Engine => statement.replace("ReplacingMergeTree(received_at)", "MergeTree"),
            };
            assert_eq!(
                changed == statement,
                matches!(change, Change::Nothing | Change::Window),
                "{statement}"
            );
            self.run(&changed);
        })
    }

    fn drop_column<'a>(&'a self, spec: &'a TableSpec, column: &'a str) -> Side<'a, ()> {
        Box::pin(async move {
            self.run(&format!(
                "ALTER TABLE {} DROP COLUMN {}",
                full_name(spec),
                quote_identifier(column)
            ));
        })
    }

    fn drop_table<'a>(&'a self, spec: &'a TableSpec) -> Side<'a, ()> {
        Box::pin(async move {
            self.run(&format!("DROP TABLE {} SYNC", full_name(spec)));
        })
    }

    fn comment<'a>(&'a self, spec: &'a TableSpec) -> Side<'a, Option<String>> {
        Box::pin(async move {
            let here = is_this(spec, "name");
            let count = self.run(&format!("SELECT count() FROM system.tables WHERE {here}"));
            (count == "1").then(|| self.run(&format!("SELECT comment FROM system.tables WHERE {here}")))
        })
    }

    fn has_column<'a>(&'a self, spec: &'a TableSpec, column: &'a str) -> Side<'a, bool> {
        Box::pin(async move {
            let (here, column) = (is_this(spec, "table"), quote_literal(column));
            self.run(&format!(
                "SELECT count() FROM system.columns WHERE {here} AND name = {column}"
            )) == "1"
        })
    }

    fn has_database<'a>(&'a self, database: &'a str) -> Side<'a, bool> {
        Box::pin(async move {
            let name = quote_literal(database);
            self.run(&format!(
                "SELECT count() FROM system.databases WHERE name = {name}"
            )) == "1"
        })
    }

    fn remembered_blocks<'a>(&'a self, spec: &'a TableSpec) -> Side<'a, u64> {
        Box::pin(async move {
            let here = is_this(spec, "name");
            let window = self.run(&format!(
                "SELECT extract(engine_full, 'non_replicated_deduplication_window = (\\\\d+)') FROM system.tables \
                 WHERE {here}"
            ));
            window
                .parse()
                .unwrap_or_else(|_| panic!("no window in {window:?}"))
        })
    }
}

async fn tables(kit: &Instance, run: &str) -> Result<()> {
    let admin = kit.clickhouse_users()?.admin;
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, value: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, format!("{value}\n")).expect("a file");
        path
    };
    let url = kit.clickhouse_url();
    let installation = Installation {
        url: url.clone(),
        username_file: Some(file("username", &admin.user)),
        password_file: Some(file("password", &admin.password)),
    };
    let tables = ClickHouseAdmin::new(Some(installation.clone()));
    contract::tables(&tables, &ClickHouse(kit), &url, &format!("contract_{run}")).await;

    // A rotated password is read again, and a wrong one is not mistaken for a server that is away.
    file("password", "wrong");
    let refused = tables.ping(&url).await.expect_err("a wrong password");
    assert!(matches!(refused, ProvisionError::Rejected { .. }), "{refused:?}");
    assert!(
        !refused.to_string().contains("wrong"),
        "the password is in the message: {refused}"
    );
    file("password", &admin.password);
    assert_eq!(tables.ping(&url).await, Ok(()));
    // The installation's credentials go nowhere else.
    let elsewhere = ClickHouseAdmin::new(Some(Installation {
        url: "http://elsewhere:8123".into(),
        ..installation
    }));
    assert!(matches!(
        elsewhere.ping(&url).await,
        Err(ProvisionError::Rejected { .. })
    ));

    let statement = format!("SELECT name FROM system.databases WHERE startsWith(name, 'contract_{run}')");
    for database in ClickHouse(kit).run(&statement).lines() {
        ClickHouse(kit).run(&format!("DROP DATABASE {} SYNC", quote_identifier(database)));
    }
    Ok(())
}

// === Kafka ===

struct Kafka<'a> {
    kit: &'a Instance,
    bootstrap: String,
}

impl Kafka<'_> {
    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        config
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.config().create().expect("a client")
    }

    /// A controller that accepted a change is ahead of the broker that answers.
    async fn until<T, F: Future<Output = Option<T>>>(what: &str, look: impl Fn() -> F) -> T {
        let deadline = tokio::time::Instant::now() + LIMIT;
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            assert!(tokio::time::Instant::now() < deadline, "{what} did not come true");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn overrides(&self, name: &str) -> Option<Fields> {
        let reader: BaseConsumer = self
            .config()
            .set("group.id", "contract")
            .create()
            .expect("a client");
        let metadata = reader.fetch_metadata(Some(name), LIMIT).expect("metadata");
        metadata
            .topics()
            .iter()
            .find(|topic| topic.name() == name && topic.error().is_none())?;
        let topic = ResourceSpecifier::Topic(name);
        let described = self
            .admin()
            .describe_configs([&topic], &AdminOptions::new())
            .await
            .expect("settings");
        let entries = &described[0].as_ref().expect("settings").entries;
        let own = entries
            .iter()
            .filter(|entry| entry.source == ConfigSource::DynamicTopic);
        Some(
            own.map(|entry| (entry.name.clone(), entry.value.clone().unwrap_or_default()))
                .collect(),
        )
    }
}

impl KafkaSide for Kafka<'_> {
    fn create_topic<'a>(&'a self, name: &'a str, partitions: u32, config: &'a Fields) -> Side<'a, ()> {
        Box::pin(async move {
            let mut topic = NewTopic::new(name, partitions.cast_signed(), TopicReplication::Fixed(1));
            for (key, value) in config {
                topic = topic.set(key, value);
            }
            let made = self
                .admin()
                .create_topics([&topic], &AdminOptions::new())
                .await
                .expect("an answer");
            assert!(made[0].is_ok(), "{made:?}");
            Self::until("the topic", || self.overrides(name)).await;
        })
    }

    fn delete_topic<'a>(&'a self, name: &'a str) -> Side<'a, ()> {
        Box::pin(async move {
            let gone = self
                .admin()
                .delete_topics(&[name], &AdminOptions::new())
                .await
                .expect("an answer");
            assert!(gone[0].is_ok(), "{gone:?}");
            Self::until("the deletion", || async {
                self.overrides(name).await.is_none().then_some(())
            })
            .await;
        })
    }

    fn configure<'a>(&'a self, name: &'a str, config: &'a Fields) -> Side<'a, ()> {
        Box::pin(async move {
            let mut alter = AlterConfig::new(ResourceSpecifier::Topic(name));
            for (key, value) in config {
                alter = alter.set(key, value);
            }
            let altered = self
                .admin()
                .alter_configs([&alter], &AdminOptions::new())
                .await
                .expect("an answer");
            assert!(altered[0].is_ok(), "{altered:?}");
            let there = || async { (self.overrides(name).await.as_ref() == Some(config)).then_some(()) };
            Self::until("the settings", there).await;
        })
    }

    fn config<'a>(&'a self, name: &'a str) -> Side<'a, Option<Fields>> {
        Box::pin(self.overrides(name))
    }

    fn create_group<'a>(&'a self, group: &'a str, topic: &'a str) -> Side<'a, ()> {
        Box::pin(async move {
            let consumer: BaseConsumer = self.config().set("group.id", group).create().expect("a client");
            let mut offsets = TopicPartitionList::new();
            offsets
                .add_partition_offset(topic, 0, Offset::Offset(0))
                .expect("an offset");
            let commit = || async { consumer.commit(&offsets, CommitMode::Sync).ok() };
            Self::until("the first commit", commit).await;
        })
    }

    fn stop(&self) -> Side<'_, ()> {
        Box::pin(async {
            self.kit.kill(Component::Kafka(1)).expect("Kafka is killed");
        })
    }

    fn start(&self) -> Side<'_, ()> {
        Box::pin(async {
            self.kit.start(Component::Kafka(1)).expect("Kafka starts");
        })
    }
}

async fn topics(kit: &Instance, run: &str) -> Result<()> {
    let bootstrap = kit.kafka_bootstrap()?;
    let side = Kafka {
        kit,
        bootstrap: bootstrap.clone(),
    };
    let brokers = bootstrap.split(',').count();
    let brokers = u32::try_from(brokers).expect("a few brokers");
    contract::topics(
        &KafkaAdmin::new(),
        &side,
        &bootstrap,
        &format!("contract-{run}"),
        brokers,
    )
    .await;
    remove(&side, &format!("contract-{run}")).await;
    Ok(())
}

/// Deletes what a suite left.
async fn remove(side: &Kafka<'_>, prefix: &str) {
    let reader: BaseConsumer = side
        .config()
        .set("group.id", "contract")
        .create()
        .expect("a client");
    let metadata = reader.fetch_metadata(None, LIMIT).expect("metadata");
    let left: Vec<&str> = metadata
        .topics()
        .iter()
        .map(|t| t.name())
        .filter(|name| name.starts_with(prefix))
        .collect();
    if !left.is_empty() {
        side.admin()
            .delete_topics(&left, &AdminOptions::new())
            .await
            .expect("an answer");
    }
}

fn spec(name: String) -> TopicSpec {
    TopicSpec {
        name,
        partitions: 1,
        replication: None,
        retention: Duration::from_secs(3600),
        config: BTreeMap::new(),
    }
}

/// Operators of two clusters share a Kafka and no Lease. Whoever is second, by a hair or by a day, must be told.
async fn two_operators_that_know_nothing_of_each_other_agree(kit: &Instance, run: &str) -> Result<()> {
    let bootstrap = kit.kafka_bootstrap()?;
    let operators = [KafkaAdmin::new(), KafkaAdmin::new(), KafkaAdmin::new()];
    for round in 0..5 {
        let spec = spec(format!("shared-{run}.round-{round}"));
        let claims: Vec<_> = (0..3)
            .map(|n| Claim::new(Owner::new(&format!("cluster-{n}"), "growth", "events"), false))
            .collect();
        let all = operators
            .iter()
            .zip(&claims)
            .map(|(operator, claim)| operator.ensure_topic(&bootstrap, &spec, claim));
        futures::future::join_all(all).await;
        // Whatever the race said: from now on exactly one is served, and the others are told who that is.
        let mut served = 0;
        for (operator, claim) in operators.iter().zip(&claims) {
            match operator.ensure_topic(&bootstrap, &spec, claim).await {
                Ok(_) => served += 1,
                Err(ProvisionError::OwnedBy { owner, .. }) => assert_ne!(owner, claim.owner),
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(served, 1, "round {round}");
    }
    remove(&Kafka { kit, bootstrap }, &format!("shared-{run}")).await;
    Ok(())
}

/// One Kafka that is away must not make a hundred pipelines wait for each other.
async fn a_hundred_pipelines_hear_of_an_outage_in_time(kit: &Instance, run: &str) -> Result<()> {
    let bootstrap = kit.kafka_bootstrap()?;
    let admin = KafkaAdmin::new();
    assert_eq!(admin.ping(&bootstrap).await, Ok(()));
    kit.kill(Component::Kafka(1))?;
    let specs: Vec<_> = (0..100).map(|n| spec(format!("outage-{run}.{n}"))).collect();
    let claim = Claim::new(Owner::new("cluster", "growth", "events"), false);
    let begun = std::time::Instant::now();
    let all = specs
        .iter()
        .map(|spec| admin.ensure_topic(&bootstrap, spec, &claim));
    let answers = futures::future::join_all(all).await;
    let took = begun.elapsed();
    kit.start(Component::Kafka(1))?;
    for answer in answers {
        let error = answer.expect_err("Kafka is away");
        assert_eq!(error.class(), Class::Transient, "{error}");
    }
    assert!(took < Duration::from_secs(10), "took {took:?}");
    Ok(())
}
