//! Outgoing QUIC connections.
//!
//! Owns: the sockets that a worker's connections to endpoints share. Refuses to know: pools, and what the connections
//! carry. Keeps: sockets are created on first use; a connection lives on the worker that opened it.

use std::cell::OnceCell;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    ClientConfig, Connecting, Connection, EndpointConfig, Runtime as _, TokenMemoryCache,
    TokioRuntime, ZeroRttAccepted,
};
use rustls::pki_types::ServerName;
use sluice_io::WorkerCx;
use sluice_tls::ClientTls;
use sluice_upstream::connector::{ConnectFailure, verified_name};
use sluice_upstream::hops::HopTransport;
use sluice_upstream::plan::ClusterSettings;
use sluice_upstream::{ClusterPlan, EndpointState, Target};

use super::{OnWorker, QuicTransport};
use crate::h3::H3Client;

/// A worker's sockets for outgoing connections, created on first use.
#[derive(Debug, Default)]
pub struct QuicClients {
    v4: OnceCell<quinn::Endpoint>,
    v6: OnceCell<quinn::Endpoint>,
    /// What servers have given to show that this address is ours (NEW_TOKEN, RFC 9000 §8.1.3): without it, they ask again, or
    /// take no early data. The library bounds them, by name and in all.
    tokens: Arc<TokenMemoryCache>,
}

impl QuicClients {
    /// Connects to `to` and performs the handshake with `tls` and the server name `name`, under the settings of a
    /// cluster; call it on the worker's thread.
    ///
    /// # Errors
    /// The error of the system, of TLS or of the peer.
    pub async fn connect(
        &self,
        to: SocketAddr,
        tls: Arc<rustls::ClientConfig>,
        name: &ServerName<'_>,
        settings: &ClusterSettings,
    ) -> Result<Connection, String> {
        let connecting = self.begin(to, tls, name, settings)?;
        connecting.await.map_err(|error| error.to_string())
    }

    fn begin(
        &self,
        to: SocketAddr,
        tls: Arc<rustls::ClientConfig>,
        name: &ServerName<'_>,
        settings: &ClusterSettings,
    ) -> Result<Connecting, String> {
        let crypto = QuicClientConfig::try_from(tls).map_err(|error| error.to_string())?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        let mut transport = QuicTransport::of_cluster(settings).config()?;
        transport
            .max_concurrent_bidi_streams(0_u8.into())
            .keep_alive_interval(settings.http3.ping_interval);
        config.transport_config(Arc::new(transport)).token_store(Arc::clone(&self.tokens) as _);
        let endpoint = self.endpoint(to).map_err(|error| error.to_string())?;
        endpoint.connect_with(config, to, &name.to_str()).map_err(|error| error.to_string())
    }

    /// Connects to an endpoint of a cluster that speaks HTTP/3, and performs the HTTP/3 handshake; on `port`, if that is
    /// not the endpoint's own. `kept` is held as long as the connection is open.
    ///
    /// # Errors
    /// Why the endpoint was not reached.
    pub async fn reach(
        &self,
        plan: &ClusterPlan,
        endpoint: &EndpointState,
        port: Option<u16>,
        worker: &Rc<WorkerCx>,
        kept: impl Sized + 'static,
    ) -> Result<H3Client, ConnectFailure> {
        let (to, connecting) = self.begin_to(plan, endpoint, port, ClientTls::for_quic)?;
        let connection = connecting.await.map_err(|error| ConnectFailure::of_tls(&error))?;
        endpoint.note_local_to(HopTransport::Datagram, to, || connection.local_ip());
        http3_handshake(connection, plan, worker, kept).await
    }

