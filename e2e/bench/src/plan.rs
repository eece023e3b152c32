//! What is measured: the requests, the connections, the loads, and which server meets which of them.

use std::fmt;

use serde::Serialize;

use crate::corpus::Encoding;
use crate::server::Kind;

/// How hard a server is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum Drive {
    /// As fast as it answers.
    Full,
    /// A percentage of the events a second that the same server took at full load.
    Percent(u8),
}

/// One kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Workload {
    /// Of one request.
    pub events: usize,
    pub encoding: Encoding,
    pub connections: usize,
    pub drive: Drive,
}

impl Workload {
    pub const fn new(events: usize, encoding: Encoding, drive: Drive) -> Self {
        let connections = match events {
            1 => 64,
            100 => 16,
            _ => 8,
        };
        Self {
            events,
            encoding,
            connections,
            drive,
        }
    }

    /// The load whose rate the percentages are of.
    pub fn at_full(self) -> Self {
        Self {
            drive: Drive::Full,
            ..self
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encoding = if self.encoding == Encoding::Gzip {
            " gzip"
        } else {
            ""
        };
        write!(f, "{}{encoding} x {}, ", self.events, self.connections)?;
        match self.drive {
            Drive::Full => f.write_str("full"),
            Drive::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// One connection that sends single events: how long an event takes when nothing else is there.
pub const LONE: Workload = Workload {
    events: 1,
    encoding: Encoding::Plain,
    connections: 1,
    drive: Drive::Full,
};
/// Where single events are promised a median and a p99.
pub const PARTIAL: Workload = Workload::new(1, Encoding::Plain, Drive::Percent(40));

/// Everything, full loads first, because the others are shares of them.
pub fn workloads() -> Vec<Workload> {
    let mut all = Vec::new();
    for drive in [Drive::Full, Drive::Percent(50), Drive::Percent(10)] {
        for encoding in [Encoding::Plain, Encoding::Gzip] {
            all.extend([1, 100, 1000].map(|events| Workload::new(events, encoding, drive)));
        }
    }
    all.extend([LONE, PARTIAL]);
    all
}

/// Whether a server is measured under this load. Those that do not do the same work are shown where they say something:
/// bare HTTP is a floor at full load, and a service that answers before Kafka has no latency worth comparing.
pub fn meets(kind: Kind, workload: Workload) -> bool {
    let full = workload.drive == Drive::Full;
    match kind {
        Kind::Ingest | Kind::FiberSync => true,
        Kind::FiberAsync => full,
        Kind::Single | Kind::Hyper | Kind::Axum => full && workload.encoding == Encoding::Plain,
        Kind::Collector => full && workload.encoding == Encoding::Plain && workload.events == 100,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_share_has_its_full_load_before_it() {
        let all = workloads();
        for (index, workload) in all.iter().enumerate() {
            assert_eq!(
                all.iter().position(|other| other == workload),
                Some(index),
                "{workload}"
            );
            let full = all.iter().position(|other| *other == workload.at_full());
            assert!(full.is_some_and(|full| full <= index), "{workload}");
        }
    }

    #[test]
    fn loads_are_named_by_what_differs() {
        assert_eq!(LONE.to_string(), "1 x 1, full");
        let gzip = Workload::new(1000, Encoding::Gzip, Drive::Percent(50));
        assert_eq!(gzip.to_string(), "1000 gzip x 8, 50%");
    }
}
