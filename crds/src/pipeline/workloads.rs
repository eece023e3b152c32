//! The pods of a pipeline: how many, how large, within which bounds.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::KubeSchema;
use penstock_dataplane_config::{ByteSize, ConsumeBatch, Duration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// How SDKs reach the pipeline: the Service `<name>-ingest`, port 8080.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// The HTTP contracts that are spoken: `Native` (`/v1/events`, `/v1/events/batch`, `/api/attribution/*`), `Segment`
    /// (`/segment/v1/*`, and the same calls below `/v1/`: `/v1/batch`, `/v1/track` and so on), `Envelope`
    /// (`/api/v1/events`).
    #[serde(default = "Endpoint::default_protocols")]
    #[schemars(length(min = 1, max = 3))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub protocols: Vec<Protocol>,
    /// TLS by a certificate of your own. Without it the Service speaks plain HTTP, and what is in front of it may speak
    /// TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<EndpointTls>,
    /// The `Server` header of answers. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[!-~]([ -~]*[!-~])?$"))]
    pub server_header: Option<String>,
}

impl Endpoint {
    fn default_protocols() -> Vec<Protocol> {
        vec![Protocol::Native, Protocol::Segment, Protocol::Envelope]
    }
}

impl Default for Endpoint {
    fn default() -> Self {
        Self {
            protocols: Self::default_protocols(),
            tls: None,
            server_header: None,
        }
    }
}

/// The certificate of the endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointTls {
    /// A Secret in the same namespace with `tls.crt` and `tls.key`. A renewed certificate is taken up by the running
    /// pods, and no connection is cut for it.
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::SUBDOMAIN))]
    pub secret_name: String,
}

/// An HTTP contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Protocol {
    Native,
    Segment,
    Envelope,
}

/// The pods that take events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.resources.limits.memory) || quantity(self.limits.memory.replace('B', '')).asApproximateFloat() + double(self.limits.connections) * 72000.0 + 40000000.0 <= quantity(self.resources.limits.memory).asApproximateFloat()")
        .message("resources.limits.memory must hold limits.memory, 72kB for each of limits.connections and 40MB: who shows no key may take so much")
        .field_path(".limits"),
    validation = Rule::new("self.durability != 'Spooled' || has(self.spool)")
        .message("durability Spooled needs a spool: set spool.volume.size")
        .field_path(".durability"),
    validation = Rule::new("!has(self.onKafkaOutage) || self.onKafkaOutage != 'Spool' || has(self.spool)")
        .message("onKafkaOutage Spool needs a spool: set spool.volume.size, or choose Reject or Direct")
        .field_path(".onKafkaOutage"),
    validation = Rule::new("self.durability != 'Spooled' || !has(self.onKafkaOutage) || self.onKafkaOutage == 'Spool'")
        .message("with durability Spooled onKafkaOutage must be Spool, or left out: the spool is on the way of every event")
        .field_path(".onKafkaOutage"),
    validation = Rule::new("!has(self.spool) || !has(self.onKafkaOutage) || self.onKafkaOutage == 'Spool' || self.durability == 'Spooled'")
        .message("spool is not used: set onKafkaOutage to Spool or leave that out, or remove spool")
        .field_path(".spool")
)]
pub struct Ingest {
    /// How many pods. Default: 2.
    #[serde(default = "Ingest::default_scaling")]
    pub scaling: Scaling,
    /// What each pod may use. Default: `100m` and `64Mi` are reserved, and `512Mi` of memory are the most. Where it is given,
    /// what it leaves out is not set.
    #[serde(default = "Ingest::default_resources")]
    pub resources: Resources,
    /// Networks of proxies in front of the pods, as CIDRs: what they say in X-Forwarded-For counts as the address
    /// that an event comes from. Without any it is the connection's own, for anybody can send that header.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(length(min = 3, max = 49), regex(pattern = schema::CIDR))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub trusted_proxies: Vec<String>,
    /// What stands behind an answer of 2xx. `Replicated`: Kafka has acknowledged the events. `Spooled`: they are on the
    /// pod's spool, and go to Kafka from there. `Memory`: they are in the pod's memory and are lost with it; the answer
    /// is 202.
    #[serde(default)]
    pub durability: Durability,
    /// While Kafka is away. `Spool`: events are kept on the pods' spools and go to Kafka afterwards. `Direct`: they are
    /// stored in ClickHouse at once; other readers of the topic do not see them. `Reject`: 503, at once. Default: `Spool`
    /// with a spool, else `Reject`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_kafka_outage: Option<KafkaOutage>,
    /// A volume for each pod, for events that Kafka has not acknowledged. With it the pods are a StatefulSet's, without
    /// it a Deployment's; a change from one to the other stops nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spool: Option<Spool>,
    /// Bounds of requests.
    #[serde(default)]
    pub limits: IngestLimits,
}

