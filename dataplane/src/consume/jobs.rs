//! Doing what a machine asks for, away from the driver's thread; every job ends in one answer.
//!
//! Whatever could change something checks the fence first, immediately before it acts: a job may have waited.

use std::hash::Hasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::runtime::Handle;
use xxhash_rust::xxh3::Xxh3;

use super::clickhouse::ClickHouse;
use super::clock::Moment;
use super::dead_letters::{AT_ONCE, DeadLetter, DeadLetters, Original, Reason};
use super::failure::{Class, Failure};
use super::fence::{Epoch, Fence};
use super::group::{Group, SESSION_MS};
use super::hot::{Figures, Hot, Told};
use super::intent::Intent;
use super::metrics::ConsumeMetrics;
use super::native::Block;
use super::position::{Part, Position};
use super::protocol::{CommitOutcome, Committed, Event, Held, InsertOutcome, Lookup};
use super::record::{Content, DeadLine};
use super::target;
use super::wake::Waker;
use crate::process::Dependency;
use crate::utc::now_ms;

/// How long the group or a log may take to answer.
const KAFKA_TIMEOUT: Duration = Duration::from_secs(10);

/// What a job found out.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) partition: i32,
    pub(super) epoch: Epoch,
    pub(super) event: Event,
    pub(super) found: Found,
}

/// What comes with an event.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// With [`Held::Some`]: which rows of the block are missing.
    pub(super) missing: Option<Arc<Vec<bool>>>,
    /// With [`InsertOutcome::Refused`]: what ClickHouse said.
    pub(super) refusal: Option<String>,
    /// With [`Event::Inserted`]: what may be told of the part once it is known to be stored.
    pub(super) figures: Option<Figures>,
}

/// Who a job is done for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tenure {
    pub(super) partition: i32,
    pub(super) epoch: Epoch,
}

/// What jobs are done with. Cheap to clone.
#[derive(Clone)]
pub(super) struct Jobs {
    pub(super) topic: Arc<str>,
    pub(super) runtime: Handle,
    pub(super) group: Arc<Group>,
    pub(super) clickhouse: ClickHouse,
    pub(super) dead_letters: Arc<DeadLetters>,
    pub(super) fence: Fence,
    pub(super) metrics: ConsumeMetrics,
    pub(super) hot: Option<Hot>,
    pub(super) clickhouse_seen: Dependency,
    pub(super) answers: Sender<Answer>,
    pub(super) waker: Waker,
}

/// The rows to insert.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) content: Arc<Content>,
    pub(super) part: Part,
    /// Only these, and the digest that the table's answer had.
    pub(super) missing: Option<(u64, Arc<Vec<bool>>)>,
    pub(super) intent: Intent,
    pub(super) intent_at: Moment,
}

/// A line that the consumer itself cannot read, as a letter.
fn malformed(tenure: Tenure, line: &DeadLine) -> DeadLetter<'_> {
    DeadLetter {
        partition: tenure.partition,
        position: line.position,
        lines: line.lines,
        reason: Reason::Malformed,
        detail: &line.detail,
        key: line.key.as_deref(),
        value: &line.value,
    }
}

impl Jobs {
    fn answer(&self, tenure: Tenure, event: Event) {
        self.send(tenure, event, Found::default());
    }

    fn send(&self, tenure: Tenure, event: Event, found: Found) {
        let Tenure { partition, epoch } = tenure;
        // The driver is gone when the process ends; nobody needs the answer then.
        let _ = self.answers.send(Answer {
            partition,
            epoch,
            event,
            found,
        });
        self.waker.wake();
    }

