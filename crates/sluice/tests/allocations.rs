//! Requests do not allocate in the steady state: HTTP/1, and HTTP/2 on either side. Idle connections hold little, and requests
//! in flight no more than is charged for them.
//!
//! This program is both: started with `run`, it is Sluice with a counting allocator and a filter that reports the
//! counts; otherwise it is the test.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::System;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

use sluice_codec::Head;
use sluice_codec::request_memory::REQUEST_BYTES;
use sluice_core::{Node, Setting as _, Shape};
use sluice_io::WorkerCx;
use sluice_l7::Reply;
use sluice_l7::filters::{CheckContext, Cx, FilterFactory, HeadStep, HttpFilter, HttpFilterPlan};
use sluice_testkit::frames::{self, H2, flag, frame, kind};
use sluice_testkit::origin::Client;
use sluice_testkit::peers::{Server, connect};
use sluice_testkit::{Running, Sluice, wait};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Requests between two counts.
const REQUESTS: usize = 4000;

/// Allocations by the rest of the process meanwhile: the two requests that ask for the count, and the control thread.
const OTHERS: usize = 200;

/// Idle connections before a first count, and those between it and the second: the tables of the worker, which double,
/// have room for all of them.
const CONNECTIONS: (usize, usize) = (140, 60);

/// Connections whose requests wait for their endpoint, and streams of each.
const WAITING: (usize, usize) = (10, 100);

sluice_core::reasons! {
    COUNTED = "allocations.counted", Handle, Local, "-", "The filter `allocations` answered.";
}

sluice_core::section! {
    /// Responds to a request with the number of allocations so far and the bytes that are allocated now.
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
        "Answers a request with how often memory was allocated, and how much is."
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
        let held = stats.bytes_allocated - stats.bytes_deallocated;
        HeadStep::reply(Reply::new(200, COUNTED, "counted", format!("{count} {held}")))
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
    an_idle_connection_holds_little();
    a_request_in_flight_takes_no_more_than_is_charged();
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
    let sluice = counting(endpoint.addr(), "http1");
    let address = sluice.addr("web");
    let mut stream = connect(address);
    ask(&mut stream, REQUESTS);
    let before = allocated(address).count;
    ask(&mut stream, REQUESTS);
    let made = allocated(address).count - before;
    assert!(made < OTHERS, "{REQUESTS} requests came with {made} allocations");
}

/// A client of HTTP/2, a Sluice, and a Sluice that takes HTTP/2 from it.
fn an_http2_request_allocates_nothing() {
    let inner = hello();
    let sluice = counting(inner.addr("web"), "http2");
    let address = sluice.addr("web");
    let mut client = H2::connect(address);
    let numbers = |from: usize| (0..REQUESTS).map(move |n| u32::try_from(from + 2 * n).unwrap());
    numbers(1).for_each(|number| ask_h2(&mut client, number));
    let before = allocated(address).count;
    numbers(1 + 2 * REQUESTS).for_each(|number| ask_h2(&mut client, number));
    let made = allocated(address).count - before;
    assert!(made < OTHERS, "{REQUESTS} requests of HTTP/2 came with {made} allocations");
}

/// What the allocator was asked for, without the tables of the worker: they have about 80 bytes for each. That the chain has
/// a filter, for which the facts about a connection are kept, is 140 bytes of it.
fn an_idle_connection_holds_little() {
    let inner = hello();
    let sluice = counting(inner.addr("web"), "http1");
    let address = sluice.addr("web");
    check_idle(address, "HTTP/1", 1150, || {
        let mut stream = connect(address);
        ask(&mut stream, 2);
        stream
    });
    check_idle(address, "HTTP/2, one request", 2450, || {
        let mut client = H2::connect(address);
        ask_h2(&mut client, 1);
        client
    });
    check_idle(address, "HTTP/2, several requests", 2700, || {
        let mut client = H2::connect(address);
        [1, 3, 5, 7].into_iter().for_each(|number| ask_h2(&mut client, number));
        client
    });
}

