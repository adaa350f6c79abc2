//! `buffer`: a request goes on when its whole body is there.
//!
//! Keeps: an endpoint never waits for a slow client; a body larger than the bound is answered 413.

use std::rc::Rc;
use std::sync::Arc;

use sluice_codec::Head;
use sluice_core::settings::Size;
use sluice_core::{Diags, Node, Path, Setting, Shape};
use sluice_io::WorkerCx;

use super::{Cx, FilterFactory, FilterPlan, HttpFilter, Step};

sluice_core::section! {
    /// A request goes on when its whole body is there.
    pub struct Buffer {
        /// The largest body; a larger one is answered 413.
        pub max: Size = "1MiB",
    }
}

/// The factory.
#[derive(Debug)]
pub struct BufferFactory;

impl FilterFactory for BufferFactory {
    fn name(&self) -> &'static str {
        "buffer"
    }

    fn help(&self) -> &'static str {
        "Holds a request until its whole body is there."
    }

    fn shape(&self) -> Shape {
        Buffer::shape()
    }

    fn check(
        &self,
        settings: &Node,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<Arc<dyn FilterPlan>> {
        let Size(max) = Buffer::bind(settings, at, diags)?.max;
        Some(Arc::new(Plan(usize::try_from(max).unwrap_or(usize::MAX))))
    }
}

#[derive(Debug)]
struct Plan(usize);

impl FilterPlan for Plan {
    fn on_worker(&self, _worker: &Rc<WorkerCx>, _owner: &str) -> Rc<dyn HttpFilter> {
        Rc::new(Filter(self.0))
    }
}

#[derive(Debug)]
struct Filter(usize);

impl HttpFilter for Filter {
    fn request_head(&self, _cx: &mut Cx<'_>, head: &mut Head) -> Step {
        // A tunnel has no end to wait for.
        if head.upgrade().is_some() { Step::Continue } else { Step::Buffer(self.0) }
    }
}
