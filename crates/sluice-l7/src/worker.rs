//! The state that the HTTP handlers of one worker share.

use std::rc::Rc;

use sluice_io::WorkerCx;

use crate::attempts::AttemptTable;
use crate::head_pool::HeadPool;
use crate::in_flight::InFlight;
use crate::pools::ClusterPools;

/// Unused heads, connections to endpoints, and attempts and requests in flight.
#[derive(Debug, Default)]
pub struct HttpWorker {
    /// Unused heads.
    pub head_pool: HeadPool,
    /// Connections to endpoints.
    pub pools: Rc<ClusterPools>,
    /// Attempts in flight, for clusters that cancel them when their endpoint leaves.
    pub attempts: Rc<AttemptTable>,
    /// Requests in flight, for the connections page.
    pub in_flight: Rc<InFlight>,
}

impl HttpWorker {
    /// Returns the shared state of `worker`.
    pub fn of(worker: &WorkerCx) -> Rc<Self> {
        worker.local(Self::default)
    }
}
