//! The connection filter from the page on extending, in a binary of its own that runs.
//!
//! This program is both: started with `run`, it is the program on the page; otherwise it is the test.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;

use sluice_testkit::Sluice;
use sluice_testkit::peers::{Server, exchange};
use socket2::{Domain, Socket, Type};

#[allow(unreachable_pub, missing_docs, reason = "it is what stands on the page")]
mod even_ports {
    include!("extending/even_ports.in");
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("run") {
        return even_ports::main();
    }
    let page = include_str!("../../../docs/extending.md");
    let shown = include_str!("extending/even_ports.in").replace("pub fn main()", "fn main()");
    assert!(page.contains(&shown), "docs/extending.md shows another");
    odd_ports_are_turned_away();
    ExitCode::SUCCESS
}

fn odd_ports_are_turned_away() {
    let echo = Server::echo();
    let sluice = Sluice::with_binary(std::env::current_exe().unwrap()).start(&format!(
        "listeners:\n\
         \x20 - {{ name: door, address: 127.0.0.1:0, relay: up, filters: [{{ even_ports: {{ free_from: 65535 }} }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        echo.addr()
    ));
    let door = sluice.addr("door");
    assert_eq!(exchange(&mut connect_from(door, 0), b"hello"), b"hello");
    let mut odd = connect_from(door, 1);
    assert_eq!(odd.read(&mut [0; 8]).unwrap_or(0), 0, "an odd port is let in");
    sluice.record_of("parity.odd_port");
}

/// Connects from a port with the remainder `rest` modulo 2.
fn connect_from(to: SocketAddr, rest: u16) -> TcpStream {
    (20_000..30_000_u16)
        .filter(|port| port % 2 == rest)
        .find_map(|port| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::from(([127, 0, 0, 1], port)).into()).ok()?;
            socket.connect(&to.into()).ok()?;
            Some(socket.into())
        })
        .expect("a port is free")
}
