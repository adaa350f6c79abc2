//! Limits that a service has for a whole fleet: the filter `global_rate_limit`, with Envoy's own messages.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use sluice_testkit::origin::{Client, Message};
use sluice_testkit::peers::{Server, connect, read_to_end};
use sluice_testkit::{Origin, Running, Sluice, tools, wait};
use sluice_tests::envoy_service;

/// Starts the service of `rate_server.py`; `None` if Python lacks Envoy's messages.
fn service() -> Option<(tools::Process, SocketAddr)> {
    envoy_service("rate_server.py", "envoy.service.ratelimit.v3.rls_pb2_grpc")
}

/// A listener `web` with this filter, whose service is `limits`, and these rules.
fn start(origin: &Origin, limits: SocketAddr, filter: &str, rules: &str) -> Running {
    Sluice::new().workers(1).start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, trusted_hops: 1, filters: [{{ global_rate_limit: {{ service: limits, domain: edge, {filter} }} }}] }} }}]\n\
         routes:\n  main:\n    - rules:\n{rules}        - {{ name: rest, cluster: up }}\n\
         clusters:\n  up: {{ endpoints: [\"{}\"] }}\n  limits: {{ endpoints: [\"{limits}\"], protocol: http2 }}\n\
         access_log: [{{ sink: records.json, format: {{ json: {{ listener: \"%LISTENER%\", reason: \"%REASON%\", path: \"%PATH%\", \
           why: \"%RESPONSE_CODE_DETAILS%\", decision: \"%VALUE(global_rate_limit.decision)%\", tier: \"%VALUE(global_rate_limit.metadata.tier)%\", calls: \"%SIDE_CALLS%\" }} }} }}]\n",
        origin.addr()
    ))
}

/// So long that no machine is too slow for it.
const PATIENT: &str = "timeout: 20s";

fn get(sluice: &Running, path: &str, fields: &str) -> Message {
    let request = format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n");
    Client::connect(sluice.addr("web")).ask(&request)
}

/// What the service was told about the last request that reached the endpoint.
fn told(origin: &Origin) -> Value {
    let requests = origin.requests();
    serde_json::from_str(requests.last().unwrap().value("x-asked")).unwrap()
}

fn entries(of: &Value) -> Vec<(String, String)> {
    let text = |of: &Value| of.as_str().unwrap_or_default().to_owned();
    let all = of["entries"].as_array().unwrap();
    all.iter().map(|entry| (text(&entry["key"]), text(&entry["value"]))).collect()
}

#[test]
fn a_service_of_envoys_is_told_the_descriptors_of_each_request() {
    let Some((_service, limits)) = service() else { return };
    let origin = Origin::start("o");
    let filter = format!(
        "{PATIENT}, descriptors: [source_ip, [source_ip/24, path/1, method, host], \
         [\"header:x-user\", {{ of: \"query:page\", default: none }}, {{ of: \"cookie:s\", optional: true }}], \
         [{{ value: edge }}, {{ key: kind, value: api, headers: {{ x-api: {{ present: true }} }} }}], \
         [{{ value: web, headers: {{ x-api: {{ present: true }} }}, expect: false }}, route, cluster], \
         {{ entries: [{{ key: big, value: one }}], hits: 7, limit: 90/m }}]"
    );
    let sluice = start(&origin, limits, &filter, "");
    let forwarded = "X-Forwarded-For: 10.1.2.3\r\n";
    assert_eq!(get(&sluice, "/a/b", forwarded).status(), 200);
    let asked = told(&origin);
    assert_eq!(asked["domain"], "edge");
    let all = asked["descriptors"].as_array().unwrap();
    let pairs = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect::<Vec<_>>()
    };
    let expected: &[&[(&str, &str)]] = &[
        &[("remote_address", "10.1.2.3")],
        &[
            ("masked_remote_address", "10.1.2.0/24"),
            ("path", "/a"),
            ("method", "GET"),
            ("host", "a.test"),
        ],
        &[("header_match", "web"), ("route", "rest"), ("destination_cluster", "up")],
        &[("big", "one")],
    ];
    assert_eq!(
        all.iter().map(entries).collect::<Vec<_>>(),
        expected.iter().map(|of| pairs(of)).collect::<Vec<_>>()
    );
    assert_eq!(all[3]["limit"], json!({ "requests_per_unit": 90, "unit": "MINUTE" }));
    assert_eq!(all[3]["hits_addend"], "7");

    let fields = "X-User: ann\r\nX-User: bob\r\nX-Api: 1\r\nX-Forwarded-For: 2001:db8:1:2:3::4\r\n";
    assert_eq!(get(&sluice, "/c?page=%41b", fields).status(), 200);
    let asked = told(&origin);
    let all: Vec<_> = asked["descriptors"].as_array().unwrap().iter().map(entries).collect();
    assert_eq!(all[0], pairs(&[("remote_address", "2001:db8:1:2::/64")]));
    assert_eq!(all[2], pairs(&[("x-user", "ann,bob"), ("page", "Ab")]));
    assert_eq!(all[3], pairs(&[("generic_key", "edge"), ("kind", "api")]));
    let fields = format!("{forwarded}X-User: ann\r\nCookie: t=1; s=abc\r\n");
    assert_eq!(get(&sluice, "/c", &fields).status(), 200);
    let all = told(&origin);
    let third = entries(&all["descriptors"][2]);
    assert_eq!(third, pairs(&[("x-user", "ann"), ("page", "none"), ("s", "abc")]));
}

