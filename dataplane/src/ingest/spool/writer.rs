//! The spool's handle, and the thread that writes: it takes all that waits, writes it, makes it durable by one fsync,
//! and tells the shards.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::frame::{Place, Record, frame_length};
use super::metrics::SpoolMetrics;
use super::segment::State;
use super::store::{Depth, Id, SpoolError, Store};
use crate::ingest::kafka::{Kept, Outcomes, PutAside};
use crate::ingest::last::Last;
use crate::utc::now_ms;

/// Bytes that may wait for the writer. Shards keep their own number of groups here small, so only dead letters, or a
/// disk that stands still, get near it.
const QUEUE: usize = 16_000_000;
/// Bytes made durable together.
const BATCH: usize = 4_000_000;
/// What one more group may take.
const ONE_MORE: u64 = 1_000_000;
/// A disk that has not taken anything for so long, while something waits for it, is as good as none.
const STILL: Duration = Duration::from_secs(3);
/// After a failure the next group is refused at once, until it is time to see whether the disk is well again.
const PAUSE: Duration = Duration::from_secs(1);

/// The spool. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Spool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Mutex<Store>,
    /// `None` once the spool is closed.
    commands: Mutex<Option<Sender<Command>>>,
    queued: AtomicUsize,
    /// When the writer had written something, or got something to write after it had nothing.
    moved: Last,
    limit: u64,
    disk: AtomicU64,
    groups: AtomicU64,
    oldest: AtomicU64,
    failing: AtomicBool,
    /// Milliseconds after `started` when writing failed last.
    failed_at: AtomicU64,
    started: Instant,
    /// Something may be drained.
    waiting: Notify,
    /// Records that Kafka's absence brings are worth a line in the log; those of `durability: Spooled` are not.
    quiet: bool,
    metrics: SpoolMetrics,
}

/// One record to be kept.
#[derive(Debug)]
pub(crate) struct Keep {
    pub(crate) record: Record,
    pub(crate) state: State,
    pub(crate) place: Place,
    /// How long somebody waits for it.
    pub(crate) until: Instant,
    /// What the shard is told it by.
    pub(crate) number: usize,
    pub(crate) outcomes: Arc<Outcomes>,
}

#[derive(Debug)]
enum Command {
    Keep(Keep),
    Done(Id),
    Set(Id, State),
}

impl Spool {
    /// Opens the directory and starts the writer. `quiet`: the spool is on the way of all groups.
    pub(crate) fn open(
        directory: &Path,
        limit: u64,
        topic: &str,
        quiet: bool,
        metrics: SpoolMetrics,
    ) -> Result<(Self, std::thread::JoinHandle<()>), SpoolError> {
        let (store, found) = Store::open(directory, limit, topic)?;
        if found.damage.torn > 0 {
            tracing::warn!(
                bytes = found.damage.torn,
                "the spool had a torn end, never acknowledged; cut off"
            );
        }
        if found.damage.lost > 0 {
            tracing::error!(
                bytes = found.damage.lost,
                "the spool is damaged: bytes before intact groups are lost"
            );
        }
        if found.groups > 0 {
            tracing::warn!(
                groups = found.groups,
                "the spool holds groups of an earlier process"
            );
        }
        metrics.limit.set(i64::try_from(limit).unwrap_or(i64::MAX));
        let (sender, commands) = channel();
        let spool = Self(Arc::new(Inner {
            store: Mutex::new(store),
            commands: Mutex::new(Some(sender)),
            queued: AtomicUsize::new(0),
            moved: Last::never(),
            limit,
            disk: AtomicU64::new(0),
            groups: AtomicU64::new(0),
            oldest: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            failed_at: AtomicU64::new(0),
            started: Instant::now(),
            waiting: Notify::new(),
            quiet,
            metrics,
        }));
        spool.publish(&mut spool.store());
        let writer = spool.clone();
        let thread = std::thread::Builder::new()
            .name("spool".into())
            .spawn(move || writer.write(&commands))?;
        Ok((spool, thread))
    }

    /// Has a record kept; the outcome comes to its shard. False when too much waits already, or the spool is closed.
    pub(crate) fn keep(&self, keep: Keep) -> bool {
        let bytes = frame_length(&keep.record) as usize;
        if self.0.queued.load(Relaxed) == 0 {
            self.0.moved.now();
        }
        let fits = self.0.queued.fetch_add(bytes, Relaxed) + bytes <= QUEUE;
        if fits && self.send(Command::Keep(keep)) {
            return true;
        }
        self.0.queued.fetch_sub(bytes, Relaxed);
        false
    }

    /// Kafka has acknowledged this one.
    pub(crate) fn done(&self, id: Id) {
        self.send(Command::Done(id));
    }

    /// No producer of this process has this one any more.
    pub(crate) fn release(&self, id: Id) {
        self.send(Command::Set(id, State::Maybe));
    }

    /// False once the spool is closed; then nobody is left who would mind.
    fn send(&self, command: Command) -> bool {
        let commands = self.0.commands.lock().unwrap_or_else(PoisonError::into_inner);
        commands
            .as_ref()
            .is_some_and(|sender| sender.send(command).is_ok())
    }

