//! `rate_limit`: how fast connections may be opened, in total or per source.
//!
//! Owns: the buckets, across all workers and reloads. Keeps: a source that waits regains its burst at the configured
//! rate, never faster.

use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use sluice_core::value::{Rate, show_rate};
use sluice_core::{Clock, ConnInfo, Node, Plain, Setting, Shape, Verdict};
use sluice_io::{Admit, ConnectionFilter, ConnectionFilterPlan, WorkerCx};
use sluice_telemetry::Counter;

use super::buckets::{LockedRates, PerOwner, RateTable, forgotten, source_of};
use super::{CheckContext, FilterFactory, long_form_of};
use crate::reasons;

sluice_core::choice! {
    /// What shares a limit.
    pub enum ConnectionRateKey {
        /// All connections of the listener or chain share one limit.
        Listener = "listener",
        /// Each source has its own limit: an IPv4 address or an IPv6 /64.
        SourceIp = "source_ip",
    }
}

sluice_core::section! {
    /// Limits the rate at which connections are opened.
    pub struct ConnectionRateLimit {
        /// The sustained rate.
        pub connections: Rate,
        /// How many connections may be opened at once; defaults to the count in `connections`.
        pub burst: Option<u32>,
        /// What shares a limit.
        pub per: ConnectionRateKey = "listener",
    }
}

/// The factory; holds the buckets of each listener and chain that uses the filter.
#[derive(Debug, Default)]
pub struct ConnectionRateLimitFactory {
    buckets: PerOwner<LockedRates>,
}

#[derive(Debug)]
struct ConnectionRateLimitPlan {
    settings: ConnectionRateLimit,
    buckets: PerOwner<LockedRates>,
}

#[derive(Debug)]
struct ConnectionRateLimitFilter {
    settings: ConnectionRateLimit,
    buckets: Arc<Mutex<RateTable>>,
    forgotten: Counter,
    clock: Clock,
}

impl FilterFactory<dyn ConnectionFilterPlan> for ConnectionRateLimitFactory {
    fn name(&self) -> &'static str {
        "rate_limit"
    }

    fn help(&self) -> &'static str {
        "Limits the rate of new connections, in total or per source."
    }

    fn shape(&self) -> Shape {
        ConnectionRateLimit::shape()
    }

    fn long_form(&self, settings: &Node) -> Option<Plain> {
        long_form_of::<ConnectionRateLimit>(settings)
    }

    fn check(
        &self,
        settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn ConnectionFilterPlan>> {
        let settings = context.bind::<ConnectionRateLimit>(settings)?;
        Some(Arc::new(ConnectionRateLimitPlan { settings, buckets: self.buckets.clone() }))
    }
}

impl ConnectionFilterPlan for ConnectionRateLimitPlan {
    fn on_worker(&self, worker: &Rc<WorkerCx>, owner: &str) -> Rc<dyn ConnectionFilter> {
        Rc::new(ConnectionRateLimitFilter {
            settings: self.settings.clone(),
            buckets: self.buckets.of(owner, worker, RateTable::locked),
            forgotten: forgotten(worker),
            clock: worker.clock.clone(),
        })
    }
}

impl ConnectionFilter for ConnectionRateLimitFilter {
    fn admit(&self, conn: &ConnInfo) -> Admit {
        let Rate { count, per } = self.settings.connections;
        let source = match self.settings.per {
            ConnectionRateKey::SourceIp => source_of(conn.source()),
            ConnectionRateKey::Listener => source_of(sluice_core::connection::Peer::Unix),
        };
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let burst = self.settings.burst.unwrap_or(count).max(1);
        let (_, taken, forgot) = buckets.take(source, self.clock.now(), per / count, burst);
        if forgot {
            self.forgotten.increment();
        }
        if taken {
            return Admit::Now(Verdict::Continue);
        }
        let rate = show_rate(self.settings.connections);
        let who = match self.settings.per {
            ConnectionRateKey::SourceIp => " per source_ip",
            ConnectionRateKey::Listener => "",
        };
        conn.note(format_args!("rate_limit: connections: {rate}{who}"));
        Admit::Now(Verdict::Reject(reasons::RATE))
    }
}
