//! One topic, one App, and ingest processes for it, in the instance's network.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use penstock_dataplane_config::record;
use penstock_e2e::Result;
use penstock_e2e::trial::{Turn, port};
use rdkafka::admin::{NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Headers as _;
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use redis::Commands as _;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use uuid::Uuid;

use crate::topics;

const KEY: &str = "a-key-of-the-tests";
/// Of a machine that has other tests to run.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is in the topic.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    pub(crate) ids: Vec<String>,
    pub(crate) records: usize,
    /// Records with a key.
    pub(crate) keyed: usize,
}

pub(crate) struct Setup<'a> {
    pub(crate) kit: &'a Turn,
    bootstrap: String,
    redis: String,
    pub(crate) topic: String,
    app: Uuid,
    directory: TempDir,
}

impl<'a> Setup<'a> {
    /// Nothing is made yet.
    pub(crate) fn new(kit: &'a Turn) -> Result<Self> {
        Ok(Self::on(kit, kit.kafka_bootstrap()?))
    }

    /// The same with another Kafka.
    pub(crate) fn on(kit: &'a Turn, bootstrap: String) -> Self {
        let app = Uuid::new_v4();
        Self {
            kit,
            bootstrap,
            redis: kit.redis_address(),
            topic: format!("ingest-test-{}", app.simple()),
            app,
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// The same with another Redis.
    pub(crate) fn with_redis(self, redis: String) -> Self {
        Self { redis, ..self }
    }

    pub(crate) fn create_topics(&self, partitions: i32) {
        self.create_copied_topics(partitions, 1);
    }

    /// The same with so many copies, all of which have to be in sync.
    pub(crate) fn create_copied_topics(&self, partitions: i32, copies: i32) {
        let (letters, all) = (self.letters(), copies.to_string());
        let topic = |name, partitions| {
            NewTopic::new(name, partitions, TopicReplication::Fixed(copies)).set("min.insync.replicas", &all)
        };
        topics::create(
            &self.kafka(),
            &[topic(&self.topic, partitions), topic(&letters, 1)],
        );
    }

    fn kafka(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        config
    }

    fn letters(&self) -> String {
        format!("{}.dlq", self.topic)
    }

    fn apps_file(&self) -> PathBuf {
        self.directory.path().join("apps.yaml")
    }

    pub(crate) fn write_apps(&self, quota: &str) {
        let digest: String = Sha256::digest(KEY)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let app = self.app;
        let text = format!(
            "{{version: 1, replicas: 3, apps: [{{id: {app}, name: test/shop, quota: {{{quota}}}, \
             keys: [{{name: k, digest: '{digest}', scope: Write}}]}}]}}"
        );
        std::fs::write(self.apps_file(), text).unwrap();
    }

    /// Starts one process; the binary is the one that `kit up` has built for the image.
    pub(crate) fn start(&self) -> Ingest {
        self.start_with("")
    }

    /// `settings`: lines for its configuration.
    pub(crate) fn start_with(&self, settings: &str) -> Ingest {
        self.start_as(settings, &[])
    }

    /// The same with variables, which go before the file.
    pub(crate) fn start_as(&self, settings: &str, variables: &[(String, String)]) -> Ingest {
        let (port, admin) = (port(), port());
        let name = format!("config-{port}.yaml");
        let config = self.directory.path().join(name);
        let text = format!(
            "version: 1\npipeline: {{namespace: test, name: shop}}\nlisten: 127.0.0.1:{port}\n\
             admin: 127.0.0.1:{admin}\nkafka: {{bootstrap: '{}', topic: {}, deadLetterTopic: {}}}\n\
             redis: {{address: '{}', prefix: '{}'}}\nappsFile: {}\nshards: 1\n{settings}\n",
            self.bootstrap,
            self.topic,
            self.letters(),
            self.redis,
            self.topic,
            self.apps_file().display(),
        );
        std::fs::write(&config, text).unwrap();
        let command = Program {
            binary: self.kit.program("penstock-dataplane"),
            config,
            variables: variables.to_vec(),
        };
        let child = run(&command);
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(30)))
            .build();
        Ingest {
            command,
            child,
            port,
            admin,
            agent: config.into(),
        }
    }

