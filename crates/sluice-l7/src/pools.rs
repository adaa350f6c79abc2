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
use sluice_core::limits::Limit;
use sluice_core::{Moment, Name};
use sluice_io::timers::Timer;
use sluice_io::{Stream, WorkerCx};
use sluice_telemetry::metrics::other;
use sluice_telemetry::{Counter, CounterSet, Histogram, SeriesSet};
use sluice_upstream::cluster::Claim;
use sluice_upstream::connector::{ConnectFailure, reach};
use sluice_upstream::hops::HopTransport;
use sluice_upstream::plan::HttpVersion;
use sluice_upstream::pool::Idle;
use sluice_upstream::{Cluster, ClusterHandle, EndpointState, Pool, Preface};
use tokio::sync::Notify;

use crate::metrics;

/// How often idle connections are swept.
const SWEEP: Duration = Duration::from_secs(1);

/// How often a wait for a connection checks whether another worker has given one up.
const LOOK: Duration = Duration::from_millis(20);

/// The connection pools of a worker, by cluster.
#[derive(Debug, Default)]
pub struct ClusterPools {
    clusters: RefCell<HashMap<Name, Rc<ClusterPool>, foldhash::fast::RandomState>>,
    quic: Rc<QuicClients>,
    sweeping: Cell<bool>,
}

impl ClusterPools {
    /// Returns the pool of a cluster; creates it if there is none.
    pub fn to(self: &Rc<Self>, cluster: &Arc<Cluster>, worker: &Rc<WorkerCx>) -> Rc<ClusterPool> {
        if let Some(pool) = self.clusters.borrow().get(&cluster.name)
            && Arc::ptr_eq(&pool.handle.cluster, cluster)
        {
            return Rc::clone(pool);
        }
        let pool = ClusterPool::new(Arc::clone(cluster), worker, self);
        self.clusters.borrow_mut().insert(Arc::clone(&cluster.name), Rc::clone(&pool));
        pool
    }

    /// Drops the pools of clusters that `lives` does not accept; connections in use stay until they are done.
    pub fn keep_only(&self, lives: impl Fn(&Name) -> bool) {
        self.clusters.borrow_mut().retain(|name, _| lives(name));
    }

