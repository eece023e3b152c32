//! Whose turn it is: the instance of the end-to-end tests, for one of them, in the company that it bears.

use std::io::Write as _;
use std::ops::Deref;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use super::at_length;
use super::order::{Announced, Company, Running};
use crate::error::Result;
use crate::instance::Instance;

/// Far longer than any test takes on a busy machine. One that hangs would use up the time of all others, and tell nothing.
const LONGEST: Duration = Duration::from_secs(15 * 60);
const LONGEST_AT_LENGTH: Duration = Duration::from_secs(45 * 60);

/// The instance of the end-to-end tests, for as long as the test holds this. The thread that took it is in the
/// instance's network and knows the cluster's names.
#[derive(Debug)]
pub struct Turn {
    instance: Instance,
    began: Instant,
    /// Ends the watch when dropped.
    _watched: Sender<()>,
    _running: Running,
}

impl Turn {
    /// For a test that makes what it needs and leaves the rest as it is.
    pub fn beside_others() -> Result<Self> {
        Self::take(Announced::new(Company::Any), false)
    }

    /// The same for a test that has something there is little of: it goes first.
    pub(super) fn soon(announced: Announced) -> Result<Self> {
        Self::take(announced, true)
    }

    /// For a test that measures time, or in which nothing may be late: beside a few others of this kind.
    pub fn in_quiet() -> Result<Self> {
        Self::take(Announced::new(Company::Quiet), false)
    }

    /// For a test that others would suffer from.
    pub fn alone() -> Result<Self> {
        Self::take(Announced::new(Company::Nobody), false)
    }

    fn take(announced: Announced, urgent: bool) -> Result<Self> {
        let instance = Instance::from_environment("test")?;
        let running = announced.wait(urgent, &instance.run_dir().join("tests.lock"))?;
        instance.outweigh_others()?;
        instance.enter_with_names()?;
        Ok(Self {
            instance,
            began: Instant::now(),
            _watched: watch(),
            _running: running,
        })
    }
}

/// Ends the whole process when the calling thread's turn, which lasts until what this gives is dropped, has no end.
fn watch() -> Sender<()> {
    let longest = if at_length() { LONGEST_AT_LENGTH } else { LONGEST };
    let name = this_test();
    let (watched, over) = channel();
    std::thread::spawn(move || {
        if over.recv_timeout(longest) == Err(RecvTimeoutError::Timeout) {
            let minutes = longest.as_secs() / 60;
            let _ = writeln!(
                std::io::stderr(),
                "{name} hangs: it has not ended after {minutes} minutes"
            );
            std::process::exit(101);
        }
    });
    watched
}

fn this_test() -> String {
    std::thread::current().name().unwrap_or("a test").to_owned()
}

impl Drop for Turn {
    /// Says how long it lasted, past what the test harness captures: that is what the tests' time is made of.
    fn drop(&mut self) {
        let lasted = self.began.elapsed().as_secs_f64();
        let _ = writeln!(std::io::stderr(), "    {lasted:6.1}s  {}", this_test());
    }
}

impl Deref for Turn {
    type Target = Instance;

    fn deref(&self) -> &Instance {
        &self.instance
    }
}