    /// All events in the topic, in no order. No group is there twice, and what has a key is in its partition.
    pub(crate) fn stored(&self) -> Stored {
        let consumer: BaseConsumer = self.kafka().set("group.id", "reader").create().unwrap();
        let metadata = consumer.fetch_metadata(Some(&self.topic), PATIENCE).unwrap();
        let partitions: Vec<_> = metadata.topics()[0]
            .partitions()
            .iter()
            .map(|one| one.id())
            .collect();
        let count = partitions.len() as i32;
        let (mut list, mut left) = (TopicPartitionList::new(), 0);
        for partition in partitions {
            list.add_partition_offset(&self.topic, partition, Offset::Beginning)
                .unwrap();
            let (low, high) = consumer
                .fetch_watermarks(&self.topic, partition, PATIENCE)
                .unwrap();
            left += high - low;
        }
        consumer.assign(&list).unwrap();
        let mut stored = Stored::default();
        let mut groups = BTreeSet::new();
        let deadline = Instant::now() + PATIENCE;
        while left > 0 {
            assert!(Instant::now() < deadline, "{left} records not read");
            let Some(message) = consumer.poll(Duration::from_millis(200)) else {
                continue;
            };
            let message = message.unwrap();
            left -= 1;
            // A barrier holds no events.
            let Some(value) = message.payload().filter(|value| !value.is_empty()) else {
                continue;
            };
            let group = message.headers().unwrap().get(0);
            let group = String::from_utf8_lossy(group.value.unwrap()).into_owned();
            assert!(groups.insert(group.clone()), "group {group} is there twice");
            stored.records += 1;
            if let Some(key) = message.key() {
                stored.keyed += 1;
                assert_eq!(message.partition(), record::partition_of(key, count), "{key:?}");
            }
            for line in std::str::from_utf8(value).unwrap().lines() {
                let event: serde_json::Value = serde_json::from_str(line).unwrap();
                stored.ids.push(event["event_id"].as_str().unwrap().to_owned());
            }
        }
        stored
    }

    fn redis(&self) -> redis::Connection {
        redis::Client::open(format!("redis://{}", self.redis))
            .unwrap()
            .get_connection()
            .unwrap()
    }

    fn usage_key(&self) -> Option<String> {
        let keys: Vec<String> = self
            .redis()
            .keys(format!("{}:usage:{}:*", self.topic, self.app))
            .unwrap();
        keys.into_iter().next()
    }

    /// Events that all processes together have reported for today.
    pub(crate) fn usage(&self) -> u64 {
        self.usage_of("events")
    }

    /// Of `events` or `bytes`.
    pub(crate) fn usage_of(&self, what: &str) -> u64 {
        let Some(key) = self.usage_key() else { return 0 };
        let fields: Vec<(String, u64)> = self.redis().hgetall(key).unwrap();
        fields
            .iter()
            .filter(|(name, _)| name.rsplit(':').next() == Some(what))
            .map(|(_, count)| count)
            .sum()
    }

    /// Limits as the operator writes them.
    pub(crate) fn write_limits(&self, limits: &[(&str, &str)]) {
        let _: () = self
            .redis()
            .hset_multiple(format!("{}:quota:{}", self.topic, self.app), limits)
            .unwrap();
    }
}

/// What a process is started from.
struct Program {
    binary: PathBuf,
    config: PathBuf,
    variables: Vec<(String, String)>,
}

fn run(program: &Program) -> Child {
    let Program {
        binary,
        config,
        variables,
    } = program;
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log_of(config))
        .unwrap();
    let mut command = Command::new(binary);
    command
        .arg("ingest")
        .arg("--config")
        .arg(config)
        .env_clear()
        .envs(variables.iter().cloned())
        .stdout(log);
    command
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", binary.display()))
}

fn log_of(config: &Path) -> PathBuf {
    config.with_extension("log")
}

