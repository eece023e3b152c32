//! Waking the driver's thread: it sleeps when nothing is to be done, and anything that gives it work wakes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;
use std::time::Duration;

/// Wakes one thread. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Waker {
    thread: Thread,
    woken: Arc<AtomicBool>,
}

impl Waker {
    /// Wakes the calling thread.
    pub(super) fn of_this_thread() -> Self {
        Self {
            thread: std::thread::current(),
            woken: Arc::default(),
        }
    }

    pub(super) fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            self.thread.unpark();
        }
    }

    /// Sleeps until woken, at most `longest`. Must be called on the thread that this wakes.
    pub(super) fn sleep(&self, longest: Duration) {
        if !self.woken.swap(false, Ordering::AcqRel) {
            std::thread::park_timeout(longest);
            self.woken.store(false, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_wake_before_the_sleep_is_not_missed() {
        let waker = Waker::of_this_thread();
        waker.wake();
        let before = Instant::now();
        waker.sleep(Duration::from_secs(60));
        let other = waker.clone();
        let thread = std::thread::spawn(move || other.wake());
        waker.sleep(Duration::from_secs(60));
        thread.join().unwrap();
        assert!(before.elapsed() < Duration::from_secs(30));
    }
}
