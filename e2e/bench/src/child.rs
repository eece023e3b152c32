//! A program that is measured: started on a core of its own, watched until it is there, killed when it is dropped.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use penstock_e2e::error::Context as _;
use penstock_e2e::{Error, Result};

use crate::process;
use crate::server::LOAD_CORE;

const PATIENCE: Duration = Duration::from_secs(30);
/// How much of its log an error shows.
const LOG_LINES: usize = 12;

/// A process that this one has started.
#[derive(Debug)]
pub struct Pinned {
    child: Child,
    log: PathBuf,
    pub started: Instant,
}

impl Pinned {
    /// Starts it on `core` with no environment but its own; what it says goes into a file of `folder`.
    pub fn start(command: &mut Command, core: usize, folder: &Path) -> Result<Self> {
        let log = folder.join("log");
        let output = File::create(&log).doing("making a log")?;
        let errors = output.try_clone().doing("making a log")?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        // What is started stays where its parent is.
        process::stay_on(core)?;
        let started = Instant::now();
        let spawned = command.spawn();
        process::stay_on(LOAD_CORE)?;
        let child =
            spawned.map_err(|error| Error::new(format!("{}: {error}", command.get_program().display())))?;
        Ok(Self { child, log, started })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it is `what`.
    pub fn wait(&mut self, what: &str, condition: impl Fn() -> bool) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !condition() {
            self.must_run()?;
            if Instant::now() > end {
                return Err(self.error(&format!("it is not {what} after {PATIENCE:?}")));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// An error when it has ended.
    pub fn must_run(&mut self) -> Result<()> {
        match self.child.try_wait().doing("looking at a process")? {
            None => Ok(()),
            Some(status) => Err(self.error(&format!("the process has ended: {status}"))),
        }
    }

    /// With the end of its log, whose file goes with the process.
    fn error(&self, what: &str) -> Error {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n    | ");
        Error::new(format!("{what}\n    | {last}"))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // It may have ended already, and nothing it has not stored was acknowledged.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}
