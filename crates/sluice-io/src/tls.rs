//! TLS over a socket, without its own buffers while it is idle.
//!
//! Owns: the rustls session, the ciphertext of an incomplete record, plaintext given back.
//! Refuses to know: certificates, and the meaning of the plaintext.
//! Keeps: bytes are decrypted and encrypted in the worker's scratch; at most one unfinished flight of the handshake
//! (`handshake_bytes`) or one incomplete record is kept between polls.
//!
//! Built on rustls' unbuffered sessions: the state machine is given a slice and reports how much of it to discard.
//! Bytes that are not discarded must be passed again at the same place, followed by more.

use std::io;
use std::task::{Context, Poll, ready};

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use sluice_core::Side;
use sluice_core::connection::TlsFacts;
use sluice_core::limits::Limit;

use crate::buffers::{Buf, BufPool, Exhausted, SCRATCH};
use crate::raw::RawStream;
use crate::worker::WorkerCx;

mod early;
mod session;
#[cfg(test)]
mod tests;

use early::{EarlySent, HandshakeEnd};
use session::{Fed, Session};

/// A TLS session over a socket.
#[derive(Debug)]
pub struct TlsStream {
    pub(crate) raw: RawStream,
    session: Session,
    /// Ciphertext that rustls must be given again with more after it.
    partial: Vec<u8>,
    /// Plaintext to be read before anything else.
    surplus: Option<Buf>,
    peer_finished: bool,
    truncated: bool,
    /// The session failed and is not used any more.
    failed: bool,
    /// Bytes have arrived from the peer.
    began: bool,
    /// Plaintext has arrived before the handshake was complete, or the peer has accepted ours.
    early: bool,
    /// What was sent before the handshake was complete, which it still is not.
    early_sent: Option<Box<EarlySent>>,
    /// By when the rest of the handshake must have arrived.
    handshake_end: Option<Box<HandshakeEnd>>,
}

/// The first byte of a TLS handshake record, and therefore of every client's stream.
const HANDSHAKE_RECORD: u8 = 22;

/// The number of bytes kept of a stream that is not TLS: enough for a request line.
const NOT_TLS_KEPT: usize = 4096;

