//! `connection_limit`: concurrent connections, in total and per source.
//!
//! Owns: the counts, across all workers and reloads. Keeps: a count is given back when the connection that took it
//! ends.

use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use sluice_core::{ConnInfo, Node, Setting, Shape, Verdict};
use sluice_io::{Admit, ConnectionFilter, ConnectionFilterPlan, WorkerCx};
use sluice_telemetry::Counter;

use super::buckets::{BucketTable, PerOwner, forgotten, source_of};
use super::{CheckContext, FilterFactory};
use crate::reasons;

sluice_core::section! {
    /// Limits concurrent connections.
    pub struct ConnectionLimit {
        /// The most concurrent connections of the listener or chain, over all workers.
        pub max: Option<u64>,
        /// The most concurrent connections from one source: an IPv4 address or an IPv6 /64.
        pub per_source: Option<u64>,
    }
}

/// The factory; holds the counts of each listener and chain that uses the filter.
#[derive(Debug, Default)]
pub struct ConnectionLimitFactory {
    counts: PerOwner<Mutex<Counts>>,
}

#[derive(Debug)]
struct Counts {
    all: u64,
    by_source: BucketTable<u64>,
}

#[derive(Debug)]
struct ConnectionLimitPlan {
    settings: ConnectionLimit,
    counts: PerOwner<Mutex<Counts>>,
}

#[derive(Debug)]
struct ConnectionLimitFilter {
    settings: ConnectionLimit,
    counts: Arc<Mutex<Counts>>,
    forgotten: Counter,
}

impl FilterFactory<dyn ConnectionFilterPlan> for ConnectionLimitFactory {
    fn name(&self) -> &'static str {
        "connection_limit"
    }

    fn help(&self) -> &'static str {
        "Limits concurrent connections, in total and per source."
    }

    fn shape(&self) -> Shape {
        ConnectionLimit::shape()
    }

    fn check(
        &self,
        settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn ConnectionFilterPlan>> {
        let bound = context.bind::<ConnectionLimit>(settings)?;
        if bound.max.is_none() && bound.per_source.is_none() {
            context
                .diags
                .error("missing-field", settings.span, context.at, "this filter limits nothing")
                .help("set `max`, `per_source` or both");
            return None;
        }
        Some(Arc::new(ConnectionLimitPlan { settings: bound, counts: self.counts.clone() }))
    }
}

impl ConnectionFilterPlan for ConnectionLimitPlan {
    fn on_worker(&self, worker: &Rc<WorkerCx>, owner: &str) -> Rc<dyn ConnectionFilter> {
        let new = |bound| Mutex::new(Counts { all: 0, by_source: BucketTable::new(bound) });
        let counts = self.counts.of(owner, worker, new);
        Rc::new(ConnectionLimitFilter {
            settings: self.settings.clone(),
            counts,
            forgotten: forgotten(worker),
        })
    }
}

impl ConnectionFilter for ConnectionLimitFilter {
    fn admit(&self, conn: &ConnInfo) -> Admit {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(max) = self.settings.max.filter(|max| counts.all >= *max) {
            conn.note(format_args!("connection_limit: max: {max}"));
            return Admit::Now(Verdict::Reject(reasons::LIMIT));
        }
        if let Some(max) = self.settings.per_source {
            let (count, forgot) = counts.by_source.entry(source_of(conn.source()));
            if forgot {
                self.forgotten.increment();
            }
            if *count >= max {
                conn.note(format_args!("connection_limit: per_source: {max}"));
                return Admit::Now(Verdict::Reject(reasons::SOURCE_LIMIT));
            }
            *count += 1;
        }
        counts.all += 1;
        Admit::Now(Verdict::Continue)
    }

    fn ended(&self, conn: &ConnInfo) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.all = counts.all.saturating_sub(1);
        if self.settings.per_source.is_some() {
            let source = source_of(conn.source());
            let (count, _) = counts.by_source.entry(source);
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.by_source.remove(source);
            }
        }
    }
}
