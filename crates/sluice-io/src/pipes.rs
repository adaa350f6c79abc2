//! The pipes of a worker.
//!
//! Owns: the free pipes and the number of pipes. Refuses to know: when splicing pays off.
//! Keeps: a pipe with bytes in it is closed, never reused; if no pipe is available the caller copies, and this is
//! counted.

use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::time::Duration;

use sluice_core::Moment;
use sluice_sys::pipe::Pipe as SysPipe;
use sluice_telemetry::{Counter, Shard};

use crate::descriptors::Allowance;

sluice_telemetry::metrics! {
    PIPE_SHORTAGE = "sluice_worker_pipe_shortages_total", Counter, ["worker"], "Times a bulk stream was copied because no pipe was available (limit `worker_pipes`, open files, or a limit of the system).";
}

/// The capacity of a pipe in bytes; on loopback larger ones gain nothing more, smaller ones cost wake-ups.
const CAPACITY: usize = 256 << 10;

/// The number of descriptors of a pipe.
const ENDS: i64 = 2;

/// How long to wait before creating another pipe after the system refused one.
const PAUSE: Duration = Duration::from_secs(1);

/// The pipe pool of a worker.
#[derive(Clone, Debug)]
pub struct PipePool(Rc<PipePoolState>);

#[derive(Debug)]
struct PipePoolState {
    #[allow(clippy::vec_box, reason = "a stream has room for one, and few have any")]
    free: RefCell<Vec<Box<SysPipe>>>,
    made: Cell<usize>,
    limit: usize,
    descriptors: Rc<Allowance>,
    paused_until: Cell<Moment>,
    shortage: Counter,
}

impl PipePool {
    /// Creates an empty pool of at most `limit` pipes, each with two descriptors.
    pub fn new(limit: usize, descriptors: Rc<Allowance>, shard: &Shard, worker: &str) -> Self {
        Self(Rc::new(PipePoolState {
            free: RefCell::default(),
            made: Cell::new(0),
            limit,
            descriptors,
            paused_until: Cell::default(),
            shortage: shard.counter(&PIPE_SHORTAGE, &[worker]),
        }))
    }

    /// Returns an empty pipe, if one is available.
    pub fn take(&self, now: Moment) -> Option<PooledPipe> {
        let pool = &*self.0;
        let lend = |pipe| PooledPipe { pipe: Some(pipe), pool: Rc::clone(&self.0) };
        if let Some(pipe) = pool.free.borrow_mut().pop() {
            return Some(lend(pipe));
        }
        if pool.made.get() < pool.limit
            && now >= pool.paused_until.get()
            && pool.descriptors.has(ENDS)
        {
            match SysPipe::new(CAPACITY) {
                Ok(pipe) => {
                    pool.made.set(pool.made.get() + 1);
                    pool.descriptors.opened(ENDS);
                    return Some(lend(Box::new(pipe)));
                }
                Err(_) => pool.paused_until.set(now.after(PAUSE)),
            }
        }
        pool.shortage.increment();
        None
    }
}

/// A pipe that returns to its pool on drop.
#[derive(Debug)]
pub struct PooledPipe {
    /// Taken only by the drop.
    pipe: Option<Box<SysPipe>>,
    pool: Rc<PipePoolState>,
}

impl Deref for PooledPipe {
    type Target = SysPipe;

    fn deref(&self) -> &SysPipe {
        self.pipe.as_ref().expect("a pipe is there until it is dropped")
    }
}

impl DerefMut for PooledPipe {
    fn deref_mut(&mut self) -> &mut SysPipe {
        self.pipe.as_mut().expect("a pipe is there until it is dropped")
    }
}

impl Drop for PooledPipe {
    fn drop(&mut self) {
        match self.pipe.take() {
            Some(pipe) if pipe.held() == 0 => self.pool.free.borrow_mut().push(pipe),
            _ => {
                self.pool.made.set(self.pool.made.get() - 1);
                self.pool.descriptors.closed(ENDS);
            }
        }
    }
}
