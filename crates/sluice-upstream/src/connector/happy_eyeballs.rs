//! Connecting to one of several addresses of a host (Happy Eyeballs, RFC 8305 §5).
//!
//! Owns: when an attempt begins beside those that have not ended yet. Refuses to know: what an attempt is, and how
//! addresses are ordered. Keeps: each address is attempted once at most; when one succeeds, the others are given up.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

/// How long an attempt may take before the next begins beside it. Source: RFC 8305 §8.
pub(super) const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Attempts addresses in order: the next when one fails, or when `delay` has passed. Returns the first success.
///
/// # Errors
/// The failure of the attempt that failed last; `None` if there are no addresses.
pub(super) async fn first_of<A, T, E, F: Future<Output = Result<T, E>>>(
    addresses: impl IntoIterator<Item = A>,
    delay: Duration,
    mut attempt: impl FnMut(A) -> F,
) -> Result<T, Option<E>> {
    let mut addresses = addresses.into_iter().peekable();
    let mut running: Vec<Pin<Box<F>>> = Vec::new();
    let (mut last, mut begin) = (None, true);
    let mut pause = pin!(tokio::time::sleep(delay));
    poll_fn(|cx| {
        loop {
            if begin && let Some(address) = addresses.next() {
                running.push(Box::pin(attempt(address)));
                pause.as_mut().reset(tokio::time::Instant::now() + delay);
            }
            begin = false;
            let mut place = 0;
            while let Some(other) = running.get_mut(place) {
                match other.as_mut().poll(cx) {
                    Poll::Pending => place += 1,
                    Poll::Ready(Ok(done)) => return Poll::Ready(Ok(done)),
                    Poll::Ready(Err(error)) => {
                        last = Some(error);
                        drop(running.swap_remove(place));
                        begin = true;
                    }
                }
            }
            begin |= pause.as_mut().poll(cx).is_ready();
            let more = addresses.peek().is_some();
            match (running.is_empty(), more) {
                (true, false) => return Poll::Ready(Err(last.take())),
                (false, false) => return Poll::Pending,
                (_, true) if begin => {}
                (_, true) => return Poll::Pending,
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::time::{Instant, sleep};

    use super::*;

    /// Attempts addresses that take this many milliseconds and succeed or not; returns the outcome, when it was there,
    /// and when each attempt began.
    async fn race(plan: &[(u64, bool)]) -> (Result<usize, Option<usize>>, u64, Vec<u64>) {
        let (started, begun) = (Instant::now(), RefCell::new(Vec::new()));
        let elapsed = || u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let outcome = first_of(0..plan.len(), ATTEMPT_DELAY, |place| {
            begun.borrow_mut().push(elapsed());
            async move {
                let (took, succeeds) = plan[place];
                sleep(Duration::from_millis(took)).await;
                if succeeds { Ok(place) } else { Err(place) }
            }
        })
        .await;
        (outcome, elapsed(), begun.into_inner())
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_begins_after_a_failure_or_a_delay() {
        const NEVER: u64 = 1_000_000;
        assert_eq!(race(&[(10, true), (10, true)]).await, (Ok(0), 10, vec![0]));
        assert_eq!(race(&[(10, false), (10, true)]).await, (Ok(1), 20, vec![0, 10]));
        assert_eq!(race(&[(NEVER, true), (10, true)]).await, (Ok(1), 260, vec![0, 250]));
        assert_eq!(race(&[(300, true), (100, true)]).await, (Ok(0), 300, vec![0, 250]));
        let (outcome, at, begun) =
            race(&[(NEVER, true), (5, false), (NEVER, true), (5, true)]).await;
        assert_eq!((outcome, at, begun), (Ok(3), 510, vec![0, 250, 255, 505]));
    }

    #[tokio::test(start_paused = true)]
    async fn if_all_fail_the_last_failure_is_returned() {
        assert_eq!(race(&[(10, false), (20, false)]).await, (Err(Some(1)), 30, vec![0, 10]));
        assert_eq!(race(&[(400, false), (20, false)]).await, (Err(Some(0)), 400, vec![0, 250]));
        assert_eq!(race(&[]).await, (Err(None), 0, vec![]));
    }
}