#[test]
fn a_request_beyond_a_limit_is_refused_and_its_client_told_when_to_return() {
    let Some((_service, limits)) = service() else { return };
    let origin = Origin::start("o");
    let filter = format!(
        "{PATIENT}, fields: true, envoy_header: true, descriptors: [[\"header:x-user\", {{ key: limit, value: 2 }}, {{ key: name, value: users }}]]"
    );
    let sluice = start(&origin, limits, &filter, "");
    let first = get(&sluice, "/1", "X-User: ann\r\n");
    assert_eq!(first.status(), 200);
    assert_eq!(first.value("ratelimit-policy"), "\"users\";q=2;w=3600");
    assert_eq!(first.value("ratelimit"), "\"users\";r=1;t=1234");
    assert!(first.value("x-envoy-ratelimited").is_empty());
    assert_eq!(get(&sluice, "/2", "X-User: ann\r\n").status(), 200);
    let refused = get(&sluice, "/3", "X-User: ann\r\n");
    assert_eq!((refused.status(), refused.text().as_str()), (429, "too many requests\n"));
    assert_eq!(
        (refused.value("retry-after"), refused.value("x-envoy-ratelimited")),
        ("1234", "true")
    );
    assert_eq!(refused.value("ratelimit"), "\"users\";r=0;t=1234");
    assert_eq!(get(&sluice, "/4", "X-User: bob\r\n").status(), 200, "another one has its own");
    // Without a descriptor, the service is not asked.
    assert_eq!(get(&sluice, "/5", "").status(), 200);
    let record = |path: &str| sluice.record(path, |record| record["path"] == path);
    let limited = record("/3");
    assert_eq!(
        (&limited["reason"], &limited["why"], &limited["decision"]),
        (&"http.global_rate".into(), &"request_rate_limited".into(), &"limited".into())
    );
    assert_eq!(record("/1")["decision"], "allowed");
    assert!(
        record("/5")["decision"].is_null()
            && record("/5")["calls"].as_array().is_none_or(Vec::is_empty)
    );
    let count = |decision: &str| {
        sluice
            .metric("sluice_global_rate_limit_decisions_total", &format!("decision=\"{decision}\""))
    };
    assert_eq!((count("allowed"), count("limited"), count("failed")), (3, 1, 0));
}

#[test]
fn an_answer_adds_headers_metadata_and_a_body() {
    let Some((_service, limits)) = service() else { return };
    let origin = Origin::start("o");
    let filter = format!(
        "{PATIENT}, descriptors: [[{{ key: limit, value: 1 }}, {{ key: act, value: shout }}]]"
    );
    let sluice = start(&origin, limits, &filter, "");
    let passed = get(&sluice, "/1", "X-Asked: forged\r\n");
    assert_eq!((passed.status(), passed.value("x-shout")), (200, "hear"));
    assert_eq!(told(&origin)["domain"], "edge", "what the client says is replaced");
    assert_eq!(sluice.record("/1", |record| record["path"] == "/1")["tier"], "gold");
    let refused = get(&sluice, "/2", "");
    assert_eq!((refused.status(), refused.text().as_str()), (429, "{\"slow\":\"down\"}"));
    assert_eq!(refused.values("content-type"), ["application/json"]);
    assert_eq!(refused.value("x-shout"), "hear");
}

