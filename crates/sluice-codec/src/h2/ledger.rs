//! What an HTTP/2 connection and its streams share.
//!
//! Owns: what the frame headers received show, the incoming bodies and how much of them the library holds. Refuses to
//! know: the socket, which is gone when the connection ends, while streams may live on. Keeps: what the library holds
//! of bodies is charged to the worker, to within [`RECOUNT`] bytes.

use std::cell::RefCell;
use std::rc::Rc;

use h2::{FlowControl, RecvStream};
use slab::Slab;
use sluice_core::Moment;
use sluice_io::WorkerCx;
use sluice_io::buffers::{BufPool, Charge};

use crate::error::{ErrorKind, HttpError};
use crate::h1::Role;
use crate::h2::watch::FrameWatch;
use crate::h2::{H2Options, error_of};

/// Bytes of bodies between two counts of what is held.
const RECOUNT: u64 = 64 << 10;

/// Bytes that a client's connection may hold when the worker's buffers are exhausted; connections with more are what
/// exhausts them.
const SPARED: usize = 1 << 20;

/// Why a connection must end, besides what the library finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The peer keeps sending frames that make no progress.
    Flood,
    /// The worker's buffers are exhausted, and much of them is held here for readers that do not read.
    Held,
}

impl Broken {
    pub(crate) fn error(self) -> HttpError {
        match self {
            Self::Flood => HttpError::coded(ErrorKind::Flood, "http2.frames_without_progress"),
            Self::Held => HttpError::buffers(),
        }
    }
}

/// The state of a connection that its driver and its streams share.
#[derive(Clone, Debug)]
pub(crate) struct Ledger(Rc<RefCell<LedgerState>>);

#[derive(Debug)]
struct LedgerState {
    role: Role,
    watch: FrameWatch,
    fields_max: usize,
    buffers: BufPool,
    /// Streams with an incoming body: how much of it the library holds.
    bodies: Slab<FlowControl>,
    /// Bytes of bodies that the library held at the last count.
    held: Charge,
    /// Bytes of bodies received plus bytes taken, now and at the last count.
    moved: u64,
    counted_at: u64,
    broken: Option<Broken>,
}

impl Ledger {
    pub(crate) fn new(role: Role, options: &H2Options, worker: &WorkerCx) -> Self {
        let watch = match role {
            Role::Server => FrameWatch::of_client(worker.now()),
            Role::Client => FrameWatch::of_server(worker.now()),
        };
        Self(Rc::new(RefCell::new(LedgerState {
            role,
            watch,
            fields_max: options.head_fields,
            buffers: worker.buffers.clone(),
            bodies: Slab::new(),
            held: worker.buffers.charge(),
            moved: 0,
            counted_at: 0,
            broken: None,
        })))
    }

    /// Returns why the connection must end, if it must.
    pub(crate) fn broken(&self) -> Option<Broken> {
        self.0.borrow().broken
    }

    /// Converts an error of the library on this connection.
    pub(crate) fn error_of(&self, error: &h2::Error) -> HttpError {
        self.broken().map_or_else(|| error_of(error), Broken::error)
    }

    /// Inspects received bytes.
    pub(crate) fn note_came(&self, bytes: &[u8], now: Moment) {
        let mut inner = self.0.borrow_mut();
        let before = inner.watch.data();
        inner.watch.take(bytes, now);
        inner.moved += inner.watch.data() - before;
        if inner.watch.is_flood() {
            inner.broken.get_or_insert(Broken::Flood);
        }
        inner.recount_if_moved();
    }

    /// Notes that bytes of a body were taken from the library.
    pub(crate) fn note_taken(&self, count: usize) {
        let mut inner = self.0.borrow_mut();
        inner.moved += count as u64;
        inner.recount_if_moved();
    }

    /// Notes that a piece of a body was given to the library to send.
    pub(crate) fn note_sent(&self, count: usize) {
        self.0.borrow_mut().watch.note_sent(count);
    }

    /// Counts an incoming body as held, until the returned value is dropped.
    pub(crate) fn count_body(&self, incoming: &mut RecvStream) -> CountedBody {
        let key = self.0.borrow_mut().bodies.insert(incoming.flow_control().clone());
        CountedBody { ledger: self.clone(), key }
    }

    /// Returns how many headers a head may have.
    pub(crate) fn fields_max(&self) -> usize {
        self.0.borrow().fields_max
    }

    /// Returns the buffers of the worker.
    pub(crate) fn buffers(&self) -> BufPool {
        self.0.borrow().buffers.clone()
    }
}

impl LedgerState {
    fn recount_if_moved(&mut self) {
        if self.moved - self.counted_at >= RECOUNT {
            self.recount();
        }
    }

    /// Charges what the library holds of bodies. A connection to an endpoint carries requests of many clients: its
    /// windows bound it, and it is not ended because one of them does not read.
    fn recount(&mut self) {
        self.counted_at = self.moved;
        let held: usize = self.bodies.iter().map(|(_, body)| body.used_capacity()).sum();
        if self.held.set(held).is_err() && self.role == Role::Server && held > SPARED {
            self.broken.get_or_insert(Broken::Held);
        }
    }
}

/// An incoming body that is counted as held.
#[derive(Debug)]
pub(crate) struct CountedBody {
    ledger: Ledger,
    key: usize,
}

impl Drop for CountedBody {
    fn drop(&mut self) {
        let mut inner = self.ledger.0.borrow_mut();
        inner.bodies.remove(self.key);
        if inner.held.bytes() > 0 {
            inner.recount();
        }
    }
}
