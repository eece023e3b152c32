//! The exchange with Redis, in the background: leases every 100 ms, usage every second.
//!
//! Keys, all under the configured prefix, one set per App:
//!
//! | key | kind | what |
//! |---|---|---|
//! | `quota:<app>` | HASH | limits in force, written by the operator with a time to live |
//! | `bucket:<app>` | HASH | tokens, and what each pod holds of them |
//! | `usage:<app>:<YYYYMMDD>` | HASH | `<pod>:events` and `<pod>:bytes`, absolute, so a lost Redis fills itself again |
//!
//! Beside the exchange, and not held up by it, a pod that does not hear of Redis refills its own bucket with
//! limit/replicas.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures::future::join_all;
use penstock_dataplane_config::{Quota as Limits, RedisTarget};
use redis::aio::MultiplexedConnection;
use redis::{RedisError, Script};
use uuid::Uuid;

use super::super::apps::{App, Apps};
use super::super::last::Last;
use super::super::metrics::IngestMetrics;
use super::{Quota, Usage, burst};
use crate::process::Dependency;
use crate::utc::{day_name, now_ms};

const LEASE_EVERY: Duration = Duration::from_millis(100);
const USAGE_EVERY: Duration = Duration::from_secs(1);
/// A pod's holdings are forgotten after 5 s, so even an idle one is renewed before.
const RENEW_EVERY: Duration = Duration::from_secs(1);
/// Without a word from Redis for so long a pod goes on alone.
const HEARD_WITHIN: Duration = Duration::from_millis(1500);
const RECONNECT_AFTER: Duration = Duration::from_secs(1);
/// Apps that Redis is asked about at once, over one connection.
const IN_FLIGHT: usize = 256;
/// Yesterday's usage stays readable for a while.
const USAGE_KEPT_SECONDS: i64 = 3 * 86_400;
const LEASE: &str = include_str!("lease.lua");

/// The background side of all quotas of the process.
#[derive(Debug)]
pub(crate) struct Sync {
    pub(crate) apps: Arc<ArcSwap<Apps>>,
    pub(crate) redis: Option<(RedisTarget, Dependency)>,
    /// This process, among the pods that share the limits.
    pub(crate) pod: Uuid,
    pub(crate) metrics: IngestMetrics,
}

/// The exchange, turn after turn.
pub(crate) struct Exchange {
    sync: Sync,
    script: Script,
    connection: Option<MultiplexedConnection>,
    tried: Option<Instant>,
    turn: Turn,
    /// When Redis last did what it was asked for.
    heard: Arc<Last>,
}

/// When what was last done.
#[derive(Debug)]
struct Turn {
    /// When the last one began.
    began: Instant,
    renewed: Instant,
    used: Option<Instant>,
}

impl Exchange {
    /// Takes turns until dropped. Beside them this pod's own share flows whenever Redis is not heard of, for a Redis
    /// that hangs must not hold the events.
    pub(crate) async fn run(mut self) {
        let (heard, apps) = (Arc::clone(&self.heard), Arc::clone(&self.sync.apps));
        let lease_age = self
            .sync
            .redis
            .as_ref()
            .map(|_| self.sync.metrics.lease_age.clone());
        let share = async move {
            let (mut ticks, mut before) = (every(LEASE_EVERY), Instant::now());
            loop {
                ticks.tick().await;
                let elapsed = before.elapsed();
                before = Instant::now();
                if let Some(lease_age) = &lease_age {
                    lease_age.set(heard.age().as_secs_f64());
                }
                if !heard.is_within(HEARD_WITHIN) {
                    apps.load().each(|app| go_on_alone(&app.quota, elapsed));
                }
            }
        };
        let exchange = async {
            let mut ticks = every(LEASE_EVERY);
            loop {
                ticks.tick().await;
                self.turn().await;
            }
        };
        tokio::join!(share, exchange);
    }

