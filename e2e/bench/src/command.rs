//! What the commands have in common: how they end, and arguments that are checked before anything is measured.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

/// Arguments of both benchmarks of storing.
#[derive(Debug, Args)]
pub struct Storing {
    /// Runs of each; the figures are their medians.
    #[arg(long, env = "RUNS", default_value_t = 5, value_parser = runs)]
    pub runs: usize,
    /// Seconds of each steady load.
    #[arg(long, env = "SECONDS_EACH", default_value_t = 20)]
    pub seconds: u64,
    /// Where the page is; only one part of it is written.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// How a command ends.
pub fn exit(outcome: penstock_e2e::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A number of events that are sent in requests of a thousand.
pub fn thousands(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(number) if number >= 10_000 && number % 1000 == 0 => Ok(number),
        _ => Err("it must be thousands, 10000 or more".into()),
    }
}

/// A number of runs: there is no median of none.
pub fn runs(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err("it must be 1 or more".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_cannot_be_measured_are_refused() {
        assert_eq!((thousands("20000"), runs("5")), (Ok(20_000), Ok(5)));
        for bad in ["0", "9000", "20001", "-1000", "many"] {
            assert!(thousands(bad).is_err(), "{bad}");
        }
        assert!(runs("0").is_err() && runs("").is_err());
    }
}
