//! Medians over the runs.

use crate::store::catch_up::Sample;
use crate::store::whole::Cost;
use crate::summary::median;

/// The middle of a sink's runs over the same backlog.
#[derive(Clone, Debug)]
pub struct Line {
    pub sink: String,
    pub rate: Option<f64>,
    pub cpu: Option<Figure>,
    pub store: Figure,
    /// None where merges were beside.
    pub merges: Option<f64>,
    /// The highest of the runs: a bound is a bound.
    pub peak: Option<u64>,
    /// Rows of an INSERT; none where there were none.
    pub block: Option<f64>,
    pub adds_up: bool,
}

/// A median between the lowest and the highest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    pub middle: f64,
    pub low: f64,
    pub high: f64,
}

impl Figure {
    /// None of none.
    pub fn of(figures: Vec<f64>) -> Option<Self> {
        let low = figures.iter().copied().reduce(f64::min)?;
        let high = figures.iter().copied().reduce(f64::max)?;
        Some(Self {
            middle: median(figures),
            low,
            high,
        })
    }
}

/// One line for each sink, in the order in which they were first measured.
pub fn lines(samples: &[Sample]) -> Vec<Line> {
    let mut sinks: Vec<&str> = Vec::new();
    for sample in samples {
        if !sinks.contains(&sample.sink.as_str()) {
            sinks.push(&sample.sink);
        }
    }
    sinks.into_iter().filter_map(|sink| line(samples, sink)).collect()
}

fn line(samples: &[Sample], sink: &str) -> Option<Line> {
    let of = || samples.iter().filter(|sample| sample.sink == sink);
    let all = |figure: fn(&Sample) -> Option<f64>| of().filter_map(figure).collect::<Vec<f64>>();
    Some(Line {
        sink: sink.to_owned(),
        rate: Figure::of(all(|sample| sample.rate)).map(|rate| rate.middle),
        cpu: Figure::of(all(|sample| sample.cpu)),
        store: Figure::of(all(|sample| Some(sample.store)))?,
        merges: Figure::of(all(|sample| sample.merges)).map(|merges| merges.middle),
        peak: of().filter_map(|sample| sample.peak).max(),
        block: Figure::of(all(|sample| {
            (sample.inserts > 0).then(|| sample.events as f64 / sample.inserts as f64)
        }))
        .map(|block| block.middle),
        adds_up: of().all(Sample::adds_up),
    })
}

/// The middle of a stack's runs, each figure by itself.
pub fn cost(costs: &[Cost], stack: &str) -> Option<WholeLine> {
    let of = |figure: fn(&Cost) -> f64| {
        let of_stack = costs.iter().filter(|cost| cost.stack == stack);
        Figure::of(of_stack.map(figure).collect())
    };
    Some(WholeLine {
        server: of(|cost| cost.server)?,
        sink: of(|cost| cost.sink)?,
        store: of(|cost| cost.store)?,
        merges: of(|cost| cost.merges)?,
        total: of(Cost::total)?,
        rate: of(|cost| cost.rate)?,
    })
}

/// See [`cost`].
#[derive(Clone, Copy, Debug)]
pub struct WholeLine {
    pub server: Figure,
    pub sink: Figure,
    pub store: Figure,
    pub merges: Figure,
    pub total: Figure,
    pub rate: Figure,
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::store::table::Stored;

    /// A run over 1000 events.
    pub fn sample(sink: &str, cpu: Option<f64>) -> Sample {
        Sample {
            sink: sink.into(),
            events: 1000,
            rate: Some(10.0),
            cpu,
            store: 2.0,
            merges: Some(0.5),
            peak: cpu.map(|_| 100_000_000),
            inserts: 5,
            stored: Stored {
                rows: 1000,
                distinct: 1000,
            },
            left: None,
        }
    }

    #[test]
    fn each_sink_has_its_middle_and_its_worst() {
        let mut samples = vec![
            sample("a", Some(1.0)),
            sample("b", None),
            sample("a", Some(3.0)),
            sample("a", Some(1.5)),
        ];
        samples[2].stored.distinct = 999;
        samples[3].peak = Some(200_000_000);
        let lines = lines(&samples);
        let [a, b] = lines.as_slice() else {
            panic!("{lines:?}")
        };
        let figure = Figure {
            middle: 1.5,
            low: 1.0,
            high: 3.0,
        };
        assert_eq!(
            (a.cpu, a.peak, a.adds_up),
            (Some(figure), Some(200_000_000), false)
        );
        assert_eq!((b.cpu, b.peak, b.adds_up), (None, None, true));
        assert_eq!(b.block, Some(200.0));
    }
}
