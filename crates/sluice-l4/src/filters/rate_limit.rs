//! `rate_limit`: how fast connections may be opened, in all or per source.
//!
//! Owns: the buckets, over all workers and reloads. Keeps: a source that waits gets its burst back
//! at the stated rate, never faster.

use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use sluice_core::value::{Rate, show_rate};
use sluice_core::{Clock, ConnInfo, Diags, Node, Path, Setting, Shape, Verdict};
use sluice_io::{Admit, ConnectionFilter, FilterFactory, FilterPlan, WorkerCx};
use sluice_telemetry::Counter;

use super::buckets::{Bucket, PerOwner, Sources, forgotten, source_of};
use crate::reasons;

sluice_core::choice! {
    /// Who shares a bucket.
    pub enum Per {
        /// All connections of the listener or chain.
        Listener = "listener",
        /// Each source: an IPv4 address or an IPv6 /64.
        SourceIp = "source_ip",
    }
}

sluice_core::section! {
    /// Bounds how fast connections are opened.
    pub struct RateLimit {
        /// The rate in the long run.
        pub connections: Rate,
        /// How many may come at once; the rate's own count where it is left out.
        pub burst: Option<u32>,
        /// Who shares a bucket.
        pub per: Per = "listener",
    }
}

/// The factory; holds the buckets of each listener and chain that uses the filter.
#[derive(Debug, Default)]
pub struct RateLimitFactory {
    buckets: PerOwner<Sources<Bucket>>,
}

#[derive(Debug)]
struct Plan {
    settings: RateLimit,
    buckets: PerOwner<Sources<Bucket>>,
}

#[derive(Debug)]
struct Filter {
    settings: RateLimit,
    buckets: Arc<Mutex<Sources<Bucket>>>,
    forgotten: Counter,
    clock: Clock,
}

impl FilterFactory for RateLimitFactory {
    fn name(&self) -> &'static str {
        "rate_limit"
    }

    fn help(&self) -> &'static str {
        "Bounds how fast connections are opened, in all or per source."
    }

    fn shape(&self) -> Shape {
        RateLimit::shape()
    }

    fn check(
        &self,
        settings: &Node,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<Arc<dyn FilterPlan>> {
        let settings = RateLimit::bind(settings, at, diags)?;
        Some(Arc::new(Plan { settings, buckets: self.buckets.clone() }))
    }
}

impl FilterPlan for Plan {
    fn on_worker(&self, worker: &Rc<WorkerCx>, owner: &str) -> Rc<dyn ConnectionFilter> {
        Rc::new(Filter {
            settings: self.settings.clone(),
            buckets: self.buckets.of(owner, worker, Sources::new),
            forgotten: forgotten(worker),
            clock: worker.clock.clone(),
        })
    }
}

impl ConnectionFilter for Filter {
    fn admit(&self, conn: &ConnInfo) -> Admit {
        let Rate { count, per } = self.settings.connections;
        let source = match self.settings.per {
            Per::SourceIp => source_of(conn.source()),
            Per::Listener => source_of(sluice_core::connection::Peer::Unix),
        };
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let (bucket, forgot) = buckets.entry(source);
        if forgot {
            self.forgotten.increment();
        }
        let burst = self.settings.burst.unwrap_or(count).max(1);
        if bucket.take(self.clock.now(), per / count, burst) {
            return Admit::Now(Verdict::Continue);
        }
        let rate = show_rate(self.settings.connections);
        let who = match self.settings.per {
            Per::SourceIp => " per source_ip",
            Per::Listener => "",
        };
        conn.note(format_args!("rate_limit: connections: {rate}{who}"));
        Admit::Now(Verdict::Reject(reasons::RATE))
    }
}
