use std::future::Future;
use std::pin::Pin;
use std::sync::LazyLock;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use sluice_core::clock::ClockOrigin;
use sluice_core::{Clock, Reason};
use sluice_io::WorkerCx;
use std::rc::Rc;

use super::super::Member;
use super::super::tests::member;
use super::super::{
    Affinity, Claim, ClientSession, ClusterHandle, PreferredEndpoint, TrafficClass, Tried, WhenFull,
};
use super::*;
use crate::balance::SubsetsPlan;
use crate::balance::subsets::{SelectorPlan, SubsetFallback};
use crate::endpoint::{EndpointLimits, EndpointTraits};
use crate::plan::{BreakerClass, ClusterPlan, ClusterSettings, HighLimits, QueuePlan};
use crate::reasons;
use crate::{EndpointMetadata, SubsetKey};

mod parts;
mod simulation;

const TIMEOUT: Duration = Duration::from_millis(500);
const OWN_TIMEOUT: Duration = Duration::from_millis(200);

/// A cluster whose endpoints take `each` connections and requests, with a queue.
fn cluster(endpoints: u16, each: u64, total: Option<u64>, queue: QueuePlan) -> Arc<Cluster> {
    let bare = ClusterSettings::bare();
    let settings = ClusterSettings {
        high: HighLimits { connections_max: total, ..bare.high },
        connections_max: total,
        requests_max: total,
        endpoint_connections_max: Some(each),
        endpoint_requests_max: Some(each),
        queue: Some(queue),
        ..(*bare).clone()
    };
    let plan = ClusterPlan { name: "c".into(), settings: Arc::new(settings), tls: None };
    let cluster = Arc::new(Cluster::new(Arc::new(plan)));
    cluster.publish(&(1..=endpoints).map(member).collect::<Vec<_>>());
    cluster
}

/// Gives the cluster other settings.
fn change(cluster: &Arc<Cluster>, change: impl FnOnce(&mut ClusterSettings)) {
    let mut settings = (*cluster.plan().settings).clone();
    change(&mut settings);
    let plan = ClusterPlan { settings: Arc::new(settings), ..(*cluster.plan()).clone() };
    cluster.set_plan(Arc::new(plan));
}

fn pairs(of: &[(&str, &str)]) -> SubsetKey {
    SubsetKey::new(of.iter().map(|(key, value)| ((*key).into(), (*value).into())))
}

/// An endpoint of version `a` or `b` by turns; every third is in stage `x`.
fn divided_member(port: u16) -> Member {
    let version = if !port.is_multiple_of(2) { "a" } else { "b" };
    let stage = if port.is_multiple_of(3) { "x" } else { "y" };
    let values = [("v", version), ("s", stage)];
    let metadata = values.map(|(key, value)| (key.into(), [value.into()].into()));
    let metadata = Some(Arc::new(EndpointMetadata::new(metadata)));
    let traits = Arc::new(EndpointTraits { metadata, ..EndpointTraits::default() });
    Member { traits, ..member(port) }
}

/// Divides the cluster by version, and by version and stage.
fn divide(cluster: &Arc<Cluster>, endpoints: u16, fallback: SubsetFallback) {
    let selector = |keys: &[&str]| SelectorPlan {
        keys: keys.iter().map(|key| (*key).into()).collect(),
        fallback: None,
    };
    let subsets = SubsetsPlan {
        selectors: vec![selector(&["v"]), selector(&["s", "v"])],
        fallback,
        default_subset: SubsetKey::new([]),
        count_max: 10,
    };
    change(cluster, |settings| settings.balancing.subsets = Some(Arc::new(subsets)));
    cluster.publish(&(1..=endpoints).map(divided_member).collect::<Vec<_>>());
}

/// What clients of a cluster with subsets ask for.
static ASKED: LazyLock<[SubsetKey; 4]> = LazyLock::new(|| {
    [
        pairs(&[("v", "a")]),
        pairs(&[("v", "b")]),
        pairs(&[("s", "x"), ("v", "a")]),
        pairs(&[("v", "unheard of")]),
    ]
});

fn asking(nth: usize) -> Affinity<'static> {
    Affinity { subset: Some(&ASKED[nth]), ..Affinity::default() }
}

