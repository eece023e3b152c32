//! How many events an App may still send.
//!
//! The request path only touches numbers in this process. A token bucket per second is filled by leases, which
//! [`sync`] fetches from Redis in the background; the limits per day compare what this pod has admitted, plus what
//! the others last reported, with the limit. The request path never waits.
//!
//! ```text
//! admit() -- takes from --> tokens    <-- lease -- sync <-> Redis bucket   (events per second, burst)
//!         -- adds to -----> own       --- absolute ------> Redis usage     (events and bytes per UTC day)
//!                           elsewhere <-- sum of the rest -
//! ```
//!
//! - While Redis is not heard of, a pod takes no more than its share, 1/replicas: of the rate, and of what the limits
//!   per day had left when Redis last answered. Before it ever has, that is limit/replicas.
//! - A day ends with the first look at a clock that is past midnight, be it a request's or [`sync`]'s. Nobody waits for
//!   Redis to say so.

pub(super) mod sync;

use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicI64, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use arc_swap::ArcSwap;
use penstock_dataplane_config::Quota as Limits;

use crate::utc::{DAY_MS, midnight, until_midnight};

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
    /// When the day began that the next two belong to.
    day: AtomicI64,
    events_today: AtomicU64,
    bytes_today: AtomicU64,
    told: ArcSwap<Told>,
    /// Whether Redis is not heard of, so that the other pods may take what this one does not know of.
    alone: AtomicBool,
}

/// What counts towards the limits per day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    events: u64,
    bytes: u64,
}

