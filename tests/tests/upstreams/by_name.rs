//! Clusters and endpoints that clients name: by server name, by host, by CONNECT.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sluice_testkit::origin::{self, Client};
use sluice_testkit::peers::{Server, UdpServer, connect, exchange, read, read_to_end};
use sluice_testkit::tls::{self, Offer};
use sluice_testkit::{Authority, Origin, Running, Sluice, tools, wait};
use sluice_tests::dnsmasq;

/// A TLS server with a certificate for `name`, which greets with its name.
fn greeter(folder: &Path, authority: &Authority, name: &'static str) -> Server {
    let file = name.replace('.', "-");
    authority.issue(&file, &[name]);
    tls::server(&folder.join(file), &[], move |mut stream| {
        stream.write_all(name.as_bytes())?;
        stream.flush()?;
        stream.read_to_end(&mut Vec::new()).map(drop)
    })
}

/// What a client that asks for `name` is greeted with; nothing if it is refused.
fn greeting(sluice: &Running, listener: &str, name: &str) -> String {
    let ca = sluice.folder().join("ca.pem");
    let mut stream = Offer::of(name, &ca).connect(sluice.addr(listener));
    let mut greeting = vec![0; name.len()];
    match stream.read_exact(&mut greeting) {
        Ok(()) => String::from_utf8(greeting).unwrap(),
        Err(_) => String::new(),
    }
}

