//! Tokens that have been verified, so that a client's next request costs a look-up.
//!
//! Owns: which are remembered, within a bound on their bytes. Refuses to know: how they are verified. Keeps: an entry is
//! found by the whole token and its provider, never by a hash alone; it counts only for the keys that verified it; only
//! verified tokens take memory, so that a client without one cannot push others out.

use std::hash::BuildHasher as _;
use std::sync::Arc;

use foldhash::quality::RandomState;

use super::keys::KeySet;
use super::verified::VerifiedToken;
use crate::filters::generations::Generations;

/// The verified tokens of a worker.
#[derive(Debug)]
pub(super) struct TokenCache {
    all: Generations<u64, Arc<VerifiedToken>>,
    hasher: RandomState,
}

impl TokenCache {
    /// An empty cache whose entries take at most `bytes_max`.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { all: Generations::new(bytes_max), hasher: RandomState::default() }
    }

    fn key(&self, provider: u64, token: &[u8]) -> u64 {
        self.hasher.hash_one((provider, token))
    }

    /// Returns the entry of a token for a provider. If other keys verified it than are known now, everything that they
    /// verified for this provider is forgotten.
    pub(super) fn get(
        &mut self,
        provider: u64,
        token: &[u8],
        keys: &Arc<KeySet>,
    ) -> Option<Arc<VerifiedToken>> {
        let key = self.key(provider, token);
        let is_it =
            |entry: &Arc<VerifiedToken>| entry.provider == provider && *entry.token == *token;
        let found = self.all.get(&key, is_it)?;
        if !Arc::ptr_eq(&found.keys, keys) {
            self.all.retain(|entry| entry.provider != provider || Arc::ptr_eq(&entry.keys, keys));
            return None;
        }
        Some(found)
    }

    /// Remembers a token; returns whether others were forgotten for lack of room.
    pub(super) fn insert(&mut self, token: Arc<VerifiedToken>) -> bool {
        let (key, bytes) = (self.key(token.provider, &token.token), token.bytes());
        self.all.insert(key, token, bytes)
    }
}

#[cfg(test)]
mod tests {
    use sluice_l4::filters::Content as _;

    use super::*;
    use crate::filters::jwt::keys::SharedSecret;

    fn keys() -> Arc<KeySet> {
        SharedSecret::parse(&[b'k'; 32]).unwrap_or_else(|_| unreachable!()).0
    }

    fn token(provider: u64, text: &str, keys: &Arc<KeySet>) -> Arc<VerifiedToken> {
        Arc::new(VerifiedToken::for_test(provider, text, Arc::clone(keys)))
    }

    #[test]
    fn a_token_is_known_to_its_provider_and_for_its_keys_only() {
        let (keys, later) = (keys(), keys());
        let mut cache = TokenCache::new(1 << 20);
        assert!(!cache.insert(token(1, "a", &keys)));
        assert!(!cache.insert(token(1, "b", &keys)));
        assert!(!cache.insert(token(2, "a", &keys)));
        assert!(cache.get(1, b"a", &keys).is_some());
        assert!(cache.get(3, b"a", &keys).is_none() && cache.get(1, b"A", &keys).is_none());
        // A new generation empties what the last one verified, of this provider.
        assert!(cache.get(1, b"a", &later).is_none());
        assert!(cache.get(1, b"b", &keys).is_none());
        assert!(cache.get(2, b"a", &keys).is_some());
    }

    #[test]
    fn what_is_in_use_stays_and_the_bytes_are_bounded() {
        let keys = keys();
        let max = 64 * token(1, "00000", &keys).bytes();
        let mut cache = TokenCache::new(max);
        assert!(!cache.insert(token(1, "often", &keys)));
        let mut turns = 0;
        for number in 0..1000 {
            turns += u32::from(cache.insert(token(1, &format!("{number:05}"), &keys)));
            assert!(cache.get(1, b"often", &keys).is_some(), "{number}");
            assert!(cache.all.bytes() <= max, "{} bytes", cache.all.bytes());
        }
        assert!(turns > 10 && cache.get(1, b"00001", &keys).is_none());
        let large = token(1, &"x".repeat(max), &keys);
        assert!(!cache.insert(large) && cache.all.bytes() <= max, "it is not remembered");
    }

    #[test]
    fn two_tokens_with_one_hash_are_two_tokens() {
        let keys = keys();
        let mut cache = TokenCache::new(1 << 20);
        let entry = token(1, "a", &keys);
        let (key, bytes) = (cache.key(1, b"b"), entry.bytes());
        cache.all.insert(key, entry, bytes);
        assert!(cache.get(1, b"b", &keys).is_none());
    }
}
