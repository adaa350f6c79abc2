//! A provider that users log in at.
//!
//! Owns: what is known of it, and what it is asked: tokens for a code or a refresh token. Refuses to know: requests, and
//! when it is asked. Keeps: a provider that does not answer in time is no provider that agrees; what it says counts after
//! it has been verified; keys that are not known are fetched again once.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use sluice_codec::Head;
use sluice_core::Name;
use sluice_core::limits::Limit;
use sluice_io::WorkerCx;
use sluice_l4::filters::Fetched;

use super::cookies::LoginCookies;
use super::discovery::{ProviderClusters, ProviderMetadata, ProviderUrl, is_loopback};
use super::flow::LoginFlow;
use super::refusal::LoginRefusal;
use super::seal::KeySource;
use super::session::LoginSession;
use super::tokens::{IdTokenRules, TokenAnswer, TokenOccasion};
use crate::filters::inject_credentials::oauth2::{OauthClient, error_word};
use crate::filters::jwt::provider::ClaimPassing;
use crate::filters::jwt::token::TokenRefusal;
use crate::form::FormText;
use crate::json::Json;
use crate::side_calls::SideCalls;

/// A provider that users log in at.
#[derive(Debug)]
pub(super) struct LoginProvider {
    /// Unique in the process, so that what is remembered for one never counts for another.
    pub(super) id: u64,
    /// Everything else.
    pub(super) own: ProviderParts,
}

/// What a provider consists of.
pub(super) struct ProviderParts {
    /// Its name in the configuration.
    pub(super) name: Name,
    pub(super) issuer: ProviderUrl,
    pub(super) clusters: ProviderClusters,
    pub(super) client: OauthClient,
    pub(super) metadata: Fetched<ProviderMetadata>,
    pub(super) rules: IdTokenRules,
    pub(super) passing: ClaimPassing,
    /// `openid` and further ones.
    pub(super) scopes: String,
    /// Further parameters of the request to log in.
    pub(super) parameters: Vec<(String, String)>,
    /// What the paths of a login begin with.
    pub(super) path: String,
    /// The origin that browsers use; `None` if it is that of the request.
    pub(super) origin: Option<ProviderUrl>,
    pub(super) cookies: LoginCookies,
    pub(super) keys: KeySource,
    /// How long a session lasts at most.
    pub(super) lifetime: Duration,
    /// The path that browsers return to from the provider when they have logged out.
    pub(super) after_logout: Option<String>,
    pub(super) introspection: Option<IntrospectionRules>,
    /// The time for a call to the provider.
    pub(super) timeout: Duration,
}

impl fmt::Debug for ProviderParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProviderParts({}, {})", self.name, self.issuer.text())
    }
}

/// What becomes of opaque tokens.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct IntrospectionRules {
    /// Of `aud`, one must be among these; `None` for any.
    pub(super) audiences: Option<Box<[Box<str>]>>,
    /// How long an answer counts.
    pub(super) ttl: Duration,
}

/// A path of a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoginPath {
    /// Browsers come back to it from the provider.
    Callback,
    /// A login begins.
    Login,
    /// A session ends.
    Logout,
}

/// The origin that a browser uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Site {
    /// Scheme, host and port.
    pub(super) origin: String,
    /// Whether it is HTTPS.
    pub(super) secure: bool,
}

