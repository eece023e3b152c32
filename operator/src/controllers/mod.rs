//! The controllers of one scope: caches, triggers, and two queues.
//!
//! ```text
//!  watches ──> caches ──> triggers ──> queue of Apps      ──> app::reconcile       ──┐
//!                                 └──> queue of pipelines ──> pipeline::reconcile    │ new digests
//!  health monitor ───────────────────────────^ <─────────────────────────────────────┘
//! ```
//!
//! Each queue holds an object once, however often it was triggered, and works on a bounded number at a time.

pub mod app;
pub mod cache;
pub mod context;
pub mod labels;
pub mod pipeline;
pub mod subject;

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};

use futures::channel::mpsc::unbounded;
use futures::future::FutureExt;
use futures::{StreamExt, TryStreamExt};
use kube::ResourceExt;
use kube::runtime::controller::{Action, Config};
use kube::runtime::{applier, reflector::ObjectRef};

use self::cache::{Caches, Scope, Seen};
use self::context::{Shared, Triggers};
use self::subject::Subject;

/// How many objects of a kind are worked on side by side.
const CONCURRENCY: u16 = 16;

/// Runs the controllers of one scope. Ends when `stop` does, after what was begun is finished; or when a watch ends for
/// good, which is a fault.
pub async fn run(
    scope: Scope,
    shared: Shared,
    filled: impl FnOnce() + Send,
    stop: impl Future<Output = ()> + Send + Clone + 'static,
) {
    let (apps_tx, apps_rx) = unbounded();
    let (pipelines_tx, pipelines_rx) = unbounded();
    let triggers = Triggers {
        apps: apps_tx,
        pipelines: pipelines_tx,
    };
    let known: Arc<OnceLock<(Caches, Arc<pipeline::Context>)>> = Arc::default();
    let seen = {
        let (triggers, shared, known) = (triggers.clone(), shared.clone(), Arc::clone(&known));
        move |seen: Seen<'_>| {
            if let Some((caches, pipelines)) = known.get() {
                trigger(&seen, &triggers, &shared, caches, pipelines);
            }
        }
    };
    let (caches, watches) = cache::watch(&shared.client.0, &scope, &shared.metrics, seen);
    let app_context = Arc::new(app::Context::new(
        shared.clone(),
        caches.clone(),
        triggers.clone(),
    ));
    let pipeline_context = Arc::new(pipeline::Context::new(shared.clone(), caches.clone()));
    // What is seen before this is set is in the first list, and all of that is triggered below.
    let _ = known.set((caches.clone(), Arc::clone(&pipeline_context)));
    let monitor = {
        let (triggers, caches) = (triggers.clone(), caches.clone());
        shared
            .monitor
            .clone()
            .run(move || triggers.all_pipelines(&caches))
    };
    let usage = app::usage::run(shared.clone(), caches.clone());
    let spools = pipeline::watch_spools(Arc::clone(&pipeline_context), triggers.clone());
    let work = {
        let caches = caches.clone();
        let config = || Config::default().concurrency(CONCURRENCY);
        let apps = applier(
            |object, context| {
                app::reconcile(object, context)
                    .map(Ok::<Action, Infallible>)
                    .boxed()
            },
            |_, never, _| match *never {},
            app_context,
            caches.apps.clone(),
            apps_rx
                .map(Ok::<ObjectRef<_>, Infallible>)
                .take_until(stop.clone()),
            config(),
        );
        let pipelines = applier(
            |object, context| {
                pipeline::reconcile(object, context)
                    .map(Ok::<Action, Infallible>)
                    .boxed()
            },
            |_, never, _| match *never {},
            pipeline_context,
            caches.pipelines.clone(),
            pipelines_rx.map(Ok::<ObjectRef<_>, Infallible>).take_until(stop),
            config(),
        );
        async move {
            caches.filled().await;
            tracing::info!(
                ?scope,
                apps = caches.apps.len(),
                pipelines = caches.pipelines.len(),
                "the caches are filled"
            );
            filled();
            triggers.everything(&caches);
            // An object that was deleted while it waited in the queue is no error.
            let apps = apps.into_stream().for_each(|_| futures::future::ready(()));
            let pipelines = pipelines.into_stream().for_each(|_| futures::future::ready(()));
            tokio::join!(apps, pipelines);
        }
    };
    tokio::select! {
        () = work => {}
        () = watches => tracing::error!("a watch has ended for good"),
        () = monitor => {}
        () = usage => {}
        () = spools => {}
    }
}

/// Which objects a change concerns.
fn trigger(
    seen: &Seen<'_>,
    triggers: &Triggers,
    shared: &Shared,
    caches: &Caches,
    pipelines: &pipeline::Context,
) {
    match seen {
        Seen::App(app) => {
            let of = Subject::of(*app);
            triggers.app(&of.namespace, &of.name);
            pipelines_of(&of.namespace, triggers, caches);
        }
        Seen::AppGone(app) => {
            let of = Subject::of(*app);
            app::forget(&of.namespace, &of.name, shared);
            pipelines_of(&of.namespace, triggers, caches);
        }
        Seen::Pipeline(changed) | Seen::PipelineGone(changed) => {
            let of = Subject::of(*changed);
            triggers.pipeline(&of.namespace, &of.name);
            for app in caches.apps_in(&of.namespace) {
                triggers.app(&of.namespace, &app.name_any());
            }
            if matches!(seen, Seen::PipelineGone(_)) {
                pipelines.forget(&of);
            }
            competitors(changed, triggers, shared, caches);
        }
        Seen::Owned { namespace, pipeline } => triggers.pipeline(namespace, pipeline),
        Seen::Secret { namespace, name } => {
            for app in caches.apps_in(namespace) {
                let Ok(app) = &app.0 else { continue };
                let concerns = app.spec.keys.iter().any(|key| match &key.secret_ref {
                    Some(reference) => reference.name == *name,
                    None => app::plan::generated_name(&app.name_any(), key) == *name,
                });
                if concerns {
                    triggers.app(namespace, &app.name_any());
                }
            }
            for pipeline in caches.pipelines_in(namespace) {
                let Ok(pipeline) = &pipeline.0 else { continue };
                let tls = pipeline.spec.endpoint.tls.as_ref();
                let concerns = tls.is_some_and(|tls| tls.secret_name == *name)
                    || pipeline::named::names(&pipeline.spec, name);
                if concerns {
                    triggers.pipeline(namespace, &pipeline.name_any());
                }
            }
        }
        Seen::Anything => triggers.everything(caches),
    }
}

fn pipelines_of(namespace: &str, triggers: &Triggers, caches: &Caches) {
    for pipeline in caches.pipelines_in(namespace) {
        triggers.pipeline(namespace, &pipeline.name_any());
    }
}

/// Pipelines that claim what a changed one claims: one of them may win or lose by the change.
fn competitors(
    changed: &cache::Guard<penstock_crds::IngestionPipeline>,
    triggers: &Triggers,
    shared: &Shared,
    caches: &Caches,
) {
    let Some(us) = changed
        .0
        .as_ref()
        .ok()
        .and_then(|pipeline| pipeline::claimant(pipeline, shared))
    else {
        return;
    };
    for other in caches.pipelines.state() {
        let Some(other) = other
            .0
            .as_ref()
            .ok()
            .and_then(|pipeline| pipeline::claimant(pipeline, shared))
        else {
            continue;
        };
        if other.subject.uid != us.subject.uid && pipeline::target::compete(&us.target, &other.target) {
            triggers.pipeline(&other.subject.namespace, &other.subject.name);
        }
    }
}
