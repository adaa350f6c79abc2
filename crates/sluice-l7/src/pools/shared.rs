//! Connections to one endpoint that carry many requests: HTTP/2 and HTTP/3.
//!
//! Owns: the open connections, and the one being made. Refuses to know: how it is made. Keeps: only one connection is
//! being made at a time; waiting requests are notified when that succeeds or fails.

use std::rc::Rc;
use std::sync::Arc;

use sluice_codec::Multiplexed;
use sluice_core::Moment;
use sluice_upstream::EndpointState;
use sluice_upstream::pool::Idle;
use tokio::sync::Notify;

use super::ClusterPool;

/// Connections to one endpoint that many requests share.
#[derive(Debug)]
pub(super) struct EndpointPool {
    pub(super) endpoint: Arc<EndpointState>,
    pub(super) open: Vec<Idle<Multiplexed>>,
    /// Set while a connection is being made; notified when that ends.
    pub(super) connecting: Option<Rc<Notify>>,
    pub(super) idle_since: Moment,
}

impl EndpointPool {
    pub(super) fn new(endpoint: &Arc<EndpointState>, now: Moment) -> Self {
        Self { endpoint: Arc::clone(endpoint), open: Vec::new(), connecting: None, idle_since: now }
    }
}

/// A shared connection that is being made; waiting requests are notified when that succeeds or fails.
pub(super) struct Connecting {
    pool: Rc<ClusterPool>,
    endpoint: Arc<str>,
    done: Rc<Notify>,
}

impl Connecting {
    pub(super) fn begin(
        pool: &Rc<ClusterPool>,
        endpoint: &Arc<EndpointState>,
        now: Moment,
    ) -> Self {
        let done = Rc::new(Notify::new());
        let mut endpoint_pools = pool.shared.borrow_mut();
        let endpoint_pool = endpoint_pools
            .entry(Arc::clone(&endpoint.name))
            .or_insert_with(|| EndpointPool::new(endpoint, now));
        endpoint_pool.connecting = Some(Rc::clone(&done));
        Self { pool: Rc::clone(pool), endpoint: Arc::clone(&endpoint.name), done }
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        if let Some(endpoint_pool) = self.pool.shared.borrow_mut().get_mut(&self.endpoint) {
            endpoint_pool.connecting = None;
        }
        self.done.notify_waiters();
    }
}
