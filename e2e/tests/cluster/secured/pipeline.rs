//! A pipeline with services of its own, which ask who is there: what it says while it is not let in, and how it goes on when
//! that is mended, or changed, in a Secret.

use std::time::Duration;

use penstock_e2e::secured::Authority;
use penstock_e2e::trial::{APP, Trial, Turn, within};
use penstock_e2e::{Error, Instance, Result, short_id};
use redis::Commands as _;

use super::{
    FIRST, Own, PATIENCE, SECOND, bar_user, both, let_in, locked_out, make_user, own_services,
    redis_administration, redis_user, replaced, unnoticed,
};

#[test]
fn a_pipeline_has_secured_services_of_its_own() -> Result<()> {
    let kit = Turn::beside_others()?;
    let name = format!("own-{}", short_id()?);
    kit.set_kafka_password(&name, FIRST)?;
    make_user(&kit, &name, FIRST)?;
    let trial = Trial::empty(&kit, "own")?;
    let own = Own {
        trial: &trial,
        name: &name,
    };
    trial.apply(&trial.app(APP))?;
    trial.apply(&trial.pipeline(&own_services(&kit)?))?;

    // One after the other is asked for by its field.
    let asked = |field: &str, why: &str| {
        within(30, &format!("{field} is asked for"), || {
            let said = own.says()?;
            Ok(said.contains(field) && said.contains(why))
        })
    };
    asked("kafka.tls.caSecret", "there is no Secret authority")?;
    // What concerns Apps does not wait for that.
    within(30, "the list of Apps", || {
        Ok(trial
            .kubectl(&["get", "configmap", "-o", "name"])?
            .contains("events-apps"))
    })?;
    let authority = std::fs::read_to_string(&kit.client_certificate().ca)
        .map_err(|error| Error::new(error.to_string()))?;
    own.secret("authority", &[("ca.crt", &authority)])?;
    asked("clickhouse.secret", "there is no Secret clickhouse")?;
    own.user("clickhouse", FIRST)?;
    own.secret("kafka", &[("username", &name)])?;
    asked("kafka.sasl.secret", "has no member password")?;
    own.user("kafka", "neither of them")?;
    own.user("redis", FIRST)?;
    // A wrong password is said as what it is, and mended by the Secret alone.
    within(60, "Kafka lets nobody in", || {
        Ok(own.says()?.contains("uthentication failed"))
    })?;
    // Also when it has been known for a while.
    std::thread::sleep(Duration::from_secs(15));
    assert!(own.says()?.contains("uthentication failed"), "{}", own.says()?);
    own.user("kafka", FIRST)?;
    trial.ready()?;

    let traffic = trial.traffic(APP)?;
    let before = both(&trial)?;
    let_in(&trial, 60)?;
    // Both of them: what is refused at first is tried again until the new password has come.
    let mut sent = unnoticed(&traffic, || {
        make_user(&kit, &name, SECOND)?;
        locked_out(&trial)?;
        own.user("clickhouse", SECOND)?;
        own.user("redis", SECOND)?;
        let_in(&trial, 120)
    })?;
    trial.settle(&sent, PATIENCE)?;
    assert_eq!(
        both(&trial)?,
        before,
        "no pod restarts for a password of ClickHouse or Redis"
    );

    sent.merge(unnoticed(&traffic, || {
        kit.set_kafka_password(&name, SECOND)?;
        own.user("kafka", SECOND)?;
        replaced(&trial, &before)
    })?);

    // A Secret that goes is missed, and stops nothing.
    trial.kubectl(&["delete", "secret", "clickhouse"])?;
    asked("clickhouse.secret", "there is no Secret clickhouse")?;
    let few = traffic.send(100, 10, 2, Duration::from_millis(100), Duration::from_secs(30))?;
    sent.merge(few);
    trial.settle(&sent, PATIENCE)?;
    own.user("clickhouse", SECOND)?;
    trial.ready()?;
    let logs = trial.kubectl(&["logs", "-l", "app.kubernetes.io/name=penstock", "--tail=-1"])?;
    let operator = kit.kubectl_output(&[
        "-n",
        "penstock-system",
        "logs",
        "deployment/penstock",
        "--tail=-1",
    ])?;
    for said in [logs, operator] {
        assert!(
            !said.contains(FIRST) && !said.contains(SECOND),
            "a password is in a log"
        );
    }
    // Deleting what it made takes the same users.
    trial.kubectl(&[
        "patch",
        "ingestionpipeline",
        "events",
        "--type=merge",
        "-p",
        "{\"spec\":{\"deletionPolicy\":\"Delete\"}}",
    ])?;
    trial.kubectl(&["delete", "ingestionpipeline", "events", "--timeout=60s"])?;
    let tables = format!(
        "SELECT count() FROM system.tables WHERE database = '{}'",
        trial.namespace().replace('-', "_")
    );
    assert_eq!(kit.clickhouse(&tables)?.trim(), "0");
    bar_user(&kit, &name)
}

