//! Penstock itself in the cluster: its image, and its chart with the addresses of this instance.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::clickhouse::Credentials;
use crate::error::{Context, Error, Result};
use crate::fetch;
use crate::file;
use crate::image::{self, Image, PENSTOCK_PACKAGES, PENSTOCK_PROGRAMS, PENSTOCK_REPOSITORY};
use crate::instance::Instance;
use crate::progress::{Outcome, Progress};
use crate::run::run;
use crate::secured::USER;

pub const NAMESPACE: &str = "penstock-system";
const RELEASE: &str = "penstock";
const ADMIN_SECRET: &str = "clickhouse-admin";
const CONSUMER_SECRET: &str = "clickhouse-consumer";
/// With `--secure`: who has signed the services' certificates, and the users of Kafka and Redis.
const CA_SECRET: &str = "services-ca";
const KAFKA_ADMIN_SECRET: &str = "kafka-admin";
const KAFKA_POD_SECRET: &str = "kafka-pods";
const REDIS_SECRET: &str = "redis-user";
/// What a person is told of that.
pub(crate) const SECURED: &str =
    "Penstock reaches Kafka, ClickHouse and Redis encrypted, with what Secrets in penstock-system hold";
const PATIENCE: &str = "--timeout=180s";

/// Puts the image of what [`build`] has built into the node and installs the chart; does it again for what has changed.
pub fn install(instance: &Instance, progress: &Progress) -> Result<()> {
    progress.heading("install Penstock");
    let built = fetch::release_folder(instance);
    let log = instance.cache().build_log("image-penstock");
    let image = progress.step("image", Some(&log), || {
        let image = image::penstock(instance, &built)?;
        let note = if instance.import(&image)? {
            "imported"
        } else {
            "there already"
        };
        let note = format!("{} {note}", image.reference);
        Ok(Outcome::of(image, note))
    })?;
    progress.step("helm install", None, || {
        helm_install(instance, &image)?;
        let how = if instance.record()?.secure {
            ", encrypted connections"
        } else {
            ""
        };
        Ok(Outcome::done(format!(
            "release `{RELEASE}` in namespace {NAMESPACE}{how}"
        )))
    })
}

/// Builds the image and writes it as an OCI archive.
pub fn export(instance: &Instance, reference: &str, out: &Path) -> Result<()> {
    let progress = Progress::start();
    let built = build(instance, &progress)?;
    // buildah runs elsewhere; the path is the person's.
    let out = std::path::absolute(out).doing("finding the file to write")?;
    let log = instance.cache().build_log("image-export");
    progress.step("image", Some(&log), || {
        image::export_penstock(instance, &built, reference, &out)?;
        Ok(Outcome::done(format!("{} holds {reference}", out.display())))
    })
}

/// Builds the programs and gives back the folder they are in.
pub(crate) fn build(instance: &Instance, progress: &Progress) -> Result<PathBuf> {
    let folder = fetch::cargo(instance, progress, "penstock", &PENSTOCK_PACKAGES)?;
    for program in PENSTOCK_PROGRAMS {
        if !folder.join(program).exists() {
            return Err(Error::new(format!(
                "cargo built no {}",
                folder.join(program).display()
            )));
        }
    }
    Ok(folder)
}

fn helm_install(instance: &Instance, image: &Image) -> Result<()> {
    let users = instance.clickhouse_users()?;
    let directory = instance.data_dir("penstock");
    let secrets_file = directory.join("secrets.yaml");
    let mut secrets = secrets(&users.admin, &users.consumer);
    let mut values_files = vec![(directory.join("values.yaml"), values(instance, image)?)];
    if instance.record()?.secure {
        let ca = instance.client_certificate().ca;
        let ca = fs::read(&ca).doing(format_args!("reading {}", ca.display()))?;
        secrets.push_str(&secured_secrets(&ca, &instance.service_password()?));
        values_files.push((directory.join("secured.yaml"), secured_values(instance)?));
    }
    file::write(&secrets_file, secrets.as_bytes(), 0o600)?;
    for (path, text) in &values_files {
        file::write(path, text.as_bytes(), 0o644)?;
    }
    let chart = instance.repository().join("charts/penstock");
    instance.inside(|| {
        run(instance
            .kubectl()
            .args(["apply", "--server-side", "--field-manager=penstock-kit", "-f"])
            .arg(&secrets_file))?;
        let mut helm = instance.helm();
        helm.args(["upgrade", RELEASE])
            .arg(&chart)
            .args(["--install", "--namespace", NAMESPACE]);
        for (path, _) in &values_files {
            helm.arg("--values").arg(path);
        }
        helm.args(["--wait", PATIENCE]);
        run(&mut helm).map_err(|error| {
            let pods =
                run(instance.kubectl().args(["-n", NAMESPACE, "get", "pods,events"])).unwrap_or_default();
            Error::new(format!("{}\n{pods}", error.message())).next(format!(
                "look at the operator with `{}`",
                instance.command(&format!(
                    "exec -- kubectl -n {NAMESPACE} logs deployment/{RELEASE}"
                ))
            ))
        })?;
        Ok(())
    })
}