#[test]
fn rules_have_their_own_descriptors_add_some_or_have_none() {
    let Some((_service, limits)) = service() else { return };
    let origin = Origin::start("o");
    let rules = "        - { name: own, match: { path: /own }, cluster: up, filters: { global_rate_limit: { descriptors: [[{ value: own }]] } } }\n\
                 \x20       - { name: more, match: { path: /more }, cluster: up, filters: { global_rate_limit: { add: true, descriptors: [[{ value: more }]] } } }\n\
                 \x20       - { name: off, match: { path: /off }, cluster: up, filters: { global_rate_limit: skip } }\n";
    let sluice =
        start(&origin, limits, &format!("{PATIENT}, descriptors: [[{{ value: all }}]]"), rules);
    let values = |path: &str| {
        assert_eq!(get(&sluice, path, "").status(), 200, "{path}");
        let all = told(&origin)["descriptors"].clone();
        let all = all.as_array().unwrap().iter().map(|one| entries(one)[0].1.clone());
        all.collect::<Vec<_>>()
    };
    assert_eq!(values("/x"), ["all"]);
    assert_eq!(values("/own"), ["own"]);
    assert_eq!(values("/more"), ["all", "more"]);
    assert_eq!(get(&sluice, "/off", "").status(), 200);
    assert!(origin.requests().last().unwrap().values("x-asked").is_empty());
}

/// Each way in which a service does not decide, by the header that asks for it.
const UNDECIDED: [(&str, &str); 4] = [
    ("fail", "sidecall.grpc_status"),
    ("unknown", "sidecall.malformed"),
    ("header/host", "sidecall.malformed"),
    ("header/x y", "sidecall.malformed"),
];

#[test]
fn without_a_decision_the_settings_decide() {
    let Some((_service, limits)) = service() else { return };
    let (act, origin) = ("descriptors: [[{ key: act, of: \"header:x-act\" }]]", Origin::start("o"));
    let open = start(&origin, limits, &format!("{PATIENT}, {act}"), "");
    let closed = format!("{PATIENT}, on_error: deny, error_status: 503, {act}");
    let closed = start(&origin, limits, &closed, "");
    let local =
        start(&origin, limits, &format!("{PATIENT}, on_error: local, local: 1/d, {act}"), "");
    for (place, (what, reason)) in UNDECIDED.into_iter().enumerate() {
        let (path, fields) = (format!("/{place}"), format!("X-Act: {what}\r\n"));
        assert_eq!(get(&open, &path, &fields).status(), 200, "{what}");
        let record = open.record(&path, |record| record["path"] == path);
        assert_eq!(record["decision"], "failed", "{record}");
        assert!(record["calls"][0].as_str().unwrap().starts_with("limits "), "{record}");
        assert_eq!(get(&closed, &path, &fields).status(), 503, "{what}");
        let record = closed.record(&path, |record| record["path"] == path);
        assert_eq!(record["reason"], reason, "{record}");
        assert!(record["why"].as_str().unwrap().starts_with("rate_limiter_error"), "{record}");
        // Each descriptor has its own bucket.
        assert_eq!(get(&local, &path, &fields).status(), 200, "{what}");
        let refused = get(&local, &format!("/again{place}"), &fields);
        assert_eq!(refused.status(), 429, "{what}");
        assert!(refused.value("retry-after").parse::<u64>().unwrap() > 80_000, "{refused:?}");
    }
    let record = local.record_of("http.global_rate");
    assert_eq!(
        (&record["why"], &record["decision"]),
        (&"local_rate_limited".into(), &"failed".into())
    );
}

