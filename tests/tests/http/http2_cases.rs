//! HTTP/2 frame by frame: a case for each MUST that a client can test in a server, and h2spec if available.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsStr;
use std::fmt::Write as _;

use sluice_testkit::frames::{self, H2, flag, frame, kind};
use sluice_testkit::{Origin, Running, Sluice, tools, wait};
use sluice_tests::h2_cases::{Case, Outcome, Step};

/// A Sluice in front of `origin` that allows its clients this many concurrent streams.
fn web(origin: &Origin, streams: u32) -> Running {
    Sluice::new().start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, http2: {{ streams: {streams} }} }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        origin.addr()
    ))
}

/// A client that runs the steps of a case.
struct Client<'a> {
    h2: H2,
    origin: &'a Origin,
    seen: Outcome,
    pings: u64,
}

impl Client<'_> {
    /// Reads the next frame; `false` at the end of the connection.
    fn read(&mut self) -> bool {
        match self.h2.read() {
            Some(frame) => self.seen.take(&frame),
            None => self.seen.closed = true,
        }
        !self.seen.closed
    }

    /// Waits until everything sent so far has been read.
    fn sync(&mut self) {
        self.pings += 1;
        let mark = (u64::MAX - self.pings).to_be_bytes();
        let _ = self.h2.try_send(frame(kind::PING, 0, 0, &mark));
        while !self.seen.pongs.iter().any(|pong| *pong == mark) && self.read() {}
    }

    fn take(&mut self, step: &Step) {
        match step {
            // The server may have closed, which shows later.
            Step::Send(bytes) => drop(self.h2.try_send(bytes)),
            Step::Sync => self.sync(),
            Step::Await(stream) => {
                let over = |seen: &Outcome| {
                    seen.ended.contains(stream) || seen.resets.contains_key(stream)
                };
                while !over(&self.seen) && self.read() {}
            }
            Step::Release => self.origin.release(),
        }
    }

    /// Reads until `wanted` is complete or something outside of it was received; then also what follows.
    fn until(&mut self, wanted: &Outcome) {
        while !self.seen.covers(wanted)
            && self.seen.goaway.is_none()
            && self.seen.resets.keys().all(|stream| wanted.resets.contains_key(stream))
            && self.read()
        {}
        if wanted.goaway.is_none() && !wanted.closed {
            self.sync();
        }
    }
}

/// Runs a case; returns what is wrong.
fn run(case: &Case, sluice: &Running, origin: &Origin) -> Option<String> {
    let address = sluice.addr("web");
    let h2 = if case.raw { H2::silent(address) } else { H2::connect(address) };
    let before = origin.requests().len();
    let mut client = Client { h2, origin, seen: Outcome::default(), pings: 0 };
    for step in &case.steps {
        client.take(step);
    }
    let expected = &case.wanted;
    client.until(expected);
    let seen = &client.seen;
    if !seen.covers(expected) || (seen.closed && expected.goaway.is_none() && !expected.closed) {
        return Some(format!("expected {expected:?}\n  got {seen:?}"));
    }
    let wanted = case.reached?;
    let reached = || (origin.requests().len() - before == wanted).then_some(());
    wait::within(wait::PATIENCE, reached).is_none().then(|| {
        format!("{} requests came to the endpoint, not {wanted}", origin.requests().len() - before)
    })
}

#[test]
fn every_case_has_its_expected_outcome() {
    let cases = Case::read_all(include_str!("../../cases/http2.txt"));
    assert!(cases.len() > 200, "{}", cases.len());
    let mut wrong = String::new();
    for streams in [128, 2] {
        let origin = Origin::start("a");
        let sluice = web(&origin, streams);
        for case in cases.iter().filter(|case| case.streams.unwrap_or(128) == streams) {
            // Cases whose requests wait, or are not waited for, get a server of their own.
            let alone = case.steps.contains(&Step::Release) || case.reached.is_none();
            let own = alone.then(|| {
                let origin = Origin::start("b");
                (web(&origin, streams), origin)
            });
            let (sluice, origin) = own.as_ref().map_or((&sluice, &origin), |(s, o)| (s, o));
            if let Some(problem) = run(case, sluice, origin) {
                writeln!(wrong, "{}: {problem}", case.name).unwrap();
            }
        }
        origin.release();
        if let Some(h2spec) = std::env::var_os("H2SPEC").filter(|_| streams > 100) {
            wrong += &h2spec_of(&h2spec, &sluice);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Runs h2spec, whose path the environment provides, against a Sluice; returns its output, empty if nothing failed.
fn h2spec_of(program: &OsStr, sluice: &Running) -> String {
    let port = sluice.addr("web").port().to_string();
    let mut command = std::process::Command::new(program);
    let said = tools::run(command.args(["--host", "127.0.0.1", "--port", &port, "--timeout", "5"]));
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    if said.contains(" 0 failed") { String::new() } else { said }
}

/// Frames in flight for a refused stream do not affect later streams.
#[test]
fn a_connection_survives_many_refused_streams() {
    let origin = Origin::start("a");
    let sluice = web(&origin, 128);
    let mut client = H2::connect(sluice.addr("web"));
    let end = flag::END_HEADERS | flag::END_STREAM;
    let mut fields = frames::get("a", "/");
    fields.push(("connection", "x"));
    let wrong = frames::block(&fields);
    for number in 0..900 {
        client.send(frame(kind::HEADERS, end, 2 * number + 1, &wrong));
        client.until("a reset", |frame| frame.kind == kind::RST_STREAM);
    }
    client.headers(2001, &frames::get("a", "/bytes/3"), true);
    assert_eq!(client.body(2001), b"xxx");
}

/// A refused request is counted by what is wrong with it, and the record of its connection has the detail.
#[test]
fn a_refused_request_is_counted_and_recorded() {
    let origin = Origin::start("a");
    let sluice = web(&origin, 128);
    let mut client = H2::connect(sluice.addr("web"));
    let mut fields = frames::get("a", "/");
    fields.extend([("host", "a"), ("host", "a")]);
    client.send(frame(
        kind::HEADERS,
        flag::END_HEADERS | flag::END_STREAM,
        1,
        &frames::block(&fields),
    ));
    client.until("a response", |frame| frame.kind == kind::HEADERS && frame.stream == 1);
    assert_eq!(sluice.metric("sluice_http_protocol_errors_total", "http2.host_repeated"), 1);
    client.headers(3, &frames::get("a", "/bytes/3"), true);
    assert_eq!(client.body(3), b"xxx", "the connection goes on");
    drop(client);
    sluice.record("the connection", |record| {
        record["kind"] == "connection" && record["detail"] == "http2.host_repeated"
    });
}
