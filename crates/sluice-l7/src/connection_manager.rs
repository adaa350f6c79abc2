//! The HTTP connection manager: what the requests of a filter chain share on one worker.
//!
//! Owns: the HTTP filters of the chain and of its routes, the current route table, request counters.
//! Refuses to know: streams, and how one request is served. Keeps: a request takes its routes and filters
//! from here once, when its headers are complete.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use sluice_codec::HttpError;
use sluice_codec::h1::stream::H1Options;
use sluice_core::limits::Limit;
use sluice_core::reason::end;
use sluice_core::{Moment, Reason};
use sluice_io::{Conn, WorkerCx};
use sluice_l4::filters::owner_of_use;
use sluice_l4::metrics::count_limit;
use sluice_telemetry::metrics::other;
use sluice_telemetry::{CounterSet, Gauge, Histogram};
use sluice_upstream::PublishedView;

use crate::filters::{HttpFilter, HttpFilterPlan};
use crate::metrics;
use crate::plan::HttpPlan;
use crate::pools::counters::class_word;
use crate::record::ConnFacts;
use crate::routes::RouteTable;
use crate::worker::HttpWorker;

/// The HTTP side of a filter chain on one worker.
pub struct ConnectionManager {
    pub(crate) plan: HttpPlan,
    pub(crate) worker: Rc<WorkerCx>,
    pub(crate) shared: Rc<HttpWorker>,
    pub(crate) h1: Rc<H1Options>,
    pub(crate) counters: ManagerCounters,
    chain_filters: FilterList,
    routes: PublishedView<RouteTable>,
    snapshot: RefCell<Option<Rc<RouteSnapshot>>>,
}

impl std::fmt::Debug for ConnectionManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ConnectionManager({})", self.plan.owner)
    }
}

/// A route table, and the filters that its routes configure, made once for each set of settings.
pub(crate) struct RouteSnapshot {
    pub(crate) table: Arc<RouteTable>,
    /// By the number of the set of settings.
    filters: Box<[OnceCell<Rc<FilterList>>]>,
}

impl RouteSnapshot {
    fn new(table: Arc<RouteTable>) -> Self {
        // A table without settings of its own has the empty set all the same.
        let filters = (0..table.overrides.len().max(1)).map(|_| OnceCell::new()).collect();
        Self { table, filters }
    }
}

/// The filters of a request, in order.
pub(crate) type FilterList = Vec<FilterEntry>;

/// A filter of a request.
#[derive(Clone)]
pub(crate) struct FilterEntry {
    /// The key of the use.
    pub(crate) name: Rc<str>,
    pub(crate) filter: Rc<dyn HttpFilter>,
    /// See [`HttpFilterPlan::is_guard`].
    pub(crate) guards: bool,
    /// See [`HttpFilterPlan::judges_target`].
    pub(crate) judges_target: bool,
}

impl FilterEntry {
    fn new(name: &str, plan: &dyn HttpFilterPlan, worker: &Rc<WorkerCx>, owner: &str) -> Self {
        let (guards, judges_target) = (plan.is_guard(), plan.judges_target());
        let filter = plan.on_worker(worker, &owner_of_use(owner, name));
        Self { name: name.into(), filter, guards, judges_target }
    }
}

/// Request counters of a listener on one worker.
pub(crate) struct ManagerCounters {
    pub(crate) active: Gauge,
    pub(crate) time: Histogram,
    answered: CounterSet<(&'static str, u16)>,
    ended: CounterSet<Reason>,
    routes: CounterSet<(Arc<str>, u16)>,
    filter_replies: CounterSet<Rc<str>>,
    unnamed_mirrors: CounterSet<&'static str>,
    faults: CounterSet<&'static str>,
}

/// A client's connection, as its requests see it.
pub struct DownstreamConn {
    pub(crate) conn: Rc<Conn>,
    facts: OnceCell<Arc<ConnFacts>>,
    address: OnceCell<Box<str>>,
    /// Open HTTP/2 streams.
    pub(crate) open: Cell<usize>,
    /// When it is too old for further requests.
    pub(crate) expires: Moment,
}

impl std::fmt::Debug for DownstreamConn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DownstreamConn({})", self.conn.info.id)
    }
}

