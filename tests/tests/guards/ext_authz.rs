//! A service that decides who may pass: the filter `ext_authz`, over gRPC with Envoy's own messages, and over HTTP.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufReader, Write as _};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use sluice_testkit::origin::{Client, Message, read_message};
use sluice_testkit::peers::{Server, connect, read_to_end, udp_client};
use sluice_testkit::{Authority, Origin, Running, Sluice, tls, tools, wait};
use sluice_tests::envoy_service;

/// Starts the service of `authz_server.py`; `None` if Python lacks Envoy's messages.
fn service() -> Option<(tools::Process, SocketAddr)> {
    envoy_service("authz_server.py", "envoy.service.auth.v3.external_auth_pb2_grpc")
}

/// A listener `web` with this filter, whose cluster is `auth`, and rules; the log shows what filters share. Answers have time,
/// unless it is what is tested.
fn start(origin: &Origin, auth: SocketAddr, protocol: &str, filter: &str, rules: &str) -> Running {
    let timeout = if filter.contains("timeout:") { "" } else { ", timeout: 20s" };
    Sluice::new().workers(1).start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ ext_authz: {{ cluster: auth{timeout}{filter} }} }}] }} }}]\n\
         routes:\n  main:\n    - rules:\n        - {rules}\n        - {{ name: rest, cluster: up }}\n\
         clusters:\n  up: {{ endpoints: [\"{}\"] }}\n  auth: {{ endpoints: [\"{auth}\"], protocol: {protocol} }}\n\
         access_log: [{{ sink: records.json, format: {{ json: {{ listener: \"%LISTENER%\", reason: \"%REASON%\", path: \"%PATH%\", route: \"%ROUTE_NAME%\", \
           why: \"%RESPONSE_CODE_DETAILS%\", decision: \"%VALUE(ext_authz.decision)%\", user: \"%VALUE(ext_authz.metadata.user)%\", groups: \"%VALUE(ext_authz.metadata.groups)%\", calls: \"%SIDE_CALLS%\" }} }} }}]\n",
        origin.addr()
    ))
}

const NO_RULE: &str = "{ match: { path: /no/rule }, cluster: up }";

fn ask(sluice: &Running, request: &str) -> Message {
    Client::connect(sluice.addr("web")).ask(request)
}