/// The release's namespace and the two users of ClickHouse. Passwords are of letters that need no quoting in YAML
/// between quotes; the file is private.
fn secrets(admin: &Credentials, consumer: &Credentials) -> String {
    let mut text = file::render(
        include_str!("../manifests/penstock-namespace.yaml"),
        &[("namespace", NAMESPACE)],
    );
    for (name, Credentials { user, password }) in [(ADMIN_SECRET, admin), (CONSUMER_SECRET, consumer)] {
        text.push_str(&user_secret(name, user, password));
    }
    text
}

fn user_secret(name: &str, user: &str, password: &str) -> String {
    file::render(
        include_str!("../manifests/user-secret.yaml"),
        &[
            ("name", name),
            ("namespace", NAMESPACE),
            ("user", user),
            ("password", password),
        ],
    )
}

/// What the encrypted ports take more: the kit's Kafka and Redis have one user.
fn secured_secrets(ca: &[u8], password: &str) -> String {
    let mut text = file::render(
        include_str!("../manifests/ca-secret.yaml"),
        &[
            ("name", CA_SECRET),
            ("namespace", NAMESPACE),
            ("ca", &STANDARD.encode(ca)),
        ],
    );
    for name in [KAFKA_ADMIN_SECRET, KAFKA_POD_SECRET, REDIS_SECRET] {
        text.push_str(&user_secret(name, USER, password));
    }
    text
}

/// What `--secure` changes in the values.
fn secured_values(instance: &Instance) -> Result<String> {
    Ok(file::render(
        include_str!("../manifests/penstock-secured.yaml"),
        &[
            ("kafka", &instance.secured_kafka()?),
            ("clickhouse", &instance.secured_clickhouse()),
            ("redis", &instance.secured_redis()),
            ("ca", CA_SECRET),
            ("admin", KAFKA_ADMIN_SECRET),
            ("pods", KAFKA_POD_SECRET),
            ("user", REDIS_SECRET),
        ],
    ))
}

fn values(instance: &Instance, image: &Image) -> Result<String> {
    let tag = image
        .reference
        .strip_prefix(PENSTOCK_REPOSITORY)
        .unwrap_or_default()
        .trim_start_matches(':');
    Ok(file::render(
        include_str!("../manifests/penstock-values.yaml"),
        &[
            ("repository", PENSTOCK_REPOSITORY),
            ("tag", tag),
            ("kafka", &instance.kafka_bootstrap()?),
            ("clickhouse", &instance.clickhouse_url()),
            ("admin", ADMIN_SECRET),
            ("consumer", CONSUMER_SECRET),
            ("redis", &instance.redis_address()),
        ],
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_chart_gets_the_instances_addresses() {
        let instance = Instance::below(Path::new("/state"));
        let image = Image {
            reference: format!("{PENSTOCK_REPOSITORY}:0123abcd"),
            archive: "/a.tar".into(),
        };
        let text = values(&instance, &image).unwrap();
        assert!(!text.contains("{{"), "{text}");
        for part in [
            "tag: \"0123abcd\"",
            "bootstrap: 10.240.0.1:9092",
            "url: http://10.240.0.1:8123",
            "address: 10.240.0.1:6379",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let secured = secured_values(&instance).unwrap();
        assert!(!secured.contains("{{"), "{secured}");
        for part in [
            "bootstrap: 10.240.0.1:9192",
            "url: https://10.240.0.1:8443",
            "address: 10.240.0.1:6380",
        ] {
            assert!(secured.contains(part), "{part} is not in\n{secured}");
        }
    }

    #[test]
    fn every_secret_that_the_secured_values_name_is_made() {
        let instance = Instance::below(Path::new("/state"));
        let secrets = secured_secrets(b"PEM of an authority", "p4ss");
        assert!(!secrets.contains("{{"), "{secrets}");
        assert!(
            secrets.contains(&format!("ca.crt: {}", STANDARD.encode("PEM of an authority"))),
            "{secrets}"
        );
        let values: Value = serde_yaml::from_str(&secured_values(&instance).unwrap()).unwrap();
        for pointer in [
            "/kafka/tls/caSecret",
            "/kafka/sasl/adminSecret",
            "/kafka/sasl/podSecret",
            "/clickhouse/caSecret",
            "/redis/secret",
            "/redis/tls/caSecret",
        ] {
            let name = values.pointer(pointer).and_then(Value::as_str).unwrap();
            assert!(
                secrets.contains(&format!("name: {name},")),
                "{pointer}: {name} is not in\n{secrets}"
            );
        }
        assert_eq!(secrets.matches("password: \"p4ss\"").count(), 3);
    }

    #[test]
    fn both_users_have_a_secret() {
        let user = |name: &str| Credentials {
            user: name.into(),
            password: format!("pw-of-{name}"),
        };
        let text = secrets(&user("a"), &user("c"));
        assert!(!text.contains("{{"), "{text}");
        assert_eq!(text.matches("kind: Secret").count(), 2);
        assert!(
            text.contains("password: \"pw-of-c\"") && text.contains("username: \"a\""),
            "{text}"
        );
    }
}
