//! Who signs the certificates of a pipeline's own services, and under which names it is known to them, exchanged while events
//! arrive: no event is dropped, and no pod replaced that need not. (`pipeline` changes passwords.)

use std::time::Duration;

use penstock_e2e::secured::{Authority, Issued};
use penstock_e2e::trial::{APP, SpareKafka, Trial, Turn, within};
use penstock_e2e::{Instance, Result, short_id};

use super::front::Front;
use super::{
    BOTH, FIRST, Own, PATIENCE, SECOND, bar_user, both, consumers_replaced, let_in, locked_out, make_user,
    own_services, replaced, say, unnoticed,
};

fn a_name() -> Result<String> {
    Ok(format!("own-{}", short_id()?))
}

/// Both services' encrypted ends.
struct Fronts {
    clickhouse: Front,
    redis: Front,
}

impl Fronts {
    fn start(kit: &Instance, issued: &Issued) -> Result<Self> {
        let url = kit.clickhouse_url();
        Ok(Self {
            clickhouse: Front::start(url.trim_start_matches("http://"), issued)?,
            redis: Front::start(&kit.redis_address(), issued)?,
        })
    }

    fn show(&self, issued: &Issued) -> Result<()> {
        self.clickhouse.show(issued)?;
        self.redis.show(issued)
    }
}

#[test]
fn who_signs_for_clickhouse_and_redis_is_exchanged_while_events_arrive() -> Result<()> {
    let kit = Turn::beside_others()?;
    let (old, new) = (
        Authority::new("one authority")?,
        Authority::new("the next authority")?,
    );
    let (before, after) = (old.services()?, new.services()?);
    let fronts = Fronts::start(&kit, &before)?;
    let name = a_name()?;
    make_user(&kit, &name, FIRST)?;
    let trial = Trial::empty(&kit, "authority")?;
    let own = Own {
        trial: &trial,
        name: &name,
    };
    let trust = |certificates: &str| {
        ["clickhouse-ca", "redis-ca"]
            .iter()
            .try_for_each(|secret| own.secret(secret, &[("ca.crt", certificates)]))
    };
    trust(&old.certificate)?;
    own.user("user", FIRST)?;
    trial.apply(&trial.app(APP))?;
    trial.apply(&trial.pipeline(&format!(
        "  ingest: {{scaling: {{replicas: 2}}}}\n  \
         clickhouse: {{url: 'https://{}', caSecret: clickhouse-ca, secret: user}}\n  \
         redis: {{address: '{}', tls: {{caSecret: redis-ca}}, secret: user}}\n",
        fronts.clickhouse.address(),
        fronts.redis.address()
    )))?;
    trial.ready()?;
    let traffic = trial.traffic(APP)?;
    let_in(&trial, 60)?;

    let pods = both(&trial)?;
    let mut sent = unnoticed(&traffic, || {
        trust(&format!("{}{}", old.certificate, new.certificate))?;
        consumers_replaced(&trial, &pods)?;
        fronts.show(&after)?;
        // And the operator.
        let (consumers, all) = (pods.1.len() + 1, pods.0.len() + pods.1.len() + 1);
        within(60, "all see what the next one has signed", || {
            Ok(fronts.redis.trusting() >= all && fronts.clickhouse.trusting() >= consumers)
        })?;
        let_in(&trial, 60)
    })?;
    let pods = both(&trial)?;
    sent.merge(unnoticed(&traffic, || {
        trust(&new.certificate)?;
        consumers_replaced(&trial, &pods)?;
        // In time: kubelet brings the file to pods that stay.
        within(120, "nobody trusts what the first one has signed", || {
            fronts.show(&before)?;
            std::thread::sleep(Duration::from_secs(3));
            let found = [
                say(&trial, &BOTH, "redis")?,
                say(&trial, &["consume"], "clickhouse")?,
            ];
            Ok(!found.concat().contains(&true))
        })?;
        for condition in ["TablesReady", "QuotasReady"] {
            own.complains(condition, "UnknownIssuer")?;
        }
        fronts.show(&after)?;
        let_in(&trial, 120)
    })?);
    trial.settle(&sent, PATIENCE)?;
    trial.ready()?;
    trial.condition("QuotasReady", "True", Duration::from_secs(30))?;
    assert_eq!(both(&trial)?.0, pods.0, "ingest has nothing to restart for");
    bar_user(&kit, &name)
}

