//! The one that writes figures to Redis, batch after batch.
//!
//! A Redis that cannot be reached is tried again until it is there: what waits meanwhile is bounded by the queue's room
//! and by [`KEPT`]. A Redis that answers with an error loses that batch's figures alone, for the next may do better.

use std::time::Duration;

use penstock_dataplane_config::RedisTarget;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, Pipeline, RedisError, RetryMethod};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;

use super::figures::Figures;
use super::keys::Keys;
use super::{Outcome, Waiting};
use crate::consume::metrics::ConsumeMetrics;
use crate::process::Dependency;

const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Without figures to write Redis is asked so often whether it is there.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// Figures that waited longer are of no minute that anybody looks at live, and their keys may have ended.
const KEPT: Duration = Duration::from_secs(3600);
/// Commands of one pipeline: about a megabyte at most.
const TOGETHER: usize = 64;

pub(in crate::consume) struct Writer {
    target: RedisTarget,
    keys: Keys,
    waiting: UnboundedReceiver<Waiting>,
    metrics: ConsumeMetrics,
    dependency: Dependency,
    connection: Option<MultiplexedConnection>,
}

impl Writer {
    pub(super) fn new(
        target: RedisTarget,
        keys: Keys,
        waiting: UnboundedReceiver<Waiting>,
        metrics: ConsumeMetrics,
        dependency: Dependency,
    ) -> Self {
        Self {
            target,
            keys,
            waiting,
            metrics,
            dependency,
            connection: None,
        }
    }

    /// Writes until nobody can send any more.
    pub(in crate::consume) async fn run(mut self) {
        self.ask().await;
        loop {
            match timeout(ASK_EVERY, self.waiting.recv()).await {
                Ok(Some(waiting)) => self.deliver(waiting).await,
                Ok(None) => return,
                Err(_) => self.ask().await,
            }
        }
    }

    async fn ask(&mut self) {
        let asked = self.send([redis::cmd("PING")].into_iter()).await;
        self.see(&asked);
    }

    async fn deliver(&mut self, waiting: Waiting) {
        while waiting.since.elapsed() < KEPT {
            let written = self.write(&waiting.figures).await;
            self.see(&written);
            match written {
                Ok(()) => return self.metrics.told(Outcome::Written, 1),
                Err(error) => {
                    self.metrics.told(Outcome::Failed, 1);
                    if is_refusal(&error) || self.waiting.is_closed() {
                        break;
                    }
                }
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
        self.metrics.told(Outcome::Dropped, 1);
    }

    async fn write(&mut self, figures: &Figures) -> Result<(), RedisError> {
        let keys = self.keys.clone();
        self.send(keys.commands(figures)).await
    }

    async fn send(&mut self, commands: impl Iterator<Item = Cmd>) -> Result<(), RedisError> {
        let connection = match &mut self.connection {
            Some(open) => open,
            none => none.insert(penstock_connect::redis::open(&self.target).await?),
        };
        let mut pipeline = Pipeline::new();
        let mut commands = commands.peekable();
        while let Some(command) = commands.next() {
            pipeline.add_command(command).ignore();
            if pipeline.len() == TOGETHER || commands.peek().is_none() {
                pipeline.query_async::<()>(connection).await?;
                pipeline.clear();
            }
        }
        Ok(())
    }

    fn see(&mut self, outcome: &Result<(), RedisError>) {
        match outcome {
            Ok(()) => self.dependency.found(),
            Err(error) => {
                if !is_refusal(error) {
                    self.connection = None;
                }
                self.dependency.lost(error.to_string());
            }
        }
    }
}

/// Whether Redis is there and does not want it: a key of another kind, no memory left.
fn is_refusal(error: &RedisError) -> bool {
    let answered = matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension);
    answered && matches!(error.retry_method(), RetryMethod::NoRetry)
}
