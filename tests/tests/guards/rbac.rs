//! Who may do what: the filter `rbac`, for requests and for connections.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};

use sluice_testkit::origin::{Client, Message};
use sluice_testkit::peers::{Server, connect, exchange, read_to_end, udp_client};
use sluice_testkit::tls::Offer;
use sluice_testkit::{Authority, Origin, Running, Sluice, http3, tools, wait};

/// A listener for HTTP with this filter, and rules with their own settings.
fn start(origin: &Origin, rbac: &str) -> Running {
    Sluice::new().start(&format!(
        "listeners:\n\
         \x20 - name: web\n\
         \x20   address: 127.0.0.1:0\n\
         \x20   http: {{ routes: main, trusted_hops: 1, filters: [{{ rbac: {rbac} }}] }}\n\
         routes:\n\
         \x20 main:\n\
         \x20   - rules:\n\
         \x20       - {{ name: open, match: {{ path: /open/* }}, cluster: up, filters: {{ rbac: skip }} }}\n\
         \x20       - {{ name: get, match: {{ path: /get/* }}, cluster: up, filters: {{ rbac: {{ allow: {{ readers: {{ permissions: {{ method: GET }} }} }} }} }} }}\n\
         \x20       - {{ name: rest, cluster: up }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n\
         access_log: [{{ sink: records.json, format: {{ json: {{ listener: \"%LISTENER%\", reason: \"%REASON%\", path: \"%PATH%\", why: \"%RESPONSE_CODE_DETAILS%\", policy: \"%VALUE(rbac.policy)%\", shadow: \"%VALUE(rbac.shadow)%\", log: \"%VALUE(rbac.log)%\" }} }} }}]\n",
        origin.addr()
    ))
}

fn ask(sluice: &Running, method: &str, path: &str, fields: &str) -> Message {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n");
    Client::connect(sluice.addr("web")).ask(&request)
}

/// How many decisions were counted.
fn count(sluice: &Running, rules: &str, policy: &str, result: &str) -> i64 {
    let labels = format!("rules=\"{rules}\",policy=\"{policy}\",result=\"{result}\"");
    sluice.metric("sluice_rbac_decisions_total", &labels)
}

#[test]
fn policies_decide_and_the_client_learns_nothing_of_them() {
    let origin = Origin::start("o");
    let sluice = start(
        &origin,
        "{ deny: { outside-admin: { principals: { not: { source: 10.0.0.0/8 } }, permissions: { path: /admin/* } } }, \
           allow: { everybody-reads: { permissions: { method: [GET, HEAD] } }, staff: { principals: { headers: { x-team: staff } } } }, \
           log: { exports: { permissions: { path: /export/* } } }, \
           shadow: { deny: { no-curl: { principals: { headers: { user-agent: { prefix: curl } } } } } } }",
    );
    let from = |source: &str| format!("X-Forwarded-For: {source}\r\n");
    let status =
        |method: &str, path: &str, fields: &str| ask(&sluice, method, path, fields).status();
    assert_eq!(status("GET", "/a", ""), 200);
    assert_eq!(status("POST", "/a", ""), 403);
    assert_eq!(status("POST", "/a", "X-Team: staff\r\n"), 200);
    assert_eq!(status("POST", "/a", "X-Team: staff\r\nX-Team: other\r\n"), 403);
    assert_eq!(status("GET", "/admin/x", &from("10.1.2.3")), 200);
    for path in ["/admin/x", "/admin%2Fx", "//admin/x", "/a/../admin", "/a/..;/admin", "/%61dmin"] {
        let refused = ask(&sluice, "GET", path, &from("192.0.2.1"));
        assert_eq!((refused.status(), refused.text().as_str()), (403, "RBAC: access denied\n"));
        assert!(!format!("{refused:?}").contains("outside-admin"), "{refused:?}");
    }
    let record = sluice.record("a refusal", |record| record["path"] == "//admin/x");
    assert_eq!(record["why"], "rbac_access_denied_matched_policy[outside-admin]", "{record}");
    assert_eq!(
        (&record["reason"], &record["policy"]),
        (&"http.denied".into(), &"outside-admin".into())
    );
    let record = sluice.record("no policy", |record| {
        record["why"].as_str().is_some_and(|why| why.contains("[none]"))
    });
    assert_eq!(record["path"], "/a");
    // What is logged or shadowed is served.
    assert_eq!(status("GET", "/export/all", "User-Agent: curl/8\r\n"), 200);
    let record = sluice.record("the export", |record| record["path"] == "/export/all");
    assert_eq!(record["log"], "exports", "{record}");
    assert_eq!(
        (&record["shadow"], &record["policy"]),
        (&"denied by no-curl".into(), &"everybody-reads".into())
    );
    assert_eq!(count(&sluice, "enforced", "outside-admin", "denied"), 6);
    assert_eq!(count(&sluice, "enforced", "none", "denied"), 2);
    assert_eq!(count(&sluice, "enforced", "staff", "allowed"), 1);
    assert_eq!(count(&sluice, "shadow", "no-curl", "denied"), 1);
    assert_eq!(count(&sluice, "log", "exports", "matched"), 1);
}

