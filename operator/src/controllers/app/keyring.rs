//! The digests of all Apps' keys, as far as they are known to this process.
//!
//! The App controller reads Secrets and publishes digests here; pipelines take them from here. A pipeline that finds
//! no entry for one of its Apps waits instead of writing a list that would lock that App out.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use crate::identity::KeyDigest;

/// A Secret as it was when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretVersion {
    pub name: String,
    pub data_key: String,
    pub uid: String,
    pub version: String,
}

/// A key that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownKey {
    pub secret: SecretVersion,
    pub digest: KeyDigest,
}

/// What is known of one App.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppKeys {
    pub uid: String,
    /// By the key's name in the App.
    pub keys: BTreeMap<String, KnownKey>,
}

/// All Apps, by namespace and name.
#[derive(Debug, Default)]
pub struct KeyRing(Mutex<HashMap<(String, String), AppKeys>>);

impl KeyRing {
    /// What is known of this App, not of an earlier one of its name.
    pub fn get(&self, namespace: &str, name: &str, uid: &str) -> Option<AppKeys> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&(namespace.to_owned(), name.to_owned()))
            .filter(|app| app.uid == uid)
            .cloned()
    }

    /// Whether this changed what pods should know.
    pub fn publish(&self, namespace: &str, name: &str, app: AppKeys) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let digests = |keys: &AppKeys| -> Vec<(String, KeyDigest)> {
            keys.keys
                .iter()
                .map(|(name, key)| (name.clone(), key.digest.clone()))
                .collect()
        };
        let now = (app.uid.clone(), digests(&app));
        let before = all.insert((namespace.to_owned(), name.to_owned()), app);
        before.map(|before| (before.uid.clone(), digests(&before))) != Some(now)
    }

    pub fn forget(&self, namespace: &str, name: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&(namespace.to_owned(), name.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::ApiKey;

    fn known(key: &str, version: &str) -> AppKeys {
        let digest = ApiKey::from_secret(key.as_bytes()).unwrap().digest();
        let secret = SecretVersion {
            name: "s".into(),
            data_key: "key".into(),
            uid: "u".into(),
            version: version.into(),
        };
        AppKeys {
            uid: "app".into(),
            keys: [("ios".to_owned(), KnownKey { secret, digest })].into(),
        }
    }

    #[test]
    fn only_another_digest_is_a_change() {
        let ring = KeyRing::default();
        assert!(ring.publish("growth", "shop", known("psk_aaaaaaaaaaaaaaaa", "1")));
        assert!(
            !ring.publish("growth", "shop", known("psk_aaaaaaaaaaaaaaaa", "2")),
            "same key, touched Secret"
        );
        assert!(ring.publish("growth", "shop", known("psk_bbbbbbbbbbbbbbbb", "3")));
        assert!(ring.get("growth", "shop", "app").is_some());
        assert!(ring.get("growth", "shop", "a later one").is_none());
        ring.forget("growth", "shop");
        assert!(ring.get("growth", "shop", "app").is_none());
    }
}
