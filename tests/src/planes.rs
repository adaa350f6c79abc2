//! A control plane for tests, the process that it drives, and resources in Envoy's JSON.
//!
//! Owns: what several tests of control planes share. Refuses to know: what a test is about.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(missing_docs, clippy::missing_panics_doc, reason = "for tests only")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use sluice_testkit::{Sluice, http, origin, tools, wait};
use tempfile::TempDir;

/// A control plane, `xds_server.py`.
pub struct Plane {
    pub child: Child,
    stdin: ChildStdin,
    echoes: u64,
    pub told: Arc<Mutex<Vec<Value>>>,
    pub addr: SocketAddr,
}

impl Plane {
    /// `None` if Python lacks Envoy's messages.
    pub fn start() -> Option<Self> {
        tools::have_modules(&["grpc", "envoy.service.discovery.v3.ads_pb2_grpc"])
            .then(|| Self::at(tools::free_port()))
    }

    /// At a port, which stays free for another one while there is none.
    pub fn at(port: u16) -> Self {
        Self::with(&[&port.to_string()])
    }

    /// At a unix socket, too.
    pub fn with_socket(path: &Path) -> Option<Self> {
        tools::have_modules(&["grpc", "envoy.service.discovery.v3.ads_pb2_grpc"])
            .then(|| Self::with(&["0", path.to_str().unwrap()]))
    }

    fn with(args: &[&str]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/xds_server.py");
        let mut child = tools::python(&script)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port: u16 = lines.next().unwrap().unwrap().parse().unwrap();
        let told: Arc<Mutex<Vec<Value>>> = Arc::default();
        let heard = Arc::clone(&told);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                heard.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        let stdin = child.stdin.take().unwrap();
        Self { child, stdin, echoes: 0, told, addr: ([127, 0, 0, 1], port).into() }
    }

    pub fn say(&mut self, command: &Value) {
        writeln!(self.stdin, "{command}").unwrap();
    }

    pub fn set(&mut self, kind: &str, version: &str, resources: Value) {
        self.say(&json!({ "set": kind, "version": version, "resources": resources }));
    }

    /// Waits until the plane has done all that it was told.
    pub fn settle(&mut self) {
        self.echoes += 1;
        let number = self.echoes;
        self.say(&json!({ "echo": number }));
        wait::until("the plane to have done it", || {
            self.told.lock().unwrap().iter().any(|line| line["echo"] == number).then_some(())
        });
    }

    /// Everything that this plane serves: a listener with these routes, its clusters and their endpoints.
    pub fn set_all(&mut self, version: &str, routes: Value, clusters: &[(&str, SocketAddr)]) {
        let all = clusters.iter().map(|(name, _)| ((*name).to_owned(), cluster(name)));
        self.set("cds", version, all.collect());
        let all = clusters.iter().map(|(name, to)| ((*name).to_owned(), assignment(name, &[*to])));
        self.set("eds", version, all.collect());
        self.set("lds", version, json!({ "web": listener("web", "main") }));
        self.set("rds", version, json!({ "main": table("main", routes) }));
    }

    /// Waits until the plane was told of a request that fits.
    pub fn request(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        wait::until(what, || {
            let told = self.told.lock().unwrap();
            told.iter()
                .rev()
                .map(|line| &line["request"])
                .find(|of| of.is_object() && fits(of))
                .cloned()
        })
    }

    /// What a service besides discovery was told, `lrs` or `hds`.
    pub fn messages(&self, service: &str) -> Vec<Value> {
        let told = self.told.lock().unwrap();
        told.iter().map(|line| &line[service]).filter(|of| of.is_object()).cloned().collect()
    }

    pub fn error(&self, kind: &str) -> String {
        let of_kind = |of: &Value| of["type"] == kind && of["error"].is_string();
        self.request("a rejection", of_kind)["error"].as_str().unwrap().to_owned()
    }

    pub fn opened(&self) -> usize {
        self.told.lock().unwrap().iter().filter(|line| line["opened"].is_string()).count()
    }

    /// How many requests had the node of this process.
    pub fn nodes(&self) -> usize {
        let told = self.told.lock().unwrap();
        told.iter().filter(|line| line["request"]["node"] == "here").count()
    }

