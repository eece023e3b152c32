//! The log of finished queries, `system.query_log`: the engine as a library keeps none. Rows live in memory, as many as
//! `KEPT`, and are written in the background; `flush` waits until all that was logged before can be read.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::engine::{Connection, Engine};
use crate::failure::Failure;

const KEPT: u32 = 100_000;
const QUEUE: usize = 4096;
const PERIOD: Duration = Duration::from_millis(200);
const COLUMNS: &str = "type Enum8('QueryStart' = 1, 'QueryFinish' = 2, 'ExceptionBeforeStart' = 3, \
    'ExceptionWhileProcessing' = 4), event_date Date DEFAULT toDate(event_time), event_time DateTime, event_time_microseconds DateTime64(6), \
    query_duration_ms UInt64, read_rows UInt64, read_bytes UInt64, written_rows UInt64, written_bytes UInt64, \
    result_rows UInt64, result_bytes UInt64, query String, query_kind LowCardinality(String), exception_code Int32, \
    exception String, user String, query_id String";

/// A finished query.
#[derive(Debug, Clone, Default)]
pub(crate) struct Entry {
    pub(crate) duration: Duration,
    pub(crate) read_rows: u64,
    pub(crate) read_bytes: u64,
    pub(crate) written_rows: u64,
    pub(crate) written_bytes: u64,
    pub(crate) result_rows: u64,
    pub(crate) result_bytes: u64,
    /// The statement without its rows.
    pub(crate) query: String,
    pub(crate) exception_code: u32,
    pub(crate) exception: String,
    pub(crate) user: String,
    pub(crate) query_id: String,
}

enum Message {
    Entry(Box<Entry>, SystemTime),
    Flush(oneshot::Sender<()>),
}

/// Hands entries to the writer. When the writer lags by `QUEUE` entries, further ones are dropped and counted on
/// standard error: a log never delays a query.
#[derive(Debug, Clone)]
pub(crate) struct QueryLog {
    sender: mpsc::Sender<Message>,
}

impl QueryLog {
    /// Creates the table and starts the writer, which ends when the last handle is dropped.
    pub(crate) fn start(engine: &Arc<Engine>) -> Result<(Self, tokio::task::JoinHandle<()>), Failure> {
        let mut connection = engine.connect()?;
        let create = format!(
            "CREATE TABLE IF NOT EXISTS system.query_log ({COLUMNS}) ENGINE = Memory SETTINGS max_rows_to_keep = {KEPT}"
        );
        connection.query(create.as_bytes(), "Null", &[])?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let writer = tokio::task::spawn_blocking(move || write(receiver, connection));
        Ok((Self { sender }, writer))
    }

    pub(crate) fn add(&self, entry: Entry) {
        if self
            .sender
            .try_send(Message::Entry(Box::new(entry), SystemTime::now()))
            .is_err()
        {
            eprintln!("query log: an entry is dropped, because the writer lags");
        }
    }

    pub(crate) async fn flush(&self) {
        let (done, wait) = oneshot::channel();
        if self.sender.send(Message::Flush(done)).await.is_ok() {
            // The writer drops the sender only when it has ended; then there is nothing left to wait for.
            let _ = wait.await;
        }
    }
}

fn write(mut receiver: mpsc::Receiver<Message>, mut connection: Connection) {
    let mut messages = Vec::new();
    while receiver.blocking_recv_many(&mut messages, QUEUE) > 0 {
        let mut rows = String::new();
        let mut waiting = Vec::new();
        for message in messages.drain(..) {
            match message {
                Message::Entry(entry, at) => push_row(&mut rows, &entry, at),
                Message::Flush(done) => waiting.push(done),
            }
        }
        if !rows.is_empty() {
            let outcome = connection.insert(
                b"INSERT INTO system.query_log (* EXCEPT event_date)",
                "TabSeparated",
                &[],
                &[Bytes::from(rows)],
            );
            if let Err(failure) = outcome {
                eprintln!("query log: {failure}");
            }
        }
        if waiting.is_empty() {
            // Lets entries gather, so that a busy server writes a few blocks per second.
            std::thread::sleep(PERIOD);
        }
        for done in waiting {
            // Nobody waits any more when the client has left.
            let _ = done.send(());
        }
    }
}

fn push_row(rows: &mut String, entry: &Entry, at: SystemTime) {
    let micros = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    let kind = match (
        entry.exception_code,
        entry.read_rows + entry.written_rows + entry.result_rows,
    ) {
        (0, _) => "QueryFinish",
        (_, 0) => "ExceptionBeforeStart",
        _ => "ExceptionWhileProcessing",
    };
    let seconds = micros / 1_000_000;
    let first = entry.query.split_whitespace().next().unwrap_or_default();
    let query_kind: String = first
        .chars()
        .filter(char::is_ascii_alphabetic)
        .collect::<String>();
    let fields = [
        kind.to_string(),
        seconds.to_string(),
        format!("{seconds}.{:06}", micros % 1_000_000),
        entry.duration.as_millis().to_string(),
        entry.read_rows.to_string(),
        entry.read_bytes.to_string(),
        entry.written_rows.to_string(),
        entry.written_bytes.to_string(),
        entry.result_rows.to_string(),
        entry.result_bytes.to_string(),
        escaped(&entry.query),
        capitalised(&query_kind),
        entry.exception_code.to_string(),
        escaped(&entry.exception),
        escaped(&entry.user),
        escaped(&entry.query_id),
    ];
    rows.push_str(&fields.join("\t"));
    rows.push('\n');
}

fn capitalised(word: &str) -> String {
    let lower = word.to_ascii_lowercase();
    let mut letters = lower.chars();
    letters.next().map_or_else(String::new, |first| {
        format!("{}{}", first.to_ascii_uppercase(), letters.as_str())
    })
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('\t', "\\t")
        .replace('\n', "\\n")
        .replace('\0', "\\0")
}
