//! Filters that tell what Sluice and its endpoints do: the health check for load balancers in front, gRPC statistics,
//! injected faults, `proxy-status`, values and tables, countries.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;

use sluice_testkit::mmdb::{MmdbValue, database};
use sluice_testkit::origin;
use sluice_testkit::peers::Server;
use sluice_testkit::{Origin, Running, Sluice, files, http, tools, wait};

fn get(sluice: &Running, path: &str) -> origin::Message {
    origin::get(sluice.addr("web"), "a", path)
}

/// A Sluice with these filters on the chain, a rule for everything, and clusters.
fn start(filters: &str, clusters: &str, more: &str) -> Running {
    Sluice::new().expect_warning("endpoint is unhealthy").start(&format!(
        "admin: {{ address: 127.0.0.1:0, writable: true }}\n\
         listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{filters}] }} }}]\n\
         routes: {{ main: {{ cluster: up }} }}\n\
         clusters: {{ {clusters} }}\n{more}\n"
    ))
}

fn set_runtime(sluice: &Running, key: &str, value: &str) {
    let page = format!("/runtime?key={key}&value={value}");
    assert_eq!(http::request(sluice.admin_addr(), "POST", &page).unwrap().0, 200);
}

#[test]
fn probes_fail_while_clusters_have_too_few_healthy_endpoints() {
    let origin = Origin::start("a");
    let gone = SocketAddr::from(([127, 0, 0, 1], tools::free_port()));
    let half = format!(
        "up: {{ endpoints: [\"{}\", \"{gone}\"], health: {{ tcp: true, interval: 50ms, unhealthy_after: 1 }} }}",
        origin.addr()
    );
    for (percent, status) in [("50%", 200), ("51%", 503)] {
        let filter =
            format!("{{ health_check: {{ path: /hc, min_healthy: {{ up: {percent} }} }} }}");
        let sluice = start(&filter, &half, "");
        wait::until("the other endpoint to be unhealthy", || {
            let labels = "cluster=\"up\",state=\"unhealthy\"";
            (sluice.metric("sluice_cluster_endpoints", labels) == 1).then_some(())
        });
        assert_eq!(get(&sluice, "/hc").status(), status, "{percent}");
        assert_eq!(get(&sluice, "/hc/").value("x-origin"), "a", "another path is no probe");
    }
}

#[test]
fn probes_are_told_by_headers_and_fail_on_the_operators_switch() {
    let origin = Origin::start("a");
    let filter = "{ health_check: { headers: { x-probe: { prefix: lb } }, fail: maintenance, announce: true } }";
    let sluice = start(filter, &format!("up: \"{}\"", origin.addr()), "");
    let probe = |name: &str| {
        let request = format!("GET /healthz HTTP/1.1\r\nHost: a\r\nX-Probe: {name}\r\n\r\n");
        origin::Client::connect(sluice.addr("web")).ask(&request)
    };
    assert_eq!((probe("lb-1").status(), probe("lb-1").text().as_str()), (200, "ok\n"));
    assert_eq!(probe("browser").value("x-origin"), "a");
    assert_eq!(get(&sluice, "/x").values("x-envoy-immediate-health-check-fail").len(), 0);
    set_runtime(&sluice, "maintenance", "true");
    assert_eq!((probe("lb-1").status(), probe("lb-1").text().as_str()), (503, "failing\n"));
    let other = get(&sluice, "/x");
    assert_eq!((other.status(), other.value("x-origin")), (200, "a"));
    assert_eq!(other.value("x-envoy-immediate-health-check-fail"), "true");
    set_runtime(&sluice, "maintenance", "false");
    assert_eq!(probe("lb-1").status(), 200);
}

