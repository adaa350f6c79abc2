//! The filters `basic_auth`, `api_key` and `inject_credentials`: who may pass with which password or key, and which one
//! services behind get.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sluice_testkit::origin::{Client, Message};
use sluice_testkit::tokens::KeyServer;
use sluice_testkit::{Origin, Running, Sluice, wait};

/// `pw`.
const BCRYPT: &str = "$2b$04$abcdefghijklmnopqrstuuyvPXIbu7xe6/CED2DzX8z6Si09MlzlW";
/// `Hello world!`.
const SHA: &str = "$5$rounds=1000$s$v8DMx/7t0/H1zYj41VNdi6eQ/F1frpRoHaqbgo1/KvA";
/// `password`.
const ARGON2: &str =
    "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
/// `secret`.
const KEY: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

const ANN: &str = "Authorization: Basic YW5uOnB3\r\n";
const ANN_WRONG: &str = "Authorization: Basic YW5uOlB3\r\n";
const BOB: &str = "Authorization: basic Ym9iOkhlbGxvIHdvcmxkIQ==\r\n";
const CID: &str = "Authorization: Basic Y2lkOnBhc3N3b3Jk\r\n";
const NOBODY: &str = "Authorization: Basic eDpwdw==\r\n";

fn yaml(origin: &Origin, filter: &str, rules: &str) -> String {
    format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ {filter} }}] }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: {rules} }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        origin.addr()
    )
}

