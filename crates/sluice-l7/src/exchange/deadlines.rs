//! The deadlines of a request.
//!
//! Owns: when each deadline is due, and which is due first. Refuses to know: timers and streams. Keeps: the timer is
//! set for the earliest deadline, and that deadline is reported when it fires; no caller has to guess which one ended
//! the request.

use std::time::Duration;

use sluice_core::Moment;

use crate::routes::Timeouts;

/// What has a deadline. If two are due at the same moment, the one declared first counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deadline {
    /// The whole exchange: what [`TotalSource`] says.
    Total,
    /// The next piece of the client's body, while it is awaited.
    Body,
    /// The filter that a piece of the request waits for.
    RequestFilter,
    /// The filter that a piece of the response waits for.
    ResponseFilter,
    /// The response headers, from the end of the request, over all attempts.
    Response,
    /// The response headers within one attempt.
    Attempt,
    /// The stream of one attempt, from its headers to the end of the response.
    Stream,
    /// Bytes in either direction within one attempt, until the response headers.
    AttemptIdle,
    /// Bytes in either direction, once the response headers have been sent.
    Idle,
}

impl Deadline {
    const ALL: [Self; 9] = [
        Self::Total,
        Self::Body,
        Self::RequestFilter,
        Self::ResponseFilter,
        Self::Response,
        Self::Attempt,
        Self::Stream,
        Self::AttemptIdle,
        Self::Idle,
    ];
}

/// What set the deadline of the whole exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TotalSource {
    /// The listener.
    Listener,
    /// The rule, whatever the listener says.
    Rule,
    /// The client, which can only shorten it.
    Client,
}

/// When a request's deadlines are due.
#[derive(Clone, Debug)]
pub(super) struct Deadlines {
    due: [Moment; Deadline::ALL.len()],
    timeouts: [Option<Duration>; Deadline::ALL.len()],
    total_source: TotalSource,
}

impl Deadlines {
    /// Creates the deadlines with only the timeouts set for the pieces of the client's body, and for filters that pieces
    /// wait for.
    pub(super) fn new(body: Duration, filter: Duration) -> Self {
        let mut deadlines = Self {
            due: [Moment::NEVER; Deadline::ALL.len()],
            timeouts: [None; Deadline::ALL.len()],
            total_source: TotalSource::Listener,
        };
        deadlines.timeouts[Deadline::Body as usize] = Some(body);
        deadlines.timeouts[Deadline::RequestFilter as usize] = Some(filter);
        deadlines.timeouts[Deadline::ResponseFilter as usize] = Some(filter);
        deadlines
    }

    /// Sets the timeouts of a route, apart from that of the whole exchange.
    pub(super) fn configure(&mut self, timeouts: &Timeouts) {
        for (deadline, timeout) in [
            (Deadline::Response, timeouts.response),
            (Deadline::Attempt, timeouts.per_try),
            (Deadline::AttemptIdle, timeouts.per_try_idle),
            (Deadline::Idle, timeouts.idle),
        ] {
            self.timeouts[deadline as usize] = timeout;
        }
    }

    /// Bounds the whole exchange, which began at `began`.
    pub(super) fn bound(&mut self, total: Option<Duration>, source: TotalSource, began: Moment) {
        self.timeouts[Deadline::Total as usize] = total;
        self.total_source = source;
        self.start(Deadline::Total, began);
    }

    /// Bounds the stream of an attempt, whose headers were sent at `sent`.
    pub(super) fn bound_stream(&mut self, most: Option<Duration>, sent: Moment) {
        self.timeouts[Deadline::Stream as usize] = most;
        self.start(Deadline::Stream, sent);
    }

    /// Shortens the deadline of the whole exchange to the client's timeout, if that is earlier.
    pub(super) fn shorten(&mut self, timeout: Duration, began: Moment) {
        if began.after(timeout) < self.due(Deadline::Total) {
            self.bound(Some(timeout), TotalSource::Client, began);
        }
    }

