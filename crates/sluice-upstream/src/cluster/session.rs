//! Sessions: which endpoint a client should return to.
//!
//! Owns: finding the endpoint of a session, and remembering that of a source. Refuses to know: the balancer, and where
//! sessions come from. Keeps: a session leads to an endpoint of the subset that was asked for, or nowhere; each connection
//! or request of a session that gets an endpoint is counted once.

use std::sync::Arc;

use sluice_core::Reason;
use sluice_core::limits::Limit;
use sluice_io::WorkerCx;

use super::affinity::{Affinity, ClientSession, PreferredEndpoint};
use super::handle::Tried;
use super::source_table::SourceTable;
use super::{ClusterHandle, Membership};
use crate::balance::load_balancer::Openings;
use crate::balance::subsets::Subset;
use crate::endpoint::{EndpointId, EndpointState};
use crate::metrics;
use crate::reasons;

impl ClusterHandle {
    /// The endpoint of a session, if it has one that can be used.
    ///
    /// # Errors
    /// It has one that cannot be used, and allows no other.
    pub(super) fn resume(
        &self,
        worker: &WorkerCx,
        session: ClientSession,
        members: &Membership,
        subset: Option<&Subset>,
        openings: &Openings<'_>,
    ) -> Result<Option<Arc<EndpointState>>, Reason> {
        let Some(id) = self.session_endpoint(worker, session) else { return Ok(None) };
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
        if let Some(endpoint) = endpoint {
            self.note_session(worker, session, endpoint);
        } else if session.is_strict() {
            self.count_session(worker, "refused");
            return Err(reasons::SESSION);
        }
        Ok(endpoint.cloned())
    }

    /// The endpoint that a session names, or that the cluster remembers for it.
    fn session_endpoint(&self, worker: &WorkerCx, session: ClientSession) -> Option<EndpointId> {
        match session {
            ClientSession::Endpoint(PreferredEndpoint { id, .. }) => Some(id),
            ClientSession::Source { source, ttl } => {
                self.sources(worker).find(source, ttl, worker.now())
            }
        }
    }

    /// The endpoint of the session, or else of the hash if the balancer goes by one, whatever its load.
    pub(super) fn own_endpoint(
        &self,
        worker: &WorkerCx,
        affinity: Affinity<'_>,
        tried: Tried<'_>,
    ) -> Option<Arc<EndpointState>> {
        let Affinity { hash, session, subset } = affinity;
        if let Some(id) = session.and_then(|session| self.session_endpoint(worker, session)) {
            let members = self.cluster.members.peek();
            let subset = self.subset_of(&members, subset).map_or(Ok(None), |(subset, _)| subset);
            let subset = subset.ok()?;
            let index = members.with_id(id)?;
            let endpoint = &members.endpoints[index as usize];
            let usable = endpoint.may_continue()
                && !tried.has(&endpoint.name)
                && subset.is_none_or(|of| members.traits[index as usize].has(&of.key));
            return usable.then(|| Arc::clone(endpoint));
        }
        let hashes = hash.is_some() && self.plan().balancing.balance.hashes();
        let chosen = hashes.then(|| {
            let affinity = Affinity { session: None, ..affinity };
            self.probe(worker, affinity, tried, &|_: &EndpointState| false)
        });
        chosen?.ok()
    }

    /// Notes that a connection or request of `session` goes to `endpoint`.
    pub(super) fn note_session(
        &self,
        worker: &WorkerCx,
        session: ClientSession,
        endpoint: &EndpointState,
    ) {
        if let Some(id) = self.session_endpoint(worker, session) {
            let result = if id == endpoint.id { "kept" } else { "moved" };
            self.count_session(worker, result);
        }
        if let ClientSession::Source { source, ttl } = session
            && self.sources(worker).note(source, endpoint.id, ttl, worker.now())
        {
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
}

impl ClientSession {
    /// Whether no other endpoint will do.
    pub(super) const fn is_strict(self) -> bool {
        matches!(self, Self::Endpoint(PreferredEndpoint { strict: true, .. }))
    }
}