#[test]
fn a_rule_has_policies_of_its_own_or_none() {
    let origin = Origin::start("o");
    let sluice = start(&origin, "{ deny: { all: { permissions: { path: /* } } } }");
    for (method, path, status) in [
        ("GET", "/a", 403),
        ("POST", "/open/a", 200),
        ("GET", "/get/a", 200),
        ("POST", "/get/a", 403),
        ("GET", "/open%2Fa", 403),
    ] {
        assert_eq!(ask(&sluice, method, path, "").status(), status, "{method} {path}");
    }
}

#[test]
fn policies_beyond_the_limit_share_a_series() {
    let origin = Origin::start("o");
    let policies: Vec<String> =
        (0..20).map(|at| format!("p{at}: {{ permissions: {{ path: /p{at} }} }}")).collect();
    let sluice = Sluice::new().workers(1).start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ rbac: {{ allow: {{ {} }} }} }}] }} }}]\n\
         routes: {{ main: {{ cluster: up }} }}\nclusters: {{ up: \"{}\" }}\nlimits: {{ rbac_series: 2 }}\n",
        policies.join(", "),
        origin.addr()
    ));
    for at in 0..20 {
        assert_eq!(ask(&sluice, "GET", &format!("/p{at}"), "").status(), 200);
    }
    assert_eq!(count(&sluice, "enforced", "p1", "allowed"), 1);
    assert_eq!(count(&sluice, "enforced", "p2", "allowed"), 0);
    assert_eq!(count(&sluice, "enforced", "other", "allowed"), 18);
}

#[test]
fn clients_are_told_by_their_certificates() {
    let (origin, echo) = (Origin::start("o"), Server::echo());
    let kit = Sluice::new();
    let authority = Authority::new(kit.folder());
    authority.issue("server", &["a.test", "b.test"]);
    authority.issue("shop", &["spiffe://example.com/shop/web"]);
    authority.issue("shopping", &["spiffe://example.com/shopping", "x.shop.test"]);
    let (ca, folder) = (kit.folder().join("ca.pem"), kit.folder().to_owned());
    let rbac = "rbac: { allow: { shop: { principals: { certificate: \"spiffe://example.com/shop/*\" } } } }";
    let tls = "tls: { certificates: [{ cert: server.pem, key: server.key }], client_auth: { ca: ca.pem, mode: optional } }";
    let sluice = kit.start(&format!(
        "listeners:\n\
         \x20 - {{ name: web, address: 127.0.0.1:0, {tls}, http: {{ routes: main, filters: [{{ {rbac} }}] }} }}\n\
         \x20 - name: raw\n\
         \x20   address: 127.0.0.1:0\n\
         \x20   chains: [{{ {tls}, filters: [{{ {rbac} }}], relay: echo }}]\n\
         routes: {{ main: {{ cluster: up }} }}\n\
         clusters: {{ up: \"{}\", echo: \"{}\" }}\n",
        origin.addr(),
        echo.addr()
    ));
    let certificates = ["shop", "shopping"].map(|name| folder.join(name));
    for (certificate, passes) in
        [(Some(&certificates[0]), true), (Some(&certificates[1]), false), (None, false)]
    {
        let offer =
            |name| Offer { certificate: certificate.map(|path| &**path), ..Offer::of(name, &ca) };
        let mut web = offer("a.test").connect(sluice.addr("web"));
        web.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        let _ = web.read_to_string(&mut text);
        let expected = if passes { "HTTP/1.1 200" } else { "HTTP/1.1 403" };
        assert!(text.starts_with(expected), "{certificate:?}: {text}");
        let mut raw = offer("b.test").connect(sluice.addr("raw"));
        let mut echoed = [0; 4];
        let said = raw.write_all(b"ping").and_then(|()| raw.read_exact(&mut echoed));
        assert_eq!(said.is_ok() && echoed == *b"ping", passes, "{certificate:?}");
    }
    let record = sluice.record_of("accept.denied");
    assert_eq!(record["detail"], "rbac: no policy allows it");
}

