//! What the HTTP of one worker shares.

use std::rc::Rc;

use sluice_io::WorkerCx;

use crate::attempts::AttemptTable;
use crate::head_pool::HeadPool;
use crate::in_flight::InFlight;
use crate::pools::ClusterPools;

/// Free heads, connections to endpoints, and who is at work there.
#[derive(Debug, Default)]
pub struct HttpWorker {
    /// Free heads.
    pub head_pool: HeadPool,
    /// Connections to endpoints.
    pub pools: Rc<ClusterPools>,
    /// Tries under way, for clusters that send them away when their endpoint leaves.
    pub attempts: Rc<AttemptTable>,
    /// Requests under way, for the page of connections.
    pub in_flight: Rc<InFlight>,
}

impl HttpWorker {
    /// That of `worker`.
    pub fn of(worker: &WorkerCx) -> Rc<Self> {
        worker.local(Self::default)
    }
}
