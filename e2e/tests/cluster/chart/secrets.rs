//! An installation that has who may be trusted, and who it is to Kafka, ClickHouse and Redis, from the Secrets that the
//! guide's values name: installed, its passwords changed while events arrive, and told to show certificates instead.

use std::time::Duration;

use penstock_e2e::trial::{APP, Acknowledged, Trial, within};
use penstock_e2e::{Instance, Result, short_id};
use uuid::Uuid;

use super::{guide_values, succeeds};
use crate::process::Cluster;
use crate::secured::{
    FIRST, Own, SECOND, both, condition_field, let_in, locked_out, redis_administration, redis_user, replaced,
};

const PATIENCE: Duration = Duration::from_secs(120);

/// A release in a trial's namespace, for that namespace alone: with the right to nothing else, it shares no object of the
/// cluster with the installed one.
struct Release<'t> {
    kit: &'t Instance,
    trial: &'t Trial<'t>,
    image: &'t str,
}

impl Release<'_> {
    /// `helm install` or `helm upgrade`, until its operator is ready.
    fn put(&self, verb: &str, values: &str) {
        let (namespace, (repository, tag)) = (
            self.trial.namespace(),
            self.image.rsplit_once(':').expect("an image with a tag"),
        );
        let values = format!(
            "image: {{repository: {repository}, tag: '{tag}', pullPolicy: Never}}\nclusterId: {namespace}\n\
             watchNamespaces: [{namespace}]\ncrds: {{install: false}}\nrbac: {{aggregate: false}}\n{values}"
        );
        let mut helm = self.kit.helm();
        helm.args([verb, "penstock"])
            .arg(self.kit.repository().join("charts/penstock"))
            .args(["--namespace", namespace, "--values", "-"])
            .args(["--wait", "--timeout", "120s"]);
        succeeds(&mut helm, &values);
    }

    /// Has kubelet renew the files of the operator's pod now, which it does within a minute and a half anyway.
    fn renew_files(&self) -> Result<()> {
        // It must have seen the Secrets first.
        std::thread::sleep(Duration::from_secs(1));
        let mark = format!("test/renewed={}", Uuid::new_v4().simple());
        let selector = "app.kubernetes.io/component=operator";
        self.trial
            .kubectl(&["annotate", "pods", "-l", selector, "--overwrite", &mark])
            .map(drop)
    }

    /// Has another pipeline's topics made, for which Kafka refuses the operator until `mended`. What it has logged in to
    /// once stays open, so `brokers` are the same under a name that it has not used yet.
    fn topics_of_another(&self, brokers: &str, mended: impl FnOnce() -> Result<()>) -> Result<()> {
        let spec = format!("  deletionPolicy: Delete\n  kafka: {{bootstrap: '{brokers}'}}\n");
        let another = self.trial.pipeline(&spec);
        self.trial
            .apply(&another.replace("{name: events,", "{name: another,"))?;
        let topics = |field: &str| condition_field(self.trial, "another", "TopicsReady", field);
        within(60, "Kafka refuses the operator", || {
            Ok(topics("message")?.contains("uthentication failed"))
        })?;
        mended()?;
        let took = within(120, "the other pipeline's topics", || {
            Ok(topics("status")? == "True")
        })?;
        println!("the operator was let in {took:?} after its Secret had changed");
        self.trial
            .kubectl(&["delete", "ipl", "another", "--timeout=60s"])
            .map(drop)
    }
}

/// The guide's values for secured services, with those of the kit.
fn secured_values(kit: &Instance) -> Result<String> {
    let [_, mut values] = guide_values(kit);
    for (example, own) in [
        ("kafka-0.example:9093,kafka-1.example:9093", kit.secured_kafka()?),
        ("https://clickhouse.example:8443", kit.secured_clickhouse()),
        ("redis.example:6380", kit.secured_redis()),
    ] {
        assert!(values.contains(example), "{example}: {values}");
        values = values.replace(example, &own);
    }
    Ok(values)
}

