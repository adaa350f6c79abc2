//! UDP flows.

use std::net::{TcpListener, UdpSocket};

use sluice_testkit::peers::{Server, UdpServer, udp_client};
use sluice_testkit::{Running, Sluice, wait};

use crate::kit::{Fault, Seen, nobody, quoted, start, start_to_stop};

pub(crate) const CASES: &[Fault] = &[
    Fault { name: "Nothing listens at the endpoint of a flow", reason: "flow.icmp", inject: icmp },
    Fault {
        name: "The endpoint of a flow is a broadcast address",
        reason: "local.connect",
        inject: broadcast,
    },
    Fault { name: "The flow table is full", reason: "flow.table_full", inject: table_full },
    Fault { name: "A filter denies the source of a flow", reason: "accept.denied", inject: denied },
    Fault {
        name: "A filter does not decide about a flow",
        reason: "filter.timeout",
        inject: undecided,
    },
    Fault {
        name: "Too many flows wait for a filter",
        reason: "flow.waiting_full",
        inject: waiting_full,
    },
    Fault { name: "A flow makes room for a new one", reason: "flow.evicted", inject: evicted },
    Fault {
        name: "The endpoint of a flow never answers",
        reason: "flow.unanswered",
        inject: unanswered,
    },
    Fault { name: "The endpoint of a flow turns unhealthy", reason: "flow.moved", inject: moved },
    Fault {
        name: "A flow is idle",
        reason: "flow.idle",
        inject: || ended("{ cluster: up, idle_timeout: 150ms }", "flow.idle"),
    },
    Fault {
        name: "A flow has all its answers",
        reason: "flow.done",
        inject: || ended("{ cluster: up, responses: 1 }", "flow.done"),
    },
];

fn listening(relay: &str, endpoint: &str, more: &str) -> String {
    format!(
        "listeners: [{{ name: dns, address: \"udp://127.0.0.1:0\", relay: {relay}{more} }}]\n\
         clusters: {{ up: {{ endpoints: [{}] }} }}\n",
        quoted(&[endpoint.to_owned()])
    )
}

/// Sends datagrams until `done` returns a value.
fn send_until<T>(sluice: &Running, client: &UdpSocket, mut done: impl FnMut() -> Option<T>) -> T {
    wait::until("the flow", || {
        client.send_to(b"query", sluice.addr("dns")).unwrap();
        done()
    })
}

fn of_reason(sluice: &Running, reason: &str) -> Option<()> {
    sluice.records().iter().any(|record| record["reason"] == reason).then_some(())
}

fn icmp() -> Seen {
    let gone = nobody();
    let sluice = start(&listening("up", &gone.to_string(), ""));
    let client = udp_client();
    send_until(&sluice, &client, || of_reason(&sluice, "flow.icmp"));
    Seen::of(&sluice, "flow.icmp").endpoint(gone).at("\"dns\"")
}

fn broadcast() -> Seen {
    let endpoint = "127.255.255.255:9";
    let sluice = start(&listening("up", endpoint, ""));
    udp_client().send_to(b"query", sluice.addr("dns")).unwrap();
    Seen::of(&sluice, "local.connect").at("\"dns\"")
}

fn table_full() -> Seen {
    let echo = UdpServer::echo("");
    let yaml = listening("up", &echo.addr().to_string(), "");
    let sluice = start_to_stop(&format!(
        "{yaml}limits: {{ flow_table_entries: 16 }}\ndrain: {{ timeout: 100ms }}\n"
    ));
    // A flow that has been idle for a second makes room; none has once all of them are new.
    wait::until("a full table", || {
        udp_client().send_to(b"query", sluice.addr("dns")).unwrap();
        of_reason(&sluice, "flow.table_full")
    });
    Seen::of(&sluice, "flow.table_full").at("\"dns\"").at("127.0.0.1:")
}

fn evicted() -> Seen {
    let echo = UdpServer::echo("");
    let yaml = listening("up", &echo.addr().to_string(), "");
    let sluice = start_to_stop(&format!(
        "{yaml}limits: {{ flow_table_entries: 16 }}\ndrain: {{ timeout: 100ms }}\n"
    ));
    let clients: Vec<UdpSocket> = (0..16).map(|_| udp_client()).collect();
    for client in &clients {
        client.send_to(b"query", sluice.addr("dns")).unwrap();
        client.recv_from(&mut [0; 16]).unwrap();
    }
    // Once a flow has been idle for a second, it can be evicted.
    send_until(&sluice, &udp_client(), || of_reason(&sluice, "flow.evicted"));
    Seen::of(&sluice, "flow.evicted").endpoint(echo.addr()).at("\"dns\"")
}