    fn list(&self, partition: i32, offset: Offset, metadata: &str) -> Result<TopicPartitionList, KafkaError> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, partition, offset)?;
        if !metadata.is_empty()
            && let Some(mut element) = list.find_partition(&self.topic, partition)
        {
            element.set_metadata(metadata);
        }
        Ok(list)
    }

    /// Asks the group for its offset and the log for its bounds.
    pub(super) fn look(&self, tenure: Tenure) {
        let jobs = self.clone();
        self.runtime.spawn_blocking(move || {
            let lookup = jobs.lookup(tenure.partition);
            if let Err(error) = &lookup {
                tracing::warn!(partition = tenure.partition, %error, "cannot read the group's offset");
            }
            jobs.answer(tenure, Event::Looked(lookup.ok()));
        });
    }

    fn lookup(&self, partition: i32) -> Result<Lookup, KafkaError> {
        let committed = self.committed(partition)?;
        let (low, high) = self
            .group
            .fetch_watermarks(&self.topic, partition, KAFKA_TIMEOUT)?;
        Ok(Lookup { committed, low, high })
    }

    /// Asks where the logs of partitions begin and end: librdkafka learns that by fetching, and it does not fetch what nobody
    /// reads. Heard of by [`super::group::GroupContext::log`]; `asking` is set meanwhile.
    pub(super) fn ask_ends(&self, partitions: Vec<i32>, asking: &Arc<AtomicBool>) {
        if partitions.is_empty() || asking.swap(true, Ordering::SeqCst) {
            return;
        }
        let (jobs, asking) = (self.clone(), Arc::clone(asking));
        self.runtime.spawn_blocking(move || {
            for partition in partitions {
                match jobs.group.fetch_watermarks(&jobs.topic, partition, KAFKA_TIMEOUT) {
                    Ok((low, end)) => jobs.group.context().reaches(partition, low, end),
                    Err(error) => {
                        tracing::debug!(partition, %error, "cannot ask for the log's end");
                        break;
                    }
                }
            }
            asking.store(false, Ordering::SeqCst);
        });
    }

    fn committed(&self, partition: i32) -> Result<Committed, KafkaError> {
        let list = self.list(partition, Offset::Invalid, "")?;
        let found = self.group.committed_offsets(list, KAFKA_TIMEOUT)?;
        let Some(element) = found.find_partition(&self.topic, partition) else {
            return Ok(None);
        };
        element.error()?;
        Ok(match element.offset() {
            Offset::Offset(offset) => Some((offset, element.metadata().to_owned())),
            _ => None,
        })
    }

    pub(super) fn commit(&self, tenure: Tenure, offset: i64, metadata: String, known: Vec<Committed>) {
        let jobs = self.clone();
        self.runtime.spawn_blocking(move || {
            let outcome = if jobs.fence.holds(tenure.partition, tenure.epoch) {
                match jobs.try_commit(tenure, offset, &metadata, &known) {
                    Ok(outcome) => outcome,
                    Err(error) => {
                        // Also where the generation is not current: either a rebalance that left the partition
                        // here has just ended, or the fence is about to.
                        jobs.metrics.commit_retries.inc();
                        tracing::info!(partition = tenure.partition, %error, "commit to be repeated");
                        CommitOutcome::Retry
                    }
                }
            } else {
                CommitOutcome::Fenced
            };
            jobs.answer(tenure, Event::Committed(outcome));
        });
    }

    fn try_commit(
        &self,
        tenure: Tenure,
        offset: i64,
        metadata: &str,
        known: &[Committed],
    ) -> Result<CommitOutcome, KafkaError> {
        let Tenure { partition, epoch } = tenure;
        if !known.contains(&self.committed(partition)?) {
            return Ok(CommitOutcome::Moved);
        }
        if !self.fence.holds(partition, epoch) {
            return Ok(CommitOutcome::Fenced);
        }
        let list = self.list(partition, Offset::Offset(offset), metadata)?;
        self.group.commit(&list, CommitMode::Sync)?;
        if let Some(element) = list.find_partition(&self.topic, partition) {
            element.error()?;
        }
        Ok(CommitOutcome::Done)
    }

    /// Writes the dead lines of a batch.
    pub(super) fn dead_letter(&self, tenure: Tenure, content: Arc<Content>) {
        let jobs = self.clone();
        self.runtime.spawn(async move {
            let mut written = Ok(());
            for some in content.dead.chunks(AT_ONCE) {
                let letters: Vec<_> = some.iter().map(|line| malformed(tenure, line)).collect();
                written = jobs.dead_letters.write(&letters).await;
                if written.is_err() {
                    break;
                }
            }
            if let Some(first) = content.dead.first() {
                jobs.written(tenure, &malformed(tenure, first), content.dead.len(), written);
            }
        });
    }

    /// Writes the row that ClickHouse refuses.
    pub(super) fn dead_letter_row(
        &self,
        tenure: Tenure,
        content: Arc<Content>,
        at: Position,
        mut detail: String,
    ) {
        let jobs = self.clone();
        self.runtime.spawn(async move {
            let reader = jobs.clone();
            let read = tokio::task::spawn_blocking(move || reader.original(tenure.partition, at));
            let (key, value) = match read.await {
                Ok(Ok(Some(original))) => original,
                // What the batch has of it is all that there is.
                Ok(Ok(None)) => {
                    detail.push_str(
                        " (its record has left the topic: this says what it said, in other bytes and without its key)",
                    );
                    (None, content.block.line(at).unwrap_or_default())
                }
                Ok(Err(error)) => {
                    tracing::warn!(partition = tenure.partition, %error, "cannot read a refused row again");
                    jobs.answer(tenure, Event::DeadLettered(false));
                    return;
                }
                Err(_) => {
                    jobs.answer(tenure, Event::DeadLettered(false));
                    return;
                }
            };
            let letter = DeadLetter {
                partition: tenure.partition,
                position: at,
                lines: 1,
                reason: Reason::Refused,
                detail: &detail,
                key: key.as_deref(),
                value: &value,
            };
            let written = jobs.dead_letters.write(&[letter]).await;
            jobs.written(tenure, &letter, 1, written);
        });
    }

    /// A line of the topic, and its record's key; `None` once the log begins behind it. Blocks.
    fn original(&self, partition: i32, at: Position) -> Result<Option<Original>, KafkaError> {
        self.dead_letters
            .original(partition, at)
            .map(Some)
            .or_else(|error| {
                let (low, _) = self
                    .group
                    .fetch_watermarks(&self.topic, partition, KAFKA_TIMEOUT)?;
                if at.offset < low { Ok(None) } else { Err(error) }
            })
    }

    /// Answers with what became of so many letters of one reason.
    fn written(&self, tenure: Tenure, first: &DeadLetter<'_>, count: usize, written: Result<(), KafkaError>) {
        match &written {
            Ok(()) => {
                self.metrics.dead_lettered(first.reason.name(), count as u64);
                tracing::warn!(
                    partition = tenure.partition,
                    count,
                    reason = first.reason.name(),
                    offset = first.position.offset,
                    row = first.position.row,
                    detail = first.detail,
                    "dead letters written"
                );
            }
            Err(error) => {
                self.metrics.dead_letter_failures.inc();
                tracing::warn!(partition = tenure.partition, %error, "cannot write dead letters");
            }
        }
        self.answer(tenure, Event::DeadLettered(written.is_ok()));
    }

    /// Asks the table what it holds of a part.
    pub(super) fn ask(&self, tenure: Tenure, content: Arc<Content>, part: Part) {
        let jobs = self.clone();
        self.runtime.spawn(async move {
            jobs.metrics.questions.inc();
            let asked = content
                .block
                .row_ids()
                .filter(|id| part.contains(id.position))
                .count();
            let missing = target::missing(&jobs.clickhouse, tenure.partition, &content.block, part).await;
            jobs.see(missing.as_ref().map(drop));
            let Ok(missing) = missing else {
                jobs.answer(tenure, Event::Asked(None));
                return;
            };
            let lacking = missing.iter().filter(|missing| **missing).count();
            jobs.metrics.rows_held.inc_by((asked - lacking) as u64);
            let held = match lacking {
                0 => Held::All,
                n if n == asked => Held::None,
                _ => Held::Some(digest(&content.block, &missing)),
            };
            if held != Held::None {
                tracing::info!(
                    partition = tenure.partition,
                    asked,
                    lacking,
                    "the table holds rows of this range"
                );
            }
            let found = Found {
                missing: Some(Arc::new(missing)),
                ..Found::default()
            };
            jobs.send(tenure, Event::Asked(Some(held)), found);
        });
    }

    /// Tells live views of what is stored. It is counted while it is sent; what was found stored is counted now.
    /// Nobody waits for it.
    pub(super) fn tell(&self, tenure: Tenure, content: &Arc<Content>, told: Told, counted: Option<Figures>) {
        let Some(hot) = self.hot.clone() else { return };
        if let Some(figures) = counted {
            hot.send(figures);
            return;
        }
        let content = Arc::clone(content);
        self.runtime.spawn(async move {
            hot.send(Figures::of(tenure.partition, &content.block, told, now_ms()));
        });
    }

    pub(super) fn insert(&self, tenure: Tenure, rows: Rows) {
        let jobs = self.clone();
        self.runtime.spawn(async move {
            let content = Arc::clone(&rows.content);
            let told = Told {
                span: rows.intent.span,
                part: rows.part,
                refused: None,
            };
            // While ClickHouse has the rows, so that their memory is free for the next as soon as they are stored.
            let counting = async {
                let counted = |_| Figures::of(tenure.partition, &content.block, told, now_ms());
                jobs.hot.as_ref().map(counted)
            };
            let ((outcome, refusal), figures) = futures::join!(jobs.try_insert(tenure, rows), counting);
            drop(content);
            let found = Found {
                refusal,
                figures,
                ..Found::default()
            };
            jobs.send(tenure, Event::Inserted(outcome), found);
        });
    }

    async fn try_insert(&self, tenure: Tenure, rows: Rows) -> (InsertOutcome, Option<String>) {
        let mut token = rows.intent.token(&self.topic, tenure.partition);
        let keep = match &rows.missing {
            Some((digest, missing)) => {
                token.push_str(&format!("/{digest:016x}"));
                Some(missing.as_slice())
            }
            None => None,
        };
        let block = chosen(&rows.content, rows.part, rows.intent, keep);
        let allowed = {
            let (fence, sent) = (self.fence.clone(), rows.intent_at);
            move || {
                fence.holds(tenure.partition, tenure.epoch)
                    && Moment::now().since(sent) < Duration::from_millis(SESSION_MS)
            }
        };
        if !allowed() {
            return (InsertOutcome::Stale, None);
        }
        let started = Moment::now();
        let outcome = self
            .clickhouse
            .insert(Arc::clone(&block), &token, Box::new(allowed))
            .await;
        let failure = match outcome {
            Ok(()) => {
                self.see(Ok(()));
                self.stored(&block, started);
                return (InsertOutcome::Stored, None);
            }
            Err(failure) => failure,
        };
        let holds = self.fence.holds(tenure.partition, tenure.epoch);
        let outcome = outcome_of(&failure, &block, holds);
        if outcome != InsertOutcome::Stale {
            self.metrics.retried(failure.class);
        }
        match failure.class {
            Class::Data => self.see(Ok(())),
            Class::Cut => {
                tracing::warn!(
                    partition = tenure.partition,
                    rows = block.rows(),
                    bytes = block.bytes(),
                    holds,
                    ?outcome,
                    "a batch was not sent to its end: {failure}"
                );
            }
            _ => {
                tracing::info!(partition = tenure.partition, token, %failure, "INSERT to be repeated");
                self.see(Err(&failure));
            }
        }
        let refused = matches!(outcome, InsertOutcome::RefusedRow { .. });
        (outcome, refused.then_some(failure.detail))
    }

    fn see(&self, outcome: Result<(), &Failure>) {
        match outcome {
            Ok(()) => self.clickhouse_seen.found(),
            Err(failure) => self.clickhouse_seen.lost(failure.to_string()),
        }
    }

    fn stored(&self, block: &Block, started: Moment) {
        let metrics = &self.metrics;
        let seconds = Moment::now().since(started).as_secs_f64();
        metrics.batches.inc();
        metrics.rows.inc_by(u64::from(block.rows()));
        metrics.bytes.inc_by(block.bytes() as u64);
        metrics.batch_rows.observe(f64::from(block.rows()));
        metrics.insert_seconds.observe(seconds);
        if let Some((oldest, newest)) = block.received() {
            let now = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0.0, |since| since.as_secs_f64());
            metrics
                .freshness_seconds
                .observe((now - oldest as f64 / 1000.0).max(0.0));
            let newest = newest as f64 / 1000.0;
            if newest > metrics.newest_received.get() {
                metrics.newest_received.set(newest);
            }
        }
    }
}

