//! The weight that an endpoint reports.
//!
//! Owns: the last report, as workers leave it for the control thread. Refuses to know: what a report says, and when it
//! counts. Keeps: a worker writes two words and waits for nobody.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The last report of an endpoint, as a worker leaves it for the control thread.
#[derive(Debug, Default)]
pub struct ReportedWeight {
    /// The bits of the weight.
    weight: AtomicU64,
    /// Grows with every report. 0: no balancer asks.
    count: AtomicU64,
}

impl ReportedWeight {
    /// Begins or ends to heed reports.
    pub(crate) fn track(&self, on: bool) {
        if self.is_tracked() != on {
            self.count.store(u64::from(on), Relaxed);
        }
    }

    /// Whether reports are heeded.
    pub fn is_tracked(&self) -> bool {
        self.count.load(Relaxed) != 0
    }

    /// Takes a report into account.
    pub fn note(&self, weight: f64) {
        self.weight.store(weight.to_bits(), Relaxed);
        self.count.fetch_add(1, Relaxed);
    }

    /// How many reports there were, from one on while they are heeded, and the weight that was reported last.
    pub(crate) fn news(&self) -> (u64, f64) {
        (self.count.load(Relaxed), f64::from_bits(self.weight.load(Relaxed)))
    }

    /// The weight that was reported last.
    pub fn last(&self) -> Option<f64> {
        let (count, weight) = self.news();
        (count > 1).then_some(weight)
    }
}
