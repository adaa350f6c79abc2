//! The filter `oidc` with a provider that says what the test wants: logins, and what must not become one.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::{Value, json};
use sluice_testkit::browser::parameter;
use sluice_testkit::origin::Message;
use sluice_testkit::tokens::{SigningKey, in_seconds};
use sluice_testkit::{Browser, IdentityProvider, Origin, Running, Sluice};
use sluice_tests::logins::{RULES, detail, none, provider, result, start, yaml};

#[test]
fn a_browser_logs_in_and_its_requests_pass() {
    let (origin, id) = (Origin::start("o"), IdentityProvider::start());
    let more = ", scopes: [profile, offline_access], parameters: { prompt: login }, \
                claims: { x-user: sub, x-roles: realm.roles }, payload_header: x-claims";
    let sluice = start(&origin, &id, more, "");
    let mut browser = Browser::new(sluice.addr("web"));
    let redirect = browser.get("/a?b=c");
    assert_eq!((redirect.status(), redirect.value("cache-control")), (303, "no-store"));
    let location = redirect.value("location");
    let of = |name: &str| parameter(location, name);
    assert!(location.starts_with(&format!("{}/auth?", id.issuer())), "{location}");
    assert_eq!(of("redirect_uri"), format!("{}/oauth2/corp/callback", browser.origin()));
    assert_eq!((of("response_type"), of("client_id")), ("code".into(), "shop".into()));
    assert_eq!(
        (of("scope"), of("prompt")),
        ("openid profile offline_access".into(), "login".into())
    );
    assert_eq!((of("code_challenge_method"), of("code_challenge").len()), ("S256".into(), 43));
    let flow = redirect.value("set-cookie");
    assert!(flow.ends_with("; Path=/; Max-Age=600; HttpOnly; SameSite=Lax"), "{flow}");
    assert!(!flow.contains(&of("state")) && !flow.contains(&of("nonce")), "{flow}");

    let claims = id.claims(&of("nonce"), &json!({ "realm": { "roles": ["a", "b"] } }));
    id.give(&claims, &none());
    let back = browser.get(&id.way_back(location, "code=a%2Bb"));
    assert_eq!((back.status(), back.value("location")), (303, "/a?b=c"), "{}", back.text());
    let asked = id.requests("/token").pop().unwrap();
    assert_eq!(asked.value("authorization"), "Basic c2hvcDpzM2NyZXQ=");
    let form = format!("?{}", asked.text());
    assert_eq!(parameter(&form, "grant_type"), "authorization_code");
    assert_eq!(
        (parameter(&form, "code"), parameter(&form, "redirect_uri")),
        ("a+b".into(), of("redirect_uri"))
    );
    assert_eq!(parameter(&form, "code_verifier").len(), 43);
    assert_eq!(browser.cookies.keys().collect::<Vec<_>>(), ["sluice-corp"], "the login has ended");

    browser.cookies.insert("other".into(), "1".into());
    let forged = "Accept: */*\r\nX-User: root\r\nX-Roles: [\"admin\"]\r\nX-Claims: forged\r\n";
    assert_eq!(browser.ask("GET", "/b", forged, "").status(), 200);
    let request = origin.requests().pop().unwrap();
    assert_eq!((request.path(), request.value("x-user")), ("/b", "ann"));
    assert_eq!(request.values("x-roles"), ["[\"a\",\"b\"]"]);
    assert_eq!(request.values("x-claims").len(), 1);
    assert_eq!(request.value("cookie"), "other=1", "endpoints see no session");
    assert!(request.values("authorization").is_empty());
    let record = sluice.record("a request", |record| record["path"] == "/b");
    assert_eq!(record["identity"], "oidc:corp/ann");
    assert_eq!((result(&sluice, "logged_in"), result(&sluice, "session")), (1, 1));
}

