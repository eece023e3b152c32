//! Where a pipeline's events go: names and addresses, with the installation's defaults filled in. Pure.

use std::collections::BTreeSet;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use penstock_crds::pipeline::RecordFormat;
use penstock_crds::{IngestionPipeline, Reason};
use penstock_dataplane_config::{Duration, KafkaCluster, RedisTarget};
use penstock_provision::{ClickHouseServer, GROW_PARTITIONS, Owner, TableSpec, TopicSpec};

use super::named;
use crate::connections::{Connections, RedisAccess};
use crate::controllers::subject::Subject;
use crate::settings::Settings;

/// Longest name of a topic.
const MAX_TOPIC: usize = 249;

/// Everything outside Kubernetes that a pipeline uses.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    pub owner: Owner,
    pub adopt: bool,
    pub bootstrap: String,
    pub topic: TopicSpec,
    pub dead_letters: TopicSpec,
    pub group: String,
    pub clickhouse_url: String,
    pub table: TableSpec,
    /// As the operator reaches it.
    pub redis: Option<RedisTarget>,
    /// How each is reached: as the pipeline says, else as the installation does where it is the installation's, and the
    /// installation's credentials go nowhere else.
    pub connections: Connections,
}

/// Why a spec cannot be used as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Invalid {
    pub reason: Reason,
    pub message: String,
}

pub(super) fn invalid(reason: Reason, message: impl Into<String>) -> Invalid {
    Invalid {
        reason,
        message: message.into(),
    }
}

impl Target {
    /// Fills in what the spec leaves out, and refuses what this namespace may not use.
    pub fn of(
        pipeline: &IngestionPipeline,
        subject: &Subject,
        cluster: &str,
        settings: &Settings,
    ) -> Result<Self, Invalid> {
        let spec = &pipeline.spec;
        let Subject { namespace, name, .. } = subject;
        let bootstrap = spec
            .kafka
            .bootstrap
            .clone()
            .or_else(|| settings.kafka_bootstrap.clone())
            .ok_or_else(|| {
                invalid(
                    Reason::NotConfigured,
                    "kafka.bootstrap: neither the spec nor the installation names a Kafka",
                )
            })?;
        let clickhouse_url = spec
            .clickhouse
            .url
            .as_deref()
            .map(|url| url.trim_end_matches('/').to_owned())
            .or_else(|| settings.clickhouse_url.clone())
            .ok_or_else(|| {
                invalid(
                    Reason::NotConfigured,
                    "clickhouse.url: neither the spec nor the installation names a ClickHouse",
                )
            })?;
        let topic = spec
            .kafka
            .topic
            .clone()
            .unwrap_or_else(|| format!("{namespace}.{name}"));
        let dead_letters = spec
            .kafka
            .dead_letter
            .topic
            .clone()
            .unwrap_or_else(|| format!("{topic}.dlq"));
        let table = TableSpec::of(pipeline).map_err(|why| invalid(Reason::InvalidSpec, why))?;
        if dead_letters.len() > MAX_TOPIC {
            return Err(invalid(
                Reason::InvalidSpec,
                "kafka.deadLetter.topic: the default name is too long; give one",
            ));
        }
        if dead_letters == topic {
            return Err(invalid(
                Reason::InvalidSpec,
                "kafka.deadLetter.topic: must differ from kafka.topic",
            ));
        }
        let installation_kafka = settings
            .kafka_bootstrap
            .as_deref()
            .is_some_and(|own| same_brokers(own, &bootstrap));
        let installation_clickhouse = settings.clickhouse_url.as_deref() == Some(&clickhouse_url);
        for (field, topic) in [("kafka.topic", &topic), ("kafka.deadLetter.topic", &dead_letters)] {
            if installation_kafka && !settings.topics.allow(namespace, topic) {
                return Err(invalid(
                    Reason::NameNotAllowed,
                    format!(
                        "{field}: namespace {namespace} may not use the topic {topic}; allowed: {}",
                        settings.topics.describe()
                    ),
                ));
            }
        }
        if installation_clickhouse && !settings.databases.allow(namespace, &table.database) {
            return Err(invalid(
                Reason::NameNotAllowed,
                format!(
                    "clickhouse.database: namespace {namespace} may not use the database {}; allowed: {}",
                    table.database,
                    settings.databases.describe()
                ),
            ));
        }
        let partitions = u32::try_from(spec.kafka.partitions).unwrap_or(1);
        let agreed = pipeline.annotations().get(GROW_PARTITIONS);
        let may_grow = agreed.is_some_and(|number| number.trim() == partitions.to_string());
        let replication = spec.kafka.replication.and_then(|r| u32::try_from(r).ok());
        let topic_spec = |name: String, retention: Duration, partitions| TopicSpec {
            name,
            partitions,
            keeps_keys: spec.kafka.record_format == RecordFormat::Single && !may_grow,
            replication,
            retention: retention.get(),
            config: spec.kafka.config.clone(),
        };
        Ok(Self {
            owner: Owner::new(cluster, namespace, name),
            adopt: spec.adoption_policy == penstock_crds::pipeline::AdoptionPolicy::Adopt,
            topic: topic_spec(topic, spec.kafka.retention, partitions),
            // Dead letters are few: one partition keeps them in order.
            dead_letters: TopicSpec {
                keeps_keys: false,
                config: std::collections::BTreeMap::new(),
                ..topic_spec(dead_letters, spec.kafka.dead_letter.retention, 1)
            },
            group: format!("penstock.{namespace}.{name}"),
            table,
            redis: redis(pipeline, cluster, settings),
            connections: connections(pipeline, &bootstrap, &clickhouse_url, settings),
            bootstrap,
            clickhouse_url,
        })
    }

