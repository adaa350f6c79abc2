//! Samples of guards: who may ask, for what, and how often.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::io::Write as _;

use serde_json::json;
use sluice_testkit::origin::read_message;
use sluice_testkit::peers::Server;
use sluice_testkit::tokens::{KeyServer, SigningKey, in_seconds, key_set};
use sluice_testkit::{Browser, IdentityProvider, Origin, Sluice, tools};
use sluice_tests::databases::Redis;
use sluice_tests::sample;

use super::{addr, commands_of};

#[test]
fn tokens() {
    let (shop, key) = (Origin::start("shop"), SigningKey::new("ES256", "k"));
    let id = KeyServer::start(key_set([&key]));
    let sluice = Sluice::new().start(&sample(
        "tokens.yaml",
        &[
            ("127.0.0.1:8080", "127.0.0.1:0".into()),
            ("127.0.0.10:8080", shop.addr().to_string()),
            ("127.0.0.11:8080", id.addr().to_string()),
        ],
    ));
    let token = |roles: &[&str]| {
        let claims = json!({
            "iss": "https://id.example.com", "aud": ["shop"], "sub": "ann", "exp": in_seconds(60),
            "realm_access": { "roles": roles },
        });
        format!("Authorization: Bearer {}\r\n", key.token(&claims))
    };
    let ask = |path: &str, fields: &str| {
        let mut client = sluice_testkit::origin::Client::connect(sluice.addr("web"));
        client.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).status()
    };
    assert_eq!((ask("/healthz", ""), ask("/", ""), ask("/admin/a", "")), (200, 401, 401));
    let user = token(&["user"]);
    assert_eq!((ask("/", &user), ask("/admin/a", &user)), (200, 403));
    assert_eq!(shop.requests().pop().unwrap().value("x-user"), "ann");
    assert_eq!(ask("/admin/a", &token(&["user", "admin"])), 200);
    for path in ["/admin%2Fa", "/x/..%2fadmin", "/admin;v=1/a"] {
        assert_eq!(ask(path, &user), 403, "{path}");
    }
    let record = sluice.record_of("http.denied");
    assert_eq!(record["identity"], "jwt:corp/ann");
}

#[test]
fn login() {
    let (shop, id) = (Origin::start("shop"), IdentityProvider::start());
    let sluice = Sluice::new().start(&sample(
        "login.yaml",
        &[
            ("127.0.0.1:8080", "127.0.0.1:0".into()),
            ("127.0.0.10:8080", shop.addr().to_string()),
            ("https://id.example.com", id.issuer()),
            ("[\"id.example.com:443\"], tls: {}", format!("[\"{}\"]", id.addr())),
        ],
    ));
    let mut browser = Browser::new(sluice.addr("web"));
    let statuses = |browser: &mut Browser| {
        ["/healthz", "/api/a", "/", "/admin/a"].map(|path| browser.get(path).status())
    };
    assert_eq!(statuses(&mut browser), [200, 401, 303, 303]);
    let roles = |role: &str| json!({ "realm_access": { "roles": [role] } });
    id.log_in(&mut browser, "/a", &roles("user"), &json!({}));
    assert_eq!(statuses(&mut browser), [200, 200, 200, 403]);
    assert_eq!(shop.requests().pop().unwrap().value("x-user"), "ann");
    id.log_in(&mut browser, "/oauth2/corp/login", &roles("admin"), &json!({}));
    assert_eq!(statuses(&mut browser), [200; 4]);
    assert_eq!(sluice.record_of("http.denied")["identity"], "oidc:corp/ann");
}

#[test]
fn tenants() {
    let (large, shared) = (Origin::start("large"), Origin::start("shared"));
    let sluice = Sluice::new().start(&sample(
        "tenants.yaml",
        &[
            ("127.0.0.1:8080\n", "127.0.0.1:0\n".into()),
            ("127.0.0.10:8080", large.addr().to_string()),
            ("127.0.0.11:8080", shared.addr().to_string()),
        ],
    ));
    let ask = |host: &str, path: &str, from: &str| {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-For: {from}\r\nX-Tenant: forged\r\nX-Cluster: forged\r\n\r\n"
        );
        let response = sluice_testkit::origin::Client::connect(sluice.addr("web")).ask(&request);
        (response.status(), response.value("x-origin").to_owned())
    };
    for (host, path, from, status, origin) in [
        ("shop.acme.example", "/", "203.0.113.1", 200, "large"),
        ("SHOP.Acme.example:80", "/", "203.0.113.1", 200, "large"),
        ("shop.globex.example", "/", "203.0.113.1", 200, "shared"),
        ("shop.globex.example", "/admin/x", "203.0.113.1", 403, ""),
        ("shop.globex.example", "/admin/x", "192.0.2.7", 200, "shared"),
        ("shop.acme.example", "/admin/x", "10.1.2.3", 200, "large"),
        ("acme.example.none", "/", "10.1.2.3", 404, ""),
    ] {
        let found = ask(host, path, from);
        assert_eq!(found, (status, origin.to_owned()), "{host}{path} from {from}");
    }
    let seen: BTreeSet<String> =
        large.requests().iter().map(|request| request.value("x-tenant").to_owned()).collect();
    assert_eq!(seen, BTreeSet::from(["acme".to_owned()]));
    let refused =
        |record: &serde_json::Value| record["path"] == "/admin/x" && record["status"] == 403;
    let record = sluice.record("the refusal", refused);
    assert_eq!(record["tenant"], "globex", "{record}");
}

