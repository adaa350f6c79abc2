//! The client side of an HTTP/3 connection.
//!
//! Owns: opening requests on a connection, and closing it when it is no longer needed. Refuses to know: what opens
//! them. Keeps: after a GOAWAY no request is opened; open requests continue.
//!
//! Source: RFC 9114 §4.1 and §5.2.

use std::rc::Rc;

use quinn::Connection;
use sluice_io::WorkerCx;

use crate::error::{ErrorKind, HttpError};
use crate::h1::Role;
use crate::h2::ENDPOINT_FIELDS_MAX;
use crate::h3::connection::{H3Shared, error_of, handshake, open_control};
use crate::h3::frame::code;
use crate::h3::{H3Options, H3Stream};
use crate::head::Head;
use crate::open_streams::{OpenStream, OpenStreams};

/// A connection on which requests are sent.
#[derive(Clone, Debug)]
pub struct H3Client(Rc<Handle>);

/// Closes the connection when it is dropped and its streams have ended.
struct Handle {
    shared: Rc<H3Shared>,
    places: Rc<OpenStreams>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "H3Client({})", self.shared.connection.remote_address())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.closing.set(true);
        self.shared.close_if_over();
    }
}

impl H3Client {
    /// Performs the HTTP/3 handshake with a server, which may send `stream_window` bytes of a response ahead. `kept` is held as long as the connection is open.
    ///
    /// # Errors
    /// The server closed the connection.
    pub async fn handshake(
        connection: Connection,
        worker: &Rc<WorkerCx>,
        stream_window: u32,
        kept: impl Sized + 'static,
    ) -> Result<Self, HttpError> {
        let head_fields = ENDPOINT_FIELDS_MAX;
        let options = H3Options { head_fields, stream_window, ..H3Options::default() };
        let shared = handshake(connection.clone(), Role::Client, worker, options).await?;
        worker.spawn(async move {
            let _kept = kept;
            connection.closed().await;
        });
        Ok(Self(Rc::new(Handle { shared, places: Rc::default() })))
    }

    /// Sets whether the handshake of QUIC is not complete yet, so that requests are early data.
    pub(crate) fn set_early(&self, early: bool) {
        self.0.shared.early.set(early);
    }

    /// Whether requests are sent before the handshake of QUIC is complete: an attacker can send them again, and the server
    /// may take none of them.
    pub fn is_early(&self) -> bool {
        self.0.shared.early.get()
    }

    /// Fails if the connection has ended.
    pub(crate) fn check_open(&self) -> Result<(), HttpError> {
        self.0.shared.connection.close_reason().map_or(Ok(()), |why| Err(error_of(&why)))
    }

    /// Begins again on a connection whose early data was rejected, with everything that was sent on it.
    pub(crate) async fn begin_again(&self) -> Result<(), HttpError> {
        let shared = &self.0.shared;
        let control = open_control(&shared.connection, Role::Client, &shared.options).await?;
        shared.control.replace(control);
        Ok(())
    }

    /// Closes the connection, with all requests on it.
    pub fn close(&self) {
        self.0.shared.connection.close(code::NO_ERROR.into(), b"");
    }

    /// Returns the number of open requests.
    pub fn open_streams(&self) -> usize {
        self.0.places.open()
    }

    /// Whether requests may still be opened.
    pub fn is_alive(&self) -> bool {
        !self.0.shared.goaway_received.get() && self.0.shared.connection.close_reason().is_none()
    }

    /// Whether another request may be opened now.
    pub fn has_room(&self, streams_max: usize) -> bool {
        self.is_alive() && self.0.places.has_room(streams_max)
    }

    /// Whether many of its streams wait for clients that do not read.
    pub fn is_stalled(&self) -> bool {
        self.0.places.are_stalled()
    }

    /// Opens a stream with a request; `end` means that it has no body.
    ///
    /// # Errors
    /// The connection takes no more requests, which counts as a refusal, or the head cannot be expressed.
    pub async fn open(&self, head: &Head, end: bool) -> Result<H3Stream, HttpError> {
        let shared = &self.0.shared;
        let refused = |error: quinn::ConnectionError| {
            HttpError::new(ErrorKind::Refused, format!("http3: no stream can be opened: {error}"))
        };
        // The slot is taken before waiting, so that no other caller counts on it.
        let place = OpenStream::take(&self.0.places);
        let (send, recv) = shared.connection.open_bi().await.map_err(refused)?;
        if !self.is_alive() {
            // A GOAWAY arrived while the request waited to open: the server will not process it.
            let gone = "http3: the server accepts no more requests";
            return Err(HttpError::new(ErrorKind::Refused, gone));
        }
        H3Stream::client(Rc::clone(shared), send, recv, head, end, place)
    }
}
