//! The request body received so far, and what of it can be sent again.
//!
//! Owns: the pieces that are kept for a retry, and how far the current attempt is. Refuses to know: streams. Keeps: an
//! attempt sends every piece once and in order; a piece that was not kept is never sent again; the kept pieces are
//! bounded in bytes and number and counted in the worker's buffers.

use bytes::Bytes;
use sluice_codec::Head;
use sluice_io::buffers::{BufPool, Charge};

/// The most pieces of a body that are kept for a retry; a request whose client sends more, smaller ones gets one
/// attempt.
const PIECES_MAX: usize = 1024;

/// The size in bytes below which a kept piece is copied.
const SMALL: usize = 1024;

/// The request's body.
#[derive(Debug)]
pub(super) struct Upload {
    stored: Stored,
    progress: Progress,
    /// The most bytes to keep; 0 if there are no retries.
    keep_max: usize,
    trailers: Option<Box<Head>>,
}

/// What can be sent again.
#[derive(Debug)]
enum Stored {
    /// Everything received so far.
    Kept(Kept),
    /// Not everything, so the body cannot be sent again.
    Gone,
    /// A tunnel, not a message: its bytes are sent once.
    Tunnel,
}

#[derive(Debug, Default)]
struct Kept {
    pieces: Vec<Bytes>,
    bytes: usize,
    charge: Option<Charge>,
    /// The number of pieces that the current attempt has sent.
    sent: usize,
}

/// How far the body has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// More is expected from the client.
    Receiving,
    /// Everything has been received; the current attempt has not sent all of it.
    Received,
    /// The current attempt has sent everything.
    Sent,
}

/// What the current attempt does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Sends a kept piece.
    Send {
        /// The piece.
        bytes: Bytes,
        /// Whether nothing follows.
        last: bool,
    },
    /// Ends the body, with [`Upload::trailers`].
    End,
    /// Waits for the client's next piece.
    Read {
        /// Whether to keep the piece, with [`Upload::keep`].
        keep: bool,
    },
    /// Everything is sent.
    Nothing,
}

impl Upload {
    /// The body of a request whose headers have been received; `whole` if nothing follows them.
    pub(super) const fn new(whole: bool) -> Self {
        let kept = Kept { pieces: Vec::new(), bytes: 0, charge: None, sent: 0 };
        let progress = if whole { Progress::Received } else { Progress::Receiving };
        Self { stored: Stored::Kept(kept), progress, keep_max: 0, trailers: None }
    }

    /// The bytes that a client sends through a tunnel.
    pub(super) const fn of_tunnel() -> Self {
        Self { stored: Stored::Tunnel, progress: Progress::Receiving, keep_max: 0, trailers: None }
    }

    /// Allows keeping up to `keep_max` bytes for a retry.
    pub(super) const fn allow_replay(&mut self, keep_max: usize) {
        self.keep_max = keep_max;
    }

    /// Whether the request consists of headers only.
    pub(super) const fn is_empty(&self) -> bool {
        let kept = match &self.stored {
            Stored::Kept(kept) => kept.pieces.is_empty(),
            Stored::Gone | Stored::Tunnel => false,
        };
        self.is_received() && kept && self.trailers.is_none()
    }

    /// Whether everything has been received from the client.
    pub(super) const fn is_received(&self) -> bool {
        matches!(self.progress, Progress::Received | Progress::Sent)
    }

    /// Whether the current attempt has sent everything.
    pub(super) const fn is_sent(&self) -> bool {
        matches!(self.progress, Progress::Sent)
    }

    /// Notes that the attempt that goes on has sent everything.
    pub(super) fn attempt_has_all(&mut self) {
        debug_assert!(self.is_received(), "only what is known can have been sent");
        self.progress = Progress::Sent;
    }

    /// Whether this is a tunnel.
    pub(super) const fn is_tunnel(&self) -> bool {
        matches!(self.stored, Stored::Tunnel)
    }

    /// The kept pieces.
    pub(super) fn kept(&self) -> &[Bytes] {
        match &self.stored {
            Stored::Kept(kept) => &kept.pieces,
            Stored::Gone | Stored::Tunnel => &[],
        }
    }

    /// The number of kept pieces that the current attempt has sent.
    pub(super) const fn pieces_sent(&self) -> usize {
        match &self.stored {
            Stored::Kept(kept) => kept.sent,
            Stored::Gone | Stored::Tunnel => 0,
        }
    }

    /// Whether a retry can send the body from the start.
    pub(super) const fn can_replay(&self) -> bool {
        matches!(self.stored, Stored::Kept(_))
    }

