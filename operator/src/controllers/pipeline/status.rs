//! What is said about a pipeline. Pure.
//!
//! Ready = the spec is valid, what it needs exists, its workloads are available. It stays true through a rolling update
//! that keeps pods available; `Reconciling` tells the rest. Redis is not part of it: pods go on without. Nor is Kafka
//! where pods keep events in a spool while it is away; `DurabilityDegraded` tells that they do. Nor is the table of dead
//! letters, which are in their topic; `TablesReady` tells.

use k8s_openapi::jiff::Timestamp;
use penstock_crds::pipeline::{EndpointStatus, Protocol, ReplicaStatus};
use penstock_crds::{
    Condition, ConditionStatus, ConditionType, IngestionPipeline, IngestionPipelineStatus, Reason,
};

use super::external::External;
use super::target::{Invalid, Target};
use crate::api::ApiError;
use crate::conditions::{Statement, find, merge};
use crate::controllers::subject::Subject;

/// What a look at a pipeline has found.
#[derive(Debug)]
pub(crate) struct Observation<'a> {
    /// Why the spec cannot be used, if so. Then the rest is what was known before.
    pub invalid: Option<&'a Invalid>,
    /// What does not keep the pipeline from working but is wrong: an App, or a Secret, that is named and not there.
    pub incomplete: Option<&'a Invalid>,
    pub external: Option<&'a External>,
    pub workloads: Option<Statement>,
    pub in_progress: Option<String>,
    /// `DurabilityDegraded`, while it is true.
    pub degraded: Option<Statement>,
    /// Events are taken while Kafka is away, and none is lost.
    pub bridges_outages: bool,
    pub failure: Option<&'a ApiError>,
    pub deleting: Option<&'a str>,
    pub target: Option<&'a Target>,
    pub replicas: Option<ReplicaStatus>,
    pub now: Timestamp,
}

/// A stored condition as a statement again.
pub(crate) fn remembered(pipeline: &IngestionPipeline, about: ConditionType) -> Option<Statement> {
    let stored = find(conditions(pipeline), about)?;
    let reason = reason(&stored.reason)?;
    Some(Statement {
        about,
        status: stored.status,
        reason,
        message: stored.message.clone(),
    })
}

/// A reason by its word.
pub(crate) fn reason(word: &str) -> Option<Reason> {
    Reason::ALL.iter().copied().find(|reason| reason.as_str() == word)
}

fn conditions(pipeline: &IngestionPipeline) -> &[Condition] {
    pipeline.status.as_ref().map_or(&[], |s| &s.conditions)
}

/// Whether the workloads were available when last looked at.
pub(crate) fn was_available(pipeline: &IngestionPipeline) -> bool {
    find(conditions(pipeline), ConditionType::WorkloadsAvailable).is_some_and(holds)
}

/// The status to store.
pub(crate) fn status(
    pipeline: &IngestionPipeline,
    subject: &Subject,
    seen: &Observation<'_>,
) -> IngestionPipelineStatus {
    let or_before = |about: ConditionType, now: Option<&Statement>| {
        now.cloned()
            .or_else(|| remembered(pipeline, about))
            .unwrap_or_else(|| Statement::unknown(about, Reason::Pending, "not looked at yet"))
    };
    let topics = or_before(ConditionType::TopicsReady, seen.external.map(|e| &e.topics));
    let tables = or_before(ConditionType::TablesReady, seen.external.map(|e| &e.tables));
    let quotas = or_before(ConditionType::QuotasReady, seen.external.map(|e| &e.quotas));
    let durable = or_before(ConditionType::Durable, seen.external.map(|e| &e.durable));
    let workloads = or_before(ConditionType::WorkloadsAvailable, seen.workloads.as_ref());
    // Nobody has looked: events of a pipeline that was ready have their table, whatever `TablesReady` says.
    let was_ready = || find(conditions(pipeline), ConditionType::Ready).is_some_and(holds);
    let has_table = seen
        .external
        .map_or_else(was_ready, |external| external.has_table);
    let ready = ready(seen, [&topics, &tables, &workloads], has_table);
    let stalled = stalled(seen, &ready);
    let mut statements = vec![ready.clone(), topics, tables, quotas, workloads, durable];
    statements.extend(seen.degraded.clone());
    if subject.paused {
        let message = "the annotation penstock.dev/paused stops all writes for this pipeline";
        statements.push(Statement::new(
            ConditionType::Paused,
            true,
            Reason::PausedByAnnotation,
            message,
        ));
    }
    if let Some((reason, message)) = stalled {
        statements.push(Statement::new(ConditionType::Stalled, true, reason, message));
    } else if let Some(progress) = &seen.in_progress {
        statements.push(Statement::new(
            ConditionType::Reconciling,
            true,
            Reason::RollingOut,
            progress.clone(),
        ));
    } else if !ready.holds() {
        statements.push(Statement::new(
            ConditionType::Reconciling,
            true,
            ready.reason,
            ready.message,
        ));
    }
    let before = pipeline.status.clone().unwrap_or_default();
    let target = seen.target;
    IngestionPipelineStatus {
        observed_generation: subject.generation,
        conditions: merge(&before.conditions, &statements, subject.generation, seen.now),
        endpoints: match target {
            Some(_) => endpoints(pipeline, subject),
            None => before.endpoints,
        },
        topic: target.map(|t| t.topic.name.clone()).or(before.topic),
        dead_letter_topic: target
            .map(|t| t.dead_letters.name.clone())
            .or(before.dead_letter_topic),
        table: target.map(Target::table_name).or(before.table),
        replicas: seen.replicas.or(before.replicas),
    }
}

