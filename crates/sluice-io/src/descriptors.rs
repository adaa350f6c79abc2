//! The account of the process: how many sockets and pipes its workers may hold, and how many bytes for slow receivers.
//!
//! Owns: the budget that all workers draw from, and a worker's allowance. Refuses to know: what a socket or a buffer is
//! for, other than whether a socket belongs to a UDP flow.
//! Keeps: the buffers of all workers together stay below their limit; the sockets and pipes of all workers stay below the process's limit minus a reserve, so that the admin
//! address, files and health checks keep working whatever clients do; UDP flows, each of which costs an attacker one
//! forged datagram, hold at most their share, so that they never starve connections.
//!
//! A worker draws in chunks: opening a socket or taking a buffer usually touches only its own cells.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use sluice_core::Limits;
use sluice_core::limits::Limit;

use crate::holding::HoldingClass;

/// Descriptors that a worker needs for itself: its event queues and its wake-up descriptor.
const PER_WORKER: i64 = 8;

/// The most descriptors that a worker draws at once.
const CHUNK_MAX: i64 = 64;

/// Bytes that a worker draws at once, unless it needs more.
const BYTES_CHUNK: i64 = 256 << 10;

/// What all workers together may hold.
#[derive(Debug)]
pub struct Budget {
    all: AtomicI64,
    flows: AtomicI64,
    bytes: AtomicI64,
    /// What `bytes` began with.
    bytes_limit: i64,
    chunk: i64,
}

impl Budget {
    /// Creates the budget of a process that may open `files` files.
    pub fn new(files: u64, workers: usize, limits: &Limits) -> Arc<Self> {
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let (files, workers) = (number(files), number(workers as u64).max(1));
        let reserve = number(limits.get(Limit::DescriptorReserve)).min(files / 4);
        let all = files.saturating_sub(reserve).saturating_sub(PER_WORKER.saturating_mul(workers));
        // A process with fewer files than this cannot serve, and the system reports it.
        let all = all.max(2);
        let bytes_limit = number(limits.get(Limit::ProcessBuffers));
        let percent = number(limits.get(Limit::FlowDescriptors));
        Arc::new(Self {
            all: AtomicI64::new(all),
            flows: AtomicI64::new((all / 100).saturating_mul(percent) + all % 100 * percent / 100),
            bytes: AtomicI64::new(bytes_limit),
            bytes_limit,
            // Unused allowances are lost to the other workers: an eighth at most.
            chunk: (all / workers.saturating_mul(16)).clamp(1, CHUNK_MAX),
        })
    }

    /// Creates an unlimited budget: for users of the reserve, and for tests.
    pub fn unlimited() -> Arc<Self> {
        let all = || AtomicI64::new(i64::MAX / 2);
        let (bytes_limit, chunk) = (i64::MAX / 2, CHUNK_MAX);
        Arc::new(Self { all: all(), flows: all(), bytes: all(), bytes_limit, chunk })
    }

    /// Creates the allowance of one worker.
    pub fn allowance(self: &Arc<Self>) -> Rc<Allowance> {
        let budget = Arc::clone(self);
        Rc::new(Allowance { budget, all: Cell::new(0), flows: Cell::new(0), bytes: Cell::new(0) })
    }
}

/// What one worker has drawn but not used yet. Negative if sockets were opened regardless.
#[derive(Debug)]
pub struct Allowance {
    budget: Arc<Budget>,
    all: Cell<i64>,
    flows: Cell<i64>,
    bytes: Cell<i64>,
}

impl Allowance {
    /// Whether `count` more sockets may be opened.
    pub fn has(&self, count: i64) -> bool {
        self.draw(&self.all, &self.budget.all, count, self.budget.chunk, 0)
    }

    /// Whether a socket for one more UDP flow may be opened.
    pub fn has_for_flow(&self) -> bool {
        self.draw(&self.flows, &self.budget.flows, 1, self.budget.chunk, 0) && self.has(1)
    }

    /// Notes that `count` descriptors were opened.
    pub fn opened(&self, count: i64) {
        self.all.set(self.all.get() - count);
    }

    /// Notes that `count` descriptors were closed.
    pub fn closed(&self, count: i64) {
        self.give(&self.all, &self.budget.all, count, self.budget.chunk);
    }

    /// Notes that the socket of a UDP flow was opened.
    pub fn opened_for_flow(&self) {
        self.flows.set(self.flows.get() - 1);
        self.opened(1);
    }

    /// Notes that the socket of a UDP flow was closed.
    pub fn closed_for_flow(&self) {
        self.give(&self.flows, &self.budget.flows, 1, self.budget.chunk);
        self.closed(1);
    }

