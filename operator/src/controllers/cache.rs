//! What the operator knows of the cluster without asking: one watch for each kind, for each scope.
//!
//! A scope is the whole cluster, or one namespace where the operator may see only some. Of Secrets, ConfigMaps and the
//! like only the metadata is kept. Custom resources that cannot be read are kept as such, so that one malformed object
//! does not stall the others.

use std::fmt::Debug;
use std::hash::Hash;
use std::pin::pin;

use futures::{Stream, StreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Secret, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use penstock_crds::{App, IngestionPipeline};
use serde::de::DeserializeOwned;

use super::app::plan::{KEY_NAME, SecretMeta};
use super::labels;
use super::subject;
use crate::api::stamp;
use crate::metrics::Metrics;

/// A custom resource, or why it cannot be read.
pub type Guard<K> = DeserializeGuard<K>;
type Meta<K> = PartialObjectMeta<K>;

/// Where to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    Cluster,
    Namespace(String),
}

impl Scope {
    fn api<K>(&self, client: &Client) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        match self {
            Self::Cluster => Api::all(client.clone()),
            Self::Namespace(namespace) => Api::namespaced(client.clone(), namespace),
        }
    }
}

/// What a watch saw.
#[derive(Debug)]
pub enum Seen<'a> {
    App(&'a Guard<App>),
    AppGone(&'a Guard<App>),
    Pipeline(&'a Guard<IngestionPipeline>),
    PipelineGone(&'a Guard<IngestionPipeline>),
    /// Something that a pipeline controls was made, changed or deleted.
    Owned {
        namespace: String,
        pipeline: String,
    },
    /// Any Secret was made, changed or deleted.
    Secret {
        namespace: String,
        name: String,
    },
    /// A watch was taken up anew: anything may have happened.
    Anything,
}

/// The caches of one scope. Cheap to clone.
#[derive(Clone)]
pub struct Caches {
    pub apps: Store<Guard<App>>,
    pub pipelines: Store<Guard<IngestionPipeline>>,
    pub deployments: Store<Deployment>,
    pub stateful_sets: Store<StatefulSet>,
    /// Of spools: made by a StatefulSet, which hands its template's labels on.
    claims: Store<PersistentVolumeClaim>,
    jobs: Store<Job>,
    secrets: Store<Meta<Secret>>,
    config_maps: Store<Meta<ConfigMap>>,
    services: Store<Meta<Service>>,
    service_accounts: Store<Meta<ServiceAccount>>,
    budgets: Store<Meta<PodDisruptionBudget>>,
}

impl Debug for Caches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Caches")
    }
}

/// An object as a cache holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its [`stamp`].
    pub version: String,
    pub uid: String,
    /// Uid of what controls it.
    pub controller: Option<String>,
    /// The pipeline that its label names, where it bears the operator's labels.
    pub pipeline: Option<String>,
}

impl Held {
    pub fn of(object: &impl Resource) -> Self {
        let references = object.meta().owner_references.iter().flatten();
        Self {
            version: stamp(object),
            uid: object.uid().unwrap_or_default(),
            controller: references
                .into_iter()
                .find(|r| r.controller == Some(true))
                .map(|r| r.uid.clone()),
            pipeline: labels::pipeline(object.labels()),
        }
    }

    /// Whether it is this pipeline's. One that has lost its owner reference is still known by its labels.
    pub fn belongs_to(&self, uid: &str, pipeline: &str) -> bool {
        match &self.controller {
            Some(controller) => controller == uid,
            None => self.pipeline.as_deref() == Some(pipeline),
        }
    }
}

/// A kind that the caches hold.
pub trait Cached: Resource<DynamicType = ()> + Sized {
    fn held(caches: &Caches, namespace: &str, name: &str) -> Option<Held>;
}

macro_rules! cached {
    ($($kind:ty => $store:ident: $held:ty),+ $(,)?) => {$(
        impl Cached for $kind {
            fn held(caches: &Caches, namespace: &str, name: &str) -> Option<Held> {
                Some(Held::of(&*caches.$store.get(&ObjectRef::<$held>::new(name).within(namespace))?))
            }
        }
    )+};
}

