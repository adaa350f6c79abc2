//! The pipes of a worker.
//!
//! Owns: free pipes and how many there are. Refuses to know: when splicing pays.
//! Keeps: a pipe with bytes in it is closed, never kept; where no pipe is to be had the caller
//! copies, and it is counted.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use sluice_core::Moment;
use sluice_sys::pipe::Pipe;
use sluice_telemetry::{Counter, Shard};

sluice_telemetry::metrics! {
    PIPE_SHORTAGE = "sluice_worker_pipe_shortage_total", Counter, ["worker"], "Times a bulky stream was copied because no pipe was to be had (limit `worker_pipes`, or the system's).";
}

/// Bytes a pipe can hold; on loopback larger ones gain nothing more, smaller ones cost wake-ups.
const CAPACITY: usize = 256 << 10;

/// How long no new pipe is tried after the system refused one.
const PAUSE: Duration = Duration::from_secs(1);

/// Free pipes, and the count of those in use.
#[derive(Debug)]
pub struct PipePool {
    free: RefCell<Vec<Pipe>>,
    made: Cell<usize>,
    limit: usize,
    paused_until: Cell<Moment>,
    shortage: Counter,
}

impl PipePool {
    /// No pipes yet, at most `limit`.
    pub fn new(limit: usize, shard: &Shard, worker: &str) -> Self {
        Self {
            free: RefCell::default(),
            made: Cell::new(0),
            limit,
            paused_until: Cell::default(),
            shortage: shard.counter(&PIPE_SHORTAGE, &[worker]),
        }
    }

    /// An empty pipe, if one is to be had.
    pub fn take(&self, now: Moment) -> Option<Pipe> {
        if let Some(pipe) = self.free.borrow_mut().pop() {
            return Some(pipe);
        }
        if self.made.get() < self.limit && now >= self.paused_until.get() {
            match Pipe::new(CAPACITY) {
                Ok(pipe) => {
                    self.made.set(self.made.get() + 1);
                    return Some(pipe);
                }
                Err(_) => self.paused_until.set(now.after(PAUSE)),
            }
        }
        self.shortage.increment();
        None
    }

    /// Gives a pipe back.
    pub fn give(&self, pipe: Pipe) {
        if pipe.held() == 0 {
            self.free.borrow_mut().push(pipe);
        } else {
            self.made.set(self.made.get() - 1);
        }
    }
}
