//! Connections that a firewall of the host redirects to Sluice, each test in a network namespace of its own.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::env;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use sluice_testkit::origin::{self, Client};
use sluice_testkit::peers::{Server, connect, read_to_end};
use sluice_testkit::{Origin, Running, Sluice, tools};

/// Tells the test that it runs inside.
const INSIDE: &str = "SLUICE_TEST_NETWORK";

/// Where Sluice connects from, so that its own connections are not redirected.
const OWN: &str = "127.0.0.9";

/// Runs `body` in a network namespace of its own: this test, started again there.
fn in_own_network(test: &str, body: impl FnOnce()) {
    if env::var_os(INSIDE).is_some() {
        tools::must(tools::command("ip").args(["link", "set", "lo", "up"]));
        return body();
    }
    if !tools::have(&["nft", "ip", "unshare"]) {
        return;
    }
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net", "--"]).arg(env::current_exe().unwrap());
    command.args(["--exact", &format!("redirects::{test}"), "--nocapture"]).env(INSIDE, "1");
    let output = tools::run(&mut command);
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}\n{complained}");
}

/// The rules of the firewall. They end with it, before the servers do: a server that stops connects to itself.
#[derive(Debug)]
struct Redirects;

impl Drop for Redirects {
    fn drop(&mut self) {
        let _ = tools::run(tools::command("nft").args(["flush", "ruleset"]));
    }
}

/// Redirects connections to these ports, as long as the result lives.
#[must_use]
fn redirect(ports: &[SocketAddr], to: SocketAddr) -> Redirects {
    let ports: Vec<String> = ports.iter().map(|address| address.port().to_string()).collect();
    let rules = format!(
        "table ip nat {{ chain output {{ type nat hook output priority -100; ip saddr != {OWN} tcp dport {{ {} }} redirect to :{}; }}; }}",
        ports.join(", "),
        to.port()
    );
    tools::must(tools::command("nft").arg(rules));
    Redirects
}

fn start(yaml: &str, clusters: &str) -> Running {
    Sluice::new().start(&format!(
        "{yaml}\nclusters:\n  wanted: {{ forward: {{ by: destination }}, socket: {{ source: {OWN} }} }}\n{clusters}"
    ))
}

fn told(to: SocketAddr) -> Vec<u8> {
    let mut stream: TcpStream = connect(to);
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    read_to_end(&mut stream).1
}

#[test]
fn a_redirected_connection_goes_where_it_was_to_go() {
    in_own_network("a_redirected_connection_goes_where_it_was_to_go", || {
        let (a, b, c) = (Server::greeter("a"), Server::greeter("b"), Server::greeter("c"));
        let sluice = start(
            &format!(
                "listeners: [{{ name: all, address: 0.0.0.0:0, original_destination: true, chains: [{{ relay: wanted }}, {{ name: other, match: {{ destination: 127.0.0.1, port: {} }}, relay: fixed }}] }}]",
                c.addr().port()
            ),
            &format!("  fixed: {{ endpoints: [{}], socket: {{ source: {OWN} }} }}\n", b.addr()),
        );
        let _redirects = redirect(&[a.addr(), b.addr(), c.addr()], sluice.addr("all"));
        assert_eq!(told(a.addr()), b"a");
        assert_eq!(told(b.addr()), b"b");
        // Of the chain that is for this destination.
        assert_eq!(told(c.addr()), b"b");
        assert_eq!(c.accepted(), 0);
        let wanted = a.addr().to_string();
        sluice.record("the connection to `a`", |record| {
            record["upstream_host"] == *wanted && record["downstream_local_address"] == *wanted
        });
        // Nobody redirected this one.
        assert_eq!(told(SocketAddr::new([127, 0, 0, 1].into(), sluice.addr("all").port())), b"");
        let refused = sluice.record_of("upstream.no_endpoint");
        assert!(refused["detail"].as_str().unwrap().contains("was not redirected"), "{refused}");
    });
}

