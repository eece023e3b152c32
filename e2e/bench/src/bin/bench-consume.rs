//! `make bench-consume`: measures the consumer, the one that it replaces and ClickHouse's Kafka engine, and writes its
//! part of docs/benchmarks-store.md.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use penstock_e2e::Result;
use penstock_e2e_bench::command::{Storing, exit, thousands};
use penstock_e2e_bench::setting::{RawFile, Setting, Stacks};
use penstock_e2e_bench::store::catch_up::{Merges, Sample, catch_up};
use penstock_e2e_bench::store::fresh::{Fresh, fresh};
use penstock_e2e_bench::store::pipeline::Stack;
use penstock_e2e_bench::store::quiet::quiet;
use penstock_e2e_bench::store::report::{self, Beginning, Consume};
use penstock_e2e_bench::store::sink::{Kind, Sink};
use penstock_e2e_bench::store::source::{BATCHES, Source};
use penstock_e2e_bench::store::summary::lines;
use penstock_e2e_bench::store::{goals, whole::whole};

/// Measures the consumer beside what it replaces, on the Kafka and the ClickHouse of a kit instance.
#[derive(Debug, Parser)]
#[command(name = "bench-consume", version)]
struct Arguments {
    #[command(flatten)]
    storing: Storing,
    /// Events of the backlog, thousands of them.
    #[arg(long, env = "ROWS", default_value_t = 2_000_000, value_parser = thousands)]
    rows: u64,
    /// Events of the one long catch-up.
    #[arg(long, env = "LONG_ROWS", default_value_t = 10_000_000, value_parser = thousands)]
    long_rows: u64,
}

fn main() -> ExitCode {
    exit(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<()> {
    let stacks = Stacks::build()?;
    let setting = Setting::enter()?;
    let Setting { bench, store, .. } = &setting;
    let mut raw = RawFile::create("bench-consume");
    let (penstock, replaced) = (&stacks.penstock, &stacks.replaced);
    let time = Duration::from_secs(arguments.storing.seconds);

    eprintln!("== filling the topics");
    let lines_topic = Source::fill(bench, &penstock.server, arguments.rows)?;
    let events_topic = Source::fill(bench, &replaced.server, arguments.rows)?;
    let long_topic = Source::fill(bench, &penstock.server, arguments.long_rows)?;

    let has_engine = store.reads_kafka()?;
    let go = |batch| Sink {
        kind: Kind::Go { batch },
        ..replaced.sink.clone()
    };
    let of_penstock = |kind| Sink {
        kind,
        ..penstock.sink.clone()
    };
    let mut sinks = vec![
        (penstock.sink.clone(), &lines_topic),
        (of_penstock(Kind::Compressed), &lines_topic),
        (replaced.sink.clone(), &events_topic),
        (go(100_000), &events_topic),
    ];
    if has_engine {
        sinks.push((of_penstock(Kind::Engine), &lines_topic));
    }
    eprintln!("== warming up");
    show(&catch_up(
        bench,
        store,
        &penstock.sink,
        &lines_topic,
        Merges::Afterwards,
    )?);
    let mut samples = Vec::new();
    for run in 1..=arguments.storing.runs {
        eprintln!("== run {run} of {}", arguments.storing.runs);
        for (sink, source) in &sinks {
            let sample = catch_up(bench, store, sink, source, Merges::Afterwards)?;
            show(&sample);
            raw.add(&sample);
            samples.push(sample);
        }
    }
    eprintln!("== a long catch-up");
    let long = catch_up(bench, store, &penstock.sink, &long_topic, Merges::Beside)?;
    show(&long);
    raw.add(&long);
    for source in [&lines_topic, &events_topic, &long_topic] {
        bench.topics.delete(&source.topic)?;
    }

    eprintln!("== few events");
    let both = [penstock, replaced];
    let of_both = |stack: &&Stack| quiet(bench, store, stack, time);
    let quiet = both.iter().map(of_both).collect::<Result<Vec<_>>>()?;
    eprintln!("{quiet:?}\n== half load");
    let (mut capacities, mut half): (Vec<(&str, f64)>, Vec<Fresh>) = Default::default();
    for stack in both {
        let rate = whole(bench, store, stack, arguments.rows)?.rate;
        capacities.push((stack.name, rate));
        half.push(fresh(bench, store, stack, BATCHES, rate / 2.0, time)?);
        eprintln!("{:?}", half.last());
    }

    let lines = lines(&samples);
    let part = Consume {
        beginning: Beginning {
            machine: &setting.machine()?,
            load_before: setting.load_before,
            runs: arguments.storing.runs,
            goals: goals::consumer(&lines[0], &long, &quiet[0], &half[0]),
        },
        rows: arguments.rows,
        lines: &lines,
        long: &long,
        quiet: &quiet,
        capacities: &capacities,
        half: &half,
        has_engine,
    };
    report::write(
        &setting.page(arguments.storing.out.as_deref()),
        Consume::TITLE,
        &part.part(),
    )?;
    verdict(samples.iter().chain([&long]))
}

fn show(sample: &Sample) {
    let Sample {
        sink,
        rate,
        cpu,
        store,
        merges,
        peak,
        inserts,
        stored,
        ..
    } = sample;
    eprintln!(
        "{sink:<44} {:>6.3} us/row, ClickHouse {store:.3} + merges {:.3}, {:.0}/s, peak {:.0} MB, {inserts} INSERTs{}",
        cpu.unwrap_or(0.0),
        merges.unwrap_or(0.0),
        rate.unwrap_or(0.0),
        peak.unwrap_or(0) as f64 / 1e6,
        if sample.adds_up() {
            String::new()
        } else {
            format!("  STORED IS NOT WHAT WAS SENT: {stored:?}")
        },
    );
}

/// Figures of a consumer that loses or doubles rows are worth nothing.
fn verdict<'s>(samples: impl Iterator<Item = &'s Sample>) -> Result<()> {
    let wrong: Vec<String> = samples
        .filter(|sample| !sample.adds_up())
        .map(|sample| format!("{}: {:?} of {}", sample.sink, sample.stored, sample.events))
        .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    Err(penstock_e2e::Error::new(format!(
        "what was sent and what is stored differ: {}",
        wrong.join("; ")
    )))
}
