//! The state that the HTTP handlers of one worker share.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_codec::head_pool::HeadPool;
use sluice_core::Name;
use sluice_io::WorkerCx;
use sluice_upstream::LeftEndpoints;
use sluice_upstream::plan::OnRemoved;

use crate::attempts::{AttemptTable, Departure};

use crate::in_flight::InFlight;
use crate::pools::ClusterPools;

/// Unused heads, connections to endpoints, and attempts and requests in flight.
#[derive(Debug, Default)]
pub struct HttpWorker {
    /// Unused heads.
    pub head_pool: Rc<HeadPool>,
    /// Connections to endpoints.
    pub pools: Rc<ClusterPools>,
    /// Attempts in flight, for clusters that cancel them when their endpoint leaves.
    pub attempts: Rc<AttemptTable>,
    /// Requests in flight, for the connections page.
    pub in_flight: Rc<InFlight>,
    leaving: Cell<bool>,
    closing: RefCell<ClosingListeners>,
}

/// The listeners whose connections end after the next response, although they go on accepting.
#[derive(Clone, Debug, Default)]
pub enum ClosingListeners {
    /// None.
    #[default]
    None,
    /// All.
    All,
    /// These.
    These(Arc<BTreeSet<Name>>),
}

impl ClosingListeners {
    /// Whether a listener is among them.
    pub fn contains(&self, listener: &Name) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::These(names) => names.contains(listener),
        }
    }
}

impl HttpWorker {
    /// Returns the shared state of `worker`.
    pub fn of(worker: &WorkerCx) -> Rc<Self> {
        let head_pool = worker.local(HeadPool::default);
        worker.local(|| Self { head_pool, ..Self::default() })
    }

    /// Has health checks of clients fail, since the process is about to end.
    pub fn leave(&self) {
        self.leaving.set(true);
    }

    /// Has health checks of clients fail or not, and connections of listeners end after the next response, as an operator
    /// asks. Those that are open are told by the caller.
    pub fn stand(&self, leaving: bool, closing: ClosingListeners) {
        self.leaving.set(leaving);
        *self.closing.borrow_mut() = closing;
    }

    /// Whether new connections of a listener end after the first response.
    pub(crate) fn closes(&self, listener: &Name) -> bool {
        self.closing.borrow().contains(listener)
    }

    /// Whether the process is about to end.
    pub const fn is_leaving(&self) -> bool {
        self.leaving.get()
    }

    /// Follows the departure of endpoints from a cluster, or from those that can be used: requests in flight to them are
    /// cancelled, at once or later, as the cluster says.
    pub fn endpoints_left(
        self: &Rc<Self>,
        worker: &WorkerCx,
        cluster: &Name,
        endpoints: &Arc<LeftEndpoints>,
        policy: OnRemoved,
        departure: Departure,
    ) {
        if departure == Departure::Removed {
            self.pools.forget_endpoints(cluster, endpoints);
        }
        let wait = match policy {
            OnRemoved::Keep => return,
            OnRemoved::Close => Duration::ZERO,
            OnRemoved::Drain(wait) => wait,
        };
        // Later ones were sent to the remaining endpoints.
        let (attempts, until) = (Rc::clone(&self.attempts), worker.now());
        let (cluster, endpoints) = (Arc::clone(cluster), Arc::clone(endpoints));
        worker.spawn(async move {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            attempts.cancel(&cluster, &endpoints, until, departure);
        });
    }
}
