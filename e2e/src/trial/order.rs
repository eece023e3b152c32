//! In which order the tests of a program run, and how many at once.
//!
//! Those that run beside each other go first, then those that want a quiet machine, then those that want to be alone: so
//! the cluster is emptied twice, not before each of them. All tests are to be started at once, for each waits here, and
//! who waits must not take the thread of another. Another program's tests are kept away by a lock on a file of the
//! instance: shared by those that run beside each other, else exclusive.

use std::fs::File;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use nix::fcntl::{Flock, FlockArg};

use crate::error::{Context, Error, Result};

/// What a test bears beside it, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Company {
    /// Whatever others do.
    Any,
    /// Tests that do little: it has to be in time, or would suffer from refused work.
    Quiet,
    /// None: it takes a service or the operator away.
    Nobody,
}

impl Company {
    /// What two cores bear at once: tests wait more than they compute.
    fn at_once(self) -> usize {
        match self {
            Self::Any => 8,
            Self::Quiet => 3,
            Self::Nobody => 1,
        }
    }

    fn shares(self) -> FlockArg {
        match self {
            Self::Any => FlockArg::LockShared,
            Self::Quiet | Self::Nobody => FlockArg::LockExclusive,
        }
    }
}

#[derive(Debug)]
struct Order {
    /// By [`Company`]: who has announced himself and does not run yet.
    waiting: [usize; 3],
    /// Of those that bear any company, who goes before the others.
    urgent: usize,
    running: usize,
    /// Of those that run.
    company: Company,
    lock: Option<Flock<File>>,
}

static ORDER: Mutex<Order> = Mutex::new(Order {
    waiting: [0; 3],
    urgent: 0,
    running: 0,
    company: Company::Any,
    lock: None,
});
static CHANGED: Condvar = Condvar::new();

fn order() -> MutexGuard<'static, Order> {
    ORDER.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Order {
    fn may_run(&self, company: Company, urgent: bool) -> bool {
        if self.running == 0 {
            self.waiting[..company as usize]
                .iter()
                .all(|waiting| *waiting == 0)
        } else {
            self.company == company
                && self.running < company.at_once()
                && (urgent || company != Company::Any || self.urgent == 0)
        }
    }
}

/// A test that will run: those that bear less company wait for it. Ends when dropped.
#[derive(Debug)]
pub(super) struct Announced(Company);

impl Announced {
    pub(super) fn new(company: Company) -> Self {
        order().waiting[company as usize] += 1;
        Self(company)
    }

    /// Waits until it may run. `urgent`: before others of its kind. `path`: the instance's lock.
    pub(super) fn wait(self, urgent: bool, path: &Path) -> Result<Running> {
        let mut order = order();
        order.urgent += usize::from(urgent);
        let mut order = CHANGED
            .wait_while(order, |order| !order.may_run(self.0, urgent))
            .unwrap_or_else(PoisonError::into_inner);
        order.urgent -= usize::from(urgent);
        if order.running == 0 {
            let file =
                File::create(path).doing(format_args!("creating {}; is the instance up?", path.display()))?;
            let lock = Flock::lock(file, self.0.shares())
                .map_err(|(_, error)| Error::new(format!("locking {}: {error}", path.display())))?;
            order.lock = Some(lock);
        }
        order.running += 1;
        order.company = self.0;
        Ok(Running)
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        order().waiting[self.0 as usize] -= 1;
        CHANGED.notify_all();
    }
}

/// A test that runs, until dropped.
#[derive(Debug)]
pub(super) struct Running;

impl Drop for Running {
    fn drop(&mut self) {
        let mut order = order();
        order.running -= 1;
        if order.running == 0 {
            order.lock = None;
        }
        CHANGED.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(waiting: [usize; 3], running: usize, company: Company) -> Order {
        Order {
            waiting,
            urgent: 0,
            running,
            company,
            lock: None,
        }
    }

    #[test]
    fn who_bears_less_company_waits_until_nobody_is_left_before_him() {
        use Company::{Any, Nobody, Quiet};
        for (order, who, may) in [
            (order([1, 1, 1], 0, Any), Any, true),
            (order([1, 1, 1], 0, Any), Quiet, false),
            (order([0, 1, 1], 0, Any), Quiet, true),
            (order([0, 1, 1], 0, Any), Nobody, false),
            (order([0, 0, 1], 0, Any), Nobody, true),
            (order([1, 0, 0], 7, Any), Any, true),
            (order([1, 0, 0], 8, Any), Any, false),
            (order([0, 1, 0], 1, Any), Quiet, false),
            (order([1, 1, 0], 1, Quiet), Quiet, true),
            (order([1, 1, 0], 3, Quiet), Quiet, false),
            (order([1, 0, 0], 1, Quiet), Any, false),
            (order([0, 0, 1], 1, Nobody), Nobody, false),
        ] {
            assert_eq!(order.may_run(who, false), may, "{who:?}: {order:?}");
        }
        let mut order = order([2, 0, 0], 3, Any);
        order.urgent = 1;
        assert!(order.may_run(Any, true) && !order.may_run(Any, false));
    }
}
