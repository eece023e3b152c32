//! From the types to the YAML of the definitions.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use crate::{App, IngestionPipeline};

/// The observedGeneration of an object nobody has looked at: unequal to every generation, so that tools which compare
/// the two see "in progress" from birth on.
pub(crate) const fn never_observed() -> i64 {
    -1
}

/// Every definition, as it is installed.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    [App::crd(), IngestionPipeline::crd()]
        .into_iter()
        .map(finished)
        .collect()
}

/// Definitions as files: name and content.
pub fn files() -> Vec<(String, String)> {
    definitions()
        .into_iter()
        .map(|definition| {
            let name = definition.metadata.name.clone().unwrap_or_default();
            // A definition is plain data: maps, lists and strings.
            let yaml = serde_yaml::to_string(&definition).expect("a definition is YAML");
            let head = "# Generated from crds/src by `cargo run -p penstock-crds`. Change it there.\n";
            (format!("{name}.yaml"), format!("{head}{yaml}"))
        })
        .collect()
}

fn finished(mut definition: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut definition.spec.versions {
        let Some(root) = version
            .schema
            .as_mut()
            .and_then(|s| s.open_api_v3_schema.as_mut())
        else {
            continue;
        };
        tidy(root);
        if let Some(status) = root.properties.as_mut().and_then(|p| p.get_mut("status")) {
            status.default = Some(JSON(serde_json::json!({"observedGeneration": never_observed()})));
        }
    }
    definition
}

/// Removes what says nothing: `nullable` (without it the API server reads null as absent and then defaults, which is
/// what a person means by it), titles, and formats that Kubernetes does not know.
fn tidy(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    schema.title = None;
    // Enum members with a null come with the nullable variant of an optional enum.
    if let Some(values) = schema.enum_.as_mut() {
        values.retain(|value| !value.0.is_null());
    }
    for property in schema.properties.iter_mut().flat_map(|p| p.values_mut()) {
        tidy(property);
    }
    match schema.items.as_mut() {
        Some(JSONSchemaPropsOrArray::Schema(items)) => tidy(items),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(tidy),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = schema.additional_properties.as_mut() {
        tidy(values);
    }
}
