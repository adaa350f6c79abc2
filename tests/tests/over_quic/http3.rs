//! HTTP/3 over QUIC, with third-party clients: aioquic and ngtcp2.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};

use serde_json::{Value, json};
use sluice_testkit::frames::{self, H2, kind};
use sluice_testkit::lossy::{LossyHop, Troubles};
use sluice_testkit::origin::websocket_accept;
use sluice_testkit::peers::{Server, UdpServer, udp_client};
use sluice_testkit::{Authority, Origin, Running, Sluice, origin, tools, wait};
use sluice_tests::h3::{Client, configuration, edge, head, status};

fn have_aioquic() -> bool {
    tools::have_modules(&["aioquic"])
}

#[track_caller]
fn tell(sluice: &Running, steps: &Value) -> Value {
    Client::start(sluice, "web", "web.test", steps).end()
}

fn get(path: &str) -> Value {
    json!({ "ask": { "headers": head("GET", path, &[]) } })
}

#[test]
fn a_request_is_proxied_and_recorded() {
    if !have_aioquic() || !tools::have(&["curl"]) {
        return;
    }
    let origin = Origin::start("a");
    let sluice = edge(&origin, 1, "true");
    let got = tell(
        &sluice,
        &json!([
            { "ask": { "headers": head("POST", "/echo?x=1", &[("x-mine", "1"), ("content-length", "5")]), "body": "hello" } },
            { "await": [0, "end"] },
        ]),
    );
    let stream = &got["streams"]["0"];
    assert_eq!((status(stream), &stream["ended"]), (200, &true.into()), "{got}");
    let request = &origin.requests()[0];
    assert_eq!(request.words(), ["POST", "/echo?x=1", "HTTP/1.1"]);
    assert_eq!((request.value("host"), request.value("x-mine")), ("web.test", "1"));
    assert_eq!(request.value("x-forwarded-proto"), "https");
    assert_eq!(request.text(), "hello");
    let record = sluice.record("the request", |record| record["kind"] == "request");
    assert_eq!((&record["protocol"], &record["bytes_received"]), (&"HTTP/3".into(), &5.into()));
    let record = sluice.record("the connection", |record| record["kind"] == "connection");
    assert_eq!(
        (&record["reason"], &record["requested_server_name"]),
        (&"end.done".into(), &"web.test".into())
    );
    // Clients of the other versions are told about HTTP/3 (alt-svc); those of HTTP/3 are not.
    let port = sluice.addr("web").port();
    let mut curl = tools::command("curl");
    curl.args(["-sS", "-D", "-", "-o", "/dev/null", "--cacert"])
        .arg(sluice.folder().join("ca.pem"));
    curl.args(["--resolve", &format!("web.test:{port}:127.0.0.1")]);
    let shown = tools::must(curl.arg(format!("https://web.test:{port}/bytes/1")));
    assert!(shown.contains(&format!("alt-svc: h3=\":{port}\"; ma=86400")), "{shown}");
    assert!(!stream["head"].to_string().contains("alt-svc"), "{stream}");
}