fn holds(condition: &Condition) -> bool {
    condition.status == ConditionStatus::True
}

/// `has_table`: events have theirs; then `TablesReady` speaks of that of dead letters, which nothing waits for.
fn ready(seen: &Observation<'_>, needed: [&Statement; 3], has_table: bool) -> Statement {
    let no = |reason, message: String| Statement::new(ConditionType::Ready, false, reason, message);
    if let Some(what) = seen.deleting {
        return no(Reason::Deleting, what.to_owned());
    }
    if let Some(invalid) = seen.invalid {
        return no(invalid.reason, invalid.message.clone());
    }
    if let Some(failure) = seen.failure {
        return no(failure.reason(), failure.to_string());
    }
    // Where nothing outside was even looked at, what is missing is why.
    if let Some(incomplete) = seen.incomplete.filter(|_| seen.external.is_none()) {
        return no(incomplete.reason, incomplete.message.clone());
    }
    // An outage that the spools bridge takes nothing away from whoever sends.
    let bridged = |s: &Statement| seen.bridges_outages && s.reason == Reason::KafkaUnavailable;
    let of_letters = |s: &Statement| has_table && s.about == ConditionType::TablesReady;
    let needed: Vec<&Statement> = needed
        .into_iter()
        .filter(|s| !bridged(s) && !of_letters(s))
        .collect();
    if let Some(statement) = needed
        .iter()
        .find(|s| s.about != ConditionType::WorkloadsAvailable && !s.holds())
    {
        return no(statement.reason, statement.message.clone());
    }
    if let Some(incomplete) = seen.incomplete {
        return no(incomplete.reason, incomplete.message.clone());
    }
    match needed.iter().find(|s| !s.holds()) {
        Some(statement) => no(statement.reason, statement.message.clone()),
        None => Statement::new(ConditionType::Ready, true, Reason::Available, ""),
    }
}

/// What only a person can mend.
fn stalled(seen: &Observation<'_>, ready: &Statement) -> Option<(Reason, String)> {
    let permanent = seen.invalid.is_some()
        || seen.incomplete.is_some()
        || seen.failure.is_some_and(|f| !f.passes())
        || seen.external.is_some_and(External::permanent);
    (permanent && !ready.holds()).then(|| (ready.reason, ready.message.clone()))
}

fn endpoints(pipeline: &IngestionPipeline, subject: &Subject) -> Vec<EndpointStatus> {
    let scheme = if pipeline.spec.endpoint.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let base = format!(
        "{scheme}://{}-ingest.{}.svc:8080",
        subject.name, subject.namespace
    );
    pipeline
        .spec
        .endpoint
        .protocols
        .iter()
        .map(|protocol| EndpointStatus {
            protocol: *protocol,
            url: match protocol {
                Protocol::Native | Protocol::Envelope => base.clone(),
                Protocol::Segment => format!("{base}/segment"),
            },
        })
        .collect()
}