    /// Whether another group would be taken, and soon.
    pub(crate) fn has_room(&self) -> bool {
        let inner = &*self.0;
        let queued = inner.queued.load(Relaxed);
        let still = queued > 0 && inner.moved.age() >= STILL;
        let used = inner.disk.load(Relaxed) + queued as u64;
        let paused = inner.failing.load(Relaxed)
            && inner
                .started
                .elapsed()
                .saturating_sub(Duration::from_millis(inner.failed_at.load(Relaxed)))
                < PAUSE;
        !still && !paused && used + ONE_MORE < inner.limit
    }

    /// Groups in the spool.
    pub(crate) fn groups(&self) -> u64 {
        self.0.groups.load(Relaxed)
    }

    /// Brings the age of the oldest group up to date.
    pub(crate) fn show(&self) {
        let oldest = self.0.oldest.load(Relaxed) as i64;
        let age = if oldest == 0 {
            0
        } else {
            (now_ms() / 1000 - oldest).max(0)
        };
        self.0.metrics.oldest.set(age);
    }

    /// Takes nothing more; the writer ends when all that was sent is written.
    pub(crate) fn close(&self) {
        self.0
            .commands
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }

    pub(super) fn store(&self) -> MutexGuard<'_, Store> {
        self.0.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves nothing behind of what is done; for the end.
    pub(super) fn tidy(&self) {
        self.store().tidy();
    }

    pub(super) fn metrics(&self) -> &SpoolMetrics {
        &self.0.metrics
    }

    /// Resolves when something came that may be drained.
    pub(super) async fn waiting(&self) {
        self.0.waiting.notified().await;
    }

    fn write(&self, commands: &Receiver<Command>) {
        while let Ok(first) = commands.recv() {
            let (mut batch, mut bytes, mut next) = (Vec::new(), 0, Some(first));
            let mut store = self.store();
            while let Some(command) = next {
                match command {
                    Command::Keep(keep) => {
                        bytes += frame_length(&keep.record) as usize;
                        batch.push(keep);
                    }
                    Command::Done(id) => store.done(id),
                    Command::Set(id, state) => {
                        store.set(id, state);
                        self.0.waiting.notify_one();
                    }
                }
                next = if bytes < BATCH {
                    commands.try_recv().ok()
                } else {
                    None
                };
            }
            let outcomes = self.append(&mut store, &batch);
            self.publish(&mut store);
            drop(store);
            self.0.moved.now();
            self.0.queued.fetch_sub(bytes, Relaxed);
            let free = batch.iter().any(|one| one.state != State::Owned);
            for (one, id) in batch.into_iter().zip(outcomes) {
                one.outcomes.tell(PutAside {
                    number: one.number,
                    kept: id.map(Kept::Spooled),
                });
            }
            if free {
                self.0.waiting.notify_one();
            }
        }
    }

    /// Keeps what can be kept: all at once, and if that fails in halves, for the small ones may still have room.
    fn append(&self, store: &mut Store, batch: &[Keep]) -> Vec<Option<Id>> {
        let records: Vec<_> = batch
            .iter()
            .map(|one| (&one.record, one.state, one.place))
            .collect();
        let mut kept = Vec::with_capacity(records.len());
        self.append_all(store, &records, &mut kept);
        let count = kept.iter().filter(|one| one.is_some()).count();
        self.0.metrics.kept.inc_by(count as u64);
        self.0.metrics.refused.inc_by((kept.len() - count) as u64);
        kept
    }

    fn append_all(&self, store: &mut Store, records: &[(&Record, State, Place)], kept: &mut Vec<Option<Id>>) {
        match store.append(records) {
            Ok(ids) if ids.is_empty() => {}
            Ok(ids) => {
                self.0.metrics.sync.observe(store.last_sync);
                self.well();
                kept.extend(ids.into_iter().map(Some));
            }
            Err(_) if records.len() > 1 => {
                let (first, second) = records.split_at(records.len() / 2);
                self.append_all(store, first, kept);
                self.append_all(store, second, kept);
            }
            Err(error) => {
                self.ill(&error);
                kept.push(None);
            }
        }
    }

    fn well(&self) {
        if self.0.failing.swap(false, Relaxed) {
            tracing::info!("the spool takes groups again");
        }
    }

    /// A failure is said once, until it is over.
    fn ill(&self, error: &SpoolError) {
        let now = self.0.started.elapsed().as_millis();
        self.0
            .failed_at
            .store(u64::try_from(now).unwrap_or(u64::MAX), Relaxed);
        if !self.0.failing.swap(true, Relaxed) {
            tracing::error!(%error, "the spool does not take groups");
        }
    }

    /// Shows how full the store is, and says when spooling begins and ends.
    pub(super) fn publish(&self, store: &mut Store) {
        let Depth {
            groups,
            bytes,
            disk,
            oldest,
        } = store.depth();
        let inner = &*self.0;
        inner.disk.store(disk, Relaxed);
        inner.oldest.store(u64::from(oldest), Relaxed);
        inner.metrics.groups.set(groups as i64);
        inner.metrics.bytes.set(bytes as i64);
        inner.metrics.disk.set(disk as i64);
        let before = inner.groups.swap(groups, Relaxed);
        match (before, groups) {
            _ if inner.quiet => {}
            (0, 1..) => tracing::warn!(groups, "spooling begins: Kafka does not take groups"),
            (1.., 0) => tracing::info!(
                stored = inner.metrics.drained.get(),
                already_stored = inner.metrics.found.get(),
                "spooling ends: Kafka has every group of the spool"
            ),
            _ => {}
        }
    }
}
