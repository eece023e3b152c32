//! Membership of the consumer group, and what librdkafka is told.
//!
//! librdkafka reports a rebalance and waits until the application has answered it. The answer is not given in the
//! callback: the callback notes what is wanted, ends the epochs of partitions that are already lost, and the driver
//! answers when nothing is under way any more. Heartbeats go on meanwhile.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use penstock_dataplane_config::{ConsumeConfig, GroupProtocol};
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;

use super::fence::Fence;
use super::wake::Waker;
use crate::forgotten::Forgotten;
use crate::process::Dependency;

/// How long a member may be silent before the group gives its partitions away: what a consumer that was killed
/// costs in freshness. Its heartbeats do not depend on the driver, so a busy process keeps its session. Where the brokers
/// say it, it is longer: Kafka's default is 45 s, and its least that, too.
pub(super) const SESSION_MS: u64 = 15_000;
/// How long a rebalance may take; an INSERT must be shorter.
const MAX_POLL_MS: u64 = 300_000;
/// What librdkafka may read ahead, over all partitions.
const READ_AHEAD_KB: u32 = 8 * 1024;

pub(super) type Group = BaseConsumer<GroupContext>;

/// What the group wants of this member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rebalance {
    Assign(Vec<i32>),
    /// `lost`: others may own them already.
    Revoke {
        partitions: Vec<i32>,
        lost: bool,
    },
}

/// Where the log of a partition begins and ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Log {
    /// The first offset that it had when it was asked; 0 as long as it was not.
    pub(super) low: i64,
    /// Its end as it was last seen.
    pub(super) end: i64,
    /// Its end as librdkafka last saw it, by fetching.
    fetched: i64,
}

impl Log {
    const UNKNOWN: Self = Self {
        low: 0,
        end: -1,
        fetched: -1,
    };
}

pub(super) struct GroupContext {
    topic: String,
    fence: Fence,
    rebalances: Mutex<VecDeque<Rebalance>>,
    logs: Mutex<HashMap<i32, Log>>,
    closing: AtomicBool,
    forgotten: Forgotten,
    kafka: Dependency,
    waker: Waker,
}

impl std::fmt::Debug for GroupContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GroupContext({})", self.topic)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl GroupContext {
    pub(super) fn next_rebalance(&self) -> Option<Rebalance> {
        locked(&self.rebalances).pop_front()
    }

    /// The log of a partition, where its end is known.
    pub(super) fn log(&self, partition: i32) -> Option<Log> {
        locked(&self.logs).get(&partition).copied()
    }

    /// What Kafka says when it is asked.
    pub(super) fn reaches(&self, partition: i32, low: i64, end: i64) {
        let mut logs = locked(&self.logs);
        let log = logs.entry(partition).or_insert(Log::UNKNOWN);
        (log.low, log.end) = (low, end);
    }

    /// Whether this member can do nothing more.
    pub(super) fn has_forgotten_its_brokers(&self) -> bool {
        self.forgotten.is_certain()
    }

    /// From now on rebalances are answered at once: the consumer is about to leave the group.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
    }

    fn partitions(&self, list: &TopicPartitionList) -> Vec<i32> {
        list.elements_for_topic(&self.topic)
            .iter()
            .map(|element| element.partition())
            .collect()
    }
}

impl ClientContext for GroupContext {
    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.kafka.lost(reason);
        }
        tracing::debug!(%error, reason, "kafka");
    }

    fn stats(&self, statistics: Statistics) {
        self.forgotten.see(&statistics);
        let Some(topic) = statistics.topics.get(&self.topic) else {
            return;
        };
        let connected = statistics
            .brokers
            .values()
            .any(|broker| broker.nodeid >= 0 && broker.state == "UP");
        if connected {
            self.kafka.found();
        }
        let mut logs = locked(&self.logs);
        for partition in topic.partitions.values().filter(|p| p.hi_offset >= 0) {
            let log = logs.entry(partition.partition).or_insert(Log::UNKNOWN);
            // While nothing is fetched it says again and again what it saw last.
            if log.fetched != partition.hi_offset {
                (log.fetched, log.end) = (partition.hi_offset, partition.hi_offset);
            }
        }
    }
}

impl ConsumerContext for GroupContext {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, kind: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions = self.partitions(list);
        let assign = kind == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.closing.load(Ordering::SeqCst) {
            partitions.iter().for_each(|partition| self.fence.end(*partition));
            let answered = match assign {
                true => consumer.incremental_assign(list),
                false => consumer.incremental_unassign(list),
            };
            if let Err(error) = answered {
                tracing::warn!(%error, "cannot answer the last rebalance");
            }
            return;
        }
        let rebalance = if assign {
            Rebalance::Assign(partitions)
        } else {
            let lost = consumer.assignment_lost();
            if lost {
                partitions.iter().for_each(|partition| self.fence.end(*partition));
            }
            Rebalance::Revoke { partitions, lost }
        };
        locked(&self.rebalances).push_back(rebalance);
        self.waker.wake();
    }
}

/// A consumer of the pipeline's group, not yet subscribed.
pub(super) fn join(
    config: &ConsumeConfig,
    partitions: u32,
    fence: Fence,
    kafka: Dependency,
    waker: Waker,
) -> KafkaResult<Arc<Group>> {
    let context = GroupContext {
        topic: config.kafka.topic.clone(),
        fence,
        rebalances: Mutex::default(),
        logs: Mutex::default(),
        closing: AtomicBool::new(false),
        forgotten: Forgotten::default(),
        kafka,
        waker,
    };
    // Each partition has a queue of its own, so the bound is split among them.
    let read_ahead = (READ_AHEAD_KB / partitions.max(1)).max(512);
    let mut client = client(config)?;
    match config.group_protocol {
        GroupProtocol::Classic => client
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", SESSION_MS.to_string()),
        // The brokers say how long a session is, and librdkafka refuses to be told.
        GroupProtocol::Consumer => client.set("group.protocol", "consumer"),
    };
    client
        .set("group.id", &config.group)
        .set("max.poll.interval.ms", MAX_POLL_MS.to_string())
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // Where the log does not have what is next, librdkafka goes to its start by itself, and the machine sees by the
        // record that comes that something is wrong. With `error` it would stop reading the partition for good: it
        // refuses every seek until the partition is assigned anew.
        .set("auto.offset.reset", "earliest")
        // The default of a second cuts a consumer that catches up to a tenth.
        .set("fetch.queue.backoff.ms", "2")
        // A quiet topic is asked ten times a second, not once a record.
        .set("fetch.min.bytes", "65536")
        .set("fetch.wait.max.ms", "100")
        .set("fetch.message.max.bytes", "524288")
        .set("queued.max.messages.kbytes", read_ahead.to_string())
        .set("statistics.interval.ms", "5000")
        .create_with_context(context)
        .map(Arc::new)
}

/// What every connection to Kafka has in common.
pub(super) fn client(config: &ConsumeConfig) -> KafkaResult<ClientConfig> {
    let mut client = penstock_connect::kafka::client(&config.kafka.cluster())?;
    client
        .set("client.id", format!("penstock-consume-{}", config.pipeline.name))
        .set("topic.metadata.refresh.interval.ms", "5000")
        .set("allow.auto.create.topics", "false")
        .set("socket.keepalive.enable", "true")
        .set("reconnect.backoff.max.ms", "2000");
    Ok(client)
}
