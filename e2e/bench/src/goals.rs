//! The goals, and whether the figures reach them.

use crate::corpus::Encoding;
use crate::extras::{AtRest, Together};
use crate::overload::Overload;
use crate::page::short;
use crate::plan::{Drive, LONE, PARTIAL, Workload};
use crate::slow::SlowClients;
use crate::summary::Line;

const MEGABYTE: f64 = 1e6;
const SLOW_CPU: &str = "slow clients: CPU per event of the others is more by";
const SLOW_P99: &str = "slow clients: p99 of the others grows to";

/// One goal beside its figure.
#[derive(Clone, Debug)]
pub struct Goal {
    pub of: &'static str,
    pub goal: String,
    pub figure: String,
    pub reached: bool,
}

/// What was measured of ingest.
#[derive(Debug)]
pub struct Measured<'m> {
    /// Of ingest only.
    pub lines: &'m [Line],
    pub at_rest: AtRest,
    /// The peak of too many big requests at once, bytes.
    pub crowd: u64,
    pub together: &'m [Together],
    pub overload: Overload,
    pub slow: SlowClients,
}

impl Measured<'_> {
    fn line(&self, workload: Workload) -> Option<&Line> {
        self.lines.iter().find(|line| line.workload == workload)
    }

    /// The goals whose loads were run.
    pub fn goals(&self) -> Vec<Goal> {
        let plain = |events| Workload::new(events, Encoding::Plain, Drive::Full);
        let gzip = Workload::new(1000, Encoding::Gzip, Drive::Full);
        let half = Workload::new(1, Encoding::Plain, Drive::Percent(50));
        let mut goals = Vec::new();
        let mut bound = |of, workload, figure: fn(&Line) -> f64, most, unit| {
            if let Some(line) = self.line(workload) {
                goals.push(at_most(of, figure(line), most, unit));
            }
        };
        bound(
            "1 event a request, 64 connections",
            plain(1),
            |line| line.cpu,
            13.0,
            "us an event",
        );
        bound("batches of 100", plain(100), |line| line.cpu, 0.8, "us an event");
        bound(
            "batches of 1000",
            plain(1000),
            |line| line.cpu,
            0.8,
            "us an event",
        );
        bound("batches of 1000, gzip", gzip, |line| line.cpu, 1.5, "us an event");
        bound("p50, 1 connection", LONE, |line| line.p50, 0.3, "ms");
        bound("p50 at 40% load", PARTIAL, |line| line.p50, 1.0, "ms");
        bound("p99 at 40% load", PARTIAL, |line| line.p99, 10.0, "ms");
        bound(
            "memory at half load of single events",
            half,
            |line| line.peak as f64 / MEGABYTE,
            50.0,
            "MB",
        );
        let fastest = [100, 1000].iter().filter_map(|events| self.line(plain(*events)));
        if let Some(rate) = fastest.map(|line| line.rate).reduce(f64::max) {
            goals.push(Goal {
                of: "events a second on one core",
                goal: ">= 1.2 M".into(),
                figure: format!("{:.2} M", rate / 1e6),
                reached: rate >= 1.2e6,
            });
        }
        goals.push(at_most(
            "memory, 256 connections with batches of 1000",
            self.crowd as f64 / MEGABYTE,
            100.0,
            "MB",
        ));
        goals.push(at_most(
            "memory at rest",
            self.at_rest.resident / MEGABYTE,
            20.0,
            "MB",
        ));
        let listening = self.at_rest.listening_after.as_secs_f64();
        goals.push(at_most("process start to listening", listening, 0.1, "s"));
        for (of, at_full) in [
            (
                "1, 2, 4 processes, each as fast as it answers: CPU per event differs by",
                true,
            ),
            (
                "1, 2, 4 processes, each at an eighth: CPU per event differs by",
                false,
            ),
        ] {
            if let Some(spread) = spread(self.together, at_full) {
                goals.push(at_most(of, spread * 100.0, 20.0, "%"));
            }
        }
        goals.extend(overload(&self.overload));
        goals.extend(slow_clients(&self.slow));
        goals
    }
}

/// What is left of the capacity when more is sent, and how soon the rest is refused.
pub fn overload(measured: &Overload) -> [Goal; 2] {
    let &Overload {
        share,
        refusal_p99,
        adds_up,
        ..
    } = measured;
    let goodput = Goal {
        of: "three times the capacity: goodput, of the capacity",
        goal: ">= 90 %".into(),
        figure: format!("{:.0} %", 100.0 * share),
        reached: share >= 0.9 && adds_up,
    };
    let of_refusals = "three times the capacity: refusals, p99";
    [goodput, at_most(of_refusals, refusal_p99, 5.0, "ms")]
}

