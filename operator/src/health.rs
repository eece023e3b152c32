//! Whether Kafka, ClickHouse and Redis answer: asked for each address in use and each who asks there, every few seconds.
//!
//! Reconciles read the answer instead of running into a timeout each; the moment an answer changes, all pipelines are
//! looked at. Nothing is written while nothing changes.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use penstock_dataplane_config::{KafkaCluster, RedisTarget};

use crate::metrics::Metrics;
use penstock_provision::{ClickHouseServer, ProvisionError, QuotaStore, Service, TableAdmin, TopicAdmin};

/// How often each address is asked.
const EVERY: Duration = Duration::from_secs(4);
/// How long an answer may take before it counts as none. Below [`EVERY`], so that one silent address does not delay
/// the next question to the others.
const PATIENCE: Duration = Duration::from_millis(3500);
const _: () = assert!(PATIENCE.as_millis() < EVERY.as_millis());
/// A refusal that comes faster than this is believed at once. Silence may be a busy machine, and is believed the second
/// time: at the latest 4 + 4 + 3.5 s after an address went away.
const QUICK: Duration = Duration::from_secs(1);
/// An address that no reconcile has asked about for so long is forgotten.
const FORGET: Duration = Duration::from_secs(1800);

/// One place to ask, and as whom: who is refused there says nothing of others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    Kafka(KafkaCluster),
    ClickHouse(ClickHouseServer),
    Redis(RedisTarget),
}

impl Backend {
    fn service(&self) -> Service {
        match self {
            Self::Kafka(_) => Service::Kafka,
            Self::ClickHouse(_) => Service::ClickHouse,
            Self::Redis(_) => Service::Redis,
        }
    }

    /// Those that it is reached with.
    fn files(&self) -> impl Iterator<Item = &Path> {
        let (tls, user) = match self {
            Self::Kafka(cluster) => {
                let user = cluster.sasl.as_ref();
                let user = user.map(|sasl| [&sasl.username_file, &sasl.password_file]);
                (&cluster.tls, user.map_or([None; 2], |files| files.map(Some)))
            }
            Self::ClickHouse(server) => (
                &server.tls,
                [&server.username_file, &server.password_file].map(Option::as_ref),
            ),
            Self::Redis(target) => (
                &target.tls,
                [&target.username_file, &target.password_file].map(Option::as_ref),
            ),
        };
        let tls = tls
            .iter()
            .flat_map(|tls| [&tls.ca_file, &tls.cert_file, &tls.key_file]);
        let user = user.into_iter().flatten();
        tls.flatten().chain(user).map(PathBuf::as_path)
    }

    fn address(&self) -> String {
        match self {
            Self::Kafka(cluster) => cluster.bootstrap.clone(),
            Self::ClickHouse(server) => server.url.clone(),
            Self::Redis(target) => format!("{}/{}", target.address, target.database),
        }
    }
}

/// What is known of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Never asked.
    Unknown,
    Up,
    Down(ProvisionError),
}

struct Watched {
    health: Health,
    /// Failures in a row.
    failed: u32,
    wanted: Instant,
}

impl Watched {
    /// Takes an answer in; whether the address is now up that was down, or the other way round.
    fn take(&mut self, answer: Health, took: Duration) -> bool {
        let down = matches!(answer, Health::Down(_));
        self.failed = if down { self.failed + 1 } else { 0 };
        if down && self.failed < 2 && took >= QUICK {
            return false;
        }
        let was_down = matches!(self.health, Health::Down(_));
        // The words of a failure change from time to time; the first ones stay until it is over.
        if was_down != down || self.health == Health::Unknown {
            self.health = answer;
        }
        was_down != down
    }
}

type Known = HashMap<Backend, Watched>;

/// The three services as the controllers see them.
#[derive(Clone)]
pub struct Services {
    pub topics: Arc<dyn TopicAdmin>,
    pub tables: Arc<dyn TableAdmin>,
    pub quotas: Arc<dyn QuotaStore>,
}

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Services")
    }
}

/// Asks and remembers. Cheap to clone.
#[derive(Clone)]
pub struct Monitor {
    services: Services,
    metrics: Metrics,
    known: Arc<Mutex<Known>>,
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Monitor")
    }
}

impl Monitor {
    pub fn new(services: Services, metrics: Metrics) -> Self {
        Self {
            services,
            metrics,
            known: Arc::default(),
        }
    }

