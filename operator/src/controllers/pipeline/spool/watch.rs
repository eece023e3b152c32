//! The look at all spools of a scope, every few seconds, and what the last one saw.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::join_all;
use futures::{StreamExt as _, stream};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::ListParams;

use super::ask::{PATIENCE, ask};
use super::depth::PodSpool;
use super::hold;
use crate::api::Writer;
use crate::controllers::cache::{Caches, Held};
use crate::controllers::context::{Triggers, about};
use crate::controllers::labels;
use crate::controllers::pipeline::Context;
use crate::controllers::pipeline::build::Role;
use crate::controllers::subject::{self, Subject};

const EVERY: Duration = Duration::from_secs(6);
/// How long the API server may take to list the pods of one pipeline.
const LISTING: Duration = Duration::from_secs(3);
/// What was seen longer ago is not known any more.
const STALE: Duration = Duration::from_secs(30);
const _: () = assert!(STALE.as_secs() > 2 * (EVERY.as_secs() + LISTING.as_secs() + PATIENCE.as_secs()));
/// A pod that restarts speaks again sooner; one that does not may be broken, and has to be replaced by one that is not.
const RESTART: Duration = Duration::from_secs(60);
/// While events wait, what is said about them is brought up to date so often.
const REPEAT: Duration = Duration::from_secs(30);
/// Of the pods' admin port, as the configuration says.
const ADMIN: u16 = 9090;

#[derive(Clone, Debug)]
struct Look {
    at: Instant,
    told: Instant,
    pods: Vec<PodSpool>,
    /// When those that say nothing said something, by name.
    heard: HashMap<String, Instant>,
}

/// What is known of the pods' spools, by the pipelines' uids. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spools(Arc<Mutex<HashMap<String, Look>>>);

impl Spools {
    /// What the pods said; `None` where they were not asked lately.
    pub(crate) fn of(&self, uid: &str) -> Option<Vec<PodSpool>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let look = known.get(uid)?;
        (look.at.elapsed() < STALE).then(|| look.pods.clone())
    }

    pub(crate) fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    /// Takes a look in; whether the pipeline is to be looked at for it.
    fn take(&self, uid: &str, mut pods: Vec<PodSpool>) -> bool {
        let now = Instant::now();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.get(uid);
        let mut heard = HashMap::new();
        for one in pods.iter_mut().filter(|one| one.depth.is_none()) {
            let Some(before) = before else { continue };
            let Some(earlier) = before.pods.iter().find(|earlier| earlier.pod == one.pod) else {
                continue;
            };
            one.last = earlier.last;
            one.spools_all |= earlier.spools_all;
            let at = before.heard.get(&one.pod).copied().unwrap_or(before.at);
            one.back_soon = at.elapsed() < RESTART;
            heard.insert(one.pod.clone(), at);
        }
        let news = before.is_none_or(|before| {
            before.at.elapsed() >= STALE
                || !hold::same(&before.pods, &pods)
                || hold::any_degraded(&pods) && before.told.elapsed() >= REPEAT
        });
        let told = before.filter(|_| !news).map_or(now, |before| before.told);
        let look = Look {
            at: now,
            told,
            pods,
            heard,
        };
        known.insert(uid.to_owned(), look);
        news
    }
}

/// Looks at every spool of the scope, again and again. Pipelines side by side: one whose pods hang delays no other's
/// look by more than a few seconds, and no reconcile at all.
pub(crate) async fn run(context: Arc<Context>, triggers: Triggers) {
    loop {
        tokio::time::sleep(about(EVERY)).await;
        stream::iter(context.caches.stateful_sets.state())
            .for_each_concurrent(None, |set| look(set, &context, &triggers))
            .await;
    }
}

async fn look(set: Arc<StatefulSet>, context: &Context, triggers: &Triggers) {
    let Some(subject) = pipeline_of(&set, &context.caches) else {
        return;
    };
    let Some(pods) = list(&subject, &context.writer).await else {
        return;
    };
    let replicas = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let names = (0..replicas).map(|ordinal| format!("{}-{ordinal}", set.name_any()));
    let answers = names.map(async |pod| {
        let found = pods.get(&pod);
        let depth = match found.and_then(|found| found.address) {
            Some(address) => ask(address).await,
            None => None,
        };
        PodSpool {
            unborn: found.is_none_or(|found| found.unborn),
            spools_all: found.is_some_and(|found| found.spools_all),
            ..PodSpool::new(pod, depth)
        }
    });
    let answers = join_all(answers).await;
    if context.spools.take(&subject.uid, answers) {
        triggers.pipeline(&subject.namespace, &subject.name);
    }
}

