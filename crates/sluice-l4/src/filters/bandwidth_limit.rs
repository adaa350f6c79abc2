//! `bandwidth_limit`: how fast the bytes of connections pass, of each, of each source, or of all together.
//!
//! Owns: the rates, across all workers and reloads. Refuses to know: how bytes are moved. Keeps: nothing is lost or reordered,
//! and nobody is refused: the peer is not read from until what was read may go.

use std::rc::Rc;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use sluice_core::limits::Limit;
use sluice_core::settings::Size;
use sluice_core::value::ByteRate;
use sluice_core::{ConnInfo, Node, Plain, Setting, Shape, Verdict};
use sluice_io::timers::Timer;
use sluice_io::{Admit, ByteFilter, ByteStep, ConnectionFilter, ConnectionFilterPlan, WorkerCx};
use sluice_telemetry::Counter;

use super::buckets::{
    BytePace, BytesDue, KeyedTable, LockedTable, PacePlan, PerOwner, forgotten, source_of,
};
use super::{CheckContext, FilterFactory, long_form_of};
use crate::metrics;

sluice_core::choice! {
    /// What shares a rate of bytes.
    pub enum ConnectionPaceKey {
        /// Each connection has a rate of its own.
        Connection = "connection",
        /// The connections of a source share one: an IPv4 address or an IPv6 /64.
        SourceIp = "source_ip",
        /// All connections of the listener or chain share one.
        Listener = "listener",
    }
}

sluice_core::section! {
    /// Limits how fast bytes pass. At least one of `upload` and `download` is required.
    pub struct ConnectionBandwidth {
        /// The rate of what clients send.
        pub upload: Option<ByteRate>,
        /// The rate of what clients receive.
        pub download: Option<ByteRate>,
        /// What shares a rate.
        pub per: ConnectionPaceKey = "connection",
        /// The bytes of each direction of a connection that pass before the limit applies.
        pub after: Size = "0",
        /// The bytes that may pass at once after a pause; by default what the rate allows in `interval`.
        pub burst: Option<Size>,
        /// In portions for how much time bytes pass; shorter is smoother, longer takes less work. From 1ms to 1s.
        pub interval: Duration = "50ms",
    }
}

/// How the bytes of a direction pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortionPlan {
    /// The rate, and what it allows at once.
    pub pace: PacePlan,
    /// The most bytes of a portion.
    pub portion: usize,
}

impl PortionPlan {
    /// Bytes at this rate, in portions of the interval.
    pub fn new(rate: ByteRate, burst: Option<Size>, interval: Duration) -> Self {
        let bytes = u128::from(rate.0) * interval.as_micros() / 1_000_000;
        let portion = u64::try_from(bytes).unwrap_or(u64::MAX).max(1);
        // A portion that exceeds the burst would wait although nothing has passed.
        let burst = burst.map_or(portion, |Size(burst)| burst.max(1));
        let portion = usize::try_from(portion.min(burst)).unwrap_or(usize::MAX);
        Self { pace: PacePlan { rate, burst }, portion }
    }
}

/// Reports an interval that is too short or too long.
pub fn check_interval(
    interval: Duration,
    node: &Node,
    context: &mut CheckContext<'_>,
) -> Option<()> {
    if (1..=1000).contains(&interval.as_millis()) {
        return Some(());
    }
    let at = context.at.key("interval");
    context.diags.error("bad-value", node.span, at, "`interval` must be from 1ms to 1s");
    None
}

/// The factory; holds the rates of each listener and chain that uses the filter.
#[derive(Debug, Default)]
pub struct ConnectionBandwidthFactory {
    paces: PerOwner<LockedTable<BytePace>>,
}

impl FilterFactory<dyn ConnectionFilterPlan> for ConnectionBandwidthFactory {
    fn name(&self) -> &'static str {
        "bandwidth_limit"
    }

    fn help(&self) -> &'static str {
        "Limits how fast the bytes of connections pass: of each, of each source, or of all together."
    }

    fn shape(&self) -> Shape {
        ConnectionBandwidth::shape()
    }

    fn long_form(&self, settings: &Node) -> Option<Plain> {
        long_form_of::<ConnectionBandwidth>(settings)
    }

    fn check(
        &self,
        node: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn ConnectionFilterPlan>> {
        let settings = context.bind::<ConnectionBandwidth>(node)?;
        check_interval(settings.interval, node, context)?;
        if settings.upload.is_none() && settings.download.is_none() {
            context
                .diags
                .error("missing-field", node.span, context.at, "this filter limits nothing")
                .help("set `upload`, `download` or both, such as `download: 1MiB/s`");
            return None;
        }
        Some(Arc::new(ConnectionBandwidthPlan { settings, paces: self.paces.clone() }))
    }
}

#[derive(Debug)]
struct ConnectionBandwidthPlan {
    settings: ConnectionBandwidth,
    paces: PerOwner<LockedTable<BytePace>>,
}

impl ConnectionFilterPlan for ConnectionBandwidthPlan {
    fn filters_bytes(&self) -> bool {
        true
    }

