//! A token that has been verified, and what it sets in a request.
//!
//! Owns: what is remembered of a token. Refuses to know: how long it is remembered. Keeps: neither the token nor its
//! claims are printed by accident.

use std::fmt;
use std::sync::Arc;

use super::keys::KeySet;
use super::token::Validity;
use crate::identity::Identity;
use crate::json::Json;

/// A token that has been verified.
pub(super) struct VerifiedToken {
    /// The provider.
    pub(super) provider: u64,
    /// Its text.
    pub(super) token: Box<[u8]>,
    /// The keys that verified it.
    pub(super) keys: Arc<KeySet>,
    /// The claims.
    pub(super) claims: Json,
    pub(super) validity: Validity,
    /// The headers that the request gets.
    pub(super) headers: Vec<(Box<str>, Box<[u8]>)>,
    /// Who sent it, if it says that.
    pub(super) identity: Option<Arc<Identity>>,
    pub(super) bytes: usize,
}

/// Shows neither the token nor its claims.
impl fmt::Debug for VerifiedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VerifiedToken(..)")
    }
}

impl VerifiedToken {
    /// The bytes that it takes in the cache, its place there included.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Counts its bytes, once it is complete.
    pub(super) fn counted(mut self) -> Self {
        let of_header = |(name, value): &(Box<str>, Box<[u8]>)| 32 + name.len() + value.len();
        let headers: usize = self.headers.iter().map(of_header).sum();
        let identity =
            self.identity.as_ref().map_or(0, |own| size_of::<Identity>() + own.name.len());
        self.bytes = size_of::<Self>()
            + 64
            + self.token.len()
            + self.claims.heap_bytes()
            + headers
            + identity;
        self
    }

    #[cfg(test)]
    pub(super) fn for_test(provider: u64, token: &str, keys: Arc<KeySet>) -> Self {
        let validity = Validity::ALWAYS;
        let token = token.as_bytes().into();
        let (claims, headers, identity) = (Json::Null, Vec::new(), None);
        Self { provider, token, keys, claims, validity, headers, identity, bytes: 0 }.counted()
    }
}
