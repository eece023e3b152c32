//! The thread that reads: it polls librdkafka, parses records into batches, and lets the machines decide.
//!
//! ```text
//! librdkafka ──records──► read ──► machines ──actions──► jobs (runtime) ──answers──┐
//!     └──rebalances──► answered when nothing is under way      ▲                   │
//!                                                              └───────────────────┘
//! ```
//!
//! Invariants: librdkafka is polled all the time, whatever ClickHouse does, so that the group is kept. Rows in
//! memory stay below a bound (three batches of the configured size, at least [`MEMORY`]) and one record: above half of it
//! the largest forming batch is read on first, so that it becomes one INSERT instead of many, and above it none. A
//! partition gets at most two thirds, so that one that is stuck does not hold the others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use rdkafka::consumer::Consumer;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::clock::Moment;
use super::group::{Group, Rebalance};
use super::jobs::{Answer, Jobs, Tenure};
use super::protocol::Limits;
use super::run::Run;
use super::stall::Stall;
use crate::process::{Pulse, Shutdown};
use crate::utc::now_ms;

/// Bytes of rows, forming and in flight, of all partitions, where batches are not larger than a third of it.
const MEMORY: usize = 72 << 20;
/// A partition has at most two batches, one forming while one is in flight; the third is for others.
const BATCHES: usize = 3;
/// How long the group waits for an INSERT in flight before its intent is left to the next owner.
const REVOKE_BOUND: Duration = Duration::from_secs(20);
/// The longest sleep; ages are looked at this often.
const NAP: Duration = Duration::from_millis(20);
/// How long a client that is given up serves the rebalance by which it leaves.
const WITHDRAWAL: Duration = Duration::from_secs(5);
const SEEK_TIMEOUT: Duration = Duration::from_secs(5);
const GAUGES_EVERY: Duration = Duration::from_secs(1);
/// How old what is not stored may be before its log's end is asked for, and how often that is done.
const ENDS_EVERY: Duration = Duration::from_secs(5);

/// Why a driver ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Shutdown,
    /// Its Kafka client has forgotten its brokers: another has to take its place.
    Forgotten,
    /// Something was asked for, of Kafka or of the table, that neither came nor failed, or partitions cannot be taken: the same.
    Stalled,
}

/// The driver of one member of the group.
pub(super) struct Driver {
    topic: String,
    group: Arc<Group>,
    jobs: Jobs,
    answers: Receiver<Answer>,
    shutdown: Shutdown,
    pulse: Pulse,
    limits: Limits,
    /// The bound of rows in memory.
    memory: usize,
    runs: BTreeMap<i32, Run>,
    /// The rebalance that is not answered yet.
    rebalance: Option<Rebalance>,
    gauges_at: Moment,
    ends_at: Moment,
    asking_ends: Arc<AtomicBool>,
    /// It cannot take what the group gives.
    useless: bool,
}

/// How much of what a log keeps is not stored: at 1, what the log drops next is lost. The log says so and not the topic's
/// settings: it may be bounded by bytes as well as by age, and both may change at any time.
///
/// Of a log that has dropped nothing yet it is not known, which it may not have for longer than it keeps events: only whole
/// segments go. Its length says nothing of how much it will keep, and a consumer that begins has all of it before it. Until
/// then a consumer that is far behind is seen by its age only.
fn unstored(low: i64, end: i64, lag: i64) -> f64 {
    if low <= 0 || end <= low {
        return 0.0;
    }
    (lag as f64 / (end - low) as f64).min(1.0)
}

/// Whether its log is asked where it begins and ends.
fn is_behind(run: &Run) -> bool {
    age(run) > ENDS_EVERY.as_secs_f64()
}

/// How old, in seconds, the oldest record is that is read and not stored.
fn age(run: &Run) -> f64 {
    let since = run.waits_since().unwrap_or(i64::MAX);
    now_ms().saturating_sub(since).max(0) as f64 / 1000.0
}

