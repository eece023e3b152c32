//! The pipeline controller.
//!
//! ```text
//! dereference   Apps and key digests, other claimants, live workloads            (caches, key ring)
//! validate      one `Validated`, or why there is none                            (pure)
//! build         every object                                                     (pure)
//! external      topics, table, quota entries
//! spool         claims that no pod has any more; what spools hold is looked at beside all this
//! apply         what may be applied now: the list of Apps always, pods when what they need exists
//! status        always
//! ```
//!
//! Invariants: a revoked key stops even when a broker is away; pods are never rolled out before what they need exists,
//! nor while Kafka lacks what they have acknowledged; one pipeline's failure does not delay another.

mod apply;
mod apps;
mod build;
mod delete;
mod dereference;
mod external;
mod findings;
pub(crate) mod named;
mod rollout;
mod secrets;
#[cfg(test)]
mod snapshots;
mod spool;
mod status;
mod takeover;
pub mod target;
mod validate;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use kube::runtime::controller::Action;
use penstock_crds::pipeline::{DeletionPolicy, ReplicaStatus};
use penstock_crds::{ConditionType, IngestionPipeline, IngestionPipelineStatus, Reason};

use self::apply::Gates;
use self::build::Role;
use self::delete::Progress;
pub use self::dereference::claimant;
use self::dereference::{Dereferenced, dereference, keep};
use self::external::{External, Memories, Wanted};
use self::findings::Findings;
use self::rollout::{Gate, Live, Part};
use self::secrets::Credentials;
use self::spool::Spools;
use self::spool::hold::{self, Hold};
pub(crate) use self::spool::run as watch_spools;
use self::status::Observation;
use self::target::{Target, invalid};
use self::validate::Validated;
use super::cache::{Caches, Guard};
use super::context::{Shared, about};
use super::subject::Subject;
use crate::api::{ApiError, Writer};
use crate::backoff::Backoff;
use crate::conditions::find;

const CONTROLLER: &str = "pipeline";
/// A look without a cause: drift outside Kubernetes is found within this time.
const RESYNC: Duration = Duration::from_secs(70);
/// What only a person can mend is looked at again so often, as nothing tells us that it was mended outside.
const PERMANENT: Duration = Duration::from_secs(60);
/// Between a new list of Apps and touching the pods: kubelet must have seen the list first.
const SETTLE: Duration = Duration::from_millis(500);
/// What no watch tells of, as that a pod has let go of its claim.
const SOON: Duration = Duration::from_secs(3);

/// What the pipeline controller works with.
#[derive(Debug)]
pub struct Context {
    pub shared: Shared,
    pub caches: Caches,
    writer: Writer,
    backoff: Backoff<String>,
    memories: Memories,
    spools: Spools,
    /// Revision of the list of Apps that the pods of a pipeline were last told of, by uid.
    touched: Mutex<HashMap<String, String>>,
}

impl Context {
    pub fn new(shared: Shared, caches: Caches) -> Self {
        let writer = shared.writer("penstock-operator/pipeline");
        Self {
            shared,
            caches,
            writer,
            backoff: Backoff::default(),
            memories: Memories::default(),
            spools: Spools::default(),
            touched: Mutex::default(),
        }
    }

    /// A pipeline is gone.
    pub fn forget(&self, subject: &Subject) {
        let name = &subject.name;
        let names = [
            Role::Ingest.object(name),
            Role::Consume.object(name),
            build::apps_name(name),
            build::drain_name(name),
            build::spool_config_name(name),
        ];
        self.writer.forget(&subject.namespace, &names);
        self.memories.forget(&subject.uid);
        self.spools.forget(&subject.uid);
        self.backoff.forget(&subject.path());
        self.touched
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&subject.uid);
        let Shared {
            metrics,
            monitor,
            settings,
            ..
        } = &self.shared;
        monitor.forget(&settings.secret_files.forget(&subject.uid));
        metrics.count("IngestionPipeline", subject.path(), None);
        metrics.durability_degraded(subject.path(), false);
    }
}

