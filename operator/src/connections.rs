//! How Kafka, ClickHouse and Redis are reached: by the operator, by files; and by the pods that it makes, by copies of
//! files under [`POD_FILES`]. The installation's files are given by flags; those of services that a pipeline names itself
//! come from its Secrets.

use std::path::{Path, PathBuf};

use clap::Args;
use penstock_dataplane_config::{ClientTls, KafkaCluster, RedisTarget, Sasl, SaslMechanism};
use penstock_provision::ClickHouseServer;

/// Where pods find what they are given.
pub const POD_FILES: &str = "/etc/penstock/connections";

/// Flags. Empty ones are absent, as charts write them.
#[derive(Clone, Debug, Args)]
pub struct ConnectionArgs {
    /// `true`: the installation's Kafka is spoken to over TLS.
    #[arg(long, env = "PENSTOCK_KAFKA_TLS", default_value = "")]
    kafka_tls: String,
    /// File with those who may have signed Kafka's certificate. Default: the system's authorities.
    #[arg(long, env = "PENSTOCK_KAFKA_CA_FILE", default_value = "")]
    kafka_ca_file: String,
    /// File with the certificate that the operator shows Kafka.
    #[arg(long, env = "PENSTOCK_KAFKA_CERT_FILE", default_value = "")]
    kafka_cert_file: String,
    /// File with its key.
    #[arg(long, env = "PENSTOCK_KAFKA_KEY_FILE", default_value = "")]
    kafka_key_file: String,
    /// File with the certificate that pipelines' pods show Kafka.
    #[arg(long, env = "PENSTOCK_KAFKA_POD_CERT_FILE", default_value = "")]
    kafka_pod_cert_file: String,
    /// File with its key.
    #[arg(long, env = "PENSTOCK_KAFKA_POD_KEY_FILE", default_value = "")]
    kafka_pod_key_file: String,
    /// How Kafka is told who is there: ScramSha512, ScramSha256 or Plain. Empty: not at all, or by certificate.
    #[arg(long, env = "PENSTOCK_KAFKA_SASL_MECHANISM", default_value = "")]
    kafka_sasl_mechanism: String,
    /// File with the name of the Kafka user that makes topics.
    #[arg(long, env = "PENSTOCK_KAFKA_USERNAME_FILE", default_value = "")]
    kafka_username_file: String,
    /// File with that user's password.
    #[arg(long, env = "PENSTOCK_KAFKA_PASSWORD_FILE", default_value = "")]
    kafka_password_file: String,
    /// File with the name of the Kafka user that pipelines' pods produce and consume as.
    #[arg(long, env = "PENSTOCK_KAFKA_POD_USERNAME_FILE", default_value = "")]
    kafka_pod_username_file: String,
    /// File with that user's password.
    #[arg(long, env = "PENSTOCK_KAFKA_POD_PASSWORD_FILE", default_value = "")]
    kafka_pod_password_file: String,
    /// File with the name of the ClickHouse user that makes databases and tables.
    #[arg(long, env = "PENSTOCK_CLICKHOUSE_USERNAME_FILE", default_value = "")]
    clickhouse_username_file: String,
    /// File with that user's password.
    #[arg(long, env = "PENSTOCK_CLICKHOUSE_PASSWORD_FILE", default_value = "")]
    clickhouse_password_file: String,
    /// File with the name of the ClickHouse user that consumers insert as.
    #[arg(long, env = "PENSTOCK_CLICKHOUSE_CONSUMER_USERNAME_FILE", default_value = "")]
    clickhouse_consumer_username_file: String,
    /// File with that user's password.
    #[arg(long, env = "PENSTOCK_CLICKHOUSE_CONSUMER_PASSWORD_FILE", default_value = "")]
    clickhouse_consumer_password_file: String,
    /// File with those who may have signed ClickHouse's certificate, for an https address. Default: the system's
    /// authorities.
    #[arg(long, env = "PENSTOCK_CLICKHOUSE_CA_FILE", default_value = "")]
    clickhouse_ca_file: String,
    /// `true`: the installation's Redis is spoken to over TLS.
    #[arg(long, env = "PENSTOCK_REDIS_TLS", default_value = "")]
    redis_tls: String,
    /// File with those who may have signed Redis's certificate. Default: the system's authorities.
    #[arg(long, env = "PENSTOCK_REDIS_CA_FILE", default_value = "")]
    redis_ca_file: String,
    /// File with the name of a user of Redis. Default: Redis's default user.
    #[arg(long, env = "PENSTOCK_REDIS_USERNAME_FILE", default_value = "")]
    redis_username_file: String,
    /// File with that user's password.
    #[arg(long, env = "PENSTOCK_REDIS_PASSWORD_FILE", default_value = "")]
    redis_password_file: String,
}

