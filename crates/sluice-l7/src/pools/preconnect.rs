//! Connections made ahead of the requests that will need them.
//!
//! Owns: how many there should be, and making them. Refuses to know: how a connection is made, and which request takes it.
//! Keeps: only what requests in flight lead to expect is made, within the limits of the cluster; nothing is counted where
//! nothing is made ahead.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use sluice_io::WorkerCx;
use sluice_upstream::cluster::TrafficClass;
use sluice_upstream::plan::HttpVersion;
use sluice_upstream::pool::Idle;
use sluice_upstream::{EndpointState, LeftEndpoints};

use super::{ClusterPool, ConnectionNeeds, IdleH1, PoolTicket, PooledConn, TakenH1};

/// The most connections that one request has made ahead, to its own endpoint and to others.
const AHEAD_MAX: usize = 3;

/// What is expected of the endpoints of a cluster.
#[derive(Debug, Default)]
pub(super) struct Preconnects {
    endpoints: RefCell<HashMap<Arc<str>, EndpointDemand, foldhash::fast::RandomState>>,
    /// Connections being made ahead, to all endpoints.
    coming: Rc<Cell<usize>>,
}

/// What is expected of an endpoint.
#[derive(Clone, Debug, Default)]
struct EndpointDemand {
    /// Requests that have an HTTP/1 connection, or make one.
    busy: Rc<Cell<usize>>,
    /// Connections being made ahead.
    coming: Rc<Cell<usize>>,
}

/// Counts something until it is dropped.
#[derive(Debug)]
pub(super) struct DemandGuard(Rc<Cell<usize>>);

