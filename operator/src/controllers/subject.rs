//! Which object a reconcile is about.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};

/// The identity of an object, taken once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub generation: i64,
    pub paused: bool,
    pub deleting: bool,
}

impl Subject {
    pub fn of<K: Resource>(object: &K) -> Self {
        Self {
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            uid: object.uid().unwrap_or_default(),
            generation: object.meta().generation.unwrap_or_default(),
            paused: annotated(object, penstock_crds::PAUSED),
            deleting: object.meta().deletion_timestamp.is_some(),
        }
    }

    /// `namespace/name`.
    pub fn path(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// A reference that makes this object the owner of what it needs. It does not block the owner's deletion, which
    /// would take a right on finalizers that the operator does not need.
    pub fn owner<K: Resource<DynamicType = ()>>(&self) -> OwnerReference {
        OwnerReference {
            api_version: K::api_version(&()).into_owned(),
            kind: K::kind(&()).into_owned(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            controller: Some(true),
            block_owner_deletion: None,
        }
    }
}

/// Whether an annotation says `true`.
pub fn annotated<K: Resource>(object: &K, annotation: &str) -> bool {
    object
        .annotations()
        .get(annotation)
        .is_some_and(|value| value == "true")
}

/// The name of the owner of that kind that controls an object.
pub fn controller<K: Resource<DynamicType = ()>>(object: &impl Resource) -> Option<&OwnerReference> {
    let references = object.meta().owner_references.as_deref()?;
    references.iter().find(|r| {
        r.controller == Some(true) && r.kind == K::kind(&()) && r.api_version == K::api_version(&())
    })
}
