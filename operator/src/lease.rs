//! Leadership: one Lease, compare-and-swap, on a clock that counts suspension.
//!
//! ```text
//! candidate ──acquire (update with resourceVersion)──> leader ──10 s without a renewal──> lost: the process ends
//!     ^                                                   └──SIGTERM──> released: the next one need not wait
//!     └── waits until the record has stood still for 15 s of its own clock, or has been released
//! ```
//!
//! Invariant: [`Leadership::held`] turns false 5 s before another may take over. Every write asks it first. A renewal
//! counts from the moment it was sent, not from its answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::time::{sleep, timeout};

/// Name of the Lease.
pub const LEASE: &str = "penstock-operator";
/// After so long without a renewal another takes over.
const DURATION: Duration = Duration::from_secs(15);
/// After so long without a renewal the leader stops.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often the leader renews.
const RENEW: Duration = Duration::from_secs(2);
/// How often a candidate looks.
const LOOK: Duration = Duration::from_secs(1);
/// For one request.
const REQUEST: Duration = Duration::from_secs(3);
const _: () = assert!(REQUEST.as_secs() + RENEW.as_secs() < DEADLINE.as_secs());
const _: () = assert!(DEADLINE.as_secs() < DURATION.as_secs());

/// Time since boot, suspension included. A monotonic clock stands still while a machine sleeps, and a leader that
/// slept would believe in its claim.
fn since_boot() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map_or(Duration::MAX, Duration::from)
}

/// Whether this process may write. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Leadership {
    /// Milliseconds since boot until which the claim holds.
    until: Arc<AtomicU64>,
}

impl Leadership {
    pub fn held(&self) -> bool {
        since_boot().as_millis() < u128::from(self.until.load(Ordering::Acquire))
    }

    fn extend(&self, sent: Duration) {
        let until = u64::try_from((sent + DEADLINE).as_millis()).unwrap_or(0);
        self.until.store(until, Ordering::Release);
    }

    fn end(&self) {
        self.until.store(0, Ordering::Release);
    }
}

/// What a candidate saw, and since when it has stood still.
#[derive(Clone, Debug)]
struct Observed {
    version: String,
    since: Duration,
}

/// What to do about a Lease.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Create(Box<Lease>),
    Update(Box<Lease>),
    Wait,
}

