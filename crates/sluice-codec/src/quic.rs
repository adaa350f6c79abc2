//! QUIC on a UDP socket of a worker.
//!
//! Owns: the library's endpoint, the socket under it, the runtime that it runs on. Refuses to know: what is
//! spoken on streams, chains, and which certificate a client gets. Keeps: everything of a connection runs on
//! the worker whose socket it came to; whoever watches sees each first packet before the library does.

use std::cell::OnceCell;
use std::fmt::Debug;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{
    AsyncTimer, AsyncUdpSocket, ClientConfig, ConnectionError, ConnectionId, ConnectionIdGenerator,
    EndpointConfig, IdleTimeout, Runtime, ServerConfig, TokioRuntime, TransportConfig, UdpPoller,
};
use rustls::pki_types::{CertificateDer, ServerName};
use send_wrapper::SendWrapper;
use sluice_core::connection::TlsFacts;
use sluice_io::WorkerCx;
use sluice_sys::steer;
use sluice_tls::CertificateInfo;
use sluice_upstream::connector::{Failure, verified_name};
use sluice_upstream::{ClusterPlan, EndpointState, Target};

use crate::h3::{H3Client, UNI_STREAMS_MAX};

/// The place of a socket among those that share its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which it is, in the order in which they were bound.
    pub number: u32,
    /// How many there are.
    pub count: u32,
}

/// Bytes of the connection IDs that we choose.
const ID_LENGTH: usize = 8;

impl ConnectionIdGenerator for Place {
    /// An ID at random, of those that lead packets here.
    fn generate_cid(&mut self) -> ConnectionId {
        loop {
            let id: [u8; ID_LENGTH] = rand();
            let [a, b, c, d, ..] = id;
            if steer::place([a, b, c, d], self.count) == self.number {
                return ConnectionId::new(&id);
            }
        }
    }

    fn cid_len(&self) -> usize {
        ID_LENGTH
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Random bytes that nobody can foresee.
fn rand() -> [u8; ID_LENGTH] {
    let mut bytes = [0; ID_LENGTH];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system gives random bytes");
    bytes
}

/// Sees the datagrams that may begin a connection.
pub trait Watch: Debug {
    /// A datagram whose first packet is an Initial.
    fn initial(&self, from: SocketAddr, datagram: &[u8]);
}

/// A socket on which QUIC is spoken.
#[derive(Debug)]
pub struct QuicEndpoint {
    endpoint: quinn::Endpoint,
}

/// A client that wants a connection and has not been answered.
#[derive(Debug)]
pub struct Incoming(quinn::Incoming);

/// What one chain shakes hands with.
#[derive(Clone, Debug)]
pub struct QuicServer(Arc<ServerConfig>);

/// A connection that has shaken hands.
pub use quinn::Connection;

/// What TLS is configured with.
pub use rustls::ServerConfig as TlsConfig;

/// What is configured of QUIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuicOptions {
    /// How long a connection may be silent.
    pub idle_timeout: Duration,
    /// Handshakes under way on a socket from which on clients must show that they are where they say.
    pub retry_above: u32,
    /// Requests that a client may have open at once.
    pub streams_max: u32,
    /// Bytes of a stream that a client may send ahead.
    pub stream_window: u32,
    /// The same for all streams of a connection together, and what waits here for acknowledgements.
    pub connection_window: u32,
}

impl Default for QuicOptions {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(60),
            retry_above: 256,
            streams_max: 128,
            stream_window: 256 << 10,
            connection_window: 1 << 20,
        }
    }
}

impl QuicOptions {
    fn transport(&self) -> Result<TransportConfig, String> {
        let idle = IdleTimeout::try_from(self.idle_timeout).map_err(|error| error.to_string())?;
        let mut transport = TransportConfig::default();
        transport
            .max_idle_timeout(Some(idle))
            .max_concurrent_uni_streams(UNI_STREAMS_MAX.into())
            .stream_receive_window(self.stream_window.into())
            .receive_window(self.connection_window.into())
            .send_window(u64::from(self.connection_window))
            // Datagrams in connections have no use here.
            .datagram_receive_buffer_size(None);
        Ok(transport)
    }
}

