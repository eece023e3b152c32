//! `penstock-dataplane ROLE --config FILE [--check]`
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use penstock_dataplane::process::{Process, RoleError, logs, panics};
use penstock_dataplane::{consume, ingest};
use penstock_dataplane_config::load::{Config, Environment, Loaded, load_file, render};
use penstock_dataplane_config::{ConsumeConfig, DrainConfig, IngestConfig};

/// Penstock's data plane: one role per process.
#[derive(Debug, Parser)]
#[command(name = "penstock-dataplane", version)]
struct Arguments {
    role: Role,
    /// The role's settings, YAML. A variable overrides each: PENSTOCK_KAFKA__BOOTSTRAP sets kafka.bootstrap.
    #[arg(long, default_value = "/etc/penstock/config.yaml")]
    config: PathBuf,
    /// Validate, print the effective configuration and exit.
    #[arg(long)]
    check: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    /// HTTP to Kafka.
    Ingest,
    /// Kafka to ClickHouse.
    Consume,
    /// A spool that no process uses any more, to Kafka; ends when it is empty.
    Drain,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Consume => "consume",
            Self::Drain => "drain",
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.role {
        Role::Ingest => start(
            &arguments,
            tokio::runtime::Builder::new_current_thread(),
            |config: IngestConfig, process| (config.admin.clone(), ingest::run(config, process)),
        ),
        Role::Consume => start(
            &arguments,
            tokio::runtime::Builder::new_current_thread(),
            |config: ConsumeConfig, process| (config.admin.clone(), consume::run(config, process)),
        ),
        Role::Drain => start(
            &arguments,
            tokio::runtime::Builder::new_current_thread(),
            |config: DrainConfig, process| (config.admin.clone(), ingest::drain(config, process)),
        ),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if arguments.check => {
            eprintln!("{}: {error}", arguments.config.display());
            ExitCode::FAILURE
        }
        Err(error) => {
            tracing::error!(error = %error, "stopped by an error");
            ExitCode::FAILURE
        }
    }
}

/// How long the end waits for blocking calls.
const BLOCKING_CALLS: Duration = Duration::from_secs(1);

/// Loads the role's configuration, then prints it or runs the role on `runtime`.
fn start<C, R, F>(
    arguments: &Arguments,
    mut runtime: tokio::runtime::Builder,
    role: R,
) -> Result<(), RoleError>
where
    C: Config,
    R: FnOnce(C, Process) -> (String, F),
    F: Future<Output = Result<(), RoleError>>,
{
    let environment: Environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    if arguments.check {
        let Loaded { config, warnings } = load_file::<C>(&arguments.config, &environment)?;
        for warning in warnings {
            eprintln!("warning: {warning}");
        }
        print!("{}", render(&config)?);
        return Ok(());
    }
    logs::start();
    panics::install_hook();
    let Loaded { config, warnings } = load_file::<C>(&arguments.config, &environment)?;
    for warning in warnings {
        tracing::warn!(warning, "configuration");
    }
    let effective = serde_json::to_string(&config)?;
    tracing::info!(
        role = arguments.role.name(),
        version = env!("CARGO_PKG_VERSION"),
        effective,
        "starting"
    );
    let process = Process::new();
    let runtime = runtime.enable_all().build()?;
    let outcome = runtime.block_on(async {
        let (admin, role) = role(config, process.clone());
        let admin: SocketAddr = admin.parse()?;
        process.run(admin, role).await
    });
    // A blocking call that hangs must not hold the process: what it was for has been given up.
    runtime.shutdown_timeout(BLOCKING_CALLS);
    if outcome.is_ok() {
        tracing::info!(role = arguments.role.name(), "stopped");
    }
    outcome
}
