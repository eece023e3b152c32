//! Whether the thread that a role lives by still goes round.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// A thread that has not gone round for so long will not: whatever it waits for by itself takes seconds.
const STOPPED_AFTER: Duration = Duration::from_secs(60);

static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Beats with each round of a thread. Cheap to clone. One that has never beaten belongs to no thread yet.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<AtomicU64>);

impl Pulse {
    pub fn beat(&self) {
        self.0.store(now(), Relaxed);
    }

    /// One that has been silent for about an hour.
    #[cfg(test)]
    pub(super) fn silent() -> Self {
        Self(Arc::new(AtomicU64::new(1)))
    }

    /// For how long it has been silent, if that is too long.
    pub fn stopped_for(&self) -> Option<Duration> {
        self.stopped_at(now())
    }

    fn stopped_at(&self, now: u64) -> Option<Duration> {
        let last = self.0.load(Relaxed);
        let silent = Duration::from_millis(now.saturating_sub(last));
        (last > 0 && silent > STOPPED_AFTER).then_some(silent)
    }
}

/// Milliseconds, an hour when the process begins: never 0, and a test can tell of a time before.
fn now() -> u64 {
    BEGAN.elapsed().as_millis() as u64 + 3_600_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stops_a_minute_after_its_last_beat() {
        let pulse = Pulse::default();
        assert_eq!(pulse.stopped_at(10_000_000), None, "it has not begun");
        pulse.beat();
        assert_eq!(pulse.stopped_for(), None);
        let last = pulse.0.load(Relaxed);
        assert_eq!(pulse.stopped_at(last + 60_000), None);
        assert_eq!(
            pulse.stopped_at(last + 60_001),
            Some(Duration::from_millis(60_001))
        );
    }
}
