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
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

use super::at_length;
use crate::error::{Context, Error, Result};
use crate::instance::Instance;

/// What two cores bear at once: tests wait more than they compute.
const BESIDE_EACH_OTHER: usize = 8;
static PLACES: Mutex<Places> = Mutex::new(Places {
    free: BESIDE_EACH_OTHER,
    urgent: 0,
});
static FREED: Condvar = Condvar::new();

/// Far longer than any test takes on a busy machine. One that hangs would use up the time of all others, and tell nothing.
const LONGEST: Duration = Duration::from_secs(15 * 60);
const LONGEST_AT_LENGTH: Duration = Duration::from_secs(45 * 60);

#[derive(Debug)]
struct Places {
    free: usize,
    /// How many wait that go before others.
    urgent: usize,
}

/// One of [`BESIDE_EACH_OTHER`], until dropped.
#[derive(Debug)]
struct Place;

impl Place {
    /// `urgent`: before those that are not.
    fn wait_for(urgent: bool) -> Self {
        let mut places = places();
        places.urgent += usize::from(urgent);
        let taken = |places: &mut Places| places.free == 0 || (!urgent && places.urgent > 0);
        let mut places = FREED
            .wait_while(places, taken)
            .unwrap_or_else(PoisonError::into_inner);
        places.urgent -= usize::from(urgent);
        places.free -= 1;
        // Those that let this one go first may have one of the others.
        FREED.notify_all();
        Self
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        places().free += 1;
        FREED.notify_all();
    }
}

fn places() -> MutexGuard<'static, Places> {
    PLACES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The instance of the end-to-end tests, for as long as the test holds this. The thread that took it is in the
/// instance's network and knows the cluster's names.
#[derive(Debug)]
pub struct Turn {
    instance: Instance,
    began: Instant,
    /// Ends the watch when dropped.
    _watched: Sender<()>,
    // In this order: who comes next finds the lock released.
    _lock: Flock<File>,
    _place: Option<Place>,
}

impl Turn {
    /// For a test that makes what it needs and leaves the rest as it is.
    pub fn beside_others() -> Result<Self> {
        Self::take(FlockArg::LockShared, Some(Place::wait_for(false)))
    }

    /// The same for a test that has something there is little of: it goes first.
    pub(super) fn soon() -> Result<Self> {
        Self::take(FlockArg::LockShared, Some(Place::wait_for(true)))
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
            _watched: watch(),
            _lock: lock,
            _place: place,
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
