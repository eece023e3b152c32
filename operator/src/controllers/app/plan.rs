//! What an App's keys need: a pure decision over the spec and the Secrets that are there.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ObjectMeta;
use penstock_crds::app::{AppKey, AppSpec};
use penstock_crds::{App, Reason};

use crate::controllers::labels;
use crate::controllers::subject::Subject;
use crate::identity::ApiKey;

/// Annotation of a generated Secret: the key's name in the App.
pub const KEY_NAME: &str = "penstock.dev/key";
/// Label of a generated Secret: the App.
pub const APP: &str = "penstock.dev/app";
/// The member of a generated Secret's data.
pub const DATA_KEY: &str = "key";

/// A Secret as the cache holds it: never its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretMeta {
    pub name: String,
    pub uid: String,
    pub version: String,
    /// Uid of the App that controls it.
    pub app: Option<String>,
    /// [`KEY_NAME`].
    pub key_name: Option<String>,
}

/// Where a key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In a Secret that is there.
    Read { secret: String, data_key: String },
    /// In a Secret that we shall make. `lost`: it was there before.
    Generate { secret: String, lost: bool },
    /// Nowhere.
    Missing { reason: Reason, message: String },
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// By the key's name.
    pub sources: BTreeMap<String, Source>,
    /// Generated Secrets of keys that the spec no longer has: name and uid.
    pub obsolete: Vec<(String, String)>,
}

/// The Secret that a key is generated into.
pub fn generated_name(app: &str, key: &AppKey) -> String {
    format!("{app}-{}", key.name)
}

/// Decides. `before`: names of the keys for which a Secret was reported before.
pub fn plan(app: &Subject, spec: &AppSpec, secrets: &[SecretMeta], before: &BTreeSet<String>) -> Plan {
    let by_name: BTreeMap<&str, &SecretMeta> = secrets.iter().map(|s| (s.name.as_str(), s)).collect();
    let source = |key: &AppKey| match &key.secret_ref {
        Some(reference) if by_name.contains_key(reference.name.as_str()) => Source::Read {
            secret: reference.name.clone(),
            data_key: reference.key.clone(),
        },
        Some(reference) => Source::Missing {
            reason: Reason::SecretNotFound,
            message: format!(
                "key {}: there is no Secret {} in this namespace",
                key.name, reference.name
            ),
        },
        None => {
            let secret = generated_name(&app.name, key);
            match by_name.get(secret.as_str()) {
                None => Source::Generate {
                    secret,
                    lost: before.contains(&key.name),
                },
                Some(there)
                    if there.app.as_ref() == Some(&app.uid) && there.key_name.as_ref() == Some(&key.name) =>
                {
                    Source::Read {
                        secret,
                        data_key: DATA_KEY.into(),
                    }
                }
                Some(_) => Source::Missing {
                    reason: Reason::SecretConflict,
                    message: format!(
                        "key {}: the Secret {secret} exists and is not this App's; rename the key, or refer to the \
                         Secret with secretRef",
                        key.name
                    ),
                },
            }
        }
    };
    let wanted: BTreeSet<String> = spec
        .keys
        .iter()
        .filter(|k| k.secret_ref.is_none())
        .map(|k| generated_name(&app.name, k))
        .collect();
    let obsolete = secrets
        .iter()
        .filter(|s| s.app.as_ref() == Some(&app.uid) && s.key_name.is_some() && !wanted.contains(&s.name))
        .map(|s| (s.name.clone(), s.uid.clone()))
        .collect();
    Plan {
        sources: spec
            .keys
            .iter()
            .map(|key| (key.name.clone(), source(key)))
            .collect(),
        obsolete,
    }
}

