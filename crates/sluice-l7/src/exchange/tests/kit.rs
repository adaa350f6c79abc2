//! An exchange without a socket: scripted client and endpoints, and a clock that only the test advances.
//!
//! Owns: a worker, and a request that is being served on it. Refuses to know: what a test is about. Keeps: nothing
//! happens by itself; the exchange is polled until it waits for the test.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use sluice_codec::scripted::{PeerEvent, ScriptedPeer, SentEvent};
use sluice_codec::{Head, HttpStream};
use sluice_core::connection::{ConnInfo, Peer, TlsFacts};
use sluice_core::{Clock, Limits, Moment, Reason};
use sluice_io::{Budget, Conn, WorkerCx};
use sluice_telemetry::{LogQueue, Registry};
use sluice_upstream::Cluster;

use crate::connection_manager::{ConnectionManager, DownstreamConn};
use crate::exchange::RequestTask;
use crate::plan::HttpPlan;
use crate::pools::ClusterPool;
use crate::pools::scripted::ScriptedConnect;
use crate::record::Summary;
use crate::routes::RuleOptions;

pub(super) mod filters;
mod hooks;
mod plan;

pub(crate) use hooks::Hooks;
pub(crate) use plan::plan;
pub(super) use plan::{cluster, cluster_at, cluster_over, configure, fill, strict};

/// What a rule has for the filter at a place in the chain; `None` skips it.
pub(crate) type OwnHooks = (usize, Option<Hooks>);

/// The names of filters, by their places in the chain.
pub(super) const NAMES: [&str; 5] = ["hooks", "second", "third", "fourth", "fifth"];

/// A worker with a clock that only the test advances, and its metrics.
fn worker(limits: Limits) -> (Rc<WorkerCx>, Registry) {
    let registry = Registry::new();
    let shard = registry.shard(1);
    let log = LogQueue::nowhere(&shard);
    let worker = WorkerCx::new(0, Clock::held(), shard, log, limits, &Budget::unlimited());
    (worker, registry)
}

/// Runs a test on a worker with real sockets, and a clock that only the test advances.
pub(crate) fn on_worker(test: impl AsyncFnOnce(Rc<WorkerCx>, Registry)) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
    runtime.unwrap().block_on(async {
        let (worker, registry) = worker(Limits::default());
        worker.spawn(Rc::clone(&worker.reactor).drive());
        test(worker, registry).await;
    });
}

/// How long a client may pause while sending its body.
pub(super) const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// One worker with one route and one cluster.
pub(super) struct Bench {
    pub(super) registry: Registry,
    pub(super) worker: Rc<WorkerCx>,
    pub(super) manager: Rc<ConnectionManager>,
    pub(super) pool: Rc<ClusterPool>,
    pub(super) cluster: Arc<Cluster>,
}

/// A request that is being served.
pub(super) struct Running<'a> {
    pub(super) bench: &'a Bench,
    pub(super) client: ScriptedPeer,
    serving: Pin<Box<dyn Future<Output = Ended>>>,
    woken: Arc<Woken>,
    ended: Option<Ended>,
}

/// The outcome of a request.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) summary: Summary,
}

#[derive(Debug, Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

/// Gives the next attempt in a pool a connection, new or `reused`.
pub(crate) fn connects(pool: &ClusterPool, reused: bool) -> ScriptedPeer {
    let endpoint = ScriptedPeer::default();
    let connect = ScriptedConnect::Stream(endpoint.stream(false), reused);
    pool.scripted.borrow_mut().push_back(connect);
    endpoint
}

/// Gives the next attempt in a pool a stream of a shared connection.
pub(super) fn opens(pool: &ClusterPool) -> ScriptedPeer {
    let endpoint = ScriptedPeer::default();
    let connect = ScriptedConnect::Stream(endpoint.stream(true), false);
    pool.scripted.borrow_mut().push_back(connect);
    endpoint
}

impl Bench {
    /// A worker whose only route has these options.
    pub(super) fn new(options: RuleOptions) -> Self {
        Self::with_filters(options, &[])
    }

    /// As [`Bench::new`], with these filters on the chain.
    pub(super) fn with_filters(options: RuleOptions, filters: &[Hooks]) -> Self {
        Self::with_limits(Limits::default(), options, filters)
    }

    /// As [`Bench::with_filters`], with these limits.
    pub(super) fn with_limits(limits: Limits, options: RuleOptions, filters: &[Hooks]) -> Self {
        Self::with_rules(limits, options, filters, &[])
    }

