//! The one node: kubelet and kube-proxy.

use crate::daemon::Daemon;
use crate::file;
use crate::instance::{CLUSTER_CIDR, DNS_ADDRESS, Instance, NODE_ADDRESS};
use crate::probe;

const KUBELET_HEALTH: &str = "http://127.0.0.1:10248/healthz";
const PROXY_HEALTH: &str = "http://127.0.0.1:10256/healthz";

pub(crate) fn kubelet(instance: &Instance) -> Daemon {
    let directory = instance.data_dir("kubelet");
    let configuration = directory.join("config.yaml");
    Daemon::new(instance.cache().kubernetes().join("kubelet"))
        .directory(directory.join("root"))
        .directory(instance.pod_log_dir())
        .file(&configuration, kubelet_config(instance))
        .flag("config", configuration)
        .flag("kubeconfig", instance.kubeconfig_of("kubelet"))
        .flag("node-ip", NODE_ADDRESS.to_string())
        .flag("hostname-override", instance.scope())
        .flag("root-dir", directory.join("root"))
        .flag("cert-dir", directory.join("pki"))
        .flag("v", "1")
}

pub(crate) fn kubelet_is_ready() -> bool {
    probe::http_ok(KUBELET_HEALTH)
}

fn kubelet_config(instance: &Instance) -> String {
    let directory = instance.data_dir("kubelet");
    file::render(
        include_str!("../manifests/kubelet.yaml"),
        &[
            ("pki", &instance.pki_dir().display().to_string()),
            ("socket", &instance.containerd_socket().display().to_string()),
            ("dns", &DNS_ADDRESS.to_string()),
            ("cgroup", &format!("/{}", instance.scope())),
            ("logs", &instance.pod_log_dir().display().to_string()),
            ("plugins", &directory.join("volume-plugins").display().to_string()),
        ],
    )
}

pub(crate) fn proxy(instance: &Instance) -> Daemon {
    // The conntrack limits are sysctls of the whole machine, and read-only in some places: leave them alone.
    Daemon::new(instance.cache().kubernetes().join("kube-proxy"))
        .flag("kubeconfig", instance.kubeconfig_of("kube-proxy"))
        .flag("hostname-override", instance.scope())
        .flag("proxy-mode", "nftables")
        .flag("cluster-cidr", CLUSTER_CIDR)
        .flag("conntrack-max-per-core", "0")
        .flag("conntrack-min", "0")
        .flag("conntrack-tcp-timeout-established", "0")
        .flag("conntrack-tcp-timeout-close-wait", "0")
}

pub(crate) fn proxy_is_ready() -> bool {
    probe::http_ok(PROXY_HEALTH)
}

impl Instance {
    /// Where kubelet writes what containers print.
    pub fn pod_log_dir(&self) -> std::path::PathBuf {
        self.log_dir().join("pods")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;
    use std::path::Path;

    #[test]
    fn kubelet_keeps_to_its_own_cgroup_and_folders() {
        let instance = Instance::at(
            "x",
            Path::new("/state"),
            Cache::at("/cache".into()),
            "/repo".into(),
        )
        .unwrap();
        let text = kubelet_config(&instance);
        assert!(!text.contains("{{"), "{text}");
        for line in [
            "cgroupRoot: /penstock-x",
            "podLogsDir: /state/x/logs/pods",
            "clusterDNS: [10.96.0.10]",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        let arguments = format!("{:?}", kubelet(&instance).arguments);
        assert!(
            arguments.contains("--root-dir=/state/x/kubelet/root"),
            "{arguments}"
        );
    }
}
