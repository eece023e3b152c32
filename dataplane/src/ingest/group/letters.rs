//! The room of dead letters: their topic may stand still while events do not, and letters on their way shall not use up the
//! room of these.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What a letter takes beside its bytes: its headers, and librdkafka's notes about it.
const BESIDE: usize = 1024;

/// What dead letters take that Kafka has not answered for, of all shards, and what they may take before no more are given to
/// it. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Letters {
    out: Arc<AtomicUsize>,
    most: usize,
}

impl Letters {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            out: Arc::default(),
            most,
        }
    }

    pub(super) fn are_full(&self) -> bool {
        self.out.load(Relaxed) >= self.most
    }

    /// A letter of so many bytes is given to Kafka.
    pub(super) fn depart(&self, bytes: usize) {
        self.out.fetch_add(bytes + BESIDE, Relaxed);
    }

    /// Kafka has answered for it.
    pub(super) fn arrive(&self, bytes: usize) {
        self.out.fetch_sub(bytes + BESIDE, Relaxed);
    }
}
