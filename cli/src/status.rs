//! `penstock status`: what the operator says about pipelines, and about one of them everything.
//!
//! [`PipelineView`] is what is printed as JSON and YAML; the tables are made of it.

use std::fmt::Write as _;

use clap::Args;
use penstock_crds::pipeline::EndpointStatus;
use penstock_crds::{App, Condition, ConditionStatus, ConditionType, IngestionPipeline, Reason};
use serde::Serialize;

use crate::cluster::{Cluster, Guard, Where};
use crate::exit::{End, Result};
use crate::output::{Format, note, print};
use crate::text::{Table, age_of, harmless, size};

#[derive(Clone, Debug, Args)]
pub struct Status {
    /// One pipeline, with all its conditions and Apps; default: all pipelines, a line each
    pub pipeline: Option<String>,
    /// All namespaces
    #[arg(short = 'A', long, conflicts_with_all = ["pipeline", "namespace"])]
    pub all_namespaces: bool,
    /// How to print it
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
}

/// A pipeline as it is shown.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PipelineView {
    pub namespace: String,
    pub name: String,
    pub ready: ConditionStatus,
    pub reason: String,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter_topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    pub ingest: Pods,
    pub consume: Pods,
    pub endpoints: Vec<EndpointStatus>,
    pub conditions: Vec<Condition>,
    /// Only where one pipeline was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apps: Option<Vec<AppView>>,
}

/// Pods of a role.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Pods {
    pub available: i32,
    pub wanted: i32,
}

/// An App as it is shown.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AppView {
    pub name: String,
    pub ready: ConditionStatus,
    pub reason: String,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_id: Option<String>,
    pub suspended: bool,
    pub keys: Vec<KeyView>,
    pub events_today: i64,
    pub bytes_today: i64,
}

/// A key, recognisable without being known.
#[derive(Clone, Debug, Serialize)]
pub struct KeyView {
    pub name: String,
    pub fingerprint: String,
}

pub async fn run(place: &Where, arguments: &Status) -> Result<End> {
    let cluster = Cluster::connect(place).await?;
    if let Some(name) = &arguments.pipeline {
        let mut view = PipelineView::of(cluster.pipeline(name).await?);
        let today = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
        let apps = cluster.apps().await?;
        let bound = apps
            .into_iter()
            .filter_map(|app| AppView::bound(app, name, &today));
        view.apps = Some(bound.collect());
        print(arguments.output, &view, detail)?;
        let apps = view.apps.iter().flatten().map(|app| app.ready);
        return Ok(end(apps.chain([view.ready])));
    }
    let pipelines = cluster.pipelines(arguments.all_namespaces).await?;
    let views: Vec<_> = pipelines.into_iter().map(PipelineView::of).collect();
    if views.is_empty() && arguments.output == Format::Table {
        match arguments.all_namespaces {
            true => note("No pipelines in the cluster."),
            false => note(&format!(
                "No pipelines in the namespace {}; -A shows those of all.",
                cluster.namespace
            )),
        }
        return Ok(End::Done);
    }
    print(arguments.output, &views, |views| {
        lines(views, arguments.all_namespaces)
    })?;
    Ok(end(views.iter().map(|view| view.ready)))
}

fn end(mut shown: impl Iterator<Item = ConditionStatus>) -> End {
    match shown.all(|ready| ready == ConditionStatus::True) {
        true => End::Done,
        false => End::NotReady,
    }
}

/// Ready, its reason and its message. What was said about an older generation is no answer.
fn ready(conditions: &[Condition], current: bool) -> (ConditionStatus, String, String) {
    let found = conditions
        .iter()
        .find(|condition| condition.type_ == ConditionType::Ready.as_str());
    match found {
        Some(found) if current => (found.status, found.reason.clone(), found.message.clone()),
        _ => (
            ConditionStatus::Unknown,
            Reason::Pending.to_string(),
            "the operator has not looked at this version of it yet; does it run?".into(),
        ),
    }
}

impl PipelineView {
    fn of(object: Guard<IngestionPipeline>) -> Self {
        let pipeline = match object.0 {
            Ok(pipeline) => pipeline,
            Err(invalid) => return Self::unreadable(invalid.metadata, &invalid.error),
        };
        let status = pipeline.status.unwrap_or_default();
        let current = pipeline.metadata.generation == Some(status.observed_generation);
        let (ready, reason, message) = ready(&status.conditions, current);
        let available = status.replicas.unwrap_or_default();
        Self {
            namespace: pipeline.metadata.namespace.unwrap_or_default(),
            name: pipeline.metadata.name.unwrap_or_default(),
            ready,
            reason,
            message,
            topic: status.topic,
            dead_letter_topic: status.dead_letter_topic,
            table: status.table,
            ingest: Pods {
                available: available.ingest,
                wanted: pipeline.spec.ingest.scaling.replicas,
            },
            consume: Pods {
                available: available.consume,
                wanted: pipeline.spec.consume.scaling.replicas,
            },
            endpoints: status.endpoints,
            conditions: status.conditions,
            apps: None,
        }
    }

