//! A UDP socket of a worker that terminates QUIC, across the changing plans of its listener.
//!
//! Owns: the endpoint, accepting clients, asking them to validate their address. Refuses to know: how QUIC processes
//! packets, what connections carry. Keeps: a chain is selected before the handshake with a client starts, so that the
//! certificates and the client authentication are those of the chain.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use sluice_core::connection::Peer;
use sluice_io::WorkerCx;
use sluice_io::timers::Timer;
use sluice_l4::connection::start_quic;
use sluice_sys::socket::local_address;
use sluice_upstream::hops;
use tokio::sync::Notify;

use crate::client::{Client, HandshakeCount};
use crate::connection_ids::ReuseportMember;
use crate::endpoint::{FirstPacketHook, Incoming, QuicEndpoint};
use crate::first_packets::FirstPackets;
use crate::listener::QuicListener;

/// How long a client may take to send its ClientHello.
const HELLO_TIME: Duration = Duration::from_secs(5);

/// A UDP socket of a worker that terminates QUIC.
#[derive(Debug)]
pub struct QuicSlot {
    worker: Rc<WorkerCx>,
    _own: hops::ListenerGuard,
    endpoint: QuicEndpoint,
    first_packets: Rc<FirstPackets>,
    place: ReuseportMember,
    /// Handshakes in flight, including those that wait for a ClientHello.
    handshakes: Rc<Cell<u32>>,
    draining: Cell<bool>,
    wake: Notify,
}

impl QuicSlot {
    /// Opens QUIC on a socket, to serve `listener` from now on.
    ///
    /// # Errors
    /// The socket does not accept the options that QUIC needs, or the settings of the first chain do not suit QUIC.
    pub fn new(
        socket: OwnedFd,
        place: ReuseportMember,
        listener: Rc<QuicListener>,
        worker: &Rc<WorkerCx>,
    ) -> io::Result<Rc<Self>> {
        let fallback = listener.server(0).map_err(io::Error::other)?.clone();
        let local = local_address(&socket).ok_or(io::ErrorKind::AddrNotAvailable)?;
        let first_packets = Rc::new(FirstPackets::new(listener, local, worker));
        let watch = Rc::clone(&first_packets) as Rc<dyn FirstPacketHook>;
        let endpoint = QuicEndpoint::open(socket, place, watch, &fallback)?;
        Ok(Rc::new(Self {
            worker: Rc::clone(worker),
            _own: hops::ListenerGuard::on(hops::HopTransport::Datagram, local),
            endpoint,
            first_packets,
            place,
            handshakes: Rc::default(),
            draining: Cell::new(false),
            wake: Notify::new(),
        }))
    }

    /// Serves `listener` from the next connection on.
    pub fn replace(&self, listener: Rc<QuicListener>) {
        *self.first_packets.listener.borrow_mut() = listener;
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
                Some(incoming) => self.worker.spawn(Rc::clone(&self).accept(incoming)),
                None if self.draining.get() => break,
                None => {}
            }
        }
        self.endpoint.ended().await;
    }

    /// Waits for a client's ClientHello, then starts the life of its connection.
    async fn accept(self: Rc<Self>, mut incoming: Incoming) {
        let listener = self.listener();
        if self.handshakes.get() >= listener.plan.options.retry_above {
            // A Retry costs a packet and no memory; a client with a spoofed address does not reply to it.
            match incoming.ask_again() {
                Some(shown) => incoming = shown,
                None => return listener.retries.increment(),
            }
        }
        drop(listener);
        let handshake = HandshakeCount::new(&self.handshakes);
        let (first, source) = (incoming.first_id(), incoming.source());
        let retried = self.place.retry_id(source, &first);
        let timer = Timer::new(&self.worker.timers);
        let by = self.worker.now().after(HELLO_TIME);
        let hello = poll_fn(|cx| self.first_packets.hellos.poll_facts(cx, [&first, &retried]));
        // A client that sends no ClientHello gets no reply.
        let Ok(Some(facts)) = timer.until(by, hello).await else { return incoming.ignore() };
        let arrived = self.first_packets.local;
        let local = incoming.local_ip().map_or(arrived, |ip| (ip, arrived.port()).into());
        let quic = self.listener();
        let listener = Rc::clone(&quic.listener);
        let client = Box::new(Client::new(incoming, quic, handshake));
        start_quic(&listener, &self.worker, client, facts, Peer::Ip(source), Peer::Ip(local));
    }

    /// The listener in force.
    fn listener(&self) -> Rc<QuicListener> {
        Rc::clone(&self.first_packets.listener.borrow())
    }
}
