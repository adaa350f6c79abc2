//! The client side of an HTTP/2 connection.
//!
//! Owns: the task that drives the connection, and the count of its streams. Refuses to know: what opens streams. Keeps:
//! after a GOAWAY, or when the stream numbers are exhausted, no stream is opened; open streams continue. The connection
//! ends with its last handle and its last stream.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use sluice_io::{Stream, WorkerCx};

use crate::error::HttpError;
use crate::h1::Role;
use crate::h2::connection::{Driven, H2Driver, H2Shared};
use crate::h2::machine::H2Machine;
use crate::h2::{H2Options, H2Stream};
use crate::head::Head;
use crate::open_streams::{OpenStream, OpenStreams};

/// A connection on which requests are sent.
#[derive(Clone, Debug)]
pub struct H2Client(Rc<ClientHandle>);

#[derive(Debug)]
struct ClientHandle {
    shared: Rc<H2Shared>,
    places: Rc<OpenStreams>,
}

impl Drop for ClientHandle {
    fn drop(&mut self) {
        self.shared.with(H2Machine::wind_down);
    }
}

impl H2Client {
    /// Begins an HTTP/2 connection to a server; a task of the worker drives it from then on, and holds `kept` as long
    /// as it is open. Whether the server speaks HTTP/2 shows when it responds.
    pub fn begin(
        stream: Stream,
        worker: &Rc<WorkerCx>,
        options: &H2Options,
        kept: impl Sized + 'static,
    ) -> Self {
        let mut driver = H2Driver::new(Role::Client, stream, Rc::clone(worker), options, None);
        let shared = Rc::clone(driver.shared());
        let (interval, timeout) = (options.ping_interval, options.ping_timeout);
        worker.spawn(async move {
            let _kept = kept;
            let shared = Rc::clone(driver.shared());
            let watched = async {
                let Some(interval) = interval else { return std::future::pending().await };
                loop {
                    tokio::time::sleep(interval).await;
                    shared.with(H2Machine::check);
                    let acknowledged = poll_fn(|_| {
                        // The driver was polled just before, by the same task.
                        let acknowledged = shared.with(H2Machine::take_acknowledged);
                        if acknowledged { Poll::Ready(()) } else { Poll::Pending }
                    });
                    if tokio::time::timeout(timeout, acknowledged).await.is_err() {
                        return;
                    }
                }
            };
            let driven = poll_fn(|cx| match driver.poll_drive(cx) {
                Poll::Ready(Driven::Over(_)) => Poll::Ready(()),
                // A client has no events.
                Poll::Ready(Driven::Event(_)) | Poll::Pending => Poll::Pending,
            });
            tokio::select! {
                biased;
                // Its streams receive the error themselves.
                () = driven => {}
                () = watched => shared.with(H2Machine::unanswered),
            }
        });
        Self(Rc::new(ClientHandle { shared, places: Rc::default() }))
    }

    /// Whether the handshake of TLS is not complete yet, so that requests are early data.
    pub fn is_early(&self) -> bool {
        self.0.shared.is_early()
    }

    /// Completes the handshake of a connection that requests were sent on before; returns whether the server took them so.
    /// What it did not take it gets after the handshake.
    ///
    /// # Errors
    /// Why the connection ended instead.
    pub async fn handshake(&self) -> Result<bool, HttpError> {
        poll_fn(|cx| self.0.shared.poll_handshake(cx)).await
    }

    /// Closes the connection, with its streams.
    pub fn close(&self) {
        self.0.shared.with(H2Machine::give_up);
    }

    /// Returns the number of open streams.
    pub fn open_streams(&self) -> usize {
        self.0.places.open()
    }

    /// Whether another stream may be opened now: the connection is alive, and its peer has room.
    pub fn has_room(&self, streams_max: usize) -> bool {
        let room = self.0.shared.look(H2Machine::peer_streams_max).min(streams_max);
        self.is_alive() && self.0.places.has_room(room)
    }

    /// Whether many of its streams wait for clients that do not read.
    pub fn is_stalled(&self) -> bool {
        self.0.places.are_stalled()
    }

    /// Whether streams may still be opened.
    pub fn is_alive(&self) -> bool {
        self.0.shared.look(H2Machine::is_alive)
    }

    /// Opens a stream with a request; `end` means that it has no body.
    ///
    /// # Errors
    /// The connection takes no more streams, which counts as a refusal, or the head cannot be expressed in HTTP/2.
    pub async fn open(&self, head: &Head, end: bool) -> Result<H2Stream, HttpError> {
        // The slot is taken before waiting, so that no other caller counts on it.
        let place = OpenStream::take(&self.0.places);
        let shared = &self.0.shared;
        poll_fn(|cx| shared.with(|machine| machine.poll_open(head, cx))).await?;
        let key = shared.with(|machine| machine.open(head, end))?;
        Ok(H2Stream::new(Rc::clone(shared), key, Some(place)))
    }
}
