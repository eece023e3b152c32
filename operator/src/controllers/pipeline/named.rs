//! Secrets that a pipeline names for a Kafka, ClickHouse or Redis of its own.
//!
//! Every client reads files, so their content is kept as files: `<folder>/<namespace>/<Secret>/<member>`, which only this
//! process may read. A place never changes, so a client that is made later, or asks again, has what the Secret holds now.
//! What was read once stays when the Secret goes: what runs goes on, and the pipeline says what is missing.

use std::collections::BTreeSet;
use std::fs::DirBuilder;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use penstock_crds::pipeline::{IngestionPipelineSpec, SaslMechanism};
use penstock_crds::{IngestionPipeline, Reason};
use penstock_dataplane_config::{self as config, ClientTls, Sasl};

use super::target::{Invalid, invalid};
use crate::api::{ApiError, Writer};
use crate::connections::{ClickHouseAccess, KafkaAccess, RedisAccess};
use crate::controllers::subject::Subject;
use crate::settings::Settings;

const CA: &[&str] = &["ca.crt"];
const CERT: &[&str] = &["tls.crt", "tls.key"];
const USER: &[&str] = &["username", "password"];

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

/// Where a member of a Secret of the pipeline's namespace is kept.
fn places(pipeline: &IngestionPipeline, settings: &Settings) -> impl Fn(&str, &str) -> PathBuf {
    let folder = settings
        .secret_files
        .join(pipeline.namespace().unwrap_or_default());
    move |secret, member| folder.join(secret).join(member)
}

const fn mechanism(mechanism: SaslMechanism) -> config::SaslMechanism {
    match mechanism {
        SaslMechanism::ScramSha512 => config::SaslMechanism::ScramSha512,
        SaslMechanism::ScramSha256 => config::SaslMechanism::ScramSha256,
        SaslMechanism::Plain => config::SaslMechanism::Plain,
    }
}

/// The folder of these files.
#[derive(Debug)]
pub struct SecretFiles {
    folder: PathBuf,
    /// Two looks at one Secret take turns, so that the later one wins.
    writing: Mutex<()>,
}

/// What reading the Secrets of a pipeline has come to.
pub(super) enum Kept {
    /// All of them are there.
    Whole,
    /// This is missing; what was read earlier is still there.
    Earlier(Invalid),
}

impl SecretFiles {
    /// Makes the folder anew.
    pub fn make(folder: &Path) -> std::io::Result<Self> {
        match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        if let Some(parent) = folder.parent() {
            std::fs::create_dir_all(parent)?;
        }
        // One that somebody else has made meanwhile is not used.
        DirBuilder::new().mode(0o700).create(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            writing: Mutex::default(),
        })
    }

    /// Reads what the pipeline names. `Err` when something is missing that never was there.
    pub(super) async fn keep(
        &self,
        pipeline: &IngestionPipeline,
        subject: &Subject,
        writer: &Writer,
    ) -> Result<Result<Kept, Invalid>, ApiError> {
        let all = named(&pipeline.spec);
        let mut kept = Kept::Whole;
        let secrets: BTreeSet<&str> = all.iter().map(|named| named.secret).collect();
        for secret in secrets {
            let found = writer
                .api::<Secret>(&subject.namespace)
                .get_opt(secret)
                .await
                .map_err(|error| ApiError::from(format!("Secret {}/{secret}", subject.namespace), &error))?;
            for named in all.iter().filter(|named| named.secret == secret) {
                let folder = self.folder.join(&subject.namespace).join(secret);
                let Err(why) = self.take(&folder, named, found.as_ref()) else {
                    continue;
                };
                let was_there = |member: &&str| folder.join(member).exists();
                if !named.members.iter().all(was_there) {
                    return Ok(Err(why));
                }
                kept = Kept::Earlier(why);
            }
        }
        Ok(Ok(kept))
    }

    /// Writes what a Secret holds of what is asked of it: all of it or nothing.
    fn take(&self, folder: &Path, named: &Named<'_>, secret: Option<&Secret>) -> Result<(), Invalid> {
        let Named {
            field,
            secret: name,
            members,
        } = named;
        let missing = |message| invalid(Reason::SecretNotFound, message);
        let secret =
            secret.ok_or_else(|| missing(format!("{field}: there is no Secret {name} in this namespace")))?;
        let contents = members.iter().map(|member| {
            let content = secret.data.as_ref().and_then(|data| data.get(*member));
            let content = content.filter(|content| !content.0.is_empty());
            content
                .map(|content| (*member, content.0.as_slice()))
                .ok_or_else(|| missing(format!("{field}: the Secret {name} has no member {member}")))
        });
        let contents: Vec<(&str, &[u8])> = contents.collect::<Result<_, _>>()?;
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        for (member, content) in contents {
            write(folder, member, content).map_err(|error| {
                let message = format!("{field}: the Secret {name} cannot be kept for clients: {error}");
                invalid(Reason::NotConfigured, message)
            })?;
        }
        Ok(())
    }
}

/// Whoever reads the file meanwhile has the old one or the new one.
fn write(folder: &Path, member: &str, content: &[u8]) -> std::io::Result<()> {
    let path = folder.join(member);
    if std::fs::read(&path).is_ok_and(|before| before == content) {
        return Ok(());
    }
    std::fs::create_dir_all(folder)?;
    // Made with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(content)?;
    file.persist(&path)?;
    Ok(())
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
        let files = SecretFiles::make(&folder.path().join("new/files")).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&files.folder), 0o700);
        let named = Named {
            field: "kafka.sasl.secret",
            secret: "users",
            members: USER,
        };
        let place = files.folder.join("growth/users");
        let take = |secret: Option<&Secret>| files.take(&place, &named, secret).map_err(|why| why.message);
        assert_eq!(
            take(None).unwrap_err(),
            "kafka.sasl.secret: there is no Secret users in this namespace"
        );
        let half = secret(&[("username", "penstock"), ("password", "")]);
        assert_eq!(
            take(Some(&half)).unwrap_err(),
            "kafka.sasl.secret: the Secret users has no member password"
        );
        assert!(!place.exists());
        for password in ["s3cret", "an0ther"] {
            take(Some(&secret(&[("username", "penstock"), ("password", password)]))).unwrap();
            assert_eq!(std::fs::read_to_string(place.join("password")).unwrap(), password);
        }
        assert_eq!(mode(&place.join("password")), 0o600);
        assert_eq!(
            std::fs::read_dir(&place).unwrap().count(),
            2,
            "nothing is left beside"
        );
        // Made anew at the start: what was there is gone.
        SecretFiles::make(&files.folder).unwrap();
        assert!(!place.exists());
    }
}
