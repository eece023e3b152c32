//! One shard's producer: how it is set up, and how its acknowledgements come back to the shard.
//!
//! ```text
//! limits.requestTimeout > message.timeout.ms (limits.kafkaTimeout) > socket.timeout.ms
//! ```
//!
//! With a spool `message.timeout.ms` is infinite: what was sent stays with the producer under its sequence number,
//! which is how Kafka knows it from a copy, and the spool has it in case this process dies.
//!
//! librdkafka calls back on a thread of its own; the outcome goes into [`Outcomes`], which wakes the shard.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use penstock_dataplane_config::{KafkaTarget, PipelineRef, record};
use rdkafka::Statistics;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use tokio::sync::Notify;

use super::health::Health;
use super::line::Letter;
use super::spool::{Id, Record, Topic};
use super::statistics::{EVERY_MS, ProducerSeries};
use crate::forgotten::Forgotten;

/// What `penstock-step` of a dead letter says here.
const STEP: &str = "ingest";
/// How often a producer asks which partitions there are.
pub(crate) const METADATA: Duration = Duration::from_secs(5);
const WARM_UP: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(5);

/// What became of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Delivered {
    pub(crate) number: usize,
    /// Its partition and offset.
    pub(crate) stored: Result<(i32, i64), Undelivered>,
}

/// Why a record was not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Undelivered {
    /// Kafka does not take such a record, and never will.
    Refused,
    /// It may be stored or not.
    Unknown,
}

/// What became of a record that was put aside instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PutAside {
    pub(crate) number: usize,
    /// `None`: it was not taken.
    pub(crate) kept: Option<Kept>,
}

/// Where a record is durable that Kafka did not acknowledge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    Spooled(Id),
    /// In the event table.
    Inserted,
}

/// Outcomes on their way from librdkafka's thread, or the spool's, to the shard.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    delivered: Mutex<Vec<Delivered>>,
    put_aside: Mutex<Vec<PutAside>>,
    suspect: AtomicBool,
    pub(crate) wake: Notify,
}

impl Outcomes {
    /// All that came since the last call, into `out`.
    pub(crate) fn take(&self, out: &mut Vec<Delivered>) {
        out.append(&mut self.delivered.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// All that was put aside since the last call, into `out`.
    pub(crate) fn take_put_aside(&self, out: &mut Vec<PutAside>) {
        out.append(&mut self.put_aside.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Tells the shard what became of a record that was put aside.
    pub(crate) fn tell(&self, put_aside: PutAside) {
        self.put_aside
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(put_aside);
        self.wake.notify_one();
    }

    /// Whether an error may have been the producer's last; stays so until cleared.
    pub(crate) fn is_suspect(&self) -> bool {
        self.suspect.load(Relaxed)
    }

    pub(crate) fn clear_suspicion(&self) {
        self.suspect.store(false, Relaxed);
    }

    /// Whether there was an error before that was not looked into.
    fn suspect(&self) -> bool {
        let before = self.suspect.swap(true, Relaxed);
        self.wake.notify_one();
        before
    }
}

/// librdkafka's callbacks.
pub(crate) struct Callbacks {
    pub(crate) outcomes: Arc<Outcomes>,
    pub(crate) health: Arc<Health>,
    pub(crate) series: Arc<ProducerSeries>,
    pub(crate) forgotten: Forgotten,
}

impl ClientContext for Callbacks {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        self.series.show(&statistics);
        if self.forgotten.see(&statistics) {
            self.outcomes.suspect();
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka");
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AllBrokersDown) => self.health.doubt(),
            // A fatal error comes under the code of its cause, so the producer itself is asked.
            _ => _ = self.outcomes.suspect(),
        }
    }
}

impl ProducerContext for Callbacks {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        let stored = match result {
            Ok(message) => Ok((message.partition(), message.offset())),
            Err((error, _)) => {
                self.health.doubt();
                // Of many that fail together one is told of.
                if !self.outcomes.suspect() {
                    tracing::warn!(%error, "a group was not acknowledged");
                }
                Err(match error.rdkafka_error_code() {
                    Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessage) => {
                        Undelivered::Refused
                    }
                    _ => Undelivered::Unknown,
                })
            }
        };
        let mut delivered = self
            .outcomes
            .delivered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        delivered.push(Delivered { number, stored });
        drop(delivered);
        self.outcomes.wake.notify_one();
    }
}

/// The headers of a dead letter, beside the one that names it.
pub(crate) fn letter_headers<'l>(app: &'l str, letter: &'l Letter) -> [(&'static str, &'l str); 4] {
    [
        (record::REASON, letter.reason),
        (record::STEP, STEP),
        (record::DETAIL, &letter.detail),
        (record::APP, app),
    ]
}

/// Passes librdkafka's own log lines on.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(facility, message, "librdkafka");
        }
        // A broker that is away makes one line per attempt; the dependency's own line says it once.
        _ => tracing::debug!(facility, message, "librdkafka"),
    }
}

/// Settings shared by the producers and the health check.
pub(crate) fn client_config(target: &KafkaTarget, pipeline: &PipelineRef) -> KafkaResult<ClientConfig> {
    let mut config = penstock_connect::kafka::client(&target.cluster())?;
    config
        .set(
            "client.id",
            format!("penstock-ingest-{}-{}", pipeline.namespace, pipeline.name),
        )
        .set("socket.keepalive.enable", "true")
        .set("socket.nagle.disable", "true")
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "1000")
        .set(
            "topic.metadata.refresh.interval.ms",
            METADATA.as_millis().to_string(),
        )
        .set("log.connection.close", "false");
    Ok(config)
}

