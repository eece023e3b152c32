//! Making topics, table and quota entries exist, and saying what came of it.
//!
//! What was found right is not asked again for a minute, and an address that is known not to answer is not asked at
//! all: the monitor says when it answers again.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use penstock_crds::{ConditionType, IngestionPipeline, Reason};
use penstock_dataplane_config::{AppsFile, RedisTarget};
use uuid::Uuid;

use super::target::Target;
use crate::api::Writer;
use crate::conditions::Statement;
use crate::controllers::context::Shared;
use crate::health::{Backend, Health, name};
use penstock_provision::{
    Claim, Class, Ensured, Outcome, ProvisionError, QuotaEntry, Service, TableSpec, TopicState,
};

/// How long something found right counts as right.
const FRESH: Duration = Duration::from_secs(60);
/// How long a quota entry lives when nobody renews it: many looks long.
const QUOTA_TTL: Duration = Duration::from_secs(3600);

/// What is known of a pipeline's things outside.
#[derive(Clone, Debug)]
struct Known<T> {
    of: T,
    at: Instant,
}

impl<T: PartialEq> Known<T> {
    fn fresh(&self, of: &T) -> bool {
        self.of == *of && self.at.elapsed() < FRESH
    }
}

#[derive(Clone, Debug, Default)]
struct Memory {
    topics: Option<(Known<Target>, TopicState)>,
    /// With why that of dead letters is not as asked.
    table: Option<(Known<Target>, Option<ProvisionError>)>,
    quotas: Option<Known<Quotas>>,
}

/// The limits of Apps, and where they are.
#[derive(Clone, Debug, PartialEq)]
struct Quotas {
    redis: RedisTarget,
    entries: Vec<QuotaEntry>,
}

/// What is known, by the pipeline's uid.
#[derive(Debug, Default)]
pub(crate) struct Memories(Mutex<HashMap<String, Memory>>);

impl Memories {
    fn get(&self, uid: &str) -> Memory {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(uid)
            .cloned()
            .unwrap_or_default()
    }

    fn set(&self, uid: &str, memory: Memory) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(uid.to_owned(), memory);
    }

    /// Whether the table of dead letters was last found to be none that consumers may write to.
    pub(crate) fn letters_refused(&self, uid: &str, target: &Target) -> bool {
        let table = self.get(uid).table;
        table.is_some_and(|(known, letters)| known.of == *target && refused(letters.as_ref()))
    }

    pub(crate) fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

/// Something that was done, for an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub reason: Reason,
    /// One word for what it was done to: events of one action are counted as one.
    pub action: &'static str,
    pub text: String,
}

/// What came of it all.
#[derive(Clone, Debug)]
pub(crate) struct External {
    pub topics: Statement,
    pub tables: Statement,
    /// Events have their table; `tables` may speak of that of dead letters.
    pub has_table: bool,
    /// Why the table of dead letters is not as asked, where events have theirs.
    pub letters: Option<ProvisionError>,
    /// That of dead letters is none that consumers may write to.
    pub letters_refused: bool,
    pub quotas: Statement,
    pub durable: Statement,
    pub notes: Vec<Note>,
    /// Failures of topics, table and quotas; that of dead letters is none of them.
    pub failures: Vec<ProvisionError>,
}

impl External {
    /// Whether workloads have what they need. Quotas are not needed: pods go on with the limits they know. Nor is the table of
    /// dead letters: these are safe in their topic.
    pub(crate) fn provisioned(&self) -> bool {
        self.topics.holds() && self.has_table
    }

    /// Whether a failure is there to stay until someone changes something.
    pub(crate) fn permanent(&self) -> bool {
        self.failures.iter().any(|f| f.class() == Class::Permanent)
    }

    /// Whether something failed that is to be tried again soon. Dead letters are that only where it passes by itself: what
    /// stays is looked at with all else.
    pub(crate) fn passing(&self) -> bool {
        !self.failures.is_empty() || self.letters.as_ref().is_some_and(passes)
    }
}

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub uid: &'a str,
    pub target: &'a Target,
    pub apps: &'a AppsFile,
}

