//! How many events an App may still send.
//!
//! The request path only touches numbers in this process. A token bucket per second is filled by leases, which
//! [`sync`] fetches from Redis in the background; the limits per day compare what this pod has admitted, plus what
//! the others last reported, with the limit. The request path never waits.
//!
//! ```text
//! admit() -- takes from --> tokens <-- lease -- sync <-> Redis bucket   (events per second, burst)
//!         -- adds to -----> own    --- absolute ------> Redis usage     (events and bytes per UTC day)
//!                           others <-- sum of the rest -
//! ```

pub(super) mod sync;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use penstock_dataplane_config::Quota as Limits;

use crate::utc::until_midnight;

/// A burst is at least this, or no full batch could ever pass.
const SMALLEST_BURST: u64 = 1000;

/// One App's quota in this pod; shared by the shards and kept when apps.yaml is read again.
#[derive(Debug)]
pub(crate) struct Quota {
    /// As the operator last wrote them into Redis, else as in apps.yaml.
    limits: ArcSwap<Limits>,
    replicas: AtomicU64,
    /// Events that may be admitted now. Meaningless without a rate.
    tokens: AtomicI64,
    /// Events asked for since the last look, admitted or not.
    demand: AtomicU64,
    events_today: AtomicU64,
    bytes_today: AtomicU64,
    events_elsewhere: AtomicU64,
    bytes_elsewhere: AtomicU64,
}

/// What was admitted, and what to tell the client when that is not everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Admission {
    pub(crate) events: usize,
    /// What the client hears about the limit that stopped it; `None` when all was admitted.
    pub(crate) refusal: Option<Refusal>,
}

/// The limit that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) limit: u64,
    pub(crate) retry_after_seconds: u64,
}

impl Quota {
    /// A quota with this pod's share of the burst, for nothing has been heard from Redis yet.
    pub(crate) fn new(limits: &Limits, replicas: u32) -> Self {
        let quota = Self {
            limits: ArcSwap::from_pointee(limits.clone()),
            replicas: AtomicU64::new(u64::from(replicas.max(1))),
            tokens: AtomicI64::new(0),
            demand: AtomicU64::new(0),
            events_today: AtomicU64::new(0),
            bytes_today: AtomicU64::new(0),
            events_elsewhere: AtomicU64::new(0),
            bytes_elsewhere: AtomicU64::new(0),
        };
        quota.tokens.store(quota.share_of_burst(), Relaxed);
        quota
    }

    /// Puts new limits in force; usage stays. A rate that did not exist before starts with this pod's share.
    pub(crate) fn set_limits(&self, limits: &Limits, replicas: u32) {
        self.replicas.store(u64::from(replicas.max(1)), Relaxed);
        let before = self.limits.swap(Arc::new(limits.clone()));
        let share = self.share_of_burst();
        if before.events_per_second.is_none() {
            self.tokens.store(share, Relaxed);
        } else {
            self.tokens
                .fetch_min(share.max(burst(limits).unwrap_or(0)), Relaxed);
        }
    }

    /// How many pods share the limits.
    pub(crate) fn set_replicas(&self, replicas: u32) {
        self.replicas.store(u64::from(replicas.max(1)), Relaxed);
    }

    /// Admits up to `events`, whose first `n` take `bytes_of(n)` bytes.
    pub(crate) fn admit(&self, now_ms: i64, events: usize, bytes_of: impl Fn(usize) -> usize) -> Admission {
        let limits = self.limits.load();
        let (mut admitted, mut refusal) = self.within_the_day(&limits, now_ms, events, &bytes_of);
        if let Some(rate) = limits.events_per_second {
            self.demand.fetch_add(events as u64, Relaxed);
            let wanted = as_tokens(admitted);
            let take = |tokens: i64| wanted.min(tokens.max(0));
            let before = self
                .tokens
                .fetch_update(Relaxed, Relaxed, |tokens| Some(tokens - take(tokens)));
            let taken = take(before.unwrap_or(0));
            if taken < wanted {
                admitted = taken as usize;
                refusal = Some(over_rate(rate, wanted - taken));
            }
        }
        self.charge(admitted, bytes_of(admitted));
        Admission {
            events: admitted,
            refusal,
        }
    }