/// What an INSERT that failed means. `holds`: whether the partition is still this process's.
fn outcome_of(failure: &Failure, block: &Block, holds: bool) -> InsertOutcome {
    let half = block.rows() / 2;
    let middle = block.row_ids().nth(half as usize).map(|id| id.position);
    match (failure.class, middle) {
        (Class::Data, Some(at)) if half == 0 => InsertOutcome::RefusedRow { at },
        (Class::Data, Some(middle)) => InsertOutcome::Refused { middle },
        // Half of it may be sent in time; as it is, it would be cut for ever.
        (Class::Cut, Some(middle)) if holds && half > 0 => InsertOutcome::Cut { middle },
        // The server has not had all of it, so it stores nothing.
        (Class::Cut, _) => InsertOutcome::Stale,
        // Whatever the age of the intent by now: it was sent, and may be stored. An empty block cannot be the data's fault.
        _ => InsertOutcome::Retry,
    }
}

/// The rows of a part, or those of them that are missing. A whole batch is sent from where it lies.
fn chosen(content: &Arc<Content>, part: Part, intent: Intent, missing: Option<&[bool]>) -> Arc<Block> {
    let block = &content.block;
    if part == intent.span.whole() && missing.is_none() {
        return Arc::clone(block);
    }
    let keep: Vec<bool> = block
        .row_ids()
        .enumerate()
        .map(|(row, id)| part.contains(id.position) && missing.is_none_or(|m| m.get(row) == Some(&true)))
        .collect();
    Arc::new(block.filtered(&keep))
}