#[test]
fn probes_pass_through_and_their_status_is_kept() {
    for (cache, asked) in [("", 3), (", cache: 1h", 1)] {
        let filter = format!("{{ health_check: {{ path: /flaky/1, pass_through: true{cache} }} }}");
        let origin = Origin::start("b");
        let sluice = start(&filter, &format!("up: \"{}\"", origin.addr()), "");
        let statuses: Vec<u16> = (0..3).map(|_| get(&sluice, "/flaky/1").status()).collect();
        let expected = if asked == 1 { [503; 3] } else { [503, 200, 200] };
        assert_eq!((statuses, origin.requests().len()), (expected.to_vec(), asked), "{cache}");
        set_runtime(&sluice, "health_check.fail", "true");
        assert_eq!(get(&sluice, "/flaky/1").text(), "failing\n");
        assert_eq!(origin.requests().len(), asked, "no endpoint is asked while it fails");
    }
}

#[test]
fn probes_fail_before_a_drain_begins() {
    let origin = Origin::start("a");
    let up = format!("up: \"{}\"", origin.addr());
    let mut sluice = start("{ health_check: {} }", &up, "drain: { delay: 1h }");
    assert_eq!(get(&sluice, "/healthz").status(), 200);
    sluice.signal("TERM");
    wait::until("probes to fail", || (get(&sluice, "/healthz").status() == 503).then_some(()));
    assert_eq!(sluice.page("/ready").0, 503);
    assert_eq!(get(&sluice, "/x").value("x-origin"), "a", "connections are still accepted");
    sluice.signal("TERM");
    assert!(sluice.wait_end().success());
    // A delay that is over is followed by the drain.
    let mut sluice = start("{ health_check: {} }", &up, "drain: { delay: 100ms }");
    sluice.signal("TERM");
    assert!(sluice.wait_end().success());
    assert!(sluice.log().contains("drained"), "{}", sluice.log());
}

/// A message of gRPC with its frame.
fn message(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap().to_be_bytes();
    [&[0], &length[..], text.as_bytes()].concat()
}

#[test]
fn grpc_calls_and_messages_are_counted_by_method() {
    let answer = |status: u32, messages: &[u8]| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\nTrailer: grpc-status\r\n\r\n";
        let mut bytes = head.as_bytes().to_vec();
        if !messages.is_empty() {
            bytes.extend(format!("{:x}\r\n", messages.len()).into_bytes());
            bytes.extend([messages, b"\r\n"].concat());
        }
        bytes.extend(format!("0\r\ngrpc-status: {status}\r\n\r\n").into_bytes());
        bytes
    };
    let server = Server::start(move |mut stream: std::net::TcpStream| {
        let mut reader = std::io::BufReader::new(stream.try_clone()?);
        loop {
            let request = origin::read_message(&mut reader, false)?;
            let bytes = match request.path() {
                "/s.v1.S/One" => answer(0, &message("yes")),
                "/s.v1.S/Many" => answer(0, &[message("a"), message(""), message("c")].concat()),
                "/s.v1.S/Fails" => answer(5, b""),
                "/s.v1.S/Cut" => return Ok(()),
                _ => answer(12, b""),
            };
            std::io::Write::write_all(&mut stream, &bytes)?;
        }
    });
    let filter = "{ grpc_stats: { methods: [s.v1.S, t.T/One] } }";
    let sluice = start(filter, &format!("up: \"{}\"", server.addr()), "");
    let call = |path: &str, kind: &str, messages: &[&str]| {
        let body: Vec<u8> = messages.iter().flat_map(|text| message(text)).collect();
        let length = body.len();
        let mut client = origin::Client::connect(sluice.addr("web"));
        client.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\nTE: trailers\r\nContent-Length: {length}\r\n\r\n"));
        // A message may arrive in pieces.
        let (first, second) = body.split_at(length.min(3));
        client.send(first);
        client.send(second);
        client.read();
    };
    for _ in 0..2 {
        call("/s.v1.S/One", "application/grpc", &["who?"]);
    }
    call("/s.v1.S/Many", "application/grpc+proto", &["a", "bc", ""]);
    call("/s.v1.S/Fails", "application/grpc", &["x"]);
    call("/s.v1.S/Cut", "application/grpc", &["x"]);
    call("/t.T/Two", "application/grpc", &["x"]);
    call("/s.v1.S/One", "application/json", &["no gRPC"]);
    let calls = |method: &str, status: &str| {
        let labels = format!("service=\"s.v1.S\",method=\"{method}\",status=\"{status}\"");
        sluice.metric("sluice_grpc_calls_total", &labels)
    };
    // Each is counted by the worker of its connection, in no order.
    wait::until("all calls to be counted", || {
        (sluice.metric("sluice_grpc_calls_total", "") == 6).then_some(())
    });
    let labels = "service=\"other\",method=\"other\",status=\"12\"";
    assert_eq!(sluice.metric("sluice_grpc_calls_total", labels), 1);
    assert_eq!((calls("One", "0"), calls("Many", "0"), calls("Fails", "5")), (2, 1, 1));
    assert_eq!(calls("Cut", "14"), 1, "the status that Sluice gave the client");
    let messages = |method: &str, direction: &str| {
        let labels = format!("method=\"{method}\",direction=\"{direction}\"");
        sluice.metric("sluice_grpc_messages_total", &labels)
    };
    assert_eq!((messages("One", "request"), messages("One", "response")), (2, 2));
    assert_eq!((messages("Many", "request"), messages("Many", "response")), (3, 3));
    assert_eq!((messages("Fails", "request"), messages("Fails", "response")), (1, 0));
    assert_eq!((messages("other", "request"), messages("other", "response")), (1, 0));
    // Beyond the limit, methods share their series.
    let up = format!("up: \"{}\"", server.addr());
    let sluice = start("{ grpc_stats: { methods: \"*\" } }", &up, "limits: { grpc_series: 0 }");
    let request = "POST /a.A/One HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n";
    origin::Client::connect(sluice.addr("web")).ask(request);
    wait::until("the call to be counted", || {
        (sluice.metric("sluice_grpc_calls_total", "method=\"other\"") == 1).then_some(())
    });
}

