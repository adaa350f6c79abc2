//! Traces of requests and connections (`tap`): what is in their files, whose these are, and what they may take.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sluice_testkit::origin::{self, Client, read_message};
use sluice_testkit::peers::{Server, connect, exchange};
use sluice_testkit::{Origin, Running, Sluice, wait};

/// A Sluice whose chain has this tap, with files in a folder.
fn start(folder: &Path, tap: &str, endpoint: &str, more: &str) -> Running {
    start_on(Sluice::new(), folder, tap, endpoint, more)
}

fn start_on(sluice: Sluice, folder: &Path, tap: &str, endpoint: &str, more: &str) -> Running {
    let file = folder.join("t");
    sluice.start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ tap: {{ file: {}{tap} }} }}] }} }}]\n\
         routes: {{ main: {{ rules: [{{ match: {{ path: /private }}, cluster: up, filters: {{ tap: skip }} }}, {{ cluster: up }}] }} }}\n\
         clusters: {{ up: \"{endpoint}\" }}\n{more}\n",
        file.display()
    ))
}

fn files(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect()
}

/// The values in a file, as far as it has been written.
fn values(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    serde_json::Deserializer::from_str(&text).into_iter().map_while(Result::ok).collect()
}

/// The traces in a folder, once there are as many files, each with as many pieces.
fn traces(folder: &Path, count: usize, pieces: usize) -> Vec<Vec<Value>> {
    wait::until("the traces", || {
        let all: Vec<_> = files(folder).iter().map(|file| values(file)).collect();
        let whole = all.len() == count && all.iter().all(|trace| trace.len() == pieces);
        whole.then_some(all)
    })
}

fn header<'v>(headers: &'v Value, name: &str) -> &'v str {
    let all = headers.as_array().unwrap();
    let found = all.iter().find(|header| header["key"] == name);
    found.and_then(|found| found["value"].as_str()).unwrap_or_default()
}

/// Ends the process; what it has begun is written then.
fn stop(mut sluice: Running) {
    sluice.signal("TERM");
    assert!(sluice.wait_end().success());
}

fn reached(sluice: &Running, limit: &str) {
    let labels = format!("limit=\"{limit}\"");
    wait::until("the limit to be counted", || {
        (sluice.metric("sluice_limits_reached_total", &labels) > 0).then_some(())
    });
}

#[test]
fn each_request_has_a_file_that_only_its_owner_can_read() {
    let origin = Origin::start("a");
    let folder = tempfile::tempdir().unwrap();
    let tap =
        ", format: json_text, times: true, client_connection: true, endpoint_connection: true";
    let sluice = start(folder.path(), tap, &origin.addr().to_string(), "");
    let mut client = Client::connect(sluice.addr("web"));
    assert_eq!(client.ask("GET /private HTTP/1.1\r\nHost: h\r\n\r\n").status(), 200);
    for path in ["/one", "/two"] {
        let request =
            format!("POST {path} HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nContent-Length: 5\r\n\r\nhello");
        assert_eq!(client.ask(&request).status(), 200);
    }
    let mut paths = Vec::new();
    for trace in traces(folder.path(), 2, 1) {
        let trace = &trace[0]["http_buffered_trace"];
        let request = &trace["request"];
        paths.push(header(&request["headers"], ":path").to_owned());
        assert_eq!(header(&request["headers"], "x-a"), "1");
        assert_eq!(request["body"]["as_string"], "hello");
        assert_eq!(header(&trace["response"]["headers"], ":status"), "200");
        assert!(request["headers_received_time"].as_str().unwrap().ends_with('Z'));
        let port = |end: &str, side: &str| trace[end][side]["socket_address"]["port_value"].clone();
        assert_eq!(port("downstream_connection", "local_address"), sluice.addr("web").port());
        assert_eq!(port("upstream_connection", "remote_address"), origin.addr().port());
    }
    paths.sort();
    assert_eq!(paths, ["/one", "/two"]);
    for file in files(folder.path()) {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
    }
    wait::until("both to be counted", || {
        let labels = "listener=\"web\",result=\"recorded\"";
        (sluice.metric("sluice_taps_total", labels) == 2).then_some(())
    });
}

/// Responds with trailers.
fn with_trailers() -> Server {
    Server::start(|mut stream| {
        let mut reader = BufReader::new(stream.try_clone()?);
        loop {
            read_message(&mut reader, false)?;
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nyes\r\n0\r\nx-sum: 2\r\n\r\n")?;
        }
    })
}

const WITH_TRAILERS: &str = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nask\r\n0\r\nx-sum: 1\r\n\r\n";

#[test]
fn trailers_are_recorded_and_decide() {
    let server = with_trailers();
    for (wanted, count) in [
        ("{ request_trailers: { x-sum: \"1\" }, response_trailers: { x-sum: \"2\" } }", 1),
        ("{ not: { response_trailers: { x-sum: \"2\" } } }", 0),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let tap = format!(", match: {wanted}");
        let sluice = start(folder.path(), &tap, &server.addr().to_string(), "");
        let mut client = Client::connect(sluice.addr("web"));
        assert_eq!(client.ask(WITH_TRAILERS).status(), 200);
        drop(client);
        stop(sluice);
        let traces = traces(folder.path(), count, 1);
        for trace in traces {
            let trace = &trace[0]["http_buffered_trace"];
            assert_eq!(header(&trace["request"]["trailers"], "x-sum"), "1");
            assert_eq!(header(&trace["response"]["trailers"], "x-sum"), "2");
            assert_eq!(trace["response"]["body"]["as_bytes"], "eWVz");
        }
    }
}

