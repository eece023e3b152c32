//! The Kubernetes cluster: its parts in the order they need each other, then what every cluster has in it.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::component::Component;
use crate::controlplane::NO_DISCOVERY_CACHE;
use crate::error::{Context, Error, Result};
use crate::file;
use crate::image;
use crate::instance::{DNS_ADDRESS, Instance};
use crate::probe;
use crate::progress::{Outcome, Progress};
use crate::run::run;
use crate::up::first_error;

/// PersistentVolumes on the node's disk, for claims of storage class `local`.
const VOLUMES: usize = 8;
const DNS_DEADLINE: Duration = Duration::from_secs(90);

pub(crate) fn start(instance: &Instance, progress: &Progress) -> Result<()> {
    instance.create_pki()?;
    std::thread::scope(|scope| {
        let runtime = scope.spawn(|| {
            instance.start_step(Component::Containerd, progress)?;
            progress.step("system images", None, || system_images(instance))
        });
        let control_plane = instance.branch(scope, progress, vec![Component::Etcd, Component::ApiServer]);
        first_error(vec![runtime, control_plane])
    })?;
    std::thread::scope(|scope| {
        let parts = [
            Component::ControllerManager,
            Component::Scheduler,
            Component::Kubelet,
            Component::Proxy,
        ];
        let mut branches: Vec<_> = parts
            .into_iter()
            .map(|c| instance.branch(scope, progress, vec![c]))
            .collect();
        branches.push(scope.spawn(|| progress.step("cluster objects", None, || objects(instance))));
        first_error(branches)
    })?;
    progress.step("node", Some(&instance.log_file("kubelet")), || {
        instance.wait(&["node", &instance.scope()], "condition=Ready", 90)?;
        Ok(Outcome::done("ready"))
    })?;
    progress.step("cluster DNS", None, || {
        wait_for_dns(instance)?;
        Ok(Outcome::done("answers"))
    })
}

/// Asks it, instead of believing what the cluster remembers of it from before a reboot.
fn wait_for_dns(instance: &Instance) -> Result<()> {
    let deadline = Instant::now() + DNS_DEADLINE;
    instance.inside(|| {
        while !probe::resolves((DNS_ADDRESS, 53), "kubernetes.default.svc.cluster.local") {
            if Instant::now() >= deadline {
                let pods = run(instance.kubectl().args(["-n", "kube-system", "describe", "pods"]))
                    .unwrap_or_default();
                let lines: Vec<&str> = pods.lines().collect();
                let tail = lines[lines.len().saturating_sub(12)..].join("\n    ");
                return Err(
                    Error::new(format!("cluster DNS does not answer\n    {tail}")).next(format!(
                        "`{}` tells more",
                        instance.command("exec -- kubectl -n kube-system logs deployment/coredns")
                    )),
                );
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    })
}

fn system_images(instance: &Instance) -> Result<Outcome<()>> {
    let mut imported = Vec::new();
    for image in [image::pause(instance)?, image::coredns(instance)?] {
        if instance.import(&image)? {
            imported.push(image.reference);
        }
    }
    Ok(Outcome::done(if imported.is_empty() {
        "there already".into()
    } else {
        imported.join(", ")
    }))
}

/// Cluster DNS, the storage class and its volumes.
fn objects(instance: &Instance) -> Result<Outcome<()>> {
    let directory = instance.data_dir("objects");
    let dns = file::render(
        include_str!("../manifests/coredns.yaml"),
        &[
            ("image", &image::coredns_reference()),
            ("address", &DNS_ADDRESS.to_string()),
        ],
    );
    file::write(&directory.join("coredns.yaml"), dns.as_bytes(), 0o644)?;
    let mut storage = include_str!("../manifests/storage-class.yaml").to_owned();
    for number in 1..=VOLUMES {
        let path = instance.data_dir("volumes").join(format!("local-{number}"));
        fs::create_dir_all(&path).doing(format_args!("creating {}", path.display()))?;
        storage.push_str(&file::render(
            include_str!("../manifests/volume.yaml"),
            &[
                ("number", &number.to_string()),
                ("path", &path.display().to_string()),
                ("node", &instance.scope()),
            ],
        ));
    }
    file::write(&directory.join("storage.yaml"), storage.as_bytes(), 0o644)?;
    // The API server makes it itself, a moment after it says that it is ready.
    instance.wait(&["namespace/kube-system"], "create", 30)?;
    instance.inside(|| {
        run(instance
            .kubectl()
            .args(["apply", "--server-side", "--field-manager=penstock-kit", "-f"])
            .arg(&directory))
    })?;
    Ok(Outcome::done("DNS, storage class `local`"))
}

impl Instance {
    /// `kubectl wait`, with what the cluster knows of the object when it is in vain.
    pub(crate) fn wait(&self, what: &[&str], condition: &str, seconds: u32) -> Result<()> {
        self.inside(|| {
            let waited = run(self
                .kubectl()
                .arg("wait")
                .args(what)
                .arg(format!("--for={condition}"))
                .arg(format!("--timeout={seconds}s")));
            waited.map(drop).map_err(|error| {
                let described = run(self.kubectl().arg("describe").args(what)).unwrap_or_default();
                let tail: Vec<&str> = described.lines().rev().take(12).collect();
                let tail: Vec<&str> = tail.into_iter().rev().collect();
                Error::new(format!("{}\n    {}", error.message(), tail.join("\n    "))).next(format!(
                    "look at it with `{}`",
                    self.command(&format!("exec -- kubectl describe {}", what.join(" ")))
                ))
            })
        })
    }

    /// Runs helm inside the instance's network.
    pub fn helm(&self) -> Command {
        let mut command = Command::new(self.cache().helm().join("helm"));
        command.env("KUBECONFIG", self.kubeconfig());
        command.env(NO_DISCOVERY_CACHE.0, NO_DISCOVERY_CACHE.1);
        for (variable, folder) in [
            ("HELM_CACHE_HOME", "cache"),
            ("HELM_CONFIG_HOME", "config"),
            ("HELM_DATA_HOME", "data"),
        ] {
            command.env(variable, self.data_dir("helm").join(folder));
        }
        command
    }
}