    /// As [`Bench::with_limits`], with these rules before the one for every path: each takes the requests below a path,
    /// and has settings of its own for some filters.
    pub(super) fn with_rules(
        limits: Limits,
        options: RuleOptions,
        filters: &[Hooks],
        rules: &[(&'static str, &[OwnHooks])],
    ) -> Self {
        let (plan, cluster) = plan(options, filters, rules);
        Self::of(limits, plan, cluster)
    }

    /// A worker that serves a chain whose requests go to this cluster.
    pub(super) fn of(limits: Limits, plan: HttpPlan, cluster: Arc<Cluster>) -> Self {
        let (worker, registry) = worker(limits);
        Self::on(worker, registry, plan, cluster)
    }

    /// As [`Bench::of`], on a worker that there is already: with [`on_worker`], one with sockets.
    pub(super) fn on(
        worker: Rc<WorkerCx>,
        registry: Registry,
        plan: HttpPlan,
        cluster: Arc<Cluster>,
    ) -> Self {
        let manager = ConnectionManager::new(plan, &worker);
        let pool = manager.shared.pools.to(&cluster, &worker);
        Self { registry, worker, manager, pool, cluster }
    }

    /// Gives the next attempt a connection, new or `reused`.
    pub(super) fn connects(&self, reused: bool) -> ScriptedPeer {
        connects(&self.pool, reused)
    }

    /// The pool of another cluster.
    pub(super) fn pool_of(&self, cluster: &Arc<Cluster>) -> Rc<ClusterPool> {
        self.manager.shared.pools.to(cluster, &self.worker)
    }

    /// Makes the next attempt fail to connect.
    pub(super) fn fails_to_connect(&self, why: Reason) {
        self.pool.scripted.borrow_mut().push_back(ScriptedConnect::Fails(why));
    }

    /// Makes the next attempt wait for a connection forever.
    pub(super) fn never_connects(&self) {
        self.pool.scripted.borrow_mut().push_back(ScriptedConnect::Never);
    }

    /// The bytes of the future that serves a request.
    pub(super) fn future_size(&self) -> usize {
        let peer = Peer::Ip(([198, 51, 100, 7], 4711).into());
        let info = ConnInfo::new(1, "web".into(), peer, peer, self.worker.now());
        let downstream = DownstreamConn::new(Conn::enter(&self.worker, info), Moment::NEVER);
        let stream = HttpStream::Scripted(Box::new(ScriptedPeer::client(true).stream(false)));
        let manager = Rc::clone(&self.manager);
        let request = Box::new(get());
        size_of_val(&super::super::run(super::super::Exchange {
            manager,
            downstream,
            stream,
            request,
            timer: None,
            charge: None,
        }))
    }

    /// Serves a request until it ends or waits for something.
    pub(super) fn serve(&self, request: Head, whole: bool) -> Running<'_> {
        self.serve_after(request, whole, |_, _| {})
    }

    /// As [`Bench::serve`], with something known about the connection or the client.
    pub(super) fn serve_after(
        &self,
        request: Head,
        whole: bool,
        prepare: impl FnOnce(&Conn, &ScriptedPeer),
    ) -> Running<'_> {
        let peer = Peer::Ip(([198, 51, 100, 7], 4711).into());
        let info = ConnInfo::new(1, "web".into(), peer, peer, self.worker.now());
        let conn = Conn::enter(&self.worker, info);
        let client = ScriptedPeer::client(whole);
        prepare(&conn, &client);
        let downstream = DownstreamConn::new(conn, Moment::NEVER);
        let mut stream = HttpStream::Scripted(Box::new(client.stream(false)));
        let manager = Rc::clone(&self.manager);
        let mut task = RequestTask::begin(manager, downstream, Box::new(request), None, &stream);
        let serving = Box::pin(async move {
            task.serve(&mut stream).await;
            Ended { summary: task.summary.clone() }
        });
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        let mut running = Running { bench: self, client, serving, woken, ended: None };
        running.go_on();
        running
    }
}

