//! The pods of a role: restricted Pod Security, probes, and a rolling update that loses no request.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, HTTPGetAction, LocalObjectReference,
    PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile,
    SecretVolumeSource, SecurityContext, TopologySpreadConstraint, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::ObjectMeta;
use penstock_crds::pipeline::{Requested, Resources};

use super::{Role, apps_name, parts};
use crate::controllers::labels;
use crate::controllers::pipeline::validate::{Validated, paths};

/// Stopping takes up to 30 s by itself; the rest is for what comes between.
const GRACE: i64 = 40;
const USER: i64 = 65532;

/// The Deployment. `hash`: of all that a pod reads only at its start.
pub(super) fn deployment(pipeline: &Validated, role: Role, hash: &str, credentials: bool) -> Deployment {
    let name = role.object(&pipeline.subject.name);
    let metadata = parts::metadata(pipeline, role.as_str(), name.clone());
    let (replicas, resources) = match role {
        Role::Ingest => (pipeline.ingest.replicas, &pipeline.ingest.resources),
        Role::Consume => (pipeline.consume.replicas, &pipeline.consume.resources),
    };
    let (volumes, mounts) = files(pipeline, role, credentials);
    let container = Container {
        name: role.as_str().into(),
        image: Some(pipeline.image.clone()),
        image_pull_policy: Some(pipeline.image_pull_policy.clone()),
        command: Some(vec!["/usr/bin/penstock-dataplane".into()]),
        args: Some(vec![
            role.as_str().into(),
            "--config".into(),
            paths::CONFIG.into(),
        ]),
        ports: Some(ports(role)),
        resources: Some(requirements(resources)),
        // A minute to start, as Kafka may be slow to answer; from then on the others decide.
        startup_probe: Some(probe("/livez", 1, 60)),
        liveness_probe: Some(probe("/livez", 10, 3)),
        readiness_probe: Some(probe("/readyz", 2, 2)),
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
    };
    let pod = PodSpec {
        service_account_name: Some(name),
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
        topology_spread_constraints: Some(vec![TopologySpreadConstraint {
            max_skew: 1,
            topology_key: "kubernetes.io/hostname".into(),
            when_unsatisfiable: "ScheduleAnyway".into(),
            label_selector: Some(parts::selector(pipeline, role)),
            ..TopologySpreadConstraint::default()
        }]),
        containers: vec![container],
        volumes: Some(volumes),
        ..PodSpec::default()
    };
    Deployment {
        spec: Some(DeploymentSpec {
            replicas: Some(replicas),
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
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: metadata.labels.clone(),
                    annotations: Some([(labels::CONFIG_HASH.to_owned(), hash.to_owned())].into()),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod),
            },
            ..DeploymentSpec::default()
        }),
        metadata,
        ..Deployment::default()
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

/// What the pod is given to read. The list of Apps is mounted as a whole volume, because kubelet never renews a
/// `subPath`; the configuration is one, because a change of it is a new pod.
fn files(pipeline: &Validated, role: Role, credentials: bool) -> (Vec<Volume>, Vec<VolumeMount>) {
    let name = &pipeline.subject.name;
    let config_map = |volume: &str, object: String| Volume {
        name: volume.into(),
        config_map: Some(ConfigMapVolumeSource {
            name: object,
            default_mode: Some(0o444),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    };
    let secret_volume = |volume: &str, secret: String| Volume {
        name: volume.into(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret),
            default_mode: Some(0o440),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    };
    let mount = |volume: &str, path: &str, sub_path: Option<&str>| VolumeMount {
        name: volume.into(),
        mount_path: path.into(),
        sub_path: sub_path.map(str::to_owned),
        read_only: Some(true),
        ..VolumeMount::default()
    };
    let mut volumes = vec![config_map("config", role.object(name))];
    let mut mounts = vec![mount("config", paths::CONFIG, Some("config.yaml"))];
    match role {
        Role::Ingest => {
            volumes.push(config_map("apps", apps_name(name)));
            mounts.push(mount("apps", paths::APPS, None));
            if let Some(secret) = &pipeline.tls_secret {
                volumes.push(secret_volume("tls", secret.clone()));
                // Whole, so that kubelet renews it.
                mounts.push(mount("tls", paths::TLS, None));
            }
        }
        Role::Consume if credentials => {
            volumes.push(secret_volume("clickhouse", Role::Consume.object(name)));
            mounts.push(mount("clickhouse", paths::CLICKHOUSE, None));
        }
        Role::Consume => {}
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
