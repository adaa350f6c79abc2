//! What became of the traffic of one endpoint.
//!
//! Owns: streaks of failures, and counts since the last sweep. Refuses to know: what is done about them. Keeps: counts
//! are only kept while something measures rates; every update is atomic on its own, so that a sweep may miss a result
//! of the same moment and never counts one twice.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

/// The counts of an endpoint.
#[derive(Debug, Default)]
pub(crate) struct OutlierCounts {
    connect_failures: AtomicU32,
    server_errors: AtomicU32,
    gateway_errors: AtomicU32,
    measured: AtomicBool,
    answers: Window,
    connects: Window,
}

/// Results since the last sweep.
#[derive(Debug, Default)]
struct Window {
    good: AtomicU64,
    bad: AtomicU64,
}

/// Results in a period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub good: u64,
    pub bad: u64,
}

impl Window {
    fn take(&self) -> Tally {
        Tally { good: self.good.swap(0, Relaxed), bad: self.bad.swap(0, Relaxed) }
    }
}

impl OutlierCounts {
    /// Whether results are counted for rates.
    pub(crate) fn measure(&self, on: bool) {
        if self.measured.load(Relaxed) != on {
            self.measured.store(on, Relaxed);
        }
    }

    fn count(&self, window: &Window, good: bool) {
        if self.measured.load(Relaxed) {
            let count = if good { &window.good } else { &window.bad };
            count.fetch_add(1, Relaxed);
        }
    }

    /// A response that is no server error.
    pub(crate) fn answered(&self) {
        end_streak(&self.server_errors);
        end_streak(&self.gateway_errors);
        self.count(&self.answers, true);
    }

    /// A server error or a missing response; returns the numbers of server errors and of gateway errors in a row.
    pub(crate) fn answered_badly(&self, gateway: bool) -> (u32, u32) {
        self.count(&self.answers, false);
        let errors = self.server_errors.fetch_add(1, Relaxed).saturating_add(1);
        if gateway {
            return (errors, self.gateway_errors.fetch_add(1, Relaxed).saturating_add(1));
        }
        end_streak(&self.gateway_errors);
        (errors, 0)
    }

    /// A connection was made.
    pub(crate) fn connected(&self) {
        self.responded();
        self.count(&self.connects, true);
    }

    /// The endpoint has shown that it is there.
    pub(crate) fn responded(&self) {
        end_streak(&self.connect_failures);
    }

    /// A connection failed; returns the number of failures in a row.
    pub(crate) fn failed(&self) -> u32 {
        self.count(&self.connects, false);
        self.connect_failures.fetch_add(1, Relaxed).saturating_add(1)
    }

    /// Counts streaks from zero again.
    pub(crate) fn end_streaks(&self) {
        for streak in [&self.connect_failures, &self.server_errors, &self.gateway_errors] {
            end_streak(streak);
        }
    }

    /// The results of responses and of connections since the last call.
    pub(crate) fn take(&self) -> (Tally, Tally) {
        (self.answers.take(), self.connects.take())
    }
}

/// A write would take the cache line from other workers.
fn end_streak(streak: &AtomicU32) {
    if streak.load(Relaxed) != 0 {
        streak.store(0, Relaxed);
    }
}
