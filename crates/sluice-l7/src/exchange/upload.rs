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
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kept(pieces: &[&'static [u8]], keep_max: usize, buffers: &BufPool) -> Upload {
        let mut upload = Upload::new(false);
        upload.allow_replay(keep_max);
        upload.begin_attempt();
        pieces.iter().for_each(|piece| upload.keep(&Bytes::from_static(piece), buffers));
        upload
    }

    fn buffered(trailers: Option<Box<Head>>) -> Upload {
        let mut charge = BufPool::new(8 << 10).charge();
        charge.set(3).unwrap();
        let mut upload = Upload::new(false);
        upload.end_received();
        upload.buffered(Bytes::from_static(b"all"), trailers, charge);
        upload.check_invariants();
        upload
    }

    fn send(bytes: &'static [u8], last: bool) -> Next {
        Next::Send { bytes: Bytes::from_static(bytes), last }
    }

    #[test]
    fn what_is_kept_for_a_retry_is_bounded_and_counted() {
        let buffers = BufPool::new(8 << 10);
        let upload = kept(&[b"abc", b"de"], 5, &buffers);
        assert!(upload.can_replay());
        assert_eq!(buffers.bytes_out(), 5);
        drop(upload);
        assert_eq!(buffers.bytes_out(), 0);
        for gone in [
            kept(&[b"abc", b"def"], 5, &buffers),
            kept(&[&[0; 9 << 10]], 1 << 20, &buffers),
            kept(&vec![&b"x"[..]; PIECES_MAX + 1], 1 << 20, &buffers),
        ] {
            assert!(!gone.can_replay());
            assert_eq!(buffers.bytes_out(), 0);
        }
        assert!(kept(&vec![&b"x"[..]; PIECES_MAX], 1 << 20, &buffers).can_replay());
    }

    #[test]
    fn a_request_without_a_body_has_nothing_to_send() {
        let mut upload = Upload::new(true);
        upload.begin_attempt();
        assert!(upload.is_empty() && upload.is_sent());
        assert_eq!(upload.next(), Next::Nothing);
    }

    #[test]
    fn a_retry_sends_what_was_kept_and_continues_reading() {
        let buffers = BufPool::new(8 << 10);
        let mut upload = kept(&[b"abc"], 100, &buffers);
        assert_eq!(upload.next(), Next::Read { keep: true });
        upload.begin_attempt();
        assert_eq!(upload.next(), send(b"abc", false));
        assert_eq!(upload.next(), Next::Read { keep: true });
        upload.keep(&Bytes::from_static(b"de"), &buffers);
        upload.end_received();
        upload.end_sent(None);
        assert_eq!(upload.next(), Next::Nothing);
        upload.begin_attempt();
        assert_eq!(upload.next(), send(b"abc", false));
        assert_eq!(upload.next(), send(b"de", true));
        assert_eq!(upload.next(), Next::Nothing);
    }

    #[test]
    fn trailers_follow_the_last_piece() {
        let buffers = BufPool::new(8 << 10);
        let mut upload = kept(&[b"abc"], 100, &buffers);
        upload.end_received();
        upload.end_sent(Some(Box::default()));
        upload.begin_attempt();
        assert_eq!(upload.next(), send(b"abc", false));
        assert_eq!(upload.next(), Next::End);
        assert!(upload.trailers().is_some());
        assert_eq!(upload.next(), Next::Nothing);
    }

    #[test]
    fn a_piece_that_was_not_kept_rules_out_a_retry() {
        let mut upload = Upload::new(false);
        upload.begin_attempt();
        assert_eq!(upload.next(), Next::Read { keep: false });
        assert!(upload.can_replay());
        upload.pass();
        assert!(!upload.can_replay());
        upload.end_received();
        assert_eq!(upload.next(), Next::End);
        assert!(upload.is_sent());
    }

    #[test]
    fn a_buffered_body_is_sent_as_one_piece_and_can_be_sent_again() {
        let mut upload = buffered(None);
        for _ in 0..2 {
            assert_eq!(upload.next(), send(b"all", true));
            upload.begin_attempt();
        }
    }

    #[test]
    fn a_buffered_body_is_taken_out_with_its_trailers() {
        let mut upload = Upload::new(false);
        assert!(upload.take_buffered().is_none(), "nothing was buffered");
        let mut upload = buffered(Some(Box::default()));
        assert!(upload.is_received() && upload.trailers().is_some());
        let (body, trailers) = upload.take_buffered().unwrap();
        assert_eq!((&body[..], trailers.is_some()), (&b"all"[..], true));
        assert!(!upload.is_received() && upload.trailers().is_none());
        upload.check_invariants();
    }

    #[test]
    fn a_tunnel_is_never_sent_again() {
        let mut upload = Upload::of_tunnel();
        assert_eq!(upload.next(), Next::Read { keep: false });
        upload.pass();
        assert!(upload.is_tunnel() && !upload.can_replay() && !upload.is_empty());
    }

    #[derive(Clone, Copy, Debug)]
    enum Op {
        /// The client sends a piece; `true` if it is the last.
        Piece(usize, bool),
        /// The client ends the body; `true` with trailers.
        End(bool),
        /// The attempt fails, and is retried if that is possible.
        Again,
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let op = prop_oneof![
            6 => (1..2000_usize, prop::bool::weighted(0.1)).prop_map(|(len, last)| Op::Piece(len, last)),
            1 => any::<bool>().prop_map(Op::End),
            2 => Just(Op::Again),
        ];
        prop::collection::vec(op, 0..40)
    }

    proptest! {
        /// Whatever is received and whatever fails, each attempt sends what the client has sent so far, once and in
        /// order.
        #[test]
        fn every_attempt_sends_what_the_client_sent(ops in ops(), keep_max in 0..10_000_usize) {
            let buffers = BufPool::new(1 << 20);
            let mut upload = Upload::new(false);
            upload.allow_replay(keep_max);
            upload.begin_attempt();
            let (mut came, mut sent, mut ended): (Vec<u8>, Vec<u8>, Option<bool>) = Default::default();
            // Sends what is kept; returns whether to read from the client (`Some`) and to keep what it sends.
            let drain = |upload: &mut Upload, sent: &mut Vec<u8>| loop {
                upload.check_invariants();
                match upload.next() {
                    Next::Send { bytes, last } => {
                        sent.extend_from_slice(&bytes);
                        assert!(!last || upload.is_sent());
                    }
                    Next::End => assert!(upload.is_sent()),
                    Next::Read { keep } => return Some(keep),
                    Next::Nothing => return None,
                }
            };
            for op in ops {
                match op {
                    Op::Again => {
                        if upload.can_replay() {
                            upload.begin_attempt();
                            sent.clear();
                        }
                    }
                    Op::Piece(..) | Op::End(_) if ended.is_some() => {}
                    Op::Piece(len, last) => {
                        let Some(keep) = drain(&mut upload, &mut sent) else { continue };
                        let piece = Bytes::from(vec![u8::try_from(came.len() % 251).unwrap(); len]);
                        came.extend_from_slice(&piece);
                        sent.extend_from_slice(&piece);
                        if keep { upload.keep(&piece, &buffers) } else { upload.pass() }
                        if last {
                            upload.end_received();
                            upload.end_sent(None);
                            ended = Some(false);
                        }
                    }
                    Op::End(trailers) => {
                        if drain(&mut upload, &mut sent).is_none() { continue }
                        upload.end_received();
                        upload.end_sent(trailers.then(Box::default));
                        ended = Some(trailers);
                    }
                }
                drain(&mut upload, &mut sent);
                prop_assert_eq!(&sent, &came);
                prop_assert_eq!(upload.is_received(), ended.is_some());
                prop_assert_eq!(upload.is_sent(), ended.is_some());
                prop_assert_eq!(upload.trailers().is_some(), ended == Some(true));
                prop_assert!(buffers.bytes_out() <= keep_max);
            }
        }
    }
}
