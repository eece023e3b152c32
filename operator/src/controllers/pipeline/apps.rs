//! `apps.yaml`: the bound Apps with the digests of their keys. Pure.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;
use penstock_crds::app::{AppQuota, KeyScope};
use penstock_crds::{App, Reason};
use penstock_dataplane_config::{self as config, AppEntry, AppsFile, CONFIG_VERSION, KeyEntry, Quota};
use uuid::Uuid;

use super::target::{Invalid, invalid};
use crate::controllers::app::keyring::AppKeys;

/// A bound App: what it asks for, under which id, with what is known of its keys.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    pub app: App,
    pub id: Uuid,
    pub keys: AppKeys,
}

/// The list, and what could not go into it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Listed {
    pub file: AppsFile,
    pub problems: Vec<Invalid>,
}

/// Bound Apps that cannot be read. What the list in force says of them stays.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unreadable {
    /// As entries are called: `namespace/name`.
    pub names: BTreeSet<String>,
    /// Of the list in force.
    pub entries: Vec<AppEntry>,
}

impl Unreadable {
    pub(crate) fn of(names: BTreeSet<String>, mut in_force: Vec<AppEntry>) -> Self {
        in_force.retain(|entry| names.contains(&entry.name));
        Self {
            names,
            entries: in_force,
        }
    }

    fn problems(&self) -> impl Iterator<Item = Invalid> {
        self.names.iter().map(|name| {
            let kept = self.entries.iter().any(|entry| entry.name == *name);
            let then = if kept {
                "what was last read of it stays in force"
            } else {
                "nothing is known of it, so it is left out"
            };
            invalid(Reason::Malformed, format!("App {name} cannot be read; {then}"))
        })
    }
}

/// Makes the list. Where two Apps have the same id or the same key, the older one keeps it: a key must lead to one App.
pub(crate) fn list(mut bound: Vec<Bound>, unreadable: Unreadable, replicas: u32) -> Listed {
    bound.sort_by_key(|b| (b.app.creation_timestamp().map(|t| t.0), b.app.name_any()));
    let mut problems: Vec<Invalid> = unreadable.problems().collect();
    let mut apps = unreadable.entries;
    let mut ids: BTreeMap<Uuid, String> = apps.iter().map(|app| (app.id, app.name.clone())).collect();
    let keys = apps.iter().flat_map(|app| &app.keys);
    let mut digests: BTreeSet<String> = keys.map(|key| key.digest.clone()).collect();
    for Bound { app, id, keys } in bound {
        let name = app.name_any();
        if let Some(first) = ids.get(&id) {
            let message = format!("App {name} has the id {id} of App {first} and is left out");
            problems.push(invalid(Reason::AppConflict, message));
            continue;
        }
        let mut entries = Vec::new();
        for key in &app.spec.keys {
            let Some(known) = keys.keys.get(&key.name) else {
                continue;
            };
            let digest = known.digest.as_str().to_owned();
            if !digests.insert(digest.clone()) {
                let message = format!(
                    "key {} of App {name} is also a key of an older App, or of this one, and is left out",
                    key.name
                );
                problems.push(invalid(Reason::AppConflict, message));
                continue;
            }
            entries.push(KeyEntry {
                name: key.name.clone(),
                digest,
                scope: match key.scope {
                    KeyScope::Write => config::KeyScope::Write,
                    KeyScope::Read => config::KeyScope::Read,
                },
                trusted: key.trusted,
                expires_at: key.expires_at.clone(),
            });
        }
        ids.insert(id, name.clone());
        apps.push(AppEntry {
            id,
            name: format!("{}/{name}", app.namespace().unwrap_or_default()),
            aliases: app.spec.aliases.clone(),
            suspended: app.spec.suspended,
            origins: app.spec.origins.clone(),
            retention: app.spec.retention,
            quota: quota(&app.spec.quota),
            keys: entries,
        });
    }
    apps.sort_by(|a, b| a.name.cmp(&b.name));
    Listed {
        file: AppsFile {
            version: CONFIG_VERSION,
            replicas,
            apps,
        },
        problems,
    }
}

