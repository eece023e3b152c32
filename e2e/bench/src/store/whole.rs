//! What an event costs from HTTP to its row: server, sink and ClickHouse together.

use std::time::{Duration, Instant};

use penstock_e2e::Result;
use serde::Serialize;

use crate::measure::Bench;
use crate::store::catch_up::BEHIND;
use crate::store::pipeline::{Pipeline, Stack};
use crate::store::source::{BATCH, BATCHES};
use crate::store::table::Store;

/// The figures of one run; CPU in microseconds an event.
#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    pub stack: &'static str,
    pub server: f64,
    pub sink: f64,
    /// Merges were stopped.
    pub store: f64,
    /// Of ClickHouse, for merges that came afterwards.
    pub merges: f64,
    /// Events a second, from the first request to the last row.
    pub rate: f64,
}

impl Cost {
    /// Without merges.
    pub fn total(&self) -> f64 {
        self.server + self.sink + self.store
    }
}

/// Sends `events` events, a multiple of [`BATCH`], as fast as they are taken.
pub fn whole(bench: &Bench, store: &Store, stack: &Stack, events: u64) -> Result<Cost> {
    let mut pipeline = Pipeline::start(bench, store, stack)?;
    pipeline.table.stop_merges()?;
    let mut load = pipeline.load(BATCHES)?;
    let (before, since, began) = (pipeline.cpu()?, store.now()?, Instant::now());
    let stats = load.send_all(events / BATCH)?;
    pipeline.count(&[&stats], BATCHES)?;
    pipeline.wait()?;
    let took = began.elapsed();
    std::thread::sleep(BEHIND);
    let (own, stored) = (pipeline.cpu()?.since(before), store.spent(since)?);
    pipeline.finish()?;
    let since = store.now()?;
    pipeline.table.merge()?;
    let merges = store.spent(since)?;
    let each = |time: Duration| time.as_secs_f64() * 1e6 / events as f64;
    Ok(Cost {
        stack: stack.name,
        server: each(own.server),
        sink: each(own.sink),
        store: each(stored),
        merges: each(merges),
        rate: events as f64 / took.as_secs_f64(),
    })
}
