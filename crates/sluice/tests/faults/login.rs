//! Logins at a provider that do not become one, and requests without a session.

use serde_json::{Value, json};
use sluice_testkit::browser::parameter;
use sluice_testkit::{Browser, IdentityProvider, Origin, Running, Sluice};

use crate::kit::{Fault, Seen, nobody, send};

pub(crate) const CASES: &[Fault] = &[
    Fault {
        name: "A program has no session",
        reason: "oidc.missing",
        inject: || asked("oidc.missing", "", "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    },
    Fault {
        name: "A browser brings the end of a login that did not begin there",
        reason: "oidc.state",
        inject: || {
            let request = "GET /oauth2/corp/callback?code=c&state=AAAAAAAAAAAAAAAAAAAAAA HTTP/1.1\r\nHost: localhost\r\n\r\n";
            asked("oidc.state", "", request)
        },
    },
    Fault {
        name: "Another provider answers a login",
        reason: "oidc.issuer",
        inject: || came_back("oidc.issuer", "code=c&iss=https%3A%2F%2Fevil.test", Tokens::None),
    },
    Fault {
        name: "A user declines a login",
        reason: "oidc.denied",
        inject: || came_back("oidc.denied", "error=access_denied", Tokens::None),
    },
    Fault {
        name: "The code of a login has expired",
        reason: "oidc.code",
        inject: || came_back("oidc.code", "code=c", Tokens::Refused),
    },
    Fault {
        name: "The ID token of a login is for another client",
        reason: "oidc.token",
        inject: || {
            came_back("oidc.token", "code=c", Tokens::For(json!({ "aud": "bank" }), json!({})))
        },
    },
    Fault {
        name: "The tokens of a login are larger than a session may be",
        reason: "oidc.too_large",
        inject: || {
            let large = json!({ "refresh_token": "x".repeat(20_000) });
            came_back("oidc.too_large", "code=c", Tokens::For(json!({}), large))
        },
    },
    Fault {
        name: "A token is not known to the provider",
        reason: "oidc.bearer",
        inject: || {
            let request =
                "GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer guess\r\n\r\n";
            asked("oidc.bearer", ", introspection: { audiences: shop }", request)
        },
    },
    Fault { name: "The provider of logins is away", reason: "oidc.unavailable", inject: away },
    Fault {
        name: "A browser would log in over plain HTTP",
        reason: "oidc.insecure",
        inject: || {
            let request = "GET / HTTP/1.1\r\nHost: shop.test\r\nAccept: text/html\r\n\r\n";
            asked("oidc.insecure", "", request)
        },
    },
];

/// What the token endpoint answers.
enum Tokens {
    None,
    Refused,
    /// Tokens: with these claims, and with these further members.
    For(Value, Value),
}

/// A listener `web` whose users log in at `corp`.
fn start(kit: Sluice, origin: &Origin, id: &str, more: &str) -> Running {
    kit.workers(1).start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ oidc: {{ providers: {{ corp: {{ issuer: \"http://{id}\", cluster: id, client_id: shop, client_secret: s3cret, session: {{ key: 0123456789abcdef0123456789abcdef }}{more} }} }} }} }}] }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ name: all, cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }}, id: {{ endpoints: [\"{id}\"] }} }}\n",
        origin.addr()
    ))
}

fn kit() -> Sluice {
    Sluice::with_binary(std::env::current_exe().unwrap())
}

/// A request that gets no further.
fn asked(reason: &str, more: &str, request: &str) -> Seen {
    let (origin, id) = (Origin::start("a"), IdentityProvider::start());
    id.say("/introspect", 200, r#"{"active":false}"#);
    let sluice = start(kit(), &origin, &id.addr().to_string(), more);
    let heard = send(&sluice, request);
    assert!(origin.requests().is_empty());
    Seen::request(&sluice, reason).heard(heard).at("\"web\"")
}

/// A browser that comes back from the provider with this in its query.
fn came_back(reason: &str, query: &str, tokens: Tokens) -> Seen {
    let (origin, id) = (Origin::start("a"), IdentityProvider::start());
    let sluice = start(kit(), &origin, &id.addr().to_string(), "");
    let mut browser = Browser::new(sluice.addr("web"));
    let location = browser.get("/").value("location").to_owned();
    match tokens {
        Tokens::None => {}
        Tokens::Refused => id.say("/token", 400, r#"{"error":"invalid_grant"}"#),
        Tokens::For(claims, more) => {
            id.give(&id.claims(&parameter(&location, "nonce"), &claims), &more);
        }
    }
    let back = browser.get(&id.way_back(&location, query));
    let heard = format!("{} {}", back.status(), back.text().trim_end());
    let seen = Seen::request(&sluice, reason).heard(heard).at("\"web\"");
    seen.showing(parameter(&location, "state"), "STATE")
}

fn away() -> Seen {
    let origin = Origin::start("a");
    let sluice = start(kit().expect_warning("cannot fetch"), &origin, &nobody().to_string(), "");
    let heard = send(&sluice, "GET / HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n\r\n");
    Seen::request(&sluice, "oidc.unavailable").heard(heard).at("\"web\"")
}
