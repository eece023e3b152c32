//! What every reconcile of a scope works with.

use std::sync::Arc;
use std::time::Duration;

use futures::channel::mpsc::UnboundedSender;
use kube::Client;
use kube::runtime::reflector::ObjectRef;
use penstock_crds::{App, IngestionPipeline};

use super::app::keyring::KeyRing;
use super::cache::{Caches, Guard};
use crate::api::Writer;
use crate::events::Events;
use crate::health::{Monitor, Services};
use crate::lease::Leadership;
use crate::metrics::Metrics;
use crate::settings::Settings;

/// What the whole operator shares. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shared {
    pub settings: Arc<Settings>,
    /// Names this cluster in ids and marks of ownership.
    pub cluster: Arc<str>,
    pub client: DebugClient,
    pub leadership: Leadership,
    pub metrics: Metrics,
    pub events: Arc<Events>,
    pub services: Services,
    pub monitor: Monitor,
    pub keys: Arc<KeyRing>,
}

/// A client that has a `Debug`.
#[derive(Clone)]
pub struct DebugClient(pub Client);

impl std::fmt::Debug for DebugClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

impl Shared {
    pub fn writer(&self, manager: &'static str) -> Writer {
        Writer::new(
            self.client.0.clone(),
            self.leadership.clone(),
            self.metrics.clone(),
            manager,
        )
    }
}

/// Says which objects to look at. Cheap to clone; repetitions cost nothing.
#[derive(Clone, Debug)]
pub struct Triggers {
    pub apps: UnboundedSender<ObjectRef<Guard<App>>>,
    pub pipelines: UnboundedSender<ObjectRef<Guard<IngestionPipeline>>>,
}

impl Triggers {
    pub fn app(&self, namespace: &str, name: &str) {
        // Fails only when the controllers have ended.
        let _ = self.apps.unbounded_send(ObjectRef::new(name).within(namespace));
    }

    pub fn pipeline(&self, namespace: &str, name: &str) {
        let _ = self
            .pipelines
            .unbounded_send(ObjectRef::new(name).within(namespace));
    }

    pub fn all_pipelines(&self, caches: &Caches) {
        for pipeline in caches.pipelines.state() {
            let _ = self.pipelines.unbounded_send(ObjectRef::from_obj(&*pipeline));
        }
    }

    pub fn everything(&self, caches: &Caches) {
        for app in caches.apps.state() {
            let _ = self.apps.unbounded_send(ObjectRef::from_obj(&*app));
        }
        self.all_pipelines(caches);
    }
}

/// A duration with up to a tenth more or less, so that objects do not march in step.
pub fn about(duration: Duration) -> Duration {
    duration.mul_f64(rand::random_range(0.9..1.1))
}
