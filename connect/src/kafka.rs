//! What every client of Kafka is made with.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use penstock_dataplane_config::{KafkaCluster, SaslMechanism};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, DeliveryResult, ProducerContext};

use crate::Unusable;

impl From<Unusable> for KafkaError {
    fn from(unusable: Unusable) -> Self {
        Self::ClientCreation(unusable.to_string())
    }
}

/// Why librdkafka could not connect last. Its answers say only that time ran out.
#[derive(Clone, Debug, Default)]
pub struct Reports(Arc<Mutex<Option<String>>>);

impl Reports {
    fn held(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn last(&self) -> Option<String> {
        self.held().clone()
    }

    /// The same where the broker, or this side, did not trust the other: time does not mend that.
    pub fn refusal(&self) -> Option<String> {
        self.last()
            .filter(|why| why.contains("SASL") || why.contains("SSL"))
    }

    /// What went wrong, and why, where that is known.
    pub fn explain(&self, error: &dyn std::fmt::Display) -> String {
        match self.last() {
            Some(why) => format!("{error}: {why}"),
            None => error.to_string(),
        }
    }

    /// Takes in a line that librdkafka logs. Only there it says why: `[thrd:…]: host:port/bootstrap: Failed to resolve …
    /// (after 3ms in state CONNECT)`.
    pub fn see(&self, facility: &str, message: &str) {
        if facility != "FAIL" {
            return;
        }
        let why = message.split_once("]: ").map_or(message, |(_, why)| why);
        let why = why.split_once(" (after ").map_or(why, |(why, _)| why);
        let harmless = why.chars().map(|c| if c.is_control() { ' ' } else { c });
        *self.held() = Some(harmless.collect());
    }
}

impl ClientContext for Reports {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        self.see(facility, message);
    }

    fn error(&self, _: KafkaError, _: &str) {}
}

impl ConsumerContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

/// Settings for librdkafka: the brokers, and how they are spoken to. It reads certificates by itself.
pub fn client(cluster: &KafkaCluster) -> Result<ClientConfig, Unusable> {
    build(cluster, &crate::bytes, &|config, [location, _], file| {
        // librdkafka's own error is about OpenSSL, not about the file.
        crate::bytes(file)?;
        config.set(location, file.to_string_lossy());
        Ok(())
    })
}

/// The same where the files are not on this machine's disk: `read` has their contents. What comes of it holds a key that its
/// `Debug` shows.
pub fn client_with(
    cluster: &KafkaCluster,
    read: &dyn Fn(&Path) -> Result<Vec<u8>, Unusable>,
) -> Result<ClientConfig, Unusable> {
    build(cluster, read, &|config, [_, pem], file| {
        config.set(pem, crate::line(file, read(file)?)?);
        Ok(())
    })
}

/// Sets one of librdkafka's pairs of settings: that for a file's path, and that for its contents.
type SetFile<'a> = &'a dyn Fn(&mut ClientConfig, [&str; 2], &Path) -> Result<(), Unusable>;

fn build(
    cluster: &KafkaCluster,
    read: &dyn Fn(&Path) -> Result<Vec<u8>, Unusable>,
    set_file: SetFile<'_>,
) -> Result<ClientConfig, Unusable> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &cluster.bootstrap);
    let protocol = match (&cluster.tls, &cluster.sasl) {
        (None, None) => return Ok(config),
        (Some(_), None) => "ssl",
        (None, Some(_)) => "sasl_plaintext",
        (Some(_), Some(_)) => "sasl_ssl",
    };
    config.set("security.protocol", protocol);
    if let Some(tls) = &cluster.tls {
        if tls.ca_file.is_none() {
            // OpenSSL's own default is another folder than that of most images.
            config.set("ssl.ca.location", "probe");
        }
        for (settings, file) in [
            (["ssl.ca.location", "ssl.ca.pem"], &tls.ca_file),
            (
                ["ssl.certificate.location", "ssl.certificate.pem"],
                &tls.cert_file,
            ),
            (["ssl.key.location", "ssl.key.pem"], &tls.key_file),
        ] {
            if let Some(file) = file {
                set_file(&mut config, settings, file)?;
            }
        }
    }
    if let Some(sasl) = &cluster.sasl {
        let mechanism = match sasl.mechanism {
            SaslMechanism::ScramSha512 => "SCRAM-SHA-512",
            SaslMechanism::ScramSha256 => "SCRAM-SHA-256",
            SaslMechanism::Plain => "PLAIN",
        };
        let line = |file: &Path| crate::line(file, read(file)?);
        config
            .set("sasl.mechanism", mechanism)
            .set("sasl.username", line(&sasl.username_file)?)
            .set("sasl.password", line(&sasl.password_file)?);
    }
    Ok(config)
}

