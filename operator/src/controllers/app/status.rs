//! What is said about an App: pure.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use penstock_crds::app::{AppSpec, KeyStatus};
use penstock_crds::{App, AppStatus, ConditionType, Reason};
use uuid::Uuid;

use super::keyring::KnownKey;
use crate::api::ApiError;
use crate::conditions::{Statement, find, merge};
use crate::controllers::subject::Subject;

/// Why a key is not in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyProblem {
    pub reason: Reason,
    pub message: String,
}

/// What a look at an App has found.
pub(super) struct Observation<'a> {
    pub id: Uuid,
    /// By the key's name.
    pub digests: &'a BTreeMap<String, KnownKey>,
    pub problems: &'a BTreeMap<String, KeyProblem>,
    pub failure: Option<&'a ApiError>,
    pub pipelines: Vec<String>,
    pub now: Timestamp,
}

fn expired(spec: &AppSpec, now: Timestamp) -> Vec<&str> {
    let over = |at: &str| at.parse::<Timestamp>().is_ok_and(|at| at <= now);
    spec.keys
        .iter()
        .filter(|k| k.expires_at.as_deref().is_some_and(over))
        .map(|k| k.name.as_str())
        .collect()
}

/// How long until the next key expires.
pub(super) fn next_expiry(spec: &AppSpec, now: Timestamp) -> Option<Duration> {
    spec.keys
        .iter()
        .filter_map(|key| key.expires_at.as_deref()?.parse::<Timestamp>().ok())
        .filter(|at| *at > now)
        .filter_map(|at| Duration::try_from(at.duration_since(now)).ok())
        .min()
        .map(|left| left + Duration::from_secs(1))
}

/// The status to store.
pub(super) fn status(app: &App, subject: &Subject, seen: &Observation<'_>) -> AppStatus {
    let keys_ready = keys_ready(app, seen);
    let mut statements = vec![Statement {
        about: ConditionType::Ready,
        status: keys_ready.status,
        reason: keys_ready.reason,
        message: if keys_ready.holds() {
            String::new()
        } else {
            keys_ready.message.clone()
        },
    }];
    let permanent = !keys_ready.holds() && keys_ready.reason != Reason::Pending && seen.failure.is_none();
    let (reason, message) = (keys_ready.reason, keys_ready.message.clone());
    statements.push(keys_ready);
    if subject.paused {
        let message = "the annotation penstock.dev/paused stops all writes for this App";
        statements.push(Statement::new(
            ConditionType::Paused,
            true,
            Reason::PausedByAnnotation,
            message,
        ));
    }
    if permanent {
        statements.push(Statement::new(ConditionType::Stalled, true, reason, message));
    }
    let stored = app.status.as_ref().map_or(&[][..], |s| &s.conditions);
    AppStatus {
        observed_generation: subject.generation,
        app_id: Some(seen.id.to_string()),
        conditions: merge(stored, &statements, subject.generation, seen.now),
        keys: app
            .spec
            .keys
            .iter()
            .filter_map(|key| {
                let known = seen.digests.get(&key.name)?;
                Some(KeyStatus {
                    name: key.name.clone(),
                    fingerprint: known.digest.fingerprint().into(),
                    secret_name: known.secret.name.clone(),
                })
            })
            .collect(),
        bound_pipelines: seen.pipelines.clone(),
        usage: None,
    }
}

/// Whether what is stored says the same. Usage is not this controller's to say.
pub(super) fn says(stored: Option<&AppStatus>, status: &AppStatus) -> bool {
    stored.is_some_and(|stored| {
        let without_usage = AppStatus {
            usage: None,
            ..stored.clone()
        };
        without_usage == *status
    })
}

fn keys_ready(app: &App, seen: &Observation<'_>) -> Statement {
    let about = ConditionType::KeysReady;
    if let Some(failure) = seen.failure {
        return Statement::new(about, false, failure.reason(), failure.to_string());
    }
    if let Some(problem) = seen.problems.values().next() {
        let all: Vec<&str> = seen.problems.values().map(|p| p.message.as_str()).collect();
        return Statement::new(about, false, problem.reason, all.join("; "));
    }
    let expired = expired(&app.spec, seen.now);
    if !expired.is_empty() && expired.len() == app.spec.keys.len() {
        let message = format!("every key is past its expiry: {}", expired.join(", "));
        return Statement::new(about, false, Reason::KeyExpired, message);
    }
    let message = match expired.as_slice() {
        [] => String::new(),
        some => format!("past their expiry and refused: {}", some.join(", ")),
    };
    Statement::new(about, true, Reason::Available, message)
}