#[test]
fn only_browsers_that_ask_for_a_page_are_sent_to_the_provider() {
    let (origin, id) = (Origin::start("o"), IdentityProvider::start());
    let sluice = start(&origin, &id, "", ", pass: [/healthz, /public/*], api: /api/*");
    let mut browser = Browser::new(sluice.addr("web"));
    let page = "Accept: text/html\r\n";
    for (method, path, fields, status) in [
        ("GET", "/", page, 303),
        ("HEAD", "/", page, 303),
        (
            "GET",
            "/",
            "Accept: application/xhtml+xml, TEXT/HTML;q=0.9\r\nSec-Fetch-Mode: navigate\r\n",
            303,
        ),
        ("GET", "/", "", 401),
        ("GET", "/", "Accept: */*\r\n", 401),
        ("GET", "/", "Accept: text/html\r\nSec-Fetch-Mode: cors\r\n", 401),
        ("GET", "/", "Accept: text/html\r\nX-Requested-With: XMLHttpRequest\r\n", 401),
        ("POST", "/", "Accept: text/html\r\nContent-Length: 0\r\n", 401),
        ("GET", "/", "Accept: text/html\r\nConnection: upgrade\r\nUpgrade: websocket\r\n", 401),
        ("GET", "/api/a", page, 401),
        ("GET", "/healthz", "", 200),
        ("GET", "/public/a", page, 200),
        ("GET", "/public", "", 200),
        ("GET", "/public/..%2fsecret", page, 303),
        ("GET", "/public/..;/secret", page, 303),
        ("GET", "/publicity", "", 401),
    ] {
        let mut client = sluice_testkit::origin::Client::connect(sluice.addr("web"));
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n"));
        let response = if method == "HEAD" { client.read_head() } else { client.read() };
        assert_eq!(response.status(), status, "{method} {path} {fields}");
    }
    assert_eq!(detail(&sluice, "oidc.missing"), "oidc_missing");
    // A path that needs no session knows who it is all the same.
    id.log_in(&mut browser, "/", &none(), &none());
    browser.get("/public/x");
    let record = sluice.record("a request", |record| record["path"] == "/public/x");
    assert_eq!(record["identity"], "oidc:corp/ann");
}

/// The response to the way back from a login that `spoil` changes: the query besides `state`, given its location.
fn way_back(
    sluice: &Running,
    id: &IdentityProvider,
    claims: &Value,
    query: &str,
) -> (Browser, Message) {
    let mut browser = Browser::new(sluice.addr("web"));
    let redirect = browser.get("/");
    let location = redirect.value("location");
    id.give(&id.claims(&parameter(location, "nonce"), claims), &none());
    let back = browser.get(&id.way_back(location, query));
    (browser, back)
}

#[test]
fn a_login_ends_only_with_the_provider_that_it_began_with() {
    let (origin, id) = (Origin::start("o"), IdentityProvider::start());
    id.describe(&json!({ "authorization_response_iss_parameter_supported": true }));
    let sluice = start(&origin, &id, "", "");
    let iss = id.issuer().replace(':', "%3A").replace('/', "%2F");
    let asked = |id: &IdentityProvider| id.requests("/token").len();
    for (query, status, reason, details) in [
        ("code=c".to_owned(), 400, "oidc.issuer", "oidc_issuer"),
        ("code=c&iss=https%3A%2F%2Fevil.test".to_owned(), 400, "oidc.issuer", "oidc_issuer"),
        (format!("code=c&iss={iss}%2F"), 400, "oidc.issuer", "oidc_issuer"),
        (format!("code=c&iss={iss}&iss={iss}"), 400, "oidc.state", "oidc_malformed"),
        (format!("code=c&code=d&iss={iss}"), 400, "oidc.state", "oidc_malformed"),
        (format!("code=%zz&iss={iss}"), 400, "oidc.state", "oidc_malformed"),
        (format!("code=&iss={iss}"), 400, "oidc.state", "oidc_malformed"),
        (format!("iss={iss}"), 400, "oidc.state", "oidc_malformed"),
        (format!("error=access_denied&iss={iss}"), 403, "oidc.denied", "oidc_denied"),
        (format!("error=access_denied&code=c&iss={iss}"), 403, "oidc.denied", "oidc_denied"),
        (
            format!("error=temporarily_unavailable&iss={iss}"),
            503,
            "oidc.unavailable",
            "oidc_unavailable",
        ),
    ] {
        let before = asked(&id);
        let (browser, back) = way_back(&sluice, &id, &none(), &query);
        assert_eq!(back.status(), status, "{query}: {}", back.text());
        let fits = |record: &Value| {
            record["reason"] == reason && record["response_code_details"] == details
        };
        sluice.record(&query, fits);
        assert!(!browser.cookies.contains_key("sluice-corp"), "{query}");
        assert_eq!(asked(&id), before, "no code is sent anywhere: {query}");
    }
    let (browser, back) = way_back(&sluice, &id, &none(), &format!("code=c&iss={iss}"));
    assert_eq!((back.status(), back.value("location")), (303, "/"));
    assert!(browser.cookies.contains_key("sluice-corp"));
}

