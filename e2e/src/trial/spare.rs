//! A Kafka that a test may kill while others run: one of the kit's spare clusters, one test's at a time.

use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::Turn;
use super::order::{Announced, Company};
use crate::component::Component;
use crate::error::{Error, Result};
use crate::instance::{Instance, NODE_ADDRESS, kafka_port};
use crate::kafka::SPARES;

static TURNS: [Mutex<()>; SPARES.len()] = [const { Mutex::new(()) }; SPARES.len()];

/// A spare cluster, running and this test's alone until dropped.
#[derive(Debug)]
pub struct SpareKafka<'a> {
    kit: &'a Instance,
    brokers: &'static [u8],
    _turn: MutexGuard<'static, ()>,
}

/// A spare cluster that is this test's, and does not run yet.
#[derive(Debug)]
pub struct Reserved {
    brokers: &'static [u8],
    turn: MutexGuard<'static, ()>,
}

impl Reserved {
    /// Waits for its turn.
    fn of(brokers: usize) -> Self {
        loop {
            for (brokers, turn) in SPARES.iter().zip(&TURNS).filter(|(ids, _)| ids.len() == brokers) {
                let turn = match turn.try_lock() {
                    Ok(turn) => turn,
                    // A test that failed with it leaves brokers that `start` puts right.
                    Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
                    Err(TryLockError::WouldBlock) => continue,
                };
                return Self { brokers, turn };
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Has it run.
    pub fn start(self, kit: &Instance) -> Result<SpareKafka<'_>> {
        let spare = SpareKafka {
            kit,
            brokers: self.brokers,
            _turn: self.turn,
        };
        spare.start()?;
        Ok(spare)
    }
}

impl SpareKafka<'_> {
    /// A turn beside others for a test that needs one of a single broker. There are few of them, so who waits for one
    /// takes nobody's place meanwhile, and who has one goes first.
    pub fn turn() -> Result<(Turn, Reserved)> {
        let announced = Announced::new(Company::Any);
        let reserved = Reserved::of(1);
        Ok((Turn::soon(announced)?, reserved))
    }

    /// One of three brokers, which keep every topic three times.
    pub fn three() -> Reserved {
        Reserved::of(3)
    }

    /// Where it is.
    pub fn bootstrap(&self) -> String {
        let addresses: Vec<String> = self
            .brokers
            .iter()
            .map(|&id| format!("{NODE_ADDRESS}:{}", kafka_port(id)))
            .collect();
        addresses.join(",")
    }

    /// What makes a pipeline use it: a line of its spec.
    pub fn spec(&self) -> String {
        format!("  kafka: {{bootstrap: '{}'}}\n", self.bootstrap())
    }

    /// What the kit calls its brokers.
    pub fn components(&self) -> impl Iterator<Item = Component> {
        self.brokers.iter().map(|&id| Component::Kafka(id))
    }

    /// Sends every broker a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        for broker in self.components() {
            let process = self
                .kit
                .process(broker)
                .ok_or_else(|| Error::new(format!("{} does not run", broker.name())))?;
            process.signal(signal)?;
        }
        Ok(())
    }

    /// Kills every broker, `kill -9`.
    pub fn kill(&self) -> Result<()> {
        self.components()
            .try_for_each(|broker| self.kit.kill(broker).map(drop))
    }

    /// Has all of it run again. All at once: one of three has no quorum, and would not become ready.
    pub fn start(&self) -> Result<()> {
        std::thread::scope(|scope| {
            let starting: Vec<_> = self
                .components()
                .map(|broker| scope.spawn(move || self.kit.start(broker).map(drop)))
                .collect();
            starting.into_iter().try_for_each(|one| {
                one.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })
    }
}

impl Drop for SpareKafka<'_> {
    fn drop(&mut self) {
        // A test may have failed while it stood still. That a broker does not run is no matter: the next one starts it.
        let _ = self.signal(Signal::SIGCONT);
    }
}
