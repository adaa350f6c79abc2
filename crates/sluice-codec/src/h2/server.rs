//! The server side of an HTTP/2 connection.
//!
//! Owns: the connection and what a peer may do on it. Refuses to know: what requests are for. Keeps: a request that
//! cannot be forwarded gets its response here and goes no further.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use h2::server::{Connection, SendResponse};
use h2::{Ping, PingPong};
use http::{Response, StatusCode};
use sluice_core::limits::Limit;
use sluice_io::{Conn, Stream, WorkerCx};

use crate::body::Chunk;
use crate::error::{ErrorKind, HttpError};
use crate::h1::Role;
use crate::h2::io::Wire;
use crate::h2::ledger::Ledger;
use crate::h2::{H2Options, H2Stream, convert, error_of};
use crate::head::Head;

/// A connection on which requests are received.
pub struct H2Server {
    connection: Connection<Wire, Chunk>,
    wire: Wire,
    ledger: Ledger,
    pings: Option<PingPong>,
}

impl std::fmt::Debug for H2Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("H2Server")
    }
}

/// What happens on a connection of a client.
#[derive(Debug)]
pub enum H2Event {
    /// A request was received.
    Request(Box<Accepted>),
    /// A request was refused because it cannot be forwarded with one meaning; the client has the response already.
    Refused(HttpError),
}

/// A received request.
#[derive(Debug)]
pub struct Accepted {
    /// The request head.
    pub head: Box<Head>,
    /// The body, and the means to respond.
    pub stream: H2Stream,
}

impl H2Server {
    /// Performs the HTTP/2 handshake with a client.
    ///
    /// # Errors
    /// The client does not speak HTTP/2, or closed the connection.
    pub async fn handshake(
        stream: Stream,
        worker: Rc<WorkerCx>,
        options: &H2Options,
        conn: Option<Rc<Conn>>,
    ) -> Result<Self, HttpError> {
        let ledger = Ledger::new(Role::Server, options, &worker);
        // What a client may send ahead on all streams together is what may be buffered here.
        let held_max =
            u32::try_from(worker.limits.get(Limit::ConnectionBuffers)).unwrap_or(u32::MAX);
        let wire = Wire::new(stream, worker, ledger.clone(), conn);
        let mut connection = h2::server::Builder::new()
            .initial_window_size(options.stream_window)
            .initial_connection_window_size(options.connection_window.min(held_max))
            .max_concurrent_streams(options.streams_max)
            .max_header_list_size(options.head_bytes)
            .max_pending_accept_reset_streams(options.resets_max)
            .max_send_buffer_size(SEND_BUFFER)
            .enable_connect_protocol()
            .handshake::<_, Chunk>(wire.clone())
            .await
            .map_err(|error| error_of(&error))?;
        wire.set_driven();
        let pings = connection.ping_pong();
        Ok(Self { connection, wire, ledger, pings })
    }

    /// Receives the next request, or the error of one that was refused; `None` when the connection has ended cleanly.
    /// Drives the connection, so it must be polled as long as any stream is open.
    pub fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<H2Event, HttpError>>> {
        let accepted = self.connection.poll_accept(cx);
        if let Some(broken) = self.ledger.broken() {
            // GOAWAY is sent once, as far as the socket accepts it; the connection is over either way.
            self.connection.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
            let _ = self.connection.poll_closed(cx);
            let _ = self.wire.push(cx);
            return Poll::Ready(Some(Err(broken.error())));
        }
        if !matches!(accepted, Poll::Ready(Some(Ok(_))))
            && let Poll::Ready(Err(error)) = self.wire.push(cx)
            && accepted.is_pending()
        {
            return Poll::Ready(Some(Err(error.into())));
        }
        let (request, respond) = match ready!(accepted) {
            None => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(error_of(&error)))),
            Some(Ok(accepted)) => accepted,
        };
        let mut head = Box::<Head>::default();
        match convert::request_head(&request, &mut head, self.ledger.fields_max()) {
            Ok(()) => {
                let stream = H2Stream::server(request.into_body(), respond, self.ledger.clone());
                let accepted = Box::new(Accepted { head, stream });
                Poll::Ready(Some(Ok(H2Event::Request(accepted))))
            }
            Err(error) => {
                refuse(respond, &error);
                Poll::Ready(Some(Ok(H2Event::Refused(error))))
            }
        }
    }

    /// Notifies the client (GOAWAY) to open no more streams; open streams continue.
    pub fn drain(&mut self) {
        self.connection.graceful_shutdown();
    }

    /// Ends the connection and the streams on it.
    pub fn abort(&mut self) {
        self.connection.abrupt_shutdown(h2::Reason::NO_ERROR);
    }

    /// Whether streams are open.
    pub fn has_streams(&self) -> bool {
        self.connection.has_streams()
    }

    /// Sends a PING to check that the client is still there.
    pub fn ping(&mut self) {
        if let Some(pings) = &mut self.pings {
            let _ = pings.send_ping(Ping::opaque());
        }
    }

    /// Ready when a ping has been acknowledged.
    pub fn poll_pong(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.pings {
            Some(pings) => pings.poll_pong(cx).map(drop),
            None => Poll::Pending,
        }
    }
}

/// Bytes of frames that the library may hold per stream; capacity beyond it is not granted.
pub(crate) const SEND_BUFFER: usize = 64 << 10;

fn refuse(mut respond: SendResponse<Chunk>, error: &HttpError) {
    let status = match error.kind() {
        ErrorKind::Malformed(status) => status,
        _ => 400,
    };
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    let _ = respond.send_response(response, true);
}
