//! Labels and annotations of what the operator makes.

use std::collections::BTreeMap;

/// Names the pipeline that an object belongs to.
pub const PIPELINE: &str = "penstock.dev/pipeline";
/// Annotation of a pod template: changes when its pods must restart.
pub const CONFIG_HASH: &str = "penstock.dev/config-hash";
/// Annotation of a Secret of pods: the addresses of what it is for.
pub const SERVICES: &str = "penstock.dev/services";
/// Annotation of a running pod: changes when its list of Apps or its Secret has changed, which makes kubelet renew the
/// mounts.
pub const FILES_REVISION: &str = "penstock.dev/files-revision";
/// Annotation of an ingest pod with a spool: its durability. What its spool may hold is judged by what it runs, which is
/// not always what the spec says by now.
pub const DURABILITY: &str = "penstock.dev/durability";
/// Its value where every event goes by the spool.
pub const SPOOLED: &str = "Spooled";
/// Everything that the operator makes.
pub const MANAGED: &str = "app.kubernetes.io/managed-by=penstock-operator";

/// The labels of one part of an instance. None of them changes with the operator's version: pods would restart.
pub fn of(instance: &str, component: &str) -> BTreeMap<String, String> {
    [
        ("app.kubernetes.io/name", "penstock"),
        ("app.kubernetes.io/instance", instance),
        ("app.kubernetes.io/component", component),
        ("app.kubernetes.io/managed-by", "penstock-operator"),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

/// What selects the pods of one part. Immutable in a Deployment, so it is as small as can be.
pub fn selector(instance: &str, component: &str) -> BTreeMap<String, String> {
    let mut labels = of(instance, component);
    labels.remove("app.kubernetes.io/managed-by");
    labels
}

/// The pipeline that labels of the operator name.
pub fn pipeline(labels: &BTreeMap<String, String>) -> Option<String> {
    let (key, value) = MANAGED.split_once('=')?;
    labels.get(key).filter(|managed| *managed == value)?;
    labels.get(PIPELINE).cloned()
}