/// With the tables of the worker, and the connections of both sides: to an endpoint that accepts requests and does not
/// respond.
fn a_request_in_flight_takes_no_more_than_is_charged() {
    for protocol in ["http1", "http2"] {
        let http2 = protocol == "http2";
        let endpoint = Server::start(move |mut stream| {
            if http2 {
                stream.write_all(&frame(kind::SETTINGS, 0, 0, &[]))?;
            }
            std::io::copy(&mut stream, &mut std::io::sink()).map(drop)
        });
        let sluice = counting(endpoint.addr(), protocol);
        let address = sluice.addr("web");
        let before = allocated(address).bytes;
        let clients: Vec<H2> = (0..WAITING.0).map(|_| waiting(address)).collect();
        let all = WAITING.0 * WAITING.1;
        wait::until("all requests to be in flight", || {
            let active = sluice.metric("sluice_http_requests_active", "");
            (active == i64::try_from(all).unwrap()).then_some(())
        });
        let each = (allocated(address).bytes - before) / all;
        drop(clients);
        assert!(
            (REQUEST_BYTES / 2..=REQUEST_BYTES).contains(&each),
            "a request in flight to {protocol} holds {each} bytes, and is charged with {REQUEST_BYTES}"
        );
    }
}

/// A client with requests on all of its streams.
fn waiting(address: SocketAddr) -> H2 {
    let mut client = H2::connect(address);
    for number in (1..).step_by(2).take(WAITING.1) {
        client.headers(number, &frames::get("a", "/x"), true);
    }
    client
}

fn check_idle<T>(address: SocketAddr, kind: &str, most: usize, open: impl Fn() -> T) {
    let more = |count| (0..count).map(|_| open()).collect::<Vec<T>>();
    let first = more(CONNECTIONS.0);
    let before = allocated(address).bytes;
    let second = more(CONNECTIONS.1);
    let each = (allocated(address).bytes - before) / CONNECTIONS.1;
    drop((first, second));
    assert!(each <= most, "an idle connection ({kind}) holds {each} bytes, more than {most}");
}

/// A Sluice that responds with `hello`.
fn hello() -> Running {
    Sluice::new().workers(1).without_request_records().start(
        "listeners: [{ name: web, address: 127.0.0.1:0, http: main }]\n\
         routes: { main: [{ hosts: \"*\", rules: [{ respond: { body: hello } }] }] }\n\
         access_log: [{ sink: records.json, kinds: [connection] }]\n",
    )
}

/// This program as a Sluice in front of an endpoint. Connection records only: a request record is a value of its own on
/// its way to the log.
fn counting(endpoint: SocketAddr, protocol: &str) -> Running {
    let kit = Sluice::with_binary(std::env::current_exe().unwrap());
    kit.workers(1).without_request_records().start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ allocations: {{}} }}] }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{endpoint}\"], protocol: {protocol} }} }}\n\
         access_log: [{{ sink: records.json, kinds: [connection] }}]\n",
    ))
}

struct Allocated {
    count: usize,
    bytes: usize,
}

/// Asks the filter.
fn allocated(address: SocketAddr) -> Allocated {
    let text = Client::connect(address).get("a", "/allocations").text();
    let (count, bytes) = text.split_once(' ').unwrap();
    Allocated { count: count.parse().unwrap(), bytes: bytes.parse().unwrap() }
}

/// Makes a request over HTTP/2 as a browser does, which puts its headers into the table and then refers to them, and
/// waits for the end of the response.
fn ask_h2(client: &mut H2, number: u32) {
    let mut block = Vec::new();
    for (place, (name, value)) in (0..).zip(frames::get("a", "/x")) {
        if number > 1 {
            // The first of the four has the largest index.
            block.push(0x80 | (65 - place));
            continue;
        }
        block.push(0x40);
        frames::string(&mut block, name.as_bytes());
        frames::string(&mut block, value.as_bytes());
    }
    client.send(frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, number, &block));
    client.until("the end", |frame| frame.stream == number && frame.ends_stream());
}

fn ask(stream: &mut TcpStream, times: usize) {
    let mut answer = [0; 4096];
    for _ in 0..times {
        stream.write_all(b"GET /x HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n").unwrap();
        let mut got = 0;
        while !answer[..got].ends_with(b"hello") {
            let read = stream.read(&mut answer[got..]).unwrap();
            assert!(read > 0, "the connection was closed");
            got += read;
        }
    }
}
