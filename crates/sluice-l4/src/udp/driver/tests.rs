//! Flows between sockets of this machine, on a clock that only the test advances.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sluice_core::connection::Peer;
use sluice_core::reason::end;
use sluice_core::{Clock, Limits, Verdict};
use sluice_io::{Admit, Budget, ConnectionFilter, ConnectionFilterPlan};
use sluice_telemetry::{LogQueue, Registry};
use sluice_upstream::cluster::Member;
use sluice_upstream::plan::{ClusterPlan, ClusterSettings};
use sluice_upstream::{Cluster, Target};
use tokio::sync::watch;

use super::*;
use crate::select::{ChainTable, Criteria};
use crate::split::WeightedCluster;
use crate::udp::flow_table::SPARE;
use crate::udp::{FlowChainPlan, UdpPlan};

/// The idle timeout of the flows, and that of flows without a reply.
const IDLE: Duration = Duration::from_secs(60);
const UNANSWERED: Duration = Duration::from_secs(10);

/// The smallest flow table that may be configured.
const FLOWS_MAX: u16 = 16;

/// A socket of a client or of an endpoint.
struct End(UdpSocket);

impl End {
    fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        Self(socket)
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    fn send(&self, data: &[u8], to: SocketAddr) {
        self.0.send_to(data, to).unwrap();
    }

    /// The next datagram and its sender.
    async fn receive(&self) -> (Vec<u8>, SocketAddr) {
        let mut data = [0; 100];
        let received = async || self.0.recv_from(&mut data).ok();
        let (count, from) = until("a datagram", received).await;
        (data[..count].to_vec(), from)
    }
}

/// Lets everything react until there is a result.
async fn until<T>(what: &str, mut result: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..1_000_000 {
        if let Some(result) = result().await {
            return result;
        }
        tokio::task::yield_now().await;
    }
    panic!("{what} did not come");
}

/// A listener whose flows go to one endpoint.
struct Bench {
    worker: Rc<WorkerCx>,
    registry: Registry,
    slot: Rc<UdpSlot>,
    endpoint: End,
}

impl Bench {
    fn value(&self, name: &str, labels: &[&str]) -> i64 {
        self.registry.value(name, labels).unwrap_or_default()
    }

    fn datagrams(&self, result: &str) -> i64 {
        self.value(metrics::DATAGRAMS.name, &["l", result])
    }

    fn ended(&self, why: Reason) -> i64 {
        self.value(metrics::FLOW_ENDED.name, &["l", why.code()])
    }

    async fn until_ended(&self, why: Reason, count: i64) {
        until(why.code(), async || (self.ended(why) >= count).then_some(())).await;
        assert_eq!(self.ended(why), count, "{why}");
        let active = i64::try_from(self.slot.flow_count()).unwrap();
        assert_eq!(self.value(metrics::FLOWS_ACTIVE.name, &["l"]), active);
    }

    /// Lets time pass.
    fn pass(&self, time: Duration) {
        self.worker.clock.advance(time);
        self.worker.timers.expire();
    }

    /// Sends a datagram; returns it as the endpoint receives it, with the address to reply to.
    async fn begins(&self, client: &End, data: &[u8]) -> SocketAddr {
        client.send(data, self.slot.local);
        let (received, from) = self.endpoint.receive().await;
        assert_eq!(received, data);
        from
    }

    /// Exchanges a datagram and its reply.
    async fn exchanges(&self, client: &End) -> SocketAddr {
        let flow = self.begins(client, b"question").await;
        self.endpoint.send(b"answer", flow);
        assert_eq!(client.receive().await, (b"answer".to_vec(), self.slot.local));
        flow
    }
}

/// A filter that decides when the test does.
#[derive(Clone, Debug)]
struct Gate {
    decision: Arc<watch::Sender<Option<Verdict>>>,
    /// Flows that were admitted and have ended.
    ended: Arc<AtomicUsize>,
}

impl Gate {
    fn new() -> Self {
        Self { decision: Arc::new(watch::Sender::new(None)), ended: Arc::default() }
    }

    fn decide(&self, verdict: Verdict) {
        self.decision.send_replace(Some(verdict));
    }

    fn ended(&self) -> usize {
        self.ended.load(Ordering::Relaxed)
    }
}

impl ConnectionFilterPlan for Gate {
    fn on_worker(&self, _worker: &Rc<WorkerCx>, _owner: &str) -> Rc<dyn ConnectionFilter> {
        Rc::new(self.clone())
    }
}

impl ConnectionFilter for Gate {
    fn admit(&self, _conn: &ConnInfo) -> Admit {
        let mut decision = self.decision.subscribe();
        Admit::wait(async move {
            let verdict = decision.wait_for(Option::is_some).await.unwrap().unwrap();
            move |_: &ConnInfo| verdict
        })
    }

