//! What the commands have in common: how they end, and arguments that are checked before anything is measured.

use std::process::ExitCode;

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