    /// Drops the metrics of endpoints that left `cluster`.
    pub fn forget_endpoints(&self, cluster: &Name, left: &[Arc<str>]) {
        if let Some(pool) = self.clusters.borrow().get(cluster) {
            pool.counters.endpoints.retain(|endpoint| !left.contains(endpoint));
            pool.handle.forget_endpoints(left);
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
                let pool: Vec<Rc<ClusterPool>> =
                    pools.clusters.borrow().values().cloned().collect();
                let left = pool.iter().filter(|pool| pool.sweep(&worker)).count();
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
    waiting: Cell<u64>,
    requests: Cell<u64>,
    retries: Cell<u64>,
    pub(crate) counters: PoolCounters,
    pools: Weak<ClusterPools>,
    /// What attempts get instead of connections, in tests.
    #[cfg(test)]
    pub(crate) scripted: RefCell<std::collections::VecDeque<ScriptedConnect>>,
}

/// What becomes of an attempt to connect, in a test.
#[cfg(test)]
#[derive(Debug)]
pub(crate) enum ScriptedConnect {
    /// There is a connection; `true` if it carried requests before.
    Stream(sluice_codec::scripted::ScriptedStream, bool),
    /// It fails, and the endpoint is to blame.
    Fails(sluice_core::Reason),
    /// It takes forever.
    Never,
}

/// The request counters of a cluster.
#[derive(Debug)]
pub(crate) struct PoolCounters {
    pub(crate) reused: Counter,
    time: Histogram,
    pub(crate) retried: Counter,
    pub(crate) retry_refused: Counter,
    classes: CounterSet<u16>,
    /// By endpoint name; endpoints beyond the limit share `other`.
    endpoints: SeriesSet<Arc<str>, EndpointCounters>,
}

/// The request counters of one endpoint.
#[derive(Debug)]
struct EndpointCounters {
    /// The value of its label.
    name: Arc<str>,
    time: Histogram,
    classes: CounterSet<u16>,
}

#[derive(Debug)]
struct IdleH1 {
    stream: Box<H1Stream>,
    claim: Claim,
}

/// Connections to one endpoint that many requests share.
#[derive(Debug)]
struct EndpointPool {
    endpoint: Arc<EndpointState>,
    open: Vec<Idle<Multiplexed>>,
    /// Set while a connection is being made; notified when that ends.
    connecting: Option<Rc<Notify>>,
    idle_since: Moment,
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
    fn new(cluster: Arc<Cluster>, worker: &Rc<WorkerCx>, pools: &Rc<ClusterPools>) -> Rc<Self> {
        let quic = Rc::clone(&pools.quic);
        let name = &*Arc::clone(&cluster.name);
        let shard = &worker.shard;
        Rc::new(Self {
            counters: PoolCounters {
                reused: shard.counter(&metrics::POOLED, &[name]),
                time: shard.histogram(&metrics::CLUSTER_TIME, &[name]),
                retried: shard.counter(&metrics::RETRIES, &[name, "made"]),
                retry_refused: shard.counter(&metrics::RETRIES, &[name, "limit"]),
                classes: CounterSet::default(),
                endpoints: SeriesSet::bounded(worker.limits.size(Limit::EndpointSeries), |_| {
                    other()
                }),
            },
            handle: ClusterHandle::new(Arc::clone(&cluster), worker),
            h1: Pool::new(cluster),
            shared: RefCell::default(),
            quic,
            freed: Notify::new(),
            waiting: Cell::new(0),
            requests: Cell::new(0),
            retries: Cell::new(0),
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
        options: &Rc<H1Options>,
    ) -> Result<PooledConn, ConnectFailure> {
        let timeout = self.handle.cluster.peek_plan().connect_timeout;
        let by = worker.now().after(timeout);
        #[cfg(test)]
        self.fail_as_scripted(worker, endpoint).await?;
        loop {
            if let Some(pooled) = self.take_idle(worker, endpoint, options) {
                self.counters.reused.increment();
                return Ok(pooled);
            }
            if let Some(connecting) = self.connecting(endpoint) {
                let made = Timer::new(&worker.timers).until(by, connecting.notified()).await;
                made.map_err(|_| ConnectFailure::connect_timeout(timeout))?;
                continue;
            }
            match self.handle.claim_shared(endpoint) {
                Ok(claim) => return self.make_in_time(worker, endpoint, options, claim).await,
                // If no other connection may be made, one with stalled streams is better than none.
                Err(_)
                    if let Some(connection) =
                        self.take_shared(worker.now(), endpoint, |_| false) =>
                {
                    self.counters.reused.increment();
                    return Ok(PooledConn::Shared(connection));
                }
                Err(why) if worker.now() >= by => return Err(self.full(why)),
                Err(why) => self.wait_for_room(why).await?,
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

    /// The failure when no connection may be made and enough requests wait for an existing one.
    fn full(&self, why: sluice_core::Reason) -> ConnectFailure {
        let pending = self.handle.cluster.peek_plan().pending_max;
        let shortage = self.handle.cluster.shortage(why).unwrap_or_default();
        let detail =
            format!("{shortage}, and at most {pending} requests may wait (`limits.pending`)");
        ConnectFailure { why, errno: None, detail: Some(detail) }
    }

    /// Waits until a connection may be free; fails if enough requests wait already.
    async fn wait_for_room(&self, why: sluice_core::Reason) -> Result<(), ConnectFailure> {
        if self.waiting.get() >= self.handle.cluster.peek_plan().pending_max {
            return Err(self.full(why));
        }
        let waiting = Count::enter(&self.waiting);
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
        options: &Rc<H1Options>,
    ) -> Option<PooledConn> {
        #[cfg(test)]
        if let Some(pooled) = self.take_scripted() {
            return Some(pooled);
        }
        let now = worker.now();
        let plan = self.handle.cluster.peek_plan();
        if plan.protocol != HttpVersion::Http1
            && let Some(connection) = self.take_shared(now, endpoint, Multiplexed::is_stalled)
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

    /// Takes a shared connection that has room for another request and is not `avoided`.
    fn take_shared(
        &self,
        now: Moment,
        endpoint: &Arc<EndpointState>,
        avoided: impl Fn(&Multiplexed) -> bool,
    ) -> Option<Multiplexed> {
        let reuse = &self.handle.cluster.peek_plan().reuse;
        let generation = self.handle.cluster.generation();
        let mut endpoint_pools = self.shared.borrow_mut();
        let endpoint_pool = endpoint_pools.get_mut(&endpoint.name)?;
        endpoint_pool.idle_since = now;
        let idle = endpoint_pool.open.iter_mut().find_map(|idle| {
            let fits = idle.may_go_on(reuse, generation, now)
                && idle.connection.has_room(reuse.streams_max)
                && !avoided(&idle.connection);
            fits.then_some(idle)
        })?;
        idle.requests += 1;
        Some(idle.connection.clone())
    }

    fn connecting(&self, endpoint: &Arc<EndpointState>) -> Option<Rc<Notify>> {
        self.shared.borrow().get(&endpoint.name)?.connecting.clone()
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
            let mut h2_options = H2Options {
                ping_interval: Some(PING),
                head_fields: ENDPOINT_FIELDS_MAX,
                ..H2Options::default()
            };
            let streams = u32::try_from(plan.reuse.streams_max).unwrap_or(u32::MAX);
            h2_options.connection_window = H2Options::window_of(streams, h2_options.stream_window);
            let client = H2Client::handshake(stream, worker, &h2_options, claim).await;
            Multiplexed::H2(client.map_err(|error| ConnectFailure {
                why: crate::reasons::UPSTREAM_PROTOCOL,
                errno: None,
                detail: Some(error.to_string()),
            })?)
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

    /// Counts a request in flight.
    pub(crate) fn enter_request(self: &Rc<Self>) -> InFlightGuard {
        self.requests.set(self.requests.get() + 1);
        InFlightGuard { pool: Rc::clone(self), retry: false }
    }

    /// Counts a retry in flight, unless the limit on retries is reached.
    pub(crate) fn enter_retry(self: &Rc<Self>) -> Option<InFlightGuard> {
        // The limit, or a fifth of the requests in flight if that is more.
        let max = self.handle.cluster.peek_plan().retries_max.max(self.requests.get() / 5);
        if self.retries.get() >= max {
            self.counters.retry_refused.increment();
            return None;
        }
        self.counters.retried.increment();
        self.retries.set(self.retries.get() + 1);
        Some(InFlightGuard { pool: Rc::clone(self), retry: true })
    }
}

#[cfg(test)]
impl ClusterPool {
    fn take_scripted(&self) -> Option<PooledConn> {
        let mut scripted = self.scripted.borrow_mut();
        match scripted.pop_front()? {
            ScriptedConnect::Stream(stream, reused) => Some(PooledConn::Scripted(stream, reused)),
            failure => {
                scripted.push_front(failure);
                None
            }
        }
    }

    async fn fail_as_scripted(
        &self,
        worker: &WorkerCx,
        endpoint: &Arc<EndpointState>,
    ) -> Result<(), ConnectFailure> {
        let next = self.scripted.borrow_mut().pop_front();
        match next {
            Some(ScriptedConnect::Fails(why)) => {
                self.handle.note_failure(worker, endpoint, why);
                Err(ConnectFailure { why, errno: None, detail: None })
            }
            Some(ScriptedConnect::Never) => std::future::pending().await,
            Some(ScriptedConnect::Stream(..)) | None => panic!("nothing is scripted to fail here"),
        }
    }
}

impl PoolCounters {
    /// Counts a response of an endpoint by its class (0 is none), and the time to its headers.
    pub(crate) fn count(
        &self,
        worker: &WorkerCx,
        cluster: &str,
        endpoint: &Arc<str>,
        status: u16,
        took: Option<Duration>,
    ) {
        let (shard, class) = (&worker.shard, status / 100);
        self.classes.count(&class, |class| {
            shard.counter(&metrics::CLUSTER_REQUESTS, &[cluster, class_word(*class)])
        });
        if let Some(took) = took {
            self.time.record(took);
        }
        let counters = |endpoint: &Arc<str>| EndpointCounters {
            name: Arc::clone(endpoint),
            time: shard.histogram(&metrics::ENDPOINT_TIME, &[cluster, endpoint]),
            classes: CounterSet::default(),
        };
        self.endpoints.with(endpoint, counters, |counters| {
            counters.classes.count(&class, |class| {
                let labels = [cluster, &counters.name, class_word(*class)];
                shard.counter(&metrics::ENDPOINT_REQUESTS, &labels)
            });
            if let Some(took) = took {
                counters.time.record(took);
            }
        });
    }
}

/// The label of a class of statuses.
pub(crate) const fn class_word(class: u16) -> &'static str {
    match class {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        5 => "5xx",
        _ => "none",
    }
}

/// Time between pings to a silent endpoint.
const PING: Duration = Duration::from_secs(30);

/// Whether TLS (ALPN) agreed on HTTP/2.
fn agreed_on_h2(stream: &Stream) -> bool {
    match stream {
        Stream::Raw(_) => false,
        Stream::Tls(tls) => tls.facts().alpn.as_deref() == Some(b"h2"),
    }
}

impl EndpointPool {
    fn new(endpoint: &Arc<EndpointState>, now: Moment) -> Self {
        Self { endpoint: Arc::clone(endpoint), open: Vec::new(), connecting: None, idle_since: now }
    }
}

/// A shared connection that is being made; waiting requests are notified when that succeeds or fails.
struct Connecting {
    pool: Rc<ClusterPool>,
    endpoint: Arc<str>,
    told: Rc<Notify>,
}

impl Connecting {
    fn begin(pool: &Rc<ClusterPool>, endpoint: &Arc<EndpointState>, now: Moment) -> Self {
        let told = Rc::new(Notify::new());
        let mut endpoint_pools = pool.shared.borrow_mut();
        let endpoint_pool = endpoint_pools
            .entry(Arc::clone(&endpoint.name))
            .or_insert_with(|| EndpointPool::new(endpoint, now));
        endpoint_pool.connecting = Some(Rc::clone(&told));
        Self { pool: Rc::clone(pool), endpoint: Arc::clone(&endpoint.name), told }
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        if let Some(endpoint_pool) = self.pool.shared.borrow_mut().get_mut(&self.endpoint) {
            endpoint_pool.connecting = None;
        }
        self.told.notify_waiters();
    }
}

/// A request or retry in flight; uncounted on drop.
#[derive(Debug)]
pub(crate) struct InFlightGuard {
    pool: Rc<ClusterPool>,
    retry: bool,
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        let count = if self.retry { &self.pool.retries } else { &self.pool.requests };
        count.set(count.get() - 1);
    }
}

/// Counts one more, as long as it lives.
struct Count<'a>(&'a Cell<u64>);

impl<'a> Count<'a> {
    fn enter(count: &'a Cell<u64>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
