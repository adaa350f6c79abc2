//! Hostile HTTP clients and endpoints: their traffic harms only themselves.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::io::{self, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sluice_testkit::frames::{H2, PREFACE, block, flag, frame, get, kind};
use sluice_testkit::origin::{self, Client};
use sluice_testkit::peers::Server;
use sluice_testkit::{Authority, Origin, Running, Sluice, http3, tools, wait};

fn peer(script: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(script)
}

/// One listener without TLS, these rules, and one cluster `up`.
fn web(http: &str, rules: &str, endpoint: impl ToString, cluster: &str) -> String {
    format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main{http} }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{rules}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"]{cluster} }} }}\n",
        endpoint.to_string()
    )
}

/// The header fields with which an HTTP/2 client opens a WebSocket tunnel, RFC 8441.
const WEBSOCKET: [(&str, &str); 5] = [
    (":method", "CONNECT"),
    (":protocol", "websocket"),
    (":scheme", "http"),
    (":authority", "a"),
    (":path", "/x"),
];

/// Reads request headers; empty at the end of the connection.
fn read_head(reader: &mut impl io::BufRead) -> io::Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head)? > 0 {}
    Ok(head)
}

/// An endpoint that responds immediately and then reads the declared body, as servers do that refuse a request early.
/// Each response contains the request line.
fn early() -> Server {
    Server::start(|mut stream| {
        let mut reader = BufReader::new(stream.try_clone()?);
        loop {
            let head = read_head(&mut reader)?;
            let Some(line) = head.lines().next() else { return Ok(()) };
            let answer = format!("HTTP/1.1 404 No\r\ncontent-length: {}\r\n\r\n{line}", line.len());
            stream.write_all(answer.as_bytes())?;
            let length = head.to_ascii_lowercase();
            let length =
                length.split("content-length: ").nth(1).and_then(|v| v.split("\r\n").next());
            let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap_or(0))];
            reader.read_exact(&mut body)?;
        }
    })
}

/// An extended CONNECT has no body, whatever `content-length` declares: the endpoint must not wait for one and take the
/// next client's request for it.
#[test]
fn connect_with_a_length_does_not_swallow_the_next_request() {
    let server = early();
    let sluice = Sluice::new().workers(1).start(&web(
        "",
        "{ cluster: up, connect: true }",
        server.addr(),
        "",
    ));
    let tunnel = [(":method", "CONNECT"), (":authority", "a:1")];
    for (stream, fields) in [(1, &WEBSOCKET[..]), (3, &tunnel)] {
        let mut attacker = H2::connect(sluice.addr("web"));
        attacker.headers(stream, &[fields, &[("content-length", "60")]].concat(), false);
        let answer = attacker.until("an answer", |f| f.stream == stream);
        assert!(matches!(answer.kind, kind::HEADERS | kind::RST_STREAM), "{answer:?}");
        for n in 0..3 {
            let path = format!("/victim/{n}");
            let answer = Client::connect(sluice.addr("web")).get("b", &path);
            assert_eq!(answer.text(), format!("GET {path} HTTP/1.1"));
        }
    }
}

/// After a refused upgrade the endpoint may read the connection differently than we do: it is not reused.
#[test]
fn a_connection_on_which_an_upgrade_was_refused_is_closed() {
    let server = early();
    let sluice = Sluice::new().workers(1).start(&web("", "{ cluster: up }", server.addr(), ""));
    let asked = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(Client::connect(sluice.addr("web")).ask(asked).status(), 404);
    assert_eq!(Client::connect(sluice.addr("web")).get("b", "/next").text(), "GET /next HTTP/1.1");
    assert_eq!(
        Client::connect(sluice.addr("web")).get("b", "/again").text(),
        "GET /again HTTP/1.1"
    );
    assert_eq!(server.accepted(), 2, "one for the upgrade, one for both others");
}

/// An HTTP/1 endpoint that responds to each request with `answer`.
fn answering(answer: String) -> Server {
    Server::start(move |mut stream| {
        let mut reader = BufReader::new(stream.try_clone()?);
        while !read_head(&mut reader)?.is_empty() {
            stream.write_all(answer.as_bytes())?;
        }
        Ok(())
    })
}

