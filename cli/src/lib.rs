//! `penstock`: what a person asks of pipelines, their events and their dead letters.
//!
//! ```text
//! status                 ── API server
//! tail, dlq              ── API server: where is the topic? ── Kafka: what is in it?
//! replay                 ── all three: what does the table lack of the topic?
//! schema, user           ── API server: which tables?       ── ClickHouse: what is in them?
//! user erase             ── and Kafka: what is on its way there?
//! ```
//!
//! Invariants: nothing is written but by `dlq replay`, `replay`, `schema apply`, `schema repair` and `user erase`; standard
//! output carries results only; whatever fails says what to do about it and ends with a code of [`exit::CODES`].
#![forbid(unsafe_code)]

pub mod access;
pub mod arguments;
pub mod cluster;
pub mod dlq;
pub mod exit;
pub mod kafka;
pub mod output;
pub mod place;
pub mod reference;
pub mod replay;
pub mod schema;
pub mod status;
pub mod stop;
pub mod stored;
pub mod tail;
pub mod text;
pub mod user;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

use arguments::{Arguments, Command};
use exit::{End, Failure, Result};

/// The whole program, called `name`.
pub fn run(name: &'static str) -> ExitCode {
    let matches = Arguments::command().bin_name(name).get_matches();
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match command(name, arguments) {
        Ok(end) => end.code().into(),
        Err(failure) => {
            if !matches!(failure, Failure::OutputClosed) {
                output::note(&format!("{name}: {failure}"));
            }
            failure.code().into()
        }
    }
}

fn command(name: &str, arguments: Arguments) -> Result<End> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start: {error}")))?;
    let place = &arguments.place;
    match &arguments.command {
        Command::Status(status) => runtime.block_on(status::run(place, status)),
        Command::Tail(tail) => runtime.block_on(tail::run(place, tail)),
        Command::Dlq(dlq) => runtime.block_on(dlq::run(place, dlq)),
        Command::Replay(replay) => runtime.block_on(replay::run(place, replay)),
        Command::Schema(schema) => runtime.block_on(schema::run(place, schema)),
        Command::User(user) => runtime.block_on(user::run(place, user)),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(
                *shell,
                &mut Arguments::command(),
                name.replace(' ', "-"),
                &mut script,
            );
            output::write(&script)?;
            Ok(End::Done)
        }
    }
}
