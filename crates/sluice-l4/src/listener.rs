//! A listener: as planned for all workers, and as it stands on one.
//!
//! Owns: what a listener does with a socket before a chain is chosen.
//! Refuses to know: sockets, and what becomes of a connection after that.
//! Keeps: a plan is immutable; a reload makes a new one beside it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_core::{Cidr, Name, Reason};
use sluice_io::{ConnectionFilter, ConnectionFilterPlan, Inspector, WorkerCx};
use sluice_telemetry::{Counter, CounterSet, Gauge, Histogram};
use sluice_tls::ServerTls;

use crate::chain::{Chain, Chains, Transport};
use crate::inspect::Needs;
use crate::metrics;
use crate::select::ChainTable;

/// A listener, shared by all workers.
#[derive(Debug)]
pub struct ListenerPlan {
    /// Its name.
    pub name: Name,
    /// Filters that judge the source before anything is read for a chain.
    pub filters: Vec<Arc<dyn ConnectionFilterPlan>>,
    /// Whether and from whom a PROXY header is taken.
    pub proxy_protocol: Option<ProxyPlan>,
    /// How the first bytes are looked at.
    pub inspect: InspectPlan,
    /// The index over the chains.
    pub table: ChainTable,
    /// The chains.
    pub chains: Arc<Chains>,
    /// Which of them QUIC ends in, where the listener speaks it.
    pub quic: Option<QuicPlan>,
}

/// The chains of a listener that QUIC may end in.
#[derive(Debug)]
pub struct QuicPlan {
    /// The index over them.
    pub table: ChainTable,
    /// Their places among all chains, in the order of the index.
    pub chains: Vec<usize>,
}

/// Taking a PROXY header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyPlan {
    /// Whether it must be there.
    pub accept: ProxyAccept,
    /// Who may send one.
    pub trust: Vec<Cidr>,
    /// How long it is waited for.
    pub timeout: Duration,
}

/// Whether a PROXY header must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyAccept {
    /// It may be there.
    Optional,
    /// A connection without one is refused.
    Required,
}

/// Looking at the first bytes.
#[derive(Clone, Debug)]
pub struct InspectPlan {
    /// Which inspectors are asked.
    pub needs: Needs,
    /// How long the first bytes are waited for.
    pub timeout: Duration,
    /// How many are held at most.
    pub bytes: usize,
    /// What happens when they do not tell in time.
    pub on_timeout: OnTimeout,
}

/// What happens when the first bytes do not tell in time.
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

/// The metric cells of a listener on one worker.
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
    pub(crate) failed: Counter,
}

impl Listener {
    /// The listener on `worker`.
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
                        failed: counter("failed"),
                    }
                },
                ended: CounterSet::default(),
            },
            plan,
        })
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.plan.name
    }

    /// What the chains that QUIC ends in shake hands with.
    pub fn quic_tls(&self) -> impl Iterator<Item = &ServerTls> {
        let places = self.plan.quic.iter().flat_map(|quic| &quic.chains);
        places.filter_map(|place| match self.chains[*place].transport() {
            Transport::Terminate(termination) => Some(&termination.tls),
            Transport::Untouched => None,
        })
    }

    /// Counts an end.
    pub(crate) fn count_end(&self, worker: &WorkerCx, why: Reason) {
        let counter =
            |why: &Reason| worker.shard.counter(&metrics::ENDED, &[self.name(), why.code()]);
        self.counters.ended.count(&why, counter);
    }
}