impl LoginProvider {
    /// Creates a provider, which is another one than any that there was before.
    pub(super) fn new(own: ProviderParts) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Arc::new(Self { id: NEXT.fetch_add(1, Relaxed), own })
    }

    /// The path of a login that this is.
    pub(super) fn path_of(&self, path: &str) -> Option<LoginPath> {
        match path.strip_prefix(&*self.own.path)? {
            "/callback" => Some(LoginPath::Callback),
            "/login" => Some(LoginPath::Login),
            "/logout" => Some(LoginPath::Logout),
            _ => None,
        }
    }

    /// The origin that the browser of a request uses.
    ///
    /// # Errors
    /// It is neither HTTPS nor of this machine, so that cookies could be read on their way.
    pub(super) fn site(&self, head: &Head) -> Result<Site, LoginRefusal> {
        if let Some(origin) = &self.own.origin {
            let secure = origin.is_secure();
            return Ok(Site { origin: origin.text().trim_end_matches('/').into(), secure });
        }
        let (scheme, authority) = (head.scheme(), head.authority());
        let secure = scheme == "https";
        if authority.is_empty() || !(secure || is_loopback(authority)) {
            return Err(LoginRefusal::Insecure);
        }
        Ok(Site { origin: format!("{scheme}://{authority}"), secure })
    }

    /// Where browsers come back to.
    pub(super) fn redirect_uri(&self, site: &Site) -> String {
        format!("{}{}/callback", site.origin, self.own.path)
    }

    /// What a cookie is sealed for.
    fn purpose(&self, what: &str) -> Vec<u8> {
        let ProviderParts { name, issuer, client, cookies, .. } = &self.own;
        let parts = [what, name, issuer.text(), &client.id, &cookies.name];
        let length = |part: &&str| part.len().to_be_bytes();
        parts.iter().flat_map(|part| [&length(part)[..], part.as_bytes()].concat()).collect()
    }

    pub(super) fn seal_session(&self, session: &LoginSession) -> String {
        self.own.keys.with(|keys| keys.seal(&self.purpose("session"), &session.to_bytes()))
    }

    pub(super) fn open_session(&self, sealed: &[u8]) -> Option<LoginSession> {
        let opened = self.own.keys.with(|keys| keys.open(&self.purpose("session"), sealed));
        LoginSession::of_bytes(&opened?)
    }

    pub(super) fn seal_flow(&self, flow: &LoginFlow) -> String {
        self.own.keys.with(|keys| keys.seal(&self.purpose("flow"), &flow.to_bytes()))
    }

    pub(super) fn open_flow(&self, sealed: &[u8]) -> Option<LoginFlow> {
        let opened = self.own.keys.with(|keys| keys.open(&self.purpose("flow"), sealed));
        LoginFlow::of_bytes(&opened?)
    }

    /// What the provider says of itself; waits for it if it has not been fetched yet.
    pub(super) async fn metadata(
        &self,
        worker: &Rc<WorkerCx>,
    ) -> Result<Arc<ProviderMetadata>, LoginRefusal> {
        if let Some(metadata) = self.own.metadata.current() {
            return Ok(metadata);
        }
        let by = worker.now().after(self.own.timeout);
        self.own.metadata.renewed(worker, by).await.ok_or(LoginRefusal::NotDiscovered)
    }

    /// Posts a form to an endpoint in the name of the client; returns the status and the body.
    pub(super) async fn post(
        &self,
        calls: &SideCalls,
        worker: &WorkerCx,
        url: &ProviderUrl,
        form: FormText,
    ) -> Result<(u16, Bytes), LoginRefusal> {
        let request = self.own.client.post(&url.target(), Some(url.authority()), form);
        let by = worker.now().after(self.own.timeout);
        let response = calls.call(self.own.clusters.of(url), request, by).await;
        let response = response.map_err(|_| LoginRefusal::Unavailable)?;
        Ok((response.head.status(), response.body))
    }

    /// Asks the token endpoint.
    async fn tokens(
        &self,
        calls: &SideCalls,
        worker: &WorkerCx,
        metadata: &ProviderMetadata,
        form: FormText,
    ) -> Result<TokenAnswer, LoginRefusal> {
        let (status, body) = self.post(calls, worker, &metadata.token, form).await?;
        match status {
            200 => TokenAnswer::parse(&body).map_err(|_| LoginRefusal::Unavailable),
            400..500 if error_word(&body).as_deref() == Some("invalid_grant") => {
                Err(LoginRefusal::Code)
            }
            400 | 401 | 403 => Err(LoginRefusal::Client),
            _ => Err(LoginRefusal::Unavailable),
        }
    }

    /// Exchanges the code of a login for a session.
    pub(super) async fn redeem(
        &self,
        calls: &SideCalls,
        worker: &Rc<WorkerCx>,
        site: &Site,
        flow: &LoginFlow,
        code: &str,
    ) -> Result<LoginSession, LoginRefusal> {
        let metadata = self.metadata(worker).await?;
        let form = FormText::default()
            .with("grant_type", "authorization_code")
            .with("code", code)
            .with("redirect_uri", &self.redirect_uri(site))
            .with("code_verifier", &flow.verifier());
        let answer = self.tokens(calls, worker, &metadata, form).await?;
        let token = answer.id_token.clone().ok_or(LoginRefusal::NoToken)?;
        let nonce = flow.nonce();
        let access = &*answer.access.text;
        let occasion = TokenOccasion { nonce: Some(&nonce), access, subject: None };
        self.verify(worker, &token, occasion).await?;
        Ok(self.session(answer, token, None, wall(worker)))
    }

    /// Renews the tokens of a session.
    pub(super) async fn renew(
        &self,
        calls: &SideCalls,
        worker: &Rc<WorkerCx>,
        before: &LoginSession,
    ) -> Result<LoginSession, LoginRefusal> {
        let metadata = self.metadata(worker).await?;
        let refresh = before.refresh_token.as_deref().unwrap_or_default();
        let form =
            FormText::default().with("grant_type", "refresh_token").with("refresh_token", refresh);
        let answer = self.tokens(calls, worker, &metadata, form).await?;
        let token = match answer.id_token.clone() {
            None => before.id_token.clone(),
            Some(token) => {
                let claims = claims_of(before.payload());
                let subject = claims.as_ref().and_then(|claims| claims.get("sub")?.text());
                let access = &*answer.access.text;
                self.verify(worker, &token, TokenOccasion { nonce: None, access, subject }).await?;
                token
            }
        };
        Ok(self.session(answer, token, Some(before), wall(worker)))
    }

    /// Verifies an ID token, with newer keys if it needs them.
    async fn verify(
        &self,
        worker: &Rc<WorkerCx>,
        token: &str,
        occasion: TokenOccasion<'_>,
    ) -> Result<(), LoginRefusal> {
        let bytes_max = worker.limits.size(Limit::JwtBytes);
        let check = || {
            let metadata = self.own.metadata.current().ok_or(LoginRefusal::NotDiscovered)?;
            let rules = &self.own.rules;
            rules.check(token, occasion, &metadata.keys, wall(worker), bytes_max).map(drop)
        };
        match check() {
            Err(LoginRefusal::Token(TokenRefusal::Key)) => {
                let by = worker.now().after(self.own.timeout);
                self.own.metadata.renewed(worker, by).await;
                check()
            }
            checked => checked,
        }
    }

    /// The session of an answer whose ID token has been verified.
    fn session(
        &self,
        answer: TokenAnswer,
        id_token: Box<str>,
        before: Option<&LoginSession>,
        now: Duration,
    ) -> LoginSession {
        let TokenAnswer { access, refresh_token, .. } = answer;
        let kept = || before.and_then(|before| before.refresh_token.clone());
        LoginSession {
            began: before.map_or(now, |before| before.began),
            renew_at: now + access.lifetime,
            until: now + access.valid,
            id_token,
            access_token: self.own.passing.forward.then_some(access.text),
            // A provider that rotates them sends a new one (RFC 6749 §6).
            refresh_token: refresh_token.or_else(kept),
        }
    }

    /// How much longer a session may last.
    pub(super) fn age_left(&self, session: &LoginSession, now: Duration) -> Duration {
        (session.began + self.own.lifetime).saturating_sub(now)
    }
}

/// The time since the Unix epoch.
pub(super) fn wall(worker: &WorkerCx) -> Duration {
    worker.clock.wall(worker.now())
}

/// The claims in the payload of a token that has been verified.
pub(super) fn claims_of(payload: &str) -> Option<Json> {
    let text = data_encoding::BASE64URL_NOPAD.decode(payload.as_bytes()).ok()?;
    Json::parse(&text).ok()
}
