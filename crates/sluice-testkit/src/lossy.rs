//! A UDP hop that behaves like a bad network path.
//!
//! Owns: losing, duplicating and reordering datagrams by a seed, and rebinding the port of a client. Refuses to know:
//! their contents. Keeps: its behaviour depends on the seed and on the order in which datagrams arrive, on no clock.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// What the hop does, each to one datagram in this many; 0 means never.
#[derive(Clone, Copy, Debug)]
pub struct Troubles {
    /// A datagram is lost.
    pub lose: u64,
    /// A datagram is duplicated.
    pub double: u64,
    /// A datagram arrives after the next one.
    pub delay: u64,
    /// The client gets another port towards the server, as behind a NAT that lost its binding.
    pub rebind: u64,
}

/// A hop in front of a server.
#[derive(Debug)]
pub struct LossyHop {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    front: UdpSocket,
    to: SocketAddr,
    troubles: Troubles,
    stop: AtomicBool,
    lost: Mutex<u64>,
    readers: Mutex<Vec<(UdpSocket, JoinHandle<()>)>>,
}

/// One direction of one client.
struct Direction {
    state: u64,
    held: Option<Vec<u8>>,
}

impl Direction {
    const fn new(seed: u64) -> Self {
        Self { state: seed, held: None }
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        n > 0 && (self.state >> 33).is_multiple_of(n)
    }

    /// Decides the fate of a datagram; returns those to forward now, in order.
    fn pass(&mut self, shared: &Shared, datagram: &[u8]) -> Vec<Vec<u8>> {
        let Troubles { lose, double, delay, .. } = shared.troubles;
        if self.one_in(lose) {
            *shared.lost.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            return Vec::new();
        }
        let mut now = vec![datagram.to_vec()];
        if self.one_in(double) {
            now.push(datagram.to_vec());
        }
        if self.held.is_none() && self.one_in(delay) {
            self.held = now.pop();
        } else {
            now.extend(self.held.take());
        }
        now
    }
}

impl LossyHop {
    /// Starts a hop in front of `to`.
    pub fn start(to: SocketAddr, troubles: Troubles) -> Self {
        let front = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
        let address = front.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            front,
            to,
            troubles,
            stop: AtomicBool::new(false),
            lost: Mutex::default(),
            readers: Mutex::default(),
        });
        let of_thread = Arc::clone(&shared);
        let thread = Some(std::thread::spawn(move || forward(&of_thread)));
        Self { address, shared, thread }
    }

    /// The address for clients.
    pub const fn addr(&self) -> SocketAddr {
        self.address
    }

    /// The number of datagrams lost.
    pub fn lost(&self) -> u64 {
        *self.shared.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn forward(shared: &Arc<Shared>) {
    let mut clients: HashMap<SocketAddr, (UdpSocket, Direction)> = HashMap::new();
    let mut buffer = vec![0; 65_536];
    while let Ok((count, from)) = shared.front.recv_from(&mut buffer) {
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let seed = 1 + clients.len() as u64;
        let (socket, direction) =
            clients.entry(from).or_insert_with(|| (back(shared, from), Direction::new(seed)));
        if direction.one_in(shared.troubles.rebind) {
            *socket = back(shared, from);
        }
        for datagram in direction.pass(shared, &buffer[..count]) {
            let _ = socket.send(&datagram);
        }
    }
}

/// A socket towards the server, with a thread that forwards what it receives to the client.
fn back(shared: &Arc<Shared>, client: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    socket.connect(shared.to).expect("a datagram socket connects to anything");
    let (reader, kept) = (socket.try_clone().expect("it is open"), socket.try_clone());
    let of_thread = Arc::clone(shared);
    let thread = std::thread::spawn(move || {
        let (mut direction, mut buffer) = (Direction::new(7), vec![0; 65_536]);
        while let Ok(count) = reader.recv(&mut buffer) {
            if of_thread.stop.load(Ordering::SeqCst) {
                return;
            }
            for datagram in direction.pass(&of_thread, &buffer[..count]) {
                let _ = of_thread.front.send_to(&datagram, client);
            }
        }
    });
    let mut readers = shared.readers.lock().unwrap_or_else(PoisonError::into_inner);
    readers.push((kept.expect("it is open"), thread));
    socket
}

impl Drop for LossyHop {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let wake = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
        let _ = wake.send_to(b"", self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let mut readers = self.shared.readers.lock().unwrap_or_else(PoisonError::into_inner);
        for (socket, thread) in readers.drain(..) {
            // The socket is connected and receives only from its server: to wake its reader, it is connected to itself.
            if let Ok(own) = socket.local_addr()
                && socket.connect(own).is_ok()
            {
                let _ = socket.send(b"");
            }
            let _ = thread.join();
        }
    }
}
