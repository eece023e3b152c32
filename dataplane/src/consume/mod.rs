//! `penstock-dataplane consume`: topic in, event table out, each row once.
//!
//! ```text
//! group ──► run ──► record ──► line, scan        one partition: records become rows
//! driver    │  └──► native, column               rows become columns
//!           │
//!           └─────► machine ──► flight, forming  what is done when: intent, ask, insert, completion
//!                     │ intent, position, protocol, fence, clock
//!                     ▼
//!                   jobs ──► clickhouse ──► upload, failure
//!                        ──► target              what the table holds
//!                        ──► dead_letters
//!                        ──► hot                 figures of what is stored, for live views
//!
//! dead letters' topic ──► letter_table            beside all that: their table, which no event waits for
//! ```
//!
//! One thread reads and decides ([`driver`]); everything that waits for somebody else runs on the runtime ([`jobs`]).
//! How rows are stored once, whatever dies, is told in `docs/decisions/0003-exactly-once.md`.

pub mod clickhouse;
pub mod clock;
mod column;
mod compressed;
pub mod dead_letters;
mod driver;
pub mod failure;
pub mod fence;
mod flight;
mod forming;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod group;
mod hot;
pub mod intent;
mod jobs;
mod letter_table;
pub mod line;
pub mod machine;
mod metrics;
pub mod native;
pub mod position;
pub mod protocol;
pub mod record;
mod run;
mod scan;
mod stall;
mod symbols;
pub mod target;
pub mod upload;
mod wake;

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use penstock_connect::kafka::Reports;
use penstock_dataplane_config::ConsumeConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use tokio::sync::oneshot;

use self::clickhouse::ClickHouse;
use self::dead_letters::DeadLetters;
use self::driver::{Driver, End};
use self::fence::Fence;
use self::hot::Hot;
use self::jobs::Jobs;
use self::letter_table::LetterTable;
use self::metrics::ConsumeMetrics;
use self::protocol::Limits;
use self::wake::Waker;
use crate::process::{Dependency, Needed, Process, Pulse, RoleError, Shutdown};

/// How long the table's memory of tokens is trusted without asking.
const BLIND: Duration = Duration::from_secs(60);
const START_RETRY: Duration = Duration::from_secs(2);
/// How long a process that stops may still write figures, and store dead letters.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Runs the role until the shutdown is complete.
pub async fn run(config: ConsumeConfig, process: Process) -> Result<(), RoleError> {
    let metrics = ConsumeMetrics::new(&process.metrics);
    let kafka = process.dependencies.add("kafka", Needed::ToStart);
    let table = process.dependencies.add("clickhouse", Needed::ToStart);
    let clickhouse = ClickHouse::new(&config.clickhouse)?;
    let (hot, telling) = match &config.redis {
        Some(redis) => {
            let dependency = process.dependencies.add("redis", Needed::Never);
            let (hot, writer) = hot::new(redis, &config.pipeline, metrics.clone(), dependency);
            (Some(hot), Some(tokio::spawn(writer.run())))
        }
        None => (None, None),
    };
    let letters = match &config.dead_letter_table {
        Some(table) => Some(store_letters(&config, table, &clickhouse, &metrics, &process)?),
        None => None,
    };
    let Some(partitions) = wait_for_topic(&config, &kafka, &process).await? else {
        return Ok(());
    };
    if !wait_for_table(&clickhouse, partitions, &table, &process).await {
        return Ok(());
    }
    let runtime = tokio::runtime::Handle::current();
    let (done, finished) = oneshot::channel();
    let begun = process.shutdown.clone();
    std::thread::Builder::new()
        .name("consume".into())
        .spawn(move || {
            let reading = Reading {
                config,
                partitions,
                clickhouse,
                metrics,
                hot,
                kafka,
                table,
                shutdown: process.shutdown,
                pulse: process.pulse,
                runtime,
            };
            // The receiver is gone only when the process ends.
            let _ = done.send(reading.run());
        })?;
    let outcome = finished.await.map_err(|_| "the reading thread died")?;
    if !begun.is_begun() {
        begun.begin();
    }
    if let Some(telling) = telling {
        // It ends by itself once nobody can send to it any more.
        let _ = tokio::time::timeout(LAST_WORDS, telling).await;
    }
    if let Some(end) = letters {
        // So that it leaves its group. What it has not stored is stored by the next.
        let _ = tokio::time::timeout(LAST_WORDS, end).await;
    }
    outcome.map_err(Into::into)
}

/// The body of the reading thread.
struct Reading {
    config: ConsumeConfig,
    partitions: u32,
    clickhouse: ClickHouse,
    metrics: ConsumeMetrics,
    hot: Option<Hot>,
    kafka: Dependency,
    table: Dependency,
    shutdown: Shutdown,
    pulse: Pulse,
    runtime: tokio::runtime::Handle,
}

