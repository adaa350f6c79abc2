//! A filter whose steps are functions of a test.
//!
//! Owns: its interface. Refuses to know: what a test is about. Keeps: what a test does not set does nothing.

use std::rc::Rc;
use std::task::{Context, Poll};

use sluice_codec::{Body, Head};
use sluice_io::WorkerCx;

use crate::filters::{
    BodyAccess, BodyStep, Cx, HeadStep, HttpFilter, HttpFilterPlan, ResponseBodyStep, ResponseStep,
    ResponseTrailersStep, TrailersStep,
};

/// A filter of a test.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hooks {
    pub(in crate::exchange::tests) request: fn(&mut Cx<'_>, &mut Head) -> HeadStep,
    pub(in crate::exchange::tests) response: fn(&mut Cx<'_>, &mut Head) -> ResponseStep,
    /// See [`HttpFilterPlan::is_guard`].
    pub(in crate::exchange::tests) guards: bool,
    /// See [`HttpFilterPlan::judges_target`].
    pub(in crate::exchange::tests) judges: bool,
    /// What it does with bodies, both ways.
    pub(in crate::exchange::tests) access: BodyAccess,
    pub(in crate::exchange::tests) request_body: fn(&mut Cx<'_>, &mut Body, bool) -> BodyStep,
    pub(in crate::exchange::tests) response_body:
        fn(&mut Cx<'_>, &mut Body, bool) -> ResponseBodyStep,
    pub(in crate::exchange::tests) request_trailers: fn(&mut Cx<'_>, &mut Head) -> TrailersStep,
    pub(in crate::exchange::tests) response_trailers:
        fn(&mut Cx<'_>, &mut Head) -> ResponseTrailersStep,
    /// Whether it adds to bodies, both ways.
    pub(in crate::exchange::tests) addition: fn(&mut Context<'_>) -> Poll<()>,
}

impl Hooks {
    /// A filter that does nothing.
    pub(in crate::exchange::tests) const NONE: Self = Self {
        request: |_, _| HeadStep::Continue,
        response: |_, _| ResponseStep::Continue,
        guards: false,
        judges: false,
        access: BodyAccess::None,
        request_body: |_, _, _| BodyStep::Continue,
        response_body: |_, _, _| ResponseBodyStep::Continue,
        request_trailers: |_, _| TrailersStep::Continue,
        response_trailers: |_, _| ResponseTrailersStep::Continue,
        addition: |_| Poll::Pending,
    };
}

impl HttpFilterPlan for Hooks {
    fn is_guard(&self) -> bool {
        self.guards
    }

    fn judges_target(&self) -> bool {
        self.judges
    }

    fn on_worker(&self, _: &Rc<WorkerCx>, _: &str) -> Rc<dyn HttpFilter> {
        Rc::new(*self)
    }
}

impl HttpFilter for Hooks {
    fn request_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        (self.request)(cx, head)
    }

    fn response_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> ResponseStep {
        (self.response)(cx, head)
    }

    fn request_body_access(&self, _: &Cx<'_>) -> BodyAccess {
        self.access
    }

    fn response_body_access(&self, _: &Cx<'_>) -> BodyAccess {
        self.access
    }

    fn request_body(&self, cx: &mut Cx<'_>, body: &mut Body, last: bool) -> BodyStep {
        (self.request_body)(cx, body, last)
    }

    fn response_body(&self, cx: &mut Cx<'_>, body: &mut Body, last: bool) -> ResponseBodyStep {
        (self.response_body)(cx, body, last)
    }

    fn request_trailers(&self, cx: &mut Cx<'_>, trailers: &mut Head) -> TrailersStep {
        (self.request_trailers)(cx, trailers)
    }

    fn response_trailers(&self, cx: &mut Cx<'_>, trailers: &mut Head) -> ResponseTrailersStep {
        (self.response_trailers)(cx, trailers)
    }

    fn poll_request_addition(&self, _: &Cx<'_>, task: &mut Context<'_>) -> Poll<()> {
        (self.addition)(task)
    }

    fn poll_response_addition(&self, _: &Cx<'_>, task: &mut Context<'_>) -> Poll<()> {
        (self.addition)(task)
    }
}
