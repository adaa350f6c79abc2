//! The filter `jwt`: who may pass with which token, and what endpoints, rules and records learn of it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};
use sluice_testkit::origin::{Client, Message};
use sluice_testkit::tokens::{KeyServer, SigningKey, in_seconds, key_set};
use sluice_testkit::{Origin, Running, Sluice, wait};

const RULES: &str = "[{ cluster: up }]";

/// A listener `web` with the filter; `{}` in `clusters` are further clusters.
fn yaml(origin: &Origin, jwt: &str, rules: &str, clusters: &str) -> String {
    format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ jwt: {jwt} }}] }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: {rules} }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }}{clusters} }}\n",
        origin.addr()
    )
}

/// A provider with the keys in a file; `more` are further settings.
fn provider(more: &str) -> String {
    format!("{{ issuer: \"https://id.test\", audiences: shop, jwks_file: keys.json{more} }}")
}

fn corp(more: &str) -> String {
    format!("{{ providers: {{ corp: {} }} }}", provider(more))
}

/// The claims of a sound token, and these.
fn claims(more: &Value) -> Value {
    let mut all =
        json!({ "iss": "https://id.test", "aud": "shop", "sub": "ann", "exp": in_seconds(600) });
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    all
}

fn write_keys<'k>(folder: &Path, keys: impl IntoIterator<Item = &'k SigningKey>) {
    let new = folder.join("keys.new");
    std::fs::write(&new, key_set(keys)).unwrap();
    std::fs::rename(new, folder.join("keys.json")).unwrap();
}

/// A Sluice whose file of keys has this one.
fn start(key: &SigningKey, yaml: &str) -> Running {
    start_with(Sluice::new(), key, yaml)
}

fn start_with(kit: Sluice, key: &SigningKey, yaml: &str) -> Running {
    write_keys(kit.folder(), [key]);
    kit.workers(1).start(yaml)
}

