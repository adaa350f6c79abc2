//! What is remembered of a request, and the conversation about it.
//!
//! Owns: how far each direction is, what is sent with a part, and the end. Refuses to know: the hooks, and what answers
//! change. Keeps: the conversation begins with the first part that is sent, and ends with the request.

use std::any::Any;
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use sluice_codec::Head;
use sluice_core::values::ValueFamily;
use sluice_core::{LocalFuture, Moment};
use sluice_io::WorkerCx;
use sluice_io::buffers::Charge;
use sluice_telemetry::CounterSet;

use super::attributes::{self, NAMESPACE};
use super::link::{PartAnswered, ProcLink};
use super::messages::{ProcessingRequest, ProtocolConfiguration, RequestPart};
use super::parts::{MessageSide, SentPart};
use super::settings::{BodyMode, ProcSettings, SentParts};
use crate::filters::rbac::request::RequestSubject;
use crate::filters::{BodyAccess, Cx};
use crate::json::Json;
use crate::metrics;
use crate::record::SideCallRecord;
use crate::side_calls::SideCallLog;

sluice_core::values! {
    RESULT: &'static str = "ext_proc.result", "What became of the request in the filter `ext_proc`: `processed`; `closed` if the service ended the conversation before; `replied` if it responded itself; `failed`.";
    METADATA: ValueFamily = "ext_proc.metadata.*", "What the service of the filter `ext_proc` tells of the request (dynamic metadata), by namespaces and the names in them.";
}

/// What a request that waits needs of the filter.
#[derive(Debug)]
pub(super) struct ProcRunning {
    /// `None` in a rule that adds to settings which its chain does not have.
    pub(super) settings: Option<Arc<ProcSettings>>,
    worker: Rc<WorkerCx>,
    listener: Box<str>,
    results: CounterSet<&'static str>,
    ignored: CounterSet<&'static str>,
}

/// What is remembered of a request.
#[derive(Debug)]
pub(super) struct OfProc {
    pub(super) settings: Arc<ProcSettings>,
    pub(super) link: Option<Rc<ProcLink>>,
    log: SideCallLog,
    began: Moment,
    /// What is sent, as the service may have changed it.
    pub(super) send: SentParts,
    /// Whether the service is asked nothing more.
    pub(super) is_over: bool,
    pub(super) result: &'static str,
    pub(super) request: SideProgress,
    pub(super) response: SideProgress,
    /// What the service told, by its namespaces.
    pub(super) metadata: BTreeMap<Box<str>, Json>,
}

/// How far one direction is.
#[derive(Debug)]
pub(super) struct SideProgress {
    /// Whether its attributes were sent.
    told: bool,
    /// Whether it has neither body nor trailers.
    pub(super) ends: bool,
    /// How what is left of its body is sent.
    pub(super) body: BodyMode,
    /// Whether its trailers are sent.
    pub(super) trailers: bool,
    /// The start of the body, as long as it is not sent (`partial`).
    pub(super) held: BytesMut,
    pub(super) charge: Option<Charge>,
    /// Whether the service knows where the body ends (`duplex`).
    pub(super) ended: bool,
}

impl SideProgress {
    fn new() -> Self {
        Self {
            told: false,
            ends: false,
            body: BodyMode::None,
            trailers: false,
            held: BytesMut::new(),
            charge: None,
            ended: false,
        }
    }
}

impl OfProc {
    pub(super) fn new(settings: &Arc<ProcSettings>, began: Moment) -> Self {
        Self {
            settings: Arc::clone(settings),
            link: None,
            log: SideCallLog::default(),
            began,
            send: settings.send.clone(),
            is_over: false,
            result: "processed",
            request: SideProgress::new(),
            response: SideProgress::new(),
            metadata: BTreeMap::new(),
        }
    }

    pub(super) const fn side(&mut self, side: MessageSide) -> &mut SideProgress {
        match side {
            MessageSide::Request => &mut self.request,
            MessageSide::Response => &mut self.response,
        }
    }

    /// Takes over what is sent of a direction that begins, or whose mode the service has changed.
    pub(super) fn plan(&mut self, side: MessageSide) {
        let send = &self.send;
        let (body, trailers) = match side {
            MessageSide::Request => (send.request_body, send.request_trailers),
            MessageSide::Response => (send.response_body, send.response_trailers),
        };
        let progress = self.side(side);
        progress.body = if progress.ends { BodyMode::None } else { body };
        progress.trailers = !progress.ends && (trailers || body == BodyMode::Duplex);
    }

    pub(super) const fn sends_headers(&self, side: MessageSide) -> bool {
        match side {
            MessageSide::Request => self.send.request_headers,
            MessageSide::Response => self.send.response_headers,
        }
    }

    /// Asks the service nothing more about a direction.
    pub(super) const fn leave(&mut self, side: MessageSide) {
        let progress = self.side(side);
        (progress.body, progress.trailers) = (BodyMode::None, false);
    }

    pub(super) fn access(&self, side: MessageSide) -> BodyAccess {
        let progress = match side {
            MessageSide::Request => &self.request,
            MessageSide::Response => &self.response,
        };
        let holds = || self.link.as_ref().is_some_and(|link| link.holds_body(side));
        if !progress.held.is_empty() {
            return BodyAccess::Edit;
        }
        match progress.body {
            _ if self.is_over && !holds() => BodyAccess::None,
            BodyMode::None | BodyMode::Buffered => BodyAccess::None,
            BodyMode::Streamed if self.settings.observe => BodyAccess::Read,
            BodyMode::Streamed | BodyMode::Partial | BodyMode::Duplex => BodyAccess::Edit,
        }
    }
}