/// The last exchange about usage.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    /// When the day began that it was about: on another one it says nothing.
    day: i64,
    /// What Redis was told of this pod.
    own: Usage,
    /// What it told of the others.
    elsewhere: Usage,
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
            day: AtomicI64::new(0),
            events_today: AtomicU64::new(0),
            bytes_today: AtomicU64::new(0),
            told: ArcSwap::default(),
            alone: AtomicBool::new(true),
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
        self.turn_the_day(now_ms);
        let (mut admitted, mut refusal) = (events, None);
        let mut refuse = |limit| {
            let retry_after_seconds = (until_midnight(now_ms) as u64).div_ceil(1000);
            refusal = Some(Refusal {
                limit,
                retry_after_seconds,
            });
        };
        if let Some(limit) = limits.events_per_day {
            let left = self.left(limit, |usage| usage.events);
            let left = usize::try_from(left).unwrap_or(usize::MAX);
            if left < admitted {
                admitted = left;
                refuse(limit);
            }
        }
        if let Some(limit) = limits.bytes_per_day {
            let left = self.left(limit, |usage| usage.bytes);
            if bytes_of(admitted) as u64 > left {
                admitted = largest_within(admitted, left, bytes_of);
                refuse(limit);
            }
        }
        (admitted, refusal)
    }

    /// What this pod may still take today of one of the limits per day.
    fn left(&self, limit: u64, kind: impl Fn(Usage) -> u64) -> u64 {
        let told = self.told_on(self.day.load(Acquire));
        let (used, told, elsewhere) = (kind(self.used()), kind(told.own), kind(told.elsewhere));
        let left = limit.saturating_sub(used + elsewhere);
        if !self.alone.load(Relaxed) {
            return left;
        }
        // What the others have taken since is not known, but each takes no more than this.
        let share = limit.saturating_sub(told + elsewhere) / self.replicas.load(Relaxed);
        left.min((told + share).saturating_sub(used))
    }

    fn used(&self) -> Usage {
        Usage {
            events: self.events_today.load(Relaxed),
            bytes: self.bytes_today.load(Relaxed),
        }
    }

    fn told_on(&self, day: i64) -> Told {
        let told = **self.told.load();
        if told.day == day { told } else { Told::default() }
    }

    /// Begins the day of `now_ms`, with nothing used, unless it has begun. Yesterday does not come back: that is a request
    /// that was looked at a moment late, or a clock that was set back a little.
    fn turn_the_day(&self, now_ms: i64) {
        let day = self.day.load(Acquire);
        if (-DAY_MS..DAY_MS).contains(&(now_ms - day)) {
            return;
        }
        // Before the day, so that who sees it finds nothing of the last one. Where two do so at once, what one of them
        // has charged in between is not counted.
        self.events_today.store(0, Relaxed);
        self.bytes_today.store(0, Relaxed);
        self.day.store(midnight(now_ms), Release);
    }

    /// The day, by when it began, and what this pod has admitted on it.
    fn today(&self, now_ms: i64) -> (i64, Usage) {
        self.turn_the_day(now_ms);
        let day = self.day.load(Acquire);
        (day, self.used())
    }

    /// Redis was told `own` and has told what the other pods used. The answer may come when that day is over.
    fn hear(&self, day: i64, own: Usage, elsewhere: Usage) {
        // Within a day this only grows; a Redis that lost its data knows less for a while than we do.
        let before = self.told_on(day).elsewhere;
        let elsewhere = Usage {
            events: elsewhere.events.max(before.events),
            bytes: elsewhere.bytes.max(before.bytes),
        };
        self.told.store(Arc::new(Told { day, own, elsewhere }));
        self.alone.store(false, Relaxed);
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
    const MIDNIGHT: i64 = 1_763_769_600_000;

    fn events(events: u64) -> Usage {
        Usage { events, bytes: 0 }
    }

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
        quota.hear(midnight(NOW), Usage::default(), Usage::default());
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

    #[test]
    fn without_redis_a_pod_takes_its_share_of_the_day() {
        let quota = Quota::new(&limits(None, Some(1000), Some(40_000)), 4);
        let admit = |events| quota.admit(NOW, events, |n| n * 10).events;
        assert_eq!((admit(200), admit(200)), (200, 50), "a fresh one: limit/replicas");
        quota.set_limits(&limits(None, Some(1000), Some(4000)), 4);
        assert_eq!(admit(1), 0, "of the bytes too");
        quota.set_limits(&limits(None, Some(1000), None), 2);
        assert_eq!(admit(1000), 250, "of so many as there are");

        let (day, own) = quota.today(NOW);
        assert_eq!((day, own.events), (midnight(NOW), 500));
        quota.hear(day, own, events(100));
        assert_eq!(admit(50), 50, "with Redis it may take all that is left");
        quota.alone.store(true, Relaxed);
        assert_eq!(
            admit(1000),
            150,
            "half of the 400 that were left when Redis last answered"
        );
        assert_eq!(admit(1), 0);
        quota.refund(3, 30);
        assert_eq!(admit(5), 3, "what was given back");

        let (day, own) = quota.today(NOW);
        quota.hear(day, own, Usage::default());
        assert_eq!(
            admit(1000),
            200,
            "a Redis that lost its data is not believed to know better"
        );
    }

    #[test]
    fn a_day_ends_at_midnight_whatever_redis_does() {
        let quota = Quota::new(&limits(None, Some(10), Some(1000)), 2);
        let admit = |now, events| quota.admit(now, events, |n| n * 10);
        let (day, own) = quota.today(NOW);
        quota.hear(day, own, events(4));
        assert_eq!(admit(NOW, 7).events, 6);
        let refusal = admit(MIDNIGHT - 1, 1).refusal.unwrap();
        assert_eq!(refusal.retry_after_seconds, 1);
        let admission = admit(MIDNIGHT, 9);
        assert_eq!(
            (admission.events, admission.refusal),
            (9, None),
            "neither its own nor the others' usage of yesterday counts"
        );
        assert_eq!(quota.today(MIDNIGHT), (MIDNIGHT, Usage { events: 9, bytes: 90 }));

        // Late: the answer of a Redis that hung, and a request from before midnight.
        quota.hear(day, own, events(10));
        assert_eq!(admit(MIDNIGHT - 1, 2).events, 1);
        assert_eq!(quota.today(MIDNIGHT + 1).1.events, 10, "that has not begun anew");

        // An idle App's day ends with the exchange's look at the clock.
        assert_eq!(
            quota.today(MIDNIGHT + DAY_MS),
            (MIDNIGHT + DAY_MS, Usage::default())
        );
        quota.alone.store(true, Relaxed);
        for days in 2..4 {
            assert_eq!(
                admit(MIDNIGHT + days * DAY_MS, 10).events,
                5,
                "the share without Redis begins anew"
            );
        }
        assert_eq!(
            admit(MIDNIGHT, 10).events,
            5,
            "a clock that was days ahead is right again"
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
            let share = |limit: u64| limit / u64::from(replicas);
            prop_assert!(events.is_none_or(|limit| total <= share(limit)));
            prop_assert!(bytes.is_none_or(|limit| total * 10 <= share(limit)));
            prop_assert!(rate.is_none_or(|rate| total <= share(rate.max(SMALLEST_BURST))));
        }
    }
}
