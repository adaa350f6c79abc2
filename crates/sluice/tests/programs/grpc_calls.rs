//! A filter that makes gRPC calls to a server of gRPC's own library, in a program of its own that runs.
//!
//! [`run`] is the program, [`test`] the test of it.

use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_codec::Head;
use sluice_core::{LocalFuture, Name, Node, Setting, Shape, Spanned};
use sluice_io::WorkerCx;
use sluice_l7::filters::{CheckContext, Cx, FilterFactory, HeadStep, HttpFilter, HttpFilterPlan};
use sluice_l7::{GrpcCallError, GrpcStream, Reply};
use sluice_testkit::origin::Client;
use sluice_testkit::{Running, Sluice, tools};
use sluice_upstream::Cluster;

use crate::binary;

/// More than the window of a stream.
const LARGE: usize = 300_000;

sluice_core::section! {
    /// Calls the method that the path of a request names, and replies with what it returned.
    pub(crate) struct Calling {
        /// The cluster.
        pub cluster: Spanned<Name>,
    }
}

#[derive(Debug)]
struct Factory;

impl FilterFactory<dyn HttpFilterPlan> for Factory {
    fn name(&self) -> &'static str {
        "calling"
    }

    fn help(&self) -> &'static str {
        "Calls a gRPC method."
    }

    fn shape(&self) -> Shape {
        Calling::shape()
    }

    fn check(
        &self,
        node: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn HttpFilterPlan>> {
        let settings = context.bind::<Calling>(node)?;
        Some(Arc::new(Plan(context.cluster(&settings.cluster, "cluster")?)))
    }
}

/// The plan, and the filter on each worker.
#[derive(Clone, Debug)]
struct Plan(Arc<Cluster>);

impl HttpFilterPlan for Plan {
    fn on_worker(&self, _worker: &Rc<WorkerCx>, _owner: &str) -> Rc<dyn HttpFilter> {
        Rc::new(self.clone())
    }
}

impl HttpFilter for Plan {
    fn request_head(&self, cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        let called = self.call(cx, head.path());
        HeadStep::wait(async move {
            let reply = match called.await {
                Ok(text) => Reply::new(200, sluice_l7::reasons::LOCAL, "called", text),
                Err(error) => Reply::new(503, error.why(), "failed", error.to_string()),
            };
            move |_: &mut Cx<'_>, _: &mut Head| HeadStep::reply(reply)
        })
    }
}

impl Plan {
    /// Messages are `google.protobuf.StringValue`, which `String` is to prost.
    fn call(&self, cx: &mut Cx<'_>, path: &str) -> LocalFuture<Result<String, GrpcCallError>> {
        let (calls, now) = (cx.side_calls(), cx.worker.now());
        let by = now.after(Duration::from_millis(if path.ends_with("Sleep") { 200 } else { 8000 }));
        if path != "/t.Echo/Chat" {
            let message = if path == "/t.Echo/Unary" { "x".repeat(LARGE) } else { String::new() };
            return calls.call_grpc(&self.0, path, &message, by);
        }
        let opened = calls.open_grpc(&self.0, path, by);
        Box::pin(async move {
            let mut stream: GrpcStream<String, String> = opened.await?;
            let (mut all, parts) = (String::new(), ["a".to_owned(), "b".repeat(LARGE), "c".into()]);
            for part in &parts {
                stream.send(part).await?;
                all.push_str(&stream.message().await?.unwrap_or_default());
            }
            stream.send(&"d".to_owned()).await?;
            stream.finish().await?;
            while let Some(message) = stream.message().await? {
                all.push_str(&message);
            }
            Ok(all)
        })
    }
}

pub(crate) fn run() -> ExitCode {
    let mut extensions = sluice::Extensions::default();
    extensions.http.register(Arc::new(Factory));
    sluice::main_with(extensions)
}

pub(crate) fn test() {
    if !tools::have_modules(&["grpc"]) {
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/peers/grpc_server.py");
    let (_server, address) = tools::serve_on_its_port(&mut tools::python(&script));
    let kit = Sluice::with_binary(binary(module_path!())).workers(1);
    let sluice = kit.start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ calling: {{ cluster: service }} }}] }} }}]\n\
         routes: {{ main: {{ respond: {{ status: 404 }} }} }}\n\
         clusters: {{ service: {{ endpoints: [\"{address}\"], protocol: http2 }} }}\n"
    ));
    messages_pass_both_ways(&sluice);
    errors_are_those_of_the_service(&sluice);
    assert_eq!(sluice.metric("sluice_cluster_connections_total", "cluster=\"service\""), 1);
}

/// The status and body of the reply to a request for a method.
fn call(sluice: &Running, method: &str) -> (u16, String) {
    let answer = Client::connect(sluice.addr("web")).get("a", method);
    (answer.status(), String::from_utf8_lossy(&answer.body).into_owned())
}

fn messages_pass_both_ways(sluice: &Running) {
    let (status, text) = call(sluice, "/t.Echo/Unary");
    assert_eq!((status, text.len()), (200, LARGE));
    let (status, text) = call(sluice, "/t.Echo/Chat");
    assert_eq!((status, text.len()), (200, LARGE + 3), "{}", text.get(..200).unwrap_or(&text));
    assert!(text.starts_with("ab") && text.ends_with("bcd"));
    assert_eq!(sluice.metric("sluice_cluster_side_calls_total", "result=\"answered\""), 2);
}

fn errors_are_those_of_the_service(sluice: &Running) {
    for (method, error) in [
        ("/t.Echo/Fail", "sidecall.grpc_status: gRPC status 5 NOT_FOUND: nothing here"),
        ("/t.Echo/None", "sidecall.grpc_status: gRPC status 12 UNIMPLEMENTED: "),
    ] {
        let (status, text) = call(sluice, method);
        assert!(status == 503 && text.starts_with(error), "{method}: {status} {text}");
    }
    // The service knows the deadline too, so that either may be the first to notice.
    let (status, text) = call(sluice, "/t.Echo/Sleep");
    let late = text.starts_with("sidecall.timeout") || text.contains("DEADLINE_EXCEEDED");
    assert!(status == 503 && late, "{status} {text}");
}