#[test]
fn an_installation_on_secured_services_goes_on_while_its_secrets_change() -> Result<()> {
    let cluster = Cluster::alone()?;
    let kit = &cluster.kit;
    let id = short_id()?;
    let (name, operator) = (format!("pods-{id}"), format!("operator-{id}"));
    kit.set_kafka_password(&name, FIRST)?;
    kit.set_kafka_password(&operator, FIRST)?;
    kit.set_clickhouse_password(&name, FIRST, false)?;
    let mut administer = redis_administration(kit)?;
    redis_user(kit, &name, FIRST)?;

    let trial = Trial::empty(kit, "secured")?;
    let own = Own {
        trial: &trial,
        name: &name,
    };
    let authority = kit.authority()?;
    own.secret("example-ca", &[("ca.crt", &authority.certificate)])?;
    let admin = kit.clickhouse_users()?.admin;
    let its_own = Own {
        trial: &trial,
        name: &operator,
    };
    its_own.user("kafka-admin", FIRST)?;
    own.secret(
        "clickhouse-admin",
        &[("username", &admin.user), ("password", &admin.password)],
    )?;
    for secret in ["kafka-pods", "clickhouse-consumer", "redis-user"] {
        own.user(secret, FIRST)?;
    }
    let release = Release {
        kit,
        trial: &trial,
        image: &cluster.image,
    };
    let values = secured_values(kit)?;
    release.put("install", &values);
    trial.apply(&trial.app(APP))?;
    trial.apply(&trial.pipeline("  ingest: {scaling: {replicas: 2}}\n"))?;
    trial.ready()?;

    let traffic = trial.traffic(APP)?;
    let send = || traffic.send(100, 10, 2, Duration::from_millis(100), Duration::from_secs(60));
    let before = both(&trial)?;
    let_in(&trial, 60)?;
    let (mut sent, ()) = Acknowledged::meanwhile(send, || {
        kit.set_clickhouse_password(&name, SECOND, false)?;
        redis_user(kit, &name, SECOND)?;
        administer(&["CLIENT", "KILL", "USER", &name])?;
        locked_out(&trial)?;
        own.user("clickhouse-consumer", SECOND)?;
        own.user("redis-user", SECOND)?;
        release.renew_files()?;
        let_in(&trial, 180)
    })?;
    assert_eq!((sent.failed, &sent.errors), (0, &Vec::new()));
    trial.settle(&sent, PATIENCE)?;
    assert_eq!(
        both(&trial)?,
        before,
        "no pod restarts for a password of ClickHouse or Redis"
    );

    let (more, ()) = Acknowledged::meanwhile(send, || {
        kit.set_kafka_password(&name, SECOND)?;
        own.user("kafka-pods", SECOND)?;
        release.renew_files()?;
        replaced(&trial, &before)
    })?;
    assert_eq!((more.failed, &more.errors), (0, &Vec::new()));
    sent.merge(more);

    let operators = trial.pods("operator")?;
    kit.set_kafka_password(&operator, SECOND)?;
    release.topics_of_another(&format!("{0},{0}", kit.secured_kafka()?), || {
        its_own.user("kafka-admin", SECOND)?;
        release.renew_files()
    })?;
    assert_eq!(
        trial.pods("operator")?,
        operators,
        "it needs no restart for its own password"
    );

    // Kafka is told by certificates from now on, at another address, by the operator, too: it is another process.
    own.certificate("kafka-admin-cert", &authority.client("operator")?)?;
    own.certificate("kafka-pod-cert", &authority.client("pods")?)?;
    let (_, others) = values.split_once("clickhouse:").expect("Kafka comes first");
    let values = format!(
        "kafka:\n  bootstrap: {}\n  tls: {{enabled: true, caSecret: example-ca, adminCertSecret: kafka-admin-cert, \
         podCertSecret: kafka-pod-cert}}\nclickhouse:{others}",
        kit.mutual_kafka()?
    );
    let before = both(&trial)?;
    let (more, ()) = Acknowledged::meanwhile(send, || {
        release.put("upgrade", &values);
        replaced(&trial, &before)
    })?;
    assert_eq!((more.failed, &more.errors), (0, &Vec::new()));
    sent.merge(more);
    trial.settle(&sent, PATIENCE)?;
    let logs = trial.kubectl(&[
        "logs",
        "-l",
        "app.kubernetes.io/name=penstock",
        "--tail=-1",
        "--prefix",
    ])?;
    assert!(
        logs.contains("this operator leads"),
        "the operator's log is among them"
    );
    for secret in [FIRST, SECOND, &admin.password] {
        assert!(!logs.contains(secret), "a password is in a log");
    }

    // It makes what is asked for there, and not only what was there before.
    let longer = "{\"spec\":{\"kafka\":{\"retention\":\"8d\"}}}";
    trial.kubectl(&["patch", "ipl", "events", "--type=merge", "-p", longer])?;
    trial.ready()?;
    administer(&["ACL", "DELUSER", &name])
}