/// The detail of the record of a connection that asked for `name`.
fn detail(sluice: &Running, name: &str) -> String {
    let fits = |record: &serde_json::Value| record["requested_server_name"] == name;
    sluice.record(name, fits)["detail"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_server_name_names_the_cluster() {
    let kit = Sluice::new();
    let authority = Authority::new(kit.folder());
    let one = greeter(kit.folder(), &authority, "one.test");
    let two = greeter(kit.folder(), &authority, "b.two.test");
    let secret = greeter(kit.folder(), &authority, "secret.test");
    authority.issue("edge", &["one.test"]);
    let yaml = || {
        format!(
            "listeners:\n\
             - {{ name: tls, address: 127.0.0.1:0, relay: {{ cluster_from: sni, allow: [one.test, \"*.two.test\"] }} }}\n\
             - {{ name: terminated, address: 127.0.0.1:0, tls: {{ certificates: edge.pem }}, relay: {{ cluster_from: sni, allow: [one.test] }} }}\n\
             clusters:\n  one.test: \"{}\"\n  b.two.test: \"{}\"\n  secret.test: \"{}\"\n",
            one.addr(),
            two.addr(),
            secret.addr()
        )
    };
    let sluice = kit.expect_warning("unused-cluster").start(&yaml());
    for name in ["one.test", "b.two.test"] {
        assert_eq!(greeting(&sluice, "tls", name), name);
        let fits = |record: &serde_json::Value| record["upstream_cluster"] == name;
        assert_eq!(sluice.record(name, fits)["requested_server_name"], name);
    }
    // The edge's own certificate; the TLS of the endpoint is not reached in clear text, but the cluster is.
    let ca = sluice.folder().join("ca.pem");
    let mut stream = Offer::of("one.test", &ca).connect(sluice.addr("terminated"));
    stream.write_all(b"not TLS\r\n").unwrap();
    let _ = stream.read_to_end(&mut Vec::new());
    assert_eq!(one.accepted(), 2);
    for (name, why) in [
        ("secret.test", "`allow` of the relay does not list it"),
        ("two.test", "`allow` of the relay does not list it"),
        ("a.two.test", "no cluster has this name"),
    ] {
        assert_eq!(greeting(&sluice, "tls", name), "");
        assert_eq!(detail(&sluice, name), format!("{name}: {why}"));
        sluice.record_of("cluster.unknown");
    }
    assert_eq!(secret.accepted(), 0);
    let mut plain = connect(sluice.addr("tls"));
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert!(read_to_end(&mut plain).1.is_empty());
    sluice.record_of("name.missing");
    // A cluster that a reload adds can be named at once, and one that it removes no longer.
    let renamed = yaml().replace("  b.two.test", "  a.two.test");
    assert_eq!(sluice.reload(&renamed), "applied");
    assert_eq!(greeting(&sluice, "tls", "b.two.test"), "");
    let before = two.accepted();
    // The endpoint has a certificate for its former name, which the client does not accept.
    assert_eq!(greeting(&sluice, "tls", "a.two.test"), "");
    assert_eq!(two.accepted(), before + 1);
    assert_eq!(greeting(&sluice, "tls", "one.test"), "one.test");
}

/// A forward proxy for requests and for TLS, which asks the name server on `dns`; `forward` and `more` go into its
/// cluster.
fn proxy(dns: u16, forward: &str, more: &str) -> String {
    format!(
        "listeners:\n\
         - {{ name: web, address: 127.0.0.1:0, http: main }}\n\
         - {{ name: tls, address: 127.0.0.1:0, relay: out }}\n\
         routes: {{ main: {{ cluster: out, connect: true }} }}\n\
         clusters:\n  out: {{ forward: {{ {forward} }}, dns: {{ servers: [127.0.0.1:{dns}], family: v4, retry: 50ms }}{more} }}\n"
    )
}

/// Allows loopback, where the origins of tests are.
const LOCAL: &str = ", egress: { allow: [127.0.0.0/8] }";

/// The state of a host that the cluster knows.
fn host_state(sluice: &Running, host: &str) -> serde_json::Value {
    sluice.items("/clusters")[0]["resolver"][host].clone()
}

#[test]
fn a_request_goes_to_the_host_that_it_names() {
    if !tools::have(&["dnsmasq", "curl"]) {
        return;
    }
    let (one, two) = (Origin::start("one"), Origin::start("two"));
    let ports = [one.addr().port(), two.addr().port()];
    let dns = tools::free_port();
    let _dns = dnsmasq(dns, &["--address=/test/127.0.0.1"]);
    let forward = format!("ports: [{}, {}]", ports[0], ports[1]);
    let sluice = Sluice::new().workers(1).start(&proxy(dns, &forward, LOCAL));
    let ask = |host: &str| origin::get(sluice.addr("web"), host, "/").value("x-origin").to_owned();
    assert_eq!(ask(&format!("a.test:{}", ports[0])), "one");
    assert_eq!(ask(&format!("a.test:{}", ports[1])), "two");
    // The first port is that of a host without one; the form of a name makes no other host of it.
    assert_eq!(ask("A.Test."), "one");
    let name = format!("a.test:{}", ports[0]);
    assert_eq!(host_state(&sluice, &name)["state"], "resolved");
    assert_eq!(sluice.metric("sluice_dns_lookups_total", "ok"), 2);
    assert_eq!(sluice.metric("sluice_cluster_forward_hosts", "out"), 2);
    let endpoints = sluice.items("/clusters")[0]["endpoints"].clone();
    let shown = endpoints.as_array().unwrap().iter().find(|one| one["address"] == *name).unwrap();
    assert_eq!(shown["addresses"][0], one.addr().to_string());
    let record = sluice.record("a request", |record| record["upstream_host"] == *name);
    assert_eq!(record["upstream_cluster"], "out");
    // Two names of one address share no connection, and each is reused for its own name.
    let before = one.connections();
    let mut client = Client::connect(sluice.addr("web"));
    for host in ["b.test", "c.test", "b.test", "c.test"] {
        assert_eq!(client.get(host, "/").status(), 200);
    }
    assert_eq!(one.connections(), before + 2);
    // A proxy as clients know it.
    let mut curl = tools::command("curl");
    let url = format!("http://d.test:{}/", ports[1]);
    curl.args(["-sSi", "--proxy", &format!("http://{}", sluice.addr("web")), &url]);
    let output = curl.output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).to_ascii_lowercase();
    assert!(told.contains("x-origin: two"), "{output:?}");
}

#[test]
fn a_host_that_refuses_is_attempted_again_only_if_the_rule_says_so() {
    let port = tools::free_port();
    let yaml = proxy(port, &format!("ports: [{port}]"), LOCAL);
    let insists = "connect: true, retry: { when: connect_failure, attempts: 2, backoff: 1ms }";
    for (rule, attempts) in [("connect: true", 1), (insists, 2)] {
        let sluice = Sluice::new().workers(1).start(&yaml.replace("connect: true", rule));
        let host = format!("127.0.0.1:{port}");
        assert_eq!(origin::get(sluice.addr("web"), &host, "/").status(), 503);
        let record = sluice.record("the request", |record| record["kind"] == "request");
        let made = record["upstream_hosts_attempted"].as_array().unwrap().len();
        assert_eq!(made, attempts, "{record}");
    }
}

#[test]
fn requests_that_name_a_host_at_once_wait_for_one_look_up() {
    const CLIENTS: usize = 16;
    let server = Origin::start("one");
    // The name server answers only once everybody waits.
    let all_wait = Arc::new(AtomicBool::new(false));
    let may = Arc::clone(&all_wait);
    let dns = UdpServer::start(move |query| {
        wait::until("all requests", || may.load(Ordering::SeqCst).then_some(()));
        vec![address_of_loopback(query)]
    });
    let forward = format!("ports: [{}]", server.addr().port());
    let sluice = Sluice::new().start(&proxy(dns.addr().port(), &forward, LOCAL));
    std::thread::scope(|scope| {
        let one = || origin::get(sluice.addr("web"), "a.test", "/").status();
        let asking: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(one)).collect();
        wait::until("all requests", || {
            let active = sluice.metric("sluice_http_requests_active", "");
            (usize::try_from(active) == Ok(CLIENTS)).then_some(())
        });
        all_wait.store(true, Ordering::SeqCst);
        assert!(asking.into_iter().all(|one| one.join().unwrap() == 200));
    });
    assert_eq!(sluice.metric("sluice_dns_lookups_total", ""), 1);
}

