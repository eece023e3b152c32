//! The servers that are measured: how each is started, and what it writes.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use penstock_e2e::Result;
use penstock_e2e::error::Context as _;
use penstock_e2e::trial::port;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::child::Pinned;
use crate::corpus::Protocol;
use crate::topic::{Record, letters};

/// Servers run here, everything else on [`LOAD_CORE`].
pub const SERVER_CORE: usize = 0;
pub const LOAD_CORE: usize = 1;
/// What requests carry.
pub const KEY: &str = "psk_a-key-of-the-benchmark";
const APP: &str = "6f0c4a4e-5d0b-5c58-9a52-0d9c9a8f3b11";

/// What a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum Kind {
    /// Penstock's ingest as it ships.
    Ingest,
    /// The same with `recordFormat: Single`.
    Single,
    /// The replaced service as it ran: it answers before Kafka does, acks of one.
    FiberAsync,
    /// The same with ingest's promise: it answers after Kafka, acks of all.
    FiberSync,
    /// hyper that reads the body and answers; no Kafka.
    Hyper,
    /// axum that reads the body and answers; no Kafka.
    Axum,
    /// The OpenTelemetry Collector: OTLP in, Kafka out.
    Collector,
}

impl Kind {
    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Ingest => "Penstock ingest",
            Self::Single => "Penstock ingest, single records",
            Self::FiberAsync => "Fiber + kafka-go, async, acks=one",
            Self::FiberSync => "Fiber + kafka-go, sync, acks=all",
            Self::Hyper => "bare hyper, no Kafka",
            Self::Axum => "bare axum, no Kafka",
            Self::Collector => "OpenTelemetry Collector, acks=one",
        }
    }

    /// What its records hold; none where nothing is written.
    pub fn record(self, events: usize) -> Option<Record> {
        match self {
            Self::Ingest => Some(Record::Lines),
            Self::Single | Self::FiberAsync | Self::FiberSync => Some(Record::Event),
            Self::Collector => Some(Record::Request {
                events: events as u64,
            }),
            Self::Hyper | Self::Axum => None,
        }
    }

    /// What it reads.
    pub fn protocol(self) -> Protocol {
        match self {
            Self::Collector => Protocol::Otlp,
            _ => Protocol::Native,
        }
    }

    /// Whether an answer says nothing of what is in Kafka.
    pub fn answers_first(self) -> bool {
        self == Self::FiberAsync
    }
}

/// A server that can be started.
#[derive(Clone, Debug)]
pub struct Server {
    pub kind: Kind,
    /// What it is called in the results: its title, or the name of one of several builds.
    pub name: String,
    pub program: PathBuf,
}

/// A server that runs.
#[derive(Debug)]
pub struct Running {
    process: Pinned,
    pub address: SocketAddr,
    /// From the start of the process until its port was open.
    pub listening_after: Duration,
    _directory: TempDir,
}

impl Server {
    /// Starts it on its core and waits until it answers.
    pub fn start(&self, bootstrap: &str, topic: &str) -> Result<Running> {
        let directory = tempfile::tempdir().doing("making a folder")?;
        let (address, admin) = (next_address(), next_address());
        let mut command = Command::new(&self.program);
        command.env_clear();
        match self.kind {
            Kind::Ingest | Kind::Single => {
                let config = directory.path().join("config.yaml");
                let apps = directory.path().join("apps.yaml");
                std::fs::write(&apps, apps_yaml()).doing("writing apps.yaml")?;
                let format = match self.kind {
                    Kind::Single => "Single",
                    _ => "Batch",
                };
                let text = format!(
                    "version: 1\npipeline: {{namespace: bench, name: events}}\nlisten: {address}\nadmin: {admin}\n\
                     kafka: {{bootstrap: '{bootstrap}', topic: {topic}, deadLetterTopic: {}}}\nappsFile: {}\n\
                     recordFormat: {format}\n",
                    letters(topic),
                    apps.display()
                );
                std::fs::write(&config, text).doing("writing config.yaml")?;
                command.args(["ingest", "--config"]).arg(&config);
            }
            Kind::FiberAsync | Kind::FiberSync => {
                let mode = if self.kind == Kind::FiberAsync {
                    "async"
                } else {
                    "sync"
                };
                command
                    .env("MODE", mode)
                    .env("KAFKA_BOOTSTRAP", bootstrap)
                    .env("TOPIC", topic)
                    .env("LISTEN", address.to_string())
                    .env("API_KEY", KEY)
                    .env("APP_ID", APP);
            }
            Kind::Hyper => {
                command.arg("hyper").arg(address.to_string());
            }
            Kind::Axum => {
                command.arg("axum").arg(address.to_string());
            }
            Kind::Collector => {
                let config = directory.path().join("collector.yaml");
                std::fs::write(&config, collector_yaml(bootstrap, topic, address))
                    .doing("writing collector.yaml")?;
                command.arg("--config").arg(&config);
            }
        }
        let mut process = Pinned::start(&mut command, SERVER_CORE, directory.path())?;
        process.wait("listening", || TcpStream::connect(address).is_ok())?;
        let mut running = Running {
            listening_after: process.started.elapsed(),
            process,
            address,
            _directory: directory,
        };
        if matches!(self.kind, Kind::Ingest | Kind::Single) {
            let ready = format!("http://{admin}/readyz");
            running.process.wait("ready", || answers(&ready))?;
        }
        Ok(running)
    }
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }
}

/// Whether a GET is answered with 2xx.
pub(crate) fn answers(url: &str) -> bool {
    ureq::get(url).call().is_ok()
}

fn apps_yaml() -> String {
    let digest: String = Sha256::digest(KEY)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!(
        "{{version: 1, replicas: 1, apps: [{{id: {APP}, name: bench/shop, \
         keys: [{{name: bench, digest: '{digest}', scope: Write}}]}}]}}"
    )
}

/// The Collector's fastest setting that still answers after Kafka: no queue, no batching.
fn collector_yaml(bootstrap: &str, topic: &str, address: SocketAddr) -> String {
    format!(
        "receivers: {{otlp: {{protocols: {{http: {{endpoint: '{address}'}}}}}}}}\n\
         exporters:\n  kafka:\n    brokers: ['{bootstrap}']\n    logs: {{topic: {topic}, encoding: otlp_proto}}\n    \
         producer: {{compression: snappy, required_acks: 1}}\n    sending_queue: {{enabled: false}}\n\
         service:\n  telemetry: {{metrics: {{level: none}}, logs: {{level: error}}}}\n  \
         pipelines: {{logs: {{receivers: [otlp], exporters: [kafka]}}}}\n"
    )
}

/// Where another server may listen.
pub(crate) fn next_address() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port()))
}
