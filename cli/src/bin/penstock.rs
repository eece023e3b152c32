//! `penstock`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    penstock_cli::run("penstock")
}
