//! Samples of traffic: the web, HTTP/3, QUIC, gRPC and UDP, with failover and with faults.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use serde_json::json;
use sluice_testkit::peers::{Server, UdpServer, udp_client};
use sluice_testkit::{Authority, Origin, Sluice, tools, wait};
use sluice_tests::h3::{Client, head, status};
use sluice_tests::{certs_beside, dnsmasq, sample};

use super::addr;

#[test]
fn web_with_curl() {
    if !tools::have(&["curl"]) {
        return;
    }
    let kit = Sluice::new();
    let certs = certs_beside(&kit);
    Authority::new(&certs).issue("shop", &["shop.example.com"]);
    let (api, pages, next) = (Origin::start("api"), Origin::start("pages"), Origin::start("next"));
    let sluice = kit.start(&sample(
        "web.yaml",
        &[
            ("127.0.0.1:8080", "127.0.0.1:0".into()),
            ("127.0.0.1:8443", "127.0.0.1:0".into()),
            ("[127.0.0.10:8080, 127.0.0.11:8080]", format!("[\"{}\"]", api.addr())),
            ("127.0.0.12:8080", pages.addr().to_string()),
            ("127.0.0.13:8080", next.addr().to_string()),
            (", kinds: request", String::new()),
        ],
    ));
    let (ca, port) = (certs.join("ca.pem"), sluice.addr("web").port());
    let ask = |version: &str, path: &str, more: &[&str]| {
        let mut curl = tools::command("curl");
        curl.args(["-sS", "-i", version, "--cacert"]).arg(&ca).args(more);
        curl.args(["--resolve", &format!("shop.example.com:{port}:127.0.0.1")]);
        tools::must(curl.arg(format!("https://shop.example.com:{port}{path}")))
    };
    for (version, line) in [("--http1.1", "HTTP/1.1 200"), ("--http2", "HTTP/2 200")] {
        for (path, origin) in [("/api/orders", "api"), ("/", "")] {
            let answer = ask(version, path, &[]);
            assert!(answer.starts_with(line) && answer.contains("x-request-id: "), "{answer}");
            assert!(answer.contains(&format!("x-origin: {origin}")), "{answer}");
        }
        assert!(ask(version, "/healthz", &[]).ends_with("ok\n"));
    }
    assert!(ask("--http2", "/api/orders", &["-d", "an order"]).ends_with("an order"));
    let moved = tools::must(tools::command("curl").args([
        "-sS",
        "-i",
        "-H",
        "host: shop.example.com",
        &format!("http://{}/x?y", sluice.addr("plain")),
    ]));
    assert!(moved.contains("location: https://shop.example.com:8443/x?y"), "{moved}");
    let (_, page) = sluice.page("/try?host=shop.example.com&path=/api/orders");
    assert!(page.contains("api"), "{page}");
}

#[test]
fn failover_between_zones() {
    let (near, far, backup) =
        (Origin::start("near"), Origin::start("far"), Origin::start("backup"));
    let also_near = Server::greeter("");
    let sluice = Sluice::new().expect_warning("endpoint is unhealthy").start(&sample(
        "failover.yaml",
        &[
            ("127.0.0.1:8080", "127.0.0.1:0".into()),
            ("127.0.0.10:8080", near.addr().to_string()),
            // It accepts connections and answers no request.
            ("127.0.0.11:8080", addr(&also_near)),
            ("127.0.0.12:8080", far.addr().to_string()),
            ("127.0.0.20:8080", backup.addr().to_string()),
            ("interval: 2s", "interval: 1s, timeout: 1s".into()),
        ],
    ));
    wait::until("a part of the traffic to go to the backup", || {
        let priorities = sluice.items("/clusters")[0]["priorities"].clone();
        // Two of three are usable, and each may have 1.4 times its share.
        let shares = (priorities[0]["healthy"].as_u64(), priorities[1]["healthy"].as_u64());
        (shares == (Some(93), Some(7))).then_some(())
    });
    wait::until("every zone to serve", || {
        assert_eq!(sluice_testkit::origin::get(sluice.addr("web"), "a", "/").status(), 200);
        let served =
            |origin: &Origin| origin.requests().iter().any(|request| request.path() == "/");
        [&near, &far, &backup].into_iter().all(served).then_some(())
    });
}