impl TlsStream {
    /// Creates the server side over `raw`, to which a ClientHello may have been given back.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub fn server(raw: RawStream, tls: &sluice_tls::ServerTls) -> Result<Self, rustls::Error> {
        let session = UnbufferedServerConnection::new(tls.config.clone())?;
        Ok(Self::new(raw, Session::Server(Box::new(session))))
    }

    /// Creates the client side over `raw`, for a server that must authenticate as `name`.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub fn client(
        raw: RawStream,
        tls: &sluice_tls::ClientTls,
        name: ServerName<'static>,
    ) -> Result<Self, rustls::Error> {
        let session = UnbufferedClientConnection::new(tls.config.clone(), name)?;
        Ok(Self::new(raw, Session::Client(Box::new(session))))
    }

    const fn new(raw: RawStream, session: Session) -> Self {
        Self {
            raw,
            session,
            partial: Vec::new(),
            surplus: None,
            peer_finished: false,
            truncated: false,
            failed: false,
            began: false,
            early: false,
            early_sent: None,
            handshake_end: None,
        }
    }

    /// Performs the handshake. It ends before the client's last message if the client has sent early data (0-RTT), which
    /// can then be read; the rest of it follows with what is read later. See [`TlsStream::is_early`].
    ///
    /// # Errors
    /// [`HandshakeError`]; an alert with the cause was sent to the peer as far as possible.
    pub fn poll_handshake(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
    ) -> Poll<Result<(), HandshakeError>> {
        // The client sends first.
        if self.session.wants_to_speak() {
            self.feed(cx, worker, 0, &mut [], &mut [])?;
        }
        while self.session.is_handshaking() && !self.early {
            ready!(self.raw.poll_flushed(cx))?;
            let got = ready!(worker.with_cipher(|cipher| self.read_and_feed(
                cx,
                worker,
                cipher,
                &mut []
            )))?;
            if got == Got::End {
                return Poll::Ready(Err(HandshakeError::Io(io::ErrorKind::UnexpectedEof.into())));
            }
            if self.partial.len() > worker.limits.size(Limit::HandshakePartial) {
                return Poll::Ready(Err(HandshakeError::TooLarge));
            }
        }
        self.raw.poll_flushed(cx).map_err(Into::into)
    }

    /// Reads plaintext. See [`Stream::poll_recv`](crate::Stream::poll_recv).
    ///
    /// # Errors
    /// The error of the socket; `InvalidData` if the peer violated the protocol.
    pub(crate) fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(surplus) = &mut self.surplus {
            let count = surplus.len().min(into.len());
            into[..count].copy_from_slice(&surplus[..count]);
            surplus.consume(count);
            if surplus.is_empty() {
                self.surplus = None;
            }
            return Poll::Ready(Ok(count));
        }
        loop {
            if self.peer_finished {
                return Poll::Ready(Ok(0));
            }
            let got = worker.with_cipher(|cipher| self.read_and_feed(cx, worker, cipher, into));
            let Poll::Ready(got) = got else {
                self.heed_handshake_end(cx);
                return Poll::Pending;
            };
            let peer = self.session.peer();
            match got.map_err(|error| error.into_io(peer))? {
                Got::Clear(0) => {}
                Got::Clear(count) => return Poll::Ready(Ok(count)),
                Got::End => {
                    self.truncated = !self.peer_finished;
                    self.peer_finished = true;
                }
            }
        }
    }

    /// Reads ciphertext after the incomplete record and feeds both to the session.
    fn read_and_feed(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
        cipher: &mut [u8],
        clear: &mut [u8],
    ) -> Poll<Result<Got, HandshakeError>> {
        let held = self.partial.len();
        cipher[..held].copy_from_slice(&self.partial);
        // Ciphertext is never shorter than its plaintext, so a full scratch leaves no surplus.
        let room = if clear.len() == SCRATCH { SCRATCH } else { cipher.len() };
        if held >= room {
            return Poll::Ready(Err(HandshakeError::TooLarge));
        }
        let count = ready!(self.raw.poll_recv(cx, &mut cipher[held..room]))?;
        if count == 0 {
            return Poll::Ready(Ok(Got::End));
        }
        let first = !std::mem::replace(&mut self.began, true);
        if first && self.session.is_server() && cipher[0] != HANDSHAKE_RECORD {
            self.failed = true;
            return Poll::Ready(Err(HandshakeError::NotTls(
                cipher[..count.min(NOT_TLS_KEPT)].into(),
            )));
        }
        let clear_count = self.feed(cx, worker, held + count, cipher, clear)?;
        Poll::Ready(Ok(Got::Clear(clear_count)))
    }

    /// Feeds the first `filled` bytes of `cipher`, keeps the incomplete record, sends the session's output. Returns the
    /// number of plaintext bytes written to `clear`.
    fn feed(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
        filled: usize,
        cipher: &mut [u8],
        clear: &mut [u8],
    ) -> Result<usize, HandshakeError> {
        let mut fed = Fed::new(clear);
        let outcome = self.session.feed(&mut cipher[..filled], &mut fed);
        let Fed { discard, clear_count, surplus, early, ended_early, peer_finished, say, .. } = fed;
        if !say.is_empty() {
            let sent = self.raw.send(cx, &worker.buffers, &say);
            // The session's error is more useful than a failure to send the alert.
            if outcome.is_ok() {
                sent?;
            }
        }
        self.failed |= outcome.is_err();
        outcome?;
        self.peer_finished |= peer_finished;
        self.early |= early;
        self.partial.clear();
        self.partial.extend_from_slice(&cipher[discard..filled]);
        if self.partial.is_empty() {
            // An idle connection holds no buffer.
            self.partial = Vec::new();
        }
        if !surplus.is_empty() {
            let kept = worker.buffers.copy(&surplus).map_err(|_| HandshakeError::TooLarge)?;
            self.surplus = Some(kept);
        }
        if self.early_sent.is_some() {
            self.resume_early(cx, worker, ended_early, cipher)?;
        }
        Ok(clear_count)
    }

    /// Encrypts and sends. See [`Stream::send`](crate::Stream::send).
    ///
    /// # Errors
    /// The error of the socket, or that the session can no longer send.
    pub(crate) fn send(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
        data: &[u8],
    ) -> io::Result<()> {
        if self.failed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if self.early_sent.is_some() {
            return self.send_early(cx, worker, data);
        }
        worker.with_cipher(|cipher| {
            let count = self
                .session
                .encrypt(&mut self.partial, data, cipher)
                .map_err(|error| error.into_io(self.session.peer()))?;
            self.raw.send(cx, &worker.buffers, &cipher[..count])
        })
    }

    /// Sends a close_notify, once.
    ///
    /// # Errors
    /// The error of the socket.
    pub(crate) fn close_notify(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
    ) -> io::Result<()> {
        if self.failed {
            return Ok(());
        }
        worker.with_cipher(|cipher| {
            let count = self.session.close_notify(&mut self.partial, cipher);
            self.raw.send(cx, &worker.buffers, &cipher[..count])
        })
    }

    /// Gives plaintext back, in front of what remained of a small read. See [`Stream::give_back`].
    ///
    /// [`Stream::give_back`]: crate::Stream::give_back
    ///
    /// # Errors
    /// As for [`RawStream::give_back`].
    pub(crate) fn give_back(&mut self, buffers: &BufPool, bytes: &[u8]) -> Result<(), Exhausted> {
        self.surplus = buffers.before(bytes, self.surplus.take())?;
        Ok(())
    }

    /// Sends plaintext to a peer that turned out not to speak TLS.
    ///
    /// # Errors
    /// The error of the socket.
    pub fn send_in_clear(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerCx,
        data: &[u8],
    ) -> io::Result<()> {
        debug_assert!(self.failed, "a session that speaks TLS sends nothing in clear");
        self.raw.send(cx, &worker.buffers, data)
    }

    pub(crate) const fn was_truncated(&self) -> bool {
        self.truncated
    }

    /// What the handshake negotiated.
    pub fn facts(&self) -> TlsFacts {
        TlsFacts { early: self.early, ..self.session.facts() }
    }
}

