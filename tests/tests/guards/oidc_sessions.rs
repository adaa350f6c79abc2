//! The filter `oidc` with a provider that says what the test wants: sessions, from their renewal to their end, and tokens.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::{Value, json};
use sluice_testkit::browser::parameter;
use sluice_testkit::{Browser, IdentityProvider, Origin, Running, Sluice};
use sluice_tests::logins::{KEY, RULES, detail, none, provider, result, start, yaml};

/// A browser with a session whose tokens have ended, and are renewed at the next request.
fn due(sluice: &Running, id: &IdentityProvider, refresh_token: &str) -> Browser {
    let mut browser = Browser::new(sluice.addr("web"));
    let answer = json!({ "expires_in": 0, "refresh_token": refresh_token });
    assert_eq!(id.log_in(&mut browser, "/", &none(), &answer).status(), 303);
    browser
}

#[test]
fn tokens_are_renewed_and_the_session_goes_on() {
    let (origin, id) = (Origin::start("o"), IdentityProvider::start());
    let sluice = start(&origin, &id, ", forward: true, claims: { x-team: team }", "");
    let mut browser = due(&sluice, &id, "r1");
    let old = browser.clone();
    let claims = id.claims("", &json!({ "team": "b" }));
    id.give(&claims, &json!({ "access_token": "second", "refresh_token": "r2" }));
    let response = browser.get("/a");
    assert_eq!((response.status(), response.value("cache-control")), (200, "no-store"));
    let request = origin.requests().pop().unwrap();
    assert_eq!((request.value("authorization"), request.value("x-team")), ("Bearer second", "b"));
    let asked = id.requests("/token").pop().unwrap();
    let form = format!("?{}", asked.text());
    assert_eq!(parameter(&form, "grant_type"), "refresh_token");
    assert_eq!(parameter(&form, "refresh_token"), "r1");
    assert_ne!(browser.cookies, old.cookies);
    // The session is new, and is not renewed again.
    assert_eq!(browser.get("/b").status(), 200);
    // What the browser had sent before gets the same, and the refresh token is not used again.
    let mut late = old;
    assert_eq!(late.get("/c").status(), 200);
    assert_eq!(origin.requests().pop().unwrap().value("authorization"), "Bearer second");
    assert_eq!(id.requests("/token").len(), 2, "the login and one renewal");
    assert_eq!((result(&sluice, "renewed"), result(&sluice, "session")), (2, 1));
}

#[test]
fn many_requests_renew_a_session_once() {
    let (origin, id) = (Origin::start("o"), IdentityProvider::start());
    let sluice = start(&origin, &id, "", "");
    let browser = due(&sluice, &id, "r1");
    id.give(&id.claims("", &none()), &json!({ "refresh_token": "r2" }));
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let mut browser = browser.clone();
            std::thread::spawn(move || browser.get("/a").status())
        })
        .collect();
    assert!(clients.into_iter().all(|client| client.join().unwrap() == 200));
    assert_eq!(id.requests("/token").len(), 2, "the login and one renewal");
}