fn quota(quota: &AppQuota) -> Quota {
    let positive = |number: Option<i64>| number.and_then(|n| u64::try_from(n).ok());
    Quota {
        events_per_second: positive(quota.events_per_second),
        burst: positive(quota.burst),
        events_per_day: positive(quota.events_per_day),
        bytes_per_day: quota.bytes_per_day.map(|size| size.get()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::app::keyring::{KnownKey, SecretVersion};
    use crate::identity::ApiKey;

    fn bound(name: &str, second: u8, id: u128, spec: &str, keys: &[(&str, &str)]) -> Bound {
        let yaml = format!(
            "apiVersion: penstock.dev/v1alpha1\nkind: App\nmetadata: {{name: {name}, namespace: growth, creationTimestamp: '2026-01-01T00:00:{second:02}Z'}}\nspec: {spec}"
        );
        let keys = keys
            .iter()
            .map(|(key, text)| {
                let digest = ApiKey::from_secret(text.as_bytes()).unwrap().digest();
                let secret = SecretVersion {
                    name: String::new(),
                    data_key: String::new(),
                    uid: String::new(),
                    version: String::new(),
                };
                ((*key).to_owned(), KnownKey { secret, digest })
            })
            .collect();
        Bound {
            app: serde_yaml::from_str(&yaml).unwrap(),
            id: Uuid::from_u128(id),
            keys: AppKeys {
                uid: name.into(),
                keys,
            },
        }
    }

    #[test]
    fn apps_come_in_order_with_what_pods_need() {
        let shop = bound(
            "shop",
            1,
            1,
            "{keys: [{name: ios}, {name: bi, scope: Read, trusted: true, expiresAt: '2030-01-01T00:00:00Z'}, {name: unread}], quota: {eventsPerSecond: 5, bytesPerDay: 1GB}, aliases: [old], origins: ['https://shop.example']}",
            &[("ios", "psk_aaaaaaaaaaaaaaaa"), ("bi", "psk_bbbbbbbbbbbbbbbb")],
        );
        let blog = bound(
            "blog",
            2,
            2,
            "{keys: [{name: k}], suspended: true}",
            &[("k", "psk_cccccccccccccccc")],
        );
        let listed = list(vec![shop, blog], Unreadable::default(), 3);
        assert_eq!(listed.problems, []);
        let names: Vec<_> = listed.file.apps.iter().map(|a| a.name.as_str()).collect();
        assert_eq!(names, ["growth/blog", "growth/shop"]);
        assert!(listed.file.apps[0].suspended);
        let shop = &listed.file.apps[1];
        assert_eq!(shop.keys.len(), 2, "a key that was not read is not listed");
        assert_eq!(shop.keys[1].scope, config::KeyScope::Read);
        assert!(shop.keys[1].trusted && !shop.keys[0].trusted);
        assert_eq!(shop.origins, ["https://shop.example"]);
        assert_eq!(shop.quota.bytes_per_day, Some(1_000_000_000));
        assert_eq!(listed.file.replicas, 3);
    }

    #[test]
    fn an_app_that_cannot_be_read_stays_as_it_was() {
        let shop = bound(
            "shop",
            1,
            1,
            "{keys: [{name: k}]}",
            &[("k", "psk_aaaaaaaaaaaaaaaa")],
        );
        let blog = bound(
            "blog",
            2,
            2,
            "{keys: [{name: k}]}",
            &[("k", "psk_bbbbbbbbbbbbbbbb")],
        );
        let before = list(vec![shop, blog.clone()], Unreadable::default(), 1).file;
        let names = ["growth/shop", "growth/never-read"].map(str::to_owned).into();
        let listed = list(vec![blog], Unreadable::of(names, before.apps.clone()), 1);
        assert_eq!(listed.file, before);
        let messages: Vec<_> = listed.problems.iter().map(|p| p.message.as_str()).collect();
        assert_eq!(
            messages,
            [
                "App growth/never-read cannot be read; nothing is known of it, so it is left out",
                "App growth/shop cannot be read; what was last read of it stays in force"
            ]
        );
        // Its key is still its own.
        let thief = bound(
            "thief",
            3,
            3,
            "{keys: [{name: k}]}",
            &[("k", "psk_aaaaaaaaaaaaaaaa")],
        );
        let names = ["growth/shop"].map(str::to_owned).into();
        let listed = list(vec![thief], Unreadable::of(names, before.apps), 1);
        let keys: Vec<_> = listed.file.apps.iter().map(|app| app.keys.len()).collect();
        assert_eq!(keys, [1, 0]);
    }

    #[test]
    fn the_older_app_keeps_a_shared_id_or_key() {
        let old = bound(
            "z-old",
            1,
            1,
            "{keys: [{name: k}]}",
            &[("k", "psk_aaaaaaaaaaaaaaaa")],
        );
        let same_key = bound(
            "a-new",
            2,
            2,
            "{keys: [{name: k}]}",
            &[("k", "psk_aaaaaaaaaaaaaaaa")],
        );
        let same_id = bound(
            "b-new",
            3,
            1,
            "{keys: [{name: k}]}",
            &[("k", "psk_bbbbbbbbbbbbbbbb")],
        );
        let listed = list(vec![same_id, same_key, old], Unreadable::default(), 1);
        let reasons: Vec<_> = listed.problems.iter().map(|p| p.reason).collect();
        assert_eq!(reasons, [Reason::AppConflict, Reason::AppConflict]);
        let keys: Vec<_> = listed
            .file
            .apps
            .iter()
            .map(|a| (a.name.as_str(), a.keys.len()))
            .collect();
        assert_eq!(keys, [("growth/a-new", 0), ("growth/z-old", 1)]);
    }
}
