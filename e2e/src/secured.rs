//! The second side of Kafka, Redis and ClickHouse: ports that are encrypted, with a certificate of the instance's own CA,
//! and for those who say who they are. The plain ports are beside them, so that a test takes what it is about.
//!
//! ```text
//! Kafka       SASL_SSL with SCRAM for the user `penstock`; another port takes who shows a certificate of the CA
//! ClickHouse  HTTPS, for the same users as over HTTP
//! Redis       TLS, for the user `penstock`
//! ```
//! Spare brokers have only their plain ports: they are about dying.

use std::fs;
use std::path::PathBuf;

use crate::error::{Context, Error, Result};
use crate::file;
use crate::instance::{Instance, NODE_ADDRESS};
pub use crate::pki::{Authority, Issued};
use crate::run::run;
use crate::secret;

/// In Kafka and in Redis.
pub const USER: &str = "penstock";
pub(crate) const CLICKHOUSE_TLS_PORT: u16 = 8443;
pub(crate) const REDIS_TLS_PORT: u16 = 6380;

/// The port of a broker for those with a password; the next one is for those with a certificate.
pub(crate) fn kafka_port(broker: u8) -> u16 {
    9192 + 2 * u16::from(broker - 1)
}

/// Brokers' settings of the port for those with a certificate, beside what is in their files.
const MUTUAL_KEYSTORE: &str = "listener.name.mutual.ssl.keystore.location";
const MUTUAL_TRUSTSTORE: &str = "listener.name.mutual.ssl.truststore.location";

/// PEM files, for servers or for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    pub ca: PathBuf,
    pub chain: PathBuf,
    pub key: PathBuf,
}

impl Instance {
    fn certificate(&self, name: &str) -> Certificate {
        let file = |name: &str| self.pki_dir().join(name);
        Certificate {
            ca: file("ca.crt"),
            chain: file(&format!("{name}.crt")),
            key: file(&format!("{name}.key")),
        }
    }

    /// What the services show.
    pub(crate) fn services_certificate(&self) -> Certificate {
        self.certificate("services")
    }

    /// What a client of theirs may show.
    pub fn client_certificate(&self) -> Certificate {
        self.certificate("penstock-client")
    }

    /// Key and certificate in one file, as Kafka reads them.
    pub(crate) fn services_keystore(&self) -> PathBuf {
        self.data_dir("secured").join("services.pem")
    }

    fn password_file(&self) -> PathBuf {
        self.data_dir("secured").join("password")
    }

    /// Makes what is missing.
    pub(crate) fn make_secured(&self) -> Result<()> {
        self.create_pki()?;
        let path = self.password_file();
        if !path.exists() {
            file::write(&path, secret::password()?.as_bytes(), 0o600)?;
        }
        let Certificate { chain, key, .. } = self.services_certificate();
        let read = |path: &PathBuf| fs::read(path).doing(format_args!("reading {}", path.display()));
        let both = [read(&key)?, read(&chain)?].concat();
        file::write(&self.services_keystore(), &both, 0o600)
    }

    /// Of [`USER`].
    pub fn service_password(&self) -> Result<String> {
        let path = self.password_file();
        fs::read_to_string(&path).map_err(|error| {
            Error::new(format!("there is no user yet ({}: {error})", path.display())).next(self.command("up"))
        })
    }

    /// Makes a user of Kafka, or changes a password.
    pub fn set_kafka_password(&self, user: &str, password: &str) -> Result<()> {
        let scram = format!("SCRAM-SHA-512=[password={password}]");
        self.alter_kafka("users", user, ["--add-config", &scram])
    }

    /// Has Kafka's port for those with a certificate show another one and trust whom `trusted` lists, from the next
    /// connection on. A broker refuses a certificate with other names than the one it has.
    pub fn set_mutual_kafka(&self, shown: &Issued, trusted: &str) -> Result<()> {
        // A broker looks at files that it has read only where it is given another name.
        let name = format!("mutual-{}", secret::short_id()?);
        let file = |suffix: &str| self.data_dir("secured").join(format!("{name}.{suffix}"));
        let (keystore, truststore) = (file("pem"), file("crt"));
        let Issued { certificate, key } = shown;
        file::write(&keystore, format!("{key}{certificate}").as_bytes(), 0o600)?;
        file::write(&truststore, trusted.as_bytes(), 0o644)?;
        let settings = format!(
            "{MUTUAL_KEYSTORE}={},{MUTUAL_TRUSTSTORE}={}",
            keystore.display(),
            truststore.display()
        );
        self.alter_brokers(["--add-config", &settings])
    }

    /// Undoes that.
    pub fn reset_mutual_kafka(&self) -> Result<()> {
        self.alter_brokers([
            "--delete-config",
            &format!("{MUTUAL_KEYSTORE},{MUTUAL_TRUSTSTORE}"),
        ])
    }

    fn alter_brokers(&self, change: [&str; 2]) -> Result<()> {
        let brokers = self.record()?.brokers.unwrap_or(1);
        (1..=brokers).try_for_each(|id| self.alter_kafka("brokers", &id.to_string(), change))
    }

    /// As `kafka-configs.sh` does it, in about three seconds.
    fn alter_kafka(&self, kind: &str, name: &str, change: [&str; 2]) -> Result<()> {
        let classpath = format!("{}/*", self.cache().kafka().join("libs").display());
        let mut command = std::process::Command::new("java");
        command
            .args([
                "-XX:TieredStopAtLevel=1",
                "-XX:+UseSerialGC",
                "-Xmx128m",
                "-cp",
                &classpath,
            ])
            .args(["kafka.admin.ConfigCommand", "--alter"])
            .args(["--bootstrap-server", &self.kafka_bootstrap()?])
            .args(["--entity-type", kind, "--entity-name", name])
            .args(change);
        run(&mut command).map(drop)
    }

    fn bootstrap(&self, port: impl Fn(u8) -> u16) -> Result<String> {
        let brokers = self.record()?.brokers.unwrap_or(1);
        let addresses: Vec<String> = (1..=brokers)
            .map(|id| format!("{NODE_ADDRESS}:{}", port(id)))
            .collect();
        Ok(addresses.join(","))
    }

    /// SASL_SSL with SCRAM.
    pub fn secured_kafka(&self) -> Result<String> {
        self.bootstrap(kafka_port)
    }

    /// SSL, for who shows a certificate.
    pub fn mutual_kafka(&self) -> Result<String> {
        self.bootstrap(|broker| kafka_port(broker) + 1)
    }

    pub fn secured_clickhouse(&self) -> String {
        format!("https://{NODE_ADDRESS}:{CLICKHOUSE_TLS_PORT}")
    }

    pub fn secured_redis(&self) -> String {
        format!("{NODE_ADDRESS}:{REDIS_TLS_PORT}")
    }
}
