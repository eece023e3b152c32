//! What this process needs from others, and how its last check went.
//!
//! A role reports every check; the frame logs a dependency lost or found (not every check), shows it in `/readyz`
//! and in `penstock_dependency_up`. Readiness follows from [`Needed`]: a dependency that all pods share must not
//! take all of them out of the Service at once, or clients would get refused connections instead of an answer
//! that says when to come back.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use serde::Serialize;

use super::Metrics;

/// When a dependency keeps the process from being ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Needed {
    /// Ready only while it is there.
    Always,
    /// Ready once it has been there; later losses show, but the process stays ready to answer with an error.
    ToStart,
    /// Shown only.
    Never,
}

/// All dependencies of the process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Dependencies {
    list: Arc<Mutex<Vec<Arc<Entry>>>>,
    up: Family<Label, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    name: String,
}

#[derive(Debug)]
struct Entry {
    name: &'static str,
    needed: Needed,
    state: Mutex<State>,
    up: Gauge,
}

#[derive(Clone, Debug, Default)]
struct State {
    checked: Option<Instant>,
    ok: bool,
    /// Whether it was ever there.
    met: bool,
    detail: String,
}

/// One dependency; the handle that reports its checks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Dependency(Arc<Entry>);

/// One dependency as `/readyz` shows it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Shown {
    pub name: &'static str,
    pub ok: bool,
    pub needed: Needed,
    pub detail: String,
    /// Seconds since the last check; absent when there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<f64>,
}

impl Dependencies {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let up = Family::<Label, Gauge>::default();
        metrics.register(|registry| {
            registry.register(
                "dependency_up",
                "1 while the last check of a dependency succeeded",
                up.clone(),
            );
        });
        Self {
            list: Arc::default(),
            up,
        }
    }

    /// Adds a dependency, unchecked so far.
    pub fn add(&self, name: &'static str, needed: Needed) -> Dependency {
        let up = self.up.get_or_create_owned(&Label { name: name.into() });
        let entry = Arc::new(Entry {
            name,
            needed,
            state: Mutex::default(),
            up,
        });
        self.list
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(&entry));
        Dependency(entry)
    }

    /// Whether the process may take work, and each dependency.
    pub fn show(&self) -> (bool, Vec<Shown>) {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ready = true;
        let shown = list.iter().map(|entry| {
            let state = entry.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
            ready &= match entry.needed {
                Needed::Always => state.ok,
                Needed::ToStart => state.met,
                Needed::Never => true,
            };
            Shown {
                name: entry.name,
                ok: state.ok,
                needed: entry.needed,
                detail: if state.checked.is_none() {
                    "not checked yet".into()
                } else {
                    state.detail
                },
                age_seconds: state
                    .checked
                    .map(|at| (at.elapsed().as_secs_f64() * 1000.0).round() / 1000.0),
            }
        });
        let shown = shown.collect();
        (ready, shown)
    }
}

impl Dependency {
    /// Reports that a check succeeded.
    pub fn found(&self) {
        let before = self.set(true, String::new());
        if before.checked.is_none() || !before.ok {
            tracing::info!(dependency = self.0.name, "dependency found");
        }
    }

    /// Reports that a check failed, with a sentence for a person. Secrets must not be in it.
    pub fn lost(&self, detail: impl Into<String>) {
        let detail = detail.into();
        let before = self.set(false, detail.clone());
        if before.checked.is_none() || before.ok {
            tracing::warn!(dependency = self.0.name, detail, "dependency lost");
        }
    }

    /// Reports either.
    pub fn report<E: std::fmt::Display>(&self, result: Result<(), E>) {
        match result {
            Ok(()) => self.found(),
            Err(error) => self.lost(error.to_string()),
        }
    }

    /// Whether the last check succeeded.
    pub fn is_up(&self) -> bool {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).ok
    }

    fn set(&self, ok: bool, detail: String) -> State {
        self.0.up.set(i64::from(ok));
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let met = state.met || ok;
        std::mem::replace(
            &mut *state,
            State {
                checked: Some(Instant::now()),
                ok,
                met,
                detail,
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_follows_what_is_needed() {
        for (needed, unchecked, found, lost) in [
            (Needed::Always, false, true, false),
            (Needed::ToStart, false, true, true),
            (Needed::Never, true, true, true),
        ] {
            let dependencies = Dependencies::new(&Metrics::new());
            let one = dependencies.add("kafka", needed);
            assert_eq!(dependencies.show().0, unchecked, "{needed:?} unchecked");
            one.lost("no route");
            assert_eq!(
                dependencies.show().0,
                unchecked,
                "{needed:?} lost before it was ever found"
            );
            one.found();
            assert_eq!(dependencies.show().0, found, "{needed:?} found");
            one.lost("no route");
            let (ready, shown) = dependencies.show();
            assert_eq!(ready, lost, "{needed:?} lost");
            assert_eq!(
                (shown[0].name, shown[0].ok, shown[0].detail.as_str()),
                ("kafka", false, "no route")
            );
            assert!(shown[0].age_seconds.is_some());
        }
    }
}