impl Driver {
    pub(super) fn new(
        jobs: Jobs,
        answers: Receiver<Answer>,
        shutdown: Shutdown,
        pulse: Pulse,
        limits: Limits,
    ) -> Self {
        Self {
            topic: jobs.topic.to_string(),
            group: Arc::clone(&jobs.group),
            memory: limits.max_bytes.saturating_mul(BATCHES).max(MEMORY),
            limits,
            jobs,
            answers,
            shutdown,
            pulse,
            runs: BTreeMap::new(),
            rebalance: None,
            gauges_at: Moment::now(),
            ends_at: Moment::now(),
            asking_ends: Arc::default(),
            useless: false,
        }
    }

    /// Works until the shutdown is complete, or until this member can do nothing more.
    pub(super) fn run(mut self) -> End {
        let mut stopping = false;
        loop {
            let now = Moment::now();
            self.pulse.beat();
            if self.group.context().has_forgotten_its_brokers() {
                self.abandon();
                return End::Forgotten;
            }
            if self.shutdown.is_begun() && !stopping {
                stopping = true;
                self.runs.values_mut().for_each(|run| run.revoke(now));
            }
            self.poll_group();
            self.rebalance(now, stopping);
            let mut busy = self.take_answers(now);
            busy |= self.read(now);
            self.tick(now);
            self.act();
            self.drop_released();
            if stopping && self.runs.is_empty() {
                break;
            }
            if now.since(self.gauges_at) >= GAUGES_EVERY {
                self.gauges_at = now;
                self.show();
                self.ask_ends(now);
                if !stopping && (self.useless || self.stalls(now)) {
                    self.abandon();
                    return End::Stalled;
                }
            }
            if !busy {
                self.jobs.waker.sleep(NAP);
            }
        }
        self.leave();
        End::Shutdown
    }

    /// Gives everything up: open intents are left to the next owner, and what this one's jobs still want is refused.
    fn abandon(mut self) {
        for partition in std::mem::take(&mut self.runs).into_keys() {
            self.jobs.fence.end(partition);
            self.jobs.metrics.forget_lag(partition);
        }
        // At once, while no other driver shows what it has.
        self.leave();
        // Leaving a group without a connection to it may take long.
        std::thread::spawn(move || self.withdraw());
    }

    /// Leaves the group although the client may live on: a job that never ends holds it, too, and as a member that
    /// nobody polls it would keep its partitions for `max.poll.interval.ms`. Closed and not merely unsubscribed: that
    /// was tried, and left the partitions with nobody.
    fn withdraw(&self) {
        if let Err(error) = self.group.close_queue() {
            tracing::warn!(%error, "cannot leave the group");
            return;
        }
        let begun = Moment::now();
        while !self.group.closed() && Moment::now().since(begun) < WITHDRAWAL {
            if let Some(Err(error)) = self.group.poll(NAP) {
                tracing::debug!(%error, "the consumer reports");
            }
        }
    }

    /// Serves rebalances and errors. Records come by the partitions' own queues; one that was fetched before its
    /// queue existed is dropped here and read again, because reading begins with a seek.
    fn poll_group(&mut self) {
        for _ in 0..64 {
            match self.group.poll(Duration::ZERO) {
                None => break,
                Some(Ok(_)) => {}
                Some(Err(error)) => tracing::debug!(%error, "the consumer reports"),
            }
        }
    }

    fn rebalance(&mut self, now: Moment, stopping: bool) {
        if self.rebalance.is_none() {
            self.rebalance = self.group.context().next_rebalance();
            match &self.rebalance {
                Some(Rebalance::Revoke { partitions, lost }) => {
                    tracing::info!(?partitions, lost, "the group takes partitions");
                    let how = if *lost { "lost" } else { "revoked" };
                    self.jobs.metrics.rebalanced(how, partitions.len());
                    for partition in partitions {
                        if let Some(run) = self.runs.get_mut(partition) {
                            run.revoke(now);
                            if *lost {
                                run.abandon();
                            }
                        }
                    }
                }
                Some(Rebalance::Assign(partitions)) => {
                    tracing::info!(?partitions, "the group gives partitions");
                    self.jobs.metrics.rebalanced("assigned", partitions.len());
                }
                None => return,
            }
            self.act();
            self.drop_released();
        }
        match &self.rebalance {
            Some(Rebalance::Revoke { partitions, .. })
                if partitions
                    .iter()
                    .any(|partition| self.runs.contains_key(partition)) => {}
            Some(Rebalance::Revoke { partitions, .. }) => {
                let partitions = partitions.clone();
                self.rebalance = None;
                let answered = self
                    .list(&partitions, Offset::Invalid)
                    .and_then(|list| self.group.incremental_unassign(&list));
                if let Err(error) = answered {
                    tracing::error!(%error, "cannot give partitions back");
                }
            }
            Some(Rebalance::Assign(partitions)) => {
                let partitions = partitions.clone();
                self.rebalance = None;
                self.assign(&partitions, stopping);
            }
            None => {}
        }
    }

