//! The filter with a fetched list and a secret from the page on extending, in a program of its own that runs.
//!
//! [`run`] is the program, [`test`] the test of it.

use std::io::{BufReader, Read as _, Write as _};
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};

use sluice_testkit::origin::{Client, read_message};
use sluice_testkit::peers::Server;
use sluice_testkit::{Origin, Running, Sluice, files, wait};

use crate::binary;

#[allow(unreachable_pub, missing_docs, reason = "it is what stands on the page")]
mod keys {
    include!("extending/keys.in");
}

pub(crate) fn run() -> ExitCode {
    keys::main()
}

pub(crate) fn test() {
    let page = include_str!("../../../../docs/extending.md");
    let shown = include_str!("extending/keys.in").replace("pub fn main()", "fn main()");
    assert!(page.contains(&shown), "docs/extending.md shows another");
    a_list_is_fetched_and_follows_its_origin();
    an_origin_that_stalls_holds_up_nobody();
    attempts_that_are_asked_for_are_bounded();
    the_origin_may_be_a_listener_of_the_same_process();
    secrets_are_checked_and_never_shown();
}

/// A list of keys, and the token that it is asked for with.
#[derive(Clone)]
struct List(Arc<Mutex<(String, String)>>);

impl List {
    fn new(keys: &str, token: &str) -> Self {
        Self(Arc::new(Mutex::new((keys.into(), token.into()))))
    }

    fn set(&self, keys: &str, token: &str) {
        *self.0.lock().unwrap() = (keys.into(), token.into());
    }

    fn serve(&self) -> Server {
        let list = self.clone();
        Server::start(move |mut stream| {
            let mut reader = BufReader::new(stream.try_clone()?);
            let asked = read_message(&mut reader, false)?;
            let (keys, token) = list.0.lock().unwrap().clone();
            let known = asked.value("authorization") == format!("Bearer {token}");
            let (status, body) = if known { (200, keys.as_str()) } else { (401, "") };
            // Each attempt has a connection of its own, so that none is left when the server is gone.
            let head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\n");
            let answer = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes())
        })
    }
}

