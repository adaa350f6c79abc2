//! Which endpoint a pick gets.
//!
//! Owns: the order in which subset, session and balancer decide. Refuses to know: what is claimed, and the limits of the
//! cluster. Keeps: what was tried is not chosen; without a subset that was asked for, or one instead, nothing is.

use std::sync::Arc;

use sluice_core::Reason;
use sluice_io::WorkerCx;

use super::super::affinity::Affinity;
use super::{ClusterHandle, Membership, Tried};
use crate::balance::load_balancer::{Chooser, Openings, Shortage};
use crate::balance::subsets::{Subset, SubsetChoice};
use crate::endpoint::EndpointState;
use crate::metadata::SubsetKey;
use crate::{metrics, reasons};

impl ClusterHandle {
    /// The endpoint of a pick.
    pub(in super::super) fn choose(
        &self,
        worker: &WorkerCx,
        affinity: Affinity<'_>,
        tried: Tried<'_>,
        full: &dyn Fn(&EndpointState) -> bool,
    ) -> Result<Arc<EndpointState>, Reason> {
        let members = self.members.get(&self.cluster.members);
        let subset = self.subset_of(&members, affinity.subset);
        if let Some((_, result)) = subset {
            self.count_subset_pick(worker, result);
        }
        let subset = subset.map_or(Ok(None), |(subset, _)| subset)?;
        self.choose_among(worker, &members, subset, affinity, tried, full)
    }

    /// The endpoint that a pick would get, without counting one.
    pub(in super::super) fn probe(
        &self,
        worker: &WorkerCx,
        affinity: Affinity<'_>,
        tried: Tried<'_>,
        full: &dyn Fn(&EndpointState) -> bool,
    ) -> Result<Arc<EndpointState>, Reason> {
        let members = self.cluster.members.peek();
        let subset = self.subset_of(&members, affinity.subset);
        let subset = subset.map_or(Ok(None), |(subset, _)| subset)?;
        self.choose_among(worker, &members, subset, affinity, tried, full)
    }

    /// The endpoint that a connection will get that is picked after `ahead` others, as far as that can be told: in turn, or
    /// else at random. Nothing is counted.
    pub fn predict(&self, worker: &WorkerCx, ahead: usize) -> Option<Arc<EndpointState>> {
        let members = self.cluster.members.peek();
        let openings = Openings { is_full: &|_| false, is_tried: &|_, _| false };
        let mut chooser = Chooser {
            random: &mut |bound| worker.random_below(bound),
            turn: &mut |table| self.turns.peek(table, ahead),
            hash: None,
            load: &|| self.cluster.load(),
            now: &|| worker.now(),
            // An extension may remember what it picks.
            failed: None,
        };
        let index = members.balancer.pick(&members.endpoints, &openings, &mut chooser).ok()?;
        Some(Arc::clone(&members.endpoints[index as usize]))
    }

    fn choose_among(
        &self,
        worker: &WorkerCx,
        members: &Membership,
        subset: Option<&Subset>,
        Affinity { hash, session, .. }: Affinity<'_>,
        tried: Tried<'_>,
        full: &dyn Fn(&EndpointState) -> bool,
    ) -> Result<Arc<EndpointState>, Reason> {
        // Nothing is picked among hosts that clients name.
        if members.named_by_clients && self.cluster.is_configured() {
            return Err(reasons::NAME_MISSING);
        }
        let priorities = tried.priorities_in(members);
        let is_tried = |index: u32, endpoint: &EndpointState| {
            tried.endpoints.contains(&endpoint.name)
                || (!priorities.is_empty()
                    && priorities.contains(&members.traits[index as usize].priority))
        };
        let openings = Openings { is_full: full, is_tried: &is_tried };
        if let Some(session) = session
            && let Some(endpoint) = self.resume(worker, session, members, subset, &openings)?
        {
            return Ok(endpoint);
        }
        let (balancer, turns_from) =
            subset.map_or((&members.balancer, 0), |of| (&*of.balancer, of.turns_from));
        let failed = || self.count_balancer_failure(worker);
        let mut chooser = Chooser {
            random: &mut |bound| worker.random_below(bound),
            turn: &mut |table| self.turns.take(turns_from + table),
            hash,
            load: &|| self.cluster.load(),
            now: &|| worker.now(),
            failed: Some(&failed),
        };
        let endpoint = match balancer.pick(&members.endpoints, &openings, &mut chooser) {
            Ok(index) => Arc::clone(&members.endpoints[index as usize]),
            Err(shortage) => return Err(self.why_none(members, shortage)),
        };
        if let Some(session) = session {
            self.note_session(worker, session, &endpoint);
        }
        Ok(endpoint)
    }

    /// The subset that a pick is made from, or why there is none, and what that counts as; `None` if there are no subsets.
    /// No subset is all endpoints.
    pub(in super::super) fn subset_of<'m>(
        &self,
        members: &'m Membership,
        key: Option<&SubsetKey>,
    ) -> Option<(Result<Option<&'m Subset>, Reason>, &'static str)> {
        let subsets = members.subsets.as_ref()?;
        Some(match subsets.find(key) {
            SubsetChoice::Asked(subset) => (Ok(Some(subset)), "selected"),
            SubsetChoice::Instead(subset) => (Ok(Some(subset)), "fallback"),
            SubsetChoice::All => (Ok(None), "fallback"),
            // Without endpoints there are no subsets either, which says less.
            SubsetChoice::Nothing if members.endpoints.is_empty() => {
                (Err(self.why_none(members, Shortage::None)), "refused")
            }
            SubsetChoice::Nothing => (Err(reasons::NO_SUBSET), "refused"),
        })
    }

    fn count_subset_pick(&self, worker: &WorkerCx, result: &'static str) {
        self.subset_picks.count(&result, |result| {
            worker.shard.counter(&metrics::SUBSET_PICKS, &[&self.cluster.name, result])
        });
    }

    fn count_balancer_failure(&self, worker: &WorkerCx) {
        let series = || worker.shard.counter(&metrics::BALANCER_FAILURES, &[&self.cluster.name]);
        self.balancer_failures.get_or_init(series).increment();
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
