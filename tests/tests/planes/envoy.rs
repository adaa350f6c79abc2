//! Files of Envoy: run, validated, translated, measured.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};

use sluice_testkit::origin::{self, Client};
use sluice_testkit::peers::{Server, connect, exchange, read_to_end};
use sluice_testkit::{Origin, Sluice};
use sluice_tests::envoy_service;
use sluice_tests::planes::Envoy;

/// A process with this bootstrap, once it is ready.
fn start(text: &str) -> Envoy {
    let mut envoy = Envoy::start(text);
    envoy.until_ready();
    envoy
}

/// A bootstrap with a listener `web` whose routes go to this endpoint.
fn web(endpoint: SocketAddr, routes: &str) -> String {
    format!(
        r#"
static_resources:
  listeners:
  - name: web
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          codec_type: auto
          route_config:
            name: local
            virtual_hosts:
            - name: all
              domains: "*"
              routes: {routes}
          http_filters:
          - name: envoy.filters.http.router
            typedConfig: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
  clusters:
  - name: "up|stream"
    type: static
    load_assignment:
      cluster_name: up
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: {}, port_value: {} }} }} }}
"#,
        endpoint.ip(),
        endpoint.port()
    )
}

const ROUTES: &str = r#"
              - match: { path: /moved }
                redirect: { path_redirect: /there, response_code: found }
              - match: { path: /said }
                direct_response: { status: 418, body: { inline_string: "100% tea" } }
              - match: { prefix: /api/, headers: [{ name: x-kind, string_match: { prefix: a } }] }
                route: { cluster: "up|stream", prefix_rewrite: / }
                request_headers_to_add: [{ header: { key: x-added, value: yes-it-is }, append_action: OVERWRITE_IF_EXISTS_OR_ADD }]
                response_headers_to_add: [{ header: { key: x-out, value: b } }]
              - match: { safe_regex: { regex: "/r/[0-9]+" } }
                route: { cluster: "up|stream", regex_rewrite: { pattern: { regex: "^/r/([0-9]+)$" }, substitution: '/number/\1' } }"#;

#[test]
fn requests_go_as_the_routes_say() {
    let up = Origin::start("a");
    let envoy = start(&web(up.addr(), ROUTES));
    let addr = envoy.addr("web");
    let moved = origin::get(addr, "h", "/moved");
    assert_eq!((moved.status(), moved.value("location")), (302, "http://h/there"));
    let said = origin::get(addr, "h", "/said");
    assert_eq!((said.status(), said.text().as_str()), (418, "100% tea"));
    assert_eq!(origin::get(addr, "h", "/api/x").status(), 404, "a header is missing");
    let request = "GET /api/x?q=1 HTTP/1.1\r\nHost: h\r\nX-Kind: abc\r\nX-Forwarded-Client-Cert: forged\r\n\r\n";
    let answered = Client::connect(addr).ask(request);
    assert_eq!((answered.status(), answered.value("x-out")), (200, "b"));
    let seen = up.requests().pop().unwrap();
    assert_eq!(seen.path(), "/x?q=1");
    assert_eq!(seen.value("x-added"), "yes-it-is");
    assert_eq!(seen.value("x-envoy-original-path"), "/api/x?q=1");
    assert_eq!(seen.values("x-forwarded-client-cert").len(), 0);
    assert_eq!(seen.values("x-request-id").len(), 1);
    assert_eq!(origin::get(addr, "h", "/r/12").status(), 200);
    assert_eq!(up.requests().pop().unwrap().path(), "/number/12");
    assert_eq!(origin::get(addr, "h", "/r/x").status(), 404, "the regex is of the whole path");
}

#[test]
fn a_tunnel_ends_here_and_its_bytes_go_to_the_cluster() {
    let up = Server::start(|mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        stream.write_all(format!("got {}", String::from_utf8_lossy(&all)).as_bytes())
    });
    let end = |config: &str| {
        format!(
            r#"[{{ match: {{ connect_matcher: {{}} }}, route: {{ cluster: "up|stream", upgrade_configs: [{{ upgrade_type: CONNECT{config} }}] }} }}]"#
        )
    };
    let envoy = start(&web(up.addr(), &end(", connect_config: {}")));
    let mut client = connect(envoy.addr("web"));
    client.write_all(b"CONNECT db.test:5432 HTTP/1.1\r\nHost: db.test:5432\r\n\r\nabc").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let received = String::from_utf8(read_to_end(&mut client).1).unwrap();
    assert!(received.starts_with("HTTP/1.1 200 "), "{received}");
    assert!(received.ends_with("\r\n\r\ngot abc"), "nothing but the client's bytes: {received}");
}

