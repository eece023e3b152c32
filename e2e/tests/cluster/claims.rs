//! What a pipeline or an App may not have, what it lacks, and how it says so: each reason by its scenario, and how it
//! goes away.

use std::time::{Duration, Instant};

use penstock_e2e::trial::{APP, PIPELINE, Trial, Turn};
use penstock_e2e::{Error, Result};
use serde_json::Value;

const SPEC: &str = "  ingest: {scaling: {replicas: 1}}\n";
const SOON: Duration = Duration::from_secs(90);

/// Waits until a condition of any object has a status and a reason.
fn says(
    trial: &Trial<'_>,
    kind: &str,
    name: &str,
    condition: &str,
    status: &str,
    reason: &str,
) -> Result<String> {
    let started = Instant::now();
    loop {
        let object: Value = serde_json::from_str(&trial.kubectl(&["get", kind, name, "-o", "json"])?)
            .expect("kubectl answers in JSON");
        let current = object["status"]["observedGeneration"] == object["metadata"]["generation"];
        let conditions = object["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let found = conditions
            .iter()
            .find(|c| current && c["type"] == condition && c["status"] == status && c["reason"] == reason);
        if let Some(found) = found {
            return Ok(found["message"].as_str().unwrap_or_default().to_owned());
        }
        if started.elapsed() > SOON {
            let all = Value::from(conditions);
            return Err(Error::new(format!(
                "{kind}/{name} is not {condition}={status}/{reason}; it says: {all}"
            )));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn pipeline(trial: &Trial<'_>, name: &str, spec: &str) -> String {
    trial
        .pipeline(spec)
        .replace(&format!("name: {PIPELINE}"), &format!("name: {name}"))
}

/// Notes of the events of a reason on an object.
fn events(trial: &Trial<'_>, name: &str, reason: &str) -> Result<Vec<String>> {
    let list: Value = serde_json::from_str(&trial.kubectl(&["get", "events.events.k8s.io", "-o", "json"])?)
        .expect("kubectl answers in JSON");
    Ok(list["items"]
        .as_array()
        .cloned()
        .unwrap_or_default()
        .iter()
        .filter(|event| event["regarding"]["name"] == name && event["reason"] == reason)
        .map(|event| event["note"].as_str().unwrap_or_default().to_owned())
        .collect())
}

#[test]
fn the_oldest_of_two_pipelines_keeps_a_topic() -> Result<()> {
    let kit = Turn::beside_others()?;
    let trial = Trial::start(&kit, "claims", SPEC)?;
    let topic = format!("{}.events", trial.namespace());
    std::thread::sleep(Duration::from_secs(1));
    trial.apply(&pipeline(
        &trial,
        "younger",
        &format!("{SPEC}  kafka: {{topic: {topic}}}\n"),
    ))?;
    let message = says(&trial, "ipl", "younger", "Ready", "False", "ResourceConflict")?;
    assert!(
        message.contains(&topic) && message.contains("/events"),
        "{message}"
    );
    says(&trial, "ipl", "younger", "Stalled", "True", "ResourceConflict")?;
    assert!(
        trial
            .kubectl(&["get", "deployments", "-o", "name"])?
            .lines()
            .all(|d| !d.contains("younger"))
    );
    assert_eq!(events(&trial, "younger", "ResourceConflict")?.len(), 1);
    trial.ready()?;
    // The table is another's too.
    let table = format!("{SPEC}  clickhouse: {{table: events}}\n");
    trial.apply(&pipeline(&trial, "table", &table))?;
    says(&trial, "ipl", "table", "Ready", "False", "ResourceConflict")?;
    // Nobody touches the younger one: it learns by itself. What the older one left behind bears its mark.
    trial.kubectl(&["delete", "ipl", PIPELINE, "--timeout=60s"])?;
    let message = says(
        &trial,
        "ipl",
        "younger",
        "TopicsReady",
        "False",
        "ResourceConflict",
    )?;
    assert!(message.contains("belongs to"), "{message}");
    // With leave to adopt it takes over from an owner that is gone.
    trial.kubectl(&[
        "patch",
        "ipl",
        "younger",
        "--type=merge",
        "-p",
        r#"{"spec":{"adoptionPolicy":"Adopt"}}"#,
    ])?;
    says(&trial, "ipl", "younger", "Ready", "True", "Available")?;
    Ok(())
}

#[test]
fn names_outside_the_namespaces_share_are_refused() -> Result<()> {
    let kit = Turn::beside_others()?;
    let trial = Trial::empty(&kit, "tenancy")?;
    trial.apply(&trial.app(APP))?;
    for (name, spec, field) in [
        ("topic", "  kafka: {topic: other.events}\n", "kafka.topic"),
        (
            "dead",
            "  kafka: {deadLetter: {topic: other.dlq}}\n",
            "kafka.deadLetter.topic",
        ),
        (
            "database",
            "  clickhouse: {database: other}\n",
            "clickhouse.database",
        ),
    ] {
        trial.apply(&pipeline(&trial, name, spec))?;
        let message = says(&trial, "ipl", name, "Ready", "False", "NameNotAllowed")?;
        assert!(message.contains(field), "{message}");
    }
    assert_eq!(trial.kubectl(&["get", "deployments", "-o", "name"])?.trim(), "");
    let databases = kit.clickhouse("SELECT count() FROM system.databases WHERE name = 'other'")?;
    assert_eq!(databases.trim(), "0");
    Ok(())
}

#[test]
fn a_table_that_nobody_owns_is_adopted_only_with_leave() -> Result<()> {
    let kit = Turn::beside_others()?;
    let trial = Trial::empty(&kit, "adopt")?;
    let database = trial.namespace().replace('-', "_");
    kit.clickhouse(&format!("CREATE DATABASE {database}"))?;
    kit.clickhouse(&format!(
        "CREATE TABLE {database}.events (x UInt8) ENGINE = MergeTree ORDER BY x"
    ))?;
    trial.apply(&trial.app(APP))?;
    trial.apply(&trial.pipeline(SPEC))?;
    says(&trial, "ipl", PIPELINE, "TablesReady", "False", "AdoptionRefused")?;
    let consume = trial.kubectl(&[
        "get",
        "deployment",
        "events-consume",
        "--ignore-not-found",
        "-o",
        "name",
    ])?;
    assert_eq!(consume.trim(), "", "pods were made before their table is right");
    // With leave it would still be the wrong table.
    trial.apply(&trial.pipeline(&format!("{SPEC}  adoptionPolicy: Adopt\n")))?;
    let message = says(&trial, "ipl", PIPELINE, "TablesReady", "False", "SchemaConflict")?;
    assert!(!message.is_empty());
    Ok(())
}

#[test]
fn an_app_that_is_missing_is_waited_for() -> Result<()> {
    let kit = Turn::beside_others()?;
    let trial = Trial::empty(&kit, "missing")?;
    trial.apply(&trial.app(APP))?;
    let names = trial
        .pipeline(SPEC)
        .replace("selector: {matchLabels: {team: trial}}", "names: [shop, blog]");
    trial.apply(&names)?;
    let message = says(&trial, "ipl", PIPELINE, "Ready", "False", "AppNotFound")?;
    assert!(message.contains("blog") && !message.contains("shop"), "{message}");
    // The App that is there is served meanwhile.
    says(&trial, "ipl", PIPELINE, "WorkloadsAvailable", "True", "Available")?;
    trial.apply(&trial.app("blog"))?;
    says(&trial, "ipl", PIPELINE, "Ready", "True", "Available")?;
    Ok(())
}

#[test]
fn a_secret_that_is_missing_wrong_or_anothers_is_said_and_mended_by_making_it() -> Result<()> {
    let kit = Turn::beside_others()?;
    let trial = Trial::empty(&kit, "secrets")?;
    let app = |spec: &str| trial.app(APP).replace("displayName: Trial", spec);
    trial.apply(&app(
        "keys: [{name: a, secretRef: {name: given, key: token}}, {name: b}]",
    ))?;
    let message = says(&trial, "papp", APP, "Ready", "False", "SecretNotFound")?;
    assert!(message.contains("given"), "{message}");
    trial.kubectl(&[
        "create",
        "secret",
        "generic",
        "given",
        "--from-literal=token=short",
    ])?;
    let message = says(&trial, "papp", APP, "Ready", "False", "SecretInvalid")?;
    assert!(!message.contains("short"), "a secret is in a message: {message}");
    trial.kubectl(&["delete", "secret", "given"])?;
    trial.kubectl(&[
        "create",
        "secret",
        "generic",
        "given",
        "--from-literal=token=psk_0123456789abcdef",
    ])?;
    says(&trial, "papp", APP, "Ready", "True", "Available")?;
    trial.kubectl(&[
        "create",
        "secret",
        "generic",
        "shop-c",
        "--from-literal=key=psk_0123456789abcdef",
    ])?;
    trial.apply(&app("keys: [{name: c}]"))?;
    says(&trial, "papp", APP, "Ready", "False", "SecretConflict")?;
    Ok(())
}

#[test]
fn a_generated_key_is_made_anew_when_lost_and_removed_when_unwanted() -> Result<()> {
    let kit = Turn::beside_others()?;
    let trial = Trial::empty(&kit, "lost")?;
    trial.apply(&trial.app(APP))?;
    says(&trial, "papp", APP, "Ready", "True", "Available")?;
    let fingerprint = || trial.kubectl(&["get", "papp", APP, "-o", "jsonpath={.status.keys[0].fingerprint}"]);
    let (key, seen) = (trial.key(APP)?, fingerprint()?);
    assert!(key.starts_with("psk_") && key.len() == 42, "the form of a key");
    trial.kubectl(&["delete", "secret", "shop-default"])?;
    let started = Instant::now();
    while fingerprint()? == seen {
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "no new key within 5 s"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_ne!(trial.key(APP)?, key);
    let notes = events(&trial, APP, "KeyRegenerated")?;
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(!notes[0].contains("psk_"), "a key is in an event");
    trial.apply(
        &trial
            .app(APP)
            .replace("displayName: Trial", "keys: [{name: other}]"),
    )?;
    let started = Instant::now();
    while !trial
        .kubectl(&[
            "get",
            "secret",
            "shop-default",
            "--ignore-not-found",
            "-o",
            "name",
        ])?
        .trim()
        .is_empty()
    {
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "the Secret of a removed key is still there"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(
        trial
            .kubectl(&["get", "secret", "shop-other", "-o", "name"])?
            .trim(),
        "secret/shop-other"
    );
    Ok(())
}

#[test]
fn a_paused_pipeline_is_not_written_to_and_can_be_deleted() -> Result<()> {
    let kit = Turn::beside_others()?;
    let trial = Trial::start(&kit, "paused", SPEC)?;
    trial.kubectl(&["annotate", "ipl", PIPELINE, "penstock.dev/paused=true"])?;
    says(&trial, "ipl", PIPELINE, "Paused", "True", "PausedByAnnotation")?;
    trial.kubectl(&["delete", "service", "events-ingest"])?;
    trial.kubectl(&[
        "patch",
        "ipl",
        PIPELINE,
        "--type=merge",
        "-p",
        r#"{"spec":{"ingest":{"limits":{"batch":7}}}}"#,
    ])?;
    // observedGeneration moves on although nothing is written.
    says(&trial, "ipl", PIPELINE, "Paused", "True", "PausedByAnnotation")?;
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(
        trial
            .kubectl(&[
                "get",
                "service",
                "events-ingest",
                "--ignore-not-found",
                "-o",
                "name"
            ])?
            .trim(),
        ""
    );
    trial.kubectl(&["annotate", "ipl", PIPELINE, "penstock.dev/paused-"])?;
    trial.ready()?;
    let kinds = trial.kubectl(&[
        "get",
        "ipl",
        PIPELINE,
        "-o",
        "jsonpath={.status.conditions[*].type}",
    ])?;
    assert!(!kinds.contains("Paused"), "{kinds}");
    trial.kubectl(&["annotate", "ipl", PIPELINE, "penstock.dev/paused=true"])?;
    trial.kubectl(&["delete", "ipl", PIPELINE, "--timeout=30s"])?;
    Ok(())
}

#[test]
fn deletion_waits_for_a_broker_that_is_away_until_told_to_give_up() -> Result<()> {
    let kit = Turn::beside_others()?;
    let trial = Trial::empty(&kit, "stuck")?;
    trial.apply(&trial.app(APP))?;
    trial.apply(&trial.pipeline(&format!(
        "{SPEC}  kafka: {{bootstrap: '10.240.0.1:9'}}\n  deletionPolicy: Delete\n"
    )))?;
    says(
        &trial,
        "ipl",
        PIPELINE,
        "TopicsReady",
        "False",
        "KafkaUnavailable",
    )?;
    trial.kubectl(&["delete", "ipl", PIPELINE, "--wait=false"])?;
    let message = says(&trial, "ipl", PIPELINE, "Stalled", "True", "Deleting")?;
    assert!(message.contains("penstock.dev/force-delete"), "{message}");
    trial.kubectl(&["annotate", "ipl", PIPELINE, "penstock.dev/force-delete=true"])?;
    trial.kubectl(&[
        "wait",
        "--for=delete",
        "ingestionpipeline/events",
        "--timeout=60s",
    ])?;
    Ok(())
}
