//! What the operator makes stays as it shall be: drift is mended, others' additions stay, and a pipeline at rest is left
//! in peace.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use penstock_e2e::Result;
use penstock_e2e::trial::{APP, PIPELINE, Trial, Turn, within};
use serde_json::Value;

const SPEC: &str = "  ingest: {scaling: {replicas: 2}}\n";
/// Every object of a pipeline, by kind.
const OBJECTS: [(&str, &str); 11] = [
    ("deployment", "events-ingest"),
    ("deployment", "events-consume"),
    ("service", "events-ingest"),
    ("configmap", "events-ingest"),
    ("configmap", "events-consume"),
    ("configmap", "events-apps"),
    ("secret", "events-consume"),
    ("serviceaccount", "events-ingest"),
    ("serviceaccount", "events-consume"),
    ("poddisruptionbudget", "events-ingest"),
    ("poddisruptionbudget", "events-consume"),
];
/// Seconds within which drift is mended.
const MENDED: u64 = 5;

fn field(trial: &Trial<'_>, kind: &str, name: &str, path: &str) -> Result<String> {
    trial.kubectl(&[
        "get",
        kind,
        name,
        "--ignore-not-found",
        "-o",
        &format!("jsonpath={{{path}}}"),
    ])
}

#[test]
fn what_is_deleted_comes_back() -> Result<()> {
    let kit = Turn::beside_others()?;
    let trial = Trial::start(&kit, "deleted", SPEC)?;
    for (kind, name) in OBJECTS {
        let before = field(&trial, kind, name, ".metadata.uid")?;
        assert!(!before.is_empty(), "{kind}/{name} is not there");
        trial.kubectl(&["delete", kind, name, "--wait=false"])?;
        let took = within(MENDED, &format!("{kind}/{name} is back"), || {
            let now = field(&trial, kind, name, ".metadata.uid")?;
            Ok(!now.is_empty() && now != before)
        })?;
        println!("{kind}/{name} is back after {took:?}");
    }
    trial.ready()
}

#[test]
fn what_is_edited_is_mended_and_what_others_add_stays() -> Result<()> {
    let kit = Turn::beside_others()?;
    let trial = Trial::start(&kit, "edited", SPEC)?;
    let deployment = "events-ingest";
    for (kind, name, patch, path) in [
        (
            "deployment",
            deployment,
            r#"{"spec":{"replicas":1}}"#,
            ".spec.replicas",
        ),
        (
            "deployment",
            deployment,
            r#"{"spec":{"template":{"spec":{"terminationGracePeriodSeconds":1}}}}"#,
            ".spec.template.spec.terminationGracePeriodSeconds",
        ),
        (
            "configmap",
            "events-ingest",
            r#"{"data":{"config.yaml":"version: 9"}}"#,
            ".data",
        ),
        (
            "configmap",
            "events-apps",
            r#"{"data":{"apps.yaml":"version: 9"}}"#,
            ".data",
        ),
        (
            "secret",
            "events-consume",
            r#"{"data":{"clickhouse-password":"eA=="}}"#,
            ".data",
        ),
        (
            "service",
            "events-ingest",
            r#"{"spec":{"selector":{"app.kubernetes.io/component":"x"}}}"#,
            ".spec.selector",
        ),
        (
            "poddisruptionbudget",
            "events-consume",
            r#"{"spec":{"maxUnavailable":0}}"#,
            ".spec.maxUnavailable",
        ),
        (
            "serviceaccount",
            "events-consume",
            r#"{"automountServiceAccountToken":true}"#,
            ".automountServiceAccountToken",
        ),
        (
            "configmap",
            "events-consume",
            r#"{"metadata":{"labels":{"app.kubernetes.io/managed-by":null}}}"#,
            ".metadata.labels",
        ),
        (
            "configmap",
            "events-consume",
            r#"{"metadata":{"ownerReferences":null}}"#,
            ".metadata.ownerReferences",
        ),
    ] {
        let before = field(&trial, kind, name, path)?;
        trial.kubectl(&["patch", kind, name, "--type=merge", "-p", patch])?;
        let took = within(MENDED, &format!("{patch} of {kind}/{name} is mended"), || {
            Ok(field(&trial, kind, name, path)? == before)
        })?;
        println!("{kind}/{name} {path} is mended after {took:?}");
    }
    // Someone else's label, annotation and member are theirs.
    let added = r#"{"metadata":{"labels":{"cost-centre":"7"},"annotations":{"note":"mine"}}}"#;
    for (kind, name) in OBJECTS {
        trial.kubectl(&["patch", kind, name, "--type=merge", "-p", added])?;
    }
    // A change that makes the operator write every one of them again.
    trial.apply(&trial.pipeline(
        "  ingest: {scaling: {replicas: 2}, limits: {batch: 500}}\n  consume: {batch: {maxRows: 100000}}\n",
    ))?;
    within(10, "the new limit is in the configuration", || {
        Ok(field(&trial, "configmap", "events-ingest", ".data")?.contains("batch: 500"))
    })?;
    for (kind, name) in OBJECTS {
        assert_eq!(
            field(&trial, kind, name, ".metadata.labels.cost-centre")?,
            "7",
            "{kind}/{name}"
        );
        assert_eq!(
            field(&trial, kind, name, ".metadata.annotations.note")?,
            "mine",
            "{kind}/{name}"
        );
    }
    trial.ready()
}

