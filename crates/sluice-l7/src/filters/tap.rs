//! `tap`: traces of requests and their responses.
//!
//! Owns: which parts of a message are recorded, and when. Refuses to know: how traces are written, and what a condition is. Keeps:
//! messages pass as they are and wait for nothing; bodies are looked at only while the request may be one that is recorded.

mod conditions;
mod parts;
pub mod settings;
mod trace;

use std::rc::Rc;
use std::sync::Arc;

use sluice_codec::{Body, Head, Method};
use sluice_core::Node;
use sluice_io::WorkerCx;
use sluice_l4::filters::tap::files_of;
use sluice_l4::tap::{TapFiles, TapFilesPlan};

use conditions::{MessagePart, TapFormula};
use parts::TracedRequest;
use settings::Tap;

use super::{
    BodyAccess, BodyStep, CheckContext, Cx, HeadStep, HttpFilter, HttpFilterPlan, PlanSettings,
    ResponseBodyStep, ResponseStep, ResponseTrailersStep, TrailersStep,
};

impl PlanSettings for Tap {
    const NAME: &'static str = "tap";
    const HELP: &'static str = "Records requests and their responses, each in a file.";

    fn plan(self, node: &Node, context: &mut CheckContext<'_>) -> Option<Arc<dyn HttpFilterPlan>> {
        if let Some(problem) = self.wanted.as_ref().and_then(|wanted| wanted.problem()) {
            context.diags.error("bad-value", node.span, context.at.key("match"), problem);
            return None;
        }
        let files = files_of(self.file.as_ref(), self.format, node, context)?;
        let formula = self.wanted.as_ref().map(TapFormula::of).unwrap_or_default();
        Some(Arc::new(TapPlan(Arc::new(TapRules { settings: self, formula, files }))))
    }
}

/// What is recorded, how and where.
#[derive(Debug)]
struct TapRules {
    settings: Tap,
    formula: TapFormula,
    files: Arc<TapFilesPlan>,
}

#[derive(Debug)]
struct TapPlan(Arc<TapRules>);

impl HttpFilterPlan for TapPlan {
    fn on_worker(&self, worker: &Rc<WorkerCx>, owner: &str) -> Rc<dyn HttpFilter> {
        let files = TapFiles::new(Arc::clone(&self.0.files), worker, owner);
        Rc::new(TapFilter { rules: Arc::clone(&self.0), files })
    }
}

/// The filter on a worker.
#[derive(Debug)]
struct TapFilter {
    rules: Arc<TapRules>,
    files: Rc<TapFiles>,
}

impl TapFilter {
    /// Has what is recorded of a request take up something, and forgets it once it is none of those that are recorded.
    fn note(&self, cx: &mut Cx<'_>, note: impl FnOnce(&mut TracedRequest, &Cx<'_>)) {
        let Some(mut state) = cx.state.take() else { return };
        if let Some(traced) = state.downcast_mut::<TracedRequest>() {
            note(traced, cx);
            if !traced.is_out() {
                *cx.state = Some(state);
            }
        }
    }
}

/// Bodies are read while the request is recorded, or may come to be.
fn access(cx: &Cx<'_>) -> BodyAccess {
    if cx.state.is_some() { BodyAccess::Read } else { BodyAccess::None }
}

impl HttpFilter for TapFilter {
    fn request_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        if let Some(traced) = TracedRequest::begin(&self.rules, &self.files, cx, head) {
            *cx.state = Some(Box::new(traced));
        }
        HeadStep::Continue
    }

    fn request_body_access(&self, cx: &Cx<'_>) -> BodyAccess {
        access(cx)
    }

    fn request_body(&self, cx: &mut Cx<'_>, body: &mut Body, _last: bool) -> BodyStep {
        self.note(cx, |traced, _| traced.body(MessagePart::Request, body));
        BodyStep::Continue
    }

    fn request_trailers(&self, cx: &mut Cx<'_>, trailers: &mut Head) -> TrailersStep {
        self.note(cx, |traced, _| traced.trailers(MessagePart::Request, trailers));
        TrailersStep::Continue
    }

    fn response_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> ResponseStep {
        self.note(cx, |traced, cx| traced.response(head, cx));
        ResponseStep::Continue
    }

    fn response_body_access(&self, cx: &Cx<'_>) -> BodyAccess {
        access(cx)
    }

    fn response_body(&self, cx: &mut Cx<'_>, body: &mut Body, _last: bool) -> ResponseBodyStep {
        self.note(cx, |traced, _| traced.body(MessagePart::Response, body));
        ResponseBodyStep::Continue
    }

    fn response_trailers(&self, cx: &mut Cx<'_>, trailers: &mut Head) -> ResponseTrailersStep {
        self.note(cx, |traced, _| traced.trailers(MessagePart::Response, trailers));
        ResponseTrailersStep::Continue
    }

    fn ended(&self, cx: &mut Cx<'_>) {
        self.note(cx, |traced, cx| {
            // The body of Sluice's own response does not pass filters.
            let of_head = cx.request.is_some_and(|head| head.method() == Method::Head);
            if let Some(text) = cx.summary.local_text.as_deref().filter(|_| !of_head) {
                traced.own_body(text);
            }
            traced.end(cx);
        });
        *cx.state = None;
    }
}
