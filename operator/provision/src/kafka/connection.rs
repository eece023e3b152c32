//! Connections to Kafka clusters: one for each address and each who asks there, made when needed, dropped when idle or
//! broken.
//!
//! librdkafka's calls either block or wait for the broker; here every one is bounded, and the blocking ones run on
//! threads that may block, so that a dead broker never holds up a reconcile of something else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use penstock_dataplane_config::KafkaCluster;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;
use rdkafka::producer::FutureProducer;

use super::super::error::ProvisionError;
use super::failure;
use super::registry::Known;

/// For any one question to the cluster. A pipeline must say within 15 s that Kafka is away, and asks twice at most
/// before it knows.
pub(super) const ANSWER: Duration = Duration::from_secs(4);
/// For a cluster that does not answer to say why.
const REFUSAL: Duration = Duration::from_millis(1500);
const IDLE: Duration = Duration::from_secs(60);
const SWEEP: Duration = Duration::from_secs(20);

/// The clients of one cluster: librdkafka administers, reads and writes through one each.
pub(super) struct Clients {
    pub admin: AdminClient<DefaultClientContext>,
    /// Asks for metadata too. A producer that asks about a missing topic makes some brokers create it; a consumer
    /// says that it must not.
    pub reader: BaseConsumer,
    cluster: KafkaCluster,
    /// Made when something is written for the first time.
    producer: Mutex<Option<FutureProducer>>,
}

impl Clients {
    /// How long the cluster has to say that it is there. Where it may refuse somebody, it must be asked why in the time that
    /// is left.
    pub(super) fn patience(&self) -> Duration {
        match self.cluster.tls.is_some() || self.cluster.sasl.is_some() {
            true => ANSWER - REFUSAL - Duration::from_millis(700),
            false => ANSWER,
        }
    }

    /// For the ownership registry.
    pub(super) fn producer(&self) -> Result<FutureProducer, KafkaError> {
        let mut producer = self.producer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = producer.as_ref() {
            return Ok(made.clone());
        }
        let made: FutureProducer = client_config(&self.cluster)?
            .set("acks", "all")
            .set("linger.ms", "0")
            .set("message.timeout.ms", ANSWER.as_millis().to_string())
            .create()?;
        *producer = Some(made.clone());
        Ok(made)
    }
}

fn client_config(cluster: &KafkaCluster) -> Result<ClientConfig, KafkaError> {
    let mut config = penstock_connect::kafka::client(cluster)?;
    config
        .set("client.id", "penstock-operator")
        .set(
            "socket.connection.setup.timeout.ms",
            ANSWER.as_millis().to_string(),
        )
        .set("reconnect.backoff.max.ms", "1000")
        // An operator that speaks now and then finds half-open connections otherwise only by a timeout.
        .set("socket.keepalive.enable", "true");
    Ok(config)
}

/// One cluster.
pub(super) struct Connection {
    pub bootstrap: String,
    /// Always there until dropped.
    clients: Option<Arc<Clients>>,
    /// What the ownership registry said last, and the right to change it: reading, deciding and writing are one step.
    pub registry: Registry,
}

impl Connection {
    fn open(cluster: KafkaCluster, registry: Registry) -> Result<Self, ProvisionError> {
        let refused = |error: KafkaError| failure::unavailable(&cluster.bootstrap, error.to_string());
        let mut config = client_config(&cluster).map_err(refused)?;
        let admin = config.create().map_err(refused)?;
        let reader = config
            // Never joins the group; librdkafka asks for a name.
            .set("group.id", "penstock-operator")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            // The end of the registry is worth no waiting: what is there is there.
            .set("fetch.wait.max.ms", "10")
            .set("allow.auto.create.topics", "false")
            .create()
            .map_err(refused)?;
        Ok(Self {
            bootstrap: cluster.bootstrap.clone(),
            clients: Some(Arc::new(Clients {
                admin,
                reader,
                cluster,
                producer: Mutex::default(),
            })),
            registry,
        })
    }

