//! QUIC as far as connections to endpoints need it.
//!
//! Owns: outgoing connections, the transport settings of either role, the runtime that the library runs on. Refuses to
//! know: listening sockets, and what streams carry. Keeps: a connection runs entirely on the worker that opened its
//! socket.

use std::future::Future;
use std::io;
use std::net::UdpSocket;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime};

mod clients;
mod transport;

pub use clients::{EarlyHandshake, QuicClients};
pub use transport::QuicTransport;

/// An established connection.
pub use quinn::Connection;

/// Runs the library's tasks on the worker that starts them.
#[derive(Debug)]
pub struct OnWorker;

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
