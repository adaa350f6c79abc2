//! Calls that outlive what they are made for, by a bounded time.
//!
//! Owns: running a conversation until it has ended or is to be dropped. Refuses to know: what is said in it, and who decides when it
//! is to end. Keeps: the one that changes the time has the waker for it, also after a poll that used up the one before.

use std::future::poll_fn;
use std::pin::pin;
use std::task::{Poll, Waker};

use sluice_core::Moment;
use sluice_io::WorkerCx;
use sluice_io::timers::Timer;

/// Runs `conversation` until it has ended, or until the time that `closes` returns, if there is one. `closes` gets what is to
/// be woken when the time changes.
pub(crate) async fn until_closed(
    worker: &WorkerCx,
    conversation: impl Future<Output = ()>,
    closes: impl Fn(&Waker) -> Option<Moment>,
) {
    let timer = Timer::new(&worker.timers);
    let mut conversation = pin!(conversation);
    poll_fn(|cx| {
        closes(cx.waker());
        if conversation.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        match closes(cx.waker()) {
            Some(closes) => {
                timer.set(closes);
                timer.poll(cx)
            }
            None => Poll::Pending,
        }
    })
    .await;
}