fn ask(sluice: &Running, path: &str, fields: &str) -> Message {
    let mut client = Client::connect(sluice.addr("web"));
    client.ask(&format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n"))
}

#[test]
fn users_pass_with_their_passwords_in_every_form() {
    let origin = Origin::start("o");
    let kit = Sluice::new().workers(1);
    let users = format!("ann:{BCRYPT}\nbob:{SHA}\ncid:{ARGON2}\n");
    std::fs::write(kit.folder().join("users"), users).unwrap();
    let filter = "basic_auth: { users_file: users, realm: Shop, user_header: x-user }";
    let rules = "[{ match: { path: /open }, cluster: up, filters: { basic_auth: skip } }, \
                 { name: for-bob, match: { values: { auth.identity: \"basic:bob\" } }, cluster: up }, \
                 { cluster: up }]";
    let sluice = kit.start(&yaml(&origin, filter, rules));
    for (fields, name) in [(ANN, "ann"), (BOB, "bob"), (CID, "cid"), (ANN, "ann")] {
        let response = ask(&sluice, "/", &format!("X-User: root\r\n{fields}"));
        assert_eq!(response.status(), 200, "{name}");
        let request = origin.requests().pop().unwrap();
        assert_eq!(request.values("x-user"), [name]);
        assert!(request.values("authorization").is_empty(), "{}", request.head);
    }
    assert_eq!(ask(&sluice, "/open", "").status(), 200);
    let passed = origin.requests().len();
    let two = format!("{ANN}{BOB}");
    for fields in
        ["", ANN_WRONG, NOBODY, &two, "Authorization: Basic !\r\n", "Authorization: Bearer x\r\n"]
    {
        let response = ask(&sluice, "/", fields);
        assert_eq!(response.status(), 401, "{fields}");
        let challenge = "Basic realm=\"Shop\", charset=\"UTF-8\"";
        assert_eq!(response.value("www-authenticate"), challenge);
    }
    assert_eq!(origin.requests().len(), passed);
    let record = sluice.record("bob", |record| record["route_name"] == "for-bob");
    assert_eq!(record["identity"], "basic:bob");
    assert_eq!(sluice.record_of("basic.missing")["identity"], serde_json::Value::Null);
}

#[test]
fn a_password_that_is_remembered_ends_with_its_user() {
    let origin = Origin::start("o");
    let kit = Sluice::new().workers(1).watching().expect_warning("cannot fetch");
    let file = kit.folder().join("users");
    let write = |text: String| {
        std::fs::write(file.with_extension("new"), text).unwrap();
        std::fs::rename(file.with_extension("new"), &file).unwrap();
    };
    write(format!("ann:{BCRYPT}\nbob:{SHA}\n"));
    let filter = "basic_auth: { users_file: users }";
    let sluice = kit.start(&yaml(&origin, filter, "[{ cluster: up }]"));
    assert_eq!((ask(&sluice, "/", ANN).status(), ask(&sluice, "/", ANN).status()), (200, 200));
    write(format!("bob:{SHA}\n"));
    wait::until("ann is gone", || (ask(&sluice, "/", ANN).status() == 401).then_some(()));
    assert_eq!(ask(&sluice, "/", BOB).status(), 200);
    // A file with a hash that is too weak changes nothing.
    write("bob:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n".into());
    let invalid = || sluice.metric("sluice_fetches_total", "result=\"invalid\"") > 0;
    wait::until("an attempt", || invalid().then_some(()));
    assert_eq!(ask(&sluice, "/", BOB).status(), 200);
}

#[test]
fn keys_pass_from_where_they_may_be_and_go_no_further() {
    let origin = Origin::start("o");
    let filter = format!(
        "api_key: {{ keys: {{ acme: {KEY} }}, from: {{ headers: [x-api-key, authorization], cookies: key, query: key }}, user_header: x-holder }}"
    );
    let again = format!("api_key: {{ keys: {{ acme: {KEY} }}, allow: other }}");
    let rules = format!(
        "[{{ match: {{ path: /maybe }}, cluster: up, filters: {{ api_key: {{ keys: {{ acme: {KEY} }}, allow_missing: true }} }} }}, \
         {{ match: {{ path: /other }}, cluster: up, filters: {{ {again} }} }}, \
         {{ match: {{ path: /late, values: {{ auth.identity: \"api_key:acme\" }} }}, cluster: up, filters: {{ {again} }} }}, \
         {{ cluster: up }}]"
    );
    let sluice = Sluice::new().workers(1).start(&yaml(&origin, &filter, &rules));
    for (path, fields, left) in [
        ("/?a=1", "X-Api-Key: secret\r\n", "/?a=1"),
        ("/", "Authorization: Bearer secret\r\n", "/"),
        ("/", "X-Holder: forged\r\nCookie: a=1; key=secret\r\n", "/"),
        ("/?a=1&key=secret", "", "/?a=1"),
        ("/maybe", "", "/maybe"),
        ("/maybe", "X-Api-Key: secret\r\n", "/maybe"),
    ] {
        assert_eq!(ask(&sluice, path, fields).status(), 200, "{path} {fields}");
        let request = origin.requests().pop().unwrap();
        assert!(!request.head.contains("secret"), "{}", request.head);
        assert_eq!(request.path(), left);
        if !path.starts_with("/maybe") {
            assert_eq!(request.values("x-holder"), ["acme"], "that of the client is gone");
        }
    }
    let passed = origin.requests().len();
    for (path, fields, status, reason) in [
        ("/", "", 401, "api_key.missing"),
        ("/", "X-Api-Key: guess\r\n", 401, "api_key.unknown"),
        ("/", "X-Api-Key: secret\r\nCookie: key=other\r\n", 401, "api_key.unknown"),
        ("/maybe", "X-Api-Key: guess\r\n", 401, "api_key.unknown"),
        ("/other", "X-Api-Key: secret\r\n", 403, "api_key.denied"),
        // The route that the identity leads to asks for more; the key has been removed by then.
        ("/late", "X-Api-Key: secret\r\n", 403, "api_key.denied"),
    ] {
        let response = ask(&sluice, path, fields);
        assert_eq!(response.status(), status, "{path} {fields}");
        assert_eq!(response.values("www-authenticate").len(), usize::from(status == 401));
        let here = |record: &serde_json::Value| {
            let of_path = record["path"].as_str().is_some_and(|own| own == path);
            of_path && record["reason"] == reason
        };
        sluice.record(reason, here);
    }
    assert_eq!(origin.requests().len(), passed);
    sluice.record("acme", |record| record["identity"] == "api_key:acme");
}

#[test]
fn services_behind_get_a_credential_of_sluice_and_not_that_of_the_client() {
    let origin = Origin::start("o");
    for (filter, header, value) in [
        ("{ secret: abc }", "authorization", "Bearer abc"),
        ("{ secret: abc, prefix: \"Basic \" }", "authorization", "Basic abc"),
        ("{ secret: { secret: key }, header: x-api-key }", "x-api-key", "own-secret"),
        ("{ secret: abc, header: x-api-key, keep: true }", "x-api-key", "mine"),
    ] {
        let text = yaml(&origin, &format!("inject_credentials: {filter}"), "[{ cluster: up }]");
        let secrets = if filter.contains("key }") { "secrets: { key: own-secret }\n" } else { "" };
        let text = format!("{text}{secrets}");
        let sluice = Sluice::new().workers(1).start(&text);
        let fields = "Authorization: Bearer mine\r\nX-Api-Key: mine\r\n";
        assert_eq!(ask(&sluice, "/", fields).status(), 200, "{filter}");
        assert_eq!(origin.requests().pop().unwrap().values(header), [value], "{filter}");
    }
}

#[test]
fn an_access_token_is_fetched_once_and_again_before_it_expires() {
    let origin = Origin::start("o");
    let answer = |token: &str, seconds: u32| {
        format!(
            "{{\"access_token\":\"{token}\",\"token_type\":\"Bearer\",\"expires_in\":{seconds}}}"
        )
    };
    let id = KeyServer::start(answer("token-one", 3600));
    let filter = "inject_credentials: { oauth2: { cluster: id, path: /token, client_id: \"a b\", client_secret: \"hush:hush\", scopes: [x, y], refetch_after: 1ms } }";
    let text = yaml(&origin, filter, "[{ cluster: up }]");
    let more = format!("clusters: {{ id: {{ endpoints: [\"{}\"] }}, ", id.addr());
    let sluice = Sluice::new().workers(1).start(&text.replace("clusters: { ", &more));
    let token = |sluice: &Running| {
        assert_eq!(ask(sluice, "/", "Authorization: Bearer mine\r\n").status(), 200);
        origin.requests().pop().unwrap().value("authorization").to_owned()
    };
    assert_eq!(
        (token(&sluice), token(&sluice)),
        ("Bearer token-one".into(), "Bearer token-one".into())
    );
    let asked = id.requests();
    assert_eq!(asked.len(), 1);
    let request = &asked[0];
    assert_eq!((request.words()[0], request.path()), ("POST", "/token"));
    assert_eq!(request.value("authorization"), "Basic YStiOmh1c2glM0FodXNo", "a+b:hush%3Ahush");
    assert_eq!(request.text(), "grant_type=client_credentials&scope=x+y");
    // A token that has ended when it arrives is never used.
    id.set(answer("late", 0));
    let other = filter.replace("scopes: [x, y]", "authentication: body");
    assert_eq!(
        sluice.reload(&text.replace("clusters: { ", &more).replace(filter, &other)),
        "applied"
    );
    assert_eq!(ask(&sluice, "/", "").status(), 503);
    let asked = id.requests();
    let body = "grant_type=client_credentials&client_id=a+b&client_secret=hush%3Ahush";
    assert_eq!(asked.last().unwrap().text(), body);
    id.set(answer("token-two", 3600));
    // Not within `refetch_after` of the last attempt.
    wait::until("a token", || (ask(&sluice, "/", "").status() == 200).then_some(()));
    assert_eq!(token(&sluice), "Bearer token-two");
    sluice.record_of("credential.unavailable");
    let shown = sluice.page("/fetches").1 + &sluice.page("/config").1 + &sluice.log();
    assert!(!shown.contains("hush") && !shown.contains("token-two"), "{shown}");
}