/// Looks at one pipeline and makes it so.
pub async fn reconcile(pipeline: Arc<Guard<IngestionPipeline>>, context: Arc<Context>) -> Action {
    let began = Instant::now();
    let subject = Subject::of(&*pipeline);
    let action = match &pipeline.0 {
        Ok(pipeline) if subject.deleting => Box::pin(end(pipeline, &subject, &context)).await,
        Ok(pipeline) => Box::pin(look(pipeline, &subject, &context)).await,
        Err(malformed) => {
            let Shared { metrics, events, .. } = &context.shared;
            tracing::warn!(
                pipeline = subject.path(),
                error = malformed.error,
                "a pipeline cannot be read; it is left alone"
            );
            metrics.failed(CONTROLLER, Reason::Malformed);
            metrics.count("IngestionPipeline", subject.path(), Some("failing"));
            let note = format!("the pipeline cannot be read: {}", malformed.error);
            events.warning(&*pipeline, Reason::Malformed, "Read", note).await;
            Action::await_change()
        }
    };
    context.shared.metrics.reconciled(CONTROLLER, began.elapsed());
    action
}

async fn look(pipeline: &IngestionPipeline, subject: &Subject, context: &Context) -> Action {
    let mut found = Findings::of(pipeline, subject, context);
    if !subject.paused {
        let wanted = pipeline.spec.deletion_policy == DeletionPolicy::Delete;
        match delete::settle_finalizer(pipeline, wanted, subject, &context.writer).await {
            // The watch brings the changed pipeline at once.
            Ok(true) => return Action::await_change(),
            Ok(false) => {}
            Err(error) => found.failure = Some(error),
        }
    }
    match dereference(pipeline, subject, context).await {
        Ok(Dereferenced::Whole(validated, credentials, incomplete)) => {
            found.target = Some(validated.target.clone());
            found.incomplete = incomplete;
            if !subject.paused && found.failure.is_none() {
                match credentials {
                    Some(credentials) => {
                        Box::pin(make(pipeline, &validated, &credentials, &mut found, context)).await;
                    }
                    None => found.failure = tell_of_apps(&validated, context).await.err(),
                }
            }
        }
        Ok(Dereferenced::Waiting) => found.waiting = true,
        Err(why) => found.invalid = Some(why),
    }
    if found.waiting {
        return Action::requeue(about(Duration::from_secs(2)));
    }
    found.remember(pipeline);
    conclude(pipeline, subject, found, context).await
}