#[test]
fn users_are_exchanged_for_others_while_events_arrive() -> Result<()> {
    let kit = Turn::beside_others()?;
    let (first, second) = (a_name()?, a_name()?);
    make_user(&kit, &first, FIRST)?;
    kit.set_kafka_password(&first, FIRST)?;
    let trial = Trial::empty(&kit, "users")?;
    let [own, other] = [&first, &second].map(|name| Own { trial: &trial, name });
    own.secret("authority", &[("ca.crt", &kit.authority()?.certificate)])?;
    for secret in ["kafka", "clickhouse", "redis"] {
        own.user(secret, FIRST)?;
    }
    trial.apply(&trial.app(APP))?;
    trial.apply(&trial.pipeline(&format!(
        "  ingest: {{scaling: {{replicas: 2}}}}\n{}",
        own_services(&kit)?
    )))?;
    trial.ready()?;
    let traffic = trial.traffic(APP)?;
    let_in(&trial, 60)?;

    let pods = both(&trial)?;
    let mut sent = unnoticed(&traffic, || {
        make_user(&kit, &second, SECOND)?;
        bar_user(&kit, &first)?;
        locked_out(&trial)?;
        other.user("clickhouse", SECOND)?;
        other.user("redis", SECOND)?;
        let_in(&trial, 120)
    })?;
    trial.settle(&sent, PATIENCE)?;
    assert_eq!(
        both(&trial)?,
        pods,
        "no pod restarts for a user of ClickHouse or Redis"
    );
    sent.merge(unnoticed(&traffic, || {
        kit.set_kafka_password(&second, SECOND)?;
        other.user("kafka", SECOND)?;
        kit.set_kafka_password(&first, "nobody knows")?;
        replaced(&trial, &pods)
    })?);
    trial.settle(&sent, PATIENCE)?;
    // The operator still makes what is asked for.
    let longer = "{\"spec\":{\"kafka\":{\"retention\":\"8d\"}}}";
    trial.kubectl(&["patch", "ipl", "events", "--type=merge", "-p", longer])?;
    trial.ready()?;
    bar_user(&kit, &second)
}

/// Ingest itself logs in there, and goes on as somebody else when it is told to.
#[test]
fn events_are_stored_directly_in_a_clickhouse_that_asks_who_is_there() -> Result<()> {
    let (kit, kafka) = SpareKafka::turn()?;
    let kafka = kafka.start(&kit)?;
    let (first, second) = (a_name()?, a_name()?);
    kit.set_clickhouse_password(&first, FIRST, true)?;
    let trial = Trial::empty(&kit, "direct")?;
    let [own, other] = [&first, &second].map(|name| Own { trial: &trial, name });
    own.secret("authority", &[("ca.crt", &kit.authority()?.certificate)])?;
    own.user("user", FIRST)?;
    trial.apply(&trial.app(APP))?;
    trial.apply(&trial.pipeline(&format!(
        "  ingest: {{scaling: {{replicas: 1}}, limits: {{kafkaTimeout: 1s, requestTimeout: 4s}}, \
         onKafkaOutage: Direct}}\n{}  clickhouse: {{url: '{}', caSecret: authority, secret: user}}\n",
        kafka.spec(),
        kit.secured_clickhouse()
    )))?;
    trial.ready()?;
    let traffic = trial.traffic(APP)?;
    let few = || traffic.send(100, 10, 1, Duration::ZERO, Duration::from_secs(60));
    let mut sent = few()?;
    let pods = both(&trial)?;
    kafka.kill()?;
    let answered = |status: u16, durability: Option<&str>| {
        within(
            60,
            &format!("events are answered {status} {durability:?}"),
            || {
                let (found, told) = traffic.once_told()?;
                Ok((found, told.as_deref()) == (status, durability))
            },
        )
    };
    answered(200, Some("direct"))?;
    let mut direct = few()?;
    kit.set_clickhouse_password(&first, "nobody knows", true)?;
    answered(503, None)?;
    kit.set_clickhouse_password(&second, SECOND, true)?;
    other.user("user", SECOND)?;
    let took = answered(200, Some("direct"))?;
    println!("events were stored as the other user after {took:?}");
    direct.merge(unnoticed(&traffic, || Ok(()))?);
    let stored = trial.stored()?;
    assert!(
        !direct.ids.is_empty() && direct.ids.iter().all(|id| stored.contains(id)),
        "they are in the table while Kafka is away"
    );
    sent.merge(direct);
    assert_eq!(both(&trial)?.0, pods.0, "ingest has nothing to restart for");
    kafka.start()?;
    trial.ready()?;
    sent.merge(few()?);
    trial.settle(&sent, PATIENCE)
}
