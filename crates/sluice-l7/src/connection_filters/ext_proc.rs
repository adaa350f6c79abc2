//! `ext_proc` for connections: a service sees and changes their bytes.
//!
//! Owns: the settings, and what becomes of a piece of bytes. Refuses to know: how pieces are read and written, and how the service is
//! called. Keeps: a piece passes when it was answered, and the next one after it; without an answer in time the connection ends,
//! unless the configuration says otherwise.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_core::{ConnInfo, Name, Node, Plain, Setting, Shape, Spanned, Verdict};
use sluice_io::byte_filter::ByteResume;
use sluice_io::{Admit, ByteFilter, ByteStep, ConnectionFilter, ConnectionFilterPlan, WorkerCx};
use sluice_l4::filters::{CheckContext, FilterFactory, long_form_of};
use sluice_l4::reasons;
use sluice_upstream::Cluster;

use self::link::{BytesAnswer, BytesEnd, BytesLink};
use self::messages::{BytesSide, PROCESS};
use crate::GrpcMethod;
use crate::filters::ext_authz::settings::ContextTexts;
use crate::filters::ext_proc::settings::method;

mod link;
mod messages;

sluice_core::section! {
    /// Has a service see and change the bytes of connections, over gRPC
    /// (`envoy.service.network_ext_proc.v3.NetworkExternalProcessor/Process`).
    pub struct ConnectionProc {
        /// The cluster of the service.
        pub cluster: Spanned<Name>,
        /// The time for each answer; at most an hour, and never more than `limits.filter_wait_seconds`.
        pub timeout: Duration = "200ms",
        /// Whether the service is sent what clients send.
        pub received: bool = "true",
        /// Whether the service is sent what is sent to clients.
        pub sent: bool = "true",
        /// Whether bytes pass as they are if the service fails: it cannot be reached, is late, or answers what it should not.
        pub allow_on_error: bool = "false",
        /// Metadata that each call begins with.
        pub call_metadata: ContextTexts,
    }
}

/// The longest time for an answer, as in Envoy.
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// The factory.
#[derive(Debug)]
pub struct ConnectionProcFactory;

impl FilterFactory<dyn ConnectionFilterPlan> for ConnectionProcFactory {
    fn name(&self) -> &'static str {
        "ext_proc"
    }

    fn help(&self) -> &'static str {
        "Has a service see and change the bytes of connections."
    }

    fn shape(&self) -> Shape {
        ConnectionProc::shape()
    }

    fn long_form(&self, settings: &Node) -> Option<Plain> {
        long_form_of::<ConnectionProc>(settings)
    }

    fn check(
        &self,
        settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn ConnectionFilterPlan>> {
        let of = context.bind::<ConnectionProc>(settings)?;
        let cluster = context.cluster(&of.cluster, "cluster")?;
        if of.timeout > TIMEOUT_MAX || of.timeout.is_zero() {
            let at = context.at.key("timeout");
            let message = "`timeout` must be more than 0, and at most 1h";
            context.diags.error("bad-value", settings.span, at, message);
            return None;
        }
        if !of.received && !of.sent {
            let message = "the service is sent nothing";
            let finding = context.diags.error("bad-value", settings.span, context.at, message);
            finding.help("remove `received: false` or `sent: false`, or the filter");
            return None;
        }
        let method = method(PROCESS, &of.call_metadata, settings, context)?;
        Some(Arc::new(ConnectionProcPlan { settings: of, cluster, method }))
    }
}

#[derive(Clone, Debug)]
struct ConnectionProcPlan {
    settings: ConnectionProc,
    cluster: Arc<Cluster>,
    method: GrpcMethod,
}

impl ConnectionFilterPlan for ConnectionProcPlan {
    fn filters_bytes(&self) -> bool {
        true
    }

    fn on_worker(&self, worker: &Rc<WorkerCx>, owner: &str) -> Rc<dyn ConnectionFilter> {
        let listener = owner.split('/').next().unwrap_or_default().into();
        Rc::new(ConnectionProcFilter {
            plan: self.clone(),
            worker: Rc::clone(worker),
            listener,
            open: RefCell::default(),
        })
    }
}

#[derive(Debug)]
struct ConnectionProcFilter {
    plan: ConnectionProcPlan,
    worker: Rc<WorkerCx>,
    listener: Rc<str>,
    /// The conversations about open connections, by their numbers.
    open: RefCell<HashMap<u64, Rc<BytesLink>>>,
}

impl ConnectionFilter for ConnectionProcFilter {
    fn admit(&self, _: &ConnInfo) -> Admit {
        Admit::Now(Verdict::Continue)
    }

    fn ended(&self, conn: &ConnInfo) {
        let link = self.open.borrow_mut().remove(&conn.id);
        if let Some(said) = link.and_then(|link| link.said()) {
            conn.note(format_args!("ext_proc: {said}"));
        }
    }

    fn byte_filter(&self, conn: &ConnInfo) -> Option<Box<dyn ByteFilter>> {
        let ConnectionProcPlan { cluster, method, .. } = &self.plan;
        let link = BytesLink::new(&self.worker, cluster, method, &self.listener);
        self.open.borrow_mut().insert(conn.id, Rc::clone(&link));
        Some(Box::new(ProcessedBytes { settings: self.plan.settings.clone(), link }))
    }
}

/// The byte filter of one connection.
#[derive(Debug)]
struct ProcessedBytes {
    settings: ConnectionProc,
    link: Rc<BytesLink>,
}

impl Drop for ProcessedBytes {
    fn drop(&mut self) {
        self.link.close();
    }
}

impl ProcessedBytes {
    fn step(&self, side: BytesSide, bytes: &[u8], last: bool) -> ByteStep {
        let allow = self.settings.allow_on_error;
        if let Some(end) = self.link.end() {
            return after(&end, allow);
        }
        self.link.send(side, bytes, last);
        let (link, timeout) = (Rc::clone(&self.link), self.settings.timeout);
        ByteStep::Wait(Box::pin(async move {
            let answered = link.answered(side, timeout).await;
            Box::new(move |bytes: &mut Vec<u8>| match answered {
                BytesAnswer::AsTheyAre => ByteStep::Continue,
                BytesAnswer::Changed(new) => {
                    *bytes = new.into();
                    ByteStep::Continue
                }
                BytesAnswer::None(end) => after(&end, allow),
            }) as ByteResume
        }))
    }
}

impl ByteFilter for ProcessedBytes {
    fn received(&mut self, bytes: &mut Vec<u8>, last: bool) -> ByteStep {
        match self.settings.received {
            true => self.step(BytesSide::Received, bytes, last),
            false => ByteStep::Continue,
        }
    }

    fn sent(&mut self, bytes: &mut Vec<u8>, last: bool) -> ByteStep {
        match self.settings.sent {
            true => self.step(BytesSide::Sent, bytes, last),
            false => ByteStep::Continue,
        }
    }
}

/// What becomes of a piece that has no answer.
fn after(end: &BytesEnd, allow_on_error: bool) -> ByteStep {
    match end {
        BytesEnd::Left => ByteStep::Continue,
        BytesEnd::Close => ByteStep::Close(reasons::DENIED),
        BytesEnd::Reset => ByteStep::Cut(reasons::DENIED),
        BytesEnd::Failed(_) if allow_on_error => ByteStep::Continue,
        BytesEnd::Failed(why) => ByteStep::Cut(*why),
    }
}