fn get(sluice: &Running, path: &str, fields: &str) -> Message {
    ask(sluice, &format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n"))
}

/// The record of a request for `path`.
fn record_of(sluice: &Running, path: &str) -> Value {
    sluice.record(path, |record| record["path"] == path)
}

#[test]
fn a_service_of_envoys_decides_and_changes_headers() {
    let Some((_service, auth)) = service() else { return };
    let origin = Origin::start("o");
    let sluice = start(&origin, auth, "http2", ", context: { realm: shop }", NO_RULE);
    let fields = "X-User: root\r\nX-Team: a\r\nX-Secret: s\r\nX-Twice: 1\r\nX-Twice: 2\r\n";
    let passed = get(&sluice, "/allow?q=1", fields);
    assert_eq!((passed.status(), passed.value("x-seen")), (200, "yes"));
    assert_eq!(passed.values("set-cookie"), ["seen=1"]);
    let seen = &origin.requests()[0];
    assert_eq!((seen.values("x-user"), seen.values("x-team")), (vec!["ann"], vec!["a", "b"]));
    assert!(seen.values("x-secret").is_empty());
    let asked: Value = serde_json::from_str(seen.value("x-asked")).unwrap();
    let attributes = &asked["attributes"];
    let http = &attributes["request"]["http"];
    for (field, value) in [
        ("method", "GET"),
        ("path", "/allow?q=1"),
        ("host", "a.test"),
        ("scheme", "http"),
        ("protocol", "HTTP/1.1"),
    ] {
        assert_eq!(http[field], value, "{asked}");
    }
    assert_eq!(http["headers"]["x-user"], "root", "the service is told what the client says");
    assert_eq!(
        (&http["headers"]["x-twice"], &http["headers"][":path"]),
        (&"1,2".into(), &"/allow?q=1".into())
    );
    assert_eq!(attributes["context_extensions"]["realm"], "shop");
    assert_eq!(attributes["source"]["address"]["socket_address"]["address"], "127.0.0.1");
    assert!(attributes["request"]["time"].is_string(), "{asked}");
    let record = record_of(&sluice, "/allow?q=1");
    assert_eq!(
        (&record["decision"], &record["user"]),
        (&"allowed".into(), &"ann".into()),
        "{record}"
    );
    assert_eq!(record["groups"], "[\"a\",\"b\"]", "{record}");

    let denied = get(&sluice, "/deny", "");
    assert_eq!((denied.status(), denied.text().as_str()), (401, "{\"why\":\"no\"}"));
    assert_eq!(
        (denied.value("www-authenticate"), denied.value("content-type")),
        ("Custom", "application/json")
    );
    assert_eq!(denied.values("set-cookie"), ["a=1", "b=2"]);
    assert_eq!(get(&sluice, "/bare", "").status(), 403);
    let record = record_of(&sluice, "/deny");
    assert_eq!(
        (&record["reason"], &record["why"]),
        (&"http.denied".into(), &"ext_authz_denied".into())
    );
    assert_eq!(record["decision"], "denied");
    assert_eq!(origin.requests().len(), 1);
    let count = |decision| {
        sluice.metric("sluice_ext_authz_decisions_total", &format!("decision=\"{decision}\""))
    };
    assert_eq!((count("allowed"), count("denied"), count("failed")), (1, 2, 0));
}

#[test]
fn an_answer_that_cannot_be_carried_out_lets_nobody_pass() {
    let Some((_service, auth)) = service() else { return };
    let origin = Origin::start("o");
    let sluice = start(&origin, auth, "http2", ", allow_on_error: true", NO_RULE);
    for path in [
        "/header/:path",
        "/header/:authority",
        "/header/host",
        "/header/Content-Length",
        "/header/transfer-encoding",
        "/header/connection",
        "/header/x-sluice-hops",
        "/header/x%20y",
        "/header/",
        "/remove/host",
        "/remove/:method",
        "/remove/transfer-encoding",
        "/query",
        "/none",
    ] {
        assert_eq!(get(&sluice, path, "").status(), 403, "{path}");
        let record = record_of(&sluice, path);
        assert_eq!(record["reason"], "sidecall.malformed", "{record}");
        assert!(record["why"].as_str().unwrap().starts_with("ext_authz_invalid["), "{record}");
    }
    assert!(origin.requests().is_empty());
    // That the service fails is another matter.
    assert_eq!(get(&sluice, "/fail", "").status(), 200);
    assert_eq!(record_of(&sluice, "/fail")["decision"], "failed");
}

#[test]
fn without_a_decision_in_time_nobody_passes() {
    let Some((_service, auth)) = service() else { return };
    let origin = Origin::start("o");
    // The service knows how long it may take, and may say first that it took too long.
    for (path, timeout, reasons) in [
        ("/stall", ", timeout: 1s", &["sidecall.timeout", "sidecall.grpc_status"][..]),
        ("/fail", "", &["sidecall.grpc_status"]),
    ] {
        let settings = format!(", error_status: 503{timeout}");
        let sluice = start(&origin, auth, "http2", &settings, NO_RULE);
        assert_eq!(get(&sluice, path, "").status(), 503, "{path}");
        let record = record_of(&sluice, path);
        assert!(reasons.iter().any(|reason| record["reason"] == *reason), "{record}");
        assert_eq!(record["why"], "ext_authz_error");
        assert!(record["calls"][0].as_str().unwrap().starts_with("auth failed in "), "{record}");
    }
    assert!(origin.requests().is_empty());
}

#[test]
fn rules_add_a_context_ask_for_bodies_and_leave_the_filter_out() {
    let Some((_service, auth)) = service() else { return };
    let origin = Origin::start("o");
    let rules = "{ name: shop, match: { path: /shop }, cluster: up, filters: { ext_authz: { context: { realm: shop, more: yes } } } }\n        \
                 - { name: body, match: { path: /body }, cluster: up, filters: { ext_authz: { with_body: 16 } } }\n        \
                 - { name: part, match: { path: /part }, cluster: up, filters: { ext_authz: { with_body: { max: 5, partial: true } } } }\n        \
                 - { name: gold, match: { headers: { x-tier: gold } }, respond: { status: 203 } }\n        \
                 - { name: open, match: { path: /deny }, cluster: up, filters: { ext_authz: skip } }";
    let sluice =
        start(&origin, auth, "http2", ", context: { realm: all, base: yes }, reroute: true", rules);
    let asked = |place: usize| -> Value {
        serde_json::from_str(origin.requests()[place].value("x-asked")).unwrap()
    };
    assert_eq!(get(&sluice, "/shop", "").status(), 200);
    let context = &asked(0)["attributes"]["context_extensions"];
    assert_eq!(context, &serde_json::json!({ "realm": "shop", "more": "yes", "base": "yes" }));
    let post_to = |path: &str, body: &[u8]| {
        let mut client = Client::connect(sluice.addr("web"));
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\nX-Envoy-Auth-Partial-Body: no\r\n\r\n",
            body.len()
        ));
        client.send(body);
        client.read()
    };
    let post = |body| post_to("/body", body);
    assert_eq!(post(b"hello").status(), 200);
    let http = &asked(1)["attributes"]["request"]["http"];
    assert_eq!((&http["body"], &http["size"]), (&"hello".into(), &"5".into()), "{http}");
    assert_eq!(origin.requests()[1].text(), "hello", "the endpoint gets the body, too");
    assert_eq!(post(b"\xff\xfe").status(), 200);
    let http = &asked(2)["attributes"]["request"]["http"];
    assert_eq!((&http["raw_body"], &http["body"]), (&"//4=".into(), &Value::Null), "{http}");
    assert_eq!(post(&[b'x'; 17]).status(), 413);
    // Of a body that is too large, the service is sent the start.
    for (body, told, partial) in [
        ("1234", "1234", "false"),
        ("12345678", "12345", "true"),
        ("1234\u{e9}678", "1234", "true"),
    ] {
        assert_eq!(post_to("/part", body.as_bytes()).status(), 200);
        let place = origin.requests().len() - 1;
        assert_eq!(origin.requests()[place].text(), body, "the endpoint gets all of it");
        let http = &asked(place)["attributes"]["request"]["http"];
        let header = &http["headers"]["x-envoy-auth-partial-body"];
        assert_eq!((&http["body"], header), (&told.into(), &partial.into()), "{http}");
    }
    assert_eq!(get(&sluice, "/deny", "").status(), 200, "the filter is left out");
    // The answer leads to another route.
    assert_eq!(get(&sluice, "/tier", "").status(), 203);
    assert_eq!(record_of(&sluice, "/tier")["route"], "gold");
}

