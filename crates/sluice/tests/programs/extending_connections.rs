//! The connection filter from the page on extending, in a program of its own that runs.
//!
//! [`run`] is the program, [`test`] the test of it.

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;

use sluice_testkit::Sluice;
use sluice_testkit::peers::{Server, exchange};
use socket2::{Domain, Socket, Type};

use crate::binary;

#[allow(unreachable_pub, missing_docs, reason = "it is what stands on the page")]
mod even_ports {
    include!("extending/even_ports.in");
}

pub(crate) fn run() -> ExitCode {
    even_ports::main()
}

pub(crate) fn test() {
    let page = include_str!("../../../../docs/extending.md");
    let shown = include_str!("extending/even_ports.in").replace("pub fn main()", "fn main()");
    assert!(page.contains(&shown), "docs/extending.md shows another");
    odd_ports_are_turned_away();
}

fn odd_ports_are_turned_away() {
    let echo = Server::echo();
    let sluice = Sluice::with_binary(binary(module_path!())).start(&format!(
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
