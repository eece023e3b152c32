//! `./e2e/kit`: see the library's module `cli`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use penstock_e2e::cli::Cli;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error}");
            ExitCode::FAILURE
        }
    }
}
