//! `penstock-dataplane ingest`: HTTP in, Kafka out, and 2xx only for what Kafka has acknowledged.
//!
//! ```text
//! connection (tls) -> handler -> native|segment|envelope (one pass) -> line -> group -> kafka
//!    shard         |- key, apps, client, cors  who sends             |- health: the gate when Kafka is away
//!                  |- budget, body  within memory                    |- partition: where to
//!                  '- quota         within limits                    '- spool, direct: for what Kafka does not take
//! ```
//!
//! One [`shard`] per core; beside them a thread that asks Kafka how it is, one that writes the request log, and on
//! the main thread the tasks that read apps.yaml again and exchange quotas with Redis.

mod answer;
mod apps;
mod body;
mod budget;
mod client;
mod connection;
mod cors;
mod direct;
mod encoding;
mod envelope;
mod fate;
#[cfg(test)]
mod fixture;
mod flaw;
mod flight;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod group;
mod handler;
mod head;
mod health;
mod histogram;
mod identity;
mod json;
mod kafka;
mod key;
mod last;
mod line;
mod members;
mod metrics;
mod native;
mod outage;
mod partition;
pub mod pure;
mod quota;
mod reload;
mod request_log;
mod retention;
mod route;
mod segment;
mod shape;
mod shard;
mod spool;
mod statistics;
mod text;
mod time;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use penstock_dataplane_config::{IngestConfig, IngestLimits, KafkaOutage};
use tokio::sync::{Semaphore, oneshot};
use uuid::Uuid;

use self::apps::Apps;
use self::budget::{Budget, Watermark};
use self::client::Proxies;
use self::direct::Direct;
use self::group::{Groups, Letters, Settings};
use self::handler::Parts;
use self::health::{Checker, Health};
use self::kafka::Outcomes;
use self::metrics::IngestMetrics;
use self::outage::Outage;
use self::reload::Reload;
use self::request_log::RequestLog;
use self::spool::Running;
pub use self::spool::drain;
use self::statistics::ProducerMetrics;
use self::tls::{Tls, TlsReload};
use crate::process::{Needed, Process, RoleError};

const GAUGES_EVERY: Duration = Duration::from_secs(1);
/// Open files beside connections: those of Kafka's clients, of the event loops, of the logs.
const OTHER_FILES: usize = 256;
/// How long the port stays closed for the sake of the quotas.
const FIRST_EXCHANGE: Duration = Duration::from_secs(1);

