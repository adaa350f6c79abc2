//! A client from its ClientHello to the handler of its chain.
//!
//! Owns: the handshake, with early data or without, and handing the connection over. Refuses to know: which chain is
//! selected and why, what the handler does. Keeps: a handshake counts as in flight until it has ended, also where the
//! connection is served before that.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use sluice_core::{LocalFuture, Reason, Side};
use sluice_io::Conn;
use sluice_io::timers::Timer;
use sluice_l4::quic::QuicClient;
use sluice_tls::reasons as tls_reasons;

use crate::endpoint::Incoming;
use crate::listener::QuicListener;
use crate::reasons;
use crate::sight::{facts_of, path_of};

/// How long the handshake of a connection may go on that is already served (0-RTT).
const EARLY_TIME: Duration = Duration::from_secs(10);

/// A client that has sent its ClientHello. If it is dropped before the handshake, the client is refused.
pub(crate) struct Client {
    incoming: Incoming,
    listener: Rc<QuicListener>,
    handshake: HandshakeCount,
}

impl Client {
    pub(crate) const fn new(
        incoming: Incoming,
        listener: Rc<QuicListener>,
        handshake: HandshakeCount,
    ) -> Self {
        Self { incoming, listener, handshake }
    }
}

impl QuicClient for Client {
    fn accept_handshake(
        self: Box<Self>,
        chain: usize,
        conn: Rc<Conn>,
    ) -> LocalFuture<Result<LocalFuture<Reason>, (Reason, String)>> {
        Box::pin(async move {
            let Self { incoming, listener, handshake } = *self;
            let server = listener.server(chain).cloned();
            let server = server.map_err(|error| (reasons::QUIC_PROTOCOL, error))?;
            let began = conn.worker.clock.wall(conn.info.started);
            let accepted = incoming.accept_handshake(&server, conn.info.id, began).await;
            let (connection, unfinished) = accepted.map_err(|error| {
                let detail = sluice_tls::in_words(&error, Side::Downstream);
                (reasons::QUIC_PROTOCOL, detail)
            })?;
            if let Some(ended) = unfinished {
                bound_early_handshake(ended, handshake, &conn);
            }
            let _ = conn.info.tls.set(Box::new(facts_of(&connection)));
            let handler = listener.handler(chain);
            let _ = conn.info.path.set(path_of(&connection, listener));
            Ok(handler.serve(connection, conn))
        })
    }
}

/// Ends the connection if its handshake is not complete in time. Until then it counts as a handshake in flight.
fn bound_early_handshake(ended: LocalFuture<()>, handshake: HandshakeCount, conn: &Rc<Conn>) {
    let (timer, conn) = (Timer::new(&conn.worker.timers), Rc::clone(conn));
    let by = conn.worker.now().after(EARLY_TIME);
    Rc::clone(&conn.worker).spawn(async move {
        if timer.until(by, ended).await.is_err() {
            conn.kill(tls_reasons::TIMEOUT);
        }
        drop(handshake);
    });
}

/// Counts a handshake in flight.
pub(crate) struct HandshakeCount(Rc<Cell<u32>>);

impl HandshakeCount {
    pub(crate) fn new(count: &Rc<Cell<u32>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for HandshakeCount {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
