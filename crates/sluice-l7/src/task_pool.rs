//! Tasks that run one future after the other, for connections that carry many requests at once.
//!
//! Owns: the tasks that have nothing to run. Refuses to know: what they run. Keeps: a request on such a connection has a
//! task of its own, and in steady state none is allocated for it; a task whose future panicked is not used again.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use sluice_io::WorkerCx;

use crate::future_pool::FuturePool;

/// Tasks without work kept per worker.
const KEEP: usize = 256;

/// A pool of tasks. `G` is dropped when the future that was given with it has ended.
pub(crate) struct TaskPool<I, O, G> {
    slots: Rc<FuturePool<I, O>>,
    parked: RefCell<Vec<Rc<ParkedTask<I, G>>>>,
}

/// A task, and what it is to run next.
struct ParkedTask<I, G> {
    work: Cell<Option<(I, G)>>,
    waker: Cell<Option<Waker>>,
}

impl<I, G> ParkedTask<I, G> {
    fn poll_work(&self, cx: &Context<'_>) -> Poll<(I, G)> {
        if let Some(work) = self.work.take() {
            return Poll::Ready(work);
        }
        self.waker.set(Some(cx.waker().clone()));
        Poll::Pending
    }
}

impl<I, O, G> std::fmt::Debug for TaskPool<I, O, G> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TaskPool({})", self.parked.borrow().len())
    }
}

impl<I: 'static, O: 'static, G: 'static> TaskPool<I, O, G> {
    /// Creates a pool without tasks whose futures run in these slots.
    pub(crate) fn new(slots: &Rc<FuturePool<I, O>>) -> Self {
        Self { slots: Rc::clone(slots), parked: RefCell::default() }
    }

    /// Runs a future in a task that was used before, if there is one.
    pub(crate) fn spawn(self: &Rc<Self>, worker: &WorkerCx, input: I, guard: G) {
        if let Some(task) = self.parked.borrow_mut().pop() {
            task.work.set(Some((input, guard)));
            if let Some(waker) = task.waker.take() {
                waker.wake();
            }
            return;
        }
        let task =
            Rc::new(ParkedTask { work: Cell::new(Some((input, guard))), waker: Cell::default() });
        let (pool, slots) = (Rc::downgrade(self), Rc::clone(&self.slots));
        worker.spawn(async move {
            loop {
                let (input, guard) = poll_fn(|cx| task.poll_work(cx)).await;
                drop(slots.run(input).await);
                drop(guard);
                let Some(pool) = pool.upgrade() else { return };
                let mut parked = pool.parked.borrow_mut();
                if parked.len() >= KEEP {
                    return;
                }
                parked.push(Rc::clone(&task));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_used_again_and_not_after_a_panic() {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.build_local(Default::default()).unwrap();
        runtime.block_on(async {
            let worker = WorkerCx::solitary(sluice_core::Clock::held());
            let slots = FuturePool::new(|n: u32| async move {
                tokio::task::yield_now().await;
                assert!(n < 10);
            });
            let pool = Rc::new(TaskPool::new(&slots));
            let done = Rc::new(());
            let run = async |n: u32| {
                pool.spawn(&worker, n, Rc::clone(&done));
                while Rc::strong_count(&done) > 1 {
                    tokio::task::yield_now().await;
                }
            };
            run(1).await;
            let first = Rc::as_ptr(&pool.parked.borrow()[0]);
            run(2).await;
            assert_eq!(
                (pool.parked.borrow().len(), Rc::as_ptr(&pool.parked.borrow()[0])),
                (1, first)
            );
            run(10).await;
            assert_eq!(pool.parked.borrow().len(), 0);
            run(3).await;
            assert_eq!(pool.parked.borrow().len(), 1);
        });
    }
}