#[test]
fn a_trace_in_pieces_begins_with_what_passed_before_it_was_known() {
    let server = with_trailers();
    let folder = tempfile::tempdir().unwrap();
    let tap = ", stream: true, match: { response_trailers: { x-sum: { present: true } } }";
    let sluice = start(folder.path(), tap, &server.addr().to_string(), "");
    let mut client = Client::connect(sluice.addr("web"));
    assert_eq!(client.ask(WITH_TRAILERS).status(), 200);
    let trace = traces(folder.path(), 1, 6).remove(0);
    let kinds: Vec<String> = trace
        .iter()
        .map(|piece| {
            let piece = piece["http_streamed_trace_segment"].as_object().unwrap();
            piece.keys().find(|key| *key != "trace_id").unwrap().clone()
        })
        .collect();
    let parts = ["headers", "body_chunk", "trailers"];
    let all = ["request", "response"].map(|side| parts.map(|part| format!("{side}_{part}")));
    assert_eq!(kinds, all.concat());
}

#[test]
fn limits_bound_what_traces_take_and_requests_pass() {
    let origin = Origin::start("a");
    for (limits, limit, most) in [
        ("tap_files: 1", "tap_files", 1),
        ("tap_file_bytes: 1KiB", "tap_file_bytes", 1),
        ("tap_queue_bytes: 1KiB", "tap_queue_bytes", 0),
        ("tap_bytes: 1KiB", "tap_bytes", 2),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let more = format!("limits: {{ {limits} }}");
        let tap = ", request_body: 64KiB, format: json_text";
        let sluice = start(folder.path(), tap, &origin.addr().to_string(), &more);
        for number in 0..2 {
            let body = "x".repeat(5000);
            let request = format!(
                "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            assert_eq!(Client::connect(sluice.addr("web")).ask(&request).status(), 200);
            if number < most {
                traces(folder.path(), number + 1, 1);
            }
        }
        reached(&sluice, limit);
        stop(sluice);
        for trace in traces(folder.path(), most, 1) {
            let body = &trace[0]["http_buffered_trace"]["request"]["body"];
            let cut = limit == "tap_bytes";
            assert_eq!(body["truncated"], cut, "{limit}");
            assert_eq!(body["as_string"].as_str().unwrap().len() < 5000, cut, "{limit}");
        }
    }
}

#[test]
fn without_a_folder_requests_pass_and_what_is_lost_is_counted() {
    let origin = Origin::start("a");
    let folder = tempfile::tempdir().unwrap();
    let gone = folder.path().join("gone");
    std::fs::create_dir(&gone).unwrap();
    let sluice = Sluice::new().expect_warning("traces of a tap are being lost");
    let sluice = start_on(sluice, &gone, "", &origin.addr().to_string(), "");
    std::fs::remove_dir(&gone).unwrap();
    wait::until("the loss to be counted", || {
        assert_eq!(origin::get(sluice.addr("web"), "h", "/").status(), 200);
        (sluice.metric("sluice_taps_unwritten_total", "") > 0).then_some(())
    });
}

#[test]
fn a_connection_is_recorded_as_its_bytes_pass() {
    let server = Server::echo();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c");
    let sluice = Sluice::new().start(&format!(
        "listeners: [{{ name: a, address: 127.0.0.1:0, relay: up, filters: [\
           {{ tap: {{ file: {0}, format: json_text, stream: true, received: 3 }} }}, {{ tap/none: {{ file: {0}, match: {{ source: 192.0.2.0/24 }} }} }}] }}]\n\
         clusters: {{ up: \"{1}\" }}\n",
        file.display(),
        server.addr()
    ));
    let mut client = connect(sluice.addr("a"));
    assert_eq!(exchange(&mut client, b"hello"), b"hello");
    // The connection is still open.
    let trace = wait::until("the first pieces", || {
        let file = files(folder.path()).pop()?;
        Some(values(&file)).filter(|trace| trace.len() >= 3)
    });
    let piece = |number: usize| trace[number]["socket_streamed_trace_segment"].clone();
    let port = piece(0)["connection"]["remote_address"]["socket_address"]["port_value"].clone();
    assert_eq!(port, client.local_addr().unwrap().port());
    assert_eq!(piece(1)["event"]["read"]["data"]["as_string"], "hel");
    assert_eq!(piece(1)["event"]["read"]["data"]["truncated"], true);
    assert!(piece(2)["event"]["write"]["data"]["as_string"].as_str().unwrap().starts_with('h'));
    drop(client);
    wait::until("the end", || {
        let file = files(folder.path()).pop()?;
        let trace = values(&file);
        trace.last()?["socket_streamed_trace_segment"]["event"]["closed"].is_object().then_some(())
    });
    assert_eq!(files(folder.path()).len(), 1);
}