    pub fn kill(mut self) -> u16 {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.addr.port()
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `sluice envoy -- -c FILE`, or the binary by the name `envoy`, as long as it lives.
pub struct Envoy {
    pub child: Child,
    pub folder: TempDir,
}

impl Envoy {
    pub fn start(bootstrap: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::in_folder(folder, bootstrap)
    }

    pub fn in_folder(folder: TempDir, bootstrap: &str) -> Self {
        Self::with_flags(folder, bootstrap, &[])
    }

    /// With flags of our own before those of Envoy.
    pub fn with_flags(folder: TempDir, bootstrap: &str, flags: &[&str]) -> Self {
        let file = folder.path().join("envoy.yaml");
        std::fs::write(&file, bootstrap).unwrap();
        let mut command = Command::new(Sluice::binary());
        command
            .args(["envoy", "--report"])
            .arg(folder.path().join("report"))
            .args(flags)
            .args([
                "--",
                "--concurrency",
                "2",
                "--service-node",
                "here",
                "--service-cluster",
                "tests",
                "-c",
            ])
            .arg(&file);
        Self::run(folder, command)
    }

    /// Called by the name `envoy` with exactly these arguments, in this folder.
    pub fn called(folder: TempDir, args: &[&str]) -> Self {
        let program = folder.path().join("envoy");
        std::os::unix::fs::symlink(Sluice::binary(), &program).unwrap();
        let mut command = Command::new(program);
        command.args(args).current_dir(folder.path());
        Self::run(folder, command)
    }

    fn run(folder: TempDir, mut command: Command) -> Self {
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Self { child, folder }
    }

    /// Stops it as a pod is stopped.
    pub fn stop(mut self) {
        let pid = self.child.id().to_string();
        tools::must(tools::command("kill").args(["-TERM", &pid]));
        let status = wait::until("its end", || self.child.try_wait().unwrap());
        assert!(status.success(), "{status}\n{}", self.log());
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub fn reported(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder.path().join("report")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    pub fn is_ready(&self) -> bool {
        self.reported().iter().any(|line| line["ready"] == true)
    }

    pub fn until_ready(&mut self) {
        let ready = wait::within(wait::PATIENCE, || {
            assert!(self.child.try_wait().unwrap().is_none(), "it ended:\n{}", self.log());
            self.is_ready().then_some(())
        });
        assert!(ready.is_some(), "not ready: {:#?}\n{}", self.xds(), self.log());
    }

    pub fn admin(&self) -> SocketAddr {
        wait::until("the admin address", || {
            self.reported().iter().find_map(|line| line["admin"].as_str()?.parse().ok())
        })
    }

    /// The newest address of a listener.
    pub fn addr(&self, listener: &str) -> SocketAddr {
        wait::until("the address of a listener", || {
            let lines = self.reported();
            let found = lines.iter().rev().find(|line| line["listener"] == listener)?;
            found["address"].as_str()?.parse().ok()
        })
    }

    pub fn xds(&self) -> Vec<Value> {
        let (_, page) = http::get(self.admin(), "/xds?format=json").unwrap();
        let page: Value = serde_json::from_str(&page).unwrap();
        page["items"].as_array().unwrap().clone()
    }

    /// Waits for a resource in a state.
    pub fn until(&self, kind: &str, name: &str, state: &str) -> Value {
        let found = wait::within(wait::PATIENCE, || {
            let items = self.xds();
            items
                .into_iter()
                .find(|of| of["kind"] == kind && of["name"] == name && of["state"] == state)
        });
        found.unwrap_or_else(|| {
            panic!("{kind} {name} is not {state}: {:#?}\n{}", self.xds(), self.log())
        })
    }

    pub fn metric(&self, name: &str, labels: &str) -> i64 {
        let (_, text) = http::get(self.admin(), "/metrics").unwrap();
        sluice_testkit::running::sum_metric(&text, name, labels)
    }

    /// Waits until requests are served so.
    pub fn until_served(&self, path: &str, body: &str) {
        let addr = self.addr("web");
        let seen = wait::within(wait::PATIENCE, || (origin_of(addr, path) == body).then_some(()));
        assert!(
            seen.is_some(),
            "{path}: {} is not {body}\n{:#?}\n{}",
            origin_of(addr, path),
            self.xds(),
            self.log()
        );
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The status of a response, and whose it is.
pub fn origin_of(addr: SocketAddr, path: &str) -> String {
    let answer = origin::get(addr, "h", path);
    format!("{} {}", answer.status(), answer.value("x-origin"))
}

pub const FORMS: [&str; 2] = ["GRPC", "DELTA_GRPC"];

/// The cluster of the plane, and what is asked of it.
pub fn bootstrap(plane: SocketAddr, dynamic: &str) -> String {
    format!(
        r#"
node: {{ id: file, cluster: file, metadata: {{ role: test }} }}
admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }} }}
dynamic_resources:
{dynamic}
static_resources:
  clusters:
  - name: plane
    type: STATIC
    connect_timeout: 5s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{ http2_protocol_options: {{}} }}
    load_assignment:
      cluster_name: plane
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }} }}
"#,
        plane.port()
    )
}

