//! One run of one sink over a backlog: a fresh table, group and process, until every row is there.

use std::time::Duration;

use penstock_e2e::Result;
use serde::Serialize;

use crate::measure::Bench;
use crate::store::sink::Sink;
use crate::store::source::Source;
use crate::store::table::{Store, Stored};

/// What a sink does behind its last row (commits, questions) is charged to it.
pub const BEHIND: Duration = Duration::from_millis(500);

/// Whether ClickHouse merges during a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merges {
    /// As always.
    Beside,
    /// Not until the run is over; then all at once, counted apart.
    Afterwards,
}

/// The figures of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    pub sink: String,
    pub events: u64,
    /// Rows a second, behind the first block; none where there was no other.
    pub rate: Option<f64>,
    /// User and system time of the sink's process for one row, microseconds; none where it has no process.
    pub cpu: Option<f64>,
    /// The same of ClickHouse.
    pub store: f64,
    /// The same of ClickHouse for merges that came afterwards; none where they were beside.
    pub merges: Option<f64>,
    /// Most memory of the sink that was resident, bytes.
    pub peak: Option<u64>,
    pub inserts: u64,
    pub stored: Stored,
    /// How often Penstock's consumer left the group; none of the others say.
    pub left: Option<u64>,
}

impl Sample {
    /// Whether rows, distinct events and events sent are the same.
    pub fn adds_up(&self) -> bool {
        self.stored.is(self.events)
    }
}

/// Runs it.
pub fn catch_up(
    bench: &Bench,
    store: &Store,
    sink: &Sink,
    source: &Source,
    merges: Merges,
) -> Result<Sample> {
    let table = store.table(false)?;
    if merges == Merges::Afterwards {
        table.stop_merges()?;
    }
    let each = |time: Duration| time.as_secs_f64() * 1e6 / source.events as f64;
    let (since, inserts) = (store.now()?, store.inserts()?);
    let mut running = sink.start(&bench.bootstrap, &source.topic, store, &table)?;
    let filling = table.wait_for_rows(source.events, || running.must_run())?;
    std::thread::sleep(BEHIND);
    let spent = store.spent(since)?;
    let mut sample = Sample {
        sink: sink.name(),
        events: source.events,
        rate: filling.rate(source.events),
        cpu: running.cpu()?.map(each),
        store: each(spent),
        merges: None,
        peak: running.peak()?,
        inserts: store.inserts()? - inserts,
        left: running.left_the_group()?,
        stored: table.stored()?,
    };
    drop(running);
    let since = store.now()?;
    // Also where they were beside: what is left of them is none of the next run's.
    table.merge()?;
    if merges == Merges::Afterwards {
        sample.merges = Some(each(store.spent(since)?));
    }
    Ok(sample)
}
