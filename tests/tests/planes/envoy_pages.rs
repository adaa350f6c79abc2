//! The admin pages of Envoy: forms, changes, access.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};
use sluice_testkit::origin::{self, Client};
use sluice_testkit::peers::Server;
use sluice_testkit::{Origin, http, wait};
use sluice_tests::planes::{Envoy, Plane, over_ads, to, wrong_cluster};

const MANAGER: &str =
    "t/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

const TCP_PROXY: &str = "t/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";

const ROUTER: &str = r#"http_filters: [{ name: health, typed_config: { "@type": t/envoy.extensions.filters.http.health_check.v3.HealthCheck, pass_through_mode: false, headers: [{ name: ":path", string_match: { exact: /healthz } }] } }, { name: router, typed_config: { "@type": t/envoy.extensions.filters.http.router.v3.Router } }]"#;

const PORT_0: &str = "address: { socket_address: { address: 127.0.0.1, port_value: 0 } }";

/// A bootstrap with two listeners, served by these endpoints.
fn text(admin: &str, up: SocketAddr, echo: SocketAddr, more: &str) -> String {
    let endpoint = |to: SocketAddr| {
        format!(
            "{{ cluster_name: c, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: {}, port_value: {} }} }} }} }}] }}] }}",
            to.ip(),
            to.port()
        )
    };
    format!(
        r#"
admin: {{ address: {{ {admin} }} }}
node: {{ id: n, cluster: c, metadata: {{ role: test }} }}
layered_runtime: {{ layers: [{{ name: base, static_layer: {{ web: {{ share: 5 }} }} }}, {{ name: operator, admin_layer: {{}} }}] }}
{more}
static_resources:
  secrets:
  - {{ name: hidden, generic_secret: {{ secret: {{ inline_string: opensesame }} }} }}
  listeners:
  - name: "web:a"
    {PORT_0}
    traffic_direction: INBOUND
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": {MANAGER}
          stat_prefix: ingress
          route_config: {{ name: table, virtual_hosts: [{{ name: all, domains: ["*"], routes: [{{ match: {{ path: /said }}, direct_response: {{ status: 418 }} }}, {{ match: {{ prefix: /up }}, route: {{ cluster: "up|a:b" }} }}, {{ match: {{ prefix: /gone }}, route: {{ cluster: gone }} }}] }}] }}
          {ROUTER}
  - name: tcp
    {PORT_0}
    filter_chains: [{{ filters: [{{ name: t, typed_config: {{ "@type": {TCP_PROXY}, stat_prefix: relay, cluster: echo }} }}] }}]
  clusters:
  - {{ name: "up|a:b", load_assignment: {} }}
  - {{ name: echo, alt_stat_name: other, load_assignment: {} }}
  - {{ name: gone, load_assignment: {} }}
"#,
        endpoint(up),
        endpoint(echo),
        endpoint(([127, 0, 0, 1], 1).into()),
    )
}

const ADMIN: &str = "socket_address: { address: 127.0.0.1, port_value: 0 }";

/// A proxy with two listeners and three clusters.
pub(crate) struct Bench {
    pub(crate) envoy: Envoy,
    _up: Origin,
    _echo: Server,
}

impl Bench {
    pub(crate) fn with(more: &str) -> Self {
        let (up, echo) = (Origin::start("up"), Server::echo());
        let mut envoy = Envoy::start(&text(ADMIN, up.addr(), echo.addr(), more));
        envoy.until_ready();
        Self { envoy, _up: up, _echo: echo }
    }

    pub(crate) fn get(&self, path: &str) -> String {
        let (status, page) = http::get(self.envoy.admin(), path).unwrap();
        assert_eq!(status, 200, "{path}: {page}");
        page
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.get(path)).unwrap()
    }

    /// A POST as `curl -X POST` and Go send it: without a content type.
    pub(crate) fn post(&self, path: &str) -> (u16, String) {
        asked(self.envoy.admin(), "POST", path, "host: 127.0.0.1\r\ncontent-length: 0\r\n")
    }

    pub(crate) fn web(&self) -> SocketAddr {
        self.envoy.addr("web_a")
    }

    /// The value of a statistic.
    pub(crate) fn stat(&self, name: &str) -> Option<u64> {
        let page = self.json("/stats?format=json");
        let found = page["stats"].as_array().unwrap().iter().find(|of| of["name"] == name)?;
        found["value"].as_u64()
    }

    pub(crate) fn until(&self, name: &str, value: u64) {
        let seen = wait::within(wait::PATIENCE, || (self.stat(name) == Some(value)).then_some(()));
        assert!(seen.is_some(), "{name} is {:?}, not {value}", self.stat(name));
    }
}