#[test]
fn http3_with_aioquic() {
    if !tools::have_modules(&["aioquic"]) {
        return;
    }
    let kit = Sluice::new();
    let certs = certs_beside(&kit);
    let authority = Authority::new(&certs);
    authority.issue("shop", &["shop.example.com"]);
    authority.issue("any", &["*.example.com"]);
    let pages = Origin::start("pages");
    std::fs::copy(certs.join("ca.pem"), kit.folder().join("ca.pem")).unwrap();
    let sluice = kit.start(&sample(
        "http3.yaml",
        &[
            ("127.0.0.1:8443", "127.0.0.1:0".into()),
            ("127.0.0.12:8080", pages.addr().to_string()),
            (", kinds: request", String::new()),
        ],
    ));
    for name in ["shop.example.com", "other.example.com"] {
        let ask = json!({ "ask": { "headers": head("GET", "/", &[]) } });
        let got =
            Client::start(&sluice, "edge", name, &json!([ask, { "await": [0, "end"] }])).end();
        assert_eq!(status(&got["streams"]["0"]), 200, "{name}: {got}");
    }
    let named = |name: &str| {
        sluice.record("a request", |record| record["requested_server_name"] == name);
    };
    named("shop.example.com");
    named("other.example.com");
}

#[test]
fn quic_passed_through_by_name() {
    if !tools::have_modules(&["aioquic"]) {
        return;
    }
    let end = Sluice::new();
    let certs = certs_beside(&end);
    Authority::new(&certs).issue("media", &["media.example.com"]);
    let pages = Origin::start("media");
    let media = end.start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, quic: true, tls: {{ certificates: [{{ cert: certs/media.pem, key: certs/media.key }}] }}, http: main }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        pages.addr()
    ));
    let echo = UdpServer::echo("echoed: ");
    let kit = Sluice::new().expect_warning("the drain timeout has expired");
    std::fs::copy(certs.join("ca.pem"), kit.folder().join("ca.pem")).unwrap();
    let text = sample(
        "quic-passthrough.yaml",
        &[
            ("udp://127.0.0.1:8443", "udp://127.0.0.1:0".into()),
            ("127.0.0.10:443", media.addr("web").to_string()),
            ("127.0.0.13:5000", echo.addr().to_string()),
        ],
    );
    let sluice = kit.start(&format!("drain: {{ timeout: 100ms }}\n{text}"));
    let ask = json!({ "ask": { "headers": head("GET", "/", &[]) } });
    let steps = json!([ask, { "await": [0, "end"] }]);
    let got = Client::start(&sluice, "quic", "media.example.com", &steps).end();
    assert_eq!(status(&got["streams"]["0"]), 200, "{got}");
    assert_eq!(media.metric("sluice_listener_connections_accepted_total", ""), 1);
    let client = udp_client();
    client.send_to(b"hello", sluice.addr("quic")).unwrap();
    let mut answer = [0; 64];
    let (count, _) = client.recv_from(&mut answer).unwrap();
    assert_eq!(&answer[..count], b"echoed: hello");
}

#[test]
fn grpc_by_service() {
    if !tools::have_modules(&["grpc"]) {
        return;
    }
    let peer =
        |name: &str| std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(name);
    let servers =
        [0; 2].map(|_| tools::serve_on_its_port(&mut tools::python(&peer("grpc_server.py"))));
    let sluice = Sluice::new().start(&sample(
        "grpc.yaml",
        &[
            ("127.0.0.1:50050", "127.0.0.1:0".into()),
            ("127.0.0.10:50051", servers[0].1.to_string()),
            ("127.0.0.11:50051", servers[1].1.to_string()),
            ("orders.v1.Orders", "t.Echo".into()),
            (", kinds: request", String::new()),
        ],
    ));
    let at = sluice.addr("grpc").to_string();
    // Calls of one client go to both servers, sooner or later: among idle ones, the choice is random.
    wait::until("records of both", || {
        let mut client = tools::python(&peer("grpc_client.py"));
        assert_eq!(tools::must(client.arg(&at)), "all well\n");
        let records = sluice.records();
        let hosts = records.iter().filter_map(|record| record["upstream_host"].as_str());
        (hosts.collect::<BTreeSet<_>>().len() == 2).then_some(())
    });
}

