//! Data before the handshake is complete (0-RTT, early data), on both sides.
//!
//! Owns: what a client has sent so, until it is known whether the server takes it; and the time that a server gives to
//! the rest of the handshake. Refuses to know: which data may be sent early, or is served. Keeps: a server that takes
//! none of it, or a part, gets the rest after the handshake, so that every byte arrives exactly once and in order.
//!
//! Source: RFC 8446 §2.3, RFC 8470.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use sluice_core::{Moment, Reason};

use super::session::Session;
use super::{HandshakeError, TlsStream};
use crate::buffers::{Buf, SCRATCH};
use crate::raw::{RawStream, no_buffer};
use crate::timers::Timer;
use crate::worker::WorkerCx;
use crate::worker::conn::Conn;

/// The most that a client sends early. Less than the 16 KiB that servers usually take, because a server that rejects early
/// data has to pass over it: one with rustls counts a record, and what encryption adds, each time that it looks at it.
const EARLY_MAX: usize = 4 << 10;

/// What a client has sent before the handshake was complete.
#[derive(Debug)]
pub(super) struct EarlySent {
    /// All of it, in case the server takes none.
    held: Option<Buf>,
    /// How much of it has left as early data; the rest waits.
    count: usize,
    /// Whether more may leave so.
    open: bool,
}

/// When the rest of the handshake of a client that has sent early data must have arrived.
#[derive(Debug)]
pub(super) struct HandshakeEnd {
    timer: Timer,
    conn: Rc<Conn>,
    why: Reason,
}

impl TlsStream {
    /// Bounds the rest of the handshake of a client that has sent early data: if it is still awaited at `by`, the connection
    /// is killed for `why`. What has arrived and is not read yet, because a response comes first, is not awaited.
    pub fn complete_by(&mut self, by: Moment, conn: &Rc<Conn>, why: Reason) {
        if self.is_early() {
            let timer = Timer::new(&conn.worker.timers);
            timer.set(by);
            let conn = Rc::clone(conn);
            self.handshake_end = Some(Box::new(HandshakeEnd { timer, conn, why }));
        }
    }

    /// Nothing has arrived, and something is awaited.
    pub(super) fn heed_handshake_end(&mut self, cx: &Context<'_>) {
        let Some(end) = &self.handshake_end else { return };
        if !self.session.is_handshaking() {
            self.handshake_end = None;
        } else if end.timer.poll(cx).is_ready() {
            end.conn.info.note("the handshake was not complete in time after early data");
            end.conn.kill(end.why);
        }
    }

    /// Creates the client side over `raw`, for a connection that begins with early data if an earlier session allows it.
    /// [`TlsStream::poll_begin_early`] comes next.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub fn early_client(
        raw: RawStream,
        tls: &sluice_tls::ClientTls,
        name: ServerName<'static>,
    ) -> Result<Self, rustls::Error> {
        let config = tls.for_early().unwrap_or(&tls.config);
        let session = UnbufferedClientConnection::new(config.clone(), name)?;
        Ok(Self::new(raw, Session::Client(Box::new(session))))
    }

    /// Begins the handshake; returns whether data can be sent now, of which the server gets as much early as it allows.
    /// In either case, [`TlsStream::poll_handshake`] performs the rest.
    ///
    /// # Errors
    /// [`HandshakeError`].
    pub fn poll_begin_early(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
    ) -> Poll<Result<bool, HandshakeError>> {
        let mut hello = Vec::new();
        let open = self.session.begin_early(&mut hello)?;
        self.raw.send(cx, &worker.buffers, &hello)?;
        if open {
            self.early_sent = Some(Box::new(EarlySent { held: None, count: 0, open }));
        }
        Poll::Ready(Ok(open))
    }

    /// Whether the handshake is not complete, and early data has arrived or may be sent. What was read until then may be a
    /// replay by an attacker, RFC 8470 §3; what was sent may become one.
    pub fn is_early(&self) -> bool {
        self.early_sent.is_some() || (self.early && self.session.is_handshaking())
    }

    /// Whether early data arrived, or the server took what was sent so.
    pub const fn had_early_data(&self) -> bool {
        self.early
    }

    /// Sends data before the handshake is complete, and keeps it until then.
    pub(super) fn send_early(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
        data: &[u8],
    ) -> io::Result<()> {
        let Self { early_sent: Some(early), session, raw, .. } = self else { return Ok(()) };
        let before = early.held.take();
        let before = before.as_deref().unwrap_or_default();
        let mut held = worker.buffers.take(before.len() + data.len()).map_err(no_buffer)?;
        held.append(before);
        held.append(data);
        early.held = Some(held);
        if !early.open {
            return Ok(());
        }
        let room = data.len().min(EARLY_MAX - early.count);
        worker.with_cipher(|cipher| {
            let (count, written) = session.encrypt_early(&data[..room], cipher);
            early.count += count;
            early.open = count == data.len();
            raw.send(cx, &worker.buffers, &cipher[..written])
        })
    }

    /// Goes on after the server has spoken: when the handshake is complete, sends what the server did not take early.
    /// `accepted` says whether it took early data at all; `cipher` is free.
    pub(super) fn resume_early(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
        accepted: bool,
        cipher: &mut [u8],
    ) -> Result<(), HandshakeError> {
        if self.session.is_handshaking() {
            if let Some(early) = &mut self.early_sent {
                early.open = false;
            }
            return Ok(());
        }
        let Some(early) = self.early_sent.take() else { return Ok(()) };
        self.early = accepted;
        let taken = if accepted { early.count } else { 0 };
        let held = early.held.as_deref().unwrap_or_default();
        for piece in held[taken..].chunks(SCRATCH) {
            let count = self.session.encrypt(&mut self.partial, piece, cipher)?;
            self.raw.send(cx, &worker.buffers, &cipher[..count])?;
        }
        Ok(())
    }
}
