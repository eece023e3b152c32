//! From the definitions to `docs/resources.md`: every field, rule, condition and reason, for people.
//!
//! The page says what the API server enforces, because both are made from the same schema.

use std::fmt::Write as _;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

use crate::conditions::{ConditionType, Reason};
use crate::generate;

/// The whole page.
pub fn page() -> String {
    let mut page = String::from(
        "<!-- Generated from crds/src by `cargo run -p penstock-crds`. Change it there. -->\n\
         # Resources\n\n\
         Group `penstock.dev`, version `v1alpha1`. `kubectl explain app.spec` shows the same text. A default is in the\n\
         schema, so `kubectl get -o yaml` shows what is in force. `required` in a group that may be left out: where the group\n\
         is given. A rule is checked by the API server: what breaks it is refused with its sentence.\n",
    );
    for definition in generate::definitions() {
        kind(&mut page, &definition);
    }
    page.push_str(OBJECTS);
    page.push_str(ANNOTATIONS);
    words(&mut page);
    page
}

/// What the operator makes (`controllers/pipeline/build` of it), by name.
const OBJECTS: &str = "
## What is made of a pipeline

Of a pipeline NAME, in its namespace, each object with the label `penstock.dev/pipeline: NAME`. One of such a name that somebody
else has made is left alone, and `Ready` says so.

| name | kind | |
|---|---|---|
| `NAME-ingest` | Deployment; with `ingest.spool` StatefulSet | the pods that take events |
| | Service | where they are sent, port 8080 |
| | PodDisruptionBudget, ServiceAccount | one pod at a time may be evicted; the account has no rights |
| | ConfigMap; with `ingest.spool` its name is `NAME-ingest-spool` | what the pods read when they start |
| | Secret, where they need one | their users, passwords and certificates for Kafka, Redis and ClickHouse |
| `NAME-consume` | Deployment, PodDisruptionBudget, ServiceAccount, ConfigMap, Secret | the same of the pods that store events |
| `NAME-apps` | ConfigMap | the Apps: their limits, and digests of their keys. Running pods read it again |
| `spool-NAME-ingest-N` | PersistentVolumeClaim | with `ingest.spool`: of the pod N. It stays when the pipeline is deleted, but for `deletionPolicy: Delete` |
| `NAME-drain-N` | Job, configured by the ConfigMap `NAME-drain` | brings to Kafka what is on a claim that no pod has any more |

Outside: the topics and tables that the status names, and the consumer groups `penstock.NAMESPACE.NAME` and, for the table of dead
letters, `penstock.NAMESPACE.NAME.dead-letters`. Of an App NAME the Secret `NAME-KEY` is made for each key without a `secretRef`.
";

/// What a person, or the command line, tells the operator beside the spec.
const ANNOTATIONS: &str = "
## Annotations

| annotation | of | what it does |
|---|---|---|
| `penstock.dev/paused: \"true\"` | App, IngestionPipeline | As long as the annotation is there, nothing is written for the object, in Kubernetes or outside. Pods run on, those of a paused pipeline with the Apps that they know; the status is kept up; a deletion goes on. |
| `penstock.dev/paused-by: penstock-replay` | IngestionPipeline | Set together with `paused` by `penstock replay`, so that it goes on with what it has paused itself, and not with what a person has. Who removes one removes both. |
| `penstock.dev/force-delete: \"true\"` | IngestionPipeline | With `deletionPolicy: Delete`: what of topics, groups and tables cannot be deleted stays, and the pipeline goes. |
| `penstock.dev/apply-schema: FINGERPRINT` | IngestionPipeline | Agrees to the statements that the message of `TablesReady` shows with this fingerprint. |
| `penstock.dev/grow-partitions: NUMBER` | IngestionPipeline | With `recordFormat: Single`: agrees that the topic grows to this number of partitions, which `kafka.partitions` has to say, too. |
";

