//! The rules that a type cannot state: ranges, names, and timeouts as inequalities.
//!
//! ```text
//! limits.requestTimeout >= limits.kafkaTimeout + 1s  an answer is given after the outcome is known, the spool's too
//! limits.body >= limits.event                        a request can hold one event
//! limits.memory >= 2 x limits.body                   the largest request can be read at all
//! max.poll.interval (5 m) > clickhouse.insertTimeout a slow INSERT does not lose the partition
//! ```

use std::fmt;
use std::net::SocketAddr;

use crate::CONFIG_VERSION;
use crate::apps::AppsFile;
use crate::roles::{
    ClickHouseTarget, ClientTls, ConsumeBatch, ConsumeConfig, DrainConfig, Durability, IngestConfig,
    KafkaOutage, KafkaTarget, PipelineRef, RecordFormat, RedisTarget, SaslMechanism,
};
use crate::units::Duration;

/// Events larger than this would not fit into a record that every broker accepts by default (1 MB).
const LARGEST_EVENT: u64 = 600_000;
/// Room for some segments that hold a few records each.
const SMALLEST_SPOOL: u64 = 16_000_000;
const LARGEST_SPOOL: u64 = 1_000_000_000_000;
/// What a request's time leaves beside Kafka's, for what Kafka has not taken to be spooled.
const TO_SPOOL: std::time::Duration = std::time::Duration::from_secs(1);
/// Kafka's `max.poll.interval.ms`.
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(300);

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub field: String,
    pub rule: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.rule)
    }
}

/// A configuration that can judge itself.
pub trait Validate {
    /// Whether its role has a port for clients, `listen`.
    const SERVES: bool = false;

    /// Every broken rule; empty when the configuration may be used.
    fn violations(&self) -> Vec<Violation>;
}

#[derive(Default)]
struct Rules(Vec<Violation>);

impl Rules {
    fn require(&mut self, holds: bool, field: &str, rule: impl Into<String>) {
        if !holds {
            self.0.push(Violation {
                field: field.into(),
                rule: rule.into(),
            });
        }
    }

    fn version(&mut self, version: u32) {
        let rule = format!("this binary reads version {CONFIG_VERSION}, not {version}");
        self.require(version == CONFIG_VERSION, "version", rule);
    }

    fn address(&mut self, field: &str, address: &str) {
        self.require(
            address.parse::<SocketAddr>().is_ok(),
            field,
            format!("`{address}` is not address:port"),
        );
    }

    fn pipeline(&mut self, pipeline: &PipelineRef) {
        self.require(
            !pipeline.namespace.is_empty(),
            "pipeline.namespace",
            "must not be empty",
        );
        self.require(!pipeline.name.is_empty(), "pipeline.name", "must not be empty");
    }

    fn host_and_port(&mut self, field: &str, address: &str) {
        let valid = address
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0));
        self.require(valid, field, format!("`{address}` is not host:port"));
    }

    fn kafka(&mut self, kafka: &KafkaTarget) {
        for broker in kafka.bootstrap.split(',') {
            self.host_and_port("kafka.bootstrap", broker.trim());
        }
        for (field, topic) in [
            ("kafka.topic", &kafka.topic),
            ("kafka.deadLetterTopic", &kafka.dead_letter_topic),
        ] {
            let valid = (1..=249).contains(&topic.len())
                && topic
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
                && topic != "."
                && topic != "..";
            self.require(valid, field, "must be 1 to 249 letters, digits, `.`, `_` or `-`");
        }
        let rule = "must differ from kafka.topic";
        self.require(
            kafka.topic != kafka.dead_letter_topic,
            "kafka.deadLetterTopic",
            rule,
        );
        self.client_tls("kafka.tls", kafka.tls.as_ref());
        let plain = kafka.sasl.as_ref().map(|sasl| sasl.mechanism) == Some(SaslMechanism::Plain);
        self.require(
            !plain || kafka.tls.is_some(),
            "kafka.sasl.mechanism",
            "`Plain` needs kafka.tls: it sends the password itself",
        );
    }

    fn client_tls(&mut self, field: &str, tls: Option<&ClientTls>) {
        self.require(
            tls.is_none_or(|tls| tls.cert_file.is_some() == tls.key_file.is_some()),
            field,
            "certFile and keyFile are given together or not at all",
        );
    }

    fn redis(&mut self, redis: &RedisTarget) {
        self.host_and_port("redis.address", &redis.address);
        self.require(
            redis.connect_timeout > Duration::from_millis(0),
            "redis.connectTimeout",
            "must be above 0",
        );
        self.require(
            redis.command_timeout > Duration::from_millis(0),
            "redis.commandTimeout",
            "must be above 0",
        );
        self.require(!redis.prefix.is_empty(), "redis.prefix", "must not be empty");
        self.client_tls("redis.tls", redis.tls.as_ref());
        self.require(
            redis.username_file.is_none() || redis.password_file.is_some(),
            "redis.usernameFile",
            "needs redis.passwordFile",
        );
    }

    fn clickhouse(&mut self, clickhouse: &ClickHouseTarget) {
        let encrypted = clickhouse.url.starts_with("https://");
        self.require(
            encrypted || clickhouse.url.starts_with("http://"),
            "clickhouse.url",
            "must begin with http:// or https://",
        );
        self.client_tls("clickhouse.tls", clickhouse.tls.as_ref());
        self.require(
            encrypted || clickhouse.tls.is_none(),
            "clickhouse.tls",
            "is for an address that begins with https://",
        );
        self.require(
            !clickhouse.database.is_empty(),
            "clickhouse.database",
            "must not be empty",
        );
        self.require(
            !clickhouse.table.is_empty(),
            "clickhouse.table",
            "must not be empty",
        );
        self.require(
            clickhouse.username_file.is_some() || clickhouse.password_file.is_none(),
            "clickhouse.passwordFile",
            "needs clickhouse.usernameFile",
        );
        self.require(
            clickhouse.insert_timeout < MAX_POLL_INTERVAL
                && clickhouse.insert_timeout > Duration::from_millis(0),
            "clickhouse.insertTimeout",
            format!("must be above 0 and below Kafka's max.poll.interval ({MAX_POLL_INTERVAL})"),
        );
    }
}