#[test]
fn chains_are_found_by_the_tags_of_a_service() {
    let up = Server::start(|mut stream| {
        let read = stream.read(&mut [0; 1024])?;
        assert!(read > 0, "the ClientHello comes through");
        stream.write_all(b"hello")
    });
    let inspector = "{ name: t, typed_config: { '@type': t/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector } }";
    let relay = "{ name: x, typed_config: { '@type': t/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: s, cluster: a } }";
    let chain = |name: &str, filters: &str| {
        format!(
            "{{ filter_chain_match: {{ server_names: ['{name}'], transport_protocol: tls }}, filters: [{filters}] }}"
        )
    };
    let chains = [chain("orders{mesh=default}", relay), chain("other{mesh=default}", "")];
    let envoy = start(&format!(
        "{{ static_resources: {{ listeners: [{{ name: in, address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}, listener_filters: [{inspector}], filter_chains: [{}] }}], clusters: [{{ name: a, load_assignment: {{ cluster_name: a, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }} }} }}] }}] }} }}] }} }}",
        chains.join(", "),
        up.addr().port()
    ));
    for (name, expected) in
        [("orders{mesh=default}", &b"hello"[..]), ("other{mesh=default}", b""), ("none", b"")]
    {
        let mut client = connect(envoy.addr("in"));
        client.write_all(&hello_of(name)).unwrap();
        let (_, received) = read_to_end(&mut client);
        assert!(received.starts_with(expected), "{name}: {received:?}");
        assert_eq!(received.starts_with(b"hello"), !expected.is_empty(), "{name}");
    }
}

/// A ClientHello with this server name, which is not one of DNS.
fn hello_of(name: &str) -> Vec<u8> {
    let long = |bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
        [&length[..], bytes].concat()
    };
    let entry = [&[0][..], &long(name.as_bytes())].concat();
    let extension = [&[0, 0][..], &long(&long(&entry))].concat();
    let versions = [0, 43, 0, 3, 2, 3, 4];
    let extensions = long(&[&extension[..], &versions].concat());
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend(extensions);
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let handshake = [&[1][..], &length[1..], &body].concat();
    [&[22, 3, 1][..], &long(&handshake)].concat()
}

#[test]
fn connections_go_to_the_cluster() {
    let up = Origin::start("a");
    let tcp = r#""@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: c"#;
    let text = format!(
        "{{ static_resources: {{ listeners: [{{ name: tcp, address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}, filter_chains: [{{ filters: [{{ name: t, typed_config: {{ {tcp} }} }}] }}] }}], clusters: [{{ name: c, load_assignment: {{ cluster_name: c, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }} }} }}] }}] }} }}] }} }}",
        up.addr().port()
    );
    let envoy = start(&text);
    assert_eq!(origin::get(envoy.addr("tcp"), "h", "/x").value("x-origin"), "a");
}

fn sluice(args: &[&str], file: &Path) -> Output {
    Command::new(Sluice::binary()).args(args).arg(file).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_file_is_validated_as_envoy_does_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("envoy.yaml");
    let validate = ["envoy", "--", "--mode", "validate", "-c"];
    std::fs::write(&file, web("127.0.0.1:80".parse().unwrap(), ROUTES)).unwrap();
    let good = sluice(&validate, &file);
    assert_eq!(good.status.code(), Some(0), "{}", text(&good.stderr));
    assert_eq!(text(&good.stdout), format!("configuration '{}' OK\n", file.display()));
    let wrong = web("127.0.0.1:80".parse().unwrap(), ROUTES).replace("stat_prefix", "stat_prefx");
    std::fs::write(&file, wrong).unwrap();
    let bad = sluice(&validate, &file);
    assert_eq!(bad.status.code(), Some(1));
    let said = text(&bad.stderr);
    assert!(said.contains("has no field `stat_prefx`"), "{said}");
    assert!(said.contains("did you mean `stat_prefix`?"), "{said}");
    assert!(said.contains("envoy.yaml:11:11"), "the place of the field\n{said}");
    let flag =
        Command::new(Sluice::binary()).args(["envoy", "--", "-c", "x", "--log-path", "1"]).output();
    assert_eq!(flag.unwrap().status.code(), Some(2), "a flag that is not taken is an error");
}