/// The result of a read.
#[derive(Debug, PartialEq, Eq)]
enum Got {
    /// The number of plaintext bytes; 0 while a record is incomplete.
    Clear(usize),
    /// The end of the socket's stream.
    End,
}

/// Why a handshake or a stream of records ended.
#[derive(Debug)]
pub enum HandshakeError {
    /// An error of the socket.
    Io(io::Error),
    /// A violation of the protocol.
    Tls(rustls::Error),
    /// The client did not start with TLS, but with these bytes, truncated to the number that is kept.
    NotTls(Box<[u8]>),
    /// The unfinished handshake exceeds `handshake_bytes`.
    TooLarge,
}

impl HandshakeError {
    fn into_io(self, peer: Side) -> io::Error {
        match self {
            Self::Io(error) => error,
            Self::Tls(error) => {
                let detail = sluice_tls::in_words(&error, peer);
                io::Error::new(io::ErrorKind::InvalidData, detail)
            }
            Self::TooLarge | Self::NotTls(_) => {
                io::Error::new(io::ErrorKind::InvalidData, self.to_string())
            }
        }
    }
}

impl std::fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Tls(error) => error.fmt(f),
            Self::NotTls(_) => f.write_str("the peer did not start a TLS handshake"),
            Self::TooLarge => f.write_str("the handshake exceeds `limits.handshake_bytes`"),
        }
    }
}

impl std::error::Error for HandshakeError {}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<rustls::Error> for HandshakeError {
    fn from(error: rustls::Error) -> Self {
        Self::Tls(error)
    }
}