/// Why the pipeline is not ready, if it is not.
pub(crate) fn failing(status: &IngestionPipelineStatus) -> Option<(Reason, String)> {
    let ready = find(&status.conditions, ConditionType::Ready)?;
    if holds(ready) {
        return None;
    }
    let reason = reason(&ready.reason)?;
    Some((reason, ready.message.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_provision::{Owner, ProvisionError, Service};

    fn pipeline() -> IngestionPipeline {
        serde_yaml::from_str(
            "apiVersion: penstock.dev/v1alpha1\nkind: IngestionPipeline\nmetadata: {name: events, namespace: growth, uid: u, generation: 4}\nspec: {apps: {selector: {}}}",
        )
        .unwrap()
    }

    #[test]
    fn endpoints_are_where_the_protocols_are_spoken() {
        let mut pipeline = pipeline();
        let urls = |pipeline: &IngestionPipeline| -> Vec<String> {
            let endpoints = endpoints(pipeline, &Subject::of(pipeline));
            endpoints.into_iter().map(|endpoint| endpoint.url).collect()
        };
        let base = "http://events-ingest.growth.svc:8080";
        assert_eq!(
            urls(&pipeline),
            [base.to_owned(), format!("{base}/segment"), base.to_owned()]
        );
        pipeline.spec.endpoint = serde_yaml::from_str("{protocols: [Native], tls: {secretName: t}}").unwrap();
        assert_eq!(urls(&pipeline), ["https://events-ingest.growth.svc:8080"]);
    }

    fn external(failure: Option<ProvisionError>) -> External {
        let yes = |about| Statement::new(about, true, Reason::Available, "");
        let topics = match &failure {
            Some(error) => Statement::new(
                ConditionType::TopicsReady,
                false,
                error.reason(),
                error.to_string(),
            ),
            None => yes(ConditionType::TopicsReady),
        };
        External {
            topics,
            tables: yes(ConditionType::TablesReady),
            has_table: true,
            letters: None,
            letters_refused: false,
            quotas: Statement::new(ConditionType::QuotasReady, false, Reason::RedisUnavailable, ""),
            durable: Statement::new(ConditionType::Durable, false, Reason::SingleReplica, ""),
            notes: vec![],
            failures: failure.into_iter().collect(),
        }
    }

    fn nothing<'a>() -> Observation<'a> {
        Observation {
            invalid: None,
            incomplete: None,
            external: None,
            workloads: None,
            in_progress: None,
            degraded: None,
            bridges_outages: false,
            failure: None,
            deleting: None,
            target: None,
            replicas: None,
            now: Timestamp::from_second(1000).unwrap(),
        }
    }

    fn words(status: &IngestionPipelineStatus) -> Vec<String> {
        status
            .conditions
            .iter()
            .map(|c| format!("{}={:?}/{}", c.type_, c.status, c.reason))
            .collect()
    }

    fn available() -> Option<Statement> {
        Some(Statement::new(
            ConditionType::WorkloadsAvailable,
            true,
            Reason::Available,
            "",
        ))
    }

    #[test]
    fn ready_needs_topics_table_and_pods_but_neither_redis_nor_replicas() {
        let pipeline = pipeline();
        let external = external(None);
        let seen = Observation {
            external: Some(&external),
            workloads: available(),
            ..nothing()
        };
        let status = status(&pipeline, &Subject::of(&pipeline), &seen);
        assert_eq!(
            words(&status),
            [
                "Ready=True/Available",
                "TopicsReady=True/Available",
                "TablesReady=True/Available",
                "QuotasReady=False/RedisUnavailable",
                "WorkloadsAvailable=True/Available",
                "Durable=False/SingleReplica",
            ]
        );
        assert_eq!(status.observed_generation, 4);
        assert_eq!(failing(&status), None);
    }

    #[test]
    fn a_rolling_update_is_said_without_losing_ready() {
        let pipeline = pipeline();
        let external = external(None);
        let seen = Observation {
            external: Some(&external),
            workloads: available(),
            in_progress: Some("ingest: 1 of 2 pods are available".into()),
            ..nothing()
        };
        let said = words(&status(&pipeline, &Subject::of(&pipeline), &seen));
        assert_eq!(said[0], "Ready=True/Available");
        assert_eq!(said[6], "Reconciling=True/RollingOut");
    }

    #[test]
    fn what_passes_is_reconciling_and_what_stays_is_stalled() {
        let pipeline = pipeline();
        let down = ProvisionError::Unavailable {
            service: Service::Kafka,
            address: "k:9092".into(),
            detail: "no answer".into(),
        };
        let owned = ProvisionError::OwnedBy {
            thing: "topic x".into(),
            owner: Owner::new("c", "n", "p"),
        };
        for (failure, ready, last) in [
            (
                down,
                "Ready=False/KafkaUnavailable",
                "Reconciling=True/KafkaUnavailable",
            ),
            (
                owned,
                "Ready=False/ResourceConflict",
                "Stalled=True/ResourceConflict",
            ),
        ] {
            let external = external(Some(failure));
            let seen = Observation {
                external: Some(&external),
                workloads: available(),
                ..nothing()
            };
            let said = words(&status(&pipeline, &Subject::of(&pipeline), &seen));
            assert_eq!((said[0].as_str(), said[6].as_str()), (ready, last));
        }
    }

    #[test]
    fn an_outage_that_spools_bridge_leaves_the_pipeline_ready() {
        let pipeline = pipeline();
        let down = ProvisionError::Unavailable {
            service: Service::Kafka,
            address: "k:9092".into(),
            detail: "no answer".into(),
        };
        let external = external(Some(down));
        let degraded = Statement::new(ConditionType::DurabilityDegraded, true, Reason::Spooling, "");
        let seen = Observation {
            external: Some(&external),
            workloads: available(),
            degraded: Some(degraded),
            bridges_outages: true,
            ..nothing()
        };
        let said = words(&status(&pipeline, &Subject::of(&pipeline), &seen));
        assert_eq!(said[0], "Ready=True/Available");
        assert_eq!(said[1], "TopicsReady=False/KafkaUnavailable");
        assert_eq!(said[6], "DurabilityDegraded=True/Spooling");

        let without_pods = Observation {
            workloads: Some(Statement::new(
                ConditionType::WorkloadsAvailable,
                false,
                Reason::PodsUnavailable,
                "",
            )),
            ..seen
        };
        let said = words(&status(&pipeline, &Subject::of(&pipeline), &without_pods));
        assert_eq!(said[0], "Ready=False/PodsUnavailable");
    }

    #[test]
    fn dead_letters_without_their_table_leave_the_pipeline_ready() {
        let mut pipeline = pipeline();
        let why = ProvisionError::Unmarked {
            thing: "table growth.events_dead_letters".into(),
        };
        let refused = |has_table| External {
            tables: Statement::new(ConditionType::TablesReady, false, why.reason(), why.to_string()),
            has_table,
            letters: has_table.then(|| why.clone()),
            letters_refused: has_table,
            failures: if has_table { vec![] } else { vec![why.clone()] },
            ..external(None)
        };
        let unavailable = || {
            let about = ConditionType::WorkloadsAvailable;
            Some(Statement::new(about, false, Reason::PodsUnavailable, "no pod"))
        };
        for (has_table, workloads, expected) in [
            (true, available(), ["Ready=True/Available", ""]),
            (
                true,
                unavailable(),
                ["Ready=False/PodsUnavailable", "Reconciling=True/PodsUnavailable"],
            ),
            (
                false,
                available(),
                ["Ready=False/AdoptionRefused", "Stalled=True/AdoptionRefused"],
            ),
        ] {
            let external = refused(has_table);
            let seen = Observation {
                external: Some(&external),
                workloads,
                ..nothing()
            };
            let said = words(&status(&pipeline, &Subject::of(&pipeline), &seen));
            let last = said.get(6).map_or("", String::as_str);
            assert_eq!([said[0].as_str(), last], expected);
            assert_eq!(said[2], "TablesReady=False/AdoptionRefused");
        }

        // While it is paused nobody looks, and it stays what it is.
        for (has_table, ready) in [
            (true, "Ready=True/Available"),
            (false, "Ready=False/AdoptionRefused"),
        ] {
            let external = refused(has_table);
            let seen = Observation {
                external: Some(&external),
                workloads: available(),
                ..nothing()
            };
            pipeline.status = Some(status(&pipeline, &Subject::of(&pipeline), &seen));
            let unseen = Observation {
                workloads: available(),
                ..nothing()
            };
            let said = words(&status(&pipeline, &Subject::of(&pipeline), &unseen));
            assert_eq!(
                [said[0].as_str(), said[2].as_str()],
                [ready, "TablesReady=False/AdoptionRefused"]
            );
        }
    }

    #[test]
    fn an_invalid_spec_keeps_what_was_known() {
        let mut pipeline = pipeline();
        let external = external(None);
        let seen = Observation {
            external: Some(&external),
            workloads: available(),
            ..nothing()
        };
        pipeline.status = Some(status(&pipeline, &Subject::of(&pipeline), &seen));
        let invalid = Invalid {
            reason: Reason::NameNotAllowed,
            message: "kafka.topic: no".into(),
        };
        let seen = Observation {
            invalid: Some(&invalid),
            ..nothing()
        };
        let said = words(&status(&pipeline, &Subject::of(&pipeline), &seen));
        assert_eq!(said[0], "Ready=False/NameNotAllowed");
        assert_eq!(said[1], "TopicsReady=True/Available");
        assert_eq!(said[6], "Stalled=True/NameNotAllowed");
    }

    #[test]
    fn at_first_sight_all_is_unknown() {
        let pipeline = pipeline();
        let invalid = Invalid {
            reason: Reason::NotConfigured,
            message: "kafka.bootstrap".into(),
        };
        let seen = Observation {
            invalid: Some(&invalid),
            ..nothing()
        };
        let said = words(&status(&pipeline, &Subject::of(&pipeline), &seen));
        assert_eq!(
            said[1..6]
                .iter()
                .filter(|w| w.contains("=Unknown/Pending"))
                .count(),
            5,
            "{said:?}"
        );
    }
}
