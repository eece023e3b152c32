//! Shutdown: begun once, by a signal or by a role, and seen by everyone.

use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Whether this process is to stop. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shutdown {
    token: CancellationToken,
    begun_at: std::sync::Arc<std::sync::OnceLock<Instant>>,
}

impl Shutdown {
    pub fn new() -> Self {
        Self {
            token: CancellationToken::new(),
            begun_at: std::sync::Arc::default(),
        }
    }

    /// Begins the shutdown. Later calls change nothing.
    pub fn begin(&self) {
        self.begun_at.get_or_init(Instant::now);
        self.token.cancel();
    }

    /// Resolves when the shutdown begins, at once when it has.
    pub async fn begun(&self) {
        self.token.cancelled().await;
    }

    pub fn is_begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// What is left of `bound` since the shutdown began; all of it while it has not.
    pub fn remaining(&self, bound: Duration) -> Duration {
        self.begun_at
            .get()
            .map_or(bound, |at| bound.saturating_sub(at.elapsed()))
    }

    /// Begins on SIGTERM or SIGINT. A second signal ends the process at once.
    pub fn on_signals(&self) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = self.clone();
        tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                if shutdown.is_begun() {
                    tracing::warn!(signal = name, "second signal: stopping without finishing");
                    std::process::exit(1);
                }
                tracing::info!(signal = name, "shutdown begins");
                shutdown.begin();
            }
        });
        Ok(())
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everyone_sees_it_once_begun() {
        let shutdown = Shutdown::new();
        let other = shutdown.clone();
        assert!(!other.is_begun());
        assert_eq!(other.remaining(Duration::from_secs(1)), Duration::from_secs(1));
        shutdown.begin();
        other.begun().await;
        assert!(other.is_begun());
        assert!(other.remaining(Duration::from_secs(1)) <= Duration::from_secs(1));
    }
}