#[test]
fn http3_is_proxied_to_endpoints_of_every_version() {
    if !have_aioquic() {
        return;
    }
    let origin = Origin::start("a");
    let kit = Sluice::new();
    Authority::new(kit.folder()).issue("own", &["own.test"]);
    let inner = kit.start(&format!(
        "listeners:\n\
         - {{ name: plain, address: 127.0.0.1:0, http: main }}\n\
         - {{ name: tls, address: 127.0.0.1:0, quic: true, tls: {{ certificates: [{{ cert: own.pem, key: own.key }}] }}, http: main }}\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        origin.addr()
    ));
    let (plain, tls) = (inner.addr("plain"), inner.addr("tls"));
    let of_tls =
        format!("tls: {{ sni: own.test, ca: \"{}\" }}", inner.folder().join("ca.pem").display());
    let kit = Sluice::new();
    Authority::new(kit.folder()).issue("web", &["web.test"]);
    let outer = kit.start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, quic: true, tls: {{ certificates: [{{ cert: web.pem, key: web.key }}] }}, http: main }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster_header: x-up }}] }}] }}\n\
         clusters:\n\
         \x20 h1: {{ endpoints: [\"{plain}\"] }}\n\
         \x20 h2: {{ endpoints: [\"{plain}\"], protocol: http2 }}\n\
         \x20 h1tls: {{ endpoints: [\"{tls}\"], {of_tls} }}\n\
         \x20 h2tls: {{ endpoints: [\"{tls}\"], protocol: http2, {of_tls} }}\n\
         \x20 h3: {{ endpoints: [\"{tls}\"], protocol: http3, {of_tls} }}\n"
    ));
    for up in ["h1", "h2", "h1tls", "h2tls", "h3"] {
        let head = |method: &str, path: &str, more: &[(&str, &str)]| {
            head(method, path, &[&[("x-up", up)], more].concat())
        };
        let ask = |headers: Value, rest: Value| {
            let mut ask = json!({ "headers": headers });
            ask.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            json!({ "ask": ask })
        };
        let steps = json!([
            // With and without a stated length and trailers, and bodies in the other direction.
            ask(head("POST", "/echo", &[("content-length", "200000")]), json!({ "body": 200_000 })),
            { "await": [0, "end"] },
            ask(head("POST", "/echo", &[]), json!({ "body": 200_000 })),
            { "await": [4, "end"] },
            ask(head("POST", "/echo", &[]), json!({ "body": "abc", "trailers": [["x-sum", "7"]] })),
            { "await": [8, "end"] },
            ask(head("GET", "/bytes/3000000", &[]), json!({})),
            { "await": [12, "end"] },
            ask(head("GET", "/chunked", &[("te", "trailers")]), json!({})),
            { "await": [16, "end"] },
            ask(head("GET", "/status/204", &[]), json!({})),
            { "await": [20, "end"] },
            ask(head("GET", "/cut", &[]), json!({})),
            { "await": [24, "end"] },
            ask(head("GET", "/reset", &[]), json!({})),
            { "await": [28, "end"] },
            // Cancelled halfway, which ends nothing else.
            ask(head("GET", "/bytes/30000000", &[]), json!({})),
            { "await": [32, "data"] },
            { "cancel": 32 },
            ask(head("GET", "/bytes/3", &[]), json!({})),
            { "await": [36, "end"] },
        ]);
        let before = origin.requests().len();
        let got = tell(&outer, &steps);
        let stream = |number: u32| got["streams"][number.to_string()].clone();
        for number in [0, 4, 8, 12, 16] {
            assert_eq!(
                (status(&stream(number)), &stream(number)["ended"]),
                (200, &true.into()),
                "{up}: {got}"
            );
        }
        let mut posts = origin.requests().split_off(before);
        posts.retain(|request| request.words()[0] == "POST");
        let bodies: Vec<usize> = posts.iter().map(|request| request.body.len()).collect();
        assert_eq!(bodies, [200_000, 200_000, 3], "{up}");
        let request = &posts[2];
        assert_eq!(
            (request.text().as_str(), request.trailers.as_str()),
            ("abc", "x-sum: 7\r\n"),
            "{up}"
        );
        assert_eq!(stream(12)["data"], 3_000_000, "{up}");
        assert_eq!(
            (&stream(16)["text"], &stream(16)["trailers"]),
            (&"hello world".into(), &json!([["x-sum", "42"]])),
            "{up}"
        );
        assert_eq!((status(&stream(20)), &stream(20)["ended"]), (204, &true.into()), "{up}");
        // A truncated response ends with an error, never as if it were complete.
        assert!(stream(24)["reset"].is_u64() || status(&stream(24)) == 503, "{up}: {}", stream(24));
        assert_eq!(status(&stream(28)), 503, "{up}: {}", stream(28));
        assert_eq!((status(&stream(36)), &stream(36)["data"]), (200, &3.into()), "{up}: {got}");
        assert_eq!(got["closed"], Value::Null, "{up}");
    }
    wait::until("each that was given up to be given up on", || {
        let records = outer.records();
        let given_up = records.iter().filter(|record| record["reason"] == "downstream.cancelled");
        (given_up.count() == 5).then_some(())
    });
}

#[test]
fn requests_over_http3_go_on_over_http3_where_the_cluster_says_so() {
    if !have_aioquic() {
        return;
    }
    let kit = Sluice::new();
    Authority::new(kit.folder()).issue("own", &["own.test"]);
    let inner = kit.start(
        "listeners: [{ name: tls, address: 127.0.0.1:0, quic: true, tls: { certificates: [{ cert: own.pem, key: own.key }] }, http: main }]\n\
         routes: { main: { respond: { status: 200 } } }\n",
    );
    let ca = inner.folder().join("ca.pem");
    let of_tls = format!("tls: {{ sni: own.test, ca: \"{}\" }}", ca.display());
    let kit = Sluice::new();
    Authority::new(kit.folder()).issue("web", &["web.test"]);
    let outer = kit.start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, quic: true, tls: {{ certificates: [{{ cert: web.pem, key: web.key }}] }}, http: main }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster_header: x-up }}] }}] }}\n\
         clusters:\n\
         \x20 all: {{ endpoints: [\"{0}\"], protocol: same, http3: true, {of_tls} }}\n\
         \x20 tcp: {{ endpoints: [\"{0}\"], protocol: same, {of_tls} }}\n",
        inner.addr("tls")
    ));
    let ask =
        |path: &str, up: &str| json!({ "ask": { "headers": head("GET", path, &[("x-up", up)]) } });
    let steps = json!([ask("/all", "all"), { "await": [0, "end"] }, ask("/tcp", "tcp"), { "await": [4, "end"] }]);
    let got = tell(&outer, &steps);
    assert_eq!((status(&got["streams"]["0"]), status(&got["streams"]["4"])), (200, 200), "{got}");
    for (path, version) in [("/all", "HTTP/3"), ("/tcp", "HTTP/2")] {
        let record = outer.record(path, |record| record["path"] == path);
        assert_eq!(record["upstream_protocol"], version, "{path}");
    }
}

