//! Requests whose guest fails.

use std::io::Write as _;

use sluice_testkit::guests::guest;
use sluice_testkit::peers::{Server, connect, read_to_end};
use sluice_testkit::{Origin, Sluice};

use crate::kit::{Fault, Seen, send};

pub(crate) const CASES: &[Fault] = &[
    Fault {
        name: "A guest traps",
        reason: "wasm.trap",
        inject: || failing("(unreachable)", 1, "wasm.trap", "proxy_on_request_headers: "),
    },
    Fault {
        name: "A guest does not end",
        reason: "wasm.budget",
        inject: || failing("(loop $ever (br $ever))", 1, "wasm.budget", "its processor time"),
    },
    Fault {
        name: "A guest failed shortly before",
        reason: "wasm.down",
        inject: || failing("(unreachable)", 2, "wasm.down", "is not replaced yet"),
    },
    Fault {
        name: "A guest closes the connection",
        reason: "wasm.closed",
        inject: || {
            let does = "(drop (call $close_stream (i32.const 2)))";
            relayed(does, "wasm.closed", "wasm[mail: it closed the connection]")
        },
    },
    Fault {
        name: "A guest holds back too much",
        reason: "wasm.held",
        inject: || relayed("(return (i32.const 1))", "wasm.held", "\"mail\""),
    },
];

/// A connection of a listener `mail` whose guest does this with bytes of the client.
fn relayed(does: &str, reason: &str, place: &str) -> Seen {
    let server = Server::echo();
    let kit = Sluice::new().workers(1);
    let module = guest(&format!("downstream_data\n{does}\n"));
    std::fs::write(kit.folder().join("mail.wasm"), module).expect("the module is written");
    let sluice = kit.start(&format!(
        "listeners: [{{ name: mail, address: 127.0.0.1:0, relay: up, filters: [{{ wasm: {{ file: mail.wasm, held_max: 1 }} }}] }}]\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\naccess_log: [{{ sink: records.json }}]\n",
        server.addr()
    ));
    let mut client = connect(sluice.addr("mail"));
    client.write_all(b"hello").expect("the connection is open");
    let heard = read_to_end(&mut client).1;
    let heard = String::from_utf8_lossy(&heard).into_owned();
    Seen::of(&sluice, reason).heard(heard).at("\"mail\"").at(place)
}

/// The last of so many requests of a listener `web` whose guest does this with it.
fn failing(does: &str, count: usize, reason: &str, place: &str) -> Seen {
    let origin = Origin::start("a");
    let kit = Sluice::new().workers(1).expect_warning("wasm.");
    let module = guest(&format!("request_headers\n{does}\n"));
    std::fs::write(kit.folder().join("tiers.wasm"), module).expect("the module is written");
    let sluice = kit.start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ wasm: {{ file: tiers.wasm, restart: 1h }} }}] }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ name: all, cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\naccess_log: [{{ sink: records.json }}]\n",
        origin.addr()
    ));
    for _ in 1..count {
        send(&sluice, "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n");
    }
    let heard = send(&sluice, "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n");
    assert!(origin.requests().is_empty());
    Seen::request(&sluice, reason).heard(heard).at("\"web\"").at(place)
}
