//! Which endpoint a pick gets.
//!
//! Owns: the order in which subset, session and balancer decide. Refuses to know: what is claimed, and the limits of the
//! cluster. Keeps: a session leads to an endpoint of the subset that was asked for, or nowhere; what was tried is not
//! chosen.

use std::sync::Arc;
use std::time::Duration;

use sluice_core::Reason;
use sluice_core::limits::Limit;
use sluice_io::WorkerCx;

use super::super::affinity::{Affinity, ClientSession, PreferredEndpoint};
use super::super::source_table::SourceTable;
use super::{ClusterHandle, Membership, Tried};
use crate::balance::load_balancer::{Chooser, Openings, Shortage};
use crate::balance::subsets::{Subset, SubsetChoice};
use crate::endpoint::EndpointState;
use crate::metadata::SubsetKey;
use crate::{metrics, reasons};

impl ClusterHandle {
    pub(super) fn choose(
        &self,
        worker: &WorkerCx,
        Affinity { hash, session, subset }: Affinity<'_>,
        tried: Tried<'_>,
        full: &dyn Fn(&EndpointState) -> bool,
    ) -> Result<Arc<EndpointState>, Reason> {
        // What no client has named is nobody's endpoint.
        if self.cluster.forwards() && self.cluster.is_configured() {
            return Err(reasons::NAME_MISSING);
        }
        let members = self.cluster.members.load();
        let priorities = tried.priorities_in(&members);
        let is_tried = |index: u32, endpoint: &EndpointState| {
            tried.endpoints.contains(&endpoint.name)
                || (!priorities.is_empty()
                    && priorities.contains(&members.traits[index as usize].priority))
        };
        let openings = Openings { is_full: full, is_tried: &is_tried };
        let subset = self.subset_of(worker, &members, subset)?;
        if let Some(session) = session
            && let Some(endpoint) = self.resume(worker, session, &members, subset, &openings)?
        {
            return Ok(endpoint);
        }
        let (balancer, turns_from) =
            subset.map_or((&members.balancer, 0), |of| (&*of.balancer, of.turns_from));
        let mut chooser = Chooser {
            random: &mut |bound| worker.random_below(bound),
            turn: &mut |table| self.turns.take(turns_from + table),
            hash,
            load: &|| self.cluster.load(),
            now: &|| worker.now(),
        };
        let endpoint = match balancer.pick(&members.endpoints, &openings, &mut chooser) {
            Ok(index) => Arc::clone(&members.endpoints[index as usize]),
            Err(shortage) => return Err(self.why_none(&members, shortage)),
        };
        if let Some(ClientSession::Source { source, ttl }) = session {
            self.note_source(worker, source, ttl, &endpoint);
        }
        Ok(endpoint)
    }

    /// The subset that a pick is made from; `None` is all endpoints.
    ///
    /// # Errors
    /// There is no such subset, and nothing instead.
    fn subset_of<'m>(
        &self,
        worker: &WorkerCx,
        members: &'m Membership,
        key: Option<&SubsetKey>,
    ) -> Result<Option<&'m Subset>, Reason> {
        let Some(subsets) = &members.subsets else { return Ok(None) };
        let (subset, result) = match subsets.find(key) {
            SubsetChoice::Asked(subset) => (Ok(Some(subset)), "selected"),
            SubsetChoice::Instead(subset) => (Ok(Some(subset)), "fallback"),
            SubsetChoice::All => (Ok(None), "fallback"),
            // Without endpoints there are no subsets either, which says less.
            SubsetChoice::Nothing if members.endpoints.is_empty() => {
                (Err(self.why_none(members, Shortage::None)), "refused")
            }
            SubsetChoice::Nothing => (Err(reasons::NO_SUBSET), "refused"),
        };
        self.subset_picks.count(&result, |result| {
            worker.shard.counter(&metrics::SUBSET_PICKS, &[&self.cluster.name, result])
        });
        subset
    }

    /// The endpoint of a session, if it has one that can be used.
    ///
    /// # Errors
    /// It has one that cannot be used, and allows no other.
    fn resume(
        &self,
        worker: &WorkerCx,
        session: ClientSession,
        members: &Membership,
        subset: Option<&Subset>,
        openings: &Openings<'_>,
    ) -> Result<Option<Arc<EndpointState>>, Reason> {
        let (id, strict) = match session {
            ClientSession::Endpoint(PreferredEndpoint { id, strict }) => (Some(id), strict),
            ClientSession::Source { source, ttl } => {
                (self.sources(worker).find(source, ttl, worker.now()), false)
            }
        };
        let Some(id) = id else { return Ok(None) };
        let usable = |index: u32| {
            let endpoint = &members.endpoints[index as usize];
            // A drained endpoint keeps its sessions.
            let open = endpoint.may_continue()
                && subset.is_none_or(|of| members.traits[index as usize].has(&of.key))
                && !(openings.is_full)(endpoint)
                && !(openings.is_tried)(index, endpoint);
            open.then_some(endpoint)
        };
        let endpoint = members.with_id(id).and_then(usable);
        let result = match (endpoint, strict) {
            (Some(_), _) => "kept",
            (None, false) => "moved",
            (None, true) => "refused",
        };
        self.count_session(worker, result);
        if let (Some(endpoint), ClientSession::Source { source, ttl }) = (endpoint, session) {
            self.note_source(worker, source, ttl, endpoint);
        }
        if endpoint.is_none() && strict { Err(reasons::SESSION) } else { Ok(endpoint.cloned()) }
    }

    fn note_source(&self, worker: &WorkerCx, source: u64, ttl: Duration, to: &EndpointState) {
        if self.sources(worker).note(source, to.id, ttl, worker.now()) {
            self.count_session(worker, "forgotten");
        }
    }

    fn count_session(&self, worker: &WorkerCx, result: &'static str) {
        self.sessions.count(&result, |result| {
            worker.shard.counter(&metrics::SESSIONS, &[&self.cluster.name, result])
        });
    }

    fn sources(&self, worker: &WorkerCx) -> &SourceTable {
        let size = || SourceTable::new(worker.limits.size(Limit::SourceTable));
        self.cluster.sources.get_or_init(size)
    }

    fn why_none(&self, members: &Membership, shortage: Shortage) -> Reason {
        if !self.cluster.is_configured() {
            return reasons::CLUSTER_UNKNOWN;
        }
        if members.endpoints.is_empty() {
            let unresolved = !self.cluster.names().is_empty();
            return if unresolved { reasons::DNS } else { reasons::NO_ENDPOINT };
        }
        match shortage {
            Shortage::Full => reasons::LIMIT,
            Shortage::None => reasons::NO_HEALTHY,
        }
    }
}