#[test]
fn a_login_ends_only_in_its_browser_and_once() {
    let (origin, id) = (Origin::start("o"), IdentityProvider::start());
    let other = IdentityProvider::start();
    let oidc = format!(
        "{{ providers: {{ corp: {}, partner: {} }}, provider: corp }}",
        provider(&id, ""),
        provider(&other, "").replace("cluster: id", "cluster: other")
    );
    let yaml = yaml(&origin, &id, &oidc, RULES);
    let other_cluster = format!("clusters: {{ other: {{ endpoints: [\"{}\"] }}, ", other.addr());
    let sluice = Sluice::new().workers(1).start(&yaml.replace("clusters: { ", &other_cluster));
    let address = sluice.addr("web");
    let mut browser = Browser::new(address);
    let location = browser.get("/").value("location").to_owned();
    id.give(&id.claims(&parameter(&location, "nonce"), &none()), &none());
    let back = id.way_back(&location, "code=c");
    let flow = browser.cookies.keys().next().unwrap().clone();
    // In another browser, and with the login of another.
    let mut stranger = Browser::new(address);
    assert_eq!(stranger.get(&back).status(), 400);
    stranger.get("/");
    assert_eq!(stranger.get(&back).status(), 400);
    // With the cookie of this login under the name of another, or cut, or changed.
    let sealed = browser.cookies[&flow].clone();
    let (_, own) = stranger.cookies.iter().next().map(|(a, b)| (a.clone(), b.clone())).unwrap();
    for wrong in ["", "x", &own, &sealed[1..], &sealed[..sealed.len() - 1], &format!("{sealed}A")] {
        let mut thief = Browser::new(address);
        thief.cookies.insert(flow.clone(), wrong.into());
        assert_eq!(thief.get(&back).status(), 400, "{wrong}");
    }
    // At the path of the other provider: what was sealed for one is nothing for the other.
    let elsewhere = back.replace("/corp/", "/partner/");
    let mut mixed = browser.clone();
    mixed.cookies.insert(flow.replace("corp", "partner"), sealed.clone());
    assert_eq!(mixed.get(&elsewhere).status(), 400);
    assert!(id.requests("/token").is_empty() && other.requests("/token").is_empty());
    for state in ["", "a", "AAAAAAAAAAAAAAAAAAAAAA", &"A".repeat(500), "%00"] {
        let path = format!("/oauth2/corp/callback?code=c&state={state}");
        assert_eq!(browser.get(&path).status(), 400, "{state}");
    }
    assert_eq!(browser.get("/oauth2/corp/callback").status(), 400);
    assert_eq!(browser.post(&back, "").status(), 405);
    // In its own browser, once.
    assert_eq!(browser.get(&back).status(), 303);
    assert_eq!(browser.get(&back).status(), 400);
    assert_eq!(id.requests("/token").len(), 1);
    assert_eq!(detail(&sluice, "oidc.state"), "oidc_state");
    // Nor is the session of one provider one of the other.
    let session = browser.cookies["sluice-corp"].clone();
    let mut mixed = Browser::new(address);
    mixed.cookies.insert("sluice-partner".into(), session.clone());
    mixed.cookies.insert("sluice-corp".into(), sealed);
    assert_eq!(mixed.get("/").status(), 303);
    for place in (0..session.len()).step_by(7) {
        let mut changed = session.clone().into_bytes();
        changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
        mixed.cookies.insert("sluice-corp".into(), String::from_utf8(changed).unwrap());
        assert_eq!(mixed.get("/").status(), 303, "{place}");
    }
}