#[test]
fn a_service_that_stalls_or_dies_under_load_holds_nobody_up() {
    let Some((service, auth)) = service() else { return };
    let origin = Origin::start("o");
    let sluice = start(&origin, auth, "http2", ", timeout: 1s", NO_RULE);
    let (stop, pid) = (AtomicBool::new(false), service.0.id().to_string());
    let signal = |name: &str| tools::must(tools::command("kill").args(["-s", name, &pid]));
    let count = |decision: &str| {
        sluice.metric("sluice_ext_authz_decisions_total", &format!("decision=\"{decision}\""))
    };
    let more = |decision: &str| {
        let before = count(decision);
        wait::until(decision, || (count(decision) > before + 20).then_some(()));
    };
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let status = get(&sluice, "/x", "").status();
                    assert!(matches!(status, 200 | 403), "{status}");
                }
            });
        }
        more("allowed");
        signal("STOP");
        more("failed");
        sluice.record_of("sidecall.timeout");
        signal("CONT");
        more("allowed");
        drop(service);
        more("failed");
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(count("denied"), 0);
    wait::until("all requests to end", || {
        (sluice.metric("sluice_http_requests_active", "") == 0).then_some(())
    });
}

#[test]
fn connections_and_flows_wait_for_the_service() {
    let Some((_service, auth)) = service() else { return };
    let (echo, udp) = (Server::echo(), sluice_testkit::peers::UdpServer::echo(""));
    let gone = SocketAddr::from(([127, 0, 0, 1], tools::free_port()));
    let filter = |more: &str| {
        format!("filters: [{{ ext_authz: {{ cluster: auth, timeout: 20s, {more} }} }}]")
    };
    let sluice = Sluice::new().workers(1).start(&format!(
        "listeners:\n\
         \x20 - {{ name: pass, address: 127.0.0.1:0, {}, relay: echo }}\n\
         \x20 - {{ name: deny, address: 127.0.0.1:0, {}, relay: echo }}\n\
         \x20 - {{ name: flow, address: udp://127.0.0.1:0, {}, relay: {{ cluster: udp, responses: 1 }} }}\n\
         \x20 - {{ name: fail, address: 127.0.0.1:0, filters: [{{ ext_authz: {{ cluster: gone, timeout: 20s }} }}], relay: echo }}\n\
         \x20 - {{ name: open, address: 127.0.0.1:0, filters: [{{ ext_authz: {{ cluster: gone, timeout: 20s, allow_on_error: true }} }}], relay: echo }}\n\
         clusters:\n  echo: {{ endpoints: [\"{}\"] }}\n  udp: {{ endpoints: [\"{}\"] }}\n\
         \x20 auth: {{ endpoints: [\"{auth}\"], protocol: http2 }}\n  gone: {{ endpoints: [\"{gone}\"], protocol: http2 }}\n",
        filter("context: { pass: yes }"),
        filter("context: { pass: no }"),
        filter("context: { pass: yes }"),
        echo.addr(),
        udp.addr(),
    ));
    let passes = |listener: &str| {
        let mut client = connect(sluice.addr(listener));
        let _ = client.write_all(b"ping");
        let _ = client.shutdown(std::net::Shutdown::Write);
        read_to_end(&mut client).1 == b"ping"
    };
    assert_eq!(["pass", "deny", "fail", "open"].map(passes), [true, false, false, true]);
    let client = udp_client();
    client.send_to(b"ping", sluice.addr("flow")).unwrap();
    let mut heard = [0; 8];
    assert_eq!(client.recv(&mut heard).unwrap(), 4);
    let record = sluice.record("the refusal", |record| record["listener"] == "deny");
    assert_eq!(
        (&record["reason"], &record["detail"]),
        (&"accept.denied".into(), &"ext_authz: the service refused it".into())
    );
    let record = sluice.record("the failure", |record| record["listener"] == "fail");
    assert_eq!(record["reason"], "upstream.refused", "{record}");
    assert!(record["detail"].as_str().unwrap().starts_with("ext_authz: "), "{record}");
}

