//! What the chart renders, over a matrix of values.

use std::collections::{BTreeMap, BTreeSet};

use clap::CommandFactory;
use penstock_e2e::Result;
use penstock_e2e::trial::Turn;
use penstock_operator::settings::Args;
use serde_json::Value;

use super::{Chart, Namespace, of_kind, output, text};

/// Renderings that every check looks at: a name and the values.
const MATRIX: &[(&str, &str)] = &[
    ("defaults", ""),
    (
        "addresses",
        "kafka: {bootstrap: 'a:9092,b:9092'}\nclickhouse: {url: 'http://c:8123', adminSecret: admin, consumerSecret: \
         consumer}\nredis: {address: 'r:6379'}\n",
    ),
    (
        "secured",
        "kafka: {bootstrap: 'a:9093', tls: {enabled: true, caSecret: ca, adminCertSecret: admin-cert, podCertSecret: pod-cert}, \
         sasl: {mechanism: ScramSha512, adminSecret: kafka-admin, podSecret: kafka-pod}}\nclickhouse: {url: 'https://c:8443', \
         caSecret: ca}\nredis: {address: 'r:6380', secret: redis-user, tls: {enabled: true, caSecret: ca}}\n",
    ),
    (
        "two-replicas",
        "replicas: 2\npodDisruptionBudget: {enabled: true}\n",
    ),
    ("one-namespace", "watchNamespaces: [NAMESPACE]\n"),
    (
        "two-namespaces",
        "watchNamespaces: [NAMESPACE, default]\nclusterId: c1\nrbac: {aggregate: false}\n",
    ),
    (
        "everything",
        "replicas: 3\nclusterId: c1\ndataplane: {image: {repository: registry.test/dataplane, tag: v2}, imagePullSecrets: [pull, other]}\n\
         imagePullSecrets: [{name: pull}]\ntenancy: {topics: ['{namespace}.*', 'shared-*'], databases: ['{namespace}']}\n\
         log: {filter: 'info,penstock_operator=debug'}\nserviceAccount: {name: other, annotations: {a: b}}\n\
         service: {annotations: {a: b}}\nnetworkPolicy: {enabled: true, metricsFrom: [{podSelector: {}}]}\n\
         podDisruptionBudget: {enabled: true, maxUnavailable: 50%}\npodAnnotations: {a: b}\npodLabels: {a: b}\n\
         priorityClassName: system-cluster-critical\nnodeSelector: {a: b}\ntolerations: [{operator: Exists}]\n\
         affinity: {podAntiAffinity: {}}\nterminationGracePeriodSeconds: 40\n\
         topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: ScheduleAnyway, labelSelector: {}}]\n\
         extraEnv: [{name: RUST_BACKTRACE, value: '1'}]\nextraArgs: [--log=debug]\n\
         extraVolumes: [{name: scratch, emptyDir: {}}]\nextraVolumeMounts: [{name: scratch, mountPath: /scratch}]\n\
         extraObjects: [{apiVersion: v1, kind: ConfigMap, metadata: {name: '{{ .Release.Name }}-extra'}}]\n\
         dashboards: {enabled: true, labels: {team: data}, annotations: {grafana_folder: Penstock}}\n\
         crds: {annotations: {a: b}}\nfullnameOverride: penstock-everything\n",
    ),
    (
        "own-account",
        "serviceAccount: {create: false, name: default}\nrbac: {create: false}\ncrds: {install: false}\n",
    ),
];

#[test]
fn the_api_server_takes_every_rendering_without_a_warning() -> Result<()> {
    let kit = Turn::beside_others()?;
    let namespace = Namespace::new(&kit);
    let chart = Chart {
        kit: &kit,
        namespace: namespace.name.clone(),
    };
    for (name, values) in MATRIX {
        let (rendered, objects) = chart.objects(values, &[]);
        assert!(objects.len() >= 2, "{name}: {rendered}");
        let mut apply = kit.kubectl();
        apply.args([
            "apply",
            "--server-side",
            "--force-conflicts",
            "--dry-run=server",
            "--validate=strict",
        ]);
        apply.args(["-f", "-"]);
        let output = output(&mut apply, &rendered);
        let said = text(&output.stderr);
        assert!(output.status.success(), "{name}: {said}");
        assert!(!said.contains("Warning"), "{name}: {said}");
    }
    Ok(())
}

#[test]
fn monitoring_objects_appear_only_where_their_api_is() -> Result<()> {
    let kit = Turn::beside_others()?;
    let chart = Chart {
        kit: &kit,
        namespace: "shop".into(),
    };
    let values = "serviceMonitor: {enabled: true, labels: {a: b}}\npodMonitor: {enabled: true, labels: {a: b}}\n\
                  prometheusRule: {enabled: true, labels: {a: b}}\n";
    let kinds = ["ServiceMonitor", "PodMonitor", "PrometheusRule"];
    let (_, without) = chart.objects(values, &[]);
    let (_, with) = chart.objects(values, &["--api-versions", "monitoring.coreos.com/v1"]);
    for kind in kinds {
        assert!(of_kind(&without, kind).is_empty(), "{kind}");
        assert_eq!(of_kind(&with, kind)[0]["metadata"]["labels"]["a"], "b", "{kind}");
    }
    let pods = &of_kind(&with, "PodMonitor")[0]["spec"];
    assert_eq!(pods["namespaceSelector"]["any"], true);
    // What alerts and dashboards tell pipelines apart by.
    assert_eq!(
        pods["podMetricsEndpoints"][0]["relabelings"],
        serde_json::json!([
            {"sourceLabels": ["__meta_kubernetes_pod_label_penstock_dev_pipeline"], "targetLabel": "pipeline"},
            {"sourceLabels": ["__meta_kubernetes_pod_label_app_kubernetes_io_component"], "targetLabel": "component"},
        ])
    );
    let values = format!("watchNamespaces: [a, b]\n{values}");
    let (_, two) = chart.objects(&values, &["--api-versions", "monitoring.coreos.com/v1"]);
    let these = &of_kind(&two, "PodMonitor")[0]["spec"]["namespaceSelector"];
    assert_eq!(*these, serde_json::json!({"matchNames": ["a", "b"]}));
    Ok(())
}

