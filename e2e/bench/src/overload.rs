//! Three times what ingest can take: the way to Kafka is made narrow, and more is sent than it lets through.

use std::time::Duration;

use penstock_e2e::{Error, Result};

use crate::corpus::Encoding;
use crate::load::{Load, Pace, percentile};
use crate::measure::Bench;
use crate::narrow::Narrow;
use crate::plan::{Drive, Workload};
use crate::server::Server;
use crate::summary::median;

/// Bytes a second that reach Kafka: a twentieth of what a core of ingest has to say.
pub const RATE: u32 = 8_000_000;
/// Times the capacity.
const FACTOR: f64 = 3.0;
/// Until refusals are the rule: who finds no room at first waits a second for it.
const SETTLING: Duration = Duration::from_secs(4);
/// Many more than the budget has room for.
const CONNECTIONS: usize = 256;
const BATCHES: Workload = Workload::new(1000, Encoding::Plain, Drive::Full);

/// What came of too much.
#[derive(Clone, Copy, Debug, Default)]
pub struct Overload {
    /// Events a second that are acknowledged when no more is sent than can be.
    pub capacity: f64,
    /// The same while three times as much is sent.
    pub goodput: f64,
    /// The latter of the former.
    pub share: f64,
    /// Requests that were refused, in all runs.
    pub refused: u64,
    /// Milliseconds from the beginning of a refused request to its answer.
    pub refusal_p50: f64,
    pub refusal_p99: f64,
    /// Whether everything acknowledged is stored, and nothing that was never sent.
    pub adds_up: bool,
}

/// Measures `server` in front of a Kafka that is far away; medians.
pub fn overload(bench: &Bench, server: &Server, runs: usize) -> Result<Overload> {
    let narrow = Narrow::before(&bench.bootstrap, RATE)?;
    let all: Vec<Overload> = (0..runs)
        .map(|_| once(bench, server, &narrow))
        .collect::<Result<_>>()?;
    for one in &all {
        eprintln!("{one:?}");
    }
    let of = |figure: fn(&Overload) -> f64| median(all.iter().map(figure).collect());
    Ok(Overload {
        capacity: of(|one| one.capacity),
        goodput: of(|one| one.goodput),
        share: of(|one| one.share),
        refused: all.iter().map(|one| one.refused).sum(),
        refusal_p50: of(|one| one.refusal_p50),
        refusal_p99: of(|one| one.refusal_p99),
        adds_up: all.iter().all(|one| one.adds_up),
    })
}

fn once(bench: &Bench, server: &Server, narrow: &Narrow) -> Result<Overload> {
    let topic = bench.topic()?;
    let running = server.start(&narrow.bootstrap, &topic)?;
    let shape = bench.shape(server, BATCHES);
    let first = bench.first_answers(&running, &shape)?;
    let time = bench.time.max(Duration::from_secs(5));

    let mut load = Load::connect(running.address, BATCHES.connections, &shape)?;
    let warm = load.run(Pace::Closed, bench.warm_up)?;
    let alone = load.run(Pace::Closed, time)?;
    let rest = load.finish()?;
    let requests = alone.acknowledged as f64 / alone.elapsed.as_secs_f64();

    let mut load = Load::connect(running.address, CONNECTIONS, &shape)?;
    let pace = Pace::Rate(FACTOR * requests);
    let settling = load.run(pace, SETTLING)?;
    let mut crowded = load.run(pace, time)?;
    let last = load.finish()?;
    drop(running);

    let stored = bench
        .topics
        .count(&topic, server.kind.record(BATCHES.events).ok_or_else(no_record)?)?;
    bench.topics.delete(&topic)?;
    let all = [&first, &warm, &alone, &rest, &settling, &crowded, &last];
    let events = BATCHES.events as u64;
    let acknowledged: u64 = all.iter().map(|stats| stats.acknowledged * events).sum();
    let failed: u64 = all
        .iter()
        .map(|stats| (stats.refused + stats.broken) * events)
        .sum();
    crowded.refusals.sort_unstable();
    let milliseconds = |share| f64::from(percentile(&crowded.refusals, share)) / 1000.0;
    let capacity = requests * events as f64;
    let goodput = (crowded.acknowledged * events) as f64 / crowded.elapsed.as_secs_f64();
    Ok(Overload {
        capacity,
        goodput,
        share: goodput / capacity,
        refused: crowded.refused,
        refusal_p50: milliseconds(0.5),
        refusal_p99: milliseconds(0.99),
        adds_up: (acknowledged..=acknowledged + failed).contains(&stored),
    })
}

fn no_record() -> Error {
    Error::new("a server without a topic has no capacity to be measured")
}