/// Why this Kafka does not let anybody in, if it says so: asked by a client of its own. Blocks for `patience`.
pub fn diagnose(cluster: &KafkaCluster, patience: Duration) -> Option<String> {
    let reports = Reports::default();
    let client: BaseProducer<Reports> = client(cluster).ok()?.create_with_context(reports.clone()).ok()?;
    let until = Instant::now() + patience;
    while reports.refusal().is_none() && Instant::now() < until {
        // What librdkafka logs comes with the events that are polled for.
        client.poll(Duration::from_millis(50));
    }
    reports.refusal()
}

#[cfg(test)]
mod tests {
    use penstock_dataplane_config::{ClientTls, Sasl};

    use super::*;

    #[test]
    fn the_last_reason_is_told_without_what_changes() {
        let reports = Reports::default();
        assert_eq!(reports.explain(&"no answer"), "no answer");
        let refused = "[thrd:sasl_ssl://k:9093/bootstrap]: sasl_ssl://k:9093/bootstrap: SASL authentication error: \
                       Authentication failed (after 311ms in state AUTH_REQ, 4 identical error(s) suppressed)";
        reports.see(
            "FAIL",
            "[thrd:k:9092/bootstrap]: k:9092/bootstrap: Connect failed\u{7}",
        );
        assert_eq!(
            (reports.refusal(), reports.last().unwrap().as_str()),
            (None, "k:9092/bootstrap: Connect failed ")
        );
        reports.see("FAIL", refused);
        reports.see("CONNECT", "something else");
        let told = reports.explain(&"no answer");
        assert_eq!(
            told,
            "no answer: sasl_ssl://k:9093/bootstrap: SASL authentication error: Authentication failed"
        );
        assert!(reports.refusal().is_some());
    }

    #[test]
    fn the_protocol_follows_from_what_is_given() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let sasl = Sasl {
            mechanism: SaslMechanism::ScramSha256,
            username_file: file("username", "u\n"),
            password_file: file("password", "p4ss\n"),
        };
        let tls = ClientTls {
            ca_file: Some(file("ca.crt", "")),
            ..ClientTls::default()
        };
        for (tls, sasl, protocol) in [
            (None, None, None),
            (Some(tls.clone()), None, Some("ssl")),
            (None, Some(sasl.clone()), Some("sasl_plaintext")),
            (Some(tls), Some(sasl), Some("sasl_ssl")),
        ] {
            let cluster = KafkaCluster {
                bootstrap: "kafka:9093".into(),
                tls,
                sasl,
            };
            let config = client(&cluster).unwrap();
            assert_eq!(config.get("bootstrap.servers"), Some("kafka:9093"));
            assert_eq!(config.get("security.protocol"), protocol);
            assert_eq!(config.get("ssl.ca.location").is_some(), cluster.tls.is_some());
            let told = cluster.sasl.as_ref().map(|_| "p4ss");
            assert_eq!(config.get("sasl.password"), told);
            assert!(!format!("{config:?}").contains("p4ss"), "it would be logged");
        }
        let system = KafkaCluster {
            bootstrap: "kafka:9093".into(),
            tls: Some(ClientTls::default()),
            sasl: None,
        };
        assert_eq!(client(&system).unwrap().get("ssl.ca.location"), Some("probe"));
        let absent = KafkaCluster {
            bootstrap: "kafka:9093".into(),
            tls: Some(ClientTls {
                ca_file: Some("/nowhere/ca.crt".into()),
                ..ClientTls::default()
            }),
            sasl: None,
        };
        let error = KafkaError::from(client(&absent).unwrap_err()).to_string();
        assert!(error.contains("/nowhere/ca.crt"), "{error}");
    }
}
