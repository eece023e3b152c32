//! The command line.

use clap::{Parser, Subcommand};
use clap_complete::Shell;

use crate::cluster::Where;
use crate::dlq::Dlq;
use crate::replay::Replay;
use crate::schema::Schema;
use crate::status::Status;
use crate::tail::Tail;
use crate::user::User;

/// Penstock: pipelines, their events and their dead letters.
#[derive(Clone, Debug, Parser)]
#[command(name = "penstock", version, disable_help_subcommand = true)]
pub struct Arguments {
    #[command(flatten)]
    pub place: Where,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Whether pipelines are Ready, and why not
    #[command(
        after_help = "Examples:\n  penstock status -A\n  penstock status events -n growth\n  penstock status -n growth -o json | jq '.[].ready'"
    )]
    Status(Status),
    /// The events of a pipeline as they come, one a line
    #[command(
        after_help = "Examples:\n  penstock tail events -n growth\n  penstock tail events --app shop --event purchase --since 10m\n  penstock tail events -o json | jq .event_data"
    )]
    Tail(Tail),
    /// Dead letters: events that could not be stored
    #[command(subcommand)]
    Dlq(Dlq),
    /// Rows that the table lacks, out of the topic again
    #[command(
        after_help = "Examples:\n  penstock replay events -n growth --from 2h --dry-run\n  penstock replay events -n growth --from 2026-11-28T10:00:00Z --to 2026-11-28T12:00:00Z\n  penstock replay --topic growth.events -n growth --from beginning"
    )]
    Replay(Replay),
    /// A pipeline's tables: as they are, as they shall be, and what to do about it
    #[command(subcommand)]
    Schema(Schema),
    /// What is stored of one user: print it, or erase it
    #[command(subcommand)]
    User(User),
    /// The completion script of a shell
    #[command(
        after_help = "Examples:\n  penstock completion bash > /etc/bash_completion.d/penstock\n  source <(penstock completion zsh)\n  penstock completion fish > ~/.config/fish/completions/penstock.fish"
    )]
    Completion {
        /// The shell
        shell: Shell,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Arguments, String> {
        Arguments::try_parse_from(line.split_whitespace()).map_err(|error| error.to_string())
    }

    /// What prints is printed for people, and as JSON and YAML for programs. An export is JSON for whoever it is given to,
    /// and a completion script is the shell's.
    #[test]
    fn every_result_comes_in_three_formats() {
        fn formats(command: &clap::Command, path: &str, found: &mut Vec<String>) {
            for command in command.get_subcommands() {
                let path = format!("{path} {}", command.get_name());
                if command.has_subcommands() {
                    formats(command, &path, found);
                    continue;
                }
                let output = command
                    .get_arguments()
                    .find(|one| one.get_long() == Some("output"));
                let Some(output) = output else { continue };
                let values: Vec<_> = output
                    .get_possible_values()
                    .iter()
                    .map(|value| value.get_name().to_owned())
                    .collect();
                assert_eq!(values, ["table", "json", "yaml"], "{path}");
                assert_eq!(
                    (output.get_short(), output.get_default_values()),
                    (Some('o'), &["table".into()][..]),
                    "{path}"
                );
                found.push(path);
            }
        }
        let mut found = Vec::new();
        formats(&Arguments::command(), "penstock", &mut found);
        assert_eq!(
            found,
            [
                "penstock status",
                "penstock tail",
                "penstock dlq list",
                "penstock dlq show",
                "penstock dlq replay",
                "penstock replay",
                "penstock schema status",
                "penstock schema plan",
                "penstock schema apply",
                "penstock schema repair",
                "penstock user erase",
            ]
        );
    }

    #[test]
    fn a_replay_is_told_its_pipeline_or_its_topic() {
        let replay = |line: &str| match parse(&format!("penstock replay --from 2h {line}")) {
            Ok(Arguments {
                command: Command::Replay(replay),
                ..
            }) => Ok((replay.pipeline, replay.topic)),
            Ok(_) => panic!("another command"),
            Err(error) => Err(error),
        };
        let (pipeline, topic) = (Some("events".to_owned()), Some("growth.events".to_owned()));
        assert_eq!(replay("events"), Ok((pipeline.clone(), None)));
        assert_eq!(replay("--topic growth.events"), Ok((None, topic.clone())));
        assert_eq!(replay("events --topic growth.events"), Ok((pipeline, topic)));
        assert!(replay("").unwrap_err().contains("<PIPELINE>"));
    }

    #[test]
    fn letters_are_named_by_offsets() {
        let Ok(Arguments {
            command: Command::Dlq(Dlq::Replay(replay)),
            ..
        }) = parse("penstock dlq replay events 17 1/20..25 --dry-run")
        else {
            panic!("not understood");
        };
        let letters: Vec<_> = replay
            .letters
            .iter()
            .map(|named| (named.partition, named.offsets.clone()))
            .collect();
        assert_eq!(letters, [(0, 17..=17), (1, 20..=25)]);
        assert!(parse("penstock dlq replay events seventeen").is_err());
    }

    #[test]
    fn a_tail_begins_at_one_place() {
        let tail = |line: &str| match parse(&format!("penstock tail events {line}")) {
            Ok(Arguments {
                command: Command::Tail(tail),
                ..
            }) => Ok((
                tail.since.map(|ago| ago.get().as_secs()),
                tail.from_beginning,
                tail.event,
            )),
            Ok(_) => panic!("another command"),
            Err(error) => Err(error),
        };
        assert_eq!(tail(""), Ok((None, false, None)));
        assert_eq!(
            tail("--since 10m --event buy"),
            Ok((Some(600), false, Some("buy".into())))
        );
        assert_eq!(tail("--from-beginning"), Ok((None, true, None)));
        assert!(tail("--from-beginning --since 10m").is_err());
        assert!(tail("--limit 0").is_err());
    }
}
