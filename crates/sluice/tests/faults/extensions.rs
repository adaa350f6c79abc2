//! Filters with behaviour that none of Sluice's own has: an HTTP filter that denies, panics or receives
//! responses whole, one that asks a cluster,
//! and a connection filter that waits.

use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_codec::Head;
use sluice_core::{ConnInfo, LocalFuture, Name, Node, Reason, Setting, Shape, Spanned, Verdict};
use sluice_io::{Admit, ByteFilter, ByteStep, ConnectionFilter, ConnectionFilterPlan, WorkerCx};
use sluice_l7::filters::{
    CheckContext, Cx, FilterFactory, HeadStep, HttpFilter, HttpFilterPlan, ResponseStep, WholeStep,
};
use sluice_l7::{Reply, SideRequest};
use sluice_upstream::Cluster;

sluice_core::section! {
    /// Misbehaves on purpose.
    pub(crate) struct Misbehave {
        /// `deny`, `panic`, or `hold`, which receives responses whole.
        pub how: String = "deny",
    }
}

#[derive(Debug)]
struct Factory;

impl FilterFactory<dyn HttpFilterPlan> for Factory {
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
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn HttpFilterPlan>> {
        Some(Arc::new(Plan(context.bind::<Misbehave>(settings)?)))
    }
}

#[derive(Debug)]
struct Plan(Misbehave);

impl HttpFilterPlan for Plan {
    fn on_worker(&self, _worker: &Rc<WorkerCx>, _owner: &str) -> Rc<dyn HttpFilter> {
        Rc::new(Filter { panics: self.0.how == "panic", holds: self.0.how == "hold" })
    }
}

#[derive(Debug)]
struct Filter {
    panics: bool,
    holds: bool,
}

impl HttpFilter for Filter {
    fn request_head(&self, _cx: &mut Cx<'_>, _head: &mut Head) -> HeadStep {
        assert!(!self.panics, "a defect that a test asked for");
        if self.holds {
            return HeadStep::Continue;
        }
        HeadStep::reply(Reply::new(403, sluice_l7::reasons::DENIED, "misbehave", "not today\n"))
    }

    fn response_head(&self, _cx: &mut Cx<'_>, _head: &mut Head) -> ResponseStep {
        if !self.holds {
            return ResponseStep::Continue;
        }
        ResponseStep::buffer(16, |_, _| WholeStep::Continue)
    }
}

sluice_core::section! {
    /// Asks a cluster before it lets a request through, and fails closed.
    pub(crate) struct Ask {
        /// The cluster.
        pub cluster: Spanned<Name>,
        /// What it asks for.
        pub path: String = "/",
        /// The time for the response.
        pub timeout: Duration = "5s",
        /// Whether the path is a gRPC method.
        pub grpc: bool = "false",
    }
}

#[derive(Debug)]
struct AskFactory;

impl FilterFactory<dyn HttpFilterPlan> for AskFactory {
    fn name(&self) -> &'static str {
        "ask"
    }

    fn help(&self) -> &'static str {
        "Asks a cluster before it lets a request through."
    }

    fn shape(&self) -> Shape {
        Ask::shape()
    }

    fn check(
        &self,
        settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn HttpFilterPlan>> {
        let ask = context.bind::<Ask>(settings)?;
        let cluster = context.cluster(&ask.cluster, "cluster")?;
        let Ask { path, timeout, grpc, .. } = ask;
        Some(Arc::new(AskPlan { cluster, path, timeout, grpc }))
    }
}

#[derive(Clone, Debug)]
struct AskPlan {
    cluster: Arc<Cluster>,
    path: String,
    timeout: Duration,
    grpc: bool,
}

impl AskPlan {
    /// Why there is no response, if there is none.
    fn ask(&self, cx: &mut Cx<'_>) -> LocalFuture<Option<Reason>> {
        let (calls, by) = (cx.side_calls(), cx.worker.now().after(self.timeout));
        if self.grpc {
            let called = calls.call_grpc::<(), ()>(&self.cluster, self.path.as_str(), &(), by);
            return Box::pin(async move { called.await.err().map(|error| error.why()) });
        }
        let called = calls.call(&self.cluster, SideRequest::new("GET", &self.path), by);
        Box::pin(async move { called.await.err().map(|error| error.why) })
    }
}

impl HttpFilterPlan for AskPlan {
    fn on_worker(&self, _worker: &Rc<WorkerCx>, _owner: &str) -> Rc<dyn HttpFilter> {
        Rc::new(self.clone())
    }
}

impl HttpFilter for AskPlan {
    fn request_head(&self, cx: &mut Cx<'_>, _head: &mut Head) -> HeadStep {
        let asked = self.ask(cx);
        HeadStep::wait(async move {
            let failed = asked.await;
            move |_: &mut Cx<'_>, _: &mut Head| match failed {
                None => HeadStep::Continue,
                Some(why) => {
                    let body = "the service for authorisation did not answer\n";
                    HeadStep::reply(Reply::new(503, why, "ask", body))
                }
            }
        })
    }
}

/// A connection filter that never decides: on connections, or on their bytes if its settings name these.
#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    for_bytes: bool,
}

impl FilterFactory<dyn ConnectionFilterPlan> for Waiting {
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
        settings: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn ConnectionFilterPlan>> {
        let for_bytes = context.bind::<Misbehave>(settings)?.how == "bytes";
        Some(Arc::new(Self { for_bytes }))
    }
}

impl ConnectionFilterPlan for Waiting {
    fn filters_bytes(&self) -> bool {
        self.for_bytes
    }

    fn on_worker(&self, _worker: &Rc<WorkerCx>, _owner: &str) -> Rc<dyn ConnectionFilter> {
        Rc::new(*self)
    }
}

impl ConnectionFilter for Waiting {
    fn admit(&self, _conn: &ConnInfo) -> Admit {
        if self.for_bytes {
            return Admit::Now(Verdict::Continue);
        }
        Admit::Wait(Box::pin(std::future::pending()))
    }

    fn byte_filter(&self, _conn: &ConnInfo) -> Option<Box<dyn ByteFilter>> {
        self.for_bytes.then(|| Box::new(*self) as Box<dyn ByteFilter>)
    }
}

impl ByteFilter for Waiting {
    fn received(&mut self, _bytes: &mut Vec<u8>, _last: bool) -> ByteStep {
        ByteStep::Wait(Box::pin(std::future::pending()))
    }
}

pub(crate) fn main() -> ExitCode {
    let mut extensions = sluice::Extensions::default();
    extensions.http.register(Arc::new(Factory));
    extensions.http.register(Arc::new(AskFactory));
    extensions.connection.register(Arc::new(Waiting::default()));
    sluice::main_with(extensions)
}
