//! What the chart renders, over a matrix of values.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::CommandFactory;
use penstock_crds::conditions::Reason;
use penstock_e2e::Result;
use penstock_e2e::trial::{APP, Trial, Turn, Volumes};
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
    let everywhere = &of_kind(&with, "PodMonitor")[0]["spec"]["namespaceSelector"];
    assert_eq!(everywhere["any"], true);
    let values = format!("watchNamespaces: [a, b]\n{values}");
    let (_, two) = chart.objects(&values, &["--api-versions", "monitoring.coreos.com/v1"]);
    let these = &of_kind(&two, "PodMonitor")[0]["spec"]["namespaceSelector"];
    assert_eq!(*these, serde_json::json!({"matchNames": ["a", "b"]}));
    Ok(())
}

/// What alerts and dashboards ask for is what the operator and the pods of a pipeline say.
#[test]
fn alerts_and_dashboards_ask_for_metrics_that_there_are() -> Result<()> {
    let kit = Turn::beside_others()?;
    let chart = Chart {
        kit: &kit,
        namespace: "shop".into(),
    };
    let (_, objects) = chart.objects(
        "prometheusRule: {enabled: true}\ndashboards: {enabled: true, annotations: {grafana_folder: Penstock}}\n",
        &["--api-versions", "monitoring.coreos.com/v1"],
    );
    let maps = of_kind(&objects, "ConfigMap");
    let dashboards = maps[0]["data"].as_object().expect("dashboards");
    assert_eq!(maps[0]["metadata"]["labels"]["grafana_dashboard"], "1");
    let rules: Vec<&Value> = of_kind(&objects, "PrometheusRule")[0]["spec"]["groups"]
        .as_array()
        .expect("groups")
        .iter()
        .flat_map(|group| group["rules"].as_array().expect("rules"))
        .collect();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    // Who is woken up by one finds it in the guide, and none there that is no more.
    let guide = include_str!("../../../../docs/alerts.md");
    let told = guide.lines().filter_map(|line| line.strip_prefix("| `Penstock"));
    let told: Vec<String> = told
        .filter_map(|line| {
            Some(format!(
                "Penstock{}",
                line.split_once(',')?.0.replace("` | ", " ")
            ))
        })
        .collect();
    let named = |rule: &&Value| format!("{} {}", text(&rule["alert"]), text(&rule["labels"]["severity"]));
    assert_eq!(told, rules.iter().map(named).collect::<Vec<_>>());
    let mut expressions: Vec<String> = rules.iter().map(|rule| text(&rule["expr"])).collect();
    for (name, json) in dashboards {
        let board: Value = serde_json::from_str(json.as_str().expect("text"))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let panels = board["panels"].as_array().expect("panels");
        let targets = panels
            .iter()
            .filter_map(|panel| panel["targets"].as_array())
            .flatten();
        expressions.extend(targets.map(|target| target["expr"].as_str().expect("an expression").to_owned()));
    }
    assert!(dashboards.len() == 2 && expressions.len() > 50);

    let trial = Trial::empty(&kit, "metrics")?;
    let _volumes = Volumes::make(&trial, &["spool-events-ingest-0"])?;
    trial.apply(&trial.app(APP))?;
    trial.apply(&trial.pipeline(
        "  ingest: {scaling: {replicas: 1}, spool: {volume: {size: 1Gi}}}\n  consume: {scaling: {replicas: 1}}\n",
    ))?;
    trial.ready()?;
    let sent = trial
        .traffic(APP)?
        .send(10, 10, 1, Duration::ZERO, Duration::from_secs(30))?;
    trial.settle(&sent, Duration::from_secs(60))?;
    let operator = penstock_operator::metrics::Metrics::default();
    operator.count("App", "a/b".into(), Some("failing"));
    operator.unreachable("kafka", 1);
    operator.reconciled("App", Duration::ZERO);
    operator.failed("App", Reason::SecretNotFound);
    operator.called("kafka", "topic", None, Duration::ZERO);
    operator.wrote("App");
    operator.watch_failed("App");
    let mut exposed = operator.expose().expect("text");
    for component in ["ingest", "consume"] {
        exposed.push_str(&trial.metrics(&trial.pods(component)?[0])?);
    }
    let types: BTreeMap<&str, &str> = exposed
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect();
    for expression in &expressions {
        let names: Vec<&str> = expression
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .filter(|word| word.starts_with("penstock_"))
            .collect();
        assert!(!names.is_empty(), "{expression}");
        for name in names {
            let known = match name.strip_suffix("_bucket") {
                Some(histogram) => types.get(histogram) == Some(&"histogram"),
                None => {
                    // The operator's counters are named without it in OpenMetrics.
                    let counter = name.strip_suffix("_total").unwrap_or(name);
                    types.contains_key(name) || types.get(counter) == Some(&"counter")
                }
            };
            assert!(known, "{name} of {expression}");
        }
    }
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
