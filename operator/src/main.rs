//! `penstock-operator`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use penstock_operator::run;
use penstock_operator::settings::{Args, Settings};

fn main() -> ExitCode {
    let settings = match Settings::try_from(Args::parse()) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("penstock-operator: {error}");
            return ExitCode::from(2);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("penstock-operator: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run::run(settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the operator ends");
            eprintln!("penstock-operator: {error}");
            ExitCode::FAILURE
        }
    }
}