    fn on_worker(&self, worker: &Rc<WorkerCx>, owner: &str) -> Rc<dyn ConnectionFilter> {
        let settings = &self.settings;
        let listener = owner.split('/').next().unwrap_or_default();
        let direction = |name: &str, rate: Option<ByteRate>| {
            let table = self.paces.of(&format!("{owner}#{name}"), worker, KeyedTable::locked);
            let held = worker.shard.counter(&metrics::BANDWIDTH, &[listener, name]);
            rate.map(|rate| PacedDirection {
                plan: PortionPlan::new(rate, settings.burst, settings.interval),
                table,
                held,
            })
        };
        Rc::new(ConnectionBandwidthFilter {
            upload: direction("upload", settings.upload),
            download: direction("download", settings.download),
            per: settings.per,
            after: settings.after.0,
            forgotten: forgotten(worker),
            worker: Rc::clone(worker),
        })
    }
}

/// A direction on a worker.
#[derive(Debug)]
struct PacedDirection {
    plan: PortionPlan,
    table: Arc<LockedTable<BytePace>>,
    held: Counter,
}

#[derive(Debug)]
struct ConnectionBandwidthFilter {
    upload: Option<PacedDirection>,
    download: Option<PacedDirection>,
    per: ConnectionPaceKey,
    after: u64,
    forgotten: Counter,
    worker: Rc<WorkerCx>,
}

impl ConnectionBandwidthFilter {
    /// The bytes of a direction of a connection.
    fn paced(&self, direction: &PacedDirection, conn: &ConnInfo) -> PacedBytes {
        let text = match self.per {
            ConnectionPaceKey::Connection => None,
            ConnectionPaceKey::SourceIp => Some(source_of(conn.source()).to_string()),
            ConnectionPaceKey::Listener => Some(String::new()),
        };
        let shared = text.map(|text| {
            let mut table = direction.table.lock().unwrap_or_else(PoisonError::into_inner);
            let (pace, kept) = table.entry(text.as_bytes(), self.worker.now());
            if !kept {
                self.forgotten.increment();
            }
            pace
        });
        PacedBytes {
            plan: direction.plan,
            pace: shared.unwrap_or_default(),
            free: self.after,
            held: Some(direction.held.clone()),
        }
    }
}

impl ConnectionFilter for ConnectionBandwidthFilter {
    fn admit(&self, _: &ConnInfo) -> Admit {
        Admit::Now(Verdict::Continue)
    }

    fn byte_filter(&self, conn: &ConnInfo) -> Option<Box<dyn ByteFilter>> {
        let paced = |direction: &Option<PacedDirection>| {
            direction.as_ref().map(|direction| self.paced(direction, conn))
        };
        Some(Box::new(PacedConnection {
            upload: paced(&self.upload),
            download: paced(&self.download),
            worker: Rc::clone(&self.worker),
        }))
    }
}

/// The bytes of a direction of a connection.
#[derive(Debug)]
struct PacedBytes {
    plan: PortionPlan,
    pace: Arc<BytePace>,
    /// The bytes that pass before the limit applies.
    free: u64,
    /// Counts a connection that is held up for the first time.
    held: Option<Counter>,
}

impl PacedBytes {
    fn pass(&mut self, worker: &Rc<WorkerCx>, bytes: usize) -> ByteStep {
        let bytes = bytes as u64;
        let free = self.free.min(bytes);
        self.free -= free;
        if free == bytes {
            return ByteStep::Continue;
        }
        let due = self.pace.take(self.plan.pace, worker.now(), bytes - free);
        if due.at() > worker.now()
            && let Some(held) = self.held.take()
        {
            held.increment();
        }
        hold(Rc::clone(worker), due)
    }

    /// The most bytes at once: before the limit applies, as many as that is for.
    fn most(&self) -> usize {
        let free = usize::try_from(self.free).unwrap_or(usize::MAX);
        self.plan.portion.max(free)
    }
}

/// Waits until bytes may go. A wait of a filter is bounded (`filter_wait_seconds`), because what it waits for may never
/// happen; a time comes by itself, so that a wait for it is made up of several.
fn hold(worker: Rc<WorkerCx>, due: BytesDue) -> ByteStep {
    let now = worker.now();
    if due.at() <= now {
        due.go();
        return ByteStep::Continue;
    }
    let most = Duration::from_secs(worker.limits.get(Limit::FilterWait)) / 2;
    let by = due.at().min(now.after(most));
    ByteStep::Wait(Box::pin(async move {
        Timer::new(&worker.timers).passed(by).await;
        Box::new(move |_: &mut Vec<u8>| hold(worker, due)) as _
    }))
}

/// The bytes of a connection.
#[derive(Debug)]
struct PacedConnection {
    upload: Option<PacedBytes>,
    download: Option<PacedBytes>,
    worker: Rc<WorkerCx>,
}

impl ByteFilter for PacedConnection {
    fn received_max(&self) -> usize {
        self.upload.as_ref().map_or(usize::MAX, PacedBytes::most)
    }

    fn received(&mut self, bytes: &mut Vec<u8>, _: bool) -> ByteStep {
        match &mut self.upload {
            Some(upload) => upload.pass(&self.worker, bytes.len()),
            None => ByteStep::Continue,
        }
    }

    fn sent_max(&self) -> usize {
        self.download.as_ref().map_or(usize::MAX, PacedBytes::most)
    }

    fn sent(&mut self, bytes: &mut Vec<u8>, _: bool) -> ByteStep {
        match &mut self.download {
            Some(download) => download.pass(&self.worker, bytes.len()),
            None => ByteStep::Continue,
        }
    }
}
