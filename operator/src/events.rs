//! Events on our objects: said when something changes, not on every look.
//!
//! The recorder counts repetitions into one event (events.k8s.io series). What is sent is bounded further: the same
//! words about the same object are said again after ten minutes at the earliest.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use penstock_crds::Reason;

use crate::lease::Leadership;

/// The same words are not said again for so long.
const QUIET: Duration = Duration::from_secs(600);
/// Longest note that the API accepts.
const MAX_NOTE: usize = 1024;

type Said = HashMap<(String, Reason, String), Instant>;

/// Publishes events.
pub struct Events {
    recorder: Recorder,
    leadership: Leadership,
    said: Mutex<Said>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}

impl Events {
    pub fn new(client: Client, leadership: Leadership, instance: &str) -> Self {
        let reporter = Reporter {
            controller: "penstock-operator".into(),
            instance: Some(instance.into()),
        };
        Self {
            recorder: Recorder::new(client, reporter),
            leadership,
            said: Mutex::default(),
        }
    }

    /// Something went as it should.
    pub async fn normal(
        &self,
        object: &impl Regarding,
        reason: Reason,
        action: &str,
        note: impl Into<String>,
    ) {
        self.publish(object, EventType::Normal, reason, action, note.into())
            .await;
    }

    /// Something for a person to look at.
    pub async fn warning(
        &self,
        object: &impl Regarding,
        reason: Reason,
        action: &str,
        note: impl Into<String>,
    ) {
        self.publish(object, EventType::Warning, reason, action, note.into())
            .await;
    }

    async fn publish(
        &self,
        object: &impl Regarding,
        type_: EventType,
        reason: Reason,
        action: &str,
        note: String,
    ) {
        if !self.leadership.held() {
            return;
        }
        let regarding = object.regarding();
        let note = match note.char_indices().nth(MAX_NOTE - 4) {
            Some((end, _)) => format!("{}...", &note[..end]),
            None => note,
        };
        let about = regarding
            .uid
            .clone()
            .or_else(|| regarding.name.clone())
            .unwrap_or_default();
        {
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            said.retain(|_, at| at.elapsed() < QUIET);
            if said
                .insert((about, reason, note.clone()), Instant::now())
                .is_some()
            {
                return;
            }
        }
        let event = Event {
            type_,
            reason: reason.as_str().into(),
            note: Some(note),
            action: action.into(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &regarding).await {
            // An event is a courtesy: the condition says the same.
            tracing::debug!(%error, reason = reason.as_str(), "an event was not published");
        }
    }
}

/// What an event is about.
pub trait Regarding {
    fn regarding(&self) -> k8s_openapi::api::core::v1::ObjectReference;
}

impl<K: kube::Resource<DynamicType = ()>> Regarding for K {
    fn regarding(&self) -> k8s_openapi::api::core::v1::ObjectReference {
        self.object_ref(&())
    }
}
