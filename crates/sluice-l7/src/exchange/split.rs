//! The choice among the clusters of a split.
//!
//! Owns: which share a request gets. Refuses to know: the choice of an endpoint in its cluster. Keeps: requests with the
//! same hash or session get the same share, as long as the weights and the members stay the same; a share without weight
//! gets none while others have some.

use sluice_l4::split::{number_of_key, place_of};
use sluice_upstream::cluster::{ClientSession, PreferredEndpoint};

use super::RequestTask;
use crate::affinity::affinity;
use crate::routes::{RouteTable, Rule, Share};

impl RequestTask {
    /// The place of the share that the request gets: one that has the endpoint of its session, or else by its hash, or
    /// else at random.
    pub(super) fn share(&self, rule: &Rule, shares: &[Share], table: &RouteTable) -> usize {
        let runtime = &self.manager.plan.runtime;
        let weight = |share: &Share| {
            let set = share.runtime.as_deref().and_then(|key| runtime.number(key));
            set.unwrap_or(share.weight)
        };
        // A new cookie has the same value again when the endpoint is chosen.
        let affinity = affinity(&self.values, self.hash(&rule.options.hash, &mut None), None);
        if let Some(ClientSession::Endpoint(PreferredEndpoint { id, .. })) = affinity.session {
            let having = shares.iter().map(|share| {
                let has = table.clusters[share.cluster as usize].has_endpoint(id);
                if has { weight(share) } else { 0 }
            });
            // Several shares may have it.
            if let Some(place) = place_of(number_of_key(id.0.into()), having) {
                return place;
            }
        }
        let number = affinity.hash.map_or(self.random, number_of_key);
        // A split has at least one; the first gets all if none has a weight.
        place_of(number, shares.iter().map(weight)).unwrap_or(0)
    }
}
