//! The pods of a role: restricted Pod Security, probes, and a rolling update that loses no request.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment,
    RollingUpdateStatefulSetStrategy, StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy,
    StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, HTTPGetAction, LocalObjectReference,
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PodSecurityContext, PodSpec, PodTemplateSpec, Probe,
    ResourceRequirements, SeccompProfile, SecretVolumeSource, SecurityContext, TopologySpreadConstraint,
    Volume, VolumeMount, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::ObjectMeta;
use penstock_crds::pipeline::{Requested, Resources, SpoolVolume};
use penstock_dataplane_config::Durability;

use super::{Role, SPOOL, apps_name, parts};
use crate::controllers::labels;
use crate::controllers::pipeline::validate::{Validated, paths};

/// Stopping takes up to 30 s by itself; the rest is for what comes between.
const GRACE: i64 = 40;
const USER: i64 = 65532;

/// The Deployment. `hash`: of all that a pod reads only at its start.
pub(super) fn deployment(pipeline: &Validated, role: Role, hash: &str, has_secret: bool) -> Deployment {
    Deployment {
        metadata: parts::metadata(pipeline, role.as_str(), role.object(&pipeline.subject.name)),
        spec: Some(DeploymentSpec {
            replicas: Some(replicas(pipeline, role)),
            revision_history_limit: Some(3),
            // Pods that do not come up are reported as such after two minutes.
            progress_deadline_seconds: Some(120),
            selector: parts::selector(pipeline, role),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(1)),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            template: template(pipeline, role, hash, has_secret),
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

/// The StatefulSet of ingest with a spool, as it is while nothing holds its rollout. Its pods find each other by nothing,
/// so it needs no Service of its own.
pub(super) fn stateful_set(
    pipeline: &Validated,
    volume: &SpoolVolume,
    hash: &str,
    has_secret: bool,
) -> StatefulSet {
    let role = Role::Ingest;
    StatefulSet {
        metadata: parts::metadata(pipeline, role.as_str(), role.object(&pipeline.subject.name)),
        spec: Some(StatefulSetSpec {
            replicas: Some(replicas(pipeline, role)),
            revision_history_limit: Some(3),
            pod_management_policy: Some("Parallel".into()),
            // What is on a claim is lost with it: the operator deletes those that it has drained.
            persistent_volume_claim_retention_policy: Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
                when_deleted: Some("Retain".into()),
                when_scaled: Some("Retain".into()),
            }),
            selector: parts::selector(pipeline, role),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(RollingUpdateStatefulSetStrategy {
                    partition: Some(0),
                    ..RollingUpdateStatefulSetStrategy::default()
                }),
            }),
            template: template(pipeline, role, hash, has_secret),
            volume_claim_templates: Some(vec![claim(pipeline, volume)]),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

/// The claim of each pod. A StatefulSet's claims cannot change, so nothing is in it that may.
fn claim(pipeline: &Validated, volume: &SpoolVolume) -> PersistentVolumeClaim {
    let made = parts::metadata(pipeline, Role::Ingest.as_str(), SPOOL.into());
    PersistentVolumeClaim {
        // Without an owner: it outlives the pipeline.
        metadata: ObjectMeta {
            name: made.name,
            labels: made.labels,
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".into()]),
            storage_class_name: volume.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_owned(), volume.size.clone())].into()),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}

const fn replicas(pipeline: &Validated, role: Role) -> i32 {
    match role {
        Role::Ingest => pipeline.ingest.replicas,
        Role::Consume => pipeline.consume.replicas,
    }
}

fn template(pipeline: &Validated, role: Role, hash: &str, has_secret: bool) -> PodTemplateSpec {
    let name = role.object(&pipeline.subject.name);
    let resources = match role {
        Role::Ingest => &pipeline.ingest.resources,
        Role::Consume => &pipeline.consume.resources,
    };
    let (volumes, mounts) = files(pipeline, role, has_secret);
    let container = Container {
        ports: Some(ports(role)),
        readiness_probe: Some(probe("/readyz", 2, 2)),
        ..container(pipeline, role.as_str(), resources, mounts)
    };
    let pod = PodSpec {
        topology_spread_constraints: Some(vec![TopologySpreadConstraint {
            max_skew: 1,
            topology_key: "kubernetes.io/hostname".into(),
            when_unsatisfiable: "ScheduleAnyway".into(),
            label_selector: Some(parts::selector(pipeline, role)),
            ..TopologySpreadConstraint::default()
        }]),
        ..pod(pipeline, name.clone(), container, volumes)
    };
    let mut annotations: BTreeMap<String, String> =
        [(labels::CONFIG_HASH.to_owned(), hash.to_owned())].into();
    if role == Role::Ingest && pipeline.volume.is_some() {
        let durability = match pipeline.ingest.config.durability {
            Durability::Replicated => "Replicated",
            Durability::Spooled => labels::SPOOLED,
            Durability::Memory => "Memory",
        };
        annotations.insert(labels::DURABILITY.into(), durability.into());
    }
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: parts::metadata(pipeline, role.as_str(), name).labels,
            annotations: Some(annotations),
            ..ObjectMeta::default()
        }),
        spec: Some(pod),
    }
}

