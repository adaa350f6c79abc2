//! Connections that carry a request before their handshake is complete (0-RTT, early data).
//!
//! Owns: the rest of the handshake, and what it says about the endpoint. Refuses to know: which requests may be sent early.
//! Keeps: until the handshake is complete, no other request is sent on the connection, and those that would share it wait;
//! a failure counts against the endpoint as one of any handshake does.
//!
//! Source: RFC 8470, RFC 9001 §4.6.

use std::rc::Rc;
use std::sync::Arc;

use sluice_codec::Multiplexed;
use sluice_codec::h3::H3Client;
use sluice_codec::quic::EarlyHandshake;
use sluice_core::Moment;
use sluice_io::WorkerCx;
use sluice_io::timers::Timer;
use sluice_upstream::EndpointState;
use sluice_upstream::connector::ConnectFailure;
use sluice_upstream::pool::Idle;

use super::ClusterPool;
use super::shared::Connecting;

/// A connection that a request is sent on while its handshake goes on.
pub(super) struct EarlyConnection {
    pub(super) client: H3Client,
    pub(super) handshake: EarlyHandshake,
    /// What other requests wait for.
    pub(super) connecting: Connecting,
    pub(super) started: Moment,
    /// The generation of the cluster's settings that it is made under.
    pub(super) generation: u64,
}

impl ClusterPool {
    /// Completes the handshake within `connect_timeout`; other requests share the connection from then on.
    pub(super) fn complete_early(
        self: &Rc<Self>,
        worker: &Rc<WorkerCx>,
        endpoint: &Arc<EndpointState>,
        early: EarlyConnection,
    ) {
        let (pool, runner, endpoint) = (Rc::clone(self), Rc::clone(worker), Arc::clone(endpoint));
        worker.spawn(async move {
            let result = pool.run_early(&runner, &endpoint, early).await;
            pool.counters.count_early_data(&runner, &pool.handle.cluster.name, result);
        });
    }

    async fn run_early(
        self: &Rc<Self>,
        worker: &Rc<WorkerCx>,
        endpoint: &Arc<EndpointState>,
        early: EarlyConnection,
    ) -> &'static str {
        let EarlyConnection { client, handshake, connecting: _connecting, started, generation } =
            early;
        let timeout = self.handle.plan().connect_timeout;
        let completing = handshake.complete();
        let completed = Timer::new(&worker.timers).until(started.after(timeout), completing).await;
        match completed.unwrap_or_else(|_| Err(ConnectFailure::connect_timeout(timeout))) {
            Ok(accepted) => {
                self.handle.note_connected(worker, endpoint, started);
                let connection = Multiplexed::H3(client);
                let mut idle = Idle::new(connection, worker.now(), generation);
                // If it was rejected, the request comes again.
                idle.requests = u64::from(accepted);
                self.share(worker, endpoint, idle);
                if accepted { "accepted" } else { "rejected" }
            }
            Err(failure) => {
                self.handle.note_failure(worker, endpoint, failure.why);
                client.close();
                "failed"
            }
        }
    }
}
