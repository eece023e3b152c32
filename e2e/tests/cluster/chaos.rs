//! One process after the other is killed, and nothing that was acknowledged is lost or stored twice.

use std::time::{Duration, Instant};

use penstock_e2e::penstock::NAMESPACE;
use penstock_e2e::trial::{APP, Acknowledged, SpareKafka, Trial, Turn, at_length, kill_operator, within};
use penstock_e2e::{Component, Instance, Result};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng as _};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

/// Gives the order of deaths and what is between them; another one is another run.
const SEED: u64 = 20_261_121;
const INGEST: usize = 2;
const CONSUMERS: usize = 3;
const EVENTS: usize = 50_000;
/// How often each is killed at least, when ten minutes are taken: of the 200 s of such a round a broker is away for 60 at most,
/// which leaves more than 20 for each to be back in. On two cores it takes one to five, and ten rounds are made.
const ROUNDS_AT_LENGTH: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Ingest,
    Consumer,
    Operator,
    Broker,
    Redis,
    ClickHouse,
}

const VICTIMS: [Victim; 6] = [
    Victim::Ingest,
    Victim::Consumer,
    Victim::Operator,
    Victim::Broker,
    Victim::Redis,
    Victim::ClickHouse,
];

struct World<'a> {
    kit: &'a Instance,
    trial: &'a Trial<'a>,
    kafka: &'a SpareKafka<'a>,
}

impl World<'_> {
    /// Whether what was killed last is back, and every topic has its three copies.
    fn is_well(&self) -> Result<bool> {
        let ready = |component: &str| -> Result<usize> {
            Ok(self.trial.pods(component)?.iter().filter(|pod| pod.ready).count())
        };
        let path = "jsonpath={.status.availableReplicas}";
        let operators =
            self.kit
                .kubectl_output(&["-n", NAMESPACE, "get", "deployment", "penstock", "-o", path])?;
        Ok(ready("ingest")? == INGEST
            && ready("consume")? == CONSUMERS
            && operators == "1"
            && in_sync(&self.kafka.bootstrap()) == Some(3))
    }

    /// `kill -9`; who does not come back by himself is started. Gives the name of the dead.
    fn kill(&self, victim: Victim, random: &mut StdRng) -> Result<String> {
        match victim {
            Victim::Ingest => self.replace(self.trial.kill("ingest")?, self.trial.namespace()),
            Victim::Consumer => self.replace(self.trial.kill("consume")?, self.trial.namespace()),
            Victim::Operator => self.replace(kill_operator(self.kit)?, NAMESPACE),
            Victim::Broker => {
                let brokers: Vec<Component> = self.kafka.components().collect();
                let broker = *brokers.choose(random).expect("there are brokers");
                let away = if at_length() { 1..60 } else { 1..5 };
                self.restart(broker, Duration::from_secs(random.random_range(away)))
            }
            // It keeps nothing on a disk: what it knew is gone.
            Victim::Redis => self.restart(Component::Redis, Duration::ZERO),
            Victim::ClickHouse => self.restart(
                Component::ClickHouse,
                Duration::from_secs(random.random_range(0..3)),
            ),
        }
    }

    /// Has another pod come at once: kubelet waits longer from crash to crash, which would set the pace.
    fn replace(&self, pod: String, namespace: &str) -> Result<String> {
        let delete = ["-n", namespace, "delete", "pod", &pod, "--wait=false"];
        self.kit.kubectl_output(&delete)?;
        Ok(pod)
    }

    fn restart(&self, component: Component, after: Duration) -> Result<String> {
        self.kit.kill(component)?;
        std::thread::sleep(after);
        self.kit.start(component)?;
        Ok(component.name())
    }
}

#[test]
fn every_acknowledged_event_is_stored_once_whatever_is_killed() -> Result<()> {
    let kit = Turn::alone()?;
    let kafka = SpareKafka::three().start(&kit)?;
    let spec = format!(
        "  ingest: {{scaling: {{replicas: {INGEST}}}}}\n  consume: {{scaling: {{replicas: {CONSUMERS}}}}}\n  \
         kafka: {{bootstrap: '{}', partitions: 6}}\n",
        kafka.bootstrap()
    );
    let trial = Trial::start(&kit, "chaos", &spec)?;
    // More than is sent, so that no event is refused; but pods have to agree in Redis on what each may admit.
    let quota = "{displayName: Trial, quota: {eventsPerSecond: 100000}}";
    trial.apply(&trial.app(APP).replace("{displayName: Trial}", quota))?;
    let world = World {
        kit: &kit,
        trial: &trial,
        kafka: &kafka,
    };
    let traffic = trial.traffic(APP)?;
    let lasts = Duration::from_secs(if at_length() { 600 } else { 90 });
    println!("seed {SEED}");
    let send = || traffic.send(2000, 20, 4, Duration::from_millis(100), Duration::from_secs(120));
    let (mut sent, killed) = Acknowledged::meanwhile(send, || kill_in_turn(&world, lasts))?;
    while sent.ids.len() < EVENTS {
        sent.merge(send()?);
    }
    println!(
        "{killed} killed, {} acknowledged, {} attempts failed, slowest answer {:?}",
        sent.ids.len(),
        sent.failed,
        sent.slowest
    );
    let rounds = if at_length() { ROUNDS_AT_LENGTH } else { 1 };
    assert!(
        killed >= rounds * VICTIMS.len(),
        "not each of them was killed {rounds} times: {killed}"
    );
    trial.ready()?;
    trial.settle(&sent, Duration::from_secs(120))
}

/// One at a time, the next when the last is back; all in turn, in another order each time. How many that were.
fn kill_in_turn(world: &World<'_>, lasts: Duration) -> Result<usize> {
    let mut random = StdRng::seed_from_u64(SEED);
    let (began, mut killed, mut order) = (Instant::now(), 0, Vec::new());
    while began.elapsed() < lasts {
        let took = within(90, "all are well again", || world.is_well())?;
        if order.is_empty() {
            order = VICTIMS.to_vec();
            order.shuffle(&mut random);
        }
        let Some(victim) = order.pop() else { break };
        std::thread::sleep(Duration::from_millis(random.random_range(0..2000)));
        let name = world.kill(victim, &mut random)?;
        println!(
            "{:?}: all were well after {took:?}; killed {name}",
            began.elapsed()
        );
        killed += 1;
    }
    Ok(killed)
}

/// Of the partition that has the fewest: how many brokers keep a copy that is up to date.
fn in_sync(bootstrap: &str) -> Option<usize> {
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .create()
        .expect("a client");
    let metadata = client.fetch_metadata(None, Duration::from_secs(5)).ok()?;
    let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
    partitions.map(|partition| partition.isr().len()).min()
}