#[test]
fn it_stands_where_envoy_stood() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("envoy");
    std::os::unix::fs::symlink(Sluice::binary(), &program).unwrap();
    let run = |args: &[&str]| Command::new(&program).args(args).output().unwrap();
    let version = run(&["--version"]);
    let said = text(&version.stdout);
    let parts = said.trim().split_once("version: ").unwrap().1.split('/').count();
    assert_eq!((version.status.code(), parts), (Some(0), 5), "{said}");
    let file = folder.path().join("envoy.yaml");
    let whole = web("127.0.0.1:80".parse().unwrap(), ROUTES);
    std::fs::write(&file, &whole).unwrap();
    let named = format!("--config-path {}", file.display());
    // The text is laid over the file, and the flags over both.
    let over = "{ node: { id: a }, static_resources: { clusters: [{ name: more, load_assignment: { cluster_name: more } }] } }";
    let common = [&named, "--mode", "validate", "--service-node b", "-l", "critical"];
    let good = run(&[&common[..], &["--config-yaml", over, "--log-format", "%v"]].concat());
    assert_eq!(good.status.code(), Some(0), "{}", text(&good.stderr));
    assert_eq!(text(&good.stderr), "warning: `--log-format` has no effect\n");
    let wrong = over.replace("name: more, ", "name: 'up|stream', ");
    let bad = run(&[&common[..], &["--config-yaml", &wrong]].concat());
    let said = text(&bad.stderr);
    assert_eq!(bad.status.code(), Some(1), "{said}");
    assert!(said.contains("two clusters are named `up|stream`"), "{said}");
    assert!(said.contains("--config-yaml:1:"), "the place in the text\n{said}");
    let alone = run(&["--mode", "validate", "--config-yaml", &whole]);
    assert_eq!(alone.status.code(), Some(0), "{}", text(&alone.stderr));
}

#[test]
fn the_native_form_means_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("envoy.yaml");
    let with_difference = web("127.0.0.1:80".parse().unwrap(), ROUTES)
        .replace("stat_prefix: web", "stat_prefix: web\n          server_name: edge");
    std::fs::write(&file, with_difference).unwrap();
    let translated = sluice(&["envoy", "translate"], &file);
    let native = text(&translated.stdout);
    assert_eq!(translated.status.code(), Some(0), "{native}");
    assert!(native.starts_with("# differs: static_resources.listeners[0].filter_chains[0].filters[0].typed_config.server_name: "), "{native}");
    assert!(native.contains("up_stream:"), "{native}");
    let again = folder.path().join("native.yaml");
    std::fs::write(&again, &native).unwrap();
    let checked = sluice(&["check"], &again);
    assert_eq!(checked.status.code(), Some(0), "{}", text(&checked.stdout));
    let explained = sluice(&["explain"], &again);
    let without_comments: Vec<&str> =
        native.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(text(&explained.stdout).lines().collect::<Vec<_>>(), without_comments);
}

#[test]
fn coverage_says_what_loads_and_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let good = folder.path().join("good.yaml");
    let waiting = folder.path().join("waiting.yaml");
    let text_of = |routes| web("127.0.0.1:80".parse().unwrap(), routes);
    std::fs::write(&good, text_of(ROUTES)).unwrap();
    let routes = "[{ match: { prefix: / }, route: { cluster: 'up|stream', hash_policy: [{ filter_state: { key: a } }] } }]";
    let bridge = "http_filters:\n          - name: bridge\n            typed_config: { '@type': t/envoy.extensions.filters.http.grpc_http1_bridge.v3.Config }";
    std::fs::write(&waiting, text_of(routes).replace("http_filters:", bridge)).unwrap();
    let output = Command::new(Sluice::binary())
        .args(["envoy", "coverage"])
        .args([&good, &waiting])
        .output()
        .unwrap();
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{said}");
    for line in [
        format!("{}: loads\n", good.display()),
        format!("{}: does not load: it needs types that Sluice does not have\n", waiting.display()),
        "  missing  `filter_state` of envoy.config.route.v3.RouteAction.HashPolicy  (static_resources."
            .into(),
        "  missing  envoy.extensions.filters.http.grpc_http1_bridge.v3.Config  (static_resources.".into(),
        "1 of 2 files load (50.0 %)\n1 of 1 that need only types which Sluice has (100.0 %)\n".into(),
        "     1      0  envoy.extensions.filters.http.grpc_http1_bridge.v3.Config\n".into(),
    ] {
        assert!(said.contains(&line), "{line}\n{said}");
    }
}

