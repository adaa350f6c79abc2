//! Ends without a fault, and ends caused by an operator.

use std::io::Write as _;

use sluice_testkit::origin::Client;
use sluice_testkit::peers::{Server, connect, exchange};
use sluice_testkit::{Origin, Running, Sluice, http, wait};

use crate::kit::{
    Fault, Seen, finish, heard, relay, send, start, start_to_stop, told, web, web_with,
};

pub(crate) const CASES: &[Fault] = &[
    Fault { name: "Both sides of a relay finish", reason: "end.done", inject: done },
    Fault { name: "A request is answered", reason: "http.answered", inject: answered },
    Fault { name: "A rule responds by itself", reason: "http.local", inject: responded },
    Fault { name: "A client asks for nothing more", reason: "http.idle", inject: idle },
    Fault {
        name: "Sluice stops and a connection outlasts `drain.timeout`",
        reason: "end.drain",
        inject: drained,
    },
    Fault { name: "Sluice stops during a request", reason: "end.drain", inject: drained_at_work },
    Fault { name: "Sluice is told to stop at once", reason: "end.forced", inject: forced },
    Fault { name: "An operator ends a connection", reason: "end.killed", inject: killed },
    Fault {
        name: "An operator ends a connection during a request",
        reason: "end.killed",
        inject: killed_at_work,
    },
    Fault { name: "A defect ends a request", reason: "worker.panic", inject: panics },
];

fn done() -> Seen {
    let echo = Server::echo();
    let sluice = start(&relay("", &[echo.addr().to_string()], ""));
    let mut client = connect(sluice.addr("db"));
    exchange(&mut client, b"in");
    finish(&client);
    let heard = heard(&mut client);
    Seen::of(&sluice, "end.done").heard(heard).endpoint(echo.addr()).at("\"db\"")
}

fn answered() -> Seen {
    let origin = Origin::start("a");
    let sluice = start(&web(&[origin.addr().to_string()], "", ""));
    let heard = told(&sluice_testkit::origin::get(sluice.addr("web"), "a", "/status/200"));
    Seen::request(&sluice, "http.answered").heard(heard).endpoint(origin.addr())
}

fn responded() -> Seen {
    let sluice = start(
        "listeners: [{ name: web, address: 127.0.0.1:0, http: main }]\n\
         routes: { main: [{ hosts: \"*\", rules: [{ name: closed, respond: { status: 503, body: back soon } }] }] }\n",
    );
    let heard = send(&sluice, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    Seen::request(&sluice, "http.local").heard(heard).at("\"closed\"")
}

fn idle() -> Seen {
    let origin = Origin::start("a");
    let sluice = start(&web_with(", idle_timeout: 2s", &[origin.addr().to_string()], "", ""));
    let mut client = Client::connect(sluice.addr("web"));
    assert_eq!(client.get("a", "/").status(), 200);
    assert!(client.rest().is_empty());
    Seen::of(&sluice, "http.idle").heard("the connection ends").at("\"web\"")
}

/// The record of a Sluice that receives this many signals to stop, and the series that counts it.
fn at_end(mut sluice: Running, signals: usize, reason: &str) -> Seen {
    for at in 0..signals {
        if at > 0 {
            wait::until("the drain to begin", || sluice.log().contains("draining").then_some(()));
        }
        sluice.signal("TERM");
    }
    sluice.wait_end();
    Seen::at_end(&sluice, reason)
}

fn relaying(drain: &str) -> (Running, Server, std::net::TcpStream) {
    let echo = Server::echo();
    let yaml = relay("", &[echo.addr().to_string()], "");
    let sluice = start_to_stop(&format!("{yaml}drain: {{ timeout: {drain} }}\n"));
    let mut client = connect(sluice.addr("db"));
    exchange(&mut client, b"in");
    (sluice, echo, client)
}

fn drained() -> Seen {
    let (sluice, echo, mut client) = relaying("100ms");
    let seen = at_end(sluice, 1, "end.drain").endpoint(echo.addr());
    let _ = client.write_all(b"x");
    seen.at("\"db\"")
}

fn drained_at_work() -> Seen {
    let origin = Origin::start("a");
    let yaml = web(&[origin.addr().to_string()], "", "");
    let sluice = start_to_stop(&format!("{yaml}drain: {{ timeout: 100ms }}\n"));
    let mut client = Client::connect(sluice.addr("web"));
    client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    wait::until("the request", || (origin.requests().len() == 1).then_some(()));
    let seen = at_end(sluice, 1, "end.drain");
    origin.release();
    seen.heard("the connection ends").endpoint(origin.addr())
}

fn forced() -> Seen {
    let (sluice, echo, client) = relaying("30s");
    let seen = at_end(sluice, 2, "end.forced").endpoint(echo.addr());
    drop(client);
    seen.at("\"db\"")
}

/// Ends the only connection.
fn kill(sluice: &Running) {
    let id = sluice.items("/connections")[0]["id"].to_string();
    let path = format!("/connections?id={id}&action=kill");
    let (status, said) = http::request(sluice.admin_addr(), "POST", &path).unwrap();
    assert_eq!(status, 200, "{said}");
}

const WRITABLE: &str = "admin: { address: 127.0.0.1:0, writable: true }\n";

fn killed() -> Seen {
    let echo = Server::echo();
    let yaml = relay("", &[echo.addr().to_string()], "");
    let sluice = start(&format!("{WRITABLE}{yaml}"));
    let mut client = connect(sluice.addr("db"));
    exchange(&mut client, b"in");
    kill(&sluice);
    let heard = heard(&mut client);
    Seen::of(&sluice, "end.killed").heard(heard).endpoint(echo.addr()).at("\"db\"")
}

fn killed_at_work() -> Seen {
    let origin = Origin::start("a");
    let sluice = start(&format!("{WRITABLE}{}", web(&[origin.addr().to_string()], "", "")));
    let mut client = Client::connect(sluice.addr("web"));
    client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    wait::until("the request", || (origin.requests().len() == 1).then_some(()));
    kill(&sluice);
    assert!(client.rest().is_empty());
    origin.release();
    Seen::request(&sluice, "end.killed").heard("the connection ends").endpoint(origin.addr())
}

fn panics() -> Seen {
    let origin = Origin::start("a");
    let kit = Sluice::with_binary(std::env::current_exe().unwrap())
        .workers(1)
        .expect_warning("panicked")
        .expect_panic();
    let http = ", filters: [{ misbehave: { how: panic } }]";
    let sluice = kit.start(&web_with(http, &[origin.addr().to_string()], "", ""));
    let heard = send(&sluice, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    Seen::request(&sluice, "worker.panic").heard(heard).at("\"all\"").at("\"web\"")
}
