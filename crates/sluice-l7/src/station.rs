//! A plan on one worker: what the requests of a chain share there.
//!
//! Owns: filters of the chain and of its rules, the routes that are current, what is counted.
//! Refuses to know: streams, and the life of a request. Keeps: a request takes routes and filters from
//! here once, when its head is complete.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use sluice_codec::HttpError;
use sluice_codec::h1::stream::H1Options;
use sluice_core::Reason;
use sluice_core::limits::Limit;
use sluice_io::{Conn, WorkerCx};
use sluice_telemetry::metrics::other;
use sluice_telemetry::{Counter, CounterSet, Gauge, Histogram};

use crate::filters::HttpFilter;
use crate::metrics;
use crate::plan::HttpPlan;
use crate::record::ConnFacts;
use crate::routes::RouteTable;
use crate::upstreams::class_word;
use crate::worker::HttpWorker;

/// A plan on one worker, with what requests of its chain share.
pub struct Station {
    pub(crate) plan: HttpPlan,
    pub(crate) worker: Rc<WorkerCx>,
    pub(crate) shared: Rc<HttpWorker>,
    pub(crate) h1: Rc<H1Options>,
    pub(crate) cells: Cells,
    chain_filters: Vec<(&'static str, Rc<dyn HttpFilter>)>,
    latched: RefCell<Option<Rc<Latched>>>,
}

impl std::fmt::Debug for Station {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Station({})", self.plan.owner)
    }
}

/// A route table with what of it belongs to this station: filters by their settings.
pub(crate) struct Latched {
    pub(crate) table: Arc<RouteTable>,
    filters: RefCell<HashMap<u32, Rc<FilterList>>>,
}

