//! Connections to endpoints: the options of their sockets, as the system shows them, and HTTP/2 and HTTP/3 as an endpoint
//! sees them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::mpsc;

use sluice_testkit::frames::{PREFACE, flag, frame, kind};
use sluice_testkit::origin;
use sluice_testkit::peers::{Server, UdpServer, connect, udp_client};
use sluice_testkit::{Authority, QuicServer, Sluice, quinn, wait};

/// The timers of established TCP connections to a port, as `/proc/net/tcp` shows them: `02` is that of keepalive.
fn timers(to: SocketAddr) -> Vec<String> {
    let port = format!(":{:04X}", to.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let ours = rows.filter(|row| row[2].ends_with(&port) && row[3] == "01");
    ours.map(|row| row[5][..2].to_owned()).collect()
}

#[test]
fn idle_connections_are_probed_and_made_from_the_source_address() {
    let (tell, told) = mpsc::sync_channel(16);
    let server = Server::start(move |mut stream| {
        tell.send(stream.peer_addr()?.ip().to_string()).unwrap();
        let mut byte = [0; 1];
        while stream.read(&mut byte)? > 0 {
            stream.write_all(&byte)?;
        }
        Ok(())
    });
    for (socket, from, timer) in [
        ("", "127.0.0.1", "00"),
        (", socket: { keepalive: true }", "127.0.0.1", "02"),
        (
            ", socket: { keepalive: { idle: 1000s, interval: 10s, probes: 3 }, user_timeout: 30s, dscp: 46, source: 127.0.0.9 }",
            "127.0.0.9",
            "02",
        ),
    ] {
        let sluice = Sluice::new().start(&format!(
            "listeners: [{{ name: in, address: 127.0.0.1:0, relay: up }}]\n\
             clusters: {{ up: {{ endpoints: [\"{}\"]{socket} }} }}\n",
            server.addr()
        ));
        let mut client = connect(sluice.addr("in"));
        client.write_all(b"x").unwrap();
        client.read_exact(&mut [0; 1]).unwrap();
        assert_eq!(told.recv().unwrap(), from, "{socket}");
        // What was sent is acknowledged soon, which ends the timer of retransmission.
        wait::until("the timer", || (timers(server.addr()) == [timer]).then_some(()));
        drop(client);
        drop(sluice);
        wait::until("the end of the connection", || timers(server.addr()).is_empty().then_some(()));
    }
}

#[test]
fn flows_are_made_from_the_source_address_and_one_that_is_not_ours_is_named() {
    let server = UdpServer::echo("");
    let yaml = |source: &str| {
        format!(
            "listeners:\n\
             - {{ name: flows, address: \"udp://127.0.0.1:0\", relay: up }}\n\
             - {{ name: in, address: 127.0.0.1:0, relay: up }}\n\
             clusters: {{ up: {{ endpoints: [\"{}\"], socket: {{ source: {source}, dscp: 46 }} }} }}\n\
             drain: {{ timeout: 0s }}\n",
            server.addr()
        )
    };
    let start = |source: &str| {
        Sluice::new().expect_warning("the drain timeout has expired").start(&yaml(source))
    };
    let sluice = start("127.0.0.9");
    let client = udp_client();
    client.connect(sluice.addr("flows")).unwrap();
    client.send(b"x").unwrap();
    client.recv(&mut [0; 9]).unwrap();
    let table = std::fs::read_to_string("/proc/net/udp").unwrap();
    let port = format!(":{:04X}", server.addr().port());
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let from: Vec<_> = rows.filter(|row| row[2].ends_with(&port)).map(|row| &row[1][..8]).collect();
    assert_eq!(from, [u32::from_le_bytes([127, 0, 0, 9])].map(|ip| format!("{ip:08X}")));
    // 192.0.2.1 is for documentation: no host has it.
    let sluice = start("192.0.2.1");
    let mut client = connect(sluice.addr("in"));
    assert_eq!(client.read(&mut [0; 1]).unwrap_or(0), 0);
    let record = sluice.record("the connection", |record| record["listener"] == "in");
    let attempts = record["upstream_hosts_attempted"].to_string();
    assert!(attempts.contains("errno 99"), "{record}");
}

/// What an endpoint sees of HTTP/2.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    StreamWindow(u32),
    ConnectionWindow(u32),
    Ping,
    Closed,
}

