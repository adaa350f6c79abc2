//! Subsets of endpoints by their metadata, for HTTP, TCP and UDP.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::io::{BufReader, Write as _};
use std::net::SocketAddr;

use serde_json::json;
use sluice_testkit::origin::{self, Client, read_message};
use sluice_testkit::peers::{self, Server, UdpServer, udp_client};
use sluice_testkit::{Running, Sluice, tools, wait};

/// A server that answers the first request on each connection with its name; over HTTP and over a relayed stream alike.
fn named_at(name: &'static str, address: SocketAddr) -> Server {
    Server::start_at(address, move |mut stream| {
        let length = name.len();
        // A health check sends nothing.
        match read_message(&mut BufReader::new(stream.try_clone()?), false) {
            Ok(_) => write!(
                stream,
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{name}"
            ),
            Err(_) => Ok(()),
        }
    })
}

fn named(name: &'static str) -> Server {
    named_at(name, SocketAddr::from(([127, 0, 0, 1], 0)))
}

/// Who answers on a listener.
fn who(sluice: &Running, listener: &str) -> String {
    origin::get(sluice.addr(listener), "a", "/").text()
}

/// Who answers a request with these header lines: the status and the name.
fn who_for(sluice: &Running, headers: &str) -> (u16, String) {
    let request = format!("GET / HTTP/1.1\r\nhost: a\r\n{headers}\r\n");
    let response = Client::connect(sluice.addr("web")).ask(&request);
    (response.status(), response.text())
}

/// One datagram as a new flow: who answers.
fn who_by_datagram(sluice: &Running, listener: &str) -> String {
    let client = udp_client();
    client.send_to(b"who", sluice.addr(listener)).unwrap();
    let mut answer = [0; 16];
    let length = client.recv(&mut answer).unwrap();
    String::from_utf8(answer[..length].to_vec()).unwrap()
}