/// How a Kafka is reached, beside its address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KafkaAccess {
    pub tls: Option<ClientTls>,
    pub sasl: Option<Sasl>,
}

impl KafkaAccess {
    pub fn to(&self, bootstrap: &str) -> KafkaCluster {
        KafkaCluster {
            bootstrap: bootstrap.to_owned(),
            tls: self.tls.clone(),
            sasl: self.sasl.clone(),
        }
    }
}

/// How a ClickHouse is reached, beside its address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClickHouseAccess {
    /// For an `https` address.
    pub tls: Option<ClientTls>,
    pub username_file: Option<PathBuf>,
    pub password_file: Option<PathBuf>,
}

impl ClickHouseAccess {
    pub fn to(&self, url: &str) -> ClickHouseServer {
        ClickHouseServer {
            url: url.to_owned(),
            username_file: self.username_file.clone(),
            password_file: self.password_file.clone(),
            tls: self.tls.clone(),
        }
    }
}

/// How a Redis is reached, beside its address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisAccess {
    pub tls: Option<ClientTls>,
    pub username_file: Option<PathBuf>,
    pub password_file: Option<PathBuf>,
}

impl RedisAccess {
    pub fn to(&self, target: RedisTarget) -> RedisTarget {
        RedisTarget {
            tls: self.tls.clone(),
            username_file: self.username_file.clone(),
            password_file: self.password_file.clone(),
            ..target
        }
    }
}

/// All of it, by files of the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    pub kafka: KafkaAccess,
    /// What pods are to have of Kafka.
    pub kafka_pods: KafkaAccess,
    pub clickhouse: ClickHouseAccess,
    /// What pods are to have of ClickHouse.
    pub clickhouse_pods: ClickHouseAccess,
    pub redis: RedisAccess,
}