/// Runs the role until the shutdown is complete.
pub async fn run(config: IngestConfig, process: Process) -> Result<(), RoleError> {
    let address: SocketAddr = config.listen.parse()?;
    let metrics = IngestMetrics::new(&process.metrics);
    let producers = ProducerMetrics::new(&process.metrics);
    let boot = Uuid::new_v4();
    let count = match config.shards {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        given => usize::from(given),
    };
    let budget = Budget::new(usize::try_from(config.limits.memory.get())?);
    metrics.memory_limit.set(i64::try_from(budget.limit())?);

    // Found once the port is open: until then nobody may be told that this pod is ready.
    let room = process.dependencies.add("memory", Needed::Always);
    let apps = Arc::new(ArcSwap::from_pointee(Apps::default()));
    let needed = process.dependencies.add("apps", Needed::ToStart);
    let mut reload = Reload::new(
        config.apps_file.clone(),
        Arc::clone(&apps),
        metrics.clone(),
        needed,
    );
    reload.look();
    let redis = config
        .redis
        .clone()
        .map(|target| (target, process.dependencies.add("redis", Needed::Never)));
    let sync = quota::sync::Sync {
        apps: Arc::clone(&apps),
        redis,
        pod: boot,
        metrics: metrics.clone(),
    };

    // What the other pods have admitted today is known before the first request, if Redis answers in time.
    let mut exchange = sync.start();
    let _ = tokio::time::timeout(FIRST_EXCHANGE, exchange.turn()).await;

    let mut spool = Running::open(&config, &process)?;
    let needed = spool.as_ref().map_or(Needed::ToStart, Running::needs_kafka);
    let health = Arc::new(Health::new(count));
    let outcomes: Vec<_> = (0..count).map(|_| Arc::new(Outcomes::default())).collect();
    let checker = Checker::new(
        &config.kafka,
        &config.pipeline,
        spool.is_some(),
        Arc::clone(&health),
        process.dependencies.add("kafka", needed),
        outcomes.clone(),
        process.shutdown.clone(),
    )?;
    let checker = std::thread::Builder::new()
        .name("kafka-health".into())
        .spawn(move || checker.run())?;
    if let Some(spool) = &mut spool {
        let series = Arc::new(producers.of("spool"));
        spool.start(&config, &process, &health, series, boot, count)?;
    }

    let outage = match (&spool, config.kafka_outage(), &config.clickhouse) {
        (Some(running), ..) => Outage::Spool(running.spool.clone()),
        (None, KafkaOutage::Direct, Some(clickhouse)) => {
            Outage::Direct(Direct::start(clickhouse, &process.metrics)?)
        }
        (None, ..) => Outage::Reject,
    };

    let (tls, certificates) = match config.tls.clone() {
        Some(files) => {
            let dependency = process.dependencies.add("tls", Needed::Never);
            let (tls, reload) = TlsReload::open(files, metrics.clone(), dependency)?;
            (Some(tls), Some(reload))
        }
        None => (None, None),
    };
    let places = usize::try_from(config.limits.connections)?;
    raise_open_files(places);
    let places = Arc::new(Semaphore::new(places));

    let letters = usize::try_from(config.limits.memory.get() / 8).unwrap_or(usize::MAX);
    let letters = Letters::new(letters.max(LEAST_FOR_LETTERS));
    let log = request_log::start()?;
    let mut shards = Vec::with_capacity(count);
    for (shard, outcomes) in outcomes.into_iter().enumerate() {
        let listener = shard::listen(address)?;
        let settings = Settings {
            target: config.kafka.clone(),
            pipeline: config.pipeline.clone(),
            timeout: config.limits.kafka_timeout.get(),
            patience: config.limits.request_timeout.get() - config.limits.kafka_timeout.get(),
            time: time_of_groups(&config.limits),
            letters: letters.clone(),
            boot,
            shard,
            single: config.single_records(),
            durability: config.durability,
            outage: outage.clone(),
            metrics: metrics.clone(),
            series: Arc::new(producers.of(&format!("shard-{shard}"))),
        };
        let seed = Seed {
            apps: Arc::clone(&apps),
            health: Arc::clone(&health),
            budget: budget.clone(),
            config: config.clone(),
            places: Arc::clone(&places),
            tls: tls.clone(),
            metrics: metrics.clone(),
            log: log.clone(),
            process: process.clone(),
        };
        shards.push(seed.spawn(listener, settings, outcomes)?);
    }
    drop(log);
    tracing::info!(%address, shards = count, %boot, "ingest is open");

    let mut watermark = Watermark::default();
    let background = async {
        let gauges = async {
            loop {
                metrics
                    .memory_used
                    .set(i64::try_from(budget.used()).unwrap_or(i64::MAX));
                if watermark.look(&budget) {
                    room.lost("limits.memory is used up");
                } else {
                    room.found();
                }
                if let Some(spool) = &mut spool {
                    spool.look(&health);
                }
                // Asked in this order: in a shutdown they end, too.
                let ended = checker.is_finished() || spool.as_ref().is_some_and(Running::has_ended);
                if ended && !process.shutdown.is_begun() {
                    return;
                }
                tokio::time::sleep(GAUGES_EVERY).await;
            }
        };
        let certificates = async {
            match certificates {
                Some(certificates) => certificates.run().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = reload.run() => "the task that reloads the Apps",
            () = exchange.run() => "the task that exchanges usage",
            () = gauges => "a thread of Kafka's health or of the spool",
            () = certificates => "the task that reloads certificates",
        }
    };
    tokio::select! {
        outcome = finished(shards) => outcome?,
        // Better to start anew than to go on without it.
        ended = background => return Err(format!("{ended} has ended").into()),
    }
    if let Some(spool) = spool {
        spool.finish().await;
    }
    Ok(())
}

/// What is left of a request's time for its groups: it may have taken some to come, and the groups are only looked at now
/// and then. Kafka's time it is at least.
fn time_of_groups(limits: &IngestLimits) -> Duration {
    let before = handler::SLOW_TO_COME + shard::LOOK_AT_GROUPS;
    let left = limits.request_timeout.get().saturating_sub(before);
    left.max(limits.kafka_timeout.get())
}

/// Each connection is an open file: the process takes as many as it is allowed to have.
fn raise_open_files(connections: usize) {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        }
        Ok(hard)
    });
    match raised {
        Ok(files) if files < (connections + OTHER_FILES) as u64 => {
            tracing::warn!(
                files,
                connections,
                "fewer open files are allowed than connections"
            );
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "the limit of open files cannot be raised"),
    }
}

/// What dead letters on their way may take however small the memory is.
const LEAST_FOR_LETTERS: usize = 1_000_000;

/// Waits for all shards. One that fails takes the process down, for its connections would find nobody.
async fn finished(shards: Vec<oneshot::Receiver<Result<(), RoleError>>>) -> Result<(), RoleError> {
    let ended = shards.into_iter().map(|shard| async move {
        match shard.await {
            Ok(outcome) => outcome,
            Err(_) => Err("a shard panicked".into()),
        }
    });
    futures::future::try_join_all(ended).await.map(|_| ())
}

/// What a shard's thread starts from; everything in it may cross to a thread.
struct Seed {
    apps: Arc<ArcSwap<Apps>>,
    health: Arc<Health>,
    budget: Budget,
    config: IngestConfig,
    places: Arc<Semaphore>,
    tls: Option<Tls>,
    metrics: IngestMetrics,
    log: std::sync::mpsc::SyncSender<request_log::Entry>,
    process: Process,
}

impl Seed {
    fn spawn(
        self,
        listener: std::net::TcpListener,
        settings: Settings,
        outcomes: Arc<Outcomes>,
    ) -> Result<oneshot::Receiver<Result<(), RoleError>>, RoleError> {
        let (ended, receiver) = oneshot::channel();
        let name = format!("shard-{}", settings.shard);
        std::thread::Builder::new().name(name).spawn(move || {
            let Self {
                apps,
                health,
                budget,
                config,
                places,
                tls,
                metrics,
                log,
                process,
            } = self;
            // The configuration has been checked for what no header can hold.
            let server = config
                .server_header
                .and_then(|server| HeaderValue::from_str(&server).ok());
            let outcome = Groups::new(settings, outcomes, health).and_then(|groups| {
                shard::run(listener, groups, |groups| Parts {
                    apps,
                    groups,
                    budget,
                    limits: config.limits,
                    protocols: config.protocols,
                    proxies: Proxies::new(config.trusted_proxies),
                    places,
                    tls,
                    server,
                    log: RequestLog::new(log, metrics.clone()),
                    metrics,
                    shutdown: process.shutdown,
                })
            });
            // Nobody listens only when the process is on its way out.
            let _ = ended.send(outcome);
        })?;
        Ok(receiver)
    }
}