    /// One turn: what is due, if Redis is there.
    pub(crate) async fn turn(&mut self) {
        let sync = &self.sync;
        let apps = sync.apps.load_full();
        let elapsed = self.turn.began.elapsed();
        self.turn.began = Instant::now();
        let Some((target, dependency)) = &sync.redis else {
            return;
        };
        if self.connection.is_none() && self.tried.is_none_or(|at| at.elapsed() >= RECONNECT_AFTER) {
            match penstock_connect::redis::open(target).await {
                Ok(made) => self.connection = Some(made),
                Err(error) => dependency.lost(error.to_string()),
            }
            self.tried = Some(Instant::now());
        }
        let Some(open) = self.connection.as_ref() else {
            return;
        };
        match sync
            .exchange(open, &self.script, target, &apps, elapsed, &mut self.turn)
            .await
        {
            Ok(true) => {
                self.heard.now();
                sync.metrics.quota_syncs.inc();
                dependency.found();
            }
            Ok(false) => {}
            Err(error) => {
                sync.metrics.quota_sync_failures.inc();
                dependency.lost(error.to_string());
                self.connection = None;
            }
        }
    }
}

fn every(period: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks
}

impl Sync {
    pub(crate) fn start(self) -> Exchange {
        let now = Instant::now();
        let turn = Turn {
            began: now,
            renewed: now,
            used: None,
        };
        Exchange {
            sync: self,
            script: Script::new(LEASE),
            connection: None,
            tried: None,
            turn,
            heard: Arc::new(Last::never()),
        }
    }

    /// Leases and usage that are due; false when nothing was.
    async fn exchange(
        &self,
        connection: &MultiplexedConnection,
        script: &Script,
        target: &RedisTarget,
        apps: &Apps,
        elapsed: Duration,
        turn: &mut Turn,
    ) -> Result<bool, RedisError> {
        let mut any = false;
        let renew = turn.renewed.elapsed() >= RENEW_EVERY;
        if renew {
            turn.renewed = Instant::now();
        }
        for some in apps.list().chunks(IN_FLIGHT) {
            let leases = some.iter().filter_map(|app| {
                let want = wanted(&app.quota, elapsed);
                // An App without a rate is asked about too, at the slower pace: the operator may have set one.
                (want != 0 || renew).then(|| self.lease(connection.clone(), script, target, app, want))
            });
            for done in join_all(leases).await {
                any = true;
                done?;
            }
        }
        if turn.used.is_none_or(|at| at.elapsed() >= USAGE_EVERY) {
            turn.used = Some(Instant::now());
            for some in apps.list().chunks(IN_FLIGHT) {
                let usages = some.iter().map(|app| self.usage(connection.clone(), target, app));
                for done in join_all(usages).await {
                    any = true;
                    done?;
                }
            }
        }
        Ok(any)
    }

    async fn lease(
        &self,
        mut connection: MultiplexedConnection,
        script: &Script,
        target: &RedisTarget,
        app: &App,
        want: i64,
    ) -> Result<(), RedisError> {
        let quota = &app.quota;
        // What is given back is taken out first, so that it cannot be spent meanwhile.
        if want < 0 {
            quota.tokens.fetch_add(want, Relaxed);
        }
        let held = quota.tokens.load(Relaxed).max(0) - want.min(0);
        let own = &app.limits;
        let text = |limit: Option<u64>| limit.map_or_else(String::new, |limit| limit.to_string());
        let answer: Result<Vec<String>, RedisError> = script
            .key(format!("{}:bucket:{}", target.prefix, app.id))
            .key(format!("{}:quota:{}", target.prefix, app.id))
            .arg(self.pod.to_string())
            .arg(held)
            .arg(want)
            .arg(text(own.events_per_second))
            .arg(text(own.burst))
            .arg(text(own.events_per_day))
            .arg(text(own.bytes_per_day))
            .invoke_async(&mut connection)
            .await;
        match answer {
            Ok(values) => {
                let number = |index: usize| values.get(index).and_then(|text| text.parse::<f64>().ok());
                if want > 0 {
                    quota.tokens.fetch_add(number(0).unwrap_or(0.0) as i64, Relaxed);
                }
                let limit = |index: usize| number(index).map(|limit| limit.max(0.0) as u64);
                let limits = Limits {
                    events_per_second: limit(1),
                    burst: limit(2),
                    events_per_day: limit(3),
                    bytes_per_day: limit(4),
                };
                if **quota.limits.load() != limits {
                    let replicas = u32::try_from(quota.replicas.load(Relaxed)).unwrap_or(u32::MAX);
                    quota.set_limits(&limits, replicas);
                }
                Ok(())
            }
            Err(error) => {
                if want < 0 {
                    quota.tokens.fetch_sub(want, Relaxed);
                }
                Err(error)
            }
        }
    }