impl Ingest {
    /// What happens while Kafka is away: as said, or by whether there is a spool.
    pub fn kafka_outage(&self) -> KafkaOutage {
        self.on_kafka_outage.unwrap_or(match self.spool {
            Some(_) => KafkaOutage::Spool,
            None => KafkaOutage::Reject,
        })
    }

    const fn default_scaling() -> Scaling {
        Scaling {
            mode: ScalingMode::Fixed,
            replicas: 2,
        }
    }

    fn default_resources() -> Resources {
        Resources::of("100m", "64Mi", "512Mi")
    }
}

impl Default for Ingest {
    fn default() -> Self {
        Self {
            scaling: Self::default_scaling(),
            resources: Self::default_resources(),
            trusted_proxies: Vec::new(),
            durability: Durability::default(),
            on_kafka_outage: None,
            spool: None,
            limits: IngestLimits::default(),
        }
    }
}

/// What stands behind a 2xx.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Durability {
    #[default]
    Replicated,
    Spooled,
    Memory,
}

/// What ingest does while Kafka is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum KafkaOutage {
    Spool,
    Direct,
    Reject,
}

/// Where each pod keeps events that Kafka has not acknowledged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.maxBytes) || quantity(self.maxBytes.replace('B', '')).asApproximateFloat() * 10.0 <= quantity(self.volume.size).asApproximateFloat() * 9.0")
        .message("maxBytes must be at most 90 % of volume.size: the file system needs the rest; leave it out for 80 %")
        .field_path(".maxBytes"),
    validation = Rule::new("!has(self.maxBytes) || quantity(self.maxBytes.replace('B', '')).compareTo(quantity('16M')) >= 0 && quantity(self.maxBytes.replace('B', '')).compareTo(quantity('1000G')) <= 0")
        .message("maxBytes must lie between 16MB and 1000GB")
        .field_path(".maxBytes")
)]
pub struct Spool {
    /// The volume, one for each pod. It outlives the pod: what is left on one is drained to Kafka before it is deleted.
    pub volume: SpoolVolume,
    /// All files of a pod's spool together; when they have reached it, events are refused as without a spool. Default:
    /// 80 % of the volume, at most 1000GB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", length(max = 12), regex(pattern = schema::SIZE))]
    pub max_bytes: Option<ByteSize>,
}

impl Spool {
    /// The most that the data plane takes.
    const LARGEST: u64 = 1_000_000_000_000;

    /// What the spool's files may take together; `None` where the volume's size cannot be read.
    pub fn effective_max_bytes(&self) -> Option<ByteSize> {
        if let Some(given) = self.max_bytes {
            return Some(given);
        }
        let size = self.volume.bytes()?;
        Some(ByteSize::bytes((size / 10 * 8).min(Self::LARGEST)))
    }
}

