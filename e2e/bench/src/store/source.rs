//! A topic that holds a backlog: filled once, read by every sink in a group of its own.

use penstock_e2e::{Error, Result};

use crate::corpus::Encoding;
use crate::load::Load;
use crate::measure::Bench;
use crate::plan::{Drive, Workload};
use crate::server::Server;

/// Events of the requests that fill a topic.
pub const BATCH: u64 = 1000;
/// How they are sent.
pub const BATCHES: Workload = Workload::new(BATCH as usize, Encoding::Plain, Drive::Full);

/// A topic and how many events it holds.
#[derive(Clone, Debug)]
pub struct Source {
    pub topic: String,
    pub events: u64,
}

impl Source {
    /// Sends `events` events, a multiple of [`BATCH`], through `server` into a new topic.
    pub fn fill(bench: &Bench, server: &Server, events: u64) -> Result<Self> {
        let topic = bench.topic()?;
        let running = server.start(&bench.bootstrap, &topic)?;
        let shape = bench.shape(server, BATCHES);
        let mut load = Load::connect(running.address, BATCHES.connections, &shape)?;
        begin(&mut load)?;
        let stats = load.send_all(events / BATCH - 1)?;
        if stats.acknowledged != events / BATCH - 1 {
            return Err(Error::new(format!(
                "{} of {} requests that fill a topic were acknowledged",
                stats.acknowledged,
                events / BATCH - 1
            )));
        }
        Ok(Self { topic, events })
    }
}

/// One request that is acknowledged. A topic that was just made is not known to every client at once; what is refused
/// before is not stored, or the count of the rows will tell.
pub fn begin(load: &mut Load) -> Result<()> {
    const TRIES: usize = 50;
    for _ in 0..TRIES {
        if load.send_all(1)?.acknowledged == 1 {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    Err(Error::new("the server refuses every request"))
}