#[test]
fn filters_do_what_they_do_in_envoy() {
    let up = Origin::start("a");
    let filter = |name: &str, of: &str| {
        format!(
            "          - name: {name}\n            typed_config: {{ '@type': t/envoy.extensions.{of} }}\n"
        )
    };
    let pair = |key: &str, value: &str| format!("{{ metadata_namespace: n, key: {key}{value} }}");
    let metadata = format!(
        "filters.http.header_to_metadata.v3.Config, request_rules: [{{ header: x-tier, on_header_present: {}, on_header_missing: {}, remove: true }}]",
        pair("tier", ""),
        pair("none", ", value: 'yes'")
    );
    let matched = "common.matching.v3.ExtensionWithMatcher, extension_config: { name: e, typed_config: { '@type': t/envoy.extensions.filters.http.fault.v3.HTTPFault, abort: { http_status: 418, percentage: { numerator: 100 } } } }, \
         xds_matcher: { matcher_tree: { input: { name: i, typed_config: { '@type': t/envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: x-kind } }, exact_match_map: { map: { good: { action: { name: s, typed_config: { '@type': t/envoy.extensions.filters.common.matcher.action.v3.SkipFilter } } } } } } }";
    let script = "filters.http.lua.v3.Lua, default_source_code: { inline_string: 'function envoy_on_request(h) h:headers():add(\"x-script\", \"ran\") end' }";
    let filters = format!(
        "http_filters:\n{}{}{}",
        filter("m", &metadata),
        filter("w", matched),
        filter("l", script)
    );
    let routes = r#"
              - match: { prefix: / }
                route: { cluster: "up|stream" }
                request_headers_to_add: [{ header: { key: x-seen, value: "%DYNAMIC_METADATA(n:tier)% %DYNAMIC_METADATA(n:none)%" } }]"#;
    let text = web(up.addr(), routes).replace("http_filters:\n", &filters);
    let envoy = start(&text);
    let addr = envoy.addr("web");
    assert_eq!(origin::get(addr, "h", "/").status(), 418, "the filter runs unless it is skipped");
    for (header, seen) in [("X-Tier: gold\r\n", "gold -"), ("", "- yes")] {
        let request = format!("GET / HTTP/1.1\r\nHost: h\r\nX-Kind: good\r\n{header}\r\n");
        assert_eq!(Client::connect(addr).ask(&request).status(), 200);
        let request = up.requests().pop().unwrap();
        assert_eq!((request.value("x-seen"), request.value("x-script")), (seen, "ran"));
        assert_eq!(request.values("x-tier").len(), 0);
    }
}

#[test]
fn a_service_processes_connections() {
    let messages = "envoy.service.network_ext_proc.v3.network_external_processor_pb2";
    let Some((_service, proc)) = envoy_service("net_proc_server.py", messages) else { return };
    let server = Server::echo();
    let cluster = |name: &str, at: SocketAddr, more: &str| {
        format!(
            "  - {{ name: {name}, type: STATIC, load_assignment: {{ cluster_name: {name}, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ \
             socket_address: {{ address: 127.0.0.1, port_value: {} }} }} }} }}] }}] }}{more} }}\n",
            at.port()
        )
    };
    let http2 = ", typed_extension_protocol_options: { envoy.extensions.upstreams.http.v3.HttpProtocolOptions: { \
                 '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: { http2_protocol_options: {} } } }";
    let text = format!(
        "static_resources:\n  listeners:\n  - {{ name: a, address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}, filter_chains: [{{ filters: [\
         {{ name: p, typed_config: {{ '@type': type.googleapis.com/envoy.extensions.filters.network.ext_proc.v3.NetworkExternalProcessor, stat_prefix: p, \
         grpc_service: {{ envoy_grpc: {{ cluster_name: proc }} }}, message_timeout: 60s, processing_mode: {{ process_read: STREAMED, process_write: SKIP }} }} }}, \
         {{ name: t, typed_config: {{ '@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: up }} }}] }}] }}\n\
         \x20 clusters:\n{}{}",
        cluster("up", server.addr(), ""),
        cluster("proc", proc, http2)
    );
    let envoy = start(&text);
    let mut client = connect(envoy.addr("a"));
    assert_eq!(exchange(&mut client, b"change"), b"CHANGE");
}
