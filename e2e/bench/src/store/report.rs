//! `docs/benchmarks-store.md`: each of its parts is written anew by a full run of its own command.

use std::fmt::Write as _;
use std::path::Path;

use penstock_e2e::Result;
use penstock_e2e::error::Context as _;

use crate::corpus::EVENT_BYTES;
use crate::goals::Goal;
use crate::page::{self, short};
use crate::store::catch_up::Sample;
use crate::store::fresh::Fresh;
use crate::store::quiet::Quiet;
use crate::store::seen::INTERVAL;
use crate::store::summary::{Figure, Line, WholeLine};

const HEAD: &str = "# Benchmarks of storing\n\nWritten by `make bench-consume` and `make bench-e2e`, each its own part; do not \
                    edit. [What the figures mean and how they are taken](decisions/0011-measuring-store.md), and [what was \
                    tried for the goals, also for those that are missed](decisions/0015-what-a-row-costs.md).\n";

/// Writes one part of the page, prints it, and leaves the other part as it is.
pub fn write(path: &Path, title: &str, part: &str) -> Result<()> {
    let old = std::fs::read_to_string(path).unwrap_or_default();
    let new = page::with_part(&old, HEAD, title, part);
    std::fs::write(path, new).doing(format_args!("writing {}", path.display()))?;
    println!("{part}");
    Ok(())
}

/// What both parts begin with.
#[derive(Debug)]
pub struct Beginning<'r> {
    pub machine: &'r [(&'static str, String)],
    /// Cores that others kept busy before the first run.
    pub load_before: f64,
    pub runs: usize,
    pub goals: Vec<Goal>,
}

impl Beginning<'_> {
    fn write(&self, page: &mut String, rows: u64, intro: &str) {
        let runs = format!(
            "{} of {rows} events each, in turns; medians, memory the highest",
            self.runs
        );
        page::machine(page, self.machine, &runs);
        let _ = writeln!(page, "{intro} Events have {EVENT_BYTES} bytes before ingest.\n");
        page::busy(page, self.load_before);
        page.push_str("### Goals\n\n");
        page::goals(page, &self.goals);
    }
}

/// The part of `make bench-consume`.
#[derive(Debug)]
pub struct Consume<'r> {
    pub beginning: Beginning<'r>,
    pub rows: u64,
    pub lines: &'r [Line],
    pub long: &'r Sample,
    pub quiet: &'r [Quiet],
    /// Events a second that each stack takes from HTTP to the last row.
    pub capacities: &'r [(&'static str, f64)],
    pub half: &'r [Fresh],
    pub has_engine: bool,
}

impl Consume<'_> {
    pub const TITLE: &'static str = "From Kafka to rows";

    pub fn part(&self) -> String {
        let mut page = String::new();
        self.beginning.write(
            &mut page,
            self.rows,
            "The consumer has core 0 to itself; Kafka and ClickHouse share core 1. CPU is user and system time of a process for \
             one row.",
        );
        self.backlog(&mut page);
        self.quiet(&mut page);
        self.half(&mut page);
        page
    }

    fn backlog(&self, page: &mut String) {
        page.push_str(
            "### A backlog\n\nThe same events in Kafka: as ingest writes them for Penstock's consumer and the engine, one a \
             message as Fiber and kafka-go write them for kafka-go. Merges were stopped, and came afterwards. A rate counts \
             from the first block that could be read.\n\n\
             | consumer | its CPU us/row (lowest-highest) | ClickHouse us/row | merges afterwards us/row | rows/s | rows an INSERT \
             | peak MB | rows = distinct = sent |\n|---|---|---|---|---|---|---|---|\n",
        );
        for line in self.lines {
            let _ = writeln!(
                page,
                "| {} | {} | {} | {} | {} | {} | {} | {} |",
                line.sink,
                line.cpu.map_or("in ClickHouse".into(), |cpu| range(&cpu)),
                range(&line.store),
                line.merges.map_or("-".into(), short),
                whole_number(line.rate),
                whole_number(line.block),
                whole_number(line.peak.map(|peak| peak as f64 / 1e6)),
                yes(line.adds_up),
            );
        }
        if !self.has_engine {
            page.push_str("\nThis build of ClickHouse has no Kafka engine, so it could not be measured.\n");
        }
        let long = self.long;
        let _ = writeln!(
            page,
            "\nOne long catch-up of {} with merges beside: {} rows, {} us/row of the consumer and {} of ClickHouse, {} rows/s, \
             {:.0} MB at most, left the group {} times; rows = distinct = sent: {}.\n",
            long.sink,
            long.events,
            short(long.cpu.unwrap_or(0.0)),
            short(long.store),
            whole_number(long.rate),
            long.peak.unwrap_or(0) as f64 / 1e6,
            long.left
                .map_or("an unknown number of".into(), |left| left.to_string()),
            yes(long.adds_up()),
        );
    }

    fn quiet(&self, page: &mut String) {
        page.push_str(
            "### 1,000 events a second\n\nEach a request of its own, to ingest or to Fiber, and from there to rows. Shares are of \
             one core, with merges.\n\n| stack | INSERTs/s | ClickHouse | ClickHouse at rest | consumer | server |\n\
             |---|---|---|---|---|---|\n",
        );
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        for quiet in self.quiet {
            let _ = writeln!(
                page,
                "| {} | {:.2} | {} | {} | {} | {} |",
                quiet.stack,
                quiet.inserts,
                percent(quiet.store),
                percent(quiet.store_at_rest),
                percent(quiet.sink),
                percent(quiet.server),
            );
        }
        page.push('\n');
    }

    fn half(&self, page: &mut String) {
        page.push_str(
            "### Half load\n\nHalf of the rate at which the same stack takes batches of 1000 from HTTP to the last row on this \
             machine, with everything of it on the two cores: ",
        );
        let rates = self.capacities.iter();
        let rates: Vec<String> = rates
            .map(|(stack, rate)| format!("{stack} {rate:.0} events/s"))
            .collect();
        let _ = writeln!(page, "{}.\n", rates.join(", "));
        freshness(page, self.half);
    }
}