#[test]
fn passwords() {
    let (intranet, orders) = (Origin::start("intranet"), Origin::start("orders"));
    let text = sample(
        "passwords.yaml",
        &[
            ("127.0.0.1:8080\n", "127.0.0.1:0\n".into()),
            ("127.0.0.10:8080", intranet.addr().to_string()),
            ("127.0.0.11:8080", orders.addr().to_string()),
        ],
    );
    let kit = Sluice::new();
    let users = commands_of(&text).find_map(|command| command.split('\'').nth(1)).unwrap();
    std::fs::write(kit.folder().join("htpasswd"), users).unwrap();
    let sluice = kit.start(&text);
    let ask = |host: &str, path: &str, fields: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}.example.com\r\n{fields}\r\n");
        sluice_testkit::origin::Client::connect(sluice.addr("web")).ask(&request)
    };
    let ann = "Authorization: Basic YW5uOnNlY3JldA==\r\nX-User: root\r\n";
    let key = "X-Api-Key: b1946ac92492d2347c6235b4d2611184\r\nX-Service-Key: mine\r\n";
    for (host, path, fields, status, origin) in [
        ("intranet", "/", "", 401, ""),
        ("intranet", "/", ann, 200, "intranet"),
        ("intranet", "/", "Authorization: Basic YW5uOm90aGVy\r\n", 401, ""),
        ("intranet", "/healthz", "", 200, "intranet"),
        ("api", "/orders/1", ann, 401, ""),
        ("api", "/orders/1", "X-Api-Key: other\r\n", 401, ""),
        ("api", "/orders/1", key, 200, "orders"),
    ] {
        let response = ask(host, path, fields);
        assert_eq!(
            (response.status(), response.value("x-origin")),
            (status, origin),
            "{host}{path}"
        );
    }
    assert_eq!(intranet.requests()[0].values("x-user"), ["ann"]);
    let request = &orders.requests()[0];
    assert_eq!(request.values("x-service-key"), ["only-the-gateway-knows"]);
    assert!(request.values("x-api-key").is_empty());
    for who in ["basic:ann", "api_key:acme"] {
        sluice.record(who, |record| record["identity"] == who);
    }
}

#[test]
fn a_service_that_decides() {
    let module = "envoy.service.auth.v3.external_auth_pb2_grpc";
    let service = sluice_tests::envoy_service("authz_server.py", module);
    let Some((_service, policies)) = service else { return };
    let (shop, wiki) = (Origin::start("shop"), Origin::start("wiki"));
    let logins = Server::start(|mut stream| {
        let asked = read_message(&mut std::io::BufReader::new(stream.try_clone()?), false)?;
        let answer = match (asked.path(), asked.value("cookie")) {
            ("/auth/page", "user=ann") => "204 A\r\nX-User: ann\r\n",
            _ => "302 B\r\nLocation: https://login.example.com/\r\nContent-Length: 0\r\n",
        };
        stream.write_all(format!("HTTP/1.1 {answer}Connection: close\r\n\r\n").as_bytes())
    });
    let sluice = Sluice::new().start(&sample(
        "authorise.yaml",
        &[
            ("127.0.0.1:8080\n", "127.0.0.1:0\n".into()),
            ("127.0.0.10:8080", shop.addr().to_string()),
            ("127.0.0.11:8080", wiki.addr().to_string()),
            ("127.0.0.12:9191", policies.to_string()),
            ("127.0.0.13:8080", addr(&logins)),
            ("timeout: 200ms", "timeout: 60s".into()),
            ("protocol: http,", "protocol: http, timeout: 60s,".into()),
        ],
    ));
    let ask = |host: &str, head: &str| {
        let request = head.replacen("\r\n", &format!("\r\nHost: {host}.example.com\r\n"), 1);
        let response = sluice_testkit::origin::Client::connect(sluice.addr("web")).ask(&request);
        (response.status(), response.value("x-origin").to_owned())
    };
    for (host, head, status, origin) in [
        ("shop", "GET /allow HTTP/1.1\r\n\r\n", 200, "shop"),
        ("shop", "GET /deny HTTP/1.1\r\n\r\n", 401, ""),
        ("shop", "GET /healthz HTTP/1.1\r\n\r\n", 200, "shop"),
        ("wiki", "GET /page HTTP/1.1\r\n\r\n", 302, ""),
        ("wiki", "GET /page HTTP/1.1\r\nCookie: user=ann\r\nX-User: root\r\n\r\n", 200, "wiki"),
    ] {
        assert_eq!(ask(host, head), (status, origin.to_owned()), "{host}: {head}");
    }
    assert_eq!(wiki.requests()[0].values("x-user"), ["ann"]);
    // Workers write their records in no order: each is found by all that it must say.
    for (rule, service) in [("shop", "policies"), ("wiki", "logins")] {
        sluice.record(&format!("a denied request of {rule}"), |record| {
            let called = record["calls"].to_string().contains(service);
            record["rule"] == rule && record["decision"] == "denied" && called
        });
    }
}

