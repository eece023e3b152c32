//! The bound on memory: bytes of bodies and groups in flight, taken before a body is read.
//!
//! A request takes [`FACTOR`] times the bytes it may bring (its body, its lines, Kafka's copy of them) and the group
//! it joins keeps them until Kafka has answered, whether or not the client is still there. Who finds no room waits
//! at most [`LONGEST_WAIT`], then is refused.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Copies of an event that may exist at once.
pub(crate) const FACTOR: usize = 3;
/// What the smallest request takes: headers, the line's own members.
const BASE: usize = 1024;
/// Longer than this nobody waits for room.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Bytes that belong to a request or a group; given back when dropped.
pub(crate) type Permit = OwnedSemaphorePermit;

/// The budget of the process. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    free: Arc<Semaphore>,
    limit: usize,
}

/// There was no room in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exhausted;

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(limit)),
            limit,
        }
    }

    /// Room for a body of `bytes`.
    pub(crate) async fn take(&self, bytes: usize) -> Result<Permit, Exhausted> {
        self.acquire(bytes.saturating_mul(FACTOR).saturating_add(BASE))
            .await
    }

    /// Room for `bytes` more of a body whose length was not known.
    pub(crate) async fn more(&self, permit: &mut Permit, bytes: usize) -> Result<(), Exhausted> {
        permit.merge(self.acquire(self.share(permit, bytes)).await?);
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

    async fn acquire(&self, bytes: usize) -> Result<Permit, Exhausted> {
        let Ok(wanted) = u32::try_from(bytes.min(self.limit)) else {
            return Err(Exhausted);
        };
        // Mostly there is room, and then no timer is needed.
        if let Ok(permit) = Arc::clone(&self.free).try_acquire_many_owned(wanted) {
            return Ok(permit);
        }
        match tokio::time::timeout(LONGEST_WAIT, Arc::clone(&self.free).acquire_many_owned(wanted)).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(Exhausted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_room_waits_a_second() {
        let budget = Budget::new(10_000);
        let first = budget.take(2000).await.unwrap();
        assert_eq!(budget.used(), 7024);
        let before = tokio::time::Instant::now();
        assert_eq!(budget.take(2000).await.unwrap_err(), Exhausted);
        assert_eq!(before.elapsed(), LONGEST_WAIT);
        drop(first);
        assert!(budget.take(2000).await.is_ok());
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn room_that_comes_free_is_taken() {
        let budget = Budget::new(10_000);
        let mut first = budget.take(1000).await.unwrap();
        budget.more(&mut first, 1000).await.unwrap();
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
        assert_eq!((budget.used(), budget.more(&mut only, 1).await), (10_000, Ok(())));
        assert!(budget.take(0).await.is_err());
        drop(only);
        let mut other = budget.take(2000).await.unwrap();
        let _held = budget.take(500).await.unwrap();
        assert_eq!(budget.try_more(&mut other, 1000), Err(Exhausted));
    }
}
