//! Penstock itself in the cluster: its image, and its chart with the addresses of this instance.

use std::path::{Path, PathBuf};

use crate::clickhouse::Credentials;
use crate::error::{Context, Error, Result};
use crate::fetch;
use crate::file;
use crate::image::{self, Image, PENSTOCK_PACKAGES, PENSTOCK_PROGRAMS, PENSTOCK_REPOSITORY};
use crate::instance::Instance;
use crate::progress::{Outcome, Progress};
use crate::run::run;

pub const NAMESPACE: &str = "penstock-system";
const RELEASE: &str = "penstock";
const ADMIN_SECRET: &str = "clickhouse-admin";
const CONSUMER_SECRET: &str = "clickhouse-consumer";
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
        Ok(Outcome::done(format!(
            "release `{RELEASE}` in namespace {NAMESPACE}"
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
    let values_file = directory.join("values.yaml");
    let secrets = secrets(&users.admin, &users.consumer);
    file::write(&secrets_file, secrets.as_bytes(), 0o600)?;
    file::write(&values_file, values(instance, image)?.as_bytes(), 0o644)?;
    let chart = instance.repository().join("charts/penstock");
    instance.inside(|| {
        run(instance
            .kubectl()
            .args(["apply", "--server-side", "--field-manager=penstock-kit", "-f"])
            .arg(&secrets_file))?;
        let mut helm = instance.helm();
        helm.args(["upgrade", RELEASE])
            .arg(&chart)
            .args(["--install", "--namespace", NAMESPACE, "--values"]);
        helm.arg(&values_file).args(["--wait", PATIENCE]);
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
        text.push_str(&file::render(
            include_str!("../manifests/clickhouse-secret.yaml"),
            &[
                ("name", name),
                ("namespace", NAMESPACE),
                ("user", user),
                ("password", password),
            ],
        ));
    }
    text
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
    use super::*;
    use crate::cache::Cache;

    #[test]
    fn the_chart_gets_the_instances_addresses() {
        let base = Path::new("/state");
        let instance = Instance::at("x", base, Cache::at("/cache".into()), "/repo".into()).unwrap();
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
