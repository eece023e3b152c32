//! A whole pipeline of one run: a server, its topic, a sink and its table.

use std::time::Duration;

use penstock_e2e::{Error, Result};

use crate::corpus::Encoding;
use crate::load::{Load, Stats};
use crate::measure::Bench;
use crate::plan::{Drive, Workload};
use crate::process;
use crate::server::{self, Server};
use crate::store::sink::{self, Sink};
use crate::store::source::begin;
use crate::store::table::{Store, Stored, Table};

/// Numbers of the events that a pipeline is begun with; those of its loads are lower.
pub const FIRST_NUMBER: u64 = 1 << 40;

/// A server and a sink that are measured together.
#[derive(Clone, Debug)]
pub struct Stack {
    pub name: &'static str,
    pub server: Server,
    pub sink: Sink,
    /// Whether its table has rollups.
    pub counted: bool,
}

/// A stack that runs; its topic and its table hold one event.
#[derive(Debug)]
pub struct Pipeline<'b> {
    bench: &'b Bench,
    topic: String,
    pub server: server::Running,
    pub sink: sink::Running,
    pub table: Table,
    stack: &'b Stack,
    /// Events acknowledged so far.
    sent: u64,
}

/// User and system time of the two processes so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    pub server: Duration,
    pub sink: Duration,
}

impl Cpu {
    /// What was spent since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            server: self.server.saturating_sub(before.server),
            sink: self.sink.saturating_sub(before.sink),
        }
    }
}

impl<'b> Pipeline<'b> {
    /// Starts everything and sends one event, so that the sink has joined its group.
    pub fn start(bench: &'b Bench, store: &Store, stack: &'b Stack) -> Result<Self> {
        let (topic, table) = (bench.topic()?, store.table(stack.counted)?);
        let server = stack.server.start(&bench.bootstrap, &topic)?;
        let mut sink = stack.sink.start(&bench.bootstrap, &topic, store, &table)?;
        let one = Workload::new(1, Encoding::Plain, Drive::Full);
        let mut load = Load::connect(server.address, 1, &bench.shape(&stack.server, one))?;
        load.number_from(FIRST_NUMBER);
        begin(&mut load)?;
        table.wait_for_rows(1, || sink.must_run())?;
        Ok(Self {
            bench,
            topic,
            server,
            sink,
            table,
            stack,
            sent: 1,
        })
    }

    /// Connections whose events have numbers from 0.
    pub fn load(&self, workload: Workload) -> Result<Load> {
        let shape = self.bench.shape(&self.stack.server, workload);
        Load::connect(self.server.address, workload.connections, &shape)
    }

    /// Counts what was acknowledged; an error where anything was not.
    pub fn count(&mut self, stats: &[&Stats], workload: Workload) -> Result<()> {
        for stats in stats {
            self.sent += stats.acknowledged * workload.events as u64;
            if stats.refused + stats.broken > 0 {
                return Err(Error::new(format!(
                    "{}: {} of its requests under {workload} failed: {}",
                    self.stack.name,
                    stats.refused + stats.broken,
                    stats.first_refusal.as_deref().unwrap_or("connections ended")
                )));
            }
        }
        Ok(())
    }

    pub fn cpu(&self) -> Result<Cpu> {
        Ok(Cpu {
            server: process::cpu(self.server.pid())?,
            sink: self.sink.cpu()?.unwrap_or_default(),
        })
    }

    /// Waits until everything that was acknowledged is stored.
    pub fn wait(&mut self) -> Result<()> {
        let Self {
            table, sink, sent, ..
        } = self;
        table.wait_for_rows(*sent, || sink.must_run()).map(drop)
    }

    /// Waits until everything that was acknowledged is stored, and makes sure that it is there once.
    pub fn finish(&mut self) -> Result<Stored> {
        self.wait()?;
        let stored = self.table.stored()?;
        if stored.is(self.sent) {
            return Ok(stored);
        }
        Err(Error::new(format!(
            "{}: {} events were acknowledged, {stored:?} are stored",
            self.stack.name, self.sent
        )))
    }
}

impl Drop for Pipeline<'_> {
    fn drop(&mut self) {
        // Kafka has room for it, and the instance goes.
        let _ = self.bench.topics.delete(&self.topic);
    }
}
