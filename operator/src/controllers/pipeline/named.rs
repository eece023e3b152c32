//! Secrets that a pipeline names for a Kafka, ClickHouse or Redis of its own.
//!
//! Every client reads files, so their content is kept as files, which only this process may read:
//! `<folder>/<pipeline's uid>/<Secret>/<digest>/<member>`. Another content is another place: what knows a service by how it is
//! reached (connections, health, what was found right) begins anew with it. What was read stays when the Secret goes: what
//! runs goes on, and the pipeline says what is missing. Nobody else gets it, and it goes with the pipeline.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use penstock_crds::pipeline::{IngestionPipelineSpec, SaslMechanism};
use penstock_crds::{IngestionPipeline, Reason};
use penstock_dataplane_config::{self as config, ClientTls, Sasl};

use super::secrets::digest;
use super::target::{Invalid, invalid};
use crate::api::{ApiError, Writer};
use crate::connections::{ClickHouseAccess, KafkaAccess, RedisAccess};
use crate::controllers::cache::Caches;
use crate::controllers::subject::Subject;
use crate::settings::Settings;

const CA: &[&str] = &["ca.crt"];
const CERT: &[&str] = &["tls.crt", "tls.key"];
const USER: &[&str] = &["username", "password"];
/// Bytes of a member: no certificate or password comes near it, and all of them share the operator's memory.
const LARGEST: usize = 64 << 10;

/// One of them.
#[derive(Debug, PartialEq, Eq)]
struct Named<'s> {
    /// Where the spec says so.
    field: &'static str,
    secret: &'s str,
    /// What it has to hold.
    members: &'static [&'static str],
}