impl Validate for IngestConfig {
    const SERVES: bool = true;

    fn violations(&self) -> Vec<Violation> {
        let mut rules = Rules::default();
        rules.version(self.version);
        rules.pipeline(&self.pipeline);
        rules.address("listen", &self.listen);
        rules.address("admin", &self.admin);
        rules.require(self.listen != self.admin, "admin", "must differ from listen");
        rules.kafka(&self.kafka);
        if let Some(redis) = &self.redis {
            rules.redis(redis);
        }
        rules.require(!self.protocols.is_empty(), "protocols", "must name at least one");
        rules.require(
            self.trusted_proxies.len() <= 64,
            "trustedProxies",
            "must be at most 64 networks",
        );
        let header = |text: &String| {
            (1..=128).contains(&text.len()) && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
        };
        rules.require(
            self.server_header.as_ref().is_none_or(header),
            "serverHeader",
            "must be 1 to 128 printable characters of ASCII",
        );
        let limits = &self.limits;
        rules.require(
            (1..=1_000_000).contains(&limits.connections),
            "limits.connections",
            "must be 1 to 1000000",
        );
        let kafka_timeout = limits.kafka_timeout;
        rules.require(
            kafka_timeout >= Duration::from_millis(100),
            "limits.kafkaTimeout",
            "must be at least 100ms",
        );
        rules.require(
            limits.request_timeout.get() >= kafka_timeout.get() + TO_SPOOL,
            "limits.requestTimeout",
            format!("must be above limits.kafkaTimeout ({kafka_timeout}) by at least 1s"),
        );
        rules.require(
            (1..=10_000).contains(&limits.batch),
            "limits.batch",
            "must be 1 to 10000",
        );
        let event_rule = format!("must be 1 to {LARGEST_EVENT} bytes, for a record must hold it");
        rules.require(
            (1..=LARGEST_EVENT).contains(&limits.event.get()),
            "limits.event",
            event_rule,
        );
        rules.require(
            limits.body >= limits.event,
            "limits.body",
            "must be at least limits.event",
        );
        rules.require(
            limits.body.get() <= 64_000_000,
            "limits.body",
            "must be at most 64MB",
        );
        rules.require(
            limits.memory.get() >= 2 * limits.body.get(),
            "limits.memory",
            "must be at least twice limits.body, or the largest request could never be read",
        );
        rules.require(
            limits.memory.get() <= 4_000_000_000,
            "limits.memory",
            "must be at most 4GB",
        );
        rules.require(self.shards <= 256, "shards", "must be at most 256");
        rules.require(
            self.record_key.is_none() || self.record_format == RecordFormat::Single,
            "recordKey",
            "is for recordFormat `Single`: a record of many events has no key",
        );
        self.durability_rules(&mut rules);
        rules.0
    }
}

