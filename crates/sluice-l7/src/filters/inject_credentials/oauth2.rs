//! Access tokens by the client credentials grant (RFC 6749 §4.4).
//!
//! Owns: the request for a token, and what its response says. Refuses to know: who uses the token. Keeps: the secret is
//! sent to the cluster that is named and shown nowhere; a token counts for as long as its issuer says.

use std::fmt;
use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use sluice_core::value::Authority;
use sluice_core::{LocalFuture, Moment, SecretText};
use sluice_io::WorkerCx;
use sluice_l4::filters::{Content, FetchOrigin, LiveSecret};
use sluice_upstream::Cluster;

use crate::form::{self, FormText};
use crate::json::Json;
use crate::side_calls::{SideCalls, SideRequest};

sluice_core::choice! {
    /// How a client proves who it is to the token endpoint (RFC 6749 §2.3.1).
    pub enum ClientAuthentication {
        /// In `authorization`, with the scheme Basic.
        Header = "header",
        /// In the body of the request.
        Body = "body",
    }
}

/// How long a token counts that does not say it (RFC 6749 §5.1 leaves it open).
const LIFETIME: Duration = Duration::from_secs(300);

/// A token before its end is not used any more, so that it does not expire on its way.
const MARGIN: Duration = Duration::from_secs(10);

/// An access token.
pub struct AccessToken {
    /// Its text.
    pub text: Box<str>,
    /// How long after it was fetched it is used.
    pub lifetime: Duration,
    /// How long after it was fetched it is valid, which is somewhat longer.
    pub valid: Duration,
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccessToken({:?})", self.lifetime)
    }
}

impl Content for AccessToken {
    /// Parses the response of a token endpoint (RFC 6749 §5.1).
    fn parse(content: &[u8]) -> Result<Self, String> {
        let response = Json::parse(content)?;
        let text =
            response.get("access_token").and_then(Json::text).ok_or("it has no `access_token`")?;
        // RFC 6750 §2.1; in particular, nothing that would end a header.
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        if text.is_empty() || !text.bytes().all(is_token) {
            return Err("`access_token` has characters that no token has".into());
        }
        let kind = response.get("token_type").and_then(Json::text).unwrap_or("bearer");
        if !kind.eq_ignore_ascii_case("bearer") {
            return Err("`token_type` is not `Bearer`".into());
        }
        let valid = match response.get("expires_in") {
            None => LIFETIME,
            Some(Json::Text(text)) => Duration::from_secs(text.parse().map_err(|_| EXPIRES)?),
            Some(Json::Whole(seconds)) => {
                Duration::from_secs(u64::try_from(*seconds).map_err(|_| EXPIRES)?)
            }
            Some(_) => return Err(EXPIRES.into()),
        };
        let lifetime = valid.saturating_sub(MARGIN.min(valid / 4));
        Ok(Self { text: text.into(), lifetime, valid })
    }

    fn lifetime(&self) -> Option<Duration> {
        Some(self.lifetime)
    }
}

const EXPIRES: &str = "`expires_in` is not a number of seconds";

/// The token endpoint of an authorisation server.
pub struct TokenOrigin {
    /// The cluster.
    pub cluster: Arc<Cluster>,
    /// The path.
    pub path: String,
    /// The host; that of the endpoint if omitted.
    pub host: Option<Authority>,
    /// The client.
    pub client: OauthClient,
    /// What the token is for; the server's default if empty.
    pub scopes: Vec<String>,
}

impl fmt::Debug for TokenOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenOrigin({})", self.name())
    }
}

/// A client of an authorisation server, as it proves who it is.
pub struct OauthClient {
    /// Its ID.
    pub id: String,
    /// Its secret; `None` for a public client, which proves nothing.
    pub secret: Option<LiveSecret<SecretText>>,
    /// How the secret is sent.
    pub authentication: ClientAuthentication,
}

/// Shows no secret.
impl fmt::Debug for OauthClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OauthClient({})", self.id)
    }
}

