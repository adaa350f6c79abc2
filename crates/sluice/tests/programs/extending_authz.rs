//! The filter for authorisation from the page on extending, in a program of its own that runs.
//!
//! [`run`] is the program, [`test`] the test of it.

use std::io::{BufReader, Write as _};
use std::process::{Command, ExitCode};

use sluice_testkit::origin::{Client, read_message};
use sluice_testkit::peers::Server;
use sluice_testkit::{Origin, Sluice};

use crate::binary;

#[allow(unreachable_pub, missing_docs, reason = "it is what stands on the page")]
mod authz {
    include!("extending/authz.in");
}

pub(crate) fn run() -> ExitCode {
    authz::main()
}

pub(crate) fn test() {
    let page = include_str!("../../../../docs/extending.md");
    let shown = include_str!("extending/authz.in").replace("pub fn main()", "fn main()");
    assert!(page.contains(&shown), "docs/extending.md shows another");
    assert!(shown.lines().count() <= 150);
    a_service_decides_who_passes();
    the_service_may_be_a_listener_of_the_same_process();
    a_cluster_that_does_not_exist_is_an_error();
    a_value_that_no_filter_declares_is_an_error();
}

/// A service that knows one user.
fn service() -> Server {
    Server::start(|mut stream| {
        let mut reader = BufReader::new(stream.try_clone()?);
        while let Ok(asked) = read_message(&mut reader, false) {
            assert_eq!((asked.path(), asked.value("x-method")), ("/authorise", "GET"));
            let known = asked.value("authorization") == "Bearer ann";
            let (status, user) = if known { (200, "X-User: ann\r\n") } else { (401, "") };
            let answer = format!("HTTP/1.1 {status} X\r\n{user}Content-Length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes())?;
        }
        Ok(())
    })
}

fn yaml(service: impl std::fmt::Display, origin: &Origin) -> String {
    format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ authz: {{ cluster: auth }} }}] }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }}, auth: {{ endpoints: [\"{service}\"] }} }}\n\
         access_log: [{{ sink: records.json, format: {{ json: {{ listener: \"%LISTENER%\", reason: \"%REASON%\", user: \"%VALUE(authz.user)%\", calls: \"%SIDE_CALLS%\" }} }} }}]\n",
        origin.addr()
    )
}

fn a_service_decides_who_passes() {
    let (origin, service) = (Origin::start("a"), service());
    let kit = Sluice::with_binary(binary(module_path!())).workers(1);
    let sluice = kit.start(&yaml(service.addr(), &origin));
    let mut client = Client::connect(sluice.addr("web"));
    let mut ask = |credentials: &str| {
        client.ask(&format!("GET /x HTTP/1.1\r\nHost: a\r\nX-User: root\r\n{credentials}\r\n"))
    };
    let passed = ask("Authorization: Bearer ann\r\n");
    assert_eq!(passed.status(), 200);
    assert_eq!(origin.requests()[0].values("x-user"), ["ann"], "a client cannot name its user");
    assert_eq!(ask("").status(), 401);
    assert_eq!(ask("Authorization: Bearer eve\r\n").status(), 401);
    assert_eq!(origin.requests().len(), 1);
    let record = sluice.record_of("http.answered");
    assert_eq!(record["user"], "ann");
    assert!(record["calls"][0].as_str().unwrap().starts_with("auth 200 in "), "{record}");
    let refused = sluice.record_of("authz.refused");
    assert!(refused["user"].is_null(), "{refused}");
    assert_eq!(sluice.metric("sluice_cluster_side_calls_total", "result=\"answered\""), 3);
    assert_eq!(sluice.metric("sluice_cluster_requests_total", "cluster=\"auth\""), 3);

    // Without the service, nobody passes.
    let nowhere = ([127, 0, 0, 1], sluice_testkit::tools::free_port());
    assert_eq!(sluice.reload(&yaml(std::net::SocketAddr::from(nowhere), &origin)), "applied");
    let mut client = Client::connect(sluice.addr("web"));
    let request = "GET /x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ann\r\n\r\n";
    assert_eq!(client.ask(request).status(), 503);
    assert_eq!(origin.requests().len(), 1);
    sluice.record_of("upstream.refused");
}

/// Over HTTP/2, whose calls share a connection.
fn the_service_may_be_a_listener_of_the_same_process() {
    let origin = Origin::start("a");
    let with = |service: &str| {
        let text = yaml(service, &origin);
        let text = text.replace(
            "listeners: [",
            "listeners: [{ name: svc, address: 127.0.0.1:0, http: svc }, ",
        );
        let text =
            text.replace("routes: { ", "routes: { svc: { respond: { status: 200, body: ok } }, ");
        text.replace(&format!("[\"{service}\"]"), &format!("[\"{service}\"], protocol: http2"))
    };
    let kit = Sluice::with_binary(binary(module_path!())).workers(1);
    let sluice = kit.start(&with("127.0.0.1:1"));
    assert_eq!(sluice.reload(&with(&sluice.addr("svc").to_string())), "applied");
    let mut client = Client::connect(sluice.addr("web"));
    assert_eq!([client.get("a", "/x").status(), client.get("a", "/y").status()], [200, 200]);
    assert_eq!(origin.requests()[1].values("x-user"), ["nobody"]);
    assert_eq!(sluice.metric("sluice_cluster_side_calls_total", "result=\"answered\""), 2);
    assert_eq!(sluice.metric("sluice_cluster_connections_total", "cluster=\"auth\""), 1);
}

/// What `check` says about a configuration with a mistake.
fn check(mistake: &str, correct: &str) -> String {
    let origin = Origin::start("a");
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("authz.yaml");
    let text = yaml("127.0.0.1:1", &origin).replace(correct, mistake);
    std::fs::write(&file, text).unwrap();
    let check = Command::new(binary(module_path!())).arg("check").arg(&file).output();
    let output = check.unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!output.status.success(), "{said}");
    said
}

fn a_cluster_that_does_not_exist_is_an_error() {
    let said = check("cluster: autg", "cluster: auth");
    for part in ["there is no cluster `autg`", "did you mean `auth`?", "authz.cluster"] {
        assert!(said.contains(part), "{said}");
    }
}

fn a_value_that_no_filter_declares_is_an_error() {
    let said = check("%VALUE(authz.usr)%", "%VALUE(authz.user)%");
    for part in ["shares a value `authz.usr`; did you mean `authz.user`?", "access_log[0].format"] {
        assert!(said.contains(part), "{said}");
    }
}
