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

use sluice_codec::Multiplexed;
use sluice_codec::h1::stream::H1Options;
use sluice_codec::h1::{H1Stream, Role};
use sluice_codec::h2::{ENDPOINT_FIELDS_MAX, H2Client, H2Options};
use sluice_codec::quic::QuicClients;
use sluice_core::{Moment, Name};
use sluice_io::timers::Timer;
use sluice_io::{Stream, WorkerCx};
use sluice_upstream::cluster::{BreakerLimit, Claim, TrafficClass, WorkerShare};
use sluice_upstream::connector::{ConnectFailure, reach};
use sluice_upstream::hops::HopTransport;
use sluice_upstream::plan::{BreakerClass, Http2Plan, HttpVersion};
use sluice_upstream::pool::Idle;
use sluice_upstream::{Cluster, ClusterHandle, EndpointState, LeftEndpoints, Pool, Preface};
use tokio::sync::Notify;

pub mod counters;
mod retry_budget;
#[cfg(test)]
pub(crate) mod scripted;
mod shared;
#[cfg(test)]
mod tests;
mod tunnel;

use counters::PoolCounters;
pub(crate) use retry_budget::InFlightGuard;
use retry_budget::WaitingRequest;
use shared::{Connecting, EndpointPool};

/// How often idle connections are swept.
const SWEEP: Duration = Duration::from_secs(1);

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
                let left = all.iter().filter(|pool| pool.sweep(&worker)).count();
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

/// A connection taken for a request.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "the larger is by far the more frequent, and is not kept"
)]
pub enum PooledConn {
    /// A whole HTTP/1 connection.
    H1(TakenH1),
    /// A shared connection with room for another request.
    Shared(Multiplexed),
    /// A stream without a connection; `true` if the connection carried requests before.
    #[cfg(test)]
    Scripted(sluice_codec::scripted::ScriptedStream, bool),
}

/// An HTTP/1 connection, with what must go back with it.
#[derive(Debug)]
pub struct TakenH1 {
    /// The connection.
    pub stream: Box<H1Stream>,
    ticket: PoolTicket,
}

/// What belongs to an HTTP/1 connection while it is in use.
#[derive(Debug)]
pub struct PoolTicket {
    claim: Claim,
    made: Moment,
    requests: u64,
    generation: u64,
}

impl TakenH1 {
    /// Splits into the connection and what must go back with it.
    pub fn into_parts(self) -> (Box<H1Stream>, PoolTicket) {
        (self.stream, self.ticket)
    }