/// A Sluice that injects faults, and its records.
fn faulty(origin: &Origin, fault: &str, rules: &str) -> Running {
    Sluice::new().start(&format!(
        "admin: {{ address: 127.0.0.1:0, writable: true }}\n\
         listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ fault: {fault} }}] }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{rules}{{ cluster: up }}] }}] }}\n\
         clusters: {{ up: \"{}\" }}\n\
         access_log: [{{ sink: records.json, format: {{ json: {{ listener: \"%LISTENER%\", path: \"%PATH%\", reason: \"%REASON%\", flags: \"%RESPONSE_FLAGS%\", delay: \"%VALUE(fault.delay)%\", took: \"%DURATION%\" }} }} }}]\n",
        origin.addr()
    ))
}

fn record_of_path(sluice: &Running, path: &str) -> serde_json::Value {
    sluice.record(path, |record| record["path"] == path)
}

fn ask_with(sluice: &Running, path: &str, fields: &str) -> origin::Message {
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    origin::Client::connect(sluice.addr("web")).ask(&request)
}

#[test]
fn requests_are_delayed_and_aborted_and_rules_have_their_own_faults() {
    let origin = Origin::start("a");
    let rules = "{ match: { path: /spared }, cluster: up, filters: { fault: skip } }, \
                 { match: { path: /slow }, cluster: up, filters: { fault: { delay: { time: 20ms } } } }, ";
    let fault = "{ delay: { time: 10ms }, abort: { status: 418, percent: 0%, runtime: chaos } }";
    let sluice = faulty(&origin, fault, rules);
    assert_eq!(get(&sluice, "/calm").status(), 200);
    let calm = record_of_path(&sluice, "/calm");
    assert_eq!((&calm["flags"], &calm["delay"]), (&"DI".into(), &"10".into()));
    assert!(calm["took"].as_u64().unwrap() >= 10, "{calm}");
    assert_eq!(get(&sluice, "/spared").value("x-origin"), "a");
    assert!(record_of_path(&sluice, "/spared").get("delay").is_none());
    assert_eq!(get(&sluice, "/slow").status(), 200);
    assert_eq!(record_of_path(&sluice, "/slow")["delay"], "20");
    set_runtime(&sluice, "chaos", "100");
    let aborted = get(&sluice, "/chaos");
    assert_eq!((aborted.status(), aborted.text().as_str()), (418, "fault filter abort"));
    let record = record_of_path(&sluice, "/chaos");
    assert_eq!((&record["reason"], &record["flags"]), (&"fault.abort".into(), &"DI,FI".into()));
    let counted = |fault: &str| {
        sluice.metric("sluice_http_faults_total", &format!("listener=\"web\",fault=\"{fault}\""))
    };
    assert_eq!((counted("abort"), counted("delay")), (1, 3));
    assert_eq!(origin.requests().len(), 3);
}