fn kind(page: &mut String, definition: &CustomResourceDefinition) {
    let names = &definition.spec.names;
    let short = names.short_names.as_deref().unwrap_or_default().join("`, `");
    let _ = write!(page, "\n## {}\n\n", names.kind);
    for version in &definition.spec.versions {
        let Some(root) = version
            .schema
            .as_ref()
            .and_then(|s| s.open_api_v3_schema.as_ref())
        else {
            continue;
        };
        let _ = writeln!(
            page,
            "{} `kubectl get {}` (short: `{short}`), namespaced.\n",
            root.description.as_deref().unwrap_or_default(),
            names.plural,
        );
        rules(page, "", root);
        for part in ["spec", "status"] {
            let Some(schema) = root.properties.as_ref().and_then(|p| p.get(part)) else {
                continue;
            };
            let _ = write!(
                page,
                "\n### {}.{part}\n\n| field | type | default | |\n|---|---|---|---|\n",
                names.kind
            );
            let mut said = String::new();
            fields(page, &mut said, "", schema);
            if !said.is_empty() {
                let _ = write!(page, "\nRules:\n\n{said}");
            }
        }
    }
}

/// One row for each field below `schema`, depth first, and its rules into `said`.
fn fields(page: &mut String, said: &mut String, path: &str, schema: &JSONSchemaProps) {
    rules(said, path, schema);
    let required = schema.required.as_deref().unwrap_or_default();
    for (name, property) in schema.properties.iter().flatten() {
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        let default = match &property.default {
            // The defaults of its members say the same, each in its own row; where they do not, its description does.
            Some(_) if property.properties.is_some() => String::new(),
            Some(value) => format!(
                "`{}`",
                value
                    .0
                    .as_str()
                    .map_or_else(|| value.0.to_string(), str::to_owned)
            ),
            None if required.contains(name) => "required".into(),
            None => String::new(),
        };
        let description = property.description.as_deref().unwrap_or_default();
        let _ = writeln!(
            page,
            "| `{path}` | {} | {} | {} |",
            type_name(property),
            cell(&default),
            cell(description)
        );
        match &property.items {
            Some(JSONSchemaPropsOrArray::Schema(items)) => {
                rules(said, &path, property);
                fields(page, said, &format!("{path}[]"), items);
            }
            _ => fields(page, said, &path, property),
        }
    }
}

fn type_name(schema: &JSONSchemaProps) -> String {
    if let Some(values) = &schema.enum_ {
        let values: Vec<_> = values
            .iter()
            .filter_map(|v| v.0.as_str())
            .map(|v| format!("`{v}`"))
            .collect();
        return values.join(", ");
    }
    let kind = schema.type_.as_deref().unwrap_or("object");
    match (&schema.items, &schema.additional_properties) {
        (Some(JSONSchemaPropsOrArray::Schema(items)), _) => format!("list of {}", type_name(items)),
        (_, Some(JSONSchemaPropsOrBool::Schema(values))) => format!("map of {}", type_name(values)),
        _ => match (schema.minimum, schema.maximum) {
            (Some(least), Some(most)) => format!("{kind}, {least} to {most}"),
            (Some(least), None) => format!("{kind}, from {least}"),
            _ => kind.to_owned(),
        },
    }
}

fn rules(said: &mut String, path: &str, schema: &JSONSchemaProps) {
    for rule in schema.x_kubernetes_validations.iter().flatten() {
        let message = rule.message.as_deref().unwrap_or(&rule.rule);
        let _ = if path.is_empty() {
            writeln!(said, "- {message}")
        } else {
            writeln!(said, "- `{path}`: {message}")
        };
    }
}

fn words(page: &mut String) {
    page.push_str(
        "\n## Conditions\n\n\
         Every kind has the conditions that apply to it, keyed by type; a condition's reason is one of the set below and\n\
         stays stable, its message is for people. `Ready` is what to wait for:\n\
         `kubectl wait --for=condition=Ready ingestionpipeline/NAME`.\n\n| type | it states |\n|---|---|\n",
    );
    for condition in ConditionType::ALL {
        let _ = writeln!(page, "| `{condition}` | {} |", cell(condition.meaning()));
    }
    page.push_str(
        "\n## Reasons\n\nThe reason of a condition, of an event and of the metric `penstock_operator_reconcile_failures_total`.\n\n\
         | reason | meaning |\n|---|---|\n",
    );
    for reason in Reason::ALL {
        let _ = writeln!(page, "| `{reason}` | {} |", cell(reason.meaning()));
    }
}

/// Text that may stand in a cell of a table.
fn cell(text: &str) -> String {
    text.trim().replace('\n', " ").replace('|', "\\|")
}
