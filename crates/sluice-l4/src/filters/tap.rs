//! `tap`: traces of the bytes of connections.
//!
//! Owns: what is recorded of a connection, and when. Refuses to know: how traces are written. Keeps: bytes pass whether they
//! are recorded or not; a connection that does not match costs nothing but the look.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_core::settings::Size;
use sluice_core::{ConnInfo, Node, Plain, Setting, Shape, Spanned, Verdict};
use sluice_io::{Admit, ByteTap, ConnectionFilter, ConnectionFilterPlan, WorkerCx};

use super::{CheckContext, FilterFactory, FilterOwner, long_form_of};
use crate::rbac::conn::{ConnCondition, ConnSubject, ConnectionCondition};
use crate::rbac::settings::ConditionSettings as _;
use crate::rbac::{Formula, Lean};
use crate::tap::{
    OpenTap, TapFiles, TapFilesPlan, TapFormat, TraceField, TraceValue, address_pair, body_of,
    message,
};

sluice_core::section! {
    /// Records the bytes of connections, each in a file.
    pub struct ConnectionTap {
        /// What the names of the files begin with: a folder and the beginning of a name. A number and an extension follow.
        pub file: Option<Spanned<PathBuf>>,
        /// The form of a trace.
        pub format: TapFormat = "json_bytes",
        /// Which connections are recorded. All if omitted.
        pub wanted as "match": Option<ConnectionCondition>,
        /// Whether what passes is written as it passes, each piece on its own, rather than all of it at the end.
        pub stream: bool = "false",
        /// How much of what a client sends is recorded; with `stream`, of each piece.
        pub received: Size = "1KiB",
        /// How much of what a client receives is recorded; with `stream`, of each piece.
        pub sent: Size = "1KiB",
    }
}

/// Checks where traces go, and warns if that is no folder.
pub fn files_of(
    file: Option<&Spanned<PathBuf>>,
    format: TapFormat,
    node: &Node,
    context: &mut CheckContext<'_>,
) -> Option<Arc<TapFilesPlan>> {
    let Some(file) = file else {
        let message = "`tap` needs to know where traces go";
        context.diags.error("missing-field", node.span, context.at, message).help(
            "set `file` to a folder and the beginning of a name, such as `file: /var/tmp/taps/app`",
        );
        return None;
    };
    let prefix = context.path(&file.value, "file")?;
    if let Some(folder) = prefix.parent().filter(|folder| !folder.is_dir()) {
        let message = format!("there is no folder {}", folder.display());
        context
            .diags
            .warning("missing-folder", file.span, context.at.key("file"), message)
            .help("create it, or nothing is recorded");
    }
    Some(Arc::new(TapFilesPlan { prefix, format }))
}

/// The factory.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionTapFactory;

impl FilterFactory<dyn ConnectionFilterPlan> for ConnectionTapFactory {
    fn name(&self) -> &'static str {
        "tap"
    }

    fn help(&self) -> &'static str {
        "Records the bytes of connections, each in a file."
    }

    fn shape(&self) -> Shape {
        ConnectionTap::shape()
    }

    fn long_form(&self, settings: &Node) -> Option<Plain> {
        long_form_of::<ConnectionTap>(settings)
    }

    fn check(
        &self,
        settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn ConnectionFilterPlan>> {
        let tap = context.bind::<ConnectionTap>(settings)?;
        let wanted = tap.wanted.as_ref().map(|wanted| wanted.formula());
        let needs_chain =
            wanted.as_ref().is_some_and(|wanted| wanted.contains(&ConnCondition::needs_chain));
        if needs_chain && matches!(context.owner, FilterOwner::Listener(_)) {
            let message = "server names and certificates are not known before a chain is selected";
            context
                .diags
                .error("bad-value", settings.span, context.at.key("match"), message)
                .help("use the filter on a chain");
            return None;
        }
        let files = files_of(tap.file.as_ref(), tap.format, settings, context)?;
        let bytes = |of: Size| usize::try_from(of.0).unwrap_or(usize::MAX);
        let (received, sent) = (bytes(tap.received), bytes(tap.sent));
        let plan = ConnectionTapPlan { files, wanted, stream: tap.stream, received, sent };
        Some(Arc::new(ConnectionTapUse(Arc::new(plan))))
    }
}

#[derive(Debug)]
struct ConnectionTapPlan {
    files: Arc<TapFilesPlan>,
    wanted: Option<Formula<ConnCondition>>,
    stream: bool,
    received: usize,
    sent: usize,
}

/// A use, shared by all workers.
#[derive(Debug)]
struct ConnectionTapUse(Arc<ConnectionTapPlan>);

impl ConnectionFilterPlan for ConnectionTapUse {
    fn filters_bytes(&self) -> bool {
        true
    }

    fn on_worker(&self, worker: &Rc<WorkerCx>, owner: &str) -> Rc<dyn ConnectionFilter> {
        Rc::new(ConnectionTapFilter {
            plan: Arc::clone(&self.0),
            files: TapFiles::new(Arc::clone(&self.0.files), worker, owner),
            worker: Rc::clone(worker),
            open: RefCell::default(),
        })
    }
}

