use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use sluice_core::clock::ClockOrigin;
use sluice_core::{Clock, Moment, Reason};
use sluice_io::WorkerCx;
use std::rc::Rc;

use super::super::tests::member;
use super::super::{
    Affinity, Claim, ClientSession, ClusterHandle, PreferredEndpoint, TrafficClass, Tried, WhenFull,
};
use super::*;
use crate::SubsetKey;
use crate::balance::SubsetsPlan;
use crate::balance::subsets::SubsetFallback;
use crate::endpoint::{EndpointLimits, EndpointTraits};
use crate::plan::{BreakerClass, ClusterPlan, ClusterSettings, HighLimits, QueuePlan};
use crate::reasons;

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
    let traits = EndpointTraits { limits, ..EndpointTraits::default() };
    cluster.publish(&[super::super::Member { traits, ..member(1) }]);
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
    let backup = super::super::Member {
        traits: EndpointTraits { priority: 1, ..EndpointTraits::default() },
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

/// A connection of the simulation that waits.
struct Waiter {
    client: Client,
    since: Moment,
    own: Option<usize>,
    strict: bool,
    class: BreakerClass,
    /// Whether it waited for any endpoint before this step.
    anywhere: bool,
}

/// A cluster and its clients, which do what a seed says.
struct Simulation {
    random: fastrand::Rng,
    cluster: Arc<Cluster>,
    clock: Clock,
    workers: Vec<(Rc<ClusterHandle>, Rc<WorkerCx>)>,
    each: u64,
    total: Option<u64>,
    size: u64,
    /// In the order in which they came.
    waiting: BTreeMap<u64, Waiter>,
    held: Vec<Claim>,
    came: u64,
    served: u64,
    refused: u64,
    left: u64,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let (endpoints, each) = (random.u16(1..5), random.u64(1..4));
        let size = random.u64(1..12);
        let total = random.bool().then(|| random.u64(1..=u64::from(endpoints) * each));
        let cluster = cluster(endpoints, each, total, queue(size));
        let clock = Clock::held();
        let mut workers = handles(&cluster, &clock, random.usize(1..4));
        let high = |(_, worker): &(_, Rc<WorkerCx>)| {
            let handle = ClusterHandle::of_class(Arc::clone(&cluster), BreakerClass::High, worker);
            (handle, Rc::clone(worker))
        };
        workers.extend(workers.iter().map(high).collect::<Vec<_>>());
        Self {
            random,
            cluster,
            clock,
            workers,
            each,
            total,
            size,
            waiting: BTreeMap::new(),
            held: Vec::new(),
            came: 0,
            served: 0,
            refused: 0,
            left: 0,
        }
    }

    fn step(&mut self) {
        let endpoints = self.cluster.members();
        let chosen = self.random.usize(..endpoints.endpoints.len());
        let action = self.random.u8(..16);
        match action {
            0..6 => self.arrive(None, false),
            6 | 7 => {
                let strict = self.random.bool();
                self.arrive(Some(chosen), strict);
            }
            8..12 if !self.held.is_empty() => {
                let index = self.random.usize(..self.held.len());
                drop(self.held.swap_remove(index));
            }
            12 if !self.waiting.is_empty() => {
                let nth = self.random.usize(..self.waiting.len());
                let id = *self.waiting.keys().nth(nth).unwrap();
                drop(self.waiting.remove(&id));
                self.left += 1;
            }
            13 => {
                self.clock.advance(Duration::from_millis(self.random.u64(1..120)));
                self.workers.iter().for_each(|(_, worker)| _ = worker.timers.expire());
            }
            14 => {
                let result = if self.random.bool() { Ok(()) } else { Err("refused") };
                if endpoints.endpoints[chosen].set_health(result) {
                    self.cluster.announce();
                    self.cluster.rebalance();
                }
            }
            _ => {}
        }
        self.settle();
        self.check();
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.values_mut().for_each(|waiter| waiter.anywhere = self.waits_for_any(waiter));
        self.waiting = waiting;
    }

    fn arrive(&mut self, own: Option<usize>, strict: bool) {
        let members = self.cluster.members();
        let (handle, worker) = self.random.choice(&self.workers).unwrap();
        let affinity =
            own.map_or_else(Affinity::default, |own| session(&members.endpoints[own], strict));
        let client = Client::begin(handle, worker, affinity);
        let since = self.clock.now();
        let class = handle.class;
        let waiter = Waiter { client, since, own, strict, class, anywhere: false };
        self.waiting.insert(self.came, waiter);
        self.came += 1;
    }

    /// Lets all continue that were woken, in any order, until none is.
    fn settle(&mut self) {
        let mut served = Vec::new();
        loop {
            let mut ids: Vec<u64> = self.waiting.keys().copied().collect();
            self.random.shuffle(&mut ids);
            for id in ids {
                let waiter = self.waiting.get_mut(&id).unwrap();
                match waiter.client.poll() {
                    None => {}
                    Some(Ok(claim)) => {
                        let waiter = self.waiting.remove(&id).unwrap();
                        served.push((id, Arc::clone(claim.endpoint()), waiter));
                        self.held.push(claim);
                    }
                    Some(Err(why)) => {
                        let waiter = self.waiting.remove(&id).unwrap();
                        self.check_refusal(&waiter, why);
                        self.refused += 1;
                    }
                }
            }
            let is_woken = |waiter: &Waiter| waiter.client.woken.0.load(Relaxed);
            if !self.waiting.values().any(is_woken) {
                break;
            }
        }
        self.served += served.len() as u64;
        for (id, endpoint, waiter) in &served {
            // Of those that begin to wait for any endpoint in one step, each may be the first.
            let waited = |it: &Waiter| it.anywhere || self.is_own(it, endpoint);
            let comes_first = |(first, it): &(&u64, &Waiter)| {
                (it.class, *first) < (waiter.class, id) && waited(it) && self.may_use(it, endpoint)
            };
            let has_room = |(_, it): &(&u64, &Waiter)| self.has_total(it.class);
            if let Some((first, it)) = self.waiting.iter().filter(has_room).find(comes_first) {
                let Waiter { since, own, strict, anywhere, .. } = it;
                let (now, endpoint) = (self.clock.now(), &endpoint.name);
                panic!(
                    "{id} got {endpoint} before {first}, which waits since {since:?} ({now:?}) for {own:?}, strict {strict}, {anywhere}"
                );
            }
        }
    }

    /// Whether the limit over all endpoints leaves room for one more of `class`.
    fn has_total(&self, class: BreakerClass) -> bool {
        let used = self.cluster.in_use(LoadKind::Connection, class);
        self.total.is_none_or(|total| used < total)
    }

    fn is_own(&self, waiter: &Waiter, endpoint: &Arc<EndpointState>) -> bool {
        let members = self.cluster.members();
        waiter.own.is_some_and(|own| Arc::ptr_eq(&members.endpoints[own], endpoint))
    }

    /// Whether one waits for any endpoint.
    fn waits_for_any(&self, waiter: &Waiter) -> bool {
        let members = self.cluster.members();
        let since = self.clock.now().since(waiter.since);
        // A timer may be a tick late.
        let limit = OWN_TIMEOUT + Duration::from_millis(50);
        let waits_for_own =
            waiter.own.is_some_and(|own| members.endpoints[own].is_usable() && since < limit);
        !waiter.strict && !waits_for_own
    }

    /// Whether one that waits would take room at `endpoint`.
    fn may_use(&self, waiter: &Waiter, endpoint: &Arc<EndpointState>) -> bool {
        endpoint.is_usable() && (self.is_own(waiter, endpoint) || self.waits_for_any(waiter))
    }

    fn check_refusal(&self, waiter: &Waiter, why: Reason) {
        let members = self.cluster.members();
        let since = self.clock.now().since(waiter.since);
        let usable = members.endpoints.iter().any(|endpoint| endpoint.is_usable());
        let own_is_lost = || waiter.strict && !members.endpoints[waiter.own.unwrap()].is_usable();
        let rules: [(Reason, &dyn Fn() -> bool); 4] = [
            (reasons::QUEUE_FULL, &|| self.cluster.waiting() == self.size),
            (reasons::QUEUE_TIMEOUT, &|| since >= TIMEOUT),
            (reasons::NO_HEALTHY, &|| !usable),
            (reasons::SESSION, &own_is_lost),
        ];
        let expected = rules.iter().any(|(of, holds)| *of == why && holds());
        assert!(expected, "{why} after {since:?}");
    }

    fn check(&self) {
        let members = self.cluster.members();
        let count = |endpoint: &Arc<EndpointState>| {
            let held = self.held.iter().filter(|claim| Arc::ptr_eq(claim.endpoint(), endpoint));
            held.count() as u64
        };
        for endpoint in &*members.endpoints {
            assert_eq!(endpoint.active(), count(endpoint), "{}", endpoint.name);
            assert!(endpoint.active() <= self.each);
        }
        assert_eq!(self.cluster.active(), self.held.len() as u64);
        for class in BreakerClass::ALL {
            let used = self.cluster.in_use(LoadKind::Connection, class);
            assert!(self.total.is_none_or(|total| used <= total));
        }
        assert_eq!(self.cluster.waiting(), self.waiting.len() as u64);
        assert!(self.cluster.waiting() <= self.size);
        let accounted = self.served + self.refused + self.left + self.waiting.len() as u64;
        assert_eq!(self.came, accounted);
        // Nothing waits for what has room.
        let room = members.endpoints.iter().filter(|it| it.active() < self.each);
        for endpoint in room {
            let could =
                |waiter: &Waiter| self.has_total(waiter.class) && self.may_use(waiter, endpoint);
            let idle = self.waiting.iter().find(|(_, waiter)| could(waiter));
            assert!(idle.is_none(), "{:?} waits for {}", idle.map(|(id, _)| id), endpoint.name);
        }
    }
}

