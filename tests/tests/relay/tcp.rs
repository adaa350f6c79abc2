//! TCP: relaying bytes, propagating ends, and failing endpoints.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::net::Shutdown;

use sluice_testkit::peers::{Server, connect, exchange, read, read_to_end, reset_on_close};
use sluice_testkit::{Sluice, tools, wait};

fn relay_to(server: &Server) -> String {
    format!(
        "listeners: [{{ name: a, address: 127.0.0.1:0, relay: up }}]\nclusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        server.addr()
    )
}

#[test]
fn bytes_are_relayed_and_the_connection_is_recorded() {
    let server = Server::echo();
    let sluice = Sluice::new().start(&relay_to(&server));
    let mut client = connect(sluice.addr("a"));
    assert_eq!(exchange(&mut client, b"hello"), b"hello");
    assert_eq!(sluice.items("/connections")[0]["endpoint"], server.addr().to_string());
    let mine = client.local_addr().unwrap().to_string();
    drop(client);
    let record = sluice.record_of("end.done");
    assert_eq!(record["downstream_remote_address"], mine);
    assert_eq!(record["upstream_host"], server.addr().to_string());
    assert_eq!((&record["bytes_received"], &record["bytes_sent"]), (&5.into(), &5.into()));
    assert_eq!(record["filter_chain_name"], "default");
}

#[test]
fn endpoints_of_a_relay_form_a_cluster_with_a_name_of_its_own() {
    let (first, second) = (Server::echo(), Server::echo());
    let yaml = |endpoints: &str| {
        format!("listeners: [{{ name: a, address: 127.0.0.1:0, relay: {endpoints} }}]\n")
    };
    let sluice = Sluice::new().start(&yaml(&format!("\"{}\"", first.addr())));
    assert_eq!(exchange(&mut connect(sluice.addr("a")), b"hello"), b"hello");
    let record = sluice.record_of("end.done");
    assert_eq!(record["upstream_cluster"], "a.default");
    assert_eq!(record["upstream_host"], first.addr().to_string());
    assert_eq!(sluice.items("/clusters")[0]["name"], "a.default");
    let both = format!("[\"{}\", \"{}\"]", first.addr(), second.addr());
    assert_eq!(sluice.reload(&yaml(&both)), "applied");
    assert_eq!(sluice.items("/clusters")[0]["endpoints"].as_array().map(Vec::len), Some(2));
    assert_eq!(sluice.reload(&yaml(&format!("{{ endpoints: {both} }}"))), "unchanged");
}

#[test]
fn either_side_may_finish_first() {
    // Reads to the end, then replies with the length.
    let server = Server::start(|mut stream| {
        let (_, got) = read_to_end(&mut stream);
        stream.write_all(got.len().to_string().as_bytes())
    });
    let sluice = Sluice::new().start(&relay_to(&server));
    let mut client = connect(sluice.addr("a"));
    client.write_all(&vec![1; 3_000_000]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut client).1, b"3000000");

    let talker = Server::start(|mut stream| {
        stream.write_all(b"bye")?;
        stream.shutdown(Shutdown::Write)?;
        let (_, got) = read_to_end(&mut stream);
        assert_eq!(got, b"still here");
        Ok(())
    });
    assert_eq!(sluice.reload(&relay_to(&talker)), "applied");
    let mut client = connect(sluice.addr("a"));
    assert_eq!(read_to_end(&mut client).1, b"bye");
    client.write_all(b"still here").unwrap();
    drop(client);
    sluice.wait_open(0);
}

#[test]
fn a_reset_is_passed_on_as_a_reset() {
    let server = Server::start(|mut stream| {
        let got = read(&mut stream, 4);
        if got == b"rst!" {
            reset_on_close(&stream);
            return Ok(());
        }
        let (end, _) = read_to_end(&mut stream);
        assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        Ok(())
    });
    let sluice = Sluice::new().start(&relay_to(&server));
    let mut client = connect(sluice.addr("a"));
    client.write_all(b"rst!").unwrap();
    let (end, _) = read_to_end(&mut client);
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    sluice.record_of("upstream.reset");

    let mut client = connect(sluice.addr("a"));
    client.write_all(b"wait").unwrap();
    wait::until("the bytes to pass", || {
        let open = sluice.items("/connections");
        open.iter().any(|connection| connection["received_bytes"] == 4).then_some(())
    });
    reset_on_close(&client);
    drop(client);
    sluice.record_of("downstream.reset");
}

