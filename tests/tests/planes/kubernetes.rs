//! Called by the name `envoy`, as control planes in Kubernetes call it: the flags, the shape of the bootstrap and the kind of
//! stream of each (`docs/kubernetes.md`).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};
use sluice_testkit::{Origin, http, origin, tools, wait};
use sluice_tests::planes::{Envoy, Plane, assignment, bootstrap, over_ads, table, to};

/// Waits until the listener that the plane sent serves from the origin.
#[track_caller]
fn until_served(envoy: &mut Envoy, at: SocketAddr) {
    let served = wait::within(wait::PATIENCE, || {
        let ended = envoy.child.try_wait().unwrap();
        assert!(ended.is_none(), "it ended:\n{}", envoy.log());
        std::net::TcpStream::connect(at).ok()?;
        (origin::get(at, "h", "/").status() == 200).then_some(())
    });
    assert!(served.is_some(), "nothing is served:\n{}", envoy.log());
}

fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// Serves a listener at that port, with routes and endpoints from the same source as itself.
fn serve(plane: &mut Plane, port: u16, endpoint: SocketAddr, source: &Value) {
    let mut listener = sluice_tests::planes::listener_with(
        "web",
        json!({ "route_config_name": "main", "config_source": source }),
    );
    listener["address"]["socket_address"]["port_value"] = port.into();
    let cluster = json!({ "name": "app", "type": "EDS", "connect_timeout": "5s", "eds_cluster_config": { "eds_config": source } });
    plane.set("cds", "1", json!({ "app": cluster }));
    plane.set("eds", "1", json!({ "app": assignment("app", &[endpoint]) }));
    plane.set("lds", "1", json!({ "web": listener }));
    plane.set("rds", "1", json!({ "main": table("main", to("app")) }));
}

/// The bootstrap with its admin interface at another address.
fn with_admin(bootstrap: &str, address: &str) -> String {
    let at = "{ socket_address: { address: 127.0.0.1, port_value: 0 } }";
    assert!(bootstrap.contains(at));
    bootstrap.replacen(at, address, 1)
}

fn admin_at(port: u16) -> String {
    format!("{{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}")
}

#[test]
fn envoy_gateway_passes_its_bootstrap_as_text() {
    let Some(mut plane) = Plane::start() else { return };
    let app = Origin::start("app");
    let (admin, port) = (tools::free_port(), tools::free_port());
    serve(&mut plane, port, app.addr(), &sluice_tests::planes::ads());
    let text = with_admin(&over_ads(plane.addr, "DELTA_GRPC"), &admin_at(admin));
    let mut envoy = Envoy::called(
        tempfile::tempdir().unwrap(),
        &[
            "--service-cluster",
            "default/eg",
            "--service-node",
            "envoy-default-eg-e41e7b31",
            "--config-yaml",
            &text,
            "--log-level",
            "warn",
            "--cpuset-threads",
            "--drain-strategy",
            "immediate",
            "--drain-time-s",
            "60",
        ],
    );
    until_served(&mut envoy, loopback(port));
    assert_eq!(http::get(loopback(admin), "/ready").unwrap().0, 200);
    envoy.stop();
}

#[test]
fn contour_passes_a_flag_and_its_value_as_one_and_has_a_socket_for_the_admin() {
    let Some(mut plane) = Plane::start() else { return };
    let app = Origin::start("app");
    let port = tools::free_port();
    let source = json!({
        "resource_api_version": "V3",
        "api_config_source": { "api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [{ "envoy_grpc": { "cluster_name": "plane", "authority": "plane" } }] },
    });
    serve(&mut plane, port, app.addr(), &source);
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let pipe = json!({ "pipe": { "path": socket, "mode": 0o644 } }).to_string();
    let dynamic = format!("  cds_config: {source}\n  lds_config: {source}");
    let text = with_admin(&bootstrap(plane.addr, &dynamic), &pipe);
    std::fs::write(folder.path().join("envoy.json"), text).unwrap();
    let flags = [
        "-c",
        "envoy.json",
        "--service-cluster projectcontour",
        "--service-node envoy-x7k2p",
        "--log-level info",
    ];
    let mut envoy = Envoy::called(folder, &flags);
    until_served(&mut envoy, loopback(port));
    assert!(plane.opened() >= 4, "a stream for each subscription");
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
    assert!(over_socket(&socket, "GET /ready HTTP/1.1").starts_with("HTTP/1.1 200"));
    // What its shutdown manager asks.
    let failing = over_socket(&socket, "POST /healthcheck/fail HTTP/1.1\r\nContent-Length: 0");
    assert!(failing.starts_with("HTTP/1.1 200"), "{failing}");
    let open = "GET /stats/prometheus?filter=^http\\..*\\.downstream_cx_active$ HTTP/1.1";
    let open = over_socket(&socket, open);
    assert!(open.contains("envoy_http_downstream_cx_active{"), "{open}");
    envoy.stop();
}

#[test]
fn kuma_asks_for_the_version_first() {
    let Some(mut plane) = Plane::start() else { return };
    let app = Origin::start("app");
    let (admin, port) = (tools::free_port(), tools::free_port());
    serve(&mut plane, port, app.addr(), &sluice_tests::planes::ads());
    let folder = tempfile::tempdir().unwrap();
    let text = with_admin(&over_ads(plane.addr, "DELTA_GRPC"), &admin_at(admin));
    std::fs::write(folder.path().join("bootstrap.yaml"), text).unwrap();
    let mut asked = Envoy::called(tempfile::tempdir().unwrap(), &["--version"]);
    assert!(wait::until("the version", || asked.child.try_wait().unwrap()).success());
    let flags = [
        "--config-path",
        "bootstrap.yaml",
        "--drain-time-s",
        "30",
        "--drain-strategy",
        "immediate",
        "--disable-hot-restart",
        "--log-level",
        "info",
        "--concurrency",
        "2",
        "--service-cluster",
        "default",
        "--service-node",
        "default.app-1",
    ];
    let mut envoy = Envoy::called(folder, &flags);
    until_served(&mut envoy, loopback(port));
    envoy.stop();
}

/// The response to a request through a unix socket.
fn over_socket(socket: &Path, line: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    write!(stream, "{line}\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn samples_are_well_formed_and_name_one_image() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/kubernetes");
    for (file, kinds) in [
        ("envoy-gateway.yaml", &["EnvoyProxy", "GatewayClass"][..]),
        ("contour.yaml", &["Kustomization"]),
        ("kuma.yaml", &[]),
    ] {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        let documents: Vec<Value> = serde_yaml::from_multiple(&text).unwrap();
        let found: Vec<&str> = documents.iter().filter_map(|of| of["kind"].as_str()).collect();
        assert_eq!(found, kinds, "{file}");
        assert!(text.contains("registry.example.com"), "{file}");
    }
}
