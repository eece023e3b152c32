//! When something last happened, for threads to tell each other without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

/// The last time, to the millisecond.
#[derive(Debug)]
pub(crate) struct Last {
    started: Instant,
    /// Milliseconds after `started`, plus one; 0 for never.
    at: AtomicU64,
}

impl Last {
    /// It has never happened.
    pub(crate) fn never() -> Self {
        Self {
            started: Instant::now(),
            at: AtomicU64::new(0),
        }
    }

    /// It happens now.
    pub(crate) fn now(&self) {
        self.at
            .store(self.started.elapsed().as_millis() as u64 + 1, Relaxed);
    }

    /// Since then, or since the start.
    pub(crate) fn age(&self) -> Duration {
        let at = Duration::from_millis(self.at.load(Relaxed).saturating_sub(1));
        self.started.elapsed().saturating_sub(at)
    }

    /// Whether it happened, and less than so long ago.
    pub(crate) fn is_within(&self, time: Duration) -> bool {
        self.at.load(Relaxed) > 0 && self.age() < time
    }
}
