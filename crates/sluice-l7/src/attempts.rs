//! Attempts in flight by endpoint, so that they can be cancelled when an endpoint leaves its cluster.
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
use sluice_core::{Moment, Name};
use sluice_upstream::LeftEndpoints;

/// The attempts in flight on one worker.
#[derive(Debug, Default)]
pub struct AttemptTable(RefCell<Slab<AttemptEntry>>);

#[derive(Debug)]
struct AttemptEntry {
    cluster: Name,
    endpoint: Arc<str>,
    since: Moment,
    cancelled: bool,
    waker: Option<Waker>,
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
        let entry = AttemptEntry { cluster, endpoint, since: now, cancelled: false, waker: None };
        AttemptGuard { place: self.0.borrow_mut().insert(entry), attempts: Rc::clone(self) }
    }

    /// Cancels the attempts at these endpoints that began no later than `begun_by`.
    pub fn cancel(&self, cluster: &Name, endpoints: &LeftEndpoints, begun_by: Moment) {
        for (_, entry) in &mut *self.0.borrow_mut() {
            if entry.since <= begun_by
                && entry.cluster == *cluster
                && endpoints.contains(&entry.endpoint)
            {
                entry.cancelled = true;
                if let Some(waker) = entry.waker.take() {
                    waker.wake();
                }
            }
        }
    }
}

impl AttemptGuard {
    fn poll_cancelled(&self, cx: &Context<'_>) -> Poll<()> {
        let mut entries = self.attempts.0.borrow_mut();
        let entry = &mut entries[self.place];
        if entry.cancelled {
            return Poll::Ready(());
        }
        if !entry.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            entry.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Runs `work`; returns `None` if the attempt is cancelled before it is done. `work` is polled in place: moving a
    /// future that has not started would copy all of its memory.
    pub(crate) async fn unless_cancelled<T>(
        stay: Option<&Self>,
        mut work: Pin<&mut impl Future<Output = T>>,
    ) -> Option<T> {
        poll_fn(|cx| {
            if stay.is_some_and(|stay| stay.poll_cancelled(cx).is_ready()) {
                return Poll::Ready(None);
            }
            work.as_mut().poll(cx).map(Some)
        })
        .await
    }
}

impl Drop for AttemptGuard {
    fn drop(&mut self) {
        self.attempts.0.borrow_mut().remove(self.place);
    }
}