#[test]
fn a_switch_to_an_unrequested_protocol_is_refused() {
    let asked = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    for upgrade in ["h2c", "websocket, h2c", "", &"w".repeat(5_000)] {
        let head =
            format!("HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: {upgrade}\r\n\r\n");
        let server = answering(head);
        let sluice = Sluice::new().start(&web("", "{ cluster: up }", server.addr(), ""));
        assert_eq!(Client::connect(sluice.addr("web")).ask(asked).status(), 502, "{upgrade:.20}");
        sluice.record_of("upstream.protocol");
    }
}

/// An HTTP/2 connection as seen by an endpoint.
struct Endpoint2(TcpStream);

impl Endpoint2 {
    /// Reads the preface and sends SETTINGS.
    fn handshake(mut stream: TcpStream) -> io::Result<Self> {
        let mut preface = [0; 24];
        stream.read_exact(&mut preface)?;
        assert_eq!(preface, PREFACE);
        stream.write_all(&frame(kind::SETTINGS, 0, 0, &[]))?;
        Ok(Self(stream))
    }

    /// Waits for the headers of a request; returns its stream.
    fn request(&mut self) -> io::Result<u32> {
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head)?;
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            self.0.read_exact(&mut payload)?;
            match head[3] {
                kind::HEADERS => {
                    return Ok(u32::from_be_bytes([head[5], head[6], head[7], head[8]]));
                }
                kind::SETTINGS if head[4] & flag::ACK == 0 => {
                    self.0.write_all(&frame(kind::SETTINGS, flag::ACK, 0, &[]))?;
                }
                _ => {}
            }
        }
    }

    fn headers(&mut self, stream: u32, fields: &[(&str, &str)], flags: u8) -> io::Result<()> {
        self.0.write_all(&frame(kind::HEADERS, flag::END_HEADERS | flags, stream, &block(fields)))
    }
}

#[test]
fn an_http2_endpoint_cannot_switch_an_http1_client_to_raw_bytes() {
    let server = Server::start(|stream| {
        let mut endpoint = Endpoint2::handshake(stream)?;
        loop {
            let stream = endpoint.request()?;
            endpoint.headers(stream, &[(":status", "101")], 0)?;
        }
    });
    let sluice =
        Sluice::new().start(&web("", "{ cluster: up }", server.addr(), ", protocol: http2"));
    assert_eq!(origin::get(sluice.addr("web"), "a", "/").status(), 502);
    sluice.record_of("upstream.protocol");
}

#[test]
fn a_host_taken_from_a_header_must_be_valid() {
    let server = Origin::start("a");
    let rule = "{ cluster: up, connect: true, rewrite: { host_header: x-host } }";
    let sluice = Sluice::new().start(&web("", rule, server.addr(), ""));
    let mut client = Client::connect(sluice.addr("web"));
    let ask = |client: &mut Client, host: &str| {
        client.ask(&format!("GET /head HTTP/1.1\r\nHost: a\r\nX-Host: {host}\r\n\r\n")).status()
    };
    assert_eq!(ask(&mut client, "b.test:80"), 200);
    for host in ["/admin HTTP/1.1", "b c", "b\u{e9}", "a@b", "b:port"] {
        assert_eq!(ask(&mut client, host), 400, "{host}");
    }
    assert_eq!(ask(&mut client, "c.test"), 200, "the connection goes on");
    assert!(
        server
            .requests()
            .iter()
            .all(|request| ["b.test:80", "c.test"].contains(&request.value("host")))
    );
}

