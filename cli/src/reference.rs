//! `docs/cli.md`: every command, argument and exit code, from what the program itself knows.

use std::fmt::Write as _;

use clap::builder::StyledStr;
use clap::{Arg, Command, CommandFactory as _};

use crate::arguments::Arguments;
use crate::exit::CODES;

/// The whole page.
pub fn page() -> String {
    let mut root = Arguments::command();
    root.build();
    let mut page = include_str!("reference.md").to_owned();
    page.push_str("\n## Exit codes\n\n| code | |\n|---|---|\n");
    for (code, meaning) in CODES {
        // Writing to a String cannot fail.
        let _ = writeln!(page, "| {code} | {meaning} |");
    }
    page.push_str("\n## Options of every command\n\n");
    table(
        &mut page,
        root.get_arguments().filter(|argument| argument.is_global_set()),
    );
    commands(&mut page, &root, "penstock");
    page
}

fn commands(page: &mut String, parent: &Command, path: &str) {
    for command in parent.get_subcommands() {
        let path = format!("{path} {}", command.get_name());
        if command.has_subcommands() {
            commands(page, command, &path);
            continue;
        }
        let about = command.get_about().map(StyledStr::to_string).unwrap_or_default();
        let usage = command.clone().render_usage().to_string();
        let usage = usage.trim_start_matches("Usage: ");
        let _ = write!(page, "\n## {path}\n\n{about}.\n\n```\n{usage}\n```\n\n");
        table(
            page,
            command
                .get_arguments()
                .filter(|argument| !argument.is_global_set()),
        );
        if let Some(help) = command.get_after_help() {
            let examples = help.to_string();
            page.push_str("\n```sh\n");
            for line in examples.lines().filter_map(|line| line.strip_prefix("  ")) {
                let _ = writeln!(page, "{line}");
            }
            page.push_str("```\n");
        }
    }
}

fn table<'c>(page: &mut String, arguments: impl Iterator<Item = &'c Arg>) {
    page.push_str("| | |\n|---|---|\n");
    for argument in arguments.filter(|argument| !matches!(argument.get_id().as_str(), "help" | "version")) {
        let mut meaning = argument.get_help().map(StyledStr::to_string).unwrap_or_default();
        let takes = argument.get_action().takes_values();
        let values: Vec<_> = match takes {
            true => argument
                .get_possible_values()
                .iter()
                .map(|v| format!("`{}`", v.get_name()))
                .collect(),
            false => Vec::new(),
        };
        if !values.is_empty() {
            let _ = write!(meaning, ": {}", values.join(", "));
        }
        let default = argument.get_default_values().first();
        if let Some(default) = default.filter(|_| takes) {
            let _ = write!(meaning, "; default `{}`", default.to_string_lossy());
        }
        if let Some(variable) = argument.get_env() {
            let _ = write!(meaning, "; also `{}`", variable.to_string_lossy());
        }
        let _ = writeln!(page, "| `{}` | {} |", name(argument), meaning.replace('|', "\\|"));
    }
}

fn name(argument: &Arg) -> String {
    let value = argument.get_value_names().and_then(|names| names.first());
    let value = value.map(|value| value.to_string()).unwrap_or_default();
    if argument.is_positional() {
        return value.replace('|', "\\|");
    }
    let short = argument
        .get_short()
        .map(|short| format!("-{short}, "))
        .unwrap_or_default();
    let value = match argument.get_action().takes_values() {
        true => format!(" {value}"),
        false => String::new(),
    };
    format!("{short}--{}{value}", argument.get_long().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md");
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            written == page(),
            "docs/cli.md is not current: cargo run -p penstock-cli --example reference > docs/cli.md"
        );
    }

    /// Every `penstock …` of the documentation's shell examples can be written so.
    #[test]
    fn what_the_pages_tell_people_to_type_is_understood() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        let pages = std::fs::read_dir(format!("{root}/docs")).expect("docs");
        let pages = pages.map(|page| page.expect("a page").path());
        let pages = pages.filter(|page| page.extension().is_some_and(|kind| kind == "md"));
        let mut seen = 0;
        for page in pages.chain([format!("{root}/README.md").into()]) {
            let text = std::fs::read_to_string(&page).expect("a page");
            let mut shell = false;
            for line in text.lines() {
                match line {
                    "```sh" => shell = true,
                    "```" => shell = false,
                    _ if shell && line.starts_with("penstock ") => {
                        let words = line.split_whitespace();
                        let words: Vec<_> = words
                            .take_while(|word| !matches!(*word, "|" | ">" | "#"))
                            .collect();
                        let parsed = Arguments::command().try_get_matches_from(words);
                        assert!(
                            parsed.is_ok(),
                            "{}: {line}: {}",
                            page.display(),
                            parsed.unwrap_err()
                        );
                        seen += 1;
                    }
                    _ => {}
                }
            }
        }
        assert!(seen > 20, "{seen} examples");
    }

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }
}