pub(crate) fn asked(to: SocketAddr, method: &str, path: &str, headers: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(to).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\n{headers}connection: close\r\n\r\n").unwrap();
    parsed(&mut stream)
}

pub(crate) fn parsed(stream: &mut impl std::io::Read) -> (u16, String) {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned())
}

#[test]
fn statistics_have_the_names_of_envoy() {
    let bench = Bench::with("");
    let web = bench.web();
    for (path, status) in [("/said", 418), ("/up", 200), ("/up", 200), ("/gone", 503), ("/x", 404)]
    {
        assert_eq!(origin::get(web, "h", path).status(), status);
    }
    let mut relayed = TcpStream::connect(bench.envoy.addr("tcp")).unwrap();
    relayed.write_all(b"hello").unwrap();
    relayed.read_exact(&mut [0; 5]).unwrap();
    bench.until("http.ingress.downstream_rq_completed", 5);
    bench.until("http.ingress.downstream_cx_active", 0);
    for (name, value) in [
        ("http.ingress.downstream_rq_total", 5),
        ("http.ingress.downstream_rq_2xx", 2),
        ("http.ingress.downstream_rq_4xx", 2),
        ("http.ingress.downstream_rq_5xx", 1),
        ("http.ingress.downstream_rq_http1_total", 5),
        ("http.ingress.no_route", 1),
        ("http.ingress.downstream_cx_total", 5),
        ("http.ingress.downstream_cx_destroy", 5),
        ("listener.127.0.0.1_0.http.ingress.downstream_rq_2xx", 2),
        ("cluster.up|a_b.upstream_rq_total", 2),
        ("cluster.up|a_b.upstream_rq_2xx", 2),
        ("cluster.up|a_b.upstream_rq_200", 2),
        ("cluster.up|a_b.upstream_rq_completed", 2),
        ("cluster.up|a_b.membership_total", 1),
        ("cluster.up|a_b.membership_healthy", 1),
        ("cluster.up|a_b.upstream_rq_pending_overflow", 0),
        ("cluster.other.upstream_cx_total", 1),
        ("cluster.other.upstream_cx_active", 1),
        ("tcp.relay.downstream_cx_total", 1),
        ("cluster_manager.active_clusters", 3),
        ("cluster_manager.cluster_added", 3),
        ("listener_manager.listener_added", 2),
        ("listener_manager.total_listeners_active", 2),
        ("listener_manager.workers_started", 1),
        ("server.live", 1),
        ("server.state", 0),
        ("server.concurrency", 2),
    ] {
        assert_eq!(bench.stat(name), Some(value), "{name}");
    }
    assert!(bench.stat("cluster.gone.upstream_cx_connect_fail").unwrap() >= 1);
    assert_eq!(bench.stat("cluster.gone.upstream_rq_503"), None, "no endpoint responded");
    let of_workers = ["0", "1"].map(|worker| {
        bench.stat(&format!("listener.127.0.0.1_0.worker_{worker}.downstream_cx_total")).unwrap()
    });
    assert_eq!(of_workers.iter().sum::<u64>(), 6, "{of_workers:?}");
    // The connections of both listeners, which have the same address here.
    bench.until("listener.127.0.0.1_0.downstream_cx_active", 1);
    assert_eq!(bench.stat("cluster_manager.cds.update_success"), None, "no plane is asked");
    drop(relayed);
    bench.until("cluster.other.upstream_cx_active", 0);
    // As pilot-agent, Envoy Gateway and Contour ask.
    let page =
        bench.get(r"/stats?usedonly&filter=^(server\.state|listener_manager\.workers_started)");
    assert_eq!(page, "listener_manager.workers_started: 1\nserver.state: 0\n");
    let page: Value = serde_json::from_str(
        &bench.get(r"//stats?filter=^listener\..*\.downstream_cx_active$&format=json"),
    )
    .unwrap();
    assert_eq!(
        page["stats"],
        json!(
            ["", "worker_0.", "worker_1."].map(|worker| json!({ "name": format!("listener.127.0.0.1_0.{worker}downstream_cx_active"), "value": 0 }))
        )
    );
    let page = bench.get(r"/stats/prometheus?filter=^http\..*\.downstream_cx_active$");
    assert_eq!(
        page,
        "# TYPE envoy_http_downstream_cx_active gauge\nenvoy_http_downstream_cx_active{envoy_http_conn_manager_prefix=\"ingress\"} 0\n"
    );
    assert_eq!(
        bench.get("/stats?format=prometheus&filter=^server.live$"),
        "# TYPE envoy_server_live gauge\nenvoy_server_live{} 1\n"
    );
    let page = bench.get("/stats/prometheus");
    for line in [
        "envoy_cluster_upstream_rq_xx{envoy_response_code_class=\"2\",envoy_cluster_name=\"up|a_b\"} 2\n",
        "envoy_listener_http_downstream_rq_xx{envoy_response_code_class=\"4\",envoy_http_conn_manager_prefix=\"ingress\",envoy_listener_address=\"127.0.0.1_0\"} 2\n",
        "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"up|a_b\",le=\"+Inf\"} 2\n",
        "# TYPE envoy_cluster_upstream_rq_time histogram\n",
        "envoy_cluster_upstream_rq{envoy_response_code=\"200\",envoy_cluster_name=\"up|a_b\"} 2\n",
    ] {
        assert!(page.contains(line), "{line} is missing:\n{page}");
    }
    // Counters begin again; gauges stay, and so do Sluice's own series.
    assert_eq!(bench.post("/reset_counters"), (200, "OK\n".into()));
    assert_eq!(bench.stat("http.ingress.downstream_rq_total"), Some(0));
    assert_eq!(bench.stat("cluster.up|a_b.membership_total"), Some(1));
    assert_eq!(origin::get(web, "h", "/up").status(), 200);
    bench.until("http.ingress.downstream_rq_total", 1);
    assert!(bench.envoy.metric("sluice_http_requests_total", "") >= 6);
}

