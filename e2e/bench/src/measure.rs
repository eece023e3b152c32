//! One run: a fresh process and a fresh topic, a warm-up, the measurement, and the count of what was stored.

use std::cell::Cell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use penstock_e2e::{Error, Result};
use serde::Serialize;

use crate::corpus::Shape;
use crate::load::{Load, Pace, Stats, percentile};
use crate::plan::Workload;
use crate::process;
use crate::server::{KEY, Running, Server};
use crate::topic::{Record, Topics};

/// Where and for how long is measured.
#[derive(Debug)]
pub struct Bench {
    pub bootstrap: String,
    pub topics: Topics,
    pub warm_up: Duration,
    pub time: Duration,
    sequence: Cell<u32>,
}

/// The figures of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    pub server: String,
    pub workload: Workload,
    /// Events a second.
    pub rate: f64,
    /// User and system time of the server for one event, microseconds.
    pub cpu: f64,
    /// Milliseconds; paced loads count from when a request was due.
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    /// Most memory that was resident since the start, bytes.
    pub peak: u64,
    /// Requests that were not acknowledged.
    pub failed: u64,
    /// Events acknowledged from the first to the last request, the warm-up's too.
    pub acknowledged: u64,
    /// Events in the topic afterwards; none for servers without one.
    pub stored: Option<u64>,
    pub first_refusal: Option<String>,
}

impl Sample {
    /// Whether what was acknowledged is stored, and nothing that was never sent.
    pub fn adds_up(&self) -> bool {
        let failed = self.failed * self.workload.events as u64;
        self.stored
            .is_none_or(|stored| (self.acknowledged..=self.acknowledged + failed).contains(&stored))
    }
}

impl Bench {
    pub fn new(bootstrap: String, warm_up: Duration, time: Duration) -> Result<Self> {
        Ok(Self {
            topics: Topics::at(&bootstrap)?,
            bootstrap,
            warm_up,
            time,
            sequence: Cell::new(0),
        })
    }

    /// What the events' clocks say.
    pub fn now_ms(&self) -> i64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
    }

    /// What this server is sent under this load.
    pub fn shape(&self, server: &Server, workload: Workload) -> Shape<'static> {
        Shape {
            protocol: server.kind.protocol(),
            events: workload.events,
            encoding: workload.encoding,
            key: KEY,
            now: self.now_ms(),
        }
    }

    /// A topic of its own for one run.
    pub fn topic(&self) -> Result<String> {
        let number = self.sequence.get() + 1;
        self.sequence.set(number);
        let name = format!("bench-{}-{number}", std::process::id());
        self.topics.create(&name)?;
        Ok(name)
    }

    /// Runs one server under one load, at `rate` events a second or as fast as it answers.
    pub fn run(&self, server: &Server, workload: Workload, rate: Option<f64>) -> Result<Sample> {
        let record = server.kind.record(workload.events);
        let topic = match record {
            Some(_) => self.topic()?,
            None => String::new(),
        };
        let running = server.start(&self.bootstrap, &topic)?;
        let measured = self.drive(server, &running, workload, rate, &topic)?;
        drop(running);
        self.close(measured, record, &topic)
    }

    /// Counts what a run left in its topic, and removes the topic.
    pub fn close(&self, mut sample: Sample, record: Option<Record>, topic: &str) -> Result<Sample> {
        if let Some(record) = record {
            sample.stored = Some(self.topics.count(topic, record)?);
            self.topics.delete(topic)?;
        }
        Ok(sample)
    }

    /// Drives a server that runs. CPU counts from the end of the warm-up until everything that was answered since is
    /// written, also what a server writes behind its answers.
    pub fn drive(
        &self,
        server: &Server,
        running: &Running,
        workload: Workload,
        rate: Option<f64>,
        topic: &str,
    ) -> Result<Sample> {
        let shape = self.shape(server, workload);
        let pace = rate.map_or(Pace::Closed, |rate| Pace::Rate(rate / workload.events as f64));
        let first = self.first_answers(running, &shape)?;
        let mut load = Load::connect(running.address, workload.connections, &shape)?;
        let warm = load.run(pace, self.warm_up)?;
        let before = process::cpu(running.pid())?;
        let mut stats = load.run(pace, self.time)?;
        let rest = load.finish()?;
        if server.kind.answers_first() {
            self.topics.settle(topic)?;
        }
        let cpu = process::cpu(running.pid())?.saturating_sub(before);
        let peak = process::memory(running.pid())?.peak;
        stats.latencies.sort_unstable();
        let milliseconds = |share| f64::from(percentile(&stats.latencies, share)) / 1000.0;
        let events = workload.events as u64;
        let counted = (stats.acknowledged + rest.acknowledged) * events;
        let all = [&first, &warm, &stats, &rest];
        let sum = |of: fn(&Stats) -> u64| all.iter().map(|stats| of(stats)).sum::<u64>();
        Ok(Sample {
            server: server.name.clone(),
            workload,
            rate: (stats.acknowledged * events) as f64 / stats.elapsed.as_secs_f64(),
            cpu: cpu.as_secs_f64() * 1e6 / counted.max(1) as f64,
            p50: milliseconds(0.5),
            p99: milliseconds(0.99),
            p999: milliseconds(0.999),
            peak,
            failed: sum(|stats| stats.refused + stats.broken),
            acknowledged: sum(|stats| stats.acknowledged) * events,
            stored: None,
            first_refusal: all.iter().find_map(|stats| stats.first_refusal.clone()),
        })
    }

    /// A topic that was just made is not known to every client at once: what is refused before the first answer is good
    /// counts as nothing. Gives what was acknowledged.
    pub fn first_answers(&self, running: &Running, shape: &Shape<'_>) -> Result<Stats> {
        const EACH: Duration = Duration::from_millis(20);
        const TRIES: usize = 250;
        for _ in 0..TRIES {
            let mut load = Load::connect(running.address, 1, shape)?;
            let mut stats = load.run(Pace::Closed, EACH)?;
            let rest = load.finish()?;
            stats.acknowledged += rest.acknowledged;
            if stats.acknowledged > 0 {
                (stats.refused, stats.broken, stats.first_refusal) = (0, 0, None);
                return Ok(stats);
            }
            std::thread::sleep(EACH);
        }
        Err(Error::new("the server refuses every request"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::LONE;

    #[test]
    fn what_was_acknowledged_has_to_be_stored() {
        let sample = |acknowledged, failed, stored| Sample {
            server: "s".into(),
            workload: Workload { events: 10, ..LONE },
            rate: 0.0,
            cpu: 0.0,
            p50: 0.0,
            p99: 0.0,
            p999: 0.0,
            peak: 0,
            failed,
            acknowledged,
            stored,
            first_refusal: None,
        };
        assert!(sample(100, 0, Some(100)).adds_up() && sample(100, 0, None).adds_up());
        assert!(!sample(100, 0, Some(99)).adds_up() && !sample(100, 0, Some(101)).adds_up());
        // A request that failed may be stored or not.
        assert!(sample(100, 2, Some(120)).adds_up() && !sample(100, 2, Some(121)).adds_up());
    }
}
