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
use sluice_telemetry::{Counter, Gauge, Histogram};

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
    answered: RefCell<Vec<((&'static str, u16), Counter)>>,
    ended: RefCell<Vec<(Reason, Counter)>>,
    routes: RefCell<HashMap<(Arc<str>, u16), Counter, foldhash::fast::RandomState>>,
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
                answered: RefCell::default(),
                ended: RefCell::default(),
                routes: RefCell::default(),
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
        let own = latched.table.overrides.get(overrides as usize).map_or(&[][..], Vec::as_slice);
        let owner = format!("{}/{overrides}", self.plan.owner);
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
        let (worker, listener) = (&self.worker, &*self.plan.listener);
        let class = status / 100;
        let mut answered = self.cells.answered.borrow_mut();
        match answered.iter().find(|(key, _)| *key == (protocol, class)) {
            Some((_, counter)) => counter.increment(),
            None => {
                let labels = [listener, protocol, class_word(class)];
                let counter = worker.shard.counter(&metrics::REQUESTS, &labels);
                counter.increment();
                answered.push(((protocol, class), counter));
            }
        }
        let mut ended = self.cells.ended.borrow_mut();
        match ended.iter().find(|(reason, _)| *reason == why) {
            Some((_, counter)) => counter.increment(),
            None => {
                let counter = worker.shard.counter(&metrics::ENDED, &[listener, why.code()]);
                counter.increment();
                ended.push((why, counter));
            }
        }
        let Some(route) = route else { return };
        let mut routes = self.cells.routes.borrow_mut();
        let key = (Arc::clone(route), class);
        if let Some(counter) = routes.get(&key) {
            return counter.increment();
        }
        let room = routes.len() < worker.limits.size(Limit::RouteSeries);
        let label: &str = if room { route } else { "other" };
        let labels = [label, class_word(class)];
        let counter = worker.shard.counter(&metrics::ROUTE_REQUESTS, &labels);
        counter.increment();
        if room {
            routes.insert(key, counter);
        }
    }

    /// Counts what became of a connection's path, where its transport minds it.
    pub(crate) fn count_path(&self, conn: &Conn) {
        let Some(path) = conn.info.path.get().map(|path| path.facts()) else { return };
        let (shard, labels) = (&self.worker.shard, [&*self.plan.listener]);
        shard.counter(&metrics::QUIC_PACKETS, &labels).add(path.packets_sent);
        shard.counter(&metrics::QUIC_LOST, &labels).add(path.packets_lost);
        shard.counter(&metrics::QUIC_MIGRATIONS, &labels).add(path.migrations);
        shard.histogram(&metrics::QUIC_RTT, &labels).record(path.rtt);
        if path.early_data {
            shard.counter(&metrics::QUIC_EARLY, &labels).increment();
        }
    }

    /// Counts a message of a client that was refused, by what was wrong with it.
    pub(crate) fn count_fault(&self, error: &HttpError) {
        // The details of the codec are a closed set; those of a library are not.
        let detail = error.detail();
        let closed = detail.len() < 48 && !detail.contains(' ');
        let labels = [&*self.plan.listener, if closed { detail } else { "other" }];
        self.worker.shard.counter(&metrics::FAULTS, &labels).increment();
    }
}
