//! What filters tell the load balancer about a request.
//!
//! Owns: the shared values that a pick of an endpoint reads. Refuses to know: which filter set them, and why. Keeps: a
//! value that a filter set takes precedence over the `hash` of the rule.

use sluice_core::SharedValues;
use sluice_upstream::SubsetKey;
use sluice_upstream::cluster::{Affinity, ClientSession, PreferredEndpoint};

sluice_core::values! {
    HASH: u64 = "balancer.hash", "The hash for `ring_hash` and `maglev`.";
    ENDPOINT: PreferredEndpoint = "balancer.endpoint", "The endpoint that the request should go to.";
}

/// What a pick goes by, for a request with these values, and with this hash and subset by its rule.
pub fn affinity<'a>(
    values: &SharedValues,
    hash: Option<u64>,
    subset: Option<&'a SubsetKey>,
) -> Affinity<'a> {
    if values.is_empty() {
        return Affinity { subset, ..Affinity::hashed(hash) };
    }
    Affinity {
        hash: values.get(&HASH).copied().or(hash),
        session: values.get(&ENDPOINT).copied().map(ClientSession::Endpoint),
        subset,
    }
}

#[cfg(test)]
mod tests {
    use sluice_upstream::endpoint::EndpointId;

    use super::*;

    #[test]
    fn what_a_filter_says_comes_first() {
        let mut values = SharedValues::default();
        let none = affinity(&values, Some(1), None);
        assert_eq!((none.hash, none.session), (Some(1), None));
        values.set(&HASH, 2);
        assert_eq!(affinity(&values, Some(1), None).hash, Some(2));
        let endpoint = PreferredEndpoint { id: EndpointId::of("127.0.0.1:80"), strict: true };
        values.set(&ENDPOINT, endpoint);
        let both = affinity(&values, None, None);
        assert_eq!((both.hash, both.session), (Some(2), Some(ClientSession::Endpoint(endpoint))));
    }
}