impl IngestConfig {
    fn durability_rules(&self, rules: &mut Rules) {
        let (outage, has_spool) = (self.kafka_outage(), self.spool.is_some());
        rules.require(
            has_spool || self.durability != Durability::Spooled,
            "durability",
            "`Spooled` needs spool",
        );
        rules.require(
            has_spool || outage != KafkaOutage::Spool,
            "onKafkaOutage",
            "`Spool` needs spool",
        );
        rules.require(
            self.durability != Durability::Spooled || outage == KafkaOutage::Spool,
            "onKafkaOutage",
            "with durability `Spooled` it must be `Spool`, for the spool is on the way of every event",
        );
        rules.require(
            self.clickhouse.is_some() == (outage == KafkaOutage::Direct),
            "clickhouse",
            "is for onKafkaOutage `Direct`, which needs it",
        );
        if let Some(clickhouse) = &self.clickhouse {
            rules.clickhouse(clickhouse);
        }
        let Some(spool) = &self.spool else { return };
        rules.require(
            self.durability == Durability::Spooled || outage == KafkaOutage::Spool,
            "spool",
            "is not used: set onKafkaOutage or durability, or leave it out",
        );
        rules.require(spool.dir.is_absolute(), "spool.dir", "must be an absolute path");
        let bytes = (SMALLEST_SPOOL..=LARGEST_SPOOL).contains(&spool.max_bytes.get());
        rules.require(bytes, "spool.maxBytes", "must be 16MB to 1000GB");
    }
}

impl Validate for DrainConfig {
    fn violations(&self) -> Vec<Violation> {
        let mut rules = Rules::default();
        rules.version(self.version);
        rules.pipeline(&self.pipeline);
        rules.address("admin", &self.admin);
        rules.kafka(&self.kafka);
        rules.require(self.dir.is_absolute(), "dir", "must be an absolute path");
        rules.require(
            self.kafka_timeout >= Duration::from_millis(100),
            "kafkaTimeout",
            "must be at least 100ms",
        );
        rules.0
    }
}

impl Validate for ConsumeConfig {
    fn violations(&self) -> Vec<Violation> {
        let mut rules = Rules::default();
        rules.version(self.version);
        rules.pipeline(&self.pipeline);
        rules.address("admin", &self.admin);
        rules.kafka(&self.kafka);
        rules.require(!self.group.is_empty(), "group", "must not be empty");
        rules.clickhouse(&self.clickhouse);
        let letters = self.dead_letter_table.as_ref();
        rules.require(
            letters.is_none_or(|table| !table.is_empty() && *table != self.clickhouse.table),
            "deadLetterTable",
            "must not be empty, and must differ from clickhouse.table",
        );
        if let Some(redis) = &self.redis {
            rules.redis(redis);
        }
        let batch = &self.batch;
        rules.require(
            (ConsumeBatch::FEWEST_ROWS..=5_000_000).contains(&batch.max_rows),
            "batch.maxRows",
            "must be 10000 to 5000000",
        );
        let bytes = (1_000_000..=256_000_000).contains(&batch.max_bytes.get());
        rules.require(bytes, "batch.maxBytes", "must be 1MB to 256MB");
        let age = (Duration::from_millis(10)..=Duration::from_secs(60)).contains(&batch.max_age);
        rules.require(age, "batch.maxAge", "must be 10ms to 60s");
        rules.0
    }
}

impl Validate for AppsFile {
    fn violations(&self) -> Vec<Violation> {
        let mut rules = Rules::default();
        rules.version(self.version);
        rules.require(self.replicas > 0, "replicas", "must be at least 1");
        let mut ids = std::collections::BTreeSet::new();
        let mut digests = std::collections::BTreeSet::new();
        for (index, app) in self.apps.iter().enumerate() {
            let at = format!("apps[{index}]");
            rules.require(
                ids.insert(app.id),
                &format!("{at}.id"),
                "is the id of an App before it",
            );
            if let Some(retention) = app.retention {
                let days = retention.days();
                rules.require(
                    Duration::from_days(days) == retention && (1..=9999).contains(&days),
                    &format!("{at}.retention"),
                    "must be whole days, 1d to 9999d",
                );
            }
            for (position, key) in app.keys.iter().enumerate() {
                let field = format!("{at}.keys[{position}].digest");
                let hex = key.digest.len() == 64
                    && key
                        .digest
                        .bytes()
                        .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
                rules.require(hex, &field, "must be 64 lower-case hex digits");
                rules.require(
                    digests.insert(&key.digest),
                    &field,
                    "is the digest of a key before it",
                );
            }
        }
        rules.0
    }
}