/// A claim for each pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.size == oldSelf.size")
        .message("size cannot change while there is a spool: to get another, remove spool, wait until the claims spool-* are gone, which are drained first, and set it again")
        .field_path(".size"),
    validation = Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)")
        .message("storageClassName cannot change while there is a spool: to get another, remove spool, wait until the claims spool-* are gone, which are drained first, and set it again")
        .field_path(".storageClassName"),
    validation = Rule::new("quantity(self.size).compareTo(quantity('20M')) >= 0")
        .message("size must be at least 20M: less holds no useful spool")
        .field_path(".size")
)]
pub struct SpoolVolume {
    /// Its size: `10Gi`. Cannot change while there is a spool.
    #[schemars(
        with = "String",
        length(max = 16),
        regex(pattern = r"^[1-9][0-9]{0,11}(k|M|G|T|Ki|Mi|Gi|Ti)?$")
    )]
    pub size: Quantity,
    /// Its class; the cluster's default one when absent. Cannot change while there is a spool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::SUBDOMAIN))]
    pub storage_class_name: Option<String>,
}

impl SpoolVolume {
    /// The size in bytes, where it is written as the schema wants it.
    pub fn bytes(&self) -> Option<u64> {
        let text = self.size.0.as_str();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let factor: u64 = match unit {
            "" => 1,
            "k" => 1000,
            "M" => 1_000_000,
            "G" => 1_000_000_000,
            "T" => 1_000_000_000_000,
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            "Ti" => 1 << 40,
            _ => return None,
        };
        number.parse::<u64>().ok()?.checked_mul(factor)
    }
}

/// The pods that store events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Consume {
    /// How many pods; at most as many as the topic has partitions. Default: 1.
    #[serde(default = "Consume::default_scaling")]
    pub scaling: Scaling,
    /// What each pod may use. Default: `100m` and `128Mi` are reserved, and `1Gi` of memory is the most. Where it is given,
    /// what it leaves out is not set.
    #[serde(default = "Consume::default_resources")]
    pub resources: Resources,
    /// When a batch is full.
    #[serde(default)]
    pub batch: Batch,
    /// Who decides which pod has which partitions. `Classic`: the pods, by cooperative-sticky assignment, which every
    /// Kafka knows; a pod that dies has its partitions taken over after 15 s. `Consumer`: the brokers (KIP-848, Kafka 4.0
    /// or newer), so that a rebalance does not wait for the slowest pod; they also say after how long the partitions of a
    /// dead pod are given away (`group.consumer.session.timeout.ms`, 45 s by default). May be changed while events flow.
    #[serde(default)]
    pub group_protocol: GroupProtocol,
}

/// Who decides which pod has which partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GroupProtocol {
    #[default]
    Classic,
    Consumer,
}

impl Consume {
    const fn default_scaling() -> Scaling {
        Scaling {
            mode: ScalingMode::Fixed,
            replicas: 1,
        }
    }

    fn default_resources() -> Resources {
        Resources::of("100m", "128Mi", "1Gi")
    }
}

impl Default for Consume {
    fn default() -> Self {
        Self {
            scaling: Self::default_scaling(),
            resources: Self::default_resources(),
            batch: Batch::default(),
            group_protocol: GroupProtocol::default(),
        }
    }
}

/// How many pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Scaling {
    /// `Fixed`: as many as `replicas` says, always.
    #[serde(default)]
    pub mode: ScalingMode,
    /// Number of pods.
    #[schemars(range(min = 1, max = 500))]
    pub replicas: i32,
}

/// Who decides on the number of pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ScalingMode {
    #[default]
    Fixed,
}

/// What a pod asks for and may use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.requests.cpu) || !has(self.limits.cpu) || quantity(self.requests.cpu).compareTo(quantity(self.limits.cpu)) <= 0")
        .message("requests.cpu must not exceed limits.cpu").field_path(".requests.cpu"),
    validation = Rule::new("!has(self.requests.memory) || !has(self.limits.memory) || quantity(self.requests.memory).compareTo(quantity(self.limits.memory)) <= 0")
        .message("requests.memory must not exceed limits.memory").field_path(".requests.memory")
)]
pub struct Resources {
    /// What is reserved.
    #[serde(default)]
    pub requests: Requested,
    /// What is the most. No limit on CPU by default: a limit throttles bursts and protects nobody.
    #[serde(default)]
    pub limits: Requested,
}

impl Resources {
    fn of(cpu: &str, memory: &str, memory_limit: &str) -> Self {
        let quantity = |text: &str| Some(Quantity(text.into()));
        Self {
            requests: Requested {
                cpu: quantity(cpu),
                memory: quantity(memory),
            },
            limits: Requested {
                cpu: None,
                memory: quantity(memory_limit),
            },
        }
    }
}

