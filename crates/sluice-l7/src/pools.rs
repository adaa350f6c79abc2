//! Connections to endpoints, per worker: taken, made and reused.
//!
//! Owns: a pool per cluster, the wait for a connection, retries in flight. Refuses to know: requests. Keeps: an HTTP/1
//! connection carries one request at a time, an HTTP/2 or HTTP/3 connection as many as both sides allow; no second one
//! of the latter is made while the first is being made.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use sluice_codec::h1::H1Stream;
use sluice_codec::quic::QuicClients;
use sluice_codec::{Multiplexed, Version};
use sluice_core::Name;
use sluice_core::value::plural;
use sluice_io::WorkerCx;
use sluice_io::timers::Timer;
use sluice_upstream::cluster::{BreakerLimit, Claim, TrafficClass, WorkerShare};
use sluice_upstream::connector::ConnectFailure;
use sluice_upstream::plan::{BreakerClass, HttpVersion};
use sluice_upstream::pool::Idle;
use sluice_upstream::{Cluster, ClusterHandle, EndpointState, LeftEndpoints, Pool};
use tokio::sync::Notify;

mod attempt;
pub mod counters;
mod early_data;
mod making;
mod preconnect;
mod racing;
mod retry_budget;
#[cfg(test)]
pub(crate) mod scripted;
mod shared;
mod taken;
#[cfg(test)]
mod tests;
mod tunnel;

use counters::PoolCounters;
use preconnect::Preconnects;
pub(crate) use retry_budget::InFlightGuard;
use retry_budget::WaitingRequest;
use shared::EndpointPool;
pub use taken::{ConnectionNeeds, PoolTicket, PooledConn, TakenH1};

/// How often idle connections are swept.
const SWEEP: Duration = Duration::from_secs(1);

/// HTTP/1 connections that a sweep closes before others get a turn: each is a call of the system, of some 10 us.
const CLOSED_AT_ONCE: usize = 32;

/// How often a wait for a connection checks whether another worker has given one up.
const LOOK: Duration = Duration::from_millis(20);

/// The connection pools of a worker, by cluster.
#[derive(Debug, Default)]
pub struct ClusterPools {
    clusters: RefCell<PoolTable>,
    /// Those for requests with high priority.
    high: RefCell<PoolTable>,
    quic: Rc<QuicClients>,
    sweeping: Cell<bool>,
}

/// Pools by cluster.
type PoolTable = HashMap<Name, Rc<ClusterPool>, foldhash::fast::RandomState>;

impl ClusterPools {
    /// Returns the pool of a cluster; creates it if there is none.
    pub fn to(self: &Rc<Self>, cluster: &Arc<Cluster>, worker: &Rc<WorkerCx>) -> Rc<ClusterPool> {
        self.to_class(cluster, BreakerClass::Default, worker)
    }

    /// Returns the pool of a cluster for requests to which the limits of `class` apply; creates it if there is none.
    pub fn to_class(
        self: &Rc<Self>,
        cluster: &Arc<Cluster>,
        class: BreakerClass,
        worker: &Rc<WorkerCx>,
    ) -> Rc<ClusterPool> {
        let table = match class {
            BreakerClass::Default => &self.clusters,
            BreakerClass::High => &self.high,
        };
        if let Some(pool) = table.borrow().get(&cluster.name)
            && Arc::ptr_eq(&pool.handle.cluster, cluster)
        {
            return Rc::clone(pool);
        }
        let pool = ClusterPool::new(Arc::clone(cluster), class, worker, self);
        table.borrow_mut().insert(Arc::clone(&cluster.name), Rc::clone(&pool));
        pool
    }

    const fn tables(&self) -> [&RefCell<PoolTable>; 2] {
        [&self.clusters, &self.high]
    }

    /// Drops the pools of clusters that `lives` does not accept; connections in use stay until they are done.
    pub fn keep_only(&self, lives: impl Fn(&Name) -> bool) {
        for table in self.tables() {
            table.borrow_mut().retain(|name, _| lives(name));
        }
    }

