//! Connections to endpoints that carry the bytes of a client as they are (CONNECT).
//!
//! Owns: making one. Refuses to know: what the bytes are. Keeps: it is counted as any connection to the endpoint and is
//! never pooled; nothing of Sluice's own is sent on it, `tls` of the cluster included.

use std::rc::Rc;
use std::sync::Arc;

use sluice_codec::h1::H1Stream;
use sluice_codec::h1::stream::H1Options;
use sluice_io::timers::Timer;
use sluice_io::{Stream, WorkerCx};
use sluice_upstream::EndpointState;
use sluice_upstream::cluster::TrafficClass;
use sluice_upstream::connector::{ConnectFailure, open};

use super::{ClusterPool, PoolTicket, PooledConn, TakenH1};

impl ClusterPool {
    /// Makes a connection for a tunnel, within `connect_timeout`.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn open_tunnel(
        &self,
        worker: &Rc<WorkerCx>,
        endpoint: &Arc<EndpointState>,
        options: &Rc<H1Options>,
    ) -> Result<PooledConn, ConnectFailure> {
        let (handle, class) = (&self.handle, TrafficClass::Request);
        let claim = handle.claim_shared(class, endpoint).map_err(|why| {
            handle.count_refusal(worker, handle.connection_limit(class));
            let detail = handle.shortage(why).map(String::from);
            ConnectFailure { why, errno: None, detail }
        })?;
        let (plan, generation) = (handle.cluster.plan(), handle.cluster.generation());
        let started = worker.now();
        let timeout = plan.connect_timeout;
        let opening = open(&plan, endpoint, &worker.reactor);
        let opened = Timer::new(&worker.timers).until(started.after(timeout), opening).await;
        let raw = opened
            .unwrap_or_else(|_| Err(ConnectFailure::connect_timeout(timeout)))
            .inspect_err(|failure| handle.note_failure(worker, endpoint, failure.why))?;
        handle.note_connected(worker, endpoint, started);
        let stream = H1Stream::tunnel(Stream::Raw(raw), Rc::clone(options));
        let made = worker.now();
        let ticket = PoolTicket { claim, made, requests: 0, generation, _demand: None };
        Ok(PooledConn::H1(TakenH1 { stream, ticket }))
    }
}