    fn ended(&self, _conn: &ConnInfo) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }
}

fn on_bench(responses: Option<u32>, test: impl AsyncFnOnce(Bench)) {
    on_guarded_bench(responses, &[], test);
}

/// As [`on_bench`], with the first gate on the listener and the others on its chain.
fn on_guarded_bench(responses: Option<u32>, gates: &[Gate], test: impl AsyncFnOnce(Bench)) {
    let (of_listener, of_chain) = gates.split_at(gates.len().min(1));
    let filters = |gates: &[Gate]| -> Vec<Arc<dyn ConnectionFilterPlan>> {
        gates.iter().map(|gate| Arc::new(gate.clone()) as _).collect()
    };
    let (of_listener, of_chain) = (filters(of_listener), filters(of_chain));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
    runtime.unwrap().block_on(async {
        let registry = Registry::new();
        let shard = registry.shard(1);
        let log = LogQueue::nowhere(&shard);
        let mut limits = Limits::default();
        limits.set(Limit::FlowTable, FLOWS_MAX.into()).unwrap();
        limits.set(Limit::FlowUnanswered, UNANSWERED.as_secs()).unwrap();
        limits.set(Limit::FlowsWaiting, 2).unwrap();
        let worker = WorkerCx::new(0, Clock::held(), shard, log, limits, &Budget::unlimited());
        worker.spawn(Rc::clone(&worker.reactor).drive());
        let endpoint = End::new();
        let settings = ClusterSettings::bare();
        let plan = ClusterPlan { name: "up".into(), settings, tls: None };
        let cluster = Arc::new(Cluster::new(Arc::new(plan)));
        let target = Target::Ip(endpoint.address());
        cluster.publish(&[Member {
            target,
            host: None,
            name: None,
            alternates: Vec::new(),
            traits: Arc::default(),
        }]);
        let chain = FlowChainPlan {
            name: "default".into(),
            filters: of_chain,
            clusters: WeightedCluster::only(cluster),
            hash: None,
            sticky: None,
            per_packet: false,
            idle_timeout: Some(IDLE),
            responses,
        };
        let plan = UdpPlan {
            name: "l".into(),
            filters: of_listener,
            table: ChainTable::build(&[Criteria::default()]).unwrap(),
            chains: vec![chain],
            named: false,
        };
        let listener = UdpListener::on_worker(Arc::new(plan), &worker);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let slot = UdpSlot::new(socket.into(), listener, &worker).unwrap();
        worker.spawn(Rc::clone(&slot).run());
        test(Bench { worker, registry, slot, endpoint }).await;
    });
}

#[test]
fn each_client_has_a_flow_of_its_own() {
    on_bench(None, async |bench| {
        let (one, other) = (End::new(), End::new());
        let first = bench.exchanges(&one).await;
        let second = bench.exchanges(&other).await;
        assert_ne!(first, second);
        assert_eq!(bench.exchanges(&one).await, first);
        bench.endpoint.send(b"late", second);
        assert_eq!(other.receive().await.0, b"late");
        assert_eq!(bench.slot.flow_count(), 2);
        assert_eq!((bench.datagrams("received"), bench.datagrams("sent")), (3, 4));
        bench.slot.end_flows(end::FORCED, |flow| flow.info.peer == Peer::Ip(one.address()));
        bench.until_ended(end::FORCED, 1).await;
        let bytes = |def: &str| bench.value(def, &["l"]);
        assert_eq!((bytes(metrics::RECEIVED.name), bytes(metrics::SENT.name)), (16, 12));
        assert_ne!(bench.exchanges(&one).await, first, "its next datagram begins another flow");
    });
}

#[test]
fn a_flow_ends_when_nobody_uses_it() {
    on_bench(None, async |bench| {
        let (answered, unanswered) = (End::new(), End::new());
        bench.begins(&unanswered, b"x").await;
        bench.exchanges(&answered).await;
        bench.pass(UNANSWERED - Duration::from_secs(1));
        bench.begins(&unanswered, b"y").await;
        bench.pass(UNANSWERED - Duration::from_secs(1));
        bench.exchanges(&answered).await;
        assert_eq!(bench.slot.flow_count(), 2, "a datagram of either side is a use");
        bench.pass(Duration::from_secs(2));
        bench.until_ended(reasons::FLOW_UNANSWERED, 1).await;
        bench.pass(IDLE - Duration::from_secs(4));
        bench.exchanges(&answered).await;
        assert_eq!(bench.ended(reasons::FLOW_IDLE), 0);
        bench.pass(IDLE + Duration::from_secs(1));
        bench.until_ended(reasons::FLOW_IDLE, 1).await;
        assert_eq!(bench.slot.flow_count(), 0);
    });
}

