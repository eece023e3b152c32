//! The App controller: ids, keys, Secrets, status.
//!
//! ```text
//! dereference   Secrets' metadata from the cache, keys read once for each version of a Secret
//! plan          which key is read, generated or missing; which generated Secret is obsolete      (pure)
//! apply         make and delete Secrets; publish digests to the key ring
//! status        always
//! ```
//!
//! Invariants: a key is in memory only between reading and hashing it; a generated Secret is created, never overwritten;
//! an App that fails leaves every other App alone.

pub mod keyring;
pub mod plan;
mod status;
pub mod usage;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::controller::Action;
use penstock_crds::{App, Reason};
use uuid::Uuid;

use self::keyring::{AppKeys, KnownKey, SecretVersion};
use self::plan::{Plan, SecretMeta, Source};
use self::status::{KeyProblem, Observation};
use super::cache::{Caches, Guard};
use super::context::{Shared, Triggers, about};
use super::subject::Subject;
use crate::api::{ApiError, Writer};
use crate::backoff::Backoff;
use crate::identity::{ApiKey, derived_app_id};

const CONTROLLER: &str = "app";
/// A look without a cause, in case a watch missed something.
const RESYNC: Duration = Duration::from_secs(600);

/// What the App controller works with.
#[derive(Debug)]
pub struct Context {
    pub shared: Shared,
    pub caches: Caches,
    pub triggers: Triggers,
    writer: Writer,
    backoff: Backoff<String>,
}

impl Context {
    pub fn new(shared: Shared, caches: Caches, triggers: Triggers) -> Self {
        let writer = shared.writer("penstock-operator/app");
        Self {
            shared,
            caches,
            triggers,
            writer,
            backoff: Backoff::default(),
        }
    }
}

/// The effective id of an App.
pub fn effective_id(cluster: &str, subject: &Subject, app: &App) -> Uuid {
    app.spec
        .id
        .as_deref()
        .and_then(|id| id.parse().ok())
        .unwrap_or_else(|| derived_app_id(cluster, &subject.namespace, &subject.name))
}

/// Looks at one App and makes it so.
pub async fn reconcile(app: Arc<Guard<App>>, context: Arc<Context>) -> Action {
    let began = Instant::now();
    let subject = Subject::of(&*app);
    let action = match &app.0 {
        Ok(app) if subject.deleting => {
            // Its Secrets go with it; pipelines have been told by the watch.
            let _ = app;
            Action::await_change()
        }
        Ok(app) => look(app, &subject, &context).await,
        Err(invalid) => malformed(&subject, &invalid.error, &app, &context).await,
    };
    context.shared.metrics.reconciled(CONTROLLER, began.elapsed());
    action
}

/// An App is gone.
pub fn forget(namespace: &str, name: &str, shared: &Shared) {
    shared.keys.forget(namespace, name);
    shared.metrics.count("App", format!("{namespace}/{name}"), None);
}

async fn malformed(subject: &Subject, error: &str, app: &Guard<App>, context: &Context) -> Action {
    tracing::warn!(
        app = subject.path(),
        error,
        "an App cannot be read; it is left alone"
    );
    context.shared.metrics.failed(CONTROLLER, Reason::Malformed);
    context
        .shared
        .metrics
        .count("App", subject.path(), Some("failing"));
    context
        .shared
        .events
        .warning(
            app,
            Reason::Malformed,
            "Read",
            format!("the App cannot be read: {error}"),
        )
        .await;
    Action::await_change()
}