/// Amounts of CPU and memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Requested {
    /// Cores: `100m`, `2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        with = "Option<String>",
        length(max = 16),
        regex(pattern = r"^[0-9]{1,6}(\.[0-9]{1,3}|m)?$")
    )]
    pub cpu: Option<Quantity>,
    /// Bytes: `256Mi`, `1Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        with = "Option<String>",
        length(max = 16),
        regex(pattern = r"^[1-9][0-9]{0,11}(k|M|G|Ki|Mi|Gi)?$")
    )]
    pub memory: Option<Quantity>,
}

/// Bounds of requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("quantity(self.event.replace('B', '')).compareTo(quantity(self.body.replace('B', ''))) <= 0")
        .message("event must not exceed body").field_path(".event"),
    validation = Rule::new("quantity(self.event.replace('B', '')).compareTo(quantity('500k')) <= 0")
        .message("event must not exceed 500kB: a record of Kafka has to hold it").field_path(".event"),
    validation = Rule::new("quantity(self.body.replace('B', '')).compareTo(quantity('64M')) <= 0")
        .message("body must not exceed 64MB").field_path(".body"),
    validation = Rule::new("quantity(self.body.replace('B', '')).add(quantity(self.body.replace('B', ''))).compareTo(quantity(self.memory.replace('B', ''))) <= 0")
        .message("memory must be at least twice body, or the largest request could never be read").field_path(".memory"),
    validation = Rule::new("quantity(self.memory.replace('B', '')).compareTo(quantity('4G')) <= 0")
        .message("memory must not exceed 4GB").field_path(".memory"),
    validation = Rule::new("duration(self.kafkaTimeout) >= duration('100ms')")
        .message("kafkaTimeout must be at least 100ms").field_path(".kafkaTimeout"),
    validation = Rule::new("duration(self.requestTimeout) - duration(self.kafkaTimeout) >= duration('1s')")
        .message("requestTimeout must exceed kafkaTimeout by at least 1s, or requests end before Kafka, or the spool, has answered").field_path(".requestTimeout")
)]
pub struct IngestLimits {
    /// A request's body, after decompression.
    #[serde(default = "IngestLimits::default_body")]
    #[schemars(with = "String", length(max = 12), regex(pattern = schema::SIZE))]
    pub body: ByteSize,
    /// One event.
    #[serde(default = "IngestLimits::default_event")]
    #[schemars(with = "String", length(max = 12), regex(pattern = schema::SIZE))]
    pub event: ByteSize,
    /// Events in one request.
    #[serde(default = "IngestLimits::default_batch")]
    #[schemars(range(min = 1, max = 10_000))]
    pub batch: i32,
    /// All bodies and groups of a pod in flight together, a request with three times its bytes and 1 kB; over it requests
    /// wait up to 1 s, then get 503.
    #[serde(default = "IngestLimits::default_memory")]
    #[schemars(with = "String", length(max = 12), regex(pattern = schema::SIZE))]
    pub memory: ByteSize,
    /// Connections of a pod; one more gets 503 and is closed. Each may take up to 72 kB before it shows a key.
    #[serde(default = "IngestLimits::default_connections")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub connections: i32,
    /// From a request's head to its answer.
    #[serde(default = "IngestLimits::default_request_timeout")]
    #[schemars(with = "String", length(max = 8), regex(pattern = schema::SHORT_DURATION))]
    pub request_timeout: Duration,
    /// How long events may wait for Kafka's acknowledgement before the answer is 503.
    #[serde(default = "IngestLimits::default_kafka_timeout")]
    #[schemars(with = "String", length(max = 8), regex(pattern = schema::SHORT_DURATION))]
    pub kafka_timeout: Duration,
}

impl IngestLimits {
    const fn default_body() -> ByteSize {
        ByteSize::mb(8)
    }

    const fn default_event() -> ByteSize {
        ByteSize::kb(256)
    }