/// Makes everything so.
pub(crate) async fn ensure(
    wanted: &Wanted<'_>,
    shared: &Shared,
    writer: &Writer,
    memories: &Memories,
) -> External {
    let memory = memories.get(wanted.uid);
    let (topics, table, quotas) = tokio::join!(
        ensure_topics(wanted.target, &memory, shared, writer),
        ensure_table(wanted.target, &memory, shared, writer),
        ensure_quotas(wanted, &memory, shared),
    );
    let mut notes = Vec::new();
    let mut failures = Vec::new();
    let mut next = Memory::default();
    let (topics, durable) = match topics {
        Ok((known, state, done)) => {
            notes.extend(done);
            let durable = durable(&state);
            next.topics = Some((known, state));
            (
                Statement::new(ConditionType::TopicsReady, true, Reason::Available, ""),
                durable,
            )
        }
        Err(error) => {
            // A topic that cannot be asked is as durable as it was.
            let before = memory.topics.filter(|(known, _)| known.of == *wanted.target);
            let durable = match &before {
                Some((_, state)) => durable(state),
                None => Statement::unknown(
                    ConditionType::Durable,
                    Reason::Pending,
                    "the topic has not been seen yet",
                ),
            };
            // Known to exist, not known to be right.
            next.topics = before.map(|(known, state)| (stale(known), state));
            (failed(ConditionType::TopicsReady, error, &mut failures), durable)
        }
    };
    let has_table = table.is_ok();
    let mut missing = None;
    let tables = match table {
        Ok((known, letters, done)) => {
            notes.extend(done);
            let statement = tables(&wanted.target.table, letters.as_ref());
            // What passes is tried again at the next look, not when all is.
            let known = match letters.as_ref().is_some_and(passes) {
                true => stale(known),
                false => known,
            };
            next.table = Some((known, letters.clone()));
            missing = letters;
            statement
        }
        Err(error) => {
            // Pods are not told anything else because nobody can be asked.
            let before = memory.table.filter(|(known, _)| known.of == *wanted.target);
            next.table = before.map(|(known, letters)| (stale(known), letters));
            failed(ConditionType::TablesReady, error, &mut failures)
        }
    };
    let letters_refused = next
        .table
        .as_ref()
        .is_some_and(|(_, letters)| refused(letters.as_ref()));
    let quotas = match quotas {
        Ok(None) => {
            let message = "no Redis is configured: every pod enforces its own share of the limits";
            Statement::new(ConditionType::QuotasReady, true, Reason::LocalOnly, message)
        }
        Ok(Some(known)) => {
            next.quotas = Some(known);
            Statement::new(ConditionType::QuotasReady, true, Reason::Available, "")
        }
        Err(error) => {
            next.quotas = memory.quotas.map(stale);
            failed(ConditionType::QuotasReady, error, &mut failures)
        }
    };
    memories.set(wanted.uid, next);
    External {
        topics,
        tables,
        has_table,
        letters: missing,
        letters_refused,
        quotas,
        durable,
        notes,
        failures,
    }
}

/// Whether consumers may not write to the table of dead letters. One that could not be made or changed they try: to tell
/// them otherwise, and then again, would roll them out twice.
fn refused(letters: Option<&ProvisionError>) -> bool {
    letters.is_some_and(ProvisionError::is_refusal)
}

fn passes(error: &ProvisionError) -> bool {
    error.class() == Class::Transient
}

fn stale<T>(known: Known<T>) -> Known<T> {
    Known {
        at: known.at.checked_sub(FRESH).unwrap_or(known.at),
        ..known
    }
}

fn failed(about: ConditionType, error: ProvisionError, failures: &mut Vec<ProvisionError>) -> Statement {
    let statement = Statement::new(about, false, error.reason(), error.to_string());
    failures.push(error);
    statement
}

/// `TablesReady`, where events have their table.
fn tables(spec: &TableSpec, letters: Option<&ProvisionError>) -> Statement {
    let about = ConditionType::TablesReady;
    match letters {
        None => Statement::new(about, true, Reason::Available, ""),
        Some(why) => Statement::new(about, false, why.reason(), spec.without_letters(why)),
    }
}

/// Two copies of what is acknowledged survive the loss of one broker.
fn durable(state: &TopicState) -> Statement {
    let about = ConditionType::Durable;
    if state.replication < 2 {
        let message = "the topic has one copy: losing its broker loses the events that are not stored yet";
        return Statement::new(about, false, Reason::SingleReplica, message);
    }
    if state.min_insync_replicas < 2 {
        let message = format!(
            "the topic has {} copies, but min.insync.replicas is {}: an acknowledged event may exist once",
            state.replication, state.min_insync_replicas
        );
        return Statement::new(about, false, Reason::WeakAcknowledgement, message);
    }
    Statement::new(about, true, Reason::Available, "")
}

/// Refuses at once where the monitor knows that nobody answers.
fn reachable(backend: &Backend, shared: &Shared) -> Result<(), ProvisionError> {
    match shared.monitor.health(backend) {
        Health::Down(error) => Err(error),
        Health::Up | Health::Unknown => Ok(()),
    }
}

