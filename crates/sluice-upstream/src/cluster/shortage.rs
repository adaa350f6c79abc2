//! Why a cluster has no endpoint to offer, as text for a record.
//!
//! Owns: the text. Refuses to know: which connection or request asked. Keeps: it runs only after a pick has failed, and
//! reads what was true a moment ago: the reason was decided before.

use std::sync::Arc;

use sluice_core::Reason;
use sluice_core::fine_percent::{FinePercent, show_fine_percent};
use sluice_core::value::{plural, show_duration};

use super::{BreakerLimit, Cluster};
use crate::endpoint::{EndpointState, LoadKind};
use crate::plan::BreakerClass;
use crate::reasons;

impl Cluster {
    /// The cause of `why`, with which a pick has failed: the limit that was reached, the state of the endpoints, or the
    /// message of the resolver.
    pub fn shortage(&self, why: Reason, class: BreakerClass) -> Option<Box<str>> {
        if why == reasons::LIMIT {
            return Some(self.limit_reached(class).into());
        }
        if why == reasons::QUEUE_FULL || why == reasons::QUEUE_TIMEOUT {
            return Some(self.queue_state(why, class).into());
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
        if why == reasons::DROPPED {
            let plan = self.peek_plan();
            let shares = plan.drops.iter().map(|of| {
                let share = show_fine_percent(FinePercent(of.millionths));
                format!("{} {share}", of.category)
            });
            return Some(format!("`drop`: {}", shares.collect::<Vec<_>>().join(", ")).into());
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
    fn limit_reached(&self, class: BreakerClass) -> String {
        let plan = self.peek_plan();
        let members = self.members();
        let all = |load| {
            let usual = plan.endpoint_limit_of(load);
            let full = |endpoint: &Arc<EndpointState>| {
                endpoint.limit_of(load, usual).is_some_and(|max| endpoint.in_use(load) >= max)
            };
            let is_reached = members.endpoints.iter().all(full);
            // Endpoints may have limits of their own: that of the first stands for them.
            members.endpoints.first()?.limit_of(load, usual).filter(|_| is_reached)
        };
        let total =
            |load| plan.limit_of(load, class).filter(|max| self.in_use(load, class) >= *max);
        let limits = [
            (BreakerLimit::Requests, total(LoadKind::Request)),
            (BreakerLimit::RequestsPerEndpoint, all(LoadKind::Request)),
            (BreakerLimit::Connections, total(LoadKind::Connection)),
            (BreakerLimit::ConnectionsPerEndpoint, all(LoadKind::Connection)),
        ];
        let reached = limits.into_iter().find_map(|(limit, max)| Some((limit, max?)));
        match reached {
            Some((limit, max)) => {
                format!("the cluster is at `limits.{}` ({max})", limit.word(class))
            }
            None => "the cluster was at one of its `limits`".to_owned(),
        }
    }

    /// Why the queue did not help.
    fn queue_state(&self, why: Reason, class: BreakerClass) -> String {
        let reached = self.limit_reached(class);
        let Some(plan) = self.peek_plan().queue else { return reached };
        if why == reasons::QUEUE_FULL {
            return format!("{reached}, and at most {} may wait (`limits.queue.size`)", plan.size);
        }
        let timeout = show_duration(plan.timeout);
        format!("{reached}, and no endpoint had room within {timeout} (`limits.queue.timeout`)")
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
            "{} unhealthy and {} ejected of {}{withdrawn}",
            count(EndpointState::is_unhealthy),
            count(EndpointState::is_ejected),
            plural(members.endpoints.len() as u64, "endpoint")
        )
    }
}
