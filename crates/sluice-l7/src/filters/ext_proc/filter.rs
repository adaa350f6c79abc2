//! The filter: what is sent of heads, and what becomes of them.
//!
//! Owns: the parts of heads, and which hook does what. Refuses to know: the form of messages, and which answers fit. Keeps: a head waits for its answer before anything of it is passed on; once the service has
//! failed or ended the conversation, it is asked nothing more about the request.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use sluice_codec::{Body, Head, Method};
use sluice_io::WorkerCx;

use super::link::PartAnswered;
use super::machine::AnswerPart;
use super::parts::{MessageSide, SentPart};
use super::pieces;
use super::question;
use super::settings::{BodyMode, ProcSettings};
use super::state::{OfProc, ProcRunning, of_proc, side_of, with_state};
use crate::filters::{
    BodyAccess, BodyStep, Cx, HeadDecision, HeadStep, HttpFilter, ResponseBodyStep, ResponseStep,
    ResponseTrailersStep, TrailersStep, WholeMessage, WholeStep,
};
use crate::reasons;
use crate::reply::Reply;

/// The filter of one worker.
#[derive(Debug)]
pub(super) struct ProcFilter(Rc<ProcRunning>);

impl ProcFilter {
    /// `owner` begins with the name of the listener.
    pub(super) fn new(
        settings: Option<Arc<ProcSettings>>,
        worker: &Rc<WorkerCx>,
        owner: &str,
    ) -> Self {
        Self(Rc::new(ProcRunning::new(settings, worker, owner)))
    }
}

impl HttpFilter for ProcFilter {
    fn request_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        let Some(settings) = &self.0.settings else {
            let details = "ext_proc_error[the rule adds to settings that its chain does not have]";
            return HeadStep::reply(Reply::new(500, reasons::DENIED, details, "not allowed\n"));
        };
        *cx.state = Some(Box::new(OfProc::new(settings, cx.worker.now())));
        self.0.begin(cx, head)
    }

    fn request_body_access(&self, cx: &Cx<'_>) -> BodyAccess {
        of_proc(cx).map_or(BodyAccess::None, |of| of.access(MessageSide::Request))
    }

    fn request_body(&self, cx: &mut Cx<'_>, body: &mut Body, last: bool) -> BodyStep {
        self.0.piece(cx, body, last)
    }

    fn poll_request_addition(
        &self,
        cx: &Cx<'_>,
        task: &mut std::task::Context<'_>,
    ) -> std::task::Poll<()> {
        pieces::poll_addition(of_proc(cx), MessageSide::Request, task)
    }

    fn request_trailers(&self, cx: &mut Cx<'_>, trailers: &mut Head) -> TrailersStep {
        self.0.trailers(cx, trailers)
    }

    fn response_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> ResponseStep {
        self.0.begin(cx, head)
    }

    fn response_body_access(&self, cx: &Cx<'_>) -> BodyAccess {
        of_proc(cx).map_or(BodyAccess::None, |of| of.access(MessageSide::Response))
    }

    fn response_body(&self, cx: &mut Cx<'_>, body: &mut Body, last: bool) -> ResponseBodyStep {
        self.0.piece(cx, body, last)
    }

    fn poll_response_addition(
        &self,
        cx: &Cx<'_>,
        task: &mut std::task::Context<'_>,
    ) -> std::task::Poll<()> {
        pieces::poll_addition(of_proc(cx), MessageSide::Response, task)
    }

    fn response_trailers(&self, cx: &mut Cx<'_>, trailers: &mut Head) -> ResponseTrailersStep {
        self.0.trailers(cx, trailers)
    }

    fn ended(&self, cx: &mut Cx<'_>) {
        with_state(cx, |cx, of| self.0.end(cx, of));
        *cx.state = None;
    }
}

impl ProcRunning {
    /// Begins a message.
    fn begin<D: HeadDecision>(self: &Rc<Self>, cx: &mut Cx<'_>, head: &mut Head) -> D {
        let side = side_of(D::RESPONSE);
        let ends = cx.ends_with_head();
        let request = if D::RESPONSE { cx.request } else { Some(&*head) };
        let is_tunnel =
            request.is_some_and(|of| of.method() == Method::Connect || of.upgrade().is_some());
        let asked = with_state(cx, |cx, of| {
            if of.is_over {
                return None;
            }
            of.side(side).ends = ends || is_tunnel;
            of.plan(side);
            if !of.sends_headers(side) {
                return None;
            }
            let part = question::headers(&of.settings, side, head, ends);
            let own = (!D::RESPONSE).then_some(&*head);
            self.ask(cx, of, side, own, SentPart::Headers, part)
        });
        let Some(Some(answered)) = asked else { return self.go_on_with_body(cx) };
        let running = Rc::clone(self);
        let then = move |answered, cx: &mut Cx<'_>, head: &mut Head| {
            running.headers_answered(cx, head, answered)
        };
        // The service may want to see the body before it answers the headers.
        let streams = with_state(cx, |_, of| of.side(side).body == BodyMode::Duplex) == Some(true);
        if streams {
            D::wait_with_body(self.body_max(), answered, then)
        } else {
            D::wait(answered, then)
        }
    }

    fn headers_answered<D: HeadDecision>(
        self: &Rc<Self>,
        cx: &mut Cx<'_>,
        head: &mut Head,
        answered: PartAnswered,
    ) -> D {
        let side = side_of(D::RESPONSE);
        let replaced = match self.settle(cx, side, answered) {
            Ok(Some(AnswerPart::Headers(common, mode))) => {
                self.change_head(cx, side, head, common, mode)
            }
            Ok(Some(_)) => Err(self.misplaced(cx, side)),
            Ok(None) => Ok(None),
            Err(reply) => Err(Some(reply)),
        };
        match replaced {
            Ok(None) | Err(None) => self.go_on_with_body(cx),
            Ok(Some(body)) => D::buffer(self.body_max(), move |_, whole| replace(whole, body)),
            Err(Some(reply)) => D::reply(reply),
        }
    }

    /// Has the body received, if it is sent whole.
    fn go_on_with_body<D: HeadDecision>(self: &Rc<Self>, cx: &mut Cx<'_>) -> D {
        let side = side_of(D::RESPONSE);
        let is_whole =
            with_state(cx, |_, of| !of.is_over && of.side(side).body == BodyMode::Buffered);
        if is_whole != Some(true) {
            return D::go_on();
        }
        let running = Rc::clone(self);
        D::buffer(self.body_max(), move |cx, whole| running.whole(cx, whole, side))
    }
}

/// Puts another body in the place of a message's own.
fn replace(whole: &mut WholeMessage, body: Bytes) -> WholeStep {
    (whole.body, whole.trailers) = (body, None);
    WholeStep::Continue
}
