//! `make bench-ingest`: measures ingest and its peers, and writes docs/benchmarks.md.
//!
//! With `--build NAME=PROGRAM`, twice or more, it measures builds of ingest against each other instead, in turns, and
//! writes nothing: that is how a change is judged.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use penstock_e2e::error::Context as _;
use penstock_e2e::progress::Progress;
use penstock_e2e::{Component, Error, Instance, Result};
use penstock_e2e_bench::command::{exit, runs};
use penstock_e2e_bench::corpus::Encoding;
use penstock_e2e_bench::extras::{self, CROWD, Together};
use penstock_e2e_bench::goals::{self, Goal, Measured};
use penstock_e2e_bench::measure::{Bench, Sample};
use penstock_e2e_bench::overload::overload;
use penstock_e2e_bench::plan::{Drive, PARTIAL, Workload, meets, workloads};
use penstock_e2e_bench::report::{CrossCheck, Report};
use penstock_e2e_bench::server::{Kind, LOAD_CORE, Server};
use penstock_e2e_bench::setting::RawFile;
use penstock_e2e_bench::slow::slow_clients;
use penstock_e2e_bench::summary::{Line, lines, median};
use penstock_e2e_bench::{machine, process, wrk};

/// Names of `--only` for what is no load of its own.
const OVERLOAD: &str = "too much";
const SLOW: &str = "slow clients";

/// Measures ingest beside what it replaces, in front of the Kafka of a kit instance.
#[derive(Debug, Parser)]
#[command(name = "bench-ingest", version)]
struct Arguments {
    /// Runs of each load; the figures are their medians.
    #[arg(long, env = "RUNS", default_value_t = 5, value_parser = runs)]
    runs: usize,
    /// Seconds of each run, behind one of warming up.
    #[arg(long, env = "SECONDS_EACH", default_value_t = 3)]
    seconds: u64,
    /// `all` takes the OpenTelemetry Collector in.
    #[arg(long, env = "PEERS", default_value = "")]
    peers: String,
    /// Only loads whose names contain one of these, as `100 x 16, full`, or `too much`, or `slow clients`; nothing is
    /// written.
    #[arg(long, env = "ONLY", value_name = "TEXT")]
    only: Vec<String>,
    /// With `--only 'slow clients'` or `--only 'too much'`: fail when their goals are missed. What else the machine does may
    /// spoil a measurement, so it is taken up to three times.
    #[arg(long)]
    hold: bool,
    /// Builds of ingest to hold against each other; nothing is written.
    #[arg(long, value_name = "NAME=PROGRAM")]
    build: Vec<String>,
    /// Where the page goes.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    exit(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<()> {
    let kit = Instance::from_environment("bench")?;
    kit.must_exist()?;
    let servers = servers(&kit, arguments)?;
    let load_before = machine::load();
    let machine = machine::describe(kit.repository(), load_before);
    kit.enter()?;
    process::stay_on(LOAD_CORE)?;
    let kafka = kit
        .process(Component::Kafka(1))
        .ok_or_else(|| Error::new("Kafka does not run").next(kit.command("up --only kafka")))?;
    process::keep_on(kafka.pid, LOAD_CORE)?;
    let bench = Bench::new(
        kit.kafka_bootstrap()?,
        Duration::from_secs(1),
        Duration::from_secs(arguments.seconds),
    )?;
    warm_kafka(&bench, &servers)?;