fn ask(sluice: &Running, path: &str, fields: &str) -> Message {
    let mut client = Client::connect(sluice.addr("web"));
    client.ask(&format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\n{fields}\r\n"))
}

fn with(sluice: &Running, token: &str) -> Message {
    ask(sluice, "/", &format!("Authorization: Bearer {token}\r\n"))
}

#[test]
fn endpoints_get_the_claims_and_not_the_token() {
    let (origin, key) = (Origin::start("o"), SigningKey::new("ES256", "k"));
    let passing = ", claims: { x-user: sub, x-roles: realm.roles, x-none: none }, payload_header: x-claims, \
                   from: { headers: [authorization, x-token], cookies: session, query: access_token }";
    let sluice = start(&key, &yaml(&origin, &corp(passing), RULES, ""));
    let token = key.token(&claims(&json!({ "realm": { "roles": ["a", "b"] } })));
    let forged = "X-User: root\r\nX-Roles: [\"admin\"]\r\nX-None: forged\r\nX-Claims: forged\r\n";
    for (path, fields, left) in [
        ("/a?x=1", format!("Authorization: bearer {token}\r\n"), "/a?x=1"),
        ("/a", format!("X-Token: {token}\r\n"), "/a"),
        ("/a", format!("Cookie: a=1; session={token}; b=2\r\n"), "/a"),
        (&*format!("/a?x=1&access_token={token}"), String::new(), "/a?x=1"),
    ] {
        let response = ask(&sluice, path, &format!("{fields}{forged}"));
        assert_eq!(response.status(), 200, "{fields}: {}", response.text());
        let request = origin.requests().pop().unwrap();
        assert_eq!((request.path(), request.value("x-user")), (left, "ann"));
        assert_eq!(request.values("x-roles"), ["[\"a\",\"b\"]"]);
        assert_eq!(request.values("x-claims"), [token.split('.').nth(1).unwrap()]);
        assert!(request.values("x-none").is_empty(), "no claim, and not what the client sent");
        assert!(!request.head.contains(&token), "{}", request.head);
        if fields.starts_with("Cookie") {
            assert_eq!(request.value("cookie"), "a=1; b=2");
        }
    }
    // The same token is one token, another is not.
    let twice = format!("Authorization: Bearer {token}\r\nX-Token: {token}\r\n");
    assert_eq!(ask(&sluice, "/", &twice).status(), 200);
    let two = format!("Authorization: Bearer {token}\r\nX-Token: other\r\n");
    let refused = ask(&sluice, "/", &two);
    assert_eq!(refused.status(), 400);
    assert!(refused.value("www-authenticate").contains("error=\"invalid_request\""));
    assert_eq!(sluice.metric("sluice_jwt_tokens_total", "result=\"verified\""), 1);
    assert_eq!(sluice.metric("sluice_jwt_tokens_total", "result=\"known\""), 4);
}

#[test]
fn what_is_required_may_be_one_token_or_several_or_none() {
    let (origin, key) = (Origin::start("o"), SigningKey::new("ES256", "k"));
    let device = "{ issuer: device, audiences: \"*\", jwks_file: keys.json, forward: true, from: { headers: x-device } }";
    let jwt = |require: &str| {
        format!(
            "{{ providers: {{ corp: {}, device: {device} }}{require} }}",
            provider(", claims: { x-user: sub }")
        )
    };
    let start_for = |require: &str| start(&key, &yaml(&origin, &jwt(require), RULES, ""));
    let user = format!("Authorization: Bearer {}\r\n", key.token(&claims(&json!({}))));
    let device =
        format!("X-Device: {}\r\n", key.token(&claims(&json!({ "iss": "device", "sub": "d7" }))));
    let both = format!("{user}{device}");
    let broken = user.replace("\r\n", "x\r\n");
    let late = key.token(&claims(&json!({ "exp": in_seconds(-600) })));
    let late = format!("Authorization: Bearer {late}\r\n");
    for (require, expected) in [
        ("", [401, 200, 200, 200, 401, 401]),
        (", require: corp", [401, 200, 401, 200, 401, 401]),
        (", require: [corp, device]", [401, 200, 200, 200, 401, 401]),
        (", require: { all: [corp, device] }", [401, 401, 401, 200, 401, 401]),
        (", require: [device, { all: [corp, device] }]", [401, 401, 200, 200, 401, 401]),
        (", require: corp, allow_missing: true", [200, 200, 200, 200, 401, 401]),
        (", require: { all: [corp, device] }, allow_missing: true", [200, 401, 401, 200, 401, 401]),
        (", require: corp, allow_invalid: true", [401, 200, 401, 200, 200, 200]),
    ] {
        let sluice = start_for(require);
        for (fields, status) in
            ["", &user, &device, &both, &broken, &late].into_iter().zip(expected)
        {
            let before = origin.requests().len();
            let response = ask(&sluice, "/", &format!("{fields}X-User: forged\r\n"));
            assert_eq!(response.status(), status, "{require} {fields}");
            let passed = origin.requests().split_off(before);
            assert_eq!(passed.len(), usize::from(status == 200), "{require} {fields}");
            let name = passed.first().map(|request| request.value("x-user"));
            assert!(name != Some("forged"), "{require} {fields}");
            if let Some(request) = passed.first()
                && require.ends_with("allow_invalid: true")
            {
                assert!(request.values("authorization").is_empty(), "no token that is not valid");
            }
        }
    }
}

#[test]
fn rules_and_records_know_who_it_is_and_what_is_claimed() {
    let (origin, key) = (Origin::start("o"), SigningKey::new("ES256", "k"));
    let rules = "[{ name: admins, match: { values: { jwt.corp.realm.roles: admin } }, respond: { body: admins } }, \
                 { name: ann, match: { values: { auth.identity: \"jwt:corp/ann\" } }, cluster: up, \
                   filters: { set_headers: { request: { x-identity: \"%IDENTITY%\", x-realm: \"%VALUE(jwt.corp.realm)%\" } } } }, \
                 { name: others, respond: { status: 403 } }]";
    let sluice = start(&key, &yaml(&origin, &corp(""), rules, ""));
    let token = |sub: &str, roles: &[&str]| {
        key.token(&claims(&json!({ "sub": sub, "realm": { "roles": roles } })))
    };
    assert_eq!(with(&sluice, &token("bob", &["dev", "admin"])).text(), "admins");
    assert_eq!(with(&sluice, &token("bob", &["x\",\"admin"])).status(), 403, "no part of a role");
    assert_eq!(with(&sluice, &token("ann", &["dev"])).status(), 200);
    let request = origin.requests().pop().unwrap();
    assert_eq!(request.value("x-identity"), "jwt:corp/ann");
    assert_eq!(request.value("x-realm"), "{\"roles\":[\"dev\"]}");
    let of_rule = |name: &str| sluice.record(name, |record| record["route_name"] == name);
    assert_eq!(of_rule("admins")["identity"], "jwt:corp/bob");
    assert_eq!(of_rule("ann")["identity"], "jwt:corp/ann");
    let tried =
        |value: &str| sluice.page(&format!("/try?listener=web&host=a.test&path=/&value={value}")).1;
    assert!(tried("jwt.corp.realm.roles:admin").contains("admins"));
    assert!(tried("auth.identity:jwt:corp/ann").contains("ann"));
}

#[test]
fn a_rule_has_its_own_requirements_with_the_providers_of_the_chain() {
    let (origin, key) = (Origin::start("o"), SigningKey::new("ES256", "k"));
    let other = "{ issuer: other, audiences: \"*\", jwks_file: keys.json }";
    let jwt =
        format!("{{ providers: {{ corp: {}, other: {other} }}, require: corp }}", provider(""));
    let rules = "[{ match: { path: /open }, cluster: up, filters: { jwt: skip } }, \
                 { match: { path: /other }, cluster: up, filters: { jwt: { require: other } } }, \
                 { match: { path: /maybe }, cluster: up, filters: { jwt: { require: corp, allow_missing: true } } }, \
                 { match: { values: { jwt.corp.sub: bob } }, cluster: up, filters: { jwt: { require: { all: [corp, other] } } } }, \
                 { match: { values: { jwt.corp.sub: cid } }, cluster: up, filters: { jwt: { realm: again } } }, \
                 { cluster: up }]";
    let sluice = start(&key, &yaml(&origin, &jwt, rules, ""));
    let own = |sub: &str| {
        format!("Authorization: Bearer {}\r\n", key.token(&claims(&json!({ "sub": sub }))))
    };
    let other = key.token(&claims(&json!({ "iss": "other" })));
    let other = format!("Authorization: Bearer {other}\r\n");
    for (path, fields, status) in [
        ("/", "", 401),
        ("/", &*own("ann"), 200),
        ("/", &other, 401),
        ("/open", "", 200),
        ("/other", &other, 200),
        ("/other", &own("ann"), 401),
        ("/maybe", "", 200),
        ("/maybe", &other, 401),
        // The rule that is found by a claim asks for more, and its filter runs again: the token has been removed.
        ("/", &own("bob"), 401),
        ("/", &own("cid"), 200),
    ] {
        assert_eq!(ask(&sluice, path, fields).status(), status, "{path} {fields}");
    }
    assert!(origin.requests().iter().all(|request| {
        request.values("authorization").is_empty() || request.path() == "/open"
    }));
}

#[test]
fn a_key_that_is_withdrawn_ends_at_once() {
    let (origin, keys) = (Origin::start("o"), ["a", "b"].map(|id| SigningKey::new("ES256", id)));
    let kit = Sluice::new().watching().expect_warning("cannot fetch");
    let sluice = start_with(kit, &keys[0], &yaml(&origin, &corp(""), RULES, ""));
    let tokens = keys.each_ref().map(|key| key.token(&claims(&json!({}))));
    let known = || sluice.metric("sluice_jwt_tokens_total", "result=\"known\"");
    assert_eq!(
        (with(&sluice, &tokens[0]).status(), with(&sluice, &tokens[0]).status()),
        (200, 200)
    );
    assert_eq!(known(), 1);
    assert_eq!(with(&sluice, &tokens[1]).status(), 401);
    write_keys(sluice.folder(), [&keys[1]]);
    wait::until("the new keys", || (with(&sluice, &tokens[1]).status() == 200).then_some(()));
    let refused = with(&sluice, &tokens[0]);
    assert_eq!(refused.status(), 401, "it was verified with a key that is gone");
    assert!(refused.value("www-authenticate").contains("invalid_token"));
    // A file that is broken changes nothing.
    std::fs::write(sluice.folder().join("keys.json"), "{").unwrap();
    let failed = "sluice_fetches_total";
    wait::until("an attempt", || (sluice.metric(failed, "result=\"invalid\"") > 0).then_some(()));
    assert_eq!(with(&sluice, &tokens[1]).status(), 200);
}

#[test]
fn a_new_key_is_fetched_when_it_is_needed_and_the_last_ones_stay() {
    let (origin, keys) =
        (Origin::start("o"), ["a", "b", "c"].map(|id| SigningKey::new("EdDSA", id)));
    let server = KeyServer::start(key_set([&keys[0]]));
    let remote = "{ cluster: id, path: /keys, refresh: 1h, refetch_after: 1ms }";
    let jwt = format!(
        "{{ providers: {{ corp: {{ issuer: \"https://id.test\", audiences: shop, jwks_remote: {remote} }} }} }}"
    );
    let id = |addr| format!(", id: {{ endpoints: [\"{addr}\"] }}");
    let sluice = Sluice::new().workers(1).expect_warning("cannot fetch").start(&yaml(
        &origin,
        &jwt,
        RULES,
        &id(server.addr()),
    ));
    let tokens = keys.each_ref().map(|key| key.token(&claims(&json!({}))));
    assert_eq!(with(&sluice, &tokens[0]).status(), 200, "a request waits for the first keys");
    server.set(key_set(&keys[..2]));
    assert_eq!(with(&sluice, &tokens[1]).status(), 200);
    assert_eq!(server.asked(), 2);
    assert_eq!((with(&sluice, &tokens[0]).status(), server.asked()), (200, 2));
    // What the server says now has no keys, and then it is gone.
    server.set("{}");
    assert_eq!(with(&sluice, &tokens[2]).status(), 401);
    drop(server);
    assert_eq!(with(&sluice, &tokens[2]).status(), 401);
    assert_eq!(
        (with(&sluice, &tokens[0]).status(), with(&sluice, &tokens[1]).status()),
        (200, 200)
    );
    let record = sluice.record_of("jwt.key");
    assert_eq!(record["response_code_details"], "jwt_key", "{record}");
}

#[test]
fn many_unknown_keys_lead_to_one_attempt() {
    let (origin, key) = (Origin::start("o"), SigningKey::new("EdDSA", "a"));
    let server = KeyServer::start(key_set([&key]));
    let remote = "{ cluster: id, path: /keys, refresh: 1h, refetch_after: 1h }";
    let jwt = format!(
        "{{ providers: {{ corp: {{ issuer: \"https://id.test\", audiences: shop, jwks_remote: {remote} }} }} }}"
    );
    let id = format!(", id: {{ endpoints: [\"{}\"] }}", server.addr());
    let sluice = Sluice::new().workers(1).start(&yaml(&origin, &jwt, RULES, &id));
    let all = claims(&json!({})).to_string();
    for number in 0..50 {
        let token = key.token_of(&format!("{{\"alg\":\"EdDSA\",\"kid\":\"{number}\"}}"), &all);
        assert_eq!(with(&sluice, &token).status(), 401);
    }
    assert_eq!(server.asked(), 1);
}

#[test]
fn a_server_of_keys_that_stalls_or_dies_under_load_holds_nobody_up() {
    let (origin, keys) = (Origin::start("o"), ["a", "b"].map(|id| SigningKey::new("EdDSA", id)));
    let server = KeyServer::start(key_set([&keys[0]]));
    let remote = "{ cluster: id, path: /keys, refresh: 1h, timeout: 200ms, refetch_after: 1ms }";
    let jwt = format!(
        "{{ providers: {{ corp: {{ issuer: \"https://id.test\", audiences: shop, jwks_remote: {remote} }} }} }}"
    );
    let id = format!(", id: {{ endpoints: [\"{}\"] }}", server.addr());
    let kit = Sluice::new().expect_warning("cannot fetch");
    let sluice = kit.start(&yaml(&origin, &jwt, RULES, &id));
    let [known, unknown] = keys.each_ref().map(|key| key.token(&claims(&json!({}))));
    wait::until("the first keys", || (with(&sluice, &known).status() == 200).then_some(()));
    let (stop, passed, refused) =
        (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let more = |of: &AtomicUsize, count: usize| {
        let before = of.load(Ordering::Relaxed);
        wait::until("more requests to end", || {
            (of.load(Ordering::Relaxed) > before + count).then_some(())
        });
    };
    std::thread::scope(|scope| {
        for place in 0..8 {
            let (token, status, count) =
                if place < 4 { (&known, 200, &passed) } else { (&unknown, 401, &refused) };
            let (sluice, stop) = (&sluice, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(with(sluice, token).status(), status);
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        more(&refused, 20);
        let stalled = server.stall();
        // Those with a key that is known do not notice; the others wait for an attempt, and no longer.
        more(&refused, 8);
        more(&passed, 20);
        assert_eq!(sluice.record_of("jwt.key")["response_code_details"], "jwt_key");
        drop(stalled);
        more(&refused, 20);
        drop(server);
        more(&refused, 20);
        more(&passed, 20);
        stop.store(true, Ordering::Relaxed);
    });
    wait::until("all requests to end", || {
        (sluice.metric("sluice_http_requests_active", "") == 0).then_some(())
    });
}
