//! Calls of clusters by loaded libraries: the example in Rust, and a library that calls as it must not.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;

use sluice_testkit::libraries::{compile, rust_example};
use sluice_testkit::origin::{Client, Message};
use sluice_testkit::peers::Server;
use sluice_testkit::{Origin, Running, Sluice, tools};
use sluice_tests::messages::{out, sluice};

fn get(sluice: &Running, path: &str, fields: &str) -> Message {
    let text = format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n");
    Client::connect(sluice.addr("web")).ask(&text)
}

/// A listener `web` with these settings of `module`, before the cluster `up`, with others for calls.
fn config(origin: &Origin, settings: &str, others: &str) -> String {
    format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ module: {settings} }}] }} }}]\n\
         routes: {{ main: [{{ rules: [{{ name: rest, cluster: up }}] }}] }}\n\
         clusters:\n  up: {{ endpoints: [\"{}\"] }}\n{others}\
         access_log: [{{ sink: records.json, format: {{ json: {{ listener: \"%LISTENER%\", reason: \"%REASON%\", path: \"%PATH%\", calls: \"%SIDE_CALLS%\", why: \"%RESPONSE_CODE_DETAILS%\" }} }} }}]\n",
        origin.addr()
    )
}

/// A service that knows a user: `ann`, who is an admin; it says so in a header.
fn users() -> Server {
    Server::start(|stream| {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut stream = stream;
        loop {
            let mut asked = String::new();
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line)? == 0 {
                    return Ok(());
                }
                if line == "\r\n" {
                    break;
                }
                asked.push_str(&line.to_lowercase());
            }
            let (status, role) = match asked.contains("x-user: ann\r\n") {
                true => ("200 OK", "X-Role: admin\r\n"),
                false => ("404 Not Found", ""),
            };
            write!(stream, "HTTP/1.1 {status}\r\n{role}Content-Length: 0\r\n\r\n")?;
        }
    })
}

#[test]
fn the_example_that_calls_a_cluster() {
    let library = rust_example("role");
    let (origin, users) = (Origin::start("o"), users());
    let kit = Sluice::new().workers(1);
    let settings =
        format!("{{ library: {}, config: users, clusters: [users] }}", library.display());
    let others = format!("  users: {{ endpoints: [\"{}\"] }}\n", users.addr());
    let sluice = kit.start(&config(&origin, &settings, &others));
    assert_eq!(get(&sluice, "/a", "X-User: ann\r\n").status(), 200);
    assert_eq!(origin.requests()[0].value("x-role"), "admin");
    let record = sluice.record("/a", |record| record["path"] == "/a");
    assert!(record["calls"].to_string().contains("users"), "{record}");
    assert_eq!(get(&sluice, "/b", "X-User: eve\r\n").status(), 403);
    let record = sluice.record("/b", |record| record["path"] == "/b");
    assert_eq!(record["why"], "module_response[role: no such user]");
    assert_eq!(origin.requests().len(), 1);
}

/// A Sluice with the library that does what it must not, which may call `up`, and `down`, where nobody listens.
fn hostile() -> Option<(Origin, Running)> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("modules/hostile.c");
    let kit = Sluice::new().workers(1);
    compile(&source, kit.folder())?;
    let origin = Origin::start("o");
    let settings = "{ library: libhostile.so, clusters: [up, down] }";
    let others = format!("  down: {{ endpoints: [\"127.0.0.1:{}\"] }}\n", tools::free_port());
    let sluice = kit.start(&config(&origin, settings, &others));
    Some((origin, sluice))
}

#[test]
fn a_call_resumes_its_hook_with_a_response_or_the_reason_why_there_is_none() {
    let Some((origin, sluice)) = hostile() else { return };
    let said = get(&sluice, "/a", "X-Act: call\r\n").text();
    // The status, a header, one that is not there, and the handle of another request.
    assert!(said.starts_with("0 200 0 1 -3 "), "{said}");
    let called = &origin.requests()[0];
    assert!(called.head.starts_with("GET /called HTTP/1.1\r\n"), "{called:?}");
    assert_eq!(called.value("x-from"), "hostile");
    let said = get(&sluice, "/b", "X-Act: call-nobody\r\n").text();
    assert!(said.starts_with("0 0 1 1 -3 upstream."), "{said}");
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn a_hook_has_one_call_to_a_cluster_that_the_settings_name() {
    let Some((origin, sluice)) = hostile() else { return };
    // A path that is none, a cluster that is not named, the call, another one, and a ticket beside it.
    assert_eq!(get(&sluice, "/a", "X-Act: call-twice\r\n").text(), "-1 -6 0 -2 -2");
    // It was not made, since the hook did not wait for it.
    assert_eq!(get(&sluice, "/b", "").status(), 200);
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn a_cluster_that_is_not_there_is_an_error_of_check() {
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("modules/hostile.c");
    if compile(&source, folder.path()).is_none() {
        return;
    }
    let origin = Origin::start("o");
    let path = folder.path().join("sluice.yaml");
    let settings = "{ library: libhostile.so, clusters: [upp] }";
    std::fs::write(&path, config(&origin, settings, "")).unwrap();
    let output = sluice(&["check", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3));
    let said = out(&output);
    assert!(said.contains("upp") && said.contains("clusters"), "{said}");
}