fn named(spec: &IngestionPipelineSpec) -> Vec<Named<'_>> {
    let (kafka, clickhouse, redis) = (&spec.kafka, &spec.clickhouse, &spec.redis);
    let tls = kafka.tls.as_ref();
    let sasl = kafka.sasl.as_ref();
    let redis_tls = redis.tls.as_ref();
    let all: [(&'static str, Option<&String>, &'static [&'static str]); 10] = [
        (
            "kafka.tls.caSecret",
            tls.and_then(|tls| tls.ca_secret.as_ref()),
            CA,
        ),
        (
            "kafka.tls.certSecret",
            tls.and_then(|tls| tls.cert_secret.as_ref()),
            CERT,
        ),
        (
            "kafka.tls.adminCertSecret",
            tls.and_then(|tls| tls.admin_cert_secret.as_ref()),
            CERT,
        ),
        ("kafka.sasl.secret", sasl.map(|sasl| &sasl.secret), USER),
        (
            "kafka.sasl.adminSecret",
            sasl.and_then(|sasl| sasl.admin_secret.as_ref()),
            USER,
        ),
        ("clickhouse.caSecret", clickhouse.ca_secret.as_ref(), CA),
        ("clickhouse.secret", clickhouse.secret.as_ref(), USER),
        ("clickhouse.adminSecret", clickhouse.admin_secret.as_ref(), USER),
        (
            "redis.tls.caSecret",
            redis_tls.and_then(|tls| tls.ca_secret.as_ref()),
            CA,
        ),
        ("redis.secret", redis.secret.as_ref(), USER),
    ];
    let given = all.into_iter().filter_map(|(field, secret, members)| {
        Some(Named {
            field,
            secret: secret?,
            members,
        })
    });
    given.collect()
}

/// Whether a change of this Secret concerns the pipeline.
pub(crate) fn names(spec: &IngestionPipelineSpec, secret: &str) -> bool {
    named(spec).iter().any(|named| named.secret == secret)
}

/// Kafka as the operator and as pods reach it, where the pipeline says how.
pub(super) fn kafka(pipeline: &IngestionPipeline, settings: &Settings) -> Option<(KafkaAccess, KafkaAccess)> {
    let spec = &pipeline.spec.kafka;
    if spec.tls.is_none() && spec.sasl.is_none() {
        return None;
    }
    let place = places(pipeline, settings);
    let access = |cert: Option<&String>, user: Option<&String>| KafkaAccess {
        tls: spec.tls.as_ref().map(|tls| ClientTls {
            ca_file: tls.ca_secret.as_ref().map(|secret| place(secret, "ca.crt")),
            cert_file: cert.map(|secret| place(secret, "tls.crt")),
            key_file: cert.map(|secret| place(secret, "tls.key")),
        }),
        sasl: spec.sasl.as_ref().zip(user).map(|(sasl, user)| Sasl {
            mechanism: mechanism(sasl.mechanism),
            username_file: place(user, "username"),
            password_file: place(user, "password"),
        }),
    };
    let tls = spec.tls.as_ref();
    let cert = tls.and_then(|tls| tls.cert_secret.as_ref());
    let admin_cert = tls.and_then(|tls| tls.admin_cert_secret.as_ref());
    let user = spec.sasl.as_ref().map(|sasl| &sasl.secret);
    let admin = spec.sasl.as_ref().and_then(|sasl| sasl.admin_secret.as_ref());
    Some((access(admin_cert.or(cert), admin.or(user)), access(cert, user)))
}

/// ClickHouse as the operator and as pods reach it, where the pipeline says how.
pub(super) fn clickhouse(
    pipeline: &IngestionPipeline,
    settings: &Settings,
) -> Option<(ClickHouseAccess, ClickHouseAccess)> {
    let spec = &pipeline.spec.clickhouse;
    if spec.ca_secret.is_none() && spec.secret.is_none() {
        return None;
    }
    let place = places(pipeline, settings);
    let access = |user: Option<&String>| ClickHouseAccess {
        tls: spec.ca_secret.as_ref().map(|secret| ClientTls {
            ca_file: Some(place(secret, "ca.crt")),
            ..ClientTls::default()
        }),
        username_file: user.map(|secret| place(secret, "username")),
        password_file: user.map(|secret| place(secret, "password")),
    };
    let (user, admin) = (spec.secret.as_ref(), spec.admin_secret.as_ref());
    Some((access(admin.or(user)), access(user)))
}

/// Redis as both reach it, where the pipeline says how.
pub(super) fn redis(pipeline: &IngestionPipeline, settings: &Settings) -> Option<RedisAccess> {
    let spec = &pipeline.spec.redis;
    if spec.tls.is_none() && spec.secret.is_none() {
        return None;
    }
    let place = places(pipeline, settings);
    Some(RedisAccess {
        tls: spec.tls.as_ref().map(|tls| ClientTls {
            ca_file: tls.ca_secret.as_ref().map(|secret| place(secret, "ca.crt")),
            ..ClientTls::default()
        }),
        username_file: spec.secret.as_ref().map(|secret| place(secret, "username")),
        password_file: spec.secret.as_ref().map(|secret| place(secret, "password")),
    })
}

/// Where a member of a Secret is kept for the pipeline.
fn places(pipeline: &IngestionPipeline, settings: &Settings) -> impl Fn(&str, &str) -> PathBuf {
    let (files, uid) = (
        Arc::clone(&settings.secret_files),
        pipeline.uid().unwrap_or_default(),
    );
    move |secret, member| files.place(&uid, secret).join(member)
}

const fn mechanism(mechanism: SaslMechanism) -> config::SaslMechanism {
    match mechanism {
        SaslMechanism::ScramSha512 => config::SaslMechanism::ScramSha512,
        SaslMechanism::ScramSha256 => config::SaslMechanism::ScramSha256,
        SaslMechanism::Plain => config::SaslMechanism::Plain,
    }
}

/// What was read of a Secret for a pipeline.
#[derive(Clone, Debug)]
struct Read {
    /// Of the Secret, when it held this.
    version: String,
    members: BTreeSet<&'static str>,
    folder: PathBuf,
}

/// These files.
#[derive(Debug)]
pub struct SecretFiles {
    folder: PathBuf,
    /// By the pipeline's uid and the Secret's name.
    read: Mutex<HashMap<(String, String), Read>>,
}

/// What reading the Secrets of a pipeline has come to.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// The first that is missing.
    pub missing: Option<Invalid>,
    /// Whether that never was there; else what was read earlier is.
    pub never: bool,
    /// Places that are no more.
    pub replaced: Vec<PathBuf>,
}

