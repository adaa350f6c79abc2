//! Passwords that were right a moment ago, so that a client's requests do not each cost a hash.
//!
//! Owns: which are remembered, and for how long. Refuses to know: how a password is verified. Keeps: no password and
//! nothing that it can be found from without the key of this process; what is remembered ends with the users that it was
//! verified for; only right passwords take memory.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::{hmac, rand};
use sluice_core::Moment;

use super::users::Users;

/// How long a right password is remembered. Not prolonged by its use.
const KEPT: Duration = Duration::from_secs(60);

/// The most that are remembered, by each use of the filter on each worker. At half of it, those that were verified
/// before are forgotten.
const KNOWN_MAX: usize = 4096;

/// The tag of a user and a password.
type Tag = [u8; 32];

/// The passwords that are remembered by a use of the filter.
pub(super) struct KnownPasswords {
    key: hmac::Key,
    /// The users that they were verified for.
    users: Option<Arc<Users>>,
    young: HashMap<Tag, Moment>,
    old: HashMap<Tag, Moment>,
}

impl KnownPasswords {
    pub(super) fn new() -> Self {
        let mut key = [0; 32];
        rand::fill(&mut key).expect("the system has random bytes");
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        Self { key, users: None, young: HashMap::new(), old: HashMap::new() }
    }

    fn tag(&self, name: &[u8], password: &[u8]) -> Tag {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&name.len().to_be_bytes());
        context.update(name);
        context.update(password);
        *context.sign().as_ref().first_chunk().expect("HMAC-SHA256 has 32 bytes")
    }

    /// Whether this was the password of the user a moment ago.
    pub(super) fn has(
        &mut self,
        users: &Arc<Users>,
        name: &[u8],
        password: &[u8],
        now: Moment,
    ) -> bool {
        if !self.users.as_ref().is_some_and(|own| Arc::ptr_eq(own, users)) {
            self.users = Some(Arc::clone(users));
            self.young.clear();
            self.old.clear();
            return false;
        }
        let tag = self.tag(name, password);
        let until = self.young.get(&tag).or_else(|| self.old.get(&tag));
        until.is_some_and(|until| now < *until)
    }

    /// Remembers a password that was verified for these users.
    pub(super) fn insert(&mut self, users: &Arc<Users>, name: &[u8], password: &[u8], now: Moment) {
        if !self.users.as_ref().is_some_and(|own| Arc::ptr_eq(own, users)) {
            return;
        }
        if self.young.len() >= KNOWN_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(self.tag(name, password), now.after(KEPT));
    }
}

#[cfg(test)]
mod tests {
    use sluice_l4::filters::Content as _;

    use super::*;

    fn users() -> Arc<Users> {
        let text = b"a:$5$rounds=1000$s$v8DMx/7t0/H1zYj41VNdi6eQ/F1frpRoHaqbgo1/KvA";
        Arc::new(Users::parse(text).unwrap())
    }

    #[test]
    fn a_right_password_is_known_for_a_minute_and_for_its_users_only() {
        let (users, later) = (users(), users());
        let mut known = KnownPasswords::new();
        let at = |seconds: u64| Moment::from_micros(seconds * 1_000_000);
        assert!(!known.has(&users, b"a", b"b", at(0)));
        known.insert(&users, b"a", b"b", at(0));
        assert!(known.has(&users, b"a", b"b", at(59)));
        assert!(!known.has(&users, b"a", b"b", at(60)), "its use does not prolong it");
        for (name, password) in [("a", "B"), ("ab", ""), ("", "ab"), ("A", "b")] {
            assert!(!known.has(&users, name.as_bytes(), password.as_bytes(), at(0)), "{name}");
        }
        assert!(!known.has(&later, b"a", b"b", at(0)));
        assert!(!known.has(&users, b"a", b"b", at(0)), "it went with the users");
        // Verified for users that have changed meanwhile.
        known.insert(&later, b"a", b"b", at(0));
        assert!(!known.has(&users, b"a", b"b", at(0)));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let users = users();
        let mut known = KnownPasswords::new();
        assert!(!known.has(&users, b"a", b"b", Moment::from_micros(0)));
        for number in 0..3 * KNOWN_MAX {
            known.insert(&users, number.to_string().as_bytes(), b"", Moment::from_micros(0));
            assert!(known.young.len() + known.old.len() <= KNOWN_MAX);
        }
    }
}