cached! {
    Deployment => deployments: Deployment,
    StatefulSet => stateful_sets: StatefulSet,
    Secret => secrets: Meta<Secret>,
    ConfigMap => config_maps: Meta<ConfigMap>,
    Service => services: Meta<Service>,
    ServiceAccount => service_accounts: Meta<ServiceAccount>,
    PodDisruptionBudget => budgets: Meta<PodDisruptionBudget>,
}

impl Caches {
    /// An object of ours, if it is there.
    pub fn held<K: Cached>(&self, namespace: &str, name: &str) -> Option<Held> {
        K::held(self, namespace, name)
    }

    pub fn deployment(&self, namespace: &str, name: &str) -> Option<std::sync::Arc<Deployment>> {
        self.deployments.get(&ObjectRef::new(name).within(namespace))
    }

    pub fn stateful_set(&self, namespace: &str, name: &str) -> Option<std::sync::Arc<StatefulSet>> {
        self.stateful_sets.get(&ObjectRef::new(name).within(namespace))
    }

    /// The claims that bear a pipeline's label.
    pub fn claims_of(&self, namespace: &str, pipeline: &str) -> Vec<std::sync::Arc<PersistentVolumeClaim>> {
        self.claims.state_filter(|claim| {
            claim.namespace().as_deref() == Some(namespace)
                && labels::pipeline(claim.labels()).as_deref() == Some(pipeline)
        })
    }

    /// The Jobs that bear a pipeline's label.
    pub fn jobs_of(&self, namespace: &str, pipeline: &str) -> Vec<std::sync::Arc<Job>> {
        self.jobs.state_filter(|job| {
            job.namespace().as_deref() == Some(namespace)
                && labels::pipeline(job.labels()).as_deref() == Some(pipeline)
        })
    }

    /// One Secret's metadata.
    pub fn secret(&self, namespace: &str, name: &str) -> Option<SecretMeta> {
        self.secrets
            .get(&ObjectRef::new(name).within(namespace))
            .map(|secret| secret_meta(&secret))
    }

    /// The Secrets that an App controls.
    pub fn secrets_of(&self, namespace: &str, app_uid: &str) -> Vec<SecretMeta> {
        self.secrets
            .state_filter(|s| {
                s.namespace().as_deref() == Some(namespace)
                    && subject::controller::<App>(s).is_some_and(|r| r.uid == app_uid)
            })
            .iter()
            .map(|secret| secret_meta(secret))
            .collect()
    }

    pub fn apps_in(&self, namespace: &str) -> Vec<std::sync::Arc<Guard<App>>> {
        self.apps
            .state_filter(|app| app.namespace().as_deref() == Some(namespace))
    }

    pub fn pipeline(&self, namespace: &str, name: &str) -> Option<std::sync::Arc<Guard<IngestionPipeline>>> {
        self.pipelines.get(&ObjectRef::new(name).within(namespace))
    }

    pub fn pipelines_in(&self, namespace: &str) -> Vec<std::sync::Arc<Guard<IngestionPipeline>>> {
        self.pipelines
            .state_filter(|pipeline| pipeline.namespace().as_deref() == Some(namespace))
    }

    /// Returns when every cache holds what the cluster held.
    pub async fn filled(&self) {
        // A store errs only when its watch has ended, and then the process ends.
        let _ = tokio::join!(
            self.apps.wait_until_ready(),
            self.pipelines.wait_until_ready(),
            self.deployments.wait_until_ready(),
            self.stateful_sets.wait_until_ready(),
            self.claims.wait_until_ready(),
            self.jobs.wait_until_ready(),
            self.secrets.wait_until_ready(),
            self.config_maps.wait_until_ready(),
            self.services.wait_until_ready(),
            self.service_accounts.wait_until_ready(),
            self.budgets.wait_until_ready(),
        );
    }
}