    /// Takes `count` bytes for a holder of this class; returns `false` if there are not enough, and takes none.
    pub(crate) fn hold_bytes(&self, count: usize, class: HoldingClass) -> bool {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let budget = &self.budget;
        let leaves = class.leaves(budget.bytes_limit);
        let enough = self.draw(&self.bytes, &budget.bytes, count, BYTES_CHUNK, leaves);
        if enough {
            self.bytes.set(self.bytes.get() - count);
        }
        enough
    }

    /// Gives `count` bytes back.
    pub(crate) fn release_bytes(&self, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.give(&self.bytes, &self.budget.bytes, count, BYTES_CHUNK);
    }

    /// Draws from the budget, down to what it `leaves` there, until `count` are available; returns `false` if there are
    /// not enough.
    fn draw(
        &self,
        own: &Cell<i64>,
        budget: &AtomicI64,
        count: i64,
        chunk: i64,
        leaves: i64,
    ) -> bool {
        let missing = count - own.get();
        if missing <= 0 {
            return true;
        }
        let wanted = missing.max(chunk);
        let mut drawn = 0;
        // The result is in `drawn`; drawing never takes the budget below what is left there.
        let _ = budget.fetch_update(Relaxed, Relaxed, |left| {
            drawn = wanted.min(left - leaves);
            (drawn > 0).then(|| left - drawn)
        });
        own.set(own.get() + drawn.max(0));
        own.get() >= count
    }

    /// Takes back what was given; above two chunks, returns all but one chunk to the budget.
    fn give(&self, own: &Cell<i64>, budget: &AtomicI64, count: i64, chunk: i64) {
        let mut left = own.get() + count;
        if left > 2 * chunk {
            budget.fetch_add(left - chunk, Relaxed);
            left = chunk;
        }
        own.set(left);
    }
}

impl Drop for Allowance {
    fn drop(&mut self) {
        self.budget.all.fetch_add(self.all.get(), Relaxed);
        self.budget.flows.fetch_add(self.flows.get(), Relaxed);
        self.budget.bytes.fetch_add(self.bytes.get(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(files: u64, workers: usize) -> Arc<Budget> {
        Budget::new(files, workers, &Limits::default())
    }

    #[test]
    fn flows_leave_room_for_connections_and_both_leave_the_reserve() {
        let budget = budget(1024, 2);
        let worker = budget.allowance();
        let mut flows = 0;
        while worker.has_for_flow() {
            worker.opened_for_flow();
            flows += 1;
        }
        let mut streams = 0;
        while worker.has(1) {
            worker.opened(1);
            streams += 1;
        }
        // 1024 minus the reserve of 256, which is a quarter, and 8 per worker.
        assert_eq!((flows, flows + streams), (376, 752));
    }

    #[test]
    fn nothing_is_lost_however_workers_open_and_close() {
        let budget = budget(2000, 3);
        let (all, flows) = (budget.all.load(Relaxed), budget.flows.load(Relaxed));
        let workers: Vec<_> = (0..3).map(|_| (budget.allowance(), Cell::new((0, 0)))).collect();
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let (worker, open) = &workers[rng.usize(..3)];
            let (streams, flows) = open.get();
            match rng.u8(0..4) {
                0 if worker.has(1) => {
                    worker.opened(1);
                    open.set((streams + 1, flows));
                }
                1 if worker.has_for_flow() => {
                    worker.opened_for_flow();
                    open.set((streams, flows + 1));
                }
                2 if streams > 0 => {
                    worker.closed(1);
                    open.set((streams - 1, flows));
                }
                3 if flows > 0 => {
                    worker.closed_for_flow();
                    open.set((streams, flows - 1));
                }
                _ => {}
            }
            let held: i64 = workers.iter().map(|(_, open)| open.get().0 + open.get().1).sum();
            assert!(held <= all, "{held} of {all}");
        }
        for (worker, open) in &workers {
            (0..open.get().0).for_each(|_| worker.closed(1));
            (0..open.get().1).for_each(|_| worker.closed_for_flow());
        }
        drop(workers);
        assert_eq!((budget.all.load(Relaxed), budget.flows.load(Relaxed)), (all, flows));
    }

    #[test]
    fn a_worker_that_owes_opens_nothing_more() {
        let budget = budget(64, 2);
        let worker = budget.allowance();
        worker.opened(1000);
        assert!(!worker.has(1) && !worker.has_for_flow());
        worker.closed(1000);
        assert!(worker.has(1));
    }

    #[test]
    fn a_worker_that_idles_holds_little_back() {
        let budget = budget(1024, 4);
        let (idle, busy) = (budget.allowance(), budget.allowance());
        assert!(idle.has(1));
        let mut open = 0;
        while busy.has(1) {
            busy.opened(1);
            open += 1;
        }
        assert!(open >= 736 * 7 / 8, "{open}");
    }
}