/// Everyone who answers to several questions.
fn all(ask: impl Fn() -> String) -> BTreeSet<String> {
    (0..12).map(|_| ask()).collect()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn requests_and_connections_go_to_their_subset() {
    let [one, two, three] = ["one", "two", "three"].map(named);
    let [first, second] =
        ["first", "second"].map(|name| UdpServer::start(move |_| vec![name.into()]));
    let sluice = Sluice::new().workers(1).start(&format!(
        "listeners:\n\
         \x20 - {{ name: web, address: 127.0.0.1:0, http: main }}\n\
         \x20 - {{ name: v2, address: 127.0.0.1:0, relay: {{ cluster: up, endpoint_metadata: {{ version: v2 }} }} }}\n\
         \x20 - {{ name: any, address: 127.0.0.1:0, relay: up }}\n\
         \x20 - name: udp\n    address: \"udp://127.0.0.1:0\"\n    relay: {{ cluster: flows, endpoint_metadata: {{ role: second }}, responses: 1 }}\n\
         routes:\n  main:\n    - hosts: \"*\"\n      rules:\n\
         \x20       - {{ match: {{ headers: {{ x-canary: yes }} }}, cluster: up, endpoint_metadata: {{ version: v2 }} }}\n\
         \x20       - {{ match: {{ path: /tenant }}, cluster: up, endpoint_metadata: {{ version: v1, tenant: {{ header: x-tenant }} }} }}\n\
         \x20       - {{ cluster: up, endpoint_metadata: {{ version: v1 }} }}\n\
         clusters:\n  up:\n    subsets: {{ selectors: [version, [version, tenant]], fallback: any_endpoint }}\n    endpoints:\n\
         \x20     - {{ address: \"{}\", metadata: {{ version: v1, tenant: a }} }}\n\
         \x20     - {{ address: \"{}\", metadata: {{ version: v1, tenant: [b, c] }} }}\n\
         \x20     - {{ address: \"{}\", metadata: {{ version: v2 }} }}\n\
         \x20 flows:\n    subsets: role\n    endpoints:\n\
         \x20     - {{ address: \"{}\", metadata: {{ role: first }} }}\n\
         \x20     - {{ address: \"{}\", metadata: {{ role: second }} }}\n",
        one.addr(),
        two.addr(),
        three.addr(),
        first.addr(),
        second.addr()
    ));
    assert_eq!(all(|| who(&sluice, "web")), names(&["one", "two"]));
    assert_eq!(all(|| who_for(&sluice, "x-canary: yes\r\n").1), names(&["three"]));
    let of_tenant = |tenant: &str| {
        let request = format!("GET /tenant HTTP/1.1\r\nhost: a\r\n{tenant}\r\n");
        all(|| Client::connect(sluice.addr("web")).ask(&request).text())
    };
    assert_eq!(of_tenant("x-tenant: a\r\n"), names(&["one"]));
    assert_eq!(of_tenant("x-tenant: c\r\n"), names(&["two"]));
    // Without the header the version counts alone; a subset without endpoints is replaced.
    assert_eq!(of_tenant(""), names(&["one", "two"]));
    assert_eq!(of_tenant("x-tenant: d\r\n"), names(&["one", "two", "three"]));
    assert_eq!(all(|| who(&sluice, "v2")), names(&["three"]));
    assert_eq!(all(|| who(&sluice, "any")), names(&["one", "two", "three"]));
    assert_eq!(all(|| who_by_datagram(&sluice, "udp")), names(&["second"]));

    let clusters = sluice.items("/clusters");
    let up = clusters.iter().find(|cluster| cluster["name"] == "up").unwrap();
    assert_eq!(up["endpoints"][1]["metadata"], json!({ "version": "v1", "tenant": ["b", "c"] }));
    let subsets = up["subsets"].as_array().unwrap();
    let of = |metadata: serde_json::Value| {
        let found = subsets.iter().find(|subset| subset["metadata"] == metadata).unwrap();
        (found["endpoints"].as_u64().unwrap(), found["priorities"][0]["healthy"].as_u64().unwrap())
    };
    assert_eq!(subsets.len(), 5);
    assert_eq!(of(json!({ "version": "v1" })), (2, 100));
    assert_eq!(of(json!({ "version": "v1", "tenant": "c" })), (1, 100));
    assert_eq!(up["subsets_left_out"], 0);
    assert_eq!(sluice.metric("sluice_cluster_subsets", "made"), 5 + 2);
    assert!(sluice.metric("sluice_cluster_subset_picks_total", "selected") > 40);
    assert_eq!(sluice.metric("sluice_cluster_subset_picks_total", "fallback"), 24);
    let rules = sluice.items("/routes")[0]["virtual_hosts"][0]["rules"].clone();
    assert_eq!(
        rules[1]["endpoint_metadata"],
        json!({ "version": "v1", "tenant": { "header": "x-tenant" } })
    );
}

#[test]
fn shares_of_a_split_have_metadata_of_their_own() {
    let [one, two, three] = ["one", "two", "three"].map(named);
    let split = "split: { up: { weight: 1, endpoint_metadata: { version: v2 } }, other: 0 }";
    let sluice = Sluice::new().workers(1).start(&format!(
        "listeners:\n\
         \x20 - {{ name: web, address: 127.0.0.1:0, http: main }}\n\
         \x20 - {{ name: tcp, address: 127.0.0.1:0, relay: {{ {split}, endpoint_metadata: {{ stage: prod, version: v1 }} }} }}\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ {split}, endpoint_metadata: {{ stage: prod, version: v1 }} }}] }}] }}\n\
         clusters:\n  up:\n    subsets: [[stage, version]]\n    endpoints:\n\
         \x20     - {{ address: \"{}\", metadata: {{ stage: prod, version: v1 }} }}\n\
         \x20     - {{ address: \"{}\", metadata: {{ stage: prod, version: v2 }} }}\n\
         \x20     - {{ address: \"{}\", metadata: {{ stage: test, version: v2 }} }}\n\
         \x20 other:\n    subsets: [[stage, version]]\n    endpoints: [{{ address: \"{}\", metadata: {{ stage: prod, version: v1 }} }}]\n",
        one.addr(),
        two.addr(),
        three.addr(),
        one.addr()
    ));
    assert_eq!(all(|| who(&sluice, "web")), names(&["two"]));
    assert_eq!(all(|| who(&sluice, "tcp")), names(&["two"]));
}

#[test]
fn subsets_follow_endpoints_and_their_health() {
    let address = SocketAddr::from(([127, 0, 0, 1], tools::free_port()));
    let first = named_at("first", address);
    let [standby, other] = ["standby", "other"].map(named);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("up.json");
    let entry = |address: SocketAddr, version: &str, priority: u32| json!({ "address": address.to_string(), "priority": priority, "metadata": { "version": version } });
    let write = |entries: &[serde_json::Value]| {
        let new = folder.path().join("new");
        std::fs::write(&new, serde_json::to_string(entries).unwrap()).unwrap();
        std::fs::rename(&new, &file).unwrap();
    };
    write(&[entry(address, "v1", 0), entry(standby.addr(), "v1", 1), entry(other.addr(), "v2", 0)]);
    let sluice = Sluice::new().workers(1).watching().expect_warning("endpoint is unhealthy").start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up, endpoint_metadata: {{ version: {{ header: x-version }} }} }}] }}] }}\n\
         clusters:\n  up:\n    endpoints_file: {}\n    subsets: version\n    outlier: none\n\
         \x20   health: {{ tcp: true, interval: 50ms, unhealthy_after: 1, healthy_after: 1 }}\n",
        file.display()
    ));
    let version = |version: &str| who_for(&sluice, &format!("x-version: {version}\r\n"));
    let is = |name: &str| (200, name.to_owned());
    assert_eq!((version("v1"), version("v2")), (is("first"), is("other")));
    assert_eq!(version("v3").0, 503);
    assert_eq!(sluice.record_of("upstream.no_subset")["upstream_cluster"], "up");

    // Its own standby serves, not the endpoint of the other version that has the higher priority.
    drop(first);
    wait::until("the standby to serve", || (version("v1") == is("standby")).then_some(()));
    assert_eq!(version("v2"), is("other"));
    let _again = named_at("first", address);
    wait::until("traffic to return", || (version("v1") == is("first")).then_some(()));

    // An endpoint changes its metadata and moves; another leaves, and its subset with it.
    write(&[entry(address, "v3", 0), entry(standby.addr(), "v1", 1)]);
    wait::until("the new version", || (version("v3") == is("first")).then_some(()));
    assert_eq!(version("v1"), is("standby"));
    assert_eq!(version("v2").0, 503);
}

