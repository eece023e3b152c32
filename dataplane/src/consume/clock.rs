//! Time that goes on while the machine is suspended.
//!
//! An intent's age decides whether another consumer may own its partition by now. The broker's clock runs while
//! this machine sleeps, so ours must too: `CLOCK_BOOTTIME`, not `Instant`.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// A point on this machine's clock since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
    #[cfg(target_os = "linux")]
    const CLOCK: ClockId = ClockId::CLOCK_BOOTTIME;
    #[cfg(not(target_os = "linux"))]
    const CLOCK: ClockId = ClockId::CLOCK_MONOTONIC;

    pub fn now() -> Self {
        // The call fails only for a clock that the kernel does not know.
        clock_gettime(Self::CLOCK).map_or(Self(Duration::MAX), |time| Self(time.into()))
    }

    /// A moment of a clock that a test moves by hand.
    pub const fn from_start(elapsed: Duration) -> Self {
        Self(elapsed)
    }

    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_runs_forward() {
        let first = Moment::now();
        let second = Moment::now();
        assert!(second >= first);
        assert!(second.since(first) < Duration::from_secs(5));
        assert_eq!(first.since(second.plus(Duration::from_secs(1))), Duration::ZERO);
    }
}