    /// Drops the metrics of endpoints that left `cluster`.
    pub fn forget_endpoints(&self, cluster: &Name, left: &LeftEndpoints) {
        for table in self.tables() {
            if let Some(pool) = table.borrow().get(cluster) {
                pool.counters.forget(left);
                pool.preconnects.forget(left);
                pool.handle.forget_endpoints(left);
            }
        }
    }

    /// Sweeps idle connections until none are left.
    fn sweep_soon(self: &Rc<Self>, worker: &Rc<WorkerCx>) {
        if self.sweeping.replace(true) {
            return;
        }
        // The task keeps neither of them alive.
        let (pools, weak) = (Rc::downgrade(self), Rc::downgrade(worker));
        worker.spawn(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                let (Some(pools), Some(worker)) = (pools.upgrade(), weak.upgrade()) else {
                    return;
                };
                let all = |table: &RefCell<PoolTable>| -> Vec<Rc<ClusterPool>> {
                    table.borrow().values().cloned().collect()
                };
                let all = pools.tables().map(all).concat();
                let mut left = 0;
                for pool in &all {
                    let mut most = CLOSED_AT_ONCE;
                    let mut remain = pool.sweep(&worker, &mut most);
                    // Others come in between.
                    while most == 0 {
                        tokio::task::yield_now().await;
                        most = CLOSED_AT_ONCE;
                        remain = pool.sweep(&worker, &mut most);
                    }
                    left += usize::from(remain);
                }
                if left == 0 {
                    pools.sweeping.set(false);
                    return;
                }
            }
        });
    }
}

/// Connections to the endpoints of one cluster, and their counters.
#[derive(Debug)]
pub struct ClusterPool {
    /// The cluster.
    pub handle: Rc<ClusterHandle>,
    h1: Pool<IdleH1>,
    quic: Rc<QuicClients>,
    shared: RefCell<HashMap<Arc<str>, EndpointPool, foldhash::fast::RandomState>>,
    /// Notified when a connection is given back.
    freed: Notify,
    waiting: WorkerShare,
    requests: Cell<u64>,
    retries: WorkerShare,
    pub(crate) counters: PoolCounters,
    preconnects: Preconnects,
    pools: Weak<ClusterPools>,
    /// What attempts get instead of connections, in tests.
    #[cfg(test)]
    pub(crate) scripted: scripted::ScriptedConnects,
}

#[derive(Debug)]
struct IdleH1 {
    stream: Box<H1Stream>,
    claim: Claim,
}

impl ClusterPool {
    fn new(
        cluster: Arc<Cluster>,
        class: BreakerClass,
        worker: &Rc<WorkerCx>,
        pools: &Rc<ClusterPools>,
    ) -> Rc<Self> {
        let quic = Rc::clone(&pools.quic);
        let name = &*Arc::clone(&cluster.name);
        Rc::new(Self {
            counters: PoolCounters::new(name, worker),
            handle: ClusterHandle::of_class(Arc::clone(&cluster), class, worker),
            waiting: cluster.pending_share(class),
            retries: cluster.retry_share(class),
            h1: Pool::new(cluster),
            shared: RefCell::default(),
            quic,
            freed: Notify::new(),
            requests: Cell::new(0),
            preconnects: Preconnects::default(),
            pools: Rc::downgrade(pools),
            #[cfg(test)]
            scripted: RefCell::default(),
        })
    }