#[test]
fn an_endpoint_that_refuses_is_skipped_and_named() {
    let server = Server::echo();
    let dead = tools::free_port();
    let sluice = Sluice::new().workers(1).start(&format!(
        "listeners: [{{ name: a, address: 127.0.0.1:0, relay: up }}, {{ name: b, address: 127.0.0.1:0, relay: dead }}]\n\
         clusters:\n  up: {{ endpoints: [127.0.0.1:{dead}, \"{}\"], outlier: none }}\n  dead: {{ endpoints: [127.0.0.1:{dead}] }}\n",
        server.addr()
    ));
    for _ in 0..4 {
        assert_eq!(exchange(&mut connect(sluice.addr("a")), b"x"), b"x");
    }
    let record = sluice.record("a second attempt", |record| {
        record["upstream_hosts_attempted"].as_array().is_some_and(|attempts| attempts.len() == 2)
    });
    assert_eq!(
        record["upstream_hosts_attempted"][0],
        format!("127.0.0.1:{dead} upstream.refused (errno 111)")
    );
    assert_eq!(read_to_end(&mut connect(sluice.addr("b"))).1, b"");
    let record = sluice.record_of("upstream.refused");
    assert_eq!((&record["side"], &record["phase"]), (&"upstream".into(), &"handle".into()));
}

#[test]
fn an_endpoint_is_ejected_and_readmitted() {
    let port = tools::free_port();
    let sluice = Sluice::new().workers(1).expect_warning("endpoint ejected").start(&format!(
        "listeners: [{{ name: a, address: 127.0.0.1:0, relay: up }}]\n\
         clusters:\n  up:\n    endpoints: [127.0.0.1:{port}, 127.0.0.2:{port}]\n    outlier: {{ connect_failures: 2, ejection: 200ms, max_ejected: 50% }}\n"
    ));
    for _ in 0..4 {
        let (_, got) = read_to_end(&mut connect(sluice.addr("a")));
        assert!(got.is_empty());
    }
    assert!(sluice.metric("sluice_cluster_ejections_total", "") >= 1);
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    let _one = Server::start_at(address, |mut s| s.write_all(b"back"));
    let _two = Server::start_at(format!("127.0.0.2:{port}").parse().unwrap(), |mut s| {
        s.write_all(b"back")
    });
    wait::until("both endpoints to serve", || {
        let (_, got) = read_to_end(&mut connect(sluice.addr("a")));
        assert_eq!(got, b"back");
        let endpoints = sluice.items("/clusters")[0]["endpoints"].as_array().unwrap().clone();
        endpoints
            .iter()
            .all(|endpoint| endpoint["connections_total"].as_u64() > Some(0))
            .then_some(())
    });
}

#[test]
fn unix_sockets_and_ipv6_work_on_both_sides() {
    use std::os::unix::net::UnixStream;
    let server = Server::echo();
    let kit = Sluice::new();
    let path = kit.folder().join("in.sock");
    let yaml = format!(
        "listeners:\n  - {{ name: local, address: \"unix://{0}\", relay: up }}\n  - {{ name: six, address: \"[::1]:0\", relay: by-unix }}\n\
         clusters:\n  up: {{ endpoints: [\"{1}\"] }}\n  by-unix: {{ endpoints: [\"unix://{0}\"] }}\n",
        path.display(),
        server.addr()
    );
    let sluice = kit.start(&yaml);
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"hi").unwrap();
    let mut got = [0; 2];
    std::io::Read::read_exact(&mut client, &mut got).unwrap();
    assert_eq!(&got, b"hi");
    drop(client);
    assert_eq!(exchange(&mut connect(sluice.addr("six")), b"through both"), b"through both");
    sluice.wait_open(0);
}

#[test]
fn bulk_data_is_intact_both_ways_even_for_a_user_with_few_pipes() {
    let server = Server::echo();
    // An unprivileged user: the system's limit on pipe pages applies only to those.
    let root = tools::must(&mut tools::command("id").to_owned_arg("-u")).trim() == "0";
    let kit = if root { Sluice::new().as_user(65_534) } else { Sluice::new() };
    let sluice = kit.start(&relay_to(&server));
    let data: Vec<u8> =
        (0..4_000_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    let clients: Vec<_> = (0..32)
        .map(|_| {
            let (address, data) = (sluice.addr("a"), data.clone());
            std::thread::spawn(move || {
                let mut client = connect(address);
                let mut sender = client.try_clone().unwrap();
                let copy = data.clone();
                let sending = std::thread::spawn(move || {
                    sender.write_all(&copy).unwrap();
                    sender.shutdown(Shutdown::Write).unwrap();
                });
                let (end, got) = read_to_end(&mut client);
                end.unwrap();
                sending.join().unwrap();
                assert!(got == data);
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    sluice.wait_open(0);
}

/// `Command::arg` takes `&mut self`; this keeps a one-liner a one-liner.
trait OwnedArg {
    fn to_owned_arg(self, arg: &str) -> Self;
}

impl OwnedArg for std::process::Command {
    fn to_owned_arg(mut self, arg: &str) -> Self {
        self.arg(arg);
        self
    }
}
