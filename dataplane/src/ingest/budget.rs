//! The bound on memory: bytes of bodies and groups in flight, taken before a body is read.
//!
//! A request takes [`FACTOR`] times the bytes it may bring (its body, its lines, Kafka's copy of them) and the group
//! it joins keeps them until Kafka has answered, whether or not the client is still there. Who finds no room waits
//! at most [`LONGEST_WAIT`], and not beyond the time of his request, then is refused; and as long as requests are
//! refused, who finds no room is refused at once, for a queue that is never worked off only makes everybody late.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::last::Last;

/// Copies of an event that may exist at once.
pub(crate) const FACTOR: usize = 3;
/// What the smallest request takes: headers, the line's own members.
const BASE: usize = 1024;
/// Longer than this nobody waits for room.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Bytes that belong to a request or a group; given back when dropped.
pub(crate) type Permit = OwnedSemaphorePermit;

/// What a record of `bytes` needs of its request's permit: its copy here, and librdkafka's.
pub(crate) fn share_of(permit: &mut Permit, bytes: usize) -> Option<Permit> {
    permit.split(bytes.saturating_mul(2).min(permit.num_permits()))
}

/// The budget of the process. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    free: Arc<Semaphore>,
    limit: usize,
    /// When a request was last refused for want of room.
    refused: Arc<Last>,
}

/// There was no room in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exhausted;

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(limit)),
            limit,
            refused: Arc::new(Last::never()),
        }
    }

    /// Room for a body of `bytes`. A request has just begun, and has more time than anybody waits.
    pub(crate) async fn take(&self, bytes: usize) -> Result<Permit, Exhausted> {
        let bytes = bytes.saturating_mul(FACTOR).saturating_add(BASE);
        self.acquire(bytes, LONGEST_WAIT).await
    }

    /// Room for `bytes` more of a body whose length was not known, whose request has time until then.
    pub(crate) async fn more(
        &self,
        permit: &mut Permit,
        bytes: usize,
        until: Instant,
    ) -> Result<(), Exhausted> {
        let left = until.saturating_duration_since(Instant::now());
        let share = self.share(permit, bytes);
        permit.merge(self.acquire(share, LONGEST_WAIT.min(left)).await?);
        Ok(())
    }

    /// [`Budget::more`], now or not.
    pub(crate) fn try_more(&self, permit: &mut Permit, bytes: usize) -> Result<(), Exhausted> {
        let wanted = u32::try_from(self.share(permit, bytes)).map_err(|_| Exhausted)?;
        let share = Arc::clone(&self.free).try_acquire_many_owned(wanted);
        permit.merge(share.map_err(|_| Exhausted)?);
        Ok(())
    }

    /// One request that has all there is needs no more.
    fn share(&self, permit: &Permit, bytes: usize) -> usize {
        bytes
            .saturating_mul(FACTOR)
            .min(self.limit.saturating_sub(permit.num_permits()))
    }

    pub(crate) fn used(&self) -> usize {
        self.limit.saturating_sub(self.free.available_permits())
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    async fn acquire(&self, bytes: usize, longest: Duration) -> Result<Permit, Exhausted> {
        let Ok(wanted) = u32::try_from(bytes.min(self.limit)) else {
            return Err(Exhausted);
        };
        // Mostly there is room, and then no timer is needed.
        if let Ok(permit) = Arc::clone(&self.free).try_acquire_many_owned(wanted) {
            return Ok(permit);
        }
        if self.refuses() {
            return Err(self.refuse());
        }
        match tokio::time::timeout(longest, Arc::clone(&self.free).acquire_many_owned(wanted)).await {
            Ok(Ok(permit)) => Ok(permit),
            // Who had less time than others has not shown that they would wait in vain.
            Err(_) if longest < LONGEST_WAIT => Err(Exhausted),
            Ok(Err(_)) | Err(_) => Err(self.refuse()),
        }
    }

    fn refuse(&self) -> Exhausted {
        self.refused.now();
        Exhausted
    }

    /// Whether a request was refused as late as somebody would have waited since.
    fn refuses(&self) -> bool {
        self.refused.is_within(LONGEST_WAIT)
    }
}

/// Bytes in use, per cent of the limit: from here on a pod is as good as full, and below there it has room again.
const HIGH: usize = 90;
const LOW: usize = 60;
/// Looks, one a second, for which a pod is full before it is taken out of the Service: not for a burst.
const LOOKS: u32 = 3;

/// Whether a pod should be given more work.
#[derive(Debug, Default)]
pub(crate) struct Watermark {
    full_for: u32,
    is_over: bool,
}

