//! Starts the binary against a mock broker, speaks HTTP to it, and reads what it wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::broker::Broker;

pub(crate) const TOPIC: &str = "growth.events";
pub(crate) const LETTERS: &str = "growth.events.dlq";
pub(crate) const SHOP: &str = "6f0c4a4e-5d0b-5c58-9a52-0d9c9a8f3b11";
pub(crate) const OTHER: &str = "6f0c4a4e-5d0b-5c58-9a52-0d9c9a8f3b12";
const PARTITIONS: i32 = 3;
const PATIENCE: Duration = Duration::from_secs(30);

/// Keys `writer`, `backend` (trusted), `reader`, `expired` of the App `shop`, `closed` of a suspended one, `other` of another.
pub(crate) fn apps(shop_quota: &str) -> String {
    let key = |name: &str, scope: &str, more: &str| {
        let digest: String = Sha256::digest(name.as_bytes())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!("{{name: {name}, digest: '{digest}', scope: {scope}{more}}}")
    };
    format!(
        "version: 1\nreplicas: 1\napps:\n\
         - {{id: {SHOP}, name: growth/shop, aliases: [old-shop], quota: {{{shop_quota}}}, keys: [{}, {}, {}, {}]}}\n\
         - {{id: {OTHER}, name: growth/other, keys: [{}]}}\n\
         - {{id: 6f0c4a4e-5d0b-5c58-9a52-0d9c9a8f3b13, name: growth/closed, suspended: true, keys: [{}]}}\n",
        key("writer", "Write", ""),
        key("backend", "Write", ", trusted: true"),
        key("reader", "Read", ""),
        key("expired", "Write", ", expiresAt: '2024-01-01T00:00:00Z'"),
        key("other", "Write", ""),
        key("closed", "Write", ""),
    )
}

/// A running ingest process and its broker.
pub(crate) struct Ingest {
    pub(crate) kafka: Broker,
    pub(crate) directory: TempDir,
    child: Child,
    client: Client,
    admin: u16,
}

/// Speaks to one process; goes to other threads, which the broker cannot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    port: u16,
}

impl Client {
    pub(crate) fn post(&self, path: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Reply {
        self.request("POST", path, headers, body.as_ref())
    }

    /// With the key `writer`.
    pub(crate) fn write(&self, path: &str, body: impl AsRef<[u8]>) -> Reply {
        self.post(path, &[("x-api-key", "writer")], body)
    }

    pub(crate) fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        exchange(self.port, method, path, headers, body).unwrap()
    }

    pub(crate) fn try_write(&self, body: &str) -> std::io::Result<Reply> {
        exchange(
            self.port,
            "POST",
            "/v1/events",
            &[("x-api-key", "writer")],
            body.as_bytes(),
        )
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }
}

impl std::ops::Deref for Ingest {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Value,
}

impl Ingest {
    /// With the usual Apps, ready.
    pub(crate) fn start() -> Self {
        Self::start_with("", &apps(""))
    }

    pub(crate) fn start_with(settings: &str, apps: &str) -> Self {
        let ingest = Self::start_unready(settings, apps);
        ingest.wait_for("readiness", || ingest.readyz().status == 200);
        ingest
    }

    pub(crate) fn start_unready(settings: &str, apps: &str) -> Self {
        let kafka = Broker::new();
        kafka.create_topic(TOPIC, PARTITIONS, 1).unwrap();
        kafka.create_topic(LETTERS, 1, 1).unwrap();
        Self::start_on(kafka, settings, apps)
    }

    pub(crate) fn start_on(kafka: Broker, settings: &str, apps: &str) -> Self {
        Self::start_as(binary(), kafka, settings, apps)
    }

    /// `command` gets the arguments of the role.
    pub(crate) fn start_as(command: Command, kafka: Broker, settings: &str, apps: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (port, admin) = (free_port(), free_port());
        let apps_file = directory.path().join("apps.yaml");
        std::fs::write(&apps_file, apps).unwrap();
        let config = format!(
            "version: 1\npipeline: {{namespace: growth, name: events}}\nlisten: 127.0.0.1:{port}\n\
             admin: 127.0.0.1:{admin}\nkafka: {{bootstrap: '{}', topic: {TOPIC}, deadLetterTopic: {LETTERS}}}\n\
             appsFile: {}\n{settings}\n",
            kafka.bootstrap_servers(),
            apps_file.display()
        );
        std::fs::write(directory.path().join("config.yaml"), config).unwrap();
        let child = run(&directory, command);
        Self {
            kafka,
            directory,
            child,
            client: Client { port },
            admin,
        }
    }

    /// Starts a process again, in the place of one that has ended.
    pub(crate) fn start_again(&mut self) {
        self.child = run(&self.directory, binary());
    }

    /// kill -9, and waits for the end.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// What it has used of the processors, in user and in system mode.
    pub(crate) fn cpu(&self) -> Duration {
        /// Ticks of the kernel's clock, which Linux shows as so many a second everywhere.
        const TICK: Duration = Duration::from_millis(10);
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // Behind the name, which may be anything.
        let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
        let ticks: u32 = fields
            .skip(11)
            .take(2)
            .map(|ticks| ticks.parse::<u32>().unwrap())
            .sum();
        TICK * ticks
    }