#[test]
fn requests_ask_for_faults_by_headers() {
    let origin = Origin::start("a");
    let fault = "{ headers: { x-chaos: on }, abort: { by_header: true }, delay: { by_header: true, time: 1h } }";
    let sluice = faulty(&origin, fault, "");
    let aborted = |fields: &str| ask_with(&sluice, "/", fields);
    assert_eq!(aborted("X-Envoy-Fault-Abort-Request: 503\r\n").status(), 200, "no x-chaos");
    let chaos = "X-Chaos: on\r\n";
    assert_eq!(aborted(chaos).status(), 200);
    assert_eq!(aborted(&format!("{chaos}X-Envoy-Fault-Abort-Request: 503\r\n")).status(), 503);
    let grpc = format!("{chaos}X-Envoy-Fault-Abort-Grpc-Request: 5\r\n");
    assert_eq!(aborted(&grpc).status(), 404);
    let call = format!(
        "POST / HTTP/1.1\r\nHost: a\r\n{grpc}Content-Type: application/grpc\r\nContent-Length: 0\r\n\r\n"
    );
    let call = origin::Client::connect(sluice.addr("web")).ask(&call);
    assert_eq!((call.status(), call.value("grpc-status")), (200, "5"));
}

#[test]
fn only_so_many_requests_have_a_fault_at_once() {
    let origin = Origin::start("a");
    let fault =
        "{ abort: { by_header: true }, delay: { by_header: true, time: 1h }, max_active: 1 }";
    let sluice = faulty(&origin, fault, "");
    let mut delayed = origin::Client::connect(sluice.addr("web"));
    delayed.send("GET /x HTTP/1.1\r\nHost: a\r\nX-Envoy-Fault-Delay-Request: 3600000\r\n\r\n");
    let of = |fault: &str| {
        sluice.metric("sluice_http_faults_total", &format!("listener=\"web\",fault=\"{fault}\""))
    };
    wait::until("the delay", || (of("delay") == 1).then_some(()));
    let status = || ask_with(&sluice, "/", "X-Envoy-Fault-Abort-Request: 404\r\n").status();
    assert_eq!((status(), of("limit")), (200, 1));
    drop(delayed);
    wait::until("the delayed request to end", || (status() == 404).then_some(()));
    assert_eq!(record_of_path(&sluice, "/x")["reason"], "downstream.cancelled");
}

#[test]
fn responses_are_slowed_down() {
    let origin = Origin::start("a");
    let fault = "{ response_rate: { bytes_per_second: 1MiB } }";
    let sluice = faulty(&origin, fault, "");
    assert_eq!(get(&sluice, "/bytes/104858").body.len(), 104_858);
    let record = record_of_path(&sluice, "/bytes/104858");
    // No faster than the rate; the first piece waits as well. Only the whole is never shorter on a slow machine.
    assert!(record["took"].as_u64().unwrap() >= 99, "{record}");
    assert_eq!(get(&sluice, "/status/204").status(), 204);
}

