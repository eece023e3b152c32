//! How Kafka is reached, where a person says it instead of the pipeline.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use penstock_dataplane_config::{ClientTls, KafkaCluster, Sasl, SaslMechanism};

use crate::exit::{Failure, Result};

/// Flags. The files are of this machine. With any of them but the address, what the pipeline's pods have is not used.
#[derive(Clone, Debug, Default, Args)]
pub struct KafkaFlags {
    /// Kafka's address; default: what the pipeline's pods use
    #[arg(long, value_name = "HOST:PORT", env = "PENSTOCK_KAFKA__BOOTSTRAP")]
    pub kafka: Option<String>,
    /// Kafka is spoken to over TLS, also without a file of its own
    #[arg(long)]
    pub kafka_tls: bool,
    /// Who may have signed Kafka's certificate
    #[arg(long, value_name = "FILE", env = "PENSTOCK_KAFKA__TLS__CA_FILE")]
    pub kafka_ca: Option<PathBuf>,
    /// A certificate to show Kafka
    #[arg(
        long,
        value_name = "FILE",
        requires = "kafka_key",
        env = "PENSTOCK_KAFKA__TLS__CERT_FILE"
    )]
    pub kafka_cert: Option<PathBuf>,
    /// Its key
    #[arg(
        long,
        value_name = "FILE",
        requires = "kafka_cert",
        env = "PENSTOCK_KAFKA__TLS__KEY_FILE"
    )]
    pub kafka_key: Option<PathBuf>,
    /// How Kafka is told who is there
    #[arg(
        long,
        value_name = "MECHANISM",
        requires = "kafka_username_file",
        env = "PENSTOCK_KAFKA__SASL__MECHANISM"
    )]
    pub kafka_mechanism: Option<Mechanism>,
    /// The name of a user of Kafka
    #[arg(
        long,
        value_name = "FILE",
        requires = "kafka_password_file",
        env = "PENSTOCK_KAFKA__SASL__USERNAME_FILE"
    )]
    pub kafka_username_file: Option<PathBuf>,
    /// The user's password
    #[arg(
        long,
        value_name = "FILE",
        requires = "kafka_username_file",
        env = "PENSTOCK_KAFKA__SASL__PASSWORD_FILE"
    )]
    pub kafka_password_file: Option<PathBuf>,
}

/// Mechanisms of SASL, as the resources name them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Mechanism {
    #[default]
    #[value(name = "ScramSha512")]
    ScramSha512,
    #[value(name = "ScramSha256")]
    ScramSha256,
    #[value(name = "Plain")]
    Plain,
}

impl KafkaFlags {
    /// Whether anything is said of how it is reached: then what pods have for it is not asked for.
    pub fn say_how(&self) -> bool {
        self.kafka_tls
            || self.kafka_ca.is_some()
            || self.kafka_cert.is_some()
            || self.kafka_username_file.is_some()
    }

    /// The Kafka at this address, reached as the flags say.
    pub fn cluster(&self, bootstrap: &str) -> Result<KafkaCluster> {
        let files = ClientTls {
            ca_file: self.kafka_ca.clone(),
            cert_file: self.kafka_cert.clone(),
            key_file: self.kafka_key.clone(),
        };
        let tls = (self.kafka_tls || files != ClientTls::default()).then_some(files);
        let user = self
            .kafka_username_file
            .clone()
            .zip(self.kafka_password_file.clone());
        let sasl = user.map(|(username_file, password_file)| Sasl {
            mechanism: match self.kafka_mechanism.unwrap_or_default() {
                Mechanism::ScramSha512 => SaslMechanism::ScramSha512,
                Mechanism::ScramSha256 => SaslMechanism::ScramSha256,
                Mechanism::Plain => SaslMechanism::Plain,
            },
            username_file,
            password_file,
        });
        if tls.is_none()
            && sasl
                .as_ref()
                .is_some_and(|sasl| sasl.mechanism == SaslMechanism::Plain)
        {
            let why = "Plain sends the password itself: it needs --kafka-tls or --kafka-ca";
            return Err(Failure::Usage(why.into()));
        }
        Ok(KafkaCluster {
            bootstrap: bootstrap.to_owned(),
            tls,
            sasl,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        flags: KafkaFlags,
    }

    fn flags(arguments: &[&str]) -> std::result::Result<KafkaFlags, clap::Error> {
        let all = ["x"].into_iter().chain(arguments.iter().copied());
        Only::try_parse_from(all).map(|only| only.flags)
    }

    #[test]
    fn what_is_said_is_used() {
        let none = flags(&["--kafka", "k:9092"]).unwrap();
        assert!(!none.say_how());
        assert_eq!(none.cluster("k:9092").unwrap(), KafkaCluster::open("k:9092"));
        let user = ["--kafka-username-file", "/u", "--kafka-password-file", "/p"];
        let all = flags(&[&user[..], &["--kafka-ca", "/ca"]].concat()).unwrap();
        assert!(all.say_how());
        let cluster = all.cluster("k:9093").unwrap();
        assert_eq!(cluster.tls.unwrap().ca_file, Some("/ca".into()));
        assert_eq!(cluster.sasl.unwrap().mechanism, SaslMechanism::ScramSha512);
        let system = flags(&["--kafka-tls"]).unwrap().cluster("k:9093").unwrap();
        assert_eq!(system.tls, Some(ClientTls::default()));
        let plain = flags(&[&user[..], &["--kafka-mechanism", "Plain"]].concat()).unwrap();
        assert!(plain.cluster("k:9092").is_err());
    }

    #[test]
    fn halves_are_refused() {
        for half in [
            &["--kafka-cert", "/c"][..],
            &["--kafka-username-file", "/u"],
            &["--kafka-mechanism", "ScramSha256"],
            &["--kafka-mechanism", "Kerberos"],
        ] {
            assert!(flags(half).is_err(), "{half:?}");
        }
    }
}