    /// Admits all of `events` or none, for protocols that cannot refuse a part. Where some room is left a batch may
    /// run into debt, which later ones pay; otherwise one larger than this pod's share would never pass.
    pub(crate) fn admit_whole(&self, now_ms: i64, events: usize, bytes: usize) -> Admission {
        let limits = self.limits.load();
        let bytes_of = |count: usize| if count == 0 { 0 } else { bytes };
        let (_, mut refusal) = self.within_the_day(&limits, now_ms, events, &bytes_of);
        if let (Some(rate), None) = (limits.events_per_second, refusal) {
            self.demand.fetch_add(events as u64, Relaxed);
            let wanted = as_tokens(events);
            let take = |tokens: i64| (tokens > 0 || wanted == 0).then_some(tokens - wanted);
            if self.tokens.fetch_update(Relaxed, Relaxed, take).is_err() {
                refusal = Some(over_rate(rate, wanted));
            }
        }
        if refusal.is_some() {
            return Admission { events: 0, refusal };
        }
        self.charge(events, bytes);
        Admission { events, refusal }
    }

    /// How many of `events` the limits per day leave room for.
    fn within_the_day(
        &self,
        limits: &Limits,
        now_ms: i64,
        events: usize,
        bytes_of: &impl Fn(usize) -> usize,
    ) -> (usize, Option<Refusal>) {
        let (mut admitted, mut refusal) = (events, None);
        let mut refuse = |limit| {
            let retry_after_seconds = (until_midnight(now_ms) as u64).div_ceil(1000);
            refusal = Some(Refusal {
                limit,
                retry_after_seconds,
            });
        };
        if let Some(limit) = limits.events_per_day {
            let used = self.events_today.load(Relaxed) + self.events_elsewhere.load(Relaxed);
            let left = usize::try_from(limit.saturating_sub(used)).unwrap_or(usize::MAX);
            if left < admitted {
                admitted = left;
                refuse(limit);
            }
        }
        if let Some(limit) = limits.bytes_per_day {
            let used = self.bytes_today.load(Relaxed) + self.bytes_elsewhere.load(Relaxed);
            let left = limit.saturating_sub(used);
            if bytes_of(admitted) as u64 > left {
                admitted = largest_within(admitted, left, bytes_of);
                refuse(limit);
            }
        }
        (admitted, refusal)
    }

    fn charge(&self, events: usize, bytes: usize) {
        self.events_today.fetch_add(events as u64, Relaxed);
        self.bytes_today.fetch_add(bytes as u64, Relaxed);
    }

    /// Gives back what was admitted and is not stored.
    pub(crate) fn refund(&self, events: usize, bytes: usize) {
        subtract(&self.events_today, events as u64);
        subtract(&self.bytes_today, bytes as u64);
        if self.limits.load().events_per_second.is_some() {
            self.tokens.fetch_add(as_tokens(events), Relaxed);
        }
    }

    /// What this pod may hold when nothing is known of the others.
    fn share_of_burst(&self) -> i64 {
        let burst = burst(&self.limits.load()).unwrap_or(0);
        burst / i64::try_from(self.replicas.load(Relaxed)).unwrap_or(1)
    }
}

/// The largest `n` up to `events` whose bytes fit.
fn largest_within(events: usize, bytes: u64, bytes_of: impl Fn(usize) -> usize) -> usize {
    let (mut fits, mut over) = (0, events);
    while fits < over {
        let middle = (fits + over).div_ceil(2);
        if bytes_of(middle) as u64 <= bytes {
            fits = middle;
        } else {
            over = middle - 1;
        }
    }
    fits
}

/// The rate left no room for `missing` events: how long it takes until they would fit.
fn over_rate(rate: u64, missing: i64) -> Refusal {
    let seconds = missing.unsigned_abs().div_ceil(rate.max(1)).clamp(1, 60);
    Refusal {
        limit: rate,
        retry_after_seconds: seconds,
    }
}

fn as_tokens(events: usize) -> i64 {
    i64::try_from(events).unwrap_or(i64::MAX)
}

/// How many events may come at once.
fn burst(limits: &Limits) -> Option<i64> {
    let rate = limits.events_per_second?;
    let burst = limits.burst.unwrap_or(rate).max(SMALLEST_BURST);
    Some(i64::try_from(burst).unwrap_or(i64::MAX))
}