#[test]
fn a_request_goes_where_its_connection_was_to_go() {
    in_own_network("a_request_goes_where_its_connection_was_to_go", || {
        let (a, b) = (Origin::start("a"), Origin::start("b"));
        let sluice = start(
            "listeners: [{ name: web, address: 127.0.0.1:0, original_destination: true, http: main }]\n\
             routes: { main: [{ rules: [{ match: { path: /fixed }, cluster: by_header }, { cluster: wanted }] }] }",
            &format!(
                "  by_header: {{ forward: {{ by: destination, header: x-to, to_port: {} }}, egress: {{ any: true }}, socket: {{ source: {OWN} }} }}\n",
                b.addr().port()
            ),
        );
        let _redirects = redirect(&[a.addr(), b.addr()], sluice.addr("web"));
        assert_eq!(origin::get(a.addr(), "h", "/").value("x-origin"), "a");
        assert_eq!(origin::get(b.addr(), "h", "/").value("x-origin"), "b");
        // The port is another one; a header that is no address counts for nothing.
        assert_eq!(origin::get(a.addr(), "h", "/fixed").value("x-origin"), "b");
        let mut client = Client::connect(sluice.addr("web"));
        let ask = |client: &mut Client, to: &str| {
            client.ask(&format!("GET /fixed HTTP/1.1\r\nhost: h\r\nx-to: {to}\r\n\r\n"))
        };
        assert_eq!(ask(&mut client, "127.0.0.1:1").value("x-origin"), "b");
        assert_eq!(ask(&mut client, "nowhere").status(), 503);
        assert_eq!(client.get("h", "/").status(), 503);
        sluice.record_of("upstream.no_endpoint");
    });
}

#[test]
fn listeners_of_envoy_without_a_socket_are_handed_connections() {
    in_own_network("listeners_of_envoy_without_a_socket_are_handed_connections", || {
        let (a, b) = (Server::greeter("a"), Server::greeter("b"));
        let folder = tempfile::tempdir().unwrap();
        let (file, report) = (folder.path().join("envoy.yaml"), folder.path().join("report"));
        let tcp =
            "'@type': t/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: s";
        let address = |at: SocketAddr| {
            format!("{{ socket_address: {{ address: {}, port_value: {} }} }}", at.ip(), at.port())
        };
        let source =
            "upstream_bind_config: { source_address: { address: 127.0.0.9, port_value: 0 } }";
        let text = format!(
            "static_resources:\n  listeners:\n  - {{ name: out, use_original_dst: true, address: {any}, filter_chains: [{{ filters: [{{ name: t, typed_config: {{ {tcp}, cluster: wanted }} }}] }}] }}\n  - {{ name: inner, bind_to_port: false, address: {of_b}, filter_chains: [{{ filters: [{{ name: t, typed_config: {{ {tcp}, cluster: fixed }} }}] }}] }}\n  clusters:\n  - {{ name: wanted, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, {source} }}\n  - {{ name: fixed, {source}, load_assignment: {{ cluster_name: fixed, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {of_a} }} }}] }}] }} }}\n",
            any = address(SocketAddr::new([127, 0, 0, 1].into(), 0)),
            of_a = address(a.addr()),
            of_b = address(b.addr()),
        );
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(Sluice::binary());
        command.args(["envoy", "--report"]).arg(&report);
        command.args(["--", "--concurrency", "1", "-c"]).arg(&file);
        let _child = tools::Process(command.spawn().unwrap());
        let listener = sluice_testkit::wait::until("the listener", || {
            let text = std::fs::read_to_string(&report).ok()?;
            let lines = || {
                text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            };
            lines().any(|line| line["ready"] == true).then_some(())?;
            let found = lines().find(|line| line["listener"] == "out")?;
            found["address"].as_str()?.parse::<SocketAddr>().ok()
        });
        let _redirects = redirect(&[a.addr(), b.addr()], listener);
        assert_eq!(told(a.addr()), b"a");
        // The listener for this address leads elsewhere.
        assert_eq!(told(b.addr()), b"a");
        assert_eq!(b.accepted(), 0);
    });
}
