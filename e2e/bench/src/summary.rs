//! Medians over the runs.

use std::collections::BTreeSet;

use crate::measure::Sample;
use crate::plan::Workload;

/// The middle of the figures of one server under one load.
#[derive(Clone, Debug)]
pub struct Line {
    pub server: String,
    pub workload: Workload,
    pub runs: usize,
    pub rate: f64,
    pub cpu: f64,
    /// The lowest and the highest CPU of the runs.
    pub cpu_range: (f64, f64),
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    /// The highest of the runs: a bound is a bound.
    pub peak: u64,
    pub failed: u64,
    /// Whether every run's acknowledged events were stored.
    pub adds_up: bool,
}

/// All lines, in the order in which they were first measured.
pub fn lines(samples: &[Sample]) -> Vec<Line> {
    let mut seen = BTreeSet::new();
    let mut lines = Vec::new();
    for sample in samples {
        if seen.insert((sample.workload, sample.server.clone())) {
            lines.push(line(samples, &sample.server, sample.workload));
        }
    }
    lines
}

fn line(samples: &[Sample], server: &str, workload: Workload) -> Line {
    let of: Vec<&Sample> = samples
        .iter()
        .filter(|sample| sample.server == server && sample.workload == workload)
        .collect();
    let middle = |figure: fn(&Sample) -> f64| median(of.iter().map(|sample| figure(sample)).collect());
    let cpu = of.iter().map(|sample| sample.cpu);
    Line {
        server: server.to_owned(),
        workload,
        runs: of.len(),
        rate: middle(|sample| sample.rate),
        cpu: middle(|sample| sample.cpu),
        cpu_range: (cpu.clone().fold(f64::INFINITY, f64::min), cpu.fold(0.0, f64::max)),
        p50: middle(|sample| sample.p50),
        p99: middle(|sample| sample.p99),
        p999: middle(|sample| sample.p999),
        peak: of.iter().map(|sample| sample.peak).max().unwrap_or(0),
        failed: of.iter().map(|sample| sample.failed).sum(),
        adds_up: of.iter().all(|sample| sample.adds_up()),
    }
}

/// The middle figure; of an even number the mean of the two in the middle, 0 of none.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let half = figures.len() / 2;
    match figures.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => figures[half],
        _ => f64::midpoint(figures[half - 1], figures[half]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_the_middle() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
        assert!(median(Vec::new()).abs() < f64::EPSILON);
    }
}