#[test]
fn a_bootstrap_chooses_which_statistics_there_are() {
    let bench = Bench::with(
        r"stats_config: { use_all_default_tags: false, stats_tags: [{ tag_name: mesh, fixed_value: m }, { tag_name: upstream, regex: '^cluster\.((up.+?)\.)' }], stats_matcher: { inclusion_list: { patterns: [{ prefix: cluster.up }, { exact: server.live }] } } }",
    );
    let page = bench.get("/stats?type=Gauges");
    assert!(page.contains("server.live: 1\n") && !page.contains("listener."), "{page}");
    let page = bench.get("/stats/prometheus?filter=membership");
    assert!(
        page.contains("envoy_cluster_membership_total{upstream=\"up|a_b\",mesh=\"m\"} 1\n"),
        "{page}"
    );
    assert!(bench.get("/metrics").contains("sluice_listener_connections_active"));
}

#[test]
fn pages_have_the_forms_of_envoy() {
    let bench = Bench::with("");
    assert_eq!(bench.get("/ready"), "LIVE\n");
    let web = bench.web();
    assert_eq!(origin::get(web, "h", "/up").status(), 200);
    assert_eq!(
        bench.get("/listeners"),
        format!("tcp::{}\nweb:a::{web}\n", bench.envoy.addr("tcp"))
    );
    let page = bench.json("/listeners?format=json");
    assert_eq!(
        page["listener_statuses"][1]["local_address"]["socket_address"]["port_value"],
        web.port()
    );
    bench.until("cluster.up|a_b.upstream_rq_total", 1);
    let page = bench.get("/clusters");
    for line in [
        "up|a:b::observability_name::up|a:b\n",
        "echo::observability_name::other\n",
        "up|a:b::added_via_api::false\n",
        "::health_flags::healthy\n",
        "::rq_success::1\n",
        "::weight::1\n",
    ] {
        assert!(page.contains(line), "{line} is missing:\n{page}");
    }
    let page = bench.json("/clusters?format=json&filter=^up");
    let found = page["cluster_statuses"].as_array().unwrap();
    assert_eq!(found.len(), 1);
    let host = &found[0]["host_statuses"][0];
    assert_eq!(host["health_status"]["eds_health_status"], "HEALTHY");
    assert!(
        host["stats"].as_array().unwrap().contains(&json!({ "name": "rq_total", "value": "1" })),
        "{host}"
    );
    let info = bench.json("/server_info");
    assert_eq!((&info["state"], &info["node"]["id"]), (&"LIVE".into(), &"here".into()));
    assert_eq!(info["version"].as_str().unwrap().split('/').count(), 5);
    assert_eq!(info["command_line_options"]["concurrency"], 2);
    assert_eq!(bench.json("/certs"), json!({ "certificates": [] }));
    assert!(
        bench.json("/memory")["total_physical_bytes"].as_str().unwrap().parse::<u64>().unwrap() > 0
    );
    assert_eq!(bench.json("/init_dump"), json!({}));
    assert_eq!(bench.get("/hot_restart_version"), "disabled\n");
    assert!(bench.get("/help").contains("  /healthcheck/fail (POST): "));
    let dump = bench.json("/config_dump");
    let kinds: Vec<&str> = dump["configs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|of| of["@type"].as_str().unwrap().rsplit('.').next().unwrap())
        .collect();
    assert_eq!(
        kinds,
        [
            "BootstrapConfigDump",
            "ClustersConfigDump",
            "ListenersConfigDump",
            "RoutesConfigDump",
            "SecretsConfigDump"
        ]
    );
    assert!(!dump.to_string().contains("opensesame") && dump.to_string().contains("[redacted]"));
    let names = bench
        .json("/config_dump?resource=static_clusters&mask=cluster.name&name_regex=^(echo|gone)$");
    assert_eq!(
        names["configs"],
        json!(["echo", "gone"].map(|name| json!({ "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump.StaticCluster", "cluster": { "name": name, "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster" } })))
    );
    let routes = bench.json("/config_dump?resource=static_route_configs");
    assert_eq!(routes["configs"][0]["route_config"]["name"], "table");
    assert_eq!(bench.json("/config_dump?resource=dynamic_listeners"), json!({ "configs": [] }));
    assert!(bench.json("/config_dump?include_eds")["configs"].as_array().unwrap().len() == 6);
    let addr = bench.envoy.admin();
    for (path, status) in [
        ("/config_dump?resource=nothing", 404),
        ("/config_dump?name_regex=(", 400),
        ("/stats?filter=(", 400),
        ("/stats?format=html", 400),
        ("/stats?type=Some", 400),
        ("/clusters?filter=[", 400),
        ("/healthcheck/fail", 405),
        ("/quitquitquit", 405),
        ("/drain_listeners?graceful", 405),
        ("/nothing", 404),
    ] {
        let (found, page) = http::get(addr, path).unwrap();
        assert_eq!(found, status, "{path}: {page}");
    }
    // The pages of Sluice are there, too.
    assert!(bench.get("/sluice/clusters").contains("connections_active"));
    assert!(bench.get("/overrides").contains("none"));
}

#[test]
fn values_and_levels_are_changed() {
    let bench = Bench::with("");
    assert_eq!(bench.post("/runtime_modify?web.share=7&own=x"), (200, "OK\n".into()));
    let page = bench.json("/runtime");
    assert_eq!(page["layers"], json!(["base", "operator"]));
    assert_eq!(
        page["entries"]["web.share"],
        json!({ "layer_values": ["5", "7"], "final_value": "7" })
    );
    assert_eq!(page["entries"]["own"]["final_value"], "x");
    assert_eq!(bench.stat("runtime.admin_overrides_active"), Some(1));
    assert_eq!(bench.post("/runtime_modify?web.share=&own=").0, 200);
    assert_eq!(bench.json("/runtime")["entries"]["web.share"]["final_value"], "5");
    assert_eq!(bench.post("/runtime_modify").0, 400);
    let many: String = (0..5000).map(|number| format!("k{number}=1&")).collect();
    assert_eq!(bench.post(&format!("/runtime_modify?{many}")).0, 503);
    let (status, page) = bench.post("/logging?level=debug");
    assert!(status == 200 && page.contains("  upstream: debug\n"), "{page}");
    let (status, page) = bench.post("/logging?paths=upstream:info,http:warning");
    assert!(status == 200 && page.contains("  upstream: info\n"), "{page}");
    assert!(page.contains("  http: warning\n") && page.contains("  main: debug\n"), "{page}");
    let (status, page) = bench.post("/logging?nosuch=info");
    assert!(status == 400 && page.contains("levels: trace debug info"), "{page}");
    assert_eq!(bench.post("/reopen_logs"), (200, "OK\n".into()));
}

#[test]
fn failing_health_checks_end_connections_and_are_taken_back() {
    let bench = Bench::with("");
    let mut client = Client::connect(bench.web());
    assert_eq!(client.get("h", "/healthz").status(), 200);
    assert_eq!(bench.post("/healthcheck/fail"), (200, "OK\n".into()));
    assert_eq!(http::get(bench.envoy.admin(), "/ready").unwrap(), (503, "DRAINING\n".into()));
    assert_eq!((bench.stat("server.state"), bench.stat("server.live")), (Some(1), Some(0)));
    // The connection that was open has ended, and a new one has one response.
    bench.until("http.ingress.downstream_cx_active", 0);
    let mut client = Client::connect(bench.web());
    let last = client.get("h", "/up");
    assert_eq!((last.status(), last.value("connection")), (200, "close"));
    assert_eq!(client.rest(), b"");
    assert_eq!(origin::get(bench.web(), "h", "/healthz").status(), 503);
    assert_eq!(bench.post("/healthcheck/ok"), (200, "OK\n".into()));
    assert_eq!(bench.get("/ready"), "LIVE\n");
    let mut client = Client::connect(bench.web());
    assert_eq!(client.get("h", "/healthz").status(), 200);
    assert_eq!(client.get("h", "/up").status(), 200);
}

#[test]
fn listeners_are_drained_and_the_process_ends() {
    let mut bench = Bench::with("");
    let (web, tcp) = (bench.web(), bench.envoy.addr("tcp"));
    let mut open = Client::connect(web);
    assert_eq!(open.get("h", "/up").status(), 200);
    // Only asked to end.
    assert_eq!(bench.post("/drain_listeners?inboundonly&graceful&skip_exit").0, 200);
    bench.until("http.ingress.downstream_cx_active", 0);
    let last = Client::connect(web).get("h", "/up");
    assert_eq!((last.status(), last.value("connection")), (200, "close"));
    let mut relayed = TcpStream::connect(tcp).unwrap();
    assert_eq!(bench.post("/drain_listeners?inboundonly").0, 200);
    wait::until("the port to close", || TcpStream::connect(web).is_err().then_some(()));
    relayed.write_all(b"x").unwrap();
    relayed.read_exact(&mut [0; 1]).unwrap();
    drop(TcpStream::connect(tcp).unwrap());
    assert_eq!(bench.post("/drain_listeners").0, 200);
    wait::until("the port to close", || TcpStream::connect(tcp).is_err().then_some(()));
    relayed.write_all(b"x").unwrap();
    relayed.read_exact(&mut [0; 1]).unwrap();
    assert_eq!(bench.get("/ready"), "LIVE\n", "as in Envoy, the server is live");
    assert_eq!(bench.post("/quitquitquit"), (200, "OK\n".into()));
    let ended = wait::until("the process to end", || bench.envoy.child.try_wait().unwrap());
    assert!(ended.success(), "{ended}");
}

#[test]
fn changes_need_no_header_but_do_not_come_from_other_sites() {
    let bench = Bench::with("");
    let addr = bench.envoy.admin();
    let host = format!("host: 127.0.0.1:{}\r\n", addr.port());
    for (headers, status) in [
        (host.clone(), 200),
        (format!("{host}content-type: text/plain\r\n"), 200),
        (format!("{host}origin: http://evil.example\r\n"), 403),
        (format!("{host}sec-fetch-site: cross-site\r\n"), 403),
        ("host: evil.example\r\n".into(), 421),
    ] {
        assert_eq!(asked(addr, "POST", "/healthcheck/ok", &headers).0, status, "{headers}");
    }
    for (path, status) in
        [("/ready", 200), ("/stats/prometheus", 200), ("/stats", 421), ("/config_dump", 421)]
    {
        assert_eq!(asked(addr, "GET", path, "host: web.svc\r\n").0, status, "{path}");
    }
}

#[test]
fn pages_are_on_a_unix_socket() {
    let (up, echo) = (Origin::start("up"), Server::echo());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let admin = format!("pipe: {{ path: {} }}", path.display());
    let mut envoy = Envoy::start(&text(&admin, up.addr(), echo.addr(), ""));
    wait::until("the process to be ready", || {
        assert!(envoy.child.try_wait().unwrap().is_none(), "{}", envoy.log());
        envoy.is_ready().then_some(())
    });
    let ask = |method: &str, target: &str| {
        let mut stream = UnixStream::connect(&path).unwrap();
        write!(stream, "{method} {target} HTTP/1.1\r\nhost: any.name\r\nconnection: close\r\n\r\n")
            .unwrap();
        parsed(&mut stream)
    };
    assert_eq!(ask("GET", "/ready"), (200, "LIVE\n".into()));
    assert_eq!(ask("GET", "/stats?filter=^server.live$").1, "server.live: 1\n");
    assert_eq!(ask("POST", "/healthcheck/fail").0, 200);
    assert_eq!(ask("GET", "/ready"), (503, "DRAINING\n".into()));
}

#[test]
fn what_a_plane_sends_is_shown() {
    let Some(mut plane) = Plane::start() else { return };
    let up = Origin::start("a");
    let mut envoy = Envoy::start(&over_ads(plane.addr, "GRPC"));
    wait::until("the first lines", || {
        let (status, page) = http::get(envoy.admin(), "/ready").unwrap();
        (status == 503 && page == "INITIALIZING\n").then_some(())
    });
    plane.set_all("v1", to("one|a:b"), &[("one|a:b", up.addr())]);
    envoy.until_ready();
    envoy.until_served("/", "200 a");
    let json = |path: &str| -> Value {
        let (status, page) = http::get(envoy.admin(), path).unwrap();
        assert_eq!(status, 200, "{path}: {page}");
        serde_json::from_str(&page).unwrap()
    };
    let stat = |name: &str| {
        let page = json("/stats?format=json");
        let found = page["stats"].as_array().unwrap().iter().find(|of| of["name"] == name)?;
        found["value"].as_u64()
    };
    for name in ["cluster_manager.cds.update_success", "listener_manager.lds.update_success"] {
        assert!(stat(name).unwrap() >= 1, "{name}");
    }
    assert_eq!(stat("cluster_manager.cds.update_rejected"), Some(0));
    assert_eq!(stat("control_plane.connected_state"), Some(1));
    wait::until("the request to be counted", || {
        (stat("cluster.one|a_b.upstream_rq_2xx")? >= 1).then_some(())
    });
    assert!(stat("http.web.downstream_rq_2xx").unwrap() >= 1);
    let page = json("/clusters?format=json");
    let own = page["cluster_statuses"]
        .as_array()
        .unwrap()
        .iter()
        .find(|of| of["name"] == "one|a:b")
        .unwrap();
    assert_eq!(own["added_via_api"], true);
    assert_eq!(own["host_statuses"][0]["locality"]["region"], "r");
    let page = json("/config_dump?resource=dynamic_active_clusters");
    assert_eq!(
        (&page["configs"][0]["cluster"]["name"], &page["configs"][0]["version_info"]),
        (&"one|a:b".into(), &"v1".into())
    );
    let page = json("/config_dump?resource=dynamic_listeners");
    assert_eq!(page["configs"][0]["active_state"]["listener"]["name"], "web");
    let page = json("/config_dump?resource=dynamic_route_configs");
    assert_eq!(page["configs"][0]["route_config"]["name"], "main");
    let page = json("/config_dump?resource=dynamic_endpoint_configs");
    assert_eq!(page["configs"][0]["endpoint_config"]["cluster_name"], "one|a:b");
    // A cluster that is refused.
    plane.set("cds", "v2", json!({ "bad": wrong_cluster("bad") }));
    wait::until("the rejection", || {
        (stat("cluster_manager.cds.update_rejected")? >= 1).then_some(())
    });
}
