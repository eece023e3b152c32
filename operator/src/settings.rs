//! What the installation tells the operator: flags, or the environment that the chart sets.
//!
//! Validated whole before anything is opened. An empty variable means an absent one, as charts write it.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;

use crate::connections::{ConnectionArgs, Connections};
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
    /// File with the name of the ClickHouse user that makes databases and tables.
    #[arg(long, env = "PENSTOCK_CLICKHOUSE_USERNAME_FILE", default_value = "")]
    clickhouse_username_file: String,
    /// File with that user's password.
    #[arg(long, env = "PENSTOCK_CLICKHOUSE_PASSWORD_FILE", default_value = "")]
    clickhouse_password_file: String,
    /// File with the name of the ClickHouse user that consumers insert as.
    #[arg(long, env = "PENSTOCK_CLICKHOUSE_CONSUMER_USERNAME_FILE", default_value = "")]
    clickhouse_consumer_username_file: String,
    /// File with that user's password.
    #[arg(long, env = "PENSTOCK_CLICKHOUSE_CONSUMER_PASSWORD_FILE", default_value = "")]
    clickhouse_consumer_password_file: String,
    /// Redis for pipelines that name none: `host:port`.
    #[arg(long, env = "PENSTOCK_REDIS_ADDRESS", default_value = "")]
    redis_address: String,
    #[command(flatten)]
    connections: ConnectionArgs,
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

/// A user of ClickHouse, by the files that hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialFiles {
    pub username: PathBuf,
    pub password: PathBuf,
}

/// What was told, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    pub image: String,
    pub image_pull_policy: String,
    pub image_pull_secrets: Vec<String>,
    pub kafka_bootstrap: Option<String>,
    pub clickhouse_url: Option<String>,
    pub clickhouse_admin: Option<CredentialFiles>,
    pub clickhouse_consumer: Option<CredentialFiles>,
    pub redis_address: Option<String>,
    /// How these are reached.
    pub connections: Connections,
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

fn files(
    setting: &'static str,
    name: String,
    password: String,
) -> Result<Option<CredentialFiles>, SettingsError> {
    match (given(name), given(password)) {
        (Some(username), Some(password)) => Ok(Some(CredentialFiles {
            username: username.into(),
            password: password.into(),
        })),
        (None, None) => Ok(None),
        _ => Err(refused(
            setting,
            "the files of name and password are given together or not at all",
        )),
    }
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
        if connections.clickhouse.is_some() && !encrypted {
            return Err(refused(
                "PENSTOCK_CLICKHOUSE_CA_FILE",
                "is for an address in PENSTOCK_CLICKHOUSE_URL that begins with https://",
            ));
        }
        Ok(Self {
            image: given(args.image)
                .ok_or_else(|| refused("PENSTOCK_IMAGE", "the image of the data plane"))?,
            image_pull_policy: args.image_pull_policy,
            image_pull_secrets: listed(&args.image_pull_secrets),
            kafka_bootstrap: given(args.kafka_bootstrap),
            clickhouse_url,
            clickhouse_admin: files(
                "PENSTOCK_CLICKHOUSE_USERNAME_FILE",
                args.clickhouse_username_file,
                args.clickhouse_password_file,
            )?,
            clickhouse_consumer: files(
                "PENSTOCK_CLICKHOUSE_CONSUMER_USERNAME_FILE",
                args.clickhouse_consumer_username_file,
                args.clickhouse_consumer_password_file,
            )?,
            redis_address: given(args.redis_address),
            connections,
            cluster_id: given(args.cluster_id),
            topics: Patterns::new(listed(&args.tenancy_topics)),
            databases: Patterns::new(listed(&args.tenancy_databases)),
            watch_namespaces: listed(&args.watch_namespaces),
            namespace: args.namespace,
            pod_name: given(args.pod_name)
                .unwrap_or_else(|| format!("penstock-operator-{:08x}", rand::random::<u32>())),
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
