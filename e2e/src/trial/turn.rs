//! Whose turn it is. Tests run beside each other on one instance; a test that takes a service or the operator away runs
//! alone.
//!
//! A turn is a lock on a file of the instance, so it holds between processes too. Who wants to be alone waits until
//! nobody is left: those that share go first, and the cluster is emptied once, not before each of the others. So all
//! tests are to be started at once, for those that wait to be alone must not take the threads of the others; how many
//! of the others run at once is bounded here.

use std::fs::File;
use std::io::Write as _;
use std::ops::Deref;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nix::fcntl::{Flock, FlockArg};

use crate::error::{Context, Error, Result};
use crate::instance::Instance;

/// What two cores bear at once: tests wait more than they compute.
const BESIDE_EACH_OTHER: usize = 8;
static FREE: Mutex<usize> = Mutex::new(BESIDE_EACH_OTHER);
static FREED: Condvar = Condvar::new();

/// One of [`BESIDE_EACH_OTHER`], until dropped.
#[derive(Debug)]
struct Place;

impl Place {
    fn wait_for() -> Self {
        let free = FREED.wait_while(places(), |free| *free == 0);
        *free.unwrap_or_else(PoisonError::into_inner) -= 1;
        Self
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *places() += 1;
        FREED.notify_one();
    }
}

fn places() -> MutexGuard<'static, usize> {
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The instance of the end-to-end tests, for as long as the test holds this. The thread that took it is in the
/// instance's network and knows the cluster's names.
#[derive(Debug)]
pub struct Turn {
    instance: Instance,
    began: Instant,
    // In this order: who comes next finds the lock released.
    _lock: Flock<File>,
    _place: Option<Place>,
}

impl Turn {
    /// For a test that makes what it needs and leaves the rest as it is.
    pub fn beside_others() -> Result<Self> {
        Self::take(FlockArg::LockShared, Some(Place::wait_for()))
    }

    /// The same for a test that has something there is little of: it does not wait for a place as well.
    pub(super) fn at_once() -> Result<Self> {
        Self::take(FlockArg::LockShared, None)
    }

    /// For a test that others would suffer from.
    pub fn alone() -> Result<Self> {
        Self::take(FlockArg::LockExclusive, None)
    }

    fn take(how: FlockArg, place: Option<Place>) -> Result<Self> {
        let instance = Instance::from_environment("test")?;
        let path = instance.run_dir().join("tests.lock");
        let file = File::create(&path).doing(format_args!(
            "creating {}; is the instance `{}` up?",
            path.display(),
            instance.name()
        ))?;
        let lock = Flock::lock(file, how)
            .map_err(|(_, error)| Error::new(format!("locking {}: {error}", path.display())))?;
        instance.enter_with_names()?;
        Ok(Self {
            instance,
            began: Instant::now(),
            _lock: lock,
            _place: place,
        })
    }
}

impl Drop for Turn {
    /// Says how long it lasted, past what the test harness captures: that is what the tests' time is made of.
    fn drop(&mut self) {
        let name = std::thread::current().name().unwrap_or("a test").to_owned();
        let lasted = self.began.elapsed().as_secs_f64();
        let _ = writeln!(std::io::stderr(), "    {lasted:6.1}s  {name}");
    }
}

impl Deref for Turn {
    type Target = Instance;

    fn deref(&self) -> &Instance {
        &self.instance
    }
}