#[test]
fn responses_say_at_which_hop_a_request_failed_and_why() {
    let origin = Origin::start("a");
    let status = |settings: &str, filters: &str| {
        Sluice::new().start(&format!(
            "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, proxy_status: {settings}, filters: [{filters}] }} }}]\n\
             routes: {{ main: [{{ hosts: a, rules: [\
               {{ match: {{ path: /gone }}, redirect: {{ path: /new }} }}, \
               {{ match: {{ path: /down }}, cluster: down }}, \
               {{ match: {{ path: /private }}, cluster: up, filters: {{ rbac: {{ deny: {{ all: {{ permissions: {{ path: /* }} }} }} }} }} }}, \
               {{ match: {{ path: /* }}, cluster: up }}] }}] }}\n\
             clusters: {{ up: \"{}\", down: \"127.0.0.1:{}\" }}\n",
            origin.addr(),
            tools::free_port()
        ))
    };
    let said = |sluice: &Running, request: &str| {
        let response = origin::Client::connect(sluice.addr("web")).ask(request);
        (response.status(), response.values("proxy-status").join(" | "))
    };
    let of = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    let sluice = status("edge-1", "");
    for (request, code, expected) in [
        (of("/"), 200, ""),
        (of("/status/503"), 503, ""),
        (of("/gone"), 301, "edge-1; error=proxy_internal_response; details=\"http.local\""),
        (of("/down"), 503, "edge-1; error=connection_refused; details=\"upstream.refused\""),
        (of("/private"), 403, "edge-1; error=http_request_denied; details=\"http.denied\""),
        (of("/reset"), 503, "edge-1; error=connection_terminated; details=\"upstream.reset\""),
        (
            "GET / HTTP/1.1\r\nHost: b\r\n\r\n".into(),
            404,
            "edge-1; error=destination_not_found; details=\"route.unmatched\"",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n".into(),
            400,
            "edge-1; error=http_request_error; details=\"http.malformed\"",
        ),
    ] {
        assert_eq!(said(&sluice, &request), (code, expected.to_owned()), "{request}");
    }
    let page = "{ error_pages: { pages: { 5xx: sorry }, upstream: true } }";
    let sluice = status("{ name: \"edge 1\", details: false, forwarded: true }", page);
    for (request, code, expected) in [
        (of("/"), 200, "\"edge 1\"; received-status=200"),
        (of("/status/502"), 502, "\"edge 1\"; received-status=502"),
        (of("/down"), 503, "\"edge 1\"; error=connection_refused"),
    ] {
        assert_eq!(said(&sluice, &request), (code, expected.to_owned()), "{request}");
    }
}