#[test]
fn the_certificate_of_a_quic_client_is_judged_after_the_handshake() {
    let origin = Origin::start("o");
    let kit = Sluice::new();
    let authority = Authority::new(kit.folder());
    authority.issue("server", &["a.test"]);
    authority.issue("shop", &["spiffe://example.com/shop/web"]);
    authority.issue("guest", &["spiffe://example.com/guest"]);
    let folder = kit.folder().to_owned();
    let rules = |rules: &str| {
        format!(
            "address: 127.0.0.1:0, quic: true, chains: [{{ \
             tls: {{ certificates: [{{ cert: server.pem, key: server.key }}], client_auth: {{ ca: ca.pem, mode: optional }} }}, \
             filters: [{{ rbac: {{ {rules} }} }}], http: {{ routes: main }} }}]"
        )
    };
    let guests = "guests: { principals: { certificate: \"spiffe://example.com/guest\" } }";
    let shop = "shop: { principals: { certificate: \"spiffe://example.com/shop/*\" } }";
    let sluice = kit.start(&format!(
        "listeners:\n\
         \x20 - {{ name: denies, {} }}\n\
         \x20 - {{ name: allows, {} }}\n\
         routes: {{ main: {{ cluster: up }} }}\n\
         clusters: {{ up: \"{}\" }}\n",
        rules(&format!("deny: {{ {guests} }}")),
        rules(&format!("allow: {{ {shop} }}")),
        origin.addr()
    ));
    for (certificate, denies, allows) in
        [(Some("shop"), true, true), (Some("guest"), false, false), (None, true, false)]
    {
        let certificate = certificate.map(|name| folder.join(name));
        for (listener, passes) in [("denies", denies), ("allows", allows)] {
            let ca = folder.join("ca.pem");
            let asked = http3::run_as(&ca, certificate.as_deref(), None, async |client| {
                let connection = client.connect(sluice.addr(listener), "a.test").await?;
                connection.ask("GET", "/").await
            });
            let status = asked.map(|answer| answer.status);
            assert_eq!(matches!(status, Ok(200)), passes, "{listener} {certificate:?}: {status:?}");
        }
    }
    let denied = |record: &&serde_json::Value| record["reason"] == "accept.denied";
    wait::until("the records of three", || {
        (sluice.records().iter().filter(denied).count() == 3).then_some(())
    });
}

