//! Dead letters from their topic into their table, for asking in SQL what could not be stored.
//!
//! ```text
//! ingest, consume ──► <topic>.dlq ──read, 1 s or 1000 letters──► INSERT ──► commit
//! ```
//!
//! The topic is what a letter is safe in; the table is made from it. Letters come from ingest and from every consumer, so
//! they are read from where all of them are, by a group of its own.
//!
//! Invariants:
//! - Events wait for nothing here: a thread of its own reads, with a client of its own and bounded memory, and whatever
//!   goes wrong is counted, said in the log and tried again from what is committed.
//! - What is committed is in the table. What was stored and not committed is stored again, and is the same row then: the
//!   sort key tells letters apart (`penstock_dataplane_config::letters`).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use penstock_dataplane_config::letters::{LETTER_COLUMNS, letter_group};
use penstock_dataplane_config::table::quote_identifier;
use penstock_dataplane_config::{ConsumeConfig, record};
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{Headers, Message};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use uuid::Uuid;

use super::clickhouse::ClickHouse;
use super::column::push_varint;
use super::failure::Failure;
use super::group::{SESSION_MS, client};
use super::metrics::ConsumeMetrics;
use crate::forgotten::Forgotten;
use crate::process::Shutdown;
use crate::utc::now_ms;

/// When a batch is full.
const MOST: u32 = 1000;
const MOST_BYTES: usize = 4 << 20;
const OLDEST: Duration = Duration::from_secs(1);
/// How long a shutdown may go unseen.
const LOOK: Duration = Duration::from_millis(250);
/// Between attempts, doubled each time.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Why letters are not stored for now.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("ClickHouse: {0}")]
    ClickHouse(Failure),
    #[error("Kafka: {0}")]
    Kafka(#[from] KafkaError),
    #[error("the Kafka client has forgotten its brokers")]
    Forgotten,
}

/// Notices a client that can do nothing more.
#[derive(Default)]
struct Context(Forgotten);

impl ClientContext for Context {
    fn stats(&self, statistics: Statistics) {
        self.0.see(&statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka");
    }
}

impl ConsumerContext for Context {}

/// Letters on their way to the table.
#[derive(Debug, Default)]
struct Batch {
    /// RowBinary, in the order of [`LETTER_COLUMNS`].
    rows: Vec<u8>,
    letters: u32,
    /// What is to be committed of each partition, behind records that are no letters, too.
    next: BTreeMap<i32, i64>,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.letters >= MOST || self.rows.len() >= MOST_BYTES
    }

    fn add(&mut self, message: &impl Message) {
        self.next.insert(message.partition(), message.offset() + 1);
        if let Some(letter) = Letter::of(message) {
            letter.write(&mut self.rows);
            self.letters += 1;
        }
    }
}

/// Stores the dead letters of one pipeline.
#[derive(Debug)]
pub(super) struct LetterTable {
    config: ConsumeConfig,
    insert: String,
    clickhouse: ClickHouse,
    metrics: ConsumeMetrics,
    shutdown: Shutdown,
    runtime: tokio::runtime::Handle,
}

impl LetterTable {
    /// `table`: its name, in the database of the event table.
    pub(super) fn new(
        config: ConsumeConfig,
        table: &str,
        clickhouse: ClickHouse,
        metrics: ConsumeMetrics,
        shutdown: Shutdown,
    ) -> Self {
        let columns: Vec<String> = LETTER_COLUMNS
            .iter()
            .map(|column| quote_identifier(column.name))
            .collect();
        Self {
            insert: format!(
                "INSERT INTO {}.{} ({}) FORMAT RowBinary",
                quote_identifier(&config.clickhouse.database),
                quote_identifier(table),
                columns.join(", ")
            ),
            config,
            clickhouse,
            metrics,
            shutdown,
            runtime: tokio::runtime::Handle::current(),
        }
    }

