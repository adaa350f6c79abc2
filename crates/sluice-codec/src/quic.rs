//! QUIC on a UDP socket of a worker.
//!
//! Owns: the library's endpoint, the socket under it, the runtime that it runs on. Refuses to know: what is
//! spoken on streams, chains, and which certificate a client gets. Keeps: everything of a connection runs on
//! the worker whose socket it came to; whoever watches sees each first packet before the library does.

use std::fmt::Debug;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use aws_lc_rs::hkdf;
use quinn::crypto::HandshakeTokenKey;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{
    AsyncTimer, AsyncUdpSocket, ConnectionError, ConnectionId, ConnectionIdGenerator,
    EndpointConfig, Runtime, ServerConfig, TokioRuntime, TransportConfig, UdpPoller,
};
use send_wrapper::SendWrapper;
use sluice_core::LocalFuture;
use sluice_sys::steer;

mod clients;
mod options;
mod qlog;
mod retry;
mod sight;

pub use clients::QuicClients;
pub use options::{Congestion, QuicOptions};
pub use sight::{facts_of, path_of};

/// The place of a socket among those that share its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReuseportMember {
    /// Which it is, in the order in which they were bound.
    pub number: u32,
    /// How many there are.
    pub count: u32,
}

impl ConnectionIdGenerator for ReuseportMember {
    /// An ID at random, of those that lead packets here, but for clients that are asked to come back.
    fn generate_cid(&mut self) -> ConnectionId {
        if let Some(id) = retry::asked(*self) {
            return id;
        }
        loop {
            let id: [u8; steer::ID_LENGTH] = rand();
            let [a, b, c, d, ..] = id;
            if steer::place([a, b, c, d], self.count) == self.number {
                return ConnectionId::new(&id);
            }
        }
    }

    fn cid_len(&self) -> usize {
        steer::ID_LENGTH
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Random bytes that nobody can foresee.
fn rand<const LENGTH: usize>() -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system gives random bytes");
    bytes
}

/// Sees the datagrams that may begin a connection.
pub trait FirstPacketHook: Debug {
    /// A datagram whose first packet has a long header: only such begin connections, RFC 9000 §17.2.
    fn long(&self, from: SocketAddr, datagram: &[u8]);
}

/// The bit of a packet's first byte that says that its header is long, RFC 8999 §5.1.
const LONG_HEADER: u8 = 0x80;

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
pub struct QuicServer {
    config: Arc<ServerConfig>,
    /// What `config` is made of; where connections leave traces, each gets a copy with its own.
    options: QuicOptions,
    /// Whether requests may come in the client's first packets.
    early: bool,
}

/// A connection that has shaken hands.
pub use quinn::Connection;

/// What TLS is configured with.
pub use rustls::ServerConfig as TlsConfig;

impl QuicServer {
    /// What `tls`, which speaks TLS 1.3 and knows the ALPN protocols, shakes hands with. Where `tls` takes early
    /// data, connections are served before their handshake has ended.
    ///
    /// # Errors
    /// It has no cipher suite that the first packets of QUIC need.
    pub fn new(tls: Arc<TlsConfig>, options: &QuicOptions) -> Result<Self, String> {
        let early = tls.max_early_data_size > 0;
        let crypto = QuicServerConfig::try_from(tls).map_err(|error| error.to_string())?;
        let mut config = ServerConfig::new(Arc::new(crypto), token_key());
        config.transport_config(Arc::new(options.server()?));
        Ok(Self { config: Arc::new(config), options: options.clone(), early })
    }

    /// What the connection with a number shakes hands with.
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

/// What tokens are sealed with by which clients show, later on, that they are where they say (RFC 9000 §8.1.3): one
/// key for the process, so that whichever chain and worker gave one, any knows it.
fn token_key() -> Arc<dyn HandshakeTokenKey> {
    static KEY: OnceLock<Arc<dyn HandshakeTokenKey>> = OnceLock::new();
    let make = || -> Arc<dyn HandshakeTokenKey> {
        let secret: [u8; 64] = rand();
        Arc::new(hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&secret))
    };
    Arc::clone(KEY.get_or_init(make))
}

impl QuicEndpoint {
    /// Speaks QUIC on `socket`; call it on the worker's thread. `fallback` is any chain's: what the library
    /// says before a chain is chosen (versions, resets) is the same for all.
    ///
    /// # Errors
    /// The socket does not take the options that QUIC wants.
    pub fn open(
        socket: OwnedFd,
        place: ReuseportMember,
        watch: Rc<dyn FirstPacketHook>,
        fallback: &QuicServer,
    ) -> io::Result<Self> {
        let socket = TokioRuntime.wrap_udp_socket(UdpSocket::from(socket))?;
        let socket = Arc::new(HookedSocket { socket, watch: SendWrapper::new(watch) });
        let mut config = EndpointConfig::default();
        // Drafts are nobody's any more.
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

    /// Shakes hands. Where the client's requests may come early, and it has shown that it is where it says, the
    /// connection is there as soon as the client's name and protocols are known, and what is returned beside it ends
    /// with the handshake. A trace, where one is wanted, is named after `number` and when the connection `began`
    /// since the Unix epoch.
    ///
    /// # Errors
    /// What the library said.
    pub async fn accept_handshake(
        self,
        server: &QuicServer,
        number: u64,
        began: Duration,
    ) -> Result<(Connection, Option<LocalFuture<()>>), ConnectionError> {
        // Nobody may have a request served in another's name.
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

    /// Asks the client to show that it is where it says, RFC 9000 §8.1.2; gives it back where it has done so.
    pub fn ask_again(self) -> Option<Self> {
        if !self.0.may_retry() {
            return Some(self);
        }
        let (from, first) = (self.0.remote_address(), self.0.orig_dst_cid());
        let asked = retry::while_asking(from, first, || self.0.retry());
        asked.err().map(|refused| Self(refused.into_incoming()))
    }

    /// Says nothing to the client.
    pub fn ignore(self) {
        self.0.ignore();
    }
}

/// A socket whose first packets somebody sees.
struct HookedSocket {
    socket: Arc<dyn AsyncUdpSocket>,
    /// Of this worker. The library wants what it holds to be `Send` and never sends it anywhere.
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
            // Datagrams of one sender may have come as one, each `stride` long.
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