#[test]
fn a_rewrite_cannot_escape_its_prefix() {
    let server = Origin::start("a");
    let rules = "{ match: { path: { starts_with: /img } }, cluster: up, rewrite: { replace_prefix: /static/ } }, \
                 { match: { path: { starts_with: /old } }, redirect: { replace_prefix: /new/ } }";
    let sluice = Sluice::new().start(&web("", rules, server.addr(), ""));
    let get = |path: &str| origin::get(sluice.addr("web"), "a", path);
    assert_eq!(get("/img/a").status(), 200);
    for path in ["/img../admin/secret", "/img%2e%2e/admin", "/old../admin"] {
        assert_eq!(get(path).status(), 400, "{path}");
    }
    assert_eq!(get("/old/a").value("location"), "http://a/new/a");
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_redirect_to_a_normalised_path_stays_on_its_host() {
    let sluice = Sluice::new().start(&web(
        ", path: { escaped_slashes: redirect }",
        "{ cluster: up }",
        "127.0.0.1:1",
        "",
    ));
    for path in ["/%2Fevil.example/", "/%5Cevil.example/", "/%2f%5c/evil.example/"] {
        let answer = origin::get(sluice.addr("web"), "a", path);
        assert_eq!((answer.status(), answer.value("location")), (307, "/evil.example/"), "{path}");
    }
}

/// Bytes that a client puts to the left cannot hide what the trusted hop wrote to the right.
#[test]
fn a_client_cannot_pose_as_the_trusted_hop() {
    let rules = "{ match: { source: 127.0.0.0/8 }, respond: { body: inner } }, { match: { path: /never }, cluster: up }, { respond: { body: outer } }";
    let sluice = Sluice::new().start(&web(", trusted_hops: 1", rules, "127.0.0.1:1", ""));
    for (left, hop, seen) in [
        (&b""[..], "127.0.0.1", "inner"),
        (b"", "192.0.2.1", "outer"),
        (b"\xff, ", "192.0.2.1", "outer"),
        (b"127.0.0.1, ", "192.0.2.1:4711", "outer"),
        (b"", "[2001:db8::1]:80", "outer"),
        (b"127.0.0.1, ", "who?", "outer"),
    ] {
        let mut client = Client::connect(sluice.addr("web"));
        client.send(
            [b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: ", left, hop.as_bytes(), b"\r\n\r\n"]
                .concat(),
        );
        assert_eq!(client.read().text(), seen, "{} {hop}", left.escape_ascii());
    }
}

#[test]
fn an_http2_client_cannot_send_what_http1_would_read_differently() {
    let server = Origin::start("a");
    let sluice = Sluice::new().start(&web("", "{ cluster: up }", server.addr(), ""));
    let mut client = H2::connect(sluice.addr("web"));
    for (stream, host) in [(1, "a:b"), (3, "[::1"), (5, "a:1:2")] {
        client.headers(stream, &get(host, "/head"), true);
        let answer = client.until("an answer", |f| f.stream == stream);
        assert!(matches!(answer.kind, kind::HEADERS | kind::RST_STREAM), "{answer:?}");
    }
    assert!(server.requests().is_empty());
}

/// A Sluice that speaks every version over TLS, in front of `origin`: the endpoint of another Sluice.
fn inner(origin: &Origin) -> Running {
    let kit = Sluice::new();
    Authority::new(kit.folder()).issue("own", &["own.test"]);
    kit.start(&format!(
        "listeners: [{{ name: tls, address: 127.0.0.1:0, quic: true, http: main, \
         tls: {{ certificates: [{{ cert: own.pem, key: own.key }}] }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        origin.addr()
    ))
}

/// An HTTP/2 client that grants its streams an empty window.
fn reads_nothing(address: SocketAddr) -> H2 {
    let mut client = H2::silent(address);
    client.send(PREFACE);
    client.send(frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]));
    client
}

/// Streams of many clients share a connection to an endpoint. Streams that are not read stall only themselves.
#[test]
fn clients_that_do_not_read_do_not_stall_others_on_the_same_endpoint() {
    let origin = Origin::start("a");
    let inner = inner(&origin);
    let tls =
        format!("tls: {{ sni: own.test, ca: \"{}\" }}", inner.folder().join("ca.pem").display());
    for version in ["http2", "http3"] {
        let cluster = format!(", protocol: {version}, {tls}");
        let sluice = Sluice::new().workers(1).start(&web(
            "",
            "{ cluster: up }",
            inner.addr("tls"),
            &cluster,
        ));
        let mut stalled = reads_nothing(sluice.addr("web"));
        for n in 0..20 {
            let stream = 2 * n + 1;
            stalled.headers(stream, &get("a", "/bytes/1000000"), true);
            stalled.until("a head", |f| f.stream == stream && f.kind == kind::HEADERS);
            // Once the next response has arrived, so has everything that the endpoint can send in advance.
            let body = Client::connect(sluice.addr("web")).get("b", "/bytes/300000").body;
            assert_eq!(body.len(), 300_000, "{version}, behind {} stalled streams", n + 1);
        }
    }
}

