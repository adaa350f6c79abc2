//! Requests whose token, password or key is not what is required.

use serde_json::{Value, json};
use sluice_testkit::origin::Client;
use sluice_testkit::tokens::{SigningKey, in_seconds, key_set};
use sluice_testkit::{Origin, Running, Sluice, wait};

use crate::kit::{Fault, Seen, nobody, send};

pub(crate) const CASES: &[Fault] = &[
    Fault {
        name: "A request has no password",
        reason: "basic.missing",
        inject: || guarded(BASIC, "", "basic.missing"),
    },
    Fault {
        name: "A password is wrong",
        reason: "basic.refused",
        // ann:guess
        inject: || guarded(BASIC, "Authorization: Basic YW5uOmd1ZXNz\r\n", "basic.refused"),
    },
    Fault { name: "A source guesses many passwords", reason: "basic.busy", inject: busy },
    Fault {
        name: "A request has no key",
        reason: "api_key.missing",
        inject: || guarded(API_KEY, "", "api_key.missing"),
    },
    Fault {
        name: "A key is not known",
        reason: "api_key.unknown",
        inject: || guarded(API_KEY, "X-Api-Key: guess\r\n", "api_key.unknown"),
    },
    Fault {
        name: "A key is for something else",
        reason: "api_key.denied",
        inject: || guarded(API_KEY, "X-Api-Key: secret\r\n", "api_key.denied"),
    },
    Fault {
        name: "The service behind wants an access token, and there is none",
        reason: "credential.unavailable",
        inject: without_credential,
    },
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
];

/// The password of `ann` is `pw`. With a million rounds, it takes a while to find out.
const BASIC: &str =
    "basic_auth: { users: \"ann:$2b$04$abcdefghijklmnopqrstuuyvPXIbu7xe6/CED2DzX8z6Si09MlzlW\" }";
const SLOW: &str = "basic_auth: { users: \"ann:$5$rounds=1000000$s$v8DMx/7t0/H1zYj41VNdi6eQ/F1frpRoHaqbgo1/KvA\" }";

/// The key of `acme` is `secret`.
const API_KEY: &str = "api_key: { keys: { acme: 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b }, allow: other }";

/// A listener `web` with this filter.
fn with_filter(origin: &Origin, filter: &str, limits: &str) -> Running {
    kit().workers(1).start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ {filter} }}] }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ name: all, cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n\
         limits: {{ {limits} }}\n",
        origin.addr()
    ))
}

fn guarded(filter: &str, field: &str, reason: &str) -> Seen {
    let origin = Origin::start("a");
    let sluice = with_filter(&origin, filter, "");
    let heard = send(&sluice, format!("GET / HTTP/1.1\r\nHost: shop.test\r\n{field}\r\n"));
    assert!(origin.requests().is_empty());
    Seen::request(&sluice, reason).heard(heard).at("\"web\"")
}

fn busy() -> Seen {
    let origin = Origin::start("a");
    let sluice = with_filter(&origin, SLOW, "password_queue_of_source: 1");
    let request = "GET / HTTP/1.1\r\nHost: shop.test\r\nAuthorization: Basic YW5uOmd1ZXNz\r\n\r\n";
    let mut first = Client::connect(sluice.addr("web"));
    first.send(request);
    // The second is refused as soon as the first is being hashed; before that, it is hashed itself.
    let heard = wait::until("a refusal", || {
        Some(send(&sluice, request)).filter(|heard| heard.starts_with("503"))
    });
    assert_eq!(first.read().status(), 401);
    Seen::request(&sluice, "basic.busy").heard(heard).at("\"web\"")
}

fn claims(seconds: i64, audience: &str) -> Value {
    json!({ "iss": "id", "aud": audience, "exp": in_seconds(seconds) })
}

/// A listener `web` that requires a token of `corp`, whose keys are these.
fn start(kit: Sluice, origin: &Origin, keys: &str, clusters: &str) -> Running {
    kit.workers(1).start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ jwt: {{ providers: {{ corp: {{ issuer: id, audiences: shop, {keys} }} }} }} }}] }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ name: all, cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }}{clusters} }}\n",
        origin.addr()
    ))
}

fn kit() -> Sluice {
    Sluice::with_binary(std::env::current_exe().unwrap())
}

fn with_key(origin: &Origin, key: &SigningKey) -> Running {
    start(kit(), origin, &format!("jwks: '{}'", key_set([key])), "")
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
    let sluice = with_key(&origin, &key);
    let seen = seen(&sluice, reason, &token(&key));
    assert!(origin.requests().is_empty());
    seen
}

fn without_keys() -> Seen {
    let origin = Origin::start("a");
    let token = SigningKey::new("ES256", "k").token(&claims(600, "shop"));
    let id = format!(", id: {{ endpoints: [\"{}\"] }}", nobody());
    let kit = kit().expect_warning("cannot fetch");
    let sluice = start(kit, &origin, "jwks_remote: { cluster: id }", &id);
    seen(&sluice, "jwt.unavailable", &token)
}

fn without_credential() -> Seen {
    let (origin, id) = (Origin::start("a"), Origin::start("id"));
    let kit = kit().expect_warning("cannot fetch").workers(1);
    let sluice = kit.start(&format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ inject_credentials: {{ oauth2: {{ cluster: id, path: /status/401, client_id: gateway, client_secret: s3cret }} }} }}] }} }}]\n\
         routes: {{ main: [{{ hosts: \"*\", rules: [{{ name: all, cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }}, id: {{ endpoints: [\"{}\"] }} }}\n",
        origin.addr(),
        id.addr()
    ));
    let heard = send(&sluice, "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n");
    assert!(origin.requests().is_empty());
    Seen::request(&sluice, "credential.unavailable").heard(heard).at("\"web\"")
}