impl DemandGuard {
    fn enter(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for DemandGuard {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Preconnects {
    fn demand(&self, endpoint: &EndpointState) -> EndpointDemand {
        let mut endpoints = self.endpoints.borrow_mut();
        if let Some(demand) = endpoints.get(&endpoint.name) {
            return demand.clone();
        }
        endpoints.entry(Arc::clone(&endpoint.name)).or_default().clone()
    }

    /// Forgets endpoints that have left.
    pub(super) fn forget(&self, left: &LeftEndpoints) {
        self.endpoints.borrow_mut().retain(|endpoint, _| !left.contains(endpoint));
    }
}

impl ClusterPool {
    /// Counts a request that has an HTTP/1 connection to `endpoint`, or makes one; `None` where that does not matter.
    pub(super) fn enter_demand(&self, endpoint: &EndpointState) -> Option<DemandGuard> {
        self.handle.plan().preconnect?;
        Some(DemandGuard::enter(&self.preconnects.demand(endpoint).busy))
    }

    /// Makes the connections that the requests in flight lead to expect, one of which is for `endpoint`.
    pub(super) fn make_ahead(
        self: &Rc<Self>,
        worker: &Rc<WorkerCx>,
        endpoint: &Arc<EndpointState>,
        needs: &ConnectionNeeds<'_>,
    ) {
        let Some(plan) = self.handle.plan().preconnect else { return };
        // What another worker waits for is not taken ahead.
        if self.is_wanted_elsewhere() {
            return;
        }
        let missing = self.missing_at(endpoint, needs, plan.per_endpoint, 0);
        for _ in 0..missing.min(AHEAD_MAX) {
            if !self.begin_ahead(worker, endpoint, needs) {
                return;
            }
        }
        if plan.predicted > 100 {
            self.make_ahead_elsewhere(worker, needs, plan.predicted);
        }
    }

    /// Makes connections to the endpoints that the load balancer will pick next.
    fn make_ahead_elsewhere(
        self: &Rc<Self>,
        worker: &Rc<WorkerCx>,
        needs: &ConnectionNeeds<'_>,
        percent: u32,
    ) {
        let in_flight = usize::try_from(self.requests.get()).unwrap_or(usize::MAX);
        for ahead in 0..AHEAD_MAX {
            if expected(in_flight, percent) <= in_flight + self.room(needs) {
                return;
            }
            let Some(next) = self.handle.predict(worker, ahead) else { return };
            if self.missing_at(&next, needs, percent, 1) == 0
                || !self.begin_ahead(worker, &next, needs)
            {
                return;
            }
        }
    }

    /// How many more requests can be sent without making a connection, at all endpoints.
    fn room(&self, needs: &ConnectionNeeds<'_>) -> usize {
        let streams_max = self.handle.plan().reuse.streams_max;
        let of_coming = match self.protocol(needs) {
            HttpVersion::Http2 | HttpVersion::Http3 => streams_max,
            HttpVersion::Http1 | HttpVersion::Auto | HttpVersion::Same => 1,
        };
        let shared = self.shared.borrow();
        let open = shared.values().flat_map(|pool| &pool.open);
        let free = open.map(|idle| streams_max.saturating_sub(idle.connection.open_streams()));
        self.h1.len() + self.preconnects.coming.get() * of_coming + free.sum::<usize>()
    }

    /// How many connections to `endpoint` are missing, if `more` requests come to those that it has.
    fn missing_at(
        &self,
        endpoint: &Arc<EndpointState>,
        needs: &ConnectionNeeds<'_>,
        percent: u32,
        more: usize,
    ) -> usize {
        let (protocol, demand) = (self.protocol(needs), self.preconnects.demand(endpoint));
        let shared = self.shared.borrow();
        let pool = shared.get(&endpoint.name);
        let shares = match protocol {
            HttpVersion::Http2 | HttpVersion::Http3 => true,
            HttpVersion::Auto => pool.is_some_and(|pool| !pool.open.is_empty()),
            HttpVersion::Http1 | HttpVersion::Same => false,
        };
        if !shares {
            let busy = demand.busy.get();
            let has = busy + self.h1.idle_at(&endpoint.name) + demand.coming.get();
            return expected(busy + more, percent).saturating_sub(has);
        }
        let streams_max = self.handle.plan().reuse.streams_max;
        let Some(pool) = pool else { return usize::from(more > 0) };
        let busy: usize = pool.open.iter().map(|idle| idle.connection.open_streams()).sum();
        let is_short = expected(busy + more, percent) > pool.open.len() * streams_max;
        usize::from(is_short && !pool.is_connecting())
    }

    /// Begins to make a connection, unless a limit is reached.
    fn begin_ahead(
        self: &Rc<Self>,
        worker: &Rc<WorkerCx>,
        endpoint: &Arc<EndpointState>,
        needs: &ConnectionNeeds<'_>,
    ) -> bool {
        let demand = self.preconnects.demand(endpoint);
        let idle_max = self.handle.plan().reuse.idle_max;
        let is_enough = self.h1.idle_at(&endpoint.name) + demand.coming.get() >= idle_max;
        if is_enough || !endpoint.is_usable() {
            return false;
        }
        let class = TrafficClass::Request;
        let Ok(claim) = self.handle.claim_shared(class, endpoint) else {
            self.counters.count_preconnect(worker, &self.handle.cluster.name, "limit");
            return false;
        };
        let coming = [&demand.coming, &self.preconnects.coming].map(DemandGuard::enter);
        let (pool, runner, endpoint) = (Rc::clone(self), Rc::clone(worker), Arc::clone(endpoint));
        let (http3, version, options) = (needs.http3, needs.version, Rc::clone(needs.options));
        worker.spawn(async move {
            let needs = ConnectionNeeds { class, http3, version, options: &options, early: false };
            let made = pool.make_in_time(&runner, &endpoint, &needs, claim, 0).await;
            drop(coming);
            let result = if made.is_ok() { "made" } else { "failed" };
            if let Ok(PooledConn::H1(taken)) = made {
                pool.keep_ahead(&runner, &endpoint, taken);
            }
            pool.counters.count_preconnect(&runner, &pool.handle.cluster.name, result);
            pool.freed.notify_one();
        });
        true
    }

    /// Keeps an HTTP/1 connection for a request to come.
    fn keep_ahead(&self, worker: &Rc<WorkerCx>, endpoint: &Arc<EndpointState>, taken: TakenH1) {
        let (stream, PoolTicket { claim, made, generation, .. }) = taken.into_parts();
        let idle = Idle::new(IdleH1 { stream, claim }, made, generation);
        self.h1.give(endpoint, idle, worker.now());
        self.sweep_soon(worker);
    }
}

/// How many requests are expected where `busy` are in flight.
fn expected(busy: usize, percent: u32) -> usize {
    busy.saturating_mul(percent as usize).div_ceil(100)
}