fn record(identity: &str, now: Timestamp, before: Option<&Lease>) -> Lease {
    let spec = before.and_then(|l| l.spec.as_ref());
    let ours = spec.and_then(|s| s.holder_identity.as_deref()) == Some(identity);
    let transitions = spec.and_then(|s| s.lease_transitions).unwrap_or(0);
    Lease {
        metadata: before.map_or_else(
            || ObjectMeta {
                name: Some(LEASE.into()),
                ..ObjectMeta::default()
            },
            |l| l.metadata.clone(),
        ),
        spec: Some(LeaseSpec {
            holder_identity: Some(identity.into()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: if ours {
                spec.and_then(|s| s.acquire_time.clone())
            } else {
                Some(MicroTime(now))
            },
            renew_time: Some(MicroTime(now)),
            lease_transitions: Some(if ours || before.is_none() {
                transitions
            } else {
                transitions + 1
            }),
            ..LeaseSpec::default()
        }),
    }
}

/// The candidate's decision. `observed`: what it saw before; times are since boot.
fn decide(
    identity: &str,
    lease: Option<&Lease>,
    observed: Option<&Observed>,
    boot: Duration,
    now: Timestamp,
) -> Step {
    let Some(lease) = lease else {
        return Step::Create(Box::new(record(identity, now, None)));
    };
    let spec = lease.spec.as_ref();
    let holder = spec
        .and_then(|s| s.holder_identity.as_deref())
        .unwrap_or_default();
    let take = || Step::Update(Box::new(record(identity, now, Some(lease))));
    if holder.is_empty() || holder == identity {
        return take();
    }
    let seconds = spec
        .and_then(|s| s.lease_duration_seconds)
        .and_then(|s| u64::try_from(s).ok());
    let patience = seconds.map_or(DURATION, Duration::from_secs);
    match observed {
        Some(seen) if Some(&seen.version) == lease.metadata.resource_version.as_ref() => {
            if boot.saturating_sub(seen.since) > patience {
                take()
            } else {
                Step::Wait
            }
        }
        _ => Step::Wait,
    }
}

/// Takes part in the election.
#[derive(Debug)]
pub struct Elector {
    leases: Api<Lease>,
    identity: String,
    leadership: Leadership,
}

impl Elector {
    pub fn new(client: Client, namespace: &str, identity: &str) -> Self {
        Self {
            leases: Api::namespaced(client, namespace),
            identity: identity.into(),
            leadership: Leadership::default(),
        }
    }

    pub fn leadership(&self) -> Leadership {
        self.leadership.clone()
    }

    /// Returns when this process leads.
    pub async fn acquire(&self) -> Lease {
        let mut observed: Option<Observed> = None;
        loop {
            match timeout(REQUEST, self.attempt(&mut observed)).await {
                Ok(Ok(Some(lease))) => return lease,
                Ok(Ok(None)) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the Lease cannot be read or taken; looking again"),
                Err(_) => tracing::warn!("no answer about the Lease in time; looking again"),
            }
            sleep(LOOK).await;
        }
    }

    async fn attempt(&self, observed: &mut Option<Observed>) -> kube::Result<Option<Lease>> {
        let lease = self.leases.get_opt(LEASE).await?;
        let step = decide(
            &self.identity,
            lease.as_ref(),
            observed.as_ref(),
            since_boot(),
            Timestamp::now(),
        );
        let version = lease.and_then(|l| l.metadata.resource_version);
        if observed.as_ref().map(|o| &o.version) != version.as_ref() {
            *observed = version.map(|version| Observed {
                version,
                since: since_boot(),
            });
        }
        let sent = since_boot();
        let taken = match step {
            Step::Wait => return Ok(None),
            Step::Create(lease) => self.leases.create(&PostParams::default(), &lease).await,
            Step::Update(lease) => self.leases.replace(LEASE, &PostParams::default(), &lease).await,
        };
        match taken {
            Ok(lease) => {
                self.leadership.extend(sent);
                Ok(Some(lease))
            }
            // Another candidate was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Renews; returns when leadership is lost.
    pub async fn keep(&self, mut lease: Lease) {
        loop {
            sleep(RENEW).await;
            let sent = since_boot();
            let renewed = record(&self.identity, Timestamp::now(), Some(&lease));
            match timeout(
                REQUEST,
                self.leases.replace(LEASE, &PostParams::default(), &renewed),
            )
            .await
            {
                Ok(Ok(stored)) => {
                    lease = stored;
                    self.leadership.extend(sent);
                }
                Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {
                    // Someone changed or deleted the record: ours still, or no more?
                    match timeout(REQUEST, self.leases.get_opt(LEASE)).await {
                        Ok(Ok(Some(now))) if holder(&now) == Some(&self.identity) => lease = now,
                        Ok(Ok(_)) => {
                            self.leadership.end();
                            return;
                        }
                        _ => {}
                    }
                }
                Ok(Err(error)) => tracing::warn!(%error, "the Lease was not renewed; trying again"),
                Err(_) => tracing::warn!("the Lease was not renewed in time; trying again"),
            }
            if !self.leadership.held() {
                return;
            }
        }
    }

    /// Gives leadership up. Nothing may be written from here on.
    pub async fn release(&self) {
        self.leadership.end();
        let released = timeout(REQUEST, async {
            let Some(mut lease) = self.leases.get_opt(LEASE).await? else {
                return Ok(());
            };
            if holder(&lease) != Some(&self.identity) {
                return Ok(());
            }
            if let Some(spec) = lease.spec.as_mut() {
                spec.holder_identity = Some(String::new());
                spec.lease_duration_seconds = Some(1);
            }
            self.leases
                .replace(LEASE, &PostParams::default(), &lease)
                .await
                .map(|_| ())
        });
        match released.await {
            Ok(Ok(())) => tracing::info!("leadership released"),
            Ok(Err(error)) => tracing::warn!(%error, "the Lease was not released; it runs out by itself"),
            Err(_) => tracing::warn!("the Lease was not released in time; it runs out by itself"),
        }
    }
}

fn holder(lease: &Lease) -> Option<&String> {
    lease.spec.as_ref()?.holder_identity.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, version: &str) -> Lease {
        let mut lease = record(holder, Timestamp::UNIX_EPOCH, None);
        lease.metadata.resource_version = Some(version.into());
        lease
    }

    fn seen(version: &str, since: u64) -> Observed {
        Observed {
            version: version.into(),
            since: Duration::from_secs(since),
        }
    }

    #[test]
    fn candidates_wait_for_a_living_leader() {
        let decide_at = |lease: &Lease, observed: Option<Observed>, boot: u64| {
            decide(
                "me",
                Some(lease),
                observed.as_ref(),
                Duration::from_secs(boot),
                Timestamp::UNIX_EPOCH,
            )
        };
        let other = lease("other", "7");
        assert_eq!(decide_at(&other, None, 1000), Step::Wait, "never seen before");
        assert_eq!(
            decide_at(&other, Some(seen("6", 0)), 1000),
            Step::Wait,
            "renewed since"
        );
        assert_eq!(
            decide_at(&other, Some(seen("7", 990)), 1005),
            Step::Wait,
            "15 s are not over"
        );
        assert!(matches!(
            decide_at(&other, Some(seen("7", 990)), 1006),
            Step::Update(_)
        ));
        assert!(
            matches!(decide_at(&lease("", "7"), None, 0), Step::Update(_)),
            "released"
        );
        assert!(
            matches!(decide_at(&lease("me", "7"), None, 0), Step::Update(_)),
            "ours from before a restart"
        );
        assert!(matches!(
            decide("me", None, None, Duration::ZERO, Timestamp::UNIX_EPOCH),
            Step::Create(_)
        ));
    }

    #[test]
    fn taking_over_compares_and_counts() {
        let other = lease("other", "7");
        let taken = record("me", Timestamp::UNIX_EPOCH, Some(&other));
        assert_eq!(
            taken.metadata.resource_version.as_deref(),
            Some("7"),
            "an update without a version swaps blindly"
        );
        assert_eq!(taken.spec.as_ref().and_then(|s| s.lease_transitions), Some(1));
        let renewed = record("me", Timestamp::now(), Some(&taken));
        let spec = renewed.spec.unwrap();
        assert_eq!(spec.lease_transitions, Some(1));
        assert_eq!(spec.acquire_time, taken.spec.unwrap().acquire_time);
    }

    #[test]
    fn a_claim_ends_by_itself() {
        let leadership = Leadership::default();
        assert!(!leadership.held());
        leadership.extend(since_boot());
        assert!(leadership.held());
        leadership.extend(since_boot().saturating_sub(DEADLINE));
        assert!(!leadership.held(), "a renewal counts from when it was sent");
    }
}
