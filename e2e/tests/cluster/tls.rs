//! TLS on the endpoint, by a Secret that is missing, made, renewed and gone again.

use std::io::Write as _;
use std::process::Command;
use std::time::Duration;

use penstock_e2e::trial::{APP, PIPELINE, Trial, Turn, within};
use penstock_e2e::{Error, Result};
use rcgen::{CertificateParams, KeyPair};
use tempfile::NamedTempFile;

const SECRET: &str = "shop-tls";
const SPEC: &str = "  ingest: {scaling: {replicas: 1}}\n  endpoint: {tls: {secretName: shop-tls}}\n";

/// A certificate that vouches for itself, and its key.
struct Certificate {
    certificate: NamedTempFile,
    key: NamedTempFile,
}

impl Certificate {
    fn of(host: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![host.to_owned()]).expect("a host's name");
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        let file = |text: &str| {
            let mut file = NamedTempFile::new().expect("a file");
            file.write_all(text.as_bytes()).expect("a file");
            file
        };
        Self {
            certificate: file(&certificate),
            key: file(&key.serialize_pem()),
        }
    }

    /// Makes the Secret of it, or puts it into the one that is there.
    fn hand_over(&self, trial: &Trial<'_>) -> Result<()> {
        let cert = format!("--cert={}", self.certificate.path().display());
        let key = format!("--key={}", self.key.path().display());
        trial.apply(&trial.kubectl(&[
            "create",
            "secret",
            "tls",
            SECRET,
            &cert,
            &key,
            "--dry-run=client",
            "-o",
            "yaml",
        ])?)
    }
}

/// A client that trusts nobody but this certificate.
fn send(trial: &Trial<'_>, key: &str, trusted: &Certificate) -> Result<String> {
    let url = format!(
        "https://{PIPELINE}-ingest.{}.svc:8080/v1/events",
        trial.namespace()
    );
    let output = Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--max-time",
            "10",
            "--write-out",
            "%{http_code}",
        ])
        .args(["--output", "/dev/null", "--cacert"])
        .arg(trusted.certificate.path())
        .args([
            "--header",
            &format!("X-API-Key: {key}"),
            "--data",
            r#"{"event_type":"tls"}"#,
            &url,
        ])
        .output()
        .map_err(|error| Error::new(format!("starting curl: {error}")))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(match output.status.code() {
        Some(0) => said,
        // curl's number for a certificate that it does not trust.
        Some(60) => "not trusted".into(),
        _ => String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

fn ready(trial: &Trial<'_>, field: &str) -> Result<String> {
    let path = format!("jsonpath={{.status.conditions[?(@.type==\"Ready\")].{field}}}");
    trial.kubectl(&["get", "ingestionpipeline", PIPELINE, "-o", &path])
}

#[test]
fn the_endpoint_speaks_tls_with_the_certificate_of_a_secret() -> Result<()> {
    let kit = Turn::beside_others()?;
    let trial = Trial::empty(&kit, "tls")?;
    trial.apply(&trial.app(APP))?;
    trial.apply(&trial.pipeline(SPEC))?;
    within(30, "the Secret that is missing is named", || {
        Ok(ready(&trial, "reason")? == "SecretNotFound")
    })?;
    let message = ready(&trial, "message")?;
    assert!(
        message.contains("endpoint.tls.secretName") && message.contains(SECRET),
        "{message}"
    );

    let host = format!("{PIPELINE}-ingest.{}.svc", trial.namespace());
    let first = Certificate::of(&host);
    first.hand_over(&trial)?;
    let (_, took) = trial.condition("Ready", "True", Duration::from_secs(120))?;
    println!("ready {took:?} after the Secret was made");
    let key = trial.key(APP)?;
    within(10, "the node's proxy has heard of it", || {
        Ok(send(&trial, &key, &first)? == "200")
    })?;
    let endpoint = trial.kubectl(&["get", "ipl", PIPELINE, "-o", "jsonpath={.status.endpoints}"])?;
    assert!(endpoint.contains("https://"), "{endpoint}");
    let plain = trial.traffic(APP)?.once();
    assert!(plain.is_err(), "without TLS it was answered: {plain:?}");

    // A renewed one reaches the running pod.
    let pods = trial.pods("ingest")?;
    let second = Certificate::of(&host);
    assert_eq!(send(&trial, &key, &second)?, "not trusted");
    second.hand_over(&trial)?;
    let took = within(150, "the renewed certificate is used", || {
        std::thread::sleep(Duration::from_secs(1));
        Ok(send(&trial, &key, &second)? == "200")
    })?;
    println!("the renewed certificate was used after {took:?}");
    assert_eq!(send(&trial, &key, &first)?, "not trusted");

    // Without the Secret it is said, and the pod goes on with what it has read.
    trial.kubectl(&["delete", "secret", SECRET])?;
    within(30, "the Secret that is gone is named", || {
        Ok(ready(&trial, "reason")? == "SecretNotFound")
    })?;
    assert_eq!(send(&trial, &key, &second)?, "200");
    let after = trial.pods("ingest")?;
    let same = |pods: &[penstock_e2e::trial::Pod]| -> Vec<(String, u64)> {
        pods.iter().map(|pod| (pod.name.clone(), pod.restarts)).collect()
    };
    assert_eq!(same(&after), same(&pods), "a pod was replaced or restarted");
    Ok(())
}
