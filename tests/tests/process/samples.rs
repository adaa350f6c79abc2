//! Every sample in `config/`, loaded and exercised with real peers.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::Stdio;

use serde_json::json;
use sluice_testkit::mmdb::{self, MmdbValue};
use sluice_testkit::origin::read_message;
use sluice_testkit::peers::{Server, UdpServer, connect, exchange, read, read_to_end, udp_client};
use sluice_testkit::tokens::{KeyServer, SigningKey, in_seconds, key_set};
use sluice_testkit::{
    Authority, Browser, IdentityProvider, Origin, Running, Sluice, libraries, tools, wait,
};
use sluice_tests::databases::Redis;
use sluice_tests::h3::{Client, head, status};
use sluice_tests::{certs_beside, dnsmasq, sample};

fn addr(server: &Server) -> String {
    server.addr().to_string()
}

/// The output of `openssl s_client` for a TLS server after sending `say`, and whether it succeeded.
fn s_client(
    address: std::net::SocketAddr,
    name: &str,
    ca: &std::path::Path,
    more: &[&str],
    say: &str,
) -> (bool, String) {
    let mut command = tools::command("openssl");
    command.args([
        "s_client",
        "-quiet",
        "-verify_quiet",
        "-verify_return_error",
        "-connect",
        &address.to_string(),
    ]);
    command.args(["-servername", name, "-verify_hostname", name, "-CAfile"]).arg(ca).args(more);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("openssl starts");
    // It may have failed before reading its input.
    let _ = child.stdin.as_mut().expect("a pipe").write_all(say.as_bytes());
    let output = child.wait_with_output().expect("openssl ends");
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

/// `openssl s_server` that responds to HTTP with a page that names it.
fn s_server(
    folder: &std::path::Path,
    file: &str,
    more: &[&str],
) -> (tools::Process, std::net::SocketAddr) {
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], tools::free_port()));
    let mut command = tools::command("openssl");
    command.args(["s_server", "-quiet", "-www", "-accept", &address.to_string()]);
    command
        .current_dir(folder)
        .args(["-cert", &format!("{file}.pem"), "-key", &format!("{file}.key")])
        .args(more);
    (tools::serve(&mut command, address), address)
}

#[test]
fn every_sample_has_a_test() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let tests = std::fs::read_to_string(here.join("tests/process/samples.rs")).unwrap()
        + &std::fs::read_to_string(here.join("tests/relay/postgres.rs")).unwrap()
        + &std::fs::read_to_string(here.join("tests/relay/databases.rs")).unwrap();
    for entry in std::fs::read_dir(here.join("../config")).unwrap() {
        let entry = entry.unwrap();
        // Certificates created for the samples.
        if entry.path().is_dir() {
            continue;
        }
        let name = entry.file_name().into_string().unwrap();
        assert!(tests.contains(&format!("\"{name}\"")), "no test drives config/{name}");
    }
}

/// The commands in the header of a sample that create its certificates and passwords.
fn commands_of(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter_map(|line| line.strip_prefix("#   "))
        .filter(|of| of.starts_with("sluice cert ") || of.starts_with("echo "))
}

#[test]
fn every_sample_passes_check_after_the_commands_in_its_header() {
    let samples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
    let mut made = 0;
    for entry in std::fs::read_dir(samples).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_dir() {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("config")).unwrap();
        let text = std::fs::read_to_string(entry.path()).unwrap();
        std::fs::write(folder.path().join("config").join(&name), &text).unwrap();
        // What nobody can create by a command.
        if text.contains("GeoLite2-Country.mmdb") {
            std::fs::write(folder.path().join("config/GeoLite2-Country.mmdb"), countries())
                .unwrap();
        }
        if text.contains("libtag.so") {
            let config = folder.path().join("config");
            let examples = ["tag.c", "tally.cpp", "words.cpp"].map(libraries::example);
            if examples.iter().any(|of| libraries::compile(of, &config).is_none()) {
                continue;
            }
        }
        let check = format!("sluice check --strict --offline config/{name}");
        for command in commands_of(&text).chain([&*check]) {
            made += usize::from(command.starts_with("sluice cert"));
            let command = command.replacen("sluice", "\"$SLUICE\"", 1);
            let mut shell = std::process::Command::new("sh");
            shell.args(["-c", &command]).env("SLUICE", Sluice::binary()).current_dir(folder.path());
            let output = tools::run(&mut shell);
            assert!(output.status.success(), "{name}: {command}: {output:?}");
        }
    }
    assert!(made > 5, "{made} certificates");
}