#[test]
fn an_id_token_of_something_else_is_no_login() {
    let (origin, id) = (Origin::start("o"), IdentityProvider::start());
    let sluice = start(&origin, &id, ", algorithms: ES256", "");
    for (claims, details) in [
        (json!({ "nonce": "other" }), "oidc_nonce"),
        (json!({ "aud": "bank" }), "jwt_audience"),
        (json!({ "aud": ["shop", "bank"] }), "oidc_azp"),
        (json!({ "azp": "bank" }), "oidc_azp"),
        (json!({ "at_hash": "AAAA" }), "oidc_at_hash"),
        (json!({ "iss": "https://evil.test" }), "jwt_issuer"),
        (json!({ "exp": in_seconds(-600) }), "jwt_expired"),
        (json!({ "sub": "" }), "oidc_sub"),
    ] {
        let (browser, back) = way_back(&sluice, &id, &claims, "code=c");
        assert_eq!((back.status(), back.text()), (403, "the login failed\n".into()), "{claims}");
        sluice.record(details, |record| record["response_code_details"] == details);
        assert!(browser.cookies.is_empty(), "{claims}");
    }
    let forged = SigningKey::new("ES256", "k");
    let hmac = SigningKey::new("HS256", "k");
    let with = |token: &dyn Fn(&Value) -> Option<String>| {
        let mut browser = Browser::new(sluice.addr("web"));
        let location = browser.get("/").value("location").to_owned();
        let claims = id.claims(&parameter(&location, "nonce"), &none());
        id.give(&claims, &json!({ "id_token": token(&claims) }));
        browser.get(&id.way_back(&location, "code=c")).status()
    };
    assert_eq!(with(&|claims| Some(forged.token(claims))), 403);
    assert_eq!(with(&|claims| Some(hmac.token(claims))), 403);
    assert_eq!(
        with(&|claims| Some(id.key.token_of("{\"alg\":\"none\"}", &claims.to_string()))),
        403
    );
    assert_eq!(with(&|_| None), 403);
    assert_eq!(with(&|_| Some("a.b.c".into())), 403);
    assert_eq!(with(&|claims| Some(id.key.token(claims))), 303);
}

#[test]
fn a_login_leads_to_this_origin_whatever_is_asked() {
    let (origin, id) = (Origin::start("o"), IdentityProvider::start());
    let sluice = start(&origin, &id, "", "");
    for (rd, location) in [
        ("%2Fa%3Fb%3Dc", "/a?b=c"),
        ("/a", "/a"),
        ("https://evil.test", "/"),
        ("//evil.test", "/"),
        ("%2F%2Fevil.test", "/"),
        ("/%5cevil.test", "/"),
        ("%2F%5Cevil.test", "/"),
        ("%5Cevil.test", "/"),
        ("/%255cevil.test", "/"),
        ("/%252fevil.test", "/"),
        ("/%09/evil.test", "/"),
        ("/%0d%0aset-cookie:%20a=b", "/"),
        ("javascript:alert(1)", "/"),
        ("/oauth2/corp/logout", "/"),
        ("/a&rd=/b", "/"),
        ("", "/"),
    ] {
        let mut browser = Browser::new(sluice.addr("web"));
        let back =
            id.log_in(&mut browser, &format!("/oauth2/corp/login?rd={rd}"), &none(), &none());
        assert_eq!((back.status(), back.value("location")), (303, location), "{rd}");
    }
    let mut browser = Browser::new(sluice.addr("web"));
    let back = id.log_in(&mut browser, "//evil.test/a", &none(), &none());
    assert!(!back.value("location").starts_with("//"), "{}", back.head);
}

#[test]
fn a_browser_has_a_bounded_number_of_logins_on_their_way() {
    let (origin, id) = (Origin::start("o"), IdentityProvider::start());
    let sluice = start(&origin, &id, "", "");
    let mut browser = Browser::new(sluice.addr("web"));
    let mut locations = Vec::new();
    for _ in 0..7 {
        locations.push(browser.get("/").value("location").to_owned());
        assert!(browser.cookies.len() <= 4, "{:?}", browser.cookies.keys());
    }
    let location = locations.pop().unwrap();
    id.give(&id.claims(&parameter(&location, "nonce"), &none()), &none());
    assert_eq!(browser.get(&id.way_back(&location, "code=c")).status(), 303);
    assert_eq!(sluice.metric("sluice_limits_reached_total", "limit=\"oidc_logins\""), 3);
}

