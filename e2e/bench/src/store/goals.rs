//! The goals of what stores events, and whether the figures reach them.

use crate::goals::{Goal, at_most};
use crate::page::short;
use crate::store::catch_up::Sample;
use crate::store::fresh::Fresh;
use crate::store::quiet::Quiet;
use crate::store::summary::{Line, WholeLine};

/// The consumer's: its line of the backlog, one long catch-up, few events, half load. Figures of runs that did not
/// store what was sent reach nothing.
pub fn consumer(line: &Line, long: &Sample, quiet: &Quiet, half: &Fresh) -> Vec<Goal> {
    let cpu = line.cpu.map_or(f64::INFINITY, |cpu| cpu.middle);
    let peak = line
        .peak
        .max(long.peak)
        .map_or(f64::INFINITY, |peak| peak as f64 / 1e6);
    let sound = line.adds_up && long.adds_up();
    let left = long.left.unwrap_or(u64::MAX);
    let mut goals = vec![
        at_most("CPU of the consumer for a row", cpu, 1.0, "us"),
        at_most("the same, the stretch", cpu, 0.8, "us"),
        at_most("memory of the consumer", peak, 150.0, "MB"),
    ];
    for goal in &mut goals {
        goal.reached &= sound;
    }
    goals.extend([
        at_most("1,000 events/s: INSERTs", quiet.inserts, 2.0, "a second"),
        at_most(
            "1,000 events/s: ClickHouse",
            quiet.store * 100.0,
            5.0,
            "% of a core",
        ),
        at_most(
            "half load: from receipt to a row, p99",
            half.received.p99 / 1e3,
            2.0,
            "s",
        ),
        at_most(
            "half load: age of the newest row, p99",
            half.newest.p99 / 1e3,
            2.0,
            "s",
        ),
        Goal {
            of: "a long catch-up: times that the group was left",
            goal: "0".into(),
            figure: format!("{left}, {} M rows", short(long.events as f64 / 1e6)),
            reached: left == 0 && long.adds_up(),
        },
    ]);
    goals
}

/// Those of the whole way.
pub fn whole(penstock: &WholeLine, replaced: &WholeLine) -> Vec<Goal> {
    const TIMES: f64 = 8.0;
    let times = replaced.total.middle / penstock.total.middle;
    vec![
        at_most(
            "HTTP to a row in batches of 1000, merges apart",
            penstock.total.middle,
            2.8,
            "us an event",
        ),
        Goal {
            of: "the replaced stack takes of it",
            goal: format!(">= {TIMES} times"),
            figure: format!("{} times", short(times)),
            reached: times >= TIMES,
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fresh::Spread;
    use crate::store::summary::{self, Figure, tests::sample};

    fn reached(goals: &[Goal]) -> Vec<bool> {
        goals.iter().map(|goal| goal.reached).collect()
    }

    #[test]
    fn lost_rows_reach_no_goal() {
        let quiet = Quiet {
            stack: "s",
            inserts: 2.5,
            store: 0.04,
            store_at_rest: 0.0,
            sink: 0.0,
            server: 0.0,
        };
        let half = Fresh {
            stack: "s",
            events: 1000,
            rate: 1.0,
            sent: Spread::default(),
            received: Spread {
                p50: 900.0,
                p99: 1900.0,
            },
            newest: Spread {
                p50: 900.0,
                p99: 2100.0,
            },
        };
        let mut long = Sample {
            left: Some(0),
            ..sample("Penstock", Some(0.9))
        };
        let lines = |sample: &Sample| summary::lines(std::slice::from_ref(sample)).remove(0);
        let goals = consumer(&lines(&long), &long, &quiet, &half);
        assert_eq!(
            reached(&goals),
            [true, false, true, false, true, true, false, true]
        );
        long.stored.rows += 1;
        let goals = consumer(&lines(&long), &long, &quiet, &half);
        assert_eq!(
            reached(&goals),
            [false, false, false, false, true, true, false, false]
        );
        let never_said = Sample {
            left: None,
            ..sample("Penstock", Some(0.9))
        };
        let goals = consumer(&lines(&never_said), &never_said, &quiet, &half);
        assert_eq!(goals.last().map(|goal| goal.reached), Some(false));
    }

    #[test]
    fn the_replaced_stack_is_held_against_ours() {
        let line = |total| {
            let figure = |middle| Figure {
                middle,
                low: middle,
                high: middle,
            };
            WholeLine {
                server: figure(1.0),
                sink: figure(1.0),
                store: figure(1.0),
                merges: figure(1.0),
                total: figure(total),
                rate: figure(1.0),
            }
        };
        assert_eq!(reached(&whole(&line(2.7), &line(22.0))), [true, true]);
        assert_eq!(reached(&whole(&line(3.0), &line(22.0))), [false, false]);
    }
}