#[test]
fn connections_and_flows_are_judged_by_addresses_and_server_names() {
    let echo = Server::echo();
    let udp = sluice_testkit::peers::UdpServer::echo("");
    let sluice = Sluice::new().start(&format!(
        "listeners:\n\
         \x20 - name: near\n\
         \x20   address: 127.0.0.1:0\n\
         \x20   filters: [{{ rbac: {{ deny: {{ far: {{ principals: {{ not: {{ source: 127.0.0.0/8 }} }} }} }} }} }}]\n\
         \x20   relay: echo\n\
         \x20 - name: far\n\
         \x20   address: 127.0.0.1:0\n\
         \x20   filters: [{{ rbac: {{ deny: {{ local: {{ principals: {{ peer: 127.0.0.0/8 }} }} }} }} }}]\n\
         \x20   relay: echo\n\
         \x20 - name: flows\n\
         \x20   address: udp://127.0.0.1:0\n\
         \x20   filters: [{{ rbac: {{ allow: {{ nobody: {{ principals: {{ source: 192.0.2.0/24 }} }} }} }} }}]\n\
         \x20   relay: udp\n\
         \x20 - name: passed\n\
         \x20   address: 127.0.0.1:0\n\
         \x20   chains: [{{ filters: [{{ rbac: {{ allow: {{ names: {{ permissions: {{ sni: \"*.open.test\" }} }} }} }} }}], match: {{ transport: tls }}, relay: echo }}]\n\
         clusters: {{ echo: \"{}\", udp: \"{}\" }}\n",
        echo.addr(),
        udp.addr()
    ));
    let mut near = connect(sluice.addr("near"));
    assert_eq!(exchange(&mut near, b"ping"), b"ping");
    let mut far = connect(sluice.addr("far"));
    let _ = far.write_all(b"ping");
    assert!(read_to_end(&mut far).1.is_empty());
    let record = sluice.record("the refusal", |record| record["listener"] == "far");
    assert_eq!(record["detail"], "rbac: denied by the policy local", "{record}");
    assert_eq!(record["reason"], "accept.denied");
    let client = udp_client();
    client.send_to(b"ping", sluice.addr("flows")).unwrap();
    let record = sluice.record("the flow", |record| record["listener"] == "flows");
    assert_eq!(
        (&record["reason"], &record["detail"]),
        (&"accept.denied".into(), &"rbac: no policy allows it".into())
    );
    for (name, passes) in [("a.open.test", true), ("open.test", false), ("a.shut.test", false)] {
        let hello = client_hello(name);
        let mut client = connect(sluice.addr("passed"));
        client.write_all(&hello).unwrap();
        let mut echoed = vec![0; hello.len()];
        assert_eq!(client.read_exact(&mut echoed).is_ok() && echoed == hello, passes, "{name}");
    }
    wait::until("the decisions to be counted", || {
        (count(&sluice, "enforced", "none", "denied") == 3).then_some(())
    });
    assert_eq!(count(&sluice, "enforced", "names", "allowed"), 1);
    drop(near);
}

/// The ClientHello of a client that asks for `name`.
fn client_hello(name: &str) -> Vec<u8> {
    let kit = tempfile::tempdir().unwrap();
    Authority::new(kit.path());
    let ca = kit.path().join("ca.pem");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let name = name.to_owned();
    let client = std::thread::spawn(move || {
        let _ = Offer::of(&name, &ca).connect(address).write_all(b"x");
    });
    let (mut stream, _) = listener.accept().unwrap();
    let mut record = [0; 5];
    stream.read_exact(&mut record).unwrap();
    let mut rest = vec![0; usize::from(u16::from_be_bytes([record[3], record[4]]))];
    stream.read_exact(&mut rest).unwrap();
    drop(stream);
    client.join().unwrap();
    [&record[..], &rest].concat()
}

#[test]
fn expressions_judge_requests_and_connections() {
    let origin = Origin::start("o");
    let sluice = start(
        &origin,
        r#"{ deny: { spoofed: { permissions: { when: "has(request.headers.x_port) && int(request.headers.x_port) != destination.port" } } },
             allow: { known: { principals: { when: "request.useragent.matches('^shop/[0-9]+') && source.address.startsWith('10.')" } } } }"#,
    );
    let port = sluice.addr("web").port();
    let status = |path: &str, agent: &str, source: &str, port: &str| {
        let fields = format!("User-Agent: {agent}\r\nX-Forwarded-For: {source}\r\n{port}");
        ask(&sluice, "GET", path, &fields).status()
    };
    assert_eq!(status("/a", "shop/1", "10.0.0.1", ""), 200);
    assert_eq!(status("/b", "curl", "10.0.0.1", ""), 403);
    assert_eq!(status("/c", "shop/1", "192.0.2.1", ""), 403);
    assert_eq!(status("/d", "shop/1", "10.0.0.1", &format!("X_Port: {port}\r\n")), 200);
    assert_eq!(status("/e", "shop/1", "10.0.0.1", "X_Port: 1\r\n"), 403);
    assert_eq!(status("/f", "shop/1", "10.0.0.1", "X_Port: none\r\n"), 403, "it fails");
    assert_eq!(sluice.record("/e", |record| record["path"] == "/e")["policy"], "spoofed");

    let refusing = Sluice::new().start(&format!(
        "listeners: [{{ name: db, address: 127.0.0.1:0, filters: [{{ rbac: {{ deny: {{ local: {{ principals: {{ when: \"source.address.startsWith('127.0.0.1:') && destination.port > 0\" }} }} }} }} }}], relay: up }}]\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        origin.addr()
    ));
    assert!(read_to_end(&mut connect(refusing.addr("db"))).1.is_empty());
    refusing.record_of("accept.denied");
}