impl DownstreamConn {
    /// A connection that takes requests until it `expires`.
    pub(crate) fn new(conn: Rc<Conn>, expires: Moment) -> Rc<Self> {
        let (facts, address) = (OnceCell::new(), OnceCell::new());
        Rc::new(Self { conn, facts, address, open: Cell::new(0), expires })
    }

    /// Whether it is too old for further requests.
    pub(crate) fn is_expired(&self, worker: &WorkerCx) -> bool {
        self.expires != Moment::NEVER && worker.now() >= self.expires
    }

    /// Whether it takes no further request.
    pub(crate) fn is_ending(&self, worker: &WorkerCx) -> bool {
        self.conn.is_finishing() || self.is_expired(worker)
    }

    /// The reason for the end of a connection that takes no further request.
    pub(crate) fn why_ending(&self) -> Reason {
        if self.conn.is_finishing() {
            return end::DRAIN;
        }
        self.conn.info.note("the connection has reached `max_age`");
        end::DONE
    }

    /// The client's address as text, for `x-forwarded-for`.
    pub(crate) fn address(&self) -> &str {
        self.address
            .get_or_init(|| crate::edge::address_of(self.conn.info.source()).into_boxed_str())
    }

    /// Facts about the connection, for templates and records.
    pub(crate) fn facts(&self) -> &Arc<ConnFacts> {
        self.facts.get_or_init(|| Arc::new(ConnFacts::of(&self.conn.info)))
    }
}

impl ConnectionManager {
    /// Instantiates `plan` on `worker`.
    pub fn new(plan: HttpPlan, worker: &Rc<WorkerCx>) -> Rc<Self> {
        let listener = &*plan.listener;
        let shard = &worker.shard;
        let chain_filters = plan
            .filters
            .iter()
            .map(|(name, filter)| FilterEntry::new(name, &**filter, worker, &plan.owner))
            .collect();
        Rc::new(Self {
            shared: HttpWorker::of(worker),
            h1: Rc::new(plan.options.h1),
            counters: ManagerCounters {
                active: shard.gauge(&metrics::ACTIVE, &[listener]),
                time: shard.histogram(&metrics::TIME, &[listener]),
                answered: CounterSet::default(),
                ended: CounterSet::default(),
                routes: CounterSet::bounded(worker.limits.size(Limit::RouteSeries), |key| {
                    (other(), key.1)
                }),
                filter_replies: CounterSet::default(),
                unnamed_mirrors: CounterSet::default(),
                faults: CounterSet::default(),
            },
            chain_filters,
            snapshot: RefCell::default(),
            routes: plan.routes.view(),
            worker: Rc::clone(worker),
            plan,
        })
    }

    /// A connection that begins now.
    pub(crate) fn downstream(&self, conn: Rc<Conn>) -> Rc<DownstreamConn> {
        if self.shared.closes(&self.plan.listener) {
            conn.finish();
        }
        DownstreamConn::new(conn, self.expiry())
    }

    /// When a connection that begins now is too old for further requests.
    pub(crate) fn expiry(&self) -> Moment {
        let options = &self.plan.options;
        let Some(age) = options.age_max else { return Moment::NEVER };
        self.worker.now().after(self.worker.jittered(age, options.age_jitter_percent))
    }

    /// The current routes. Requests in flight keep the snapshot that they started with.
    pub(crate) fn snapshot(&self) -> Rc<RouteSnapshot> {
        let mut snapshot = self.snapshot.borrow_mut();
        let table = self.plan.routes.read(&self.routes);
        if let Some(snapshot) = &*snapshot
            && Arc::ptr_eq(&snapshot.table, &table)
        {
            return Rc::clone(snapshot);
        }
        let new = Rc::new(RouteSnapshot::new(Arc::clone(&table)));
        *snapshot = Some(Rc::clone(&new));
        new
    }

