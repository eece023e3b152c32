//! A Kafka that knows its clients by their certificates: operator and pods show theirs, and what they show, and whom they
//! trust, is exchanged for that of another authority while events arrive.

use std::time::Duration;

use penstock_e2e::secured::{Authority, Issued};
use penstock_e2e::trial::{APP, Acknowledged, Trial, Turn, within};
use penstock_e2e::{Error, Instance, Result};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::secured::{Own, both, replaced};

const PATIENCE: Duration = Duration::from_secs(120);

/// Kafka's port for those with a certificate, which goes back to what it began with when this is dropped.
struct Exchanged<'a>(&'a Instance);

impl Drop for Exchanged<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.reset_mutual_kafka() {
            eprintln!("Kafka goes on with a test's certificate: {error}");
        }
    }
}

impl Exchanged<'_> {
    /// Has it show a certificate of `by` and let those in whom `trusted` have signed.
    fn to(&self, by: &Authority, trusted: &str) -> Result<()> {
        self.0.set_mutual_kafka(&by.services()?, trusted)
    }

    /// Whether somebody who trusts `authority` is let in with this certificate.
    fn lets_in(&self, authority: &Authority, client: &Issued) -> Result<bool> {
        let asked: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.0.mutual_kafka()?)
            .set("security.protocol", "ssl")
            .set("ssl.ca.pem", &authority.certificate)
            .set("ssl.certificate.pem", &client.certificate)
            .set("ssl.key.pem", &client.key)
            .create()
            .map_err(|error| Error::new(error.to_string()))?;
        Ok(asked.fetch_metadata(None, Duration::from_secs(10)).is_ok())
    }
}

#[test]
fn certificates_and_who_signs_them_are_exchanged_while_events_arrive() -> Result<()> {
    // Others use the port with the certificates of the kit.
    let kit = Turn::alone()?;
    let port = Exchanged(&kit);
    let (old, new) = (kit.authority()?, Authority::new("the next authority")?);
    let trial = Trial::empty(&kit, "mutual")?;
    let own = Own {
        trial: &trial,
        name: "nobody",
    };
    own.secret("authority", &[("ca.crt", &old.certificate)])?;
    let first = old.client("pods")?;
    own.certificate("pods", &first)?;
    // Kafka does not know who has signed this one.
    own.certificate("operator", &new.client("operator")?)?;
    trial.apply(&trial.app(APP))?;
    trial.apply(&trial.pipeline(&format!(
        "  ingest: {{scaling: {{replicas: 2}}}}\n  kafka:\n    bootstrap: {}\n    \
         tls: {{caSecret: authority, certSecret: pods, adminCertSecret: operator}}\n",
        kit.mutual_kafka()?
    )))?;
    within(60, "Kafka lets the operator not in", || {
        let said = own.says()?;
        Ok(said.contains("Kafka at") || said.contains("Kafka refused"))
    })?;
    own.certificate("operator", &old.client("operator")?)?;
    trial.ready()?;

    let traffic = trial.traffic(APP)?;
    let send = || traffic.send(100, 10, 2, Duration::from_millis(100), Duration::from_secs(60));
    let mut sent = Acknowledged::default();
    let mut meanwhile = |what: &str, change: &dyn Fn() -> Result<()>| -> Result<()> {
        let (more, ()) = Acknowledged::meanwhile(send, change)?;
        assert_eq!((more.failed, &more.errors), (0, &Vec::new()), "{what}");
        sent.merge(more);
        Ok(())
    };
    let trusted = format!("{}{}", old.certificate, new.certificate);
    meanwhile("both authorities are trusted", &|| {
        let before = both(&trial)?;
        own.secret("authority", &[("ca.crt", &trusted)])?;
        replaced(&trial, &before)?;
        port.to(&new, &trusted)
    })?;
    let second = new.client("pods")?;
    assert!(port.lets_in(&new, &first)? && port.lets_in(&new, &second)?);
    assert!(
        !port.lets_in(&old, &first)?,
        "it shows what the old one has not signed"
    );
    meanwhile("the next authority's certificates are shown", &|| {
        let before = both(&trial)?;
        own.certificate("operator", &new.client("operator")?)?;
        own.certificate("pods", &second)?;
        replaced(&trial, &before)?;
        port.to(&new, &new.certificate)
    })?;
    assert!(port.lets_in(&new, &second)?);
    assert!(
        !port.lets_in(&new, &first)?,
        "it trusts who has signed the old one"
    );
    meanwhile("the next authority alone is trusted", &|| {
        let before = both(&trial)?;
        own.secret("authority", &[("ca.crt", &new.certificate)])?;
        replaced(&trial, &before)
    })?;
    trial.settle(&sent, PATIENCE)?;
    // The operator still makes what is asked for.
    let longer = "{\"spec\":{\"kafka\":{\"retention\":\"8d\"}}}";
    trial.kubectl(&["patch", "ipl", "events", "--type=merge", "-p", longer])?;
    trial.ready()
}
