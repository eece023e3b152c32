//! What few events cost: how many INSERTs they become, and how busy ClickHouse is with them.

use std::time::Duration;

use penstock_e2e::Result;

use crate::corpus::Encoding;
use crate::load::Pace;
use crate::measure::Bench;
use crate::plan::{Drive, Workload};
use crate::store::pipeline::{Pipeline, Stack};
use crate::store::table::Store;

/// Events a second, each a request of its own.
pub const RATE: f64 = 1000.0;
const SINGLE: Workload = Workload::new(1, Encoding::Plain, Drive::Full);
/// Until the rhythm of the INSERTs does not show the start any more.
const SETTLING: Duration = Duration::from_secs(4);

/// The figures of a quiet pipeline.
#[derive(Clone, Copy, Debug)]
pub struct Quiet {
    pub stack: &'static str,
    /// A second.
    pub inserts: f64,
    /// Of a core, with merges.
    pub store: f64,
    /// Of a core, while nothing was stored.
    pub store_at_rest: f64,
    pub sink: f64,
    pub server: f64,
}

/// Measures for so long.
pub fn quiet(bench: &Bench, store: &Store, stack: &Stack, time: Duration) -> Result<Quiet> {
    let mut pipeline = Pipeline::start(bench, store, stack)?;
    let since = store.now()?;
    std::thread::sleep(time / 4);
    let at_rest = store.share(since)?;

    let mut load = pipeline.load(SINGLE)?;
    let settling = load.run(Pace::Rate(RATE), SETTLING)?;
    let (before, since, inserts) = (pipeline.cpu()?, store.now()?, store.inserts()?);
    let stats = load.run(Pace::Rate(RATE), time)?;
    let (own, stored) = (pipeline.cpu()?.since(before), store.share(since)?);
    let inserts = store.inserts()? - inserts;
    let rest = load.finish()?;
    pipeline.count(&[&settling, &stats, &rest], SINGLE)?;
    pipeline.finish()?;
    pipeline.table.merge()?;
    let share = |time: Duration| time.as_secs_f64() / stats.elapsed.as_secs_f64();
    Ok(Quiet {
        stack: stack.name,
        inserts: inserts as f64 / stats.elapsed.as_secs_f64(),
        store: stored,
        store_at_rest: at_rest,
        sink: share(own.sink),
        server: share(own.server),
    })
}