#[test]
fn database() {
    let servers = ["primary", "standby", "another"].map(Server::greeter);
    let [primary, standby, another] = &servers;
    let sluice = Sluice::new().start(&sample(
        "database.yaml",
        &[
            ("127.0.0.1:6432", "127.0.0.1:0".into()),
            ("127.0.0.1:6433", "127.0.0.1:0".into()),
            ("127.0.0.10:5432", addr(primary)),
            ("127.0.0.11:5432", addr(standby)),
            ("127.0.0.12:5432", addr(another)),
        ],
    ));
    let seen = |listener: &str| {
        let mut seen: Vec<Vec<u8>> =
            (0..40).map(|_| read(&mut connect(sluice.addr(listener)), 7)).collect();
        seen.sort();
        seen.dedup();
        seen
    };
    assert_eq!(seen("orders-db"), [b"primary"]);
    assert_eq!(seen("orders-reads"), [b"another", b"standby"]);
}

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
fn passthrough() {
    if !tools::have(&["openssl"]) {
        return;
    }
    let kit = Sluice::new();
    let authority = Authority::new(kit.folder());
    authority.issue("shop", &["shop.example.com"]);
    authority.issue("tenants", &["*.tenants.example.com"]);
    let (_shop, shop) = s_server(kit.folder(), "shop", &[]);
    let (_tenants, tenants) = s_server(kit.folder(), "tenants", &[]);
    let sluice = kit.start(&sample(
        "passthrough.yaml",
        &[
            ("127.0.0.1:8443", "127.0.0.1:0".into()),
            ("127.0.0.10:443", shop.to_string()),
            ("127.0.0.11:443", tenants.to_string()),
        ],
    ));
    let ca = sluice.folder().join("ca.pem");
    let ask = |name: &str| s_client(sluice.addr("edge"), name, &ca, &[], "GET / HTTP/1.0\r\n\r\n");
    for name in ["shop.example.com", "a.tenants.example.com"] {
        let (ok, text) = ask(name);
        assert!(ok && text.contains("s_server"), "{name}: {text}");
        sluice.record(name, |record| {
            record["requested_server_name"] == name && record["upstream_host"].is_string()
        });
    }
    assert!(!ask("other.example.com").0);
    sluice.record_of("chain.unmatched");
}

#[test]
fn forward_proxy_with_curl() {
    if !tools::have(&["openssl", "curl", "dnsmasq"]) {
        return;
    }
    let kit = Sluice::new();
    Authority::new(kit.folder()).issue("api", &["api.example.com"]);
    let (_api, api) = s_server(kit.folder(), "api", &[]);
    let dns = tools::free_port();
    let _dns = dnsmasq(dns, &["--address=/example.com/127.0.0.1"]);
    let forward = "{ hosts: [example.com, \"*.example.com\", deb.debian.org] }";
    let to_test = format!(
        "{{ hosts: [\"*.example.com\"], ports: [{}] }}\n    egress: {{ allow: [127.0.0.0/8] }}\n    \
         dns: {{ servers: [127.0.0.1:{dns}] }}\n   ",
        api.port()
    );
    let sluice = kit.start(&sample(
        "forward-proxy.yaml",
        &[
            ("127.0.0.1:3128", "127.0.0.1:0".into()),
            ("127.0.0.1:8443", "127.0.0.1:0".into()),
            (forward, to_test),
        ],
    ));
    let ca = sluice.folder().join("ca.pem");
    let mut curl = tools::command("curl");
    let proxy = format!("http://{}", sluice.addr("proxy"));
    let url = format!("https://api.example.com:{}/", api.port());
    curl.args(["-sS", "--proxy", &proxy, &url, "--cacert"]).arg(&ca);
    let output = curl.output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("s_server"), "{output:?}");
    let ask = |name: &str| s_client(sluice.addr("tls"), name, &ca, &[], "GET / HTTP/1.0\r\n\r\n");
    let (ok, text) = ask("api.example.com");
    assert!(ok && text.contains("s_server"), "{text}");
    assert!(!ask("internal.test").0);
    sluice.record_of("name.denied");
}

#[test]
fn termination_with_openssl_and_curl() {
    if !tools::have(&["openssl", "curl"]) {
        return;
    }
    let kit = Sluice::new();
    let certs = certs_beside(&kit);
    let authority = Authority::new(&certs);
    authority.issue("shop", &["shop.example.com"]);
    authority.issue("tenants", &["*.tenants.example.com"]);
    let web = Server::start(|mut stream| {
        let _ = read(&mut stream, 16);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\nhello\n")
    });
    let sluice = kit.start(&sample(
        "termination.yaml",
        &[
            ("127.0.0.1:8443", "127.0.0.1:0".into()),
            ("127.0.0.10:8080, 127.0.0.11:8080", addr(&web)),
        ],
    ));
    let (ca, port) = (certs.join("ca.pem"), sluice.addr("secure").port());
    for (name, flags) in
        [("shop.example.com", "--tlsv1.3"), ("x.tenants.example.com", "--tls-max=1.2")]
    {
        let mut curl = tools::command("curl");
        curl.args(["-sS", "--cacert"])
            .arg(&ca)
            .args(["--resolve", &format!("{name}:{port}:127.0.0.1")]);
        match flags.split_once('=') {
            Some((flag, value)) => curl.args([flag, value]),
            None => curl.arg(flags),
        };
        assert_eq!(tools::must(curl.arg(format!("https://{name}:{port}/"))), "hello\n");
    }
    sluice.record("TLS 1.2", |record| record["downstream_tls_version"] == "1.2");
    let session = resumed(&sluice, &ca, "shop.example.com", ["secure", "secure"]);
    assert!(session.contains("Reused"), "a session is resumed: {session}");
}

