//! Filters with behaviour that none of Sluice's own has: an HTTP filter that denies or panics, and a connection filter
//! that waits.

use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

use sluice_codec::Head;
use sluice_core::{ConnInfo, Diags, Node, Path, Setting, Shape};
use sluice_io::{Admit, ConnectionFilter, WorkerCx};
use sluice_l7::Reply;
use sluice_l7::filters::{Cx, HeadStep, HttpFilter, HttpFilterFactory, HttpFilterPlan};

sluice_core::section! {
    /// Misbehaves on purpose.
    pub(crate) struct Misbehave {
        /// `deny` or `panic`.
        pub how: String = "deny",
    }
}

#[derive(Debug)]
struct Factory;

impl HttpFilterFactory for Factory {
    fn name(&self) -> &'static str {
        "misbehave"
    }

    fn help(&self) -> &'static str {
        "Does what filters should not."
    }

    fn shape(&self) -> Shape {
        Misbehave::shape()
    }

    fn check(
        &self,
        settings: &Node,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<Arc<dyn HttpFilterPlan>> {
        Some(Arc::new(Plan(Misbehave::bind(settings, at, diags)?)))
    }
}

#[derive(Debug)]
struct Plan(Misbehave);

impl HttpFilterPlan for Plan {
    fn on_worker(&self, _worker: &Rc<WorkerCx>, _owner: &str) -> Rc<dyn HttpFilter> {
        Rc::new(Filter { panics: self.0.how == "panic" })
    }
}

#[derive(Debug)]
struct Filter {
    panics: bool,
}

impl HttpFilter for Filter {
    fn request_head(&self, _cx: &mut Cx<'_>, _head: &mut Head) -> HeadStep {
        assert!(!self.panics, "a defect that a test asked for");
        HeadStep::reply(Reply::new(403, sluice_l7::reasons::DENIED, "misbehave", "not today\n"))
    }
}

/// A connection filter that never decides immediately.
#[derive(Debug)]
struct Waiting;

impl sluice_io::ConnectionFilterFactory for Waiting {
    fn name(&self) -> &'static str {
        "waiting"
    }

    fn help(&self) -> &'static str {
        "Waits before it decides."
    }

    fn shape(&self) -> Shape {
        Misbehave::shape()
    }

    fn check(
        &self,
        _settings: &Node,
        _at: &Path<'_>,
        _diags: &mut Diags,
    ) -> Option<Arc<dyn sluice_io::ConnectionFilterPlan>> {
        Some(Arc::new(Self))
    }
}

impl sluice_io::ConnectionFilterPlan for Waiting {
    fn on_worker(&self, _worker: &Rc<WorkerCx>, _owner: &str) -> Rc<dyn ConnectionFilter> {
        Rc::new(Self)
    }
}

impl ConnectionFilter for Waiting {
    fn admit(&self, _conn: &ConnInfo) -> Admit {
        Admit::Wait(Box::pin(std::future::pending()))
    }
}

pub(crate) fn main() -> ExitCode {
    let mut extensions = sluice::Extensions::default();
    extensions.http.register(Arc::new(Factory));
    extensions.connection.register(Arc::new(Waiting));
    sluice::main_with(extensions)
}