/// The opposite direction: users behind one connection, whose uploads go to a slow endpoint and to a fast one.
#[test]
fn unread_uploads_do_not_stall_others_on_the_same_connection() {
    // Reads the headers of a request, and nothing more.
    let slow = Server::start(|stream| {
        let mut reader = BufReader::with_capacity(64, stream.try_clone()?);
        read_head(&mut reader)?;
        // Until the peer gives up.
        std::thread::park();
        Ok(())
    });
    let origin = Origin::start("a");
    let sluice = Sluice::new().workers(1).start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes: {{ main: [{{ hosts: slow, rules: [{{ cluster: slow }}] }}, {{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
         clusters:\n\
         \x20 slow: {{ endpoints: [\"{}\"], connect_timeout: 60s, limits: {{ connections: 1, pending: 100 }} }}\n\
         \x20 up: {{ endpoints: [\"{}\"] }}\n",
        slow.addr(),
        origin.addr()
    ));
    let mut client = H2::connect(sluice.addr("web"));
    client.until("settings", |f| f.kind == kind::SETTINGS && f.flags & flag::ACK == 0);
    client.send(frame(kind::SETTINGS, flag::ACK, 0, &[]));
    client.until("room for all streams", |f| f.kind == kind::WINDOW_UPDATE && f.stream == 0);
    let post =
        |host| [(":method", "POST"), (":scheme", "http"), (":authority", host), (":path", "/echo")];
    let (piece, window) = (vec![b'x'; 16_000], 256 << 10);
    // The first request takes the only connection to its endpoint; those behind it wait for their turn.
    client.headers(1, &post("slow"), true);
    let mut stream = 3;
    for _ in 0..5 {
        // As much as the stream may send in advance.
        client.headers(stream, &post("slow"), false);
        for _ in 0..window / piece.len() {
            client.send(frame(kind::DATA, 0, stream, &piece));
        }
        stream += 2;
    }
    client.headers(stream, &post("fast"), false);
    for n in 0..10 {
        client.send(frame(kind::DATA, u8::from(n == 9), stream, &piece));
    }
    let answer = client.until("an answer", |f| f.stream == stream && f.kind == kind::HEADERS);
    assert_eq!(answer.flags & flag::END_STREAM, 0);
}

#[test]
fn the_number_of_headers_is_limited_in_every_version() {
    let origin = Origin::start("a");
    let kit = Sluice::new();
    Authority::new(kit.folder()).issue("own", &["own.test"]);
    let sluice = kit.start(&format!(
        "listeners: [{{ name: tls, address: 127.0.0.1:0, quic: true, http: {{ routes: main, head_fields: 20 }}, \
         tls: {{ certificates: [{{ cert: own.pem, key: own.key }}] }} }}, \
         {{ name: web, address: 127.0.0.1:0, http: {{ routes: main, head_fields: 20 }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        origin.addr()
    ));
    for (count, status) in [(19, 200), (21, 431)] {
        let lines = "x: 1\r\n".repeat(count);
        let head = format!("GET /head HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        assert_eq!(Client::connect(sluice.addr("web")).ask(&head).status(), status);
        let mut client = H2::connect(sluice.addr("web"));
        client.headers(1, &[get("a", "/head"), vec![("x", "1"); count]].concat(), true);
        let answer = client.until("an answer", |f| f.stream == 1 && f.kind == kind::HEADERS);
        // Status 200 is one byte, RFC 7541 appendix A.
        assert_eq!(answer.payload[0] == 0x88, status == 200);
        let ca = sluice.folder().join("ca.pem");
        let answer = http3::run(&ca, None, async |client| {
            let connection = client.connect(sluice.addr("tls"), "own.test").await?;
            connection.ask_with("GET", "/head", &vec![("x", "1"); count]).await
        });
        assert_eq!(answer.unwrap().status, status);
    }
}

/// Frames without purpose or progress: a client that sends them endlessly loses its connection.
#[test]
fn frames_without_progress_end_their_connection() {
    let origin = Origin::start("a");
    let sluice = Sluice::new().start(&web("", "{ cluster: up }", origin.addr(), ""));
    for (what, one) in [
        ("pings", frame(kind::PING, 0, 0, b"12345678")),
        ("acknowledged pings", frame(kind::PING, flag::ACK, 0, b"12345678")),
        ("settings", frame(kind::SETTINGS, 0, 0, &[])),
        ("priorities", frame(kind::PRIORITY, 0, 3, b"\0\0\0\x01\x10")),
        ("windows", frame(kind::WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())),
        ("unknown frames", frame(77, 0, 0, b"x")),
    ] {
        let mut client = H2::connect(sluice.addr("web"));
        let many = one.repeat(100);
        // Fails once the connection has been reset; before that, the flood must end it.
        let ended = (0..1000).any(|_| client.try_send(&many).is_err());
        let calm =
            std::iter::from_fn(|| client.read()).any(|f| f.kind == kind::GOAWAY && f.code() == 11);
        assert!(ended || calm, "{what}");
        sluice.record("a flood", |record| record["reason"] == "http.flood");
        assert_eq!(origin::get(sluice.addr("web"), "a", "/head").status(), 200, "others go on");
    }
}

/// PINGs are acknowledged, but do not count as activity.
#[test]
fn an_http2_client_that_only_pings_is_idle() {
    let origin = Origin::start("a");
    let sluice =
        Sluice::new().start(&web(", idle_timeout: 300ms", "{ cluster: up }", origin.addr(), ""));
    let mut client = H2::connect(sluice.addr("web"));
    let ping = frame(kind::PING, 0, 0, b"12345678");
    // Sends a PING every 50 ms; after a GOAWAY, reads to the end of the connection.
    let heard = |client: &mut H2| client.read().is_none_or(|frame| frame.kind == kind::GOAWAY);
    while client.try_send(&ping).is_ok() && !heard(&mut client) {
        std::thread::sleep(Duration::from_millis(50));
    }
    while client.read().is_some() {}
    drop(client);
    sluice.record_of("http.idle");
}

/// A client that pipelines yields to others after a few requests; no request may be lost or reordered by that.
#[test]
fn a_long_pipeline_is_answered_whole_and_in_order() {
    let sluice = Sluice::new().workers(1).start(&web(
        "",
        "{ match: { path: /never }, cluster: up }, { respond: { body: here } }",
        "127.0.0.1:1",
        "",
    ));
    let requests = "GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(500);
    let mut pipeline = Client::connect(sluice.addr("web"));
    pipeline.send(&requests);
    for _ in 0..500 {
        assert_eq!(pipeline.read().text(), "here");
    }
}

/// Two hosts on one listener, one of which requires client certificates, with one route table for both: a client
/// connected to the open host must not reach the guarded one by naming it in a request.
#[test]
fn a_guarded_host_is_not_reachable_over_the_connection_of_an_open_one() {
    if !tools::have(&["curl"]) {
        return;
    }
    let kit = Sluice::new().expect_warning("client_auth");
    let authority = Authority::new(kit.folder());
    authority.issue("site", &["public.test", "admin.test"]);
    let certificates = "certificates: [{ cert: site.pem, key: site.key }]";
    let sluice = kit.start(&format!(
        "listeners:\n\
         - name: edge\n\
         \x20 address: 127.0.0.1:0\n\
         \x20 quic: true\n\
         \x20 chains:\n\
         \x20 - {{ match: {{ sni: public.test }}, tls: {{ {certificates} }}, http: main }}\n\
         \x20 - {{ match: {{ sni: admin.test }}, tls: {{ {certificates}, client_auth: {{ ca: ca.pem }} }}, http: main }}\n\
         routes: {{ main: [{{ hosts: admin.test, rules: [{{ respond: {{ body: secret }} }}] }}, {{ hosts: public.test, rules: [{{ respond: {{ body: open }} }}] }}] }}\n"
    ));
    let (edge, ca) = (sluice.addr("edge"), sluice.folder().join("ca.pem"));
    let curl = |version: &str, host: &str| {
        let mut command = tools::command("curl");
        command.args(["-sS", "-o", "-", "-w", " %{http_code}", version, "--cacert"]).arg(&ca);
        command.args(["--resolve", &format!("public.test:{}:127.0.0.1", edge.port())]);
        command.args(["-H", &format!("host: {host}")]);
        tools::must(command.arg(format!("https://public.test:{}/", edge.port())))
    };
    for version in ["--http1.1", "--http2"] {
        assert_eq!(curl(version, "public.test"), "open 200", "{version}");
        for host in ["admin.test", "ADMIN.test", "admin.test.", "admin.test:443"] {
            let answer = curl(version, host);
            assert!(
                answer.ends_with(" 421") && !answer.contains("secret"),
                "{version} {host}: {answer}"
            );
        }
    }
    let statuses = http3::run(&ca, None, async |client| {
        let mut statuses = Vec::new();
        // The later connections resume the session of the first.
        for host in ["public.test", "admin.test", "ADMIN.TEST", "public.test"] {
            let connection = client.connect(edge, "public.test").await?.asking_for(host);
            statuses.push(connection.ask("GET", "/").await?.status);
        }
        Ok(statuses)
    });
    assert_eq!(statuses.unwrap(), [200, 421, 421, 200]);
    let mut resumed = tools::python(&peer("resumed.py"));
    resumed.arg(edge.port().to_string()).arg(&ca).args(["public.test", "admin.test"]);
    let refused = "HTTP/1.1 421 Misdirected Request";
    assert_eq!(tools::must(&mut resumed), format!("{refused} False\n{refused} True\n"));
    sluice.record_of("http.misdirected");
}

/// A cluster whose endpoint is the listener that leads to it: a request makes a few rounds and no more.
#[test]
fn a_request_in_a_loop_is_cut() {
    for version in ["http1", "http2"] {
        let kit = Sluice::new().workers(1).expect_warning("[::1]");
        // The listener's port is not known until it listens.
        let first = web("", "{ cluster: up }", "127.0.0.1:1", &format!(", protocol: {version}"));
        let sluice = kit.start(&first);
        let own = sluice.addr("web");
        // Names are resolved only at run time; addresses are checked in advance.
        let looped = first.replace("127.0.0.1:1\"", &format!("localhost:{}\"", own.port()));
        assert_eq!(sluice.reload(&looped), "applied");
        wait::until("the name is resolved and the loop is cut", || {
            (origin::get(own, "a", "/").status() == 508).then_some(())
        });
        let record = sluice.record_of("local.loop");
        assert_eq!(
            record["detail"],
            "it has passed 8 listeners of this process (`limits.own_hops`)"
        );
        // A client that forges the header only cuts off its own requests.
        let asked = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Sluice-Hops: {}\r\n\r\n", u64::MAX);
        assert_eq!(Client::connect(own).ask(&asked).status(), 508);
    }
}

/// Memory of a process that is no part of a file, in KiB: how much of its program is loaded is up to the system.
fn resident(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Unread responses are held in accounted buffers: clients with a thousand streams fill them up to the limit and no further, and
/// the buffers are available to others again once the clients are gone.
#[test]
fn unread_responses_are_buffered_up_to_the_limit() {
    let origin = Origin::start("a");
    let limits = "limits: { worker_buffer_bytes: 4MiB }\n";
    let rules = web("", "{ cluster: up }", origin.addr(), "");
    let sluice = Sluice::new().workers(1).start(&format!("{limits}{rules}"));
    assert_eq!(origin::get(sluice.addr("web"), "a", "/bytes/1000000").body.len(), 1_000_000);
    let before = resident(sluice.pid());
    let mut clients: Vec<H2> = (0..10).map(|_| reads_nothing(sluice.addr("web"))).collect();
    for client in &mut clients {
        for n in 0..100 {
            client.headers(2 * n + 1, &get("a", "/bytes/1000000"), true);
        }
        let mut answered = BTreeSet::new();
        while answered.len() < 100 {
            let frame = client.read().expect("an answer to each, if only that there is none");
            answered.extend((frame.stream > 0).then_some(frame.stream));
        }
    }
    let grown = resident(sluice.pid()).saturating_sub(before);
    assert!(grown < 10_000, "{grown} KiB for 1000 streams, of which 4096 may be of the account");
    drop(clients);
    wait::until("the buffers are there again", || {
        let answer = Client::connect(sluice.addr("web")).get("b", "/bytes/1000000");
        (answer.body.len() == 1_000_000).then_some(())
    });
    let refused = sluice.metric("sluice_limits_reached_total", "limit=\"worker_buffer_bytes\"");
    assert!(refused > 500, "{refused} streams were refused");
}