    /// Stores letters until the shutdown begins. Blocks.
    pub(super) fn run(&self) {
        let mut pause = SHORTEST_PAUSE;
        while !self.shutdown.is_begun() {
            if let Err(trouble) = self.follow(&mut pause) {
                self.metrics.letter_table_failures.inc();
                tracing::warn!(%trouble, "dead letters are not stored in their table; they are safe in their topic");
                self.runtime.block_on(async {
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = self.shutdown.begun() => {}
                    }
                });
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    /// Reads with one client until something goes wrong. The next one begins at what is committed, so nothing has to be
    /// kept of what was not stored.
    fn follow(&self, pause: &mut Duration) -> Result<(), Trouble> {
        let consumer = self.join()?;
        let outcome = self.store_all(&consumer, pause);
        if outcome.is_err() {
            // Leaving the group may take as long as Kafka is away.
            std::thread::spawn(move || drop(consumer));
        }
        outcome
    }

    fn join(&self) -> KafkaResult<BaseConsumer<Context>> {
        let consumer: BaseConsumer<Context> = client(&self.config)?
            .set("group.id", letter_group(&self.config.group))
            .set("session.timeout.ms", SESSION_MS.to_string())
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // The letters that were there before the table, too.
            .set("auto.offset.reset", "earliest")
            // There is seldom one: an idle broker is asked once a second, and answers at once when there is.
            .set("fetch.wait.max.ms", "1000")
            .set("queued.max.messages.kbytes", "2048")
            .set("fetch.message.max.bytes", "1048576")
            .set("statistics.interval.ms", "5000")
            .create_with_context(Context::default())?;
        consumer.subscribe(&[&self.config.kafka.dead_letter_topic])?;
        Ok(consumer)
    }

    fn store_all(&self, consumer: &BaseConsumer<Context>, pause: &mut Duration) -> Result<(), Trouble> {
        while !self.shutdown.is_begun() {
            let batch = self.gather(consumer)?;
            if batch.next.is_empty() {
                continue;
            }
            let mut next = TopicPartitionList::new();
            for (partition, offset) in batch.next {
                let topic = &self.config.kafka.dead_letter_topic;
                next.add_partition_offset(topic, partition, Offset::Offset(offset))?;
            }
            if batch.letters > 0 {
                let stored = self.runtime.block_on(async {
                    tokio::select! {
                        stored = self.clickhouse.insert_rows(&self.insert, batch.rows) => Some(stored),
                        // The runtime is about to end. Whoever comes next stores them, again or not.
                        () = self.shutdown.begun() => None,
                    }
                });
                let Some(stored) = stored else { return Ok(()) };
                stored.map_err(Trouble::ClickHouse)?;
                self.metrics.letters_stored.inc_by(u64::from(batch.letters));
            }
            consumer.commit(&next, CommitMode::Sync)?;
            *pause = SHORTEST_PAUSE;
        }
        Ok(())
    }

    /// Waits for a letter, and then for those that come soon after.
    fn gather(&self, consumer: &BaseConsumer<Context>) -> Result<Batch, Trouble> {
        let mut batch = Batch::default();
        let mut first = None;
        while !self.shutdown.is_begun() && !batch.is_full() {
            let left = first.map_or(LOOK, |first: Instant| OLDEST.saturating_sub(first.elapsed()));
            if left.is_zero() {
                break;
            }
            match consumer.poll(left.min(LOOK)) {
                Some(Ok(message)) => {
                    first.get_or_insert_with(Instant::now);
                    batch.add(&message);
                }
                Some(Err(error)) if is_passing(&error) => tracing::debug!(%error, "cannot read dead letters"),
                Some(Err(error)) => return Err(error.into()),
                None if consumer.context().0.is_certain() => return Err(Trouble::Forgotten),
                None => {}
            }
        }
        Ok(batch)
    }
}

/// librdkafka connects again by itself.
fn is_passing(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{AllBrokersDown, BrokerTransportFailure};
    matches!(
        error,
        KafkaError::MessageConsumption(AllBrokersDown | BrokerTransportFailure)
    )
}

/// A letter by the headers of its record, as bytes: what is no UTF-8 is stored as it is.
#[derive(Debug, Default, PartialEq, Eq)]
struct Letter<'m> {
    failed_at: i64,
    reason: &'m [u8],
    step: &'m [u8],
    detail: &'m [u8],
    app_id: Uuid,
    origin: Origin<'m>,
    group: &'m [u8],
    partition: i32,
    offset: i64,
    key: &'m [u8],
    value: &'m [u8],
}

/// Where a line was, or nothing.
#[derive(Debug, Default, PartialEq, Eq)]
struct Origin<'m> {
    topic: &'m str,
    partition: i32,
    offset: i64,
    row: u32,
}

