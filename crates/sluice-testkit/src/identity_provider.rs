//! A provider of OpenID Connect that says what a test wants, right or wrong.
//!
//! Owns: its document, its keys, and the responses of its endpoints. Refuses to know: what a test expects. Keeps: nothing is
//! checked here; every request is kept.

use std::collections::BTreeMap;
use std::io::{BufReader, Write as _};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use crate::browser::{Browser, parameter, target_of};
use crate::origin::{Message, read_message};
use crate::peers::Server;
use crate::tokens::{SigningKey, in_seconds, key_set};

/// What is served at each path, and what was asked.
#[derive(Debug, Default)]
struct Pages {
    responses: BTreeMap<String, (u16, String)>,
    requests: Vec<Message>,
}

/// The provider.
#[derive(Debug)]
pub struct IdentityProvider {
    server: Server,
    pages: Arc<Mutex<Pages>>,
    /// The key that signs its tokens.
    pub key: SigningKey,
}

impl IdentityProvider {
    /// A provider with a document and keys; it has no tokens yet.
    pub fn start() -> Self {
        let pages: Arc<Mutex<Pages>> = Arc::default();
        let served = Arc::clone(&pages);
        let server = Server::start(move |mut stream| {
            let mut reader = BufReader::new(stream.try_clone()?);
            loop {
                let request = read_message(&mut reader, false)?;
                let path = request.path().split('?').next().unwrap_or_default().to_owned();
                let (status, body) = {
                    let mut pages = served.lock().unwrap_or_else(PoisonError::into_inner);
                    pages.requests.push(request);
                    pages.responses.get(&path).cloned().unwrap_or((404, String::new()))
                };
                let length = body.len();
                let head = format!("HTTP/1.1 {status} S\r\nContent-Length: {length}\r\n\r\n");
                stream.write_all(format!("{head}{body}").as_bytes())?;
            }
        });
        let key = SigningKey::new("ES256", "k");
        let own = Self { server, pages, key };
        own.say("/keys", 200, &key_set([&own.key]));
        own.describe(&json!({}));
        own
    }

    /// Its address.
    pub const fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    /// Its issuer.
    pub fn issuer(&self) -> String {
        format!("http://{}", self.addr())
    }

    /// Responds with this at a path from now on.
    pub fn say(&self, path: &str, status: u16, body: &str) {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        pages.responses.insert(path.into(), (status, body.into()));
    }

    /// Has its document say these things as well.
    pub fn describe(&self, more: &Value) {
        let issuer = self.issuer();
        let mut document = json!({
            "issuer": issuer,
            "authorization_endpoint": format!("{issuer}/auth"),
            "token_endpoint": format!("{issuer}/token"),
            "jwks_uri": format!("{issuer}/keys"),
            "introspection_endpoint": format!("{issuer}/introspect"),
            "end_session_endpoint": format!("{issuer}/out"),
        });
        for (name, value) in more.as_object().expect("an object") {
            document[name] = value.clone();
        }
        self.say("/.well-known/openid-configuration", 200, &document.to_string());
    }

    /// The claims of a sound ID token for the client `shop`, with these.
    pub fn claims(&self, nonce: &str, more: &Value) -> Value {
        let mut claims = json!({
            "iss": self.issuer(), "aud": "shop", "sub": "ann", "nonce": nonce, "exp": in_seconds(600),
        });
        for (name, value) in more.as_object().expect("an object") {
            claims[name] = value.clone();
        }
        claims
    }

    /// Gives out tokens from now on: an ID token with these claims, and what else there is.
    pub fn give(&self, claims: &Value, more: &Value) {
        let mut answer = json!({
            "access_token": "access", "token_type": "Bearer", "expires_in": 600,
            "id_token": self.key.token(claims),
        });
        for (name, value) in more.as_object().expect("an object") {
            answer[name] = value.clone();
        }
        self.say("/token", 200, &answer.to_string());
    }

    /// Every request received at a path, in order.
    pub fn requests(&self, path: &str) -> Vec<Message> {
        let pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let is_at = |request: &&Message| request.path().split('?').next() == Some(path);
        pages.requests.iter().filter(is_at).cloned().collect()
    }

    /// Has a browser log in as `ann`, with these further claims and members of the answer, on its way to a path; returns
    /// the response to its way back.
    #[track_caller]
    pub fn log_in(
        &self,
        browser: &mut Browser,
        path: &str,
        claims: &Value,
        more: &Value,
    ) -> Message {
        let redirect = browser.get(path);
        let location = redirect.value("location");
        assert!(location.starts_with(&self.issuer()), "{} {}", redirect.head, redirect.text());
        self.give(&self.claims(&parameter(location, "nonce"), claims), more);
        browser.get(&self.way_back(location, "code=c"))
    }

    /// The path that a browser comes back to from a redirect to this provider, with this in its query.
    #[track_caller]
    pub fn way_back(&self, location: &str, query: &str) -> String {
        let (back, state) = (parameter(location, "redirect_uri"), parameter(location, "state"));
        format!("{}?{query}&state={state}", target_of(&back))
    }
}