    async fn usage(
        &self,
        mut connection: MultiplexedConnection,
        target: &RedisTarget,
        app: &App,
    ) -> Result<(), RedisError> {
        let quota = &app.quota;
        let (day, own) = quota.today(now_ms());
        let limited = {
            let limits = quota.limits.load();
            limits.events_per_day.is_some() || limits.bytes_per_day.is_some()
        };
        if own.events == 0 && !limited {
            return Ok(());
        }
        let key = format!("{}:usage:{}:{}", target.prefix, app.id, day_name(day));
        let mine = self.pod.to_string();
        let mut pipe = redis::pipe();
        if own.events > 0 {
            pipe.hset(&key, format!("{mine}:events"), own.events).ignore();
            pipe.hset(&key, format!("{mine}:bytes"), own.bytes).ignore();
            pipe.expire(&key, USAGE_KEPT_SECONDS).ignore();
        }
        let (fields,): (Vec<(String, u64)>,) = pipe.hgetall(&key).query_async(&mut connection).await?;
        let sum = |kind: &str| {
            let elsewhere = fields
                .iter()
                .filter(|(name, _)| name.ends_with(kind) && !name.starts_with(&mine));
            elsewhere.map(|(_, count)| count).sum::<u64>()
        };
        let elsewhere = Usage {
            events: sum(":events"),
            bytes: sum(":bytes"),
        };
        quota.hear(day, own, elsewhere);
        Ok(())
    }
}

/// How many tokens to ask for: enough for a few turns of the demand seen, at least the pod's standing share, at most
/// a second of the rate. Negative when much more is held than that.
fn wanted(quota: &Quota, elapsed: Duration) -> i64 {
    let limits = quota.limits.load();
    let (Some(rate), Some(burst)) = (limits.events_per_second, burst(&limits)) else {
        return 0;
    };
    let demand = quota.demand.swap(0, Relaxed);
    let rate = i64::try_from(rate).unwrap_or(i64::MAX);
    let turns = (LEASE_EVERY.as_secs_f64() / elapsed.as_secs_f64().max(0.001)).min(1.0);
    let ahead = ((demand as f64) * turns * 3.0) as i64;
    let standing = quota.share_of_burst().min(rate.max(1000));
    let target = standing.max(ahead.min(rate.max(1000))).min(burst);
    let missing = target - quota.tokens.load(Relaxed);
    // A small surplus is kept, or tokens would go back and forth.
    if missing < 0 && -missing <= target / 4 {
        0
    } else {
        missing
    }
}

/// Holds the pod to its share, and gives it that of the rate for the time that passed.
fn go_on_alone(quota: &Quota, elapsed: Duration) {
    quota.alone.store(true, Relaxed);
    let limits = quota.limits.load();
    let Some(rate) = limits.events_per_second else {
        return;
    };
    let share = quota.share_of_burst();
    let replicas = quota.replicas.load(Relaxed).max(1);
    let grown = (rate as f64 * elapsed.as_secs_f64() / replicas as f64).round() as i64;
    let _ = quota.tokens.fetch_update(Relaxed, Relaxed, |tokens| {
        (tokens < share).then(|| (tokens + grown).min(share))
    });
    quota.demand.store(0, Relaxed);
}

#[cfg(test)]
#[path = "sync_tests.rs"]
mod tests;
