//! A listener: as planned for all workers, and as instantiated on one.
//!
//! Owns: what a listener does with a socket before a chain is chosen. Refuses to know: sockets, and what happens to a
//! connection after that. Keeps: a plan is immutable; a reload makes a new one beside it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_core::{Cidr, Name, Reason};
use sluice_io::{ConnectionFilter, ConnectionFilterPlan, Inspector, WorkerCx};
use sluice_telemetry::metrics::SeriesLabels;
use sluice_telemetry::{Counter, CounterSet, Gauge, Histogram};

use crate::chain::{Chain, Chains};
use crate::inspect::Needs;
use crate::metrics;
use crate::select::ChainTable;

/// A listener, shared by all workers.
#[derive(Debug)]
pub struct ListenerPlan {
    /// The listener's name.
    pub name: Name,
    /// Filters on the source, run before anything is read for a chain.
    pub filters: Vec<Arc<dyn ConnectionFilterPlan>>,
    /// Whether connections that a firewall redirected have the destination that they had before.
    pub original_destination: bool,
    /// Whether and from which sources a PROXY header is accepted.
    pub proxy_protocol: Option<ProxyPlan>,
    /// How the first bytes are inspected.
    pub inspect: InspectPlan,
    /// The index over the chains.
    pub table: ChainTable,
    /// The chains.
    pub chains: Arc<Chains>,
}

impl ListenerPlan {
    /// Whether a chain or filter of the listener may count in the series with these labels.
    pub fn counts_in(&self, series: &SeriesLabels<'_>) -> bool {
        self.filters.iter().any(|filter| filter.counts_in(series))
            || self.chains.iter().any(|chain| chain.counts_in(series))
    }
}

/// How a PROXY header is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyPlan {
    /// Whether the header is required.
    pub accept: ProxyAccept,
    /// The sources that may send one.
    pub trust: Vec<Cidr>,
    /// The timeout of the header.
    pub timeout: Duration,
}

/// Whether a PROXY header is required.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyAccept {
    /// The header is optional.
    Optional,
    /// A connection without a header is refused.
    Required,
}

/// How the first bytes are inspected.
#[derive(Clone, Debug)]
pub struct InspectPlan {
    /// The inspectors that are asked.
    pub needs: Needs,
    /// How long to wait for the first bytes.
    pub timeout: Duration,
    /// The most bytes that are held.
    pub bytes: usize,
    /// What happens if the first bytes do not decide in time.
    pub on_timeout: OnTimeout,
}

/// What happens if the first bytes do not decide in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnTimeout {
    /// The chain is chosen with the protocol `silent` or `unknown`.
    Continue,
    /// The connection is closed.
    Close,
}

/// A listener on one worker.
#[derive(Debug)]
pub struct Listener {
    pub(crate) plan: Arc<ListenerPlan>,
    pub(crate) filters: Vec<Rc<dyn ConnectionFilter>>,
    pub(crate) inspectors: Vec<Rc<dyn Inspector>>,
    pub(crate) chains: Vec<Rc<Chain>>,
    pub(crate) counters: ListenerCounters,
}

/// The metrics of a listener on one worker.
#[derive(Debug)]
pub(crate) struct ListenerCounters {
    pub(crate) accepted: Counter,
    pub(crate) active: Gauge,
    pub(crate) received: Counter,
    pub(crate) sent: Counter,
    pub(crate) accept_errors: Counter,
    pub(crate) handshake_time: Histogram,
    pub(crate) handshakes: Handshakes,
    ended: CounterSet<Reason>,
}

/// TLS handshakes with clients, by result.
#[derive(Debug)]
pub(crate) struct Handshakes {
    pub(crate) full: Counter,
    pub(crate) resumed: Counter,
    pub(crate) early: Counter,
    pub(crate) failed: Counter,
}

impl Listener {
    /// Creates the listener on `worker`.
    pub fn on_worker(plan: Arc<ListenerPlan>, worker: &Rc<WorkerCx>) -> Rc<Self> {
        let (name, shard) = (&*plan.name, &worker.shard);
        Rc::new(Self {
            filters: plan.filters.iter().map(|filter| filter.on_worker(worker, name)).collect(),
            inspectors: plan.inspect.needs.inspectors(),
            chains: Chain::all_on_worker(&plan.chains, name, worker),
            counters: ListenerCounters {
                accepted: shard.counter(&metrics::ACCEPTED, &[name]),
                active: shard.gauge(&metrics::ACTIVE, &[name]),
                received: shard.counter(&metrics::RECEIVED, &[name]),
                sent: shard.counter(&metrics::SENT, &[name]),
                accept_errors: shard.counter(&metrics::ACCEPT_ERRORS, &[name]),
                handshake_time: shard.histogram(&metrics::HANDSHAKE_TIME, &[name]),
                handshakes: {
                    let counter = |code| shard.counter(&metrics::HANDSHAKES, &[name, code]);
                    Handshakes {
                        full: counter("full"),
                        resumed: counter("resumed"),
                        early: counter("early"),
                        failed: counter("failed"),
                    }
                },
                ended: CounterSet::default(),
            },
            plan,
        })
    }

    /// The listener's name.
    pub fn name(&self) -> &Name {
        &self.plan.name
    }

    /// Counts the end of a connection.
    pub(crate) fn count_end(&self, worker: &WorkerCx, why: Reason) {
        let counter =
            |why: &Reason| worker.shard.counter(&metrics::ENDED, &[self.name(), why.code()]);
        self.counters.ended.count(&why, counter);
    }
}