impl Running<'_> {
    /// Polls the exchange until it waits for something.
    pub(super) fn go_on(&mut self) -> &mut Self {
        let waker = Waker::from(Arc::clone(&self.woken));
        while self.ended.is_none() && self.woken.0.swap(false, SeqCst) {
            if let Poll::Ready(ended) = self.serving.as_mut().poll(&mut Context::from_waker(&waker))
            {
                self.ended = Some(ended);
            }
        }
        self
    }

    /// Lets threads and sockets do their part until this holds, or the request has ended.
    pub(super) async fn until(&mut self, what: &str, holds: impl Fn() -> bool) -> &mut Self {
        for _ in 0..10_000_000 {
            if self.go_on().ended.is_some() || holds() {
                return self;
            }
            tokio::task::yield_now().await;
        }
        panic!("it did not go on: {what}");
    }

    /// Lets a peer do something, and the exchange react.
    pub(super) fn after(&mut self, peer: &ScriptedPeer, event: PeerEvent) -> &mut Self {
        peer.does(event);
        self.go_on()
    }

    /// Lets the client do something, and the exchange react.
    pub(super) fn client_does(&mut self, event: PeerEvent) -> &mut Self {
        self.client.does(event);
        self.go_on()
    }

    /// Lets time pass.
    pub(super) fn pass(&mut self, time: Duration) -> &mut Self {
        self.bench.worker.clock.advance(time);
        self.bench.worker.timers.expire();
        self.go_on()
    }

    /// The last head that the client received.
    pub(super) fn last_head(&self) -> Option<String> {
        let heads = self.client.sent().into_iter().filter_map(|sent| match sent {
            SentEvent::Head(text, _) => Some(text),
            _ => None,
        });
        heads.last()
    }

    /// A header of it.
    pub(super) fn header(&self, name: &str) -> Option<String> {
        header_in(&self.last_head()?, name)
    }

    /// Whether the exchange waits for something.
    pub(super) const fn is_waiting(&self) -> bool {
        self.ended.is_none()
    }

    /// The outcome of the request.
    #[track_caller]
    pub(super) fn ended(&self) -> &Summary {
        &self.ended.as_ref().expect("the exchange has ended").summary
    }

    /// The statuses that the client received, informational ones included.
    pub(super) fn statuses(&self) -> Vec<u16> {
        let heads = self.client.sent().into_iter().filter_map(|sent| match sent {
            SentEvent::Head(text, _) => text.lines().next().and_then(|line| line.parse().ok()),
            _ => None,
        });
        heads.collect()
    }

    /// Checks the status and reason of the ended request.
    #[track_caller]
    pub(super) fn check(&self, status: u16, reason: Reason) {
        let summary = self.ended();
        let found = (summary.status, summary.reason.map(Reason::code));
        assert_eq!(found, (status, Some(reason.code())), "{summary:?}");
    }

    /// Checks the reasons of the attempts, in order; `None` for one that delivered a response.
    #[track_caller]
    pub(super) fn check_attempts(&self, expected: &[Option<Reason>]) {
        let attempts =
            self.ended().attempts.iter().map(|attempt| attempt.failure.map(|(why, _)| why.code()));
        let expected = expected.iter().map(|reason| reason.map(Reason::code));
        assert_eq!(attempts.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    }
}

/// A GET without a body.
pub(super) fn get() -> Head {
    Head::request("GET", "http", "app.test", "/")
}

/// A POST whose body follows in pieces.
pub(super) fn post() -> Head {
    Head::request("POST", "http", "app.test", "/")
}

/// A response head; `last` if no body follows.
pub(crate) fn response(status: u16, last: bool) -> PeerEvent {
    PeerEvent::Head(Head::response(status), last)
}

/// A piece of a body.
pub(crate) fn data(text: &'static str, last: bool) -> PeerEvent {
    PeerEvent::Data(Bytes::from_static(text.as_bytes()), last)
}

/// The headers of the first message that a peer was sent.
#[track_caller]
pub(super) fn head_sent_to(peer: &ScriptedPeer) -> String {
    match &peer.sent()[..] {
        [SentEvent::Head(text, _), ..] => text.clone(),
        sent => panic!("no head was sent: {sent:?}"),
    }
}

/// A header in a head that was sent.
pub(super) fn header_in(head: &str, name: &str) -> Option<String> {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned);
    head.lines().find_map(value)
}

/// TLS as the client and the listener agreed on it.
pub(crate) fn tls_facts(alpn: Option<&[u8]>) -> Box<TlsFacts> {
    let (version, cipher) = ("1.3", "TLS_AES_128_GCM_SHA256");
    let alpn = alpn.map(Into::into);
    Box::new(TlsFacts { version, cipher, alpn, client: None, resumed: false, early: false })
}

/// Whether the stream to a peer was reset.
pub(crate) fn is_reset(peer: &ScriptedPeer) -> bool {
    peer.sent().iter().any(|sent| matches!(sent, SentEvent::Reset(_)))
}