#[test]
fn browsers() {
    let api = Origin::start("api");
    let sluice = Sluice::new().start(&sample(
        "browsers.yaml",
        &[
            ("127.0.0.1:8080\n", "127.0.0.1:0\n".into()),
            ("127.0.0.10:8080", api.addr().to_string()),
        ],
    ));
    let app = "https://app.example.com";
    for (method, path, origin, status, readable) in [
        ("OPTIONS", "/orders", app, 204, app),
        ("OPTIONS", "/orders", "https://evil.example", 403, ""),
        ("POST", "/orders", app, 200, app),
        ("POST", "/orders", "https://a.preview.example.com", 200, "https://a.preview.example.com"),
        ("POST", "/orders", "https://evil.example", 403, ""),
        ("GET", "/orders", "https://evil.example", 200, ""),
        ("GET", "/public/font", "https://evil.example", 200, "*"),
        ("POST", "/hooks/paid", "", 200, ""),
        ("POST", "/orders", "", 403, ""),
    ] {
        let origin =
            if origin.is_empty() { String::new() } else { format!("Origin: {origin}\r\n") };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: h\r\n{origin}Access-Control-Request-Method: PUT\r\nContent-Length: 0\r\n\r\n"
        );
        let response = sluice_testkit::origin::Client::connect(sluice.addr("web")).ask(&request);
        let found = (response.status(), response.value("access-control-allow-origin"));
        assert_eq!(found, (status, readable), "{method} {path} {origin}");
    }
}

#[test]
fn authorisation() {
    let origin = Origin::start("shop");
    let sluice = Sluice::new().start(&sample(
        "authorisation.yaml",
        &[
            ("127.0.0.1:8080\n", "127.0.0.1:0\n".into()),
            ("127.0.0.10:8080", origin.addr().to_string()),
        ],
    ));
    let ask = |method: &str, path: &str, from: &str| {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {from}\r\nUser-Agent: shop/1.0\r\nContent-Length: 0\r\n\r\n"
        );
        sluice_testkit::origin::Client::connect(sluice.addr("web")).ask(&request).status()
    };
    for (method, path, from, status) in [
        ("GET", "/admin/users", "10.1.2.3", 200),
        ("GET", "/admin%2Fusers", "192.0.2.1", 403),
        ("GET", "/items", "192.0.2.1", 200),
        ("POST", "/items", "192.0.2.1", 403),
        ("POST", "/items", "10.1.2.3", 200),
        ("POST", "/hooks/a", "192.0.2.1", 200),
    ] {
        assert_eq!(ask(method, path, from), status, "{method} {path} from {from}");
    }
    let record = sluice.record("the refusal", |record| record["path"] == "/admin%2Fusers");
    assert_eq!(record["policy"], "admin-from-outside", "{record}");
    assert_eq!(record["shadow"], "denied by old-clients");
}

#[test]
fn limits_of_a_fleet() {
    let modules = ["grpc", "envoy.service.ratelimit.v3.rls_pb2_grpc"];
    if !tools::have_modules(&modules) || !Redis::is_there() {
        return;
    }
    let redis = Redis::start(&[]);
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/rate_server.py");
    let (_service, limits) = tools::serve_on_its_port(&mut tools::python(&script));
    let origin = Origin::start("shop");
    let sluice = Sluice::new().start(&sample(
        "limits.yaml",
        &[
            ("127.0.0.1:8080\n", "127.0.0.1:0\n".into()),
            ("127.0.0.10:8080", origin.addr().to_string()),
            ("127.0.0.10:8081", limits.to_string()),
            ("domain: shop\n", "domain: shop\n            timeout: 20s\n".into()),
            ("limit: 100/m", "limit: 2/m".into()),
            ("10000/d", "4/d".into()),
            ("redis: counters", "redis: { cluster: counters, timeout: 20s }".into()),
            ("127.0.0.10:6379", redis.addr().to_string()),
        ],
    ));
    let ask = |path: &str, user: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-User: {user}\r\n\r\n");
        sluice_testkit::origin::Client::connect(sluice.addr("web")).ask(&request)
    };
    let statuses = ["ann", "ann", "ann", "bob"].map(|user| ask("/", user).status());
    assert_eq!(statuses, [200, 200, 429, 200]);
    assert!(ask("/", "ann").value("ratelimit").contains("r=0"));
    // The quota counts those that the service refuses, too.
    assert_eq!(ask("/", "ann").status(), 429);
    let record = sluice.record_of("http.rate");
    assert_eq!(record["path"], "/", "{record}");
    assert_eq!(ask("/health", "ann").status(), 200);
}