const fn queue(size: u64) -> QueuePlan {
    QueuePlan { size, timeout: TIMEOUT, own_timeout: OWN_TIMEOUT }
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

type Picking = Pin<Box<dyn Future<Output = Result<Claim, Reason>>>>;

/// One that waits, polled only when it is woken.
struct Client {
    picking: Picking,
    woken: Arc<Woken>,
}

impl Client {
    /// Picks; if nothing has room, waits.
    fn begin(
        handle: &Rc<ClusterHandle>,
        worker: &Rc<WorkerCx>,
        affinity: Affinity<'static>,
    ) -> Self {
        let (handle, worker) = (Rc::clone(handle), Rc::clone(worker));
        let picking = Box::pin(async move {
            match handle.pick(&worker, affinity, &[], WhenFull::Wait) {
                Err(why) if why == reasons::LIMIT => {
                    handle.wait_for_room(&worker, affinity, Tried::NOTHING).await
                }
                picked => picked,
            }
        });
        let woken = Arc::new(Woken::default());
        woken.0.store(true, Relaxed);
        Self { picking, woken }
    }

    /// Picks, and returns the outcome if there is one at once.
    fn arrive(
        handle: &Rc<ClusterHandle>,
        worker: &Rc<WorkerCx>,
        affinity: Affinity<'static>,
    ) -> (Option<Result<Claim, Reason>>, Self) {
        let mut client = Self::begin(handle, worker, affinity);
        (client.poll(), client)
    }

    /// The outcome, if it was woken and has one.
    fn poll(&mut self) -> Option<Result<Claim, Reason>> {
        if !self.woken.0.swap(false, Relaxed) {
            return None;
        }
        let waker = Waker::from(Arc::clone(&self.woken));
        match self.picking.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(outcome) => Some(outcome),
            Poll::Pending => None,
        }
    }
}

fn handles(
    cluster: &Arc<Cluster>,
    clock: &Clock,
    count: usize,
) -> Vec<(Rc<ClusterHandle>, Rc<WorkerCx>)> {
    let one = |_| {
        let worker = WorkerCx::solitary(clock.clone());
        (ClusterHandle::new(Arc::clone(cluster), &worker), worker)
    };
    (0..count).map(one).collect()
}

#[test]
fn the_first_to_come_is_the_first_to_be_served() {
    let cluster = cluster(2, 1, None, queue(3));
    let clock = Clock::held();
    let workers = handles(&cluster, &clock, 2);
    let begin = |worker: usize| {
        let (handle, worker) = &workers[worker];
        Client::arrive(handle, worker, Affinity::default())
    };
    let held: Vec<_> = (0..2).map(|worker| begin(worker).0.unwrap().unwrap()).collect();
    let mut waiting: Vec<Client> = [0, 1, 0].map(|worker| begin(worker).1).into();
    assert_eq!(cluster.waiting(), 3);
    assert_eq!(begin(1).0.unwrap().unwrap_err(), reasons::QUEUE_FULL);
    drop(held);
    let served: Vec<_> = waiting.iter_mut().map(Client::poll).collect();
    assert_eq!([0, 1, 2].map(|nth| served[nth].is_some()), [true, true, false]);
    drop(served);
    assert!(waiting[2].poll().is_some_and(|outcome| outcome.is_ok()));
    assert_eq!((cluster.waiting(), cluster.active()), (0, 0));
}

#[test]
fn one_that_leaves_frees_its_place_and_what_it_was_handed() {
    let cluster = cluster(1, 1, None, queue(2));
    let clock = Clock::held();
    let workers = handles(&cluster, &clock, 1);
    let (handle, worker) = &workers[0];
    let begin = || Client::arrive(handle, worker, Affinity::default());
    let held = begin().0.unwrap().unwrap();
    let (first, second) = (begin().1, begin().1);
    drop(first);
    assert_eq!(cluster.waiting(), 1);
    let mut third = begin().1;
    drop(held);
    // It was handed the endpoint and leaves before it knows.
    drop(second);
    let claim = third.poll().unwrap().unwrap();
    assert_eq!((cluster.waiting(), cluster.active()), (0, 1));
    drop(claim);
    assert_eq!(cluster.active(), 0);
}

