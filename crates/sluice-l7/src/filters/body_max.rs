//! `body_max`: bodies no larger than so much, without holding them.
//!
//! Keeps: a stated length is judged by the head; an unstated one as it comes.

use std::rc::Rc;
use std::sync::Arc;

use sluice_codec::{Body, Head};
use sluice_core::settings::Size;
use sluice_core::{Diags, Node, Path, Setting, Shape};
use sluice_io::WorkerCx;

use super::{Cx, FilterFactory, FilterPlan, HttpFilter, Step};
use crate::reasons;
use crate::reply::Reply;

sluice_core::section! {
    /// Bounds the size of requests' bodies.
    pub struct BodyMax {
        /// The largest body; a larger one is answered 413.
        pub max: Size,
    }
}

impl sluice_core::settings::ShortForm for BodyMax {
    const KEY: &'static str = "max";
}

/// The factory.
#[derive(Debug)]
pub struct BodyMaxFactory;

impl FilterFactory for BodyMaxFactory {
    fn name(&self) -> &'static str {
        "body_max"
    }

    fn help(&self) -> &'static str {
        "Bounds the size of requests' bodies; the short form is the size."
    }

    fn shape(&self) -> Shape {
        sluice_core::settings::Short::<BodyMax>::shape()
    }

    fn check(
        &self,
        settings: &Node,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<Arc<dyn FilterPlan>> {
        let section = sluice_core::settings::Short::<BodyMax>::bind(settings, at, diags)?;
        Some(Arc::new(Plan(section.0.max.0)))
    }
}

#[derive(Debug)]
struct Plan(u64);

impl FilterPlan for Plan {
    fn on_worker(&self, _worker: &Rc<WorkerCx>, _owner: &str) -> Rc<dyn HttpFilter> {
        Rc::new(Filter(self.0))
    }
}

#[derive(Debug)]
struct Filter(u64);

impl Filter {
    fn too_large() -> Step {
        let body = "the body of the request is too large\n";
        let reply = Reply::new(413, reasons::BODY_TOO_LARGE, "request_payload_too_large", body);
        Step::reply(reply.closing())
    }
}

impl HttpFilter for Filter {
    fn request_head(&self, _cx: &mut Cx<'_>, head: &mut Head) -> Step {
        match head.content_length() {
            Some(length) if length > self.0 => Self::too_large(),
            _ => Step::Continue,
        }
    }

    fn wants_request_body(&self, _cx: &Cx<'_>) -> bool {
        true
    }

    fn request_body(&self, cx: &mut Cx<'_>, body: &mut Body, _last: bool) -> Step {
        if cx.summary.received + body.len() as u64 > self.0 {
            return Self::too_large();
        }
        Step::Continue
    }
}
