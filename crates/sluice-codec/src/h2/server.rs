//! The server side of an HTTP/2 connection.
//!
//! Owns: accepting requests. Refuses to know: what requests are for. Keeps: a request that cannot be forwarded gets its
//! response here and goes no further.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use sluice_core::Moment;
use sluice_core::limits::Limit;
use sluice_io::buffers::Charge;
use sluice_io::{Conn, Stream, WorkerCx};

use crate::error::HttpError;
use crate::h1::Role;
use crate::h2::connection::{Driven, H2Driver};
use crate::h2::machine::{ConnectionEnd, H2Machine, MachineEvent};
use crate::h2::{H2Options, H2Stream};
use crate::head::Head;

/// A connection on which requests are received.
#[derive(Debug)]
pub struct H2Server(H2Driver);

/// What happens on a connection of a client.
#[derive(Debug)]
pub enum H2Event {
    /// A request was received.
    Request(Accepted),
    /// A request was refused because it cannot be forwarded with one meaning; the client has been told.
    Refused(HttpError),
}

/// A received request.
#[derive(Debug)]
pub struct Accepted {
    /// The request head.
    pub head: Box<Head>,
    /// The body, and the means to respond.
    pub stream: H2Stream,
    /// The charge for its memory, to be kept as long as it lasts.
    pub charge: Option<Charge>,
}

impl H2Server {
    /// Performs the HTTP/2 handshake with a client.
    ///
    /// # Errors
    /// The client does not speak HTTP/2, or closed the connection.
    pub fn handshake(
        stream: Stream,
        worker: Rc<WorkerCx>,
        options: &H2Options,
        conn: Option<Rc<Conn>>,
    ) -> impl Future<Output = Result<Self, HttpError>> + use<> {
        // What a client may send ahead on all streams together is what may be buffered here.
        let held_max =
            u32::try_from(worker.limits.get(Limit::ConnectionBuffers)).unwrap_or(u32::MAX);
        let connection_window = options.connection_window.min(held_max);
        let options = H2Options { connection_window, ..*options };
        let mut driver = H2Driver::new(Role::Server, stream, worker, &options, conn);
        async move {
            poll_fn(|cx| driver.poll_greeted(cx)).await.map_err(|end| end.error())?;
            Ok(Self(driver))
        }
    }

    /// Receives the next request, or the error of one that was refused; `None` when the connection has ended cleanly.
    /// Drives the connection, so it must be polled as long as any stream is open.
    pub fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<H2Event, HttpError>>> {
        Poll::Ready(match ready!(self.0.poll_drive(cx)) {
            Driven::Event(MachineEvent::Request(key, head)) => {
                let shared = self.0.shared();
                let charge = shared.with(|machine| machine.take_charge(key));
                let stream = H2Stream::new(Rc::clone(shared), key, None);
                Some(Ok(H2Event::Request(Accepted { head, stream, charge })))
            }
            Driven::Event(MachineEvent::Refused(error)) => Some(Ok(H2Event::Refused(error))),
            Driven::Over(ConnectionEnd::Closed | ConnectionEnd::Done) => None,
            Driven::Over(end) => Some(Err(end.error())),
        })
    }

    /// Notifies the client (GOAWAY) to open no more streams; open streams continue.
    pub fn drain(&mut self) {
        self.0.shared().with(H2Machine::drain);
    }

    /// How many requests were refused since the last call because the worker had no memory for them. The client has been
    /// told that it may repeat them.
    pub fn take_starved(&mut self) -> u32 {
        self.0.shared().with(H2Machine::take_starved)
    }

    /// Since when the client has been sending request headers, or another frame but DATA, that have not arrived whole.
    pub fn partial_since(&self) -> Option<Moment> {
        self.0.shared().look(H2Machine::partial_since)
    }

    /// Ends the connection, because that took too long.
    pub fn overdue(&mut self) {
        self.0.shared().with(H2Machine::overdue);
    }

    /// Sends a PING to check that the client is still there.
    pub fn ping(&mut self) {
        self.0.shared().with(H2Machine::check);
    }

    /// Whether the last ping has been acknowledged; true once for each.
    pub fn take_pong(&mut self) -> bool {
        self.0.shared().with(H2Machine::take_acknowledged)
    }
}
