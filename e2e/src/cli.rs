//! The command line of the kit: what a person types, and which part of the library does it.

use std::ffi::OsString;
use std::io::{Write, stdout};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::component::{Component, Group};
use crate::daemon::Health;
use crate::environment::{export_line, variables};
use crate::error::{Context, Error, Result};
use crate::instance::{DEFAULT_NAME, Instance};
use crate::penstock::SECURED;
use crate::preflight;
use crate::progress::{Outcome, Progress};
use crate::status::table;
use crate::up::{Plan, ready_line};

/// A real Kubernetes cluster with Kafka, Redis and ClickHouse on this machine, and Penstock in it.
#[derive(Debug, Parser)]
#[command(name = "kit", version, disable_help_subcommand = true)]
pub struct Cli {
    /// Which cluster is meant; several can run side by side.
    #[arg(long, global = true, env = "PENSTOCK_INSTANCE", default_value = DEFAULT_NAME, value_name = "NAME")]
    instance: String,
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Build and fetch what is missing, start everything, install Penstock, send the first events.
    Up(UpArguments),
    /// Build and fetch into the cache what `up` needs, and start nothing.
    Fetch,
    /// Stop everything and remove every trace; what is built stays in the cache.
    Down,
    /// What runs, and whether it is ready.
    Status,
    /// Print the variables by which programs find this cluster, as lines for `eval`.
    Env,
    /// Run a command inside the cluster's network, with those variables.
    Exec {
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            required = true,
            value_name = "COMMAND"
        )]
        command: Vec<OsString>,
    },
    /// Print the log of a component.
    Logs {
        /// As `kit status` names it.
        component: String,
        /// Go on printing what is added.
        #[arg(short, long)]
        follow: bool,
    },
    /// Stop a component and start it again.
    Restart {
        /// As `kit status` names it; `kafka` means every broker.
        component: String,
    },
    /// Write the image of Penstock as an OCI archive.
    Images {
        /// The file to write.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// The name and tag in the archive.
        #[arg(long, default_value = concat!("penstock:", env!("CARGO_PKG_VERSION")), value_name = "NAME:TAG")]
        tag: String,
    },
}

#[derive(Debug, Args)]
struct UpArguments {
    /// Start these only: kubernetes, kafka, redis, clickhouse.
    #[arg(long, value_delimiter = ',', value_name = "GROUP,…")]
    only: Vec<Group>,
    /// Kafka brokers: 1 or 3.
    #[arg(long, value_parser = parse_brokers)]
    brokers: Option<u8>,
    /// Have Penstock use the encrypted ports of Kafka, ClickHouse and Redis, as users with passwords. It stays so.
    #[arg(long, conflicts_with = "only")]
    secure: bool,
    /// Stop when Penstock is installed: no example, no events.
    #[arg(long)]
    no_quickstart: bool,
}

fn parse_brokers(text: &str) -> std::result::Result<u8, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        _ => Err("1 or 3: a quorum of two survives no more than one does".into()),
    }
}

impl Cli {
    pub fn run(self) -> Result<()> {
        let instance = Instance::named(&self.instance)?;
        match self.command {
            Action::Up(arguments) => up(&instance, &arguments),
            Action::Fetch => {
                let progress = Progress::start();
                instance.fetch(
                    &Plan {
                        groups: Group::ALL.to_vec(),
                        brokers: None,
                        penstock: true,
                        secure: false,
                    },
                    &progress,
                )
            }
            Action::Down => down(&instance),
            Action::Status => status(&instance),
            Action::Env => {
                for (name, value) in variables(&instance)? {
                    print(&format!("{}\n", export_line(name, &value)))?;
                }
                Ok(())
            }
            Action::Exec { command } => match instance.exec(&command)? {},
            Action::Logs { component, follow } => {
                instance.print_logs(&component, follow, &mut stdout().lock())
            }
            Action::Restart { component } => restart(&instance, &component),
            Action::Images { out, tag } => crate::penstock::export(&instance, &tag, &out),
        }
    }
}