/// An unexpected end is signalled with close_notify, so that the client does not take it for a truncation attack.
#[test]
fn a_tls_client_gets_close_notify_on_upstream_failure_and_on_timeout() {
    if !tools::have(&["openssl"]) {
        return;
    }
    let kit = Sluice::new();
    Authority::new(kit.folder()).issue("a", &["a.test"]);
    let (nobody, silent) = (tools::free_port(), Server::echo());
    let tls = "tls: { certificates: [{ cert: a.pem, key: a.key }] }";
    let sluice = kit.start(&format!(
        "listeners:\n  - {{ name: a, address: 127.0.0.1:0, {tls}, relay: nobody }}\n\
         \x20 - {{ name: b, address: 127.0.0.1:0, {tls}, relay: {{ cluster: silent, idle_timeout: 100ms }} }}\n\
         clusters: {{ nobody: {{ endpoints: [127.0.0.1:{nobody}] }}, silent: {{ endpoints: [\"{}\"] }} }}\n",
        silent.addr()
    ));
    for (listener, reason) in [("a", "upstream.refused"), ("b", "end.idle")] {
        let ca = sluice.folder().join("ca.pem");
        let (_, text) = s_client(sluice.addr(listener), "a.test", &ca, &[], "");
        assert!(!text.contains("unexpected eof"), "{listener}: {text}");
        sluice.record_of(reason);
    }
}

/// Makes two connections with `openssl s_client`, the second with the ticket of the first; returns the output of the
/// second.
fn resumed(sluice: &Running, ca: &std::path::Path, name: &str, listeners: [&str; 2]) -> String {
    let ticket = sluice.folder().join("ticket");
    let connect = |flag: &str, listener: &str| {
        let mut command = tools::command("openssl");
        command.args(["s_client", "-ign_eof", "-connect", &sluice.addr(listener).to_string()]);
        command.args(["-servername", name, "-CAfile"]).arg(ca).arg(flag).arg(&ticket);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("openssl starts");
        // The service replies after sixteen bytes and closes; by then the ticket has arrived.
        let _ = child.stdin.as_mut().expect("a pipe").write_all(b"sixteen bytes...");
        let output = child.wait_with_output().expect("openssl ends");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    connect("-sess_out", listeners[0]);
    connect("-sess_in", listeners[1])
}

/// A ticket proves only what was verified when it was issued, so it grants no access where more is required.
#[test]
fn a_session_without_a_client_certificate_is_not_resumed_where_one_is_required() {
    if !tools::have(&["openssl"]) {
        return;
    }
    let kit = Sluice::new();
    let authority = Authority::new(kit.folder());
    Authority::named(kit.folder(), "clients");
    authority.issue("a", &["a.test"]);
    let server = Server::start(|mut stream| {
        let _ = read(&mut stream, 16);
        stream.write_all(b"from behind the door")
    });
    let cert = "certificates: [{ cert: a.pem, key: a.key }]";
    let sluice = kit.start(&format!(
        "listeners:\n  - {{ name: open, address: 127.0.0.1:0, tls: {{ {cert} }}, relay: up }}\n\
         \x20 - {{ name: closed, address: 127.0.0.1:0, tls: {{ {cert}, client_auth: {{ ca: clients.pem }} }}, relay: up }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        addr(&server)
    ));
    let ca = sluice.folder().join("ca.pem");
    assert!(resumed(&sluice, &ca, "a.test", ["open", "open"]).contains("Reused"));
    let text = resumed(&sluice, &ca, "a.test", ["open", "closed"]);
    assert!(!text.contains("Reused") && !text.contains("from behind the door"), "{text}");
    sluice.record_of("tls.client_cert_missing");
}

#[test]
fn mixed_port() {
    let kit = Sluice::new();
    let authority = Authority::new(kit.folder());
    authority.issue("tls", &["tls.example.com"]);
    if !tools::have(&["openssl"]) {
        return;
    }
    let (_tls, tls) = s_server(kit.folder(), "tls", &[]);
    let servers: Vec<Server> = ["web!", "ssh!", "red!", "sql!"].map(Server::greeter).into();
    let sluice = kit.start(&sample(
        "mixed-port.yaml",
        &[
            ("127.0.0.1:8443", "127.0.0.1:0".into()),
            ("127.0.0.10:443", tls.to_string()),
            ("127.0.0.10:8080", addr(&servers[0])),
            ("127.0.0.10:22", addr(&servers[1])),
            ("127.0.0.10:6379", addr(&servers[2])),
            ("127.0.0.10:3306", addr(&servers[3])),
        ],
    ));
    let at = sluice.addr("everything");
    for (say, greeting) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], b"web!"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"web!"),
        (b"SSH-2.0-test\r\n", b"ssh!"),
        (b"*1\r\n$4\r\nPING\r\n", b"red!"),
        (b"\x00\x01\x02 nobody knows this", b"web!"),
        (b"", b"sql!"),
    ] {
        let mut client = connect(at);
        client.write_all(say).unwrap();
        assert_eq!(read(&mut client, 4), greeting, "{say:?}");
        // The inspected bytes were passed on in full.
        assert_eq!(read(&mut client, say.len()), say);
    }
    // One byte at a time, each in its own segment.
    let mut client = connect(at);
    client.set_nodelay(true).unwrap();
    for byte in b"SSH-2.0-slow\r\n" {
        client.write_all(&[*byte]).unwrap();
    }
    assert_eq!(read(&mut client, 4), b"ssh!");
    let (ok, text) = s_client(
        at,
        "tls.example.com",
        &sluice.folder().join("ca.pem"),
        &[],
        "GET / HTTP/1.0\r\n\r\n",
    );
    assert!(ok && text.contains("s_server"), "{text}");
    sluice.record("the silent one", |record| {
        record["protocol"] == "silent" && record["filter_chain_name"] == "greeter"
    });
    sluice.record("the unknown one", |record| {
        record["protocol"] == "unknown" && record["filter_chain_name"] == "rest"
    });
}