impl Watermark {
    /// Called once a second; whether the pod has been full for a while and has not got rid of it yet.
    pub(crate) fn look(&mut self, budget: &Budget) -> bool {
        let used = budget.used().saturating_mul(100) / budget.limit.max(1);
        // Who asks for much finds no room before all is in use.
        self.full_for = match used >= HIGH || budget.refuses() {
            true => self.full_for + 1,
            false => 0,
        };
        self.is_over = self.full_for >= LOOKS || self.is_over && (used >= LOW || self.full_for > 0);
        self.is_over
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    /// Beyond the end of every test.
    fn later() -> std::time::Instant {
        std::time::Instant::now() + Duration::from_secs(3600)
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_room_waits_a_second() {
        let budget = Budget::new(10_000);
        let first = budget.take(2000).await.unwrap();
        assert_eq!(budget.used(), 7024);
        let before = Instant::now();
        assert_eq!(budget.take(2000).await.unwrap_err(), Exhausted);
        assert_eq!(before.elapsed(), LONGEST_WAIT);
        drop(first);
        assert!(budget.take(2000).await.is_ok());
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn while_requests_are_refused_nobody_waits() {
        let budget = Budget::new(10_000);
        let first = budget.take(2000).await.unwrap();
        assert!(budget.take(2000).await.is_err());
        for _ in 0..5 {
            let before = Instant::now();
            assert!(budget.take(2000).await.is_err());
            assert_eq!(before.elapsed(), Duration::ZERO);
            tokio::time::sleep(LONGEST_WAIT / 2).await;
        }
        assert!(budget.take(100).await.is_ok(), "who finds room gets it");
        // Nobody was refused for a while: it is worth waiting again.
        tokio::time::sleep(2 * LONGEST_WAIT).await;
        let other = budget.clone();
        let waiting = tokio::spawn(async move { other.take(2000).await.is_ok() });
        tokio::time::sleep(LONGEST_WAIT / 2).await;
        drop(first);
        assert!(waiting.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_beyond_the_time_of_his_request() {
        let budget = Budget::new(10_000);
        let (mut some, _most) = (budget.take(100).await.unwrap(), budget.take(2000).await.unwrap());
        for left in [LONGEST_WAIT / 4, Duration::ZERO] {
            let before = Instant::now();
            let until = std::time::Instant::now() + left;
            assert_eq!(budget.more(&mut some, 2000, until).await, Err(Exhausted));
            assert!(before.elapsed() < LONGEST_WAIT / 2, "{:?}", before.elapsed());
        }
        let before = Instant::now();
        assert_eq!(budget.more(&mut some, 2000, later()).await, Err(Exhausted));
        assert_eq!(before.elapsed(), LONGEST_WAIT, "others wait all the same");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_stays_full_is_given_no_more_until_it_has_room() {
        let budget = Budget::new(100_000);
        let mut watermark = Watermark::default();
        let mut look = || watermark.look(&budget);
        let most = budget.take(31_000).await.unwrap();
        assert_eq!((look(), look()), (false, false), "a burst");
        assert_eq!((look(), look()), (true, true));
        drop(most);
        let half = budget.take(20_000).await.unwrap();
        assert!(look(), "it has not got rid of it");
        drop(half);
        assert!(!look());
        assert!(!look());
        let _some = budget.take(20_000).await.unwrap();
        assert!(budget.take(20_000).await.is_err());
        assert_eq!((look(), look(), look()), (false, false, true), "it refuses");
    }

    #[tokio::test(start_paused = true)]
    async fn room_that_comes_free_is_taken() {
        let budget = Budget::new(10_000);
        let mut first = budget.take(1000).await.unwrap();
        budget.more(&mut first, 1000, later()).await.unwrap();
        assert_eq!(budget.used(), 7024);
        let other = budget.clone();
        let waiting = tokio::spawn(async move { other.take(2000).await.is_ok() });
        tokio::time::sleep(Duration::from_millis(500)).await;
        drop(first);
        assert!(waiting.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn one_request_may_have_all_there_is() {
        let budget = Budget::new(10_000);
        let mut only = budget.take(1000).await.unwrap();
        assert_eq!(budget.try_more(&mut only, 50_000), Ok(()));
        let more = budget.more(&mut only, 1, later()).await;
        assert_eq!((budget.used(), more), (10_000, Ok(())));
        assert!(budget.take(0).await.is_err());
        drop(only);
        let mut other = budget.take(2000).await.unwrap();
        let _held = budget.take(500).await.unwrap();
        assert_eq!(budget.try_more(&mut other, 1000), Err(Exhausted));
    }
}