    /// Why the cluster lets nobody in, where that is what is wrong: it looks like one that is away, but is not mended by
    /// waiting.
    pub(super) async fn refusal(&self) -> Option<String> {
        let cluster = self.clients().cluster.clone();
        if cluster.tls.is_none() && cluster.sasl.is_none() {
            return None;
        }
        let asked = tokio::task::spawn_blocking(move || penstock_connect::kafka::diagnose(&cluster, REFUSAL));
        asked.await.ok().flatten()
    }

    pub(super) fn clients(&self) -> Arc<Clients> {
        Arc::clone(
            self.clients
                .as_ref()
                .expect("the clients go only with the connection"),
        )
    }

    /// Runs what blocks.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Clients) -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<T, ProvisionError> {
        let clients = self.clients();
        match tokio::task::spawn_blocking(move || ask(&clients)).await {
            Ok(answer) => answer.map_err(|error| failure::request(&self.bootstrap, &error)),
            Err(_) => Err(failure::unavailable(
                &self.bootstrap,
                "the operator is shutting down",
            )),
        }
    }

    /// Runs an administrative request. The outer bound is for an answer that never comes at all.
    pub(super) async fn administer<T, F>(
        &self,
        ask: impl FnOnce(Arc<Clients>) -> F,
    ) -> Result<T, ProvisionError>
    where
        F: Future<Output = Result<T, KafkaError>>,
    {
        match tokio::time::timeout(ANSWER + Duration::from_secs(1), ask(self.clients())).await {
            Ok(answer) => answer.map_err(|error| failure::request(&self.bootstrap, &error)),
            Err(_) => Err(failure::unavailable(&self.bootstrap, "no answer in time")),
        }
    }
}

/// Closing a client waits for its threads, so it is not done on a thread that reconciles.
impl Drop for Connection {
    fn drop(&mut self) {
        let clients = self.clients.take();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || drop(clients));
        }
    }
}

/// Bounds of an administrative request: the broker's own work, and the way there and back.
pub(super) fn options() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(ANSWER))
        .operation_timeout(Some(ANSWER - Duration::from_millis(500)))
}

/// What the ownership registry of a cluster said last, and the right to change it.
type Registry = Arc<tokio::sync::Mutex<Known>>;

#[derive(Default)]
struct Held {
    /// With when each was used last.
    connections: HashMap<KafkaCluster, (Arc<Connection>, Instant)>,
    /// By bootstrap address. They outlive connections: who holds a failed one and who opened the next must still take turns,
    /// as must two users of one cluster.
    registries: HashMap<String, Registry>,
}

/// All connections.
#[derive(Clone)]
pub(super) struct Connections(Arc<Mutex<Held>>);

impl Connections {
    /// Must be called within a runtime: closes idle connections in the background while it exists.
    pub(super) fn new() -> Self {
        let held = Arc::default();
        tokio::spawn(sweep(Arc::downgrade(&held)));
        Self(held)
    }

    pub(super) fn get(&self, cluster: &KafkaCluster) -> Result<Arc<Connection>, ProvisionError> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((there, used)) = held.connections.get_mut(cluster) {
            *used = Instant::now();
            return Ok(Arc::clone(there));
        }
        let registry = held.registries.entry(cluster.bootstrap.clone()).or_default();
        let connection = Arc::new(Connection::open(cluster.clone(), Arc::clone(registry))?);
        let entry = (Arc::clone(&connection), Instant::now());
        held.connections.insert(cluster.clone(), entry);
        Ok(connection)
    }

    /// Forgets a connection that failed. Its clients would wait out their back-off, and collect errors that nobody
    /// reads; a new one tries at once.
    pub(super) fn forget(&self, connection: &Arc<Connection>) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.connections
            .retain(|_, (there, _)| !Arc::ptr_eq(there, connection));
    }
}

async fn sweep(held: Weak<Mutex<Held>>) {
    let mut tick = tokio::time::interval(SWEEP);
    loop {
        tick.tick().await;
        let Some(held) = held.upgrade() else {
            return;
        };
        let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
        held.connections.retain(|_, (_, used)| used.elapsed() < IDLE);
    }
}