/// Times a call for the metrics.
async fn timed<T>(
    service: Service,
    call: &'static str,
    shared: &Shared,
    answer: impl Future<Output = Result<T, ProvisionError>>,
) -> Result<T, ProvisionError> {
    let began = Instant::now();
    let result = answer.await;
    let failed = result.as_ref().err().map(ProvisionError::reason);
    shared
        .metrics
        .called(name(service), call, failed, began.elapsed());
    result
}

/// A claim that may take what a pipeline left behind that is known to be gone.
async fn inherit(claim: &Claim, error: &ProvisionError, shared: &Shared, writer: &Writer) -> Option<Claim> {
    let ProvisionError::OwnedBy { owner, .. } = error else {
        return None;
    };
    if !claim.adopt || claim.gone.is_some() {
        return None;
    }
    let (namespace, name) = owner.within(&shared.cluster)?;
    match writer
        .api::<IngestionPipeline>(namespace)
        .get_metadata_opt(name)
        .await
    {
        Ok(None) => Some(Claim {
            gone: Some(owner.clone()),
            ..claim.clone()
        }),
        // It is there, or we may not look: it counts as living.
        Ok(Some(_)) | Err(_) => None,
    }
}

fn note(action: &'static str, what: &str, outcome: Outcome) -> Option<Note> {
    let (reason, text) = match outcome {
        Outcome::Unchanged => return None,
        Outcome::Created => (Reason::Created, format!("created {what}")),
        Outcome::Adopted => (Reason::Updated, format!("adopted {what}")),
        Outcome::Updated(changes) => (Reason::Updated, format!("changed {what}: {}", changes.join(", "))),
    };
    Some(Note { reason, action, text })
}

async fn ensure_topics(
    target: &Target,
    memory: &Memory,
    shared: &Shared,
    writer: &Writer,
) -> Result<(Known<Target>, TopicState, Vec<Note>), ProvisionError> {
    let cluster = target.kafka();
    reachable(&Backend::Kafka(cluster.clone()), shared)?;
    if let Some((known, state)) = memory.topics.as_ref().filter(|(known, _)| known.fresh(target)) {
        return Ok((known.clone(), state.clone(), Vec::new()));
    }
    let topics = &shared.services.topics;
    let mut claim = Claim::new(target.owner.clone(), target.adopt);
    let mut notes = Vec::new();
    let mut state = None;
    // The dead-letter topic first: whatever writes to the topic may need it.
    for (action, spec) in [
        ("ProvisionDeadLetters", &target.dead_letters),
        ("ProvisionTopic", &target.topic),
    ] {
        let mut ensured = timed(
            Service::Kafka,
            "ensure_topic",
            shared,
            topics.ensure_topic(&cluster, spec, &claim),
        )
        .await;
        if let Err(error) = &ensured
            && let Some(inheriting) = inherit(&claim, error, shared, writer).await
        {
            claim = inheriting;
            ensured = timed(
                Service::Kafka,
                "ensure_topic",
                shared,
                topics.ensure_topic(&cluster, spec, &claim),
            )
            .await;
        }
        let (outcome, found) = ensured?;
        notes.extend(note(action, &format!("topic {}", spec.name), outcome));
        state = Some(found);
    }
    let state = state.ok_or_else(|| ProvisionError::NotSupported("no topic was asked for".into()))?;
    Ok((
        Known {
            of: target.clone(),
            at: Instant::now(),
        },
        state,
        notes,
    ))
}

async fn ensure_table(
    target: &Target,
    memory: &Memory,
    shared: &Shared,
    writer: &Writer,
) -> Result<(Known<Target>, Option<ProvisionError>, Vec<Note>), ProvisionError> {
    let server = &target.clickhouse();
    reachable(&Backend::ClickHouse(server.clone()), shared)?;
    if let Some((known, letters)) = memory.table.as_ref().filter(|(known, _)| known.fresh(target)) {
        return Ok((known.clone(), letters.clone(), Vec::new()));
    }
    let tables = &shared.services.tables;
    let claim = Claim::new(target.owner.clone(), target.adopt);
    let ensure = |claim: Claim| async move {
        timed(
            Service::ClickHouse,
            "ensure_table",
            shared,
            tables.ensure_table(server, &target.table, &claim),
        )
        .await
    };
    let what = format!("table {}", target.table_name());
    let mut notes = Vec::new();
    let mut ensured = ensure(claim.clone()).await;
    let refused = match &ensured {
        Ok(done) => done.letters.clone(),
        Err(error) => Some(error.clone()),
    };
    if let Some(error) = refused
        && let Some(inheriting) = inherit(&claim, &error, shared, writer).await
    {
        if let Ok(done) = ensured {
            notes.extend(note("ProvisionTable", &what, done.outcome));
        }
        ensured = ensure(inheriting).await;
    }
    let Ensured { outcome, letters } = ensured?;
    notes.extend(note("ProvisionTable", &what, outcome));
    Ok((
        Known {
            of: target.clone(),
            at: Instant::now(),
        },
        letters,
        notes,
    ))
}