/// The output of ngtcp2's client for a request.
fn ngtcp2(sluice: &Running, path: &str, more: &[&str]) -> String {
    let mut client = tools::command("gtlsclient");
    client.args(["--exit-on-all-streams-close", "--no-quic-dump", "--no-http-dump"]).args(more);
    client.arg("127.0.0.1").arg(sluice.addr("web").port().to_string());
    let output = tools::run(client.arg(format!("https://web.test{path}")));
    [output.stderr, output.stdout].map(|text| String::from_utf8_lossy(&text).into_owned()).concat()
}

#[test]
fn informational_responses_and_responses_to_head_are_forwarded() {
    if !tools::have(&["gtlsclient"]) {
        return;
    }
    let origin = Origin::start("a");
    let sluice = edge(&origin, 1, "true");
    let hinted = ngtcp2(&sluice, "/hints", &[]);
    for part in ["[:status: 103]", "[link: </a.css>]", "[:status: 200]", "[x-origin: a]"] {
        assert!(hinted.contains(part), "there is no {part}: {hinted}");
    }
    let alone = ngtcp2(&sluice, "/bytes/5", &["--http-method=HEAD"]);
    assert!(alone.contains("[content-length: 5]") && alone.contains("[:status: 200]"), "{alone}");
    assert_eq!(origin.requests()[1].words()[0], "HEAD");
}

/// Protocol violations of a client, with the code that resets the stream (`Ok`) or closes the connection.
fn wrongs() -> Vec<(&'static str, Value, Result<u64, u64>)> {
    let request =
        |headers: Value| json!([{ "ask": { "headers": headers } }, { "await": [0, "end"] }]);
    let raw = |hex: &str, end: bool| json!([{ "raw": hex, "end": end }, { "await": [0, "end"] }]);
    let uni = |hex: &str, end: bool| json!([{ "uni": hex, "end": end }, { "closed": true }]);
    let control = |hex: &str| json!([{ "control": hex }, { "closed": true }]);
    // GET / for the host a, and trailers with one field.
    let (get, trailers) = ("01080000d1d7500161c1", "0106000021780131");
    let behind = |frame: &str| raw(&format!("{get}{trailers}{frame}"), true);
    vec![
        ("data behind the trailers", behind("000161"), Err(0x105)),
        ("trailers behind the trailers", behind(trailers), Err(0x105)),
        ("a bound on pushes that is lowered", control("0d01050d0101"), Err(0x108)),
        ("the end of a push that was never promised", control("030100"), Err(0x108)),
        ("a farewell that takes more than the last", control("070101070105"), Err(0x108)),
        (
            "a field that speaks of a connection",
            request(head("GET", "/", &[("connection", "close")])),
            Ok(0x10e),
        ),
        ("a name in upper case", raw("010c0000d1d7500161c121580131", true), Ok(0x10e)),
        ("a request without a method", raw("01070000d7500161c1", true), Ok(0x10e)),
        (
            "te that asks for more than trailers",
            request(head("GET", "/", &[("te", "gzip")])),
            Ok(0x10e),
        ),
        ("another host than the authority", request(head("GET", "/", &[("host", "b")])), Ok(0x10e)),
        (
            "more body than was said",
            json!([
                { "ask": { "headers": head("POST", "/echo", &[("content-length", "3")]), "body": "hello" } },
                { "await": [0, "end"] },
            ]),
            Ok(0x10e),
        ),
        ("data before the head", raw("000161", true), Err(0x105)),
        ("settings on a request", raw("0400", true), Err(0x105)),
        ("a frame of HTTP/2", raw("0200", true), Err(0x105)),
        ("a frame that ends early", raw("0109000000", true), Err(0x106)),
        ("a field section that wants a table", raw("0103020080", true), Err(0x200)),
        ("a second control stream", uni("000400", false), Err(0x103)),
        ("a push by a client", uni("0100", false), Err(0x103)),
    ]
}