/// External things, then objects.
async fn make(
    pipeline: &IngestionPipeline,
    validated: &Validated,
    credentials: &Credentials,
    found: &mut Findings,
    context: &Context,
) {
    let Context {
        shared,
        caches,
        writer,
        memories,
        ..
    } = context;
    let wanted = Wanted {
        uid: &validated.subject.uid,
        target: &validated.target,
        apps: &validated.apps.file,
    };
    // Asking is no write, but making is: leadership is checked here as the writer checks it for objects.
    if !shared.leadership.held() {
        found.failure = Some(ApiError::NotLeading);
        return;
    }
    let live = [found.ingest.whole(), found.consume.clone()];
    let refused = memories.letters_refused(wanted.uid, wanted.target);
    let told = validated.with_letters(!refused);
    // The list of Apps does not wait for a broker.
    let (external, applied) = tokio::join!(
        external::ensure(&wanted, shared, writer, memories),
        revise(&told, credentials, &live, context)
    );
    let objects = match applied {
        Ok(objects) if external.letters_refused == refused => objects,
        // What was found last no longer holds.
        Ok(_) => build::build(&validated.with_letters(!external.letters_refused), credentials),
        Err(error) => {
            found.failure = Some(error);
            found.external = Some(external);
            return;
        }
    };
    for note in &external.notes {
        shared
            .events
            .normal(pipeline, note.reason, note.action, note.text.clone())
            .await;
    }
    if let Some(first) = validated.apps.problems.first() {
        let all: Vec<&str> = validated
            .apps
            .problems
            .iter()
            .map(|p| p.message.as_str())
            .collect();
        shared
            .events
            .warning(pipeline, first.reason, "Bind", all.join("; "))
            .await;
    }
    let provisioned = external.provisioned();
    found.external = Some(external);
    // That may have taken seconds; what is known by now decides.
    found.renew(Findings::of(pipeline, &validated.subject, context));
    let consume_wanted = Live::of_runner(&objects.consume.runner);
    let ingest_wanted = Live::of_runner(&objects.ingest.runner);
    let claims = spool::drain::claims(&validated.subject, caches);
    let unfit = found.unfit(&claims, validated);
    let fits = found.fits(&claims, &unfit, &ingest_wanted, validated);
    let ingest_gate = rollout::ingest_gate(
        provisioned,
        &found.ingest.whole(),
        &ingest_wanted,
        &found.consume,
        &consume_wanted,
    );
    let mut gates = Gates {
        consume: rollout::consume_gate(provisioned, &found.consume, &consume_wanted),
        ingest: takeover::volume_gate(ingest_gate, &found.ingest.live, fits),
        consume_exists: found.consume.exists,
        ingest_exists: found.ingest.live.exists,
        set: found.set_plan(&ingest_wanted),
    };
    // Not to be known for a moment is nothing to speak of.
    let none = Hold::default();
    let hold = if found.asked { &found.hold } else { &none };
    found.note = takeover::note(&found.ingest, &ingest_wanted, hold);
    // Before the objects: a Job must not speak for a claim that a pod is about to get again.
    let keep = found.pods_kept(&ingest_wanted);
    let left = spool::drain::Drainage {
        pipeline,
        validated,
        objects: &objects,
        keep,
        unfit: &unfit,
    };
    match left.settle(&claims, caches, writer, &shared.events).await {
        Ok(left) => {
            found.soon = left.soon;
            found.note = found.note.take().or(left.draining);
            found.degraded = hold::worse(left.failed, found.degraded.take());
        }
        Err(error) => {
            gates.ingest = Gate::Held("the claims of earlier pods could not be looked after");
            found.failure = Some(error);
        }
    }
    found.gates = Some((gates.ingest.clone(), gates.consume.clone()));
    let held = found.hold.rollout.as_deref();
    let ends = gates.ingest == Gate::Open && found.ingest.may_end(&ingest_wanted, held);
    let applied = async {
        apply::objects(validated, &objects, &gates, caches, writer).await?;
        if ends {
            apply::end_other(validated, &objects.ingest.runner, caches, writer).await?;
        }
        Ok(())
    };
    if let Err(error) = applied.await {
        found.failure = Some(error);
    }
}

/// The list of Apps, where nothing else can be done.
async fn tell_of_apps(validated: &Validated, context: &Context) -> Result<(), ApiError> {
    let objects = build::build(validated, &Credentials::default());
    let uid = &validated.subject.uid;
    let applied = apply::apply(&objects.apps, uid, &context.caches, &context.writer).await?;
    tell(validated, &objects.revision, applied.changed, context).await
}

/// Credentials and the list of Apps: what does not wait for anything. Pods that run are told of new ones. `live`: what runs
/// of ingest and consume. Credentials of other services than those that pods use now come with the configuration that names
/// them ([`apply::objects`]): no service is told another's.
async fn revise(
    validated: &Validated,
    credentials: &Credentials,
    live: &[Live; 2],
    context: &Context,
) -> Result<build::Objects, ApiError> {
    let Context { caches, writer, .. } = context;
    let uid = &validated.subject.uid;
    let objects = build::build(validated, credentials);
    let mut changed = apply::apply(&objects.apps, uid, caches, writer).await?.changed;
    for (role, objects, live) in [
        (Role::Ingest, &objects.ingest, &live[0]),
        (Role::Consume, &objects.consume, &live[1]),
    ] {
        let as_wanted = live.is(&Live::of_runner(&objects.runner));
        match &objects.secret {
            Some(secret) if as_wanted || apply::has_same_services(secret, writer).await? => {
                changed |= apply::apply(secret, uid, caches, writer).await?.changed;
            }
            // What no pod needs any more is not left lying about.
            None if as_wanted && live.rolled_out => {
                apply::end_secret(validated, role, caches, writer).await?;
            }
            Some(_) | None => {}
        }
    }
    tell(validated, &objects.revision, changed, context).await?;
    Ok(objects)
}

