//! Waits of filters for a time, rather than for an event.
//!
//! Owns: how a long wait is divided. Refuses to know: why a filter waits. Keeps: a wait of a filter is bounded
//! (`filter_wait_seconds`), because what it waits for may never happen; a time comes by itself, so that a wait for it is made
//! up of several.

use std::rc::Rc;
use std::time::Duration;

use sluice_core::Moment;
use sluice_core::limits::Limit;
use sluice_io::WorkerCx;
use sluice_io::timers::Timer;

use super::{Cx, PieceStep};

/// The longest single wait.
pub(super) fn slice_of(worker: &WorkerCx) -> Duration {
    Duration::from_secs(worker.limits.get(Limit::FilterWait)) / 2
}

/// Waits until that time has come.
pub(super) async fn until(worker: &Rc<WorkerCx>, at: Moment) {
    Timer::new(&worker.timers).passed(at).await;
}

/// Has a piece of a body wait until that time; `then` is called when it continues.
pub(super) fn hold<T: 'static, E: 'static>(
    worker: Rc<WorkerCx>,
    at: Moment,
    then: impl FnOnce() + 'static,
) -> PieceStep<T, E> {
    let now = worker.now();
    if at <= now {
        then();
        return PieceStep::Continue;
    }
    let by = at.min(now.after(slice_of(&worker)));
    PieceStep::wait(async move {
        until(&worker, by).await;
        move |_: &mut Cx<'_>, _: &mut T| hold(worker, at, then)
    })
}