#[test]
fn the_operator_knows_every_variable_that_it_is_given() -> Result<()> {
    let kit = Turn::beside_others()?;
    let chart = Chart {
        kit: &kit,
        namespace: "shop".into(),
    };
    let command = Args::command();
    let known: BTreeSet<String> = command
        .get_arguments()
        .filter_map(|a| a.get_env())
        .map(|e| e.to_string_lossy().into_owned())
        .collect();
    let mut given = BTreeMap::new();
    for (name, values) in MATRIX {
        let (_, objects) = chart.objects(values, &[]);
        let container = &of_kind(&objects, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0];
        for variable in container["env"].as_array().expect("variables") {
            let variable_name = variable["name"].as_str().expect("a name");
            if variable_name.starts_with("PENSTOCK_") {
                assert!(known.contains(variable_name), "{name}: {variable_name}");
                given.insert(variable_name.to_owned(), variable["value"].clone());
            }
        }
    }
    let missing: Vec<_> = known.iter().filter(|name| !given.contains_key(*name)).collect();
    assert_eq!(
        missing,
        ["PENSTOCK_ADMIN_LISTEN"],
        "a setting that the chart cannot set"
    );
    // What is rendered is also what the operator can read.
    let mut arguments = vec!["penstock-operator".to_owned()];
    for argument in command.get_arguments() {
        let (Some(env), Some(long)) = (argument.get_env(), argument.get_long()) else {
            continue;
        };
        if let Some(Value::String(value)) = given.get(&*env.to_string_lossy()) {
            arguments.push(format!("--{long}={value}"));
        }
    }
    let args = <Args as clap::Parser>::try_parse_from(arguments).expect("arguments");
    penstock_operator::settings::Settings::try_from(args).expect("settings");
    Ok(())
}

#[test]
fn rights_are_few_and_named() -> Result<()> {
    let kit = Turn::beside_others()?;
    let chart = Chart {
        kit: &kit,
        namespace: "shop".into(),
    };
    for (name, values) in MATRIX {
        let (_, objects) = chart.objects(values, &[]);
        let roles = objects
            .iter()
            .filter(|o| o["kind"] == "Role" || o["kind"] == "ClusterRole");
        for rule in roles.flat_map(|role| role["rules"].as_array().expect("rules")) {
            for part in ["apiGroups", "resources", "verbs"] {
                let words = rule[part].as_array().expect("a list");
                assert!(!words.iter().any(|word| word == "*"), "{name}: {rule}");
            }
            let verbs = rule["verbs"].as_array().expect("verbs");
            assert!(
                !verbs
                    .iter()
                    .any(|verb| verb == "escalate" || verb == "bind" || verb == "impersonate"),
                "{rule}"
            );
            let resources = rule["resources"].as_array().expect("resources");
            assert!(
                !resources
                    .iter()
                    .any(|r| r.as_str().is_some_and(|r| r.contains("pods/"))),
                "{rule}"
            );
        }
    }
    // With namespaces to watch and a cluster id, nothing is asked of the cluster as a whole.
    let (_, objects) = chart.objects(
        "watchNamespaces: [a, b]\nclusterId: c1\nrbac: {aggregate: false}\n",
        &[],
    );
    assert!(
        of_kind(&objects, "ClusterRole").is_empty() && of_kind(&objects, "ClusterRoleBinding").is_empty()
    );
    let namespaces: BTreeSet<_> = of_kind(&objects, "RoleBinding")
        .iter()
        .map(|o| o["metadata"]["namespace"].to_string())
        .collect();
    assert_eq!(
        namespaces,
        ["\"a\"", "\"b\"", "\"shop\""].map(str::to_owned).into()
    );
    Ok(())
}

#[test]
fn the_definitions_are_those_of_the_types_and_are_kept() -> Result<()> {
    let kit = Turn::beside_others()?;
    let chart = Chart {
        kit: &kit,
        namespace: "shop".into(),
    };
    let (_, objects) = chart.objects("crds: {annotations: {team: data}}\n", &[]);
    let rendered = of_kind(&objects, "CustomResourceDefinition");
    let generated = penstock_crds::generate::files();
    assert_eq!(rendered.len(), generated.len());
    for (name, yaml) in generated {
        let mut expected: Value = serde_yaml::from_str(&yaml).expect("YAML");
        expected["metadata"]["annotations"] =
            serde_json::json!({"helm.sh/resource-policy": "keep", "team": "data"});
        assert!(
            rendered.iter().any(|object| **object == expected),
            "{name} is rendered as something else"
        );
    }
    let (_, without) = chart.objects("crds: {install: false}\n", &[]);
    assert!(of_kind(&without, "CustomResourceDefinition").is_empty());
    Ok(())
}
