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
        after_help = "Examples:\n  penstock replay events -n growth --from 2h --dry-run\n  penstock replay events -n growth --from 2026-11-28T10:00:00Z --to 2026-11-28T12:00:00Z"
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
    Completion { shell: Shell },
}
