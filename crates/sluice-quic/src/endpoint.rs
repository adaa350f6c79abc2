//! A UDP socket of a worker that speaks QUIC.
//!
//! Owns: the library's endpoint, and the socket under it. Refuses to know: what streams carry, chains, and which
//! certificate a client gets. Keeps: a connection runs entirely on the worker whose socket received it; the hook sees
//! each first packet before the library does.

use std::fmt::Debug;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use aws_lc_rs::hkdf;
use quinn::crypto::HandshakeTokenKey;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{
    AsyncUdpSocket, Connection, ConnectionError, EndpointConfig, Runtime as _, ServerConfig,
    TokioRuntime, TransportConfig, UdpPoller,
};
use rustls::ServerConfig as TlsConfig;
use send_wrapper::SendWrapper;
use sluice_codec::quic::OnWorker;
use sluice_core::LocalFuture;

use crate::connection_ids::{ReuseportMember, random, retry};
use crate::options::QuicOptions;
use crate::qlog;

/// Sees the datagrams that may begin a connection.
pub(crate) trait FirstPacketHook: Debug {
    /// Is called with a datagram whose first packet has a long header: only such datagrams begin connections, RFC 9000
    /// §17.2.
    fn long(&self, from: SocketAddr, datagram: &[u8]);
}

/// The bit of a packet's first byte that marks a long header, RFC 8999 §5.1.
const LONG_HEADER: u8 = 0x80;

/// A socket that speaks QUIC.
#[derive(Debug)]
pub(crate) struct QuicEndpoint {
    endpoint: quinn::Endpoint,
}

/// A pending connection attempt of a client.
#[derive(Debug)]
pub(crate) struct Incoming(quinn::Incoming);

/// The handshake configuration of one chain.
#[derive(Clone, Debug)]
pub(crate) struct QuicServer {
    config: Arc<ServerConfig>,
    /// What `config` is built from; if connections are traced, each gets a copy with its own trace.
    options: QuicOptions,
    /// Whether requests may arrive in the client's first packets.
    early: bool,
}

impl QuicServer {
    /// Creates the configuration from `tls`, which supports TLS 1.3, for the ALPN protocols of a handler. If `tls`
    /// accepts early data, connections are served before their handshake is complete.
    ///
    /// # Errors
    /// `tls` lacks a cipher suite that QUIC Initial packets need, or an option is out of range.
    pub(crate) fn new(
        tls: &TlsConfig,
        alpn: &[&[u8]],
        options: &QuicOptions,
    ) -> Result<Self, String> {
        let early = tls.max_early_data_size > 0;
        let mut tls = tls.clone();
        tls.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let crypto = QuicServerConfig::try_from(tls).map_err(|error| error.to_string())?;
        let mut config = ServerConfig::new(Arc::new(crypto), token_key());
        config.transport_config(Arc::new(options.server()?));
        Ok(Self { config: Arc::new(config), options: options.clone(), early })
    }

    /// Returns the handshake configuration of the connection with this number.
    fn config(&self, number: u64, began: Duration) -> Arc<ServerConfig> {
        let traced = self.options.qlog.as_ref().and_then(|folder| {
            let mut transport: TransportConfig = self.options.server().ok()?;
            transport.qlog_stream(Some(qlog::trace(folder, number, began)?));
            let mut config = ServerConfig::clone(&self.config);
            config.transport_config(Arc::new(transport));
            Some(Arc::new(config))
        });
        traced.unwrap_or_else(|| Arc::clone(&self.config))
    }
}

/// Returns the key that seals address validation tokens (RFC 9000 §8.1.3): one for the process, so that every worker
/// and chain accepts a token, whichever issued it.
fn token_key() -> Arc<dyn HandshakeTokenKey> {
    static KEY: OnceLock<Arc<dyn HandshakeTokenKey>> = OnceLock::new();
    let make = || -> Arc<dyn HandshakeTokenKey> {
        let secret: [u8; 64] = random();
        Arc::new(hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&secret))
    };
    Arc::clone(KEY.get_or_init(make))
}