    const fn default_batch() -> i32 {
        1000
    }

    const fn default_memory() -> ByteSize {
        ByteSize::mb(64)
    }

    const fn default_connections() -> i32 {
        5_000
    }

    const fn default_request_timeout() -> Duration {
        Duration::from_secs(10)
    }

    const fn default_kafka_timeout() -> Duration {
        Duration::from_secs(8)
    }
}

impl Default for IngestLimits {
    fn default() -> Self {
        Self {
            body: Self::default_body(),
            event: Self::default_event(),
            batch: Self::default_batch(),
            memory: Self::default_memory(),
            connections: Self::default_connections(),
            request_timeout: Self::default_request_timeout(),
            kafka_timeout: Self::default_kafka_timeout(),
        }
    }
}

/// When a batch is full: at whichever bound it meets first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("quantity(self.maxBytes.replace('B', '')).compareTo(quantity('64Mi')) <= 0 && quantity(self.maxBytes.replace('B', '')).compareTo(quantity('1M')) >= 0")
        .message("maxBytes must lie between 1MB and 64MiB: a batch is one block").field_path(".maxBytes"),
    validation = Rule::new("duration(self.maxAge) >= duration('100ms') && duration(self.maxAge) <= duration('60s')")
        .message("maxAge must lie between 100ms and 60s").field_path(".maxAge")
)]
pub struct Batch {
    /// Rows of one INSERT.
    #[serde(default = "Batch::default_max_rows")]
    #[schemars(range(min = ConsumeBatch::FEWEST_ROWS, max = 1_000_000))]
    pub max_rows: i32,
    /// Bytes of one INSERT. A pod holds up to three times as much, and 72MiB at least.
    #[serde(default = "Batch::default_max_bytes")]
    #[schemars(with = "String", length(max = 12), regex(pattern = schema::SIZE))]
    pub max_bytes: ByteSize,
    /// How long the oldest event of a batch may wait; up to twice as long while a consumer has several partitions that
    /// bring little, so that together they cause few INSERTs.
    #[serde(default = "Batch::default_max_age")]
    #[schemars(with = "String", length(max = 8), regex(pattern = schema::SHORT_DURATION))]
    pub max_age: Duration,
}

impl Batch {
    const fn default_max_rows() -> i32 {
        200_000
    }

    const fn default_max_bytes() -> ByteSize {
        ByteSize::mb(24)
    }

    const fn default_max_age() -> Duration {
        Duration::from_secs(1)
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            max_rows: Self::default_max_rows(),
            max_bytes: Self::default_max_bytes(),
            max_age: Self::default_max_age(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spool(size: &str, max_bytes: Option<ByteSize>) -> Option<u64> {
        let volume = SpoolVolume {
            size: Quantity(size.into()),
            storage_class_name: None,
        };
        let spool = Spool { volume, max_bytes };
        spool.effective_max_bytes().map(ByteSize::get)
    }

    #[test]
    fn a_spool_takes_four_fifths_of_its_volume() {
        for (size, bytes) in [
            ("20M", Some(16_000_000)),
            ("1Gi", Some(858_993_456)),
            ("10G", Some(8_000_000_000)),
            ("100000000", Some(80_000_000)),
            ("2T", Some(1_000_000_000_000)),
            ("999999999999Ti", None),
            ("1.5Gi", None),
        ] {
            assert_eq!(spool(size, None), bytes, "{size}");
        }
        assert_eq!(spool("1Gi", Some(ByteSize::mb(16))), Some(16_000_000));
    }

    #[test]
    fn an_outage_is_spooled_where_there_is_a_spool() {
        let mut ingest = Ingest::default();
        assert_eq!(ingest.kafka_outage(), KafkaOutage::Reject);
        ingest.on_kafka_outage = Some(KafkaOutage::Direct);
        assert_eq!(ingest.kafka_outage(), KafkaOutage::Direct);
        let ingest: Ingest = serde_yaml::from_str("{spool: {volume: {size: 1Gi}}}").unwrap();
        assert_eq!(ingest.kafka_outage(), KafkaOutage::Spool);
    }
}
