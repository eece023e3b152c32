//! Which values are accepted, and that each is described.

use std::collections::BTreeSet;
use std::fs;

use penstock_e2e::Result;
use penstock_e2e::trial::Turn;
use serde_json::Value;

use super::{Chart, guide_values, succeeds, text};

#[test]
fn lint_finds_nothing() -> Result<()> {
    let kit = Turn::beside_others()?;
    for chart in ["charts/penstock", "charts/penstock-crds"] {
        succeeds(
            kit.helm()
                .args(["lint", "--strict"])
                .arg(kit.repository().join(chart)),
            "",
        );
    }
    Ok(())
}

#[test]
fn bad_values_are_refused_with_their_path() -> Result<()> {
    let kit = Turn::beside_others()?;
    let chart = Chart {
        kit: &kit,
        namespace: "shop".into(),
    };
    for (values, says) in [
        ("kafka: {bootstrap: nohost}", "/kafka/bootstrap"),
        ("kafka: {bootstrap: 'a:9092, b:9092'}", "/kafka/bootstrap"),
        ("kafka: {brokers: 'a:9092'}", "/kafka"),
        ("kafka: {sasl: {mechanism: Kerberos}}", "/kafka/sasl/mechanism"),
        ("redis: {tls: true}", "/redis/tls"),
        ("clickhouse: {url: 'tcp://c:9000'}", "/clickhouse/url"),
        (
            "clickhouse: {url: 'http://user:secret@c:8123'}",
            "/clickhouse/url",
        ),
        ("clickhouse: {adminSecret: Not_A_Name}", "/clickhouse/adminSecret"),
        ("redis: {address: 'redis://r:6379'}", "/redis/address"),
        ("clusterId: 'a/b'", "/clusterId"),
        ("tenancy: {topics: []}", "/tenancy/topics"),
        ("tenancy: {databases: ['a b']}", "/tenancy/databases/0"),
        ("watchNamespaces: [Prod]", "/watchNamespaces/0"),
        ("replicas: -1", "/replicas"),
        ("replicaCount: 2", "replicaCount"),
        (
            "image: {repository: r, pullPolicy: Sometimes}",
            "/image/pullPolicy",
        ),
        ("crds: {keep: maybe}", "/keep"),
        (
            "podDisruptionBudget: {maxUnavailable: some}",
            "/podDisruptionBudget/maxUnavailable",
        ),
        (
            "networkPolicy: {egressPorts: [0]}",
            "/networkPolicy/egressPorts/0",
        ),
        ("image: {tag: v1}", "image.repository is required"),
        (
            "image: {repository: r}\nserviceAccount: {create: false}",
            "serviceAccount.name is required",
        ),
    ] {
        let output = chart.template(values, &[]);
        let said = text(&output.stderr);
        assert!(!output.status.success(), "accepted: {values}");
        assert!(said.contains(says), "{values}: {said}");
    }
    Ok(())
}
/// The values files of the installation guide.
#[test]
fn the_guide_s_values_are_accepted() -> Result<()> {
    let kit = Turn::beside_others()?;
    let [first, secured] = guide_values(&kit);
    let chart = Chart {
        kit: &kit,
        namespace: "shop".into(),
    };
    for values in [first, format!("image: {{repository: REGISTRY/p}}\n{secured}")] {
        let values = values.replace("REGISTRY", "registry.test");
        let output = chart.template(&values, &[]);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    Ok(())
}

/// Every value is in the table of the README, and nothing else is.
#[test]
fn the_readme_lists_the_values() -> Result<()> {
    let kit = Turn::beside_others()?;
    let chart = kit.repository().join("charts/penstock");
    let values: Value =
        serde_yaml::from_str(&fs::read_to_string(chart.join("values.yaml")).expect("values")).expect("YAML");
    let mut expected = BTreeSet::new();
    leaves(&values, String::new(), &mut expected);
    let readme = fs::read_to_string(chart.join("README.md")).expect("a README");
    let listed: BTreeSet<String> = readme
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name.to_owned())
        .collect();
    // The sub-chart's own values, and whole structures that Kubernetes describes.
    let described = |name: &String| !name.starts_with("crds.") || name == "crds.install";
    let expected: BTreeSet<String> = expected.into_iter().filter(described).collect();
    let listed: BTreeSet<String> = listed.into_iter().filter(described).collect();
    assert_eq!(listed, expected);
    Ok(())
}

/// Values that Kubernetes describes are listed whole.
const WHOLE: &[&str] = &[
    "resources",
    "podSecurityContext",
    "securityContext",
    "dashboards.labels",
];

fn leaves(value: &Value, path: String, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) if !fields.is_empty() && !WHOLE.contains(&path.as_str()) => {
            for (name, inner) in fields {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                leaves(inner, path, found);
            }
        }
        _ => {
            found.insert(path);
        }
    }
}
