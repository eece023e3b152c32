//! What the installation tells the operator: flags, or the environment that the chart sets.
//!
//! Validated whole before anything is opened. An empty variable means an absent one, as charts write it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;

use crate::connections::{ConnectionArgs, Connections};
use crate::controllers::pipeline::named::SecretFiles;
use crate::tenancy::Patterns;

/// Flags.
#[derive(Clone, Debug, Parser)]
#[command(name = "penstock-operator", version, about)]
pub struct Args {
    /// Image of the data plane, for the pods that the operator makes.
    #[arg(long, env = "PENSTOCK_IMAGE")]
    image: String,
    /// When nodes pull that image.
    #[arg(long, env = "PENSTOCK_IMAGE_PULL_POLICY", default_value = "IfNotPresent")]
    image_pull_policy: String,
    /// Secrets to pull that image with, by their name in each pipeline's namespace, comma-separated.
    #[arg(long, env = "PENSTOCK_IMAGE_PULL_SECRETS", default_value = "")]
    image_pull_secrets: String,
    /// Kafka for pipelines that name none: `host:port`, comma-separated.
    #[arg(long, env = "PENSTOCK_KAFKA_BOOTSTRAP", default_value = "")]
    kafka_bootstrap: String,
    /// ClickHouse for pipelines that name none: `http://host:port`.
    #[arg(long, env = "PENSTOCK_CLICKHOUSE_URL", default_value = "")]
    clickhouse_url: String,
    /// Redis for pipelines that name none: `host:port`.
    #[arg(long, env = "PENSTOCK_REDIS_ADDRESS", default_value = "")]
    redis_address: String,
    #[command(flatten)]
    connections: ConnectionArgs,
    /// Folder beneath which copies are of the Secrets that pipelines name for services of their own; best one in memory.
    /// Default: one of this operator's name among temporary files.
    #[arg(long, env = "PENSTOCK_SECRET_FILES", default_value = "")]
    secret_files: String,
    /// Name of this cluster in marks of ownership and ids. Default: the uid of the namespace kube-system.
    #[arg(long, env = "PENSTOCK_CLUSTER_ID", default_value = "")]
    cluster_id: String,
    /// Topics that a namespace may use on the installation's Kafka: patterns with `*` and `{namespace}`.
    #[arg(long, env = "PENSTOCK_TENANCY_TOPICS", default_value = "{namespace}*")]
    tenancy_topics: String,
    /// Databases that a namespace may use on the installation's ClickHouse.
    #[arg(long, env = "PENSTOCK_TENANCY_DATABASES", default_value = "{namespace}*")]
    tenancy_databases: String,
    /// Namespaces to watch, comma-separated. Empty: all.
    #[arg(long, env = "PENSTOCK_WATCH_NAMESPACES", default_value = "")]
    watch_namespaces: String,
    /// The operator's own namespace, where its Lease is.
    #[arg(long, env = "PENSTOCK_NAMESPACE", default_value = "default")]
    namespace: String,
    /// The operator's own name among its replicas. Default: a random one.
    #[arg(long, env = "PENSTOCK_POD_NAME", default_value = "")]
    pod_name: String,
    /// `/metrics`, `/livez`, `/readyz`.
    #[arg(long, env = "PENSTOCK_ADMIN_LISTEN", default_value = "0.0.0.0:8080")]
    admin: String,
    /// What is logged: `info`, or `info,penstock_operator=debug`.
    #[arg(long, env = "PENSTOCK_LOG", default_value = "info")]
    log: String,
}

/// What was told, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    pub image: String,
    pub image_pull_policy: String,
    pub image_pull_secrets: Vec<String>,
    pub kafka_bootstrap: Option<String>,
    pub clickhouse_url: Option<String>,
    pub redis_address: Option<String>,
    /// How these are reached.
    pub connections: Connections,
    /// Where copies of pipelines' own Secrets are.
    pub secret_files: Arc<SecretFiles>,
    pub cluster_id: Option<String>,
    pub topics: Patterns,
    pub databases: Patterns,
    pub watch_namespaces: Vec<String>,
    pub namespace: String,
    pub pod_name: String,
    pub admin: SocketAddr,
    pub log: String,
}