#[test]
fn http2_has_the_windows_and_pings_of_its_cluster() {
    let (tell, told) = mpsc::sync_channel(16);
    let server = Server::start(move |mut stream| {
        let mut preface = [0; PREFACE.len()];
        stream.read_exact(&mut preface)?;
        stream.write_all(&frame(kind::SETTINGS, 0, 0, &[]))?;
        let mut head = [0; 9];
        while stream.read_exact(&mut head).is_ok() {
            let mut payload = vec![0; (usize::from(head[1]) << 8) | usize::from(head[2])];
            stream.read_exact(&mut payload)?;
            let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
            match head[3] {
                kind::SETTINGS if head[4] & flag::ACK == 0 => {
                    let window = (0..payload.len()).step_by(6).find(|at| payload[at + 1] == 4);
                    tell.send(Seen::StreamWindow(window.map_or(0, |at| number(at + 2)))).unwrap();
                    stream.write_all(&frame(kind::SETTINGS, flag::ACK, 0, &[]))?;
                }
                kind::WINDOW_UPDATE if head[5..] == [0; 4] => {
                    tell.send(Seen::ConnectionWindow(number(0) + 65_535)).unwrap();
                }
                kind::HEADERS => {
                    // `:status: 200` is in the static table.
                    let flags = flag::END_HEADERS | flag::END_STREAM;
                    stream.write_all(&frame(kind::HEADERS, flags, 1, &[0x88]))?;
                }
                kind::PING => tell.send(Seen::Ping).unwrap(),
                _ => {}
            }
        }
        tell.send(Seen::Closed).unwrap();
        Ok(())
    });
    let sluice = Sluice::new().start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes: {{ main: {{ cluster: up }} }}\n\
         clusters:\n  up:\n    endpoints: [\"{}\"]\n    protocol: http2\n    \
         http2: {{ stream_window: 1MiB, connection_window: 2MiB, ping_interval: 1s, ping_timeout: 50ms }}\n",
        server.addr()
    ));
    assert_eq!(origin::get(sluice.addr("web"), "a", "/").status(), 200);
    let seen: Vec<Seen> = (0..4).map(|_| told.recv().unwrap()).collect();
    // The ping gets no response, so the connection ends.
    let expected =
        [Seen::StreamWindow(1 << 20), Seen::ConnectionWindow(2 << 20), Seen::Ping, Seen::Closed];
    assert_eq!(seen, expected);
}

/// A response that is far longer than any window here: HEADERS with `:status: 200` of the static table, and DATA.
fn long_response() -> Vec<u8> {
    let mut response = vec![0x01, 0x03, 0x00, 0x00, 0xd9, 0x00, 0x80, 0x7f, 0xff, 0xf6];
    response.resize(8 << 20, 0);
    response
}

#[test]
fn http3_has_the_windows_pings_and_time_out_of_its_cluster() {
    let kit = Sluice::new();
    Authority::new(kit.folder()).issue("own", &["own.test"]);
    let (tell, told) = mpsc::sync_channel(16);
    let server = QuicServer::start(kit.folder(), "own", async move |connection| {
        let (mut send, _recv) = connection.accept_bi().await.unwrap();
        // What is accepted at once is what the other side has allowed from the beginning.
        let ahead = send.write(&long_response()).await.unwrap();
        tell.send((ahead, connection.clone())).unwrap();
        connection.closed().await;
    });
    let of = |settings: &str| {
        let address = server.addr();
        format!(
            "{{ endpoints: [\"{address}\"], protocol: http3, tls: {{ sni: own.test, ca: ca.pem }}, http3: {settings} }}"
        )
    };
    let sluice = kit.start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: main }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster_header: x-up }}] }}] }}\n\
         clusters:\n  wide: {}\n  narrow: {}\n",
        of("{ stream_window: 2MiB, connection_window: 1MiB, ping_interval: 50ms }"),
        of("{ stream_window: 32KiB, ping_interval: none, idle_timeout: 5s }"),
    ));
    let ask = |cluster: &str| {
        let mut client = connect(sluice.addr("web"));
        write!(client, "GET / HTTP/1.1\r\nhost: a\r\nx-up: {cluster}\r\n\r\n").unwrap();
        let (ahead, connection) = told.recv().unwrap();
        (client, ahead, connection)
    };
    let (client, ahead, connection) = ask("wide");
    assert_eq!(ahead, 1 << 20);
    wait::until("three pings", || (connection.stats().frame_rx.ping >= 3).then_some(()));
    drop(client);
    let (_client, ahead, connection) = ask("narrow");
    assert_eq!(ahead, 32 << 10);
    let ended = wait::until("the idle timeout", || connection.close_reason());
    assert!(matches!(ended, quinn::ConnectionError::TimedOut), "{ended}");
    let record = sluice.record("the request", |record| record["upstream_cluster"] == "narrow");
    assert_eq!(record["reason"], "upstream.cut", "{record}");
}