/// Pods do without Redis, and so does `Ready`: that the operator is not let in there shows in a condition of its own.
#[test]
fn limits_are_kept_in_a_redis_that_asks_who_is_there() -> Result<()> {
    let kit = Turn::beside_others()?;
    let name = format!("limits-{}", short_id()?);
    redis_user(&kit, &name, FIRST)?;
    let trial = Trial::empty(&kit, "limits")?;
    let own = Own {
        trial: &trial,
        name: &name,
    };
    let (authority, stranger) = (kit.authority()?, Authority::new("a stranger")?);
    own.secret("authority", &[("ca.crt", &stranger.certificate)])?;
    own.user("redis", "neither of them")?;
    trial.apply(&trial.app(APP))?;
    trial.apply(&trial.pipeline(&format!(
        "  ingest: {{scaling: {{replicas: 1}}}}\n  \
         redis: {{address: '{}', tls: {{caSecret: authority}}, secret: redis}}\n",
        kit.secured_redis()
    )))?;
    own.complains("QuotasReady", "UnknownIssuer")?;
    own.secret("authority", &[("ca.crt", &authority.certificate)])?;
    own.complains("QuotasReady", "AuthenticationFailed")?;
    trial.ready()?;

    let kept = || trial.condition("QuotasReady", "True", Duration::from_secs(60));
    let limited = |events: u64| {
        let limit = format!("{{\"spec\":{{\"quota\":{{\"eventsPerDay\":{events}}}}}}}");
        trial.kubectl(&["patch", "app", APP, "--type=merge", "-p", &limit])?;
        let app = trial.app_id(APP)?;
        within(60, "the limit in Redis", || {
            Ok(limit_of(&kit, &app)? == Some(events))
        })
    };
    own.user("redis", FIRST)?;
    assert_eq!(kept()?.0, "Available");
    limited(1_000_000)?;

    redis_user(&kit, &name, SECOND)?;
    let mut administer = redis_administration(&kit)?;
    administer(&["CLIENT", "KILL", "USER", &name])?;
    own.complains("QuotasReady", "AuthenticationFailed")?;
    own.user("redis", SECOND)?;
    assert_eq!(kept()?.0, "Available");
    limited(2_000_000)?;

    // A Redis that the pipeline has not named before has no limits, be they fresh in the other.
    let app = trial.app_id(APP)?;
    forget_limit(&kit, &app)?;
    let plain = format!(
        "{{\"spec\":{{\"redis\":{{\"address\":\"{}\",\"tls\":null,\"secret\":null}}}}}}",
        kit.redis_address()
    );
    trial.kubectl(&["patch", "ipl", "events", "--type=merge", "-p", &plain])?;
    within(30, "the limit in the next Redis", || {
        Ok(limit_of(&kit, &app)? == Some(2_000_000))
    })?;
    administer(&["ACL", "DELUSER", &name])
}

/// What the operator has put into Redis.
fn limit_of(kit: &Instance, app: &str) -> Result<Option<u64>> {
    of_limit(kit, app, |redis, key| redis.hget(key, "events_per_day")).map(Option::flatten)
}

fn forget_limit(kit: &Instance, app: &str) -> Result<()> {
    let forgotten: Option<u64> = of_limit(kit, app, |redis, key| redis.del(key))?;
    assert_eq!(forgotten, Some(1));
    Ok(())
}

/// Asks Redis about the limits of an App, if it has any.
fn of_limit<T>(
    kit: &Instance,
    app: &str,
    ask: impl FnOnce(&mut redis::Connection, &str) -> redis::RedisResult<T>,
) -> Result<Option<T>> {
    let asked = || {
        let mut redis = redis::Client::open(format!("redis://{}", kit.redis_address()))?.get_connection()?;
        let keys: Vec<String> = redis.keys(format!("*:quota:{app}"))?;
        keys.first().map(|key| ask(&mut redis, key)).transpose()
    };
    asked().map_err(|error: redis::RedisError| Error::new(error.to_string()))
}
