//! A series that a worker has counted once is counted again without a lock.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sluice_testkit::origin::{self, Client};
use sluice_testkit::peers::{UdpServer, connect, exchange, udp_client};
use sluice_testkit::{Origin, Running, Sluice, wait};

/// Events of each kind between two readings.
const EVENTS: usize = 50;

/// Allowance for series that are counted for the first time meanwhile, for reasons outside of this test.
const OTHERS: i64 = 5;

/// Triggers every kind of named counter once.
fn every_kind(sluice: &Running) {
    let web = sluice.addr("web");
    let mut client = Client::connect(web);
    // Above the limit of series per rule and per endpoint, and answered by a filter.
    assert_eq!(client.get("a", "/up").status(), 200);
    assert_eq!(client.get("a", "/limited").status(), 429);
    // Counted by policy, limit, cluster of the copies, method and verdict of a token.
    assert_eq!(client.get("a", "/guarded").status(), 200);
    let calls = "POST /s.v1.S/One HTTP/1.1\r\nhost: a\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(client.ask(calls).status(), 200);
    assert_eq!(client.get("a", "/secret").status(), 401);
    // Refused by the parser.
    let mut broken = Client::connect(web);
    assert_eq!(broken.ask("GET / HTTP/1.1\r\nhost : a\r\n\r\n").status(), 400);
    // A flow that ends, and a connection whose first bytes exceed the inspection buffer.
    let flow = udp_client();
    flow.connect(sluice.addr("flows")).unwrap();
    flow.send(b"x").unwrap();
    flow.recv(&mut [0; 16]).unwrap();
    // The beginning of a ClientHello whose declared length is larger.
    let long = [&[22, 3, 1, 0x3e, 0x80, 1, 0, 0x3e, 0x7c, 3, 3][..], &[0; 600]].concat();
    assert_eq!(exchange(&mut connect(sluice.addr("inspected")), &long), long);
    assert_eq!(origin::get(sluice.addr("limited"), "a", "/up").status(), 200);
}

#[test]
fn each_series_is_looked_up_only_once_under_the_metrics_lock() {
    let (up, echo, udp) =
        (Origin::start("up"), sluice_testkit::peers::Server::echo(), UdpServer::echo(""));
    let kit = Sluice::new().workers(1).expect_warning("warning[slow-check]");
    let user = "ann:$2y$04$abcdefghijklmnopqrstuuK1Q1wyYcmSdxPVdgcXsGpKZ9DCbsC/C\n";
    std::fs::write(kit.folder().join("htpasswd"), user).unwrap();
    let sluice = kit.start(&format!(
        "listeners:\n\
         \x20 - {{ name: web, address: 127.0.0.1:0, http: {{ routes: main }} }}\n\
         \x20 - {{ name: limited, address: 127.0.0.1:0, http: {{ routes: main }} }}\n\
         \x20 - {{ name: flows, address: \"udp://127.0.0.1:0\", relay: {{ cluster: udp, responses: 1 }} }}\n\
         \x20 - {{ name: inspected, address: 127.0.0.1:0, inspect: {{ bytes: 512 }}, chains: [{{ match: {{ sni: a.test }}, relay: echo }}, {{ relay: echo }}] }}\n\
         routes:\n\
         \x20 main:\n\
         \x20   - hosts: \"*\"\n\
         \x20     rules:\n\
         \x20       - {{ match: {{ path: /limited }}, respond: {{ status: 200 }}, filters: {{ rate_limit: {{ requests: 1/h }} }} }}\n\
         \x20       - match: {{ path: /guarded }}\n\
         \x20         cluster: up\n\
         \x20         mirror: copies\n\
         \x20         filters:\n\
         \x20           rate_limit: {{ requests: 1/h, enforce: 0% }}\n\
         \x20           rbac: {{ allow: {{ all: {{ permissions: {{ path: /* }} }} }}, shadow: {{ deny: {{ all: {{ permissions: {{ path: /* }} }} }} }} }}\n\
         \x20       - {{ match: {{ path: /s.v1.S/* }}, cluster: up, filters: {{ grpc_stats: {{ methods: s.v1.S }} }} }}\n\
         \x20       - {{ match: {{ path: /secret }}, cluster: up, filters: {{ basic_auth: {{ users_file: htpasswd }} }} }}\n\
         \x20       - {{ cluster: up }}\n\
         clusters:\n\
         \x20 up: {{ endpoints: [\"{}\"], health: {{ http: {{ path: / }}, interval: 50ms, timeout: 20s, unhealthy_after: 1000 }}, outlier: none }}\n\
         \x20 copies: {{ endpoints: [\"{}\"], outlier: none }}\n\
         \x20 echo: {{ endpoints: [\"{}\"], outlier: none }}\n\
         \x20 udp: {{ endpoints: [\"{}\"], outlier: none }}\n\
         limits: {{ route_series: 0, endpoint_series: 0 }}\n",
        up.addr(),
        up.addr(),
        echo.addr(),
        udp.addr()
    ));
    assert_eq!(origin::get(sluice.addr("web"), "a", "/limited").status(), 200);
    let settled = || {
        let flows = || sluice.metric("sluice_listener_flows_active", "");
        wait::until("flows to end", || (flows() == 0).then_some(()));
        sluice.metric("sluice_metric_series_lookups_total", "")
    };
    let before = wait::until("a round of events that are all known", || {
        let before = settled();
        every_kind(&sluice);
        Some(settled()).filter(|after| *after > 0 && *after == before)
    });
    for _ in 0..EVENTS {
        every_kind(&sluice);
    }
    let made = settled() - before;
    assert!(made <= OTHERS, "{EVENTS} events of each kind made {made} look-ups");
}