#[test]
fn many_clients_of_many_seeds_are_served_in_turn_within_every_limit() {
    let one = std::env::var("SLUICE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = one.map_or(0..400, |seed: u64| seed..seed + 1);
    let mut totals = (0, 0, 0);
    for seed in seeds {
        let run = std::panic::AssertUnwindSafe(|| {
            let mut simulation = Simulation::new(seed);
            for _ in 0..400 {
                simulation.step();
            }
            simulation.waiting.clear();
            simulation.held.clear();
            assert_eq!((simulation.cluster.active(), simulation.cluster.waiting()), (0, 0));
            (simulation.served, simulation.refused, simulation.left)
        });
        let (served, refused, left) = std::panic::catch_unwind(run)
            .unwrap_or_else(|_| panic!("seed {seed}: run it alone with SLUICE_SEED={seed}"));
        totals = (totals.0 + served, totals.1 + refused, totals.2 + left);
    }
    if one.is_none() {
        assert!(totals.0 > 10_000 && totals.1 > 1000 && totals.2 > 1000, "{totals:?}");
    }
}

#[test]
fn a_cluster_that_gets_subsets_ends_its_queue() {
    let cluster = cluster(1, 1, None, queue(3));
    let workers = handles(&cluster, &Clock::held(), 1);
    let (handle, worker) = &workers[0];
    let mut first = Client::begin(handle, worker, Affinity::default());
    let held = first.poll().unwrap().unwrap();
    let mut second = Client::begin(handle, worker, Affinity::default());
    let mut third = Client::begin(handle, worker, session(held.endpoint(), true));
    assert!(second.poll().is_none() && third.poll().is_none());
    assert_eq!(cluster.waiting(), 2);
    let mut settings = (*cluster.plan().settings).clone();
    settings.queue = None;
    settings.balancing.subsets = Some(Arc::new(SubsetsPlan {
        selectors: Vec::new(),
        fallback: SubsetFallback::AnyEndpoint,
        default_subset: SubsetKey::new([]),
        count_max: 10,
    }));
    cluster.set_plan(Arc::new(ClusterPlan {
        settings: Arc::new(settings),
        ..(*cluster.plan()).clone()
    }));
    cluster.publish(&[member(1)]);
    for client in [&mut second, &mut third] {
        assert_eq!(client.poll().unwrap().unwrap_err(), reasons::LIMIT);
    }
    assert_eq!(cluster.waiting(), 0);
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