/// The pipeline that a StatefulSet is ingest of.
fn pipeline_of(set: &StatefulSet, caches: &Caches) -> Option<Subject> {
    let namespace = set.namespace()?;
    let name = labels::pipeline(set.labels())?;
    let pipeline = caches.pipeline(&namespace, &name)?;
    let pipeline = pipeline.0.as_ref().ok()?;
    let subject = Subject::of(pipeline);
    let ours = set.name_any() == Role::Ingest.object(&name) && Held::of(set).belongs_to(&subject.uid, &name);
    (ours && !subject.deleting).then_some(subject)
}

/// A pod as the API server knows it.
#[derive(Clone, Copy, Debug)]
struct Found {
    address: Option<SocketAddr>,
    unborn: bool,
    spools_all: bool,
}

/// The pods of ingest that belong to the StatefulSet, by name. `None` where they cannot be seen now.
async fn list(subject: &Subject, writer: &Writer) -> Option<BTreeMap<String, Found>> {
    let selector = labels::selector(&subject.name, Role::Ingest.as_str());
    let selector: Vec<String> = selector
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    // What the API server has in its memory will do: it is asked often, and an old address does not answer.
    let parameters = ListParams::default().labels(&selector.join(",")).match_any();
    let api = writer.api::<Pod>(&subject.namespace);
    let pods = match tokio::time::timeout(LISTING, api.list(&parameters)).await {
        Ok(Ok(pods)) => pods,
        Ok(Err(error)) => {
            tracing::warn!(pipeline = subject.path(), %error, "the pods whose spools are to be looked at cannot be listed");
            return None;
        }
        Err(_) => {
            tracing::warn!(
                pipeline = subject.path(),
                "the pods whose spools are to be looked at were not listed in time"
            );
            return None;
        }
    };
    let found = pods.items.into_iter().filter_map(|pod| {
        subject::controller::<StatefulSet>(&pod)?;
        let status = pod.status.as_ref();
        let address = status.and_then(|status| status.pod_ip.as_ref()?.parse::<IpAddr>().ok());
        let phase = status.and_then(|status| status.phase.as_deref());
        let found = Found {
            address: address.map(|address| SocketAddr::new(address, ADMIN)),
            unborn: matches!(phase, None | Some("Pending")),
            spools_all: pod
                .annotations()
                .get(labels::DURABILITY)
                .is_some_and(|d| d == labels::SPOOLED),
        };
        Some((pod.name_any(), found))
    });
    Some(found.collect())
}

#[cfg(test)]
mod tests {
    use super::super::depth::Depth;
    use super::*;

    #[test]
    fn a_pipeline_is_looked_at_for_news_only() {
        let spools = Spools::default();
        let pods = |groups| {
            let depth = Depth {
                groups,
                ..Depth::default()
            };
            vec![PodSpool::new("events-ingest-0".into(), Some(depth))]
        };
        assert_eq!(spools.of("u"), None);
        assert!(spools.take("u", pods(0)), "the first time");
        assert!(!spools.take("u", pods(0)));
        assert!(spools.take("u", pods(1)), "events wait");
        assert!(!spools.take("u", pods(2)), "more of them");
        assert_eq!(spools.of("u"), Some(pods(2)));
        let silent = vec![PodSpool::new("events-ingest-0".into(), None)];
        assert!(spools.take("u", silent), "it fell silent");
        let known = spools.of("u").unwrap().remove(0);
        assert_eq!((known.depth, known.last), (None, pods(2)[0].depth));
        assert!(known.back_soon);
        let mut known = spools.0.lock().unwrap();
        let heard = &mut known.get_mut("u").unwrap().heard;
        let long_ago = Instant::now()
            .checked_sub(RESTART)
            .expect("the machine runs longer");
        assert!(heard.insert("events-ingest-0".into(), long_ago).is_some());
        drop(known);
        let silent = vec![PodSpool::new("events-ingest-0".into(), None)];
        assert!(spools.take("u", silent), "it is silent for long");
        assert!(!spools.of("u").unwrap()[0].back_soon);
        assert!(spools.take("u", pods(0)), "none waits");
        spools.forget("u");
        assert_eq!(spools.of("u"), None);
    }
}
