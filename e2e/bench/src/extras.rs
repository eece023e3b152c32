//! Figures of ingest beside the loads: at rest, with too many big requests at once, and several processes together.

use std::time::Duration;

use penstock_e2e::error::Context as _;
use penstock_e2e::{Error, Result};

use crate::corpus::Encoding;
use crate::measure::{Bench, Sample};
use crate::plan::{Drive, Workload};
use crate::process;
use crate::server::{Running, Server};
use crate::summary::median;
use crate::topic::Record;

/// How long a process is left alone before its memory at rest is read.
const REST: Duration = Duration::from_secs(2);
/// More big requests at once than the budget has room for.
pub const CROWD: Workload = Workload {
    events: 1000,
    encoding: Encoding::Plain,
    connections: 256,
    drive: Drive::Full,
};

/// A process that has just started.
#[derive(Clone, Copy, Debug, Default)]
pub struct AtRest {
    /// Bytes.
    pub resident: f64,
    pub listening_after: Duration,
}

/// Memory at rest and the time to listening: the median of `runs`.
pub fn at_rest(bench: &Bench, server: &Server, runs: usize) -> Result<AtRest> {
    let (mut resident, mut listening) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let topic = bench.topic()?;
        let running = server.start(&bench.bootstrap, &topic)?;
        std::thread::sleep(REST);
        resident.push(process::memory(running.pid())?.resident as f64);
        listening.push(running.listening_after.as_secs_f64());
        drop(running);
        bench.topics.delete(&topic)?;
    }
    Ok(AtRest {
        resident: median(resident),
        listening_after: Duration::from_secs_f64(median(listening)),
    })
}

/// So many processes on the one core, each under the same load.
#[derive(Clone, Copy, Debug)]
pub struct Together {
    pub processes: usize,
    /// Events of one request.
    pub events: usize,
    /// Whether each is sent as much as it answers, and not an eighth of what one alone takes.
    pub at_full: bool,
    /// Events a second, of each process.
    pub rate: f64,
    /// Microseconds an event, the mean of the processes.
    pub cpu: f64,
}

/// 1, 2 and 4 processes, each at `rate` events a second in requests of `workload`, or as fast as it answers; the median
/// of `runs`.
pub fn together(
    bench: &Bench,
    server: &Server,
    workload: Workload,
    rate: Option<f64>,
    runs: usize,
) -> Result<Vec<Together>> {
    const PROCESSES: [usize; 3] = [1, 2, 4];
    let mut samples: [Vec<Sample>; PROCESSES.len()] = Default::default();
    for _ in 0..runs {
        for (slot, processes) in PROCESSES.into_iter().enumerate() {
            samples[slot].extend(side_by_side(bench, server, workload, rate, processes)?);
        }
    }
    let made = PROCESSES.into_iter().zip(samples).map(|(processes, samples)| {
        let of = |figure: fn(&Sample) -> f64| {
            let runs = samples.chunks(processes);
            median(
                runs.map(|run| run.iter().map(figure).sum::<f64>() / processes as f64)
                    .collect(),
            )
        };
        Together {
            processes,
            events: workload.events,
            at_full: rate.is_none(),
            rate: of(|sample| sample.rate),
            cpu: of(|sample| sample.cpu),
        }
    });
    Ok(made.collect())
}

fn side_by_side(
    bench: &Bench,
    server: &Server,
    workload: Workload,
    rate: Option<f64>,
    processes: usize,
) -> Result<Vec<Sample>> {
    let topic = bench.topic()?;
    let running = (0..processes)
        .map(|_| server.start(&bench.bootstrap, &topic))
        .collect::<Result<Vec<Running>>>()?;
    let (time, warm_up, bootstrap) = (bench.time, bench.warm_up, bench.bootstrap.as_str());
    let samples = std::thread::scope(|scope| {
        let loads: Vec<_> = running
            .iter()
            .map(|one| {
                let topic = topic.as_str();
                scope.spawn(move || {
                    Bench::new(bootstrap.to_owned(), warm_up, time)?.drive(server, one, workload, rate, topic)
                })
            })
            .collect();
        loads
            .into_iter()
            .map(|load| {
                load.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect::<Result<Vec<Sample>>>()
    })?;
    drop(running);
    let stored = bench.topics.count(&topic, Record::Lines)?;
    bench.topics.delete(&topic).doing("after a run")?;
    let acknowledged: u64 = samples.iter().map(|sample| sample.acknowledged).sum();
    let failed: u64 = samples.iter().map(|sample| sample.failed).sum();
    if failed == 0 && stored != acknowledged {
        return Err(Error::new(format!(
            "{acknowledged} events acknowledged, {stored} stored"
        )));
    }
    Ok(samples)
}