/// A file that pods are given: its name there, and where the operator has it.
pub type Copied = (&'static str, PathBuf);

fn file(text: &str) -> Option<PathBuf> {
    let text = text.trim();
    (!text.is_empty()).then(|| text.into())
}

fn yes(variable: &'static str, text: &str) -> Result<bool, (&'static str, String)> {
    match text.trim() {
        "" | "false" => Ok(false),
        "true" => Ok(true),
        _ => Err((variable, "true, false or empty".into())),
    }
}

impl Connections {
    /// Reads the flags; an error names the variable.
    pub fn of(args: &ConnectionArgs) -> Result<Self, (&'static str, String)> {
        let tls = yes("PENSTOCK_KAFKA_TLS", &args.kafka_tls)?;
        let kafka_tls = |variable, cert: &str, key: &str| {
            let tls_files = ClientTls {
                ca_file: file(&args.kafka_ca_file),
                cert_file: file(cert),
                key_file: file(key),
            };
            if tls_files.cert_file.is_some() != tls_files.key_file.is_some() {
                return Err((
                    variable,
                    "certificate and key are given together or not at all".into(),
                ));
            }
            match (tls, tls_files == ClientTls::default()) {
                (true, _) => Ok(Some(tls_files)),
                (false, true) => Ok(None),
                (false, false) => Err((
                    "PENSTOCK_KAFKA_TLS",
                    "is not true, and files for TLS are given".into(),
                )),
            }
        };
        let mechanism = match args.kafka_sasl_mechanism.trim() {
            "" => None,
            "ScramSha512" => Some(SaslMechanism::ScramSha512),
            "ScramSha256" => Some(SaslMechanism::ScramSha256),
            "Plain" if tls => Some(SaslMechanism::Plain),
            "Plain" => {
                let why = "Plain sends the password itself: it needs PENSTOCK_KAFKA_TLS";
                return Err(("PENSTOCK_KAFKA_SASL_MECHANISM", why.into()));
            }
            _ => {
                let why = "one of ScramSha512, ScramSha256, Plain";
                return Err(("PENSTOCK_KAFKA_SASL_MECHANISM", why.into()));
            }
        };
        let sasl =
            |variable, username: &str, password: &str| match (mechanism, file(username), file(password)) {
                (None, None, None) => Ok(None),
                (Some(mechanism), Some(username_file), Some(password_file)) => Ok(Some(Sasl {
                    mechanism,
                    username_file,
                    password_file,
                })),
                (None, ..) => Err((variable, "needs PENSTOCK_KAFKA_SASL_MECHANISM".into())),
                (Some(_), ..) => Err((
                    variable,
                    "name and password are needed for SASL, a file each".into(),
                )),
            };
        let clickhouse = |variable, username: &str, password: &str| {
            let (username_file, password_file) = (file(username), file(password));
            if username_file.is_some() != password_file.is_some() {
                let why = "the files of name and password are given together or not at all";
                return Err((variable, why.into()));
            }
            Ok(ClickHouseAccess {
                tls: file(&args.clickhouse_ca_file).map(|ca| ClientTls {
                    ca_file: Some(ca),
                    ..ClientTls::default()
                }),
                username_file,
                password_file,
            })
        };
        let redis_tls = yes("PENSTOCK_REDIS_TLS", &args.redis_tls)?;
        if !redis_tls && file(&args.redis_ca_file).is_some() {
            return Err((
                "PENSTOCK_REDIS_TLS",
                "is not true, and a file for TLS is given".into(),
            ));
        }
        let redis = RedisAccess {
            tls: redis_tls.then(|| ClientTls {
                ca_file: file(&args.redis_ca_file),
                ..ClientTls::default()
            }),
            username_file: file(&args.redis_username_file),
            password_file: file(&args.redis_password_file),
        };
        if redis.username_file.is_some() && redis.password_file.is_none() {
            return Err((
                "PENSTOCK_REDIS_PASSWORD_FILE",
                "is needed with a user's name".into(),
            ));
        }
        Ok(Self {
            kafka: KafkaAccess {
                tls: kafka_tls(
                    "PENSTOCK_KAFKA_CERT_FILE",
                    &args.kafka_cert_file,
                    &args.kafka_key_file,
                )?,
                sasl: sasl(
                    "PENSTOCK_KAFKA_USERNAME_FILE",
                    &args.kafka_username_file,
                    &args.kafka_password_file,
                )?,
            },
            kafka_pods: KafkaAccess {
                tls: kafka_tls(
                    "PENSTOCK_KAFKA_POD_CERT_FILE",
                    &args.kafka_pod_cert_file,
                    &args.kafka_pod_key_file,
                )?,
                sasl: sasl(
                    "PENSTOCK_KAFKA_POD_USERNAME_FILE",
                    &args.kafka_pod_username_file,
                    &args.kafka_pod_password_file,
                )?,
            },
            clickhouse: clickhouse(
                "PENSTOCK_CLICKHOUSE_USERNAME_FILE",
                &args.clickhouse_username_file,
                &args.clickhouse_password_file,
            )?,
            clickhouse_pods: clickhouse(
                "PENSTOCK_CLICKHOUSE_CONSUMER_USERNAME_FILE",
                &args.clickhouse_consumer_username_file,
                &args.clickhouse_consumer_password_file,
            )?,
            redis,
        })
    }

    /// Kafka as pods reach it, and the files that they need for it.
    pub fn kafka_in_pods(&self) -> (KafkaAccess, Vec<Copied>) {
        let mut copies = Copies::default();
        let KafkaAccess { tls, sasl } = &self.kafka_pods;
        let access = KafkaAccess {
            tls: tls.as_ref().map(|tls| ClientTls {
                ca_file: copies.add("kafka-ca.crt", tls.ca_file.as_deref()),
                cert_file: copies.add("kafka-tls.crt", tls.cert_file.as_deref()),
                key_file: copies.add("kafka-tls.key", tls.key_file.as_deref()),
            }),
            sasl: sasl.as_ref().map(|sasl| Sasl {
                mechanism: sasl.mechanism,
                username_file: copies.always("kafka-username", &sasl.username_file),
                password_file: copies.always("kafka-password", &sasl.password_file),
            }),
        };
        (access, copies.0)
    }

    /// ClickHouse as pods reach it.
    pub fn clickhouse_in_pods(&self) -> (ClickHouseAccess, Vec<Copied>) {
        let mut copies = Copies::default();
        let ClickHouseAccess {
            tls,
            username_file,
            password_file,
        } = &self.clickhouse_pods;
        let access = ClickHouseAccess {
            tls: tls.as_ref().map(|tls| ClientTls {
                ca_file: copies.add("clickhouse-ca.crt", tls.ca_file.as_deref()),
                ..ClientTls::default()
            }),
            username_file: copies.add("clickhouse-username", username_file.as_deref()),
            password_file: copies.add("clickhouse-password", password_file.as_deref()),
        };
        (access, copies.0)
    }

    /// Redis as pods reach it.
    pub fn redis_in_pods(&self) -> (RedisAccess, Vec<Copied>) {
        let mut copies = Copies::default();
        let RedisAccess {
            tls,
            username_file,
            password_file,
        } = &self.redis;
        let access = RedisAccess {
            tls: tls.as_ref().map(|tls| ClientTls {
                ca_file: copies.add("redis-ca.crt", tls.ca_file.as_deref()),
                ..ClientTls::default()
            }),
            username_file: copies.add("redis-username", username_file.as_deref()),
            password_file: copies.add("redis-password", password_file.as_deref()),
        };
        (access, copies.0)
    }
}

/// Files that pods get, as they are listed.
#[derive(Default)]
struct Copies(Vec<Copied>);

impl Copies {
    /// Where pods find it.
    fn always(&mut self, name: &'static str, from: &Path) -> PathBuf {
        self.0.push((name, from.to_owned()));
        Path::new(POD_FILES).join(name)
    }

    fn add(&mut self, name: &'static str, from: Option<&Path>) -> Option<PathBuf> {
        from.map(|from| self.always(name, from))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        connections: ConnectionArgs,
    }

    fn connections(flags: &[&str]) -> Result<Connections, (&'static str, String)> {
        let all = ["x"].into_iter().chain(flags.iter().copied());
        Connections::of(&Only::parse_from(all).connections)
    }

    const SASL: [&str; 5] = [
        "--kafka-sasl-mechanism=ScramSha512",
        "--kafka-username-file=/a/username",
        "--kafka-password-file=/a/password",
        "--kafka-pod-username-file=/p/username",
        "--kafka-pod-password-file=/p/password",
    ];

    #[test]
    fn nothing_is_plain() {
        assert_eq!(connections(&[]), Ok(Connections::default()));
        let empty = ["--kafka-tls=", "--kafka-ca-file= ", "--redis-tls=false"];
        assert_eq!(connections(&empty), Ok(Connections::default()));
    }

    #[test]
    fn pods_have_their_own_user_by_copies() {
        let flags = [
            &SASL[..],
            &[
                "--kafka-tls=true",
                "--kafka-ca-file=/k/ca.crt",
                "--redis-tls=true",
            ],
            &["--redis-ca-file=/r/ca.crt", "--redis-password-file=/r/password"],
            &["--clickhouse-ca-file=/c/ca.crt"],
        ]
        .concat();
        let found = connections(&flags).unwrap();
        let own = found.kafka.to("kafka:9093");
        assert_eq!(own.sasl.unwrap().username_file, Path::new("/a/username"));
        let (kafka, copied) = found.kafka_in_pods();
        let names: Vec<_> = copied.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["kafka-ca.crt", "kafka-username", "kafka-password"]);
        assert_eq!(copied[2].1, Path::new("/p/password"));
        let at = |name: &str| Path::new(POD_FILES).join(name);
        assert_eq!(kafka.sasl.unwrap().password_file, at("kafka-password"));
        let (redis, copied) = found.redis_in_pods();
        assert_eq!(
            (copied.len(), redis.password_file),
            (2, Some(at("redis-password")))
        );
        let (clickhouse, copied) = found.clickhouse_in_pods();
        assert_eq!(
            (copied.len(), clickhouse.tls.unwrap().ca_file),
            (1, Some(at("clickhouse-ca.crt")))
        );
    }

    #[test]
    fn halves_are_refused_by_name() {
        for (flags, variable) in [
            (&["--kafka-tls=maybe"][..], "PENSTOCK_KAFKA_TLS"),
            (&["--kafka-ca-file=/ca"], "PENSTOCK_KAFKA_TLS"),
            (
                &["--kafka-tls=true", "--kafka-cert-file=/c"],
                "PENSTOCK_KAFKA_CERT_FILE",
            ),
            (&["--kafka-sasl-mechanism=Plain"], "PENSTOCK_KAFKA_SASL_MECHANISM"),
            (
                &["--kafka-sasl-mechanism=Kerberos"],
                "PENSTOCK_KAFKA_SASL_MECHANISM",
            ),
            (&SASL[..4], "PENSTOCK_KAFKA_POD_USERNAME_FILE"),
            (&SASL[1..], "PENSTOCK_KAFKA_USERNAME_FILE"),
            (&["--redis-username-file=/u"], "PENSTOCK_REDIS_PASSWORD_FILE"),
            (&["--redis-ca-file=/ca"], "PENSTOCK_REDIS_TLS"),
        ] {
            assert_eq!(connections(flags).unwrap_err().0, variable, "{flags:?}");
        }
    }
}
