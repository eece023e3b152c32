//! Everything but pods: small objects, one function each.

use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount, ServicePort, ServiceSpec};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::ObjectMeta;
use penstock_crds::IngestionPipeline;

use super::{Role, spool_config_name};
use crate::controllers::labels;
use crate::controllers::pipeline::validate::Validated;

/// Metadata of an object of one part.
pub(super) fn metadata(pipeline: &Validated, component: &str, name: String) -> ObjectMeta {
    let subject = &pipeline.subject;
    let mut labels = labels::of(&subject.name, component);
    labels.insert(labels::PIPELINE.into(), subject.name.clone());
    ObjectMeta {
        name: Some(name),
        namespace: Some(subject.namespace.clone()),
        labels: Some(labels),
        owner_references: Some(vec![subject.owner::<IngestionPipeline>()]),
        ..ObjectMeta::default()
    }
}

fn named(pipeline: &Validated, role: Role) -> ObjectMeta {
    metadata(pipeline, role.as_str(), role.object(&pipeline.subject.name))
}

/// What selects a role's pods.
pub(super) fn selector(pipeline: &Validated, role: Role) -> LabelSelector {
    LabelSelector {
        match_labels: Some(labels::selector(&pipeline.subject.name, role.as_str())),
        ..LabelSelector::default()
    }
}

/// An account of its own, without rights and without a token in the pod: the data plane does not talk to the API.
pub(super) fn account(pipeline: &Validated, role: Role) -> ServiceAccount {
    ServiceAccount {
        metadata: named(pipeline, role),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

/// Name of the ConfigMap that a role's pods are configured by.
pub(super) fn config_name(pipeline: &Validated, role: Role) -> String {
    let name = &pipeline.subject.name;
    match role {
        Role::Ingest if pipeline.volume.is_some() => spool_config_name(name),
        Role::Ingest | Role::Consume => role.object(name),
    }
}

/// One file.
pub(super) fn config_map(
    pipeline: &Validated,
    component: &str,
    name: String,
    file: &str,
    content: String,
) -> ConfigMap {
    ConfigMap {
        metadata: metadata(pipeline, component, name),
        data: Some([(file.to_owned(), content)].into()),
        ..ConfigMap::default()
    }
}

/// One pod at a time. With a single replica a drain still goes on; its rows wait in the topic, its requests for the
/// pod's successor.
pub(super) fn budget(pipeline: &Validated, role: Role) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: named(pipeline, role),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(selector(pipeline, role)),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".into()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}

/// Where SDKs send events.
pub(super) fn service(pipeline: &Validated) -> Service {
    Service {
        metadata: named(pipeline, Role::Ingest),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".into()),
            selector: Some(labels::selector(&pipeline.subject.name, Role::Ingest.as_str())),
            ports: Some(vec![ServicePort {
                name: Some("http".into()),
                port: 8080,
                protocol: Some("TCP".into()),
                // What is in front goes by the name, unless it is told.
                app_protocol: pipeline.tls_secret.as_ref().map(|_| "https".into()),
                target_port: Some(IntOrString::String("http".into())),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}
