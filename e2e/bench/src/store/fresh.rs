//! How long it takes until an event that is sent can be read, under a steady load.

use std::time::Duration;

use penstock_e2e::{Error, Result};

use crate::load::{Pace, percentile};
use crate::measure::Bench;
use crate::plan::Workload;
use crate::store::pipeline::{Pipeline, Stack};
use crate::store::seen::Watch;
use crate::store::table::Store;

/// Nothing counts before it.
const SETTLING: Duration = Duration::from_secs(3);

/// Half and 99 of 100 are not above these, milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    pub p50: f64,
    pub p99: f64,
}

impl Spread {
    pub fn of(mut milliseconds: Vec<u32>) -> Self {
        milliseconds.sort_unstable();
        let at = |share| f64::from(percentile(&milliseconds, share));
        Self {
            p50: at(0.5),
            p99: at(0.99),
        }
    }
}

/// How fresh what is stored is.
#[derive(Clone, Copy, Debug)]
pub struct Fresh {
    pub stack: &'static str,
    /// Events of one request.
    pub events: usize,
    /// Events a second.
    pub rate: f64,
    /// From when a request was due to when its rows could be read.
    pub sent: Spread,
    /// From when the server had read a request (`received_at`) to when its rows could be read.
    pub received: Spread,
    /// The age of the newest stored event, looked at again and again.
    pub newest: Spread,
}

/// Sends `rate` events a second for so long.
pub fn fresh(
    bench: &Bench,
    store: &Store,
    stack: &Stack,
    workload: Workload,
    rate: f64,
    time: Duration,
) -> Result<Fresh> {
    let mut pipeline = Pipeline::start(bench, store, stack)?;
    let mut load = pipeline.load(workload)?;
    load.keep_journal();
    let watch = Watch::start(&pipeline.table, workload.events);
    let pace = Pace::Rate(rate / workload.events as f64);
    let settling = load.run(pace, SETTLING)?;
    watch.count_ages();
    let stats = load.run(pace, time)?;
    watch.leave_ages();
    let due = load.take_journal();
    let rest = load.finish()?;
    pipeline.count(&[&settling, &stats, &rest], workload)?;
    pipeline.wait()?;
    let sights = watch.stop()?;
    pipeline.finish()?;
    pipeline.table.merge()?;
    let seen: Vec<_> = sights.requests().collect();
    if seen.len() != due.len() {
        return Err(Error::new(format!(
            "{} of {} requests were seen",
            seen.len(),
            due.len()
        )));
    }
    let settled = due.first().map(|first| *first + SETTLING);
    let counted = || {
        let pairs = due.iter().zip(&seen);
        pairs.filter(|(due, _)| settled.is_some_and(|settled| **due >= settled))
    };
    let milliseconds = |time: i64| u32::try_from(time.max(0)).unwrap_or(u32::MAX);
    let sent = counted().map(|(due, sight)| sight.at.saturating_duration_since(*due).as_millis() as u32);
    let received = counted().map(|(_, sight)| milliseconds(sight.after_receipt));
    Ok(Fresh {
        stack: stack.name,
        events: workload.events,
        rate: (stats.acknowledged * workload.events as u64) as f64 / stats.elapsed.as_secs_f64(),
        sent: Spread::of(sent.collect()),
        received: Spread::of(received.collect()),
        newest: Spread::of(sights.ages.iter().copied().map(milliseconds).collect()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_of_ranks() {
        let spread = Spread::of((1..=200).rev().collect());
        assert_eq!(
            spread,
            Spread {
                p50: 100.0,
                p99: 198.0
            }
        );
        assert_eq!(Spread::of(Vec::new()), Spread::default());
    }
}