fn up(instance: &Instance, arguments: &UpArguments) -> Result<()> {
    let progress = Progress::start();
    let everything = arguments.only.is_empty();
    let groups = if everything {
        Group::ALL.to_vec()
    } else {
        arguments.only.clone()
    };
    let plan = Plan {
        groups,
        brokers: arguments.brokers,
        penstock: everything,
        secure: arguments.secure,
    };
    instance.up(&plan, &progress)?;
    if everything {
        crate::penstock::install(instance, &progress)?;
    }
    let shown = if everything && !arguments.no_quickstart {
        crate::quickstart::run(instance, &progress)?
    } else {
        String::new()
    };
    progress.line(&ready_line(instance, &progress));
    if everything && instance.record()?.secure {
        progress.line(&format!("    {SECURED}"));
    }
    if shown.is_empty() {
        progress.line(&format!("    {:<52} what runs", instance.command("status")));
        progress.line(&format!(
            "    {:<52} addresses, as variables",
            instance.command("env")
        ));
        progress.line(&format!(
            "    {:<52} a command inside its network",
            instance.command("exec -- COMMAND")
        ));
    }
    progress.line(&shown);
    Ok(())
}

fn down(instance: &Instance) -> Result<()> {
    let progress = Progress::start();
    if instance.leftovers().is_empty() {
        progress.line(&format!(
            "there is no instance `{}`; nothing to do",
            instance.name()
        ));
        return Ok(());
    }
    preflight::must_be_root()?;
    instance.down(&progress)?;
    progress.line(&format!(
        "==> instance `{}` is gone; nothing of it is left",
        instance.name()
    ));
    Ok(())
}

fn status(instance: &Instance) -> Result<()> {
    let rows = instance.status()?;
    print(&table(&rows))?;
    if instance.record()?.secure {
        print(&format!("{SECURED}\n"))?;
    }
    let bad: Vec<String> = rows
        .iter()
        .filter(|r| r.health != Health::Ready)
        .map(|r| r.component.name())
        .collect();
    if bad.is_empty() {
        return Ok(());
    }
    Err(Error::new(format!("not ready: {}", bad.join(", "))).next(format!(
        "`{}` starts what is stopped; `{}` shows why",
        instance.command("up"),
        instance.command("logs COMPONENT")
    )))
}

fn restart(instance: &Instance, word: &str) -> Result<()> {
    instance.must_exist()?;
    preflight::must_be_root()?;
    let progress = Progress::start();
    let components = Component::matching(word, &instance.components()?)?;
    for component in &components {
        instance.stop(*component)?;
    }
    std::thread::scope(|scope| {
        let start = |component: Component| {
            let name = component.name();
            let log = instance.log_file(&name);
            progress.step(&name, Some(&log), || {
                Ok(Outcome::done(instance.start(component)?.note()))
            })
        };
        let workers: Vec<_> = components
            .iter()
            .map(|c| scope.spawn(move || start(*c)))
            .collect();
        crate::up::first_error(workers)
    })
}

fn print(text: &str) -> Result<()> {
    stdout().write_all(text.as_bytes()).doing("printing")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> std::result::Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("kit").chain(line.split_whitespace()))
    }

    #[test]
    fn the_definition_holds() {
        Cli::command().debug_assert();
    }

    #[test]
    fn only_takes_groups() {
        let Action::Up(arguments) = parse("up --only kafka,redis --brokers 3").unwrap().command else {
            panic!()
        };
        assert_eq!(arguments.only, [Group::Kafka, Group::Redis]);
        assert_eq!(arguments.brokers, Some(3));
        let error = parse("up --only kafka,zookeeper").unwrap_err().to_string();
        assert!(
            error.contains("zookeeper") && error.contains("kubernetes, kafka, redis, clickhouse"),
            "{error}"
        );
        assert!(
            parse("up --brokers 2")
                .unwrap_err()
                .to_string()
                .contains("1 or 3")
        );
    }

    #[test]
    fn secure_is_about_penstock() {
        let secure = |line: &str| match parse(line).unwrap().command {
            Action::Up(arguments) => arguments.secure,
            _ => panic!(),
        };
        assert!(secure("up --secure --no-quickstart") && !secure("up"));
        assert!(
            parse("up --only kafka --secure").is_err(),
            "nothing is installed then"
        );
    }

    #[test]
    fn exec_takes_the_rest_as_it_is() {
        let cli = parse("--instance test exec -- kubectl get pods -A --watch").unwrap();
        assert_eq!(cli.instance, "test");
        let Action::Exec { command } = cli.command else {
            panic!()
        };
        assert_eq!(command, ["kubectl", "get", "pods", "-A", "--watch"]);
        assert!(parse("exec").is_err());
    }
}
