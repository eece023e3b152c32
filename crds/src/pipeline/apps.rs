//! Which Apps a pipeline accepts.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// Apps by label or by name; exactly one of the two.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.selector) != has(self.names)").message("exactly one of selector and names must be set"))]
pub struct AppSelection {
    /// Apps whose labels match; an empty selector matches every App of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// Apps by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), inner(length(min = 1, max = 40), regex(pattern = schema::LABEL)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub names: Option<Vec<String>>,
}

/// Labels to match; all that is said must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// Labels and the values they must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::match_labels")]
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub match_expressions: Vec<LabelExpression>,
}

/// One requirement on a label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.operator in ['In', 'NotIn'] ? (has(self.values) && size(self.values) > 0) : (!has(self.values) || size(self.values) == 0)").message("In and NotIn need values; Exists and DoesNotExist take none").field_path(".values"))]
pub struct LabelExpression {
    /// The label.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// How it relates to the values.
    pub operator: LabelOperator,
    /// Values, for `In` and `NotIn`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 63)))]
    pub values: Vec<String>,
}

/// How a label relates to values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LabelOperator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl LabelSelector {
    /// Whether an object with these labels is meant.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
            && self
                .match_expressions
                .iter()
                .all(|expression| expression.matches(labels))
    }
}

impl LabelExpression {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match self.operator {
            LabelOperator::In => value.is_some_and(|v| self.values.contains(v)),
            LabelOperator::NotIn => value.is_none_or(|v| !self.values.contains(v)),
            LabelOperator::Exists => value.is_some(),
            LabelOperator::DoesNotExist => value.is_none(),
        }
    }
}

impl AppSelection {
    /// Whether an App of the pipeline's namespace is meant.
    pub fn selects(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        match (&self.names, &self.selector) {
            (Some(names), _) => names.iter().any(|n| n == name),
            (None, Some(selector)) => selector.matches(labels),
            (None, None) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn expressions_follow_the_conventions_of_kubernetes() {
        use LabelOperator::{DoesNotExist, Exists, In, NotIn};
        let growth = labels(&[("team", "growth")]);
        let none = labels(&[]);
        for (operator, values, on_growth, on_none) in [
            (In, vec!["growth"], true, false),
            (In, vec!["ads"], false, false),
            (NotIn, vec!["growth"], false, true),
            (NotIn, vec!["ads"], true, true),
            (Exists, vec![], true, false),
            (DoesNotExist, vec![], false, true),
        ] {
            let expression = LabelExpression {
                key: "team".into(),
                operator,
                values: values.into_iter().map(str::to_owned).collect(),
            };
            let selector = LabelSelector {
                match_expressions: vec![expression],
                ..Default::default()
            };
            assert_eq!(
                selector.matches(&growth),
                on_growth,
                "{operator:?} on team=growth"
            );
            assert_eq!(selector.matches(&none), on_none, "{operator:?} without the label");
        }
        assert!(
            LabelSelector::default().matches(&none),
            "an empty selector matches all"
        );
    }

    #[test]
    fn names_select_by_name_only() {
        let by_name = AppSelection {
            names: Some(vec!["shop".into()]),
            selector: None,
        };
        assert!(by_name.selects("shop", &labels(&[])));
        assert!(!by_name.selects("blog", &labels(&[("name", "shop")])));
        assert!(!AppSelection::default().selects("shop", &labels(&[])));
    }
}