impl QuicEndpoint {
    /// Speaks QUIC on `socket`; call it on the worker's thread. `fallback` may be any chain's: what the library sends
    /// before a chain is chosen (versions, resets) is the same for all.
    ///
    /// # Errors
    /// The socket does not support the options that QUIC needs.
    pub(crate) fn open(
        socket: OwnedFd,
        place: ReuseportMember,
        watch: Rc<dyn FirstPacketHook>,
        fallback: &QuicServer,
    ) -> io::Result<Self> {
        let socket = TokioRuntime.wrap_udp_socket(UdpSocket::from(socket))?;
        let socket = Arc::new(HookedSocket { socket, watch: SendWrapper::new(watch) });
        let mut config = EndpointConfig::default();
        // Draft versions are no longer in use.
        config.supported_versions(vec![1]);
        config.cid_generator(move || Box::new(place));
        let endpoint = quinn::Endpoint::new_with_abstract_socket(
            config,
            Some(ServerConfig::clone(&fallback.config)),
            socket,
            Arc::new(OnWorker),
        )?;
        Ok(Self { endpoint })
    }

    /// Returns the next client that wants to connect; `None` when the endpoint has been closed.
    pub(crate) async fn accept(&self) -> Option<Incoming> {
        self.endpoint.accept().await.map(Incoming)
    }

    /// Stops accepting new connections.
    pub(crate) fn drain(&self) {
        self.endpoint.set_server_config(None);
    }

    /// Waits until every connection has ended and its last packets are sent.
    pub(crate) async fn ended(&self) {
        self.endpoint.wait_idle().await;
    }
}

impl Incoming {
    /// Returns the connection ID that the client first chose for us.
    pub(crate) fn first_id(&self) -> Vec<u8> {
        self.0.orig_dst_cid().to_vec()
    }

    /// Returns the client's address.
    pub(crate) fn source(&self) -> SocketAddr {
        self.0.remote_address()
    }

    /// Returns our address, if the system reports it.
    pub(crate) fn local_ip(&self) -> Option<std::net::IpAddr> {
        self.0.local_ip()
    }

    /// Performs the handshake. If requests may arrive early and the client's address is validated, returns the
    /// connection as soon as the server name and protocols are known, with a future that ends with the handshake. A
    /// trace, if configured, is named after `number` and the time `began` of the connection since the Unix epoch.
    ///
    /// # Errors
    /// The error of the library.
    pub(crate) async fn accept_handshake(
        self,
        server: &QuicServer,
        number: u64,
        began: Duration,
    ) -> Result<(Connection, Option<LocalFuture<()>>), ConnectionError> {
        // A request must not be served in the name of a spoofed address.
        let early = server.early && self.0.remote_address_validated();
        let mut connecting = self.0.accept_with(server.config(number, began))?;
        if early {
            connecting.handshake_data().await?;
            match connecting.into_0rtt() {
                Ok((connection, confirmed)) => {
                    return Ok((connection, Some(Box::pin(async { _ = confirmed.await }))));
                }
                Err(whole) => connecting = whole,
            }
        }
        Ok((connecting.await?, None))
    }

    /// Sends a Retry so that the client validates its address, RFC 9000 §8.1.2; returns the client if no Retry is
    /// possible, because it has already done so.
    pub(crate) fn ask_again(self) -> Option<Self> {
        if !self.0.may_retry() {
            return Some(self);
        }
        let (from, first) = (self.0.remote_address(), self.0.orig_dst_cid());
        let asked = retry::while_asking(from, first, || self.0.retry());
        asked.err().map(|refused| Self(refused.into_incoming()))
    }

    /// Sends nothing to the client.
    pub(crate) fn ignore(self) {
        self.0.ignore();
    }
}

/// A socket whose first packets a hook sees.
struct HookedSocket {
    socket: Arc<dyn AsyncUdpSocket>,
    /// Of this worker. The library requires what it holds to be `Send` and never sends it anywhere.
    watch: SendWrapper<Rc<dyn FirstPacketHook>>,
}

impl Debug for HookedSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.socket.fmt(f)
    }
}

impl AsyncUdpSocket for HookedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(self.socket.poll_recv(cx, bufs, meta))?;
        for (buf, meta) in bufs.iter().zip(&meta[..count]) {
            // Datagrams of one sender may have been received as one, each `stride` long.
            for datagram in buf[..meta.len].chunks(meta.stride.max(1)) {
                if datagram.first().is_some_and(|first| first & LONG_HEADER != 0) {
                    self.watch.long(meta.addr, datagram);
                }
            }
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}
