//! What one pod's spool holds, out of the pod's metrics. Pure.

/// How much waits in a spool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Depth {
    pub groups: u64,
    pub bytes: u64,
    /// Age of the oldest group, seconds.
    pub oldest: u64,
}

/// A pod and what it said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodSpool {
    pub pod: String,
    /// `None` where it could not be asked: not there, not reachable, no answer in time.
    pub depth: Option<Depth>,
    /// What it said last.
    pub last: Option<Depth>,
    /// It has fallen silent just now, as while it restarts: what it said last holds until it speaks again.
    pub back_soon: bool,
    /// It has not begun to run, as while there is no node or no volume for it.
    pub unborn: bool,
    /// Every event goes by its spool, so groups are always on their way there.
    pub spools_all: bool,
}

impl PodSpool {
    pub(crate) fn new(pod: String, depth: Option<Depth>) -> Self {
        Self {
            pod,
            depth,
            last: depth,
            back_soon: false,
            unborn: false,
            spools_all: false,
        }
    }
}

impl Depth {
    /// Out of an exposition in Prometheus' text format. `None` unless it has all three figures.
    pub(crate) fn read(metrics: &str) -> Option<Self> {
        let figure = |name: &str| {
            let line = metrics.lines().find_map(|line| line.strip_prefix(name))?;
            // The name ends there: another one may begin with it.
            let value = line.strip_prefix(' ')?;
            // Gauges of whole numbers; never negative.
            value.split_whitespace().next()?.parse::<u64>().ok()
        };
        Some(Self {
            groups: figure("penstock_ingest_spool_groups")?,
            bytes: figure("penstock_ingest_spool_bytes")?,
            oldest: figure("penstock_ingest_spool_oldest_seconds")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_depth_is_three_figures() {
        let metrics = "# HELP penstock_ingest_spool_groups Groups in the spool.\n\
             # TYPE penstock_ingest_spool_groups gauge\n\
             penstock_ingest_spool_groups 3\n\
             penstock_ingest_spool_bytes 1200\n\
             penstock_ingest_spool_oldest_seconds 40\n";
        let depth = Depth {
            groups: 3,
            bytes: 1200,
            oldest: 40,
        };
        assert_eq!(Depth::read(metrics), Some(depth));
        for (from, to) in [
            ("penstock_ingest_spool_bytes 1200\n", ""),
            ("groups 3", "groups -1"),
            ("oldest_seconds 40", "oldest_seconds_bucket 40"),
            ("groups 3", "groups NaN"),
        ] {
            assert_eq!(Depth::read(&metrics.replace(from, to)), None, "{to}");
        }
    }
}
