//! From settings to running controllers, and down again.
//!
//! Up: admin port, definitions, leadership, caches, controllers. Down, on SIGTERM or SIGINT: what was begun is finished,
//! then the Lease is released, so that the next one starts at once. Leadership that is lost ends the process: nothing may
//! be written any more, and a restart is the simplest way to a clean start.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, ResourceExt};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};
use tracing_subscriber::EnvFilter;

use crate::admin::{self, Readiness};
use crate::controllers::{
    self,
    cache::{Scope, definitions_installed},
    context::{DebugClient, Shared},
};
use crate::events::Events;
use crate::health::{Monitor, Services};
use crate::lease::Elector;
use crate::metrics::Metrics;
use crate::settings::Settings;
use penstock_provision::{ClickHouseAdmin, KafkaAdmin, RedisQuotas};

/// How long what was begun may take to finish.
const DRAIN: Duration = Duration::from_secs(20);
/// How often is looked whether the definitions are there by now.
const DEFINITIONS: Duration = Duration::from_secs(2);

/// Why the operator ended.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    #[error("the log filter cannot be used: {0}")]
    Log(String),
    #[error("the Kubernetes API cannot be used: {0}")]
    Kubernetes(String),
    #[error("the admin port {0}: {1}")]
    Admin(std::net::SocketAddr, std::io::Error),
    #[error("PENSTOCK_SECRET_FILES: {0}")]
    SecretFiles(std::io::Error),
    #[error("signals cannot be received: {0}")]
    Signals(std::io::Error),
    #[error("leadership was lost")]
    LeadershipLost,
    #[error("a controller ended by itself")]
    ControllerEnded,
}

/// Runs until told to stop.
pub async fn run(settings: Settings) -> Result<(), Ended> {
    let filter = EnvFilter::try_new(&settings.log).map_err(|error| Ended::Log(error.to_string()))?;
    // A second subscriber is refused; in a test the first one stays.
    let _ = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_env_filter(filter)
        .try_init();
    tracing::info!(
        ?settings,
        version = env!("CARGO_PKG_VERSION"),
        "the operator starts"
    );

    let metrics = Metrics::default();
    let readiness = Readiness::default();
    let listener = TcpListener::bind(settings.admin)
        .await
        .map_err(|error| Ended::Admin(settings.admin, error))?;
    tokio::spawn(admin::serve(listener, metrics.clone(), readiness.clone()));

    let stop = stop_signal()?.shared();
    let work = work(settings, metrics, readiness.clone(), stop.clone());
    tokio::pin!(work);
    tokio::select! {
        ended = &mut work => return ended,
        () = stop => {}
    }
    readiness.stopping();
    tracing::info!("the operator stops");
    match timeout(DRAIN, work).await {
        Ok(ended) => ended,
        Err(_) => {
            tracing::warn!("what was begun did not finish in time; the Lease runs out by itself");
            Ok(())
        }
    }
}

/// Resolves on SIGTERM or SIGINT.
fn stop_signal() -> Result<impl Future<Output = ()> + Send, Ended> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Ended::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Ended::Signals)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

async fn client() -> Result<Client, Ended> {
    let mut config = kube::Config::infer()
        .await
        .map_err(|error| Ended::Kubernetes(error.to_string()))?;
    config.connect_timeout = Some(Duration::from_secs(5));
    Client::try_from(config).map_err(|error| Ended::Kubernetes(error.to_string()))
}

