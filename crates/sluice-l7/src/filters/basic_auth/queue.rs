//! The hashing of passwords, beside the worker.
//!
//! Owns: how many hashes of a worker are computed at once, and who may wait for one. Refuses to know: what is hashed.
//! Keeps: a source that sends wrong passwords without end holds a bounded part of the queue, and the worker serves other
//! requests meanwhile; a hash whose request has ended still counts as computed.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use sluice_core::Cidr;
use sluice_core::limits::Limit;
use sluice_io::WorkerCx;
use tokio::sync::Semaphore;

/// The queue of a worker.
#[derive(Debug)]
pub(super) struct HashQueue {
    threads: Arc<Semaphore>,
    waiting: RefCell<HashMap<Cidr, usize>>,
    all: Cell<usize>,
    max: usize,
    max_of_source: usize,
}

/// A place in the queue, up to the end of the hash.
#[derive(Debug)]
pub(super) struct HashPlace {
    queue: Rc<HashQueue>,
    source: Cidr,
}

impl HashQueue {
    /// The queue of this worker.
    pub(super) fn of(worker: &WorkerCx) -> Rc<Self> {
        let size = |limit| worker.limits.size(limit);
        worker.local(|| {
            Self::new(
                size(Limit::PasswordThreads),
                size(Limit::PasswordQueue),
                size(Limit::PasswordsOfSource),
            )
        })
    }

    fn new(threads: usize, max: usize, max_of_source: usize) -> Self {
        let threads = Arc::new(Semaphore::new(threads));
        let (waiting, all) = (RefCell::default(), Cell::default());
        Self { threads, waiting, all, max, max_of_source }
    }

    /// Takes a place for a request from this source.
    ///
    /// # Errors
    /// The limit that allows no more.
    pub(super) fn enter(self: &Rc<Self>, source: Cidr) -> Result<HashPlace, Limit> {
        if self.all.get() >= self.max {
            return Err(Limit::PasswordQueue);
        }
        let mut waiting = self.waiting.borrow_mut();
        let own = waiting.entry(source).or_default();
        if *own >= self.max_of_source {
            return Err(Limit::PasswordsOfSource);
        }
        *own += 1;
        self.all.set(self.all.get() + 1);
        Ok(HashPlace { queue: Rc::clone(self), source })
    }
}

impl Drop for HashPlace {
    fn drop(&mut self) {
        let queue = &self.queue;
        queue.all.set(queue.all.get() - 1);
        let mut waiting = queue.waiting.borrow_mut();
        if let Some(own) = waiting.get_mut(&self.source) {
            *own -= 1;
            if *own == 0 {
                waiting.remove(&self.source);
            }
        }
    }
}

impl HashPlace {
    /// Computes `work` on a thread when it is its turn; `None` if it panics.
    pub(super) async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let permit = Arc::clone(&self.queue.threads).acquire_owned().await.ok()?;
        // The thread has the permit: it goes on if the request ends.
        let done = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(permit);
            result
        });
        done.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Cidr {
        Cidr::parse(text).unwrap()
    }

    #[test]
    fn a_source_has_a_part_of_the_queue() {
        let queue = Rc::new(HashQueue::new(1, 3, 2));
        let (a, b) = (source("192.0.2.1"), source("192.0.2.2"));
        let first = queue.enter(a).unwrap();
        let second = queue.enter(a).unwrap();
        assert_eq!(queue.enter(a).unwrap_err(), Limit::PasswordsOfSource);
        let third = queue.enter(b).unwrap();
        assert_eq!(queue.enter(b).unwrap_err(), Limit::PasswordQueue);
        drop((first, second, third));
        assert!(queue.waiting.borrow().is_empty() && queue.all.get() == 0);
        assert!(queue.enter(a).is_ok());
    }

    #[test]
    fn as_many_are_computed_at_once_as_there_are_threads() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let queue = Rc::new(HashQueue::new(1, 8, 8));
            let (go, wait) = std::sync::mpsc::sync_channel::<()>(1);
            let first = queue.enter(source("192.0.2.1")).unwrap();
            let second = queue.enter(source("192.0.2.2")).unwrap();
            let mut first = Box::pin(first.run(move || wait.recv().is_ok()));
            let mut second = Box::pin(second.run(|| 2));
            let both = std::future::poll_fn(|cx| {
                let first = first.as_mut().poll(cx).is_ready();
                std::task::Poll::Ready((first, second.as_mut().poll(cx).is_ready()))
            });
            assert_eq!(both.await, (false, false));
            // The request of the first one ends; its hash does not, and the second one waits for it.
            drop(first);
            assert_eq!((queue.all.get(), queue.threads.available_permits()), (1, 0));
            go.send(()).unwrap();
            assert_eq!(second.await, Some(2));
            assert_eq!((queue.all.get(), queue.threads.available_permits()), (0, 1));
        });
    }

    #[test]
    fn a_panic_ends_only_the_hash() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let queue = Rc::new(HashQueue::new(1, 8, 8));
            let place = queue.enter(source("192.0.2.1")).unwrap();
            assert_eq!(place.run(|| -> u32 { panic!("a test asked for it") }).await, None);
            assert_eq!((queue.all.get(), queue.threads.available_permits()), (0, 1));
        });
    }
}