#[test]
fn mtls() {
    if !tools::have(&["openssl"]) {
        return;
    }
    let kit = Sluice::new();
    let certs = certs_beside(&kit);
    let origin = Origin::start("web");
    let (public, clients, internal) = (
        Authority::new(&certs),
        Authority::named(&certs, "clients"),
        Authority::named(&certs, "internal"),
    );
    public.issue("api", &["api.example.com"]);
    clients.issue("client", &["ann.example.com"]);
    internal.issue("sluice", &["sluice.internal.example.com"]);
    internal.issue("service", &["api.internal.example.com"]);
    let (_service, service) = s_server(
        &certs,
        "service",
        &["-Verify", "1", "-verify_return_error", "-CAfile", "internal.pem"],
    );
    let yaml = sample(
        "mtls.yaml",
        &[
            ("127.0.0.1:8443", "127.0.0.1:0".into()),
            ("127.0.0.1:8444", "127.0.0.1:0".into()),
            ("127.0.0.10:8443", service.to_string()),
            ("127.0.0.10:8080", origin.addr().to_string()),
        ],
    );
    let sluice = kit.start(&yaml);
    let ca = certs.join("ca.pem");
    let own = |file: &str| certs.join(file).display().to_string();
    let ask = |more: &[&str]| {
        s_client(sluice.addr("api"), "api.example.com", &ca, more, "GET / HTTP/1.0\r\n\r\n")
    };
    let (ok, text) = ask(&["-cert", &own("client.pem"), "-key", &own("client.key")]);
    assert!(ok && text.contains("s_server"), "{text}");
    let record = sluice.record_of("end.done");
    assert_eq!(record["downstream_peer_subject"], "CN=ann.example.com");
    let own_certificate = ["-cert", &own("client.pem"), "-key", &own("client.key")];
    let get = "GET / HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n";
    assert!(s_client(sluice.addr("web"), "api.example.com", &ca, &own_certificate, get).0);
    let request = &origin.requests()[0];
    let told = request.value("x-forwarded-client-cert");
    assert!(told.contains("Subject=\"CN=ann.example.com\""), "{told}");
    assert!(!ask(&[]).1.contains("s_server"));
    sluice.record_of("tls.client_cert_missing");
    assert!(
        !ask(&["-cert", &own("service.pem"), "-key", &own("service.key")]).1.contains("s_server")
    );
    sluice.record_of("tls.client_cert_invalid");
    // An endpoint that cannot prove its name gets no request.
    assert_eq!(
        sluice.reload(&yaml.replace("sni: api.internal.example.com", "sni: other.example.com")),
        "applied"
    );
    assert!(
        !ask(&["-cert", &own("client.pem"), "-key", &own("client.key")]).1.contains("s_server")
    );
    let record = sluice.record_of("upstream.tls");
    assert!(
        record["detail"].as_str().is_some_and(|detail| detail.contains("certificate")),
        "{record:#}"
    );
}

