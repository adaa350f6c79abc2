//! What a protocol implements to be served over QUIC.
//!
//! Owns: the traits. Refuses to know: any protocol. Keeps: a handler gets a connection whose chain is selected and whose
//! filters have admitted it; it never sees the socket or the endpoint.

use std::fmt::Debug;
use std::rc::Rc;

use quinn::Connection;
use sluice_core::{LocalFuture, Reason};
use sluice_io::{Conn, WorkerCx};
use sluice_telemetry::metrics::SeriesLabels;

/// A handler of QUIC connections, shared by all workers.
pub trait QuicHandlerPlan: Send + Sync + Debug {
    /// Whether the handler, or a filter of it, may count in the series with these labels.
    fn counts_in(&self, _series: &SeriesLabels<'_>) -> bool {
        false
    }

    /// Creates the handler on one worker.
    fn on_worker(&self, worker: &Rc<WorkerCx>) -> Rc<dyn QuicHandler>;
}

/// Serves QUIC connections on one worker: what a stream handler is for a byte stream.
pub trait QuicHandler: Debug {
    /// The ALPN protocols that it speaks, the preferred one first. A client that offers none of them is refused in the
    /// handshake.
    fn alpn(&self) -> &'static [&'static [u8]];

    /// Serves a connection to its end and returns why it ended. Where the chain accepts early data, the handshake may
    /// still be in progress: until then, requests may be replays.
    fn serve(self: Rc<Self>, quic: Connection, conn: Rc<Conn>) -> LocalFuture<Reason>;
}