/// A service over HTTP that decides by the path, and tells what it was asked.
fn http_service() -> Server {
    Server::start(|mut stream| {
        let mut reader = BufReader::new(stream.try_clone()?);
        while let Ok(asked) = read_message(&mut reader, false) {
            let path = asked.path().to_owned();
            let told = format!(
                "{} {} host={} auth={} other={} realm={}",
                asked.words()[0],
                path,
                asked.value("host"),
                asked.value("authorization"),
                asked.value("x-other"),
                asked.value("realm")
            );
            let (status, fields) = match path.split('?').next().unwrap_or_default() {
                "/check/allow" => (
                    204,
                    "X-User: ann\r\nX-Team: a\r\nX-Team: b\r\nSet-Cookie: seen=1\r\nX-Inner: no\r\n",
                ),
                "/check/login" => (302, "Location: https://login.test/\r\nX-Inner: no\r\n"),
                "/check/broken" => (500, ""),
                _ => (401, "WWW-Authenticate: Basic\r\nContent-Type: text/html\r\n"),
            };
            let length = if status == 204 { String::new() } else { "Content-Length: 4\r\n".into() };
            let body = if status == 204 { "" } else { "stop" };
            let answer =
                format!("HTTP/1.1 {status} X\r\n{fields}X-Told: {told}\r\n{length}\r\n{body}");
            stream.write_all(answer.as_bytes())?;
        }
        Ok(())
    })
}

