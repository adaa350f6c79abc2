//! Requests whose script fails.

use std::io::Write as _;

use sluice_testkit::peers::{Server, connect, read_to_end};
use sluice_testkit::{Origin, Sluice};

use crate::kit::{Fault, Seen, send};

pub(crate) const CASES: &[Fault] = &[
    Fault {
        name: "A script raises an error",
        reason: "script.error",
        inject: || failing("error('no such tier')", "script.error", "inline:1: "),
    },
    Fault {
        name: "A script does not end",
        reason: "script.budget",
        inject: || failing("while true do end", "script.budget", "inline:1: "),
    },
    Fault {
        name: "A script needs too much memory",
        reason: "script.memory",
        inject: || failing(GROWS, "script.memory", "not enough memory"),
    },
    Fault { name: "A script closes the connection", reason: "script.closed", inject: closed },
];

/// A connection that a script closes at what the client says.
fn closed() -> Seen {
    let server = Server::echo();
    let sluice = Sluice::new().start(&format!(
        "listeners: [{{ name: mail, address: 127.0.0.1:0, relay: up, filters: [{{ lua: {{ source: \"function on_data(conn, bytes) if bytes:find('^GET ') then conn:close('a browser') end end\" }} }}] }}]\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\naccess_log: [{{ sink: records.json }}]\n",
        server.addr()
    ));
    let mut client = connect(sluice.addr("mail"));
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("the connection is open");
    let heard = read_to_end(&mut client).1;
    Seen::of(&sluice, "script.closed")
        .heard(String::from_utf8_lossy(&heard))
        .at("\"mail\"")
        .at("a browser")
}

const GROWS: &str = "local s = 'x' while true do s = s .. s end";

/// The request of a listener `web` whose script does this with it.
fn failing(does: &str, reason: &str, place: &str) -> Seen {
    let origin = Origin::start("a");
    let sluice = Sluice::new().workers(1).expect_warning("script.").start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ lua: {{ source: \"function envoy_on_request(handle) {does} end\" }} }}] }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ name: all, cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\naccess_log: [{{ sink: records.json }}]\n",
        origin.addr()
    ));
    let heard = send(&sluice, "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n");
    assert!(origin.requests().is_empty());
    Seen::request(&sluice, reason).heard(heard).at("\"web\"").at(place)
}
