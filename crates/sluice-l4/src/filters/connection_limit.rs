//! `connection_limit`: concurrent connections, in total and per source.
//!
//! Owns: the counts, across all workers and reloads. Refuses to know: what a connection carries. Keeps: a count is given back
//! when the connection that took it ends; a source with connections is never forgotten, and a connection that found no room
//! for its source in the table takes nothing from what others are counted by.

use std::cell::RefCell;
use std::collections::HashSet;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use sluice_core::{ConnInfo, Moment, Node, Plain, Setting, Shape, Verdict};
use sluice_io::{Admit, ConnectionFilter, ConnectionFilterPlan, WorkerCx};
use sluice_telemetry::Counter;

use super::buckets::{KeyState, KeyedTable, PerOwner, forgotten, source_of};
use super::{CheckContext, FilterFactory, long_form_of};
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
    by_source: KeyedTable<SourceConnections>,
}

/// The connections of a source. It changes only under the lock of the table.
#[derive(Debug, Default)]
struct SourceConnections(AtomicU64);

impl KeyState for SourceConnections {
    fn is_blank(&self, _: Moment) -> bool {
        self.0.load(Relaxed) == 0
    }
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
    /// The connections whose source has no entry, because the table was full of sources in use.
    uncounted: RefCell<HashSet<u64>>,
    forgotten: Counter,
    worker: Rc<WorkerCx>,
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

    fn long_form(&self, settings: &Node) -> Option<Plain> {
        long_form_of::<ConnectionLimit>(settings)
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
        let new = |bound| Mutex::new(Counts { all: 0, by_source: KeyedTable::new(bound) });
        let counts = self.counts.of(owner, worker, new);
        Rc::new(ConnectionLimitFilter {
            settings: self.settings.clone(),
            counts,
            uncounted: RefCell::default(),
            forgotten: forgotten(worker),
            worker: Rc::clone(worker),
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
            let (source, kept) = self.source(&mut counts, conn);
            let count = source.0.load(Relaxed);
            if count >= max {
                conn.note(format_args!("connection_limit: per_source: {max}"));
                return Admit::Now(Verdict::Reject(reasons::SOURCE_LIMIT));
            }
            if kept {
                source.0.store(count + 1, Relaxed);
            } else {
                self.forgotten.increment();
                self.uncounted.borrow_mut().insert(conn.id);
            }
        }
        counts.all += 1;
        Admit::Now(Verdict::Continue)
    }

    fn moved(&self, from: &ConnInfo, to: &ConnInfo) {
        let mut uncounted = self.uncounted.borrow_mut();
        if uncounted.remove(&from.id) {
            uncounted.insert(to.id);
        }
    }

    fn ended(&self, conn: &ConnInfo) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.all = counts.all.saturating_sub(1);
        let counted = !self.uncounted.borrow_mut().remove(&conn.id);
        if self.settings.per_source.is_some() && counted {
            let (source, _) = self.source(&mut counts, conn);
            source.0.store(source.0.load(Relaxed).saturating_sub(1), Relaxed);
        }
    }
}

impl ConnectionLimitFilter {
    /// The connections of the source of this one, and whether the table has them.
    fn source(&self, counts: &mut Counts, conn: &ConnInfo) -> (Arc<SourceConnections>, bool) {
        let now = self.worker.now();
        match source_of(conn.source()).network() {
            IpAddr::V4(v4) => counts.by_source.entry(&v4.octets(), now),
            IpAddr::V6(v6) => counts.by_source.entry(&v6.octets(), now),
        }
    }
}
