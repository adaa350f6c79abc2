//! Endpoints that clients name: how a worker gets the one of a host, and claims it.
//!
//! Owns: the wait for a host that is not known yet, and its bound. Refuses to know: how a host is looked up, which the
//! control thread does. Keeps: a host that is known costs a worker one look at the membership; without a name, nothing
//! is picked.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use sluice_core::Reason;
use sluice_core::limits::Limit;
use sluice_io::WorkerCx;
use tokio::sync::{mpsc, oneshot};

use super::Cluster;
use super::breakers::BreakerLimit;
use super::claim::TakenRoom;
use super::claim::{Claim, RequestClaim};
use super::handle::ClusterHandle;
use super::reserve::TrafficClass;
use crate::endpoint::{EndpointState, LoadKind};
use crate::forward::{ForwardFailure, ForwardHost, HostNaming};
use crate::reasons;

/// A worker's question for a host that is not known yet.
#[derive(Debug)]
pub(crate) struct HostQuestion {
    pub(crate) host: ForwardHost,
    /// Told when the host is a member, or why it is not.
    pub(crate) answer: oneshot::Sender<Result<(), ForwardFailure>>,
}

/// Where workers ask for hosts.
#[derive(Debug, Default)]
pub(super) struct HostDesk {
    questions: ArcSwapOption<mpsc::Sender<HostQuestion>>,
    waiting: AtomicU64,
}

/// The wait of one connection or request.
struct HostWait<'a>(&'a HostDesk);

impl Drop for HostWait<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

/// A look-up is over long before; this is for a control thread that is busy.
const WAIT_MAX: Duration = Duration::from_secs(10);

impl Cluster {
    /// Sets where workers ask for hosts. For the control thread.
    pub(crate) fn set_host_desk(&self, questions: Option<mpsc::Sender<HostQuestion>>) {
        self.desk.questions.store(questions.map(Arc::new));
    }

    /// Whether the endpoints are hosts that clients name.
    pub fn forwards(&self) -> bool {
        self.peek_plan().forward.is_some()
    }
}

impl ClusterHandle {
    /// Whether the endpoints are hosts that clients name.
    pub fn forwards(&self) -> bool {
        self.plan().forward.is_some()
    }

    /// Whether a tunnel to a host ends here: the client names it, and gets a connection to it.
    pub fn ends_tunnels(&self) -> bool {
        self.plan().forward.as_ref().is_some_and(|forward| forward.named_by == HostNaming::Client)
    }

    /// The endpoint of a host that a client named; waits for its look-up if it is not known yet.
    ///
    /// # Errors
    /// Why it has none.
    pub async fn endpoint_of(
        &self,
        worker: &WorkerCx,
        host: &ForwardHost,
    ) -> Result<Arc<EndpointState>, ForwardFailure> {
        let desk = &self.cluster.desk;
        // A second time if the settings have changed meanwhile, with which look-ups begin again.
        for _ in 0..3 {
            if let Some(endpoint) = self.cluster.members().named(&host.name) {
                endpoint.note_use();
                return Ok(Arc::clone(endpoint));
            }
            let Some(questions) = desk.questions.load_full() else { break };
            let max = worker.limits.get(Limit::ForwardLookups);
            let wait = HostWait(desk);
            if desk.waiting.fetch_add(1, Relaxed) >= max {
                self.count_refusal(worker, BreakerLimit::ForwardLookups);
                let name = Limit::ForwardLookups.def().name;
                let detail = format!("as many wait for look-ups as `limits.{name}` allows ({max})");
                return Err(ForwardFailure::new(reasons::LIMIT, detail));
            }
            let (answer, answered) = oneshot::channel();
            if questions.try_send(HostQuestion { host: host.clone(), answer }).is_err() {
                continue;
            }
            match tokio::time::timeout(WAIT_MAX, answered).await {
                Ok(Ok(Ok(())) | Err(_)) => {}
                Ok(Ok(Err(failure))) => {
                    if failure.why == reasons::LIMIT {
                        self.count_refusal(worker, BreakerLimit::ForwardHosts);
                    } else if failure.why == reasons::EGRESS {
                        self.count_denial(worker);
                    }
                    return Err(failure);
                }
                Err(_) => {
                    let detail = format!("{}: the look-up took too long", host.host);
                    return Err(ForwardFailure::new(reasons::DNS, detail));
                }
            }
            drop(wait);
        }
        if !self.cluster.is_configured() {
            return Err(ForwardFailure::new(reasons::CLUSTER_UNKNOWN, ""));
        }
        let detail = format!("{}: the cluster changed during the look-up", host.host);
        Err(ForwardFailure::new(reasons::DNS, detail))
    }

    /// Claims the endpoint that a client named for a connection.
    ///
    /// # Errors
    /// An operator has withdrawn the endpoint, or a limit is reached; if the cluster has a queue, the caller waits there
    /// ([`ClusterHandle::wait_for_named_room`]).
    pub fn claim_named(
        self: &Rc<Self>,
        worker: &WorkerCx,
        endpoint: &Arc<EndpointState>,
    ) -> Result<Claim, Reason> {
        let taken = self.take_named(worker, LoadKind::Connection, endpoint)?;
        Ok(self.connection(taken))
    }

    /// Claims the endpoint that a client named for a request.
    ///
    /// # Errors
    /// As for [`ClusterHandle::claim_named`].
    pub fn claim_named_for_request(
        self: &Rc<Self>,
        worker: &WorkerCx,
        endpoint: &Arc<EndpointState>,
    ) -> Result<RequestClaim, Reason> {
        let taken = self.take_named(worker, LoadKind::Request, endpoint)?;
        Ok(self.request(taken).1)
    }

    fn take_named(
        &self,
        worker: &WorkerCx,
        load: LoadKind,
        endpoint: &Arc<EndpointState>,
    ) -> Result<TakenRoom, Reason> {
        if !endpoint.is_usable() {
            return Err(reasons::NO_HEALTHY);
        }
        let queues = self.has_queue();
        if queues && endpoint.waiting(load) > 0 {
            return Err(reasons::LIMIT);
        }
        let taken = self.take_at(load, TrafficClass::Request, endpoint);
        taken.map_err(|limit| if queues { reasons::LIMIT } else { self.refused(worker, limit) })
    }
}