#[test]
fn protocol_violations_get_the_right_code_and_are_not_forwarded() {
    if !have_aioquic() {
        return;
    }
    let origin = Origin::start("a");
    let sluice = edge(&origin, 1, "true");
    for (what, steps, answer) in wrongs() {
        let got = tell(&sluice, &steps);
        match answer {
            Ok(code) => assert_eq!(got["streams"]["0"]["reset"], code, "{what}: {got}"),
            Err(code) => assert_eq!(got["closed"], code, "{what}: {got}"),
        }
    }
    let reached: Vec<String> =
        origin.requests().iter().map(|request| request.head.clone()).collect();
    assert!(reached.iter().all(|head| head.starts_with("POST /echo")), "{reached:?}");
    // A pseudo-header in trailers: the response is a 400, RFC 9114 §4.1.2.
    let hex = "01080000d1d7500161c101030000d9";
    let got = tell(&sluice, &json!([{ "raw": hex, "end": true }, { "await": [0, "end"] }]));
    assert_eq!(status(&got["streams"]["0"]), 400, "{got}");
    // Unknown streams and frames are ignored, and a request with too large headers gets a 431.
    let large = "v".repeat(2000);
    let many: Vec<(&str, &str)> = (0..40).map(|_| ("x-large", large.as_str())).collect();
    let got = tell(
        &sluice,
        &json!([
            { "uni": "4af0deadbeef" },
            { "raw": "21036162630f00", "end": false },
            { "ask": { "headers": head("GET", "/", &many) } },
            { "await": [4, "end"] },
            get("/bytes/3"),
            { "await": [8, "end"] },
        ]),
    );
    assert_eq!((status(&got["streams"]["4"]), status(&got["streams"]["8"])), (431, 200), "{got}");
    assert!(sluice.metric("sluice_http_protocol_errors_total", "http3.") > 8);
}

#[test]
fn a_cancelled_request_ends_only_its_own_stream() {
    if !have_aioquic() {
        return;
    }
    let origin = Origin::start("a");
    let sluice = edge(&origin, 1, "true");
    let got = tell(
        &sluice,
        &json!([
            get("/bytes/30000000"),
            { "await": [0, "data"] },
            { "cancel": 0 },
            get("/bytes/3"),
            { "await": [4, "end"] },
        ]),
    );
    assert_eq!(got["streams"]["4"]["data"], 3, "{got}");
    sluice.record_of("downstream.cancelled");
}

/// The status that a request with a body gets over each version: the body is 11 bytes long, sent in two parts unless the
/// client stops after the first, and the length is declared or not.
fn statuses(sluice: &Running, declared: bool, stops: bool) -> [u16; 3] {
    let more: &[_] = if declared { &[("content-length", "11")] } else { &[] };
    let mut one = origin::Client::connect(sluice.addr("clear"));
    one.send(match (declared, stops) {
        (true, false) => &b"POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 11\r\n\r\n12345678901"[..],
        (true, true) => b"POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 11\r\n\r\n1",
        (false, false) => {
            b"POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\n1\r\na\r\n2345678901\r\n0\r\n\r\n"
        }
        (false, true) => b"POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\n1\r\n",
    });
    let mut two = H2::connect(sluice.addr("clear"));
    let mut fields = frames::get("a", "/a");
    fields[0] = (":method", "POST");
    two.headers(1, &[fields, more.to_vec()].concat(), false);
    let mut steps = vec![
        json!({ "ask": { "headers": head("POST", "/a", more), "body": "1", "end": false } }),
        json!({ "await": [0, "end"] }),
    ];
    two.send(frames::frame(kind::DATA, 0, 1, b"1"));
    if !stops {
        two.send(frames::frame(kind::DATA, frames::flag::END_STREAM, 1, b"2345678901"));
        steps.insert(1, json!({ "more": [0, "2345678901", true] }));
    }
    let answer = two.until("an answer", |frame| frame.stream == 1 && frame.kind == kind::HEADERS);
    let got = tell(sluice, &Value::Array(steps));
    [one.read().status(), frames::status(&answer.payload), status(&got["streams"]["0"])]
}

