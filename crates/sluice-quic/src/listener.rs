//! A listener that terminates QUIC: as planned for all workers, and as instantiated on one.
//!
//! Owns: the handlers of its chains, their handshake configurations, the metrics of its QUIC connections. Refuses to
//! know: sockets, and how a chain is selected. Keeps: a connection keeps the listener it began with, so that a reload
//! changes nothing for it.

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;

use sluice_core::connection::PathFacts;
use sluice_io::WorkerCx;
use sluice_l4::{Listener, ListenerPlan, Transport};
use sluice_telemetry::metrics::SeriesLabels;
use sluice_telemetry::{Counter, Histogram};

use crate::endpoint::QuicServer;
use crate::handler::{QuicHandler, QuicHandlerPlan};
use crate::metrics;
use crate::options::QuicOptions;

/// A listener that terminates QUIC, shared by all workers.
#[derive(Debug)]
pub struct QuicListenerPlan {
    /// The listener, with the chains that QUIC connections may be assigned to, at least one. All terminate TLS, and none
    /// has a handler for streams.
    pub listener: Arc<ListenerPlan>,
    /// The handlers of these chains, in the same order.
    pub handlers: Vec<Arc<dyn QuicHandlerPlan>>,
    /// The QUIC options.
    pub options: QuicOptions,
}

impl QuicListenerPlan {
    /// Whether a chain, filter or handler of the listener may count in the series with these labels.
    pub fn counts_in(&self, series: &SeriesLabels<'_>) -> bool {
        self.listener.counts_in(series)
            || self.handlers.iter().any(|handler| handler.counts_in(series))
    }
}

/// A listener that terminates QUIC, on one worker.
#[derive(Debug)]
pub struct QuicListener {
    pub(crate) plan: Arc<QuicListenerPlan>,
    worker: Rc<WorkerCx>,
    pub(crate) listener: Rc<Listener>,
    /// In the order of the listener's chains.
    chains: Vec<QuicChain>,
    pub(crate) retries: Counter,
    pub(crate) unknown_versions: Counter,
    /// Created when the first connection ends.
    path_counters: OnceCell<PathCounters>,
}

#[derive(Debug)]
struct QuicChain {
    handler: Rc<dyn QuicHandler>,
    /// Created by the first handshake.
    server: OnceCell<QuicServer>,
}

/// Counters of the paths of connections that have ended.
#[derive(Debug)]
struct PathCounters {
    packets: Counter,
    lost: Counter,
    migrations: Counter,
    rtt: Histogram,
    early: Counter,
}

impl QuicListener {
    /// Creates the listener on `worker`.
    pub fn on_worker(plan: Arc<QuicListenerPlan>, worker: &Rc<WorkerCx>) -> Rc<Self> {
        debug_assert_eq!(plan.handlers.len(), plan.listener.chains.len());
        let (shard, labels) = (&worker.shard, [&*plan.listener.name]);
        let chain = |handler: &Arc<dyn QuicHandlerPlan>| QuicChain {
            handler: handler.on_worker(worker),
            server: OnceCell::new(),
        };
        Rc::new(Self {
            listener: Listener::on_worker(Arc::clone(&plan.listener), worker),
            chains: plan.handlers.iter().map(chain).collect(),
            retries: shard.counter(&metrics::QUIC_RETRIES, &labels),
            unknown_versions: shard.counter(&metrics::QUIC_UNKNOWN_VERSIONS, &labels),
            path_counters: OnceCell::new(),
            worker: Rc::clone(worker),
            plan,
        })
    }

    /// Returns the handler of the chain at this position.
    pub(crate) fn handler(&self, chain: usize) -> Rc<dyn QuicHandler> {
        Rc::clone(&self.chains[chain].handler)
    }

    /// Returns the handshake configuration of the chain at this position.
    ///
    /// # Errors
    /// The chain does not terminate TLS, or its settings do not suit QUIC.
    pub(crate) fn server(&self, chain: usize) -> Result<&QuicServer, String> {
        let transport = self.plan.listener.chains.get(chain).map(|chain| &chain.transport);
        let Some(Transport::Terminate(termination)) = transport else {
            return Err("no chain terminates TLS".into());
        };
        let QuicChain { handler, server } = &self.chains[chain];
        if let Some(server) = server.get() {
            return Ok(server);
        }
        let made = QuicServer::new(&termination.tls.quic, handler.alpn(), &self.plan.options)?;
        Ok(server.get_or_init(|| made))
    }

    /// Counts the path of a connection that has ended.
    pub(crate) fn count_path(&self, path: &PathFacts) {
        let (shard, labels) = (&self.worker.shard, [&*self.plan.listener.name]);
        let counters = self.path_counters.get_or_init(|| PathCounters {
            packets: shard.counter(&metrics::QUIC_PACKETS, &labels),
            lost: shard.counter(&metrics::QUIC_LOST, &labels),
            migrations: shard.counter(&metrics::QUIC_MIGRATIONS, &labels),
            rtt: shard.histogram(&metrics::QUIC_RTT, &labels),
            early: shard.counter(&metrics::QUIC_EARLY, &labels),
        });
        counters.packets.add(path.packets_sent);
        counters.lost.add(path.packets_lost);
        counters.migrations.add(path.migrations);
        counters.rtt.record(path.rtt);
        if path.early_data {
            counters.early.increment();
        }
    }
}