#[test]
fn there_are_as_many_subsets_as_the_limit_allows() {
    let [one, two] = ["one", "two"].map(named);
    let sluice = Sluice::new().workers(1).expect_warning("too many subsets").start(&format!(
        "limits: {{ subsets: 1 }}\n\
         listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up, endpoint_metadata: {{ version: {{ header: x-version }} }} }}] }}] }}\n\
         clusters:\n  up:\n    subsets: version\n    endpoints: [{{ address: \"{}\", metadata: {{ version: v1 }} }}, {{ address: \"{}\", metadata: {{ version: v2 }} }}]\n",
        one.addr(),
        two.addr()
    ));
    assert_eq!(who_for(&sluice, "x-version: v1\r\n"), (200, "one".into()));
    assert_eq!(who_for(&sluice, "x-version: v2\r\n").0, 503);
    assert_eq!(sluice.items("/clusters")[0]["subsets_left_out"], 1);
    wait::until("the gauge", || {
        (sluice.metric("sluice_cluster_subsets", "left_out") == 1).then_some(())
    });
    // A cluster that is no longer divided has none.
    sluice.reload(&format!(
        "limits: {{ subsets: 1 }}\n\
         listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\", \"{}\"] }} }}\n",
        one.addr(),
        two.addr()
    ));
    assert_eq!(all(|| who(&sluice, "web")), names(&["one", "two"]));
    wait::until("the gauges", || {
        let count = |state: &str| sluice.metric("sluice_cluster_subsets", state);
        (count("made") == 0 && count("left_out") == 0).then_some(())
    });
}

#[test]
fn what_exceeds_a_limit_waits_for_its_own_subset() {
    let [one, two] = [Server::greeter("one"), Server::greeter("two")];
    let sluice = Sluice::new().workers(2).start(&format!(
        "listeners:\n\
         \x20 - {{ name: v1, address: 127.0.0.1:0, relay: {{ cluster: up, endpoint_metadata: {{ version: v1 }} }} }}\n\
         \x20 - {{ name: v2, address: 127.0.0.1:0, relay: {{ cluster: up, endpoint_metadata: {{ version: v2 }} }} }}\n\
         clusters:\n  up:\n    subsets: version\n\
         \x20   limits: {{ connections_per_endpoint: 1, queue: {{ size: 1, timeout: 60s }} }}\n    endpoints:\n\
         \x20     - {{ address: \"{}\", metadata: {{ version: v1 }} }}\n\
         \x20     - {{ address: \"{}\", metadata: {{ version: v2 }} }}\n",
        one.addr(),
        two.addr()
    ));
    let dial = |listener: &str| peers::connect(sluice.addr(listener));
    let mut held = dial("v1");
    assert_eq!(peers::read(&mut held, 3), b"one");
    let mut waiting = dial("v1");
    wait::until("one to wait", || {
        (sluice.metric("sluice_cluster_queue_waiting", "\"up\"") == 1).then_some(())
    });
    // The queue is full, of those that have no use for the other endpoint.
    let mut other = dial("v2");
    assert_eq!(peers::read(&mut other, 3), b"two");
    assert!(peers::read_to_end(&mut dial("v2")).1.is_empty());
    sluice.record_of("upstream.queue_full");
    drop(held);
    assert_eq!(peers::read(&mut waiting, 3), b"one");
    assert_eq!(sluice.metric("sluice_cluster_queued_total", "result=\"served\""), 1);
}