impl OauthClient {
    /// A POST of a form to an endpoint of the server, in the name of the client.
    pub fn post(&self, path: &str, host: Option<&str>, form: FormText) -> SideRequest {
        let mut request = SideRequest::new("POST", path)
            .with("content-type", b"application/x-www-form-urlencoded")
            .with("accept", b"application/json");
        if let Some(host) = host {
            request = request.host(host);
        }
        let Some(secret) = &self.secret else {
            return request.body(form.with("client_id", &self.id).into_text());
        };
        // Of a secret that is not UTF-8, the body cannot be decoded to a text; the bytes are sent all the same.
        let (id, secret) = (&self.id, form::encode(secret.current().bytes()));
        match self.authentication {
            ClientAuthentication::Header => {
                let pair = format!("{}:{secret}", form::encode(id.as_bytes()));
                let value = format!("Basic {}", BASE64.encode(pair.as_bytes()));
                request.with("authorization", value.as_bytes()).body(form.into_text())
            }
            ClientAuthentication::Body => {
                let mut body = form.with("client_id", id).into_text();
                let _ = write!(body, "&client_secret={secret}");
                request.body(body)
            }
        }
    }

    /// What makes the client different from others, never shown.
    pub fn identity(&self) -> String {
        // A named secret may get another text without being another one.
        let secret = self.secret.as_ref().map(|secret| {
            let own = secret.name().is_none().then(|| secret.current().bytes().to_vec());
            (secret.name().map(str::to_owned), own)
        });
        format!("{} {:?} {secret:?}", self.id, self.authentication)
    }
}

/// The word that says what is wrong in the error response of a server (RFC 6749 §5.2): `invalid_client`, for example.
pub fn error_word(body: &[u8]) -> Option<String> {
    let body = Json::parse(body).ok()?;
    let word = body.get("error").and_then(Json::text)?;
    is_error_word(word).then(|| word.to_owned())
}

/// Whether a text may be such a word, and can be shown.
pub fn is_error_word(word: &str) -> bool {
    !word.is_empty()
        && word.len() < 64
        && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

impl TokenOrigin {
    fn request(&self) -> SideRequest {
        let mut form = FormText::default().with("grant_type", "client_credentials");
        if !self.scopes.is_empty() {
            form = form.with("scope", &self.scopes.join(" "));
        }
        self.client.post(&self.path, self.host.as_ref().map(|host| &*host.0), form)
    }
}

impl FetchOrigin for TokenOrigin {
    fn name(&self) -> String {
        let host = self.host.as_ref().map_or("", |host| &host.0);
        format!("{}: {host}{} for {}", self.cluster.name, self.path, self.client.id)
    }

    fn identity(&self) -> String {
        format!("{} {} {:?}", self.name(), self.client.identity(), self.scopes)
    }

    fn fetch(&self, worker: &Rc<WorkerCx>, by: Moment) -> LocalFuture<Result<Vec<u8>, String>> {
        let called = SideCalls::unbounded(worker).call(&self.cluster, self.request(), by);
        Box::pin(async move {
            let response = called.await.map_err(|error| error.to_string())?;
            let status = response.head.status();
            if status == 200 {
                return Ok(response.body.to_vec());
            }
            Err(match error_word(&response.body) {
                Some(word) => format!("answered {status}: {word}"),
                None => format!("answered {status}"),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str) -> Result<AccessToken, String> {
        AccessToken::parse(text.as_bytes())
    }

    #[test]
    fn a_token_counts_until_shortly_before_its_end() {
        for (more, seconds) in [
            (r#","expires_in":3600"#, 3590),
            (r#","expires_in":"3600","token_type":"bearer""#, 3590),
            (r#","expires_in":20"#, 15),
            (r#","expires_in":0"#, 0),
            (r#","token_type":"Bearer","scope":"a""#, 290),
        ] {
            let token = token(&format!("{{\"access_token\":\"a.b-c\"{more}}}")).unwrap();
            assert_eq!((&*token.text, token.lifetime.as_secs()), ("a.b-c", seconds), "{more}");
        }
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for (text, problem) in [
            ("{}", "it has no `access_token`"),
            (r#"{"access_token":7}"#, "it has no `access_token`"),
            (r#"{"access_token":""}"#, "`access_token` has characters that no token has"),
            (r#"{"access_token":"a\r\nx: y"}"#, "`access_token` has characters that no token has"),
            (r#"{"access_token":"a","token_type":"mac"}"#, "`token_type` is not `Bearer`"),
            (r#"{"access_token":"a","expires_in":-1}"#, EXPIRES),
            (r#"{"access_token":"a","expires_in":"soon"}"#, EXPIRES),
            (r#"{"access_token":"a","expires_in":[]}"#, EXPIRES),
            (r#"{"access_token":"a","access_token":"b"}"#, "a name occurs twice in an object"),
            ("<html>", "it is not JSON (line 1, column 1)"),
        ] {
            assert_eq!(token(text).unwrap_err(), problem, "{text}");
        }
    }
}
