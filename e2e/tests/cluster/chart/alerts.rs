//! Alerts and dashboards: that there is what they ask for, that it is said as Prometheus reads it, and when an alert fires.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use penstock_crds::conditions::Reason;
use penstock_e2e::trial::{APP, Trial, Turn, Volumes};
use penstock_e2e::{Error, Instance, Result};
use serde_json::Value;

use super::{Chart, of_kind, succeeds};

/// What the chart asks of Prometheus.
struct Asked {
    /// Of the `PrometheusRule`.
    rules: Vec<Value>,
    /// Expressions of the dashboards' panels.
    panels: Vec<String>,
}

fn word(value: &Value) -> &str {
    value.as_str().expect("a text")
}

impl Asked {
    fn by(kit: &Instance) -> Self {
        let chart = Chart {
            kit,
            namespace: "shop".into(),
        };
        let (_, objects) = chart.objects(
            "prometheusRule: {enabled: true}\ndashboards: {enabled: true, annotations: {grafana_folder: Penstock}}\n",
            &["--api-versions", "monitoring.coreos.com/v1"],
        );
        let maps = of_kind(&objects, "ConfigMap");
        assert_eq!(maps[0]["metadata"]["labels"]["grafana_dashboard"], "1");
        let dashboards = maps[0]["data"].as_object().expect("dashboards");
        let mut panels = Vec::new();
        for (name, json) in dashboards {
            let board: Value =
                serde_json::from_str(word(json)).unwrap_or_else(|error| panic!("{name}: {error}"));
            let all = board["panels"].as_array().expect("panels").iter();
            let targets = all.filter_map(|panel| panel["targets"].as_array()).flatten();
            panels.extend(targets.map(|target| word(&target["expr"]).to_owned()));
        }
        let groups = of_kind(&objects, "PrometheusRule")[0]["spec"]["groups"].as_array();
        let groups = groups.expect("groups").iter();
        let rules = groups.flat_map(|group| group["rules"].as_array().expect("rules"));
        let rules: Vec<Value> = rules.cloned().collect();
        assert!(dashboards.len() == 2 && rules.len() + panels.len() > 50);
        Self { rules, panels }
    }
}

/// Who is woken up by one finds it in the guide, and none there that is no more.
#[test]
fn the_guide_tells_of_every_alert() -> Result<()> {
    let kit = Turn::beside_others()?;
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
    let asked = Asked::by(&kit);
    let named = |rule: &Value| format!("{} {}", word(&rule["alert"]), word(&rule["labels"]["severity"]));
    assert_eq!(told, asked.rules.iter().map(named).collect::<Vec<_>>());
    Ok(())
}

/// What alerts and dashboards ask for is what the operator and the pods of a pipeline say.
#[test]
fn alerts_and_dashboards_ask_for_metrics_that_there_are() -> Result<()> {
    let kit = Turn::beside_others()?;
    let asked = Asked::by(&kit);
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
    let rules = asked.rules.iter().map(|rule| word(&rule["expr"]));
    for expression in rules.chain(asked.panels.iter().map(String::as_str)) {
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

/// Prometheus' own engine, which runs a script of its test language.
fn engine(kit: &Instance) -> Result<PathBuf> {
    let fetch = kit.repository().join("e2e/alerts/fetch");
    let output = Command::new(&fetch)
        .output()
        .map_err(|error| Error::new(format!("{}: {error}", fetch.display())))?;
    if !output.status.success() {
        return Err(Error::new(format!(
            "the engine of Prometheus is not built: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))
        .next(
            "run e2e/alerts/fetch where the module proxy can be reached, outside of the cluster's network",
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().into())
}

/// `e2e/alerts/alerts.test` says when; every alert has a time at which it fires and one at which it does not.
#[test]
fn alerts_fire_when_they_should_and_only_then() -> Result<()> {
    let kit = Turn::beside_others()?;
    let asked = Asked::by(&kit);
    let engine = engine(&kit)?;
    let scenarios = include_str!("../../../alerts/alerts.test");
    let mut script = String::new();
    let mut seen: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    let lines: Vec<&str> = scenarios.lines().collect();
    for (number, line) in lines.iter().enumerate() {
        let evaluated = line.strip_prefix("eval instant at ");
        let Some((at, name)) = evaluated.and_then(|rest| rest.split_once(' ')) else {
            script.push_str(line);
            script.push('\n');
            continue;
        };
        let rule = asked.rules.iter().find(|rule| rule["alert"] == name);
        let rule = rule.unwrap_or_else(|| panic!("line {}: there is no alert {name}", number + 1));
        script.push_str(&format!("eval instant at {at} {}\n", word(&rule["expr"])));
        let fires = lines.get(number + 1).is_some_and(|next| next.starts_with("  "));
        let (yes, no) = seen.entry(name).or_default();
        *if fires { yes } else { no } += 1;
    }
    for rule in &asked.rules {
        let name = word(&rule["alert"]);
        let (yes, no) = seen.get(name).copied().unwrap_or_default();
        assert!(
            yes > 0 && no > 0,
            "{name} has {yes} times at which it fires and {no} at which it does not"
        );
    }
    succeeds(&mut Command::new(&engine), &script);

    // Grafana's variables as it fills them in. Of no series comes nothing, but what is wrong with an expression is said.
    let mut script = String::new();
    for panel in &asked.panels {
        let panel = panel
            .replace("$__rate_interval", "1m")
            .replace("$namespace", "growth");
        let panel = panel.replace("$pipeline", "events");
        assert!(!panel.contains('$'), "{panel}");
        script.push_str(&format!("eval instant at 5m {panel}\n\n"));
    }
    succeeds(&mut Command::new(&engine), &script);
    Ok(())
}
