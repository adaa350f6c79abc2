//! The login that was accepted for a request, and its claims as values that filters, rules and records share.
//!
//! Owns: what a login sets in a request, and how a claim is named: by its provider and its path. Refuses to know: how it was
//! verified. Keeps: a claim is never taken for that of another provider; no token is printed.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use sluice_codec::Head;
use sluice_core::values::{SharedValue, ValueFamily, ValueKey, ValueParts};
use sluice_core::{SharedValues, ValueDef};

use super::cookies::SentCookies;
use super::provider::LoginProvider;
use super::refusal::LoginRefusal;
use crate::filters::credentials::CredentialSource;
use crate::filters::jwt::provider::PassedHeaders;
use crate::identity::{Identity, Means};
use crate::json::Json;
use crate::words::HeaderName;

sluice_core::values! {
    CLAIMS: ValueFamily = "oidc.*", "The claims of the login: `oidc.PROVIDER.CLAIM`. A nested claim is a path, such as `oidc.corp.realm_access.roles`.";
}

/// The cookies that were taken out of a request, should the filter run again with the settings of another route.
pub(super) const HELD: ValueKey<SentCookies> =
    ValueKey::new(&ValueDef { name: "oidc.held", help: "Not for other filters." });

/// A login that was accepted for a request.
#[derive(Clone)]
pub(super) struct AcceptedLogin {
    pub(super) provider: Arc<LoginProvider>,
    claims: Arc<Json>,
    headers: PassedHeaders,
    /// What endpoints get in `authorization`.
    token: Option<Box<str>>,
}

impl AcceptedLogin {
    /// The login with these claims, and who it is. `payload` is the claims as the token has them.
    pub(super) fn new(
        provider: &Arc<LoginProvider>,
        claims: Json,
        payload: &str,
        token: Option<Box<str>>,
    ) -> Result<(Self, Option<Arc<Identity>>), LoginRefusal> {
        let passing = &provider.own.passing;
        let headers =
            passing.headers_of(&claims, payload.as_bytes()).map_err(LoginRefusal::Token)?;
        let who = passing.identity_of(&claims, Means::Oidc, &provider.own.name);
        let (provider, claims) = (Arc::clone(provider), Arc::new(claims));
        Ok((Self { provider, claims, headers, token }, who))
    }

    /// That of a request, if the filter has accepted one.
    pub(super) fn of(values: &SharedValues) -> Option<&Self> {
        let any: &dyn Any = &*values.get(&CLAIMS)?.0;
        any.downcast_ref()
    }

    /// Writes what it sets in the headers of a request.
    pub(super) fn write(&self, head: &mut Head) {
        for (name, value) in &self.headers {
            head.set(name.as_bytes(), value);
        }
        if let Some(token) = &self.token {
            head.set(b"authorization", format!("Bearer {token}").as_bytes());
        }
    }

    /// Shares it.
    pub(super) fn share(self, values: &mut SharedValues) {
        values.set(&CLAIMS, ValueFamily(Arc::new(self)));
    }
}

/// Where requests carry opaque tokens.
pub(super) fn bearer_source() -> CredentialSource {
    CredentialSource::Header(HeaderName("authorization".into()))
}

impl fmt::Debug for AcceptedLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AcceptedLogin({})", self.provider.own.name)
    }
}

impl fmt::Display for AcceptedLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the claims of a login at {}", self.provider.own.name)
    }
}

impl ValueParts for AcceptedLogin {
    fn part(&self, name: &str) -> Option<&dyn SharedValue> {
        let claim = name.strip_prefix(&*self.provider.own.name)?.strip_prefix('.')?;
        self.claims.at(claim).map(|claim| claim as _)
    }
}
