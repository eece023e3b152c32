//! From what was read to what can be built: one value that holds all that builders need, or why there is none.

use std::borrow::Cow;

use penstock_crds::pipeline::{self as crd, Protocol, Resources, SpoolVolume};
use penstock_crds::{IngestionPipeline, Reason};
use penstock_dataplane_config::validate::Validate;
use penstock_dataplane_config::{
    self as config, CONFIG_VERSION, ClickHouseTarget, ConsumeBatch, ConsumeConfig, DrainConfig, Duration,
    IngestConfig, IngestLimits, KafkaTarget, PipelineRef, SpoolConfig, TlsFiles,
};

use super::apps::{Bound, Listed, Unreadable, list};
use super::build::APPS_FILE;
use super::target::{Invalid, Target, invalid};
use crate::controllers::subject::Subject;
use crate::settings::Settings;

/// Where pods find what they are given.
pub(crate) mod paths {
    pub(crate) const CONFIG: &str = "/etc/penstock/config.yaml";
    pub(crate) const APPS: &str = "/etc/penstock/apps";
    /// The Secret of `endpoint.tls`.
    pub(crate) const TLS: &str = "/etc/penstock/tls";
    /// The pod's own volume.
    pub(crate) const SPOOL: &str = "/var/lib/penstock/spool";
    /// The Secret of the pod's role.
    pub(crate) use crate::connections::POD_FILES as CONNECTIONS;
}

/// A pipeline that can be built.
#[derive(Clone, Debug)]
pub(crate) struct Validated {
    pub subject: Subject,
    pub target: Target,
    pub ingest: Workload<IngestConfig>,
    pub consume: Workload<ConsumeConfig>,
    /// What each pod of ingest has its spool on, with a spool.
    pub volume: Option<SpoolVolume>,
    /// How claims are drained that no pod has any more.
    pub drain: DrainConfig,
    pub apps: Listed,
    /// The Secret that ingest has its certificate from.
    pub tls_secret: Option<String>,
    pub image: String,
    pub image_pull_policy: String,
    pub image_pull_secrets: Vec<String>,
}

/// One role of the data plane.
#[derive(Clone, Debug)]
pub(crate) struct Workload<C> {
    pub replicas: i32,
    pub resources: Resources,
    pub config: C,
}

impl Validated {
    /// The same with consumers that write to no table of dead letters, unless they may.
    pub(crate) fn with_letters(&self, allowed: bool) -> Cow<'_, Self> {
        if allowed || self.consume.config.dead_letter_table.is_none() {
            return Cow::Borrowed(self);
        }
        let mut without = self.clone();
        without.consume.config.dead_letter_table = None;
        Cow::Owned(without)
    }
}

/// Validates.
pub(crate) fn validate(
    pipeline: &IngestionPipeline,
    subject: &Subject,
    target: Target,
    bound: Vec<Bound>,
    unreadable: Unreadable,
    settings: &Settings,
) -> Result<Validated, Invalid> {
    let spec = &pipeline.spec;
    let pipeline_ref = PipelineRef {
        namespace: subject.namespace.clone(),
        name: subject.name.clone(),
    };
    let connections = &target.connections;
    let access = connections.kafka_in_pods().0;
    let redis = target.redis.clone();
    let redis = redis.map(|redis| connections.redis_in_pods().0.to(redis));
    let kafka = KafkaTarget {
        bootstrap: target.bootstrap.clone(),
        topic: target.topic.name.clone(),
        dead_letter_topic: target.dead_letters.name.clone(),
        tls: access.tls,
        sasl: access.sasl,
    };
    let limits = &spec.ingest.limits;
    let proxies = spec.ingest.trusted_proxies.iter().map(|text| {
        let field = "ingest.trustedProxies";
        text.parse()
            .map_err(|_| invalid(Reason::InvalidSpec, format!("{field}: `{text}` is not a network")))
    });
    let store = connections.clickhouse_in_pods().0;
    let clickhouse = ClickHouseTarget {
        url: target.clickhouse_url.clone(),
        database: target.table.database.clone(),
        table: target.table.table.clone(),
        username_file: store.username_file,
        password_file: store.password_file,
        tls: store.tls,
        insert_timeout: Duration::from_secs(120),
        compression: match spec.clickhouse.compression {
            crd::Compression::None => config::Compression::None,
            crd::Compression::Lz4 => config::Compression::Lz4,
        },
    };
    let ingest = IngestConfig {
        version: CONFIG_VERSION,
        pipeline: pipeline_ref.clone(),
        listen: "0.0.0.0:8080".into(),
        admin: "0.0.0.0:9090".into(),
        kafka: kafka.clone(),
        redis: redis.clone(),
        apps_file: format!("{}/{APPS_FILE}", paths::APPS).into(),
        protocols: spec.endpoint.protocols.iter().map(|p| protocol(*p)).collect(),
        tls: spec.endpoint.tls.as_ref().map(|_| TlsFiles {
            cert_file: format!("{}/tls.crt", paths::TLS).into(),
            key_file: format!("{}/tls.key", paths::TLS).into(),
        }),
        server_header: spec.endpoint.server_header.clone(),
        trusted_proxies: proxies.collect::<Result<_, _>>()?,
        limits: IngestLimits {
            body: limits.body,
            event: limits.event,
            batch: count("ingest.limits.batch", limits.batch)?,
            memory: limits.memory,
            connections: count("ingest.limits.connections", limits.connections)?,
            request_timeout: limits.request_timeout,
            kafka_timeout: limits.kafka_timeout,
        },
        record_format: record_format(spec.kafka.record_format),
        record_key: spec.kafka.key.map(record_key),
        durability: durability(spec.ingest.durability),
        on_kafka_outage: spec.ingest.on_kafka_outage.map(outage),
        spool: spec.ingest.spool.as_ref().map(spool).transpose()?,
        // Only who stores in it gets it.
        clickhouse: (spec.ingest.kafka_outage() == crd::KafkaOutage::Direct).then(|| clickhouse.clone()),
        shards: 0,
    };
    let drain = DrainConfig {
        version: CONFIG_VERSION,
        pipeline: pipeline_ref.clone(),
        admin: ingest.admin.clone(),
        kafka: kafka.clone(),
        dir: paths::SPOOL.into(),
        kafka_timeout: limits.kafka_timeout,
    };
    let batch = &spec.consume.batch;
    let consume = ConsumeConfig {
        version: CONFIG_VERSION,
        pipeline: pipeline_ref,
        admin: "0.0.0.0:9090".into(),
        kafka,
        group: target.group.clone(),
        group_protocol: group_protocol(spec.consume.group_protocol),
        clickhouse,
        dead_letter_table: target.table.letter_table(),
        redis,
        batch: ConsumeBatch {
            max_rows: count("consume.batch.maxRows", batch.max_rows)?,
            max_bytes: batch.max_bytes,
            max_age: batch.max_age,
        },
    };
    // The schema says the same rules; an object stored under an older schema may still break them.
    accepted("ingest", &ingest)?;
    accepted("consume", &consume)?;
    accepted("drain", &drain)?;
    let apps = list(
        bound,
        unreadable,
        count("ingest.scaling.replicas", spec.ingest.scaling.replicas)?,
    );
    accepted("apps", &apps.file)?;
    Ok(Validated {
        subject: subject.clone(),
        target,
        ingest: Workload {
            replicas: spec.ingest.scaling.replicas,
            resources: spec.ingest.resources.clone(),
            config: ingest,
        },
        consume: Workload {
            replicas: spec.consume.scaling.replicas,
            resources: spec.consume.resources.clone(),
            config: consume,
        },
        volume: spec.ingest.spool.as_ref().map(|spool| spool.volume.clone()),
        drain,
        apps,
        tls_secret: spec.endpoint.tls.as_ref().map(|tls| tls.secret_name.clone()),
        image: settings.image.clone(),
        image_pull_policy: settings.image_pull_policy.clone(),
        image_pull_secrets: settings.image_pull_secrets.clone(),
    })
}