fn secret_meta(secret: &Meta<Secret>) -> SecretMeta {
    SecretMeta {
        name: secret.name_any(),
        uid: secret.uid().unwrap_or_default(),
        version: secret.resource_version().unwrap_or_default(),
        app: subject::controller::<App>(secret).map(|r| r.uid.clone()),
        key_name: secret.annotations().get(KEY_NAME).cloned(),
    }
}

/// Watches a scope; `seen` is called for each change, after the cache knows it. The future ends only when a watch ends
/// for good, which is a fault.
pub fn watch(
    client: &Client,
    scope: &Scope,
    metrics: &Metrics,
    seen: impl Fn(Seen<'_>) + Clone + Send + Sync + 'static,
) -> (Caches, impl Future<Output = ()> + Send + 'static) {
    let (apps, apps_writer) = store();
    let (pipelines, pipelines_writer) = store();
    let (deployments, deployments_writer) = store();
    let (stateful_sets, stateful_sets_writer) = store();
    let (claims, claims_writer) = store();
    let (jobs, jobs_writer) = store();
    let (secrets, secrets_writer) = store();
    let (config_maps, config_maps_writer) = store();
    let (services, services_writer) = store();
    let (service_accounts, service_accounts_writer) = store();
    let (budgets, budgets_writer) = store();
    let caches = Caches {
        apps,
        pipelines,
        deployments,
        stateful_sets,
        claims,
        jobs,
        secrets,
        config_maps,
        services,
        service_accounts,
        budgets,
    };

    let all = Config::default();
    let ours = Config::default().labels(labels::MANAGED);
    let owned = {
        let seen = seen.clone();
        move |change: Change<'_>| {
            if let Some(change) = change {
                seen(change);
            }
        }
    };
    let app = {
        let seen = seen.clone();
        follow(
            watcher(scope.api::<Guard<App>>(client), all.clone()),
            apps_writer,
            "App",
            metrics.clone(),
            move |c| match c {
                Turn::Here(app) => seen(Seen::App(app)),
                Turn::Gone(app) => seen(Seen::AppGone(app)),
                Turn::Anew => seen(Seen::Anything),
            },
        )
    };
    let pipeline = {
        let seen = seen.clone();
        let stream = watcher(scope.api::<Guard<IngestionPipeline>>(client), all.clone());
        follow(
            stream,
            pipelines_writer,
            "IngestionPipeline",
            metrics.clone(),
            move |c| match c {
                Turn::Here(pipeline) => seen(Seen::Pipeline(pipeline)),
                Turn::Gone(pipeline) => seen(Seen::PipelineGone(pipeline)),
                Turn::Anew => seen(Seen::Anything),
            },
        )
    };
    let secret = {
        let stream = watcher(scope.api::<Meta<Secret>>(client), all);
        follow(
            stream,
            secrets_writer,
            "Secret",
            metrics.clone(),
            move |c| match c {
                Turn::Here(secret) | Turn::Gone(secret) => {
                    if let Some(owned) = owned_by_pipeline(secret) {
                        seen(owned);
                    }
                    seen(Seen::Secret {
                        namespace: secret.namespace().unwrap_or_default(),
                        name: secret.name_any(),
                    });
                }
                Turn::Anew => seen(Seen::Anything),
            },
        )
    };
    let deployment = follow(
        watcher(scope.api::<Deployment>(client), ours.clone()),
        deployments_writer,
        "Deployment",
        metrics.clone(),
        on_owned(owned.clone()),
    );
    let stateful_set = follow(
        watcher(scope.api::<StatefulSet>(client), ours.clone()),
        stateful_sets_writer,
        "StatefulSet",
        metrics.clone(),
        on_owned(owned.clone()),
    );
    let claim = follow(
        watcher(scope.api::<PersistentVolumeClaim>(client), ours.clone()),
        claims_writer,
        "PersistentVolumeClaim",
        metrics.clone(),
        on_owned(owned.clone()),
    );
    let job = follow(
        watcher(scope.api::<Job>(client), ours.clone()),
        jobs_writer,
        "Job",
        metrics.clone(),
        on_owned(owned.clone()),
    );
    let config_map = follow(
        watcher(scope.api::<Meta<ConfigMap>>(client), ours.clone()),
        config_maps_writer,
        "ConfigMap",
        metrics.clone(),
        on_owned(owned.clone()),
    );
    let service = follow(
        watcher(scope.api::<Meta<Service>>(client), ours.clone()),
        services_writer,
        "Service",
        metrics.clone(),
        on_owned(owned.clone()),
    );
    let service_account = follow(
        watcher(scope.api::<Meta<ServiceAccount>>(client), ours.clone()),
        service_accounts_writer,
        "ServiceAccount",
        metrics.clone(),
        on_owned(owned.clone()),
    );
    let budget = follow(
        watcher(scope.api::<Meta<PodDisruptionBudget>>(client), ours),
        budgets_writer,
        "PodDisruptionBudget",
        metrics.clone(),
        on_owned(owned),
    );
    let all = async move {
        tokio::select! {
            () = app => {}
            () = pipeline => {}
            () = secret => {}
            () = deployment => {}
            () = stateful_set => {}
            () = claim => {}
            () = job => {}
            () = config_map => {}
            () = service => {}
            () = service_account => {}
            () = budget => {}
        }
    };
    (caches, all)
}