    let asked = |text: &str| arguments.only.iter().any(|only| only == text);
    let wanted = |workload: &Workload| {
        let name = workload.to_string();
        arguments.only.is_empty()
            || arguments.only.iter().any(|text| name.contains(text))
            || *workload == PARTIAL && asked(SLOW)
    };
    if arguments.hold && !asked(SLOW) && !asked(OVERLOAD) {
        return Err(Error::new(format!(
            "only `{SLOW}` and `{OVERLOAD}` can be held: --only '{SLOW}' --hold"
        )));
    }
    let samples = measure(&bench, &servers, arguments.runs, wanted)?;
    let all = lines(&samples);
    if !arguments.only.is_empty() || !arguments.build.is_empty() {
        print!("{}", brief(&all));
        if asked(OVERLOAD) {
            held(OVERLOAD, &servers[0], arguments, || {
                let measured = overload(&bench, &servers[0], arguments.runs)?;
                println!("{OVERLOAD}: {}: {measured:.2?}", servers[0].name);
                Ok((goals::overload(&measured), measured.adds_up))
            })?;
        }
        if asked(SLOW) {
            for server in &servers {
                let partial = all
                    .iter()
                    .find(|line| line.workload == PARTIAL && line.server == server.name);
                let Some(partial) = partial else { continue };
                held(SLOW, server, arguments, || {
                    let measured = slow_clients(&bench, server, partial.rate, arguments.runs)?;
                    println!("{SLOW}: {}: {measured:.2?}", server.name);
                    Ok((goals::slow_clients(&measured), measured.adds_up))
                })?;
            }
        }
        return verdict(&all);
    }
    let ingest = &servers[0];
    let of_ingest: Vec<Line> = all
        .iter()
        .filter(|line| line.server == ingest.name)
        .cloned()
        .collect();
    eprintln!("== at rest, 256 connections, more processes, too much, slow clients, wrk");
    let at_rest = extras::at_rest(&bench, ingest, arguments.runs)?;
    let crowd = bench.run(ingest, CROWD, None)?;
    show(&crowd);
    let together = together(&bench, ingest, &of_ingest, arguments.runs)?;
    let overload = overload(&bench, ingest, arguments.runs)?;
    let partial = of_ingest.iter().find(|line| line.workload == PARTIAL);
    let rate = partial.map_or(0.0, |line| line.rate);
    let slow = slow_clients(&bench, ingest, rate, arguments.runs)?;
    let measured = Measured {
        lines: &of_ingest,
        at_rest,
        crowd: crowd.peak,
        together: &together,
        overload,
        slow,
    };
    let report = Report {
        machine: &machine,
        load_before,
        measured: &measured,
        lines: &all,
        runs: arguments.runs,
        seconds: bench.time.as_secs_f64(),
        cross_check: cross_check(&bench, ingest, arguments.runs)?,
    };
    let default = kit.repository().join("docs/benchmarks.md");
    let path = arguments.out.as_ref().unwrap_or(&default);
    std::fs::write(path, report.page()).doing(format_args!("writing {}", path.display()))?;
    println!("{}", report.page());
    verdict(&all)
}

/// Measures, and fails when a goal is missed and shall be held, or when not every acknowledged event is stored once.
fn held(
    what: &str,
    server: &Server,
    arguments: &Arguments,
    mut measure: impl FnMut() -> Result<([Goal; 2], bool)>,
) -> Result<()> {
    const TIMES: usize = 3;
    let mut missed = String::new();
    for _ in 0..TIMES {
        let (goals, adds_up) = measure()?;
        if !adds_up {
            return Err(Error::new(format!(
                "{what}: what is stored is not what was acknowledged"
            )));
        }
        missed = goals
            .iter()
            .filter(|goal| !goal.reached)
            .map(|goal| format!("; {} {}, goal {}", goal.of, goal.figure, goal.goal))
            .collect();
        if missed.is_empty() || !arguments.hold {
            return Ok(());
        }
    }
    Err(Error::new(format!("{}, each time{missed}", server.name)))
}

/// Ingest first.
fn servers(kit: &Instance, arguments: &Arguments) -> Result<Vec<Server>> {
    let server = |kind: Kind, program: PathBuf| Server {
        kind,
        name: kind.title().to_owned(),
        program,
    };
    if !arguments.build.is_empty() {
        let builds = arguments.build.iter().map(|build| {
            let (name, program) = build
                .split_once('=')
                .ok_or_else(|| Error::new(format!("`{build}` is not NAME=PROGRAM")))?;
            Ok(Server {
                name: name.to_owned(),
                ..server(Kind::Ingest, program.into())
            })
        });
        return builds.collect();
    }
    let progress = Progress::start();
    let fiber = kit.go_program(&progress, "bench-fiber", "e2e/bench/peers/fiber")?;
    let bare = kit.program("bench-peer");
    let mut servers = vec![
        server(Kind::Ingest, kit.program("penstock-dataplane")),
        server(Kind::FiberSync, fiber.clone()),
        server(Kind::FiberAsync, fiber),
        server(Kind::Hyper, bare.clone()),
        server(Kind::Axum, bare),
    ];
    if arguments.peers == "all" {
        let collector = kit.go_program(&progress, "bench-collector", "e2e/bench/peers/collector")?;
        servers.push(server(Kind::Collector, collector));
        servers.push(server(Kind::Single, kit.program("penstock-dataplane")));
    }
    Ok(servers)
}

/// A cold broker costs five times as much, until its code is compiled: the first ten seconds are nobody's.
fn warm_kafka(bench: &Bench, servers: &[Server]) -> Result<()> {
    eprintln!("== warming Kafka up");
    for _ in 0..3 {
        for workload in [1, 100].map(|events| Workload::new(events, Encoding::Plain, Drive::Full)) {
            for server in servers
                .iter()
                .filter(|server| server.kind.record(1).is_some())
                .take(2)
            {
                if meets(server.kind, workload) {
                    bench.run(server, workload, None)?;
                }
            }
        }
    }
    Ok(())
}