    /// The filters of a rule: those of the chain, with the rule's own settings applied.
    pub(crate) fn filters(&self, snapshot: &RouteSnapshot, overrides: u32) -> Rc<FilterList> {
        let made = || Rc::new(self.make_filters(snapshot, overrides));
        Rc::clone(snapshot.filters[overrides as usize].get_or_init(made))
    }

    fn make_filters(&self, snapshot: &RouteSnapshot, overrides: u32) -> FilterList {
        let own = snapshot.table.said_of_filters(overrides);
        let named = snapshot.table.overrides.get(overrides as usize).map(|set| &*set.owner);
        let owner = format!("{}/{}", self.plan.owner, named.unwrap_or_default());
        let mut list = FilterList::new();
        let entry = |name: &str, plan: Arc<dyn HttpFilterPlan>| {
            FilterEntry::new(name, &*plan, &self.worker, &owner)
        };
        for (of_chain, (name, plan)) in self.chain_filters.iter().zip(&self.plan.filters) {
            match own.iter().find(|(of, _)| of == name) {
                None => list.push(of_chain.clone()),
                Some((_, said)) => {
                    list.extend(said.plan(Some(&**plan)).map(|plan| entry(name, plan)));
                }
            }
        }
        for (name, said) in own.iter().filter(|(name, _)| self.place_in_chain(name).is_none()) {
            list.extend(said.plan(None).map(|plan| entry(name, plan)));
        }
        list
    }

    /// The place of a filter among those of the chain.
    pub(crate) fn place_in_chain(&self, name: &str) -> Option<usize> {
        self.chain_filters.iter().position(|entry| *entry.name == *name)
    }

    /// Counts a finished request.
    pub(crate) fn count_end(
        &self,
        protocol: &'static str,
        status: u16,
        why: Reason,
        route: Option<&Arc<str>>,
    ) {
        let (shard, listener) = (&self.worker.shard, &*self.plan.listener);
        let class = status / 100;
        self.counters.answered.count(&(protocol, class), |(protocol, class)| {
            shard.counter(&metrics::REQUESTS, &[listener, protocol, class_word(*class)])
        });
        self.counters
            .ended
            .count(&why, |why| shard.counter(&metrics::ENDED, &[listener, why.code()]));
        if let Some(route) = route {
            self.counters.routes.count(&(Arc::clone(route), class), |(route, class)| {
                shard.counter(&metrics::ROUTE_REQUESTS, &[route, class_word(*class)])
            });
        }
    }

    /// Counts a request that was refused before it was read, because the worker had no memory for it. It leaves no record.
    pub(crate) fn count_starved(&self) {
        count_limit(&self.worker, Limit::WorkerBuffers);
    }

    /// Counts a request that a filter replied to.
    pub(crate) fn count_filter_reply(&self, filter: &Rc<str>) {
        let (shard, listener) = (&self.worker.shard, &*self.plan.listener);
        self.counters
            .filter_replies
            .count(filter, |filter| shard.counter(&metrics::FILTER_REPLIES, &[listener, filter]));
    }

    /// Counts a copy that was not made, since the request names no cluster for it.
    pub(crate) fn count_unnamed_mirror(&self, result: &'static str) {
        let (shard, listener) = (&self.worker.shard, &*self.plan.listener);
        let counter =
            |result: &&'static str| shard.counter(&metrics::MIRRORS_UNNAMED, &[listener, result]);
        self.counters.unnamed_mirrors.count(&result, counter);
    }

    /// Counts a malformed message from a client, by its error.
    pub(crate) fn count_protocol_error(&self, error: &HttpError) {
        let code = error.code().unwrap_or("other");
        let (shard, listener) = (&self.worker.shard, &*self.plan.listener);
        self.counters
            .faults
            .count(&code, |code| shard.counter(&metrics::FAULTS, &[listener, code]));
    }
}
