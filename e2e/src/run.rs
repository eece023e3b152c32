//! Running other programs to their end: quietly, with what they said kept for the error.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::{Context, Error, Result};

/// Runs a command and gives back what it printed. Failing, the error shows the command and what it said.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .doing(format_args!("starting `{shown}`"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(if output.stderr.is_empty() {
        &output.stdout
    } else {
        &output.stderr
    });
    Err(Error::new(format!(
        "`{shown}` ended with {}:\n    {}",
        output.status,
        said.trim().replace('\n', "\n    ")
    )))
}

/// Runs a long command with its output in a log.
pub(crate) fn run_logged(command: &mut Command, log: &Path) -> Result<()> {
    let shown = show(command);
    if let Some(parent) = log.parent() {
        fs::create_dir_all(parent).doing(format_args!("creating {}", parent.display()))?;
    }
    let output = File::create(log).doing(format_args!("creating {}", log.display()))?;
    let errors = output
        .try_clone()
        .doing(format_args!("opening {}", log.display()))?;
    let status = command
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .status()
        .doing(format_args!("starting `{shown}`"))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::new(format!("`{shown}` ended with {status}")).log(log))
}

/// The command as a person would type it. Only the program and its arguments: an environment may hold secrets.
fn show(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or(command.get_program());
    let mut text = program.to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_comes_back_and_failures_say_what_was_said() {
        assert_eq!(run(Command::new("echo").arg("hello")).unwrap(), "hello\n");
        let error = run(Command::new("sh").args(["-c", "echo broken >&2; exit 3"])).unwrap_err();
        assert!(
            error.message().contains("exit status: 3") && error.message().contains("broken"),
            "{error}"
        );
        let missing = run(&mut Command::new("/nowhere/at-all")).unwrap_err();
        assert!(missing.message().contains("starting `at-all`"), "{missing}");
    }
}