#[test]
fn a_session_that_cannot_be_renewed_leads_to_a_login_or_to_an_error() {
    let (origin, id) = (Origin::start("o"), IdentityProvider::start());
    let sluice = start(&origin, &id, "", "");
    let refused = r#"{"error":"invalid_grant"}"#;
    // Another user, or a forged token, is no renewal either.
    let other = |claims: Value| {
        json!({ "access_token": "a", "token_type": "Bearer", "id_token": id.key.token(&claims) })
            .to_string()
    };
    for (status, body, page, program) in [
        (400, refused.to_owned(), 303, 401),
        (200, other(id.claims("", &json!({ "sub": "bob" }))), 303, 401),
        (200, other(id.claims("", &json!({ "aud": "bank" }))), 303, 401),
        (401, r#"{"error":"invalid_client"}"#.to_owned(), 503, 503),
        (500, String::new(), 503, 503),
        (200, "<html>".to_owned(), 503, 503),
    ] {
        let browser = due(&sluice, &id, &format!("of a browser {status} {body}"));
        let program_browser = due(&sluice, &id, &format!("of a program {status} {body}"));
        id.say("/token", status, &body);
        assert_eq!(browser.clone().get("/a").status(), page, "{body}");
        let asked = program_browser.clone().ask("GET", "/a", "", "").status();
        assert_eq!(asked, program, "{body}");
        assert!(origin.requests().is_empty(), "{body}");
    }
    // Without a refresh token, a session ends with its tokens.
    let mut browser = Browser::new(sluice.addr("web"));
    id.log_in(&mut browser, "/", &none(), &json!({ "expires_in": 0 }));
    assert_eq!(browser.get("/a").status(), 303);
}

#[test]
fn a_session_ends_here_and_at_the_provider() {
    let (origin, id) = (Origin::start("o"), IdentityProvider::start());
    let sluice = start(&origin, &id, ", after_logout: /logged-out", ", pass: /logged-out");
    let mut browser = Browser::new(sluice.addr("web"));
    id.log_in(&mut browser, "/", &none(), &none());
    let token = id.key.id.clone();
    assert!(!token.is_empty());
    // A page of another site cannot end it.
    let other = "Accept: text/html\r\nSec-Fetch-Site: cross-site\r\n";
    assert_eq!(browser.ask("GET", "/oauth2/corp/logout", other, "").status(), 403);
    assert_eq!(browser.get("/").status(), 200);
    let session = browser.clone();
    let out = browser.get("/oauth2/corp/logout");
    let location = out.value("location");
    assert_eq!(out.status(), 303, "{}", out.text());
    assert!(location.starts_with(&format!("{}/out?", id.issuer())), "{location}");
    assert_eq!(parameter(location, "client_id"), "shop");
    assert_eq!(parameter(location, "id_token_hint").split('.').count(), 3);
    let after = format!("{}/logged-out", browser.origin());
    assert_eq!(parameter(location, "post_logout_redirect_uri"), after);
    assert!(browser.cookies.is_empty());
    assert_eq!(browser.get("/").status(), 303);
    // Without an end point of its own, it ends here.
    id.describe(&json!({ "end_session_endpoint": null }));
    let again = start(&origin, &id, ", refresh: 1m", "");
    let mut browser = Browser::new(again.addr("web"));
    browser.cookies = session.cookies;
    assert_eq!(browser.get("/").status(), 200, "another instance knows the session by its key");
    let out = browser.post("/oauth2/corp/logout", "");
    assert_eq!((out.status(), out.text()), (200, "you are logged out\n".into()));
    assert!(browser.cookies.is_empty());
}

#[test]
fn programs_have_opaque_tokens_that_the_provider_knows() {
    let (origin, id) = (Origin::start("o"), IdentityProvider::start());
    let more = ", claims: { x-user: sub }, introspection: { audiences: shop }";
    let sluice = start(&origin, &id, more, "");
    let mut program = Browser::new(sluice.addr("web"));
    let mut ask = |token: &str| {
        program.ask("GET", "/a", &format!("Authorization: Bearer {token}\r\nX-User: root\r\n"), "")
    };
    let active = r#"{"active":true,"sub":"robot","aud":"shop"}"#;
    id.say("/introspect", 200, active);
    assert_eq!(ask("one").status(), 200);
    let asked = id.requests("/introspect").pop().unwrap();
    assert_eq!(asked.text(), "token=one&token_type_hint=access_token");
    assert_eq!(asked.value("authorization"), "Basic c2hvcDpzM2NyZXQ=");
    let request = origin.requests().pop().unwrap();
    assert_eq!(request.value("x-user"), "robot");
    assert!(request.values("authorization").is_empty());
    assert_eq!(sluice.record("it", |record| record["path"] == "/a")["identity"], "oidc:corp/robot");
    // It is known for a while, and no other token is.
    id.say("/introspect", 200, r#"{"active":false}"#);
    assert_eq!(ask("one").status(), 200);
    assert_eq!((result(&sluice, "introspected"), result(&sluice, "known")), (1, 1));
    let refused = ask("two");
    assert_eq!(
        (refused.status(), refused.value("www-authenticate")),
        (401, "Bearer error=\"invalid_token\"")
    );
    for (status, body, expected) in [
        (200, active.replace("shop", "bank"), 401),
        (200, "{}".to_owned(), 503),
        (401, String::new(), 503),
        (500, String::new(), 503),
    ] {
        id.say("/introspect", status, &body);
        assert_eq!(ask("three").status(), expected, "{status} {body}");
    }
    id.say("/introspect", 200, active);
    for token in ["", "a b", "a,b"] {
        assert_eq!(ask(token).status(), 401, "{token}");
    }
    assert_eq!(id.requests("/introspect").len(), 6, "what is no token is not asked about");
    // The client of the session is told nothing of tokens that are not asked about.
    let plain = start(&origin, &id, "", "");
    let mut program = Browser::new(plain.addr("web"));
    assert_eq!(program.ask("GET", "/", "Authorization: Bearer one\r\n", "").status(), 401);
}

#[test]
fn old_keys_open_sessions_until_they_are_gone() {
    let (origin, id) = (Origin::start("o"), IdentityProvider::start());
    let other = KEY.replace('0', "f");
    let with = |keys: &str| {
        let kit = Sluice::new();
        std::fs::write(kit.folder().join("session.key"), keys).unwrap();
        let oidc = format!("{{ providers: {{ corp: {} }} }}", provider(&id, ""));
        let oidc = oidc.replace(KEY, "{ file: session.key }");
        kit.workers(1).start(&yaml(&origin, &id, &oidc, RULES))
    };
    let first = with(KEY);
    let mut browser = Browser::new(first.addr("web"));
    id.log_in(&mut browser, "/", &none(), &none());
    for (keys, status) in [(format!("{other}\n{KEY}\n"), 200), (format!("{other}\n"), 303)] {
        let sluice = with(&keys);
        let mut again = Browser::new(sluice.addr("web"));
        again.cookies = browser.cookies.clone();
        assert_eq!(again.get("/").status(), status, "{keys}");
    }
}

#[test]
fn a_session_takes_as_many_cookies_as_it_needs_up_to_its_limit() {
    let (origin, id) = (Origin::start("o"), IdentityProvider::start());
    let sluice = start(&origin, &id, ", forward: true", "");
    let mut browser = Browser::new(sluice.addr("web"));
    let large = "x".repeat(9_000);
    id.log_in(&mut browser, "/", &none(), &json!({ "access_token": large }));
    assert_eq!(browser.cookies.len(), 4, "{:?}", browser.cookies.keys());
    assert_eq!(browser.get("/a").status(), 200);
    let request = origin.requests().pop().unwrap();
    assert_eq!(request.value("authorization"), format!("Bearer {large}"));
    // A part that is missing is no session.
    let mut without = browser.clone();
    without.cookies.remove("sluice-corp.2");
    assert_eq!(without.get("/").status(), 303);
    // A smaller one leaves nothing of it.
    let back = id.log_in(&mut browser, "/oauth2/corp/login", &none(), &none());
    assert_eq!(back.status(), 303);
    assert_eq!(browser.cookies.keys().collect::<Vec<_>>(), ["sluice-corp"]);
    let mut other = Browser::new(sluice.addr("web"));
    let huge = json!({ "access_token": "x".repeat(20_000) });
    assert_eq!(id.log_in(&mut other, "/", &none(), &huge).status(), 500);
    assert_eq!(detail(&sluice, "oidc.too_large"), "oidc_too_large");
    assert!(other.cookies.is_empty());
}