impl<'m> Origin<'m> {
    /// `topic/partition/offset/row`.
    fn of(header: &'m [u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(header).ok()?.rsplitn(4, '/');
        let (row, offset, partition) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self {
            row: row.parse().ok()?,
            offset: offset.parse().ok()?,
            partition: partition.parse().ok()?,
            topic: parts.next()?,
        })
    }
}

impl<'m> Letter<'m> {
    /// `None`: it says no reason, so it is a receipt, a barrier or another program's.
    fn of(message: &'m impl Message) -> Option<Self> {
        let mut letter = Self {
            failed_at: message.timestamp().to_millis().unwrap_or_else(now_ms),
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().unwrap_or_default(),
            value: message.payload().unwrap_or_default(),
            ..Self::default()
        };
        for header in message.headers()?.iter() {
            let value = header.value.unwrap_or_default();
            match header.key {
                record::REASON => letter.reason = value,
                record::STEP => letter.step = value,
                record::DETAIL => letter.detail = value,
                record::GROUP => letter.group = value,
                record::APP => letter.app_id = Uuid::try_parse_ascii(value).unwrap_or_default(),
                record::ORIGIN => letter.origin = Origin::of(value).unwrap_or_default(),
                _ => {}
            }
        }
        (!letter.reason.is_empty()).then_some(letter)
    }

    /// Appends its row, in the order of [`LETTER_COLUMNS`].
    fn write(&self, out: &mut Vec<u8>) {
        let text = |out: &mut Vec<u8>, bytes: &[u8]| {
            push_varint(out, bytes.len());
            out.extend_from_slice(bytes);
        };
        out.extend(self.failed_at.to_le_bytes());
        text(out, self.reason);
        text(out, self.step);
        text(out, self.detail);
        // A UUID is two little-endian numbers, the high one first.
        let (high, low) = self.app_id.as_u64_pair();
        out.extend(high.to_le_bytes());
        out.extend(low.to_le_bytes());
        text(out, self.origin.topic.as_bytes());
        out.extend(self.origin.partition.to_le_bytes());
        out.extend(self.origin.offset.to_le_bytes());
        out.extend(self.origin.row.to_le_bytes());
        text(out, self.group);
        out.extend(self.partition.to_le_bytes());
        out.extend(self.offset.to_le_bytes());
        text(out, self.key);
        text(out, self.value);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::net::TcpListener;
    use std::sync::mpsc;

    use penstock_dataplane_config::table::ColumnKind;
    use rdkafka::message::{Header, OwnedHeaders, OwnedMessage, Timestamp};
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};

    use super::super::native::{read_uuid, read_varint};
    use super::*;
    use crate::process::Process;

    const APP: &str = "6f0c4a4e-5d0b-5c58-9a52-0d9c9a8f3b11";

    fn message(headers: &[(&str, &str)], key: Option<&[u8]>, value: &[u8]) -> OwnedMessage {
        let headers = headers.iter().fold(OwnedHeaders::new(), |all, &(key, value)| {
            all.insert(Header {
                key,
                value: Some(value),
            })
        });
        OwnedMessage::new(
            Some(value.to_vec()),
            key.map(<[u8]>::to_vec),
            "growth.events.dlq".into(),
            Timestamp::CreateTime(1_763_730_000_123),
            2,
            41,
            Some(headers),
        )
    }

    fn read(mut row: &[u8]) -> Vec<Vec<u8>> {
        let fields = read_one(&mut row);
        assert!(row.is_empty(), "{} bytes more than the columns", row.len());
        fields
    }

