//! What must not be left half done when a person stops the program.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};

use crate::exit::{Failure, INTERRUPTED, Result, TERMINATED};

/// While one is there, the first SIGINT or SIGTERM is only noted; the second one, and each when none is there any more,
/// ends the program, as if nobody had listened.
#[derive(Debug)]
pub struct Critical {
    stopped: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
}

impl Critical {
    pub fn begin() -> Result<Self> {
        let failed = |error: std::io::Error| Failure::Failed(format!("cannot listen for signals: {error}"));
        let critical = Self {
            stopped: Arc::default(),
            over: Arc::default(),
        };
        let (stopped, over) = (Arc::clone(&critical.stopped), Arc::clone(&critical.over));
        // A thread of its own: the program's one may be waiting for Kafka.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let listen = runtime.enter();
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        drop(listen);
        std::thread::spawn(move || {
            runtime.block_on(async move {
                loop {
                    let code = tokio::select! {
                        _ = interrupt.recv() => INTERRUPTED,
                        _ = terminate.recv() => TERMINATED,
                    };
                    if over.load(Ordering::SeqCst) || stopped.swap(true, Ordering::SeqCst) {
                        std::process::exit(code.into());
                    }
                }
            });
        });
        Ok(critical)
    }

    /// Whether the person wants to stop.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }
}

impl Drop for Critical {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
    }
}
