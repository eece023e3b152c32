//! What the real API server makes of our resources: bad ones refused by name of the field, defaults filled in, nothing
//! lost on the way.

use std::io::Write;
use std::process::Stdio;

use penstock_e2e::trial::{Trial, Turn};
use penstock_e2e::{Instance, Result};

mod bad_resources;

/// `kubectl` with YAML on its standard input; both outputs.
fn kubectl(kit: &Instance, arguments: &[&str], yaml: &str) -> (bool, String) {
    let mut child = kit
        .kubectl()
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl starts");
    let mut stdin = child.stdin.take().expect("its standard input is a pipe");
    stdin.write_all(yaml.as_bytes()).expect("kubectl reads");
    drop(stdin);
    let output = child.wait_with_output().expect("kubectl ends");
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

const CREATE: [&str; 5] = ["create", "--dry-run=server", "--validate=strict", "-f", "-"];

#[test]
fn bad_resources_are_refused_by_the_name_of_the_field() -> Result<()> {
    let kit = Turn::beside_others()?;
    let cases = bad_resources::all();
    assert!(cases.len() >= 60, "{} cases", cases.len());
    // One program for all: it goes on after a refusal, and says them in order. Where it says fewer, some were accepted, or it
    // does not tell them apart: then each is asked about alone.
    let together: Vec<&str> = cases.iter().map(|case| case.yaml.as_str()).collect();
    let (_, said) = kubectl(&kit, &CREATE, &together.join("---\n"));
    let mut refusals: Vec<String> = said
        .split("Error from server")
        .skip(1)
        .map(str::to_owned)
        .collect();
    if refusals.len() != cases.len() {
        let alone = |case: &bad_resources::Case| kubectl(&kit, &CREATE, &case.yaml);
        refusals = cases
            .iter()
            .map(alone)
            .map(|(accepted, said)| if accepted { String::new() } else { said })
            .collect();
    }
    let mut wrong = Vec::new();
    for (case, said) in cases.iter().zip(&refusals) {
        if said.is_empty() {
            wrong.push(format!("accepted: {}", case.what));
        } else if !case.says.iter().all(|part| said.contains(part)) {
            wrong.push(format!("{}: expected {:?} in: {said}", case.what, case.says));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
    Ok(())
}

#[test]
fn changes_that_would_lose_something_are_refused() -> Result<()> {
    let kit = Turn::beside_others()?;
    let trial = Trial::empty(&kit, "changes")?;
    let namespace = trial.namespace();
    // Paused: the operator makes nothing of them.
    let stored = |kind: &str, spec: &str| {
        format!(
            "apiVersion: penstock.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: fixed, namespace: {namespace}, annotations: {{penstock.dev/paused: 'true'}}}}\nspec: {spec}\n"
        )
    };
    let pipeline = "{apps: {selector: {}}, ingest: {spool: {volume: {size: 1Gi, storageClassName: a}}}, kafka: {topic: a, partitions: 6, replication: 1, deadLetter: {topic: b}}, clickhouse: {database: d, table: t, cluster: c, rollups: [{name: active, count: Users, every: Day, retention: 9d}]}}";
    let app = "{id: 6f0c4a4e-5d0b-5c58-9a52-0d9c9a8f3b11}";
    for (kind, spec) in [("IngestionPipeline", pipeline), ("App", app)] {
        let (accepted, said) = kubectl(&kit, &["create", "-f", "-"], &stored(kind, spec));
        assert!(accepted, "{said}");
    }
    let mut wrong = Vec::new();
    for (kind, patch, says) in [
        (
            "ingestionpipeline",
            r#"{"kafka":{"topic":"c"}}"#,
            "spec.kafka.topic",
        ),
        (
            "ingestionpipeline",
            r#"{"kafka":{"topic":null}}"#,
            "spec.kafka.topic",
        ),
        (
            "ingestionpipeline",
            r#"{"clickhouse":{"cluster":"e"}}"#,
            "spec.clickhouse.cluster",
        ),
        (
            "ingestionpipeline",
            r#"{"clickhouse":{"cluster":null}}"#,
            "spec.clickhouse.cluster",
        ),
        (
            "ingestionpipeline",
            r#"{"kafka":{"partitions":5}}"#,
            "spec.kafka.partitions",
        ),
        (
            "ingestionpipeline",
            r#"{"kafka":{"partitions":null}}"#,
            "spec.kafka.partitions",
        ),
        (
            "ingestionpipeline",
            r#"{"kafka":{"replication":3}}"#,
            "spec.kafka.replication",
        ),
        (
            "ingestionpipeline",
            r#"{"kafka":{"deadLetter":{"topic":"c"}}}"#,
            "spec.kafka.deadLetter.topic",
        ),
        (
            "ingestionpipeline",
            r#"{"clickhouse":{"database":"e"}}"#,
            "spec.clickhouse.database",
        ),
        (
            "ingestionpipeline",
            r#"{"clickhouse":{"table":null}}"#,
            "spec.clickhouse.table",
        ),
        (
            "ingestionpipeline",
            r#"{"clickhouse":{"rollups":[{"name":"active","count":"Events","every":"Day"}]}}"#,
            "a rollup cannot change",
        ),
        (
            "ingestionpipeline",
            r#"{"clickhouse":{"rollups":[{"name":"active","count":"Users","every":"Day","by":["platform"]}]}}"#,
            "a rollup cannot change",
        ),
        (
            "ingestionpipeline",
            r#"{"ingest":{"spool":{"volume":{"size":"2Gi"}}}}"#,
            "spec.ingest.spool.volume.size",
        ),
        (
            "ingestionpipeline",
            r#"{"ingest":{"spool":{"volume":{"storageClassName":"b"}}}}"#,
            "spec.ingest.spool.volume.storageClassName",
        ),
        (
            "ingestionpipeline",
            r#"{"ingest":{"spool":{"volume":{"storageClassName":null}}}}"#,
            "spec.ingest.spool.volume.storageClassName",
        ),
        (
            "app",
            r#"{"id":"6f0c4a4e-5d0b-5c58-9a52-0d9c9a8f3b12"}"#,
            "spec.id",
        ),
        ("app", r#"{"id":null}"#, "spec.id"),
    ] {
        let patch = format!(r#"{{"spec":{patch}}}"#);
        let arguments = [
            "-n",
            namespace,
            "patch",
            kind,
            "fixed",
            "--type=merge",
            "--dry-run=server",
            "-p",
            &patch,
        ];
        let (accepted, said) = kubectl(&kit, &arguments, "");
        if accepted || !said.contains(says) {
            wrong.push(format!("{patch}: expected a refusal of {says}: {said}"));
        }
    }
    for (kind, patch) in [
        ("ingestionpipeline", r#"{"spec":{"kafka":{"partitions":12}}}"#),
        ("ingestionpipeline", r#"{"spec":{"kafka":{"retention":"1d"}}}"#),
        ("ingestionpipeline", r#"{"spec":{"ingest":{"spool":null}}}"#),
        (
            "ingestionpipeline",
            r#"{"spec":{"clickhouse":{"rollups":[{"name":"active","count":"Users","every":"Day","retention":"30d"}]}}}"#,
        ),
        ("ingestionpipeline", r#"{"spec":{"clickhouse":{"rollups":[]}}}"#),
        (
            "ingestionpipeline",
            r#"{"spec":{"ingest":{"spool":{"maxBytes":"100MB"}}}}"#,
        ),
        ("app", r#"{"spec":{"suspended":true}}"#),
    ] {
        let arguments = [
            "-n",
            namespace,
            "patch",
            kind,
            "fixed",
            "--type=merge",
            "--dry-run=server",
            "-p",
            patch,
        ];
        let (accepted, said) = kubectl(&kit, &arguments, "");
        if !accepted {
            wrong.push(format!("{patch}: {said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn defaults_read_back_as_they_are_documented() -> Result<()> {
    let kit = Turn::beside_others()?;
    let read = |yaml: &str| -> serde_json::Value {
        let (accepted, said) = kubectl(
            &kit,
            &[
                "create",
                "--dry-run=server",
                "--validate=strict",
                "-o",
                "json",
                "-f",
                "-",
            ],
            yaml,
        );
        assert!(accepted, "{said}");
        serde_json::from_str(&said).unwrap()
    };
    let pipeline = read(
        "apiVersion: penstock.dev/v1alpha1\nkind: IngestionPipeline\nmetadata: {name: plain, namespace: default}\nspec: {apps: {selector: {}}}\n",
    );
    let expected = serde_json::json!({
        "apps": {"selector": {}},
        "endpoint": {"protocols": ["Native", "Segment", "Envelope"]},
        "ingest": {
            "scaling": {"mode": "Fixed", "replicas": 2},
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
            "durability": "Replicated",
            "limits": {
                "body": "8MB", "event": "256kB", "batch": 1000, "memory": "64MB", "connections": 5_000,
                "requestTimeout": "10s", "kafkaTimeout": "8s"
            }
        },
        "kafka": {
            "partitions": 3, "retention": "7d", "recordFormat": "Batch", "deadLetter": {"retention": "30d"}
        },
        "consume": {
            "scaling": {"mode": "Fixed", "replicas": 1},
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}},
            "batch": {"maxRows": 200_000, "maxBytes": "24MB", "maxAge": "1s"},
            "groupProtocol": "Classic"
        },
        "clickhouse": {"deadLetterTable": "Managed", "compression": "None"},
        "redis": {"database": 0},
        "deletionPolicy": "Retain",
        "adoptionPolicy": "Fail"
    });
    assert_eq!(pipeline["spec"], expected);
    assert_eq!(
        pipeline["status"],
        serde_json::json!({"observedGeneration": -1}),
        "in progress from birth on"
    );
    let app = read(
        "apiVersion: penstock.dev/v1alpha1\nkind: App\nmetadata: {name: plain, namespace: default}\nspec: {}\n",
    );
    let expected = serde_json::json!({
        "keys": [{"name": "default", "scope": "Write", "trusted": false}],
        "quota": {},
        "suspended": false
    });
    assert_eq!(app["spec"], expected);
    // null means what absence means.
    let nulled = read(
        "apiVersion: penstock.dev/v1alpha1\nkind: App\nmetadata: {name: plain, namespace: default}\nspec: {keys: null, id: null, quota: {burst: null}}\n",
    );
    assert_eq!(nulled["spec"], expected);
    Ok(())
}

/// Every field set, each list at its longest: nothing is pruned and no rule is too dear.
#[test]
fn the_largest_resources_are_kept_whole() -> Result<()> {
    let kit = Turn::beside_others()?;
    for (what, given) in bad_resources::largest() {
        let yaml = serde_json::to_string(&given).unwrap();
        let (accepted, said) = kubectl(
            &kit,
            &[
                "create",
                "--dry-run=server",
                "--validate=strict",
                "-o",
                "json",
                "-f",
                "-",
            ],
            &yaml,
        );
        assert!(accepted, "{what}: {said}");
        let read: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(read["spec"], given["spec"], "{what}");
    }
    Ok(())
}

#[test]
fn definitions_are_established_without_a_warning() -> Result<()> {
    let kit = Turn::beside_others()?;
    for file in ["apps.penstock.dev.yaml", "ingestionpipelines.penstock.dev.yaml"] {
        let path = kit.repository().join("crds/yaml").join(file);
        let yaml = std::fs::read_to_string(path).unwrap();
        let (accepted, said) = kubectl(
            &kit,
            &[
                "apply",
                "--server-side",
                "--dry-run=server",
                "--force-conflicts",
                "-f",
                "-",
            ],
            &yaml,
        );
        assert!(accepted, "{said}");
        assert!(!said.contains("Warning"), "{said}");
        let name = file.strip_suffix(".yaml").unwrap();
        let conditions = kit.kubectl_output(&[
            "get",
            "crd",
            name,
            "-o",
            "jsonpath={range .status.conditions[*]}{.type}={.status} {end}",
        ])?;
        assert!(
            conditions.contains("Established=True") && !conditions.contains("NonStructuralSchema"),
            "{conditions}"
        );
    }
    Ok(())
}

#[test]
fn tables_show_what_a_person_asks_first() -> Result<()> {
    let kit = Turn::beside_others()?;
    let trial = Trial::empty(&kit, "columns")?;
    // Paused: the operator makes nothing of them.
    for (kind, spec) in [("App", "{}"), ("IngestionPipeline", "{apps: {selector: {}}}")] {
        trial.apply(&format!(
            "apiVersion: penstock.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: shown, namespace: {}, annotations: {{penstock.dev/paused: 'true'}}}}\nspec: {spec}\n",
            trial.namespace()
        ))?;
    }
    for (kind, output, expected) in [
        ("apps", "", "NAME READY REASON APP ID EVENTS TODAY SUSPENDED AGE"),
        ("papp", "wide", "DISPLAY NAME PIPELINES"),
        (
            "ingestionpipelines",
            "",
            "NAME READY REASON ENDPOINT URL TOPIC AGE",
        ),
        ("ipl", "wide", "TABLE INGEST CONSUME"),
    ] {
        let table = trial.kubectl(&["get", kind, "-o", output])?;
        let head = table
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        assert!(head.contains(expected), "{kind}: {head}");
    }
    let all = trial.kubectl(&["get", "penstock", "-o", "name"])?;
    assert!(
        all.contains("app.penstock.dev/shown") && all.contains("ingestionpipeline.penstock.dev/shown"),
        "{all}"
    );
    Ok(())
}