/// Why settings cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {why}")]
pub struct SettingsError {
    setting: &'static str,
    why: String,
}

fn refused(setting: &'static str, why: impl Into<String>) -> SettingsError {
    SettingsError {
        setting,
        why: why.into(),
    }
}

fn given(text: String) -> Option<String> {
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn listed(text: &str) -> Vec<String> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect()
}

impl TryFrom<Args> for Settings {
    type Error = SettingsError;

    fn try_from(args: Args) -> Result<Self, SettingsError> {
        if !matches!(
            args.image_pull_policy.as_str(),
            "Always" | "IfNotPresent" | "Never"
        ) {
            return Err(refused(
                "PENSTOCK_IMAGE_PULL_POLICY",
                "one of Always, IfNotPresent, Never",
            ));
        }
        let clickhouse_url = given(args.clickhouse_url).map(|url| url.trim_end_matches('/').to_owned());
        if clickhouse_url
            .as_deref()
            .is_some_and(|url| !url.starts_with("http://") && !url.starts_with("https://"))
        {
            return Err(refused(
                "PENSTOCK_CLICKHOUSE_URL",
                "an address like http://host:8123 or https://host:8443",
            ));
        }
        let connections =
            Connections::of(&args.connections).map_err(|(setting, why)| refused(setting, why))?;
        let encrypted = clickhouse_url
            .as_deref()
            .is_some_and(|url| url.starts_with("https://"));
        if connections.clickhouse.tls.is_some() && !encrypted {
            return Err(refused(
                "PENSTOCK_CLICKHOUSE_CA_FILE",
                "is for an address in PENSTOCK_CLICKHOUSE_URL that begins with https://",
            ));
        }
        let pod_name = given(args.pod_name)
            .unwrap_or_else(|| format!("penstock-operator-{:08x}", rand::random::<u32>()));
        Ok(Self {
            image: given(args.image)
                .ok_or_else(|| refused("PENSTOCK_IMAGE", "the image of the data plane"))?,
            image_pull_policy: args.image_pull_policy,
            image_pull_secrets: listed(&args.image_pull_secrets),
            kafka_bootstrap: given(args.kafka_bootstrap),
            clickhouse_url,
            redis_address: given(args.redis_address),
            connections,
            secret_files: Arc::new(SecretFiles::new(
                &given(args.secret_files).map_or_else(|| std::env::temp_dir().join(&pod_name), PathBuf::from),
            )),
            cluster_id: given(args.cluster_id),
            topics: Patterns::new(listed(&args.tenancy_topics)),
            databases: Patterns::new(listed(&args.tenancy_databases)),
            watch_namespaces: listed(&args.watch_namespaces),
            namespace: args.namespace,
            pod_name,
            admin: args
                .admin
                .parse()
                .map_err(|_| refused("PENSTOCK_ADMIN_LISTEN", "an address like 0.0.0.0:8080"))?,
            log: args.log,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(flags: &[&str]) -> Result<Settings, SettingsError> {
        let all = ["penstock-operator", "--image", "penstock:1"]
            .into_iter()
            .chain(flags.iter().copied());
        Args::parse_from(all).try_into()
    }

    #[test]
    fn empty_means_absent() {
        let settings = settings(&["--redis-address", " ", "--watch-namespaces", "a, b,"]).unwrap();
        assert_eq!(settings.redis_address, None);
        assert_eq!(settings.watch_namespaces, ["a", "b"]);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (flags, name) in [
            (["--admin", "8080"], "PENSTOCK_ADMIN_LISTEN"),
            (["--image-pull-policy", "Sometimes"], "PENSTOCK_IMAGE_PULL_POLICY"),
            (["--clickhouse-url", "localhost"], "PENSTOCK_CLICKHOUSE_URL"),
            (
                ["--clickhouse-username-file", "/u"],
                "PENSTOCK_CLICKHOUSE_USERNAME_FILE",
            ),
        ] {
            let refused = settings(&flags).unwrap_err().to_string();
            assert!(refused.starts_with(name), "{refused}");
        }
    }
}