/// The Secret of a generated key. Immutable: a key is replaced, not edited.
pub fn secret(app: &Subject, key_name: &str, secret_name: &str, key: &ApiKey) -> Secret {
    let mut labels = labels::of(&app.name, "key");
    labels.insert(APP.into(), app.name.clone());
    Secret {
        metadata: ObjectMeta {
            name: Some(secret_name.into()),
            namespace: Some(app.namespace.clone()),
            labels: Some(labels),
            annotations: Some([(KEY_NAME.to_owned(), key_name.to_owned())].into()),
            owner_references: Some(vec![app.owner::<App>()]),
            ..ObjectMeta::default()
        },
        immutable: Some(true),
        data: Some([(DATA_KEY.to_owned(), ByteString(key.expose().as_bytes().to_vec()))].into()),
        type_: Some("Opaque".into()),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests {
    use penstock_crds::app::{KeyScope, SecretKeyRef};

    use super::*;

    fn shop() -> Subject {
        Subject {
            namespace: "growth".into(),
            name: "shop".into(),
            uid: "uid-shop".into(),
            generation: 1,
            paused: false,
            deleting: false,
        }
    }

    fn spec(keys: &[(&str, Option<&str>)]) -> AppSpec {
        let mut spec: AppSpec = serde_json::from_str("{}").unwrap();
        spec.keys = keys
            .iter()
            .map(|(name, secret)| AppKey {
                name: (*name).into(),
                scope: KeyScope::Write,
                trusted: false,
                secret_ref: secret.map(|s| SecretKeyRef {
                    name: s.into(),
                    key: "token".into(),
                }),
                expires_at: None,
            })
            .collect();
        spec
    }

    fn ours(name: &str, key: &str) -> SecretMeta {
        SecretMeta {
            name: name.into(),
            uid: format!("uid-{name}"),
            version: "1".into(),
            app: Some("uid-shop".into()),
            key_name: Some(key.into()),
        }
    }

    fn foreign(name: &str) -> SecretMeta {
        SecretMeta {
            app: None,
            key_name: None,
            ..ours(name, "")
        }
    }

    #[test]
    fn keys_are_generated_read_or_missing() {
        let spec = spec(&[
            ("ios", None),
            ("web", Some("web-key")),
            ("old", Some("gone")),
            ("tv", None),
        ]);
        let secrets = [foreign("web-key"), foreign("shop-tv")];
        let plan = plan(&shop(), &spec, &secrets, &BTreeSet::new());
        assert_eq!(
            plan.sources["ios"],
            Source::Generate {
                secret: "shop-ios".into(),
                lost: false
            }
        );
        assert_eq!(
            plan.sources["web"],
            Source::Read {
                secret: "web-key".into(),
                data_key: "token".into()
            }
        );
        let reason = |key: &str| match &plan.sources[key] {
            Source::Missing { reason, .. } => *reason,
            other => panic!("{other:?}"),
        };
        assert_eq!(reason("old"), Reason::SecretNotFound);
        assert_eq!(reason("tv"), Reason::SecretConflict);
        assert!(plan.obsolete.is_empty(), "what is not ours is not ours to delete");
    }

    #[test]
    fn a_lost_secret_is_known_as_lost() {
        let before = BTreeSet::from(["ios".to_owned()]);
        let plan = plan(&shop(), &spec(&[("ios", None)]), &[], &before);
        assert_eq!(
            plan.sources["ios"],
            Source::Generate {
                secret: "shop-ios".into(),
                lost: true
            }
        );
    }

    #[test]
    fn secrets_of_removed_keys_are_obsolete() {
        let mut of_another_app = ours("blog-ios", "ios");
        of_another_app.app = Some("uid-blog".into());
        let secrets = [
            ours("shop-ios", "ios"),
            ours("shop-old", "old"),
            foreign("other"),
            of_another_app,
        ];
        let plan = plan(&shop(), &spec(&[("ios", None)]), &secrets, &BTreeSet::new());
        assert_eq!(
            plan.obsolete,
            [("shop-old".to_owned(), "uid-shop-old".to_owned())]
        );
        assert_eq!(
            plan.sources["ios"],
            Source::Read {
                secret: "shop-ios".into(),
                data_key: "key".into()
            }
        );
    }

    #[test]
    fn another_apps_secret_of_the_same_name_is_a_conflict() {
        // App `shop` with key `ios-x` and App `shop-ios` with key `x` want the same name.
        let mut theirs = ours("shop-ios-x", "x");
        theirs.app = Some("uid-shop-ios".into());
        let plan = plan(&shop(), &spec(&[("ios-x", None)]), &[theirs], &BTreeSet::new());
        assert!(matches!(
            &plan.sources["ios-x"],
            Source::Missing {
                reason: Reason::SecretConflict,
                ..
            }
        ));
    }
}
