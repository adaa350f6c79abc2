//! Filters, PROXY headers, timeouts, slow and unusual peers.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::net::{Shutdown, SocketAddr};

use sluice_testkit::peers::{Server, UdpServer, connect, exchange, read, read_to_end, udp_client};
use sluice_testkit::{Sluice, tools, wait};

fn one(server: &Server, listener: &str) -> String {
    format!(
        "listeners: [{{ name: a, address: 127.0.0.1:0, {listener} }}]\nclusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        server.addr()
    )
}

#[test]
fn filters_refuse_with_their_reasons() {
    let server = Server::echo();
    for (filter, passes, reason) in [
        ("deny: [127.0.0.0/8]", 0, "accept.denied"),
        ("allow: [192.0.2.0/24]", 0, "accept.denied"),
        ("connection_limit: { max: 2 }", 2, "accept.limit"),
        ("connection_limit: { per_source: 1 }", 1, "accept.source_limit"),
        ("rate_limit: { connections: 1/h, burst: 3, per: source_ip }", 3, "accept.rate"),
    ] {
        let sluice =
            Sluice::new().start(&one(&server, &format!("filters: [{{ {filter} }}], relay: up")));
        let mut kept = Vec::new();
        for _ in 0..passes {
            let mut client = connect(sluice.addr("a"));
            assert_eq!(exchange(&mut client, b"in"), b"in", "{filter}");
            kept.push(client);
        }
        assert!(read_to_end(&mut connect(sluice.addr("a"))).1.is_empty(), "{filter}");
        sluice.record_of(reason);
    }
}

#[test]
fn a_proxy_header_is_accepted_from_trusted_sources_and_passed_on() {
    let server = Server::echo();
    let yaml = |trust: &str, accept: &str| {
        format!(
            "listeners: [{{ name: a, address: 127.0.0.1:0, proxy_protocol: {{ accept: {accept}, trust: [{trust}], timeout: 60s }}, relay: up }}]\n\
             clusters: {{ up: {{ endpoints: [\"{}\"], send_proxy_protocol: v1 }} }}\n",
            server.addr()
        )
    };
    let header = b"PROXY TCP4 192.0.2.7 198.51.100.1 4000 443\r\n";
    let sluice = Sluice::new().start(&yaml("127.0.0.0/8", "required"));
    let mut client = connect(sluice.addr("a"));
    // One byte at a time, followed by the payload.
    for byte in header.iter().chain(b"hello") {
        client.write_all(&[*byte]).unwrap();
    }
    let got = read(&mut client, header.len() + 5);
    assert_eq!(
        got,
        [&header[..], b"hello"].concat(),
        "the endpoint hears of the client, not of the balancer"
    );
    drop(client);
    let record = sluice.record_of("end.done");
    assert_eq!(record["downstream_remote_address"], "192.0.2.7:4000");
    for (say, reason) in [
        (&b"GET / HTTP/1.1\r\n"[..], "proxy_header.missing"),
        (b"PROXY NONSENSE\r\n", "proxy_header.malformed"),
    ] {
        let mut client = connect(sluice.addr("a"));
        client.write_all(say).unwrap();
        let _ = read_to_end(&mut client);
        sluice.record_of(reason);
    }
    let sluice =
        Sluice::new().expect_warning("optional-header").start(&yaml("192.0.2.0/24", "optional"));
    let mut client = connect(sluice.addr("a"));
    client.write_all(header).unwrap();
    let _ = read_to_end(&mut client);
    sluice.record_of("proxy_header.untrusted");
    let mut client = connect(sluice.addr("a"));
    client.write_all(b"no header").unwrap();
    assert!(String::from_utf8_lossy(&read(&mut client, 40)).starts_with("PROXY TCP4 127.0.0.1"));
}