/// What is remembered of a request, to read.
pub(super) fn of_proc<'a>(cx: &'a Cx<'_>) -> Option<&'a OfProc> {
    cx.state.as_ref()?.downcast_ref()
}

/// Runs with what is remembered of the request, if it is anything.
pub(super) fn with_state<R>(
    cx: &mut Cx<'_>,
    run: impl FnOnce(&mut Cx<'_>, &mut OfProc) -> R,
) -> Option<R> {
    let state: Box<dyn Any> = cx.state.take()?;
    let mut of = state.downcast::<OfProc>().ok()?;
    let result = run(cx, &mut of);
    *cx.state = Some(of);
    Some(result)
}

/// The direction of a hook.
pub(super) const fn side_of(response: bool) -> MessageSide {
    if response { MessageSide::Response } else { MessageSide::Request }
}

impl ProcRunning {
    /// `owner` begins with the name of the listener.
    pub(super) fn new(
        settings: Option<Arc<ProcSettings>>,
        worker: &Rc<WorkerCx>,
        owner: &str,
    ) -> Self {
        let listener = owner.split('/').next().unwrap_or_default().into();
        let (results, ignored) = (CounterSet::default(), CounterSet::default());
        Self { settings, worker: Rc::clone(worker), listener, results, ignored }
    }

    pub(super) fn body_max(&self) -> usize {
        self.settings.as_ref().map_or(0, |settings| settings.body_max)
    }

    /// Sends a part; returns the answer to wait for, unless the service only observes.
    pub(super) fn ask(
        &self,
        cx: &mut Cx<'_>,
        of: &mut OfProc,
        side: MessageSide,
        request: Option<&Head>,
        part: SentPart,
        message: RequestPart,
    ) -> Option<LocalFuture<PartAnswered>> {
        let bytes = match &message {
            RequestPart::RequestBody(body) | RequestPart::ResponseBody(body) => body.body.len(),
            _ => 0,
        };
        let is_first = of.link.is_none();
        let link = self.link(cx, of);
        let protocol_config = is_first.then(|| ProtocolConfiguration {
            request_body_mode: of.send.request_body.number(),
            response_body_mode: of.send.response_body.number(),
        });
        let mut attributes = BTreeMap::new();
        let names = match side {
            MessageSide::Request => &of.settings.attributes,
            MessageSide::Response => &of.settings.response_attributes,
        };
        if !names.is_empty()
            && let Some(head) = request.or(cx.request)
            && !std::mem::replace(
                match side {
                    MessageSide::Request => &mut of.request.told,
                    MessageSide::Response => &mut of.response.told,
                },
                true,
            )
        {
            let subject = RequestSubject {
                conn: cx.conn.subject(cx.summary.source, cx.conn_values),
                head,
                values: cx.values,
                readings: OnceCell::new(),
            };
            attributes.insert(NAMESPACE.to_owned(), attributes::values(names, &subject));
        }
        let observability_mode = of.settings.observe;
        let request = Some(message);
        let message =
            ProcessingRequest { request, attributes, observability_mode, protocol_config };
        // A streamed body is answered in the service's own time, and so are the headers before it.
        let streams = of.side(side).body == BodyMode::Duplex;
        let most = link.patience();
        let time = if streams { most } else { of.settings.timeout.min(most) };
        let by = cx.worker.now().after(time);
        link.send(side, part, message, bytes, by);
        (!of.settings.observe).then(|| Box::pin(link.answered(side)) as _)
    }

    /// The conversation, which begins with the first part.
    fn link(&self, cx: &mut Cx<'_>, of: &mut OfProc) -> Rc<ProcLink> {
        let link = of.link.get_or_insert_with(|| {
            let (calls, log) = cx.lasting_calls();
            of.log = log;
            ProcLink::open(&self.worker, &of.settings, calls)
        });
        Rc::clone(link)
    }

    /// Ends the conversation with its request.
    pub(super) fn end(&self, cx: &mut Cx<'_>, of: &mut OfProc) {
        let Some(link) = of.link.take() else { return };
        link.close();
        let mut calls: Vec<SideCallRecord> = std::mem::take(&mut *of.log.borrow_mut());
        if calls.is_empty() {
            // It has not ended, or will be closed now.
            calls.push(SideCallRecord {
                cluster: Arc::clone(&of.settings.cluster.name),
                end: (of.result != "failed").then_some(Ok(200)),
                took: self.worker.now().since(of.began),
                attempts: 1,
            });
        }
        cx.record_calls(calls);
        cx.values.set(&RESULT, of.result);
        self.results.count(&of.result, |result| {
            self.worker.shard.counter(&metrics::EXT_PROC, &[&self.listener, result])
        });
    }

    /// Counts changes that were not allowed.
    pub(super) fn count_ignored(&self, part: &'static str) {
        self.ignored.count(&part, |part| {
            self.worker.shard.counter(&metrics::EXT_PROC_IGNORED, &[&self.listener, part])
        });
    }
}
