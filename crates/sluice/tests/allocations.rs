//! Requests do not allocate in the steady state: HTTP/1, and HTTP/2 on either side.
//!
//! This program is both: started with `run`, it is Sluice with a counting allocator and a filter that reports the
//! count; otherwise it is the test.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::System;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

use sluice_codec::Head;
use sluice_core::{Node, Setting as _, Shape};
use sluice_io::WorkerCx;
use sluice_l7::Reply;
use sluice_l7::filters::{CheckContext, Cx, FilterFactory, HeadStep, HttpFilter, HttpFilterPlan};
use sluice_testkit::Sluice;
use sluice_testkit::frames::{self, H2, flag, frame, kind};
use sluice_testkit::origin::Client;
use sluice_testkit::peers::{Server, connect};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Requests between two counts.
const REQUESTS: usize = 4000;

/// Allocations by the rest of the process meanwhile: the two requests that ask for the count, and the control thread.
const OTHERS: usize = 200;

sluice_core::reasons! {
    COUNTED = "allocations.counted", Handle, Local, "-", "The filter `allocations` answered.";
}

sluice_core::section! {
    /// Responds to a request with the number of allocations so far.
    pub struct Allocations {
        /// The path that gets this response.
        pub path: String = "/allocations",
    }
}

#[derive(Debug)]
struct Factory;

#[derive(Clone, Debug)]
struct Counting(Allocations);

impl FilterFactory<dyn HttpFilterPlan> for Factory {
    fn name(&self) -> &'static str {
        "allocations"
    }

    fn help(&self) -> &'static str {
        "Answers a request with how often memory was allocated."
    }

    fn shape(&self) -> Shape {
        Allocations::shape()
    }

    fn check(
        &self,
        node: &Node,
        context: &mut CheckContext<'_>,
    ) -> Option<Arc<dyn HttpFilterPlan>> {
        Some(Arc::new(Counting(context.bind::<Allocations>(node)?)))
    }
}

impl HttpFilterPlan for Counting {
    fn on_worker(&self, _: &Rc<WorkerCx>, _: &str) -> Rc<dyn HttpFilter> {
        Rc::new(self.clone())
    }
}

impl HttpFilter for Counting {
    fn request_head(&self, _: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        if head.path() != self.0.path {
            return HeadStep::Continue;
        }
        let stats = ALLOCATOR.stats();
        let count = stats.allocations + stats.reallocations;
        HeadStep::reply(Reply::new(200, COUNTED, "counted", count.to_string()))
    }
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("run") {
        let mut extensions = sluice::Extensions::default();
        extensions.http.register(Arc::new(Factory));
        return sluice::main_with(extensions);
    }
    a_request_allocates_nothing();
    an_http2_request_allocates_nothing();
    ExitCode::SUCCESS
}

fn a_request_allocates_nothing() {
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
    let endpoint = Server::start(|mut stream| {
        let mut request = [0; 4096];
        while stream.read(&mut request)? > 0 {
            stream.write_all(ANSWER)?;
        }
        Ok(())
    });
    // Connection records only: a request record is a value of its own on its way to the log.
    let kit = Sluice::with_binary(std::env::current_exe().unwrap());
    let sluice = kit.workers(1).without_request_records().start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ allocations: {{}} }}] }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n\
         access_log: [{{ sink: records.json, kinds: [connection] }}]\n",
        endpoint.addr()
    ));
    let address = sluice.addr("web");
    let mut stream = connect(address);
    let count = || {
        let count = Client::connect(address).get("a", "/allocations").text();
        count.parse::<usize>().unwrap()
    };
    ask(&mut stream, REQUESTS);
    let before = count();
    ask(&mut stream, REQUESTS);
    let made = count() - before;
    assert!(made < OTHERS, "{REQUESTS} requests came with {made} allocations");
}

/// A client of HTTP/2, a Sluice, and a Sluice that takes HTTP/2 from it.
fn an_http2_request_allocates_nothing() {
    let inner = Sluice::new().workers(1).without_request_records().start(
        "listeners: [{ name: web, address: 127.0.0.1:0, http: main }]\n\
         routes: { main: [{ hosts: \"*\", rules: [{ respond: { body: hello } }] }] }\n\
         access_log: [{ sink: records.json, kinds: [connection] }]\n",
    );
    let kit = Sluice::with_binary(std::env::current_exe().unwrap());
    let sluice = kit.workers(1).without_request_records().start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ allocations: {{}} }}] }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"], protocol: http2 }} }}\n\
         access_log: [{{ sink: records.json, kinds: [connection] }}]\n",
        inner.addr("web")
    ));
    let address = sluice.addr("web");
    let mut client = H2::connect(address);
    let mut number = 1;
    let block = frames::block(&frames::get("a", "/x"));
    let mut ask = |times: usize| {
        for _ in 0..times {
            let all = flag::END_HEADERS | flag::END_STREAM;
            client.send(frame(kind::HEADERS, all, number, &block));
            client.until("the end", |frame| frame.stream == number && frame.ends_stream());
            number += 2;
        }
    };
    let count = || {
        let count = Client::connect(address).get("a", "/allocations").text();
        count.parse::<usize>().unwrap()
    };
    ask(REQUESTS);
    let before = count();
    ask(REQUESTS);
    let made = count() - before;
    assert!(made < OTHERS, "{REQUESTS} requests of HTTP/2 came with {made} allocations");
}

fn ask(stream: &mut TcpStream, times: usize) {
    let mut answer = [0; 4096];
    for _ in 0..times {
        stream.write_all(b"GET /x HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n").unwrap();
        let mut got = 0;
        while !answer[..got].ends_with(b"hello") {
            got += stream.read(&mut answer[got..]).unwrap();
        }
    }
}