    /// The same for a request that may be sent before the handshake is complete. If the endpoint has granted that before,
    /// returns at once, with what is left of the handshake; the request is then sent on a stream opened before that is
    /// awaited.
    ///
    /// # Errors
    /// Why the endpoint was not reached.
    pub async fn reach_early(
        &self,
        plan: &ClusterPlan,
        endpoint: &EndpointState,
        worker: &Rc<WorkerCx>,
        kept: impl Sized + 'static,
    ) -> Result<(H3Client, Option<EarlyHandshake>), ConnectFailure> {
        let (to, connecting) = self.begin_to(plan, endpoint, None, ClientTls::for_early_quic)?;
        let note = |connection: &Connection| {
            endpoint.note_local_to(HopTransport::Datagram, to, || connection.local_ip());
        };
        match connecting.into_0rtt() {
            Ok((connection, accepted)) => {
                note(&connection);
                let client = http3_handshake(connection, plan, worker, kept).await?;
                client.set_early(true);
                let handshake = EarlyHandshake { client: client.clone(), accepted };
                Ok((client, Some(handshake)))
            }
            Err(connecting) => {
                let connection =
                    connecting.await.map_err(|error| ConnectFailure::of_tls(&error))?;
                note(&connection);
                Ok((http3_handshake(connection, plan, worker, kept).await?, None))
            }
        }
    }

    /// Begins a connection to an endpoint; returns its address, too.
    fn begin_to(
        &self,
        plan: &ClusterPlan,
        endpoint: &EndpointState,
        port: Option<u16>,
        config: impl Fn(&ClientTls) -> &Arc<rustls::ClientConfig>,
    ) -> Result<(SocketAddr, Connecting), ConnectFailure> {
        let failed = |error: &dyn fmt::Display| ConnectFailure::of_tls(error);
        let Target::Ip(mut to) = endpoint.target else {
            return Err(failed(&"QUIC goes to IP addresses only"));
        };
        to.set_port(port.unwrap_or_else(|| to.port()));
        plan.admit_advertised(endpoint, to)?;
        let tls = plan.tls.as_ref().ok_or_else(|| failed(&"QUIC is always in TLS"))?;
        let name = verified_name(tls, endpoint).ok_or_else(|| failed(&"it has no name"))?;
        let connecting = self.begin(to, Arc::clone(config(tls)), &name, plan);
        Ok((to, connecting.map_err(|error| failed(&error))?))
    }

    fn endpoint(&self, to: SocketAddr) -> io::Result<&quinn::Endpoint> {
        let (cell, any): (_, SocketAddr) = match to {
            SocketAddr::V4(_) => (&self.v4, (Ipv4Addr::UNSPECIFIED, 0).into()),
            SocketAddr::V6(_) => (&self.v6, (Ipv6Addr::UNSPECIFIED, 0).into()),
        };
        if let Some(endpoint) = cell.get() {
            return Ok(endpoint);
        }
        let socket = TokioRuntime.wrap_udp_socket(UdpSocket::bind(any)?)?;
        let config = EndpointConfig::default();
        let made =
            quinn::Endpoint::new_with_abstract_socket(config, None, socket, Arc::new(OnWorker))?;
        Ok(cell.get_or_init(|| made))
    }
}

/// Exchanges the settings of HTTP/3.
async fn http3_handshake(
    connection: Connection,
    plan: &ClusterPlan,
    worker: &Rc<WorkerCx>,
    kept: impl Sized + 'static,
) -> Result<H3Client, ConnectFailure> {
    let client = H3Client::handshake(connection, worker, plan.http3.stream_window, kept).await;
    client.map_err(|error| ConnectFailure::of_tls(&error))
}

/// The rest of a handshake on a connection that a request was sent on already.
pub struct EarlyHandshake {
    client: H3Client,
    accepted: ZeroRttAccepted,
}

impl fmt::Debug for EarlyHandshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EarlyHandshake").field(&self.client).finish()
    }
}

impl EarlyHandshake {
    /// Completes the handshake; returns whether the endpoint took what was sent before. If not, the streams opened before
    /// have failed, and others may be opened.
    ///
    /// # Errors
    /// Why the endpoint was not reached.
    pub async fn complete(self) -> Result<bool, ConnectFailure> {
        let Self { client, accepted } = self;
        let accepted = accepted.await;
        client.check_open().map_err(|error| ConnectFailure::of_tls(&error))?;
        if !accepted {
            client.begin_again().await.map_err(|error| ConnectFailure::of_tls(&error))?;
        }
        client.set_early(false);
        Ok(accepted)
    }
}
