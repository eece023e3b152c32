//! What the API server knows: pipelines, Apps, and where a pipeline's topics are.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Patch, PatchParams};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use kube::core::DeserializeGuard;
use kube::{Api, Client};
use penstock_crds::{App, IngestionPipeline};
use penstock_dataplane_config::load::{Environment, load};
use penstock_dataplane_config::{ClientTls, ConsumeConfig, KafkaCluster, KafkaTarget};

use crate::access::KafkaFlags;
use crate::exit::{Failure, Result};
use crate::kafka::Brokers;

/// An object, or why this version cannot read it.
pub type Guard<K> = DeserializeGuard<K>;

const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(30);
/// Kubernetes' own roles: one reads everything but Secrets, the other writes too.
const VIEW: &str = "view";
const EDIT: &str = "edit";

/// Which cluster, and where in it.
#[derive(Clone, Debug, Default, Args)]
pub struct Where {
    /// Namespace; default: that of the context
    #[arg(short, long, global = true, value_name = "NS")]
    pub namespace: Option<String>,
    /// Context of the kubeconfig; default: the current one
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// The kubeconfig; default: $KUBECONFIG, else ~/.kube/config, else the pod's own account
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

/// A client of one cluster.
pub struct Cluster {
    client: Client,
    url: String,
    /// What commands are about unless they are told.
    pub namespace: String,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cluster({})", self.url)
    }
}

impl Cluster {
    pub async fn connect(place: &Where) -> Result<Self> {
        let mut config = configuration(place).await?;
        config.connect_timeout = Some(CONNECT);
        config.read_timeout = Some(ANSWER);
        let url = config.cluster_url.to_string();
        let namespace = place
            .namespace
            .clone()
            .unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| {
            Failure::Failed(format!("the kubeconfig cannot be used: {}", innermost(&error)))
        })?;
        Ok(Self {
            client,
            url,
            namespace,
        })
    }

    /// The pipelines of the namespace, or of all.
    pub async fn pipelines(&self, all: bool) -> Result<Vec<Guard<IngestionPipeline>>> {
        let api: Api<Guard<IngestionPipeline>> = match all {
            true => Api::all(self.client.clone()),
            false => Api::namespaced(self.client.clone(), &self.namespace),
        };
        let list = api.list(&Default::default()).await;
        let list = list.map_err(|error| self.failure(VIEW, "list the pipelines", &error))?;
        Ok(list.items)
    }

    pub async fn pipeline(&self, name: &str) -> Result<Guard<IngestionPipeline>> {
        let api: Api<Guard<IngestionPipeline>> = Api::namespaced(self.client.clone(), &self.namespace);
        api.get(name).await.map_err(|error| match is_absent(&error) {
            true => self.no_pipeline(name),
            false => self.failure(VIEW, &format!("read the pipeline {name}"), &error),
        })
    }

    /// The same, where this version can read it.
    pub async fn readable_pipeline(&self, name: &str) -> Result<IngestionPipeline> {
        self.pipeline(name).await?.0.map_err(|invalid| {
            Failure::Failed(format!(
                "this version of penstock cannot read the pipeline {name}: {}",
                invalid.error
            ))
        })
    }

    /// Sets the replicas of a Deployment.
    pub async fn scale(&self, deployment: &str, replicas: i32) -> Result<()> {
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), &self.namespace);
        let patch = Patch::Merge(serde_json::json!({"spec": {"replicas": replicas}}));
        let scaled = api.patch_scale(deployment, &parameters(), &patch).await;
        scaled
            .map(drop)
            .map_err(|error| self.failure(EDIT, &format!("edit the scale of {deployment}"), &error))
    }

    /// Sets annotations of a pipeline, or removes them.
    pub async fn annotate_pipeline(
        &self,
        pipeline: &IngestionPipeline,
        annotations: &[(&str, Option<&str>)],
    ) -> Result<()> {
        let name = pipeline.metadata.name.as_deref().unwrap_or_default();
        let api: Api<Guard<IngestionPipeline>> = Api::namespaced(self.client.clone(), &self.namespace);
        let annotations: BTreeMap<_, _> = annotations.iter().copied().collect();
        let patch = Patch::Merge(serde_json::json!({"metadata": {"annotations": annotations}}));
        let patched = api.patch_metadata(name, &parameters(), &patch).await;
        patched
            .map(drop)
            .map_err(|error| self.failure(EDIT, &format!("edit the pipeline {name}"), &error))
    }

    /// The Apps of the namespace.
    pub async fn apps(&self) -> Result<Vec<Guard<App>>> {
        let api: Api<Guard<App>> = Api::namespaced(self.client.clone(), &self.namespace);
        let list = api.list(&Default::default()).await;
        let list = list.map_err(|error| self.failure(VIEW, "list the Apps", &error))?;
        Ok(list.items)
    }

    /// The UUID that an App's events bear.
    pub async fn app_id(&self, name: &str) -> Result<String> {
        let api: Api<Guard<App>> = Api::namespaced(self.client.clone(), &self.namespace);
        let app = api.get(name).await.map_err(|error| match is_absent(&error) {
            true => Failure::NotFound(format!("no App {name} in the namespace {}", self.namespace)),
            false => self.failure(VIEW, &format!("read the App {name}"), &error),
        })?;
        let id = app.0.ok().and_then(|app| app.status?.app_id);
        id.ok_or_else(|| Failure::Failed(format!("the App {name} has no id yet; does the operator run?")))
    }

    /// The settings that the pipeline's consumers run with: they say where its topics are.
    pub async fn consumer(&self, pipeline: &str) -> Result<ConsumeConfig> {
        let name = format!("{pipeline}-consume");
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let found = match api.get(&name).await {
            Ok(found) => found,
            Err(error) if is_absent(&error) => {
                // Is there no such pipeline, or has the operator not come to it?
                self.pipeline(pipeline).await?;
                return Err(Failure::NotFound(format!(
                    "the pipeline {pipeline} has no topic yet; `penstock status {pipeline} -n {}` says what it waits for",
                    self.namespace
                )));
            }
            Err(error) => return Err(self.failure(VIEW, &format!("read the ConfigMap {name}"), &error)),
        };
        let text = found.data.as_ref().and_then(|data| data.get("config.yaml"));
        let unreadable = |why: &str| {
            Failure::Failed(format!(
                "the ConfigMap {name} cannot be read by this version of penstock: {why}; use the version of the operator, or say --kafka and --topic"
            ))
        };
        let text = text.ok_or_else(|| unreadable("it has no config.yaml"))?;
        match load::<ConsumeConfig>(text, &Environment::new()) {
            Ok(loaded) => Ok(loaded.config),
            Err(error) => Err(unreadable(&error.to_string())),
        }
    }

    /// The pipeline's Kafka as the flags say how it is reached, if they say anything of that; else as its consumers reach it,
    /// with what their Secret holds, where it asks who is there.
    pub async fn brokers(&self, pipeline: &str, kafka: &KafkaTarget, flags: &KafkaFlags) -> Result<Brokers> {
        let bootstrap = flags.kafka.as_ref().unwrap_or(&kafka.bootstrap);
        if flags.say_how() {
            return Ok(Brokers::at(flags.cluster(bootstrap)?));
        }
        let cluster = KafkaCluster {
            bootstrap: bootstrap.clone(),
            ..kafka.cluster()
        };
        let any_file = |tls: &ClientTls| tls.ca_file.is_some() || tls.cert_file.is_some();
        if cluster.sasl.is_none() && !cluster.tls.as_ref().is_some_and(any_file) {
            return Ok(Brokers::of_pods(cluster, BTreeMap::new()));
        }
        let name = format!("{pipeline}-consume");
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let found = api.get_opt(&name).await;
        let found = found.map_err(|error| self.failure(EDIT, &format!("read the Secret {name}"), &error))?;
        let files = found.and_then(|secret| secret.data).unwrap_or_default();
        let files = files.into_iter().map(|(name, content)| (name, content.0));
        Ok(Brokers::of_pods(cluster, files.collect()))
    }

    fn no_pipeline(&self, name: &str) -> Failure {
        Failure::NotFound(format!(
            "no pipeline {name} in the namespace {}; `penstock status -A` lists all there are",
            self.namespace
        ))
    }

    /// A sentence about a request that failed, and the least of the cluster's own roles that may do it.
    fn failure(&self, role: &str, what: &str, error: &kube::Error) -> Failure {
        match error {
            kube::Error::Api(status) => match status.code {
                401 => Failure::Failed(format!(
                    "the API server at {} does not accept these credentials: log in again, or choose another --context",
                    self.url
                )),
                403 => Failure::Failed(format!(
                    "you may not {what}: {}; the role `{role}` of the namespace is enough",
                    status.message
                )),
                404 => Failure::NotFound(format!(
                    "cannot {what}: the cluster at {} does not know the kind; is Penstock installed there?",
                    self.url
                )),
                _ => Failure::Failed(format!("cannot {what}: {}", status.message)),
            },
            kube::Error::Auth(error) => Failure::Failed(format!(
                "cannot log in to the API server at {}: {}",
                self.url,
                innermost(error)
            )),
            kube::Error::SerdeError(error) => {
                Failure::Failed(format!("cannot {what}: the answer cannot be read: {error}"))
            }
            other => Failure::Unreachable(format!(
                "cannot {what}: the API server at {} cannot be reached: {}",
                self.url,
                innermost(other)
            )),
        }
    }
}