#[test]
fn bodies_have_a_size_and_a_time_in_every_version() {
    if !have_aioquic() {
        return;
    }
    let origin = Origin::start("a");
    let kit = Sluice::new().workers(1);
    Authority::new(kit.folder()).issue("web", &["web.test"]);
    let yaml = |http: &str| {
        format!(
            "listeners:\n\
             \x20 - {{ name: web, address: 127.0.0.1:0, quic: true, tls: {{ certificates: [{{ cert: web.pem, key: web.key }}] }}, http: {{ routes: main, {http} }} }}\n\
             \x20 - {{ name: clear, address: 127.0.0.1:0, http: {{ routes: main, {http} }} }}\n\
             routes: {{ main: {{ cluster: up }} }}\nclusters: {{ up: \"{}\" }}\n",
            origin.addr()
        )
    };
    let sluice = kit.start(&yaml("filters: [{ body_max: 10 }]"));
    assert_eq!(statuses(&sluice, true, false), [413; 3]);
    assert_eq!(statuses(&sluice, false, false), [413; 3]);
    assert!(origin.requests().is_empty());
    assert_eq!(sluice.reload(&yaml("filters: [{ body_max: 11 }]")), "applied");
    for declared in [true, false] {
        assert_eq!(statuses(&sluice, declared, false), [200; 3]);
    }
    assert_eq!(sluice.reload(&yaml("body_timeout: 100ms")), "applied");
    for declared in [true, false] {
        assert_eq!(statuses(&sluice, declared, true), [408; 3]);
    }
}

/// What clients send ahead of an endpoint that takes nothing is charged, window by window, up to the limit; further requests
/// are refused. The buffers are available to others again once the clients are gone.
#[test]
fn uploads_that_nobody_takes_are_buffered_up_to_the_limit() {
    if !have_aioquic() {
        return;
    }
    // SETTINGS_INITIAL_WINDOW_SIZE of 0: no byte of a body may be sent.
    let endpoint = Server::start(|mut stream| {
        stream.write_all(&frames::frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]))?;
        stream.write_all(&frames::frame(kind::SETTINGS, frames::flag::ACK, 0, &[]))?;
        std::io::copy(&mut stream, &mut std::io::sink()).map(drop)
    });
    let kit = Sluice::new().workers(1);
    Authority::new(kit.folder()).issue("web", &["web.test"]);
    let up = format!("up: {{ endpoints: [\"{}\"], protocol: http2 }}", endpoint.addr());
    let yaml = configuration("web", endpoint.addr(), "true");
    let (before, _) = yaml.split_once("clusters:").unwrap();
    let sluice = kit
        .start(&format!("{before}clusters: {{ {up} }}\nlimits: {{ worker_buffer_bytes: 2MiB }}\n"));
    // A stream may have 256 KiB ahead: of twenty, at most eight may wait.
    let upload = json!({ "ask": { "headers": head("POST", "/", &[]), "body": 200_000 } });
    let mut steps = vec![upload; 20];
    steps.push(json!({ "ended": 12 }));
    for round in 1..=2 {
        tell(&sluice, &Value::Array(steps.clone()));
        wait::until("the end of the connection", || {
            sluice.items("/connections").is_empty().then_some(())
        });
        let records = sluice.records();
        let cut = records.iter().filter(|record| record["reason"] == "relay.buffers").count();
        let cut = i64::try_from(cut).unwrap();
        // They were refused before they were read, and have no record.
        let refused = sluice.metric("sluice_limits_reached_total", "limit=\"worker_buffer_bytes\"");
        let all = 12 * round..=15 * round;
        assert!(all.contains(&(cut + refused)), "{cut} were cut, {refused} refused");
    }
}

/// RFC 9000 §4.5.
#[test]
fn a_final_size_that_shrinks_ends_the_connection() {
    if !have_aioquic() {
        return;
    }
    const FINAL_SIZE_ERROR: u64 = 0x6;
    let origin = Origin::start("a");
    let sluice = edge(&origin, 1, "true");
    let upload =
        json!({ "ask": { "headers": head("POST", "/wait", &[]), "body": 100, "end": false } });
    // What was sent has arrived once another request is answered.
    let got = tell(
        &sluice,
        &json!([upload, get("/bytes/3"), { "await": [4, "end"] }, { "shrink": 0 }, { "closed": true }]),
    );
    assert_eq!(
        (status(&got["streams"]["4"]), &got["closed"]),
        (200, &json!(FINAL_SIZE_ERROR)),
        "{got}"
    );
}

