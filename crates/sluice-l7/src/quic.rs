//! QUIC on a UDP socket of a worker: from a client's first packet to its chain, and to HTTP/3.
//!
//! Owns: the endpoint, across the changing plans of its listener; clients whose ClientHello is incomplete. Refuses to
//! know: how QUIC processes packets, and the life of a request. Keeps: a chain is chosen before the handshake with a
//! client starts, so that the certificates and the client authentication are those of the chain.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_core::connection::Peer;
use sluice_core::reason::end;
use sluice_core::{LocalFuture, Moment, Reason};
use sluice_io::timers::Timer;
use sluice_io::{Conn, StreamHandler, WorkerCx};
use sluice_l4::Listener;
use sluice_l4::connection::{refuse_quic, start_quic};
use sluice_l4::quic::initial::{ids_of_long, version_of_long};
use sluice_l4::quic::{DATAGRAM_MIN, Hellos, QuicClient, Serve};
use sluice_quic::{
    FirstPacketHook, Incoming, QuicEndpoint, QuicOptions, QuicServer, ReuseportMember, TlsConfig,
    facts_of, path_of,
};
use sluice_sys::socket::local_address;
use sluice_telemetry::Counter;
use sluice_tls::{ServerTls, reasons as tls_reasons};
use sluice_upstream::hops;
use tokio::sync::Notify;

use crate::handler::HttpHandler;
use crate::{metrics, reasons};

/// How long a client may take to send its ClientHello.
const HELLO_TIME: Duration = Duration::from_secs(5);

/// Records per second and socket of clients with an unsupported QUIC version: any packet can cause one.
const VERSIONS_RECORDED: u32 = 10;

const SECOND: Duration = Duration::from_secs(1);

/// How long the handshake of a connection may go on that is already served (0-RTT).
const EARLY_TIME: Duration = Duration::from_secs(10);

/// A UDP socket of a worker that terminates QUIC, across the changing plans of its listener.
#[derive(Debug)]
pub struct QuicSlot {
    worker: Rc<WorkerCx>,
    _own: hops::ListenerGuard,
    endpoint: QuicEndpoint,
    first_packets: Rc<FirstPackets>,
    place: ReuseportMember,
    options: RefCell<QuicOptions>,
    /// The QUIC servers of chains, by their TLS configuration.
    servers: RefCell<Vec<(Arc<TlsConfig>, QuicServer)>>,
    /// Handshakes in flight, including those that wait for a ClientHello.
    handshake: Rc<Cell<u32>>,
    retries: Counter,
    draining: Cell<bool>,
    wake: Notify,
}

/// Counts a handshake in flight.
struct HandshakeCount(Rc<Cell<u32>>);