#[test]
fn web_with_curl() {
    if !tools::have(&["curl"]) {
        return;
    }
    let kit = Sluice::new();
    let certs = certs_beside(&kit);
    Authority::new(&certs).issue("shop", &["shop.example.com"]);
    let (api, pages, next) = (Origin::start("api"), Origin::start("pages"), Origin::start("next"));
    let sluice = kit.start(&sample(
        "web.yaml",
        &[
            ("127.0.0.1:8080", "127.0.0.1:0".into()),
            ("127.0.0.1:8443", "127.0.0.1:0".into()),
            ("[127.0.0.10:8080, 127.0.0.11:8080]", format!("[\"{}\"]", api.addr())),
            ("127.0.0.12:8080", pages.addr().to_string()),
            ("127.0.0.13:8080", next.addr().to_string()),
            (", kinds: request", String::new()),
        ],
    ));
    let (ca, port) = (certs.join("ca.pem"), sluice.addr("web").port());
    let ask = |version: &str, path: &str, more: &[&str]| {
        let mut curl = tools::command("curl");
        curl.args(["-sS", "-i", version, "--cacert"]).arg(&ca).args(more);
        curl.args(["--resolve", &format!("shop.example.com:{port}:127.0.0.1")]);
        tools::must(curl.arg(format!("https://shop.example.com:{port}{path}")))
    };
    for (version, line) in [("--http1.1", "HTTP/1.1 200"), ("--http2", "HTTP/2 200")] {
        for (path, origin) in [("/api/orders", "api"), ("/", "")] {
            let answer = ask(version, path, &[]);
            assert!(answer.starts_with(line) && answer.contains("x-request-id: "), "{answer}");
            assert!(answer.contains(&format!("x-origin: {origin}")), "{answer}");
        }
        assert!(ask(version, "/healthz", &[]).ends_with("ok\n"));
    }
    assert!(ask("--http2", "/api/orders", &["-d", "an order"]).ends_with("an order"));
    let moved = tools::must(tools::command("curl").args([
        "-sS",
        "-i",
        "-H",
        "host: shop.example.com",
        &format!("http://{}/x?y", sluice.addr("plain")),
    ]));
    assert!(moved.contains("location: https://shop.example.com:8443/x?y"), "{moved}");
    let (_, page) = sluice.page("/try?host=shop.example.com&path=/api/orders");
    assert!(page.contains("api"), "{page}");
}

#[test]
fn failover_between_zones() {
    let (near, far, backup) =
        (Origin::start("near"), Origin::start("far"), Origin::start("backup"));
    let also_near = Server::greeter("");
    let sluice = Sluice::new().expect_warning("endpoint is unhealthy").start(&sample(
        "failover.yaml",
        &[
            ("127.0.0.1:8080", "127.0.0.1:0".into()),
            ("127.0.0.10:8080", near.addr().to_string()),
            // It accepts connections and answers no request.
            ("127.0.0.11:8080", addr(&also_near)),
            ("127.0.0.12:8080", far.addr().to_string()),
            ("127.0.0.20:8080", backup.addr().to_string()),
            ("interval: 2s", "interval: 1s, timeout: 1s".into()),
        ],
    ));
    wait::until("a part of the traffic to go to the backup", || {
        let priorities = sluice.items("/clusters")[0]["priorities"].clone();
        // Two of three are usable, and each may have 1.4 times its share.
        let shares = (priorities[0]["healthy"].as_u64(), priorities[1]["healthy"].as_u64());
        (shares == (Some(93), Some(7))).then_some(())
    });
    wait::until("every zone to serve", || {
        assert_eq!(sluice_testkit::origin::get(sluice.addr("web"), "a", "/").status(), 200);
        let served =
            |origin: &Origin| origin.requests().iter().any(|request| request.path() == "/");
        [&near, &far, &backup].into_iter().all(served).then_some(())
    });
}

#[test]
fn http3_with_aioquic() {
    if !tools::have_modules(&["aioquic"]) {
        return;
    }
    let kit = Sluice::new();
    let certs = certs_beside(&kit);
    let authority = Authority::new(&certs);
    authority.issue("shop", &["shop.example.com"]);
    authority.issue("any", &["*.example.com"]);
    let pages = Origin::start("pages");
    std::fs::copy(certs.join("ca.pem"), kit.folder().join("ca.pem")).unwrap();
    let sluice = kit.start(&sample(
        "http3.yaml",
        &[
            ("127.0.0.1:8443", "127.0.0.1:0".into()),
            ("127.0.0.12:8080", pages.addr().to_string()),
            (", kinds: request", String::new()),
        ],
    ));
    for name in ["shop.example.com", "other.example.com"] {
        let ask = json!({ "ask": { "headers": head("GET", "/", &[]) } });
        let got =
            Client::start(&sluice, "edge", name, &json!([ask, { "await": [0, "end"] }])).end();
        assert_eq!(status(&got["streams"]["0"]), 200, "{name}: {got}");
    }
    let named = |name: &str| {
        sluice.record("a request", |record| record["requested_server_name"] == name);
    };
    named("shop.example.com");
    named("other.example.com");
}

