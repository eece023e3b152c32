//! The pods of a pipeline as processes of this machine, so that a test can kill one where it stands.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::Trial;
use crate::error::{Context, Error, Result};
use crate::instance::Instance;
use crate::process::{Identity, command_line};

/// A running pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub name: String,
    pub uid: String,
    pub restarts: u64,
    pub ready: bool,
}

impl Trial<'_> {
    /// The pods of a component (`ingest`, `consume`) that are not on their way out.
    pub fn pods(&self, component: &str) -> Result<Vec<Pod>> {
        list(
            self.kit,
            &self.namespace,
            &format!("app.kubernetes.io/component={component}"),
        )
    }

    /// What a pod says of itself in `/metrics`.
    pub fn metrics(&self, pod: &Pod) -> Result<String> {
        let path = format!(
            "/api/v1/namespaces/{}/pods/{}:9090/proxy/metrics",
            self.namespace, pod.name
        );
        self.kit.kubectl_output(&["get", "--raw", &path])
    }

    /// Kills one process of a component with SIGKILL; the kubelet starts it again.
    pub fn kill(&self, component: &str) -> Result<String> {
        let pods = self.pods(component)?;
        let pod = pods
            .iter()
            .find(|pod| pod.ready)
            .ok_or_else(|| Error::new(format!("no {component} pod is ready")))?;
        kill(pod, "penstock-dataplane")?;
        Ok(pod.name.clone())
    }
}

/// Kills the leading operator's process with SIGKILL.
pub fn kill_operator(kit: &Instance) -> Result<String> {
    let pods = list(kit, crate::penstock::NAMESPACE, "app.kubernetes.io/name=penstock")?;
    let pod = pods.first().ok_or_else(|| Error::new("no operator runs"))?;
    kill(pod, "penstock-operator")?;
    Ok(pod.name.clone())
}

fn list(kit: &Instance, namespace: &str, selector: &str) -> Result<Vec<Pod>> {
    let text = kit.kubectl_output(&["-n", namespace, "get", "pods", "-l", selector, "-o", "json"])?;
    let list: Value = serde_json::from_str(&text).doing("reading the list of pods")?;
    let items = list["items"].as_array().cloned().unwrap_or_default();
    Ok(items
        .iter()
        .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .map(pod)
        .collect())
}

fn pod(object: &Value) -> Pod {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let containers = object["status"]["containerStatuses"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    Pod {
        name: text(&object["metadata"]["name"]),
        uid: text(&object["metadata"]["uid"]),
        restarts: containers.iter().filter_map(|c| c["restartCount"].as_u64()).sum(),
        ready: !containers.is_empty() && containers.iter().all(|c| c["ready"] == true),
    }
}

/// A pod's processes have its uid in the names of their cgroups.
fn kill(pod: &Pod, program: &str) -> Result<()> {
    let mark = format!("pod{}", pod.uid);
    let processes = fs::read_dir("/proc").doing("listing processes")?;
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let mut killed = 0;
    for pid in pids {
        let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        if cgroups.contains(&mark) && command_line(pid).contains(program) {
            Identity::of(pid)?.signal(Signal::SIGKILL)?;
            killed += 1;
        }
    }
    if killed == 0 {
        return Err(Error::new(format!(
            "the pod {} has no process `{program}`",
            pod.name
        )));
    }
    Ok(())
}