/// The part of `make bench-e2e`.
#[derive(Debug)]
pub struct EndToEnd<'r> {
    pub beginning: Beginning<'r>,
    pub rows: u64,
    pub lines: &'r [(&'static str, WholeLine)],
    pub moderate: &'r [Fresh],
}

impl EndToEnd<'_> {
    pub const TITLE: &'static str = "From HTTP to rows";

    pub fn part(&self) -> String {
        let mut page = String::new();
        self.beginning.write(
            &mut page,
            self.rows,
            "The server and the consumer share core 0; the load, Kafka and ClickHouse share core 1. CPU is user and system \
             time of a process for one event; Kafka's is not in it.",
        );
        page.push_str(
            "### What an event costs\n\nRequests of 1000 over 8 connections, as fast as they are taken, until every row can be read. Merges \
             were stopped, and came afterwards. The two rollups are those of [tables.md](tables.md): events by name and minute, \
             users by day.\n\n\
             | stack | server us/event | consumer us/event | ClickHouse us/event | together (lowest-highest) | merges afterwards \
             us/event | events/s |\n|---|---|---|---|---|---|---|\n",
        );
        for (stack, line) in self.lines {
            let _ = writeln!(
                page,
                "| {stack} | {} | {} | {} | {} | {} | {:.0} |",
                short(line.server.middle),
                short(line.sink.middle),
                short(line.store.middle),
                range(&line.total),
                short(line.merges.middle),
                line.rate.middle,
            );
        }
        page.push_str("\n### Until it can be read\n\n");
        freshness(&mut page, self.moderate);
        page
    }
}

fn freshness(page: &mut String, all: &[Fresh]) {
    let _ = writeln!(
        page,
        "Looked at every {} ms, so a time is up to that too long. Of a request counts the moment at which all its rows can be \
         read.\n\n\
         | stack | load | request due to rows, p50 / p99 | receipt to rows, p50 / p99 | age of the newest row, p50 / p99 |\n\
         |---|---|---|---|---|",
        INTERVAL.as_millis()
    );
    for fresh in all {
        let spread = |of: crate::store::fresh::Spread| format!("{:.0} / {:.0} ms", of.p50, of.p99);
        let _ = writeln!(
            page,
            "| {} | {:.0} events/s, {} a request | {} | {} | {} |",
            fresh.stack,
            fresh.rate,
            fresh.events,
            spread(fresh.sent),
            spread(fresh.received),
            spread(fresh.newest),
        );
    }
}

fn range(figure: &Figure) -> String {
    format!(
        "**{}** ({}-{})",
        short(figure.middle),
        short(figure.low),
        short(figure.high)
    )
}

fn whole_number(figure: Option<f64>) -> String {
    figure.map_or("-".into(), |figure| format!("{figure:.0}"))
}

fn yes(it_is: bool) -> &'static str {
    if it_is { "yes" } else { "**no**" }
}