#[test]
fn a_connection_ends_at_its_duration_while_it_waits_for_an_endpoint() {
    let server = Server::echo();
    let sluice = Sluice::new().workers(1).start(&format!(
        "listeners:\n  - {{ name: held, address: 127.0.0.1:0, relay: up }}\n  \
           - {{ name: a, address: 127.0.0.1:0, relay: {{ cluster: up, max_duration: 200ms, max_duration_jitter: 10% }} }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"], limits: {{ connections: 1, queue: {{ timeout: 1m }} }} }} }}\n",
        server.addr()
    ));
    let mut held = connect(sluice.addr("held"));
    held.write_all(b"x").unwrap();
    assert_eq!(read(&mut held, 1), b"x");
    let mut late = connect(sluice.addr("a"));
    let record = sluice.record_of("end.max_duration");
    assert_eq!(record["detail"], "no endpoint was reached within `max_duration`", "{record}");
    assert!(read_to_end(&mut late).1.is_empty());
}

#[test]
fn timeouts_end_stalled_connections() {
    let server = Server::echo();
    for (relay, half_close, reason) in [
        ("{ cluster: up, idle_timeout: 100ms }", false, "end.idle"),
        ("{ cluster: silent, half_close_timeout: 100ms }", true, "end.half_close"),
        ("{ cluster: up, max_duration: 200ms }", false, "end.max_duration"),
    ] {
        let silent = Server::start(|stream| {
            std::mem::forget(stream);
            Ok(())
        });
        let yaml = format!(
            "listeners: [{{ name: a, address: 127.0.0.1:0, relay: {relay} }}]\n\
             clusters: {{ up: {{ endpoints: [\"{}\"] }}, silent: {{ endpoints: [\"{}\"] }} }}\n",
            server.addr(),
            silent.addr()
        );
        let sluice = Sluice::new().expect_warning("unused-cluster").start(&yaml);
        let mut client = connect(sluice.addr("a"));
        // Its time may be over before it has sent anything.
        let _ = client.write_all(b"x");
        if half_close {
            // The half-close arrives separately, after the byte has passed.
            wait::until("the byte to pass", || {
                let open = sluice.items("/connections");
                open.iter().any(|connection| connection["received_bytes"] == 1).then_some(())
            });
            client.shutdown(Shutdown::Write).unwrap();
        }
        let _ = read_to_end(&mut client);
        sluice.record_of(reason);
    }
}

#[test]
fn a_client_that_trickles_bytes_does_not_outlast_the_inspection_timeout() {
    let server = Server::echo();
    let yaml = |timeout: &str| {
        format!(
            "listeners:\n  - name: a\n    address: 127.0.0.1:0\n    inspect: {{ timeout: {timeout}, on_timeout: close }}\n\
             \x20   chains: [{{ match: {{ protocol: http1 }}, relay: up }}]\nclusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
            server.addr()
        )
    };
    let sluice = Sluice::new().start(&yaml("300ms"));
    let mut client = connect(sluice.addr("a"));
    for byte in b"GET /never-ends" {
        // Sluice may have closed by now, which is expected.
        if client.write_all(&[*byte]).is_err() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(40));
    }
    let _ = read_to_end(&mut client);
    sluice.record_of("inspect.timeout");
    // Those who are not late end in other ways.
    let sluice = Sluice::new().start(&yaml("60s"));
    let mut client = connect(sluice.addr("a"));
    client.write_all(b"SSH-2.0-x\r\n").unwrap();
    let _ = read_to_end(&mut client);
    sluice.record_of("chain.unmatched");
    let mut client = connect(sluice.addr("a"));
    // Sluice may have seen enough before it has all.
    let _ = client.write_all(&[b'A'; 20_000]);
    let _ = read_to_end(&mut client);
    assert_eq!(
        exchange(&mut { connect(sluice.addr("a")) }, b"GET / HTTP/1.1\r\n").len(),
        16,
        "others are served"
    );
}