#[test]
fn an_operator_asks_which_policy_would_decide() {
    let origin = Origin::start("o");
    let sluice = start(
        &origin,
        "{ deny: { outside-admin: { principals: { not: { source: 10.0.0.0/8 } }, permissions: { path: /admin/* } } }, \
           allow: { readers: { permissions: { method: GET } }, ann: { principals: { identity: \"jwt:corp/ann\" } }, \
                    billing: { principals: { certificate: \"spiffe://example.com/billing\" } } }, \
           shadow: { deny: { old: { principals: { headers: { user-agent: { prefix: \"shop/1.\" } } } } } } }",
    );
    let ask = |arguments: &[&str]| {
        let admin = sluice.admin_addr().to_string();
        let mut command = tools::command(Sluice::binary().to_str().unwrap());
        command.args(["try", "-a", &admin, "--format", "json"]).args(arguments);
        let answer: serde_json::Value = serde_json::from_str(&tools::must(&mut command)).unwrap();
        answer["items"][0].clone()
    };
    for (arguments, policy, refused) in [
        (&["a.test/x"][..], "readers", false),
        (&["-X", "POST", "a.test/x"], "none", true),
        (&["-X", "POST", "--as", "jwt:corp/ann", "a.test/x"], "ann", false),
        (&["-X", "POST", "--as", "jwt:corp/bob", "a.test/x"], "none", true),
        (&["-X", "POST", "--as", "basic:corp/ann", "a.test/x"], "none", true),
        (
            &["-X", "POST", "--as", "certificate:spiffe://example.com/billing", "a.test/x"],
            "billing",
            false,
        ),
        (&["--source", "192.0.2.1", "a.test/admin%2Fusers"], "outside-admin", true),
        (
            &["--source", "192.0.2.1", "-H", "x-forwarded-for: 10.1.2.3", "a.test/admin/users"],
            "readers",
            false,
        ),
    ] {
        let item = ask(arguments);
        let decision = &item["decisions"][0];
        assert_eq!(
            (&decision["filter"], &decision["rbac.policy"], &decision["refused"]),
            (&"rbac".into(), &policy.into(), &refused.into()),
            "{arguments:?}: {item}"
        );
        assert_eq!(decision["rbac.shadow"], "allowed by none", "{arguments:?}: {item}");
        let result = item["result"].as_str() == Some("`rbac` refuses the request: 403");
        assert_eq!(result, refused, "{arguments:?}: {item}");
        assert_eq!(item["rule"], "rest", "{arguments:?}: {item}");
    }
    // The settings of the rule count.
    assert_eq!(ask(&["a.test/open/x"])["decisions"], serde_json::Value::Null);
    assert_eq!(ask(&["-X", "PUT", "a.test/get/x"])["decisions"][0]["refused"], true);
    let old = ask(&["-H", "user-agent: shop/1.2", "a.test/"]);
    assert_eq!(old["decisions"][0]["rbac.shadow"], "denied by old");
    let text = sluice.page("/try?as=ann").1;
    assert!(text.contains("jwt:PROVIDER/SUBJECT"), "{text}");
    let text = sluice.page("/try?as=certificate:a&client_certificate=CN=b").1;
    assert!(text.contains("both name a certificate"), "{text}");
    // What is only asked about is not counted.
    assert_eq!(count(&sluice, "enforced", "none", "denied"), 0);
}
