//! A dependency of everything goes away and comes back: it is a condition, then it is none, and nobody helped.

use std::time::Duration;

use nix::sys::signal::Signal;
use penstock_e2e::trial::{APP, SpareKafka, Trial, Turn};
use penstock_e2e::{Component, Error, Instance, Result};

const SPEC: &str = "  ingest: {scaling: {replicas: 1}}\n";

struct Outage<'a> {
    kit: &'a Instance,
    name: &'a str,
    component: Component,
    /// More of the pipeline's spec.
    spec: String,
    condition: &'a str,
    reason: &'a str,
    /// Whether events are taken meanwhile.
    accepted: bool,
}

fn comes_and_goes(outage: &Outage<'_>) -> Result<()> {
    let &Outage {
        kit,
        component,
        condition,
        accepted,
        ..
    } = outage;
    let trial = Trial::start(kit, outage.name, &format!("{SPEC}{}", outage.spec))?;
    let traffic = trial.traffic(APP)?;
    let mut sent = traffic.send(200, 10, 1, Duration::ZERO, Duration::from_secs(30))?;
    let process = kit
        .process(component)
        .ok_or_else(|| Error::new(format!("{component:?} does not run")))?;
    process.signal(Signal::SIGKILL)?;
    let (said, took) = trial.condition(condition, "False", Duration::from_secs(15))?;
    println!("{condition}=False/{said} after {took:?}");
    assert_eq!(said, outage.reason);
    let during = if accepted {
        // The table is away, the topic is not: events are taken as before.
        sent.merge(traffic.send(200, 10, 1, Duration::ZERO, Duration::from_secs(30))?);
        200
    } else {
        503
    };
    assert_eq!(traffic.once()?, during, "while {component:?} is away");
    kit.start(component)?;
    let (_, took) = trial.condition(condition, "True", Duration::from_secs(60))?;
    println!("{condition}=True {took:?} after the start");
    trial.ready()?;
    sent.merge(traffic.send(200, 10, 1, Duration::ZERO, Duration::from_secs(60))?);
    let restarts: u64 = ["ingest", "consume"]
        .iter()
        .map(|c| {
            trial
                .pods(c)
                .map(|pods| pods.iter().map(|p| p.restarts).sum::<u64>())
        })
        .sum::<Result<u64>>()?;
    assert_eq!(restarts, 0, "an outage is no reason to crash");
    trial.settle(&sent, Duration::from_secs(60))
}

#[test]
fn kafka_away() -> Result<()> {
    let (kit, kafka) = SpareKafka::turn()?;
    let kafka = kafka.start(&kit)?;
    comes_and_goes(&Outage {
        kit: &kit,
        name: "kafka",
        component: kafka.components().next().expect("a broker"),
        spec: kafka.spec(),
        condition: "TopicsReady",
        reason: "KafkaUnavailable",
        accepted: false,
    })
}

#[test]
fn clickhouse_away() -> Result<()> {
    let kit = Turn::alone()?;
    comes_and_goes(&Outage {
        kit: &kit,
        name: "clickhouse",
        component: Component::ClickHouse,
        spec: String::new(),
        condition: "TablesReady",
        reason: "ClickHouseUnavailable",
        accepted: true,
    })
}
