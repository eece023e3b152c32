//! Encrypted connections to services that ask who is there: here the data plane by itself, with what it says when it is not
//! let in; in `pipeline` a pipeline with services of its own, whose passwords are changed while events arrive; in `rotation`
//! the same with users' names and the services' authority. (`certificates` changes what Kafka is shown instead,
//! `chart::secrets` what an installation is given.)

mod front;
mod pipeline;
mod rotation;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use penstock_e2e::secured::{Issued, USER};
use penstock_e2e::trial::{Acknowledged, PIPELINE, Traffic, Trial, Turn, within};
use penstock_e2e::{Error, Instance, Result, short_id};
use uuid::Uuid;

use crate::consume::consumer::Consumer;
use crate::consume::hot::Figures;
use crate::consume::pipeline::Pipeline;
use crate::ingest::setup::{Setup, batch, wait_for};

const PATIENCE: Duration = Duration::from_secs(120);
/// Passwords that no log says by chance.
pub(crate) const FIRST: &str = "open-sesame-1";
pub(crate) const SECOND: &str = "open-sesame-2";
/// The roles of a pipeline's pods.
const BOTH: [&str; 2] = ["ingest", "consume"];

/// Settings as variables.
type Variables = Vec<(String, String)>;

fn variables(group: &str, pairs: &[(&str, String)]) -> Variables {
    let name = |name: &str| format!("PENSTOCK_{group}__{name}");
    pairs
        .iter()
        .map(|(setting, value)| (name(setting), value.clone()))
        .collect()
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

/// Files with a user's name and password.
struct User {
    folder: tempfile::TempDir,
}

impl User {
    fn new(name: &str, password: &str) -> Result<Self> {
        let folder = tempfile::tempdir().map_err(|error| Error::new(error.to_string()))?;
        let user = Self { folder };
        user.write("username", name)?;
        user.write("password", password)?;
        Ok(user)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        std::fs::write(self.file(name), text).map_err(|error| Error::new(error.to_string()))
    }
}

/// SASL_SSL.
fn kafka_by_password(kit: &Instance, user: &User, mechanism: &str) -> Result<Variables> {
    let pairs = [
        ("BOOTSTRAP", kit.secured_kafka()?),
        ("TLS__CA_FILE", path(&kit.client_certificate().ca)),
        ("SASL__MECHANISM", mechanism.into()),
        ("SASL__USERNAME_FILE", path(&user.file("username"))),
        ("SASL__PASSWORD_FILE", path(&user.file("password"))),
    ];
    Ok(variables("KAFKA", &pairs))
}

/// SSL with a certificate of the client's own.
fn kafka_by_certificate(kit: &Instance) -> Result<Variables> {
    let certificate = kit.client_certificate();
    let pairs = [
        ("BOOTSTRAP", kit.mutual_kafka()?),
        ("TLS__CA_FILE", path(&certificate.ca)),
        ("TLS__CERT_FILE", path(&certificate.chain)),
        ("TLS__KEY_FILE", path(&certificate.key)),
    ];
    Ok(variables("KAFKA", &pairs))
}

fn redis(kit: &Instance, user: &User) -> Variables {
    let pairs = [
        ("ADDRESS", kit.secured_redis()),
        ("TLS__CA_FILE", path(&kit.client_certificate().ca)),
        ("USERNAME_FILE", path(&user.file("username"))),
        ("PASSWORD_FILE", path(&user.file("password"))),
    ];
    variables("REDIS", &pairs)
}

fn clickhouse(kit: &Instance) -> Variables {
    variables(
        "CLICKHOUSE",
        &[("TLS__CA_FILE", path(&kit.client_certificate().ca))],
    )
}

/// Commands of Redis's administrator.
pub(crate) fn redis_administration(kit: &Instance) -> Result<impl FnMut(&[&str]) -> Result<()>> {
    let mut admin = redis::Client::open(format!("redis://{}", kit.redis_address()))
        .and_then(|client| client.get_connection())
        .map_err(|error| Error::new(error.to_string()))?;
    Ok(move |arguments: &[&str]| {
        redis::cmd(arguments[0])
            .arg(&arguments[1..])
            .exec(&mut admin)
            .map_err(|error| Error::new(error.to_string()))
    })
}

/// Makes a user of Redis, or changes its password.
pub(crate) fn redis_user(kit: &Instance, name: &str, password: &str) -> Result<()> {
    let password = format!(">{password}");
    let all = ["~*", "&*", "+@all"];
    let user = ["ACL", "SETUSER", name, "on", "resetpass", &password];
    redis_administration(kit)?(&[&user[..], &all].concat())
}

/// Makes a user of ClickHouse and of Redis, or changes its password, with which it is cut off.
fn make_user(kit: &Instance, name: &str, password: &str) -> Result<()> {
    kit.set_clickhouse_password(name, password, true)?;
    redis_user(kit, name, password)?;
    redis_administration(kit)?(&["CLIENT", "KILL", "USER", name])
}

/// That is let in no more, and where it is it is cut off.
fn bar_user(kit: &Instance, name: &str) -> Result<()> {
    kit.set_clickhouse_password(name, "nobody knows", true)?;
    redis_administration(kit)?(&["ACL", "DELUSER", name])
}

/// Services of a pipeline's own, which ask who is there: the authority and a user each in a Secret of that name.
fn own_services(kit: &Instance) -> Result<String> {
    Ok(format!(
        "  kafka:\n    bootstrap: {}\n    tls: {{caSecret: authority}}\n    \
         sasl: {{mechanism: ScramSha512, secret: kafka}}\n  \
         clickhouse: {{url: '{}', caSecret: authority, secret: clickhouse}}\n  \
         redis: {{address: '{}', tls: {{caSecret: authority}}, secret: redis}}\n",
        kit.secured_kafka()?,
        kit.secured_clickhouse(),
        kit.secured_redis()
    ))
}

/// Sends while something is changed, which no client may notice.
fn unnoticed(traffic: &Traffic, change: impl FnOnce() -> Result<()>) -> Result<Acknowledged> {
    let send = || traffic.send(100, 10, 2, Duration::from_millis(100), Duration::from_secs(60));
    let (sent, ()) = Acknowledged::meanwhile(send, change)?;
    assert_eq!((sent.failed, &sent.errors), (0, &Vec::new()));
    Ok(sent)
}

fn some_ids(count: usize) -> Vec<String> {
    (0..count).map(|_| Uuid::new_v4().to_string()).collect()
}

#[test]
fn events_are_taken_over_encrypted_connections() -> Result<()> {
    let kit = Turn::beside_others()?;
    let user = User::new(USER, &kit.service_password()?)?;
    let setup = Setup::new(&kit)?;
    setup.create_topics(1);
    setup.write_apps("eventsPerDay: 1000000");
    let mut sent = 0;
    for kafka in [
        kafka_by_password(&kit, &user, "ScramSha512")?,
        kafka_by_password(&kit, &user, "ScramSha256")?,
        kafka_by_certificate(&kit)?,
    ] {
        let pod = setup.start_as("", &[kafka, redis(&kit, &user)].concat());
        pod.wait_ready();
        let (status, body) = pod.send(&batch(&some_ids(10)));
        assert_eq!(status, 200, "{body}");
        sent += 10;
        wait_for("the usage in Redis", || setup.usage() == sent);
    }
    assert_eq!(setup.stored().ids.len() as u64, sent);

    Ok(())
}

#[test]
fn a_rotated_password_of_redis_is_used_without_a_restart() -> Result<()> {
    let kit = Turn::beside_others()?;
    let name = format!("rotated-{}", short_id()?);
    let user = User::new(&name, FIRST)?;
    redis_user(&kit, &name, FIRST)?;
    let setup = Setup::new(&kit)?;
    setup.create_topics(1);
    setup.write_apps("eventsPerDay: 1000000");
    let pod = setup.start_as("", &redis(&kit, &user));
    pod.wait_ready();
    assert_eq!(pod.send(&batch(&some_ids(10))).0, 200);
    wait_for("the usage in Redis", || setup.usage() == 10);

    redis_user(&kit, &name, SECOND)?;
    let mut administer = redis_administration(&kit)?;
    administer(&["CLIENT", "KILL", "USER", &name])?;
    assert_eq!(pod.send(&batch(&some_ids(10))).0, 200, "it does without Redis");
    wait_for("a refused connection", || {
        pod.metric("penstock_dependency_up{name=\"redis\"}") == 0.0
    });
    user.write("password", &format!("{SECOND}\n"))?;
    wait_for("the usage in Redis", || setup.usage() == 20);
    assert_eq!(pod.metric("penstock_dependency_up{name=\"redis\"}"), 1.0);
    administer(&["ACL", "DELUSER", &name])
}

#[test]
fn rows_are_stored_over_encrypted_connections() -> Result<()> {
    let pipeline = Pipeline::new("secured", 1);
    let kit = &pipeline.kit;
    let figures = Figures::new(&pipeline);
    let redis_settings = figures.settings(&kit.secured_redis());
    let counted = || figures.counts().values().sum::<u64>();
    let user = User::new(USER, &kit.service_password()?)?;
    let mut number = 0;
    for kafka in [
        kafka_by_password(kit, &user, "ScramSha512")?,
        kafka_by_certificate(kit)?,
    ] {
        let variables = [kafka.clone(), redis(kit, &user), clickhouse(kit)].concat();
        let mut consumer =
            Consumer::start_with(&pipeline, &kit.secured_clickhouse(), &redis_settings, &variables);
        pipeline.produce_events(number, 10, 1);
        // A letter is written by a producer, and read again by a consumer, of its own.
        pipeline.produce(0, b"not ours\n");
        pipeline.flush();
        number += 10;
        pipeline.expect_rows(number, PATIENCE);
        pipeline.letters(number as usize / 10, PATIENCE);
        consumer.wait_for("live figures", PATIENCE, |_| counted() == number);
        consumer.stop();
        // The command line is told the same by the same variables.
        let output = Command::new(kit.program("penstock"))
            .args(["dlq", "list", "events", "--output", "json"])
            .args(["--topic", &pipeline.topic])
            .args(["--dead-letter-topic", &pipeline.letters_topic()])
            .env_clear()
            .envs(kafka)
            .output()
            .map_err(|error| Error::new(error.to_string()))?;
        let said = String::from_utf8_lossy(&output.stderr);
        let letters: Vec<serde_json::Value> =
            serde_json::from_slice(&output.stdout).map_err(|error| Error::new(format!("{error}: {said}")))?;
        assert_eq!(letters.len() as u64, number / 10, "{said}");
    }
    Ok(())
}

/// Rows do not wait for Redis, so that nobody is let in there shows in the metrics alone.
#[test]
fn figures_that_redis_does_not_take_show_as_failures() -> Result<()> {
    let pipeline = Pipeline::new("unfigured", 1);
    let kit = &pipeline.kit;
    let figures = Figures::new(&pipeline);
    let settings = figures.settings(&kit.secured_redis());
    let good = User::new(USER, &kit.service_password()?)?;
    let bad = User::new(USER, "not the password")?;
    let (_folder, authority) = foreign_authority()?;
    let untrusting = variables("REDIS", &[("TLS__CA_FILE", path(&authority))]);
    let mut number = 0;
    for (wrong, said) in [
        (redis(kit, &bad), "AuthenticationFailed"),
        ([redis(kit, &good), untrusting].concat(), "UnknownIssuer"),
    ] {
        let url = kit.clickhouse_url();
        let mut consumer = Consumer::start_with(&pipeline, &url, &settings, &wrong);
        pipeline.produce_events(number, 10, 1);
        pipeline.flush();
        number += 10;
        pipeline.expect_rows(number, PATIENCE);
        consumer.wait_for("failures, and why", PATIENCE, |c| {
            let (status, dependencies) = c.readyz();
            c.metric("penstock_consume_hot_figures_total", "outcome=\"failed\"") >= 2.0
                && (status, dependencies.contains(said)) == (200, true)
        });
        assert_eq!(consumer.metric("penstock_dependency_up", "redis"), 0.0);
        assert!(
            !consumer.log().contains("not the password"),
            "a secret is in the log"
        );
        consumer.kill();
    }
    assert!(figures.counts().is_empty());
    Ok(())
}

/// A file with the certificate of somebody who has signed none of the services', in a folder that goes with what this gives.
fn foreign_authority() -> Result<(tempfile::TempDir, PathBuf)> {
    let folder = tempfile::tempdir().map_err(|error| Error::new(error.to_string()))?;
    let file = folder.path().join("ca.crt");
    let pair = rcgen::generate_simple_self_signed(["nobody".to_owned()])
        .map_err(|error| Error::new(error.to_string()))?;
    std::fs::write(&file, pair.cert.pem()).map_err(|error| Error::new(error.to_string()))?;
    Ok((folder, file))
}

#[test]
fn who_is_not_let_in_says_why() -> Result<()> {
    let pipeline = Pipeline::new("strangers", 1);
    let kit = &pipeline.kit;
    let good = User::new(USER, &kit.service_password()?)?;
    let bad = User::new(USER, "not the password")?;
    let (_folder, authority) = foreign_authority()?;
    let untrusting = |group: &str| variables(group, &[("TLS__CA_FILE", path(&authority))]);
    let (kafka, https) = (
        kafka_by_password(kit, &good, "ScramSha512")?,
        kit.secured_clickhouse(),
    );
    let whole = [kafka, clickhouse(kit)].concat();
    for (wrong, said) in [
        (
            kafka_by_password(kit, &bad, "ScramSha512")?,
            "uthentication failed",
        ),
        (untrusting("KAFKA"), "certificate verify failed"),
        (untrusting("CLICKHOUSE"), "UnknownIssuer"),
        (
            variables("KAFKA", &[("SASL__PASSWORD_FILE", "/nowhere/password".into())]),
            "/nowhere/password",
        ),
    ] {
        let mut consumer = Consumer::start_with(&pipeline, &https, "", &[whole.clone(), wrong].concat());
        let deadline = std::time::Instant::now() + PATIENCE;
        while !consumer.log().contains(said) {
            assert!(
                std::time::Instant::now() < deadline,
                "not said: {said}\n{}",
                consumer.log()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        assert!(
            !consumer.log().contains("not the password"),
            "a secret is in the log"
        );
        if consumer.is_running() {
            consumer.kill();
        }
    }
    Ok(())
}

/// The pods of a role by name, and how often their processes were started again.
type Started = Vec<(String, u64)>;

fn started(trial: &Trial<'_>, role: &str) -> Result<Started> {
    let pods = trial.pods(role)?.into_iter();
    let mut started: Started = pods.map(|pod| (pod.name, pod.restarts)).collect();
    started.sort();
    Ok(started)
}

/// Those of ingest, and of consume.
pub(crate) fn both(trial: &Trial<'_>) -> Result<(Started, Started)> {
    Ok((started(trial, "ingest")?, started(trial, "consume")?))
}

/// Whether these are as many, and none of them is one of those.
fn renewed(now: &Started, before: &Started) -> bool {
    let known = |name: &String| before.iter().any(|(other, _)| other == name);
    now.len() == before.len() && !now.iter().any(|(name, _)| known(name))
}

/// Waits until as many others are there instead of those from before, none of which had to be started twice.
pub(crate) fn replaced(trial: &Trial<'_>, before: &(Started, Started)) -> Result<()> {
    within(240, "pods in place of all", || {
        let now = both(trial)?;
        Ok(renewed(&now.0, &before.0) && renewed(&now.1, &before.1))
    })?;
    trial.ready()?;
    let now = both(trial)?;
    let again = |pods: &Started| pods.iter().any(|(_, restarts)| *restarts > 0);
    assert!(!again(&now.0) && !again(&now.1), "{now:?}");
    Ok(())
}

/// The same where those of ingest are to stay.
fn consumers_replaced(trial: &Trial<'_>, before: &(Started, Started)) -> Result<()> {
    within(240, "consumers in place of all", || {
        Ok(renewed(&started(trial, "consume")?, &before.1))
    })?;
    trial.ready()?;
    let now = both(trial)?;
    assert_eq!(now.0, before.0, "ingest has nothing to restart for");
    assert!(now.1.iter().all(|(_, restarts)| *restarts == 0), "{now:?}");
    Ok(())
}

/// What every pod of these roles says of a service: whether it is there for it.
pub(crate) fn say(trial: &Trial<'_>, roles: &[&str], service: &str) -> Result<Vec<bool>> {
    let up = format!("penstock_dependency_up{{name=\"{service}\"}} 1");
    let mut said = Vec::new();
    for role in roles {
        for pod in &trial.pods(role)? {
            said.push(trial.metrics(pod)?.lines().any(|line| line == up));
        }
    }
    assert!(!said.is_empty(), "no pod of {roles:?}");
    Ok(said)
}

/// Waits until Redis has let no pod in, and ClickHouse has refused a consumer.
pub(crate) fn locked_out(trial: &Trial<'_>) -> Result<()> {
    within(60, "no pod has Redis", || {
        Ok(!say(trial, &BOTH, "redis")?.contains(&true))
    })?;
    within(60, "a consumer without ClickHouse", || {
        Ok(say(trial, &["consume"], "clickhouse")?.contains(&false))
    })?;
    Ok(())
}

/// Waits until every pod has Redis, and every consumer ClickHouse; no live figure was given up meanwhile.
pub(crate) fn let_in(trial: &Trial<'_>, seconds: u64) -> Result<()> {
    within(seconds, "Redis and ClickHouse in all pods", || {
        Ok(!say(trial, &BOTH, "redis")?.contains(&false)
            && !say(trial, &["consume"], "clickhouse")?.contains(&false))
    })?;
    for pod in &trial.pods("consume")? {
        let metrics = trial.metrics(pod)?;
        let dropped = "penstock_consume_hot_figures_total{outcome=\"dropped\"}";
        let dropped = metrics.lines().find(|line| line.starts_with(dropped));
        assert!(dropped.is_some_and(|line| line.ends_with(" 0")), "{dropped:?}");
    }
    Ok(())
}

/// Secrets of a trial: the services' authority, and users of one name and password.
pub(crate) struct Own<'t> {
    pub(crate) trial: &'t Trial<'t>,
    pub(crate) name: &'t str,
}

impl Own<'_> {
    pub(crate) fn secret(&self, name: &str, members: &[(&str, &str)]) -> Result<()> {
        self.put("Opaque", name, members)
    }

    fn put(&self, kind: &str, name: &str, members: &[(&str, &str)]) -> Result<()> {
        let members: serde_json::Map<String, serde_json::Value> = members
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).into()))
            .collect();
        let secret = serde_json::json!({
            "apiVersion": "v1", "kind": "Secret", "type": kind,
            "metadata": {"name": name, "namespace": self.trial.namespace()},
            "stringData": members,
        });
        self.trial.apply(&secret.to_string())
    }

    pub(crate) fn user(&self, secret: &str, password: &str) -> Result<()> {
        self.secret(secret, &[("username", self.name), ("password", password)])
    }

    pub(crate) fn certificate(&self, secret: &str, issued: &Issued) -> Result<()> {
        let members = [
            ("tls.crt", issued.certificate.as_str()),
            ("tls.key", issued.key.as_str()),
        ];
        self.put("kubernetes.io/tls", secret, &members)
    }

    /// Why the pipeline is not ready.
    pub(crate) fn says(&self) -> Result<String> {
        self.field("Ready", "message")
    }

    fn field(&self, condition: &str, field: &str) -> Result<String> {
        condition_field(self.trial, PIPELINE, condition, field)
    }

    /// Waits until a condition is not met, and says why.
    fn complains(&self, condition: &str, why: &str) -> Result<Duration> {
        within(60, &format!("{condition} is not met: {why}"), || {
            Ok(
                self.field(condition, "status")? == "False"
                    && self.field(condition, "message")?.contains(why),
            )
        })
    }
}

/// What a condition of a pipeline says.
pub(crate) fn condition_field(
    trial: &Trial<'_>,
    pipeline: &str,
    condition: &str,
    field: &str,
) -> Result<String> {
    let path = format!("jsonpath={{.status.conditions[?(@.type==\"{condition}\")].{field}}}");
    trial.kubectl(&["get", "ingestionpipeline", pipeline, "-o", &path])
}