#[test]
fn a_wait_ends_by_time_or_when_no_endpoint_is_left() {
    let cluster = cluster(1, 1, None, queue(9));
    let clock = Clock::held();
    let workers = handles(&cluster, &clock, 1);
    let (handle, worker) = &workers[0];
    let begin = || Client::arrive(handle, worker, Affinity::default());
    let _held = begin().0.unwrap().unwrap();
    let mut late = begin().1;
    clock.advance(TIMEOUT + Duration::from_millis(50));
    worker.timers.expire();
    assert_eq!(late.poll().unwrap().unwrap_err(), reasons::QUEUE_TIMEOUT);
    let shortage = cluster.shortage(reasons::QUEUE_TIMEOUT, BreakerClass::Default).unwrap();
    let expected = "the cluster is at `limits.connections_per_endpoint` (1), and no endpoint had room within 500ms (`limits.queue.timeout`)";
    assert_eq!(&*shortage, expected);
    let mut lost = begin().1;
    cluster.members().endpoints[0].set_health(Err("refused"));
    cluster.announce();
    assert_eq!(lost.poll().unwrap().unwrap_err(), reasons::NO_HEALTHY);
    assert_eq!(cluster.waiting(), 0);
}

#[test]
fn more_room_is_handed_over_at_once() {
    let cluster = cluster(1, 1, None, queue(9));
    let clock = Clock::held();
    let workers = handles(&cluster, &clock, 1);
    let (handle, worker) = &workers[0];
    let begin = || Client::arrive(handle, worker, Affinity::default());
    let _held = begin().0.unwrap().unwrap();
    let mut waiting: Vec<Client> = (0..3).map(|_| begin().1).collect();
    let limits = EndpointLimits { connections: std::num::NonZeroU64::new(2), requests: None };
    let traits = Arc::new(EndpointTraits { limits, ..EndpointTraits::default() });
    cluster.publish(&[Member { traits, ..member(1) }]);
    let second = waiting[0].poll().unwrap().unwrap();
    assert_eq!(second.endpoint().active(), 2);
    cluster.publish(&[member(1), member(2)]);
    let third = waiting[1].poll().unwrap().unwrap();
    assert_eq!(&*third.endpoint().name, "127.0.0.1:2");
    assert!(waiting[2].poll().is_none());
    drop(second);
    assert!(
        waiting[2].poll().is_none(),
        "the endpoint has one connection, which is all it may have"
    );
}

#[test]
fn a_backup_endpoint_is_not_handed_over_while_the_others_serve() {
    let cluster = cluster(1, 1, None, queue(9));
    let backup = Member {
        traits: Arc::new(EndpointTraits { priority: 1, ..EndpointTraits::default() }),
        ..member(2)
    };
    cluster.publish(&[member(1), backup]);
    let clock = Clock::held();
    let workers = handles(&cluster, &clock, 1);
    let (handle, worker) = &workers[0];
    let first = &cluster.members().endpoints[0];
    first.set_health(Err("refused"));
    cluster.rebalance();
    let begin = || Client::arrive(handle, worker, Affinity::default());
    let spilled = begin().0.unwrap().unwrap();
    assert_eq!(&*spilled.endpoint().name, "127.0.0.1:2");
    first.set_health(Ok(()));
    cluster.rebalance();
    let held = begin().0.unwrap().unwrap();
    let mut waiting = begin().1;
    drop(spilled);
    assert!(waiting.poll().is_none());
    drop(held);
    assert_eq!(waiting.poll().unwrap().unwrap().endpoint().name, first.name);
}

#[test]
fn requests_wait_apart_from_connections() {
    let cluster = cluster(1, 1, None, queue(9));
    let clock = Clock::held();
    let workers = handles(&cluster, &clock, 1);
    let (handle, worker) = &workers[0];
    let request = || {
        let class = TrafficClass::Request;
        handle.pick_for_request(worker, class, Affinity::default(), Tried::NOTHING, WhenFull::Wait)
    };
    let held = request().unwrap();
    assert_eq!(request().map(drop), Err(reasons::LIMIT));
    let mut waiting = Box::pin(handle.wait_for_request(worker, Affinity::default()));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(waiting.as_mut().poll(&mut cx).is_pending());
    let connection = handle.pick(worker, Affinity::default(), &[], WhenFull::Wait).unwrap();
    drop(connection);
    assert!(waiting.as_mut().poll(&mut cx).is_pending());
    // A side call does not wait, and does not wait for those that do.
    let class = TrafficClass::SideCall;
    let side_call = || {
        let (affinity, tried) = (Affinity::default(), Tried::NOTHING);
        handle.pick_for_request(worker, class, affinity, tried, WhenFull::Refuse).map(drop)
    };
    assert_eq!(side_call(), Err(reasons::LIMIT));
    drop(held);
    let Poll::Ready(Ok((endpoint, _claim))) = waiting.as_mut().poll(&mut cx) else {
        panic!("the request was not served")
    };
    assert_eq!((endpoint.requests(), cluster.waiting()), (1, 0));
}

