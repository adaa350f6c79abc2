//! A service that changes requests and responses: the filter `ext_proc`, with Envoy's own messages.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;

use serde_json::Value;
use sluice_testkit::origin::{Client, Message};
use sluice_testkit::{Origin, Running, Sluice, tools, wait};
use sluice_tests::envoy_service;

/// Starts the service of `proc_server.py`; `None` if Python lacks Envoy's messages.
fn service() -> Option<(tools::Process, SocketAddr)> {
    envoy_service("proc_server.py", "envoy.service.ext_proc.v3.external_processor_pb2")
}

/// A listener `web` with this filter, whose cluster is `proc`, and rules. Answers have time, unless it is what is tested.
fn config(origin: SocketAddr, service: SocketAddr, filter: &str, rules: &str) -> String {
    let timeout = if filter.contains("timeout:") { "" } else { ", timeout: 60s" };
    format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ ext_proc: {{ cluster: proc{timeout}{filter} }} }}] }} }}]\n\
         routes:\n  main:\n    - rules:\n{rules}        - {{ name: other, match: {{ path: /other }}, cluster: up }}\n        - {{ name: user, match: {{ headers: {{ x-user: ann }} }}, cluster: up }}\n        - {{ name: rest, cluster: up }}\n\
         clusters:\n  up: {{ endpoints: [\"{origin}\"] }}\n  proc: {{ endpoints: [\"{service}\"], protocol: http2 }}\n\
         limits: {{ filter_wait_seconds: 120 }}\n\
         access_log: [{{ sink: records.json, format: {{ json: {{ listener: \"%LISTENER%\", reason: \"%REASON%\", path: \"%PATH%\", route: \"%ROUTE_NAME%\", status: \"%RESPONSE_CODE%\", \
           why: \"%RESPONSE_CODE_DETAILS%\", result: \"%VALUE(ext_proc.result)%\", user: \"%VALUE(ext_proc.metadata.shop.user)%\", other: \"%VALUE(ext_proc.metadata.other.user)%\", calls: \"%SIDE_CALLS%\" }} }} }}]\n"
    )
}

fn start(origin: &Origin, service: SocketAddr, filter: &str) -> Running {
    Sluice::new().workers(1).start(&config(origin.addr(), service, filter, ""))
}

fn ask(sluice: &Running, request: &str) -> Message {
    Client::connect(sluice.addr("web")).ask(request)
}

fn get(sluice: &Running, path: &str, fields: &str) -> Message {
    ask(sluice, &format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n"))
}

fn post(sluice: &Running, path: &str, fields: &str, body: &str) -> Message {
    let length = body.len();
    ask(
        sluice,
        &format!(
            "POST {path} HTTP/1.1\r\nHost: a.test\r\nContent-Length: {length}\r\n{fields}\r\n{body}"
        ),
    )
}

/// Sends a body in chunks, with a trailer.
fn post_chunked(sluice: &Running, path: &str, fields: &str, chunks: &[&str]) -> Message {
    let mut body = String::new();
    for chunk in chunks {
        body += &format!("{:x}\r\n{chunk}\r\n", chunk.len());
    }
    ask(
        sluice,
        &format!(
            "POST {path} HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n{fields}\r\n{body}0\r\nx-sum: 42\r\n\r\n"
        ),
    )
}

fn record_of(sluice: &Running, path: &str) -> Value {
    sluice.record(path, |record| record["path"] == path)
}

#[test]
fn headers_of_requests_and_responses_are_changed() {
    let Some((_service, proc)) = service() else { return };
    let origin = Origin::start("o");
    let sluice = start(&origin, proc, ", receive_metadata: [shop], except_headers: [x-hidden]");
    let passed =
        get(&sluice, "/change?q=reroute", "X-User: root\r\nX-Secret: s\r\nX-Hidden: 1\r\n");
    assert_eq!((passed.status(), passed.value("x-new")), (200, "yes"));
    assert!(passed.values("x-origin").is_empty(), "{passed:?}");
    assert_eq!(passed.value("x-told"), "q-headers. r-headers");
    let seen = &origin.requests()[0];
    assert_eq!((seen.values("x-user"), seen.values("x-secret").len()), (vec!["ann"], 0));
    let told: Value = serde_json::from_str(seen.value("x-seen")).unwrap();
    assert_eq!(
        (&told[":method"], &told[":path"], &told[":authority"], &told[":scheme"]),
        (&"GET".into(), &"/change?q=reroute".into(), &"a.test".into(), &"http".into())
    );
    assert_eq!((&told["x-user"], &told["x-hidden"]), (&"root".into(), &Value::Null));
    let record = record_of(&sluice, "/change?q=reroute");
    assert_eq!(
        (&record["route"], &record["user"], &record["result"]),
        (&"user".into(), &"ann".into(), &"processed".into()),
        "{record}"
    );
    assert_ne!(record["other"], "bob", "a namespace that is not received: {record}");
    assert!(record["calls"][0].as_str().unwrap().starts_with("proc "), "{record}");

    let moved = get(&sluice, "/path", "");
    assert_eq!(moved.status(), 200);
    assert_eq!(origin.requests()[1].path(), "/other?new=1");
    wait::until("both to be counted", || {
        let count = sluice.metric("sluice_ext_proc_requests_total", "result=\"processed\"");
        (count == 2).then_some(())
    });
}

#[test]
fn headers_that_frame_or_route_a_message_stay_as_they_are() {
    let Some((_service, proc)) = service() else { return };
    let origin = Origin::start("o");
    let sluice = start(&origin, proc, "");
    let passed = post(&sluice, "/forbidden", "", "hello");
    assert_eq!((passed.status(), passed.value("x-fine")), (200, "yes"), "{passed:?}");
    let seen = &origin.requests()[0];
    assert_eq!(seen.words(), ["POST", "/forbidden", "HTTP/1.1"]);
    assert_eq!(
        (seen.value("host"), seen.value("content-length"), seen.text().as_str()),
        ("a.test", "5", "hello")
    );
    assert_eq!((seen.value("x-fine"), seen.values("x-envoy-a").len()), ("yes", 0));
    assert!(sluice.metric("sluice_ext_proc_ignored_changes_total", "part=\"request\"") >= 9);

    let routing = start(&origin, proc, ", changes: { routing: true, envoy: true }");
    assert_eq!(post(&routing, "/forbidden", "", "hello").status(), 200);
    let seen = &origin.requests()[1];
    assert_eq!(
        (seen.words()[0], seen.value("host"), seen.value("x-envoy-a")),
        ("PUT", "evil.test", "1")
    );
    assert_eq!(seen.text(), "hello");

    let strict = start(&origin, proc, ", changes: { strict: true }");
    assert_eq!(post(&strict, "/forbidden", "", "hello").status(), 500);
    let record = record_of(&strict, "/forbidden");
    assert_eq!(record["reason"], "ext_proc.unexpected", "{record}");
    assert!(record["why"].as_str().unwrap().contains("may not change the header"), "{record}");
}

/// What the service was sent, and what the endpoint and the client got, in one body mode.
#[track_caller]
fn in_mode(mode: &str, does: &str, check: impl Fn(&Message, &Message)) {
    let Some((_service, proc)) = service() else { return };
    let origin = Origin::start("o");
    let send = format!(
        ", send: {{ request_body: {mode}, request_trailers: true, response_body: {mode}, response_trailers: true }}"
    );
    let sluice = start(&origin, proc, &send);
    let fields = format!("X-Do: {does}\r\n");
    let whole = post(&sluice, "/x", &fields, "hello");
    check(&origin.requests()[0], &whole);
    let chunked = post_chunked(&sluice, "/chunked", &fields, &["he", "llo"]);
    check(&origin.requests()[1], &chunked);
    assert_eq!(chunked.text().trim_end_matches('!'), "HELLO WORLD", "{chunked:?}");
    assert!(chunked.trailers.contains("x-more: yes"), "{chunked:?}");
    assert!(origin.requests()[1].trailers.contains("x-more: yes"), "{:?}", origin.requests()[1]);
    // Without a body, there is nothing to send.
    assert_eq!(get(&sluice, "/x", &fields).status(), 200);
    for path in ["/x", "/chunked"] {
        assert_eq!(record_of(&sluice, path)["result"], "processed");
    }
}

#[test]
fn whole_bodies_are_changed() {
    in_mode("buffered", "upper", |request, response| {
        assert_eq!(request.text().trim_end_matches('!'), "HELLO");
        assert_eq!((request.value("x-late"), response.value("x-late")), ("yes", "yes"));
        assert_eq!(response.status(), 200, "{response:?}");
    });
}

#[test]
fn starts_of_bodies_are_changed() {
    in_mode("partial", "upper", |request, response| {
        assert_eq!(request.text().trim_end_matches('!'), "HELLO");
        assert!(request.values("x-late").is_empty() && response.values("x-late").is_empty());
    });
}

#[test]
fn pieces_of_bodies_are_changed() {
    in_mode("streamed", "upper", |request, response| {
        assert_eq!(request.text().trim_end_matches('!'), "HELLO");
        assert_eq!(response.status(), 200);
    });
}

#[test]
fn a_streamed_body_takes_the_place_of_another_piece_by_piece() {
    in_mode("duplex", "each", |request, response| {
        if request.trailers.is_empty() {
            assert_eq!((request.text().as_str(), response.status()), ("HELLO", 200));
        }
    });
}

#[test]
fn a_streamed_body_may_begin_when_the_other_has_ended() {
    in_mode("duplex", "all", |request, response| {
        assert_eq!((request.text().as_str(), response.status()), ("HELLO", 200));
    });
}

#[test]
fn the_headers_of_a_request_may_be_answered_after_its_body() {
    let Some((_service, proc)) = service() else { return };
    let origin = Origin::start("o");
    let sluice = start(&origin, proc, ", send: { request_body: duplex, response_headers: false }");
    for size in [5, 200_000] {
        let answer = post(&sluice, "/late-headers", "", &"a".repeat(size));
        assert_eq!(answer.status(), 200, "{size}");
        let seen = origin.requests().pop().unwrap();
        assert_eq!(seen.value("x-size"), size.to_string());
        assert_eq!(seen.text(), "A".repeat(size));
    }
    assert_eq!(get(&sluice, "/x", "").status(), 200, "without a body they are answered at once");
}

#[test]
fn large_bodies_pass_in_every_mode() {
    let Some((_service, proc)) = service() else { return };
    let origin = Origin::start("o");
    for (mode, does, body_max) in [
        ("buffered", "upper", "1MiB"),
        ("partial", "upper", "1KiB"),
        ("streamed", "upper", "1KiB"),
        ("duplex", "each", "1KiB"),
        ("duplex", "all", "1KiB"),
    ] {
        let send = format!(
            ", body_max: {body_max}, send: {{ request_body: {mode}, response_body: {mode} }}"
        );
        let sluice = start(&origin, proc, &send);
        let body = "a".repeat(300_000);
        let fields = format!("X-Do: {does}\r\n");
        let answer = post(&sluice, "/status/201", &fields, &body);
        assert_eq!(answer.status(), 201, "{mode} {does}");
        let seen = origin.requests().pop().unwrap().text();
        assert_eq!(seen.trim_end_matches('!').len(), body.len(), "{mode} {does}");
        assert_eq!(
            seen.contains('a'),
            mode == "partial",
            "{mode} {does}: the rest passes as it is"
        );
        let answer = get(&sluice, "/bytes/200000", &fields);
        assert_eq!(answer.text().trim_end_matches('!').len(), 200_000, "{mode} {does}");
        assert!(answer.text().starts_with('X'), "{mode} {does}");
    }
    let sluice = start(
        &origin,
        proc,
        ", body_max: 1KiB, send: { request_body: buffered, response_body: buffered }",
    );
    assert_eq!(post(&sluice, "/x", "", &"a".repeat(2000)).status(), 413);
    assert_eq!(get(&sluice, "/bytes/2000", "").status(), 500);
}

#[test]
fn bodies_are_cleared_and_replaced() {
    let Some((_service, proc)) = service() else { return };
    let origin = Origin::start("o");
    let sluice =
        start(&origin, proc, ", send: { request_body: buffered, response_body: streamed }");
    let answer = post(&sluice, "/x", "X-Do: clear\r\n", "hello");
    assert_eq!((answer.status(), answer.text().as_str()), (200, ""));
    assert_eq!(origin.requests()[0].text(), "");
    // A request without a body may get one.
    for request in
        [get(&sluice, "/x", "X-Do: replace\r\n"), post(&sluice, "/x", "X-Do: replace\r\n", "hi")]
    {
        assert_eq!(request.text(), "replaced response_headers");
        let seen = origin.requests().pop().unwrap();
        assert_eq!(
            (seen.text().as_str(), seen.value("content-length")),
            ("replaced request_headers", "24")
        );
    }
}

#[test]
fn the_service_responds_itself() {
    let Some((_service, proc)) = service() else { return };
    let origin = Origin::start("o");
    let modes = ", send: { request_body: buffered, response_body: buffered }";
    let sluice = start(&origin, proc, modes);
    for part in ["request_headers", "request_body", "response_headers", "response_body"] {
        let path = format!("/deny/{part}");
        let denied = post(&sluice, &path, "", "hello");
        assert_eq!((denied.status(), denied.text().as_str()), (403, "not you"), "{part}");
        assert_eq!((denied.value("x-why"), denied.value("content-type")), ("no", "text/html"));
        assert_eq!(denied.values("content-length"), ["7"]);
        let record = record_of(&sluice, &path);
        assert_eq!(
            (&record["reason"], &record["why"], &record["result"]),
            (&"http.local".into(), &"policy_7".into(), &"replied".into()),
            "{record}"
        );
    }
    assert_eq!(origin.requests().len(), 2, "those whose response was asked about");
    assert_eq!(get(&sluice, "/odd-status", "").status(), 500);
    // When the headers of the response have been sent, it can only be cut off.
    let sluice = start(&origin, proc, ", send: { response_body: streamed }");
    let mut client = Client::connect(sluice.addr("web"));
    client.send("GET /chunked HTTP/1.1\r\nHost: a.test\r\nX-Do: deny/response_body\r\n\r\n");
    assert!(client.try_read().is_err());
    assert_eq!(record_of(&sluice, "/chunked")["reason"], "ext_proc.cut");
    // Or it may not respond.
    let sluice = start(&origin, proc, ", responds: false");
    assert_eq!(get(&sluice, "/deny/request_headers", "").status(), 200);
    assert_eq!(record_of(&sluice, "/deny/request_headers")["result"], "closed");
}

#[test]
fn what_the_service_is_sent_is_chosen_by_settings_rules_and_the_service() {
    let Some((_service, proc)) = service() else { return };
    let origin = Origin::start("o");
    let rules = "        - { name: off, match: { path: /off }, cluster: up, filters: { ext_proc: skip } }\n        \
                 - { name: body, match: { path: /body }, cluster: up, filters: { ext_proc: { send: { request_body: buffered, response_headers: false } } } }\n";
    let kit = Sluice::new().workers(1);
    let filter = ", send: { request_headers: true }, allow_override: true, attributes: [request.path, source.address, request.size], call_metadata: { x-shop: a }";
    let sluice = kit.start(&config(origin.addr(), proc, filter, rules));
    assert_eq!(get(&sluice, "/x", "").value("x-told"), "q-headers. r-headers");
    assert!(get(&sluice, "/off", "").values("x-told").is_empty());
    assert!(post(&sluice, "/body", "", "hello").values("x-told").is_empty());
    assert_eq!(origin.requests()[2].value("x-told"), "q-headers");
    // The answer to the headers asks for both bodies, and not for the headers of the response.
    let answer = post(&sluice, "/over", "X-Do: override\r\n", "hello");
    assert!(answer.values("x-told").is_empty(), "{answer:?}");
    assert_eq!(origin.requests()[3].text(), "HELLO");
    assert!(answer.text().starts_with("POST /OVER"), "{answer:?}");
    assert_eq!(get(&sluice, "/attributes", "").status(), 200);
    let seen = &origin.requests()[4];
    let told: Value = serde_json::from_str(seen.value("x-attributes")).unwrap();
    let own = &told["envoy.filters.http.ext_proc"];
    assert_eq!(own["request.path"], "/attributes");
    assert!(own["source.address"].as_str().unwrap().starts_with("127.0.0.1:"), "{told}");
    assert_eq!(own["request.size"], Value::Null);
    assert_eq!(seen.value("x-modes"), "[0, 0]");
    // It may not, unless the configuration says so; and a mode needs a meaning.
    let sluice = start(&origin, proc, "");
    let answer = post(&sluice, "/over", "X-Do: override\r\n", "hello");
    assert_eq!(
        (answer.value("x-told"), origin.requests()[5].text().as_str()),
        ("q-headers r-headers", "hello")
    );
    let sluice = start(&origin, proc, ", allow_override: true");
    assert_eq!(get(&sluice, "/odd-mode", "").status(), 500);
    // What it asks for may be one of a list, whatever that says of the headers of requests.
    let listed = "{ request_headers: false, request_body: buffered, response_headers: false, response_body: streamed, response_trailers: true }";
    for (modes, body) in [
        (format!("[{{ request_body: streamed }}, {listed}]"), "HELLO"),
        ("[{ request_body: buffered }]".to_owned(), "hello"),
    ] {
        let origin = Origin::start("o");
        let filter = format!(", allow_override: true, override_modes: {modes}");
        let sluice = start(&origin, proc, &filter);
        assert_eq!(post(&sluice, "/over", "X-Do: override\r\n", "hello").status(), 200);
        assert_eq!(origin.requests()[0].text(), body);
    }
}

#[test]
fn a_service_that_lies_costs_its_own_requests() {
    let Some((_service, proc)) = service() else { return };
    let origin = Origin::start("o");
    let all = "send: { request_body: buffered, request_trailers: true, response_body: buffered }";
    let sluice = start(&origin, proc, &format!(", {all}"));
    let duplex = start(&origin, proc, ", send: { request_body: duplex }");
    for (sluice, does, reason) in [
        (&sluice, "wrong", "ext_proc.unexpected"),
        (&sluice, "twice", "ext_proc.unexpected"),
        (&sluice, "empty", "ext_proc.unexpected"),
        (&sluice, "garbage", "sidecall.malformed"),
        (&sluice, "big", "sidecall.too_large"),
        (&sluice, "fail", "sidecall.grpc_status"),
        (&sluice, "each", "ext_proc.unexpected"),
        (&duplex, "upper", "ext_proc.unexpected"),
        (&duplex, "close-at/request_body", "ext_proc.unexpected"),
    ] {
        let path = format!("/x/{does}");
        let answer = post(sluice, &path, &format!("X-Do: {does}\r\n"), "hello");
        assert_eq!(answer.status(), 500, "{does}");
        assert!(answer.text().starts_with("the request could not be processed"), "{answer:?}");
        let record = record_of(sluice, &path);
        assert_eq!(
            (&record["reason"], &record["result"]),
            (&reason.into(), &"failed".into()),
            "{record}"
        );
    }
    assert!(origin.requests().is_empty());
    // A body that ends before its own: the rest of the request has nowhere to go.
    let answer = post_chunked(&duplex, "/x", "X-Do: early-end\r\n", &["he", "llo"]);
    assert_eq!(answer.status(), 500);
    assert_eq!(get(&sluice, "/fine", "").status(), 200, "others are served");

    let open = start(&origin, proc, &format!(", allow_on_error: true, {all}"));
    for does in ["wrong", "empty", "garbage", "fail", "big"] {
        let path = format!("/x/{does}");
        let answer = post(&open, &path, &format!("X-Do: {does}\r\n"), "hello");
        assert_eq!(answer.status(), 200, "{does}");
        assert_eq!(origin.requests().pop().unwrap().text(), "hello", "{does}");
        assert_eq!(record_of(&open, &path)["result"], "failed", "{does}");
    }
    // What the service has of a body is lost with it.
    let open = start(&origin, proc, ", allow_on_error: true, send: { request_body: duplex }");
    assert_eq!(post(&open, "/x", "X-Do: upper\r\n", "hello").status(), 500);
}

#[test]
fn a_service_that_ends_the_conversation_is_asked_no_more() {
    let Some((_service, proc)) = service() else { return };
    let origin = Origin::start("o");
    let sluice =
        start(&origin, proc, ", send: { request_body: buffered, response_body: streamed }");
    for (does, told) in [
        ("close", ""),
        ("close-at/request_body", ""),
        ("close-at/response_body", "q-headers q-body:5. r-headers"),
    ] {
        let path = format!("/x/{does}");
        let answer = post(&sluice, &path, &format!("X-Do: {does}\r\n"), "hello");
        assert_eq!((answer.status(), answer.value("x-told")), (200, told), "{does}");
        assert!(answer.text().ends_with("\nhello"), "{answer:?}");
        assert_eq!(record_of(&sluice, &path)["result"], "closed", "{does}");
    }
}

#[test]
fn a_service_that_stalls_holds_a_message_up_for_its_time() {
    let Some((_service, proc)) = service() else { return };
    let origin = Origin::start("o");
    let modes = "send: { request_body: buffered, response_body: streamed }, timeout: 5s";
    let sluice = start(&origin, proc, &format!(", {modes}"));
    let open = start(&origin, proc, &format!(", {modes}, allow_on_error: true, error_status: 502"));
    let own = start(&origin, proc, &format!(", {modes}, error_status: 502"));
    let parts = ["request_headers", "request_body", "response_headers"];
    // All of them wait at the same time.
    std::thread::scope(|scope| {
        for part in parts {
            let sluice = &sluice;
            scope.spawn(move || {
                let answer = post(sluice, &format!("/stall-at/{part}"), "", "hello");
                assert_eq!(answer.status(), 504, "{part}");
            });
        }
        scope.spawn(|| {
            let mut client = Client::connect(sluice.addr("web"));
            client.send(
                "GET /chunked HTTP/1.1\r\nHost: a.test\r\nX-Do: stall-at/response_body\r\n\r\n",
            );
            let _ = client.try_read();
        });
        scope.spawn(|| {
            let answer = post(&open, "/stall-at/response_headers", "", "hello");
            assert_eq!(answer.status(), 200);
        });
        scope.spawn(|| {
            let answer = post(&own, "/stall-at/request_headers", "", "hello");
            assert_eq!(answer.status(), 502);
        });
    });
    for part in parts {
        let path = format!("/stall-at/{part}");
        let record = record_of(&sluice, &path);
        assert_eq!(
            (&record["reason"], &record["why"]),
            (&"ext_proc.timeout".into(), &"ext_proc_timeout".into()),
            "{record}"
        );
    }
    assert_eq!(record_of(&sluice, "/chunked")["reason"], "ext_proc.timeout");
    wait::until("calls to be dropped", || {
        (sluice.metric("sluice_http_requests_active", "") == 0).then_some(())
    });
}

#[test]
fn a_service_may_ask_for_more_time() {
    let Some((_service, proc)) = service() else { return };
    let origin = Origin::start("o");
    let patient =
        start(&origin, proc, ", timeout: 2s, timeout_max: 60s, send: { response_headers: false }");
    assert_eq!(get(&patient, "/more-time", "").status(), 200);
    let sluice = start(&origin, proc, ", timeout: 2s, send: { response_headers: false }");
    assert_eq!(get(&sluice, "/more-time", "").status(), 504);
}

#[test]
fn a_service_that_floods_is_held_up_by_the_endpoint() {
    let Some((_service, proc)) = service() else { return };
    let origin = Origin::start("o");
    let sluice = start(&origin, proc, ", send: { response_body: duplex }");
    let mut client = Client::connect(sluice.addr("web"));
    client.send("GET /bytes/10 HTTP/1.1\r\nHost: a.test\r\nX-Do: flood\r\n\r\n");
    // The client takes nothing, until it leaves: what is held meanwhile is bounded.
    wait::until("the flood to begin", || {
        (sluice.metric("sluice_http_requests_active", "") == 1).then_some(())
    });
    assert_eq!(get(&sluice, "/x", "X-Do: each\r\n").status(), 200, "others are served");
    drop(client);
    wait::until("the request to end", || {
        (sluice.metric("sluice_http_requests_active", "") == 0).then_some(())
    });
}

#[test]
fn a_service_that_observes_changes_nothing() {
    let Some((_service, proc)) = service() else { return };
    let origin = Origin::start("o");
    let observe = ", observe: true, send: { request_body: streamed, response_body: streamed }";
    let sluice = start(&origin, proc, observe);
    for does in ["upper", "stall-at/request_headers", "fail", "garbage"] {
        let answer = post(&sluice, "/x", &format!("X-Do: {does}\r\n"), "hello");
        assert_eq!((answer.status(), answer.values("x-told").len()), (200, 0), "{does}");
        assert!(answer.text().ends_with("\nhello"), "{answer:?}");
    }
    assert_eq!(origin.requests().len(), 4);
}

#[test]
fn bodies_of_every_version_of_http_are_changed() {
    let Some((_service, proc)) = service() else { return };
    if !tools::have(&["curl"]) {
        return;
    }
    let origin = Origin::start("o");
    for (mode, does) in [
        ("buffered", "upper"),
        ("partial", "upper"),
        ("streamed", "upper"),
        ("duplex", "each"),
        ("duplex", "all"),
    ] {
        let send = format!(", send: {{ request_body: {mode}, response_body: {mode} }}");
        let sluice = start(&origin, proc, &send);
        let url = format!("http://{}/x", sluice.addr("web"));
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            let mut curl = tools::command("curl");
            curl.args(["-sS", version, "-H", &format!("x-do: {does}"), "-d", "hello world", &url]);
            let heard = tools::must(&mut curl);
            assert!(heard.contains("HELLO WORLD"), "{version} {mode} {does}: {heard}");
            assert_eq!(
                origin.requests().pop().unwrap().text().trim_end_matches('!'),
                "HELLO WORLD"
            );
        }
    }
}