fn parameters() -> PatchParams {
    PatchParams {
        field_manager: Some("penstock-cli".into()),
        ..PatchParams::default()
    }
}

/// An object that does not exist, of a kind that does.
fn is_absent(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404
        && status.details.as_ref().is_some_and(|details| !details.name.is_empty()))
}

/// The cause of all causes, which is what a person needs.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

async fn configuration(place: &Where) -> Result<Config> {
    let options = KubeConfigOptions {
        context: place.context.clone(),
        ..KubeConfigOptions::default()
    };
    let unusable = |why: String| Failure::Failed(format!("the kubeconfig cannot be used: {why}"));
    if let Some(file) = &place.kubeconfig {
        let kubeconfig = Kubeconfig::read_from(file).map_err(|error| unusable(error.to_string()))?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
        return config.map_err(|error| unusable(error.to_string()));
    }
    if place.context.is_some() {
        let config = Config::from_kubeconfig(&options).await;
        return config.map_err(|error| unusable(error.to_string()));
    }
    Config::infer().await.map_err(|error| match std::env::var_os("KUBECONFIG") {
        // Which file, says the error that led to this one.
        Some(_) => unusable(error.source().map_or_else(|| error.to_string(), ToString::to_string)),
        None => Failure::Failed(
            "no cluster is known: set KUBECONFIG, or say --kubeconfig FILE; commands that read topics also work without one, with --kafka and --topic".into(),
        ),
    })
}