    /// One that this version cannot read hides no other.
    fn unreadable(metadata: kube::api::ObjectMeta, why: &str) -> Self {
        Self {
            namespace: metadata.namespace.unwrap_or_default(),
            name: metadata.name.unwrap_or_default(),
            ready: ConditionStatus::Unknown,
            reason: Reason::Malformed.to_string(),
            message: format!("this version of penstock cannot read it: {why}"),
            topic: None,
            dead_letter_topic: None,
            table: None,
            ingest: Pods::default(),
            consume: Pods::default(),
            endpoints: Vec::new(),
            conditions: Vec::new(),
            apps: None,
        }
    }
}

impl AppView {
    /// An App that the pipeline accepts events of.
    fn bound(object: Guard<App>, pipeline: &str, today: &str) -> Option<Self> {
        let app = object.0.ok()?;
        let status = app.status.unwrap_or_default();
        if !status.bound_pipelines.iter().any(|bound| bound == pipeline) {
            return None;
        }
        let current = app.metadata.generation == Some(status.observed_generation);
        let (ready, reason, message) = ready(&status.conditions, current);
        // What was used yesterday says nothing about today.
        let usage = status.usage.filter(|usage| usage.day == today);
        let keys = status.keys.into_iter().map(|key| KeyView {
            name: key.name,
            fingerprint: key.fingerprint,
        });
        Some(Self {
            name: app.metadata.name.unwrap_or_default(),
            ready,
            reason,
            message,
            app_id: status.app_id,
            suspended: app.spec.suspended,
            keys: keys.collect(),
            events_today: usage.as_ref().map_or(0, |usage| usage.events),
            bytes_today: usage.as_ref().map_or(0, |usage| usage.bytes),
        })
    }
}

impl std::fmt::Display for Pods {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.available, self.wanted)
    }
}

fn word(status: ConditionStatus) -> String {
    format!("{status:?}")
}

/// All pipelines, a line each. What Ready says is only worth its room where something is wrong.
fn lines(views: &Vec<PipelineView>, namespaces: bool) -> String {
    let head = [
        "NAMESPACE",
        "NAME",
        "READY",
        "REASON",
        "INGEST",
        "CONSUME",
        "TOPIC",
        "TABLE",
        "ENDPOINT",
        "MESSAGE",
    ];
    let from = usize::from(!namespaces);
    let faulty = views.iter().any(|view| view.ready != ConditionStatus::True);
    let to = head.len() - usize::from(!faulty);
    let mut table = Table::new(&head[from..to]);
    for view in views {
        let message = match view.ready {
            ConditionStatus::True => String::new(),
            _ => view.message.clone(),
        };
        let cells = [
            view.namespace.clone(),
            view.name.clone(),
            word(view.ready),
            view.reason.clone(),
            view.ingest.to_string(),
            view.consume.to_string(),
            view.topic.clone().unwrap_or_default(),
            view.table.clone().unwrap_or_default(),
            view.endpoints
                .first()
                .map(|first| first.url.clone())
                .unwrap_or_default(),
            message,
        ];
        table.row(cells[from..to].iter().cloned());
    }
    table.to_string()
}

/// Everything about one.
fn detail(view: &PipelineView) -> String {
    let mut text = String::new();
    let absent = || "-".to_owned();
    let mut say = |name: &str, what: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:14}{}", harmless(what));
    };
    say("Pipeline", &format!("{}/{}", view.namespace, view.name));
    let mut ready = format!("{}, {}", word(view.ready), view.reason);
    if !view.message.is_empty() {
        let _ = write!(ready, ": {}", view.message);
    }
    say("Ready", &ready);
    say("Topic", &view.topic.clone().unwrap_or_else(absent));
    say(
        "Dead letters",
        &view.dead_letter_topic.clone().unwrap_or_else(absent),
    );
    say("Table", &view.table.clone().unwrap_or_else(absent));
    say(
        "Pods",
        &format!("ingest {}, consume {}", view.ingest, view.consume),
    );
    for endpoint in &view.endpoints {
        say(&format!("{:?}", endpoint.protocol), &endpoint.url);
    }
    text.push('\n');
    text.push_str(&conditions(&view.conditions));
    text.push('\n');
    match view.apps.as_deref().unwrap_or_default() {
        [] => text.push_str("No App is bound: no key is accepted. spec.apps says which Apps are.\n"),
        bound => text.push_str(&apps(bound)),
    }
    text
}

fn conditions(conditions: &[Condition]) -> String {
    let mut table = Table::new(&["CONDITION", "STATUS", "REASON", "AGE", "MESSAGE"]);
    for condition in conditions {
        table.row([
            condition.type_.clone(),
            word(condition.status),
            condition.reason.clone(),
            age_of(condition.last_transition_time.0.as_millisecond()),
            condition.message.clone(),
        ]);
    }
    table.to_string()
}

