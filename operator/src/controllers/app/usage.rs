//! `status.usage` of Apps: what each has used of today.
//!
//! Pods count for themselves and keep their counts in Redis; this adds them up, for all pipelines that accept the App.
//! Apart from the App controller and under a field manager of its own, because a Redis that hangs must not hold up keys.
//! Written at most every [`EVERY`], and only when it changed. A Redis that is away leaves the last figure standing; the
//! pipelines' conditions say that it is away.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use k8s_openapi::jiff::{Timestamp, tz::TimeZone};
use kube::ResourceExt as _;
use penstock_crds::App;
use penstock_crds::app::UsageStatus;
use penstock_dataplane_config::RedisTarget;
use uuid::Uuid;

use super::effective_id;
use crate::api::Writer;
use crate::controllers::cache::{Caches, Guard};
use crate::controllers::context::{Shared, about};
use crate::controllers::pipeline::target;
use crate::controllers::subject::Subject;
use penstock_provision::{ProvisionError, Usage};

const EVERY: Duration = Duration::from_secs(60);
/// Apps that are asked about side by side.
const CONCURRENCY: usize = 16;

/// Looks at every App of the scope, again and again.
pub async fn run(shared: Shared, caches: Caches) {
    let writer = shared.writer("penstock-operator/usage");
    loop {
        tokio::time::sleep(about(EVERY)).await;
        let today = Day::of(Timestamp::now());
        stream::iter(caches.apps.state())
            .for_each_concurrent(CONCURRENCY, |app| tell(app, &today, &shared, &caches, &writer))
            .await;
    }
}

/// A UTC day, as the keys of Redis and as people write it.
#[derive(Debug, PartialEq, Eq)]
struct Day {
    key: String,
    text: String,
}

impl Day {
    fn of(now: Timestamp) -> Self {
        let date = now.to_zoned(TimeZone::UTC).date();
        Self {
            key: date.strftime("%Y%m%d").to_string(),
            text: date.to_string(),
        }
    }
}

async fn tell(app: Arc<Guard<App>>, today: &Day, shared: &Shared, caches: &Caches, writer: &Writer) {
    let Ok(app) = &app.0 else { return };
    let subject = Subject::of(app);
    if subject.deleting || subject.paused {
        return;
    }
    let id = effective_id(&shared.cluster, &subject, app);
    let usage = match used(id, &today.key, &servers(app, &subject, shared, caches), shared).await {
        Ok(usage) => usage,
        Err(error) => {
            tracing::debug!(app = subject.path(), %error, "today's usage is not known");
            return;
        }
    };
    let stored = app.status.as_ref().and_then(|status| status.usage.as_ref());
    let Some(status) = changed(stored, usage, today) else {
        return;
    };
    let status = serde_json::json!({ "usage": status });
    if let Err(error) = writer
        .status::<App>(&subject.namespace, &subject.name, &status)
        .await
    {
        tracing::warn!(app = subject.path(), %error, "today's usage was not written");
    }
}

/// The Redis servers of the pipelines that accept the App, each once, with all the ways in which it is reached.
fn servers(app: &App, subject: &Subject, shared: &Shared, caches: &Caches) -> Vec<Vec<RedisTarget>> {
    let pipelines = caches.pipelines_in(&subject.namespace);
    let ways = pipelines
        .iter()
        .filter_map(|pipeline| pipeline.0.as_ref().ok())
        .filter(|pipeline| pipeline.spec.apps.selects(&subject.name, app.labels()))
        .filter_map(|pipeline| target::redis(pipeline, &shared.cluster, &shared.settings));
    let mut servers: BTreeMap<(String, u16), Vec<RedisTarget>> = BTreeMap::new();
    for redis in ways {
        let ways = servers
            .entry((redis.address.clone(), redis.database))
            .or_default();
        if !ways.contains(&redis) {
            ways.push(redis);
        }
    }
    servers.into_values().collect()
}

async fn used(
    app: Uuid,
    day: &str,
    servers: &[Vec<RedisTarget>],
    shared: &Shared,
) -> Result<Usage, ProvisionError> {
    let mut usage = Usage::default();
    for ways in servers {
        let mut refused = None;
        for redis in ways {
            match shared.services.quotas.usage(redis, app, day).await {
                Ok(found) => {
                    usage += found;
                    refused = None;
                    break;
                }
                Err(error) => refused = Some(error),
            }
        }
        if let Some(error) = refused {
            return Err(error);
        }
    }
    Ok(usage)
}

/// What is to be written, if anything. An App that never sent anything has no usage.
fn changed(stored: Option<&UsageStatus>, usage: Usage, today: &Day) -> Option<UsageStatus> {
    if stored.is_none() && usage == Usage::default() {
        return None;
    }
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let status = UsageStatus {
        day: today.text.clone(),
        events: count(usage.events),
        bytes: count(usage.bytes),
    };
    (stored != Some(&status)).then_some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_utc() {
        let day = Day::of("2026-11-21T23:59:59+00:00".parse().unwrap());
        assert_eq!(
            day,
            Day {
                key: "20261121".into(),
                text: "2026-11-21".into()
            }
        );
        assert_eq!(Day::of("2026-11-22T00:30:00+01:00".parse().unwrap()), day);
    }

    #[test]
    fn only_a_change_is_written() {
        let day = |text: &str| Day {
            key: text.replace('-', ""),
            text: text.into(),
        };
        let (today, tomorrow) = (day("2026-11-21"), day("2026-11-22"));
        let some = Usage {
            events: 7,
            bytes: 900,
        };
        assert_eq!(changed(None, Usage::default(), &today), None);
        let first = changed(None, some, &today).unwrap();
        assert_eq!(
            (first.day.as_str(), first.events, first.bytes),
            ("2026-11-21", 7, 900)
        );
        assert_eq!(changed(Some(&first), some, &today), None);
        let next = changed(Some(&first), Usage::default(), &tomorrow).unwrap();
        assert_eq!((next.day.as_str(), next.events), ("2026-11-22", 0));
        assert_eq!(changed(Some(&next), Usage::default(), &tomorrow), None);
    }
}
