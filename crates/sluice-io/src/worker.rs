//! The context shared by all tasks of a worker.
//!
//! Owns: clock, timers, reactor, buffers, pipes, metrics shard, log queue, random numbers, scratch.
//! Refuses to know: listeners and connections. Keeps: nothing in it is shared with another thread.

use std::any::{Any, TypeId};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_core::limits::Limit;
use sluice_core::{Clock, Limits, Moment};
use sluice_sys::datagram::Received;
use sluice_telemetry::{LogQueue, Shard};

use crate::buffers::{BufPool, CIPHER_SCRATCH, SCRATCH};
use crate::descriptors::Budget;
use crate::pipes::PipePool;
use crate::reactor::Reactor;
use crate::timers::Timers;
use crate::turn;

pub mod conn;

use conn::ConnTable;

/// The offset of the scratch within its pages. rustls copies each record to a buffer that starts a few bytes into a
/// page; if the source had the same offset in its page, every load would seem to depend on the preceding store (4 KiB
/// aliasing), and that copy took a third of all time.
const SCRATCH_OFFSET: usize = 2048;

/// The context of a worker.
#[derive(Debug)]
pub struct WorkerCx {
    /// The index of the worker, from 0.
    pub number: usize,
    /// Monotonic and wall time.
    pub clock: Clock,
    /// The timers.
    pub timers: Rc<Timers>,
    /// The sockets.
    pub reactor: Rc<Reactor>,
    /// The buffer pool for slow receivers.
    pub buffers: BufPool,
    /// The pipe pool for splicing.
    pub pipes: PipePool,
    /// The metric cells of this worker.
    pub shard: Shard,
    /// The queue to the log thread.
    pub log: LogQueue,
    /// The configured limits.
    pub limits: Limits,
    /// The open connections.
    pub connections: ConnTable,
    random: RefCell<fastrand::Rng>,
    turn: Cell<(u64, Moment)>,
    scratch: RefCell<Box<[u8]>>,
    cipher: RefCell<Box<[u8]>>,
    datagrams: RefCell<Option<Received>>,
    locals: RefCell<HashMap<TypeId, Rc<dyn Any>>>,
}

impl WorkerCx {
    /// Creates a worker without tasks; see [`WorkerCx::start`].
    ///
    /// # Panics
    /// If the process has no descriptors left for an event queue.
    pub fn new(
        number: usize,
        clock: Clock,
        shard: Shard,
        log: LogQueue,
        limits: Limits,
        budget: &Arc<Budget>,
    ) -> Rc<Self> {
        let name = number.to_string();
        let descriptors = budget.allowance();
        let pipes = limits.size(Limit::WorkerPipes);
        Rc::new(Self {
            number,
            timers: Timers::new(clock.clone()),
            reactor: Reactor::new(Rc::clone(&descriptors))
                .expect("a descriptor is left for an event queue"),
            buffers: BufPool::within(limits.size(Limit::WorkerBuffers), Rc::clone(&descriptors)),
            pipes: PipePool::new(pipes, descriptors, &shard, &name),
            connections: ConnTable::default(),
            random: RefCell::new(fastrand::Rng::new()),
            turn: Cell::new((0, clock.now())),
            scratch: RefCell::new(vec![0; SCRATCH_OFFSET + SCRATCH].into_boxed_slice()),
            cipher: RefCell::new(vec![0; CIPHER_SCRATCH].into_boxed_slice()),
            datagrams: RefCell::default(),
            locals: RefCell::default(),
            clock,
            shard,
            log,
            limits,
        })
    }

    /// Starts the tasks that drive timers and socket events, on the runtime of this thread.
    pub fn start(&self) {
        self.spawn(Rc::clone(&self.timers).drive());
        self.spawn(Rc::clone(&self.reactor).drive());
    }

    /// Creates a standalone worker without a log: for tests and examples of plug-ins.
    pub fn solitary(clock: Clock) -> Rc<Self> {
        let shard = sluice_telemetry::Registry::new().shard(1);
        let log = LogQueue::nowhere(&shard);
        Self::new(0, clock, shard, log, Limits::default(), &Budget::unlimited())
    }

    /// The time of this turn of the event loop: the clock is read once between two calls of [`turn::next`].
    pub fn now(&self) -> Moment {
        let turn = turn::number();
        let (last, at) = self.turn.get();
        if turn != 0 && turn == last {
            return at;
        }
        let now = self.clock.now();
        self.turn.set((turn, now));
        now
    }

    /// Returns what a higher layer keeps once per worker, such as a pool; created at the first call. It lives as long
    /// as the worker, so it must not hold a reference to it.
    pub fn local<T: 'static>(&self, new: impl FnOnce() -> T) -> Rc<T> {
        let known = self.locals.borrow().get(&TypeId::of::<T>()).map(Rc::clone);
        let any = known.unwrap_or_else(|| {
            let made: Rc<dyn Any> = Rc::new(new());
            self.locals.borrow_mut().insert(TypeId::of::<T>(), Rc::clone(&made));
            made
        });
        any.downcast().expect("it stands under the identity of its type")
    }

    /// Spawns `task` on this worker. A panic in it ends only the task.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        tokio::task::spawn_local(task);
    }

    /// Returns a random number below `bound`; 0 if `bound` is 0.
    pub fn random_below(&self, bound: usize) -> usize {
        if bound == 0 { 0 } else { self.random.borrow_mut().usize(..bound) }
    }

    /// Returns `duration` with a random part of up to `percent` of it added, so that what began together does not end
    /// together.
    pub fn jittered(&self, duration: Duration, percent: u8) -> Duration {
        let most = duration / 100 * u32::from(percent);
        let most = usize::try_from(most.as_micros()).unwrap_or(usize::MAX);
        duration.saturating_add(Duration::from_micros(self.random_below(most) as u64))
    }

    /// Lends the scratch area for reads. Only within one poll.
    pub fn with_scratch<R>(&self, use_it: impl FnOnce(&mut [u8]) -> R) -> R {
        use_it(&mut self.scratch.borrow_mut()[SCRATCH_OFFSET..])
    }

    /// Lends the scratch area for ciphertext. Only within one poll.
    pub(crate) fn with_cipher<R>(&self, use_it: impl FnOnce(&mut [u8]) -> R) -> R {
        use_it(&mut self.cipher.borrow_mut())
    }

    /// Lends the batch for received datagrams. Only within one poll.
    pub fn with_datagrams<R>(&self, use_it: impl FnOnce(&mut Received) -> R) -> R {
        use_it(self.datagrams.borrow_mut().get_or_insert_with(Received::new))
    }
}