/// Why the App is not ready, if it is not.
pub(super) fn failing(status: &AppStatus) -> Option<(Reason, String)> {
    let ready = find(&status.conditions, ConditionType::Ready)?;
    if ready.status == penstock_crds::ConditionStatus::True {
        return None;
    }
    let reason = Reason::ALL.iter().copied().find(|r| r.as_str() == ready.reason)?;
    Some((reason, ready.message.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::app::keyring::SecretVersion;
    use crate::identity::ApiKey;

    fn app(yaml: &str) -> App {
        let yaml = format!(
            "apiVersion: penstock.dev/v1alpha1\nkind: App\nmetadata: {{name: shop, namespace: growth, uid: u, generation: 3}}\nspec: {yaml}"
        );
        serde_yaml::from_str(&yaml).unwrap()
    }

    fn known() -> KnownKey {
        KnownKey {
            secret: SecretVersion {
                name: "shop-ios".into(),
                data_key: "key".into(),
                uid: "s".into(),
                version: "1".into(),
            },
            digest: ApiKey::from_secret(b"psk_0123456789abcdef").unwrap().digest(),
        }
    }

    fn observe(app: &App, digests: &[(&str, KnownKey)], problems: &[(&str, Reason)], now: i64) -> AppStatus {
        let digests = digests
            .iter()
            .map(|(k, v)| ((*k).to_owned(), v.clone()))
            .collect();
        let problems = problems
            .iter()
            .map(|(k, reason)| {
                (
                    (*k).to_owned(),
                    KeyProblem {
                        reason: *reason,
                        message: format!("key {k}: no"),
                    },
                )
            })
            .collect();
        let seen = Observation {
            id: Uuid::nil(),
            digests: &digests,
            problems: &problems,
            failure: None,
            pipelines: vec!["events".into()],
            now: Timestamp::from_second(now).unwrap(),
        };
        status(app, &Subject::of(app), &seen)
    }

    fn words(status: &AppStatus) -> Vec<String> {
        status
            .conditions
            .iter()
            .map(|c| format!("{}={:?}/{}", c.type_, c.status, c.reason))
            .collect()
    }

    #[test]
    fn an_app_with_its_keys_is_ready() {
        let app = app("{keys: [{name: ios}]}");
        let status = observe(&app, &[("ios", known())], &[], 100);
        assert_eq!(
            words(&status),
            ["Ready=True/Available", "KeysReady=True/Available"]
        );
        assert_eq!(status.observed_generation, 3);
        assert_eq!(status.keys[0].fingerprint.len(), 8);
        assert_eq!(status.keys[0].secret_name, "shop-ios");
        assert_eq!(failing(&status), None);
    }

    #[test]
    fn one_missing_key_stalls_the_app_but_not_its_other_keys() {
        let app = app("{keys: [{name: ios}, {name: web, secretRef: {name: w}}]}");
        let status = observe(&app, &[("ios", known())], &[("web", Reason::SecretNotFound)], 100);
        assert_eq!(
            words(&status),
            [
                "Ready=False/SecretNotFound",
                "KeysReady=False/SecretNotFound",
                "Stalled=True/SecretNotFound"
            ]
        );
        assert_eq!(status.keys.len(), 1);
        assert_eq!(failing(&status).unwrap().0, Reason::SecretNotFound);
    }

    #[test]
    fn expiry_counts_when_it_comes() {
        let app = app("{keys: [{name: ios, expiresAt: '1970-01-01T00:03:20Z'}]}");
        assert_eq!(
            next_expiry(&app.spec, Timestamp::from_second(100).unwrap()),
            Some(Duration::from_secs(101))
        );
        assert_eq!(
            words(&observe(&app, &[("ios", known())], &[], 100))[0],
            "Ready=True/Available"
        );
        assert_eq!(
            words(&observe(&app, &[("ios", known())], &[], 200))[0],
            "Ready=False/KeyExpired"
        );
        assert_eq!(next_expiry(&app.spec, Timestamp::from_second(200).unwrap()), None);
    }

    #[test]
    fn usage_is_none_of_its_business() {
        let app = app("{keys: [{name: ios}]}");
        let status = observe(&app, &[("ios", known())], &[], 100);
        assert!(!says(None, &status));
        let mut stored = status.clone();
        stored.usage = Some(penstock_crds::app::UsageStatus {
            day: "2026-11-21".into(),
            events: 1,
            bytes: 2,
        });
        assert!(says(Some(&stored), &status));
        stored.app_id = None;
        assert!(!says(Some(&stored), &status));
    }

    #[test]
    fn paused_is_said_while_it_lasts() {
        let mut app = app("{keys: []}");
        app.metadata.annotations = Some([(penstock_crds::PAUSED.to_owned(), "true".to_owned())].into());
        let status = observe(&app, &[], &[], 100);
        assert_eq!(words(&status)[2], "Paused=True/PausedByAnnotation");
    }
}