impl QuicServer {
    /// What `tls`, which speaks TLS 1.3 and knows the ALPN protocols, shakes hands with.
    ///
    /// # Errors
    /// It has no cipher suite that the first packets of QUIC need.
    pub fn new(tls: Arc<rustls::ServerConfig>, options: &QuicOptions) -> Result<Self, String> {
        let crypto = QuicServerConfig::try_from(tls).map_err(|error| error.to_string())?;
        let mut transport = options.transport()?;
        transport.max_concurrent_bidi_streams(options.streams_max.into());
        let mut config = ServerConfig::with_crypto(Arc::new(crypto));
        config.transport_config(Arc::new(transport));
        Ok(Self(Arc::new(config)))
    }
}

impl QuicEndpoint {
    /// Speaks QUIC on `socket`; call it on the worker's thread. `fallback` is any chain's: what the library
    /// says before a chain is chosen (versions, resets) is the same for all.
    ///
    /// # Errors
    /// The socket does not take the options that QUIC wants.
    pub fn open(
        socket: OwnedFd,
        place: Place,
        watch: Rc<dyn Watch>,
        fallback: &QuicServer,
    ) -> io::Result<Self> {
        let socket = TokioRuntime.wrap_udp_socket(UdpSocket::from(socket))?;
        let socket = Arc::new(Watched { socket, watch: SendWrapper::new(watch) });
        let mut config = EndpointConfig::default();
        // Drafts are nobody's any more.
        config.supported_versions(vec![1]);
        config.cid_generator(move || Box::new(place));
        let endpoint = quinn::Endpoint::new_with_abstract_socket(
            config,
            Some(ServerConfig::clone(&fallback.0)),
            socket,
            Arc::new(OnWorker),
        )?;
        Ok(Self { endpoint })
    }

    /// The next client that wants a connection; `None` when the endpoint was closed.
    pub async fn accept(&self) -> Option<Incoming> {
        self.endpoint.accept().await.map(Incoming)
    }

    /// Takes no new connections.
    pub fn drain(&self) {
        self.endpoint.set_server_config(None);
    }

    /// Waits until every connection has ended and its last words are said.
    pub async fn ended(&self) {
        self.endpoint.wait_idle().await;
    }
}

impl Incoming {
    /// The connection ID that the client chose for us first.
    pub fn first_id(&self) -> Vec<u8> {
        self.0.orig_dst_cid().to_vec()
    }

    /// The client's address.
    pub fn source(&self) -> SocketAddr {
        self.0.remote_address()
    }

    /// Our address, where the system says.
    pub fn local_ip(&self) -> Option<std::net::IpAddr> {
        self.0.local_ip()
    }

    /// Shakes hands.
    ///
    /// # Errors
    /// What the library said.
    pub async fn shake(self, server: QuicServer) -> Result<Connection, ConnectionError> {
        self.0.accept_with(server.0)?.await
    }

    /// Asks the client to show that it is where it says, RFC 9000 §8.1.2; gives it back where it has done so.
    pub fn ask_again(self) -> Option<Self> {
        if !self.0.may_retry() {
            return Some(self);
        }
        self.0.retry().err().map(|refused| Self(refused.into_incoming()))
    }

    /// Says nothing to the client.
    pub fn ignore(self) {
        self.0.ignore();
    }
}

/// Sockets of a worker from which connections go out, made when they are wanted first.
#[derive(Debug, Default)]
pub struct QuicClients {
    v4: OnceCell<quinn::Endpoint>,
    v6: OnceCell<quinn::Endpoint>,
}

