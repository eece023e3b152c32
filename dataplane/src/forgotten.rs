//! A Kafka client that knows no broker any more.
//!
//! A broker that has just come back may answer a question for metadata before the cluster counts it as alive, and then
//! names no broker at all. librdkafka (2.12 to 2.15, its issue 5301) drops those it knew, and if it loses a race with
//! itself, it never goes back to the configured ones: such a client does nothing any more, and reports no error. Its
//! statistics tell it from a client whose brokers are away, for those stay listed.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rdkafka::Statistics;

/// Reports in a row. One may come between the last broker and the configured ones.
const CERTAIN: u32 = 2;

/// Whether one client has forgotten its brokers, by its statistics.
#[derive(Debug, Default)]
pub(crate) struct Forgotten(AtomicU32);

impl Forgotten {
    /// Takes a report, and says whether it makes certain that the client is to be replaced.
    pub(crate) fn see(&self, statistics: &Statistics) -> bool {
        // A group's coordinator is listed beside the brokers, whether one is known or not.
        let knows = |source: &str| matches!(source, "configured" | "learned");
        if statistics.brokers.values().any(|broker| knows(&broker.source)) {
            self.0.store(0, Relaxed);
        } else {
            self.0.fetch_add(1, Relaxed);
        }
        self.is_certain()
    }

    pub(crate) fn is_certain(&self) -> bool {
        self.0.load(Relaxed) >= CERTAIN
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::statistics::Broker;

    use super::*;

    #[test]
    fn only_a_client_without_brokers_for_long_has_forgotten_them() {
        let with = |source: &str| {
            let mut statistics = Statistics::default();
            let broker = Broker {
                source: source.into(),
                ..Broker::default()
            };
            statistics.brokers.insert("a".into(), broker);
            statistics
        };
        let forgotten = Forgotten::default();
        assert!(!forgotten.see(&Statistics::default()));
        assert!(!forgotten.see(&with("configured")), "it went back to them");
        assert!(!forgotten.see(&with("logical")));
        assert!(!forgotten.see(&with("learned")));
        assert!(!forgotten.see(&with("internal")));
        assert!(forgotten.see(&Statistics::default()) && forgotten.is_certain());
    }
}
