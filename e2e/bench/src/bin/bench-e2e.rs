//! `make bench-e2e`: measures the way from HTTP to a row, of Penstock and of the stack that it replaces, and writes its
//! part of docs/benchmarks-store.md.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use penstock_e2e::{Error, Result};
use penstock_e2e_bench::command::{Storing, exit, thousands};
use penstock_e2e_bench::corpus::Encoding;
use penstock_e2e_bench::plan::{Drive, Workload};
use penstock_e2e_bench::setting::{RawFile, Setting, Stacks};
use penstock_e2e_bench::store::fresh::{Fresh, fresh};
use penstock_e2e_bench::store::report::{self, Beginning, EndToEnd};
use penstock_e2e_bench::store::summary::cost;
use penstock_e2e_bench::store::{goals, whole::whole};

/// Measures Penstock and the stack that it replaces from HTTP to rows, on the Kafka and the ClickHouse of a kit instance.
#[derive(Debug, Parser)]
#[command(name = "bench-e2e", version)]
struct Arguments {
    #[command(flatten)]
    storing: Storing,
    /// Events of each run, thousands of them.
    #[arg(long, env = "ROWS", default_value_t = 1_000_000, value_parser = thousands)]
    rows: u64,
    /// Events a second of the steady load, in requests of 100.
    #[arg(long, env = "RATE", default_value_t = 10_000)]
    rate: u32,
}

fn main() -> ExitCode {
    exit(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<()> {
    let stacks = Stacks::build()?;
    let setting = Setting::enter()?;
    let Setting { bench, store, .. } = &setting;
    let mut raw = RawFile::create("bench-e2e");
    let both = [&stacks.penstock, &stacks.replaced];
    let all = [&stacks.penstock, &stacks.replaced, &stacks.counted];

    eprintln!("== warming up");
    for stack in both {
        whole(bench, store, stack, arguments.rows / 5000 * 1000)?;
    }
    let mut costs = Vec::new();
    for run in 1..=arguments.storing.runs {
        eprintln!("== run {run} of {}", arguments.storing.runs);
        for stack in all {
            let cost = whole(bench, store, stack, arguments.rows)?;
            eprintln!(
                "{:<36} server {:.3} + consumer {:.3} + ClickHouse {:.3} = {:.3} us/event, merges {:.3}, {:.0}/s",
                cost.stack,
                cost.server,
                cost.sink,
                cost.store,
                cost.total(),
                cost.merges,
                cost.rate
            );
            raw.add(&cost);
            costs.push(cost);
        }
    }
    eprintln!("== a steady load");
    let time = Duration::from_secs(arguments.storing.seconds);
    let hundred = Workload::new(100, Encoding::Plain, Drive::Full);
    let moderate = both
        .iter()
        .map(|stack| fresh(bench, store, stack, hundred, f64::from(arguments.rate), time))
        .collect::<Result<Vec<Fresh>>>()?;
    eprintln!("{moderate:?}");

    let lines = all
        .iter()
        .map(|stack| Some((stack.name, cost(&costs, stack.name)?)))
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| Error::new("there was no run"))?;
    let part = EndToEnd {
        beginning: Beginning {
            machine: &setting.machine()?,
            load_before: setting.load_before,
            runs: arguments.storing.runs,
            goals: goals::whole(&lines[0].1, &lines[1].1),
        },
        rows: arguments.rows,
        lines: &lines,
        moderate: &moderate,
    };
    report::write(
        &setting.page(arguments.storing.out.as_deref()),
        EndToEnd::TITLE,
        &part.part(),
    )
}
