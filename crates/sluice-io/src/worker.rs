//! What every task of a worker shares.
//!
//! Owns: clock, timers, reactor, buffers, pipes, metrics shard, log queue, random numbers, scratch.
//! Refuses to know: listeners and connections. Keeps: nothing in it is shared with another thread.

use std::any::{Any, TypeId};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

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

/// Where in its pages the scratch begins. rustls copies each record to a buffer that begins a few
/// bytes behind a page; were the source at the same place in its page, every load would seem to
/// depend on the store just before it (4 KiB aliasing), and that copy took a third of all time.
const SCRATCH_OFFSET: usize = 2048;

/// The context of a worker.
#[derive(Debug)]
pub struct WorkerCx {
    /// Which worker, from 0.
    pub number: usize,
    /// Monotonic and wall time.
    pub clock: Clock,
    /// Deadlines.
    pub timers: Rc<Timers>,
    /// Sockets.
    pub reactor: Rc<Reactor>,
    /// Buffers for slow receivers.
    pub buffers: BufPool,
    /// Pipes for splicing.
    pub pipes: PipePool,
    /// Metric cells of this worker.
    pub shard: Shard,
    /// The queue to the log thread.
    pub log: LogQueue,
    /// Bounds.
    pub limits: Limits,
    /// Open connections.
    pub connections: ConnTable,
    random: RefCell<fastrand::Rng>,
    turn: Cell<(u64, Moment)>,
    scratch: RefCell<Box<[u8]>>,
    cipher: RefCell<Box<[u8]>>,
    datagrams: RefCell<Option<Received>>,
    locals: RefCell<HashMap<TypeId, Rc<dyn Any>>>,
}

impl WorkerCx {
    /// A worker without tasks; see [`WorkerCx::start`].
    ///
    /// # Panics
    /// When the process has no descriptor left for an event queue.
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
            buffers: BufPool::new(limits.size(Limit::WorkerBuffers)),
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

    /// Starts what makes deadlines and events of sockets come, on the runtime of this thread.
    pub fn start(&self) {
        self.spawn(Rc::clone(&self.timers).drive());
        self.spawn(Rc::clone(&self.reactor).drive());
    }

    /// A worker on its own, without a log: for tests and examples of plug-ins.
    pub fn solitary(clock: Clock) -> Rc<Self> {
        let shard = sluice_telemetry::Registry::new().shard(1);
        let log = LogQueue::nowhere(&shard);
        Self::new(0, clock, shard, log, Limits::default(), &Budget::unlimited())
    }

    /// The time of this turn of the event loop: the clock is read once between two calls of
    /// [`turn::next`].
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

    /// What a higher layer keeps once per worker, such as a pool; made at the first call. It lives as
    /// long as the worker, so it must not hold it.
    pub fn local<T: 'static>(&self, new: impl FnOnce() -> T) -> Rc<T> {
        let known = self.locals.borrow().get(&TypeId::of::<T>()).map(Rc::clone);
        let any = known.unwrap_or_else(|| {
            let made: Rc<dyn Any> = Rc::new(new());
            self.locals.borrow_mut().insert(TypeId::of::<T>(), Rc::clone(&made));
            made
        });
        any.downcast().expect("it stands under the identity of its type")
    }

    /// Runs `task` on this worker. A panic in it ends it and nothing else.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        tokio::task::spawn_local(task);
    }

    /// A random number below `bound`; 0 when `bound` is 0.
    pub fn random_below(&self, bound: usize) -> usize {
        if bound == 0 { 0 } else { self.random.borrow_mut().usize(..bound) }
    }

    /// Lends the area that data is read into. Within one poll only.
    pub fn with_scratch<R>(&self, use_it: impl FnOnce(&mut [u8]) -> R) -> R {
        use_it(&mut self.scratch.borrow_mut()[SCRATCH_OFFSET..])
    }

    /// Lends the area for ciphertext. Within one poll only.
    pub(crate) fn with_cipher<R>(&self, use_it: impl FnOnce(&mut [u8]) -> R) -> R {
        use_it(&mut self.cipher.borrow_mut())
    }

    /// Lends the batch that datagrams are received into. Within one poll only.
    pub fn with_datagrams<R>(&self, use_it: impl FnOnce(&mut Received) -> R) -> R {
        use_it(self.datagrams.borrow_mut().get_or_insert_with(Received::new))
    }
}