    /// Takes a connection to `endpoint`: an existing one, or else a new one. Waiting for a connection that others use
    /// or make is bounded by `connect_timeout`, and so is making one. Only a failure to make a connection counts
    /// against the endpoint, and only once, however many requests wait for it. Where HTTP/3 is attempted beside TCP, the
    /// first that is established is taken.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn take(
        self: &Rc<Self>,
        worker: &Rc<WorkerCx>,
        endpoint: &Arc<EndpointState>,
        needs: &ConnectionNeeds<'_>,
    ) -> Result<PooledConn, ConnectFailure> {
        let class = needs.class;
        let timeout = self.handle.plan().connect_timeout;
        let by = worker.now().after(timeout);
        #[cfg(test)]
        self.fail_as_scripted(worker, endpoint).await?;
        let mut attempt = None;
        loop {
            if let Some(pooled) = self.take_idle(worker, endpoint, needs) {
                self.counters.reused.increment();
                return Ok(pooled);
            }
            if let Some(connecting) = self.connecting(endpoint, self.protocol(needs)) {
                let made = Timer::new(&worker.timers).until(by, connecting.notified()).await;
                made.map_err(|_| ConnectFailure::connect_timeout(timeout))?;
                continue;
            }
            attempt = attempt.or_else(|| self.attempt_http3(worker, endpoint, needs));
            if let Some(attempt) = &attempt
                && self.has_head_start(worker, attempt)
            {
                Box::pin(self.wait_for_head_start(worker, attempt, by)).await;
                continue;
            }
            match self.handle.claim_shared(class, endpoint) {
                Ok(claim) => {
                    let _demand = self.enter_demand(endpoint);
                    self.make_ahead(worker, endpoint, needs);
                    // Boxed, so that requests that wait for what another makes have no room for it.
                    let Some(attempt) = &attempt else {
                        let making = self.make_in_time(worker, endpoint, needs, claim, 1);
                        return Box::pin(making).await;
                    };
                    let raced = self.unless_http3_is_first(worker, endpoint, needs, claim, attempt);
                    if let Some(pooled) = Box::pin(raced).await? {
                        return Ok(pooled);
                    }
                }
                // If no other connection may be made, one with stalled streams is better than none.
                Err(_)
                    if let Some(connection) =
                        self.take_shared(worker.now(), endpoint, needs, |_| false) =>
                {
                    self.counters.reused.increment();
                    return Ok(PooledConn::Shared(connection));
                }
                Err(why) if worker.now() >= by => {
                    self.handle.count_refusal(worker, self.handle.connection_limit(class));
                    return Err(self.full(why));
                }
                Err(why) => self.wait_for_room(worker, class, why).await?,
            }
        }
    }

    /// What connections for such a request speak.
    fn protocol(&self, needs: &ConnectionNeeds<'_>) -> HttpVersion {
        let plan = self.handle.plan();
        match (plan.protocol, needs.version) {
            (HttpVersion::Same, Version::Http10 | Version::Http11) => HttpVersion::Http1,
            (HttpVersion::Same, Version::Http3) if plan.http3.follows => HttpVersion::Http3,
            (HttpVersion::Same, Version::Http2 | Version::Http3) => HttpVersion::Http2,
            (other, _) => other,
        }
    }

    /// The most requests that may wait for a connection.
    fn pending_max(&self) -> u64 {
        self.handle.plan().pending_of(self.handle.class)
    }

    /// The failure when no connection may be made and enough requests wait for an existing one.
    fn full(&self, why: sluice_core::Reason) -> ConnectFailure {
        let pending = plural(self.pending_max(), "request");
        let shortage = self.handle.shortage(why).unwrap_or_default();
        let limit = BreakerLimit::Pending.word(self.handle.class);
        let detail = format!("{shortage}, and at most {pending} may wait (`limits.{limit}`)");
        ConnectFailure { why, errno: None, detail: Some(detail) }
    }

    /// Waits until a connection may be free; fails if enough requests wait already.
    async fn wait_for_room(
        &self,
        worker: &WorkerCx,
        class: TrafficClass,
        why: sluice_core::Reason,
    ) -> Result<(), ConnectFailure> {
        // Side calls have a bound of their own.
        if class == TrafficClass::Request && self.waiting.used() >= self.pending_max() {
            self.handle.count_refusal(worker, BreakerLimit::Pending);
            return Err(self.full(why));
        }
        let waiting = WaitingRequest::enter(self);
        // Another worker may also give up a connection, without notifying this one; it does not keep idle ones meanwhile.
        tokio::select! {
            () = self.freed.notified() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
        drop(waiting);
        Ok(())
    }

    /// Takes an existing connection, if one is usable.
    pub(crate) fn take_idle(
        self: &Rc<Self>,
        worker: &Rc<WorkerCx>,
        endpoint: &Arc<EndpointState>,
        needs: &ConnectionNeeds<'_>,
    ) -> Option<PooledConn> {
        #[cfg(test)]
        if let Some(pooled) = self.take_scripted() {
            return Some(pooled);
        }
        let now = worker.now();
        let plan = self.handle.plan();
        let protocol = self.protocol(needs);
        if protocol != HttpVersion::Http1
            && let Some(connection) =
                self.take_shared(now, endpoint, needs, Multiplexed::is_stalled)
        {
            if plan.http3.race.is_some() && connection.version() != Version::Http3 {
                self.attempt_http3_beside(worker, endpoint, needs);
            }
            self.make_ahead(worker, endpoint, needs);
            return Some(PooledConn::Shared(connection));
        }
        if matches!(protocol, HttpVersion::Http2 | HttpVersion::Http3) {
            return None;
        }
        let idle = self.h1.take(endpoint, now, |pooled| pooled.stream.is_quiet(worker))?;
        let Idle { connection: IdleH1 { mut stream, claim }, made, requests, generation, .. } =
            idle;
        stream.set_options(needs.options);
        if plan.http3.race.is_some() {
            self.attempt_http3_beside(worker, endpoint, needs);
        }
        let demand = self.enter_demand(endpoint);
        let ticket = PoolTicket { claim, made, requests, generation, _demand: demand };
        self.make_ahead(worker, endpoint, needs);
        Some(PooledConn::H1(TakenH1 { stream, ticket }))
    }

    /// Takes an HTTP/1 connection back after a request; closes it unless it may be reused.
    pub fn give_back(
        &self,
        worker: &Rc<WorkerCx>,
        endpoint: &Arc<EndpointState>,
        mut stream: Box<H1Stream>,
        ticket: PoolTicket,
    ) {
        if stream.next_exchange() && !self.is_wanted_elsewhere() {
            let PoolTicket { claim, made, requests, generation, .. } = ticket;
            let mut idle = Idle::new(IdleH1 { stream, claim }, made, generation);
            idle.requests = requests + 1;
            self.h1.give(endpoint, idle, worker.now());
            self.sweep_soon(worker);
        }
        self.freed.notify_one();
    }

    /// Whether requests of other workers wait for a connection, and none here: an idle one of this worker may be what
    /// keeps them from making their own.
    fn is_wanted_elsewhere(&self) -> bool {
        self.waiting.used_elsewhere() > 0 && self.waiting.used() == 0
    }

    fn sweep_soon(&self, worker: &Rc<WorkerCx>) {
        if let Some(pools) = self.pools.upgrade() {
            pools.sweep_soon(worker);
        }
    }

    /// Closes connections that are dead, too old, idle for too long or while other workers want one, or to endpoints that
    /// left; returns whether any remain. `most` is as for [`Pool::sweep`].
    fn sweep(&self, worker: &WorkerCx, most: &mut usize) -> bool {
        let now = worker.now();
        let wanted = self.is_wanted_elsewhere();
        self.h1.sweep(now, most, |pooled| !wanted && pooled.stream.is_quiet(worker));
        let plan = self.handle.cluster.plan();
        let generation = self.handle.cluster.generation();
        let cluster = &self.handle.cluster;
        self.shared.borrow_mut().retain(|_, endpoint_pool| {
            let stays = cluster.has_member(&endpoint_pool.endpoint);
            let lain = now.since(endpoint_pool.idle_since) >= plan.reuse.idle_timeout;
            // After the last handle is dropped, the connection ends once its streams have ended.
            endpoint_pool.open.retain_mut(|idle| {
                let busy = idle.connection.open_streams() > 0;
                if busy {
                    endpoint_pool.idle_since = now;
                }
                idle.connection.is_alive()
                    && stays
                    && idle.may_go_on(&plan.reuse, generation, now)
                    && (busy || !lain && !wanted)
            });
            !endpoint_pool.open.is_empty() || endpoint_pool.is_connecting()
        });
        !self.h1.is_empty() || !self.shared.borrow().is_empty()
    }
}
