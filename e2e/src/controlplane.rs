//! etcd, the API server, the controller manager and the scheduler: how each is run and when it is ready.

use std::process::{Command, Stdio};

use crate::daemon::Daemon;
use crate::instance::{API_PORT, CLUSTER_CIDR, Instance, NODE_ADDRESS, SERVICE_CIDR};
use crate::probe;

const LOCALHOST: [u8; 4] = [127, 0, 0, 1];
const ETCD_CLIENTS: &str = "http://127.0.0.1:2379";
const ETCD_PEERS: &str = "http://127.0.0.1:2380";
const CONTROLLER_MANAGER_PORT: u16 = 10257;
const SCHEDULER_PORT: u16 = 10259;

pub(crate) fn etcd(instance: &Instance) -> Daemon {
    // Without fsync a lost power supply may lose the cluster; `kit down` and `kit up` bring a new one.
    Daemon::new(instance.cache().kubernetes().join("etcd"))
        .flag("name", "node")
        .flag("data-dir", instance.data_dir("etcd"))
        .flag("listen-client-urls", ETCD_CLIENTS)
        .flag("advertise-client-urls", ETCD_CLIENTS)
        .flag("listen-peer-urls", ETCD_PEERS)
        .flag("initial-advertise-peer-urls", ETCD_PEERS)
        .flag("initial-cluster", format!("node={ETCD_PEERS}"))
        .flag("log-level", "warn")
        .argument("--unsafe-no-fsync")
}

pub(crate) fn etcd_is_ready() -> bool {
    probe::http_ok(&format!("{ETCD_CLIENTS}/health"))
}

pub(crate) fn api_server(instance: &Instance) -> Daemon {
    let pki = instance.pki_dir();
    let directory = instance.data_dir("kube-apiserver");
    let policy = directory.join("audit-policy.yaml");
    Daemon::new(instance.cache().kubernetes().join("kube-apiserver"))
        .directory(&directory)
        .file(&policy, include_str!("../manifests/audit-policy.yaml"))
        .flag("etcd-servers", ETCD_CLIENTS)
        .flag("bind-address", "0.0.0.0")
        .flag("secure-port", API_PORT.to_string())
        .flag("advertise-address", NODE_ADDRESS.to_string())
        // The node's name resolves nowhere, so logs and exec go to its address.
        .flag("kubelet-preferred-address-types", "InternalIP")
        .flag("service-cluster-ip-range", SERVICE_CIDR)
        .flag("authorization-mode", "Node,RBAC")
        .flag("enable-admission-plugins", "NodeRestriction")
        .flag("allow-privileged", "true")
        .flag("client-ca-file", pki.join("ca.crt"))
        .flag("tls-cert-file", pki.join("kube-apiserver.crt"))
        .flag("tls-private-key-file", pki.join("kube-apiserver.key"))
        .flag("kubelet-certificate-authority", pki.join("ca.crt"))
        .flag(
            "kubelet-client-certificate",
            pki.join("kube-apiserver-kubelet-client.crt"),
        )
        .flag(
            "kubelet-client-key",
            pki.join("kube-apiserver-kubelet-client.key"),
        )
        .flag(
            "service-account-issuer",
            "https://kubernetes.default.svc.cluster.local",
        )
        .flag("service-account-key-file", pki.join("service-account.pub"))
        .flag(
            "service-account-signing-key-file",
            pki.join("service-account.key"),
        )
        .flag("audit-policy-file", &policy)
        .flag("audit-log-path", instance.audit_log())
        .flag("audit-log-maxsize", "200")
        .flag("audit-log-maxbackup", "2")
        .flag("cert-dir", directory)
}

/// Asked by kubectl, which has the certificates at hand.
pub(crate) fn api_server_is_ready(instance: &Instance) -> bool {
    probe::accepts((NODE_ADDRESS, API_PORT))
        && instance
            .kubectl()
            .args(["get", "--raw", "/readyz", "--request-timeout=2s"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
}

pub(crate) fn controller_manager(instance: &Instance) -> Daemon {
    let pki = instance.pki_dir();
    let kubeconfig = instance.kubeconfig_of("kube-controller-manager");
    Daemon::new(instance.cache().kubernetes().join("kube-controller-manager"))
        .flag("kubeconfig", &kubeconfig)
        .flag("authentication-kubeconfig", &kubeconfig)
        .flag("authorization-kubeconfig", &kubeconfig)
        .flag("bind-address", "127.0.0.1")
        .flag("leader-elect", "false")
        .flag("allocate-node-cidrs", "true")
        .flag("cluster-cidr", CLUSTER_CIDR)
        .flag("service-cluster-ip-range", SERVICE_CIDR)
        .flag("use-service-account-credentials", "true")
        .flag(
            "service-account-private-key-file",
            pki.join("service-account.key"),
        )
        .flag("root-ca-file", pki.join("ca.crt"))
        .flag("cert-dir", instance.data_dir("kube-controller-manager"))
        .flag(
            "flex-volume-plugin-dir",
            instance
                .data_dir("kube-controller-manager")
                .join("volume-plugins"),
        )
}

pub(crate) fn controller_manager_is_ready() -> bool {
    probe::accepts((LOCALHOST, CONTROLLER_MANAGER_PORT))
}

pub(crate) fn scheduler(instance: &Instance) -> Daemon {
    let kubeconfig = instance.kubeconfig_of("kube-scheduler");
    Daemon::new(instance.cache().kubernetes().join("kube-scheduler"))
        .flag("kubeconfig", &kubeconfig)
        .flag("authentication-kubeconfig", &kubeconfig)
        .flag("authorization-kubeconfig", &kubeconfig)
        .flag("bind-address", "127.0.0.1")
        .flag("leader-elect", "false")
        .flag("cert-dir", instance.data_dir("kube-scheduler"))
}

pub(crate) fn scheduler_is_ready() -> bool {
    probe::accepts((LOCALHOST, SCHEDULER_PORT))
}

/// kubectl and helm keep what kinds there are for hours, under the server's address. All instances have the same address,
/// and tests add and remove kinds; asking again takes as long as reading a file.
pub(crate) const NO_DISCOVERY_CACHE: (&str, &str) = ("KUBECACHEDIR", "/dev/null");

impl Instance {
    /// kubectl with the administrator's rights. It reaches the API server only from inside the instance's network:
    /// see [`Instance::enter`] and [`Instance::kubectl_output`].
    pub fn kubectl(&self) -> Command {
        let mut command = Command::new(self.cache().kubernetes().join("kubectl"));
        command.env("KUBECONFIG", self.kubeconfig());
        command.env(NO_DISCOVERY_CACHE.0, NO_DISCOVERY_CACHE.1);
        command
    }

    /// Runs kubectl inside the instance's network and gives back what it printed.
    pub fn kubectl_output(&self, arguments: &[&str]) -> crate::error::Result<String> {
        self.inside(|| crate::run::run(self.kubectl().args(arguments)))
    }
}
