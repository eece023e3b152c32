//! One named cluster: its folders, its addresses, what it was told to run.
//!
//! Every instance has a network namespace of its own, so all of them use the same addresses and ports; what differs
//! are folders, the namespace and the cgroup, and those are named by the instance. Nothing is written outside
//! `state_dir()` and the cache, except what the kernel needs: `/run/netns/penstock-NAME` and the cgroup.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cache::Cache;
use crate::component::{Component, Group};
use crate::error::{Context, Error, Result};
use crate::file;

/// The node's address inside every instance's network namespace; Kafka, Redis and ClickHouse listen on it.
pub const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 1);
pub const DNS_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
pub const SERVICE_CIDR: &str = "10.96.0.0/16";
pub const POD_CIDR: &str = "10.244.0.0/24";
pub const CLUSTER_CIDR: &str = "10.244.0.0/16";
pub const API_PORT: u16 = 6443;
pub const REDIS_PORT: u16 = 6379;
pub const CLICKHOUSE_PORT: u16 = 8123;
/// The instance that commands mean when none is named.
pub const DEFAULT_NAME: &str = "dev";

const MAX_NAME: usize = 20;

#[derive(Debug, Clone)]
pub struct Instance {
    name: String,
    state: PathBuf,
    cache: Cache,
    repository: PathBuf,
}

/// What the instance was told to run; kept so that a later command continues with the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Kafka brokers; fixed once the first one has formatted its disk.
    pub brokers: Option<u8>,
    pub groups: Vec<Group>,
    /// Whether Penstock uses the encrypted ports of the services; once it does, it goes on doing so.
    #[serde(default)]
    pub secure: bool,
    /// The kernel's id of the boot in which the instance was last brought up.
    pub boot: String,
}

impl Instance {
    /// The instance of this name, in the folders that the environment names (see the module `cache` and
    /// `PENSTOCK_STATE`). It need not exist yet.
    pub fn named(name: &str) -> Result<Self> {
        let base = std::env::var_os("PENSTOCK_STATE")
            .map_or_else(|| PathBuf::from("/var/lib/penstock"), PathBuf::from);
        Self::at(name, &base, Cache::from_environment()?, repository())
    }

    /// The instance that `PENSTOCK_INSTANCE` names, else `default`.
    pub fn from_environment(default: &str) -> Result<Self> {
        let name = std::env::var("PENSTOCK_INSTANCE").unwrap_or_else(|_| default.to_owned());
        Self::named(&name)
    }

    pub(crate) fn at(name: &str, base: &Path, cache: Cache, repository: PathBuf) -> Result<Self> {
        check_name(name)?;
        Ok(Self {
            name: name.to_owned(),
            state: base.join(name),
            cache,
            repository,
        })
    }

    /// One called `x` with all that it has below `base`, for tests.
    #[cfg(test)]
    pub(crate) fn below(base: &Path) -> Self {
        Self::at("x", base, Cache::at(base.join("cache")), base.to_owned()).unwrap()
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The checkout whose programs, charts and examples are used.
    pub fn repository(&self) -> &Path {
        &self.repository
    }

    pub fn state_dir(&self) -> &Path {
        &self.state
    }

    /// Pid files and sockets: what a reboot makes meaningless.
    pub fn run_dir(&self) -> PathBuf {
        self.state.join("run")
    }

    pub fn log_dir(&self) -> PathBuf {
        self.state.join("logs")
    }

    pub fn log_file(&self, component: &str) -> PathBuf {
        self.log_dir().join(format!("{component}.log"))
    }

    pub fn pki_dir(&self) -> PathBuf {
        self.state.join("pki")
    }

    /// A component's own data folder.
    pub fn data_dir(&self, component: &str) -> PathBuf {
        self.state.join(component)
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.state.join("kubeconfig")
    }

    /// Every write to the API server, one JSON object per line, at level Metadata.
    pub fn audit_log(&self) -> PathBuf {
        self.data_dir("kube-apiserver").join("audit.log")
    }

    pub fn containerd_socket(&self) -> PathBuf {
        self.run_dir().join("containerd.sock")
    }

    /// The name of the network namespace, of the node and of the cgroup.
    pub fn scope(&self) -> String {
        format!("penstock-{}", self.name)
    }

    pub fn kafka_bootstrap(&self) -> Result<String> {
        let brokers = self.record()?.brokers.unwrap_or(1);
        let addresses: Vec<String> = (1..=brokers)
            .map(|id| format!("{NODE_ADDRESS}:{}", kafka_port(id)))
            .collect();
        Ok(addresses.join(","))
    }

    pub fn clickhouse_url(&self) -> String {
        format!("http://{NODE_ADDRESS}:{CLICKHOUSE_PORT}")
    }

    pub fn redis_address(&self) -> String {
        format!("{NODE_ADDRESS}:{REDIS_PORT}")
    }

    pub fn exists(&self) -> bool {
        self.record_file().exists()
    }

    pub fn record(&self) -> Result<Record> {
        let path = self.record_file();
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).doing(format_args!("reading {}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Record::default()),
            Err(error) => Err(Error::new(format!("reading {}: {error}", path.display()))),
        }
    }

    pub(crate) fn save(&self, record: &Record) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(record).doing("writing the instance's record")?;
        file::write(&self.record_file(), &bytes, 0o644)
    }