    /// What is known of an address; from now on it is asked.
    pub fn health(&self, backend: &Backend) -> Health {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let watched = known.entry(backend.clone()).or_insert_with(|| Watched {
            health: Health::Unknown,
            failed: 0,
            wanted: Instant::now(),
        });
        watched.wanted = Instant::now();
        watched.health.clone()
    }

    /// Forgets all that is reached with files in this folder: they are no more.
    pub fn forget(&self, folder: &Path) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|backend, _| !backend.files().any(|file| file.starts_with(folder)));
    }

    /// Asks all addresses for ever; `changed` is called when any answer has changed.
    pub async fn run(self, mut changed: impl FnMut()) {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if self.round().await {
                changed();
            }
        }
    }

    /// Asks every address once, side by side; whether any answer has changed.
    async fn round(&self) -> bool {
        let backends: Vec<Backend> = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.retain(|_, watched| watched.wanted.elapsed() < FORGET);
            known.keys().cloned().collect()
        };
        let mut asked: FuturesUnordered<_> = backends.iter().map(|backend| self.ask(backend)).collect();
        let mut changed = false;
        while let Some((backend, answer, took)) = asked.next().await {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(watched) = known.get_mut(backend) else {
                continue;
            };
            let reachable = !matches!(answer, Health::Down(_));
            if watched.take(answer, took) {
                let (service, address) = (backend.service(), backend.address());
                tracing::info!(%service, address, reachable, "reachability changed");
                changed = true;
            }
        }
        self.count();
        changed
    }

    async fn ask<'b>(&self, backend: &'b Backend) -> (&'b Backend, Health, Duration) {
        let service = backend.service();
        let answer = match backend {
            Backend::Kafka(cluster) => self.services.topics.ping(cluster),
            Backend::ClickHouse(server) => self.services.tables.ping(server),
            Backend::Redis(target) => self.services.quotas.ping(target),
        };
        let began = Instant::now();
        let health = match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(())) => Health::Up,
            Ok(Err(error)) => Health::Down(error),
            Err(_) => Health::Down(ProvisionError::Unavailable {
                service,
                address: backend.address(),
                detail: format!("no answer within {} ms", PATIENCE.as_millis()),
            }),
        };
        let failed = match &health {
            Health::Down(error) => Some(error.reason()),
            _ => None,
        };
        let took = began.elapsed();
        self.metrics.called(name(service), "ping", failed, took);
        (backend, health, took)
    }

    fn count(&self) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for service in [Service::Kafka, Service::ClickHouse, Service::Redis] {
            // Who is not let in is one pipeline's matter, and nothing that the address can help.
            let down = known.iter().filter(|(_, watched)| {
                matches!(watched.health, Health::Down(ProvisionError::Unavailable { .. }))
            });
            let down: BTreeSet<String> = down
                .filter(|(backend, _)| backend.service() == service)
                .map(|(backend, _)| backend.address())
                .collect();
            self.metrics.unreachable(name(service), down.len());
        }
    }
}

/// A service as a label of a metric.
pub const fn name(service: Service) -> &'static str {
    match service {
        Service::Kafka => "kafka",
        Service::ClickHouse => "clickhouse",
        Service::Redis => "redis",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched() -> Watched {
        Watched {
            health: Health::Unknown,
            failed: 0,
            wanted: Instant::now(),
        }
    }

    fn down(detail: &str) -> Health {
        Health::Down(ProvisionError::Unavailable {
            service: Service::Kafka,
            address: "k:9092".into(),
            detail: detail.into(),
        })
    }

    #[test]
    fn a_refusal_is_believed_at_once_and_silence_the_second_time() {
        let (fast, slow) = (Duration::from_millis(5), PATIENCE);
        let mut address = watched();
        assert!(!address.take(Health::Up, fast), "up from the start is no news");
        assert!(address.take(down("refused"), fast));
        assert!(address.take(Health::Up, fast));
        assert!(!address.take(down("silent"), slow));
        assert_eq!(address.health, Health::Up, "one slow answer is no outage");
        assert!(!address.take(Health::Up, fast));
        assert!(!address.take(down("silent"), slow), "the count starts again");
        assert!(address.take(down("silent"), slow));
        assert!(!address.take(down("other words"), slow));
        assert_eq!(address.health, down("silent"), "the first words stay");
    }
}