#[test]
fn an_object_that_someone_else_made_is_left_alone() -> Result<()> {
    let kit = Turn::beside_others()?;
    let trial = Trial::empty(&kit, "foreign")?;
    let service = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: events-ingest, namespace: {}}}\nspec: {{selector: {{app: theirs}}, ports: [{{port: 80}}]}}\n",
        trial.namespace()
    );
    trial.apply(&service)?;
    trial.apply(&trial.app(APP))?;
    trial.apply(&trial.pipeline(SPEC))?;
    let (reason, _) = trial.condition("Stalled", "True", Duration::from_secs(90))?;
    assert_eq!(reason, "ApiRejected");
    let says = field(
        &trial,
        "ingestionpipeline",
        PIPELINE,
        ".status.conditions[?(@.type==\"Ready\")].message",
    )?;
    assert!(
        says.contains("Service") && says.contains("not made by Penstock"),
        "{says}"
    );
    assert_eq!(
        field(&trial, "service", "events-ingest", ".spec.selector.app")?,
        "theirs"
    );
    trial.kubectl(&["delete", "service", "events-ingest"])?;
    trial.ready()
}

#[test]
fn applying_the_same_again_changes_nothing() -> Result<()> {
    let kit = Turn::beside_others()?;
    let trial = Trial::start(&kit, "again", SPEC)?;
    let yaml = format!("{}---\n{}", trial.app(APP), trial.pipeline(SPEC));
    let file = std::env::temp_dir().join(format!("{}.yaml", trial.namespace()));
    std::fs::write(&file, yaml).unwrap();
    // `kubectl diff` ends with 1 when there is a difference.
    let diff = trial.kubectl(&["diff", "-f", &file.display().to_string()]);
    std::fs::remove_file(&file).unwrap();
    diff.map(drop)
}

/// Everything that the operator writes to, and the pods: `kind/name` and the resourceVersion it is at.
type Versions = BTreeMap<String, String>;

fn versions(trial: &Trial<'_>) -> Result<Versions> {
    let kinds = "apps.penstock.dev,ingestionpipelines,deployments,services,configmaps,secrets,serviceaccounts,poddisruptionbudgets,pods,events.events.k8s.io";
    let list: Value = serde_json::from_str(&trial.kubectl(&["get", kinds, "-o", "json"])?)
        .expect("kubectl answers in JSON");
    let items = list["items"].as_array().cloned().unwrap_or_default();
    Ok(items
        .iter()
        .map(|object| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let name = format!("{}/{}", text(&object["kind"]), text(&object["metadata"]["name"]));
            (name, text(&object["metadata"]["resourceVersion"]))
        })
        .collect())
}

/// What has another version now, or has come or gone.
fn written<'a>(before: &'a Versions, now: &'a Versions) -> Vec<&'a str> {
    let differ = |(name, version): &(&'a String, &String)| {
        before.get(*name) != Some(*version) || now.get(*name) != Some(*version)
    };
    let both = before.iter().chain(now).filter(differ);
    let names: BTreeSet<&str> = both.map(|(name, _)| name.as_str()).collect();
    names.into_iter().collect()
}