#[test]
fn quic_passed_through_by_name() {
    if !tools::have_modules(&["aioquic"]) {
        return;
    }
    let end = Sluice::new();
    let certs = certs_beside(&end);
    Authority::new(&certs).issue("media", &["media.example.com"]);
    let pages = Origin::start("media");
    let media = end.start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, quic: true, tls: {{ certificates: [{{ cert: certs/media.pem, key: certs/media.key }}] }}, http: main }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        pages.addr()
    ));
    let echo = UdpServer::echo("echoed: ");
    let kit = Sluice::new().expect_warning("the drain timeout has expired");
    std::fs::copy(certs.join("ca.pem"), kit.folder().join("ca.pem")).unwrap();
    let text = sample(
        "quic-passthrough.yaml",
        &[
            ("udp://127.0.0.1:8443", "udp://127.0.0.1:0".into()),
            ("127.0.0.10:443", media.addr("web").to_string()),
            ("127.0.0.13:5000", echo.addr().to_string()),
        ],
    );
    let sluice = kit.start(&format!("drain: {{ timeout: 100ms }}\n{text}"));
    let ask = json!({ "ask": { "headers": head("GET", "/", &[]) } });
    let steps = json!([ask, { "await": [0, "end"] }]);
    let got = Client::start(&sluice, "quic", "media.example.com", &steps).end();
    assert_eq!(status(&got["streams"]["0"]), 200, "{got}");
    assert_eq!(media.metric("sluice_listener_connections_accepted_total", ""), 1);
    let client = udp_client();
    client.send_to(b"hello", sluice.addr("quic")).unwrap();
    let mut answer = [0; 64];
    let (count, _) = client.recv_from(&mut answer).unwrap();
    assert_eq!(&answer[..count], b"echoed: hello");
}

#[test]
fn grpc_by_service() {
    if !tools::have_modules(&["grpc"]) {
        return;
    }
    let peer =
        |name: &str| std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(name);
    let servers =
        [0; 2].map(|_| tools::serve_on_its_port(&mut tools::python(&peer("grpc_server.py"))));
    let sluice = Sluice::new().start(&sample(
        "grpc.yaml",
        &[
            ("127.0.0.1:50050", "127.0.0.1:0".into()),
            ("127.0.0.10:50051", servers[0].1.to_string()),
            ("127.0.0.11:50051", servers[1].1.to_string()),
            ("orders.v1.Orders", "t.Echo".into()),
            (", kinds: request", String::new()),
        ],
    ));
    let mut client = tools::python(&peer("grpc_client.py"));
    assert_eq!(tools::must(client.arg(sluice.addr("grpc").to_string())), "all well\n");
    // One client connection, both servers.
    wait::until("records of both", || {
        let records = sluice.records();
        let hosts = records.iter().filter_map(|record| record["upstream_host"].as_str());
        (hosts.collect::<BTreeSet<_>>().len() == 2).then_some(())
    });
}

#[test]
fn udp_affinity_with_dig() {
    if !tools::have(&["dnsmasq", "dig"]) {
        return;
    }
    let port = tools::free_port();
    let _dns = dnsmasq(port, &["--address=/example.com/127.0.0.99"]);
    let sluice = Sluice::new().start(&sample(
        "udp-affinity.yaml",
        &[
            ("udp://127.0.0.1:5353", "udp://127.0.0.1:0".into()),
            ("127.0.0.10:53, 127.0.0.11:53", format!("127.0.0.1:{port}")),
        ],
    ));
    let at = sluice.addr("dns").port().to_string();
    for _ in 0..5 {
        let answer = tools::must(tools::command("dig").args([
            "+short",
            "+tries=1",
            "@127.0.0.1",
            "-p",
            &at,
            "example.com",
        ]));
        assert_eq!(answer, "127.0.0.99\n");
    }
    let record = sluice.record_of("flow.done");
    assert_eq!(
        (&record["kind"], &record["datagrams_received"], &record["datagrams_sent"]),
        (&"flow".into(), &1.into(), &1.into())
    );
}

