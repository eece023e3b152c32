//! What an instance is made of: the components, their names, the groups a person asks for.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::{clickhouse, containerd, controlplane, kafka, node, redis};

/// What `--only` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    Kubernetes,
    Kafka,
    Redis,
    #[serde(rename = "clickhouse")]
    ClickHouse,
}

impl Group {
    pub const ALL: [Self; 4] = [Self::Kubernetes, Self::Kafka, Self::Redis, Self::ClickHouse];

    pub fn name(self) -> &'static str {
        match self {
            Self::Kubernetes => "kubernetes",
            Self::Kafka => "kafka",
            Self::Redis => "redis",
            Self::ClickHouse => "clickhouse",
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Group {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|group| group.name() == text)
            .ok_or_else(|| {
                format!(
                    "there is no group `{text}`; the groups are {}",
                    Self::ALL.map(Self::name).join(", ")
                )
            })
    }
}

/// One process that the kit starts and watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    Etcd,
    ApiServer,
    ControllerManager,
    Scheduler,
    Containerd,
    Kubelet,
    Proxy,
    /// A broker by its number, from 1.
    Kafka(u8),
    Redis,
    ClickHouse,
}

impl Component {
    /// Everything there is, with so many brokers.
    pub fn all(brokers: u8) -> impl Iterator<Item = Self> {
        [
            Self::Etcd,
            Self::ApiServer,
            Self::ControllerManager,
            Self::Scheduler,
            Self::Containerd,
            Self::Kubelet,
        ]
        .into_iter()
        .chain([Self::Proxy, Self::Redis, Self::ClickHouse])
        .chain((1..=brokers).map(Self::Kafka))
    }

    pub fn name(self) -> String {
        match self {
            Self::Etcd => "etcd".into(),
            Self::ApiServer => "kube-apiserver".into(),
            Self::ControllerManager => "kube-controller-manager".into(),
            Self::Scheduler => "kube-scheduler".into(),
            Self::Containerd => "containerd".into(),
            Self::Kubelet => "kubelet".into(),
            Self::Proxy => "kube-proxy".into(),
            Self::Kafka(id) => format!("kafka-{id}"),
            Self::Redis => "redis".into(),
            Self::ClickHouse => "clickhouse".into(),
        }
    }

    pub fn group(self) -> Group {
        match self {
            Self::Kafka(_) => Group::Kafka,
            Self::Redis => Group::Redis,
            Self::ClickHouse => Group::ClickHouse,
            _ => Group::Kubernetes,
        }
    }

    /// The components of an instance that a word of a person means: a component's name, or `kafka` for all brokers.
    pub fn matching(word: &str, among: &[Self]) -> Result<Vec<Self>> {
        let found: Vec<Self> = among
            .iter()
            .copied()
            .filter(|c| c.name() == word || (word == "kafka" && matches!(c, Self::Kafka(_))))
            .collect();
        if found.is_empty() {
            let names: Vec<String> = among.iter().map(|c| c.name()).collect();
            return Err(Error::new(format!(
                "there is no component `{word}` here; there are {}",
                names.join(", ")
            )));
        }
        Ok(found)
    }

    /// How the component is started: its command line and its files. Only reads.
    pub(crate) fn daemon(self, instance: &Instance) -> Result<Daemon> {
        match self {
            Self::Etcd => Ok(controlplane::etcd(instance)),
            Self::ApiServer => Ok(controlplane::api_server(instance)),
            Self::ControllerManager => Ok(controlplane::controller_manager(instance)),
            Self::Scheduler => Ok(controlplane::scheduler(instance)),
            Self::Containerd => Ok(containerd::daemon(instance)),
            Self::Kubelet => Ok(node::kubelet(instance)),
            Self::Proxy => Ok(node::proxy(instance)),
            Self::Kafka(id) => kafka::daemon(instance, id),
            Self::Redis => redis::daemon(instance),
            Self::ClickHouse => clickhouse::daemon(instance),
        }
    }

    /// Whether the component does its work. Called inside the instance's network.
    pub(crate) fn is_ready(self, instance: &Instance) -> bool {
        match self {
            Self::Etcd => controlplane::etcd_is_ready(),
            Self::ApiServer => controlplane::api_server_is_ready(instance),
            Self::ControllerManager => controlplane::controller_manager_is_ready(),
            Self::Scheduler => controlplane::scheduler_is_ready(),
            Self::Containerd => containerd::is_ready(instance),
            Self::Kubelet => node::kubelet_is_ready(),
            Self::Proxy => node::proxy_is_ready(),
            Self::Kafka(id) => kafka::is_ready(instance, id),
            Self::Redis => redis::is_ready(),
            Self::ClickHouse => clickhouse::is_ready(instance),
        }
    }

    /// How long a start may take on a busy machine before it counts as failed.
    pub(crate) fn start_deadline(self) -> Duration {
        match self {
            Self::ApiServer | Self::Kafka(_) => Duration::from_secs(180),
            _ => Duration::from_secs(60),
        }
    }

    /// How long it may take to end by itself.
    pub(crate) fn grace(self) -> Duration {
        match self {
            Self::Kafka(_) => Duration::from_secs(8),
            _ => Duration::from_secs(5),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_mean_components() {
        let all: Vec<Component> = Component::all(3).collect();
        assert_eq!(Component::matching("redis", &all).unwrap(), [Component::Redis]);
        assert_eq!(Component::matching("kafka", &all).unwrap().len(), 3);
        assert_eq!(
            Component::matching("kafka-2", &all).unwrap(),
            [Component::Kafka(2)]
        );
        let error = Component::matching("redsi", &all).unwrap_err();
        assert!(
            error.message().contains("`redsi`") && error.message().contains("redis"),
            "{error}"
        );
    }

    #[test]
    fn groups_read_back_as_they_are_written() {
        for group in Group::ALL {
            assert_eq!(group.name().parse::<Group>().unwrap(), group);
            assert_eq!(serde_json::to_string(&group).unwrap(), format!("\"{group}\""));
        }
        assert!(
            "postgres"
                .parse::<Group>()
                .unwrap_err()
                .contains("kubernetes, kafka, redis, clickhouse")
        );
    }
}