    /// Ends the deadlines for the response headers, which have been received. What is left of the attempt is bounded by
    /// the shorter of both idle timeouts.
    pub(super) fn response_began(&mut self) {
        for deadline in [Deadline::Response, Deadline::Attempt, Deadline::AttemptIdle] {
            self.stop(deadline);
        }
        let (idle, own) = (Deadline::Idle as usize, self.timeout(Deadline::AttemptIdle));
        self.timeouts[idle] = own.into_iter().chain(self.timeouts[idle]).min();
    }

    /// The setting that the idle timeout of the response is from.
    pub(super) fn idle_name(&self) -> &'static str {
        let own = self.timeout(Deadline::AttemptIdle);
        let is_own = own.is_some() && own == self.timeout(Deadline::Idle);
        if is_own { "timeout.per_try_idle" } else { "timeout.idle" }
    }

    /// Starts or restarts `deadline`.
    pub(super) fn start(&mut self, deadline: Deadline, now: Moment) {
        self.due[deadline as usize] = now.after_bound(self.timeout(deadline));
    }

    /// Starts `deadline` unless it is running.
    pub(super) fn start_once(&mut self, deadline: Deadline, now: Moment) {
        if self.due(deadline) == Moment::NEVER {
            self.start(deadline, now);
        }
    }

    /// Stops `deadline`.
    pub(super) const fn stop(&mut self, deadline: Deadline) {
        self.due[deadline as usize] = Moment::NEVER;
    }

    /// When `deadline` is due; never if it has no timeout or is not running.
    pub(super) const fn due(&self, deadline: Deadline) -> Moment {
        self.due[deadline as usize]
    }

    /// The timeout of `deadline`.
    pub(super) const fn timeout(&self, deadline: Deadline) -> Option<Duration> {
        self.timeouts[deadline as usize]
    }

    /// Whether the client set the deadline of the whole exchange.
    pub(super) const fn total_is_clients(&self) -> bool {
        matches!(self.total_source, TotalSource::Client)
    }

    /// The setting that the deadline of the whole exchange is from.
    pub(super) const fn total_name(&self) -> &'static str {
        match self.total_source {
            TotalSource::Listener => "max_stream_duration",
            TotalSource::Rule => "timeout.total",
            TotalSource::Client => "grpc-timeout",
        }
    }

    /// The deadline for everything before the response headers: the earlier of `Total` and `Response`.
    pub(super) fn overall(&self) -> Moment {
        self.due(Deadline::Total).min(self.due(Deadline::Response))
    }

    /// The deadline that is due first, and when; never if none is running.
    pub(super) fn first(&self) -> (Moment, Deadline) {
        let first = Deadline::ALL.into_iter().min_by_key(|deadline| self.due(*deadline));
        let first = first.unwrap_or(Deadline::Total);
        (self.due(first), first)
    }
}

#[cfg(test)]
mod tests {
    use sluice_core::Clock;
    use sluice_core::settings::OrNone;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn timeouts(total: u32, response: u32, per_try: u32, idle: u32) -> Timeouts {
        let timeout = |ms: u32| (ms > 0).then_some(MS * ms);
        Timeouts {
            total: Some(OrNone(timeout(total))),
            response: timeout(response),
            per_try: timeout(per_try),
            idle: timeout(idle),
            ..Timeouts::default()
        }
    }

    fn configure(deadlines: &mut Deadlines, timeouts: &Timeouts, began: Moment) {
        deadlines.configure(timeouts);
        let total = timeouts.total.and_then(|total| total.0);
        deadlines.bound(total, TotalSource::Rule, began);
    }

