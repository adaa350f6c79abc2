//! Connections that carry a request before their handshake is complete (0-RTT, early data).
//!
//! Owns: the rest of the handshake, and what it says about the endpoint. Refuses to know: which requests may be sent early.
//! Keeps: until the handshake is complete, no other request is sent on the connection, and those that would share it wait;
//! a failure counts against the endpoint as one of any handshake does.
//!
//! Source: RFC 8470, RFC 8446 §2.3, RFC 9001 §4.6.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use sluice_codec::h1::H1Stream;
use sluice_codec::h2::H2Client;
use sluice_codec::h3::H3Client;
use sluice_codec::quic::EarlyHandshake;
use sluice_codec::{HttpError, Multiplexed};
use sluice_core::Moment;
use sluice_io::WorkerCx;
use sluice_io::timers::Timer;
use sluice_upstream::EndpointState;
use sluice_upstream::connector::{ConnectFailure, handshake_failure};
use sluice_upstream::pool::Idle;

use super::shared::Connecting;
use super::{ClusterPool, PoolTicket, PooledConn};

/// A connection that a request is sent on while its handshake goes on.
pub(super) struct EarlyConnection {
    pub(super) rest: RestOfHandshake,
    /// What other requests wait for.
    pub(super) connecting: Connecting,
    pub(super) started: Moment,
    /// The generation of the cluster's settings that it is made under.
    pub(super) generation: u64,
}

/// A connection with what is left of its handshake.
pub(super) enum RestOfHandshake {
    Http2(H2Client),
    Http3(H3Client, EarlyHandshake),
}

impl RestOfHandshake {
    fn connection(&self) -> Multiplexed {
        match self {
            Self::Http2(client) => Multiplexed::H2(client.clone()),
            Self::Http3(client, _) => Multiplexed::H3(client.clone()),
        }
    }

    /// Completes the handshake; returns whether the endpoint took what was sent before.
    async fn complete(self) -> Result<bool, ConnectFailure> {
        match self {
            Self::Http2(client) => {
                client.handshake().await.map_err(|error| ConnectFailure::of_tls(&error))
            }
            Self::Http3(_, handshake) => handshake.complete().await,
        }
    }
}

impl PooledConn {
    /// Whether the handshake of the connection is not complete, so that the request is sent as early data.
    pub fn is_early(&self) -> bool {
        match self {
            Self::H1(taken) => taken.stream.stream().is_early(),
            Self::Shared(connection) => connection.is_early(),
            #[cfg(test)]
            Self::Scripted(..) => false,
        }
    }
}

impl PoolTicket {
    /// When the connection was made.
    pub(crate) const fn made(&self) -> Moment {
        self.made
    }
}

impl ClusterPool {
    /// Sends the request headers that wait on an HTTP/1 connection before its handshake is complete, and completes it
    /// within `connect_timeout` of `started`.
    ///
    /// # Errors
    /// Why the endpoint was not reached.
    pub(crate) async fn complete_early_h1(
        &self,
        worker: &Rc<WorkerCx>,
        endpoint: &Arc<EndpointState>,
        stream: &mut H1Stream,
        started: Moment,
    ) -> Result<(), ConnectFailure> {
        let timeout = self.handle.plan().connect_timeout;
        let completing = async {
            let pushed = poll_fn(|cx| Poll::Ready(stream.push(cx, worker))).await;
            pushed.map_err(|error: HttpError| ConnectFailure::of_tls(&error))?;
            poll_fn(|cx| stream.poll_handshake(cx, worker)).await.map_err(handshake_failure)
        };
        let completed = Timer::new(&worker.timers).until(started.after(timeout), completing).await;
        let completed = completed.unwrap_or_else(|_| Err(ConnectFailure::connect_timeout(timeout)));
        let result = match &completed {
            Ok(()) if stream.stream().had_early_data() => "accepted",
            Ok(()) => "rejected",
            Err(_) => "failed",
        };
        self.counters.count_early_data(worker, &self.handle.cluster.name, result);
        match &completed {
            Ok(()) => {
                self.handle.note_connected(worker, endpoint, started);
            }
            Err(failure) => self.handle.note_failure(worker, endpoint, failure.why),
        }
        completed
    }

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
        let EarlyConnection { rest, connecting: _connecting, started, generation } = early;
        let timeout = self.handle.plan().connect_timeout;
        let connection = rest.connection();
        let completing = rest.complete();
        let completed = Timer::new(&worker.timers).until(started.after(timeout), completing).await;
        match completed.unwrap_or_else(|_| Err(ConnectFailure::connect_timeout(timeout))) {
            Ok(accepted) => {
                self.handle.note_connected(worker, endpoint, started);
                let mut idle = Idle::new(connection, worker.now(), generation);
                // If it was rejected, the request comes again.
                idle.requests = u64::from(accepted);
                self.share(worker, endpoint, idle);
                if accepted { "accepted" } else { "rejected" }
            }
            Err(failure) => {
                self.handle.note_failure(worker, endpoint, failure.why);
                connection.close();
                "failed"
            }
        }
    }
}
