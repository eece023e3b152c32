//! Reading a role's configuration: file, then environment, then validation of the whole.
//!
//! ```text
//! YAML text -> tree -> replaced variables (fill what is missing) -> PENSTOCK_* (override) -> typed -> validated
//! ```
//!
//! A variable `PENSTOCK_KAFKA__DEAD_LETTER_TOPIC` sets `kafka.deadLetterTopic`: `__` descends, `_` joins words. Its
//! value takes the type of the field it lands on. Unknown fields refuse, in the file as in the environment; only a
//! variable without `__` that names no field at all is passed over with a warning, because other programs of
//! Penstock have variables of their own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::replaced;
use crate::validate::{Validate, Violation};

const PREFIX: &str = "PENSTOCK_";

/// The environment as it was when the process started, or as a test wants it.
pub type Environment = BTreeMap<String, String>;

/// A configuration ready for use.
#[derive(Clone, Debug)]
pub struct Loaded<C> {
    pub config: C,
    /// What the person who wrote it should know; each is a sentence.
    pub warnings: Vec<String>,
}

/// Why a configuration was refused. Every message names the field or the variable.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("not valid YAML: {0}")]
    Yaml(String),
    #[error("{origin}: {message}")]
    Field { origin: String, message: String },
    #[error("{}", join(.0))]
    Invalid(Vec<Violation>),
}

fn join(violations: &[Violation]) -> String {
    violations
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

/// Reads `file` and overlays the environment.
pub fn load_file<C: Config>(file: &Path, environment: &Environment) -> Result<Loaded<C>, LoadError> {
    let text = std::fs::read_to_string(file).map_err(|source| LoadError::Read {
        path: file.to_path_buf(),
        source,
    })?;
    load(&text, environment)
}

/// What [`load`] can produce: typed, printable, validated.
pub trait Config: DeserializeOwned + Serialize + Validate {}

impl<C: DeserializeOwned + Serialize + Validate> Config for C {}

/// Parses `yaml`, overlays `environment`, validates.
pub fn load<C: Config>(yaml: &str, environment: &Environment) -> Result<Loaded<C>, LoadError> {
    let tree: Value = serde_yaml::from_str(yaml).map_err(|error| LoadError::Yaml(error.to_string()))?;
    let mut tree = match tree {
        Value::Object(map) => map,
        Value::Null => Map::new(),
        _ => return Err(LoadError::Yaml("the document is not a mapping".into())),
    };
    let mut warnings = Vec::new();
    // Inside a cluster the kubelet's service variables share the old names (a Service called `redis` makes
    // REDIS_PORT), so there the old names mean nothing.
    if !environment.contains_key("KUBERNETES_SERVICE_HOST") {
        replaced::fill(&mut tree, C::SERVES, environment, &mut warnings);
    }
    let mut overrides = overrides(environment)?;
    let config: C = loop {
        let mut merged = tree.clone();
        for one in &overrides {
            one.apply(&mut merged)?;
        }
        match serde_path_to_error::deserialize(Value::Object(merged)) {
            Ok(config) => break config,
            Err(error) => {
                let path = error.path().to_string();
                let message = error.inner().to_string();
                let Some(index) = overrides
                    .iter()
                    .position(|one| one.dotted() == path && !one.settled)
                else {
                    return Err(refusal(&overrides, &path, message));
                };
                // Text did not fit the field: read the value as what it looks like, once. A top-level name that
                // no field has belongs to somebody else.
                if overrides[index].path.len() == 1 && message.starts_with("unknown field") {
                    let one = overrides.remove(index);
                    warnings.push(format!(
                        "{} names no setting of this role and is ignored",
                        one.variable
                    ));
                } else {
                    overrides[index].settle();
                }
            }
        }
    };
    let violations = config.violations();
    if violations.is_empty() {
        Ok(Loaded { config, warnings })
    } else {
        Err(LoadError::Invalid(violations))
    }
}

/// The effective configuration as YAML. It holds no secret: credentials are named by their files.
pub fn render<C: Serialize>(config: &C) -> Result<String, String> {
    serde_yaml::to_string(config).map_err(|error| error.to_string())
}

fn refusal(overrides: &[Override], path: &str, message: String) -> LoadError {
    let origin = overrides
        .iter()
        .find(|one| one.dotted() == path || one.dotted().starts_with(&format!("{path}.")))
        .map_or_else(
            || {
                if path == "." {
                    "the document".to_owned()
                } else {
                    path.to_owned()
                }
            },
            |one| one.variable.clone(),
        );
    LoadError::Field { origin, message }
}

/// One `PENSTOCK_*` variable.
#[derive(Clone, Debug)]
struct Override {
    variable: String,
    path: Vec<String>,
    value: Value,
    /// True once the value has been read as something else than text.
    settled: bool,
}

impl Override {
    fn dotted(&self) -> String {
        self.path.join(".")
    }

    fn settle(&mut self) {
        self.settled = true;
        if let Value::String(text) = &self.value {
            self.value = match serde_json::from_str(text) {
                Ok(value) => value,
                Err(_) => Value::Array(
                    text.split(',')
                        .map(|item| Value::String(item.trim().into()))
                        .collect(),
                ),
            };
        }
    }

    fn apply(&self, tree: &mut Map<String, Value>) -> Result<(), LoadError> {
        set(tree, &self.path, self.value.clone()).map_err(|()| LoadError::Field {
            origin: self.variable.clone(),
            message: format!("`{}` is not a group of settings", self.dotted()),
        })
    }
}

/// Puts `value` at `path`, making the groups on the way. Fails where a group is something else already.
pub(crate) fn set(tree: &mut Map<String, Value>, path: &[String], value: Value) -> Result<(), ()> {
    let Some((last, groups)) = path.split_last() else {
        return Err(());
    };
    let mut level = tree;
    for group in groups {
        let entry = level
            .entry(group.clone())
            .or_insert_with(|| Value::Object(Map::new()));
        if entry.is_null() {
            *entry = Value::Object(Map::new());
        }
        level = entry.as_object_mut().ok_or(())?;
    }
    level.insert(last.clone(), value);
    Ok(())
}

fn overrides(environment: &Environment) -> Result<Vec<Override>, LoadError> {
    let mut found = Vec::new();
    for (variable, value) in environment {
        let Some(rest) = variable.strip_prefix(PREFIX) else {
            continue;
        };
        let path: Vec<String> = rest.split("__").map(camel_case).collect();
        if path.iter().any(String::is_empty) {
            return Err(LoadError::Field {
                origin: variable.clone(),
                message: "a part of the name is empty".into(),
            });
        }
        found.push(Override {
            variable: variable.clone(),
            path,
            value: Value::String(value.clone()),
            settled: false,
        });
    }
    Ok(found)
}

fn camel_case(words: &str) -> String {
    let mut name = String::with_capacity(words.len());
    for (index, word) in words.split('_').filter(|word| !word.is_empty()).enumerate() {
        let lower = word.to_ascii_lowercase();
        let mut letters = lower.chars();
        match letters.next() {
            Some(first) if index > 0 => {
                name.push(first.to_ascii_uppercase());
                name.extend(letters);
            }
            _ => name.push_str(&lower),
        }
    }
    name
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
