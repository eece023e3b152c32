//! `penstock`, which kubectl runs as `kubectl penstock` where it finds it under the name `kubectl-penstock`.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let called = std::env::args_os().next().unwrap_or_default();
    let plugin = Path::new(&called)
        .file_stem()
        .is_some_and(|name| name == "kubectl-penstock");
    penstock_cli::run(if plugin { "kubectl penstock" } else { "penstock" })
}