#[test]
fn rules_have_providers_of_their_own_and_know_what_is_claimed() {
    let (origin, id) = (Origin::start("o"), IdentityProvider::start());
    let partner =
        provider(&id, ", path: /partner/login").replace("client_id: shop", "client_id: partner");
    let oidc = format!(
        "{{ providers: {{ corp: {}, partner: {partner} }}, provider: corp }}",
        provider(&id, "")
    );
    let rules = "[{ match: { path: /open }, cluster: up, filters: { oidc: skip } }, \
                 { match: { path: /maybe }, cluster: up, filters: { oidc: { allow_missing: true } } }, \
                 { match: { path: /partner/* }, cluster: up, filters: { oidc: { provider: partner } } }, \
                 { name: admins, match: { values: { oidc.corp.realm.roles: admin } }, respond: { body: admins } }, \
                 { cluster: up }]";
    let sluice = Sluice::new().workers(1).start(&yaml(&origin, &id, &oidc, rules));
    let mut browser = Browser::new(sluice.addr("web"));
    assert_eq!((browser.get("/open").status(), browser.get("/maybe").status()), (200, 200));
    let location = browser.get("/partner/a").value("location").to_owned();
    assert_eq!(parameter(&location, "client_id"), "partner");
    assert!(parameter(&location, "redirect_uri").ends_with("/partner/login/callback"));
    let roles = json!({ "realm": { "roles": ["dev", "admin"] } });
    id.log_in(&mut browser, "/", &roles, &none());
    assert_eq!(browser.get("/").text(), "admins");
    assert_eq!(browser.get("/partner/a").status(), 303, "a session at one is none at the other");
    let page = "/try?listener=web&host=a.test&path=/&value=oidc.corp.realm.roles:admin";
    assert!(sluice.page(page).1.contains("admins"));
}

#[test]
fn a_login_needs_https_or_this_machine() {
    let (origin, id) = (Origin::start("o"), IdentityProvider::start());
    let sluice = start(&origin, &id, "", "");
    for host in ["shop.test", "localhost.evil.test", "127.0.0.1.evil.test"] {
        let mut browser = Browser::new(sluice.addr("web")).at(host);
        assert_eq!(browser.get("/").status(), 500, "{host}");
        assert_eq!(browser.get("/oauth2/corp/logout").status(), 500, "{host}");
    }
    assert_eq!(detail(&sluice, "oidc.insecure"), "oidc_insecure");
    // Behind a proxy that terminates TLS.
    let sluice = start(&origin, &id, ", origin: \"https://shop.test\"", "");
    let mut browser = Browser::new(sluice.addr("web")).at("shop.test");
    let back = id.log_in(&mut browser, "/a", &none(), &none());
    assert_eq!((back.status(), back.value("location")), (303, "/a"), "{}", back.text());
    let cookie = back.value("set-cookie");
    assert!(cookie.starts_with("__Host-sluice-corp=") && cookie.ends_with("; Secure"), "{cookie}");
    assert_eq!(browser.get("/").status(), 200);
    let mut plain = browser.clone();
    let session = plain.cookies.remove("__Host-sluice-corp").unwrap();
    plain.cookies.insert("sluice-corp".into(), session);
    assert_eq!(plain.get("/").status(), 303, "a cookie that any host may set is none");
}

#[test]
fn without_the_provider_nobody_passes_and_nothing_waits_for_ever() {
    let (origin, id) = (Origin::start("o"), IdentityProvider::start());
    id.say("/.well-known/openid-configuration", 500, "");
    let kit = Sluice::new().expect_warning("cannot fetch").workers(1);
    let oidc = format!("{{ providers: {{ corp: {} }} }}", provider(&id, ", timeout: 2s"));
    let sluice = kit.start(&yaml(&origin, &id, &oidc, RULES));
    let mut browser = Browser::new(sluice.addr("web"));
    assert_eq!(browser.get("/").status(), 503);
    assert_eq!(detail(&sluice, "oidc.unavailable"), "oidc_not_discovered");
    assert_eq!(browser.ask("GET", "/", "", "").status(), 401);
    assert!(origin.requests().is_empty());
    let (_, fetches) = sluice.page("/fetches");
    assert!(
        fetches.contains("openid-configuration") && fetches.contains("answered 500"),
        "{fetches}"
    );
}