#[test]
fn udp_affinity_keeps_a_source_with_its_server() {
    let (one, two) = (UdpServer::echo("1:"), UdpServer::echo("2:"));
    let yaml = sample(
        "udp-affinity.yaml",
        &[
            ("udp://127.0.0.1:5353", "udp://127.0.0.1:0".into()),
            ("127.0.0.10:53, 127.0.0.11:53", format!("\"{}\", \"{}\"", one.addr(), two.addr())),
        ],
    );
    let sluice = Sluice::new().start(&yaml);
    let mut marks: Vec<u8> = (0..20)
        .map(|_| {
            let client = udp_client();
            client.send_to(b"x", sluice.addr("dns")).unwrap();
            let mut got = [0; 16];
            let (count, from) = client.recv_from(&mut got).unwrap();
            assert_eq!((count, from), (3, sluice.addr("dns")));
            got[0]
        })
        .collect();
    marks.dedup();
    assert_eq!(marks.len(), 1, "one source address, one server");
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
fn processing() {
    let service = sluice_tests::envoy_service(
        "proc_server.py",
        "envoy.service.ext_proc.v3.external_processor_pb2",
    );
    let Some((_service, processor)) = service else { return };
    let app = Origin::start("app");
    let sluice = Sluice::new().start(&sample(
        "processing.yaml",
        &[
            ("127.0.0.1:8080", "127.0.0.1:0".into()),
            ("127.0.0.1:9000", app.addr().to_string()),
            ("127.0.0.1:9001", processor.to_string()),
            ("timeout: 500ms", "timeout: 60s".into()),
        ],
    ));
    let ask =
        |request: &str| sluice_testkit::origin::Client::connect(sluice.addr("web")).ask(request);
    let changed = ask("GET /change HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((changed.status(), changed.value("x-new")), (200, "yes"));
    assert!(ask("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").values("x-told").is_empty());
    let request =
        "POST /upload/a HTTP/1.1\r\nHost: a\r\nX-Do: each\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(ask(request).status(), 200);
    assert_eq!(app.requests()[2].text(), "HELLO");
}

#[test]
fn scripts() {
    let (app, users) = (Origin::start("app"), KeyServer::start("gold"));
    let sluice = Sluice::new().start(&sample(
        "lua.yaml",
        &[
            ("127.0.0.1:8080", "127.0.0.1:0".into()),
            ("127.0.0.1:9000", app.addr().to_string()),
            ("127.0.0.1:9001", users.addr().to_string()),
        ],
    ));
    let ask = |path: &str, fields: &str| {
        let mut client = sluice_testkit::origin::Client::connect(sluice.addr("web"));
        client.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))
    };
    let tagged = ask("/", "");
    assert_eq!((tagged.status(), tagged.value("x-served-by")), (200, "rest"));
    assert_eq!(ask("/shop/1", "").status(), 401);
    assert_eq!(ask("/shop/1", "X-User: ann\r\n").status(), 200);
    assert_eq!(app.requests()[1].value("x-tier"), "gold");
}

#[test]
fn scripts_for_connections() {
    let (mail, old) = (Server::greeter("mail:"), Server::greeter("old:"));
    let sluice = Sluice::new().start(&sample(
        "connections.yaml",
        &[
            ("127.0.0.1:2525", "127.0.0.1:0".into()),
            ("127.0.0.1:9000", mail.addr().to_string()),
            ("127.0.0.1:9001", old.addr().to_string()),
        ],
    ));
    let mut client = connect(sluice.addr("mail"));
    assert_eq!(read(&mut client, 5), b"mail:");
    assert_eq!(exchange(&mut client, b"EHLO a\r\n"), b"EHLO a\r\n");
    let mut browser = connect(sluice.addr("mail"));
    assert_eq!(read(&mut browser, 5), b"mail:");
    browser.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    assert!(read_to_end(&mut browser).1.is_empty());
    assert_eq!(exchange(&mut client, b"GET\r\n"), b"GET\r\n", "it has greeted");
    assert_eq!(sluice.metric("sluice_lua_connection_counts_total", "counter=\"browsers\""), 1);
}

#[test]
fn guests() {
    let app = Origin::start("app");
    let sluice = Sluice::new().start(&sample(
        "wasm.yaml",
        &[
            ("127.0.0.1:8080", "127.0.0.1:0".into()),
            ("127.0.0.1:9000", app.addr().to_string()),
        ],
    ));
    let ask = |path: &str| {
        let mut client = sluice_testkit::origin::Client::connect(sluice.addr("web"));
        client.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"))
    };
    for (path, by) in [("/", "guest"), ("/plain/1", "")] {
        let answer = ask(path);
        assert_eq!((answer.status(), answer.value("x-served-by")), (200, by), "{path}");
    }
}

