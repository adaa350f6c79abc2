//! What happens for an instance outside of its calls.
//!
//! Owns: the tasks of a worker that wait for it: for calls of clusters, periods and queues. Refuses to know: guests. Keeps: a task
//! ends with the instance or context that it was started for.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::Poll;
use std::time::Duration;

use sluice_core::LocalFuture;
use sluice_io::WorkerCx;
use sluice_io::timers::Timer;

use crate::shared::SharedQueue;
use crate::state::GuestEvents;
use crate::stream::{ArrivedCall, GuestCallEnd, StreamCell};

/// Waits for a call of a context; it is dropped when the context ends.
pub(crate) fn call(
    worker: &WorkerCx,
    events: &Weak<dyn GuestEvents>,
    cell: &Rc<StreamCell>,
    token: u32,
    mut calling: LocalFuture<GuestCallEnd>,
) {
    let (events, cell) = (Weak::clone(events), Rc::clone(cell));
    cell.calls.set(cell.calls.get() + 1);
    worker.spawn(async move {
        let end = poll_fn(|cx| {
            if cell.is_ended() {
                return Poll::Ready(None);
            }
            cell.wake_at_end(cx.waker());
            Pin::new(&mut calling).poll(cx).map(Some)
        });
        let end = end.await;
        cell.calls.set(cell.calls.get().saturating_sub(1));
        let Some(end) = end else { return };
        if let Some(arrived) = cell.arrive(ArrivedCall { token, end })
            && let Some(events) = events.upgrade()
        {
            events.call_ended(cell.id, arrived);
        }
    });
}

/// Calls a root context every `period`, which it may change or end.
pub(crate) fn tick(
    worker: &Rc<WorkerCx>,
    events: &Weak<dyn GuestEvents>,
    root: u32,
    period: Duration,
) {
    let (timers, events, clock) =
        (Rc::clone(&worker.timers), Weak::clone(events), worker.clock.clone());
    worker.spawn(async move {
        let mut period = period;
        loop {
            Timer::new(&timers).passed(clock.now().after(period)).await;
            match events.upgrade().and_then(|events| events.ticked(root)) {
                Some(next) => period = next,
                None => break,
            }
        }
    });
}

/// Tells a root context each time that something was put into a queue.
pub(crate) fn queue(
    worker: &WorkerCx,
    events: &Weak<dyn GuestEvents>,
    root: u32,
    queue: &std::sync::Arc<SharedQueue>,
) {
    let (events, queue) = (Weak::clone(events), std::sync::Arc::clone(queue));
    worker.spawn(async move {
        let mut seen = queue.filled();
        loop {
            seen = poll_fn(|cx| queue.poll_filled(seen, cx.waker())).await;
            let there = events.upgrade().is_some_and(|events| events.queue_filled(root, queue.id));
            if !there {
                break;
            }
        }
    });
}
