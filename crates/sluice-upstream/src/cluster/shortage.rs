//! Why a cluster has no endpoint to offer, as text for a record.
//!
//! Owns: the text. Refuses to know: which connection or request asked. Keeps: it runs only after a pick has failed, and
//! reads what was true a moment ago: the reason was decided before.

use sluice_core::Reason;

use super::Cluster;
use crate::endpoint::EndpointState;
use crate::reasons;

impl Cluster {
    /// The cause of `why`, with which a pick has failed: the limit that was reached, the state of the endpoints, or the
    /// message of the resolver.
    pub fn shortage(&self, why: Reason) -> Option<Box<str>> {
        if why == reasons::LIMIT {
            return Some(self.limit_reached().into());
        }
        if why == reasons::DNS && self.forwards() {
            // The failure itself says which of the names it is about.
            return None;
        }
        if why == reasons::DNS {
            let names = self.names();
            let names = names.iter().map(|(name, state)| format!("{name}: {}", state.message));
            return Some(names.collect::<Vec<_>>().join("; ").into());
        }
        if why == reasons::NO_SUBSET {
            return Some(self.subsets_made().into());
        }
        (why == reasons::NO_HEALTHY || why == reasons::SESSION).then(|| self.states().into())
    }

    /// The subsets that there are, as far as they fit into a record.
    fn subsets_made(&self) -> String {
        const SHOWN: usize = 8;
        let members = self.members();
        let all: Vec<String> =
            members.subsets.iter().flat_map(|of| of.iter()).map(|of| of.key.to_string()).collect();
        if all.is_empty() {
            return "no endpoint is in a subset".to_owned();
        }
        let shown = all.iter().take(SHOWN).map(|key| format!("{{ {key} }}"));
        let shown = shown.collect::<Vec<_>>().join(", ");
        match all.len().checked_sub(SHOWN) {
            None | Some(0) => format!("the subsets are {shown}"),
            Some(more) => format!("the subsets are {shown} and {more} more"),
        }
    }

    /// The setting whose limit is reached.
    fn limit_reached(&self) -> String {
        let plan = self.peek_plan();
        let members = self.members();
        let all = |count: fn(&EndpointState) -> u64, max: Option<u64>| {
            let full = |max| members.endpoints.iter().all(|endpoint| count(endpoint) >= max);
            max.filter(|max| full(*max))
        };
        let limits = [
            ("requests", plan.requests_max.filter(|max| self.requests() >= *max)),
            ("requests_per_endpoint", all(EndpointState::requests, plan.endpoint_requests_max)),
            ("connections", plan.connections_max.filter(|max| self.active() >= *max)),
            ("connections_per_endpoint", all(EndpointState::active, plan.endpoint_connections_max)),
        ];
        let reached = limits.into_iter().find_map(|(name, max)| Some((name, max?)));
        match reached {
            Some((name, max)) => format!("the cluster is at `limits.{name}` ({max})"),
            None => "the cluster was at one of its `limits`".to_owned(),
        }
    }

    /// The number of endpoints in each state.
    fn states(&self) -> String {
        let members = self.members();
        let count = |is: fn(&EndpointState) -> bool| {
            members.endpoints.iter().filter(|endpoint| is(endpoint)).count()
        };
        let withdrawn = match count(EndpointState::is_withdrawn) {
            0 => String::new(),
            some => format!("; {some} drained or in maintenance"),
        };
        format!(
            "{} unhealthy and {} ejected of {} endpoints{withdrawn}",
            count(|endpoint| !endpoint.is_healthy()),
            count(EndpointState::is_ejected),
            members.endpoints.len()
        )
    }
}
