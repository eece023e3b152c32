//! The suite for [`QuotaStore`].

use std::time::{Duration, Instant};

use penstock_crds::Reason;
use penstock_dataplane_config::{Duration as Span, Quota, RedisTarget};
use uuid::Uuid;

use super::super::{Class, QuotaEntry, QuotaStore, Usage};
use super::{Fields, Side};

/// The server, from behind the operator's back.
pub trait RedisSide: Send + Sync {
    /// Sets fields of a hash.
    fn set<'a>(&'a self, key: &'a str, fields: &'a [(&'a str, u64)]) -> Side<'a, ()>;
    /// The fields of a hash; empty when there is none.
    fn fields<'a>(&'a self, key: &'a str) -> Side<'a, Fields>;
    /// Seconds that a key will still live; `None` when there is none.
    fn lives<'a>(&'a self, key: &'a str) -> Side<'a, Option<u64>>;
}

/// Runs every case on entries under `redis.prefix`.
pub async fn quotas(store: &dyn QuotaStore, side: &dyn RedisSide, redis: &RedisTarget) {
    entries_are_written_whole_and_live_for_a_time(store, side, redis).await;
    entries_are_removed(store, side, redis).await;
    usage_is_the_sum_of_the_pods(store, side, redis).await;
    an_unreachable_server_is_reported_in_time(store, redis).await;
}

const DAY: Duration = Duration::from_secs(24 * 3600);

fn key(redis: &RedisTarget, app: Uuid) -> String {
    format!("{}:quota:{app}", redis.prefix)
}

async fn entries_are_written_whole_and_live_for_a_time(
    store: &dyn QuotaStore,
    side: &dyn RedisSide,
    redis: &RedisTarget,
) {
    let (limited, unlimited) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let quota = Quota {
        events_per_second: Some(5000),
        burst: Some(10_000),
        events_per_day: Some(200_000_000),
        bytes_per_day: None,
    };
    let entries = [
        QuotaEntry { app: limited, quota },
        QuotaEntry {
            app: unlimited,
            quota: Quota::default(),
        },
    ];
    assert_eq!(store.put(redis, &entries, DAY).await, Ok(()));
    let expected: Fields = [
        ("events_per_second", "5000"),
        ("burst", "10000"),
        ("events_per_day", "200000000"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    assert_eq!(side.fields(&key(redis, limited)).await, expected);
    assert_eq!(side.fields(&key(redis, unlimited)).await, Fields::new());
    let lives = side.lives(&key(redis, limited)).await;
    assert!(
        lives.is_some_and(|seconds| (86_390..=86_400).contains(&seconds)),
        "{lives:?}"
    );

    let fewer = [QuotaEntry {
        app: limited,
        quota: Quota {
            bytes_per_day: Some(7),
            ..Quota::default()
        },
    }];
    assert_eq!(store.put(redis, &fewer, DAY).await, Ok(()));
    let expected: Fields = [("bytes_per_day".to_owned(), "7".to_owned())].into();
    assert_eq!(
        side.fields(&key(redis, limited)).await,
        expected,
        "a limit that was taken away is gone"
    );
    let lifted = [QuotaEntry {
        app: limited,
        quota: Quota::default(),
    }];
    assert_eq!(store.put(redis, &lifted, DAY).await, Ok(()));
    assert_eq!(side.fields(&key(redis, limited)).await, Fields::new());
    assert_eq!(store.put(redis, &[], DAY).await, Ok(()));
}

async fn entries_are_removed(store: &dyn QuotaStore, side: &dyn RedisSide, redis: &RedisTarget) {
    let apps: Vec<Uuid> = (10..20).map(Uuid::from_u128).collect();
    let quota = Quota {
        events_per_second: Some(1),
        ..Quota::default()
    };
    let entries: Vec<_> = apps
        .iter()
        .map(|app| QuotaEntry {
            app: *app,
            quota: quota.clone(),
        })
        .collect();
    assert_eq!(store.put(redis, &entries, DAY).await, Ok(()));
    assert_eq!(store.remove(redis, &apps[1..]).await, Ok(()));
    assert_eq!(
        side.fields(&key(redis, apps[0])).await.len(),
        1,
        "the one that was not named stays"
    );
    for app in &apps[1..] {
        assert_eq!(side.lives(&key(redis, *app)).await, None);
    }
    assert_eq!(
        store.remove(redis, &apps).await,
        Ok(()),
        "removing again is no error"
    );
    assert_eq!(store.remove(redis, &[]).await, Ok(()));
}

async fn usage_is_the_sum_of_the_pods(store: &dyn QuotaStore, side: &dyn RedisSide, redis: &RedisTarget) {
    let app = Uuid::from_u128(30);
    let key = format!("{}:usage:{app}:20261121", redis.prefix);
    assert_eq!(store.usage(redis, app, "20261121").await, Ok(Usage::default()));
    let counts = [
        ("a:events", 3),
        ("a:bytes", 900),
        ("b:events", 4),
        ("b:bytes", 1100),
    ];
    side.set(&key, &counts).await;
    let expected = Usage {
        events: 7,
        bytes: 2000,
    };
    assert_eq!(store.usage(redis, app, "20261121").await, Ok(expected));
    assert_eq!(
        store.usage(redis, app, "20261122").await,
        Ok(Usage::default()),
        "another day"
    );
}

async fn an_unreachable_server_is_reported_in_time(store: &dyn QuotaStore, redis: &RedisTarget) {
    let nowhere = RedisTarget {
        address: "127.0.0.1:1".into(),
        connect_timeout: Span::from_secs(5),
        ..redis.clone()
    };
    let begun = Instant::now();
    match store.ping(&nowhere).await {
        Ok(()) => panic!("something listens on port 1"),
        Err(error) => {
            assert_eq!(
                (error.reason(), error.class()),
                (Reason::RedisUnavailable, Class::Transient)
            );
            assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
        }
    }
    assert!(
        begun.elapsed() < Duration::from_secs(6),
        "took {:?}",
        begun.elapsed()
    );
    assert_eq!(store.ping(redis).await, Ok(()));
}
