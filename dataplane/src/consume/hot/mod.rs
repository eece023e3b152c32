//! Live figures: what was stored, counted per App and written to Redis, as `docs/hot-figures.md` says.
//!
//! ```text
//! INSERT under way: Figures::of(block) ──Stored──► queue (bounded in bytes) ──► Writer ──pipelined──► Redis
//! ```
//!
//! Invariants: figures follow the rows and never hold them: nobody waits for the queue or for Redis, and what has no
//! room is dropped and counted. Whatever is written may be written again without harm.

mod figures;
mod keys;
mod users;
mod writer;

use std::sync::Arc;
use std::time::Instant;

use penstock_dataplane_config::{PipelineRef, RedisTarget};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

pub(super) use self::figures::{Figures, Told};
use self::keys::Keys;
use self::writer::Writer;
use super::metrics::ConsumeMetrics;
use crate::process::Dependency;

/// Bytes of figures that wait: of the largest batches of one App about 50, of small ones thousands.
const ROOM: usize = 8 << 20;
/// The queue's room is given away in pieces of so many bytes.
const UNIT: usize = 1 << 10;

/// What becomes of figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Written,
    /// An attempt to write them failed.
    Failed,
    /// They were never written: no room, refused by Redis, too old, or the process stopped.
    Dropped,
}

impl Outcome {
    pub(super) const ALL: [Self; 3] = [Self::Written, Self::Failed, Self::Dropped];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

/// Figures on their way, and the room that they take.
#[derive(Debug)]
struct Waiting {
    figures: Figures,
    since: Instant,
    _room: OwnedSemaphorePermit,
}

/// Where figures are sent to be written. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Hot {
    queue: mpsc::UnboundedSender<Waiting>,
    room: Arc<Semaphore>,
    metrics: ConsumeMetrics,
}

/// The sender, and the writer to be run; the writer ends after the last sender is gone.
pub(super) fn new(
    target: &RedisTarget,
    pipeline: &PipelineRef,
    metrics: ConsumeMetrics,
    dependency: Dependency,
) -> (Hot, Writer) {
    let (queue, waiting) = mpsc::unbounded_channel();
    let keys = Keys::new(&target.prefix, pipeline);
    let writer = Writer::new(target.clone(), keys, waiting, metrics.clone(), dependency);
    let hot = Hot {
        queue,
        room: Arc::new(Semaphore::new(ROOM / UNIT)),
        metrics,
    };
    (hot, writer)
}

impl Hot {
    /// Hands figures to the writer, or drops them where there is no room. What is larger than all the room takes all.
    pub(super) fn send(&self, figures: Figures) {
        if figures.is_empty() {
            return;
        }
        let units = figures.bytes().div_ceil(UNIT).min(ROOM / UNIT) as u32;
        let sent = Arc::clone(&self.room)
            .try_acquire_many_owned(units)
            .is_ok_and(|room| {
                let waiting = Waiting {
                    figures,
                    since: Instant::now(),
                    _room: room,
                };
                self.queue.send(waiting).is_ok()
            });
        if !sent {
            self.metrics.told(Outcome::Dropped, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nix::time::{ClockId, clock_gettime};

    use super::super::native::Block;
    use super::super::position::{Position, Span};
    use super::figures::tests::{NOW, line};
    use super::*;
    use crate::process::{Needed, Process};

    fn whole() -> Told {
        let span = Span::new(0, 0);
        Told {
            span,
            part: span.whole(),
            refused: None,
        }
    }

    /// Everything but the kernel's part of sending:
    /// `cargo test --release -p penstock-dataplane --lib what_a_row_costs -- --ignored --nocapture`
    #[test]
    #[ignore = "a measurement, to be run alone and in the release profile"]
    fn what_a_row_costs() {
        let pipeline = PipelineRef {
            namespace: "growth".into(),
            name: "events".into(),
        };
        let keys = Keys::new("penstock", &pipeline);
        let cpu = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
        let (rows, rounds) = (50_000, 40);
        for (users, apps, minutes) in [(1000, 1, 1), (20_000, 1, 1), (50_000, 1, 1), (20_000, 20, 60)] {
            let mut block = Block::new();
            for row in 0..rows {
                let (app, user) = ((row / 25 % apps) as u8, format!("user-{}", row % users));
                let text = line(app, &user, NOW - i64::from(row / 100 % minutes) * 60_000);
                let parsed = super::super::line::parse(text.as_bytes()).unwrap();
                block.push(0, Position::new(0, row), &parsed);
            }
            let told = whole();
            let (mut counting, mut writing, mut bytes) = (Duration::ZERO, Duration::ZERO, 0);
            for _ in 0..rounds {
                let begun = cpu();
                let figures = Figures::of(0, &block, told, NOW);
                let counted = cpu();
                let packed = keys
                    .commands(&figures)
                    .map(|command| command.get_packed_command());
                bytes += packed.map(|command| command.len()).sum::<usize>();
                counting += counted - begun;
                writing += cpu() - counted;
            }
            let each = |took: Duration| took.as_secs_f64() * 1e9 / f64::from(rows * rounds);
            println!(
                "{users} users, {apps} Apps, {minutes} minutes in {rows} rows: {:.1} ns/row to count, {:.1} ns/row to write, {} bytes a batch",
                each(counting),
                each(writing),
                bytes / rounds as usize
            );
        }
    }

    /// Nobody writes here, and still nobody waits.
    #[tokio::test]
    async fn what_has_no_room_is_dropped_and_counted() {
        let Process {
            metrics,
            dependencies,
            ..
        } = Process::new();
        let target: RedisTarget = serde_json::from_str(r#"{"address":"127.0.0.1:1"}"#).unwrap();
        let pipeline = PipelineRef {
            namespace: "growth".into(),
            name: "events".into(),
        };
        let dependency = dependencies.add("redis", Needed::Never);
        let consume = ConsumeMetrics::new(&metrics);
        let (hot, writer) = new(&target, &pipeline, consume, dependency);
        let mut block = Block::new();
        for user in 0..20_000 {
            let text = line(1, &format!("user-{user}"), NOW);
            let parsed = super::super::line::parse(text.as_bytes()).unwrap();
            block.push(0, Position::new(0, user), &parsed);
        }
        let figures = Figures::of(0, &block, whole(), NOW);
        let bytes = figures.bytes();
        let fit = (ROOM / UNIT) / bytes.div_ceil(UNIT);
        assert!((20..1000).contains(&fit), "{fit} batches of {bytes} bytes");
        for _ in 0..fit + 7 {
            hot.send(figures.clone());
        }
        let text = metrics.prometheus();
        assert!(
            text.contains("penstock_consume_hot_figures_total{outcome=\"dropped\"} 7\n"),
            "{text}"
        );
        assert!(text.contains("outcome=\"written\"} 0\n") && text.contains("outcome=\"failed\"} 0\n"));
        drop(writer);
    }
}