/// A session that leads to `endpoint`.
fn session(endpoint: &EndpointState, strict: bool) -> Affinity<'static> {
    let preferred = PreferredEndpoint { id: endpoint.id, strict };
    Affinity { session: Some(ClientSession::Endpoint(preferred)), ..Affinity::default() }
}

#[test]
fn a_session_waits_for_its_own_endpoint_and_then_for_any() {
    let cluster = cluster(2, 1, None, queue(9));
    let clock = Clock::held();
    let workers = handles(&cluster, &clock, 1);
    let (handle, worker) = &workers[0];
    let own = Arc::clone(&cluster.members().endpoints[0]);
    let begin = |affinity| Client::arrive(handle, worker, affinity);
    let held = begin(session(&own, false)).0.unwrap().unwrap();
    let (mut moving, mut strict) = (begin(session(&own, false)).1, begin(session(&own, true)).1);
    assert_eq!((cluster.waiting(), own.waiting(LoadKind::Connection)), (2, 2));
    // The other endpoint is free for those that have no session.
    let other = begin(Affinity::default()).0.unwrap().unwrap();
    assert!(!Arc::ptr_eq(other.endpoint(), &own));
    drop(other);
    assert!(moving.poll().is_none());
    clock.advance(OWN_TIMEOUT + Duration::from_millis(50));
    worker.timers.expire();
    let moved = moving.poll().unwrap().unwrap();
    assert!(!Arc::ptr_eq(moved.endpoint(), &own));
    assert!(strict.poll().is_none());
    drop(held);
    let kept = strict.poll().unwrap().unwrap();
    assert!(Arc::ptr_eq(kept.endpoint(), &own));
    let mut strict = begin(session(&own, true)).1;
    own.set_health(Err("refused"));
    cluster.announce();
    assert_eq!(strict.poll().unwrap().unwrap_err(), reasons::SESSION);
}

#[test]
fn threads_that_wait_for_each_other_are_all_served_within_the_limit() {
    const THREADS: usize = 4;
    const CLIENTS: usize = 16;
    const TURNS: usize = 200;
    let settings = QueuePlan {
        size: (THREADS * CLIENTS) as u64,
        timeout: Duration::from_secs(3600),
        own_timeout: Duration::ZERO,
    };
    let cluster = cluster(2, 2, Some(3), settings);
    let (inside, most, served) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let origin = ClockOrigin::read();
    let worker = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let tasks = tokio::task::LocalSet::new();
        let clock = origin.clock();
        tasks.block_on(&runtime, async {
            let worker = WorkerCx::solitary(clock);
            let handle = ClusterHandle::new(Arc::clone(&cluster), &worker);
            let client = async || {
                for _ in 0..TURNS {
                    let picked = handle.pick(&worker, Affinity::default(), &[], WhenFull::Wait);
                    let claim = match picked {
                        Ok(claim) => claim,
                        Err(_) => {
                            let affinity = Affinity::default();
                            handle.wait_for_room(&worker, affinity, Tried::NOTHING).await.unwrap()
                        }
                    };
                    most.fetch_max(1 + inside.fetch_add(1, Relaxed), Relaxed);
                    tokio::task::yield_now().await;
                    inside.fetch_sub(1, Relaxed);
                    served.fetch_add(1, Relaxed);
                    drop(claim);
                }
            };
            let mut clients: Vec<_> = (0..CLIENTS).map(|_| Box::pin(client())).collect();
            std::future::poll_fn(|cx| {
                clients.retain_mut(|client| client.as_mut().poll(cx).is_pending());
                if clients.is_empty() { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        });
    };
    std::thread::scope(|scope| {
        (0..THREADS).for_each(|_| _ = scope.spawn(worker));
    });
    assert_eq!(served.load(Relaxed), THREADS * CLIENTS * TURNS);
    assert!(most.load(Relaxed) <= 3, "{most:?} at once");
    assert_eq!((cluster.active(), cluster.waiting()), (0, 0));
}