    fn list(&self, partitions: &[i32], offset: Offset) -> rdkafka::error::KafkaResult<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition_offset(&self.topic, *partition, offset)?;
        }
        Ok(list)
    }

    /// Takes partitions, paused: reading begins with the seek that the machine asks for. They are paused before they
    /// are taken, and taken at a number instead of "the log's start", so that librdkafka has nothing under way for them
    /// when it seeks: the late answer to its question where the log starts would move it there again.
    fn assign(&mut self, partitions: &[i32], stopping: bool) {
        let queues: Vec<_> = partitions
            .iter()
            .filter_map(|&partition| {
                let queue = self.group.split_partition_queue(&self.topic, partition);
                if queue.is_none() {
                    tracing::error!(partition, "the partition has no queue");
                }
                queue.map(|queue| (partition, queue))
            })
            .collect();
        let taken = self.list(partitions, Offset::Offset(0)).and_then(|list| {
            self.group.pause(&list)?;
            self.group.incremental_assign(&list)
        });
        if let Err(error) = taken {
            tracing::error!(%error, "cannot take partitions");
            // The group would count on a member that reads none of them.
            self.useless = true;
            return;
        }
        if stopping {
            return;
        }
        for (partition, mut queue) in queues {
            let waker = self.jobs.waker.clone();
            queue.set_nonempty_callback(move || waker.wake());
            let epoch = self.jobs.fence.begin(partition);
            let run = Run::new(Tenure { partition, epoch }, self.limits, queue);
            self.runs.insert(partition, run);
        }
    }

    fn take_answers(&mut self, now: Moment) -> bool {
        let mut busy = false;
        while let Ok(answer) = self.answers.try_recv() {
            busy = true;
            if let Some(run) = self.runs.get_mut(&answer.partition)
                && run.tenure.epoch == answer.epoch
            {
                run.answer(answer, now);
            }
        }
        busy
    }

    fn used(&self) -> usize {
        self.runs.values().map(Run::bytes).sum()
    }

    fn read(&mut self, now: Moment) -> bool {
        let used = self.used();
        if used >= self.memory {
            let largest = self
                .runs
                .values_mut()
                .filter(|run| !run.in_flight())
                .max_by_key(|run| run.forming_bytes());
            if let Some(run) = largest {
                run.squeeze(now);
            }
            return false;
        }
        if used >= self.memory / 2 {
            let largest = self
                .runs
                .values_mut()
                .filter(|run| run.wants_records() && run.forming_bytes() > 0)
                .max_by_key(|run| run.forming_bytes());
            // It may have read all there is and be held up for long: then the others' turn comes.
            if largest.is_some_and(|run| run.read(now)) {
                return true;
            }
        }
        let mut busy = false;
        for run in self.runs.values_mut() {
            busy |= run.read(now);
        }
        busy
    }

    /// Lets time pass. Where several quiet partitions are live, each waits longer, up to twice the configured age, so that
    /// up to four of them together cause two INSERTs in that age, and more of them half as many as there are.
    fn tick(&mut self, now: Moment) {
        let quiet = self
            .runs
            .values()
            .filter(|run| run.is_quiet_and_live(now))
            .count();
        let stretched = self.limits.max_age * (quiet.clamp(2, 4) as u32) / 2;
        for run in self.runs.values_mut() {
            let quiet = run.is_quiet_and_live(now);
            run.set_max_age(if quiet { stretched } else { self.limits.max_age });
            if run.revoked_at.is_some_and(|at| now.since(at) > REVOKE_BOUND) {
                run.abandon();
            }
            run.tick(now);
        }
    }

    fn act(&mut self) {
        let mut wanted = Vec::new();
        for (partition, run) in &mut self.runs {
            run.act(&self.jobs);
            if let Some(from) = run.wanted_seek() {
                wanted.push((*partition, from));
            }
        }
        for (partition, from) in wanted {
            self.pulse.beat();
            match self.seek(partition, from) {
                Ok(()) => {
                    if let Some(run) = self.runs.get_mut(&partition) {
                        run.sought();
                    }
                }
                // The partition is still being taken; the next round tries again.
                Err(error) => tracing::debug!(partition, from, %error, "cannot seek yet"),
            }
        }
    }

    fn seek(&self, partition: i32, from: i64) -> rdkafka::error::KafkaResult<()> {
        self.group
            .seek(&self.topic, partition, Offset::Offset(from), SEEK_TIMEOUT)?;
        let list = self.list(&[partition], Offset::Invalid)?;
        self.group.resume(&list)
    }

    /// The epoch of a released partition ends here, before the group is answered.
    fn drop_released(&mut self) {
        let (fence, metrics) = (&self.jobs.fence, &self.jobs.metrics);
        self.runs.retain(|partition, run| {
            if run.released {
                fence.end(*partition);
                metrics.forget_lag(*partition);
            }
            !run.released
        });
    }

    fn show(&self) {
        let metrics = &self.jobs.metrics;
        let count = |what: fn(&Run) -> bool| self.runs.values().filter(|run| what(run)).count() as i64;
        metrics.assigned.set(self.runs.len() as i64);
        metrics.open_intents.set(count(Run::in_flight));
        metrics.waiting.set(count(Run::is_waiting));
        metrics.blocked.set(count(Run::is_blocked));
        metrics.memory.set(self.used() as i64);
        for (partition, run) in &self.runs {
            let log = self.group.context().log(*partition);
            let mut ratio = 0.0;
            if let Some(log) = log
                && let Some(lag) = run.lag(log.end)
            {
                metrics.set_lag(*partition, lag);
                if is_behind(run) {
                    ratio = unstored(log.low, log.end, lag);
                }
            }
            metrics.set_unstored(*partition, ratio);
            metrics.set_lag_age(*partition, age(run));
        }
    }

    /// Has the ends of the logs that are not read asked for.
    fn ask_ends(&mut self, now: Moment) {
        if now.since(self.ends_at) < ENDS_EVERY {
            return;
        }
        self.ends_at = now;
        let behind = self.runs.iter().filter(|(_, run)| is_behind(run));
        self.jobs.ask_ends(
            behind.map(|(partition, _)| *partition).collect(),
            &self.asking_ends,
        );
    }

    /// Whether a partition waits for an answer that will not come. Those that get no records read them again.
    fn stalls(&mut self, now: Moment) -> bool {
        // Beyond that, records are left where they are.
        let reads = self.used() < self.memory / 2;
        // Kafka's client gives up after about a minute, too.
        let bound = self.jobs.clickhouse.longest_answer() * 2;
        let mut stalls = false;
        for (partition, run) in &mut self.runs {
            let log = self.group.context().log(*partition).filter(|_| reads);
            let end = log.map(|log| log.end);
            match run.stall(now, end, bound) {
                None => {}
                Some(Stall::Records) => {
                    self.jobs.metrics.read_again.inc();
                    tracing::warn!(partition, end, ?run, "no record has come for long; reading again");
                    run.read_again();
                }
                Some(Stall::Answer) => {
                    stalls = true;
                    tracing::error!(
                        partition,
                        bound = bound.as_secs(),
                        ?run,
                        "no answer has come for long"
                    );
                }
            }
        }
        stalls
    }

    fn leave(&self) {
        self.show();
        self.group.context().close();
        tracing::info!("leaving the group");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_log_that_drops_records_can_lose_some() {
        for (low, end, lag, ratio) in [
            (0, 1000, 1000, 0.0),
            (0, 0, 0, 0.0),
            (500, 500, 0, 0.0),
            (500, 1500, 0, 0.0),
            (500, 1500, 250, 0.25),
            (500, 1500, 1000, 1.0),
            // Some is lost already.
            (500, 1500, 1200, 1.0),
            // Its beginning was asked for after its end.
            (1600, 1500, 100, 0.0),
        ] {
            assert_eq!(unstored(low, end, lag), ratio, "{low}..{end}, {lag} behind");
        }
    }
}