/// A shard's producer.
pub(crate) struct Producer {
    inner: ThreadedProducer<Callbacks>,
    target: KafkaTarget,
}

/// A record to be produced, less its other headers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing<'r> {
    pub(crate) topic: Topic,
    /// The value of the header `penstock-group`.
    pub(crate) name: &'r str,
    pub(crate) key: Option<&'r str>,
    pub(crate) value: &'r [u8],
}

/// How long a producer tries to have a record acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trying {
    /// Then it fails, and may be stored or not.
    For(Duration),
    /// As long as the process lives; a connection is given up as if it were the former.
    Forever(Duration),
}

impl Producer {
    pub(crate) fn new(
        target: &KafkaTarget,
        pipeline: &PipelineRef,
        trying: Trying,
        callbacks: Callbacks,
    ) -> KafkaResult<Self> {
        let (message_timeout, timeout) = match trying {
            Trying::For(timeout) => (timeout.as_millis(), timeout.as_millis()),
            Trying::Forever(timeout) => (0, timeout.as_millis()),
        };
        let inner = client_config(target, pipeline)?
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("compression.type", "lz4")
            // Groups are made here, so nothing is to be gained by waiting.
            .set("linger.ms", "0")
            .set("message.timeout.ms", message_timeout.to_string())
            .set("socket.timeout.ms", (timeout * 5 / 8).clamp(10, 5000).to_string())
            .set("retry.backoff.ms", "20")
            .set("queue.buffering.max.kbytes", "65536")
            .set("statistics.interval.ms", EVERY_MS)
            .create_with_context(callbacks)?;
        let producer = Self {
            inner,
            target: target.clone(),
        };
        producer.warm_up();
        Ok(producer)
    }

    /// Has librdkafka learn where the topic's partitions are before the first event needs it. Nobody waits for that,
    /// and whether it succeeded the first group will tell.
    fn warm_up(&self) {
        let (inner, topic) = (self.inner.clone(), self.target.topic.clone());
        std::thread::spawn(move || {
            let _ = inner.client().fetch_metadata(Some(&topic), WARM_UP);
        });
    }

    /// Hands one record over. `partition`: -1 leaves it to librdkafka. An error means that it was not produced.
    pub(crate) fn send<'h>(
        &self,
        number: usize,
        partition: i32,
        record: &Outgoing<'_>,
        headers: impl ExactSizeIterator<Item = (&'h str, &'h str)>,
    ) -> Result<(), KafkaError> {
        let name = Header {
            key: record::GROUP,
            value: Some(record.name),
        };
        let first = OwnedHeaders::new_with_capacity(1 + headers.len()).insert(name);
        let headers = headers.fold(first, |headers, (key, value)| {
            headers.insert(Header {
                key,
                value: Some(value),
            })
        });
        let topic = match record.topic {
            Topic::Events => &self.target.topic,
            Topic::DeadLetters => &self.target.dead_letter_topic,
        };
        let mut produced = BaseRecord::<str, [u8], usize>::with_opaque_to(topic, number)
            .payload(record.value)
            .headers(headers);
        if let Some(key) = record.key {
            produced = produced.key(key);
        }
        if partition >= 0 {
            produced = produced.partition(partition);
        }
        self.inner.send(produced).map_err(|(error, _)| error)
    }

    /// Hands over what the spool has kept, or would keep.
    pub(crate) fn spooled(&self, number: usize, partition: i32, record: &Record) -> Result<(), KafkaError> {
        let outgoing = Outgoing {
            topic: record.topic,
            name: &record.name,
            key: record.key.as_deref(),
            value: &record.value,
        };
        let headers = record.headers.iter();
        let headers = headers.map(|(key, value)| (key.as_str(), value.as_str()));
        self.send(number, partition, &outgoing, headers)
    }

    /// The topic's partitions, with a leader or without. Blocks.
    pub(crate) fn partitions(&self) -> KafkaResult<Vec<i32>> {
        let topic = &self.target.topic;
        let metadata = self.inner.client().fetch_metadata(Some(topic), ANSWER)?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        Ok(found
            .into_iter()
            .flat_map(|topic| topic.partitions().iter().map(|partition| partition.id()))
            .collect())
    }

    /// Hands a record without events over, for what its acknowledgement says: readers see all that lies before it. An
    /// error means that it was not produced.
    pub(crate) fn barrier(&self, number: usize, partition: i32) -> Result<(), KafkaError> {
        let record = BaseRecord::<(), [u8], usize>::with_opaque_to(&self.target.topic, number)
            .partition(partition)
            .payload(&[]);
        self.inner.send(record).map_err(|(error, _)| error)
    }

    /// Why the producer can do nothing more, if so.
    pub(crate) fn is_dead(&self) -> Option<String> {
        let forgotten = &self.inner.context().forgotten;
        match self.inner.client().fatal_error() {
            Some((code, reason)) => Some(format!("{code}: {reason}")),
            None => forgotten
                .is_certain()
                .then(|| "it has forgotten its brokers".to_owned()),
        }
    }

    /// Waits for what is in flight.
    pub(crate) fn flush(&self, timeout: Duration) -> KafkaResult<()> {
        self.inner.flush(timeout)
    }
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer")
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}
