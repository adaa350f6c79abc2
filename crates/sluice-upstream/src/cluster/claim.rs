//! Claims: what connections and requests have taken of a cluster and an endpoint.
//!
//! Owns: the counts of a cluster, taking them with those of an endpoint, and giving both back. Refuses to know: which
//! endpoint is best. Keeps: no limit is exceeded, over all workers; every claim is given back when it is dropped, and
//! what waits in the queue is told.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Cluster, ClusterHandle};
use crate::endpoint::{EndpointState, LoadKind, count_below};
use crate::plan::BreakerClass;

/// Room at an endpoint that is counted there.
#[derive(Debug)]
pub(super) struct TakenRoom {
    pub(super) endpoint: Arc<EndpointState>,
    /// The class of the cluster that counts it as well; `None` if the cluster does not.
    class: Option<BreakerClass>,
}

/// A request's claim on its cluster and endpoint.
#[derive(Debug)]
pub struct RequestClaim {
    handle: Rc<ClusterHandle>,
    taken: TakenRoom,
}

impl RequestClaim {
    /// The claim of a request that is counted.
    pub(super) fn counted(handle: Rc<ClusterHandle>, taken: TakenRoom) -> Self {
        if handle.cluster.reports_load() {
            taken.endpoint.request_counts().issue();
        }
        Self { handle, taken }
    }
}

impl Drop for RequestClaim {
    fn drop(&mut self) {
        self.handle.cluster.give_back(LoadKind::Request, &self.taken);
    }
}

/// A picked endpoint: a claim on it and on the cluster.
#[derive(Debug)]
pub struct Claim {
    handle: Rc<ClusterHandle>,
    endpoint: Arc<EndpointState>,
    /// Whether it is that of a pooled connection.
    pooled: bool,
}

impl Claim {
    /// The claim of a connection that is counted; a `pooled` one carries the requests of many clients.
    pub(super) fn counted(handle: Rc<ClusterHandle>, taken: TakenRoom, pooled: bool) -> Self {
        handle.open.increment();
        if pooled {
            taken.endpoint.enter_pooled();
            handle.cluster.pooled.fetch_add(1, Relaxed);
        } else if handle.cluster.reports_load() {
            taken.endpoint.request_counts().issue();
        }
        Self { handle, endpoint: taken.endpoint, pooled }
    }

    /// The endpoint.
    pub const fn endpoint(&self) -> &Arc<EndpointState> {
        &self.endpoint
    }

    /// The cluster.
    pub const fn handle(&self) -> &Rc<ClusterHandle> {
        &self.handle
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let cluster = &self.handle.cluster;
        if self.pooled {
            self.endpoint.leave_pooled();
            cluster.pooled.fetch_sub(1, Relaxed);
        }
        self.handle.open.decrement();
        // Clusters count all connections.
        cluster.release(LoadKind::Connection, Some(self.handle.class), &self.endpoint);
    }
}

/// Why there was no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LimitReached {
    /// The endpoint is at its limit.
    Endpoint,
    /// The cluster is at its limit.
    Cluster,
}

impl Cluster {
    fn count_of(&self, load: LoadKind, class: BreakerClass) -> &AtomicU64 {
        let counts = self.counts_of(class);
        match load {
            LoadKind::Connection => &counts.connections,
            LoadKind::Request => &counts.requests,
        }
    }

    /// The count of `load` of `class`, over all endpoints; of requests only if the plan needs it.
    pub(super) fn in_use(&self, load: LoadKind, class: BreakerClass) -> u64 {
        self.count_of(load, class).load(Relaxed)
    }

    /// The same, over all classes.
    pub(super) fn in_use_of_all(&self, load: LoadKind) -> u64 {
        BreakerClass::ALL.iter().map(|class| self.in_use(load, *class)).sum()
    }

    /// Whether no class has room for `load` in the cluster.
    pub(super) fn is_full(&self, load: LoadKind) -> bool {
        let plan = self.peek_plan();
        let limit = |class| plan.limit_of(load, class).map(|max| (class, max));
        let is_full = |(class, max)| self.in_use(load, class) >= max;
        BreakerClass::ALL.iter().all(|class| limit(*class).is_some_and(is_full))
    }

    /// Counts one more of `load` at `endpoint`, below `max` there and `total_max` in all; the cluster counts it if
    /// `counts`. What is taken must be given back.
    pub(super) fn take(
        &self,
        load: LoadKind,
        class: BreakerClass,
        counts: bool,
        endpoint: Arc<EndpointState>,
        (max, total_max): (Option<u64>, Option<u64>),
    ) -> Result<TakenRoom, LimitReached> {
        if max.is_some_and(|max| endpoint.in_use(load) >= max) {
            return Err(LimitReached::Endpoint);
        }
        if counts && !count_below(self.count_of(load, class), total_max) {
            return Err(LimitReached::Cluster);
        }
        if endpoint.enter(load, max) {
            return Ok(TakenRoom { endpoint, class: counts.then_some(class) });
        }
        // Another worker was faster. Meanwhile, the cluster may have seemed to be full.
        if counts {
            self.count_of(load, class).fetch_sub(1, Relaxed);
            self.note_room(load, Some(class), &endpoint);
        }
        Err(LimitReached::Endpoint)
    }

    /// Gives back what was taken.
    pub(super) fn give_back(&self, load: LoadKind, taken: &TakenRoom) {
        self.release(load, taken.class, &taken.endpoint);
    }

    fn release(&self, load: LoadKind, class: Option<BreakerClass>, endpoint: &Arc<EndpointState>) {
        if let Some(class) = class {
            self.count_of(load, class).fetch_sub(1, Relaxed);
        }
        endpoint.leave(load);
        self.note_room(load, class, endpoint);
    }
}
