//! Sovereign, a control plane that renders templates and is asked over HTTP.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::{Value, json};
use sluice_testkit::{Origin, tools, wait};
use sluice_tests::planes::{Envoy, bootstrap, listener_with};
use tempfile::TempDir;

/// Everything comes from the same instances; a listener is the same for all.
const CLUSTERS: &str = "
resources:
{% for instance in instances %}
- name: {{ instance.name }}
  type: STATIC
  connect_timeout: 5s
  load_assignment:
    cluster_name: {{ instance.name }}
    endpoints:
    - lb_endpoints:
      - endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: {{ instance.port }} } } }
{% endfor %}
";

const ROUTES: &str = "
resources:
- name: main
  virtual_hosts:
  - name: all
    domains: ['*']
    routes:
{% for instance in instances %}
    - { match: { prefix: /{{ instance.name }} }, route: { cluster: {{ instance.name }}, timeout: 60s {{ instance.more }} } }
{% endfor %}
";

/// Sovereign, and the files that it serves.
struct Sovereign {
    child: Child,
    folder: TempDir,
    addr: SocketAddr,
}

impl Sovereign {
    /// `None` if Python does not have it.
    fn start(instances: &Value, listeners: &Value) -> Option<Self> {
        // They come with it; its own module cannot be imported without a configuration.
        if !tools::have_modules(&["uvicorn", "starlette_context"]) {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("clusters"), CLUSTERS).unwrap();
        std::fs::write(at("routes"), ROUTES).unwrap();
        std::fs::write(at("listeners"), json!({ "resources": listeners }).to_string()).unwrap();
        replace(&at("instances"), instances);
        let template = |kind: &str| json!({ "type": kind, "spec": { "protocol": "file", "serialization": "jinja2", "path": at(kind) } });
        let source =
            json!({ "protocol": "file", "serialization": "json", "path": at("instances") });
        let config = json!({
            "sources": [{ "type": "file", "config": { "spec": source } }],
            "matching": { "enabled": false },
            "templates": { "default": [template("clusters"), template("routes"), template("listeners")] },
            "logging": { "access_logs": { "enabled": false } },
        });
        std::fs::write(at("sovereign.yaml"), config.to_string()).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/sovereign_server.py");
        let log = std::fs::File::create(at("log")).unwrap();
        let mut child = tools::python(&script)
            .current_dir(folder.path())
            .env("SOVEREIGN_CONFIG", format!("file://{}", at("sovereign.yaml").display()))
            .env("SOVEREIGN_SOURCES_REFRESH_RATE", "1")
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = lines.next().and_then(Result::ok).and_then(|line| line.parse().ok());
        let log = || std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        let port: u16 = port.unwrap_or_else(|| panic!("{}", log()));
        // Who reads no further must not stop it from writing.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Some(Self { child, folder, addr: ([127, 0, 0, 1], port).into() })
    }

    fn set(&self, instances: &Value) {
        replace(&self.folder.path().join("instances"), instances);
    }
}

impl Drop for Sovereign {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A reader sees the old content or the new one.
fn replace(path: &Path, content: &Value) {
    let new = path.with_extension("new");
    std::fs::write(&new, content.to_string()).unwrap();
    std::fs::rename(new, path).unwrap();
}

#[test]
fn templates_are_rendered_and_followed() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let instance = |name: &str, at: SocketAddr, more: &str| json!({ "name": name, "port": at.port(), "more": more });
    let source = json!({
        "api_config_source": {
            "api_type": "REST",
            "transport_api_version": "V3",
            "cluster_names": ["plane"],
            "refresh_delay": "0.2s",
            "request_timeout": "30s",
        },
        "resource_api_version": "V3",
    });
    let rds = json!({ "route_config_name": "main", "config_source": source });
    let first = json!([instance("one", a.addr(), "")]);
    let Some(plane) = Sovereign::start(&first, &json!([listener_with("web", rds)])) else { return };
    let file = bootstrap(plane.addr, &format!("  cds_config: {source}\n  lds_config: {source}\n"))
        .replace("http2_protocol_options", "http_protocol_options");
    let mut envoy = Envoy::start(&file);
    envoy.until_ready();
    envoy.until_served("/one", "200 a");
    envoy.until_served("/two", "404 ");
    // An instance comes, and another one moves.
    plane.set(&json!([instance("one", b.addr(), ""), instance("two", a.addr(), "")]));
    envoy.until_served("/two", "200 a");
    envoy.until_served("/one", "200 b");
    // Routes that are wrong are refused, and those in use stay; the clusters of the same instances follow.
    let wrong = ", cluster_not_found_response_code: 7";
    plane.set(&json!([instance("one", a.addr(), ""), instance("two", a.addr(), wrong)]));
    envoy.until("routes", "main", "rejected");
    envoy.until_served("/one", "200 a");
    envoy.until_served("/two", "200 a");
    // Once they are right, they are taken: a plane that cannot read the reason is asked without it.
    plane.set(&json!([instance("one", b.addr(), ""), instance("three", a.addr(), "")]));
    envoy.until_served("/three", "200 a");
    envoy.until_served("/two", "404 ");
    envoy.until("routes", "main", "active");
    // A cluster that is gone leaves.
    wait::until("it to leave", || {
        let is_two = |of: &Value| of["kind"] == "cluster" && of["name"] == "two";
        (!envoy.xds().iter().any(is_two)).then_some(())
    });
}
