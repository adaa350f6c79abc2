//! An issuer of tokens: its keys, what its tokens must say, and what becomes of their claims.
//!
//! Owns: the path from the text of a token to a verified one. Refuses to know: requests. Keeps: a token that was verified
//! before costs a look-up, and still has its time judged; what it may set in a request is decided when it is verified.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use sluice_codec::names::is_field_value;
use sluice_core::{LocalFuture, Moment, Name};
use sluice_io::WorkerCx;
use sluice_l4::filters::{Fetched, LiveSecret};

use super::cache::TokenCache;
use super::keys::{KeySet, SharedSecret};
use super::token::{self, CheckedToken, TokenRefusal, TokenRules};
use super::verified::VerifiedToken;
use crate::filters::credentials::CredentialSource;
use crate::identity::{Identity, Means};
use crate::json::Json;

/// Where the keys of a provider come from.
#[derive(Clone, Debug)]
pub(super) enum ProviderKeys {
    /// From the settings.
    Fixed(Arc<KeySet>),
    /// From a secret.
    Secret(LiveSecret<SharedSecret>),
    /// From a file or a cluster; an attempt to fetch them ends within this time.
    Fetched(Fetched<KeySet>, Duration),
}

impl ProviderKeys {
    fn current(&self) -> Option<Arc<KeySet>> {
        match self {
            Self::Fixed(keys) => Some(Arc::clone(keys)),
            Self::Secret(secret) => Some(Arc::clone(&secret.current().0)),
            Self::Fetched(keys, _) => keys.current(),
        }
    }

    /// Asks for newer keys; `None` if there can be none.
    pub(super) fn renewed(&self, worker: &Rc<WorkerCx>, now: Moment) -> Option<LocalFuture<()>> {
        let Self::Fetched(keys, timeout) = self else { return None };
        let renewed = keys.renewed(worker, now.after(*timeout));
        Some(Box::pin(async move {
            renewed.await;
        }))
    }
}

/// An issuer of tokens.
#[derive(Debug)]
pub(super) struct Provider {
    /// Unique in the process, so that what is remembered for one never counts for another.
    id: u64,
    /// Its name in the configuration.
    pub(super) name: Name,
    /// What its tokens must say.
    pub(super) rules: TokenRules,
    /// Its keys.
    pub(super) keys: ProviderKeys,
    /// Where requests carry its tokens.
    pub(super) sources: Vec<CredentialSource>,
    /// What becomes of its claims.
    pub(super) passing: ClaimPassing,
}

/// What becomes of the claims of a token.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::filters) struct ClaimPassing {
    /// Whether endpoints get the token.
    pub(in crate::filters) forward: bool,
    /// The claims that go into headers: header and path.
    pub(in crate::filters) headers: Vec<(String, String)>,
    /// The header that gets all claims, as they are in the token.
    pub(in crate::filters) payload_header: Option<String>,
    /// The claim that says who it is.
    pub(in crate::filters) subject: String,
}

/// Headers by name, with their values.
pub(in crate::filters) type PassedHeaders = Vec<(Box<str>, Box<[u8]>)>;

impl ClaimPassing {
    /// The headers that a request gets; `payload` is the claims as they are in the token.
    ///
    /// # Errors
    /// [`TokenRefusal::Claim`].
    pub(in crate::filters) fn headers_of(
        &self,
        claims: &Json,
        payload: &[u8],
    ) -> Result<PassedHeaders, TokenRefusal> {
        let mut headers = Vec::new();
        for (name, path) in &self.headers {
            let Some(claim) = claims.at(path) else { continue };
            let value = claim.to_string();
            if !is_field_value(value.as_bytes()) {
                return Err(TokenRefusal::Claim);
            }
            headers.push((name.as_str().into(), value.into_bytes().into()));
        }
        if let Some(name) = &self.payload_header {
            headers.push((name.as_str().into(), payload.into()));
        }
        Ok(headers)
    }

    /// Whom the claims name.
    pub(in crate::filters) fn identity_of(
        &self,
        claims: &Json,
        means: Means,
        provider: &Name,
    ) -> Option<Arc<Identity>> {
        let subject = claims.at(&self.subject).and_then(Json::text);
        let name = subject.filter(|name| !name.is_empty())?;
        let issuer = Some((**provider).into());
        Some(Arc::new(Identity { means, issuer, name: name.into() }))
    }

    /// The headers that claims go into.
    pub(in crate::filters) fn header_names(&self) -> impl Iterator<Item = &str> {
        self.headers.iter().map(|(name, _)| name.as_str()).chain(self.payload_header.as_deref())
    }
}

impl Provider {
    /// Creates a provider, which is another one than any that there was before.
    pub(super) fn new(
        name: Name,
        rules: TokenRules,
        keys: ProviderKeys,
        sources: Vec<CredentialSource>,
        passing: ClaimPassing,
    ) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Relaxed);
        Arc::new(Self { id, name, rules, keys, sources, passing })
    }

    /// Verifies a token, or finds it among those that have been verified. Returns also whether it was there, and
    /// whether others had to be forgotten.
    ///
    /// # Errors
    /// Why it is refused.
    pub(super) fn accept(
        &self,
        token: &[u8],
        bytes_max: usize,
        cache: &mut TokenCache,
        now: Duration,
    ) -> Result<(Arc<VerifiedToken>, Acceptance), TokenRefusal> {
        let keys = self.keys.current().ok_or(TokenRefusal::Unavailable)?;
        if let Some(known) = cache.get(self.id, token, &keys) {
            known.validity.judge(now)?;
            return Ok((known, Acceptance { known: true, forgot: false }));
        }
        let verified = Arc::new(self.verify(token, bytes_max, keys, now)?);
        let forgot = cache.insert(Arc::clone(&verified));
        Ok((verified, Acceptance { known: false, forgot }))
    }

    fn verify(
        &self,
        token: &[u8],
        bytes_max: usize,
        keys: Arc<KeySet>,
        now: Duration,
    ) -> Result<VerifiedToken, TokenRefusal> {
        let parsed = token::parse(token, bytes_max)?;
        let CheckedToken { claims, validity, .. } = parsed.check(&self.rules, &keys, now)?;
        let payload = token.split(|byte| *byte == b'.').nth(1).unwrap_or_default();
        let headers = self.passing.headers_of(&claims, payload)?;
        let identity = self.passing.identity_of(&claims, Means::Jwt, &self.name);
        let (provider, token) = (self.id, token.into());
        let bytes = 0;
        let verified =
            VerifiedToken { provider, token, keys, claims, validity, headers, identity, bytes };
        Ok(verified.counted())
    }
}

/// How a token was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Acceptance {
    /// It was verified before.
    pub(super) known: bool,
    /// Others had to be forgotten.
    pub(super) forgot: bool,
}