    /// The trailers, once received.
    pub(super) fn trailers(&self) -> Option<&Head> {
        self.trailers.as_deref()
    }

    /// Begins an attempt: everything received so far is sent from the start.
    pub(super) const fn begin_attempt(&mut self) {
        if let Stored::Kept(kept) = &mut self.stored {
            kept.sent = 0;
        }
        if self.is_received() {
            self.progress = if self.is_empty() { Progress::Sent } else { Progress::Received };
        }
    }

    /// Returns what the current attempt does next; a piece or an end that is returned counts as sent.
    pub(super) fn next(&mut self) -> Next {
        if self.progress == Progress::Sent {
            return Next::Nothing;
        }
        if let Stored::Kept(kept) = &mut self.stored
            && let Some(bytes) = kept.pieces.get(kept.sent).cloned()
        {
            kept.sent += 1;
            let all = kept.sent == kept.pieces.len();
            let last = all && self.progress == Progress::Received && self.trailers.is_none();
            if last {
                self.progress = Progress::Sent;
            }
            return Next::Send { bytes, last };
        }
        if self.progress == Progress::Received {
            self.progress = Progress::Sent;
            return Next::End;
        }
        Next::Read { keep: self.keep_max > 0 && self.can_replay() }
    }

    /// Notes that the client's last piece has been received.
    pub(super) const fn end_received(&mut self) {
        if matches!(self.progress, Progress::Receiving) {
            self.progress = Progress::Received;
        }
    }

    /// Notes that the current attempt has sent the client's last piece, with or without trailers.
    pub(super) fn end_sent(&mut self, trailers: Option<Box<Head>>) {
        self.trailers = trailers;
        self.progress = Progress::Sent;
    }

    /// Notes that a piece was forwarded and not kept.
    pub(super) fn pass(&mut self) {
        if !self.is_tunnel() {
            self.stored = Stored::Gone;
        }
    }

    /// Keeps a piece that is being sent, unless the kept pieces become too many or too large, or the worker lacks the
    /// room.
    pub(super) fn keep(&mut self, bytes: &Bytes, buffers: &BufPool) {
        let Stored::Kept(kept) = &mut self.stored else { return };
        kept.bytes += bytes.len();
        let charge = kept.charge.get_or_insert_with(|| buffers.charge());
        let fits = kept.bytes <= self.keep_max && kept.pieces.len() < PIECES_MAX;
        if !fits || charge.set(kept.bytes).is_err() {
            self.stored = Stored::Gone;
            return;
        }
        // A small piece may be part of a large buffer, which it would keep alive.
        let small = bytes.len() < SMALL;
        kept.pieces.push(if small { Bytes::copy_from_slice(bytes) } else { bytes.clone() });
        kept.sent = kept.pieces.len();
    }

    /// Replaces everything received with a whole request that was buffered for a filter, counted by `charge`.
    pub(super) fn buffered(&mut self, body: Bytes, trailers: Option<Box<Head>>, charge: Charge) {
        let bytes = body.len();
        let pieces = if body.is_empty() { Vec::new() } else { vec![body] };
        self.stored = Stored::Kept(Kept { pieces, bytes, charge: Some(charge), sent: 0 });
        self.trailers = trailers;
        self.progress = Progress::Received;
        self.begin_attempt();
    }

    /// Takes the buffered body and its trailers out, to be received again; `None` if there are neither.
    pub(super) fn take_buffered(&mut self) -> Option<(Bytes, Option<Box<Head>>)> {
        let Stored::Kept(kept) = &mut self.stored else { return None };
        let body = std::mem::take(kept).pieces.pop();
        let trailers = self.trailers.take();
        if body.is_none() && trailers.is_none() {
            return None;
        }
        self.progress = Progress::Receiving;
        Some((body.unwrap_or_default(), trailers))
    }

    /// Checks what must hold between any two calls.
    #[cfg(test)]
    fn check_invariants(&self) {
        if let Stored::Kept(kept) = &self.stored {
            assert!(kept.sent <= kept.pieces.len() && kept.pieces.len() <= PIECES_MAX);
            assert_eq!(kept.bytes, kept.pieces.iter().map(Bytes::len).sum::<usize>());
            assert!(!self.is_sent() || kept.sent == kept.pieces.len());
            assert_eq!(kept.charge.as_ref().map_or(kept.bytes, Charge::bytes), kept.bytes);
        }
        assert!(!self.is_tunnel() || self.trailers.is_none());
    }
}

#[cfg(test)]
mod tests;
