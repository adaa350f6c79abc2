//! A filter chain: as planned for all workers, and as instantiated on one.
//!
//! Owns: transport, filters and handler of a chain. Refuses to know: how it was selected. Keeps: a connection holds its
//! chain and nothing else of a snapshot, so that a reload never changes a connection in flight.

use std::fmt::Debug;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_core::Name;
use sluice_io::{ConnectionFilter, ConnectionFilterPlan, Inspector, StreamHandler, WorkerCx};
use sluice_telemetry::Counter;
use sluice_telemetry::metrics::SeriesLabels;
use sluice_tls::ServerTls;

use crate::inspect::Needs;
use crate::metrics;
use crate::plain_http::PlainHttp;
use crate::select::ChainTable;

/// A chain, shared by all workers.
#[derive(Debug)]
pub struct ChainPlan {
    /// The chain's name.
    pub name: Name,
    /// How TLS is handled.
    pub transport: Transport,
    /// The chain's own connection filters.
    pub filters: Vec<Arc<dyn ConnectionFilterPlan>>,
    /// What serves the stream; `None` if inner chains do.
    pub handler: Option<Arc<dyn HandlerPlan>>,
}

/// How TLS is handled.
#[derive(Debug)]
pub enum Transport {
    /// Bytes are passed through as they are, encrypted or not.
    Untouched,
    /// TLS is terminated.
    Terminate(Termination),
}

/// Terminated TLS.
#[derive(Debug)]
pub struct Termination {
    /// Certificates and the other server settings.
    pub tls: ServerTls,
    /// The timeout of the handshake.
    pub timeout: Duration,
    /// What a client that sends plain HTTP gets.
    pub plain_http: PlainHttp,
    /// Chains that are selected on the clear text.
    pub inner: Option<InnerPlan>,
}

/// Chains inside a terminated stream, one level deep.
#[derive(Debug)]
pub struct InnerPlan {
    /// The inspectors that they need.
    pub needs: Needs,
    /// The index over the chains.
    pub table: ChainTable,
    /// The chains.
    pub chains: Vec<ChainPlan>,
}

/// A handler of streams, shared by all workers.
pub trait HandlerPlan: Send + Sync + Debug {
    /// Whether the handler, or a filter of it, may count in the series with these labels.
    fn counts_in(&self, _series: &SeriesLabels<'_>) -> bool {
        false
    }

    /// The handler on one worker.
    fn on_worker(&self, worker: &Rc<WorkerCx>) -> Rc<dyn StreamHandler>;
}

/// A chain on one worker.
#[derive(Debug)]
pub struct Chain {
    /// The chain's name.
    pub name: Name,
    plan: Arc<Chains>,
    path: ChainPath,
    pub(crate) filters: Vec<Rc<dyn ConnectionFilter>>,
    pub(crate) handler: Option<Rc<dyn StreamHandler>>,
    pub(crate) inner: Option<ChainOnWorker>,
    pub(crate) selected: Counter,
}

/// The plans of a listener's chains, kept alive by each chain on a worker.
pub type Chains = Vec<ChainPlan>;

#[derive(Clone, Copy, Debug)]
enum ChainPath {
    Outer(usize),
    ChainOnWorker(usize, usize),
}

/// Inner chains on one worker.
#[derive(Debug)]
pub(crate) struct ChainOnWorker {
    pub(crate) inspectors: Vec<Rc<dyn Inspector>>,
    pub(crate) chains: Vec<Rc<Chain>>,
}

impl ChainPlan {
    /// Whether the chain, or a filter or inner chain of it, may count in the series with these labels.
    pub(crate) fn counts_in(&self, series: &SeriesLabels<'_>) -> bool {
        let inner = match &self.transport {
            Transport::Terminate(Termination { inner: Some(inner), .. }) => &*inner.chains,
            _ => &[],
        };
        series.get("chain") == Some(&self.name)
            || self.filters.iter().any(|filter| filter.counts_in(series))
            || self.handler.as_ref().is_some_and(|handler| handler.counts_in(series))
            || inner.iter().any(|chain| chain.counts_in(series))
    }
}

impl Chain {
    /// Creates the chains of a listener on `worker`.
    pub fn all_on_worker(
        plans: &Arc<Chains>,
        listener: &str,
        worker: &Rc<WorkerCx>,
    ) -> Vec<Rc<Self>> {
        (0..plans.len())
            .map(|index| Self::on_worker(plans, ChainPath::Outer(index), listener, worker))
            .collect()
    }

    fn on_worker(
        plans: &Arc<Chains>,
        path: ChainPath,
        listener: &str,
        worker: &Rc<WorkerCx>,
    ) -> Rc<Self> {
        let plan = path.find(plans);
        let owner = format!("{listener}/{}", plan.name);
        let inner = match (&plan.transport, path) {
            (
                Transport::Terminate(Termination { inner: Some(inner), .. }),
                ChainPath::Outer(outer),
            ) => {
                let chain = |index| {
                    Self::on_worker(plans, ChainPath::ChainOnWorker(outer, index), listener, worker)
                };
                Some(ChainOnWorker {
                    inspectors: inner.needs.inspectors(),
                    chains: (0..inner.chains.len()).map(chain).collect(),
                })
            }
            _ => None,
        };
        Rc::new(Self {
            name: Arc::clone(&plan.name),
            filters: plan.filters.iter().map(|filter| filter.on_worker(worker, &owner)).collect(),
            handler: plan.handler.as_ref().map(|handler| handler.on_worker(worker)),
            selected: worker.shard.counter(&metrics::CHAIN, &[listener, &plan.name]),
            plan: Arc::clone(plans),
            path,
            inner,
        })
    }

    /// How TLS is handled.
    pub fn transport(&self) -> &Transport {
        &self.path.find(&self.plan).transport
    }
}

impl ChainPath {
    fn find(self, plans: &[ChainPlan]) -> &ChainPlan {
        match self {
            Self::Outer(index) => &plans[index],
            Self::ChainOnWorker(outer, index) => match &plans[outer].transport {
                Transport::Terminate(Termination { inner: Some(inner), .. }) => {
                    &inner.chains[index]
                }
                _ => unreachable!("an inner path is only made from a chain that has inner chains"),
            },
        }
    }
}