    /// Whether the connection carried requests before.
    pub const fn is_reused(&self) -> bool {
        self.ticket.requests > 0
    }
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
            pools: Rc::downgrade(pools),
            #[cfg(test)]
            scripted: RefCell::default(),
        })
    }

    /// Takes a connection to `endpoint`: an existing one, or else a new one. Waiting for a connection that others use
    /// or make is bounded by `connect_timeout`, and so is making one. Only a failure to make a connection counts
    /// against the endpoint, and only once, however many requests wait for it.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn take(
        self: &Rc<Self>,
        worker: &Rc<WorkerCx>,
        endpoint: &Arc<EndpointState>,
        class: TrafficClass,
        options: &Rc<H1Options>,
    ) -> Result<PooledConn, ConnectFailure> {
        let timeout = self.handle.cluster.peek_plan().connect_timeout;
        let by = worker.now().after(timeout);
        #[cfg(test)]
        self.fail_as_scripted(worker, endpoint).await?;
        loop {
            if let Some(pooled) = self.take_idle(worker, endpoint, class, options) {
                self.counters.reused.increment();
                return Ok(pooled);
            }
            if let Some(connecting) = self.connecting(endpoint) {
                let made = Timer::new(&worker.timers).until(by, connecting.notified()).await;
                made.map_err(|_| ConnectFailure::connect_timeout(timeout))?;
                continue;
            }
            match self.handle.claim_shared(class, endpoint) {
                Ok(claim) => return self.make_in_time(worker, endpoint, options, claim).await,
                // If no other connection may be made, one with stalled streams is better than none.
                Err(_)
                    if let Some(connection) =
                        self.take_shared(worker.now(), endpoint, class, |_| false) =>
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

    /// Makes a connection within `connect_timeout`.
    async fn make_in_time(
        self: &Rc<Self>,
        worker: &Rc<WorkerCx>,
        endpoint: &Arc<EndpointState>,
        options: &Rc<H1Options>,
        claim: Claim,
    ) -> Result<PooledConn, ConnectFailure> {
        let timeout = self.handle.cluster.peek_plan().connect_timeout;
        let by = worker.now().after(timeout);
        let connecting = self.make(worker, endpoint, options, claim);
        let made = Timer::new(&worker.timers).until(by, connecting).await;
        made.unwrap_or_else(|_| Err(ConnectFailure::connect_timeout(timeout)))
            .inspect_err(|failure| self.handle.note_failure(worker, endpoint, failure.why))
    }

    /// The most requests that may wait for a connection.
    fn pending_max(&self) -> u64 {
        self.handle.cluster.peek_plan().pending_of(self.handle.class)
    }

    /// The failure when no connection may be made and enough requests wait for an existing one.
    fn full(&self, why: sluice_core::Reason) -> ConnectFailure {
        let pending = self.pending_max();
        let shortage = self.handle.shortage(why).unwrap_or_default();
        let limit = BreakerLimit::Pending.word(self.handle.class);
        let detail =
            format!("{shortage}, and at most {pending} requests may wait (`limits.{limit}`)");
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
        // Another worker may also give up a connection, without notifying this one.
        tokio::select! {
            () = self.freed.notified() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
        drop(waiting);
        Ok(())
    }

    /// Takes an existing connection, if one is usable.
    pub(crate) fn take_idle(
        &self,
        worker: &WorkerCx,
        endpoint: &Arc<EndpointState>,
        class: TrafficClass,
        options: &Rc<H1Options>,
    ) -> Option<PooledConn> {
        #[cfg(test)]
        if let Some(pooled) = self.take_scripted() {
            return Some(pooled);
        }
        let now = worker.now();
        let plan = self.handle.cluster.peek_plan();
        if plan.protocol != HttpVersion::Http1
            && let Some(connection) =
                self.take_shared(now, endpoint, class, Multiplexed::is_stalled)
        {
            return Some(PooledConn::Shared(connection));
        }
        if matches!(plan.protocol, HttpVersion::Http2 | HttpVersion::Http3) {
            return None;
        }
        let idle = self.h1.take(endpoint, now, |pooled| pooled.stream.is_quiet(worker))?;
        let Idle { connection: IdleH1 { mut stream, claim }, made, requests, generation, .. } =
            idle;
        stream.set_options(options);
        let ticket = PoolTicket { claim, made, requests, generation };
        Some(PooledConn::H1(TakenH1 { stream, ticket }))
    }

    async fn make(
        self: &Rc<Self>,
        worker: &Rc<WorkerCx>,
        endpoint: &Arc<EndpointState>,
        options: &Rc<H1Options>,
        claim: Claim,
    ) -> Result<PooledConn, ConnectFailure> {
        let plan = self.handle.cluster.plan();
        let generation = self.handle.cluster.generation();
        let started = worker.now();
        // If TLS decides, it is only known afterwards whether the connection is shared; then no request waits for it.
        let shares = matches!(plan.protocol, HttpVersion::Http2 | HttpVersion::Http3);
        let connecting = shares.then(|| Connecting::begin(self, endpoint, started));
        let connection = if plan.protocol == HttpVersion::Http3 {
            Multiplexed::H3(self.quic.reach(&plan, endpoint, worker, claim).await?)
        } else {
            let stream = reach(&plan, endpoint, worker, &Preface::default()).await?;
            endpoint.note_local(HopTransport::Stream, || stream.raw().local_address()?.ip().into());
            let shared = shares || (plan.protocol == HttpVersion::Auto && agreed_on_h2(&stream));
            if !shared {
                self.handle.note_connected(worker, endpoint, started);
                let stream = H1Stream::new(stream, Role::Client, Rc::clone(options));
                let ticket = PoolTicket { claim, made: worker.now(), requests: 0, generation };
                return Ok(PooledConn::H1(TakenH1 { stream, ticket }));
            }
            let streams = u32::try_from(plan.reuse.streams_max).unwrap_or(u32::MAX);
            let Http2Plan { stream_window, connection_window, ping_interval, ping_timeout } =
                plan.http2;
            let all = || H2Options::window_of(streams, stream_window);
            let h2_options = H2Options {
                stream_window,
                connection_window: connection_window.unwrap_or_else(all),
                ping_interval,
                ping_timeout,
                head_fields: ENDPOINT_FIELDS_MAX,
                ..H2Options::default()
            };
            Multiplexed::H2(H2Client::begin(stream, worker, &h2_options, claim))
        };
        // Only now: an endpoint that accepts connections but fails every handshake has failed.
        self.handle.note_connected(worker, endpoint, started);
        let made = worker.now();
        let mut idle = Idle::new(connection.clone(), made, generation);
        idle.requests = 1;
        self.shared
            .borrow_mut()
            .entry(Arc::clone(&endpoint.name))
            .or_insert_with(|| EndpointPool::new(endpoint, made))
            .open
            .push(idle);
        drop(connecting);
        self.sweep_soon(worker);
        Ok(PooledConn::Shared(connection))
    }

    /// Takes an HTTP/1 connection back after a request; closes it unless it may be reused.
    pub fn give_back(
        &self,
        worker: &Rc<WorkerCx>,
        endpoint: &Arc<EndpointState>,
        mut stream: Box<H1Stream>,
        ticket: PoolTicket,
    ) {
        if stream.next_exchange() {
            let PoolTicket { claim, made, requests, generation } = ticket;
            let mut idle = Idle::new(IdleH1 { stream, claim }, made, generation);
            idle.requests = requests + 1;
            self.h1.give(endpoint, idle, worker.now());
            self.sweep_soon(worker);
        }
        self.freed.notify_one();
    }

    fn sweep_soon(&self, worker: &Rc<WorkerCx>) {
        if let Some(pools) = self.pools.upgrade() {
            pools.sweep_soon(worker);
        }
    }

    /// Closes connections that are dead, too old, idle for too long, or to endpoints that left; returns whether any
    /// remain.
    fn sweep(&self, worker: &WorkerCx) -> bool {
        let now = worker.now();
        self.h1.sweep(now, |pooled| pooled.stream.is_quiet(worker));
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
                    && (busy || !lain)
            });
            !endpoint_pool.open.is_empty() || endpoint_pool.connecting.is_some()
        });
        !self.h1.is_empty() || !self.shared.borrow().is_empty()
    }
}

/// Whether TLS (ALPN) agreed on HTTP/2.
fn agreed_on_h2(stream: &Stream) -> bool {
    match stream {
        Stream::Raw(_) => false,
        Stream::Tls(tls) => tls.facts().alpn.as_deref() == Some(b"h2"),
    }
}
