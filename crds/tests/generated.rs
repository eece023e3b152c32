//! The committed YAML is what the types say.

use std::path::Path;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use penstock_crds::generate;

#[test]
fn committed_definitions_equal_the_types() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("yaml");
    let mut expected: Vec<String> = Vec::new();
    for (name, yaml) in generate::files() {
        let committed = std::fs::read_to_string(folder.join(&name)).unwrap_or_default();
        assert!(
            committed == yaml,
            "crds/yaml/{name} is stale: run `cargo run -p penstock-crds`"
        );
        let chart = folder
            .join("../../charts/penstock/charts/penstock-crds/files")
            .join(&name);
        let chart = std::fs::read_to_string(chart).unwrap_or_default();
        assert!(
            chart == yaml,
            "the chart's {name} is stale: run `cargo run -p penstock-crds`"
        );
        expected.push(name);
    }
    let mut found: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected, "crds/yaml holds a file that no type makes");
}

#[test]
fn yaml_reads_back_as_the_definition() {
    for ((name, yaml), definition) in generate::files().into_iter().zip(generate::definitions()) {
        let read: CustomResourceDefinition = serde_yaml::from_str(&yaml).unwrap();
        assert!(
            read == definition,
            "{name} loses something on the way through YAML"
        );
    }
}

/// Walks every schema and reports those for which `bad` says why.
fn walk(path: &str, schema: &serde_json::Value, bad: &mut Vec<String>) {
    let kind = schema["type"].as_str().unwrap_or_default();
    let said = |member: &str| !schema[member].is_null();
    match kind {
        "string" if !said("maxLength") && !said("enum") && schema["format"] != "date-time" => {
            bad.push(format!("{path}: a string without maxLength"));
        }
        "array" if !said("maxItems") => bad.push(format!("{path}: a list without maxItems")),
        "object" if said("additionalProperties") && !said("maxProperties") => {
            bad.push(format!("{path}: a map without maxProperties"));
        }
        "integer" if schema["format"].as_str().is_some_and(|f| f.starts_with('u')) => {
            bad.push(format!("{path}: an unsigned format"));
        }
        _ => {}
    }
    if !said("description") && path.contains('.') && !path.ends_with("[]") {
        bad.push(format!("{path}: no description"));
    }
    if said("nullable") {
        bad.push(format!("{path}: nullable"));
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(&format!("{path}.{name}"), property, bad);
    }
    if said("items") {
        walk(&format!("{path}[]"), &schema["items"], bad);
    }
}

#[test]
fn every_field_is_bounded_and_described() {
    for definition in generate::definitions() {
        let definition = serde_json::to_value(definition).unwrap();
        let root = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let kind = definition["spec"]["names"]["kind"].as_str().unwrap();
        let mut bad = Vec::new();
        for part in ["spec", "status"] {
            walk(&format!("{kind}.{part}"), &root["properties"][part], &mut bad);
        }
        assert!(bad.is_empty(), "{bad:#?}");
        assert_eq!(root["properties"]["status"]["default"]["observedGeneration"], -1);
    }
}

#[test]
fn committed_reference_equals_the_types() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/resources.md");
    let committed = std::fs::read_to_string(page).unwrap_or_default();
    assert!(
        committed == penstock_crds::reference::page(),
        "docs/resources.md is stale: run `cargo run -p penstock-crds`"
    );
}