/// The filter on a worker.
#[derive(Debug)]
struct ConnectionTapFilter {
    plan: Arc<ConnectionTapPlan>,
    files: Rc<TapFiles>,
    worker: Rc<WorkerCx>,
    /// The connections that are being recorded, by their numbers.
    open: RefCell<HashMap<u64, Rc<TracedConnection>>>,
}

impl ConnectionFilter for ConnectionTapFilter {
    fn admit(&self, _: &ConnInfo) -> Admit {
        Admit::Now(Verdict::Continue)
    }

    fn tap(&self, conn: &ConnInfo) -> Option<Rc<dyn ByteTap>> {
        let fits = |wanted: &Formula<_>| wanted.fits(&ConnSubject::of(conn), Lean::ToMatch);
        if !self.plan.wanted.as_ref().is_none_or(fits) {
            return None;
        }
        let tap = self.files.open()?;
        let ends = address_pair(Some(conn.destination()), Some(conn.source()), false);
        let trace = SocketTrace {
            tap,
            ends,
            events: Vec::new(),
            read: RecordedSide::default(),
            write: RecordedSide::default(),
        };
        let traced = Rc::new(TracedConnection {
            plan: Arc::clone(&self.plan),
            worker: Rc::clone(&self.worker),
            trace: RefCell::new(trace),
        });
        if self.plan.stream {
            traced.trace.borrow_mut().begin();
        }
        self.open.borrow_mut().insert(conn.id, Rc::clone(&traced));
        Some(traced)
    }

    fn ended(&self, conn: &ConnInfo) {
        if let Some(traced) = self.open.borrow_mut().remove(&conn.id) {
            traced.end();
        }
    }
}

/// A connection that is being recorded.
#[derive(Debug)]
struct TracedConnection {
    plan: Arc<ConnectionTapPlan>,
    worker: Rc<WorkerCx>,
    trace: RefCell<SocketTrace>,
}

#[derive(Debug)]
struct SocketTrace {
    tap: OpenTap,
    ends: TraceValue,
    events: Vec<TraceValue>,
    read: RecordedSide,
    write: RecordedSide,
}

/// What has been recorded of one direction.
#[derive(Debug, Default)]
struct RecordedSide {
    bytes: usize,
    truncated: bool,
}

/// What an event takes besides its bytes.
const EVENT: usize = 256;

impl ByteTap for TracedConnection {
    fn received(&self, bytes: &[u8]) {
        self.passed(true, bytes);
    }

    fn sent(&self, bytes: &[u8]) {
        self.passed(false, bytes);
    }
}

impl TracedConnection {
    fn now(&self) -> Duration {
        self.worker.clock.wall(self.worker.now())
    }

    fn passed(&self, read: bool, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let max = if read { self.plan.received } else { self.plan.sent };
        let mut trace = self.trace.borrow_mut();
        let SocketTrace { tap, read: received, write: sent, .. } = &mut *trace;
        let side = if read { received } else { sent };
        if side.truncated && !self.plan.stream {
            return;
        }
        let room = if self.plan.stream { max } else { max - side.bytes };
        let wanted = bytes.len().min(room);
        let kept = tap.take(wanted + EVENT).saturating_sub(EVENT);
        let truncated = kept < bytes.len();
        side.bytes += kept;
        side.truncated |= truncated;
        let data = (1, "data", body_of(bytes[..kept].to_vec(), truncated));
        let what = match read {
            true => (2, "read", message([data])),
            false => (3, "write", message([data, (2, "end_stream", TraceValue::Bool(false))])),
        };
        let event = message([(1, "timestamp", TraceValue::Time(self.now())), what]);
        if self.plan.stream {
            trace.segment((3, "event", event));
        } else {
            trace.events.push(event);
        }
    }

    fn end(&self) {
        let mut trace = self.trace.borrow_mut();
        if self.plan.stream {
            let at = (1, "timestamp", TraceValue::Time(self.now()));
            return trace.segment((3, "event", message([at, (4, "closed", message([]))])));
        }
        let buffered = message([
            (1, "trace_id", TraceValue::Long(trace.tap.id)),
            (2, "connection", trace.ends.clone()),
            (3, "events", TraceValue::List(std::mem::take(&mut trace.events))),
            (4, "read_truncated", TraceValue::Bool(trace.read.truncated)),
            (5, "write_truncated", TraceValue::Bool(trace.write.truncated)),
        ]);
        trace.tap.submit(message([(3, "socket_buffered_trace", buffered)]));
    }
}

impl SocketTrace {
    fn begin(&mut self) {
        let ends = self.ends.clone();
        self.segment((2, "connection", ends));
    }

    fn segment(&mut self, (number, name, value): (u32, &'static str, TraceValue)) {
        let id = TraceField { number: 1, name: "trace_id", value: TraceValue::Long(self.tap.id) };
        let segment = TraceValue::Message(vec![id, TraceField { number, name, value }]);
        self.tap.submit(message([(4, "socket_streamed_trace_segment", segment)]));
    }
}
