//! The Apps in force: keys by their digest, and what belongs to each App. Built from apps.yaml, swapped as a whole.

use std::sync::Arc;

use ahash::AHashMap;
use penstock_dataplane_config::{AppsFile, Duration, KeyScope, Quota as Limits};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::cors::Origins;
use super::line::head_of;
use super::metrics::{AppMetrics, IngestMetrics};
use super::native::Owner;
use super::quota::Quota;
use super::retention::Retention;
use super::time;

/// One App.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) id: Uuid,
    /// `namespace/name`.
    pub(crate) name: String,
    id_text: String,
    aliases: Vec<String>,
    suspended: bool,
    pub(crate) origins: Origins,
    pub(crate) retention: Retention,
    /// How its lines begin.
    pub(crate) head: Vec<u8>,
    /// As in apps.yaml.
    pub(crate) limits: Limits,
    pub(crate) quota: Arc<Quota>,
    pub(crate) metrics: AppMetrics,
}

impl Owner for App {
    fn is(&self, id: &str) -> bool {
        id.eq_ignore_ascii_case(&self.id_text) || self.aliases.iter().any(|alias| alias == id)
    }
}

#[derive(Debug)]
struct Key {
    app: Arc<App>,
    scope: KeyScope,
    trusted: bool,
    expires_at: Option<i64>,
}

/// A key that may write.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    pub(crate) app: Arc<App>,
    /// Events may say who their client is.
    pub(crate) trusted: bool,
}

/// Why a key was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyRefused {
    Unknown,
    Expired,
    ReadOnly,
    Suspended,
}

/// All Apps. Cheap to read, replaced as a whole.
#[derive(Debug, Default)]
pub(crate) struct Apps {
    keys: AHashMap<[u8; 32], Key>,
    list: Vec<Arc<App>>,
    /// Of all Apps together.
    origins: Origins,
}

impl Apps {
    /// Builds the Apps of `file`. An App that was there before keeps its usage.
    pub(crate) fn build(file: &AppsFile, before: &Self, metrics: &IngestMetrics) -> Result<Self, String> {
        let mut apps = Self::default();
        for entry in &file.apps {
            let quota = match before.list.iter().find(|app| app.id == entry.id) {
                Some(app) => {
                    if app.limits != entry.quota {
                        app.quota.set_limits(&entry.quota, file.replicas);
                    }
                    Arc::clone(&app.quota)
                }
                None => Arc::new(Quota::new(&entry.quota, file.replicas)),
            };
            quota.set_replicas(file.replicas);
            let app = Arc::new(App {
                id: entry.id,
                name: entry.name.clone(),
                id_text: entry.id.to_string(),
                aliases: entry.aliases.clone(),
                suspended: entry.suspended,
                origins: Origins::of_app(&entry.origins),
                retention: retention(entry.retention),
                head: head_of(&entry.id),
                limits: entry.quota.clone(),
                quota,
                metrics: metrics.of_app(&entry.name),
            });
            for key in &entry.keys {
                let expires_at = match &key.expires_at {
                    Some(text) => Some(time::from_text(text).ok_or_else(|| {
                        format!("key {} of {}: expiresAt is not RFC 3339", key.name, entry.name)
                    })?),
                    None => None,
                };
                let digest = digest_of(&key.digest).ok_or_else(|| {
                    format!("key {} of {}: digest is not SHA-256 in hex", key.name, entry.name)
                })?;
                apps.keys.insert(
                    digest,
                    Key {
                        app: Arc::clone(&app),
                        scope: key.scope,
                        trusted: key.trusted,
                        expires_at,
                    },
                );
            }
            apps.list.push(app);
        }
        for gone in before
            .list
            .iter()
            .filter(|app| !apps.list.iter().any(|now| now.name == app.name))
        {
            metrics.forget(&gone.name);
        }
        apps.origins = Origins::union(apps.list.iter().map(|app| &app.origins));
        Ok(apps)
    }

    /// What a key may write.
    pub(crate) fn writer(&self, key: &str, now_ms: i64) -> Result<Writer, KeyRefused> {
        let digest: [u8; 32] = Sha256::digest(key.as_bytes()).into();
        let key = self.keys.get(&digest).ok_or(KeyRefused::Unknown)?;
        if key.expires_at.is_some_and(|at| at <= now_ms) {
            return Err(KeyRefused::Expired);
        }
        if key.scope != KeyScope::Write {
            return Err(KeyRefused::ReadOnly);
        }
        if key.app.suspended {
            return Err(KeyRefused::Suspended);
        }
        Ok(Writer {
            app: Arc::clone(&key.app),
            trusted: key.trusted,
        })
    }