async fn look(app: &App, subject: &Subject, context: &Context) -> Action {
    let Shared {
        events,
        metrics,
        keys,
        cluster,
        ..
    } = &context.shared;
    let secrets = secrets(app, subject, &context.caches);
    let before: BTreeSet<String> = app
        .status
        .iter()
        .flat_map(|s| &s.keys)
        .map(|key| key.name.clone())
        .collect();
    let mut plan = plan::plan(subject, &app.spec, &secrets, &before);
    let mut problems: BTreeMap<String, KeyProblem> = BTreeMap::new();
    let mut failure: Option<ApiError> = None;
    if !subject.paused {
        generate(app, subject, &mut plan, &mut failure, context).await;
    }
    let known = keys
        .get(&subject.namespace, &subject.name, &subject.uid)
        .unwrap_or_default();
    let mut digests: BTreeMap<String, KnownKey> = BTreeMap::new();
    for (key, source) in &plan.sources {
        let read = match source {
            Source::Read { secret, data_key } => {
                read(subject, key, secret, data_key, &secrets, &known, &context.writer).await
            }
            Source::Generate { secret, .. } => Err(Unread::Problem(KeyProblem {
                reason: Reason::Pending,
                message: format!("key {key}: the Secret {secret} is yet to be made"),
            })),
            Source::Missing { reason, message } => Err(Unread::Problem(KeyProblem {
                reason: *reason,
                message: message.clone(),
            })),
        };
        match read {
            Ok(known) => {
                digests.insert(key.clone(), known);
            }
            Err(Unread::Problem(problem)) => {
                problems.insert(key.clone(), problem);
            }
            Err(Unread::Failed(error)) => {
                // What was known stays in force until the API server answers again.
                if let Some(known) = known.keys.get(key) {
                    digests.insert(key.clone(), known.clone());
                }
                failure = failure.or(Some(error));
            }
        }
    }
    // With a failure on the first look nothing is published: pipelines wait rather than lock the App out.
    let complete = failure.is_none() || !known.uid.is_empty();
    if complete {
        let entry = AppKeys {
            uid: subject.uid.clone(),
            keys: digests.clone(),
        };
        if keys.publish(&subject.namespace, &subject.name, entry) {
            tell_pipelines(subject, context);
        }
    }
    if !subject.paused && failure.is_none() {
        for (secret, uid) in &plan.obsolete {
            match context
                .writer
                .delete::<Secret>(&subject.namespace, secret, Some(uid))
                .await
            {
                Ok(()) => {
                    let note = format!("deleted the Secret {secret}: the spec no longer has its key");
                    events
                        .normal(app, Reason::Deleted, &format!("DeleteKey/{secret}"), note)
                        .await;
                }
                Err(error) => failure = failure.or(Some(error)),
            }
        }
    }

    let now = Timestamp::now();
    let observation = Observation {
        id: effective_id(cluster, subject, app),
        digests: &digests,
        problems: &problems,
        failure: failure.as_ref(),
        pipelines: bound_pipelines(app, subject, &context.caches),
        now,
    };
    let status = status::status(app, subject, &observation);
    let failing = status::failing(&status);
    if let Some((reason, message)) = &failing
        && !matches!(reason, Reason::Pending | Reason::Deleting)
    {
        metrics.failed(CONTROLLER, *reason);
        if app.status.as_ref().and_then(status::failing).as_ref() != failing.as_ref() {
            events.warning(app, *reason, "Reconcile", message.clone()).await;
        }
    }
    metrics.count(
        "App",
        subject.path(),
        Some(match (&failing, subject.paused) {
            (_, true) => "paused",
            (Some(_), _) => "failing",
            (None, _) => "ready",
        }),
    );
    if !status::says(app.status.as_ref(), &status)
        && let Err(error) = context
            .writer
            .status::<App>(&subject.namespace, &subject.name, &status)
            .await
    {
        tracing::warn!(app = subject.path(), %error, "the status was not written");
        failure = failure.or(Some(error));
    }

    match failure {
        Some(error) => {
            tracing::warn!(app = subject.path(), %error, "an App could not be made so; trying again");
            Action::requeue(context.backoff.failed(subject.path(), subject.generation))
        }
        None => {
            context.backoff.forget(&subject.path());
            let expiry = status::next_expiry(&app.spec, now);
            Action::requeue(expiry.map_or_else(|| about(RESYNC), |until| until.min(RESYNC)))
        }
    }
}

/// The metadata of every Secret that matters to this App.
fn secrets(app: &App, subject: &Subject, caches: &Caches) -> Vec<SecretMeta> {
    let mut secrets = caches.secrets_of(&subject.namespace, &subject.uid);
    for key in &app.spec.keys {
        let generated = plan::generated_name(&subject.name, key);
        let name = key
            .secret_ref
            .as_ref()
            .map_or(generated.as_str(), |r| r.name.as_str());
        if !secrets.iter().any(|s| s.name == name)
            && let Some(secret) = caches.secret(&subject.namespace, name)
        {
            secrets.push(secret);
        }
    }
    secrets
}