#[test]
fn udp_affinity_with_dig() {
    if !tools::have(&["dnsmasq", "dig"]) {
        return;
    }
    let port = tools::free_port();
    let _dns = dnsmasq(port, &["--address=/example.com/127.0.0.99"]);
    let sluice = Sluice::new().start(&sample(
        "udp-affinity.yaml",
        &[
            ("udp://127.0.0.1:5353", "udp://127.0.0.1:0".into()),
            ("127.0.0.10:53, 127.0.0.11:53", format!("127.0.0.1:{port}")),
        ],
    ));
    let at = sluice.addr("dns").port().to_string();
    for _ in 0..5 {
        let answer = tools::must(tools::command("dig").args([
            "+short",
            "+tries=1",
            "+timeout=30",
            "@127.0.0.1",
            "-p",
            &at,
            "example.com",
        ]));
        assert_eq!(answer, "127.0.0.99\n");
    }
    let record = sluice.record_of("flow.done");
    assert_eq!(
        (&record["kind"], &record["datagrams_received"], &record["datagrams_sent"]),
        (&"flow".into(), &1.into(), &1.into())
    );
}

#[test]
fn udp_affinity_keeps_a_source_with_its_server() {
    let (one, two) = (UdpServer::echo("1:"), UdpServer::echo("2:"));
    let yaml = sample(
        "udp-affinity.yaml",
        &[
            ("udp://127.0.0.1:5353", "udp://127.0.0.1:0".into()),
            ("127.0.0.10:53, 127.0.0.11:53", format!("\"{}\", \"{}\"", one.addr(), two.addr())),
        ],
    );
    let sluice = Sluice::new().start(&yaml);
    let mut marks: Vec<u8> = (0..20)
        .map(|_| {
            let client = udp_client();
            client.send_to(b"x", sluice.addr("dns")).unwrap();
            let mut got = [0; 16];
            let (count, from) = client.recv_from(&mut got).unwrap();
            assert_eq!((count, from), (3, sluice.addr("dns")));
            got[0]
        })
        .collect();
    marks.dedup();
    assert_eq!(marks.len(), 1, "one source address, one server");
}

#[test]
fn faults() {
    let origin = Origin::start("shop");
    let sluice = Sluice::new().start(&sample(
        "faults.yaml",
        &[
            ("127.0.0.1:8080\n", "127.0.0.1:0\n".into()),
            ("127.0.0.10:8080", origin.addr().to_string()),
            ("{ time: 2s, percent: 10%", "{ time: 2ms, percent: 0%".into()),
            ("{ status: 503, percent: 1%", "{ status: 503, percent: 0%".into()),
        ],
    ));
    let ask = |path: &str, fields: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        sluice_testkit::origin::Client::connect(sluice.addr("web")).ask(&request).status()
    };
    let asks = "X-Envoy-Fault-Abort-Request: 429\r\n";
    let testing = format!("X-Team: testing\r\n{asks}");
    assert_eq!([ask("/orders/7", asks), ask("/try/orders/7", asks), ask("/", asks)], [200; 3]);
    assert_eq!(ask("/try/orders/7", &testing), 429);
    assert_eq!(ask("/try/orders/7", "X-Team: testing\r\n"), 200);
    let set = |key: &str, value: &str| {
        let admin = sluice.admin_addr();
        let request = format!(
            "POST /runtime?key={key}&value={value} HTTP/1.1\r\nHost: localhost\r\nX-Sluice: 1\r\nContent-Length: 0\r\n\r\n"
        );
        sluice_testkit::origin::Client::connect(admin).ask(&request).status()
    };
    assert_eq!([set("chaos.abort", "100"), set("chaos.delay", "100")], [200, 200]);
    assert_eq!([ask("/orders/7", ""), ask("/", "")], [503, 200]);
    for path in ["/try/orders/7", "/orders/7"] {
        sluice.record(path, |record| record["reason"] == "fault.abort" && record["path"] == path);
    }
    let record = sluice.record("the delay", |record| record["status"] == 503);
    assert_eq!(record["delay"], "2", "{record}");
}
