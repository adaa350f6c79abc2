//! Why a request gets no further, or a login fails.
//!
//! Owns: the causes, and what the client hears of each. Refuses to know: how they are found. Keeps: every cause has a
//! status, a reason and a detail; nothing that another party wrote is repeated.

use sluice_core::Reason;

use crate::filters::jwt::token::TokenRefusal;
use crate::reasons;
use crate::reply::Reply;

/// Why a request gets no further, or a login fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginRefusal {
    /// There is no session, and the client is none that could log in.
    Missing,
    /// The settings name a provider that there is none of.
    Provider,
    /// The client uses plain HTTP, and is not on this machine.
    Insecure,
    /// What the browser came back with is malformed.
    Malformed,
    /// The login that it came back from did not begin in this browser, or has ended.
    State,
    /// It began too long ago.
    Late,
    /// It began with another provider, or the provider does not say that it is the one.
    Issuer,
    /// The provider refused the login.
    Denied,
    /// The provider refused the code.
    Code,
    /// The ID token is not that of this login.
    Nonce,
    /// The ID token is for another client.
    Party,
    /// The access token is not that of the ID token.
    Hash,
    /// The ID token does not say who it is.
    Subject,
    /// There is no ID token.
    NoToken,
    /// The ID token is refused.
    Token(TokenRefusal),
    /// The session is larger than the limit.
    TooLarge,
    /// The provider's document has not been fetched yet.
    NotDiscovered,
    /// The provider does not answer, or not with what it should.
    Unavailable,
    /// The provider refuses this client.
    Client,
    /// Too many sessions are being renewed.
    Busy,
    /// The provider says that a token is not valid.
    Inactive,
    /// A token was issued for others.
    Audience,
    /// The request asks to log out on behalf of another site.
    CrossSite,
    /// The method is not one for the paths of a login.
    Method,
}

impl LoginRefusal {
    /// The status, the reason, the detail in records, and what the client hears.
    const fn parts(self) -> (u16, Reason, &'static str, &'static str) {
        match self {
            Self::Missing => (401, reasons::OIDC_MISSING, "oidc_missing", "a login is required"),
            Self::Provider => (500, reasons::DENIED, "oidc_provider", "nobody can log in here"),
            Self::Insecure => (500, reasons::OIDC_INSECURE, "oidc_insecure", "a login needs HTTPS"),
            Self::Malformed => (
                400,
                reasons::OIDC_STATE,
                "oidc_malformed",
                "the answer of the provider is malformed",
            ),
            Self::State => (
                400,
                reasons::OIDC_STATE,
                "oidc_state",
                "this login did not begin in this browser, or has ended; begin again",
            ),
            Self::Late => {
                (400, reasons::OIDC_STATE, "oidc_late", "the login took too long; begin again")
            }
            Self::Issuer => {
                (400, reasons::OIDC_ISSUER, "oidc_issuer", "another provider answered this login")
            }
            Self::Denied => {
                (403, reasons::OIDC_DENIED, "oidc_denied", "the provider refused the login")
            }
            Self::Code => (
                403,
                reasons::OIDC_CODE,
                "oidc_code",
                "the provider does not know this login any more; begin again",
            ),
            Self::Nonce => (403, reasons::OIDC_TOKEN, "oidc_nonce", LOGIN_FAILED),
            Self::Party => (403, reasons::OIDC_TOKEN, "oidc_azp", LOGIN_FAILED),
            Self::Hash => (403, reasons::OIDC_TOKEN, "oidc_at_hash", LOGIN_FAILED),
            Self::Subject => (403, reasons::OIDC_TOKEN, "oidc_sub", LOGIN_FAILED),
            Self::NoToken => (403, reasons::OIDC_TOKEN, "oidc_no_id_token", LOGIN_FAILED),
            Self::Token(TokenRefusal::Unavailable) | Self::NotDiscovered => {
                (503, reasons::OIDC_UNAVAILABLE, "oidc_not_discovered", UNAVAILABLE)
            }
            Self::Token(refusal) => (403, reasons::OIDC_TOKEN, refusal.detail(), LOGIN_FAILED),
            Self::TooLarge => {
                (500, reasons::OIDC_TOO_LARGE, "oidc_too_large", "the session is too large")
            }
            Self::Unavailable => (503, reasons::OIDC_UNAVAILABLE, "oidc_unavailable", UNAVAILABLE),
            Self::Client => (503, reasons::OIDC_UNAVAILABLE, "oidc_client", UNAVAILABLE),
            Self::Busy => (503, reasons::OIDC_UNAVAILABLE, "oidc_busy", UNAVAILABLE),
            Self::Inactive => {
                (401, reasons::OIDC_BEARER, "oidc_inactive", "the token is not valid")
            }
            Self::Audience => {
                (401, reasons::OIDC_BEARER, "oidc_audience", "the token is for another audience")
            }
            Self::CrossSite => (
                403,
                reasons::DENIED,
                "oidc_cross_site",
                "a page of another site may not make this request",
            ),
            Self::Method => (405, reasons::DENIED, "oidc_method", "use GET"),
        }
    }

    /// The detail in records and metrics.
    pub const fn detail(self) -> &'static str {
        self.parts().2
    }

    /// The response, which no cache keeps.
    pub fn reply(self) -> Reply {
        let (status, reason, detail, text) = self.parts();
        let reply = Reply::new(status, reason, detail, format!("{text}\n"))
            .with("cache-control", "no-store");
        match self {
            Self::Missing => reply.with("www-authenticate", "Bearer"),
            Self::Inactive | Self::Audience => {
                reply.with("www-authenticate", "Bearer error=\"invalid_token\"")
            }
            Self::Method => reply.with("allow", "GET"),
            _ => reply,
        }
    }
}

const LOGIN_FAILED: &str = "the login failed";

const UNAVAILABLE: &str = "logins cannot be verified now; try again";