/// `quic.streams`: a client may have so many requests open, and sends more once others have ended.
#[test]
fn a_connection_has_so_many_requests_at_once() {
    if !have_aioquic() {
        return;
    }
    let origin = Origin::start("a");
    let sluice = edge(&origin, 1, "{ streams: 2 }");
    let wait = || get("/wait");
    let client = Client::start(
        &sluice,
        "web",
        "web.test",
        &json!([wait(), wait(), get("/bytes/3"), { "await": [8, "end"] }, { "await": [0, "end"] }]),
    );
    wait::until("two to arrive", || (origin.requests().len() == 2).then_some(()));
    // Requests of others arrive, the third of this client does not before one of its own has ended.
    let other = tell(&sluice, &json!([get("/bytes/1"), { "await": [0, "end"] }]));
    assert_eq!((status(&other["streams"]["0"]), origin.requests().len()), (200, 3));
    origin.release();
    let got = client.end();
    assert_eq!((status(&got["streams"]["8"]), origin.requests().len()), (200, 4), "{got}");
}

#[test]
fn a_flood_of_resets_ends_only_its_own_connection() {
    if !have_aioquic() {
        return;
    }
    let origin = Origin::start("a");
    // The client does not wait for more streams to be granted.
    let sluice = edge(&origin, 1, "{ streams: 200 }");
    let other =
        Client::start(&sluice, "web", "web.test", &json!([get("/wait"), { "await": [0, "end"] }]));
    wait::until("the other to arrive", || (!origin.requests().is_empty()).then_some(()));
    let got = tell(&sluice, &json!([{ "resets": 120 }, { "closed": true }]));
    assert_eq!(got["closed"], 0x107, "{got}");
    sluice.record_of("http.flood");
    origin.release();
    assert_eq!(status(&other.end()["streams"]["0"]), 200);
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn clients_validate_their_address_with_a_retry() {
    if !have_aioquic() {
        return;
    }
    let origin = Origin::start("a");
    let sluice = edge(&origin, 1, "{ retry_above: 0 }");
    let got = tell(&sluice, &json!([get("/bytes/3"), { "await": [0, "end"] }]));
    assert_eq!(got["streams"]["0"]["data"], 3, "{got}");
    // A client that is kept waiting sends its first packet again, and gets another.
    assert!(sluice.metric("sluice_listener_quic_retries_total", "") >= 1);
}

#[test]
fn a_drain_sends_goaway_and_lets_requests_finish() {
    if !have_aioquic() {
        return;
    }
    let origin = Origin::start("a");
    let mut sluice = edge(&origin, 2, "true");
    let client = Client::start(
        &sluice,
        "web",
        "web.test",
        &json!([get("/wait"), { "await": [0, "end"] }, { "closed": true }]),
    );
    wait::until("the request to arrive", || (!origin.requests().is_empty()).then_some(()));
    sluice.signal("TERM");
    wait::until("the drain", || sluice.log().contains("drain").then_some(()));
    origin.release();
    let got = client.end();
    assert_eq!(
        (status(&got["streams"]["0"]), &got["streams"]["0"]["text"]),
        (200, &"waited\n".into())
    );
    assert_eq!(got["closed"], 0x100, "{got}");
    assert!(sluice.wait_end().success());
    sluice.record_of("end.drain");
}

#[test]
fn a_reload_keeps_connections_and_their_next_request_sees_the_new_routes() {
    if !have_aioquic() {
        return;
    }
    let origin = Origin::start("a");
    let sluice = edge(&origin, 2, "true");
    let client = Client::start(
        &sluice,
        "web",
        "web.test",
        &json!([get("/wait"), { "await": [0, "end"] }, get("/bytes/3"), { "await": [4, "end"] }]),
    );
    wait::until("the request to arrive", || (!origin.requests().is_empty()).then_some(()));
    let changed = configuration("web", origin.addr(), "true")
        .replace("match: { path: /* }, cluster: up", "respond: { status: 418 }");
    assert_eq!(sluice.reload(&changed), "applied");
    origin.release();
    let got = client.end();
    assert_eq!(got["streams"]["0"]["text"], "waited\n", "{got}");
    assert_eq!(status(&got["streams"]["4"]), 418, "{got}");
    // Later connections get the new listener, on the same socket.
    let later = tell(&sluice, &json!([get("/"), { "await": [0, "end"] }]));
    assert_eq!(status(&later["streams"]["0"]), 418);
    assert_eq!(sluice.metric("sluice_listener_connections_accepted_total", ""), 2);
}

#[test]
fn websockets_work_over_extended_connect() {
    if !have_aioquic() {
        return;
    }
    // Completes the handshake, echoes the first bytes, and closes when the client does.
    let server = Server::start(|mut stream| {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut lines = String::new();
        while !lines.ends_with("\r\n\r\n") {
            reader.read_line(&mut lines)?;
        }
        let key =
            lines.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap_or("");
        assert_eq!(key.len(), 24, "{lines}");
        let accept = websocket_accept(key);
        let fields = format!("upgrade: websocket\r\nsec-websocket-accept: {accept}");
        write!(stream, "HTTP/1.1 101 X\r\nconnection: upgrade\r\n{fields}\r\n\r\n")?;
        let mut bytes = [0; 5];
        reader.read_exact(&mut bytes)?;
        stream.write_all(&bytes)?;
        reader.read_to_end(&mut Vec::new()).map(drop)
    });
    let kit = Sluice::new();
    Authority::new(kit.folder()).issue("web", &["web.test"]);
    let sluice = kit.start(&configuration("web", server.addr(), "true"));
    let fields = head("CONNECT", "/chat", &[("sec-websocket-version", "13")]);
    let mut fields = fields.as_array().unwrap().clone();
    fields.insert(1, json!([":protocol", "websocket"]));
    let got = tell(
        &sluice,
        &json!([
            { "ask": { "headers": fields, "end": false } },
            { "await": [0, "head"] },
            { "more": [0, "hello", false] },
            { "await": [0, "data"] },
            { "more": [0, "", true] },
            { "await": [0, "end"] },
        ]),
    );
    let stream = &got["streams"]["0"];
    assert_eq!(
        (status(stream), &stream["text"], &stream["ended"]),
        (200, &"hello".into(), &true.into()),
        "{got}"
    );
}

#[test]
fn a_connection_survives_a_change_of_address_whichever_worker_receives_it() {
    if !have_aioquic() {
        return;
    }
    let origin = Origin::start("a");
    for workers in [1, 2, 4] {
        let sluice = edge(&origin, workers, "true");
        let rebind = json!({ "rebind": true });
        let mut steps =
            vec![get("/bytes/3000000"), json!({ "await": [0, "data"] }), rebind.clone()];
        steps.extend([json!({ "await": [0, "end"] })]);
        for number in (4..40).step_by(4) {
            steps.extend([rebind.clone(), get("/bytes/3"), json!({ "await": [number, "end"] })]);
        }
        let got = tell(&sluice, &steps.into());
        assert_eq!(got["streams"]["0"]["data"], 3_000_000, "{workers}: {got}");
        for number in (4..40).step_by(4) {
            assert_eq!(got["streams"][number.to_string()]["data"], 3, "{workers}, {number}: {got}");
        }
        assert_eq!(sluice.metric("sluice_listener_connections_accepted_total", ""), 1);
    }
}

#[test]
fn chains_are_chosen_by_name_before_the_handshake() {
    if !have_aioquic() {
        return;
    }
    let kit = Sluice::new().workers(2);
    let authority = Authority::new(kit.folder());
    authority.issue("one", &["one.test"]);
    authority.issue("two", &["two.test"]);
    let sluice = kit.start(
        "listeners:\n\
         - name: web\n\
         \x20 address: 127.0.0.1:0\n\
         \x20 quic: true\n\
         \x20 chains:\n\
         \x20 - { name: one, match: { sni: one.test }, tls: { certificates: [{ cert: one.pem, key: one.key }] }, http: one }\n\
         \x20 - { name: two, match: { sni: \"*.test\" }, tls: { certificates: [{ cert: two.pem, key: two.key }] }, http: two }\n\
         routes:\n\
         \x20 one: [{ hosts: \"*\", rules: [{ respond: { status: 201 } }] }]\n\
         \x20 two: [{ hosts: \"*\", rules: [{ respond: { status: 202 } }] }]\n\
         clusters: {}\n",
    );
    for (name, expected) in [("one.test", 201), ("two.test", 202)] {
        let got =
            Client::start(&sluice, "web", name, &json!([get("/"), { "await": [0, "end"] }])).end();
        assert_eq!(status(&got["streams"]["0"]), expected, "{name}: {got}");
    }
    // No chain serves it, and the client is refused at once.
    let client = Client::start(&sluice, "web", "other.example", &json!([]));
    assert!(!client.succeeds());
    sluice.record_of("chain.unmatched");
}

/// Two Sluices that terminate QUIC, under one name each, and one in front of them that does not.
fn passed_through(origin: &Origin, echo: &UdpServer, workers: u16) -> (Running, Running, Running) {
    // Flows do not end with their connections but when they are idle, which the test does not wait for.
    let kit = Sluice::new().workers(workers).expect_warning("the drain timeout has expired");
    let authority = Authority::new(kit.folder());
    let end = |name: &str| {
        let inner = Sluice::new();
        authority.issue(name, &[&format!("{name}.test")]);
        for file in ["pem", "key"] {
            let file = format!("{name}.{file}");
            std::fs::copy(kit.folder().join(&file), inner.folder().join(file)).unwrap();
        }
        inner.start(&configuration(name, origin.addr(), "true"))
    };
    let (one, two) = (end("one"), end("two"));
    let outer = kit.start(&format!(
        "drain: {{ timeout: 100ms }}\n\
         listeners:\n\
         - name: web\n\
         \x20 address: udp://127.0.0.1:0\n\
         \x20 chains:\n\
         \x20 - {{ name: one, match: {{ sni: one.test }}, relay: one }}\n\
         \x20 - {{ name: two, match: {{ transport: quic, sni: \"*.test\" }}, relay: two }}\n\
         \x20 - {{ name: rest, relay: echo }}\n\
         clusters: {{ one: {{ endpoints: [\"{}\"] }}, two: {{ endpoints: [\"{}\"] }}, echo: {{ endpoints: [\"{}\"] }} }}\n",
        one.addr("web"), two.addr("web"), echo.addr()
    ));
    (outer, one, two)
}

#[test]
fn quic_is_passed_through_by_name_and_survives_client_migration() {
    if !have_aioquic() {
        return;
    }
    let (origin, echo) = (Origin::start("a"), UdpServer::echo("echoed: "));
    for workers in [1, 2, 4] {
        let (outer, one, two) = passed_through(&origin, &echo, workers);
        let rebind = json!({ "rebind": true });
        let mut steps =
            vec![get("/bytes/3000000"), json!({ "await": [0, "data"] }), rebind.clone()];
        steps.extend([json!({ "await": [0, "end"] })]);
        for number in (4..24).step_by(4) {
            steps.extend([rebind.clone(), get("/bytes/3"), json!({ "await": [number, "end"] })]);
        }
        for name in ["one.test", "two.test"] {
            let got = Client::start(&outer, "web", name, &Value::Array(steps.clone())).end();
            assert_eq!(got["streams"]["0"]["data"], 3_000_000, "{workers}, {name}: {got}");
            assert_eq!(got["streams"]["20"]["data"], 3, "{workers}, {name}: {got}");
        }
        for inner in [&one, &two] {
            assert_eq!(inner.metric("sluice_listener_connections_accepted_total", ""), 1);
        }
        // A hello that takes two packets because of its post-quantum key exchange: our own.
        let front = Sluice::new().start(&format!(
            "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
             routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
             clusters: {{ up: {{ endpoints: [\"{}\"], protocol: http3, tls: {{ sni: two.test, ca: \"{}\" }} }} }}\n",
            outer.addr("web"),
            outer.folder().join("ca.pem").display()
        ));
        assert_eq!(origin::get(front.addr("web"), "a", "/bytes/3").body, b"xxx");
        assert_eq!(two.metric("sluice_listener_connections_accepted_total", ""), 2);
        // Datagrams that are not QUIC are routed by their addresses.
        let client = udp_client();
        client.send_to(b"hello", outer.addr("web")).unwrap();
        let mut answer = [0; 64];
        let (count, _) = client.recv_from(&mut answer).unwrap();
        assert_eq!(&answer[..count], b"echoed: hello");
    }
}

#[test]
fn transfers_survive_loss_reordering_and_rebinding_on_the_path() {
    if !have_aioquic() {
        return;
    }
    let (origin, echo) = (Origin::start("a"), UdpServer::echo(""));
    let ended = edge(&origin, 2, "true");
    let (passed, _one, two) = passed_through(&origin, &echo, 2);
    let steps = json!([
        get("/bytes/1000000"),
        { "ask": { "headers": head("POST", "/echo", &[]), "body": 300_000 } },
        { "await": [0, "end"] },
        { "await": [4, "end"] },
    ]);
    for (sluice, name) in [(&ended, "web.test"), (&passed, "two.test")] {
        let troubles = Troubles { lose: 50, double: 100, delay: 20, rebind: 400 };
        let hop = LossyHop::start(sluice.addr("web"), troubles);
        let got = Client::start_at(hop.addr().port(), sluice, name, &steps).end();
        assert_eq!(got["streams"]["0"]["data"], 1_000_000, "{name}: {got}");
        assert_eq!(status(&got["streams"]["4"]), 200, "{name}: {got}");
        assert!(hop.lost() > 5, "{name}: {} lost", hop.lost());
        let requests = origin.requests();
        assert_eq!(
            requests.iter().map(|request| request.body.len()).max(),
            Some(300_000),
            "{name}"
        );
    }
    assert_eq!(two.metric("sluice_listener_connections_accepted_total", ""), 1);
}
