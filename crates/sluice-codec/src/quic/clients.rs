//! Outgoing QUIC connections.
//!
//! Owns: the sockets that a worker's connections to endpoints share. Refuses to know: pools, and what the connections
//! carry. Keeps: sockets are created on first use; a connection lives on the worker that opened it.

use std::cell::OnceCell;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, EndpointConfig, Runtime as _, TokioRuntime};
use rustls::pki_types::ServerName;
use sluice_io::WorkerCx;
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
        let crypto = QuicClientConfig::try_from(tls).map_err(|error| error.to_string())?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        let mut transport = QuicTransport::of_cluster(settings).config()?;
        transport
            .max_concurrent_bidi_streams(0_u8.into())
            .keep_alive_interval(settings.http3.ping_interval);
        config.transport_config(Arc::new(transport));
        let endpoint = self.endpoint(to).map_err(|error| error.to_string())?;
        let connecting = endpoint.connect_with(config, to, &name.to_str());
        connecting.map_err(|error| error.to_string())?.await.map_err(|error| error.to_string())
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
        let failed = |error: &dyn std::fmt::Display| ConnectFailure::of_tls(error);
        let Target::Ip(mut to) = endpoint.target else {
            return Err(failed(&"QUIC goes to IP addresses only"));
        };
        to.set_port(port.unwrap_or_else(|| to.port()));
        plan.admit_advertised(endpoint, to)?;
        let tls = plan.tls.as_ref().ok_or_else(|| failed(&"QUIC is always in TLS"))?;
        let name = verified_name(tls, endpoint).ok_or_else(|| failed(&"it has no name"))?;
        let connecting = self.connect(to, Arc::clone(tls.for_quic()), &name, plan);
        let connection = connecting.await.map_err(|error| failed(&error))?;
        endpoint.note_local_to(HopTransport::Datagram, to, || connection.local_ip());
        let greeted = H3Client::handshake(connection, worker, plan.http3.stream_window, kept).await;
        greeted.map_err(|error| failed(&error))
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
