//! Making connections to endpoints.
//!
//! Owns: which HTTP version a new connection speaks. Refuses to know: who waits for it. Keeps: it is made within
//! `connect_timeout`, and only a failure to make one counts against the endpoint.

use std::rc::Rc;
use std::sync::Arc;

use sluice_codec::Multiplexed;
use sluice_codec::h1::{H1Stream, Role};
use sluice_codec::h2::{ENDPOINT_FIELDS_MAX, H2Client, H2Options};
use sluice_io::timers::Timer;
use sluice_io::{Stream, WorkerCx};
use sluice_upstream::cluster::Claim;
use sluice_upstream::connector::{ConnectFailure, reach_by, reach_early};
use sluice_upstream::hops::HopTransport;
use sluice_upstream::plan::{ClusterSettings, Http2Plan, HttpVersion};
use sluice_upstream::pool::Idle;
use sluice_upstream::{EndpointState, Preface};

use super::early_data::{EarlyConnection, RestOfHandshake};
use super::shared::{Connecting, EndpointPool};
use super::{ClusterPool, ConnectionNeeds, PoolTicket, PooledConn, TakenH1};

impl ClusterPool {
    /// Makes a connection within `connect_timeout`, for so many `requests` at once: one or none.
    pub(super) async fn make_in_time(
        self: &Rc<Self>,
        worker: &Rc<WorkerCx>,
        endpoint: &Arc<EndpointState>,
        needs: &ConnectionNeeds<'_>,
        claim: Claim,
        requests: u64,
    ) -> Result<PooledConn, ConnectFailure> {
        let timeout = self.handle.plan().connect_timeout;
        let by = worker.now().after(timeout);
        let connecting = self.make(worker, endpoint, needs, claim, requests);
        let made = Timer::new(&worker.timers).until(by, connecting).await;
        made.unwrap_or_else(|_| Err(ConnectFailure::connect_timeout(timeout)))
            .inspect_err(|failure| self.handle.note_failure(worker, endpoint, failure.why))
    }

    async fn make(
        self: &Rc<Self>,
        worker: &Rc<WorkerCx>,
        endpoint: &Arc<EndpointState>,
        needs: &ConnectionNeeds<'_>,
        claim: Claim,
        requests: u64,
    ) -> Result<PooledConn, ConnectFailure> {
        let plan = self.handle.cluster.plan();
        let generation = self.handle.cluster.generation();
        let started = worker.now();
        // If TLS decides, it is only known afterwards whether the connection is shared; then no request waits for it.
        let protocol = self.protocol(needs);
        let shares = matches!(protocol, HttpVersion::Http2 | HttpVersion::Http3);
        let mut connecting = shares.then(|| Connecting::begin(self, endpoint, protocol, started));
        let connection = if protocol == HttpVersion::Http3 {
            let (client, handshake) = if needs.early {
                self.quic.reach_early(&plan, endpoint, worker, claim).await?
            } else {
                (self.quic.reach(&plan, endpoint, None, worker, claim).await?, None)
            };
            let connection = Multiplexed::H3(client.clone());
            if let Some(handshake) = handshake
                && let Some(connecting) = connecting.take()
            {
                let rest = RestOfHandshake::Http3(client, handshake);
                let early = EarlyConnection { rest, connecting, started, generation };
                self.complete_early(worker, endpoint, early);
                return Ok(PooledConn::Shared(connection));
            }
            connection
        } else {
            let tls = plan.tls.as_ref().map(|tls| match protocol {
                HttpVersion::Http2 => tls.for_http2(),
                _ => tls,
            });
            let stream = match tls.filter(|tls| needs.early && tls.for_early().is_some()) {
                Some(tls) => reach_early(&plan, tls, endpoint, worker).await?,
                None => reach_by(&plan, tls, endpoint, worker, &Preface::default()).await?,
            };
            let early = stream.is_early();
            endpoint.note_local(HopTransport::Stream, || stream.raw().local_address()?.ip().into());
            let shared = shares || (protocol == HttpVersion::Auto && agreed_on_h2(&stream));
            if !shared {
                // Otherwise the request completes the handshake.
                if !early {
                    self.handle.note_connected(worker, endpoint, started);
                }
                let stream = H1Stream::new(stream, Role::Client, Rc::clone(needs.options));
                let demand = (requests > 0).then(|| self.enter_demand(endpoint)).flatten();
                let (made, requests) = (worker.now(), 0);
                let ticket = PoolTicket { claim, made, requests, generation, _demand: demand };
                return Ok(PooledConn::H1(TakenH1 { stream, ticket }));
            }
            let client = H2Client::begin(stream, worker, &h2_options(&plan), claim);
            if early && let Some(connecting) = connecting.take() {
                let rest = RestOfHandshake::Http2(client.clone());
                let early = EarlyConnection { rest, connecting, started, generation };
                self.complete_early(worker, endpoint, early);
                return Ok(PooledConn::Shared(Multiplexed::H2(client)));
            }
            Multiplexed::H2(client)
        };
        // Only now: an endpoint that accepts connections but fails every handshake has failed.
        self.handle.note_connected(worker, endpoint, started);
        let mut idle = Idle::new(connection.clone(), worker.now(), generation);
        idle.requests = requests;
        self.share(worker, endpoint, idle);
        drop(connecting);
        Ok(PooledConn::Shared(connection))
    }

    /// Adds a connection that requests share; one over HTTP/3 comes before those over TCP.
    pub(super) fn share(
        &self,
        worker: &Rc<WorkerCx>,
        endpoint: &Arc<EndpointState>,
        idle: Idle<Multiplexed>,
    ) {
        let mut endpoint_pools = self.shared.borrow_mut();
        let made = idle.made;
        let endpoint_pool = endpoint_pools
            .entry(Arc::clone(&endpoint.name))
            .or_insert_with(|| EndpointPool::new(endpoint, made));
        let place = match idle.connection {
            Multiplexed::H2(_) => endpoint_pool.open.len(),
            Multiplexed::H3(_) => 0,
        };
        endpoint_pool.open.insert(place, idle);
        drop(endpoint_pools);
        self.sweep_soon(worker);
    }
}

fn h2_options(settings: &ClusterSettings) -> H2Options {
    let streams = u32::try_from(settings.reuse.streams_max).unwrap_or(u32::MAX);
    let Http2Plan { stream_window, connection_window, ping_interval, ping_timeout } =
        settings.http2;
    let all = || H2Options::window_of(streams, stream_window);
    H2Options {
        stream_window,
        connection_window: connection_window.unwrap_or_else(all),
        ping_interval,
        ping_timeout,
        head_fields: ENDPOINT_FIELDS_MAX,
        ..H2Options::default()
    }
}

/// Whether TLS (ALPN) agreed on HTTP/2.
fn agreed_on_h2(stream: &Stream) -> bool {
    match stream {
        Stream::Raw(_) => false,
        Stream::Tls(tls) => tls.facts().alpn.as_deref() == Some(b"h2"),
    }
}