/// The service that a field of a bootstrap names, at the plane.
pub fn service_of_plane() -> &'static str {
    "{ api_type: GRPC, transport_api_version: V3, grpc_services: [{ envoy_grpc: { cluster_name: plane } }] }"
}

/// Everything over one stream.
pub fn over_ads(plane: SocketAddr, form: &str) -> String {
    let dynamic = format!(
        r"
  ads_config: {{ api_type: {form}, transport_api_version: V3, set_node_on_first_message_only: true, grpc_services: [{{ envoy_grpc: {{ cluster_name: plane }} }}] }}
  cds_config: {{ ads: {{}}, resource_api_version: V3, initial_fetch_timeout: 0s }}
  lds_config: {{ ads: {{}}, resource_api_version: V3, initial_fetch_timeout: 0s }}"
    );
    bootstrap(plane, &dynamic)
}

pub fn ads() -> Value {
    json!({ "ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s" })
}

/// A cluster that is refused: with a list of endpoints, a load balancer must be named.
pub fn wrong_cluster(name: &str) -> Value {
    json!({ "name": name, "type": "STATIC", "lb_policy": "CLUSTER_PROVIDED" })
}

pub fn cluster(name: &str) -> Value {
    json!({ "name": name, "type": "EDS", "connect_timeout": "5s", "eds_cluster_config": { "eds_config": ads() } })
}

pub fn assignment(name: &str, endpoints: &[SocketAddr]) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|to| {
            json!({ "endpoint": { "address": { "socket_address": { "address": to.ip(), "port_value": to.port() } } } })
        })
        .collect();
    json!({ "cluster_name": name, "endpoints": [{ "locality": { "region": "r" }, "lb_endpoints": endpoints }] })
}

pub fn listener_with(name: &str, rds: Value) -> Value {
    json!({
        "name": name,
        "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } },
        "filter_chains": [{ "filters": [{
            "name": "http",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "web",
                "rds": rds,
                "http_filters": [{
                    "name": "router",
                    "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
                }],
            },
        }] }],
    })
}

pub fn listener(name: &str, routes: &str) -> Value {
    listener_with(name, json!({ "route_config_name": routes, "config_source": ads() }))
}

pub fn table(name: &str, routes: Value) -> Value {
    json!({ "name": name, "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": routes }] })
}

/// Puts a filter for what comes on demand before the others of a listener.
pub fn with_on_demand(mut listener: Value, more: Value) -> Value {
    let filters = &mut listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"];
    let mut config = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.on_demand.v3.OnDemand",
    });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let filter = json!({ "name": "on_demand", "typed_config": config });
    filters.as_array_mut().unwrap().insert(0, filter);
    listener
}

/// A service of its own at the plane, with a stream of the incremental form.
pub fn own_stream() -> Value {
    json!({
        "api_config_source": {
            "api_type": "DELTA_GRPC",
            "transport_api_version": "V3",
            "grpc_services": [{ "envoy_grpc": { "cluster_name": "plane" } }],
        },
        "resource_api_version": "V3",
    })
}

/// A virtual host for these domains.
pub fn virtual_host(name: &str, domains: &[&str], routes: Value) -> Value {
    json!({ "name": name, "domains": domains, "routes": routes })
}

pub fn to(cluster: &str) -> Value {
    json!([{ "match": { "prefix": "/" }, "route": { "cluster": cluster, "timeout": "60s" } }])
}
