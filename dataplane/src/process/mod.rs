//! What every role runs inside: logs, metrics, dependencies, the admin port and shutdown.
//!
//! A role is a function `run(config, process) -> Result<(), RoleError>`. It registers its metrics and dependencies,
//! works until [`Shutdown::begun`], then stops taking work, finishes what it took and returns. The frame forces the
//! exit when that takes longer than [`SHUTDOWN_BOUND`].

pub mod admin;
pub mod dependencies;
pub mod logs;
pub mod metrics;
pub mod panics;
pub mod pulse;
pub mod shutdown;

use std::net::SocketAddr;
use std::time::Duration;

pub use dependencies::{Dependencies, Dependency, Needed};
pub use metrics::Metrics;
pub use pulse::Pulse;
pub use shutdown::Shutdown;

/// From the signal to the exit, whatever a role still has to do.
pub const SHUTDOWN_BOUND: Duration = Duration::from_secs(30);

/// Why a role could not start or go on; the process ends with it.
pub type RoleError = Box<dyn std::error::Error + Send + Sync>;

/// The handles a role gets. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Process {
    pub metrics: Metrics,
    pub dependencies: Dependencies,
    pub shutdown: Shutdown,
    pub pulse: Pulse,
}

impl Process {
    /// Handles for one process, none of them started.
    pub fn new() -> Self {
        let metrics = Metrics::new();
        panics::count(&metrics);
        Self {
            dependencies: Dependencies::new(&metrics),
            metrics,
            shutdown: Shutdown::new(),
            pulse: Pulse::default(),
        }
    }

    /// Runs `role` inside the frame: admin port, signals, and the bound on shutdown.
    pub async fn run<F>(self, admin: SocketAddr, role: F) -> Result<(), RoleError>
    where
        F: Future<Output = Result<(), RoleError>>,
    {
        let listener = admin::bind(admin).await?;
        tracing::info!(address = %listener.local_addr()?, "admin port is open");
        self.shutdown.on_signals()?;
        let admin = tokio::spawn(admin::serve(listener, self.clone()));
        let shutdown = self.shutdown.clone();
        let bound = async move {
            shutdown.begun().await;
            tokio::time::sleep(SHUTDOWN_BOUND).await;
        };
        let outcome = tokio::select! {
            outcome = role => outcome,
            () = bound => Err(format!("shutdown took longer than {} s", SHUTDOWN_BOUND.as_secs()).into()),
        };
        admin.abort();
        outcome
    }
}

impl Default for Process {
    fn default() -> Self {
        Self::new()
    }
}