/// Every server under every load that it meets, run after run.
fn measure(
    bench: &Bench,
    servers: &[Server],
    runs: usize,
    wanted: impl Fn(&Workload) -> bool,
) -> Result<Vec<Sample>> {
    let mut full: HashMap<(String, Workload), Vec<f64>> = HashMap::new();
    let mut samples = Vec::new();
    let mut raw = RawFile::create("bench-ingest");
    for run in 1..=runs {
        eprintln!("== run {run} of {runs}");
        for workload in workloads() {
            // A share needs the whole that it is of.
            let base = workloads()
                .iter()
                .any(|other| wanted(other) && other.at_full() == workload);
            if !wanted(&workload) && !base {
                continue;
            }
            for server in servers.iter().filter(|server| meets(server.kind, workload)) {
                let key = (server.name.clone(), workload.at_full());
                let rate = match workload.drive {
                    Drive::Full => None,
                    Drive::Percent(percent) => {
                        Some(median(full.get(&key).cloned().unwrap_or_default()) * f64::from(percent) / 100.0)
                    }
                };
                let sample = bench.run(server, workload, rate)?;
                if rate.is_none() {
                    full.entry(key).or_default().push(sample.rate);
                }
                show(&sample);
                raw.add(&sample);
                samples.push(sample);
            }
        }
    }
    Ok(samples)
}

/// 1, 2 and 4 processes: as fast as they answer, and at an eighth of what one takes alone, so that four of them leave the
/// core room.
fn together(bench: &Bench, ingest: &Server, of_ingest: &[Line], runs: usize) -> Result<Vec<Together>> {
    let mut together = Vec::new();
    for workload in [1, 100].map(|events| Workload::new(events, Encoding::Plain, Drive::Full)) {
        let Some(line) = of_ingest.iter().find(|line| line.workload == workload) else {
            continue;
        };
        for rate in [None, Some(line.rate / 8.0)] {
            together.extend(extras::together(bench, ingest, workload, rate, runs)?);
        }
    }
    Ok(together)
}

fn cross_check(bench: &Bench, ingest: &Server, runs: usize) -> Result<Option<CrossCheck>> {
    if !wrk::is_installed() {
        return Ok(None);
    }
    let (mut by_wrk, mut own) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        by_wrk.push(wrk::run(bench, ingest)?);
        own.push(bench.run(ingest, wrk::SINGLE, None)?);
    }
    Ok(Some(CrossCheck {
        wrk_cpu: median(by_wrk.iter().map(|one| one.cpu).collect()),
        wrk_rate: median(by_wrk.iter().map(|one| one.rate).collect()),
        own_cpu: median(own.iter().map(|one| one.cpu).collect()),
        own_rate: median(own.iter().map(|one| one.rate).collect()),
    }))
}

fn show(sample: &Sample) {
    let Sample {
        server,
        workload,
        rate,
        cpu,
        p50,
        p99,
        p999,
        failed,
        ..
    } = sample;
    let peak = sample.peak as f64 / 1e6;
    let stored = if sample.adds_up() {
        ""
    } else {
        "  STORED IS NOT WHAT WAS ACKNOWLEDGED"
    };
    eprintln!(
        "{:<22} {server:<36} {cpu:>7.3} us/event {rate:>9.0}/s  p50 {p50:.3} p99 {p99:.2} p99.9 {p999:.2} ms  \
         peak {peak:.0} MB  failed {failed}{stored}",
        workload.to_string()
    );
    if let Some(refusal) = &sample.first_refusal {
        eprintln!("    {}", refusal.lines().next().unwrap_or_default());
    }
}

fn brief(lines: &[Line]) -> String {
    lines
        .iter()
        .map(|line| {
            let (low, high) = line.cpu_range;
            format!(
                "{:<22} {:<24} {:.3} us/event ({low:.3}-{high:.3})  {:.0}/s  p50 {:.3} p99 {:.2} ms  peak {:.0} MB\n",
                line.workload.to_string(),
                line.server,
                line.cpu,
                line.rate,
                line.p50,
                line.p99,
                line.peak as f64 / 1e6
            )
        })
        .collect()
}

/// Figures of a service that loses what it has acknowledged are worth nothing.
fn verdict(lines: &[Line]) -> Result<()> {
    let lost: Vec<String> = lines
        .iter()
        .filter(|line| !line.adds_up)
        .map(|line| format!("{} under {}", line.server, line.workload))
        .collect();
    if lost.is_empty() {
        return Ok(());
    }
    Err(Error::new(format!(
        "what was acknowledged and what is stored differ: {}",
        lost.join("; ")
    )))
}
