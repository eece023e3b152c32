//! The role `drain`: brings what a spool holds to Kafka and ends. For a spool that no process takes events into any
//! more, because its pod is gone or its configuration has none.
//!
//! It ends well only when Kafka has every group; until then it waits for Kafka, however long. Told to stop before, it
//! fails, so that nobody takes the spool for empty.

use std::sync::Arc;
use std::time::Duration;

use penstock_dataplane_config::DrainConfig;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::drain::Drain;
use super::metrics::SpoolMetrics;
use super::writer::Spool;
use crate::ingest::health::{Checker, Health};
use crate::ingest::statistics::ProducerMetrics;
use crate::process::{Needed, Process, RoleError};

const LOOK: Duration = Duration::from_millis(100);
const GAUGES_EVERY: u32 = 10;

/// Runs until the spool is empty, or until the shutdown.
pub async fn run(config: DrainConfig, process: Process) -> Result<(), RoleError> {
    // Nothing is taken, so there is nothing to bound.
    let (spool, writer) = Spool::open(
        &config.dir,
        u64::MAX,
        &config.kafka.topic,
        false,
        SpoolMetrics::new(&process.metrics),
    )?;
    let health = Arc::new(Health::new(0));
    let checker = Checker::new(
        &config.kafka,
        &config.pipeline,
        true,
        Arc::clone(&health),
        process.dependencies.add("kafka", Needed::Never),
        Vec::new(),
        process.shutdown.clone(),
    )?;
    let checker = std::thread::Builder::new()
        .name("kafka-health".into())
        .spawn(move || checker.run())?;
    let finish = CancellationToken::new();
    let drain = Drain {
        spool: spool.clone(),
        health,
        series: Arc::new(ProducerMetrics::new(&process.metrics).of("spool")),
        target: config.kafka.clone(),
        pipeline: config.pipeline.clone(),
        timeout: config.kafka_timeout.get(),
        boot: Uuid::new_v4(),
        shard: 0,
        shutdown: process.shutdown.clone(),
        finish: finish.clone(),
    };
    let drain = drain.start()?;
    tracing::info!(directory = %config.dir.display(), groups = spool.groups(), "draining a spool");

    let mut looks = 0_u32;
    // Neither thread ends before that by itself; without one of them nothing is drained any more.
    let works = || !drain.is_finished() && !checker.is_finished();
    while spool.groups() > 0 && !process.shutdown.is_begun() && works() {
        if looks.is_multiple_of(GAUGES_EVERY) {
            spool.show();
        }
        looks = looks.wrapping_add(1);
        tokio::time::sleep(LOOK).await;
    }
    // Ends what is on its way as an ingest process does that stops.
    spool.close();
    finish.cancel();
    while !(writer.is_finished() && drain.is_finished()) {
        tokio::time::sleep(LOOK).await;
    }
    spool.tidy();
    match spool.groups() {
        0 => {
            tracing::info!("the spool is empty");
            Ok(())
        }
        groups => Err(format!("{groups} groups are left in the spool; start again to drain them").into()),
    }
}
