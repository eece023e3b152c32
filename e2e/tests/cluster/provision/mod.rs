//! The operator's provisioning on real services: the same contract that its fakes keep.

mod clickhouse;
mod kafka;

use std::collections::BTreeMap;
use std::time::Duration;

use penstock_dataplane_config::table::quote_identifier;
use penstock_dataplane_config::{KafkaCluster, RedisTarget};
use penstock_e2e::trial::SpareKafka;
use penstock_e2e::{Instance, Result, short_id};
use penstock_provision::contract::{self, Fields, RedisSide, Side};
use penstock_provision::{
    Claim, Class, ClickHouseAdmin, ClickHouseServer, KafkaAdmin, Owner, ProvisionError, RedisQuotas,
    TableAdmin, TopicAdmin, TopicSpec,
};

use self::clickhouse::ClickHouse;
use self::kafka::{Kafka, remove};

/// One run of everything, in order.
#[test]
fn provisioning_keeps_its_contract_on_real_services() -> Result<()> {
    let (kit, kafka) = SpareKafka::turn()?;
    let kafka = kafka.start(&kit)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let run = short_id()?;
    runtime.block_on(async {
        quotas(&kit, &run).await;
        tables(&kit, &run).await?;
        topics(&kafka, &run).await?;
        operators_that_know_nothing_of_each_other_agree(&kafka, &run).await?;
        a_hundred_pipelines_hear_of_an_outage_in_time(&kafka, &run).await?;
        Ok(())
    })
}

struct Redis(redis::Client);

impl RedisSide for Redis {
    fn set<'a>(&'a self, key: &'a str, fields: &'a [(&'a str, u64)]) -> Side<'a, ()> {
        Box::pin(async move {
            let mut connection = self
                .0
                .get_multiplexed_async_connection()
                .await
                .expect("Redis answers");
            let mut command = redis::cmd("HSET");
            command.arg(key);
            for (field, count) in fields {
                command.arg(field).arg(count);
            }
            command.exec_async(&mut connection).await.expect("HSET");
        })
    }

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
        database: 3,
        prefix: format!("contract-{run}"),
        ..RedisTarget::at(address)
    };
    contract::quotas(&RedisQuotas::new(), &side, &target).await;
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
    let server = ClickHouseServer {
        url: url.clone(),
        username_file: Some(file("username", &admin.user)),
        password_file: Some(file("password", &admin.password)),
        tls: None,
    };
    let tables = ClickHouseAdmin::new();
    contract::tables(&tables, &ClickHouse(kit), &server, &format!("contract_{run}")).await;

    // A rotated password is read again, and a wrong one is not mistaken for a server that is away.
    file("password", "wrong");
    let refused = tables.ping(&server).await.expect_err("a wrong password");
    assert!(matches!(refused, ProvisionError::Rejected { .. }), "{refused:?}");
    assert!(
        !refused.to_string().contains("wrong"),
        "the password is in the message: {refused}"
    );
    file("password", &admin.password);
    assert_eq!(tables.ping(&server).await, Ok(()));
    // Whoever names the same address without credentials has nothing of it.
    let without = tables.ping(&ClickHouseServer::open(&url)).await;
    assert!(matches!(without, Err(ProvisionError::Rejected { .. })));

    let statement = format!("SELECT name FROM system.databases WHERE startsWith(name, 'contract_{run}')");
    for database in ClickHouse(kit).run(&statement).lines() {
        ClickHouse(kit).run(&format!("DROP DATABASE {} SYNC", quote_identifier(database)));
    }
    Ok(())
}

async fn topics(kafka: &SpareKafka<'_>, run: &str) -> Result<()> {
    let cluster = KafkaCluster::open(&kafka.bootstrap());
    let side = Kafka::new(kafka)?;
    let brokers = u32::try_from(kafka.components().count()).expect("a few brokers");
    contract::topics(
        &KafkaAdmin::new(),
        &side,
        &cluster,
        &format!("contract-{run}"),
        brokers,
    )
    .await;
    remove(&side, &format!("contract-{run}")).await;
    Ok(())
}

fn spec(name: String) -> TopicSpec {
    TopicSpec {
        keeps_keys: false,
        name,
        partitions: 1,
        replication: None,
        retention: Duration::from_secs(3600),
        config: BTreeMap::new(),
    }
}

/// Operators of two clusters share a Kafka and no Lease. Whoever is second, by a hair or by a day, must be told.
async fn operators_that_know_nothing_of_each_other_agree(kafka: &SpareKafka<'_>, run: &str) -> Result<()> {
    let cluster = KafkaCluster::open(&kafka.bootstrap());
    let operators = [KafkaAdmin::new(), KafkaAdmin::new(), KafkaAdmin::new()];
    for round in 0..5 {
        let spec = spec(format!("shared-{run}.round-{round}"));
        let claims: Vec<_> = (0..3)
            .map(|n| Claim::new(Owner::new(&format!("cluster-{n}"), "growth", "events"), false))
            .collect();
        let all = operators
            .iter()
            .zip(&claims)
            .map(|(operator, claim)| operator.ensure_topic(&cluster, &spec, claim));
        futures::future::join_all(all).await;
        // Whatever the race said: from now on exactly one is served, and the others are told who that is.
        let mut served = 0;
        for (operator, claim) in operators.iter().zip(&claims) {
            // The broker that answers may not have heard yet of what the winner made.
            let settled = Kafka::until("an answer that stays", || async {
                let answer = operator.ensure_topic(&cluster, &spec, claim).await;
                let passes = matches!(&answer, Err(error) if error.class() == Class::Transient);
                (!passes).then_some(answer)
            });
            match settled.await {
                Ok(_) => served += 1,
                Err(ProvisionError::OwnedBy { owner, .. }) => assert_ne!(owner, claim.owner),
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(served, 1, "round {round}");
    }
    remove(&Kafka::new(kafka)?, &format!("shared-{run}")).await;
    Ok(())
}

/// One Kafka that is away must not make a hundred pipelines wait for each other.
async fn a_hundred_pipelines_hear_of_an_outage_in_time(kafka: &SpareKafka<'_>, run: &str) -> Result<()> {
    let cluster = KafkaCluster::open(&kafka.bootstrap());
    let admin = KafkaAdmin::new();
    assert_eq!(admin.ping(&cluster).await, Ok(()));
    kafka.kill()?;
    let specs: Vec<_> = (0..100).map(|n| spec(format!("outage-{run}.{n}"))).collect();
    let claim = Claim::new(Owner::new("cluster", "growth", "events"), false);
    let begun = std::time::Instant::now();
    let all = specs
        .iter()
        .map(|spec| admin.ensure_topic(&cluster, spec, &claim));
    let answers = futures::future::join_all(all).await;
    let took = begun.elapsed();
    kafka.start()?;
    for answer in answers {
        let error = answer.expect_err("Kafka is away");
        assert_eq!(error.class(), Class::Transient, "{error}");
    }
    assert!(took < Duration::from_secs(10), "took {took:?}");
    Ok(())
}