fn apps(apps: &[AppView]) -> String {
    let mut table = Table::new(&[
        "APP",
        "READY",
        "REASON",
        "ID",
        "KEYS",
        "EVENTS TODAY",
        "BYTES TODAY",
    ]);
    for app in apps {
        let keys = app
            .keys
            .iter()
            .map(|key| format!("{}:{}", key.name, key.fingerprint));
        let name = match app.suspended {
            true => format!("{} (suspended)", app.name),
            false => app.name.clone(),
        };
        table.row([
            name,
            word(app.ready),
            app.reason.clone(),
            app.app_id.clone().unwrap_or_default(),
            keys.collect::<Vec<_>>().join(" "),
            app.events_today.to_string(),
            size(u64::try_from(app.bytes_today).unwrap_or(0)),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn condition(type_: &str, status: &str) -> serde_json::Value {
        json!({"type": type_, "status": status, "reason": "PodsUnavailable", "message": "1 of 2 pods",
               "lastTransitionTime": "2026-11-21T10:00:00Z"})
    }

    fn pipeline(observed: i64, ready: &str) -> Guard<IngestionPipeline> {
        let object = json!({
            "apiVersion": "penstock.dev/v1alpha1", "kind": "IngestionPipeline",
            "metadata": {"name": "events", "namespace": "growth", "generation": 2},
            "spec": {"apps": {"names": ["shop"]}},
            "status": {
                "observedGeneration": observed, "topic": "growth.events", "table": "growth.events",
                "replicas": {"ingest": 1, "consume": 1},
                "endpoints": [{"protocol": "Native", "url": "http://x/v1/events"}],
                "conditions": [condition("Ready", ready), condition("Durable", "True")],
            },
        });
        serde_json::from_value(object).unwrap()
    }

    fn app(day: &str) -> Guard<App> {
        let object = json!({
            "apiVersion": "penstock.dev/v1alpha1", "kind": "App",
            "metadata": {"name": "shop", "namespace": "growth", "generation": 1},
            "spec": {},
            "status": {
                "observedGeneration": 1, "appId": "6f0c4a4e-5d0b-5c58-9a52-0d9c9a8f3b11",
                "boundPipelines": ["events"], "conditions": [condition("Ready", "True")],
                "keys": [{"name": "web", "fingerprint": "01234567", "secretName": "shop-web"}],
                "usage": {"day": day, "events": 7, "bytes": 2500},
            },
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_message_is_shown_where_something_is_wrong() {
        let good = vec![PipelineView::of(pipeline(2, "True"))];
        assert!(!lines(&good, false).contains("1 of 2 pods"));
        assert_eq!(end(good.iter().map(|view| view.ready)), End::Done);
        let both = vec![good[0].clone(), PipelineView::of(pipeline(2, "False"))];
        assert_eq!(
            lines(&both, true).lines().nth(2),
            Some(
                "growth     events  False  PodsUnavailable  1/2     1/1      growth.events  growth.events  http://x/v1/events  1 of 2 pods"
            )
        );
        assert_eq!(end(both.iter().map(|view| view.ready)), End::NotReady);
        let ready = |view: &PipelineView| detail(view).lines().nth(1).map(str::to_owned).unwrap();
        let without = PipelineView {
            message: String::new(),
            ..good[0].clone()
        };
        assert_eq!(ready(&without), "Ready         True, PodsUnavailable");
        assert_eq!(
            ready(&both[1]),
            "Ready         False, PodsUnavailable: 1 of 2 pods"
        );
    }

    #[test]
    fn what_was_said_about_an_older_generation_is_no_answer() {
        let view = PipelineView::of(pipeline(1, "True"));
        assert_eq!(
            (view.ready, view.reason.as_str()),
            (ConditionStatus::Unknown, "Pending")
        );
    }

    #[test]
    fn one_that_cannot_be_read_is_shown_as_such() {
        let object = json!({
            "apiVersion": "penstock.dev/v1alpha1", "kind": "IngestionPipeline",
            "metadata": {"name": "odd", "namespace": "growth"}, "spec": {"apps": 3},
        });
        let view = PipelineView::of(serde_json::from_value(object).unwrap());
        assert_eq!((view.name.as_str(), view.reason.as_str()), ("odd", "Malformed"));
    }

    #[test]
    fn bound_apps_show_their_keys_and_what_they_used_today() {
        let mut view = PipelineView::of(pipeline(2, "True"));
        assert!(AppView::bound(app("2026-11-21"), "other", "2026-11-21").is_none());
        let today = AppView::bound(app("2026-11-21"), "events", "2026-11-21").unwrap();
        assert_eq!((today.events_today, today.bytes_today), (7, 2500));
        let yesterday = AppView::bound(app("2026-11-20"), "events", "2026-11-21").unwrap();
        assert_eq!((yesterday.events_today, yesterday.bytes_today), (0, 0));
        view.apps = Some(vec![today]);
        let text = detail(&view);
        for part in [
            "growth/events",
            "Durable",
            "web:01234567",
            "2.5 kB",
            "http://x/v1/events",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        view.apps = Some(Vec::new());
        assert!(detail(&view).contains("No App is bound"));
    }
}
