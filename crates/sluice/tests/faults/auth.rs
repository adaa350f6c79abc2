//! Requests whose token is not what is required.

use serde_json::{Value, json};
use sluice_testkit::tokens::{SigningKey, in_seconds, key_set};
use sluice_testkit::{Origin, Running, Sluice};

use crate::kit::{Fault, Seen, nobody, send};

pub(crate) const CASES: &[Fault] = &[
    Fault {
        name: "A request has no token",
        reason: "jwt.missing",
        inject: || refused("jwt.missing", |_| String::new()),
    },
    Fault {
        name: "A token is not one",
        reason: "jwt.malformed",
        inject: || refused("jwt.malformed", |_| "an.old-session.id".to_owned()),
    },
    Fault {
        name: "A token was signed with another key",
        reason: "jwt.key",
        inject: || {
            refused("jwt.key", |_| SigningKey::new("ES256", "old").token(&claims(600, "shop")))
        },
    },
    Fault {
        name: "A token was forged",
        reason: "jwt.signature",
        inject: || {
            refused("jwt.signature", |_| SigningKey::new("ES256", "k").token(&claims(600, "shop")))
        },
    },
    Fault {
        name: "A token has expired",
        reason: "jwt.time",
        inject: || refused("jwt.time", |key| key.token(&claims(-600, "shop"))),
    },
    Fault {
        name: "A token is for another service",
        reason: "jwt.claims",
        inject: || refused("jwt.claims", |key| key.token(&claims(600, "bank"))),
    },
    Fault {
        name: "The keys for tokens cannot be fetched",
        reason: "jwt.unavailable",
        inject: without_keys,
    },
    Fault {
        name: "A rule requires tokens of a provider that the chain does not have",
        reason: "jwt.provider",
        inject: unknown_provider,
    },
];

fn claims(seconds: i64, audience: &str) -> Value {
    json!({ "iss": "id", "aud": audience, "exp": in_seconds(seconds) })
}

/// A listener `web` that requires a token of `corp`, whose keys are these.
fn start(kit: Sluice, origin: &Origin, keys: &str, rule: &str, clusters: &str) -> Running {
    kit.workers(1).start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ jwt: {{ providers: {{ corp: {{ issuer: id, audiences: shop, {keys} }} }} }} }}] }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ name: all, cluster: up{rule} }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }}{clusters} }}\n",
        origin.addr()
    ))
}

fn kit() -> Sluice {
    Sluice::with_binary(std::env::current_exe().unwrap())
}

fn with_key(origin: &Origin, key: &SigningKey, rule: &str) -> Running {
    start(kit(), origin, &format!("jwks: '{}'", key_set([key])), rule, "")
}

fn seen(sluice: &Running, reason: &str, token: &str) -> Seen {
    let field = match token {
        "" => String::new(),
        token => format!("Authorization: Bearer {token}\r\n"),
    };
    let heard = send(sluice, format!("GET / HTTP/1.1\r\nHost: shop.test\r\n{field}\r\n"));
    Seen::request(sluice, reason).heard(heard).at("\"web\"")
}

fn refused(reason: &str, token: fn(&SigningKey) -> String) -> Seen {
    let (origin, key) = (Origin::start("a"), SigningKey::new("ES256", "k"));
    let sluice = with_key(&origin, &key, "");
    let seen = seen(&sluice, reason, &token(&key));
    assert!(origin.requests().is_empty());
    seen
}

fn without_keys() -> Seen {
    let origin = Origin::start("a");
    let token = SigningKey::new("ES256", "k").token(&claims(600, "shop"));
    let id = format!(", id: {{ endpoints: [\"{}\"] }}", nobody());
    let kit = kit().expect_warning("cannot fetch");
    let sluice = start(kit, &origin, "jwks_remote: { cluster: id }", "", &id);
    seen(&sluice, "jwt.unavailable", &token)
}

fn unknown_provider() -> Seen {
    let (origin, key) = (Origin::start("a"), SigningKey::new("ES256", "k"));
    let sluice = with_key(&origin, &key, ", filters: { jwt: { require: partner } }");
    seen(&sluice, "jwt.provider", &key.token(&claims(600, "shop")))
}
