//! A Redis server in memory: hashes and how long they live.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use penstock_dataplane_config::RedisTarget;
use uuid::Uuid;

use super::super::contract::{Fields, RedisSide, Side};
use super::super::redis::{key, limits, usage_key};
use super::super::{Answer, ProvisionError, QuotaEntry, QuotaStore, Service, Usage};
use super::{answer, unavailable};

#[derive(Debug, Default)]
struct State {
    down: bool,
    entries: BTreeMap<String, (Fields, Duration)>,
}

/// A server that answers at one address.
#[derive(Debug)]
pub struct FakeRedis {
    address: String,
    state: Mutex<State>,
}

impl FakeRedis {
    pub fn new(address: &str) -> Self {
        Self {
            address: address.into(),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops or starts the server.
    pub fn set_down(&self, down: bool) {
        self.state().down = down;
    }

    /// The keys that exist.
    pub fn keys(&self) -> Vec<String> {
        self.state().entries.keys().cloned().collect()
    }

    fn up(&self, redis: &RedisTarget) -> Result<MutexGuard<'_, State>, ProvisionError> {
        let state = self.state();
        if state.down || redis.address != self.address {
            return Err(unavailable(Service::Redis, &redis.address));
        }
        Ok(state)
    }
}

impl QuotaStore for FakeRedis {
    fn put<'a>(&'a self, redis: &'a RedisTarget, entries: &'a [QuotaEntry], ttl: Duration) -> Answer<'a, ()> {
        answer(self.up(redis).map(|mut state| {
            for entry in entries {
                let key = key(redis, entry.app);
                let fields: Fields = limits(&entry.quota)
                    .into_iter()
                    .map(|(name, limit)| (name.into(), limit.to_string()))
                    .collect();
                if fields.is_empty() {
                    state.entries.remove(&key);
                } else {
                    state.entries.insert(key, (fields, ttl));
                }
            }
        }))
    }

    fn remove<'a>(&'a self, redis: &'a RedisTarget, apps: &'a [Uuid]) -> Answer<'a, ()> {
        answer(self.up(redis).map(|mut state| {
            for app in apps {
                state.entries.remove(&key(redis, *app));
            }
        }))
    }

    fn usage<'a>(&'a self, redis: &'a RedisTarget, app: Uuid, day: &'a str) -> Answer<'a, Usage> {
        answer(self.up(redis).map(|state| {
            let counted = state.entries.get(&usage_key(redis, app, day));
            let fields = counted.into_iter().flat_map(|(fields, _)| fields);
            Usage::of(fields.filter_map(|(field, count)| Some((field.as_str(), count.parse().ok()?))))
        }))
    }

    fn ping<'a>(&'a self, redis: &'a RedisTarget) -> Answer<'a, ()> {
        answer(self.up(redis).map(|_| ()))
    }
}

impl RedisSide for FakeRedis {
    fn set<'a>(&'a self, key: &'a str, fields: &'a [(&'a str, u64)]) -> Side<'a, ()> {
        let fields = fields
            .iter()
            .map(|(field, count)| ((*field).to_owned(), count.to_string()));
        let entry = (fields.collect(), Duration::MAX);
        self.state().entries.insert(key.to_owned(), entry);
        Box::pin(std::future::ready(()))
    }

    fn fields<'a>(&'a self, key: &'a str) -> Side<'a, Fields> {
        let fields = self
            .state()
            .entries
            .get(key)
            .map(|(fields, _)| fields.clone())
            .unwrap_or_default();
        Box::pin(std::future::ready(fields))
    }

    fn lives<'a>(&'a self, key: &'a str) -> Side<'a, Option<u64>> {
        let ttl = self.state().entries.get(key).map(|(_, ttl)| ttl.as_secs());
        Box::pin(std::future::ready(ttl))
    }
}
