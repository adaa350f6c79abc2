//! `health_check`: answers the probes of a balancer in front.
//!
//! Keeps: a probe is no request to any service; it is answered from what Sluice knows.

use std::rc::Rc;
use std::sync::Arc;

use sluice_codec::Head;
use sluice_core::{Diags, Node, Path, Setting, Shape};
use sluice_io::WorkerCx;

use super::{Cx, FilterFactory, FilterPlan, HttpFilter, Step};
use crate::reasons;
use crate::reply::Reply;

sluice_core::section! {
    /// Answers a path with 200, or with 503 while the runtime value `fail` is true.
    pub struct HealthCheck {
        /// The path.
        pub path: String = "/healthz",
        /// The runtime value that makes it fail.
        pub fail: String = "health_check.fail",
    }
}

/// The factory.
#[derive(Debug)]
pub struct HealthCheckFactory;

impl FilterFactory for HealthCheckFactory {
    fn name(&self) -> &'static str {
        "health_check"
    }

    fn help(&self) -> &'static str {
        "Answers the probes of a balancer in front of Sluice."
    }

    fn shape(&self) -> Shape {
        HealthCheck::shape()
    }

    fn check(
        &self,
        settings: &Node,
        at: &Path<'_>,
        diags: &mut Diags,
    ) -> Option<Arc<dyn FilterPlan>> {
        Some(Arc::new(Plan(HealthCheck::bind(settings, at, diags)?)))
    }
}

#[derive(Debug)]
struct Plan(HealthCheck);

impl FilterPlan for Plan {
    fn on_worker(&self, _worker: &Rc<WorkerCx>, _owner: &str) -> Rc<dyn HttpFilter> {
        Rc::new(Filter(self.0.clone()))
    }
}

#[derive(Debug)]
struct Filter(HealthCheck);

impl HttpFilter for Filter {
    fn request_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> Step {
        if head.path_only() != self.0.path {
            return Step::Continue;
        }
        let fails = cx.runtime.flag(&self.0.fail) == Some(true);
        let (status, body) = if fails { (503, "failing\n") } else { (200, "ok\n") };
        Step::reply(Reply::new(status, reasons::LOCAL, "health_check", body))
    }
}