/// Has pods read again what they are given, when it has changed.
async fn tell(
    validated: &Validated,
    revision: &str,
    changed: bool,
    context: &Context,
) -> Result<(), ApiError> {
    let Context { writer, touched, .. } = context;
    let uid = &validated.subject.uid;
    let told = touched
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get(uid)
        .map(String::as_str)
        == Some(revision);
    if changed || !told {
        if changed {
            tokio::time::sleep(SETTLE).await;
        }
        for role in [Role::Ingest, Role::Consume] {
            apply::touch(validated, role, revision, writer).await?;
        }
        let mut touched = touched.lock().unwrap_or_else(PoisonError::into_inner);
        touched.insert(uid.clone(), revision.to_owned());
    }
    Ok(())
}

/// Says what was found, and when to look again.
async fn conclude(
    pipeline: &IngestionPipeline,
    subject: &Subject,
    found: Findings,
    context: &Context,
) -> Action {
    let (ingest_gate, consume_gate) = found.gates.clone().unwrap_or((Gate::Open, Gate::Open));
    let spec = &pipeline.spec;
    let ingest = found.ingest.whole();
    let parts = [
        Part {
            role: Role::Consume,
            live: &found.consume,
            wanted: spec.consume.scaling.replicas,
            gate: &consume_gate,
            note: None,
        },
        Part {
            role: Role::Ingest,
            live: &ingest,
            wanted: spec.ingest.scaling.replicas,
            gate: &ingest_gate,
            note: found.note.as_deref(),
        },
    ];
    let seen = Observation {
        invalid: found.invalid.as_ref(),
        incomplete: found.incomplete.as_ref(),
        external: found.external.as_ref(),
        // Before there is anything to say it of, nothing is said of pods.
        workloads: (found.target.is_some() || ingest.exists || found.consume.exists)
            .then(|| rollout::availability(&parts, status::was_available(pipeline))),
        in_progress: found
            .invalid
            .is_none()
            .then(|| rollout::in_progress(&parts))
            .flatten(),
        degraded: found.degraded.clone(),
        bridges_outages: found.ingest.to_set && found.ingest.live.exists,
        failure: found.failure.as_ref(),
        deleting: None,
        target: found.target.as_ref(),
        replicas: Some(ReplicaStatus {
            ingest: ingest.available,
            consume: found.consume.available,
        }),
        now: Timestamp::now(),
    };
    let written = say(pipeline, subject, &seen, context).await;
    let failure = found.failure.or(written.err());
    let stays = found.invalid.is_some()
        || found.incomplete.is_some()
        || found.external.as_ref().is_some_and(External::permanent)
        || failure.as_ref().is_some_and(|f| !f.passes());
    let transient = failure.is_some() || found.external.as_ref().is_some_and(External::passing);
    if let Some(error) = &failure {
        tracing::warn!(pipeline = subject.path(), %error, "a pipeline could not be made so; trying again");
    }
    let next = match (stays, transient) {
        (true, _) => about(PERMANENT),
        (false, true) => context.backoff.failed(subject.path(), subject.generation),
        (false, false) => {
            context.backoff.forget(&subject.path());
            about(RESYNC)
        }
    };
    // A failure elsewhere, as of a broker, does not keep what is soon to be done.
    Action::requeue(if found.soon { next.min(about(SOON)) } else { next })
}