fn accepted(role: &str, config: &impl Validate) -> Result<(), Invalid> {
    let violations = config.violations();
    if violations.is_empty() {
        return Ok(());
    }
    let all: Vec<String> = violations.iter().map(|v| format!("{role}.{v}")).collect();
    Err(invalid(Reason::InvalidSpec, all.join("; ")))
}

fn count(field: &str, number: i32) -> Result<u32, Invalid> {
    u32::try_from(number).map_err(|_| invalid(Reason::InvalidSpec, format!("{field}: must not be negative")))
}

/// The spool as the data plane takes it. The schema says the same rules.
fn spool(spool: &crd::Spool) -> Result<SpoolConfig, Invalid> {
    let refused = |message: &str| invalid(Reason::InvalidSpec, message);
    let unreadable = || refused("ingest.spool.volume.size: is not a size");
    let size = spool.volume.bytes().ok_or_else(unreadable)?;
    let max_bytes = spool.effective_max_bytes().ok_or_else(unreadable)?;
    if u128::from(max_bytes.get()) * 10 > u128::from(size) * 9 {
        return Err(refused(
            "ingest.spool.maxBytes: must be at most 90 % of volume.size",
        ));
    }
    Ok(SpoolConfig {
        dir: paths::SPOOL.into(),
        max_bytes,
    })
}

const fn record_format(format: crd::RecordFormat) -> config::RecordFormat {
    match format {
        crd::RecordFormat::Batch => config::RecordFormat::Batch,
        crd::RecordFormat::Single => config::RecordFormat::Single,
    }
}

const fn group_protocol(protocol: crd::GroupProtocol) -> config::GroupProtocol {
    match protocol {
        crd::GroupProtocol::Classic => config::GroupProtocol::Classic,
        crd::GroupProtocol::Consumer => config::GroupProtocol::Consumer,
    }
}

const fn record_key(key: crd::RecordKey) -> config::RecordKey {
    match key {
        crd::RecordKey::UserId => config::RecordKey::UserId,
        crd::RecordKey::DeviceId => config::RecordKey::DeviceId,
        crd::RecordKey::SessionId => config::RecordKey::SessionId,
        crd::RecordKey::EventId => config::RecordKey::EventId,
        crd::RecordKey::AppId => config::RecordKey::AppId,
    }
}

const fn durability(durability: crd::Durability) -> config::Durability {
    match durability {
        crd::Durability::Replicated => config::Durability::Replicated,
        crd::Durability::Spooled => config::Durability::Spooled,
        crd::Durability::Memory => config::Durability::Memory,
    }
}

const fn outage(outage: crd::KafkaOutage) -> config::KafkaOutage {
    match outage {
        crd::KafkaOutage::Spool => config::KafkaOutage::Spool,
        crd::KafkaOutage::Direct => config::KafkaOutage::Direct,
        crd::KafkaOutage::Reject => config::KafkaOutage::Reject,
    }
}

const fn protocol(protocol: Protocol) -> config::Protocol {
    match protocol {
        Protocol::Native => config::Protocol::Native,
        Protocol::Segment => config::Protocol::Segment,
        Protocol::Envelope => config::Protocol::Envelope,
    }
}
