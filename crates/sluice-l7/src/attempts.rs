//! Attempts in flight by endpoint, so that they can be cancelled when an endpoint leaves its cluster or is unhealthy.
//!
//! Owns: the attempts in flight on one worker. Refuses to know: what a cluster does with them, and when. Keeps: an
//! entry exists as long as its attempt; a cancelled attempt ends once, at its next poll.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use slab::Slab;
use sluice_core::reason::end;
use sluice_core::{Moment, Name, Reason};
use sluice_upstream::LeftEndpoints;

/// The attempts in flight on one worker.
#[derive(Debug, Default)]
pub struct AttemptTable(RefCell<Slab<AttemptEntry>>);

#[derive(Debug)]
struct AttemptEntry {
    cluster: Name,
    endpoint: Arc<str>,
    since: Moment,
    cancelled: Option<Departure>,
    waker: Option<Waker>,
}

/// Why an endpoint is to be used no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// It was removed from its cluster.
    Removed,
    /// It became unhealthy or was ejected.
    Unhealthy,
}

impl Departure {
    /// The reason of what ends with it.
    pub const fn reason(self) -> Reason {
        match self {
            Self::Removed => end::ENDPOINT_REMOVED,
            Self::Unhealthy => end::ENDPOINT_UNHEALTHY,
        }
    }

    /// What clients are told.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Removed => "the endpoint was removed from its cluster",
            Self::Unhealthy => "the endpoint became unhealthy",
        }
    }

    /// The word for it in response code details.
    pub(crate) const fn details(self) -> &'static str {
        match self {
            Self::Removed => "endpoint_removed",
            Self::Unhealthy => "endpoint_unhealthy",
        }
    }
}

/// The entry of an attempt; removed on drop.
#[derive(Debug)]
pub(crate) struct AttemptGuard {
    attempts: Rc<AttemptTable>,
    place: usize,
}

impl AttemptTable {
    /// Adds an attempt at an endpoint.
    pub(crate) fn enter(
        self: &Rc<Self>,
        cluster: &Name,
        endpoint: &Arc<str>,
        now: Moment,
    ) -> AttemptGuard {
        let (cluster, endpoint) = (Arc::clone(cluster), Arc::clone(endpoint));
        let entry = AttemptEntry { cluster, endpoint, since: now, cancelled: None, waker: None };
        AttemptGuard { place: self.0.borrow_mut().insert(entry), attempts: Rc::clone(self) }
    }

    /// Cancels the attempts at these endpoints that began no later than `begun_by`.
    pub fn cancel(
        &self,
        cluster: &Name,
        endpoints: &LeftEndpoints,
        begun_by: Moment,
        departure: Departure,
    ) {
        for (_, entry) in &mut *self.0.borrow_mut() {
            if entry.since <= begun_by
                && entry.cluster == *cluster
                && endpoints.contains(&entry.endpoint)
            {
                entry.cancelled = Some(departure);
                if let Some(waker) = entry.waker.take() {
                    waker.wake();
                }
            }
        }
    }
}

impl AttemptGuard {
    /// Ready once the attempt is cancelled.
    pub(crate) fn poll_cancelled(&self, cx: &Context<'_>) -> Poll<Departure> {
        let mut entries = self.attempts.0.borrow_mut();
        let entry = &mut entries[self.place];
        if let Some(departure) = entry.cancelled {
            return Poll::Ready(departure);
        }
        if !entry.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            entry.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Runs `work`; returns why the attempt is cancelled if it is before it is done. `work` is polled in place: moving a
    /// future that has not started would copy all of its memory.
    pub(crate) fn unless_cancelled<T>(
        stay: Option<&Self>,
        mut work: Pin<&mut impl Future<Output = T>>,
    ) -> impl Future<Output = Result<T, Departure>> {
        poll_fn(move |cx| {
            if let Some(Poll::Ready(departure)) = stay.map(|stay| stay.poll_cancelled(cx)) {
                return Poll::Ready(Err(departure));
            }
            work.as_mut().poll(cx).map(Ok)
        })
    }
}

impl Drop for AttemptGuard {
    fn drop(&mut self) {
        self.attempts.0.borrow_mut().remove(self.place);
    }
}