    /// As the operator reaches it.
    pub fn kafka(&self) -> KafkaCluster {
        self.connections.kafka.to(&self.bootstrap)
    }

    /// As the operator reaches it.
    pub fn clickhouse(&self) -> ClickHouseServer {
        self.connections.clickhouse.to(&self.clickhouse_url)
    }

    /// `database.table`.
    pub fn table_name(&self) -> String {
        format!("{}.{}", self.table.database, self.table.table)
    }

    /// What no two pipelines may share.
    fn exclusive(&self) -> BTreeSet<String> {
        let brokers = brokers(&self.bootstrap).into_iter().collect::<Vec<_>>().join(",");
        let topics =
            [&self.topic.name, &self.dead_letters.name].map(|topic| format!("topic {topic} at {brokers}"));
        let TableSpec { database, table, .. } = &self.table;
        let tables = std::iter::once(table.clone()).chain(self.table.letter_table());
        let tables = tables.map(|table| format!("table {database}.{table} at {}", self.clickhouse_url));
        topics.into_iter().chain(tables).collect()
    }
}

/// Two lists of brokers that share one are one cluster.
fn same_brokers(a: &str, b: &str) -> bool {
    !brokers(a).is_disjoint(&brokers(b))
}

/// Whether every broker of a list is one of `own`: only then may it be told what `own` is told. A list may name one of
/// them beside others.
fn are_of(bootstrap: &str, own: &str) -> bool {
    brokers(bootstrap).is_subset(&brokers(own))
}

fn brokers(bootstrap: &str) -> BTreeSet<String> {
    bootstrap
        .split(',')
        .map(|broker| broker.trim().to_ascii_lowercase())
        .collect()
}

/// How all three are reached.
fn connections(
    pipeline: &IngestionPipeline,
    bootstrap: &str,
    clickhouse_url: &str,
    settings: &Settings,
) -> Connections {
    let installation = &settings.connections;
    let mut connections = Connections {
        redis: redis_access(pipeline, settings),
        ..Connections::default()
    };
    let own_brokers = settings.kafka_bootstrap.as_deref();
    if let Some((operator, pods)) = named::kafka(pipeline, settings) {
        (connections.kafka, connections.kafka_pods) = (operator, pods);
    } else if own_brokers.is_some_and(|own| are_of(bootstrap, own)) {
        connections.kafka = installation.kafka.clone();
        connections.kafka_pods = installation.kafka_pods.clone();
    }
    if let Some((operator, pods)) = named::clickhouse(pipeline, settings) {
        (connections.clickhouse, connections.clickhouse_pods) = (operator, pods);
    } else if settings.clickhouse_url.as_deref() == Some(clickhouse_url) {
        connections.clickhouse = installation.clickhouse.clone();
        connections.clickhouse_pods = installation.clickhouse_pods.clone();
    }
    connections
}

/// Where quotas and usage are kept, if anywhere.
pub fn redis(pipeline: &IngestionPipeline, cluster: &str, settings: &Settings) -> Option<RedisTarget> {
    let spec = &pipeline.spec.redis;
    let address = spec.address.clone().or_else(|| settings.redis_address.clone())?;
    let target = RedisTarget {
        database: u16::try_from(spec.database).unwrap_or_default(),
        prefix: format!("penstock:{cluster}"),
        ..RedisTarget::at(address)
    };
    Some(redis_access(pipeline, settings).to(target))
}

fn redis_access(pipeline: &IngestionPipeline, settings: &Settings) -> RedisAccess {
    if let Some(access) = named::redis(pipeline, settings) {
        return access;
    }
    let is_the_installations = match (&pipeline.spec.redis.address, &settings.redis_address) {
        (None, Some(_)) => true,
        (Some(named), Some(own)) => named == own,
        (_, None) => false,
    };
    match is_the_installations {
        true => settings.connections.redis.clone(),
        false => RedisAccess::default(),
    }
}

