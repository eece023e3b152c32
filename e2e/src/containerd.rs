//! containerd with its own root, state and socket, and the CNI network of the pods.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::file;
use crate::image::PAUSE_IMAGE;
use crate::instance::{Instance, POD_CIDR};

/// Where distributions put the CNI plugins.
const CNI_PLUGINS: [&str; 4] = [
    "/usr/lib/cni",
    "/opt/cni/bin",
    "/usr/libexec/cni",
    "/usr/lib64/cni",
];

pub(crate) fn daemon(instance: &Instance) -> Daemon {
    let directory = instance.data_dir("containerd");
    let configuration = directory.join("config.toml");
    let plugins = cni_plugins().unwrap_or_else(|_| PathBuf::from(CNI_PLUGINS[0]));
    Daemon::new("containerd")
        .directory(directory.join("root"))
        .file(&configuration, config_toml(instance, &plugins))
        .file(directory.join("cni/penstock.conflist"), conflist(instance))
        .argument("--config")
        .argument(configuration)
}

pub(crate) fn is_ready(instance: &Instance) -> bool {
    instance
        .ctr()
        .arg("version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The folder of CNI plugins on this machine.
pub(crate) fn cni_plugins() -> Result<PathBuf> {
    let found = CNI_PLUGINS
        .iter()
        .map(Path::new)
        .find(|path| path.join("ptp").exists());
    found
        .map(Path::to_path_buf)
        .ok_or_else(|| Error::new(format!("no CNI plugins in {}", CNI_PLUGINS.join(", "))))
}

fn config_toml(instance: &Instance, plugins: &Path) -> String {
    let directory = instance.data_dir("containerd");
    file::render(
        include_str!("../manifests/containerd.toml"),
        &[
            ("root", &directory.join("root").display().to_string()),
            (
                "state",
                &instance.run_dir().join("containerd").display().to_string(),
            ),
            ("socket", &instance.containerd_socket().display().to_string()),
            ("runc", &instance.run_dir().join("runc").display().to_string()),
            ("opt", &directory.join("opt").display().to_string()),
            ("pause", PAUSE_IMAGE),
            ("cni_plugins", &plugins.display().to_string()),
            ("cni_conf", &directory.join("cni").display().to_string()),
        ],
    )
}

fn conflist(instance: &Instance) -> String {
    file::render(
        include_str!("../manifests/cni.conflist.json"),
        &[
            ("name", &instance.scope()),
            ("subnet", POD_CIDR),
            (
                "data",
                &instance.run_dir().join("cni-addresses").display().to_string(),
            ),
        ],
    )
}

impl Instance {
    /// containerd's own client, at the instance's socket and the namespace that kubelet uses.
    pub fn ctr(&self) -> Command {
        let mut command = Command::new("ctr");
        command
            .arg("--address")
            .arg(self.containerd_socket())
            .args(["--namespace", "k8s.io"]);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_folder_is_the_instances_own() {
        let instance = Instance::below(Path::new("/state"));
        let text = config_toml(&instance, Path::new("/usr/lib/cni"));
        assert!(!text.contains("{{"), "{text}");
        for line in [
            "root = \"/state/x/containerd/root\"",
            "state = \"/state/x/run/containerd\"",
            "  address = \"/state/x/run/containerd.sock\"",
            "    netns_mounts_under_state_dir = true",
            "    restrict_oom_score_adj = true",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        let network: serde_json::Value = serde_json::from_str(&conflist(&instance)).unwrap();
        assert_eq!(network["name"], "penstock-x");
        assert_eq!(network["plugins"][0]["ipam"]["ranges"][0][0]["subnet"], POD_CIDR);
    }
}
