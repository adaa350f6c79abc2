//! The attempt in flight of a request.
//!
//! Owns: its endpoint, the step that the request has reached there, and since when. Refuses to know: why the request
//! ends. Keeps: a request that ends during an attempt, for whatever reason, names the endpoint in its record.

use std::sync::Arc;

use sluice_core::connection::{Attempt, EndpointPlace};
use sluice_core::{Moment, Reason};

/// An attempt in flight.
#[derive(Debug)]
pub(super) struct Pending {
    endpoint: Arc<str>,
    place: Option<Arc<EndpointPlace>>,
    since: Moment,
    sent: bool,
    /// Whether it went on after its time was over.
    late: bool,
}

impl Pending {
    /// An attempt that takes or makes a connection to `endpoint`, in that place, since `now`.
    pub(super) const fn connecting(
        endpoint: Arc<str>,
        place: Option<Arc<EndpointPlace>>,
        now: Moment,
    ) -> Self {
        Self { endpoint, place, since: now, sent: false, late: false }
    }

    /// An attempt that went on after its time was over; its request headers were sent at `sent_at`.
    pub(super) const fn late(
        endpoint: Arc<str>,
        place: Option<Arc<EndpointPlace>>,
        sent_at: Moment,
    ) -> Self {
        Self { endpoint, place, since: sent_at, sent: true, late: true }
    }

    /// Notes that the request headers were sent at `now`.
    pub(super) const fn connected(&mut self, now: Moment) {
        self.since = now;
        self.sent = true;
    }

    /// The attempt for the record, once its endpoint has responded.
    pub(super) fn reached(self, now: Moment) -> Attempt {
        let lasted = || now.since(self.since).as_millis();
        let detail = self.late.then(|| format!("late, after {} ms", lasted()).into());
        let attempt = Attempt::reached(self.endpoint).in_place(self.place);
        Attempt { detail, ..attempt }
    }

    /// The attempt for the record, if the request ends at `now` for `why`; `whole` if the endpoint has the whole
    /// request.
    pub(super) fn ended(self, why: Reason, now: Moment, whole: bool) -> Attempt {
        let doing = match (self.sent, whole) {
            (false, _) => "connecting",
            (true, false) => "sending the request",
            (true, true) => "waiting for the response",
        };
        let detail = format!("{doing} for {} ms", now.since(self.since).as_millis());
        let attempt = Attempt::failed(self.endpoint, why, None, Some(detail.into()));
        attempt.in_place(self.place)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sluice_core::Clock;

    use super::*;

    #[test]
    fn the_record_shows_what_was_awaited_and_for_how_long() {
        let began = Clock::held().now();
        let at = |ms| began.after(Duration::from_millis(ms));
        let pending = || Pending::connecting("e:1".into(), None, began);
        let shown = |pending: Pending, whole| {
            pending.ended(crate::reasons::CANCELLED, at(30), whole).to_string()
        };
        assert_eq!(shown(pending(), false), "e:1 downstream.cancelled: connecting for 30 ms");
        let mut sent = pending();
        sent.connected(at(10));
        let text = "e:1 downstream.cancelled: waiting for the response for 20 ms";
        assert_eq!(shown(sent, true), text);
        assert_eq!(pending().reached(at(30)).to_string(), "e:1 ok");
        let place = Some(Arc::new(EndpointPlace { priority: 1, locality: None }));
        let late = Pending::late("e:1".into(), place, at(10));
        assert_eq!(late.reached(at(30)).to_string(), "e:1 ok: late, after 20 ms, priority 1");
    }
}
