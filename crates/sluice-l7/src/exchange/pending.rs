//! The attempt in flight of a request.
//!
//! Owns: which endpoint, since when, and how far the request has come there. Refuses to know: why the request
//! ends. Keeps: a request that ends during an attempt, for whatever reason, names the endpoint in its record.

use std::sync::Arc;

use sluice_core::connection::Attempt;
use sluice_core::{Moment, Reason};

/// An attempt in flight.
#[derive(Debug)]
pub(super) struct Pending {
    endpoint: Arc<str>,
    since: Moment,
    sent: bool,
}

impl Pending {
    /// A connection to `endpoint` is taken or made since `now`.
    pub(super) const fn connecting(endpoint: Arc<str>, now: Moment) -> Self {
        Self { endpoint, since: now, sent: false }
    }

    /// The request's headers went out at `now`.
    pub(super) const fn connected(&mut self, now: Moment) {
        self.since = now;
        self.sent = true;
    }

    /// The endpoint, which responded.
    pub(super) fn into_endpoint(self) -> Arc<str> {
        self.endpoint
    }

    /// The attempt as the record has it, when the request ends at `now` for `why`; `whole` says that the
    /// endpoint has the whole request.
    pub(super) fn ended(self, why: Reason, now: Moment, whole: bool) -> Attempt {
        let doing = match (self.sent, whole) {
            (false, _) => "connecting",
            (true, false) => "sending the request",
            (true, true) => "waiting for the response",
        };
        let detail = format!("{doing} for {} ms", now.since(self.since).as_millis());
        Attempt::failed(self.endpoint, why, None, Some(detail.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sluice_core::Clock;

    use super::*;

    #[test]
    fn it_says_what_was_waited_for_and_how_long() {
        let began = Clock::held().now();
        let at = |ms| began.after(Duration::from_millis(ms));
        let pending = || Pending::connecting("e:1".into(), began);
        let shown = |pending: Pending, whole| {
            pending.ended(crate::reasons::CANCELLED, at(30), whole).to_string()
        };
        assert_eq!(shown(pending(), false), "e:1 downstream.cancelled: connecting for 30 ms");
        let mut sent = pending();
        sent.connected(at(10));
        let text = "e:1 downstream.cancelled: waiting for the response for 20 ms";
        assert_eq!(shown(sent, true), text);
    }
}