async fn work(
    settings: Settings,
    metrics: Metrics,
    readiness: Readiness,
    stop: impl Future<Output = ()> + Send + Clone + 'static,
) -> Result<(), Ended> {
    let client = client().await?;
    let scopes: Vec<Scope> = match settings.watch_namespaces.as_slice() {
        [] => vec![Scope::Cluster],
        some => some.iter().cloned().map(Scope::Namespace).collect(),
    };
    let ready = async {
        let cluster = cluster_id(&client, &settings).await;
        wait_for_definitions(&client, &scopes, &metrics, &readiness).await;
        cluster
    };
    let cluster = tokio::select! {
        cluster = ready => cluster,
        () = stop.clone() => return Ok(()),
    };

    let elector = Elector::new(client.clone(), &settings.namespace, &settings.pod_name);
    // A standby holds no caches and could take over: it is ready.
    readiness.caches(true);
    let lease = tokio::select! {
        lease = elector.acquire() => lease,
        () = stop.clone() => return Ok(()),
    };
    readiness.caches(false);
    metrics.leading(true);
    tracing::info!(identity = settings.pod_name, "this operator leads");

    let shared = shared(settings, cluster, client, &elector, metrics.clone())?;
    let unfilled = Arc::new(AtomicUsize::new(scopes.len()));
    let controllers = join_all(scopes.into_iter().map(|scope| {
        let (unfilled, readiness) = (Arc::clone(&unfilled), readiness.clone());
        let filled = move || {
            if unfilled.fetch_sub(1, Ordering::AcqRel) == 1 {
                readiness.caches(true);
            }
        };
        controllers::run(scope, shared.clone(), filled, stop.clone())
    }));
    let ended = tokio::select! {
        _ = controllers => if stop.now_or_never().is_some() { Ok(()) } else { Err(Ended::ControllerEnded) },
        () = elector.keep(lease) => Err(Ended::LeadershipLost),
    };
    metrics.leading(false);
    if !matches!(ended, Err(Ended::LeadershipLost)) {
        elector.release().await;
    }
    ended
}

fn shared(
    settings: Settings,
    cluster: String,
    client: Client,
    elector: &Elector,
    metrics: Metrics,
) -> Result<Shared, Ended> {
    settings.secret_files.make().map_err(Ended::SecretFiles)?;
    let services = Services {
        topics: Arc::new(KafkaAdmin::new()),
        tables: Arc::new(ClickHouseAdmin::new()),
        quotas: Arc::new(RedisQuotas::new()),
    };
    Ok(Shared {
        events: Arc::new(Events::new(
            client.clone(),
            elector.leadership(),
            &settings.pod_name,
        )),
        monitor: Monitor::new(services.clone(), metrics.clone()),
        services,
        leadership: elector.leadership(),
        cluster: cluster.into(),
        client: DebugClient(client),
        settings: Arc::new(settings),
        metrics,
        keys: Arc::default(),
    })
}

/// The cluster's name in ids and marks: given, or the uid of kube-system. Asked until answered, because an id made from
/// anything else would be another id tomorrow.
async fn cluster_id(client: &Client, settings: &Settings) -> String {
    if let Some(id) = &settings.cluster_id {
        return id.clone();
    }
    let namespaces: Api<Namespace> = Api::all(client.clone());
    loop {
        match namespaces.get_metadata("kube-system").await {
            Ok(namespace) => {
                if let Some(uid) = namespace.uid() {
                    return uid;
                }
            }
            Err(error) => tracing::warn!(%error, "the uid of kube-system cannot be read; asking again"),
        }
        sleep(DEFINITIONS).await;
    }
}

/// The operator may be installed before its definitions are: it waits, and says so.
async fn wait_for_definitions(client: &Client, scopes: &[Scope], metrics: &Metrics, readiness: &Readiness) {
    let Some(scope) = scopes.first() else { return };
    let mut told = false;
    loop {
        match definitions_installed(client, scope).await {
            Ok(true) => {
                metrics.definitions_missing(false);
                readiness.definitions(true);
                return;
            }
            Ok(false) => {
                metrics.definitions_missing(true);
                if !told {
                    tracing::warn!(
                        "the definitions of apps.penstock.dev and ingestionpipelines.penstock.dev are not installed; waiting for them"
                    );
                    told = true;
                }
            }
            Err(error) => tracing::warn!(%error, "the definitions cannot be looked for; trying again"),
        }
        sleep(DEFINITIONS).await;
    }
}