#[test]
fn a_flow_whose_replies_are_counted_ends_with_the_last() {
    on_bench(Some(2), async |bench| {
        let client = End::new();
        let flow = bench.exchanges(&client).await;
        assert_eq!(bench.begins(&client, b"another").await, flow, "one reply is missing");
        for _ in 0..3 {
            assert_eq!(bench.ended(reasons::FLOW_DONE), 0);
            bench.endpoint.send(b"reply", flow);
            client.receive().await;
        }
        bench.until_ended(reasons::FLOW_DONE, 1).await;
        assert_ne!(bench.exchanges(&client).await, flow);
    });
}

#[test]
fn a_flow_in_use_is_not_evicted() {
    on_bench(None, async |bench| {
        let clients: Vec<End> = (0..FLOWS_MAX).map(|_| End::new()).collect();
        for client in &clients {
            bench.begins(client, b"x").await;
        }
        let unknown = End::new();
        unknown.send(b"refused", bench.slot.local);
        bench.until_ended(reasons::FLOW_TABLE_FULL, 1).await;
        assert_eq!(bench.datagrams("refused"), 1);
        bench.pass(SPARE);
        // The first one is used again, so the second is the one that nobody has used for the longest time.
        bench.begins(&clients[0], b"y").await;
        let evicted = Peer::Ip(clients[1].address());
        let has = |peer| bench.slot.flows().iter().any(|flow| flow.info.peer == peer);
        assert!(has(evicted));
        bench.begins(&unknown, b"z").await;
        bench.until_ended(reasons::FLOW_EVICTED, 1).await;
        assert!(!has(evicted) && has(Peer::Ip(unknown.address())));
        assert_eq!(bench.slot.flow_count(), FLOWS_MAX.into());
        let limit = Limit::FlowTable.def().name;
        assert_eq!(bench.value(metrics::LIMIT_REACHED.name, &[limit]), 2);
    });
}

#[test]
fn an_endpoint_that_is_gone_ends_the_flow() {
    on_bench(None, async |mut bench| {
        let client = End::new();
        bench.exchanges(&client).await;
        bench.endpoint = End::new();
        client.send(b"x", bench.slot.local);
        bench.until_ended(reasons::FLOW_ICMP, 1).await;
        assert_eq!(bench.value(metrics::ICMP.name, &["l"]), 1);
        assert_eq!(bench.slot.flow_count(), 0);
    });
}

#[test]
fn only_its_endpoint_reaches_the_client_of_a_flow() {
    on_bench(None, async |bench| {
        let client = End::new();
        let flow = bench.begins(&client, b"question").await;
        End::new().send(b"forged", flow);
        bench.endpoint.send(b"answer", flow);
        assert_eq!(client.receive().await, (b"answer".to_vec(), bench.slot.local));
        bench.exchanges(&client).await;
    });
}

