//! The admin pages: access, writable values, what is shown and what is not.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use sluice_testkit::peers::{connect, read_to_end};
use sluice_testkit::{Running, Sluice, http, tools, wait};

const RULES: &str = "\
listeners: [{ name: web, address: 127.0.0.1:0, http: { routes: main } }]
routes: { main: [{ hosts: \"*\", rules: [{ split: { a: 1, b: { weight: 0, runtime: canary } } }] }] }
clusters: { a: { endpoints: [127.0.0.1:1] }, b: { endpoints: [127.0.0.1:1] } }
";

fn writable(more: &str) -> Running {
    let admin = format!("admin: {{ address: 127.0.0.1:0, writable: true{more} }}\n");
    Sluice::new().start(&format!("{RULES}{admin}"))
}

/// Sends a request with these header lines; returns the status and body of the response.
fn ask(to: SocketAddr, line: &str, headers: &[&str]) -> (u16, String) {
    let mut stream = connect(to);
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    write!(stream, "{line} HTTP/1.1\r\n{headers}connection: close\r\n\r\n").unwrap();
    let answer = String::from_utf8(read_to_end(&mut stream).1).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

#[test]
fn pages_require_an_address_or_a_known_name_as_host() {
    let sluice = writable(", hosts: [admin.example]");
    let at = sluice.admin_addr();
    let port = at.port();
    for host in [
        "127.0.0.1".to_owned(),
        format!("127.0.0.1:{port}"),
        "[::1]:9901".into(),
        "localhost".into(),
        format!("LocalHost:{port}"),
        "admin.example:80".into(),
    ] {
        let (status, body) = ask(at, "GET /config", &[&format!("host: {host}")]);
        assert_eq!(status, 200, "{host}: {body}");
    }
    for host in
        ["evil.example", "evil.example:9901", "127.0.0.1.evil.example", "localhost.evil", ""]
    {
        for line in ["GET /config", "GET /", "POST /metrics", "POST /runtime?key=canary&value=1"] {
            let (status, body) = ask(at, line, &[&format!("host: {host}"), "x-sluice: 1"]);
            assert_eq!(status, 421, "{host}, {line}");
            assert!(body.contains("admin.hosts"), "{body}");
        }
    }
    // The target of a request may contain a host too.
    let (status, _) = ask(at, "GET http://evil.example/config", &["host: 127.0.0.1"]);
    assert_eq!(status, 421);
    // Probes and scrapers may use any name: these pages contain no secrets.
    assert_eq!(ask(at, "GET /ready", &["host: lb.internal"]).0, 200);
    let (status, body) = ask(at, "GET /metrics", &["host: sluice.monitoring.svc:9901"]);
    assert!(status == 200 && body.contains("sluice_build_info"), "{status}: {body}");
}

#[test]
fn cross_site_requests_cannot_change_values() {
    let sluice = writable("");
    let at = sluice.admin_addr();
    let host = format!("host: {at}");
    let post = |headers: &[&str]| {
        let headers = [&[&*host], headers].concat();
        ask(at, "POST /runtime?key=canary&value=7", &headers)
    };
    for headers in [
        &[][..],
        &["content-type: application/x-www-form-urlencoded"],
        &["content-type: text/plain"],
        &["x-sluice: 1", "origin: http://evil.example"],
        &["content-type: application/json", "origin: null"],
        &["x-sluice: 1", "sec-fetch-site: cross-site"],
        &["x-sluice: 1", "sec-fetch-site: same-site"],
    ] {
        let (status, body) = post(headers);
        assert_eq!(status, 403, "{headers:?}: {body}");
        assert!(body.contains("x-sluice"), "{body}");
    }
    let value = || sluice.items("/runtime").into_iter().find(|item| item["name"] == "canary");
    assert!(value().is_none_or(|item| item["value"].is_null()));
    let own = format!("origin: http://{at}");
    for headers in [
        &["x-sluice: 1"][..],
        &["content-type: application/json; charset=utf-8"],
        &["x-sluice: 1", &own, "sec-fetch-site: same-origin"],
    ] {
        let (status, body) = post(headers);
        assert_eq!(status, 200, "{headers:?}: {body}");
    }
    assert_eq!(value().unwrap()["value"], "7");
}

#[test]
fn stalled_readers_lose_their_connection_and_never_block_the_readiness_probe() {
    let sluice = Sluice::new().start(&format!(
        "{RULES}admin: {{ address: 127.0.0.1:0 }}\nlimits: {{ admin_connections: 2, admin_answer_seconds: 1 }}\n"
    ));
    let at = sluice.admin_addr();
    // More responses than the buffers of both sockets hold.
    let greedy: Vec<TcpStream> = (0..2)
        .map(|_| {
            let stream = connect(at);
            stream.set_write_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
            let request = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(4000);
            let _ = (&stream).write(&request);
            stream
        })
        .collect();
    // Other clients send nothing, and outnumber the available connections.
    let silent: Vec<TcpStream> = (0..64).map(|_| connect(at)).collect();
    let (status, body) = http::get(at, "/ready").unwrap();
    assert_eq!((status, body.as_str()), (200, "ready\n"));
    wait::until("the readers to lose their connections", || {
        http::get(at, "/clusters").is_ok_and(|(status, _)| status == 200).then_some(())
    });
    for mut stream in greedy {
        // The data sent before the end can still be read; then comes the end.
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    }
    drop(silent);
}

#[test]
fn neither_the_pages_nor_explain_show_secrets() {
    let yaml = r#"
listeners:
  - name: web
    address: 127.0.0.1:0
    http:
      routes: main
      filters: [{ set_headers: { request: { authorization: "Basic c2VjcmV0LW9uZQ==", x-plain: shown-one, x-upstream: "Bearer secret-eight" } } }]
routes:
  main:
    - hosts: "*"
      rules:
        - match: { path: /api, headers: { x-api-key: secret-two, X-Tenant: shown-two }, cookies: { session: secret-three } }
          respond: { status: 200 }
        - match: { headers: { Cookie: { contains: secret-four } }, query: { access_token: secret-five } }
          filters: { set_headers: { request: { proxy-authorization: secret-six } } }
          respond: { status: 200 }
        - respond: { status: 404, body: "-----BEGIN PRIVATE KEY-----secret-seven" }
"#;
    let sluice = Sluice::new().expect_warning("reload failed").start(yaml);
    let explained = tools::must(
        tools::command(Sluice::binary().to_str().unwrap())
            .args(["explain", "-c"])
            .arg(sluice.folder().join("sluice.yaml")),
    );
    assert_eq!(
        sluice.reload(&yaml.replace("respond: { status: 200 }", "respond: { status: 2 }")),
        "failed"
    );
    let failure = sluice.items("/config")[0]["last_failure"].as_str().unwrap().to_owned();
    assert!(failure.contains("sluice.yaml:"), "{failure}");
    let try_it = sluice.page("/try?host=a&path=/api").1;
    for (what, text) in [
        ("explain", explained),
        ("/config", sluice.page("/config").1),
        ("/config in JSON", sluice.page("/config?format=json").1),
        ("/routes", sluice.page("/routes").1),
        ("/try", try_it),
    ] {
        let leaked: Vec<&str> =
            ["c2VjcmV0", "secret-"].into_iter().filter(|s| text.contains(s)).collect();
        assert!(leaked.is_empty(), "{what} shows {leaked:?}:\n{text}");
        assert!(
            what != "explain" || (text.contains("shown-one") && text.contains("shown-two")),
            "{text}"
        );
    }
}

#[test]
fn explain_output_can_be_loaded_again_whatever_the_names() {
    let kit = Sluice::new();
    let config = kit.folder().join("names.yaml");
    let yaml = r#"
listeners: [{ name: web, address: 127.0.0.1:0, http: { routes: api-token } }]
routes:
  api-token: [{ hosts: "*", rules: [{ split: { token-service: { weight: 1, runtime: token-share }, secret-store: 1 } }] }]
clusters:
  token-service: { endpoints: [127.0.0.1:1] }
  secret-store: { endpoints: [127.0.0.1:2] }
  headers: { endpoints: [127.0.0.1:3] }
runtime: { values: { token-share: 5 } }
access_log: [{ format: { json: { token: "%REQ(X-A)%" } } }]
"#;
    let explain = |yaml: &str| {
        std::fs::write(&config, yaml).unwrap();
        let mut command = tools::command(Sluice::binary().to_str().unwrap());
        tools::must(command.args(["explain", "-c"]).arg(&config))
    };
    let explained = explain(yaml);
    assert!(!explained.contains("redacted"), "{explained}");
    assert_eq!(explain(&explained), explained);
}

#[test]
fn invalid_admin_hosts_are_refused() {
    let kit = Sluice::new();
    let config = kit.folder().join("hosts.yaml");
    let unix = format!("unix://{}", kit.folder().join("admin.sock").display());
    for (address, host, said) in [
        ("127.0.0.1:0", "a.test:9901", "without a port"),
        ("127.0.0.1:0", "*.a.test", "without `*`"),
        ("127.0.0.1:0", "", "expected a host name"),
        (&*unix, "a.test", "remove `hosts`"),
    ] {
        let yaml = format!("admin: {{ address: \"{address}\", hosts: [\"{host}\"] }}\n");
        std::fs::write(&config, yaml).unwrap();
        let mut command = tools::command(Sluice::binary().to_str().unwrap());
        let ended = tools::run(command.args(["check", "-c"]).arg(&config));
        let text = [ended.stdout, ended.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(!ended.status.success() && text.contains(said), "{host}: {text}");
    }
}

#[test]
fn pages_use_the_requested_format_and_refuse_unknown_parameters() {
    let sluice = writable("");
    let at = sluice.admin_addr();
    let host = format!("host: {at}");
    let get = |line: &str, accept: &str| ask(at, line, &[&host, &format!("accept: {accept}")]);
    let browser = "text/html,application/xhtml+xml,*/*;q=0.8";
    let index = get("GET /", browser).1;
    assert!(
        index.contains("<a href=\"/clusters\">") && !get("GET /", "*/*").1.contains('<'),
        "{index}"
    );
    assert!(get("GET /clusters", "application/json").1.contains("\"api\":\"v1\""));
    assert!(get("GET /clusters?format=text", "application/json").1.starts_with("name: a\n"));
    assert!(get("GET /clusters", browser).1.starts_with("name: a\n"));
    for (line, status, says) in [
        ("GET /clusters?formt=json", 400, "unknown parameter `formt`"),
        ("GET /clusters?limit=1", 400, "unknown parameter `limit`"),
        ("GET /connections?limit=x", 400, "`limit` must be a number"),
        ("GET /connections?listener=wb", 400, "did you mean `web`?"),
        ("DELETE /runtime?key=canary", 405, "POST ?key=NAME"),
        ("POST /clusters", 405, "read-only"),
        ("POST /runtime?key=canari&value=1", 403, "did you mean `canary`?"),
        ("POST /runtime?key=canary&value=lots", 403, "`canary`: expected a number"),
        ("POST /runtime?key=canary&value=", 403, "`canary`: expected a number"),
        ("POST /runtime?kee=canary&value=1", 400, "unknown parameter `kee`"),
    ] {
        let (got, body) = ask(at, line, &[&host, "x-sluice: 1"]);
        assert!(got == status && body.contains(says), "{line}: {got} {body}");
    }
    let of_files = sluice.items("/resources");
    let cluster = of_files.iter().find(|item| item["kind"] == "cluster").expect("a cluster");
    assert_eq!(
        (&cluster["state"], &cluster["source"]),
        (&"in_force".into(), &"the configuration files".into())
    );
    let item = &sluice.items("/runtime")[0];
    assert_eq!(
        (&item["name"], &item["value"], &item["origin"]),
        (&"canary".into(), &serde_json::Value::Null, &"unset".into())
    );
}

#[test]
fn routes_are_shown_with_their_conditions() {
    let yaml = "\
listeners: [{ name: web, address: 127.0.0.1:0, http: { routes: main } }]
routes: { main: [{ hosts: \"*\", rules: [{ match: { path: /a, method: GET, headers: { x-tenant: gold } }, respond: { status: 200 } }, { respond: { status: 404 } }] }] }
";
    let sluice = Sluice::new().start(yaml);
    let rules = sluice.items("/routes")[0]["virtual_hosts"][0]["rules"].clone();
    assert_eq!(rules[0]["path"], "/a");
    assert!(
        rules[0]["conditions"]["headers"]["x-tenant"].to_string().contains("gold"),
        "{rules:#}"
    );
    assert!(rules[0]["conditions"]["method"].to_string().contains("GET"), "{rules:#}");
    assert_eq!(rules[1]["conditions"], serde_json::json!({}));
}

#[test]
fn connections_are_listed_by_listener_and_up_to_a_limit() {
    let server = sluice_testkit::peers::Server::echo();
    let sluice = Sluice::new().start(&format!(
        "listeners: [{{ name: a, address: 127.0.0.1:0, relay: up }}, {{ name: b, address: 127.0.0.1:0, relay: up }}]\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        server.addr()
    ));
    let open: Vec<TcpStream> = ["a", "a", "b"].map(|name| connect(sluice.addr(name))).into();
    sluice.wait_open(3);
    let count = |query: &str| {
        let page = sluice.page(&format!("/connections?format=json&{query}")).1;
        let page: serde_json::Value = serde_json::from_str(&page).unwrap();
        page["items"].as_array().unwrap().len()
    };
    assert_eq!((count("listener=a"), count("listener=b"), count("limit=2")), (2, 1, 2));
    drop(open);
}

#[test]
fn clusters_show_why_and_since_when_an_endpoint_takes_no_traffic() {
    let alive = sluice_testkit::peers::Server::echo();
    let dead = tools::free_port();
    for (more, key, cause) in [
        ("outlier: none, health: { tcp: {}, interval: 50ms }", "unhealthy", "refused"),
        ("outlier: { connect_failures: 1 }", "ejected", "upstream.refused"),
    ] {
        let kit = Sluice::new()
            .expect_warning("endpoint is unhealthy")
            .expect_warning("endpoint ejected");
        let sluice = kit.start(&format!(
            "listeners: [{{ name: a, address: 127.0.0.1:0, relay: up }}]\n\
             clusters: {{ up: {{ endpoints: [\"127.0.0.1:{dead}\", \"{}\"], {more} }} }}\n",
            alive.addr()
        ));
        let endpoint = || {
            drop(connect(sluice.addr("a")));
            sluice.items("/clusters")[0]["endpoints"][0].clone()
        };
        let found = wait::until("the dead one to be found", || {
            Some(endpoint()).filter(|endpoint| !endpoint["trouble"][key].is_null())
        });
        let trouble = &found["trouble"][key];
        assert!(trouble["cause"].as_str().unwrap().contains(cause), "{found}");
        assert!(trouble["since"].as_str().unwrap().ends_with('Z'), "{found}");
        assert!(sluice.items("/clusters")[0]["endpoints"][1]["trouble"].is_null());
    }
}

#[test]
fn connections_show_the_requests_in_flight_with_their_bytes() {
    // Accepts a WebSocket, then echoes what it receives.
    let server = sluice_testkit::peers::Server::start(|mut stream| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")?;
        let mut buffer = [0; 64];
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(()),
                count => stream.write_all(&buffer[..count])?,
            }
        }
    });
    let sluice = Sluice::new().start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: chat }}] }}] }}\n\
         clusters: {{ chat: {{ endpoints: [\"{}\"] }} }}\n",
        server.addr()
    ));
    let mut client = connect(sluice.addr("web"));
    write!(client, "GET /room/1?token=hidden HTTP/1.1\r\nhost: chat.example\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n").unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(sluice_testkit::peers::read(&mut client, 1));
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    assert_eq!(sluice_testkit::peers::exchange(&mut client, b"0123456789"), b"0123456789");
    let request = wait::until("the bytes to be shown", || {
        let request = sluice.items("/connections")[0]["requests"][0].clone();
        (request["sent_bytes"] == 10).then_some(request)
    });
    for (key, value) in [
        ("protocol", "HTTP/1.1"),
        ("method", "GET"),
        ("host", "chat.example"),
        // The query may contain secrets.
        ("path", "/room/1"),
        ("cluster", "chat"),
        ("endpoint", &*server.addr().to_string()),
    ] {
        assert_eq!(request[key], value, "{request}");
    }
    assert_eq!(request["received_bytes"], 10, "{request}");
    drop(client);
    wait::until("the connection to leave", || {
        sluice.items("/connections").is_empty().then_some(())
    });
}

#[test]
fn values_from_outside_are_shown_as_placeholders_everywhere() {
    let kit = Sluice::new().expect_warning("reload failed");
    std::fs::write(kit.folder().join("key"), "secret-one\n").unwrap();
    std::fs::write(kit.folder().join("path"), "/secret-two").unwrap();
    let yaml = r#"
listeners:
  - name: web
    address: 127.0.0.1:0
    http:
      routes: web
      filters: [{ set_headers: { request: { x-a: { file: key }, authorization: { file: key } } } }]
routes:
  web:
    rules:
      - { match: { headers: { x-key: { file: key } } }, respond: { body: { file: key } } }
      - { match: { path: { file: path } }, respond: { body: "${SLUICE_TEST_UNSET}" } }
      - { match: { path: "${SLUICE_TEST_UNSET:-/other}" }, cluster: app }
clusters: { app: { endpoints: "127.0.0.1:${SLUICE_TEST_UNSET:-1}", connect_timeout: "${SLUICE_TEST_UNSET:-1000ms}" } }
"#;
    let sluice = kit.start(yaml);
    let explain = || {
        let path = sluice.folder().join("sluice.yaml");
        let mut command = tools::command(Sluice::binary().to_str().unwrap());
        tools::must(command.args(["explain", "-c"]).arg(path))
    };
    let explained = explain();
    for (what, text, placeholders) in [
        ("explain", explained.clone(), 5),
        ("/config", sluice.page("/config?format=json").1, 5),
        ("/routes", sluice.page("/routes?format=json").1, 2),
        ("/try", sluice.page("/try?host=a&path=/other").1, 0),
    ] {
        assert!(!text.contains("secret-"), "{what} shows a secret:\n{text}");
        let seen = text.matches("file").count();
        assert!(seen >= placeholders, "{what} shows {seen} placeholders:\n{text}");
    }
    for written in [
        "\"127.0.0.1:${SLUICE_TEST_UNSET:-1}\"",
        "\"${SLUICE_TEST_UNSET:-1000ms}\"",
        "body: \"${SLUICE_TEST_UNSET}\"",
    ] {
        assert!(explained.contains(written), "{explained}");
    }
    std::fs::write(sluice.folder().join("long.yaml"), &explained).unwrap();
    let mut command = tools::command(Sluice::binary().to_str().unwrap());
    let again = tools::must(command.args(["explain", "-c"]).arg(sluice.folder().join("long.yaml")));
    assert_eq!(again, explained);
    // What is wrong with the value of a placeholder is said without the value.
    let wrong = yaml.replace("cluster: app", "cluster: { file: key }");
    assert_eq!(sluice.reload(&wrong), "failed");
    let failure = sluice.items("/config")[0]["last_failure"].as_str().unwrap().to_owned();
    assert!(failure.contains("no cluster `{ file: key }`"), "{failure}");
    assert!(!failure.contains("secret-") && !sluice.log().contains("secret-"), "{failure}");
}