/// A Sluice whose filter `set_values` has these settings, and which tells the endpoint of the values.
fn with_values(kit: Sluice, origin: &Origin, values: &str) -> Running {
    let is_named = values.contains("map: users");
    let maps = if is_named { "maps: { users: { file: users.map } }\n" } else { "" };
    kit.start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [\
           {{ set_values: {values} }}, \
           {{ set_headers: {{ request: {{ x-a: \"%VALUE(set.a)%\", x-b: \"%VALUE(set.b)%\" }} }} }}, \
           {{ rbac: {{ deny: {{ blocked: {{ principals: {{ values: {{ set.a: blocked }} }} }} }} }} }}] }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ match: {{ values: {{ set.a: teapot }} }}, respond: {{ status: 418 }} }}, {{ cluster: up }}] }}] }}\n\
         clusters: {{ up: \"{}\" }}\nlimits: {{ lookup_bytes: 1KiB }}\n{maps}",
        origin.addr()
    ))
}

#[test]
fn values_come_from_responses() {
    let origin = Origin::start("a");
    let sluice = Sluice::new().start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [\
           {{ set_headers: {{ response: {{ x-class: \"%VALUE(set.class)%\", x-tier: \"%VALUE(set.tier)%\" }} }} }}, \
           {{ set_values: [{{ name: tier, from: \"header:x-tier\" }}, \
                           {{ name: class, from: status, map: {{ 2: fine, 50: broken }}, lookup: prefix, missing: other }}, \
                           {{ name: from, from: \"response_header:X-Origin\" }}] }}] }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ match: {{ path: /own }}, respond: {{ status: 404 }} }}, {{ cluster: up }}] }}] }}\n\
         clusters: {{ up: \"{}\" }}\n\
         access_log: [{{ sink: records.json, format: {{ json: {{ listener: \"%LISTENER%\", path: \"%PATH%\", reason: \"%REASON%\", class: \"%VALUE(set.class)%\", from: \"%VALUE(set.from)%\" }} }} }}]\n",
        origin.addr()
    ));
    for (path, class, from) in [
        ("/", "fine", serde_json::json!("a")),
        ("/status/503", "broken", serde_json::json!("a")),
        ("/status/418", "other", serde_json::json!("a")),
        ("/own", "other", serde_json::Value::Null),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\nX-Tier: gold\r\n\r\n");
        let response = origin::Client::connect(sluice.addr("web")).ask(&request);
        assert_eq!(
            (response.value("x-class"), response.value("x-tier")),
            (class, "gold"),
            "{path}"
        );
        let record = sluice.record(path, |record| record["path"] == path);
        assert_eq!((&record["class"], &record["from"]), (&class.into(), &from), "{record}");
    }
}

#[test]
fn values_come_from_what_a_request_has() {
    let origin = Origin::start("a");
    for (values, request, a, b) in [
        (
            "{ name: a, from: \"header:x-tier\" }",
            "GET / HTTP/1.1\r\nHost: h\r\nX-Tier: x\r\nx-tier: y\r\n\r\n",
            "x, y",
            "-",
        ),
        ("{ name: a, from: \"header:x-tier\" }", "GET / HTTP/1.1\r\nHost: h\r\n\r\n", "-", "-"),
        (
            "{ name: a, from: \"header:x-tier\", missing: free }",
            "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
            "free",
            "-",
        ),
        (
            "[{ name: b, from: host }, { name: a, from: \"value:set.b\", map: { h: one } }]",
            "GET / HTTP/1.1\r\nHost: H:80\r\n\r\n",
            "one",
            "h",
        ),
        (
            "[{ name: a, from: \"cookie:s\" }, { name: b, from: \"query:q\" }]",
            "GET /?p=1&q=2 HTTP/1.1\r\nHost: h\r\nCookie: r=0; s=9\r\n\r\n",
            "9",
            "2",
        ),
        (
            "[{ name: a, from: path, extract: \"/tenants/([a-z]+)/.*\" }, { name: b, from: method }]",
            "GET /tenants/acme/x HTTP/1.1\r\nHost: h\r\n\r\n",
            "acme",
            "GET",
        ),
        (
            "{ name: a, from: path, extract: \"/tenants/([a-z]+)/.*\", missing: none }",
            "GET /x/tenants/acme/x HTTP/1.1\r\nHost: h\r\n\r\n",
            "none",
            "-",
        ),
        (
            "[{ name: a, text: \"%METHOD%-fixed\" }, { name: b, from: source_ip, map: { 127.0.0.0/8: here }, lookup: cidr }]",
            "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET-fixed",
            "here",
        ),
        (
            "[{ name: a, from: \"json:user.name\" }, { name: b, from: \"json:tags\" }]",
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 42\r\n\r\n{\"user\":{\"name\":\"ann\"},\"tags\":[\"x\",\"y\",7]}",
            "ann",
            "[\"x\",\"y\",7]",
        ),
        (
            "{ name: a, from: \"json:a\", missing: none }",
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{\"a\":1,\"a\":2}",
            "none",
            "-",
        ),
        (
            "{ name: a, from: \"json:a\", missing: none }",
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Type: text/plain\r\nContent-Length: 7\r\n\r\n{\"a\":1}",
            "none",
            "-",
        ),
        (
            "{ name: a, from: \"json:a\", missing: none }",
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 6\r\n\r\n{\"a\":1",
            "none",
            "-",
        ),
    ] {
        let sluice = with_values(Sluice::new(), &origin, values);
        let response = origin::Client::connect(sluice.addr("web")).ask(request);
        assert_eq!(response.status(), 200, "{values}: {}", response.text());
        let seen = origin.requests().pop().unwrap();
        assert_eq!((seen.value("x-a"), seen.value("x-b")), (a, b), "{values}");
    }
}

#[test]
fn values_decide_and_a_table_in_a_file_is_read_again() {
    let origin = Origin::start("a");
    let kit = Sluice::new().watching().expect_warning("limits.lookup_bytes");
    std::fs::write(kit.folder().join("users.map"), "# known users\nann teapot\nbob\tblocked\n")
        .unwrap();
    let values = "{ name: a, from: \"json:user\", map: users, json_max: 32 }";
    let sluice = with_values(kit, &origin, values);
    let ask = |body: &str| {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        origin::Client::connect(sluice.addr("web")).ask(&request).status()
    };
    assert_eq!(ask("{\"user\":\"ann\"}"), 418, "a rule matches it");
    assert_eq!(ask("{\"user\":\"bob\"}"), 403, "a policy matches it");
    assert_eq!(ask("{\"user\":\"eve\"}"), 200);
    assert_eq!(ask(&format!("{{\"user\":\"{}\"}}", "x".repeat(32))), 413);
    files::place(&sluice.folder().join("users.map"), "eve blocked\n");
    wait::until("the new table", || (ask("{\"user\":\"eve\"}") == 403).then_some(()));
    assert_eq!(ask("{\"user\":\"bob\"}"), 200);
    // One that is too large leaves the last in place.
    files::place(&sluice.folder().join("users.map"), "#".repeat(1025));
    wait::until("the limit", || {
        sluice.page("/fetches").1.contains("limits.lookup_bytes").then_some(())
    });
    assert_eq!(ask("{\"user\":\"eve\"}"), 403);
}

/// A database in which a block of addresses is in this country.
fn of_country(iso: &'static str) -> Vec<u8> {
    let country = MmdbValue::Map(vec![("iso_code", MmdbValue::Text(iso))]);
    let fields = MmdbValue::Map(vec![("country", country)]);
    database("Test-Country", &[("192.0.2.0".parse().unwrap(), 24, fields)])
}

#[test]
fn rules_policies_and_records_know_the_country_and_the_network() {
    let origin = Origin::start("a");
    let kit = Sluice::new().watching();
    let network = vec![
        ("autonomous_system_number", MmdbValue::Number(64_500)),
        ("autonomous_system_organization", MmdbValue::Text("Example Net")),
    ];
    let network = [("192.0.0.0".parse().unwrap(), 16, MmdbValue::Map(network))];
    std::fs::write(kit.folder().join("asn.mmdb"), database("Test-ASN", &network)).unwrap();
    std::fs::write(kit.folder().join("country.mmdb"), of_country("DE")).unwrap();
    let sluice = kit.start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, trusted_hops: 1, filters: [\
           {{ geo: {{ databases: [country.mmdb, asn.mmdb] }} }}, \
           {{ rbac: {{ deny: {{ abroad: {{ principals: {{ values: {{ geo.country: FR }} }} }} }} }} }}] }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ match: {{ values: {{ geo.country: DE }} }}, redirect: {{ path: /de }} }}, {{ cluster: up }}] }}] }}\n\
         clusters: {{ up: \"{}\" }}\n\
         access_log: [{{ sink: records.json, format: {{ json: {{ listener: \"%LISTENER%\", path: \"%PATH%\", reason: \"%REASON%\", country: \"%VALUE(geo.country)%\", asn: \"%VALUE(geo.asn)%\", organization: \"%VALUE(geo.organization)%\" }} }} }}]\n",
        origin.addr()
    ));
    let status = |path: &str, from: &str| {
        ask_with(&sluice, path, &format!("X-Forwarded-For: {from}\r\n")).status()
    };
    assert_eq!(status("/de", "192.0.2.7"), 301);
    let record = record_of_path(&sluice, "/de");
    assert_eq!((&record["country"], &record["asn"]), (&"DE".into(), &"64500".into()));
    assert_eq!(record["organization"], "Example Net");
    assert_eq!(status("/other", "192.0.3.7"), 200);
    let record = record_of_path(&sluice, "/other");
    assert_eq!((&record["country"], &record["asn"]), (&serde_json::Value::Null, &"64500".into()));
    assert_eq!(status("/unknown", "2001:db8::1"), 200);
    // A database is read again when it changes.
    files::place(&sluice.folder().join("country.mmdb"), of_country("FR"));
    wait::until("the new database", || (status("/fr", "192.0.2.7") == 403).then_some(()));
}
