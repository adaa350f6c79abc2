//! An HTTP filter that never decides, in a program of its own that runs: its requests time out.
//!
//! [`run`] is the program, [`test`] the test of it.

use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

use sluice_codec::Head;
use sluice_core::{Node, Setting, Shape};
use sluice_io::WorkerCx;
use sluice_l7::filters::{CheckContext, Cx, FilterFactory, HeadStep, HttpFilter, HttpFilterPlan};
use sluice_testkit::origin::Client;
use sluice_testkit::{Origin, Sluice};

use crate::binary;

sluice_core::section! {
    /// Never decides.
    pub(crate) struct Undecided {
        /// Whether it waits; it always does.
        pub waits: bool = "true",
    }
}

#[derive(Debug)]
struct Never;

impl FilterFactory<dyn HttpFilterPlan> for Never {
    fn name(&self) -> &'static str {
        "undecided"
    }

    fn help(&self) -> &'static str {
        "Never decides."
    }

    fn shape(&self) -> Shape {
        Undecided::shape()
    }

    fn check(
        &self,
        node: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn HttpFilterPlan>> {
        context.bind::<Undecided>(node)?;
        Some(Arc::new(Self))
    }
}

impl HttpFilterPlan for Never {
    fn on_worker(&self, _worker: &Rc<WorkerCx>, _owner: &str) -> Rc<dyn HttpFilter> {
        Rc::new(Self)
    }
}

impl HttpFilter for Never {
    fn request_head(&self, _cx: &mut Cx<'_>, _head: &mut Head) -> HeadStep {
        HeadStep::Wait(Box::pin(std::future::pending()))
    }
}

pub(crate) fn run() -> ExitCode {
    let mut extensions = sluice::Extensions::default();
    extensions.http.register(Arc::new(Never));
    sluice::main_with(extensions)
}

pub(crate) fn test() {
    let origin = Origin::start("a");
    let sluice = Sluice::with_binary(binary(module_path!())).start(&format!(
        "limits: {{ filter_wait_seconds: 1 }}\n\
         listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ undecided: {{ waits: true }} }}] }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [\
         {{ match: {{ path: /short }}, cluster: up, timeout: {{ total: 100ms }} }}, {{ cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        origin.addr()
    ));
    let mut client = Client::connect(sluice.addr("web"));
    assert_eq!(client.get("a", "/short").status(), 504);
    assert_eq!(sluice.record_of("route.timeout")["response_code"], 504);
    assert_eq!(client.get("a", "/").status(), 504);
    let record = sluice.record_of("filter.timeout");
    assert_eq!(record["detail"], "the filter undecided did not decide in time");
    assert_eq!(sluice.metric("sluice_limits_reached_total", "limit=\"filter_wait_seconds\""), 1);
    assert!(origin.requests().is_empty());
}
