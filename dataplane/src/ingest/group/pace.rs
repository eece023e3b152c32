//! When a small group leaves: at once, or a moment later with what comes meanwhile.
//!
//! A record costs waking up three threads here and more in the broker, which is much more than an event in it costs. So
//! where requests come side by side, small groups leave [`APART`] from each other at least. Whoever is alone is not held
//! up: nothing is on its way when its request comes, and nothing came while the one before was.

use std::cell::Cell;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Who comes beside others waits so long at most. With 800 us an event costs still less, and half of those at 40% load take
/// a millisecond.
const APART: Duration = Duration::from_micros(700);
/// A group of so many bytes has company enough.
const LARGE: usize = 64_000;

/// When the last group left, and whether something came while it was on its way.
#[derive(Debug, Default)]
pub(super) struct Pace {
    left: Option<Instant>,
    company: bool,
}

impl Pace {
    /// Something came; `in_flight` is how much is on its way.
    pub(super) fn came(&mut self, in_flight: usize) {
        self.company |= in_flight > 0;
    }

    /// A group leaves.
    pub(super) fn leaves(&mut self, now: Instant) {
        self.left = Some(now);
        self.company = false;
    }

    /// How long a group of `bytes` has to wait yet; none when it may leave.
    pub(super) fn wait(&self, bytes: usize, now: Instant) -> Option<Duration> {
        if !self.company || bytes >= LARGE {
            return None;
        }
        let since = now.saturating_duration_since(self.left?);
        APART.checked_sub(since).filter(|left| !left.is_zero())
    }
}

/// Wakes the flusher when a group has waited: the runtime's own timers know whole milliseconds only.
#[derive(Debug)]
pub(super) struct Alarm {
    timer: TimerFd,
    is_set: Cell<bool>,
}

impl Alarm {
    pub(super) fn new() -> std::io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        Ok(Self {
            timer: TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?,
            is_set: Cell::new(false),
        })
    }

    /// Rings once after this time, or when it was to ring already.
    pub(super) fn set(&self, after: Duration) {
        if self.is_set.replace(true) {
            return;
        }
        let once = Expiration::OneShot(TimeSpec::from_duration(after));
        if let Err(error) = self.timer.set(once, TimerSetTimeFlags::empty()) {
            // Then the next acknowledgement, or the next look, moves what waits.
            tracing::warn!(%error, "cannot set a timer");
            self.is_set.set(false);
        }
    }

    /// What to wait on; in a runtime.
    #[expect(
        deprecated,
        reason = "what it warns of, a descriptor that is closed too early, cannot be: it is owned"
    )]
    pub(super) fn bell(&self) -> std::io::Result<AsyncFd<OwnedFd>> {
        let same = self.timer.as_fd().try_clone_to_owned()?;
        AsyncFd::with_interest(same, Interest::READABLE)
    }

    /// Waits for the next ring.
    pub(super) async fn rings(&self, bell: &AsyncFd<OwnedFd>) {
        match bell.readable().await {
            // Setting it again is what makes it ring again, whether or not it was read.
            Ok(mut ready) => ready.clear_ready(),
            Err(_) => std::future::pending().await,
        }
        self.is_set.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICROSECOND: Duration = Duration::from_micros(1);

    #[test]
    fn whoever_is_alone_does_not_wait() {
        let mut pace = Pace::default();
        let mut now = Instant::now();
        for _ in 0..5 {
            pace.came(0);
            assert_eq!(pace.wait(300, now), None);
            pace.leaves(now);
            now += 200 * MICROSECOND;
        }
    }

    #[test]
    fn those_beside_each_other_leave_together() {
        let mut pace = Pace::default();
        let began = Instant::now();
        pace.came(0);
        pace.leaves(began);
        pace.came(1);
        let soon = began + 100 * MICROSECOND;
        assert_eq!(pace.wait(300, soon), Some(APART - 100 * MICROSECOND));
        pace.came(0);
        assert!(pace.wait(600, soon).is_some(), "also when the first has arrived");
        assert_eq!(pace.wait(LARGE, soon), None, "a large one");
        assert_eq!(pace.wait(600, began + APART), None);
        pace.leaves(began + APART);
        assert_eq!(
            pace.wait(300, began + APART + MICROSECOND),
            None,
            "nothing has come beside the second"
        );
    }

    #[tokio::test]
    async fn the_alarm_rings_each_time_it_was_set() {
        let alarm = Alarm::new().unwrap();
        let bell = alarm.bell().unwrap();
        for _ in 0..3 {
            let began = Instant::now();
            alarm.set(Duration::from_millis(2));
            alarm.set(Duration::from_secs(60));
            tokio::time::timeout(Duration::from_secs(10), alarm.rings(&bell))
                .await
                .expect("it rings");
            assert!(began.elapsed() >= Duration::from_millis(2));
        }
        let silent = tokio::time::timeout(Duration::from_millis(20), alarm.rings(&bell)).await;
        assert!(silent.is_err(), "nobody has set it");
    }
}
