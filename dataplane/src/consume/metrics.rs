//! What the role counts. One process serves one pipeline, so the label sets are those of closed enums and of the
//! topic's partitions.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::dead_letters::Reason;
use super::failure::Class;
use super::hot::Outcome;
use crate::process::Metrics;

/// Seconds: from a small INSERT to the timeout of one.
const INSERT_SECONDS: [f64; 12] = [
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 120.0,
];
/// Seconds: from receipt to stored.
const FRESHNESS_SECONDS: [f64; 10] = [0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 15.0, 60.0, 600.0];
const BATCH_ROWS: [f64; 9] = [
    1.0, 10.0, 100.0, 1000.0, 5000.0, 20_000.0, 50_000.0, 100_000.0, 200_000.0,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByClass {
    class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOutcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPartition {
    partition: i32,
}

type Seconds = Gauge<f64, std::sync::atomic::AtomicU64>;
/// 0 to 1.
type Ratio = Seconds;

/// All metrics of the role. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct ConsumeMetrics {
    pub(super) rows: Counter,
    pub(super) batches: Counter,
    pub(super) bytes: Counter,
    pub(super) batch_rows: Histogram,
    pub(super) insert_seconds: Histogram,
    /// Of the oldest row of each stored batch.
    pub(super) freshness_seconds: Histogram,
    /// Seconds since 1970 at which the newest stored event was received.
    pub(super) newest_received: Seconds,
    retries: Family<ByClass, Counter>,
    dead_letters: Family<ByReason, Counter>,
    pub(super) dead_letter_failures: Counter,
    pub(super) letters_stored: Counter,
    pub(super) letter_table_failures: Counter,
    lag: Family<ByPartition, Gauge>,
    lag_age: Family<ByPartition, Seconds>,
    unstored: Family<ByPartition, Ratio>,
    pub(super) open_intents: Gauge,
    pub(super) assigned: Gauge,
    pub(super) blocked: Gauge,
    pub(super) waiting: Gauge,
    pub(super) memory: Gauge,
    pub(super) recovered: Counter,
    /// Offsets that the log no longer had.
    pub(super) lost_offsets: Counter,
    pub(super) other_logs: Counter,
    pub(super) members_replaced: Counter,
    pub(super) read_again: Counter,
    assignments: Family<ByReason, Counter>,
    pub(super) commit_retries: Counter,
    pub(super) questions: Counter,
    /// Rows that the table turned out to hold already.
    pub(super) rows_held: Counter,
    pub(super) tokens_without_rows: Counter,
    hot_figures: Family<ByOutcome, Counter>,
}

impl ConsumeMetrics {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let made = Self {
            rows: Counter::default(),
            batches: Counter::default(),
            bytes: Counter::default(),
            batch_rows: Histogram::new(BATCH_ROWS),
            insert_seconds: Histogram::new(INSERT_SECONDS),
            freshness_seconds: Histogram::new(FRESHNESS_SECONDS),
            newest_received: Gauge::default(),
            retries: Family::default(),
            dead_letters: Family::default(),
            dead_letter_failures: Counter::default(),
            letters_stored: Counter::default(),
            letter_table_failures: Counter::default(),
            lag: Family::default(),
            lag_age: Family::default(),
            unstored: Family::default(),
            open_intents: Gauge::default(),
            assigned: Gauge::default(),
            blocked: Gauge::default(),
            waiting: Gauge::default(),
            memory: Gauge::default(),
            recovered: Counter::default(),
            lost_offsets: Counter::default(),
            other_logs: Counter::default(),
            members_replaced: Counter::default(),
            read_again: Counter::default(),
            assignments: Family::default(),
            commit_retries: Counter::default(),
            questions: Counter::default(),
            rows_held: Counter::default(),
            tokens_without_rows: Counter::default(),
            hot_figures: Family::default(),
        };
        // There from the start: of a series that begins with its first event Prometheus sees no increase.
        for class in Class::ALL {
            let _ = made.retries.get_or_create(&ByClass { class: class.name() });
        }
        for reason in Reason::ALL {
            let _ = made.dead_letters.get_or_create(&ByReason {
                reason: reason.name(),
            });
        }
        for outcome in Outcome::ALL {
            made.told(outcome, 0);
        }
        metrics.register(|registry| {
            let consume = registry.sub_registry_with_prefix("consume");
            let m = made.clone();
            consume.register("rows", "Rows stored", m.rows);
            consume.register("batches", "INSERTs that succeeded", m.batches);
            consume.register("bytes", "Bytes of rows stored, as sent", m.bytes);
            consume.register("batch_rows", "Rows of an INSERT", m.batch_rows);
            consume.register(
                "insert_seconds",
                "Duration of an INSERT that succeeded",
                m.insert_seconds,
            );
            consume.register(
                "freshness_seconds",
                "From the receipt of a batch's oldest event to its being stored",
                m.freshness_seconds,
            );
            consume.register(
                "newest_received_timestamp_seconds",
                "When the newest stored event was received",
                m.newest_received,
            );
            consume.register(
                "insert_retries",
                "INSERTs to be repeated, by what went wrong",
                m.retries,
            );
            consume.register(
                "dead_letters",
                "Lines sent to the dead letters, by reason",
                m.dead_letters,
            );
            consume.register(
                "dead_letter_failures",
                "Attempts to write dead letters that failed and are repeated",
                m.dead_letter_failures,
            );
            consume.register(
                "dead_letters_stored",
                "Dead letters of ingest and consume that were stored in their table",
                m.letters_stored,
            );
            consume.register(
                "dead_letter_table_failures",
                "Attempts to store dead letters in their table that failed and are repeated",
                m.letter_table_failures,
            );
            consume.register("lag_records", "Records behind the log's end", m.lag);
            consume.register(
                "lag_seconds",
                "Age of the oldest record that is read and not stored, 0 where there is none",
                m.lag_age,
            );
            consume.register(
                "unstored_ratio",
                "How much of what the partition's log keeps is not stored, 0 to 1; 0 as long as the log has dropped nothing",
                m.unstored,
            );
            consume.register(
                "open_intents",
                "Batches whose intent is committed or under way",
                m.open_intents,
            );
            consume.register(
                "assigned_partitions",
                "Partitions assigned to this process",
                m.assigned,
            );
            consume.register(
                "blocked_partitions",
                "Partitions that wait at a record which a newer Penstock wrote",
                m.blocked,
            );
            consume.register(
                "waiting_partitions",
                "Partitions that wait to try again",
                m.waiting,
            );
            consume.register("memory_bytes", "Bytes of rows in memory", m.memory);
            consume.register(
                "recovered",
                "Batches that an earlier owner left open",
                m.recovered,
            );
            consume.register(
                "lost_offsets",
                "Offsets that the topic no longer had when they were to be read",
                m.lost_offsets,
            );
            consume.register(
                "other_logs",
                "Times that the group's offset did not belong to the topic's log",
                m.other_logs,
            );
            consume.register(
                "members_replaced",
                "Times that the Kafka client could do nothing more and another took its place in the group",
                m.members_replaced,
            );
            consume.register(
                "read_again",
                "Times that a partition was read again because none of the records that its log has came",
                m.read_again,
            );
            consume.register(
                "rebalanced_partitions",
                "Partitions given or taken by the group",
                m.assignments,
            );
            consume.register("commit_retries", "Commits to be repeated", m.commit_retries);
            consume.register(
                "questions",
                "Times the table was asked what it holds",
                m.questions,
            );
            consume.register(
                "tokens_without_rows",
                "Batches sent again because ClickHouse knew their token without their rows",
                m.tokens_without_rows,
            );
            consume.register(
                "rows_held",
                "Rows that the table turned out to hold already",
                m.rows_held,
            );
            consume.register(
                "hot_figures",
                "Batches whose figures were written to Redis, attempts that failed, batches that were dropped",
                m.hot_figures,
            );
        });
        made
    }

    pub(super) fn retried(&self, class: Class) {
        self.retries.get_or_create(&ByClass { class: class.name() }).inc();
    }

    pub(super) fn dead_lettered(&self, reason: &'static str, count: u64) {
        self.dead_letters
            .get_or_create(&ByReason { reason })
            .inc_by(count);
    }

    pub(super) fn rebalanced(&self, reason: &'static str, partitions: usize) {
        self.assignments
            .get_or_create(&ByReason { reason })
            .inc_by(partitions as u64);
    }

    /// What became of the figures of batches.
    pub(super) fn told(&self, outcome: Outcome, batches: u64) {
        self.hot_figures
            .get_or_create(&ByOutcome {
                outcome: outcome.name(),
            })
            .inc_by(batches);
    }

    pub(super) fn set_lag(&self, partition: i32, records: i64) {
        self.lag.get_or_create(&ByPartition { partition }).set(records);
    }

    pub(super) fn set_lag_age(&self, partition: i32, seconds: f64) {
        self.lag_age
            .get_or_create(&ByPartition { partition })
            .set(seconds);
    }

    pub(super) fn set_unstored(&self, partition: i32, ratio: f64) {
        self.unstored.get_or_create(&ByPartition { partition }).set(ratio);
    }

    /// The partition is somebody else's; its lag is theirs to tell.
    pub(super) fn forget_lag(&self, partition: i32) {
        self.unstored.remove(&ByPartition { partition });
        self.lag_age.remove(&ByPartition { partition });
        self.lag.remove(&ByPartition { partition });
    }
}