/// Makes the Secrets of keys that have none.
async fn generate(
    app: &App,
    subject: &Subject,
    plan: &mut Plan,
    failure: &mut Option<ApiError>,
    context: &Context,
) {
    for (key, source) in &mut plan.sources {
        let Source::Generate { secret, lost } = source else {
            continue;
        };
        let Ok(fresh) = ApiKey::generate() else {
            *failure = Some(ApiError::Unavailable {
                what: format!("key {key}"),
                message: "the system has no randomness to offer".into(),
            });
            continue;
        };
        let made = context
            .writer
            .create(&plan::secret(subject, key, secret, &fresh))
            .await;
        match made {
            Ok(_) if *lost => {
                let note =
                    format!("the Secret {secret} was gone: key {key} is a new one, the old one is refused");
                context
                    .shared
                    .events
                    .warning(app, Reason::KeyRegenerated, &format!("GenerateKey/{key}"), note)
                    .await;
            }
            Ok(_) => {
                let note = format!("generated key {key} into the Secret {secret}");
                context
                    .shared
                    .events
                    .normal(app, Reason::Created, &format!("GenerateKey/{key}"), note)
                    .await;
            }
            // The cache is behind: it is there, and the watch will say so.
            Err(ApiError::Conflict { .. }) => {}
            Err(error) => {
                *failure = Some(error);
                continue;
            }
        }
        *source = Source::Read {
            secret: secret.clone(),
            data_key: plan::DATA_KEY.into(),
        };
    }
}

enum Unread {
    Problem(KeyProblem),
    Failed(ApiError),
}

/// The digest of a key, from memory when the Secret has not changed since it was read.
async fn read(
    subject: &Subject,
    key: &str,
    secret: &str,
    data_key: &str,
    cached: &[SecretMeta],
    known: &AppKeys,
    writer: &Writer,
) -> Result<KnownKey, Unread> {
    if let (Some(cached), Some(known)) = (cached.iter().find(|s| s.name == secret), known.keys.get(key))
        && (known.secret.uid.as_str(), known.secret.version.as_str()) == (&cached.uid, &cached.version)
        && known.secret.data_key == data_key
        && known.secret.name == secret
    {
        return Ok(known.clone());
    }
    let problem = |reason, message| Unread::Problem(KeyProblem { reason, message });
    let found = writer.api::<Secret>(&subject.namespace).get_opt(secret).await;
    let found = match found {
        Ok(Some(found)) => found,
        Ok(None) => {
            return Err(problem(
                Reason::SecretNotFound,
                format!("key {key}: there is no Secret {secret}"),
            ));
        }
        Err(error) => {
            let error = ApiError::from(format!("Secret {}/{secret}", subject.namespace), &error);
            return Err(if error.passes() {
                Unread::Failed(error)
            } else {
                problem(Reason::ApiRejected, format!("key {key}: {error}"))
            });
        }
    };
    let data = found.data.as_ref();
    let Some(bytes) = data.and_then(|d| d.get(data_key)) else {
        let message = format!("key {key}: the Secret {secret} has no member {data_key}");
        return Err(problem(Reason::SecretNotFound, message));
    };
    let read = ApiKey::from_secret(&bytes.0).map_err(|why| {
        problem(
            Reason::SecretInvalid,
            format!("key {key}: {data_key} of the Secret {secret}: {why}"),
        )
    })?;
    Ok(KnownKey {
        secret: SecretVersion {
            name: secret.into(),
            data_key: data_key.into(),
            uid: found.uid().unwrap_or_default(),
            version: found.resource_version().unwrap_or_default(),
        },
        digest: read.digest(),
    })
}

/// The pipelines that accept this App.
fn bound_pipelines(app: &App, subject: &Subject, caches: &Caches) -> Vec<String> {
    let mut bound: Vec<String> = caches
        .pipelines_in(&subject.namespace)
        .iter()
        .filter_map(|pipeline| pipeline.0.as_ref().ok())
        .filter(|pipeline| pipeline.metadata.deletion_timestamp.is_none())
        .filter(|pipeline| pipeline.spec.apps.selects(&subject.name, app.labels()))
        .map(|pipeline| pipeline.name_any())
        .collect();
    bound.sort();
    bound.truncate(256);
    bound
}

fn tell_pipelines(subject: &Subject, context: &Context) {
    for pipeline in context.caches.pipelines_in(&subject.namespace) {
        context
            .triggers
            .pipeline(&subject.namespace, &pipeline.name_any());
    }
}