    fn record_file(&self) -> PathBuf {
        self.state.join("instance.json")
    }

    /// The components that belong to what the instance was told to run.
    pub fn components(&self) -> Result<Vec<Component>> {
        let record = self.record()?;
        Ok(Component::all(record.brokers.unwrap_or(1))
            .filter(|c| record.groups.contains(&c.group()))
            .collect())
    }

    /// An error for commands that need the instance to be there.
    pub fn must_exist(&self) -> Result<()> {
        if self.exists() {
            return Ok(());
        }
        Err(Error::new(format!("there is no instance `{}`", self.name)).next(self.command("up")))
    }

    /// How a person types a command for this instance.
    pub fn command(&self, arguments: &str) -> String {
        if self.name == DEFAULT_NAME {
            format!("./e2e/kit {arguments}")
        } else {
            format!("./e2e/kit --instance {} {arguments}", self.name)
        }
    }
}

/// The client port of a broker; its controller listens on the next one.
pub fn kafka_port(broker: u8) -> u16 {
    9092 + 2 * u16::from(broker - 1)
}

/// The checkout of the `./e2e/kit` that was called, else the one this program was built from: two checkouts may share a
/// target folder, and cargo does not build a program anew for having been built in the other.
fn repository() -> PathBuf {
    if let Some(called) = std::env::var_os("PENSTOCK_CHECKOUT").filter(|path| !path.is_empty()) {
        return called.into();
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

fn check_name(name: &str) -> Result<()> {
    let good = name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && !name.ends_with('-');
    if good {
        return Ok(());
    }
    Err(Error::new(format!(
        "`{name}` cannot name an instance: up to {MAX_NAME} lower-case letters, digits and hyphens, a letter first"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_folders_so_they_are_plain() {
        for good in ["dev", "test", "a", "pr-12"] {
            check_name(good).unwrap();
        }
        for bad in ["", "Dev", "../x", "1a", "a-", "a b", "aaaaaaaaaaaaaaaaaaaaa"] {
            assert!(
                check_name(bad)
                    .unwrap_err()
                    .message()
                    .contains("cannot name an instance"),
                "{bad}"
            );
        }
    }

    #[test]
    fn brokers_have_ports_of_their_own() {
        assert_eq!([1, 2, 3].map(kafka_port), [9092, 9094, 9096]);
    }

    #[test]
    fn the_record_survives_and_names_the_bootstrap() {
        let base = std::env::temp_dir().join(format!("penstock-instance-{}", std::process::id()));
        let instance = Instance::below(&base);
        assert!(!instance.exists());
        assert!(
            instance
                .must_exist()
                .unwrap_err()
                .to_string()
                .contains("./e2e/kit --instance x up")
        );
        let record = Record {
            brokers: Some(3),
            groups: vec![Group::Kafka],
            secure: false,
            boot: "b".into(),
        };
        instance.save(&record).unwrap();
        assert_eq!(instance.record().unwrap(), record);
        assert_eq!(
            instance.kafka_bootstrap().unwrap(),
            "10.240.0.1:9092,10.240.0.1:9094,10.240.0.1:9096"
        );
        assert_eq!(instance.components().unwrap().len(), 3);
        let earlier: Record = serde_json::from_str(r#"{"brokers":3,"groups":["kafka"],"boot":"b"}"#).unwrap();
        assert_eq!(earlier, record, "a record of a kit that knew no --secure");
        fs::remove_dir_all(base).unwrap();
    }
}
