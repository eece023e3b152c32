//! [`QuotaStore`] on Redis: the limits of each App as a hash.
//!
//! ```text
//! <prefix>:quota:<app uuid>          {events_per_second, burst, events_per_day, bytes_per_day}   lives for a TTL
//! <prefix>:usage:<app uuid>:<day>    {<pod>:events, <pod>:bytes}                   written by ingest, only read here
//! ```
//!
//! Pods have the limits in their configuration, too, which kubelet brings to each in its own time. As long as they hear of
//! Redis they go by what is here, so that a change holds for all of them at once: pods with different limits would share one
//! bucket. An entry that nobody refreshes goes by itself, so an App that is deleted while Redis is away leaves nothing behind.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use penstock_dataplane_config::{Quota, RedisTarget};
use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, Pipeline, RedisError};
use uuid::Uuid;

use super::error::{ProvisionError, Service};
use super::{Answer, QuotaEntry, QuotaStore, Usage};

/// Connections that nobody used for so long are closed.
const IDLE: Duration = Duration::from_secs(600);
/// Entries in one request; a namespace with more Apps takes more requests.
const CHUNK: usize = 500;

struct Held {
    connection: MultiplexedConnection,
    used: Instant,
}

/// Keeps quota entries in any number of Redis servers.
#[derive(Clone, Default)]
pub struct RedisQuotas {
    /// By address and by who asks there: nobody speaks through what another has logged in.
    connections: Arc<Mutex<HashMap<RedisTarget, Held>>>,
}

impl fmt::Debug for RedisQuotas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisQuotas").finish_non_exhaustive()
    }
}

impl RedisQuotas {
    pub fn new() -> Self {
        Self::default()
    }

    fn held(&self, place: &RedisTarget) -> Option<MultiplexedConnection> {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|_, held| held.used.elapsed() < IDLE);
        let held = connections.get_mut(place)?;
        held.used = Instant::now();
        Some(held.connection.clone())
    }

    fn hold(&self, place: RedisTarget, connection: MultiplexedConnection) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.insert(
            place,
            Held {
                connection,
                used: Instant::now(),
            },
        );
    }

    fn forget(&self, place: &RedisTarget) {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(place);
    }

    /// Runs commands. A connection that was held may have died since; then a new one is tried, once.
    async fn run<T: FromRedisValue>(
        &self,
        redis: &RedisTarget,
        commands: &Pipeline,
    ) -> Result<T, ProvisionError> {
        if let Some(mut connection) = self.held(redis) {
            match commands.query_async(&mut connection).await {
                Ok(answer) => return Ok(answer),
                Err(error) if !lost(&error) => return Err(failed(redis, &error)),
                Err(_) => self.forget(redis),
            }
        }
        let mut connection = penstock_connect::redis::open(redis)
            .await
            .map_err(|error| failed(redis, &error))?;
        match commands.query_async(&mut connection).await {
            Ok(answer) => {
                self.hold(redis.clone(), connection);
                Ok(answer)
            }
            Err(error) => Err(failed(redis, &error)),
        }
    }
}

/// Whether the connection is the matter, and not the command.
fn lost(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_timeout()
        || error.is_connection_dropped()
        || error.is_unrecoverable_error()
}

fn failed(redis: &RedisTarget, error: &RedisError) -> ProvisionError {
    if lost(error) {
        ProvisionError::Unavailable {
            service: Service::Redis,
            address: redis.address.clone(),
            detail: error.to_string(),
        }
    } else {
        ProvisionError::Rejected {
            service: Service::Redis,
            detail: error.to_string(),
        }
    }
}

pub(super) fn key(redis: &RedisTarget, app: Uuid) -> String {
    format!("{}:quota:{app}", redis.prefix)
}

pub(super) fn usage_key(redis: &RedisTarget, app: Uuid, day: &str) -> String {
    format!("{}:usage:{app}:{day}", redis.prefix)
}

pub(super) fn limits(quota: &Quota) -> Vec<(&'static str, u64)> {
    [
        ("events_per_second", quota.events_per_second),
        ("burst", quota.burst),
        ("events_per_day", quota.events_per_day),
        ("bytes_per_day", quota.bytes_per_day),
    ]
    .into_iter()
    .filter_map(|(name, limit)| Some((name, limit?)))
    .collect()
}

/// Replaces each entry whole: a limit that was taken away must not stay.
fn writes(redis: &RedisTarget, entries: &[QuotaEntry], ttl: Duration) -> Pipeline {
    let mut commands = redis::pipe();
    commands.atomic();
    for entry in entries {
        let key = key(redis, entry.app);
        commands.del(&key).ignore();
        let limits = limits(&entry.quota);
        if !limits.is_empty() {
            commands.hset_multiple(&key, &limits).ignore();
            commands
                .expire(&key, i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX))
                .ignore();
        }
    }
    commands
}

impl QuotaStore for RedisQuotas {
    fn put<'a>(&'a self, redis: &'a RedisTarget, entries: &'a [QuotaEntry], ttl: Duration) -> Answer<'a, ()> {
        Box::pin(async move {
            for chunk in entries.chunks(CHUNK) {
                self.run::<()>(redis, &writes(redis, chunk, ttl)).await?;
            }
            Ok(())
        })
    }

    fn remove<'a>(&'a self, redis: &'a RedisTarget, apps: &'a [Uuid]) -> Answer<'a, ()> {
        Box::pin(async move {
            for chunk in apps.chunks(CHUNK) {
                let mut commands = redis::pipe();
                for app in chunk {
                    commands.del(key(redis, *app)).ignore();
                }
                self.run::<()>(redis, &commands).await?;
            }
            Ok(())
        })
    }

    fn usage<'a>(&'a self, redis: &'a RedisTarget, app: Uuid, day: &'a str) -> Answer<'a, Usage> {
        Box::pin(async move {
            let mut commands = redis::pipe();
            commands.hgetall(usage_key(redis, app, day));
            let (fields,): (HashMap<String, u64>,) = self.run(redis, &commands).await?;
            Ok(Usage::of(
                fields.iter().map(|(field, count)| (field.as_str(), *count)),
            ))
        })
    }

    fn ping<'a>(&'a self, redis: &'a RedisTarget) -> Answer<'a, ()> {
        Box::pin(async move {
            let mut commands = redis::pipe();
            commands.cmd("PING").ignore();
            self.run(redis, &commands).await
        })
    }
}