async fn ensure_quotas(
    wanted: &Wanted<'_>,
    memory: &Memory,
    shared: &Shared,
) -> Result<Option<Known<Quotas>>, ProvisionError> {
    let Some(redis) = &wanted.target.redis else {
        return Ok(None);
    };
    reachable(&Backend::Redis(redis.clone()), shared)?;
    let entries = wanted.apps.apps.iter().map(|app| QuotaEntry {
        app: app.id,
        quota: app.quota.clone(),
    });
    let asked = Quotas {
        redis: redis.clone(),
        entries: entries.collect(),
    };
    if let Some(known) = memory.quotas.as_ref().filter(|known| known.fresh(&asked)) {
        return Ok(Some(known.clone()));
    }
    let quotas = &shared.services.quotas;
    timed(
        Service::Redis,
        "put_quotas",
        shared,
        quotas.put(redis, &asked.entries, QUOTA_TTL),
    )
    .await?;
    let now: BTreeSet<Uuid> = asked.entries.iter().map(|entry| entry.app).collect();
    // Those in another Redis expire.
    let before = memory
        .quotas
        .iter()
        .filter(|known| known.of.redis.address == redis.address)
        .flat_map(|known| &known.of.entries)
        .map(|entry| entry.app);
    let gone: Vec<Uuid> = before.filter(|app| !now.contains(app)).collect();
    if !gone.is_empty() {
        timed(
            Service::Redis,
            "remove_quotas",
            shared,
            quotas.remove(redis, &gone),
        )
        .await?;
    }
    Ok(Some(Known {
        of: asked,
        at: Instant::now(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_dead_letters_that_is_not_ours_holds_nothing_up() {
        let spec = TableSpec::new("growth", "events", 3);
        let why = ProvisionError::Unmarked {
            thing: "table growth.events_dead_letters".into(),
        };
        let said = tables(&spec, Some(&why));
        assert_eq!((said.holds(), said.reason), (false, Reason::AdoptionRefused));
        for word in [
            "table growth.events_dead_letters exists",
            "deadLetterTable: None",
            "RENAME TABLE",
        ] {
            assert!(said.message.contains(word), "{}", said.message);
        }
        assert!(tables(&spec, None).holds());

        let yes = |about| Statement::new(about, true, Reason::Available, "");
        let external = External {
            topics: yes(ConditionType::TopicsReady),
            tables: said,
            has_table: true,
            letters_refused: refused(Some(&why)),
            letters: Some(why),
            quotas: yes(ConditionType::QuotasReady),
            durable: yes(ConditionType::Durable),
            notes: Vec::new(),
            failures: Vec::new(),
        };
        assert!(external.provisioned() && external.letters_refused);
        assert!(
            !external.permanent() && !external.passing(),
            "looked at now and then"
        );
        let away = |service| ProvisionError::Unavailable {
            service,
            address: "a:1".into(),
            detail: "no answer".into(),
        };
        let beside = External {
            failures: vec![away(Service::Redis)],
            ..external.clone()
        };
        assert!(
            beside.passing() && !beside.permanent(),
            "the other is tried again soon"
        );
        let unmade = External {
            letters: Some(away(Service::ClickHouse)),
            ..external.clone()
        };
        assert!(unmade.passing() && !unmade.permanent());
        // Consumers are told to write to what could not be made yet.
        let rejected = ProvisionError::Rejected {
            service: Service::ClickHouse,
            detail: "no".into(),
        };
        assert!(!refused(unmade.letters.as_ref()) && !refused(Some(&rejected)) && !refused(None));
        let without = External {
            has_table: false,
            ..external
        };
        assert!(!without.provisioned());
    }

    #[test]
    fn durability_needs_two_acknowledged_copies() {
        let state = |replication, min_insync_replicas| TopicState {
            partitions: 3,
            replication,
            min_insync_replicas,
            brokers: 3,
        };
        for (replication, in_sync, holds, reason) in [
            (1, 1, false, Reason::SingleReplica),
            (2, 1, false, Reason::WeakAcknowledgement),
            (3, 1, false, Reason::WeakAcknowledgement),
            (3, 2, true, Reason::Available),
        ] {
            let said = durable(&state(replication, in_sync));
            assert_eq!(
                (said.holds(), said.reason),
                (holds, reason),
                "{replication}/{in_sync}"
            );
        }
    }
}
