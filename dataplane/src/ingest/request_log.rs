//! The log of requests: refused ones, slow ones, and one in many of the rest. Lines are written by a thread of their
//! own; a shard that finds the way full goes on without.

use std::cell::Cell;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use http::HeaderValue;

use super::metrics::IngestMetrics;

/// Of the requests that were answered well and quickly.
const ONE_IN: u32 = 1000;
const SLOW: Duration = Duration::from_secs(1);
/// Lines that may wait for the writer.
const QUEUE: usize = 1024;
/// Refused requests a shard logs in a second; a flood of them says nothing more.
const REFUSED_PER_SECOND: u32 = 20;

/// One line. No key, no path, no query: clients put secrets into all three.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) method: &'static str,
    pub(crate) route: &'static str,
    pub(crate) status: u16,
    /// Of its `X-Request-Id`.
    pub(crate) id: HeaderValue,
    /// The refusal's code, empty for none.
    pub(crate) code: &'static str,
    /// `namespace/name`, empty where the key was not known.
    pub(crate) app: String,
    pub(crate) events: u32,
    pub(crate) bytes: usize,
    pub(crate) duration: Duration,
}

/// A shard's side of the log.
#[derive(Debug)]
pub(crate) struct RequestLog {
    lines: SyncSender<Entry>,
    metrics: IngestMetrics,
    answered: Cell<u32>,
    second: Cell<(Instant, u32)>,
}

/// Starts the writer; the sender is cloned for each shard.
pub(crate) fn start() -> std::io::Result<SyncSender<Entry>> {
    let (sender, lines) = sync_channel(QUEUE);
    std::thread::Builder::new()
        .name("request-log".into())
        .spawn(move || write(&lines))?;
    Ok(sender)
}

fn write(lines: &Receiver<Entry>) {
    for line in lines {
        let Entry {
            method,
            route,
            status,
            id,
            code,
            app,
            events,
            bytes,
            duration,
        } = line;
        let id = id.to_str().unwrap_or_default();
        let milliseconds = duration.as_secs_f64() * 1000.0;
        tracing::info!(
            method,
            route,
            status,
            id,
            code,
            app,
            events,
            bytes,
            milliseconds,
            "request"
        );
    }
}

impl RequestLog {
    pub(crate) fn new(lines: SyncSender<Entry>, metrics: IngestMetrics) -> Self {
        Self {
            lines,
            metrics,
            answered: Cell::new(0),
            second: Cell::new((Instant::now(), 0)),
        }
    }

    /// Whether a request with this outcome is to be logged.
    pub(crate) fn wants(&self, status: u16, duration: Duration) -> bool {
        if status >= 400 {
            let (began, count) = self.second.get();
            if began.elapsed() >= Duration::from_secs(1) {
                self.second.set((Instant::now(), 1));
                return true;
            }
            self.second.set((began, count + 1));
            if count >= REFUSED_PER_SECOND {
                self.metrics.log_lines_dropped.inc();
            }
            return count < REFUSED_PER_SECOND;
        }
        self.answered.set(self.answered.get().wrapping_add(1));
        duration >= SLOW || self.answered.get() % ONE_IN == 1
    }

    pub(crate) fn write(&self, entry: Entry) {
        if self.lines.try_send(entry).is_err() {
            self.metrics.log_lines_dropped.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Metrics;

    #[test]
    fn refused_and_slow_requests_are_logged_and_few_of_the_rest() {
        let (sender, _lines) = sync_channel(1);
        let log = RequestLog::new(sender, IngestMetrics::new(&Metrics::new()));
        let quick = Duration::from_millis(1);
        assert_eq!((0..5000).filter(|_| log.wants(200, quick)).count(), 5);
        assert!(log.wants(200, SLOW));
        assert_eq!(
            (0..1000).filter(|_| log.wants(503, quick)).count(),
            REFUSED_PER_SECOND as usize
        );
    }
}