    pub(crate) fn origins(&self) -> &Origins {
        &self.origins
    }

    pub(crate) fn list(&self) -> &[Arc<App>] {
        &self.list
    }

    pub(crate) fn each(&self, mut f: impl FnMut(&App)) {
        self.list.iter().for_each(|app| f(app));
    }
}

/// Whole days; validated to be at least one.
fn retention(span: Option<Duration>) -> Retention {
    span.and_then(|span| u32::try_from(span.days()).ok())
        .map_or_else(Retention::default, Retention::days)
}

fn digest_of(hex: &str) -> Option<[u8; 32]> {
    let mut digest = [0u8; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use penstock_dataplane_config::{AppEntry, KeyEntry};

    use super::*;
    use crate::process::Metrics;

    fn file() -> AppsFile {
        let key = |name: &str, scope, expires_at: Option<&str>| KeyEntry {
            name: name.into(),
            digest: Sha256::digest(name.as_bytes())
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
            scope,
            trusted: name == "backend",
            expires_at: expires_at.map(Into::into),
        };
        let app = |id, name: &str, suspended, keys| AppEntry {
            id: Uuid::from_u128(id),
            name: name.into(),
            aliases: vec!["old-shop".into()],
            suspended,
            origins: vec![],
            retention: None,
            quota: Limits::default(),
            keys,
        };
        AppsFile {
            version: 1,
            replicas: 2,
            apps: vec![
                app(
                    1,
                    "growth/shop",
                    false,
                    vec![
                        key("writer", KeyScope::Write, None),
                        key("backend", KeyScope::Write, None),
                        key("reader", KeyScope::Read, None),
                        key("old", KeyScope::Write, Some("2025-11-21T13:00:00Z")),
                    ],
                ),
                app(
                    2,
                    "growth/closed",
                    true,
                    vec![key("closed", KeyScope::Write, None)],
                ),
            ],
        }
    }

    #[test]
    fn a_key_leads_to_its_app_or_a_reason() {
        let metrics = IngestMetrics::new(&Metrics::new());
        let apps = Apps::build(&file(), &Apps::default(), &metrics).unwrap();
        let expiry = 1_763_730_000_000;
        let writer = |key, now| apps.writer(key, now).map(|writer| writer.app.name.clone());
        assert_eq!(writer("writer", expiry).as_deref(), Ok("growth/shop"));
        let trusted = |key| apps.writer(key, expiry).unwrap().trusted;
        assert!(trusted("backend") && !trusted("writer"));
        assert_eq!(writer("old", expiry - 1).as_deref(), Ok("growth/shop"));
        assert_eq!(writer("old", expiry), Err(KeyRefused::Expired));
        assert_eq!(writer("reader", expiry), Err(KeyRefused::ReadOnly));
        assert_eq!(writer("closed", expiry), Err(KeyRefused::Suspended));
        assert_eq!(writer("", expiry), Err(KeyRefused::Unknown));
    }

    #[test]
    fn an_app_is_known_by_its_id_and_aliases() {
        let metrics = IngestMetrics::new(&Metrics::new());
        let apps = Apps::build(&file(), &Apps::default(), &metrics).unwrap();
        let app = &apps.list()[0];
        for (id, known) in [
            ("00000000-0000-0000-0000-000000000001", true),
            ("old-shop", true),
            ("OLD-SHOP", false),
            ("00000000-0000-0000-0000-000000000002", false),
            ("", false),
        ] {
            assert_eq!(app.is(id), known, "{id}");
        }
    }

    #[test]
    fn a_reload_keeps_usage() {
        let metrics = IngestMetrics::new(&Metrics::new());
        let mut changed = file();
        // Without Redis half of it is this pod's.
        changed.apps[0].quota.events_per_day = Some(10);
        let first = Apps::build(&changed, &Apps::default(), &metrics).unwrap();
        first.list()[0].quota.admit(0, 4, |n| n);
        changed.apps[0].keys.clear();
        let second = Apps::build(&changed, &first, &metrics).unwrap();
        assert_eq!(second.list()[0].quota.admit(0, 4, |n| n).events, 1);
        assert_eq!(second.writer("writer", 0).unwrap_err(), KeyRefused::Unknown);
        changed.apps[1].keys[0].expires_at = Some("soon".into());
        assert!(
            Apps::build(&changed, &second, &metrics)
                .unwrap_err()
                .contains("growth/closed")
        );
    }
}