/// A process of the data plane in the role `name`.
pub(super) fn container(
    pipeline: &Validated,
    name: &str,
    resources: &Resources,
    mounts: Vec<VolumeMount>,
) -> Container {
    Container {
        name: name.into(),
        image: Some(pipeline.image.clone()),
        image_pull_policy: Some(pipeline.image_pull_policy.clone()),
        command: Some(vec!["/usr/bin/penstock-dataplane".into()]),
        args: Some(vec![name.into(), "--config".into(), paths::CONFIG.into()]),
        resources: Some(requirements(resources)),
        // A minute to start, as Kafka may be slow to answer; from then on the others decide.
        startup_probe: Some(probe("/livez", 1, 60)),
        liveness_probe: Some(probe("/livez", 10, 3)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".into()]),
                ..Capabilities::default()
            }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

/// A pod of one process.
pub(super) fn pod(
    pipeline: &Validated,
    account: String,
    container: Container,
    volumes: Vec<Volume>,
) -> PodSpec {
    PodSpec {
        service_account_name: Some(account),
        image_pull_secrets: pull_secrets(&pipeline.image_pull_secrets),
        automount_service_account_token: Some(false),
        // A Service called `redis` would appear in the pod as REDIS_PORT.
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(GRACE),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".into(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        containers: vec![container],
        volumes: Some(volumes),
        ..PodSpec::default()
    }
}

/// `None` for none, or every pod would differ from one made before there were any.
fn pull_secrets(names: &[String]) -> Option<Vec<LocalObjectReference>> {
    let reference = |name: &String| LocalObjectReference { name: name.clone() };
    (!names.is_empty()).then(|| names.iter().map(reference).collect())
}

fn ports(role: Role) -> Vec<ContainerPort> {
    let port = |name: &str, number| ContainerPort {
        name: Some(name.into()),
        container_port: number,
        protocol: Some("TCP".into()),
        ..ContainerPort::default()
    };
    match role {
        Role::Ingest => vec![port("http", 8080), port("admin", 9090)],
        Role::Consume => vec![port("admin", 9090)],
    }
}

/// The port for probes and metrics, of a process that has no other.
pub(super) fn admin_port() -> Vec<ContainerPort> {
    ports(Role::Consume)
}

fn probe(path: &str, every: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::String("admin".into()),
            scheme: Some("HTTP".into()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(every),
        timeout_seconds: Some(2),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

/// A volume of one ConfigMap.
pub(super) fn config_map(volume: &str, object: String) -> Volume {
    Volume {
        name: volume.into(),
        config_map: Some(ConfigMapVolumeSource {
            name: object,
            default_mode: Some(0o444),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    }
}

/// The configuration, where the process looks for it.
pub(super) fn config_mount() -> VolumeMount {
    VolumeMount {
        sub_path: Some("config.yaml".into()),
        ..mount("config", paths::CONFIG)
    }
}

pub(super) fn mount(volume: &str, path: &str) -> VolumeMount {
    VolumeMount {
        name: volume.into(),
        mount_path: path.into(),
        read_only: Some(true),
        ..VolumeMount::default()
    }
}

/// A Secret's files. `optional`: a pod starts without it.
pub(super) fn secret_volume(volume: &str, secret: String, optional: bool) -> Volume {
    Volume {
        name: volume.into(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret),
            default_mode: Some(0o440),
            optional: optional.then_some(true),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }
}

/// Where the spool is.
pub(super) fn spool_mount() -> VolumeMount {
    VolumeMount {
        read_only: None,
        ..mount(SPOOL, paths::SPOOL)
    }
}

/// What the pod is given to read, and to write. The list of Apps is mounted as a whole volume, because kubelet never
/// renews a `subPath`; the configuration is one, because a change of it is a new pod.
fn files(pipeline: &Validated, role: Role, has_secret: bool) -> (Vec<Volume>, Vec<VolumeMount>) {
    let name = &pipeline.subject.name;
    let mut volumes = vec![config_map("config", parts::config_name(pipeline, role))];
    let mut mounts = vec![config_mount()];
    if role == Role::Ingest {
        volumes.push(config_map("apps", apps_name(name)));
        mounts.push(mount("apps", paths::APPS));
        if let Some(secret) = &pipeline.tls_secret {
            volumes.push(secret_volume("tls", secret.clone(), false));
            // Whole, so that kubelet renews it.
            mounts.push(mount("tls", paths::TLS));
        }
        if pipeline.volume.is_some() {
            mounts.push(spool_mount());
        }
    }
    if has_secret {
        volumes.push(secret_volume("connections", role.object(name), false));
        // Whole, so that kubelet renews it.
        mounts.push(mount("connections", paths::CONNECTIONS));
    }
    (volumes, mounts)
}

fn requirements(resources: &Resources) -> ResourceRequirements {
    let amounts = |requested: &Requested| -> Option<BTreeMap<String, Quantity>> {
        let amounts: BTreeMap<String, Quantity> = [("cpu", &requested.cpu), ("memory", &requested.memory)]
            .into_iter()
            .filter_map(|(name, amount)| Some((name.to_owned(), amount.clone()?)))
            .collect();
        (!amounts.is_empty()).then_some(amounts)
    };
    ResourceRequirements {
        requests: amounts(&resources.requests),
        limits: amounts(&resources.limits),
        ..ResourceRequirements::default()
    }
}