#[test]
fn a_service_that_is_late_is_not_waited_for() {
    let Some((_service, limits)) = service() else { return };
    let origin = Origin::start("o");
    // The default time-out.
    let sluice = start(&origin, limits, "descriptors: [[{ key: act, of: \"header:x-act\" }]]", "");
    assert_eq!(get(&sluice, "/late", "X-Act: stall\r\n").status(), 200);
    let record = sluice.record("/late", |record| record["path"] == "/late");
    assert_eq!(record["decision"], "failed", "{record}");
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn a_service_that_stalls_or_dies_under_load_holds_nobody_up() {
    let Some((service, limits)) = service() else { return };
    let origin = Origin::start("o");
    let sluice = start(&origin, limits, "timeout: 1s, descriptors: source_ip", "");
    let (stop, pid) = (AtomicBool::new(false), service.0.id().to_string());
    let signal = |name: &str| tools::must(tools::command("kill").args(["-s", name, &pid]));
    let count = |decision: &str| {
        sluice
            .metric("sluice_global_rate_limit_decisions_total", &format!("decision=\"{decision}\""))
    };
    let more = |decision: &str| {
        let before = count(decision);
        wait::until(decision, || (count(decision) > before + 20).then_some(()));
    };
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(get(&sluice, "/x", "").status(), 200);
                }
            });
        }
        more("allowed");
        signal("STOP");
        more("failed");
        sluice.record("the service that did not decide", |record| {
            let call = record["calls"][0].as_str().unwrap_or_default();
            record["decision"] == "failed" && call.starts_with("limits failed in ")
        });
        signal("CONT");
        more("allowed");
        drop(service);
        more("failed");
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(count("limited"), 0);
    wait::until("all requests to end", || {
        (sluice.metric("sluice_http_requests_active", "") == 0).then_some(())
    });
}

#[test]
fn connections_are_counted_by_the_service() {
    let Some((_service, limits)) = service() else { return };
    let (echo, gone) = (Server::echo(), tools::free_port());
    let listener = |name: &str, filter: &str| {
        format!(
            "  - {{ name: {name}, address: 127.0.0.1:0, filters: [{{ global_rate_limit: {{ domain: {name}, {filter} }} }}], relay: echo }}\n"
        )
    };
    let asked =
        "timeout: 20s, service: limits, descriptors: [[source_ip, { key: limit, value: 2 }]]";
    let local = "timeout: 20s, service: gone, on_error: local, local: 1/d, descriptors: source_ip";
    let sluice = Sluice::new().workers(1).start(&format!(
        "listeners:\n{}{}{}{}{}clusters:\n  echo: {{ endpoints: [\"{}\"] }}\n\
         \x20 limits: {{ endpoints: [\"{limits}\"], protocol: http2 }}\n  gone: {{ endpoints: [\"127.0.0.1:{gone}\"], protocol: http2 }}\n",
        listener("counted", asked),
        listener("nameless", "timeout: 20s, service: limits, descriptors: [[sni, { key: limit, value: 1 }]]"),
        listener("open", "timeout: 20s, service: gone, descriptors: source_ip"),
        listener("closed", "timeout: 20s, service: gone, on_error: deny, descriptors: source_ip"),
        listener("local", local),
        echo.addr(),
    ));
    let passes = |listener: &str| {
        let mut client = connect(sluice.addr(listener));
        let _ = client.write_all(b"ping");
        let _ = client.shutdown(std::net::Shutdown::Write);
        read_to_end(&mut client).1 == b"ping"
    };
    let thrice = |listener: &str| [passes(listener), passes(listener), passes(listener)];
    assert_eq!(thrice("counted"), [true, true, false]);
    assert_eq!(
        thrice("nameless"),
        [true; 3],
        "a connection without a server name has no descriptor"
    );
    assert_eq!(thrice("open"), [true; 3]);
    assert_eq!(thrice("closed"), [false; 3]);
    assert_eq!(thrice("local"), [true, false, false]);
    let of = |listener: &str| {
        sluice.record(listener, |record| {
            record["listener"] == listener && record["detail"].is_string()
        })
    };
    let record = of("counted");
    assert_eq!(
        (&record["reason"], &record["detail"]),
        (&"accept.rate".into(), &"global_rate_limit: the service says so".into())
    );
    assert_eq!(of("closed")["reason"], "upstream.refused");
    assert!(of("closed")["detail"].as_str().unwrap().starts_with("global_rate_limit: "));
    assert_eq!(of("local")["reason"], "accept.rate");
}