impl QuicClients {
    /// Connects to `to` and shakes hands as `tls` says, under `name`; call it on the worker's thread.
    ///
    /// # Errors
    /// What the system, TLS or the peer said.
    pub async fn connect(
        &self,
        to: SocketAddr,
        tls: Arc<rustls::ClientConfig>,
        name: &ServerName<'_>,
    ) -> Result<Connection, String> {
        let crypto = QuicClientConfig::try_from(tls).map_err(|error| error.to_string())?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        let mut transport = QuicOptions::default().transport()?;
        transport.max_concurrent_bidi_streams(0_u8.into()).keep_alive_interval(Some(KEEP_ALIVE));
        config.transport_config(Arc::new(transport));
        let endpoint = self.endpoint(to).map_err(|error| error.to_string())?;
        let connecting = endpoint.connect_with(config, to, &name.to_str());
        connecting.map_err(|error| error.to_string())?.await.map_err(|error| error.to_string())
    }

    /// Connects to an endpoint of a cluster that speaks HTTP/3, and greets it. `kept` is held as long as the
    /// connection is open.
    ///
    /// # Errors
    /// Why it was not reached.
    pub async fn reach(
        &self,
        plan: &ClusterPlan,
        endpoint: &EndpointState,
        worker: &Rc<WorkerCx>,
        kept: impl Sized + 'static,
    ) -> Result<H3Client, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::of_tls(endpoint, error);
        let Target::Ip(to) = endpoint.target else {
            return Err(failed(&"QUIC goes to IP addresses only"));
        };
        let tls = plan.tls.as_ref().ok_or_else(|| failed(&"QUIC is always in TLS"))?;
        let name = verified_name(tls, endpoint).ok_or_else(|| failed(&"it has no name"))?;
        let connecting = self.connect(to, Arc::clone(&tls.config), &name);
        let connection = connecting.await.map_err(|error| failed(&error))?;
        let greeted = H3Client::greet(connection, worker, kept).await;
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

/// Time between words on a connection that nobody uses, so that it is known to be there.
const KEEP_ALIVE: Duration = Duration::from_secs(25);

/// What a handshake found out.
pub fn facts_of(connection: &Connection) -> TlsFacts {
    let said = connection.handshake_data().and_then(|said| said.downcast::<HandshakeData>().ok());
    let chain = connection.peer_identity();
    let chain = chain.and_then(|chain| chain.downcast::<Vec<CertificateDer<'static>>>().ok());
    let client = chain.as_ref().and_then(|chain| chain.first());
    TlsFacts {
        version: "1.3",
        // The library does not say which.
        cipher: "unknown",
        alpn: said.and_then(|said| said.protocol).map(Vec::into_boxed_slice),
        client_subject: client
            .and_then(|der| CertificateInfo::of(der).ok())
            .map(|info| info.subject.into_boxed_str()),
        // Nor this.
        resumed: false,
    }
}

/// A socket whose first packets somebody sees.
struct Watched {
    socket: Arc<dyn AsyncUdpSocket>,
    /// Of this worker. The library wants what it holds to be `Send` and never sends it anywhere.
    watch: SendWrapper<Rc<dyn Watch>>,
}

impl Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.socket.fmt(f)
    }
}

/// Whether a packet is an Initial, of version 1 (RFC 9000 §17.2) or 2 (RFC 9369 §3.2).
fn is_initial(datagram: &[u8]) -> bool {
    match datagram {
        [first, 0, 0, 0, 1, ..] => first & 0xf0 == 0xc0,
        [first, 0x6b, 0x33, 0x43, 0xcf, ..] => first & 0xf0 == 0xd0,
        _ => false,
    }
}

impl AsyncUdpSocket for Watched {
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
            // Datagrams of one sender may have come as one, each `stride` long.
            for datagram in buf[..meta.len].chunks(meta.stride.max(1)) {
                if is_initial(datagram) {
                    self.watch.initial(meta.addr, datagram);
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

/// The library's tasks on the worker that they are started on.
#[derive(Debug)]
struct OnWorker;

impl Runtime for OnWorker {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        tokio::task::spawn_local(future);
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }
}