impl SecretFiles {
    /// Beneath `folder`; [`Self::make`] makes it.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.join("penstock-secrets"),
            read: Mutex::default(),
        }
    }

    /// Makes the folder anew.
    pub fn make(&self) -> std::io::Result<()> {
        match std::fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        if let Some(parent) = self.folder.parent() {
            std::fs::create_dir_all(parent)?;
        }
        // One that somebody else has made meanwhile is not used.
        DirBuilder::new().mode(0o700).create(&self.folder)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<(String, String), Read>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, uid: &str, secret: &str) -> Option<Read> {
        self.known().get(&(uid.to_owned(), secret.to_owned())).cloned()
    }

    /// The folder of a Secret's members; one that is not there before it was read.
    fn place(&self, uid: &str, secret: &str) -> PathBuf {
        let read = self.of(uid, secret).map(|read| read.folder);
        read.unwrap_or_else(|| self.folder.join(uid).join(secret).join("not-read"))
    }

    /// Forgets a pipeline; gives back where its files were.
    pub(super) fn forget(&self, uid: &str) -> PathBuf {
        self.known().retain(|(of, _), _| of != uid);
        let folder = self.folder.join(uid);
        let _ = std::fs::remove_dir_all(&folder);
        folder
    }

    /// Reads what the pipeline names, where it has changed.
    pub(super) async fn keep(
        &self,
        pipeline: &IngestionPipeline,
        subject: &Subject,
        caches: &Caches,
        writer: &Writer,
    ) -> Result<Kept, ApiError> {
        let all = named(&pipeline.spec);
        let mut kept = Kept::default();
        let secrets: BTreeSet<&str> = all.iter().map(|named| named.secret).collect();
        for secret in secrets {
            let asked: Vec<&Named<'_>> = all.iter().filter(|named| named.secret == secret).collect();
            let before = self.of(&subject.uid, secret);
            let cached = caches.secret(&subject.namespace, secret);
            let version = cached.map(|cached| cached.version).unwrap_or_default();
            if before
                .as_ref()
                .is_some_and(|read| read.version == version && has(read, &asked))
            {
                continue;
            }
            let found = writer
                .api::<Secret>(&subject.namespace)
                .get_opt(secret)
                .await
                .map_err(|error| ApiError::from(format!("Secret {}/{secret}", subject.namespace), &error))?;
            match self.take(&subject.uid, &asked, found.as_ref()) {
                Ok(replaced) => kept.replaced.extend(replaced),
                Err(why) => {
                    kept.never |= !before.is_some_and(|read| has(&read, &asked));
                    kept.missing.get_or_insert(why);
                }
            }
        }
        Ok(kept)
    }

    /// Takes over what a Secret holds of what is asked of it, all of it or nothing; gives back the place that is replaced.
    fn take(
        &self,
        uid: &str,
        asked: &[&Named<'_>],
        secret: Option<&Secret>,
    ) -> Result<Option<PathBuf>, Invalid> {
        let mut contents: BTreeMap<&'static str, &[u8]> = BTreeMap::new();
        let Some(Named { secret: name, .. }) = asked.first() else {
            return Ok(None);
        };
        for Named { field, members, .. } in asked {
            let data = secret.ok_or_else(|| {
                let message = format!("{field}: there is no Secret {name} in this namespace");
                invalid(Reason::SecretNotFound, message)
            })?;
            for member in *members {
                let content = data.data.as_ref().and_then(|data| data.get(*member));
                let content = content.map_or(&[][..], |content| content.0.as_slice());
                let refused =
                    |reason, why: &str| Err(invalid(reason, format!("{field}: the Secret {name} {why}")));
                match content.len() {
                    0 => return refused(Reason::SecretNotFound, &format!("has no member {member}")),
                    1..=LARGEST => contents.insert(member, content),
                    _ => return refused(Reason::SecretInvalid, &format!("has more than 64 kB in {member}")),
                };
            }
        }
        let before = self.of(uid, name);
        let folder = self
            .folder
            .join(uid)
            .join(name)
            .join(digest(contents.iter().map(|(name, content)| (*name, *content))));
        let replaced = before.map(|read| read.folder).filter(|place| *place != folder);
        write(&folder, &contents).map_err(|error| {
            let message = format!("the Secret {name} cannot be kept for clients: {error}");
            invalid(Reason::NotConfigured, message)
        })?;
        let read = Read {
            version: secret.and_then(Secret::resource_version).unwrap_or_default(),
            members: contents.into_keys().collect(),
            folder,
        };
        self.known().insert((uid.to_owned(), (*name).to_owned()), read);
        if let Some(place) = &replaced {
            let _ = std::fs::remove_dir_all(place);
        }
        Ok(replaced)
    }
}