fn unanswered() -> Seen {
    let silent = UdpServer::start(|_| Vec::new());
    let yaml = listening("up", &silent.addr().to_string(), "");
    let sluice = start(&format!("{yaml}limits: {{ flow_unanswered_seconds: 1 }}\n"));
    udp_client().send_to(b"query", sluice.addr("dns")).unwrap();
    Seen::of(&sluice, "flow.unanswered").endpoint(silent.addr()).at("\"dns\"")
}

/// A UDP echo server, and a TCP server on the same port for health checks.
fn checked(mark: &'static str) -> (UdpServer, Server) {
    wait::until("a port that is free for both", || {
        let udp = UdpServer::echo(mark);
        let listener = TcpListener::bind(udp.addr()).ok()?;
        Some((udp, Server::start_on(listener, |_| Ok(()))))
    })
}

fn moved() -> Seen {
    let ((one, check), (other, _other_check)) = (checked("one "), checked("other "));
    let sluice = Sluice::new()
        .workers(1)
        .expect_warning("endpoint is unhealthy")
        .expect_warning("drain timeout")
        .start(&format!(
            "listeners: [{{ name: dns, address: \"udp://127.0.0.1:0\", relay: up }}]\n\
             clusters: {{ up: {{ endpoints: [{}], health: {{ interval: 20ms, unhealthy_after: 1 }} }} }}\n\
             drain: {{ timeout: 100ms }}\n",
            quoted(&[one.addr().to_string(), other.addr().to_string()])
        ));
    let ask = |client: &UdpSocket| {
        client.send_to(b"who?", sluice.addr("dns")).unwrap();
        let mut got = [0; 16];
        let count = client.recv_from(&mut got).unwrap().0;
        got[..count].to_vec()
    };
    let clients: Vec<UdpSocket> = (0..4).map(|_| udp_client()).collect();
    let client = clients.iter().find(|client| ask(client) == b"one who?").unwrap();
    drop(check);
    wait::until("the endpoint to be unhealthy", || {
        sluice.log().contains("endpoint is unhealthy").then_some(())
    });
    assert_eq!(ask(client), b"other who?");
    Seen::of(&sluice, "flow.moved").endpoint(one.addr()).at("\"dns\"")
}

fn denied() -> Seen {
    let echo = UdpServer::echo("");
    let filters = ", filters: [{ deny: [127.0.0.0/8] }]";
    let sluice = start(&listening("up", &echo.addr().to_string(), filters));
    udp_client().send_to(b"query", sluice.addr("dns")).unwrap();
    Seen::of(&sluice, "accept.denied").at("\"dns\"").at("127.0.0.1:")
}

/// A listener with a filter that never decides, and this limit.
fn waiting(limit: &str) -> (Running, UdpServer) {
    let echo = UdpServer::echo("");
    let kit = Sluice::with_binary(std::env::current_exe().unwrap())
        .workers(1)
        .expect_warning("drain timeout");
    let yaml = listening("up", &echo.addr().to_string(), ", filters: [{ waiting: {} }]");
    let drain = "drain: { timeout: 100ms }";
    (kit.start(&format!("{yaml}limits: {{ {limit} }}\n{drain}\n")), echo)
}

fn undecided() -> Seen {
    let (sluice, _echo) = waiting("filter_wait_seconds: 1");
    udp_client().send_to(b"query", sluice.addr("dns")).unwrap();
    Seen::of(&sluice, "filter.timeout").at("\"dns\"").at("127.0.0.1:")
}

fn waiting_full() -> Seen {
    let (sluice, _echo) = waiting("flows_waiting: 1");
    for client in [udp_client(), udp_client()] {
        client.send_to(b"query", sluice.addr("dns")).unwrap();
    }
    Seen::of(&sluice, "flow.waiting_full").at("\"dns\"").at("127.0.0.1:")
}

fn ended(relay: &str, reason: &str) -> Seen {
    let echo = UdpServer::echo("");
    let sluice = start(&listening(relay, &echo.addr().to_string(), ""));
    let client = udp_client();
    client.send_to(b"query", sluice.addr("dns")).unwrap();
    client.recv_from(&mut [0; 16]).unwrap();
    Seen::of(&sluice, reason).endpoint(echo.addr()).at("\"dns\"")
}