/// What slow clients may cost others.
pub fn slow_clients(measured: &SlowClients) -> [Goal; 2] {
    let &SlowClients {
        cpu_alone,
        cpu_beside,
        p99_alone,
        p99_beside,
        adds_up,
        ..
    } = measured;
    [
        (SLOW_CPU, (cpu_beside / cpu_alone - 1.0) * 100.0, 20.0, "%"),
        (SLOW_P99, p99_beside / p99_alone, 2.0, "times"),
    ]
    .map(|(of, figure, most, unit)| {
        let goal = at_most(of, figure, most, unit);
        Goal {
            reached: goal.reached && adds_up,
            ..goal
        }
    })
}

/// A bound from above.
pub fn at_most(of: &'static str, figure: f64, most: f64, unit: &str) -> Goal {
    Goal {
        of,
        goal: format!("<= {most} {unit}"),
        figure: format!("{} {unit}", short(figure)),
        reached: figure <= most,
    }
}

/// How far the dearest is above the cheapest, the worst of the kinds of load.
fn spread(together: &[Together], at_full: bool) -> Option<f64> {
    let alike = || together.iter().filter(|one| one.at_full == at_full);
    let of = |events| {
        let cpu = alike().filter(|one| one.events == events).map(|one| one.cpu);
        let (low, high) = (cpu.clone().fold(f64::INFINITY, f64::min), cpu.fold(0.0, f64::max));
        high / low - 1.0
    };
    alike().map(|one| of(one.events)).reduce(f64::max)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn line(workload: Workload, cpu: f64, rate: f64) -> Line {
        Line {
            server: "ingest".into(),
            workload,
            runs: 1,
            rate,
            cpu,
            cpu_range: (cpu, cpu),
            p50: 0.5,
            p99: 12.0,
            p999: 20.0,
            peak: 30_000_000,
            failed: 0,
            adds_up: true,
        }
    }

    #[test]
    fn a_goal_that_is_missed_says_so() {
        let plain = |events| Workload::new(events, Encoding::Plain, Drive::Full);
        let together = |processes, cpu| Together {
            processes,
            events: 1,
            at_full: false,
            rate: 1.0,
            cpu,
        };
        let measured = Measured {
            lines: &[
                line(plain(1), 12.9, 1e4),
                line(plain(100), 0.81, 1.3e6),
                line(PARTIAL, 9.0, 1e4),
            ],
            at_rest: AtRest {
                resident: 12e6,
                listening_after: Duration::from_millis(150),
            },
            crowd: 90_000_000,
            together: &[together(1, 10.0), together(2, 11.0), together(4, 12.5)],
            overload: Overload {
                share: 0.91,
                refusal_p99: 7.0,
                adds_up: true,
                ..Overload::default()
            },
            slow: SlowClients {
                cpu_alone: 10.0,
                cpu_beside: 11.0,
                p99_alone: 2.0,
                p99_beside: 5.0,
                adds_up: true,
                ..SlowClients::default()
            },
        };
        let goals = measured.goals();
        let reached = |of: &str| goals.iter().find(|goal| goal.of == of).map(|goal| goal.reached);
        assert_eq!(reached("1 event a request, 64 connections"), Some(true));
        assert_eq!(reached("batches of 100"), Some(false));
        assert_eq!(reached("batches of 1000"), None, "it was not run");
        assert_eq!(reached("events a second on one core"), Some(true));
        assert_eq!(
            (reached("p50 at 40% load"), reached("p99 at 40% load")),
            (Some(true), Some(false))
        );
        assert_eq!(reached("process start to listening"), Some(false));
        assert_eq!(
            reached("1, 2, 4 processes, each at an eighth: CPU per event differs by"),
            Some(false)
        );
        assert_eq!((reached(SLOW_CPU), reached(SLOW_P99)), (Some(true), Some(false)));
        assert_eq!(
            reached("three times the capacity: goodput, of the capacity"),
            Some(true)
        );
        assert_eq!(reached("three times the capacity: refusals, p99"), Some(false));
        let unsound = Measured {
            slow: SlowClients {
                adds_up: false,
                ..measured.slow
            },
            ..measured
        };
        let cpu = unsound.goals().into_iter().find(|goal| goal.of == SLOW_CPU);
        assert_eq!(cpu.map(|goal| goal.reached), Some(false), "events were lost");
    }
}
