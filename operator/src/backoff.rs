//! When to try again: exponential for each object, with jitter, reset by success or by a change of the spec.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// First wait.
const FIRST: Duration = Duration::from_secs(1);
/// Longest wait for something that mends itself.
const LONGEST: Duration = Duration::from_secs(60);

struct Attempts {
    generation: i64,
    failed: u32,
}

/// Failures in a row, by object.
pub struct Backoff<K>(Mutex<HashMap<K, Attempts>>);

impl<K> Default for Backoff<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K> std::fmt::Debug for Backoff<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Backoff")
    }
}

impl<K: Eq + Hash> Backoff<K> {
    /// One more failure at this generation; how long to wait.
    pub fn failed(&self, key: K, generation: i64) -> Duration {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let attempts = all.entry(key).or_insert(Attempts {
            generation,
            failed: 0,
        });
        if attempts.generation != generation {
            *attempts = Attempts {
                generation,
                failed: 0,
            };
        }
        attempts.failed = attempts.failed.saturating_add(1);
        wait(attempts.failed, rand::random_range(0.8..1.2))
    }

    /// It worked, or the object is gone.
    pub fn forget(&self, key: &K) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

/// The wait after so many failures in a row; `jitter` around 1.
fn wait(failed: u32, jitter: f64) -> Duration {
    let doubled = FIRST.saturating_mul(1 << failed.saturating_sub(1).min(16));
    doubled.min(LONGEST).mul_f64(jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute() {
        let seconds: Vec<u64> = (1..=9).map(|n| wait(n, 1.0).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(wait(u32::MAX, 1.0), LONGEST);
    }

    #[test]
    fn a_new_generation_and_success_start_again() {
        let backoff = Backoff::default();
        let within = |wait: Duration, seconds: f64| (wait.as_secs_f64() / seconds - 1.0).abs() <= 0.2001;
        assert!(within(backoff.failed("a", 1), 1.0));
        assert!(within(backoff.failed("a", 1), 2.0));
        assert!(
            within(backoff.failed("b", 1), 1.0),
            "one object's failures are not another's"
        );
        assert!(within(backoff.failed("a", 2), 1.0));
        backoff.forget(&"a");
        assert!(within(backoff.failed("a", 2), 1.0));
    }
}