fn subtract(counter: &AtomicU64, amount: u64) {
    let _ = counter.fetch_update(Relaxed, Relaxed, |value| Some(value.saturating_sub(amount)));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits(rate: Option<u64>, events: Option<u64>, bytes: Option<u64>) -> Limits {
        Limits {
            events_per_second: rate,
            burst: None,
            events_per_day: events,
            bytes_per_day: bytes,
        }
    }

    const NOW: i64 = 1_763_730_000_123;

    #[test]
    fn a_batch_is_admitted_up_to_what_remains() {
        for (limits, replicas, batches, expected) in [
            (limits(None, None, None), 1, vec![5000, 5000], vec![5000, 5000]),
            (
                limits(Some(2000), None, None),
                2,
                vec![700, 700, 1],
                vec![700, 300, 0],
            ),
            (limits(Some(1), None, None), 1, vec![1500], vec![1000]),
            (limits(None, Some(10), None), 1, vec![7, 7, 1], vec![7, 3, 0]),
            (limits(None, None, Some(1000)), 1, vec![7, 7], vec![7, 3]),
            (limits(Some(5000), Some(100), Some(500)), 1, vec![200], vec![5]),
        ] {
            let quota = Quota::new(&limits, replicas);
            let admitted: Vec<_> = batches
                .iter()
                .map(|events| quota.admit(NOW, *events, |n| n * 100).events)
                .collect();
            assert_eq!(admitted, expected, "{limits:?}");
        }
    }

    #[test]
    fn a_refusal_says_when_to_come_back() {
        let quota = Quota::new(&limits(None, Some(1), None), 1);
        let refusal = quota.admit(NOW, 2, |n| n).refusal.unwrap();
        assert_eq!(refusal.limit, 1);
        assert!(
            (36_000..=86_400).contains(&refusal.retry_after_seconds),
            "{refusal:?}"
        );
        let quota = Quota::new(&limits(Some(1000), None, None), 1);
        assert_eq!(
            quota.admit(NOW, 3500, |n| n).refusal,
            Some(Refusal {
                limit: 1000,
                retry_after_seconds: 3
            })
        );
        assert_eq!(quota.admit(NOW, 0, |n| n).refusal, None);
    }

    #[test]
    fn what_was_not_stored_is_given_back() {
        let quota = Quota::new(&limits(None, Some(10), Some(100)), 1);
        assert_eq!(quota.admit(NOW, 10, |n| n * 10).events, 10);
        quota.refund(4, 40);
        assert_eq!(quota.admit(NOW, 10, |n| n * 10).events, 4);
    }

    #[test]
    fn a_whole_batch_passes_or_does_not_and_debt_is_paid() {
        let quota = Quota::new(&limits(Some(1000), Some(2500), None), 4);
        let admit = |events| quota.admit_whole(NOW, events, 1).events;
        assert_eq!(quota.tokens.load(Relaxed), 250);
        assert_eq!(
            admit(1000),
            1000,
            "more than this pod's share, but there was room"
        );
        assert_eq!(quota.tokens.load(Relaxed), -750);
        assert_eq!((admit(1), quota.admit(NOW, 1, |n| n).events), (0, 0));
        assert_eq!(quota.tokens.load(Relaxed), -750, "a refusal costs nothing");
        quota.tokens.store(10, Relaxed);
        assert_eq!((admit(1000), admit(1000)), (1000, 0));
        quota.tokens.store(1000, Relaxed);
        assert_eq!(admit(1000), 0, "the day's limit is not passed");
        assert_eq!(quota.tokens.load(Relaxed), 1000);
        assert_eq!(admit(500), 500);
        assert_eq!(
            Quota::new(&Limits::default(), 1).admit_whole(NOW, 700, 7).events,
            700
        );
    }

    #[test]
    fn new_limits_keep_the_usage() {
        let quota = Quota::new(&limits(None, Some(10), None), 1);
        quota.admit(NOW, 8, |n| n);
        quota.set_limits(&limits(None, Some(9), None), 1);
        assert_eq!(quota.admit(NOW, 5, |n| n).events, 1);
        quota.set_limits(&limits(Some(3000), None, None), 3);
        assert_eq!(
            quota.admit(NOW, 5000, |n| n).events,
            1000,
            "a new rate starts with a share of its burst"
        );
    }

    proptest! {
        #[test]
        fn never_more_than_the_limits(
            rate in prop::option::of(1..5000u64), events in prop::option::of(0..5000u64),
            bytes in prop::option::of(0..50_000u64), replicas in 1..5u32,
            batches in prop::collection::vec(1..1500usize, 1..8),
        ) {
            let quota = Quota::new(&limits(rate, events, bytes), replicas);
            let mut total = 0;
            for batch in batches {
                let admission = quota.admit(NOW, batch, |n| n * 10);
                prop_assert_eq!(admission.refusal.is_some(), admission.events < batch);
                total += admission.events as u64;
            }
            prop_assert!(events.is_none_or(|limit| total <= limit));
            prop_assert!(bytes.is_none_or(|limit| total * 10 <= limit));
            prop_assert!(rate.is_none_or(|rate| total <= rate.max(SMALLEST_BURST) / u64::from(replicas)));
        }
    }
}