#[test]
fn loaded_libraries() {
    let (app, redis) = (Origin::start("app"), Server::echo());
    let kit = Sluice::new();
    let examples = ["tag.c", "tally.cpp", "words.cpp"].map(libraries::example);
    if examples.iter().any(|of| libraries::compile(of, kit.folder()).is_none()) {
        return;
    }
    let tally = kit.folder().join("tally");
    let sluice = kit.start(&sample(
        "module.yaml",
        &[
            ("127.0.0.1:8080", "127.0.0.1:0".into()),
            ("127.0.0.1:6379", "127.0.0.1:0".into()),
            ("127.0.0.1:9000", app.addr().to_string()),
            ("127.0.0.1:9001", redis.addr().to_string()),
            ("/tmp/sluice-tally", tally.display().to_string()),
        ],
    ));
    let ask = |path: &str, fields: &str| {
        let mut client = sluice_testkit::origin::Client::connect(sluice.addr("web"));
        client.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))
    };
    assert_eq!((ask("/", "").status(), ask("/healthz", "").status()), (401, 200));
    assert_eq!(ask("/", "X-User: ann\r\n").value("x-tag"), "gold");
    assert_eq!(ask("/trial/1", "X-User: ann\r\n").value("x-tag"), "free");
    let counts = || std::fs::read_to_string(&tally).unwrap_or_default();
    wait::until("the counts", || (counts() == "200 3\n401 1\n").then_some(()));
    let mut client = connect(sluice.addr("redis"));
    assert_eq!(exchange(&mut client, b"GET a\r\n"), b"GET a\r\n");
    client.write_all(b"FLUSHALL\r\n").unwrap();
    let _ = read_to_end(&mut client);
    sluice.record_of("module.closed");
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
fn faults() {
    let origin = Origin::start("shop");
    let sluice = Sluice::new().start(&sample(
        "faults.yaml",
        &[
            ("127.0.0.1:8080\n", "127.0.0.1:0\n".into()),
            ("127.0.0.10:8080", origin.addr().to_string()),
            ("{ time: 2s, percent: 10%", "{ time: 2ms, percent: 0%".into()),
            ("{ status: 503, percent: 1%", "{ status: 503, percent: 0%".into()),
        ],
    ));
    let ask = |path: &str, fields: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        sluice_testkit::origin::Client::connect(sluice.addr("web")).ask(&request).status()
    };
    let asks = "X-Envoy-Fault-Abort-Request: 429\r\n";
    let testing = format!("X-Team: testing\r\n{asks}");
    assert_eq!([ask("/orders/7", asks), ask("/try/orders/7", asks), ask("/", asks)], [200; 3]);
    assert_eq!(ask("/try/orders/7", &testing), 429);
    assert_eq!(ask("/try/orders/7", "X-Team: testing\r\n"), 200);
    let set = |key: &str, value: &str| {
        let admin = sluice.admin_addr();
        let request = format!(
            "POST /runtime?key={key}&value={value} HTTP/1.1\r\nHost: localhost\r\nX-Sluice: 1\r\nContent-Length: 0\r\n\r\n"
        );
        sluice_testkit::origin::Client::connect(admin).ask(&request).status()
    };
    assert_eq!([set("chaos.abort", "100"), set("chaos.delay", "100")], [200, 200]);
    assert_eq!([ask("/orders/7", ""), ask("/", "")], [503, 200]);
    let record = sluice.record_of("fault.abort");
    assert_eq!(record["path"], "/try/orders/7", "{record}");
    let record = sluice.record("the delay", |record| record["status"] == 503);
    assert_eq!(record["delay"], "2", "{record}");
}

/// A database of countries, as the sample expects it.
fn countries() -> Vec<u8> {
    let of = |iso| {
        let country = MmdbValue::Map(vec![("iso_code", MmdbValue::Text(iso))]);
        MmdbValue::Map(vec![("country", country)])
    };
    let block = |at: &str| at.parse().unwrap();
    let blocks = [(block("192.0.2.0"), 24, of("DE")), (block("198.51.100.0"), 24, of("AQ"))];
    mmdb::database("Test-Country", &blocks)
}

#[test]
fn countries_and_expressions() {
    let (origin, kit) = (Origin::start("shop"), Sluice::new());
    std::fs::write(kit.folder().join("GeoLite2-Country.mmdb"), countries()).unwrap();
    let sluice = kit.start(&sample(
        "countries.yaml",
        &[
            ("127.0.0.1:8080\n", "127.0.0.1:0\n".into()),
            ("127.0.0.10:8080", origin.addr().to_string()),
            ("1000000", "4".into()),
        ],
    ));
    let ask = |from: &str, body: &str| {
        let method = if body.is_empty() { "GET" } else { "POST" };
        let length = body.len();
        let request = format!(
            "{method} / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {from}\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        sluice_testkit::origin::Client::connect(sluice.addr("web")).ask(&request).status()
    };
    for (from, body, status) in [
        ("192.0.2.1", "", 200),
        ("192.0.2.1", "large", 200),
        ("203.0.113.1", "", 200),
        ("203.0.113.1", "tiny", 200),
        ("203.0.113.1", "large", 403),
        ("198.51.100.1", "", 403),
    ] {
        assert_eq!(ask(from, body), status, "{body:?} from {from}");
    }
    let record = sluice.record("the refusal", |record| record["country"] == "AQ");
    assert_eq!((&record["policy"], &record["status"]), (&"blocked".into(), &403.into()));
    assert_eq!(origin.requests()[0].value("x-country"), "DE");
    let tried = sluice.page("/try?value=geo.country:AQ").1;
    assert!(tried.contains("blocked") && tried.contains("refuses the request"), "{tried}");
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