/// Names the missing rows by their positions, so that the same rows have the same token.
fn digest(block: &Block, missing: &[bool]) -> u64 {
    let mut hasher = Xxh3::new();
    for (id, _) in block.row_ids().zip(missing).filter(|(_, missing)| **missing) {
        hasher.write_i64(id.position.offset);
        hasher.write_u32(id.position.row);
    }
    hasher.digest()
}

#[cfg(test)]
mod tests {
    use super::super::record::GOOD;
    use super::*;

    fn block(rows: i64) -> Arc<Block> {
        let mut content = Content::default();
        for offset in 0..rows {
            content.add(0, offset, None, GOOD.as_bytes()).unwrap();
        }
        content.block
    }

    #[test]
    fn only_what_was_not_sent_to_its_end_is_known_not_to_be_stored() {
        let (at, middle) = (Position::new(0, 0), Position::new(2, 0));
        for (class, rows, holds, outcome) in [
            (Class::Data, 4, true, InsertOutcome::Refused { middle }),
            (Class::Data, 1, true, InsertOutcome::RefusedRow { at }),
            (Class::Data, 0, true, InsertOutcome::Retry),
            (Class::Cut, 4, true, InsertOutcome::Cut { middle }),
            (Class::Cut, 1, true, InsertOutcome::Stale),
            (Class::Cut, 4, false, InsertOutcome::Stale),
            (Class::Timeout, 4, true, InsertOutcome::Retry),
            (Class::Timeout, 4, false, InsertOutcome::Retry),
            (Class::Unreachable, 4, false, InsertOutcome::Retry),
            (Class::Server, 1, true, InsertOutcome::Retry),
        ] {
            let failure = Failure::new(class, "why");
            assert_eq!(
                outcome_of(&failure, &block(rows), holds),
                outcome,
                "{class:?} of {rows}, {holds}"
            );
        }
    }
}