impl Reading {
    /// Reads as a member of the group until the shutdown is complete.
    fn run(self) -> Result<(), KafkaError> {
        let waker = Waker::of_this_thread();
        let (stop, woken) = (self.shutdown.clone(), waker.clone());
        self.runtime.spawn(async move {
            stop.begun().await;
            woken.wake();
        });
        loop {
            let why = match self.driver(&waker)?.run() {
                End::Shutdown => return Ok(()),
                End::Forgotten => "it has forgotten its brokers",
                End::Stalled => "it does not answer",
            };
            self.metrics.members_replaced.inc();
            tracing::error!(
                why,
                "the Kafka client is of no use; joining the group with another"
            );
        }
    }

    fn driver(&self, waker: &Waker) -> Result<Driver, KafkaError> {
        let config = &self.config;
        let fence = Fence::new();
        let group = group::join(
            config,
            self.partitions,
            fence.clone(),
            self.kafka.clone(),
            waker.clone(),
        )?;
        group.subscribe(&[&config.kafka.topic])?;
        let (answers, answered) = mpsc::channel();
        let limits = Limits {
            max_rows: config.batch.max_rows,
            max_bytes: usize::try_from(config.batch.max_bytes.get()).unwrap_or(usize::MAX),
            max_age: config.batch.max_age.get(),
            session: Duration::from_millis(group::SESSION_MS),
            blind: BLIND,
            // Once for what the network still holds of it, and once for the server, which is told when to end it.
            under_way: self.clickhouse.longest_answer() * 2,
        };
        let jobs = Jobs {
            topic: config.kafka.topic.as_str().into(),
            runtime: self.runtime.clone(),
            group,
            clickhouse: self.clickhouse.clone(),
            dead_letters: Arc::new(DeadLetters::new(config.clone())),
            fence,
            metrics: self.metrics.clone(),
            hot: self.hot.clone(),
            clickhouse_seen: self.table.clone(),
            answers,
            waker: waker.clone(),
        };
        let (shutdown, pulse) = (self.shutdown.clone(), self.pulse.clone());
        Ok(Driver::new(jobs, answered, shutdown, pulse, limits))
    }
}

/// Has dead letters stored in their table; what is returned resolves when that has ended.
fn store_letters(
    config: &ConsumeConfig,
    table: &str,
    clickhouse: &ClickHouse,
    metrics: &ConsumeMetrics,
    process: &Process,
) -> std::io::Result<oneshot::Receiver<()>> {
    let shutdown = process.shutdown.clone();
    let letters = LetterTable::new(
        config.clone(),
        table,
        clickhouse.clone(),
        metrics.clone(),
        shutdown,
    );
    let (ended, end) = oneshot::channel();
    std::thread::Builder::new()
        .name("dead-letters".into())
        .spawn(move || {
            letters.run();
            // The receiver is gone only when the process ends.
            let _ = ended.send(());
        })?;
    Ok(end)
}

/// Waits until the topic is there; returns its number of partitions, or `None` when the process is to stop.
async fn wait_for_topic(
    config: &ConsumeConfig,
    kafka: &Dependency,
    process: &Process,
) -> Result<Option<u32>, RoleError> {
    let asking = group::client(config)?.create_with_context(Reports::default())?;
    let asking: Arc<BaseConsumer<Reports>> = Arc::new(asking);
    while !process.shutdown.is_begun() {
        let (asking, topic) = (Arc::clone(&asking), config.kafka.topic.clone());
        let found = tokio::task::spawn_blocking(move || partitions_of(&asking, &topic)).await?;
        match found {
            Ok(partitions) => {
                kafka.found();
                return Ok(Some(partitions));
            }
            Err(reason) => kafka.lost(reason),
        }
        pause(process).await;
    }
    Ok(None)
}

fn partitions_of(consumer: &BaseConsumer<Reports>, topic: &str) -> Result<u32, String> {
    let metadata = consumer
        .fetch_metadata(Some(topic), Duration::from_secs(5))
        .map_err(|error| {
            // What librdkafka logs comes with the events that are polled for.
            for _ in 0..20 {
                if consumer.context().last().is_none() {
                    let _ = consumer.poll(Duration::from_millis(10));
                }
            }
            consumer.context().explain(&error)
        })?;
    match metadata.topics().iter().find(|found| found.name() == topic) {
        Some(found) if found.error().is_none() && !found.partitions().is_empty() => {
            Ok(found.partitions().len() as u32)
        }
        _ => Err(format!("there is no topic {topic}")),
    }
}

/// Waits until the event table is fit to be written to; false when the process is to stop.
async fn wait_for_table(
    clickhouse: &ClickHouse,
    partitions: u32,
    table: &Dependency,
    process: &Process,
) -> bool {
    while !process.shutdown.is_begun() {
        match target::check(clickhouse, partitions).await {
            Ok(()) => {
                table.found();
                return true;
            }
            Err(failure) => table.lost(failure.to_string()),
        }
        pause(process).await;
    }
    false
}

async fn pause(process: &Process) {
    tokio::select! {
        () = tokio::time::sleep(START_RETRY) => {}
        () = process.shutdown.begun() => {}
    }
}
