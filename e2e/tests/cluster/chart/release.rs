//! What a release leaves behind, and what its operator may do.

use std::fs;
use std::path::Path;

use penstock_e2e::Result;
use penstock_e2e::trial::Turn;
use serde_json::Value;

use super::{Namespace, succeeds};

/// Install, upgrade, switch the definitions off, uninstall: the definitions and the objects are there throughout. On a
/// copy of the chart whose API group is another, because the real one is in use.
#[test]
fn definitions_and_objects_outlive_the_release() -> Result<()> {
    // To kubectl a short name that two groups have means neither for certain.
    let kit = Turn::alone()?;
    let namespace = Namespace::new(&kit);
    let group = format!("{}.test", namespace.name);
    let folder = tempfile::tempdir().expect("a folder");
    let chart = folder.path().join("penstock");
    copy(&kit.repository().join("charts/penstock"), &chart, &|text| {
        text.replace("penstock.dev", &group)
    });
    let helm = |verb: &[&str], more: &[&str]| {
        let mut helm = kit.helm();
        helm.args(verb).args(["shop", "--namespace", &namespace.name]);
        if verb[0] != "uninstall" {
            helm.arg(&chart)
                .args(["--set=image.repository=registry.test/penstock,replicas=0"]);
        }
        succeeds(helm.args(more), "")
    };
    let notes = helm(&["install"], &[]);
    assert!(
        notes.contains("kubectl") && notes.contains("kafka.bootstrap is empty"),
        "{notes}"
    );
    let definition = format!("apps.{group}");
    succeeds(
        kit.kubectl().args([
            "wait",
            "--for=condition=Established",
            "--timeout=30s",
            "crd",
            &definition,
        ]),
        "",
    );
    // What people are told to apply is accepted as it stands.
    let guide = fs::read_to_string(kit.repository().join("docs/install.md")).expect("the guide");
    for (source, text) in [
        ("the notes", notes),
        ("docs/install.md", guide.replace("penstock.dev", &group)),
    ] {
        let mut apply = kit.kubectl();
        apply.args([
            "-n",
            &namespace.name,
            "apply",
            "--dry-run=server",
            "--validate=strict",
            "-f",
            "-",
        ]);
        let applied = succeeds(&mut apply, &here_document(&text));
        assert_eq!(applied.lines().count(), 2, "{source}: {applied}");
    }
    let app = serde_json::json!({
        "apiVersion": format!("{group}/v1alpha1"),
        "kind": "App",
        "metadata": {"name": "shop", "namespace": namespace.name},
        "spec": {"displayName": "Shop"},
    });
    succeeds(kit.kubectl().args(["create", "-f", "-"]), &app.to_string());
    let uid = || {
        succeeds(
            kit.kubectl().args([
                "-n",
                &namespace.name,
                "get",
                &definition,
                "shop",
                "-o",
                "jsonpath={.metadata.uid}",
            ]),
            "",
        )
    };
    let born = uid();
    helm(&["upgrade"], &["--set=log.filter=debug"]);
    assert_eq!(uid(), born, "after an upgrade");
    helm(&["upgrade"], &["--set=crds.install=false"]);
    assert_eq!(uid(), born, "after the definitions were switched off");
    helm(&["upgrade"], &["--set=crds.install=true"]);
    assert_eq!(uid(), born, "after they were switched on again");
    helm(&["uninstall"], &[]);
    assert_eq!(uid(), born, "after the uninstall");
    helm(&["install"], &[]);
    assert_eq!(uid(), born, "after another install");
    helm(&["uninstall"], &[]);
    let pipelines = format!("ingestionpipelines.{group}");
    succeeds(kit.kubectl().args(["delete", "crd", &definition, &pipelines]), "");
    Ok(())
}

/// The text between `<<EOF` and `EOF`, without the indentation of its first line.
fn here_document(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .skip_while(|line| !line.ends_with("<<EOF"))
        .skip(1)
        .take_while(|line| line.trim() != "EOF")
        .collect();
    let first = lines.first().expect("a here document");
    let indentation = first.len() - first.trim_start().len();
    lines
        .iter()
        .map(|line| format!("{}\n", line.get(indentation..).unwrap_or_default()))
        .collect()
}

/// Copies a folder, its links followed, with every text passed through `change`.
fn copy(from: &Path, to: &Path, change: &dyn Fn(String) -> String) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &target, change);
        } else {
            fs::write(&target, change(fs::read_to_string(&path).expect("text"))).expect("a file");
        }
    }
}

/// What the operator wrote and read so far, it was allowed to. The audit log of the kit has no reads, so its own log is
/// asked about those.
#[test]
fn the_operator_was_refused_nothing() -> Result<()> {
    let kit = Turn::beside_others()?;
    let log = fs::read_to_string(kit.audit_log()).expect("the audit log");
    let mut asked = 0;
    for event in log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
    {
        let user = event["user"]["username"].as_str().unwrap_or_default();
        if user.starts_with("system:serviceaccount:penstock-system:") {
            asked += 1;
            // Not the status: a namespace that goes also answers 403.
            assert_ne!(
                event["annotations"]["authorization.k8s.io/decision"], "forbid",
                "{event}"
            );
        }
    }
    assert!(asked > 0, "the audit log has no write of the operator");
    let log = succeeds(
        kit.kubectl().args([
            "-n",
            "penstock-system",
            "logs",
            "deployment/penstock",
            "--tail=-1",
        ]),
        "",
    );
    assert!(!log.contains("is forbidden: User"), "{log}");
    Ok(())
}
