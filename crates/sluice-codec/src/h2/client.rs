//! The client side of an HTTP/2 connection.
//!
//! Owns: the connection's driver and the count of its streams. Refuses to know: what opens streams. Keeps: after a
//! GOAWAY, or when the stream IDs are exhausted, no stream is opened; open streams continue.

use std::cell::Cell;
use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use h2::client::SendRequest;
use sluice_io::{Stream, WorkerCx};

use crate::body::Chunk;
use crate::error::HttpError;
use crate::h1::Role;
use crate::h2::io::Wire;
use crate::h2::ledger::Ledger;
use crate::h2::server::SEND_BUFFER;
use crate::h2::{H2Options, H2Stream, convert, error_of};
use crate::head::Head;
use crate::open_streams::{OpenStream, OpenStreams};

/// A connection on which requests are sent.
#[derive(Clone, Debug)]
pub struct H2Client {
    requests: SendRequest<Chunk>,
    ledger: Ledger,
    places: Rc<OpenStreams>,
    ended: Rc<Cell<bool>>,
}

impl H2Client {
    /// Performs the HTTP/2 handshake with a server; a task of the worker drives the connection from then on, and holds
    /// `kept` as long as it is open.
    ///
    /// # Errors
    /// The server does not speak HTTP/2, or closed the connection.
    pub async fn handshake(
        stream: Stream,
        worker: &Rc<WorkerCx>,
        options: &H2Options,
        kept: impl Sized + 'static,
    ) -> Result<Self, HttpError> {
        let ledger = Ledger::new(Role::Client, options, worker);
        let wire = Wire::new(stream, Rc::clone(worker), ledger.clone(), None);
        let (requests, mut connection) = h2::client::Builder::new()
            .initial_window_size(options.stream_window)
            .initial_connection_window_size(options.connection_window)
            .max_header_list_size(options.head_bytes)
            .max_send_buffer_size(SEND_BUFFER)
            .enable_push(false)
            .handshake::<_, Chunk>(wire.clone())
            .await
            .map_err(|error| error_of(&error))?;
        wire.set_driven();
        let ended = Rc::new(Cell::new(false));
        let mut pings = connection.ping_pong();
        let (interval, timeout) = (options.ping_interval, options.ping_timeout);
        let at_end = Rc::clone(&ended);
        let watched_by = ledger.clone();
        worker.spawn(async move {
            let _kept = kept;
            let watched = async {
                let (Some(pings), Some(interval)) = (&mut pings, interval) else {
                    return std::future::pending().await;
                };
                loop {
                    tokio::time::sleep(interval).await;
                    let answer = tokio::time::timeout(timeout, pings.ping(h2::Ping::opaque()));
                    if !matches!(answer.await, Ok(Ok(_))) {
                        return;
                    }
                }
            };
            let driven = poll_fn(|cx| {
                let done = Pin::new(&mut connection).poll(cx).is_ready();
                let broken =
                    watched_by.broken().is_some() || matches!(wire.push(cx), Poll::Ready(Err(_)));
                if done || broken { Poll::Ready(()) } else { Poll::Pending }
            });
            tokio::select! {
                // Its streams receive the error themselves.
                () = driven => {}
                () = watched => {}
            }
            at_end.set(true);
        });
        Ok(Self { requests, ledger, places: Rc::default(), ended })
    }

    /// Returns the number of open streams.
    pub fn open_streams(&self) -> usize {
        self.places.open()
    }

    /// Whether another stream may be opened now: the connection is alive, and its peer has room.
    pub fn has_room(&mut self, streams_max: usize) -> bool {
        let room = self.requests.current_max_send_streams().min(streams_max);
        self.is_alive() && self.places.has_room(room)
    }

    /// Whether many of its streams wait for clients that do not read.
    pub fn is_stalled(&self) -> bool {
        self.places.are_stalled()
    }

    /// Whether streams may still be opened.
    pub fn is_alive(&mut self) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        !self.ended.get() && !matches!(self.requests.poll_ready(&mut cx), Poll::Ready(Err(_)))
    }

    /// Whether extended CONNECT may be sent, RFC 8441. Known once the server's SETTINGS have arrived.
    pub fn takes_extended_connect(&self) -> bool {
        self.requests.is_extended_connect_protocol_enabled()
    }

    /// Opens a stream with a request; `end` means that it has no body.
    ///
    /// # Errors
    /// The connection takes no more streams, which counts as a refusal, or the head cannot be expressed in HTTP/2.
    pub async fn open(&mut self, head: &Head, end: bool) -> Result<H2Stream, HttpError> {
        let request = convert::to_request(head)?;
        // The slot is taken before waiting, so that no other caller counts on it.
        let place = OpenStream::take(&self.places);
        let refused = |error: h2::Error| {
            let kind = crate::ErrorKind::Refused;
            HttpError::new(kind, format!("http2: no stream can be opened: {error}"))
        };
        poll_fn(|cx| self.requests.poll_ready(cx)).await.map_err(refused)?;
        let (response, outgoing) = self.requests.send_request(request, end).map_err(refused)?;
        Ok(H2Stream::client(response, outgoing, end, place, self.ledger.clone()))
    }
}