/// The filters of a request, in order.
pub(crate) type FilterList = Vec<(&'static str, Rc<dyn HttpFilter>)>;

/// What is counted of a listener's requests on one worker.
pub(crate) struct Cells {
    pub(crate) active: Gauge,
    pub(crate) time: Histogram,
    answered: CounterSet<(&'static str, u16)>,
    ended: CounterSet<Reason>,
    routes: CounterSet<(Arc<str>, u16)>,
    filter_replies: CounterSet<&'static str>,
    faults: CounterSet<&'static str>,
    paths: OnceCell<PathCells>,
}

/// What is counted of the paths of connections, where a transport minds them.
struct PathCells {
    packets: Counter,
    lost: Counter,
    migrations: Counter,
    rtt: Histogram,
    early: Counter,
}

/// What the requests of a connection share.
pub struct Lane {
    pub(crate) conn: Rc<Conn>,
    facts: OnceCell<Arc<ConnFacts>>,
    address: OnceCell<Box<str>>,
    /// Streams of HTTP/2 that are open.
    pub(crate) open: Cell<usize>,
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lane({})", self.conn.info.id)
    }
}

impl Lane {
    pub(crate) fn new(conn: Rc<Conn>) -> Rc<Self> {
        Rc::new(Self { conn, facts: OnceCell::new(), address: OnceCell::new(), open: Cell::new(0) })
    }

    /// The client's address as text, for `x-forwarded-for`.
    pub(crate) fn address(&self) -> &str {
        self.address
            .get_or_init(|| crate::edge::address_of(self.conn.info.source()).into_boxed_str())
    }

    /// What is known of the connection, for templates and records.
    pub(crate) fn facts(&self) -> &Arc<ConnFacts> {
        self.facts.get_or_init(|| Arc::new(ConnFacts::of(&self.conn.info)))
    }
}

impl Station {
    /// The plan on `worker`.
    pub fn new(plan: HttpPlan, worker: &Rc<WorkerCx>) -> Rc<Self> {
        let listener = &*plan.listener;
        let shard = &worker.shard;
        let chain_filters = plan
            .filters
            .iter()
            .map(|(name, filter)| (*name, filter.on_worker(worker, &plan.owner)))
            .collect();
        Rc::new(Self {
            shared: HttpWorker::of(worker),
            h1: Rc::new(plan.options.h1),
            cells: Cells {
                active: shard.gauge(&metrics::ACTIVE, &[listener]),
                time: shard.histogram(&metrics::TIME, &[listener]),
                answered: CounterSet::default(),
                ended: CounterSet::default(),
                routes: CounterSet::bounded(worker.limits.size(Limit::RouteSeries), |key| {
                    (other(), key.1)
                }),
                filter_replies: CounterSet::default(),
                faults: CounterSet::default(),
                paths: OnceCell::new(),
            },
            chain_filters,
            latched: RefCell::default(),
            worker: Rc::clone(worker),
            plan,
        })
    }

    /// The routes that are current now.
    pub(crate) fn latch(&self) -> Rc<Latched> {
        let mut latched = self.latched.borrow_mut();
        if let Some(latched) = &*latched
            && self.plan.routes.is(&latched.table)
        {
            return Rc::clone(latched);
        }
        let new = Rc::new(Latched { table: self.plan.routes.get(), filters: RefCell::default() });
        *latched = Some(Rc::clone(&new));
        new
    }

    /// The filters for a set of settings that a rule has of its own.
    pub(crate) fn filters(&self, latched: &Latched, overrides: u32) -> Rc<FilterList> {
        if let Some(list) = latched.filters.borrow().get(&overrides) {
            return Rc::clone(list);
        }
        let own = latched.table.said_of_filters(overrides);
        let named = latched.table.overrides.get(overrides as usize).map(|set| &*set.owner);
        let owner = format!("{}/{}", self.plan.owner, named.unwrap_or_default());
        let mut list = FilterList::new();
        for ((name, filter), (_, plan)) in self.chain_filters.iter().zip(&self.plan.filters) {
            match own.iter().find(|(of, _)| of == name) {
                None => list.push((name, Rc::clone(filter))),
                Some((_, said)) => list.extend(
                    said.plan(Some(&**plan))
                        .map(|plan| (*name, plan.on_worker(&self.worker, &owner))),
                ),
            }
        }
        let known = |name: &str| self.chain_filters.iter().any(|(of, _)| *of == name);
        for (name, said) in own.iter().filter(|(name, _)| !known(name)) {
            list.extend(said.plan(None).map(|plan| (*name, plan.on_worker(&self.worker, &owner))));
        }
        let list = Rc::new(list);
        latched.filters.borrow_mut().insert(overrides, Rc::clone(&list));
        list
    }

    /// Counts the end of a request.
    pub(crate) fn count_end(
        &self,
        protocol: &'static str,
        status: u16,
        why: Reason,
        route: Option<&Arc<str>>,
    ) {
        let (shard, listener) = (&self.worker.shard, &*self.plan.listener);
        let class = status / 100;
        self.cells.answered.count(&(protocol, class), |(protocol, class)| {
            shard.counter(&metrics::REQUESTS, &[listener, protocol, class_word(*class)])
        });
        self.cells.ended.count(&why, |why| shard.counter(&metrics::ENDED, &[listener, why.code()]));
        if let Some(route) = route {
            self.cells.routes.count(&(Arc::clone(route), class), |(route, class)| {
                shard.counter(&metrics::ROUTE_REQUESTS, &[route, class_word(*class)])
            });
        }
    }

    /// Counts a request that a filter answered.
    pub(crate) fn count_filter_reply(&self, filter: &'static str) {
        let (shard, listener) = (&self.worker.shard, &*self.plan.listener);
        self.cells
            .filter_replies
            .count(&filter, |filter| shard.counter(&metrics::FILTER_REPLIES, &[listener, filter]));
    }

    /// Counts what became of a connection's path, where its transport minds it.
    pub(crate) fn count_path(&self, conn: &Conn) {
        let Some(path) = conn.info.path.get().map(|path| path.facts()) else { return };
        let (shard, labels) = (&self.worker.shard, [&*self.plan.listener]);
        let cells = self.cells.paths.get_or_init(|| PathCells {
            packets: shard.counter(&metrics::QUIC_PACKETS, &labels),
            lost: shard.counter(&metrics::QUIC_LOST, &labels),
            migrations: shard.counter(&metrics::QUIC_MIGRATIONS, &labels),
            rtt: shard.histogram(&metrics::QUIC_RTT, &labels),
            early: shard.counter(&metrics::QUIC_EARLY, &labels),
        });
        cells.packets.add(path.packets_sent);
        cells.lost.add(path.packets_lost);
        cells.migrations.add(path.migrations);
        cells.rtt.record(path.rtt);
        if path.early_data {
            cells.early.increment();
        }
    }

    /// Counts a message of a client that was refused, by what was wrong with it.
    pub(crate) fn count_fault(&self, error: &HttpError) {
        // The details of the codec are a closed set; those of a library are not.
        let closed = |detail: &&'static str| detail.len() < 48 && !detail.contains(' ');
        let detail = error.static_detail().filter(closed).unwrap_or("other");
        let (shard, listener) = (&self.worker.shard, &*self.plan.listener);
        self.cells
            .faults
            .count(&detail, |detail| shard.counter(&metrics::FAULTS, &[listener, detail]));
    }
}
