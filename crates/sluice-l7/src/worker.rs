//! What the HTTP of one worker shares.

use std::rc::Rc;

use sluice_io::WorkerCx;

use crate::at_work::AtWork;
use crate::heads::Heads;
use crate::in_flight::InFlight;
use crate::upstreams::Upstreams;

/// Free heads, connections to endpoints, and who is at work there.
#[derive(Debug, Default)]
pub struct HttpWorker {
    /// Free heads.
    pub heads: Heads,
    /// Connections to endpoints.
    pub upstreams: Rc<Upstreams>,
    /// Tries under way, for clusters that send them away when their endpoint leaves.
    pub at_work: Rc<AtWork>,
    /// Requests under way, for the page of connections.
    pub in_flight: Rc<InFlight>,
}

impl HttpWorker {
    /// That of `worker`.
    pub fn of(worker: &WorkerCx) -> Rc<Self> {
        worker.local(Self::default)
    }
}
