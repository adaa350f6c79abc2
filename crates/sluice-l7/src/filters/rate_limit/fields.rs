//! The `RateLimit` headers of responses.
//!
//! Owns: their text. Refuses to know: which requests a limit is about. Keeps: what is announced is never more than the
//! client has.
//!
//! Source: draft-ietf-httpapi-ratelimit-headers-10, whose values are structured fields (RFC 9651).

use std::fmt::Write as _;
use std::time::Duration;

/// What the headers of a response say, a member for each limit.
#[derive(Debug, Default)]
pub(in crate::filters) struct RateFields {
    policy: String,
    left: String,
}

impl RateFields {
    pub(in crate::filters) const fn is_empty(&self) -> bool {
        self.policy.is_empty()
    }

    /// Adds a limit: its count and the seconds that it is for; what is left of it, and for how many seconds. The name is
    /// printable ASCII without quotes and backslashes.
    pub(in crate::filters) fn put(&mut self, name: &str, policy: (u32, u64), left: (u32, u64)) {
        let separator = if self.policy.is_empty() { "" } else { ", " };
        let _ = write!(self.policy, "{separator}\"{name}\";q={};w={}", policy.0, policy.1);
        let _ = write!(self.left, "{separator}\"{name}\";r={};t={}", left.0, left.1);
    }

    pub(in crate::filters) fn headers(&self) -> Vec<(&'static str, String)> {
        if self.is_empty() {
            return Vec::new();
        }
        vec![("ratelimit-policy", self.policy.clone()), ("ratelimit", self.left.clone())]
    }
}

/// Whole seconds, rounded up.
pub(in crate::filters) fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_members_of_a_list_and_times_are_rounded_up() {
        let mut fields = RateFields::default();
        assert!(fields.headers().is_empty());
        fields.put("ip", (5, 5), (2, seconds(Duration::from_millis(2500))));
        fields.put("all", (10, 1), (10, seconds(Duration::ZERO)));
        assert_eq!(
            fields.headers(),
            [
                ("ratelimit-policy", "\"ip\";q=5;w=5, \"all\";q=10;w=1".to_owned()),
                ("ratelimit", "\"ip\";r=2;t=3, \"all\";r=10;t=0".to_owned()),
            ]
        );
    }
}