fn has(read: &Read, asked: &[&Named<'_>]) -> bool {
    let mut members = asked.iter().flat_map(|named| named.members);
    members.all(|member| read.members.contains(member))
}

/// A folder is there whole or not at all.
fn write(folder: &Path, contents: &BTreeMap<&'static str, &[u8]>) -> std::io::Result<()> {
    let Some(parent) = folder.parent().filter(|_| !folder.exists()) else {
        return Ok(());
    };
    std::fs::create_dir_all(parent)?;
    let making = tempfile::tempdir_in(parent)?;
    for (name, content) in contents {
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(making.path().join(name))?;
        file.write_all(content)?;
    }
    std::fs::rename(making.keep(), folder)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn spec(text: &str) -> IngestionPipelineSpec {
        serde_yaml::from_str(&format!("{{apps: {{selector: {{}}}}, {text}}}")).unwrap()
    }

    fn secret(members: &[(&str, &str)]) -> Secret {
        let members = members.iter().map(|(name, value)| (*name, *value));
        let data: serde_json::Map<_, _> = members
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect();
        let mut secret: Secret = serde_json::from_value(serde_json::json!({"stringData": data})).unwrap();
        let data = secret.string_data.take().into_iter().flatten();
        let data = data.map(|(name, value)| (name, k8s_openapi::ByteString(value.into_bytes())));
        secret.data = Some(data.collect());
        secret
    }

    #[test]
    fn every_secret_that_is_named_is_known_by_its_field() {
        let all = spec(
            "kafka: {tls: {caSecret: a, certSecret: b, adminCertSecret: c}, \
                     sasl: {mechanism: Plain, secret: d, adminSecret: e}}, \
             clickhouse: {caSecret: a, secret: f, adminSecret: g}, \
             redis: {tls: {caSecret: a}, secret: h}",
        );
        let found = named(&all);
        let found: Vec<_> = found.iter().map(|named| (named.field, named.secret)).collect();
        assert_eq!(
            found,
            [
                ("kafka.tls.caSecret", "a"),
                ("kafka.tls.certSecret", "b"),
                ("kafka.tls.adminCertSecret", "c"),
                ("kafka.sasl.secret", "d"),
                ("kafka.sasl.adminSecret", "e"),
                ("clickhouse.caSecret", "a"),
                ("clickhouse.secret", "f"),
                ("clickhouse.adminSecret", "g"),
                ("redis.tls.caSecret", "a"),
                ("redis.secret", "h"),
            ]
        );
        assert!(names(&all, "h") && !names(&all, "z"));
        assert!(named(&spec("kafka: {tls: {}}, redis: {tls: {}}")).is_empty());
    }

    #[test]
    fn a_secret_is_taken_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let files = SecretFiles::new(&folder.path().join("new"));
        files.make().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&files.folder), 0o700);
        let named = Named {
            field: "kafka.sasl.secret",
            secret: "users",
            members: USER,
        };
        let take = |uid: &str, secret: Option<&Secret>| {
            files.take(uid, &[&named], secret).map_err(|why| why.message)
        };
        assert_eq!(
            take("a", None).unwrap_err(),
            "kafka.sasl.secret: there is no Secret users in this namespace"
        );
        let half = secret(&[("username", "penstock"), ("password", "")]);
        assert_eq!(
            take("a", Some(&half)).unwrap_err(),
            "kafka.sasl.secret: the Secret users has no member password"
        );
        let large = secret(&[("username", "penstock"), ("password", &"p".repeat(70_000))]);
        assert!(take("a", Some(&large)).unwrap_err().contains("64 kB"));
        assert!(!files.place("a", "users").exists());
        let mut places = Vec::new();
        for password in ["s3cret", "an0ther"] {
            let replaced = take(
                "a",
                Some(&secret(&[("username", "penstock"), ("password", password)])),
            )
            .unwrap();
            assert_eq!(
                replaced.as_ref(),
                places.last(),
                "another content is another place"
            );
            let place = files.place("a", "users");
            assert_eq!(std::fs::read_to_string(place.join("password")).unwrap(), password);
            assert_eq!(mode(&place.join("password")), 0o600);
            places.push(place);
        }
        assert!(!places[0].exists() && places[1].exists());
        assert_eq!(
            std::fs::read_dir(places[1].parent().unwrap()).unwrap().count(),
            1,
            "nothing is left beside"
        );
        assert!(
            !files.place("b", "users").exists(),
            "another pipeline has nothing of it"
        );
        assert!(places[1].starts_with(files.forget("a")));
        assert!(!places[1].exists() && !files.place("a", "users").exists());
    }

    #[test]
    fn a_secret_of_two_uses_holds_what_both_ask_for() {
        let folder = tempfile::tempdir().unwrap();
        let files = SecretFiles::new(folder.path());
        files.make().unwrap();
        let spec = spec("kafka: {tls: {caSecret: all}, sasl: {mechanism: Plain, secret: all}}");
        let both = named(&spec);
        let both: Vec<&Named<'_>> = both.iter().collect();
        let without = secret(&[("username", "u"), ("password", "p")]);
        let why = files.take("a", &both, Some(&without)).unwrap_err();
        assert!(why.message.starts_with("kafka.tls.caSecret: "), "{why}");
        let whole = secret(&[
            ("username", "u"),
            ("password", "p"),
            ("ca.crt", "c"),
            ("else", "e"),
        ]);
        files.take("a", &both, Some(&whole)).unwrap();
        let read = files.of("a", "all").unwrap();
        assert!(has(&read, &both));
        assert!(!read.folder.join("else").exists(), "nobody has asked for it");
    }
}