fn yaml(list: impl std::fmt::Display, settings: &str, origin: &Origin) -> String {
    format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ keys: {{ cluster: list, {settings} }} }}] }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }}, list: {{ endpoints: [\"{list}\"] }} }}\n\
         secrets: {{ list_token: {{ file: token }} }}\n",
        origin.addr()
    )
}

const NAMED: &str = "token: { secret: list_token }, refresh: 1h, refetch_after: 1ms";

fn start(yaml: &str, warnings: &[&str]) -> Running {
    let kit = Sluice::with_binary(binary(module_path!())).workers(2).watching();
    let kit = warnings.iter().fold(kit, |kit, warning| kit.expect_warning(warning));
    std::fs::write(kit.folder().join("token"), "first-token\n").unwrap();
    kit.start(yaml)
}

fn ask(sluice: &Running, key: &str) -> u16 {
    let mut client = Client::connect(sluice.addr("web"));
    client.ask(&format!("GET /x HTTP/1.1\r\nHost: a\r\nX-Api-Key: {key}\r\n\r\n")).status()
}

fn attempts(sluice: &Running, result: &str) -> i64 {
    sluice.metric("sluice_fetches_total", &format!("result=\"{result}\""))
}

fn a_list_is_fetched_and_follows_its_origin() {
    let (origin, list) = (Origin::start("a"), List::new("ann\n", "first-token"));
    let server = list.serve();
    let sluice = start(&yaml(server.addr(), NAMED, &origin), &["cannot fetch", "is not used"]);
    assert_eq!([ask(&sluice, "ann"), ask(&sluice, "bob")], [200, 403]);
    sluice.record_of("keys.unknown");
    assert_eq!(attempts(&sluice, "changed"), 1);

    // The origin changes its list: a key that is not known yet leads to another attempt.
    list.set("ann\nbob\n", "first-token");
    assert_eq!(ask(&sluice, "bob"), 200);
    assert_eq!(attempts(&sluice, "changed"), 2);

    // The token changes: neither the listener nor the fetch is another one.
    list.set("cid\n", "second-token");
    assert_eq!([ask(&sluice, "cid"), ask(&sluice, "ann")], [403, 200]);
    let before = sluice.metric("sluice_fetches_total", "");
    files::place(&sluice.folder().join("token"), "second-token\n");
    wait::until("the new token", || (ask(&sluice, "cid") == 200).then_some(()));
    assert_eq!(ask(&sluice, "ann"), 403);
    assert!(sluice.metric("sluice_fetches_total", "") > before);
    assert_eq!(attempts(&sluice, "changed"), 3);
    assert!(sluice.log().contains("secrets: ~list_token"), "{}", sluice.log());

    // Without the origin, the last list stays in use.
    let items = sluice.items("/fetches");
    assert_eq!(
        (items[0]["name"].as_str(), items[0]["state"].as_str()),
        (Some("list: /keys"), Some("current"))
    );
    let address = server.addr();
    drop(server);
    assert_eq!([ask(&sluice, "cid"), ask(&sluice, "dan")], [200, 403]);
    wait::until("a failure", || (sluice.items("/fetches")[0]["state"] == "stale").then_some(()));
    assert_eq!([ask(&sluice, "cid"), ask(&sluice, "dan")], [200, 403]);
    assert_eq!(sluice.log().matches("the last content stays in use").count(), 2);

    // The fetch ends with the configuration that uses it.
    let filter = format!("{{ keys: {{ cluster: list, {NAMED} }} }}");
    assert_eq!(sluice.reload(&yaml(address, NAMED, &origin).replace(&filter, "")), "applied");
    wait::until("the end of the fetch", || sluice.items("/fetches").is_empty().then_some(()));
}

fn an_origin_that_stalls_holds_up_nobody() {
    let origin = Origin::start("a");
    let stalled = Server::start(|mut stream| stream.read_to_end(&mut Vec::new()).map(drop));
    let settings = "token: inline-token, refresh: 1h, timeout: 50ms, refetch_after: 1ms";
    let sluice = start(&yaml(stalled.addr(), settings, &origin), &["cannot fetch", "is not used"]);
    assert_eq!(ask(&sluice, "ann"), 503);
    sluice.record_of("keys.unavailable");
    wait::until("two attempts", || (attempts(&sluice, "failed") >= 2).then_some(()));
    let items = sluice.items("/fetches");
    assert_eq!(items[0]["state"], "missing");
    assert!(items[0]["failure"].as_str().unwrap().contains("within 5"), "{items:?}");
}

fn attempts_that_are_asked_for_are_bounded() {
    let (origin, list) = (Origin::start("a"), List::new("ann\n", "first-token"));
    let server = list.serve();
    let settings = "token: { secret: list_token }, refresh: 1h, refetch_after: 1h";
    let sluice = start(&yaml(server.addr(), settings, &origin), &[]);
    assert_eq!(ask(&sluice, "ann"), 200);
    list.set("bob\n", "first-token");
    assert!((0..20).all(|_| ask(&sluice, "bob") == 403));
    assert_eq!(sluice.metric("sluice_fetches_total", ""), 1);
    assert_eq!(server.accepted(), 1);
}

fn the_origin_may_be_a_listener_of_the_same_process() {
    let origin = Origin::start("a");
    let with = |list: &str| {
        let text = yaml(list, NAMED, &origin);
        let text = text.replace(
            "listeners: [",
            "listeners: [{ name: svc, address: 127.0.0.1:0, http: svc }, ",
        );
        text.replace("routes: { ", "routes: { svc: { respond: { status: 200, body: ann } }, ")
    };
    let sluice = start(&with("127.0.0.1:1"), &["cannot fetch"]);
    assert_eq!(ask(&sluice, "ann"), 503);
    assert_eq!(sluice.reload(&with(&sluice.addr("svc").to_string())), "applied");
    wait::until("the list", || (ask(&sluice, "ann") == 200).then_some(()));
    assert_eq!(ask(&sluice, "bob"), 403);
}

/// What a command says about a configuration with these settings.
fn say(command: &str, settings: &str) -> String {
    let origin = Origin::start("a");
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    std::fs::write(folder.join("token"), "in-the-file").unwrap();
    let file = folder.join("fetches.yaml");
    std::fs::write(&file, yaml("127.0.0.1:1", settings, &origin)).unwrap();
    let said = Command::new(binary(module_path!())).arg(command).arg(&file).output();
    let said = said.unwrap();
    String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned()
}

fn secrets_are_checked_and_never_shown() {
    for (settings, parts) in [
        (
            "token: { secret: lst_token }",
            ["there is no secret `lst_token`", "did you mean `list_token`?"],
        ),
        ("token: { secrte: list_token }", ["unknown field `secrte`", "did you mean `secret`?"]),
        ("token: \"\"", ["a secret must not be empty", "keys.token"]),
        ("token: { file: none }", ["none: cannot be read", "keys.token"]),
        ("token: in-the-settings", ["the secret `list_token` is not used", "secrets: "]),
    ] {
        let said = say("check", settings);
        for part in parts {
            assert!(said.contains(part), "{said}");
        }
        assert!(settings.contains("in-the-settings") || !said.contains("in-the"), "{said}");
    }
    for (settings, shown) in [
        ("token: in-the-settings", "token: \"[redacted]\""),
        ("token: { file: token }", "file: token"),
        ("token: { secret: list_token }", "secret: list_token"),
    ] {
        let said = say("explain", settings);
        assert!(said.contains(shown) && !said.contains("in-the"), "{said}");
        assert!(said.contains("list_token:\n    file: token"), "{said}");
    }
}