/// A pipeline as one that may claim the same topic or table.
#[derive(Clone, Debug, PartialEq)]
pub struct Claimant {
    pub subject: Subject,
    pub since: Option<Timestamp>,
    pub target: Target,
}

/// The older pipeline that this one has to give way to, and over what. The oldest wins; of two of one second, the one
/// whose uid comes first.
pub fn gives_way_to<'a>(
    us: &Claimant,
    others: impl IntoIterator<Item = &'a Claimant>,
) -> Option<(String, String)> {
    let rank = |c: &Claimant| (c.since, c.subject.uid.clone());
    let ours = us.target.exclusive();
    others
        .into_iter()
        .filter(|other| other.subject.uid != us.subject.uid && rank(other) < rank(us))
        .find_map(|other| {
            let shared = ours.intersection(&other.target.exclusive()).next()?.clone();
            Some((other.subject.path(), shared))
        })
}

/// Whether two pipelines claim something in common.
pub fn compete(a: &Target, b: &Target) -> bool {
    !a.exclusive().is_disjoint(&b.exclusive())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::settings::Args;

    fn settings() -> Settings {
        Args::parse_from([
            "penstock-operator",
            "--image=penstock:1",
            "--kafka-bootstrap=kafka-0:9092,kafka-1:9092",
            "--clickhouse-url=http://clickhouse:8123",
            "--clickhouse-username-file=/admin/username",
            "--clickhouse-password-file=/admin/password",
            "--secret-files=/secrets",
        ])
        .try_into()
        .unwrap()
    }

    fn pipeline(name: &str, namespace: &str, spec: &str) -> IngestionPipeline {
        let yaml = format!(
            "apiVersion: penstock.dev/v1alpha1\nkind: IngestionPipeline\nmetadata: {{name: {name}, namespace: {namespace}, uid: uid-{namespace}-{name}}}\nspec: {{apps: {{selector: {{}}}}, {spec}}}"
        );
        serde_yaml::from_str(&yaml).unwrap()
    }

    fn target(name: &str, namespace: &str, spec: &str) -> Result<Target, Invalid> {
        let pipeline = pipeline(name, namespace, spec);
        Target::of(&pipeline, &Subject::of(&pipeline), "c1", &settings())
    }

    #[test]
    fn defaults_follow_the_names() {
        let target = target("web-events", "my-team", "").unwrap();
        assert_eq!(target.topic.name, "my-team.web-events");
        assert_eq!(target.dead_letters.name, "my-team.web-events.dlq");
        assert_eq!(target.table_name(), "my_team.web_events");
        assert_eq!(target.group, "penstock.my-team.web-events");
        assert_eq!(target.owner.as_str(), "c1/my-team/web-events");
        assert_eq!(target.clickhouse().username_file, Some("/admin/username".into()));
        assert_eq!(target.redis, None);
    }

    #[test]
    fn a_namespace_keeps_to_its_names_on_shared_services() {
        let reason = |spec| target("events", "growth", spec).unwrap_err().reason;
        assert_eq!(reason("kafka: {topic: ads.events}"), Reason::NameNotAllowed);
        assert_eq!(
            reason("kafka: {deadLetter: {topic: ads.dlq}}"),
            Reason::NameNotAllowed
        );
        assert_eq!(reason("clickhouse: {database: ads}"), Reason::NameNotAllowed);
        assert_eq!(
            reason("kafka: {bootstrap: 'kafka-1:9092', topic: ads.events}"),
            Reason::NameNotAllowed
        );
        let own = target(
            "events",
            "growth",
            "kafka: {bootstrap: 'own:9092', topic: ads.events}, clickhouse: {url: 'http://own:8123', database: ads}",
        );
        let own = own.unwrap();
        assert_eq!(
            own.clickhouse(),
            ClickHouseServer::open("http://own:8123"),
            "the installation's credentials stay with its own ClickHouse"
        );
    }

    #[test]
    fn services_of_its_own_are_reached_with_its_own_secrets() {
        let own = target(
            "events",
            "growth",
            "kafka: {bootstrap: 'own:9093', tls: {caSecret: ca}, \
                     sasl: {mechanism: ScramSha256, secret: pods, adminSecret: maker}}, \
             clickhouse: {url: 'https://own:8443', caSecret: ca, secret: rows}, \
             redis: {address: 'own:6380', tls: {}, secret: figures}",
        )
        .unwrap();
        // Not read yet.
        let at = |secret: &str, member: &str| {
            let folder = std::path::Path::new("/secrets/penstock-secrets/uid-growth-events");
            folder.join(secret).join("not-read").join(member)
        };
        let kafka = own.kafka();
        assert_eq!(kafka.tls.unwrap().ca_file, Some(at("ca", "ca.crt")));
        let by = |sasl: Option<penstock_dataplane_config::Sasl>| sasl.unwrap().username_file;
        assert_eq!(by(kafka.sasl), at("maker", "username"));
        let (pods, copied) = own.connections.kafka_in_pods();
        assert!(by(pods.sasl).starts_with(crate::connections::POD_FILES));
        assert!(copied.contains(&("kafka-password", at("pods", "password"))));
        assert_eq!(own.clickhouse().password_file, Some(at("rows", "password")));
        let redis = own.redis.unwrap();
        assert!(redis.tls.is_some_and(|tls| tls.ca_file.is_none()));
        assert_eq!(redis.username_file, Some(at("figures", "username")));
        // At the installation's addresses what the pipeline says counts, too; names are those of its namespace all the same.
        let shared = "kafka: {bootstrap: 'kafka-0:9092', topic: TOPIC, tls: {}}";
        let allowed = target("events", "growth", &shared.replace("TOPIC", "growth.x")).unwrap();
        assert!(allowed.kafka().tls.is_some());
        let refused = target("events", "growth", &shared.replace("TOPIC", "ads.x")).unwrap_err();
        assert_eq!(refused.reason, Reason::NameNotAllowed);
    }

    #[test]
    fn a_topic_with_keys_grows_only_to_the_number_that_a_person_names() {
        for (format, named, keeps) in [
            ("Batch", None, false),
            ("Single", None, true),
            ("Single", Some("5"), true),
            ("Single", Some("6"), false),
        ] {
            let spec = format!("kafka: {{partitions: 6, recordFormat: {format}}}");
            let mut pipeline = pipeline("events", "growth", &spec);
            pipeline.metadata.annotations =
                named.map(|number| [(GROW_PARTITIONS.to_owned(), number.to_owned())].into());
            let target = Target::of(&pipeline, &Subject::of(&pipeline), "c1", &settings()).unwrap();
            assert_eq!(target.topic.keeps_keys, keeps, "{format} {named:?}");
            assert!(!target.dead_letters.keeps_keys, "it has no keys");
        }
    }

    #[test]
    fn what_has_no_default_must_be_said() {
        let none: Settings = Args::parse_from(["penstock-operator", "--image=penstock:1"])
            .try_into()
            .unwrap();
        let pipeline = pipeline("events", "growth", "");
        let missing = Target::of(&pipeline, &Subject::of(&pipeline), "c1", &none).unwrap_err();
        assert_eq!(missing.reason, Reason::NotConfigured);
        assert!(missing.message.starts_with("kafka.bootstrap"), "{missing}");
        assert_eq!(
            target("events", "1team", "").unwrap_err().reason,
            Reason::InvalidSpec
        );
    }

    #[test]
    fn the_oldest_of_two_claimants_wins() {
        let claimant = |name: &str, since: i64, spec: &str| {
            let pipeline = pipeline(name, "growth", spec);
            let subject = Subject::of(&pipeline);
            let target = Target::of(&pipeline, &subject, "c1", &settings()).unwrap();
            Claimant {
                subject,
                since: Timestamp::from_second(since).ok(),
                target,
            }
        };
        let old = claimant("a", 100, "kafka: {topic: growth.x}");
        let young = claimant("b", 200, "kafka: {topic: growth.x}");
        let apart = claimant("c", 50, "");
        let twin = claimant("d", 100, "kafka: {topic: growth.x}");
        let through_another_broker = claimant(
            "e",
            300,
            "kafka: {topic: growth.y, deadLetter: {topic: growth.x}}",
        );
        let all = [old.clone(), young.clone(), apart.clone()];
        assert_eq!(gives_way_to(&old, &all), None);
        let (winner, what) = gives_way_to(&young, &all).unwrap();
        assert_eq!(winner, "growth/a");
        assert!(what.starts_with("topic growth.x"), "{what}");
        assert_eq!(gives_way_to(&apart, &all), None);
        assert_eq!(
            gives_way_to(&twin, &all).unwrap().0,
            "growth/a",
            "of one second: the uid decides"
        );
        assert!(
            gives_way_to(&through_another_broker, &all).is_some(),
            "a dead-letter topic is a topic"
        );
        let beside_letters = claimant("f", 300, "clickhouse: {table: c_dead_letters}");
        let (winner, what) = gives_way_to(&beside_letters, &all).unwrap();
        assert_eq!(winner, "growth/c");
        assert!(what.starts_with("table growth.c_dead_letters"), "{what}");
        let none = claimant("c", 50, "clickhouse: {deadLetterTable: None}");
        assert_eq!(gives_way_to(&beside_letters, &[none]), None);
        assert!(compete(&old.target, &young.target));
        assert!(!compete(&old.target, &apart.target));
    }
}