    #[test]
    fn the_earliest_deadline_is_the_one_that_is_reported() {
        let began = Clock::held().now();
        let at = |ms| began.after(MS * ms);
        let mut deadlines = Deadlines::new(MS * 30, MS * 40);
        assert_eq!(deadlines.first().0, Moment::NEVER);
        configure(&mut deadlines, &timeouts(100, 50, 20, 0), began);
        assert_eq!(deadlines.overall(), at(100));
        for deadline in [Deadline::Response, Deadline::Attempt, Deadline::Body] {
            deadlines.start(deadline, began);
        }
        assert_eq!(deadlines.overall(), at(50));
        for (due, first) in [
            (20, Deadline::Attempt),
            (30, Deadline::Body),
            (50, Deadline::Response),
            (100, Deadline::Total),
        ] {
            assert_eq!(deadlines.first(), (at(due), first));
            deadlines.stop(first);
        }
        assert_eq!(deadlines.first().0, Moment::NEVER);
    }

    #[test]
    fn of_two_deadlines_at_the_same_moment_the_first_declared_counts() {
        let began = Clock::held().now();
        let mut deadlines = Deadlines::new(MS * 5, MS * 5);
        let all = Timeouts { per_try_idle: Some(MS * 5), ..timeouts(5, 5, 5, 5) };
        configure(&mut deadlines, &all, began);
        deadlines.bound_stream(Some(MS * 5), began);
        for deadline in Deadline::ALL {
            deadlines.start(deadline, began);
        }
        for deadline in Deadline::ALL {
            assert_eq!(deadlines.first(), (began.after(MS * 5), deadline));
            deadlines.stop(deadline);
        }
    }

    #[test]
    fn a_client_can_only_shorten_the_exchange() {
        let began = Clock::held().now();
        let mut deadlines = Deadlines::new(MS, MS);
        configure(&mut deadlines, &timeouts(50, 0, 0, 0), began);
        assert_eq!(deadlines.total_name(), "timeout.total");
        for longer in [60, 50] {
            deadlines.shorten(MS * longer, began);
            assert!(!deadlines.total_is_clients());
        }
        deadlines.shorten(MS * 40, began);
        assert!(deadlines.total_is_clients());
        assert_eq!(deadlines.total_name(), "grpc-timeout");
        assert_eq!(deadlines.due(Deadline::Total), began.after(MS * 40));
        assert_eq!(deadlines.timeout(Deadline::Total), Some(MS * 40));
    }

    #[test]
    fn a_response_is_bounded_by_the_shorter_of_both_idle_timeouts() {
        let began = Clock::held().now();
        for (own, idle, bound, name) in [
            (3, 5, 3, "timeout.per_try_idle"),
            (5, 3, 3, "timeout.idle"),
            (0, 3, 3, "timeout.idle"),
            (3, 0, 3, "timeout.per_try_idle"),
            (0, 0, 0, "timeout.idle"),
        ] {
            let mut deadlines = Deadlines::new(MS, MS);
            let per_try_idle = (own > 0).then_some(MS * own);
            let timeouts = Timeouts { per_try_idle, ..timeouts(0, 9, 9, idle) };
            configure(&mut deadlines, &timeouts, began);
            for deadline in [Deadline::Response, Deadline::Attempt, Deadline::AttemptIdle] {
                deadlines.start(deadline, began);
            }
            deadlines.response_began();
            assert_eq!(deadlines.first().0, Moment::NEVER);
            let bound = (bound > 0).then_some(MS * bound);
            assert_eq!((deadlines.timeout(Deadline::Idle), deadlines.idle_name()), (bound, name));
        }
    }

    #[test]
    fn start_once_does_not_restart_a_running_deadline() {
        let began = Clock::held().now();
        let mut deadlines = Deadlines::new(MS * 10, MS);
        deadlines.start_once(Deadline::Body, began);
        deadlines.start_once(Deadline::Body, began.after(MS * 5));
        assert_eq!(deadlines.due(Deadline::Body), began.after(MS * 10));
        deadlines.start(Deadline::Body, began.after(MS * 5));
        assert_eq!(deadlines.due(Deadline::Body), began.after(MS * 15));
        deadlines.start(Deadline::Idle, began);
        assert_eq!(deadlines.due(Deadline::Idle), Moment::NEVER);
    }
}
