//! The spool's threads, from the start of the role to its end, and what its room means for readiness.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use penstock_dataplane_config::{Durability, IngestConfig};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::drain::Drain;
use super::metrics::SpoolMetrics;
use super::writer::Spool;
use crate::ingest::health::Health;
use crate::ingest::statistics::ProducerSeries;
use crate::process::{Dependency, Needed, Process, RoleError};

/// Says which Kafka a process on this spool has met.
const MET: &str = "met";
const STEP: Duration = Duration::from_millis(20);

/// The spool at work.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) spool: Spool,
    writer: JoinHandle<()>,
    drain: Option<JoinHandle<()>>,
    finish: CancellationToken,
    room: Dependency,
    spools_all: bool,
    /// The file, and what it will say; `None` once it does.
    met: Option<(PathBuf, String)>,
}

impl Running {
    /// Opens the spool that is configured, if one is.
    pub(crate) fn open(config: &IngestConfig, process: &Process) -> Result<Option<Self>, RoleError> {
        let Some(settings) = &config.spool else {
            return Ok(None);
        };
        let spools_all = config.durability == Durability::Spooled;
        let (spool, writer) = Spool::open(
            &settings.dir,
            settings.max_bytes.get(),
            &config.kafka.topic,
            spools_all,
            SpoolMetrics::new(&process.metrics),
        )?;
        let path = settings.dir.join(MET);
        let kafka = config.kafka.bootstrap.clone();
        let has_met = std::fs::read_to_string(&path).is_ok_and(|text| text == kafka);
        Ok(Some(Self {
            spool,
            writer,
            drain: None,
            finish: CancellationToken::new(),
            room: process.dependencies.add("spool", Needed::Always),
            spools_all,
            met: (!has_met).then_some((path, kafka)),
        }))
    }

    /// Whether Kafka has to be there before this process may serve. Not where a process on this spool has met it: then
    /// the address is right, and the spool takes what Kafka cannot.
    pub(crate) fn needs_kafka(&self) -> Needed {
        match self.met {
            Some(_) => Needed::ToStart,
            None => Needed::Never,
        }
    }

    /// Starts to drain.
    pub(crate) fn start(
        &mut self,
        config: &IngestConfig,
        process: &Process,
        health: &Arc<Health>,
        series: Arc<ProducerSeries>,
        boot: Uuid,
        shards: usize,
    ) -> Result<(), RoleError> {
        let drain = Drain {
            spool: self.spool.clone(),
            health: Arc::clone(health),
            series,
            target: config.kafka.clone(),
            pipeline: config.pipeline.clone(),
            timeout: config.limits.kafka_timeout.get(),
            boot,
            shard: shards,
            shutdown: process.shutdown.clone(),
            finish: self.finish.clone(),
        };
        self.drain = Some(drain.start()?);
        Ok(())
    }

    /// Called now and then: gauges, readiness, and whether Kafka has been met.
    pub(crate) fn look(&mut self, health: &Health) {
        self.spool.show();
        if self.spool.has_room() || (!self.spools_all && health.is_open()) {
            self.room.found();
        } else {
            self.room
                .lost("it takes no more, and nothing else keeps events now");
        }
        let met = self.met.take_if(|_| health.is_open());
        let Some((path, kafka)) = met else { return };
        if let Err(error) = std::fs::write(&path, &kafka) {
            // As on a full disk; it will be written when there is room.
            tracing::debug!(%error, "cannot note that Kafka was met");
            self.met = Some((path, kafka));
        }
    }

    /// Whether one of its threads is gone, which none is before [`Self::finish`] unless it panicked.
    pub(crate) fn has_ended(&self) -> bool {
        self.writer.is_finished() || self.drain.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// The shards have ended: writes what they sent, drains what can be drained in time.
    pub(crate) async fn finish(self) {
        self.spool.close();
        while !self.writer.is_finished() {
            tokio::time::sleep(STEP).await;
        }
        self.finish.cancel();
        while self.drain.as_ref().is_some_and(|drain| !drain.is_finished()) {
            tokio::time::sleep(STEP).await;
        }
        self.spool.tidy();
        let groups = self.spool.groups();
        if groups > 0 {
            tracing::warn!(
                groups,
                "stopping with groups in the spool; the next process on it drains them"
            );
        }
    }
}
