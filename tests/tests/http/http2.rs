//! HTTP/2, gRPC and WebSocket, and every HTTP version to every other.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;

use sluice_testkit::frames::{self, H2, flag, frame, kind};
use sluice_testkit::origin::Client;
use sluice_testkit::peers::Server;
use sluice_testkit::{Authority, Origin, Running, Sluice, tools, wait};

fn peer(script: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(script)
}

fn web(endpoint: impl ToString, rule: &str, cluster: &str) -> String {
    format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ match: {{ path: /* }}, cluster: up{rule} }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"]{cluster} }} }}\n",
        endpoint.to_string()
    )
}

/// A Sluice in front of `origin` that accepts every version, in plain text and over TLS: the endpoint of another
/// Sluice.
fn inner(origin: &Origin) -> Running {
    let kit = Sluice::new();
    Authority::new(kit.folder()).issue("own", &["own.test"]);
    kit.start(&format!(
        "listeners:\n\
         - {{ name: plain, address: 127.0.0.1:0, http: main }}\n\
         - {{ name: tls, address: 127.0.0.1:0, quic: true, tls: {{ certificates: [{{ cert: own.pem, key: own.key }}] }}, http: main }}\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        origin.addr()
    ))
}

/// A Sluice with a cluster per version in front of `inner`, selected by the header `x-up`.
fn outer(inner: &Running) -> Running {
    let kit = Sluice::new();
    Authority::new(kit.folder()).issue("web", &["web.test"]);
    let ca = inner.folder().join("ca.pem");
    let (plain, tls) = (inner.addr("plain"), inner.addr("tls"));
    let of_tls = format!("tls: {{ sni: own.test, ca: \"{}\" }}", ca.display());
    kit.start(&format!(
        "listeners:\n\
         - {{ name: plain, address: 127.0.0.1:0, http: main }}\n\
         - {{ name: tls, address: 127.0.0.1:0, tls: {{ certificates: [{{ cert: web.pem, key: web.key }}] }}, http: main }}\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster_header: x-up }}] }}] }}\n\
         clusters:\n\
         \x20 h1: {{ endpoints: [\"{plain}\"] }}\n\
         \x20 h2: {{ endpoints: [\"{plain}\"], protocol: http2 }}\n\
         \x20 h1tls: {{ endpoints: [\"{tls}\"], {of_tls} }}\n\
         \x20 h2tls: {{ endpoints: [\"{tls}\"], protocol: http2, {of_tls} }}\n\
         \x20 auto: {{ endpoints: [\"{tls}\"], protocol: auto, {of_tls} }}\n\
         \x20 same: {{ endpoints: [\"{plain}\"], protocol: same }}\n\
         \x20 sametls: {{ endpoints: [\"{tls}\"], protocol: same, {of_tls} }}\n\
         \x20 h3: {{ endpoints: [\"{tls}\"], protocol: http3, {of_tls} }}\n"
    ))
}

/// curl as one type of client: `h1`, `h2`, `h1tls` or `h2tls`.
fn curl(outer: &Running, client: &str, up: &str, path: &str) -> Command {
    let mut command = tools::command("curl");
    command.args(["-sS", "--max-time", "30", "-H", &format!("x-up: {up}")]);
    let listener = if client.ends_with("tls") { "tls" } else { "plain" };
    let port = outer.addr(listener).port();
    command.arg(match client {
        "h1" | "h1tls" => "--http1.1",
        "h2" => "--http2-prior-knowledge",
        _ => "--http2",
    });
    command.arg("--cacert").arg(outer.folder().join("ca.pem"));
    command.args(["--resolve", &format!("web.test:{port}:127.0.0.1")]);
    let scheme = if listener == "tls" { "https" } else { "http" };
    command.arg(format!("{scheme}://web.test:{port}{path}"));
    command
}

#[test]
fn every_http_version_is_proxied_to_every_other() {
    if !tools::have(&["curl"]) {
        return;
    }
    let origin = Origin::start("a");
    let inner = inner(&origin);
    let outer = outer(&inner);
    let body: String =
        (0..200_000).map(|n| char::from(b'a' + u8::try_from(n % 23).unwrap())).collect();
    let file = outer.folder().join("body");
    std::fs::write(&file, &body).unwrap();
    for client in ["h1", "h2", "h1tls", "h2tls"] {
        for up in ["h1", "h2", "h1tls", "h2tls", "auto", "same", "sametls", "h3"] {
            let cell = format!("{client} to {up}");
            let run =
                |path: &str, more: &[&str]| tools::must(curl(&outer, client, up, path).args(more));
            // Bodies with a stated length, and in chunks.
            let data = format!("@{}", file.display());
            let echoed = run("/echo", &["--data-binary", &data]);
            assert!(echoed.ends_with(&body), "{cell}: {} bytes: {:.200}", echoed.len(), echoed);
            let chunked =
                run("/echo", &["--data-binary", &data, "-H", "transfer-encoding: chunked"]);
            assert!(chunked.ends_with(&body), "{cell}: {} bytes: {:.200}", chunked.len(), chunked);
            assert_eq!(run("/bytes/3000000", &[]).len(), 3_000_000, "{cell}");
            // Trailers, and informational responses.
            let shown = run("/chunked", &["-D", "-", "-H", "te: trailers"]);
            assert!(
                shown.contains("hello world") && shown.contains("x-sum: 42"),
                "{cell}: {shown}"
            );
            let shown = run("/hints", &["-D", "-"]);
            assert!(shown.contains(" 103") && shown.contains("link: </a.css>"), "{cell}: {shown}");
            // Responses without a body.
            let shown = run("/bytes/5", &["-I"]);
            assert!(shown.contains("content-length: 5"), "{cell}: {shown}");
            assert!(run("/status/204", &["-D", "-"]).contains(" 204"), "{cell}");
            // A truncated response ends with an error, never as if it were complete. On HTTP/2 the reset may overtake
            // the beginning; the client then gets an error response instead.
            let cut = tools::run(curl(&outer, client, up, "/cut").arg("--fail"));
            assert!(!cut.status.success(), "{cell}: {cut:?}");
            assert_eq!(run("/reset", &["-o", "/dev/null", "-w", "%{http_code}"]), "503", "{cell}");
        }
    }
    let spoken = |version: &str| {
        outer.records().iter().filter(|r| r["upstream_protocol"] == version).count()
    };
    for version in ["HTTP/3", "HTTP/2", "HTTP/1.1"] {
        wait::until(version, || (spoken(version) > 30).then_some(()));
    }
}

/// A response that does not wait for the request's body reaches clients that are still sending it: the stream is not
/// reset at once, which curl takes for a failure.
#[test]
fn a_response_before_the_end_of_its_request_is_no_error() {
    if !tools::have(&["curl"]) {
        return;
    }
    let origin = Origin::start("a");
    let inner = inner(&origin);
    let outer = outer(&inner);
    let file = outer.folder().join("body");
    std::fs::write(&file, vec![b'x'; 1 << 20]).unwrap();
    let large = format!("@{}", file.display());
    for client in ["h2", "h2tls"] {
        // A cluster that does not exist: the response is Sluice's own.
        for body in ["hello", &large] {
            for turn in 0..20 {
                let mut curl = curl(&outer, client, "none", "/");
                curl.args(["--data-binary", body, "-o", "/dev/null", "-w", "%{http_code}"]);
                let output = tools::run(&mut curl);
                let status = String::from_utf8_lossy(&output.stdout).into_owned();
                assert!(output.status.success() && status == "503", "{client} {turn}: {output:?}");
            }
        }
    }
}

#[test]
fn requests_keep_their_version_where_the_cluster_says_so() {
    if !tools::have(&["curl"]) {
        return;
    }
    let origin = Origin::start("a");
    let inner = inner(&origin);
    let outer = outer(&inner);
    // In turns, so that connections of both versions are open.
    for turn in 0..2 {
        for client in ["h1", "h2", "h1tls", "h2tls"] {
            for up in ["same", "sametls"] {
                let path = format!("/{turn}-{client}-{up}");
                tools::must(&mut curl(&outer, client, up, &path));
                let record = outer.record("the request", |record| record["path"] == *path);
                let version = if client.starts_with("h1") { "HTTP/1.1" } else { "HTTP/2" };
                let spoken = (&record["protocol"], &record["upstream_protocol"]);
                assert_eq!(spoken, (&version.into(), &version.into()), "{path}");
            }
        }
    }
    // Each worker connects once for each version.
    let connections =
        |up: &str| outer.metric("sluice_cluster_connections_total", &format!("\"{up}\""));
    assert!(connections("same") <= 4 && connections("sametls") <= 4);
}

#[test]
fn a_cancelled_request_is_cancelled_upstream_in_every_version() {
    let origin = Origin::start("a");
    let inner = inner(&origin);
    let outer = outer(&inner);
    for (number, up) in ["h1", "h2", "h3"].into_iter().enumerate() {
        let mut client = H2::connect(outer.addr("plain"));
        let mut fields = frames::get("a", "/wait");
        fields.push(("x-up", up));
        client.headers(1, &fields, true);
        wait::until("the request to arrive", || {
            let requests = origin.requests();
            let waiting = requests.iter().filter(|request| request.path() == "/wait");
            (waiting.count() == number + 1).then_some(())
        });
        client.send(frame(kind::RST_STREAM, 0, 1, &8_u32.to_be_bytes()));
        let gone = |running: &Running| {
            let records = running.records();
            // HTTP/2 can cancel a request, HTTP/1 can only reset the connection.
            let words = ["downstream.cancelled", "downstream.reset"];
            let given_up =
                |record: &&serde_json::Value| words.iter().any(|w| record["reason"] == *w);
            let gone = records.iter().filter(|r| r["kind"] == "request").filter(given_up);
            (gone.count() == number + 1).then_some(())
        };
        wait::until("the outer to notice", || gone(&outer));
        wait::until("the inner to notice", || gone(&inner));
        // The connection remains usable.
        let mut fields = frames::get("a", "/bytes/3");
        fields.push(("x-up", up));
        client.headers(3, &fields, true);
        assert_eq!(client.body(3), b"xxx");
    }
    origin.release();
}

#[test]
fn floods_end_only_their_own_connection() {
    let origin = Origin::start("a");
    let sluice = Sluice::new().start(&web(origin.addr(), "", ""));
    let address = sluice.addr("web");
    let mut other = H2::connect(address);
    let all = flag::END_HEADERS | flag::END_STREAM;
    let get = frames::block(&frames::get("a", "/wait"));
    let resets: Vec<u8> = (0..2000)
        .flat_map(|n| {
            let stream = 2 * n + 1;
            let reset = frame(kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes());
            [frame(kind::HEADERS, all, stream, &get), reset].concat()
        })
        .collect();
    let continuations = || {
        let head = frame(kind::HEADERS, flag::END_STREAM, 1, &get);
        [head, frame(kind::CONTINUATION, 0, 1, &[]).repeat(100_000)].concat()
    };
    let bomb: Vec<(String, String)> =
        (0..2000).map(|n| (format!("x-{n}"), "y".repeat(60))).collect();
    let mut fields = frames::get("a", "/");
    fields.extend(bomb.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let block = frames::block(&fields);
    let mut pieces = block.chunks(16_000);
    let mut bomb = frame(kind::HEADERS, flag::END_STREAM, 1, pieces.next().unwrap());
    pieces.for_each(|piece| bomb.extend(frame(kind::CONTINUATION, 0, 1, piece)));
    bomb.extend(frame(kind::CONTINUATION, flag::END_HEADERS, 1, &[]));
    for (what, flood, ends) in [
        ("resets", resets, true),
        ("continuations", continuations(), true),
        ("a head without end", bomb, false),
    ] {
        let mut client = H2::connect(address);
        let _ = client.try_send(&flood);
        let settled = loop {
            match client.read() {
                None => break true,
                Some(frame) if frame.kind == kind::GOAWAY => break true,
                Some(frame) if frame.kind == kind::RST_STREAM => break !ends,
                // 431, or a response to a stream that was already open.
                Some(frame) if frame.kind == kind::HEADERS => break !ends,
                Some(_) => {}
            }
        };
        assert!(settled, "{what}");
        other.send(frame(kind::PING, 0, 0, b"still ok"));
        other.until("an answer", |frame| frame.kind == kind::PING && frame.payload == b"still ok");
    }
    origin.release();
    other.headers(1, &frames::get("a", "/bytes/2"), true);
    assert_eq!(other.body(1), b"xx");
    // A preface that is never sent.
    drop(H2::silent(address));
    wait::until("it to be taken", || {
        (sluice.metric("sluice_listener_connections_accepted_total", "") == 5).then_some(())
    });
}

#[test]
fn a_reader_that_stops_holds_a_bounded_amount_of_memory() {
    let origin = Origin::start("a");
    let sluice = Sluice::new().workers(1).start(&web(origin.addr(), "", ""));
    let resident = || sluice.metric("process_resident_memory_bytes", "");
    let mut client = H2::connect(sluice.addr("web"));
    client.headers(1, &frames::get("a", "/bytes/200000000"), true);
    // The client's window of 64 KiB fills up, and the client grants no more.
    let mut got = 0;
    while got < 65_535 {
        let frame = client.until("data", |frame| frame.kind == kind::DATA);
        got += frame.payload.len();
    }
    let before = resident();
    client.send(frame(kind::PING, 0, 0, b"12345678"));
    client.until("an answer", |frame| frame.kind == kind::PING);
    assert!(resident() - before < 8 << 20, "{before} grew to {}", resident());
    client.send(frame(kind::RST_STREAM, 0, 1, &8_u32.to_be_bytes()));
    sluice.record_of("downstream.cancelled");
}

#[test]
fn a_drain_sends_goaway_and_lets_streams_finish() {
    let origin = Origin::start("a");
    let mut sluice = Sluice::new().workers(1).start(&web(origin.addr(), "", ""));
    let mut client = H2::connect(sluice.addr("web"));
    client.headers(1, &frames::get("a", "/wait"), true);
    wait::until("the request to arrive", || (!origin.requests().is_empty()).then_some(()));
    sluice.signal("TERM");
    let goaway = client.until("a GOAWAY", |frame| frame.kind == kind::GOAWAY);
    assert_eq!(goaway.code(), 0);
    origin.release();
    assert_eq!(client.body(1), b"waited\n");
    assert!(sluice.wait_end().success());
}

#[test]
fn grpc_works_with_streams_trailers_and_deadlines() {
    if !tools::have_modules(&["grpc"]) {
        return;
    }
    let (_server, address) = tools::serve_on_its_port(&mut tools::python(&peer("grpc_server.py")));
    let kit = Sluice::new().expect_warning("warning[slow-check]");
    Authority::new(kit.folder()).issue("web", &["web.test"]);
    let sluice = kit.start(&format!(
        "listeners:\n\
         - {{ name: plain, address: 127.0.0.1:0, http: main }}\n\
         - {{ name: tls, address: 127.0.0.1:0, tls: {{ certificates: [{{ cert: web.pem, key: web.key }}] }}, http: main }}\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ match: {{ grpc: t.Echo }}, cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{address}\"], protocol: http2, health: {{ grpc: {{}}, interval: 50ms, timeout: 20s }} }} }}\n"
    ));
    let mut client = tools::python(&peer("grpc_client.py"));
    assert_eq!(tools::must(client.arg(sluice.addr("plain").to_string())), "all well\n");
    let mut client = tools::python(&peer("grpc_client.py"));
    client.arg(sluice.addr("tls").to_string()).arg(sluice.folder().join("ca.pem")).arg("web.test");
    assert_eq!(tools::must(&mut client), "all well\n");
    sluice.record("a failed call", |record| record["grpc_status_number"] == 5);
    wait::until("a check", || {
        (sluice.metric("sluice_health_checks_total", "result=\"ok\"") > 0).then_some(())
    });
    assert_eq!(sluice.metric("sluice_health_checks_total", "result=\"failed\""), 0);
}

#[test]
fn websockets_work_in_every_version() {
    if !tools::have_modules(&["websockets"]) {
        return;
    }
    let script = peer("websocket.py");
    let (_server, address) = tools::serve_on_its_port(tools::python(&script).arg("serve"));
    let inner = Sluice::new().start(&web(address, "", ""));
    let outer = Sluice::new().start(&web(inner.addr("web"), "", ", protocol: http2"));
    // Over HTTP/1 only, and with HTTP/2 between two Sluices.
    for sluice in [&inner, &outer] {
        let url = format!("ws://{}/chat", sluice.addr("web"));
        assert_eq!(tools::must(tools::python(&script).arg("chat").arg(url)), "all well\n");
    }
    // An HTTP/2 client uses extended CONNECT, RFC 8441.
    let mut client = H2::connect(inner.addr("web"));
    client.headers(
        1,
        &[
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/chat"),
            ("sec-websocket-version", "13"),
        ],
        false,
    );
    let head = client.until("an answer", |frame| frame.kind == kind::HEADERS);
    assert!(!head.ends_stream());
    // A masked text frame: "hi".
    client.send(frame(kind::DATA, 0, 1, &[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']));
    let echoed = client.until("the echo", |frame| frame.kind == kind::DATA);
    assert_eq!(echoed.payload, [0x81, 2, b'h', b'i']);
    client.send(frame(kind::RST_STREAM, 0, 1, &8_u32.to_be_bytes()));
    let none = Sluice::new().start(&web(address, ", upgrades: none", ""));
    let url = format!("ws://{}/chat", none.addr("web"));
    assert!(!tools::run(tools::python(&script).arg("chat").arg(url)).status.success());
    none.record_of("http.upgrade_denied");
}

#[test]
fn each_side_of_an_upgraded_stream_closes_independently() {
    let (asked, head) = (
        "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    // The endpoint closes its side first, and reads until the client closes.
    let (heard, end) = mpsc::sync_channel(1);
    let server = Server::start(move |mut stream| {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line)?;
        }
        stream.write_all(head.as_bytes())?;
        stream.write_all(b"done")?;
        stream.shutdown(Shutdown::Write)?;
        let mut rest = String::new();
        reader.read_to_string(&mut rest)?;
        heard.send(rest).map_err(io::Error::other)
    });
    let sluice = Sluice::new().start(&web(server.addr(), "", ""));
    let mut client = Client::connect(sluice.addr("web"));
    client.send(asked);
    assert_eq!(client.read_head().status(), 101);
    assert_eq!(client.rest(), b"done");
    client.send("and more");
    client.socket().shutdown(Shutdown::Write).unwrap();
    assert_eq!(end.recv_timeout(wait::PATIENCE).unwrap(), "and more");
    sluice.record_of("http.answered");
}

#[test]
fn nginx_and_h2load_report_no_errors() {
    if !tools::have(&["nginx", "h2load"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (h1, h2) = (tools::free_port(), tools::free_port());
    let config = folder.path().join("nginx.conf");
    std::fs::write(
        &config,
        format!(
            "daemon off; master_process off; pid {0}/pid; error_log stderr; events {{}}\n\
             http {{ access_log off; client_body_temp_path {0}; proxy_temp_path {0}; fastcgi_temp_path {0};\n\
             uwsgi_temp_path {0}; scgi_temp_path {0};\n\
             server {{ listen 127.0.0.1:{h1}; listen 127.0.0.1:{h2} http2; location / {{ return 200 \"from nginx\\n\"; }} }} }}",
            folder.path().display()
        ),
    )
    .unwrap();
    let mut nginx = tools::command("nginx");
    nginx.arg("-c").arg(&config).arg("-p").arg(folder.path());
    let _nginx = tools::serve(&mut nginx, ([127, 0, 0, 1], h1).into());
    for (port, protocol) in [(h1, "http1"), (h2, "http2")] {
        let endpoint = format!("127.0.0.1:{port}");
        let sluice = Sluice::new().start(&web(endpoint, "", &format!(", protocol: {protocol}")));
        for version in [&["--h1"][..], &["-m", "20"]] {
            let mut load = tools::command("h2load");
            load.args(["-n", "3000", "-c", "8"]).args(version);
            let shown = tools::must(load.arg(format!("http://{}/", sluice.addr("web"))));
            assert!(shown.contains("3000 succeeded, 0 failed, 0 errored"), "{protocol}: {shown}");
        }
    }
}

#[test]
fn nghttp_sends_and_reads_every_part_of_a_message() {
    if !tools::have(&["nghttp"]) {
        return;
    }
    let origin = Origin::start("a");
    let sluice = Sluice::new().start(&web(origin.addr(), "", ""));
    let nghttp = |path: &str, more: &[&str]| {
        let mut nghttp = tools::command("nghttp");
        nghttp.arg("-v").args(more);
        tools::must(nghttp.arg(format!("http://{}{path}", sluice.addr("web"))))
    };
    let shown = nghttp("/chunked", &["-H", "te: trailers"]);
    assert!(shown.contains("hello world") && shown.contains("x-sum: 42"), "{shown}");
    let shown = nghttp("/hints", &[]);
    assert!(shown.contains(":status: 103") && shown.contains("link: </a.css>"), "{shown}");
    let file = sluice.folder().join("body");
    std::fs::write(&file, "x".repeat(100_000)).unwrap();
    let shown = nghttp(
        "/echo",
        &["-d", file.to_str().unwrap(), "--no-content-length", "--trailer", "x-sum: 7"],
    );
    assert!(shown.contains(":status: 200"), "{shown}");
    let request = origin.requests().pop().unwrap();
    assert_eq!((request.body.len(), request.trailers.as_str()), (100_000, "x-sum: 7\r\n"));
    // Several requests at once on one connection, all of which get a response.
    let shown = nghttp("/bytes/3", &["-m", "20"]);
    assert_eq!(shown.matches(":status: 200").count(), 20, "{shown}");
}