#[test]
fn a_pipeline_at_rest_is_not_written_to() -> Result<()> {
    let kit = Turn::beside_others()?;
    let trial = Trial::start(&kit, "rest", SPEC)?;
    let leases = || {
        kit.kubectl_output(&[
            "-n",
            "penstock-system",
            "get",
            "lease",
            "penstock-operator",
            "-o",
            "jsonpath={.metadata.resourceVersion}",
        ])
    };
    for _ in 0..4 {
        // Until the last status of the rollout is written and kubelet has said all it has to say.
        let mut before = versions(&trial)?;
        within(90, "the pipeline has settled", || {
            std::thread::sleep(Duration::from_secs(10));
            let now = versions(&trial)?;
            let still = now == before;
            before = now;
            Ok(still)
        })?;
        assert!(before.len() > OBJECTS.len(), "{before:?}");
        let lease = leases()?;
        std::thread::sleep(Duration::from_secs(60));
        let now = versions(&trial)?;
        let written = written(&before, &now);
        if written.is_empty() {
            assert_ne!(
                leases()?,
                lease,
                "the Lease was not renewed: no operator runs, so this proves nothing"
            );
            return Ok(());
        }
        // A probe that was late, on a machine that is busy with other tests, is told in the status, as it shall be.
        assert!(
            written.iter().any(|name| name.starts_with("Pod/")),
            "written within 60 s: {written:?}"
        );
        println!("a pod changed, and with it {written:?}");
    }
    panic!("the pods never stayed as they were for 60 s");
}

#[test]
fn every_ready_object_answers_the_common_questions() -> Result<()> {
    let kit = Turn::beside_others()?;
    let trial = Trial::start(&kit, "status", SPEC)?;
    trial.kubectl(&[
        "wait",
        "--for=condition=Ready",
        "app/shop",
        "ingestionpipeline/events",
        "--timeout=60s",
    ])?;
    within(60, "the rollout is over", || {
        let kinds = field(
            &trial,
            "ingestionpipeline",
            PIPELINE,
            ".status.conditions[*].type",
        )?;
        Ok(!kinds.contains("Reconciling"))
    })?;
    let pipeline: Value =
        serde_json::from_str(&trial.kubectl(&["get", "ingestionpipeline", PIPELINE, "-o", "json"])?)
            .expect("kubectl answers in JSON");
    let status = &pipeline["status"];
    assert_eq!(status["observedGeneration"], pipeline["metadata"]["generation"]);
    let namespace = trial.namespace();
    let endpoints: Vec<&str> = status["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|e| e["url"].as_str())
        .collect();
    let base = format!("http://events-ingest.{namespace}.svc:8080");
    assert_eq!(endpoints, [base.clone(), format!("{base}/segment"), base]);
    assert_eq!(status["topic"], format!("{namespace}.events"));
    assert_eq!(status["table"], trial.table());
    assert_eq!(status["replicas"], serde_json::json!({"ingest": 2, "consume": 1}));
    let conditions: Vec<String> = status["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| {
            format!(
                "{}={}/{}",
                c["type"].as_str().unwrap(),
                c["status"].as_str().unwrap(),
                c["reason"].as_str().unwrap()
            )
        })
        .collect();
    assert_eq!(
        conditions,
        [
            "Ready=True/Available",
            "TopicsReady=True/Available",
            "TablesReady=True/Available",
            "QuotasReady=True/Available",
            "WorkloadsAvailable=True/Available",
            "Durable=False/SingleReplica",
        ]
    );
    let app: Value = serde_json::from_str(&trial.kubectl(&["get", "app", APP, "-o", "json"])?)
        .expect("kubectl answers in JSON");
    assert_eq!(app["status"]["boundPipelines"], serde_json::json!(["events"]));
    assert_eq!(app["status"]["keys"][0]["secretName"], "shop-default");
    let key = trial.key(APP)?;
    let stored = app["status"].to_string() + &trial.kubectl(&["get", "configmaps", "-o", "json"])?;
    assert!(!stored.contains(&key), "a key is outside its Secret");
    Ok(())
}
