//! What the HTTP of one worker shares.

use std::rc::Rc;

use sluice_io::WorkerCx;

use crate::heads::Heads;
use crate::upstreams::Upstreams;

/// Free heads, and connections to endpoints.
#[derive(Debug, Default)]
pub struct HttpWorker {
    /// Free heads.
    pub heads: Heads,
    /// Connections to endpoints.
    pub upstreams: Rc<Upstreams>,
}

impl HttpWorker {
    /// That of `worker`.
    pub fn of(worker: &WorkerCx) -> Rc<Self> {
        worker.local(Self::default)
    }
}