#[test]
fn a_service_over_http_decides_by_its_status() {
    let (origin, service) = (Origin::start("o"), http_service());
    let filter = ", protocol: http, path_prefix: /check, context: { realm: shop }, upstream_headers: [x-user, x-team, x-told], \
                  allowed_client_headers: set-cookie, denied_client_headers: [www-authenticate, location]";
    let sluice = start(&origin, service.addr(), "http1", filter, NO_RULE);
    let fields = "Authorization: Bearer t\r\nX-Other: o\r\nX-User: root\r\nX-Team: root\r\n";
    let passed = ask(
        &sluice,
        &format!("PUT /allow?a=b HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n{fields}\r\n"),
    );
    assert_eq!((passed.status(), passed.values("set-cookie")), (200, vec!["seen=1"]));
    let seen = &origin.requests()[0];
    assert_eq!((seen.values("x-user"), seen.values("x-team")), (vec!["ann"], vec!["a", "b"]));
    assert!(seen.values("x-inner").is_empty());
    assert_eq!(
        seen.value("x-told"),
        "PUT /check/allow?a=b host=a.test auth=Bearer t other= realm=shop"
    );
    let login = get(&sluice, "/login", fields);
    assert_eq!((login.status(), login.value("location")), (302, "https://login.test/"));
    assert!(login.values("x-inner").is_empty() && login.values("x-told").is_empty());
    let refused = get(&sluice, "/other", "X-User: root\r\n");
    assert_eq!((refused.status(), refused.text().as_str()), (401, "stop"));
    assert_eq!(
        (refused.value("www-authenticate"), refused.value("content-type")),
        ("Basic", "text/html")
    );
    assert_eq!(get(&sluice, "/broken", "").status(), 403);
    assert_eq!(record_of(&sluice, "/broken")["why"], "ext_authz_error[status 500]");
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn what_the_service_names_comes_from_no_client_even_if_it_fails() {
    let origin = Origin::start("o");
    let gone = ([127, 0, 0, 1], tools::free_port()).into();
    let filter = ", protocol: http, upstream_headers: x-user, allow_on_error: true";
    let sluice = start(&origin, gone, "http1", filter, NO_RULE);
    assert_eq!(get(&sluice, "/a", "X-User: root\r\n").status(), 200);
    assert!(origin.requests()[0].values("x-user").is_empty());
}

#[test]
fn a_service_sees_the_certificate_of_the_client_and_the_start_of_a_body() {
    let (origin, auth) = (Origin::start("o"), Origin::start("auth"));
    let kit = Sluice::new().workers(1);
    Authority::new(kit.folder()).issue("web", &["web.test"]);
    Authority::named(kit.folder(), "clients").issue("client", &["client.test"]);
    let sluice = kit.start(&format!(
        "listeners:\n\
         \x20 - name: web\n\
         \x20   address: 127.0.0.1:0\n\
         \x20   tls: {{ certificates: [{{ cert: web.pem, key: web.key }}], client_auth: {{ ca: clients.pem, mode: optional }} }}\n\
         \x20   http:\n\
         \x20     routes: main\n\
         \x20     filters:\n\
         \x20       - ext_authz: {{ cluster: auth, timeout: 20s, protocol: http, client_certificate: true, with_body: {{ max: 4, partial: true }}, request_headers: [ssl-client-cert, x-envoy-auth-partial-body, x-own] }}\n\
         routes: {{ main: {{ cluster: up }} }}\n\
         clusters: {{ up: \"{}\", auth: \"{}\" }}\n",
        origin.addr(),
        auth.addr()
    ));
    let (ca, client) = (sluice.folder().join("ca.pem"), sluice.folder().join("client"));
    let pem = std::fs::read_to_string(sluice.folder().join("client.pem")).unwrap();
    for (certificate, body) in [(Some(&*client), "12345"), (None, "123")] {
        let offer = tls::Offer { certificate, ..tls::Offer::of("web.test", &ca) };
        let mut stream = offer.connect(sluice.addr("web"));
        let forged = "Ssl-Client-Cert: forged\r\nX-Envoy-Auth-Partial-Body: forged\r\nX-Own: a\r\n";
        write!(
            stream,
            "POST /a HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\nContent-Length: {}\r\n{forged}\r\n{body}",
            body.len()
        )
        .unwrap();
        let response = read_message(&mut BufReader::new(stream), false).unwrap();
        assert_eq!(response.status(), 200);
        let (asked, seen) = (auth.requests().pop().unwrap(), origin.requests().pop().unwrap());
        assert_eq!((asked.text(), seen.text()), (body[..body.len().min(4)].into(), body.into()));
        let cut = (body.len() > 4).to_string();
        assert_eq!(asked.values("x-envoy-auth-partial-body"), [&*cut]);
        assert_eq!(asked.value("x-own"), "a");
        let decoded = asked.value("ssl-client-cert").replace("%20", " ").replace("%0A", "\n");
        let decoded = decoded.replace("%2B", "+").replace("%2F", "/").replace("%3D", "=");
        let expected = if certificate.is_some() { pem.trim() } else { "" };
        assert_eq!(decoded.trim(), expected);
    }
}