    /// Everything that it has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log.json")).unwrap()
    }

    pub(crate) fn readyz(&self) -> Reply {
        exchange(self.admin, "GET", "/readyz", &[], b"").unwrap_or(Reply {
            status: 0,
            headers: BTreeMap::new(),
            body: Value::Null,
        })
    }

    /// The value of a series, by its name and labels as in the text format.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let text = raw(self.admin, "GET", "/metrics", &[], b"").unwrap();
        let text = String::from_utf8(text).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no series {series} in:\n{text}"))
            .parse()
            .unwrap()
    }

    pub(crate) fn wait_for(&self, what: &str, condition: impl Fn() -> bool) {
        wait_for(what, condition);
    }

    /// Events in the topic, once there are at least `count`.
    pub(crate) fn stored(&self, count: usize) -> Vec<Value> {
        let lines = |(value, _): &Record| value.iter().filter(|byte| **byte == b'\n').count();
        let records = self.records(TOPIC, PARTITIONS, count, lines);
        let mut groups = BTreeSet::new();
        let lines = records.iter().flat_map(|(value, headers)| {
            let group = headers.get("penstock-group").unwrap();
            assert!(groups.insert(group), "group {group} is there twice");
            std::str::from_utf8(value).unwrap().lines()
        });
        lines.map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Dead letters, once there are at least `count`: their bytes and headers.
    pub(crate) fn letters(&self, count: usize) -> Vec<(String, BTreeMap<String, String>)> {
        let records = self.records(LETTERS, 1, count, |_| 1);
        records
            .into_iter()
            .map(|(value, headers)| (String::from_utf8(value).unwrap(), headers))
            .collect()
    }

    /// Records until they weigh `enough`, and what comes in a moment more: that is too much, and the test should see
    /// it.
    fn records(
        &self,
        topic: &str,
        partitions: i32,
        enough: usize,
        weigh: impl Fn(&Record) -> usize,
    ) -> Vec<Record> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.kafka.bootstrap_servers())
            .set("group.id", "reader")
            .set("fetch.wait.max.ms", "10")
            .create()
            .unwrap();
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition_offset(topic, partition, Offset::Beginning)
                .unwrap();
        }
        consumer.assign(&list).unwrap();
        let mut records = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        let (mut weight, mut grace) = (0, None);
        while Instant::now() < grace.unwrap_or(deadline) {
            if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                let mut headers = BTreeMap::new();
                for header in message.headers().into_iter().flat_map(|headers| headers.iter()) {
                    let value = String::from_utf8_lossy(header.value.unwrap_or_default()).into_owned();
                    headers.insert(header.key.to_owned(), value);
                }
                let value = message.payload().unwrap_or_default().to_vec();
                // A barrier holds no events.
                if topic == TOPIC && value.is_empty() {
                    continue;
                }
                records.push((value, headers));
                weight += records.last().map_or(0, &weigh);
            }
            if grace.is_none() && weight >= enough {
                grace = Some(Instant::now() + Duration::from_millis(500));
            }
        }
        assert!(weight >= enough, "only {weight} of {enough} in {topic}");
        records
    }

    pub(crate) fn write_apps(&self, text: &str) {
        std::fs::write(self.directory.path().join("apps.yaml"), text).unwrap();
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args(["-s", name, &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Waits for the process's end.
    pub(crate) fn ended(&mut self, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "still running after {within:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

type Record = (Vec<u8>, BTreeMap<String, String>);

impl Drop for Ingest {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.directory.path().join("log.json")).unwrap_or_default();
            let last: Vec<_> = log.lines().rev().take(40).collect();
            eprintln!(
                "its log's last lines:\n{}",
                last.into_iter().rev().collect::<Vec<_>>().join("\n")
            );
        }
    }
}

/// Tells threads beside a test that it is over, also when what it waits for does not come.
pub(crate) struct EndsWith<'t>(pub(crate) &'t AtomicBool);

impl Drop for EndsWith<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub(crate) fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "no {what} after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn run(directory: &TempDir, mut command: Command) -> Child {
    command
        .arg("--config")
        .arg(directory.path().join("config.yaml"))
        .stdout(log(directory.path()))
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// The binary in its role; what is in this process's environment stays out of it.
pub(crate) fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_penstock-dataplane"));
    command.arg("ingest").env_clear().env("RUST_LOG", "debug");
    command
}

fn log(directory: &Path) -> Stdio {
    let mut options = std::fs::File::options();
    let file = options.create(true).append(true).open(directory.join("log.json"));
    file.unwrap().into()
}

/// A port that no other test of this program is given, below those that the kernel hands out to connections: one that it
/// says is free may be another's a moment later, and then one process answers for the other.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Programs that run at the same time differ in their ids.
    let first = 10_000 + (std::process::id() % 20) as u16 * 500;
    first + NEXT.fetch_add(1, Ordering::Relaxed)
}

fn exchange(
    port: u16,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<Reply> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    send(&mut stream, method, path, headers, body)?;
    parse(&read_all(&mut stream)?)
}

fn raw(
    port: u16,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    send(&mut stream, method, path, headers, body)?;
    read_all(&mut stream)
}

fn send(
    stream: &mut TcpStream,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<()> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: ingest.test\r\nconnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "transfer-encoding") {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    // A server that has refused may stop reading; its answer is what counts.
    let _ = stream.write_all(body);
    Ok(())
}

/// Everything until the peer closes, or resets after its answer.
pub(crate) fn read_all(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut buffer = [0u8; 65536];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(out),
            Ok(read) => out.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset && !out.is_empty() => {
                return Ok(out);
            }
            Err(error) => return Err(error),
        }
    }
}

pub(crate) fn parse(bytes: &[u8]) -> std::io::Result<Reply> {
    let nothing = || std::io::Error::other(format!("no answer in {:?}", String::from_utf8_lossy(bytes)));
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(nothing)?;
    let mut lines = head.lines();
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1)?.parse().ok())
        .ok_or_else(nothing)?;
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    Ok(Reply {
        status,
        headers,
        body: serde_json::from_str(body.trim_end()).unwrap_or(Value::Null),
    })
}