type Change<'a> = Option<Seen<'a>>;

/// What happened to one object.
enum Turn<'a, K> {
    Here(&'a K),
    Gone(&'a K),
    Anew,
}

fn on_owned<K: Resource<DynamicType = ()>>(
    seen: impl Fn(Change<'_>) + Send + Sync,
) -> impl Fn(Turn<'_, K>) + Send {
    move |turn| match turn {
        Turn::Here(object) | Turn::Gone(object) => seen(owned_by_pipeline(object)),
        Turn::Anew => seen(Some(Seen::Anything)),
    }
}

fn owned_by_pipeline<K: Resource>(object: &K) -> Option<Seen<'static>> {
    let owner = subject::controller::<IngestionPipeline>(object).map(|owner| owner.name.clone());
    let pipeline = owner.or_else(|| labels::pipeline(object.labels()))?;
    Some(Seen::Owned {
        namespace: object.namespace()?,
        pipeline,
    })
}

/// Keeps a cache and reports what changes. Breaks are mended with backoff.
async fn follow<K>(
    stream: impl Stream<Item = watcher::Result<Event<K>>> + Send,
    mut writer: Writer<K>,
    kind: &'static str,
    metrics: Metrics,
    report: impl Fn(Turn<'_, K>) + Send,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone,
{
    let mut stream = pin!(stream.default_backoff());
    let mut initial = true;
    while let Some(event) = stream.next().await {
        let mut event = match event {
            Ok(event) => event,
            Err(error) => {
                metrics.watch_failed(kind);
                tracing::warn!(kind, %error, "a watch broke; taking it up again");
                continue;
            }
        };
        if let Event::Apply(object) | Event::InitApply(object) | Event::Delete(object) = &mut event {
            object.managed_fields_mut().clear();
        }
        writer.apply_watcher_event(&event);
        match &event {
            Event::Apply(object) => report(Turn::Here(object)),
            Event::Delete(object) => report(Turn::Gone(object)),
            // The first list is news one by one, later ones say only that something may have been missed.
            Event::InitApply(object) if initial => report(Turn::Here(object)),
            Event::InitDone if !initial => report(Turn::Anew),
            Event::InitDone => initial = false,
            Event::Init | Event::InitApply(_) => {}
        }
    }
}

/// Lists one object of each of our kinds: whether their definitions are installed.
pub async fn definitions_installed(client: &Client, scope: &Scope) -> kube::Result<bool> {
    Ok(served(&scope.api::<Guard<App>>(client)).await?
        && served(&scope.api::<Guard<IngestionPipeline>>(client)).await?)
}

async fn served<K>(api: &Api<K>) -> kube::Result<bool>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    match api.list(&kube::api::ListParams::default().limit(1)).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}
