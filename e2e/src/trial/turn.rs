//! Whose turn it is. Tests run beside each other on one instance; a test that takes a service or the operator away runs
//! alone.
//!
//! A turn is a lock on a file of the instance, so it holds between processes too. Who wants to be alone waits until
//! nobody is left: those that share go first, and the cluster is emptied once, not before each of the others.

use std::fs::File;
use std::ops::Deref;

use nix::fcntl::{Flock, FlockArg};

use crate::error::{Context, Error, Result};
use crate::instance::Instance;

/// The instance of the end-to-end tests, for as long as the test holds this. The thread that took it is in the
/// instance's network and knows the cluster's names.
#[derive(Debug)]
pub struct Turn {
    instance: Instance,
    _lock: Flock<File>,
}

impl Turn {
    /// For a test that makes what it needs and leaves the rest as it is.
    pub fn beside_others() -> Result<Self> {
        Self::take(FlockArg::LockShared)
    }

    /// For a test that others would suffer from.
    pub fn alone() -> Result<Self> {
        Self::take(FlockArg::LockExclusive)
    }

    fn take(how: FlockArg) -> Result<Self> {
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
            _lock: lock,
        })
    }
}

impl Deref for Turn {
    type Target = Instance;

    fn deref(&self) -> &Instance {
        &self.instance
    }
}
