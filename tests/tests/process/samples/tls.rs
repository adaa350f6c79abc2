//! Samples of TLS: passed through, terminated, resumed, required of clients.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::process::Stdio;

use sluice_testkit::peers::{Server, connect, read};
use sluice_testkit::{Authority, Origin, Running, Sluice, tools};
use sluice_tests::{certs_beside, dnsmasq, sample};

use super::addr;

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
    // Reads what it is sent: a request of curl, and sixteen bytes of another client.
    let web = Server::start(|mut stream| {
        let mut seen = read(&mut stream, 16);
        while seen.starts_with(b"GET ") && !seen.ends_with(b"\r\n\r\n") {
            seen.extend(read(&mut stream, 1));
        }
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
    let yaml = sample(
        "mixed-port.yaml",
        &[
            ("127.0.0.1:8443", "127.0.0.1:0".into()),
            ("127.0.0.10:443", tls.to_string()),
            ("127.0.0.10:8080", addr(&servers[0])),
            ("127.0.0.10:22", addr(&servers[1])),
            ("127.0.0.10:6379", addr(&servers[2])),
            ("127.0.0.10:3306", addr(&servers[3])),
        ],
    );
    // Who speaks has time, so that nobody counts as silent because the machine is slow.
    assert!(yaml.contains("timeout: 300ms"));
    let sluice = kit.start(&yaml.replace("timeout: 300ms", "timeout: 60s"));
    let at = sluice.addr("everything");
    for (say, greeting) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], b"web!"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"web!"),
        (b"SSH-2.0-test\r\n", b"ssh!"),
        (b"*1\r\n$4\r\nPING\r\n", b"red!"),
        (b"\x00\x01\x02 nobody knows this", b"web!"),
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
    sluice.record("the unknown one", |record| {
        record["protocol"] == "unknown" && record["filter_chain_name"] == "rest"
    });
    let sluice = Sluice::new().start(&yaml);
    assert_eq!(read(&mut connect(sluice.addr("everything")), 4), b"sql!");
    sluice.record("the silent one", |record| {
        record["protocol"] == "silent" && record["filter_chain_name"] == "greeter"
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
