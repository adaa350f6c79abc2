//! The memory of requests in flight: within the account of the worker, whatever clients do.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;

use sluice_testkit::frames::{self, H2, kind};
use sluice_testkit::origin::Client;
use sluice_testkit::peers::{connect, read_to_end};
use sluice_testkit::running::sum_metric;
use sluice_testkit::{Running, Sluice, wait};

/// Streams that a client may open at once.
const STREAMS: u32 = 100;

/// What a connection may take beside the account, in KiB.
const CONNECTION: usize = 4;

/// What a worker keeps for reuse, in KiB: memory of requests that have ended, and what the allocator has not given back.
const WORKER: usize = 5 << 10;

/// REFUSED_STREAM, RFC 9113 §7.
const REFUSED: u32 = 7;

/// A Sluice that responds with a body of 100,000 bytes, and one in front of it with this account of memory.
fn pair(protocol: &str, account: &str) -> (Running, Running) {
    let inner = Sluice::new().workers(1).start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ match: {{ path: /small }}, respond: {{ body: hello }} }}, \
         {{ respond: {{ body: {} }} }}] }}] }}\n",
        "x".repeat(100_000)
    ));
    // The listener `turn` closes its connections, when the worker comes to it.
    let outer = Sluice::new().workers(1).start(&format!(
        "listeners:\n- {{ name: web, address: 127.0.0.1:0, http: main }}\n\
         - {{ name: turn, address: 127.0.0.1:0, relay: \"127.0.0.1:9\", filters: [{{ deny: 127.0.0.0/8 }}] }}\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"], protocol: {protocol} }} }}\n\
         limits: {{ worker_buffer_bytes: {account} }}\n",
        inner.addr("web")
    ));
    (inner, outer)
}

/// Memory of a process that is no part of a file, in KiB.
fn resident(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The number of requests for which there was no memory.
fn refused(sluice: &Running) -> i64 {
    sluice.metric("sluice_limits_reached_total", "limit=\"worker_buffer_bytes\"")
}

fn active(sluice: &Running) -> i64 {
    sluice.metric("sluice_http_requests_active", "")
}

/// Clients that ask for much and read nothing take no more than the account of the worker, 4 KiB each, and what the worker
/// keeps for reuse: further streams are refused in such a way that clients repeat them, and a client with a single request is
/// served. `CONNECTIONS=1000` makes it so many.
#[test]
fn unread_streams_take_the_account_and_no_more() {
    const ACCOUNT: usize = 8 << 10;
    let connections = std::env::var("CONNECTIONS").map_or(300, |count| count.parse().unwrap());
    let (_inner, sluice) = pair("http2", "8MiB");
    let address = sluice.addr("web");
    let small = || Client::connect(address).get("a", "/small").text();
    assert_eq!(small(), "hello");
    let before = resident(sluice.pid());
    let mut clients: Vec<H2> = Vec::new();
    for _ in 0..connections {
        let mut client = H2::connect(address);
        let mut asked = Vec::new();
        for number in (1..).step_by(2).take(STREAMS as usize) {
            let block = frames::block(&frames::get("a", "/"));
            asked.extend(frames::frame(kind::HEADERS, 5, number, &block));
        }
        client.send(asked);
        clients.push(client);
    }
    let mut last = None;
    wait::until("all requests to have arrived", || {
        // The worker has had a turn since the last reading.
        let _ = read_to_end(&mut connect(sluice.addr("turn")));
        let page = sluice.page("/metrics").1;
        let sum = |name: &str| sum_metric(&page, name, "listener=\"web\"");
        let accepted = sum("sluice_listener_connections_accepted_total");
        let ended = sum("sluice_http_requests_ended_total");
        let refused = sum_metric(&page, "sluice_limits_reached_total", "");
        let now = (ended, sum("sluice_http_requests_active"), refused);
        let quiet = last.replace(now) == Some(now);
        (quiet && accepted > i64::try_from(connections).unwrap()).then_some(())
    });
    let grown = resident(sluice.pid()).saturating_sub(before);
    let most = ACCOUNT + connections * CONNECTION + WORKER;
    let turned_away = refused(&sluice);
    assert!(grown <= most, "{grown} KiB more, above {most}; {turned_away} requests were refused");
    assert!(turned_away > 0 && active(&sluice) > 0, "{turned_away} refused");
    wait::until("a client with one request to be served", || {
        let mut client = Client::connect(address);
        client.send("GET /small HTTP/1.1\r\nHost: a\r\n\r\n");
        client.try_read().ok().filter(|answer| answer.text() == "hello")
    });
    // Behind all that was sent, they are told what was refused; a connection is closed if there was no memory to do so.
    let told = clients.iter_mut().rev().any(|client| {
        let mut frames = std::iter::from_fn(|| client.read());
        frames.any(|frame| frame.kind == kind::RST_STREAM && frame.code() == REFUSED)
    });
    assert!(told, "no client was told that a stream was refused");
    drop(clients);
    wait::until("their requests to end", || (active(&sluice) == 0).then_some(()));
    // All of the account is there again, for as many requests of one connection as it has streams.
    let turned_away = refused(&sluice);
    let mut client = H2::connect(address);
    let numbers = || (1..).step_by(2).take(STREAMS as usize);
    numbers().for_each(|number| client.headers(number, &frames::get("a", "/small"), true));
    let mut text = String::new();
    numbers().for_each(|_| {
        let data = client.until("a body", |frame| frame.kind == kind::DATA && frame.ends_stream());
        write!(text, "{}", String::from_utf8_lossy(&data.payload)).unwrap();
    });
    assert_eq!(text, "hello".repeat(STREAMS as usize));
    assert_eq!(refused(&sluice), turned_away);
}