#[test]
fn redis_with_pipelining() {
    if !tools::have(&["redis-server", "redis-benchmark"]) {
        return;
    }
    let port = tools::free_port();
    let mut command = tools::command("redis-server");
    command.args([
        "--port",
        &port.to_string(),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
    ]);
    let _redis = tools::serve(&mut command, ([127, 0, 0, 1], port).into());
    let yaml = format!(
        "listeners: [{{ name: a, address: 127.0.0.1:0, relay: up }}]\nclusters: {{ up: {{ endpoints: [127.0.0.1:{port}] }} }}\n"
    );
    let sluice = Sluice::new().start(&yaml);
    let at = sluice.addr("a").port().to_string();
    for pipeline in ["1", "64"] {
        let mut command = tools::command("redis-benchmark");
        command.args([
            "-h",
            "127.0.0.1",
            "-p",
            &at,
            "-t",
            "set,get",
            "-n",
            "20000",
            "-c",
            "20",
            "-P",
            pipeline,
            "--csv",
        ]);
        let text = tools::must(&mut command);
        assert!(text.contains("\"GET\"") && !text.to_ascii_lowercase().contains("error"), "{text}");
    }
    sluice.wait_open(0);
}

#[test]
fn datagrams_of_every_size_come_back_from_the_address_they_were_sent_to() {
    let server = UdpServer::echo("");
    let yaml = |idle: &str| {
        format!(
            "listeners: [{{ name: a, address: \"udp://0.0.0.0:0\", relay: {{ cluster: up, idle_timeout: {idle} }} }}]\n\
             clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\ndrain: {{ timeout: 100ms }}\n",
            server.addr()
        )
    };
    let sluice = Sluice::new().expect_warning("the drain timeout has expired").start(&yaml("1h"));
    let client = udp_client();
    for (address, size) in
        [("127.0.0.1", 1), ("127.0.0.9", 1472), ("127.0.0.9", 65_507), ("127.0.0.1", 0)]
    {
        let to = (address.parse::<std::net::IpAddr>().unwrap(), sluice.addr("a").port()).into();
        let payload = vec![3; size];
        client.send_to(&payload, to).unwrap();
        let mut got = vec![0; 65_535];
        let (count, from) = client.recv_from(&mut got).unwrap();
        assert_eq!((count, from), (size, to));
        assert!(got[..count] == payload);
    }
    assert_eq!(sluice.metric("sluice_listener_flows_total", ""), 2, "one for each address");
    let sluice = Sluice::new().start(&yaml("100ms"));
    client.send_to(b"x", SocketAddr::from(([127, 0, 0, 1], sluice.addr("a").port()))).unwrap();
    assert_eq!(sluice.record_of("flow.idle")["kind"], "flow");
    wait::until("the flow to end", || {
        (sluice.metric("sluice_listener_flows_active", "") == 0).then_some(())
    });
}

#[test]
fn an_icmp_error_ends_the_flow_and_is_counted() {
    let port = tools::free_port();
    let yaml = format!(
        "listeners: [{{ name: a, address: \"udp://127.0.0.1:0\", relay: up }}]\nclusters: {{ up: {{ endpoints: [127.0.0.1:{port}] }} }}\n"
    );
    let sluice = Sluice::new().start(&yaml);
    let client = udp_client();
    client.send_to(b"anybody?", sluice.addr("a")).unwrap();
    sluice.record_of("flow.icmp");
    assert!(sluice.metric("sluice_flow_icmp_errors_total", "") >= 1);
}

#[test]
fn a_full_flow_table_refuses_unknown_sources_and_counts_them() {
    let server = UdpServer::echo("");
    let yaml = format!(
        "listeners: [{{ name: a, address: \"udp://127.0.0.1:0\", relay: up }}]\nclusters: {{ up: {{ endpoints: [\"{}\"] }} }}\nlimits: {{ flow_table_entries: 16 }}\ndrain: {{ timeout: 100ms }}\n",
        server.addr()
    );
    let sluice =
        Sluice::new().workers(1).expect_warning("the drain timeout has expired").start(&yaml);
    let clients: Vec<_> = (0..40).map(|_| udp_client()).collect();
    for client in &clients {
        client.send_to(b"x", sluice.addr("a")).unwrap();
    }
    sluice.record_of("flow.table_full");
    wait::until("the table to be full", || {
        (sluice.metric("sluice_listener_flows_active", "") == 16).then_some(())
    });
    assert!(sluice.metric("sluice_limits_reached_total", "flow_table_entries") > 0);
}