impl HandshakeCount {
    fn new(count: &Rc<Cell<u32>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for HandshakeCount {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// The handling of first packets on a socket: ClientHellos, and unsupported versions.
#[derive(Debug)]
struct FirstPackets {
    worker: Rc<WorkerCx>,
    hellos: Hellos,
    listener: RefCell<Rc<Listener>>,
    /// The address that clients connect to.
    local: SocketAddr,
    unknown_versions: Counter,
    /// The start of the current second, and the records of unsupported versions in it.
    recorded: Cell<(Moment, u32)>,
}

impl FirstPackets {
    /// Counts a client with an unsupported version, and records some. The QUIC library tells them which one is
    /// supported.
    fn refuse_version(&self, now: Moment, from: SocketAddr, version: u32) {
        self.unknown_versions.increment();
        let (mut since, mut count) = self.recorded.get();
        if now.since(since) >= SECOND {
            (since, count) = (now, 0);
        }
        self.recorded.set((since, count + 1));
        if count < VERSIONS_RECORDED {
            let ends = (Peer::Ip(from), Peer::Ip(self.local));
            let detail = format_args!("version {version:#010x}");
            let listener = self.listener.borrow();
            refuse_quic(&listener, &self.worker, ends, reasons::QUIC_VERSION, detail);
        }
    }
}

impl FirstPacketHook for FirstPackets {
    fn long(&self, from: SocketAddr, datagram: &[u8]) {
        let now = self.worker.now();
        match version_of_long(datagram) {
            // Shorter datagrams get no reply, RFC 9000 §6.1. Version 0 is Version Negotiation, which only servers send.
            Some(version) if version > 1 && datagram.len() >= DATAGRAM_MIN => {
                self.refuse_version(now, from, version);
            }
            _ => {
                let id = ids_of_long(datagram).map(|(destination, _)| destination);
                let proven = id.is_some_and(|id| ReuseportMember::is_retry_id(from, id));
                self.hellos.take(now, datagram, proven);
            }
        }
    }
}

impl QuicSlot {
    /// Opens QUIC on a socket, to serve `listener` from now on.
    ///
    /// # Errors
    /// The socket does not accept the options that QUIC needs, or no chain terminates TLS.
    pub fn new(
        socket: OwnedFd,
        place: ReuseportMember,
        listener: Rc<Listener>,
        options: QuicOptions,
        worker: &Rc<WorkerCx>,
    ) -> io::Result<Rc<Self>> {
        let none = || io::Error::new(io::ErrorKind::InvalidInput, "no chain terminates TLS");
        let fallback = listener.quic_tls().next().ok_or_else(none)?;
        let fallback =
            QuicServer::new(Arc::clone(&fallback.quic), &options).map_err(io::Error::other)?;
        let name = Arc::clone(listener.name());
        let local = local_address(&socket).ok_or(io::ErrorKind::AddrNotAvailable)?;
        let first_packets = Rc::new(FirstPackets {
            worker: Rc::clone(worker),
            hellos: Hellos::new(worker),
            unknown_versions: worker.shard.counter(&metrics::QUIC_UNKNOWN_VERSIONS, &[&name]),
            listener: RefCell::new(listener),
            local,
            recorded: Cell::default(),
        });
        let watch = Rc::clone(&first_packets) as Rc<dyn FirstPacketHook>;
        let endpoint = QuicEndpoint::open(socket, place, watch, &fallback)?;
        Ok(Rc::new(Self {
            worker: Rc::clone(worker),
            _own: hops::ListenerGuard::on(hops::HopTransport::Datagram, local),
            endpoint,
            first_packets,
            place,
            options: RefCell::new(options),
            servers: RefCell::default(),
            handshake: Rc::default(),
            retries: worker.shard.counter(&metrics::QUIC_RETRIES, &[&name]),
            draining: Cell::new(false),
            wake: Notify::new(),
        }))
    }

    /// Serves `listener` from the next connection on.
    pub fn replace(&self, listener: Rc<Listener>, options: QuicOptions) {
        *self.options.borrow_mut() = options;
        *self.first_packets.listener.borrow_mut() = listener;
        self.servers.borrow_mut().clear();
    }

    /// Stops accepting connections; the socket is closed when the last one has ended.
    pub fn drain(&self) {
        self.draining.set(true);
        self.endpoint.drain();
        self.wake.notify_one();
    }

    /// Accepts connections until drained, then waits until the last one has ended.
    pub async fn run(self: Rc<Self>) {
        loop {
            let accepted = tokio::select! {
                incoming = self.endpoint.accept() => incoming,
                () = self.wake.notified() => None,
            };
            match accepted {
                Some(incoming) => self.worker.spawn(Rc::clone(&self).handshake(incoming)),
                None if self.draining.get() => break,
                None => {}
            }
        }
        self.endpoint.ended().await;
    }

    /// Waits for a client's ClientHello, then starts the life of its connection.
    async fn handshake(self: Rc<Self>, mut incoming: Incoming) {
        if self.handshake.get() >= self.options.borrow().retry_above {
            // A Retry costs a packet and no memory; a client with a spoofed address does not reply to it.
            match incoming.ask_again() {
                Some(shown) => incoming = shown,
                None => return self.retries.increment(),
            }
        }
        let handshake = HandshakeCount::new(&self.handshake);
        let (first, source) = (incoming.first_id(), incoming.source());
        let retried = self.place.retry_id(source, &first);
        let timer = Timer::new(&self.worker.timers);
        let by = self.worker.now().after(HELLO_TIME);
        let hello = poll_fn(|cx| self.first_packets.hellos.poll_facts(cx, [&first, &retried]));
        // A client that sends no ClientHello gets no reply.
        let Ok(Some(facts)) = timer.until(by, hello).await else { return incoming.ignore() };
        let arrived = self.first_packets.local;
        let local = incoming.local_ip().map_or(arrived, |ip| (ip, arrived.port()).into());
        let listener = Rc::clone(&self.first_packets.listener.borrow());
        let client = Box::new(Client { incoming, slot: Rc::clone(&self), handshake });
        start_quic(&listener, &self.worker, client, facts, Peer::Ip(source), Peer::Ip(local));
    }

    /// Returns the QUIC server for a chain's TLS configuration.
    fn server(&self, tls: &Arc<TlsConfig>) -> Result<QuicServer, String> {
        let mut servers = self.servers.borrow_mut();
        if let Some((_, server)) = servers.iter().find(|(of, _)| Arc::ptr_eq(of, tls)) {
            return Ok(server.clone());
        }
        let made = QuicServer::new(Arc::clone(tls), &self.options.borrow())?;
        servers.push((Arc::clone(tls), made.clone()));
        Ok(made)
    }
}

/// A client that has sent its ClientHello. If it is dropped before the handshake, the client is refused.
struct Client {
    incoming: Incoming,
    slot: Rc<QuicSlot>,
    handshake: HandshakeCount,
}

impl QuicClient for Client {
    fn accept_handshake(
        self: Box<Self>,
        tls: &ServerTls,
        conn: Rc<Conn>,
    ) -> LocalFuture<Result<Serve, (Reason, String)>> {
        let Self { incoming, slot, handshake } = *self;
        let server = slot.server(&tls.quic);
        Box::pin(async move {
            let server = server.map_err(|error| (reasons::QUIC_PROTOCOL, error))?;
            let began = slot.worker.clock.wall(conn.info.started);
            let accepted = incoming.accept_handshake(&server, conn.info.id, began).await;
            let (connection, unfinished) =
                accepted.map_err(|error| (reasons::QUIC_PROTOCOL, error.to_string()))?;
            if let Some(ended) = unfinished {
                // It counts as a handshake in flight until the handshake has ended; the time-out guarantees that it
                // does.
                let (timer, conn) = (Timer::new(&slot.worker.timers), Rc::clone(&conn));
                let by = slot.worker.now().after(EARLY_TIME);
                slot.worker.spawn(async move {
                    if timer.until(by, ended).await.is_err() {
                        conn.kill(tls_reasons::TIMEOUT);
                    }
                    drop(handshake);
                });
            }
            let _ = conn.info.tls.set(Box::new(facts_of(&connection)));
            let _ = conn.info.path.set(path_of(&connection));
            let serve: Serve = Box::new(move |handler: Rc<dyn StreamHandler>, conn: Rc<Conn>| {
                match (handler as Rc<dyn Any>).downcast::<HttpHandler>() {
                    Ok(http) => Box::pin(http.serve_quic(connection, conn)),
                    // The plan admits only chains that serve HTTP.
                    Err(_) => Box::pin(std::future::ready(end::FORCED)),
                }
            });
            Ok(serve)
        })
    }
}