/// The answer to a query for an address: that of the loopback interface.
fn address_of_loopback(query: &[u8]) -> Vec<u8> {
    let mut answer = query.to_vec();
    // A response, with recursion desired and available, one question and one answer.
    answer.splice(2..12, [0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    let name = answer[12..].iter().position(|byte| *byte == 0).unwrap();
    answer.truncate(12 + name + 5);
    // The name of the question, an address of the Internet, for a minute, of four bytes.
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
    answer
}

#[test]
fn only_hosts_that_may_be_named_and_lead_outside_are_served() {
    if !tools::have(&["dnsmasq"]) {
        return;
    }
    let inside = Origin::start("inside");
    let port = inside.addr().port();
    let dns = tools::free_port();
    let _dns =
        dnsmasq(dns, &["--address=/a.test/127.0.0.1", "--address=/meta.test/169.254.169.254"]);
    let some = format!("hosts: [\"*.test\", localhost, test], ports: [{port}, 22]");
    let sluice = Sluice::new().start(&proxy(dns, &some, ""));
    let any = Sluice::new().start(&proxy(dns, &format!("ports: [{port}]"), ""));
    for (sluice, host, status, reason, detail) in [
        (&sluice, "a.example", 403, "name.denied", "a.example: `forward.hosts` does not list it"),
        (&sluice, "127.0.0.1", 403, "name.denied", "127.0.0.1: `forward.hosts` does not list it"),
        (&sluice, "a.test:23", 403, "name.denied", "a.test: `forward.ports` does not list 23"),
        (
            &sluice,
            "a.test",
            403,
            "upstream.egress",
            "a.test: denied by `egress`: 127.0.0.1 is loopback",
        ),
        (&sluice, "localhost", 403, "upstream.egress", "is loopback"),
        (&sluice, "meta.test", 403, "upstream.egress", "169.254.169.254 is link-local"),
        (&any, "127.0.0.1", 403, "upstream.egress", "127.0.0.1 is loopback"),
        (&any, "[::1]", 403, "upstream.egress", "::1 is loopback"),
        (&any, "[::ffff:127.0.0.1]", 403, "upstream.egress", "is loopback"),
        (&any, "[64:ff9b::7f00:1]", 403, "upstream.egress", "is loopback"),
        (&any, "10.1.2.3", 403, "upstream.egress", "is private"),
        (&any, "127.1", 400, "name.missing", "`127.1` is not a host"),
        (&any, "2130706433", 400, "name.missing", "`2130706433` is not a host"),
        (&any, "gone.example", 503, "upstream.dns", "gone.example: "),
    ] {
        let response = origin::get(sluice.addr("web"), host, "/");
        assert_eq!(response.status(), status, "{host}: {}", response.text());
        let fits = |record: &serde_json::Value| {
            record["reason"] == reason
                && record["detail"].as_str().is_some_and(|text| text.contains(detail))
        };
        sluice.record(host, fits);
    }
    assert_eq!(inside.connections(), 0);
    assert!(sluice.metric("sluice_cluster_egress_denials_total", "out") >= 3);
    // Its own listeners and its admin pages are denied even where their block is allowed.
    for own in ["web", "admin"] {
        let port = tools::free_port();
        let yaml = proxy(dns, &format!("ports: [{port}]"), LOCAL);
        let yaml = match own {
            "web" => yaml.replacen("127.0.0.1:0", &format!("127.0.0.1:{port}"), 1),
            _ => format!("{yaml}admin: {{ address: 127.0.0.1:{port} }}\n"),
        };
        let looping = Sluice::new().start(&yaml);
        assert_eq!(origin::get(looping.addr("web"), "a.test", "/").status(), 403);
        let record = looping.record_of("upstream.egress");
        let detail = record["detail"].as_str().unwrap();
        assert!(detail.contains("a listener of this process"), "{record}");
    }
}

#[test]
fn hosts_are_bounded_and_forgotten_when_nobody_uses_them() {
    if !tools::have(&["dnsmasq"]) {
        return;
    }
    let server = Origin::start("one");
    let dns = tools::free_port();
    let _dns = dnsmasq(dns, &["--address=/test/127.0.0.1"]);
    let forward = format!("ports: [{}], max_hosts: 1, host_ttl: 3s", server.addr().port());
    let sluice = Sluice::new().workers(1).start(&proxy(dns, &forward, LOCAL));
    let ask = |host: &str| origin::get(sluice.addr("web"), host, "/").status();
    // A host that cannot be looked up makes room.
    assert_eq!(ask("gone.example"), 503);
    let mut kept = Client::connect(sluice.addr("web"));
    assert_eq!(kept.get("a.test", "/").status(), 200);
    assert_eq!(ask("b.test"), 503);
    let record = sluice.record_of("upstream.limit");
    assert_eq!(record["detail"], "the cluster knows 1 host (`forward.max_hosts`)");
    assert_eq!(record["response_code_details"], "dns_cache_overflow");
    assert_eq!(sluice.metric("sluice_cluster_breaker_refusals_total", "forward_hosts"), 1);
    assert_eq!(sluice.items("/clusters")[0]["breakers"]["forward_hosts"]["open"], true);
    let known = || sluice.items("/clusters")[0]["endpoints"].as_array().unwrap().len();
    wait::until("the host to be forgotten", || (known() == 0).then_some(()));
    assert_eq!(sluice.metric("sluice_cluster_forward_hosts", "out"), 0);
    assert!(sluice.items("/clusters")[0]["resolver"].is_null());
    // So is its pooled connection; the host is looked up again.
    wait::until("its connections to be closed", || {
        (sluice.metric("sluice_cluster_connections_active", "out") == 0).then_some(())
    });
    assert_eq!(ask("b.test"), 200);
    // A host in use is not forgotten.
    let mut held = connect(sluice.addr("web"));
    held.write_all(b"GET /wait HTTP/1.1\r\nHost: b.test\r\n\r\n").unwrap();
    wait::until("the request", || {
        server.requests().iter().any(|of| of.path() == "/wait").then_some(())
    });
    let looked_up = |state: serde_json::Value| state["looked_up_at"].as_str().map(str::to_owned);
    let name = format!("b.test:{}", server.addr().port());
    let first = looked_up(host_state(&sluice, &name)).unwrap();
    // It is looked up again after `min_ttl`, which is longer than `host_ttl`.
    wait::until("another look-up", || {
        looked_up(host_state(&sluice, &name)).filter(|last| *last != first)
    });
    server.release();
    assert_eq!(known(), 1);
}

#[test]
fn tls_to_a_host_verifies_the_name_that_was_asked_for() {
    if !tools::have(&["dnsmasq"]) {
        return;
    }
    let kit = Sluice::new().workers(1);
    Authority::new(kit.folder()).issue("one", &["one.test"]);
    let server = tls::server(&kit.folder().join("one"), &[], |mut stream| {
        let mut request = [0; 4096];
        while stream.read(&mut request)? > 0 {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\none")?;
        }
        Ok(())
    });
    let dns = tools::free_port();
    let _dns = dnsmasq(dns, &["--address=/test/127.0.0.1"]);
    let forward = format!("ports: [{}]", server.addr().port());
    let more = format!("{LOCAL}, tls: {{ ca: ca.pem }}");
    let yaml = proxy(dns, &forward, &more).replace("relay: out", "relay: 127.0.0.1:9");
    let sluice = kit.start(&yaml);
    let mut client = Client::connect(sluice.addr("web"));
    assert_eq!(client.get("one.test", "/").text(), "one");
    // The same address by another name: neither its connection nor its certificate will do.
    let response = client.get("two.test", "/");
    assert_eq!(response.status(), 503);
    let record = sluice.record_of("upstream.tls");
    let attempts = record["upstream_hosts_attempted"].as_array().unwrap().len();
    assert_eq!(client.get("one.test", "/").text(), "one");
    assert_eq!(server.accepted(), 1 + attempts);
}

#[test]
fn tls_is_passed_through_to_the_server_name() {
    if !tools::have(&["dnsmasq"]) {
        return;
    }
    let kit = Sluice::new();
    let authority = Authority::new(kit.folder());
    let one = greeter(kit.folder(), &authority, "one.test");
    let dns = tools::free_port();
    let _dns = dnsmasq(dns, &["--address=/one.test/127.0.0.1", "--address=/far.test/10.9.9.9"]);
    let forward = format!("hosts: [\"*.test\"], ports: [{}]", one.addr().port());
    let sluice = kit.start(&proxy(dns, &forward, LOCAL));
    assert_eq!(greeting(&sluice, "tls", "one.test"), "one.test");
    for (name, reason, why) in [
        ("one.example", "name.denied", "one.example: `forward.hosts` does not list it"),
        ("far.test", "upstream.egress", "far.test: denied by `egress`: 10.9.9.9 is private"),
        ("gone.test", "upstream.dns", "gone.test: "),
    ] {
        assert_eq!(greeting(&sluice, "tls", name), "");
        assert!(detail(&sluice, name).contains(why), "{}", detail(&sluice, name));
        sluice.record_of(reason);
    }
    let mut plain = connect(sluice.addr("tls"));
    plain.write_all(b"no TLS at all\r\n\r\n").unwrap();
    assert!(read_to_end(&mut plain).1.is_empty());
    sluice.record_of("name.missing");
    assert_eq!(one.accepted(), 1);
}

#[test]
fn connect_opens_a_tunnel_to_the_host_that_it_names() {
    if !tools::have(&["dnsmasq", "curl"]) {
        return;
    }
    let echo = Server::echo();
    let kit = Sluice::new();
    Authority::new(kit.folder()).issue("one", &["one.test"]);
    let secure = tls::server(&kit.folder().join("one"), &[], |mut stream| {
        let _ = stream.read(&mut [0; 4096])?;
        stream.write_all(
            b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\nsecure",
        )?;
        stream.conn.send_close_notify();
        stream.flush()
    });
    let dns = tools::free_port();
    let _dns = dnsmasq(dns, &["--address=/test/127.0.0.1"]);
    let forward = format!("ports: [{}, {}]", echo.addr().port(), secure.addr().port());
    let sluice = kit.start(&proxy(dns, &forward, LOCAL));
    let tunnel = |to: &str| {
        let mut stream = connect(sluice.addr("web"));
        let request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let answer = read(&mut stream, b"HTTP/1.1 200".len());
        (stream, String::from_utf8(answer).unwrap())
    };
    let (mut stream, answer) = tunnel(&format!("one.test:{}", echo.addr().port()));
    assert_eq!(answer, "HTTP/1.1 200");
    while !read(&mut stream, 1).eq(b"\n") || !read(&mut stream, 2).eq(b"\r\n") {}
    assert_eq!(exchange(&mut stream, b"anything at all"), b"anything at all");
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(read_to_end(&mut stream).1.is_empty(), "the end passes through in both directions");
    let record = sluice.record("a tunnel", |record| record["method"] == "CONNECT");
    assert_eq!(record["upstream_cluster"], "out");
    assert_eq!(record["reason"], "http.answered", "{record}");
    for (to, status) in [("one.test:25", "HTTP/1.1 403"), ("one.test:0", "HTTP/1.1 400")] {
        assert_eq!(tunnel(to).1, status, "{to}");
    }
    sluice.record_of("name.denied");
    let mut curl = tools::command("curl");
    let (proxy, url) = (format!("http://{}", sluice.addr("web")), secure.addr().port());
    let ca = sluice.folder().join("ca.pem");
    curl.args(["-sS", "--proxy", &proxy, &format!("https://one.test:{url}/"), "--cacert"]).arg(&ca);
    let output = curl.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "secure", "{output:?}");
}

#[test]
fn the_directions_of_a_tunnel_end_on_their_own() {
    if !tools::have(&["dnsmasq"]) {
        return;
    }
    // It speaks only once the client has finished.
    let server = Server::start(|mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        stream.write_all(format!("{} bytes", all.len()).as_bytes())
    });
    let dns = tools::free_port();
    let _dns = dnsmasq(dns, &["--address=/test/127.0.0.1"]);
    let forward = format!("ports: [{}]", server.addr().port());
    let sluice = Sluice::new().start(&proxy(dns, &forward, LOCAL));
    let mut stream = connect(sluice.addr("web"));
    let to = format!("a.test:{}", server.addr().port());
    stream
        .write_all(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n0123456789").as_bytes())
        .unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let (_, received) = read_to_end(&mut stream);
    let received = String::from_utf8(received).unwrap();
    assert!(received.starts_with("HTTP/1.1 200") && received.ends_with("10 bytes"), "{received}");
}

#[test]
fn a_reload_begins_again_and_loses_no_request() {
    if !tools::have(&["dnsmasq"]) {
        return;
    }
    let server = Origin::start("one");
    let dns = tools::free_port();
    let _dns = dnsmasq(dns, &["--address=/test/127.0.0.1"]);
    let forward = |ttl: &str| format!("ports: [{}], host_ttl: {ttl}", server.addr().port());
    let sluice = Sluice::new().start(&proxy(dns, &forward("5m"), LOCAL));
    let mut client = Client::connect(sluice.addr("web"));
    for round in 1..10 {
        assert_eq!(client.get("a.test", "/").status(), 200);
        assert_eq!(sluice.reload(&proxy(dns, &forward(&format!("{round}m")), LOCAL)), "applied");
    }
    assert_eq!(client.get("a.test", "/").status(), 200);
    // It may cease to be a forward proxy, and become one again.
    let fixed = format!("endpoints: \"{}\"", server.addr());
    let listed = proxy(dns, &forward("5m"), "")
        .replace(&format!("forward: {{ {} }}", forward("5m")), &fixed);
    assert_eq!(sluice.reload(&listed), "applied");
    assert_eq!(client.get("whatever.example", "/").status(), 200);
    assert_eq!(sluice.reload(&proxy(dns, &forward("5m"), LOCAL)), "applied");
    assert_eq!(client.get("whatever.example", "/").status(), 503);
    assert_eq!(client.get("a.test", "/").status(), 200);
}

#[test]
fn what_exceeds_the_limit_of_a_host_waits_for_that_host() {
    if !tools::have(&["dnsmasq"]) {
        return;
    }
    let kit = Sluice::new();
    let authority = Authority::new(kit.folder());
    let (one, two) = (Origin::start("one"), Origin::start("two"));
    let secure = greeter(kit.folder(), &authority, "tls.test");
    let dns = tools::free_port();
    let _dns = dnsmasq(dns, &["--address=/test/127.0.0.1"]);
    let ports = [secure.addr(), one.addr(), two.addr()].map(|address| address.port());
    let forward = format!("ports: [{}, {}, {}]", ports[0], ports[1], ports[2]);
    let limits = "limits: { requests_per_endpoint: 1, connections_per_endpoint: 1, queue: { size: 2, timeout: 60s } }";
    let sluice = kit.workers(2).start(&proxy(dns, &forward, &format!("{LOCAL}, {limits}")));
    let waiting = |count: i64| {
        wait::until("the queue to have that length", || {
            (sluice.metric("sluice_cluster_queue_waiting", "\"out\"") == count).then_some(())
        });
    };
    // A request that goes on, as its body is not complete.
    let host = format!("a.test:{}", ports[1]);
    let mut held = connect(sluice.addr("web"));
    write!(held, "POST / HTTP/1.1\r\nhost: {host}\r\ncontent-length: 2\r\n\r\n1").unwrap();
    wait::until("the first to have its host", || {
        let endpoints = sluice.items("/clusters")[0]["endpoints"].clone();
        endpoints.as_array()?.iter().any(|one| one["requests_active"] == 1).then_some(())
    });
    let mut second = connect(sluice.addr("web"));
    write!(second, "GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").unwrap();
    waiting(1);
    // Another host has room.
    let other = format!("a.test:{}", ports[2]);
    assert_eq!(origin::get(sluice.addr("web"), &other, "/").value("x-origin"), "two");
    held.write_all(b"2").unwrap();
    let answer = |mut stream: std::net::TcpStream| {
        origin::read_message(&mut std::io::BufReader::new(&mut stream), false).unwrap().status()
    };
    assert_eq!((answer(held), answer(second)), (200, 200));
    waiting(0);
    // The same for TLS that is passed through.
    let ca = sluice.folder().join("ca.pem");
    let greeted = |mut stream: tls::ClientStream| {
        let mut greeting = [0; 8];
        stream.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"tls.test");
        stream
    };
    let first = greeted(Offer::of("tls.test", &ca).connect(sluice.addr("tls")));
    let waiter = Offer::of("tls.test", &ca).connect(sluice.addr("tls"));
    let joining = std::thread::spawn(move || drop(greeted(waiter)));
    waiting(1);
    drop(first);
    joining.join().unwrap();
    assert_eq!(sluice.metric("sluice_cluster_queued_total", "result=\"served\""), 2);
}
