//! A Kafka that a test may kill while others run: the kit's spare broker, one test's at a time.

use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::signal::Signal;

use crate::component::Component;
use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::kafka::{SPARE, spare_bootstrap};

static TURN: Mutex<()> = Mutex::new(());
const BROKER: Component = Component::Kafka(SPARE);

/// The spare broker, running and this test's alone until dropped.
#[derive(Debug)]
pub struct SpareKafka<'a> {
    kit: &'a Instance,
    _turn: MutexGuard<'static, ()>,
}

impl<'a> SpareKafka<'a> {
    /// Waits for its turn.
    pub fn take(kit: &'a Instance) -> Result<Self> {
        // A test that failed with it leaves a broker that `start` puts right.
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        kit.start(BROKER)?;
        Ok(Self { kit, _turn: turn })
    }

    /// What makes a pipeline use it: a line of its spec.
    pub fn spec(&self) -> String {
        format!("  kafka: {{bootstrap: '{}'}}\n", spare_bootstrap())
    }

    /// Kills it, `kill -9`.
    pub fn kill(&self) -> Result<()> {
        let process = self
            .kit
            .process(BROKER)
            .ok_or_else(|| Error::new("the spare Kafka does not run"))?;
        process.signal(Signal::SIGKILL)
    }

    /// Has it run again.
    pub fn start(&self) -> Result<()> {
        self.kit.start(BROKER).map(drop)
    }
}
