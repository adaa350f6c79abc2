//! The filter `oidc` with a real provider: npm `oidc-provider`, which requires PKCE and rotates refresh tokens.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;

use serde_json::Value;
use sluice_testkit::browser::target_of;
use sluice_testkit::origin::Message;
use sluice_testkit::tools::Process;
use sluice_testkit::{Browser, Origin, Running, Sluice, tools, wait};

/// The origin that browsers use, as the provider knows it before Sluice has a port.
const SITE: &str = "http://localhost:9";

fn start_provider() -> Option<(Process, SocketAddr)> {
    let modules = tools::node_modules(&["oidc-provider"])?;
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/oidc_provider.mjs");
    let mut command = tools::command("node");
    command.arg(script).arg(modules);
    command.args([format!("{SITE}/oauth2/corp/callback"), format!("{SITE}/logged-out")]);
    Some(tools::serve_on_its_port(&mut command))
}

fn start(origin: &Origin, id: SocketAddr) -> Running {
    Sluice::new().workers(1).start(&format!(
        "listeners:\n\
         - name: web\n  \
           address: 127.0.0.1:0\n  \
           http:\n    \
             routes: main\n    \
             filters:\n    \
             - oidc:\n        \
                 pass: /logged-out\n        \
                 providers:\n          \
                   corp:\n            \
                     issuer: http://{id}\n            \
                     cluster: id\n            \
                     client_id: shop\n            \
                     client_secret: s3cret\n            \
                     origin: {SITE}\n            \
                     scopes: [email, offline_access]\n            \
                     parameters: {{ prompt: consent }}\n            \
                     after_logout: /logged-out\n            \
                     claims: {{ x-user: sub, x-email: email }}\n            \
                     introspection: {{ audiences: \"*\" }}\n            \
                     session: {{ key: 0123456789abcdef0123456789abcdef }}\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }}, id: {{ endpoints: [\"{id}\"] }} }}\n",
        origin.addr()
    ))
}

/// Follows the redirects of the provider to its next form; the response is that form, or the redirect that leaves it.
fn follow(provider: &mut Browser, mut response: Message) -> Message {
    for _ in 0..10 {
        let location = response.value("location").to_owned();
        if location.is_empty() || location.starts_with(SITE) {
            return response;
        }
        response = provider.get(target_of(&location));
    }
    panic!("the provider redirects without end: {}", response.head);
}

/// Fills in the form of the provider that a response asks for.
fn submit(provider: &mut Browser, page: &Message, form: &str) -> Message {
    let text = page.text();
    let action = text.split("action=\"").nth(1).and_then(|rest| rest.split('"').next());
    let action = action.unwrap_or_else(|| panic!("no form: {} {text}", page.head));
    let response = provider.post(target_of(action), form);
    follow(provider, response)
}

/// Logs `ann` in at the provider; returns the response of Sluice to the way back.
fn log_in(browser: &mut Browser, provider: &mut Browser, path: &str) -> Message {
    let redirect = browser.get(path);
    let location = redirect.value("location");
    assert_eq!(redirect.status(), 303, "{}", redirect.text());
    let first = provider.get(target_of(location));
    let mut page = follow(provider, first);
    if page.text().contains("name=\"login\"") {
        page = submit(provider, &page, "prompt=login&login=ann&password=x");
    }
    let back = submit(provider, &page, "prompt=consent");
    let location = back.value("location");
    assert!(location.starts_with(SITE), "{} {}", back.head, back.text());
    browser.get(target_of(location))
}

#[test]
fn a_user_logs_in_stays_logged_in_and_logs_out() {
    let Some((_process, id)) = start_provider() else { return };
    let origin = Origin::start("o");
    let sluice = start(&origin, id);
    let mut browser = Browser::new(sluice.addr("web"));
    let mut provider = Browser::new(id).at(&id.to_string());
    let back = log_in(&mut browser, &mut provider, "/orders?of=may");
    assert_eq!((back.status(), back.value("location")), (303, "/orders?of=may"), "{}", back.text());
    assert_eq!(browser.get("/orders?of=may").status(), 200);
    let request = origin.requests().pop().unwrap();
    assert_eq!((request.value("x-user"), request.value("x-email")), ("ann", "ann@shop.test"));
    assert_eq!(request.value("cookie"), "");
    let is_it = |record: &Value| record["identity"] == "oidc:corp/ann";
    assert_eq!(sluice.record("the request", is_it)["path"], "/orders?of=may");

    // Twice: the second time with the refresh token that the first has brought.
    for _ in 0..2 {
        wait::until("the session to be renewed", || {
            let response = browser.get("/again");
            assert_eq!(response.status(), 200, "{}", response.text());
            (!response.value("set-cookie").is_empty()).then_some(())
        });
    }

    let out = browser.get("/oauth2/corp/logout");
    assert!(browser.cookies.is_empty(), "{:?}", browser.cookies.keys());
    let page = provider.get(target_of(out.value("location")));
    assert_eq!(page.status(), 200, "{}", page.text());
    let text = page.text();
    let xsrf = text.split("name=\"xsrf\" value=\"").nth(1).and_then(|rest| rest.split('"').next());
    let form = format!("xsrf={}&logout=yes", xsrf.unwrap_or_else(|| panic!("{text}")));
    let ended = submit(&mut provider, &page, &form);
    let location = ended.value("location");
    assert!(location.starts_with(&format!("{SITE}/logged-out")), "{} {}", ended.head, ended.text());
    assert_eq!(browser.get("/logged-out").status(), 200);
    // At the provider, too: it asks who it is again.
    let redirect = browser.get("/");
    let first = provider.get(target_of(redirect.value("location")));
    assert!(follow(&mut provider, first).text().contains("name=\"login\""));
}

#[test]
fn a_program_has_a_token_that_the_provider_is_asked_about() {
    let Some((_process, id)) = start_provider() else { return };
    let origin = Origin::start("o");
    let sluice = start(&origin, id);
    let mut program = Browser::new(id).at(&id.to_string());
    let form = "grant_type=client_credentials";
    let fields = format!(
        "Authorization: Basic c2hvcDpzM2NyZXQ=\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n",
        form.len()
    );
    let answer: Value =
        serde_json::from_slice(&program.ask("POST", "/token", &fields, form).body).unwrap();
    let token = answer["access_token"].as_str().unwrap();
    let mut program = Browser::new(sluice.addr("web"));
    let mut ask = |token: &str| {
        program.ask("GET", "/", &format!("Authorization: Bearer {token}\r\n"), "").status()
    };
    assert_eq!((ask(token), ask(token), ask("another")), (200, 200, 401));
    let results =
        |result: &str| sluice.metric("sluice_oidc_results_total", &format!("result=\"{result}\""));
    assert_eq!((results("introspected"), results("known"), results("oidc_inactive")), (1, 1, 1));
}