/// Writes the status where it differs; counts and tells.
async fn say(
    pipeline: &IngestionPipeline,
    subject: &Subject,
    seen: &Observation<'_>,
    context: &Context,
) -> Result<(), ApiError> {
    let Shared { metrics, events, .. } = &context.shared;
    let status = status::status(pipeline, subject, seen);
    let failing = status::failing(&status);
    let before = pipeline.status.as_ref().and_then(status::failing);
    if let Some((reason, message)) = &failing {
        if !matches!(reason, Reason::RollingOut | Reason::Pending | Reason::Deleting) {
            metrics.failed(CONTROLLER, *reason);
        }
        if before.as_ref().map(|(r, _)| r) != Some(reason)
            && !matches!(reason, Reason::RollingOut | Reason::Pending | Reason::Deleting)
        {
            events
                .warning(pipeline, *reason, "Reconcile", message.clone())
                .await;
        }
    } else if before.is_some() {
        events
            .normal(pipeline, Reason::Available, "Reconcile", "the pipeline is ready")
            .await;
    }
    if let Some(why) = seen.external.and_then(|external| external.letters.as_ref()) {
        // Ready does not tell of it.
        metrics.failed(CONTROLLER, why.reason());
        let tables = |status: &IngestionPipelineStatus| {
            let condition = find(&status.conditions, ConditionType::TablesReady)?;
            (condition.reason == why.reason().as_str()).then(|| condition.message.clone())
        };
        if let (None, Some(message)) = (pipeline.status.as_ref().and_then(tables), tables(&status)) {
            events
                .warning(pipeline, why.reason(), "ProvisionTable", message)
                .await;
        }
    }
    let degraded = |status: &IngestionPipelineStatus| {
        find(&status.conditions, ConditionType::DurabilityDegraded)
            .map(|condition| (condition.reason.clone(), condition.message.clone()))
    };
    let now = degraded(&status);
    let earlier = pipeline.status.as_ref().and_then(degraded);
    metrics.durability_degraded(subject.path(), now.is_some());
    match (&now, &earlier) {
        (Some((reason, message)), earlier) if earlier.as_ref().map(|(r, _)| r) != Some(reason) => {
            let reason = status::reason(reason).unwrap_or(Reason::Spooling);
            events.warning(pipeline, reason, "Spool", message.clone()).await;
        }
        (None, Some(_)) if !subject.deleting => {
            let note = "Kafka has every event of the spools";
            events.normal(pipeline, Reason::Available, "Spool", note).await;
        }
        _ => {}
    }
    let state = match (&failing, subject.paused) {
        (_, true) => "paused",
        (Some(_), _) => "failing",
        (None, _) => "ready",
    };
    metrics.count("IngestionPipeline", subject.path(), Some(state));
    if pipeline.status.as_ref() == Some(&status) {
        return Ok(());
    }
    context
        .writer
        .status::<IngestionPipeline>(&subject.namespace, &subject.name, &status)
        .await
}

/// The pipeline is being deleted.
async fn end(pipeline: &IngestionPipeline, subject: &Subject, context: &Context) -> Action {
    let Shared {
        settings, cluster, ..
    } = &context.shared;
    // What is missing shows in what cannot be deleted.
    if let Err(error) = keep(pipeline, subject, context).await {
        tracing::warn!(pipeline = subject.path(), %error, "its Secrets cannot be read");
    }
    let target = Target::of(pipeline, subject, cluster, settings).ok();
    let Context {
        shared,
        caches,
        writer,
        ..
    } = context;
    if !shared.leadership.held() {
        return Action::requeue(Duration::from_secs(1));
    }
    let progress = delete::advance(pipeline, subject, target.as_ref(), shared, caches, writer).await;
    let (message, external, failure) = match progress {
        Ok(Progress::Done) => return Action::await_change(),
        Ok(Progress::Waiting(what)) => (what.to_owned(), None, None),
        Ok(Progress::Failed(error)) => (
            format!(
                "{error}; the annotation {}=true gives up on it",
                penstock_crds::FORCE_DELETE
            ),
            Some(error),
            None,
        ),
        Err(error) => (error.to_string(), None, Some(error)),
    };
    let stuck = external
        .as_ref()
        .map(|error| invalid(error.reason(), error.to_string()));
    let seen = Observation {
        invalid: stuck.as_ref(),
        incomplete: None,
        external: None,
        workloads: None,
        in_progress: None,
        degraded: None,
        bridges_outages: false,
        failure: failure.as_ref(),
        deleting: Some(&message),
        target: None,
        replicas: None,
        now: Timestamp::now(),
    };
    if let Err(error) = say(pipeline, subject, &seen, context).await {
        tracing::warn!(pipeline = subject.path(), %error, "the status was not written");
    }
    if let Some(error) = external {
        shared.metrics.failed(CONTROLLER, error.reason());
        shared
            .events
            .warning(pipeline, error.reason(), "Delete", message)
            .await;
        return Action::requeue(
            context
                .backoff
                .failed(subject.path(), subject.generation)
                .min(Duration::from_secs(10)),
        );
    }
    Action::requeue(Duration::from_secs(1))
}