    /// Reads one row as the columns say that ClickHouse does; texts as they are, numbers as text.
    fn read_one(row: &mut &[u8]) -> Vec<Vec<u8>> {
        fn take<'r>(row: &mut &'r [u8], length: usize) -> &'r [u8] {
            let (value, rest) = row.split_at(length);
            *row = rest;
            value
        }
        let number = |text: String| text.into_bytes();
        let fields = LETTER_COLUMNS.iter().map(|column| match column.kind {
            ColumnKind::Text | ColumnKind::Symbol => {
                let (length, bytes) = read_varint(row);
                take(row, bytes);
                take(row, length).to_vec()
            }
            ColumnKind::Uuid => {
                let id = read_uuid(take(row, 16).try_into().unwrap());
                number(Uuid::from_u128(id).to_string())
            }
            ColumnKind::Timestamp | ColumnKind::Int64 => {
                number(i64::from_le_bytes(take(row, 8).try_into().unwrap()).to_string())
            }
            ColumnKind::Int32 => number(i32::from_le_bytes(take(row, 4).try_into().unwrap()).to_string()),
            ColumnKind::UInt32 => number(u32::from_le_bytes(take(row, 4).try_into().unwrap()).to_string()),
            ColumnKind::UInt64 | ColumnKind::Date => unreachable!("no such column"),
        });
        fields.collect()
    }

    fn row(message: &OwnedMessage) -> Vec<Vec<u8>> {
        let mut batch = Batch::default();
        batch.add(message);
        assert_eq!((batch.letters, batch.next.get(&2)), (1, Some(&42)));
        read(&batch.rows)
    }

    #[test]
    fn a_line_keeps_its_origin_and_its_bytes() {
        let line = [b"\x00\xff not UTF-8 ".as_slice(), &b"x".repeat(300)].concat();
        let origin = "a/b.topic/7/123456789012/4000000000";
        let headers = [
            ("penstock-reason", "Malformed"),
            ("penstock-step", "consume"),
            ("penstock-detail", "at byte 1"),
            ("penstock-origin", origin),
            ("penstock-app", APP),
            ("another", "program's"),
        ];
        let expected: [&[u8]; 14] = [
            b"1763730000123",
            b"Malformed",
            b"consume",
            b"at byte 1",
            APP.as_bytes(),
            b"a/b.topic",
            b"7",
            b"123456789012",
            b"4000000000",
            b"",
            b"2",
            b"41",
            b"u-1",
            &line,
        ];
        assert_eq!(row(&message(&headers, Some(b"u-1"), &line)), expected);
    }

    #[test]
    fn what_ingest_wrote_has_the_name_that_ingest_gave_it() {
        let headers = [
            ("penstock-reason", "TooOld"),
            ("penstock-step", "ingest"),
            ("penstock-detail", "older than 730 days"),
            ("penstock-app", APP),
            ("penstock-group", "boot/0/9"),
        ];
        let fields = row(&message(&headers, None, b"{}"));
        let expected: [&[u8]; 10] = [
            APP.as_bytes(),
            b"",
            b"0",
            b"0",
            b"0",
            b"boot/0/9",
            b"2",
            b"41",
            b"",
            b"{}",
        ];
        assert_eq!(fields[4..], expected);
    }

    #[test]
    fn headers_that_say_nothing_leave_what_a_row_has_without_them() {
        for (name, value) in [
            ("penstock-origin", "topic/1/2"),
            ("penstock-origin", "topic/1/2/-3"),
            ("penstock-app", "no-uuid"),
        ] {
            let fields = row(&message(
                &[("penstock-reason", "Refused"), (name, value)],
                None,
                b"x",
            ));
            let plain = row(&message(&[("penstock-reason", "Refused")], None, b"x"));
            assert_eq!(fields, plain, "{name}: {value}");
        }
    }

    #[test]
    fn records_that_are_no_letters_are_passed_over_and_committed() {
        let mut batch = Batch::default();
        for headers in [
            &[("penstock-replayed", "3..9")][..],
            &[],
            &[("penstock-group", "b/0/1")],
        ] {
            batch.add(&message(headers, None, b""));
        }
        let bare = OwnedMessage::new(None, None, "t".into(), Timestamp::NotAvailable, 0, 7, None);
        batch.add(&bare);
        assert_eq!((batch.letters, batch.rows.len()), (0, 0));
        assert_eq!(batch.next, [(0, 8), (2, 42)].into());
    }

    #[test]
    fn a_batch_is_full_of_letters_or_of_bytes() {
        let mut batch = Batch::default();
        let large = message(&[("penstock-reason", "Refused")], None, &vec![b'x'; 900_000]);
        while !batch.is_full() {
            batch.add(&large);
        }
        assert_eq!(batch.letters, 5);
        let small = message(&[("penstock-reason", "Refused")], None, b"x");
        let mut batch = Batch::default();
        while !batch.is_full() {
            batch.add(&small);
        }
        assert_eq!(batch.letters, MOST);
    }

    /// A ClickHouse that takes every INSERT, and the bodies that it took.
    fn clickhouse() -> (u16, mpsc::Receiver<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, bodies) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                let (mut head, mut length) = (String::new(), 0);
                while !head.ends_with("\r\n\r\n") {
                    let begin = head.len();
                    stream.read_line(&mut head).unwrap();
                    let line = head[begin..].to_ascii_lowercase();
                    if let Some(value) = line.strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                }
                assert!(
                    head.contains("INSERT%20INTO%20%60d%60.%60t_dead_letters%60"),
                    "{head}"
                );
                let mut body = vec![0; length];
                stream.read_exact(&mut body).unwrap();
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                stream.get_mut().write_all(answer).unwrap();
                if sender.send(body).is_err() {
                    return;
                }
            }
        });
        (port, bodies)
    }

    #[test]
    fn letters_go_from_the_topic_into_the_table_and_are_committed() {
        const PATIENCE: Duration = Duration::from_secs(60);
        let kafka: MockCluster<'_, DefaultProducerContext> = MockCluster::new(1).unwrap();
        kafka.create_topic("t.dlq", 1, 1).unwrap();
        let (port, bodies) = clickhouse();
        let config: ConsumeConfig = serde_json::from_value(serde_json::json!({
            "version": 1,
            "pipeline": {"namespace": "n", "name": "p"},
            "kafka": {"bootstrap": kafka.bootstrap_servers(), "topic": "t", "deadLetterTopic": "t.dlq"},
            "group": "g",
            "clickhouse": {"url": format!("http://127.0.0.1:{port}"), "database": "d", "table": "t"},
            "deadLetterTable": "t_dead_letters",
        }))
        .unwrap();
        let producer: BaseProducer = client(&config).unwrap().create().unwrap();
        let produce = |reason: Option<&str>, value: &[u8]| {
            let headers = OwnedHeaders::new().insert(Header {
                key: record::REASON,
                value: reason,
            });
            let letter = BaseRecord::<(), _>::to("t.dlq").payload(value).headers(headers);
            producer.send(letter).unwrap();
            producer.flush(PATIENCE).unwrap();
        };
        produce(Some("Malformed"), b"first \xff");
        produce(None, b"no letter");
        produce(Some("Refused"), b"second");

        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let inside = runtime.enter();
        let process = Process::new();
        let (metrics, shutdown) = (ConsumeMetrics::new(&process.metrics), process.shutdown);
        let table = LetterTable::new(
            config.clone(),
            "t_dead_letters",
            ClickHouse::new(&config.clickhouse).unwrap(),
            metrics.clone(),
            shutdown.clone(),
        );
        drop(inside);
        let thread = std::thread::spawn(move || table.run());
        let next = || -> Vec<Vec<u8>> {
            let body = bodies.recv_timeout(PATIENCE).unwrap();
            let mut rows = body.as_slice();
            std::iter::from_fn(|| (!rows.is_empty()).then(|| read_one(&mut rows).remove(13))).collect()
        };
        assert_eq!(next(), [b"first \xff".to_vec(), b"second".to_vec()]);
        // It is read once what came before is committed.
        produce(Some("Refused"), b"third");
        assert_eq!(next(), [b"third"]);
        shutdown.begin();
        thread.join().unwrap();
        assert_eq!(
            (
                metrics.letter_table_failures.get(),
                metrics.letters_stored.get() >= 2
            ),
            (0, true)
        );

        let mut group = client(&config).unwrap();
        let group: BaseConsumer = group.set("group.id", "g.dead-letters").create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition("t.dlq", 0);
        let committed = group.committed_offsets(list, PATIENCE).unwrap();
        let committed = committed.find_partition("t.dlq", 0).unwrap().offset();
        assert!(matches!(committed, Offset::Offset(3 | 4)), "{committed:?}");
    }
}
