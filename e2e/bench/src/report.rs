//! `docs/benchmarks.md`, written anew by every full run.

use std::fmt::Write as _;

use crate::corpus::EVENT_BYTES;
use crate::extras::Together;
use crate::goals::Measured;
use crate::overload::{Overload, RATE};
use crate::page::{self, short};
use crate::slow::{CLIENTS, SlowClients};
use crate::summary::Line;

/// What the page is made of.
#[derive(Debug)]
pub struct Report<'r> {
    pub machine: &'r [(&'static str, String)],
    /// Cores that others kept busy before the first run.
    pub load_before: f64,
    pub measured: &'r Measured<'r>,
    /// Of all servers.
    pub lines: &'r [Line],
    pub runs: usize,
    pub seconds: f64,
    /// What `wrk` measured of single events beside the load here: events a second and microseconds an event.
    pub cross_check: Option<CrossCheck>,
}

/// The same load by two generators.
#[derive(Clone, Copy, Debug)]
pub struct CrossCheck {
    pub wrk_cpu: f64,
    pub wrk_rate: f64,
    pub own_cpu: f64,
    pub own_rate: f64,
}

impl Report<'_> {
    /// The page.
    pub fn page(&self) -> String {
        let mut page = String::from(
            "# Benchmarks of ingest\n\nWritten by `make bench-ingest`; do not edit. [What the figures mean and how they are \
             taken](decisions/0007-measuring-ingest.md), and [what was tried for the goals, also for those that are \
             missed](decisions/0008-what-an-event-costs.md).\n\n",
        );
        let runs = format!(
            "{} of {} s each, servers in turns; medians, memory the highest",
            self.runs, self.seconds
        );
        page::machine(&mut page, self.machine, &runs);
        let _ = writeln!(
            page,
            "Each server has core 0 to itself; the load and Kafka share core 1. CPU is user and system time of the \
             server's process. Events have {EVENT_BYTES} bytes. Latencies of paced loads count from the moment at which \
             a request was due.\n"
        );
        page::busy(&mut page, self.load_before);
        page.push_str("## Goals\n\n");
        page::goals(&mut page, &self.measured.goals());
        self.loads(&mut page);
        self.together(&mut page);
        self.overload(&mut page);
        self.slow(&mut page);
        self.check(&mut page);
        page
    }

    fn loads(&self, page: &mut String) {
        page.push_str(
            "## Loads\n\nA load is the events of one request x connections, and how hard the server is driven: as fast as it \
             answers, or at a share of the rate that it took then.\n\n\
             | load | server | CPU us/event (lowest-highest) | events/s | p50 ms | p99 ms | p99.9 ms | peak MB | failed \
             | stored = acknowledged |\n|---|---|---|---|---|---|---|---|---|---|\n",
        );
        for line in self.lines {
            let (low, high) = line.cpu_range;
            let _ = writeln!(
                page,
                "| {} | {} | **{}** ({}-{}) | {:.0} | {} | {} | {} | {:.0} | {} | {} |",
                line.workload,
                line.server,
                short(line.cpu),
                short(low),
                short(high),
                line.rate,
                short(line.p50),
                short(line.p99),
                short(line.p999),
                line.peak as f64 / 1e6,
                line.failed,
                if line.adds_up { "yes" } else { "**no**" },
            );
        }
        page.push('\n');
    }

    fn together(&self, page: &mut String) {
        page.push_str(
            "## More processes\n\nAll of them on core 0, each under the same load: as fast as it answers, or an eighth of what one \
             alone takes. The less there is to do, the more of an event's cost is waking up for it; processes that share a \
             core are woken for several at once.\n\n\
             | processes | events a request | load | events/s each | CPU us/event | cores for 10 M events/s |\n\
             |---|---|---|---|---|---|\n",
        );
        for Together {
            processes,
            events,
            at_full,
            rate,
            cpu,
        } in self.measured.together
        {
            let _ = writeln!(
                page,
                "| {processes} | {events} | {} | {rate:.0} | {} | {:.1} |",
                if *at_full { "full" } else { "an eighth" },
                short(*cpu),
                cpu * 10.0
            );
        }
        page.push_str(
            "\nThe last column is 10 M x the CPU of one event: what that rate would take of ingest if pods went on adding up \
             as they do here. It is derived, not measured, and leaves Kafka out.\n",
        );
    }

    fn overload(&self, page: &mut String) {
        let Overload {
            capacity,
            goodput,
            share,
            refused,
            refusal_p50,
            refusal_p99,
            adds_up,
        } = self.measured.overload;
        let _ = write!(
            page,
            "\n## Too much\n\nThe way to Kafka lets {} MB a second through, which is {capacity:.0} events a second in batches of \
             1000. Sent three times as much over 256 connections, ingest has {goodput:.0} a second acknowledged, {:.0} % in \
             the same run, and refuses {refused} requests in all runs, half of them within {} ms and 99% within {} ms of their \
             first byte. What was acknowledged is {}.\n",
            RATE / 1_000_000,
            100.0 * share,
            short(refusal_p50),
            short(refusal_p99),
            if adds_up {
                "stored, and nothing else"
            } else {
                "**not what is stored**"
            },
        );
    }

    fn slow(&self, page: &mut String) {
        let SlowClients {
            cpu_alone,
            cpu_beside,
            p99_alone,
            p99_beside,
            cut,
            adds_up,
        } = self.measured.slow;
        let _ = writeln!(
            page,
            "\n## Slow clients\n\n{CLIENTS} clients send a byte a second, half of them of a head, the others of a body, and come \
             again when they are cut, as {cut} were with 408. Single events at 40% of what ingest takes cost {} us beside them \
             and {} us without; 99% are answered within {} and {} ms. {}",
            short(cpu_beside),
            short(cpu_alone),
            short(p99_beside),
            short(p99_alone),
            if adds_up {
                "All of them were acknowledged and are stored."
            } else {
                "**Not all of them were acknowledged, or what was is not what is stored.**"
            },
        );
    }

    fn check(&self, page: &mut String) {
        let Some(check) = self.cross_check else { return };
        let _ = writeln!(
            page,
            "\n## The load against wrk\n\nThe same single events over 64 connections, sent by `wrk` and by the load of this \
             benchmark in turns: {} and {} us an event, {:.0} and {:.0} events/s.",
            short(check.wrk_cpu),
            short(check.own_cpu),
            check.wrk_rate,
            check.own_rate
        );
    }
}
