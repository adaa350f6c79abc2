//! What became of the traffic of one endpoint.
//!
//! Owns: streaks of failures, and counts since the last sweep. Refuses to know: what is done about them. Keeps: counts
//! are only kept while something measures rates; every update is atomic on its own, so that a sweep may miss a result
//! of the same moment and never counts one twice.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use once_cell::race::OnceBox;
use sluice_core::Moment;

use super::EjectionKind;

/// The counts of an endpoint.
#[derive(Debug, Default)]
pub(crate) struct OutlierCounts {
    connect_failures: AtomicU32,
    server_errors: AtomicU32,
    gateway_errors: AtomicU32,
    measured: AtomicBool,
    /// Whether datagrams without a reply are counted.
    awaited: AtomicBool,
    /// Datagrams since the last reply.
    unanswered: AtomicU32,
    /// What is only needed while results are counted for rates, or datagrams without a reply.
    rates: OnceBox<Rates>,
}

/// Results since the last sweep.
#[derive(Debug, Default)]
struct Rates {
    /// When the first datagram without a reply was sent, in microseconds.
    silent_from: AtomicU64,
    answers: Window,
    connects: Window,
    times: Times,
}

/// Response times since the last sweep.
#[derive(Debug, Default)]
struct Times {
    count: AtomicU64,
    micros: AtomicU64,
}

/// Response times in a period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TimeTally {
    pub count: u64,
    pub micros: u64,
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

    /// Whether datagrams without a reply are counted.
    pub(crate) fn await_replies(&self, on: bool) {
        if self.awaited.load(Relaxed) != on {
            end_streak(&self.unanswered);
            self.awaited.store(on, Relaxed);
        }
    }

    /// Whether datagrams without a reply are counted.
    pub(crate) fn awaits_replies(&self) -> bool {
        self.awaited.load(Relaxed)
    }

    /// Datagrams were sent; returns their number since the last reply, and when the first of them was sent.
    pub(crate) fn sent(&self, count: u32, now: Moment) -> (u32, Moment) {
        let before = self.unanswered.fetch_add(count, Relaxed);
        let silent_from = &self.rates().silent_from;
        if before == 0 {
            silent_from.store(now.as_micros(), Relaxed);
        }
        (before.saturating_add(count), Moment::from_micros(silent_from.load(Relaxed)))
    }

    fn rates(&self) -> &Rates {
        self.rates.get_or_init(Box::default)
    }

    fn count(&self, window: fn(&Rates) -> &Window, good: bool) {
        if self.measured.load(Relaxed) {
            let window = window(self.rates());
            let count = if good { &window.good } else { &window.bad };
            count.fetch_add(1, Relaxed);
        }
    }

    /// A response that is no server error.
    pub(crate) fn answered(&self) {
        end_streak(&self.server_errors);
        end_streak(&self.gateway_errors);
        self.count(|rates| &rates.answers, true);
    }

    /// A response took that long.
    pub(crate) fn took(&self, time: Duration) {
        if self.measured.load(Relaxed) {
            let Times { count, micros } = &self.rates().times;
            count.fetch_add(1, Relaxed);
            micros.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Relaxed);
        }
    }

    /// The response times since the last call.
    pub(crate) fn take_times(&self) -> TimeTally {
        let Some(Rates { times: Times { count, micros }, .. }) = self.rates.get() else {
            return TimeTally::default();
        };
        TimeTally { count: count.swap(0, Relaxed), micros: micros.swap(0, Relaxed) }
    }

    /// Counts the streak of that kind from zero again.
    pub(crate) fn end_streak_of(&self, kind: EjectionKind) {
        match kind {
            EjectionKind::ConnectFailures => end_streak(&self.connect_failures),
            EjectionKind::Consecutive5xx => end_streak(&self.server_errors),
            EjectionKind::ConsecutiveGatewayErrors => end_streak(&self.gateway_errors),
            EjectionKind::Silence => end_streak(&self.unanswered),
            EjectionKind::SuccessRate
            | EjectionKind::FailurePercentage
            | EjectionKind::ConnectSuccessRate
            | EjectionKind::ConnectFailurePercentage
            | EjectionKind::Latency => {}
        }
    }

    /// A server error or a missing response; returns the numbers of server errors and of gateway errors in a row.
    pub(crate) fn answered_badly(&self, gateway: bool) -> (u32, u32) {
        self.count(|rates| &rates.answers, false);
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
        self.count(|rates| &rates.connects, true);
    }

    /// The endpoint has shown that it is there.
    pub(crate) fn responded(&self) {
        end_streak(&self.connect_failures);
        end_streak(&self.unanswered);
    }

    /// A connection failed; returns the number of failures in a row.
    pub(crate) fn failed(&self) -> u32 {
        self.count(|rates| &rates.connects, false);
        self.connect_failures.fetch_add(1, Relaxed).saturating_add(1)
    }

    /// Counts streaks from zero again.
    pub(crate) fn end_streaks(&self) {
        let failures = [&self.connect_failures, &self.server_errors, &self.gateway_errors];
        failures.into_iter().chain([&self.unanswered]).for_each(end_streak);
    }

    /// The results of responses and of connections since the last call.
    pub(crate) fn take(&self) -> (Tally, Tally) {
        let rates = self.rates.get();
        rates.map(|rates| (rates.answers.take(), rates.connects.take())).unwrap_or_default()
    }
}

/// A write would take the cache line from other workers.
fn end_streak(streak: &AtomicU32) {
    if streak.load(Relaxed) != 0 {
        streak.store(0, Relaxed);
    }
}