/// One process.
pub(crate) struct Ingest {
    command: Program,
    child: Child,
    port: u16,
    admin: u16,
    agent: ureq::Agent,
}

/// A way to a process, for threads of their own.
#[derive(Clone)]
pub(crate) struct Client {
    port: u16,
    agent: ureq::Agent,
}

impl Client {
    /// Status and the header `Penstock-Durability`; a connection that fails is status 0.
    pub(crate) fn send(&self, body: &str) -> (u16, String) {
        let url = format!("http://127.0.0.1:{}/v1/events/batch", self.port);
        match self.agent.post(url).header("x-api-key", KEY).send(body) {
            Ok(answer) => {
                let durability = answer.headers().get("penstock-durability");
                let durability = durability.map_or("", |value| value.to_str().unwrap());
                (answer.status().as_u16(), durability.to_owned())
            }
            Err(error) => (0, error.to_string()),
        }
    }
}

impl Ingest {
    pub(crate) fn client(&self) -> Client {
        Client {
            port: self.port,
            agent: self.agent.clone(),
        }
    }

    /// kill -9, and another process in its place.
    pub(crate) fn replace(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = run(&self.command);
    }

    /// The value of a series.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let mut answer = self
            .agent
            .get(format!("http://127.0.0.1:{}/metrics", self.admin))
            .call()
            .unwrap();
        let text = answer.body_mut().read_to_string().unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no series {series}"))
            .parse()
            .unwrap()
    }

    /// Status and body; a connection that fails is status 0.
    pub(crate) fn send(&self, body: &str) -> (u16, String) {
        let url = format!("http://127.0.0.1:{}/v1/events/batch", self.port);
        match self.agent.post(url).header("x-api-key", KEY).send(body) {
            Ok(mut answer) => (
                answer.status().as_u16(),
                answer.body_mut().read_to_string().unwrap_or_default(),
            ),
            Err(error) => (0, error.to_string()),
        }
    }

    pub(crate) fn readyz(&self) -> (u16, String) {
        match self
            .agent
            .get(format!("http://127.0.0.1:{}/readyz", self.admin))
            .call()
        {
            Ok(mut answer) => (
                answer.status().as_u16(),
                answer.body_mut().read_to_string().unwrap_or_default(),
            ),
            Err(error) => (0, error.to_string()),
        }
    }

    /// Waits until the process has told Redis its usage twice, and so has read what the others told before.
    pub(crate) fn wait_exchanged(&self) {
        let before = self.exchanges();
        // At least one a second is about usage, the others may be leases only.
        let began = Instant::now();
        wait_for("exchanges with Redis", || {
            self.exchanges() >= before + 3 && began.elapsed() > Duration::from_millis(2100)
        });
    }

    fn exchanges(&self) -> u64 {
        self.metric("penstock_ingest_quota_syncs_total{outcome=\"done\"}") as u64
    }

    pub(crate) fn wait_ready(&self) {
        wait_for("readiness", || self.readyz().0 == 200);
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(log_of(&self.command.config)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(40)..];
            eprintln!("the process's last lines:\n{}", last.join("\n"));
            let metrics = self
                .agent
                .get(format!("http://127.0.0.1:{}/metrics", self.admin))
                .call();
            if let Some(text) = metrics
                .ok()
                .and_then(|mut answer| answer.body_mut().read_to_string().ok())
            {
                let ours = text
                    .lines()
                    .filter(|line| line.contains("spool") || line.contains("group"));
                eprintln!("{}", ours.collect::<Vec<_>>().join("\n"));
            }
        }
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A batch of events with these ids.
pub(crate) fn batch(ids: &[String]) -> String {
    let events: Vec<_> = ids
        .iter()
        .map(|id| format!(r#"{{"event_type":"test","event_id":"{id}"}}"#))
        .collect();
    format!("[{}]", events.join(","))
}

/// How many events an answer says were accepted.
pub(crate) fn accepted(body: &str) -> u64 {
    let answer: serde_json::Value =
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: `{body}`"));
    answer["accepted"].as_u64().unwrap_or_else(|| panic!("{body}"))
}

pub(crate) fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "no {what} after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