/// Why each flow has a socket of its own: what the kernel tells about datagrams of a socket that flows share.
#[test]
fn a_shared_socket_tells_neither_its_flows_apart_nor_that_an_endpoint_is_gone() {
    let (endpoint, shared) = (End::new(), End::new());
    let receive = |end: &End| {
        end.0.set_nonblocking(false).unwrap();
        let mut data = [0; 9];
        let (count, from) = end.0.recv_from(&mut data).unwrap();
        (data[..count].to_vec(), from)
    };
    for client in [b"a", b"b"] {
        shared.send(client, endpoint.address());
        assert_eq!(receive(&endpoint), (client.to_vec(), shared.address()), "the same address");
    }
    // The reply to the second question comes first, and looks like one to either.
    endpoint.send(b"of b", shared.address());
    assert_eq!(receive(&shared), (b"of b".to_vec(), endpoint.address()));

    let gone = endpoint.address();
    drop(endpoint);
    let connected = End::new();
    connected.0.connect(gone).unwrap();
    // On loopback, the error of a datagram is there once it was sent.
    connected.0.send(b"x").unwrap();
    assert_eq!(connected.0.send(b"x").unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    shared.send(b"x", gone);
    shared.send(b"x", gone);
    shared.0.set_nonblocking(true).unwrap();
    let nothing = shared.0.recv_from(&mut [0; 9]).unwrap_err();
    assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn a_socket_that_drains_accepts_no_flow_and_ends_with_the_last_one() {
    on_bench(None, async |bench| {
        let (old, new) = (End::new(), End::new());
        let flow = bench.exchanges(&old).await;
        bench.slot.drain();
        new.send(b"x", bench.slot.local);
        until("a refusal", async || (bench.datagrams("refused") == 1).then_some(())).await;
        assert_eq!(bench.exchanges(&old).await, flow, "those in progress go on");
        // Besides this test, the task of the socket holds it, and that of its flow.
        assert_eq!(Rc::strong_count(&bench.slot), 3);
        bench.pass(IDLE + Duration::from_secs(1));
        bench.until_ended(reasons::FLOW_IDLE, 1).await;
        let ended = async || (Rc::strong_count(&bench.slot) == 1).then_some(());
        until("the end of its task", ended).await;
    });
}

#[test]
fn a_socket_without_flows_drains_at_once() {
    on_bench(None, async |bench| {
        tokio::task::yield_now().await;
        assert_eq!(Rc::strong_count(&bench.slot), 2);
        bench.slot.drain();
        let ended = async || (Rc::strong_count(&bench.slot) == 1).then_some(());
        until("the end of its task", ended).await;
    });
}

/// Sends datagrams and waits until the listener has read them.
async fn sends(bench: &Bench, client: &End, datagrams: &[&[u8]], held: usize) {
    datagrams.iter().for_each(|data| client.send(data, bench.slot.local));
    let read = async || {
        let key = FlowKey { client: client.address(), local: None, endpoint: None };
        (bench.slot.waiting.borrow().held(&key) == held).then_some(())
    };
    until("the datagrams", read).await;
}

#[test]
fn a_flow_waits_for_its_filters_and_its_datagrams_stay_in_order() {
    let gates = [Gate::new(), Gate::new()];
    on_guarded_bench(None, &gates, async |bench| {
        let client = End::new();
        sends(&bench, &client, &[b"1", b"2", b"3"], 3).await;
        gates[0].decide(Verdict::Continue);
        sends(&bench, &client, &[b"4"], 4).await;
        assert_eq!(bench.slot.flow_count(), 0, "the filter of its chain has not decided");
        gates[1].decide(Verdict::Continue);
        for expected in [b"1", b"2", b"3", b"4"] {
            assert_eq!(bench.endpoint.receive().await.0, expected);
        }
        bench.exchanges(&client).await;
        assert_eq!((bench.datagrams("received"), bench.datagrams("refused")), (5, 0));
        bench.pass(IDLE + Duration::from_secs(1));
        bench.until_ended(reasons::FLOW_IDLE, 1).await;
        assert_eq!([gates[0].ended(), gates[1].ended()], [1, 1]);
    });
}

#[test]
fn a_flow_that_a_filter_refuses_later_is_forgotten() {
    let gates = [Gate::new(), Gate::new()];
    on_guarded_bench(None, &gates, async |bench| {
        let client = End::new();
        sends(&bench, &client, &[b"1", b"2"], 2).await;
        gates[0].decide(Verdict::Continue);
        gates[1].decide(Verdict::Reject(reasons::DENIED));
        bench.until_ended(reasons::DENIED, 1).await;
        assert_eq!((bench.datagrams("received"), bench.datagrams("refused")), (0, 2));
        assert_eq!([gates[0].ended(), gates[1].ended()], [1, 0], "the one that had admitted it");
        gates[1].decide(Verdict::Continue);
        bench.exchanges(&client).await;
    });
}

#[test]
fn a_filter_has_so_long_to_decide_and_so_many_flows_may_wait() {
    let gates = [Gate::new()];
    on_guarded_bench(None, &gates, async |bench| {
        let clients = [End::new(), End::new(), End::new()];
        sends(&bench, &clients[0], &[b"1"], 1).await;
        sends(&bench, &clients[1], &[b"1"], 1).await;
        clients[2].send(b"1", bench.slot.local);
        bench.until_ended(reasons::FLOW_WAITING_FULL, 1).await;
        let limit = Limit::FlowsWaiting.def().name;
        assert_eq!(bench.value(metrics::LIMIT_REACHED.name, &[limit]), 1);
        bench.pass(Duration::from_secs(bench.worker.limits.get(Limit::FilterWait) + 1));
        bench.until_ended(reasons::FILTER_TIMEOUT, 2).await;
        assert_eq!(bench.datagrams("refused"), 3);
        gates[0].decide(Verdict::Continue);
        bench.exchanges(&clients[2]).await;
        assert_eq!(gates[0].ended(), 0, "it had admitted none of them");
    });
}

#[test]
fn a_socket_drains_after_the_flows_that_wait() {
    let gates = [Gate::new()];
    on_guarded_bench(Some(1), &gates, async |bench| {
        let client = End::new();
        sends(&bench, &client, &[b"question"], 1).await;
        bench.slot.drain();
        gates[0].decide(Verdict::Continue);
        let (_, flow) = bench.endpoint.receive().await;
        bench.endpoint.send(b"answer", flow);
        assert_eq!(client.receive().await.0, b"answer");
        bench.until_ended(reasons::FLOW_DONE, 1).await;
        let ended = async || (Rc::strong_count(&bench.slot) == 1).then_some(());
        until("the end of its task", ended).await;
    });
}
