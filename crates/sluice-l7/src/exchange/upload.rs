//! The body of a request as far as it has come, and what of it can be sent again.
//!
//! Owns: the pieces that are kept for another attempt, and how far the present attempt is.
//! Refuses to know: streams. Keeps: an attempt sends every piece once and in order; what was not kept is
//! never sent again; the pieces that are kept are bounded in bytes and number and counted in the worker's
//! buffers.

use bytes::Bytes;
use sluice_codec::Head;
use sluice_io::buffers::{BufPool, Charge};

/// Pieces of a body that are kept for another attempt; a client that sends more and smaller ones gets one attempt.
const PIECES_MAX: usize = 1024;

/// Bytes below which a piece is copied to be kept.
const SMALL: usize = 1024;

/// The request's body.
#[derive(Debug)]
pub(super) struct Upload {
    stored: Stored,
    progress: Progress,
    /// Bytes that may be kept; 0 where there is no other attempt.
    keep_max: usize,
    trailers: Option<Box<Head>>,
}

/// What can be sent again.
#[derive(Debug)]
enum Stored {
    /// Everything that has come.
    Kept(Kept),
    /// Not everything.
    Gone,
    /// It is no message but a tunnel, whose bytes are sent once.
    Tunnel,
}

#[derive(Debug, Default)]
struct Kept {
    pieces: Vec<Bytes>,
    bytes: usize,
    charge: Option<Charge>,
    /// Pieces that the present attempt has sent.
    sent: usize,
}

/// How far the body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// More is to come from the client.
    Receiving,
    /// All has come; the present attempt has not sent all of it.
    Received,
    /// The present attempt has sent all of it.
    Sent,
}

/// What the present attempt does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It sends a piece that is kept.
    Send {
        /// The piece.
        bytes: Bytes,
        /// Nothing follows.
        last: bool,
    },
    /// It ends the body, with [`Upload::trailers`].
    End,
    /// It waits for the client's next piece.
    Read {
        /// The piece is to be kept, by [`Upload::keep`].
        keep: bool,
    },
    /// All is sent.
    Nothing,
}

impl Upload {
    /// The body of a request whose headers have come; `whole` says that nothing follows them.
    pub(super) const fn new(whole: bool) -> Self {
        let kept = Kept { pieces: Vec::new(), bytes: 0, charge: None, sent: 0 };
        let progress = if whole { Progress::Received } else { Progress::Receiving };
        Self { stored: Stored::Kept(kept), progress, keep_max: 0, trailers: None }
    }

    /// What a client sends through a tunnel.
    pub(super) const fn of_tunnel() -> Self {
        Self { stored: Stored::Tunnel, progress: Progress::Receiving, keep_max: 0, trailers: None }
    }

    /// Allows that so many bytes are kept for another attempt.
    pub(super) const fn allow_replay(&mut self, keep_max: usize) {
        self.keep_max = keep_max;
    }

    /// Whether the request is nothing but headers.
    pub(super) const fn is_empty(&self) -> bool {
        let kept = match &self.stored {
            Stored::Kept(kept) => kept.pieces.is_empty(),
            Stored::Gone | Stored::Tunnel => false,
        };
        self.is_received() && kept && self.trailers.is_none()
    }

    /// Whether all has come from the client.
    pub(super) const fn is_received(&self) -> bool {
        matches!(self.progress, Progress::Received | Progress::Sent)
    }

    /// Whether the present attempt has sent all.
    pub(super) const fn is_sent(&self) -> bool {
        matches!(self.progress, Progress::Sent)
    }

    /// Whether it belongs to a tunnel.
    pub(super) const fn is_tunnel(&self) -> bool {
        matches!(self.stored, Stored::Tunnel)
    }

    /// Whether another attempt can send it from the start.
    pub(super) const fn can_replay(&self) -> bool {
        matches!(self.stored, Stored::Kept(_))
    }

    /// The trailers, once they have come.
    pub(super) fn trailers(&self) -> Option<&Head> {
        self.trailers.as_deref()
    }

    /// Begins an attempt: everything that has come is sent from the start.
    pub(super) const fn begin_attempt(&mut self) {
        if let Stored::Kept(kept) = &mut self.stored {
            kept.sent = 0;
        }
        if self.is_received() {
            self.progress = if self.is_empty() { Progress::Sent } else { Progress::Received };
        }
    }

    /// What the present attempt does next. What is returned counts as sent.
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

    /// Notes that the client's last piece has come.
    pub(super) const fn end_received(&mut self) {
        if matches!(self.progress, Progress::Receiving) {
            self.progress = Progress::Received;
        }
    }

    /// Notes that the present attempt has sent the client's last piece, with trailers or without.
    pub(super) fn end_sent(&mut self, trailers: Option<Box<Head>>) {
        self.trailers = trailers;
        self.progress = Progress::Sent;
    }

    /// Notes trailers that came and are not sent yet.
    pub(super) fn set_trailers(&mut self, trailers: Box<Head>) {
        self.trailers = Some(trailers);
    }

    /// Notes that a piece was passed on and not kept.
    pub(super) fn pass(&mut self) {
        if !self.is_tunnel() {
            self.stored = Stored::Gone;
        }
    }

    /// Keeps a piece that is being sent, as long as all of them are few, small enough together, and the worker has
    /// room for them.
    pub(super) fn keep(&mut self, bytes: &Bytes, buffers: &BufPool) {
        let Stored::Kept(kept) = &mut self.stored else { return };
        kept.bytes += bytes.len();
        let charge = kept.charge.get_or_insert_with(|| buffers.charge());
        let fits = kept.bytes <= self.keep_max && kept.pieces.len() < PIECES_MAX;
        if !fits || charge.set(kept.bytes).is_err() {
            self.stored = Stored::Gone;
            return;
        }
        // A small piece may be part of a large buffer, which it would hold.
        let small = bytes.len() < SMALL;
        kept.pieces.push(if small { Bytes::copy_from_slice(bytes) } else { bytes.clone() });
        kept.sent = kept.pieces.len();
    }

    /// Makes `body` all that the client sent: a filter needed it as a whole, and it has come.
    pub(super) fn buffered(&mut self, body: Bytes) {
        if !body.is_empty() {
            let bytes = body.len();
            self.stored = Stored::Kept(Kept { pieces: vec![body], bytes, charge: None, sent: 0 });
        }
        self.begin_attempt();
    }

    /// What holds between any two calls.
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

    fn send(bytes: &'static [u8], last: bool) -> Next {
        Next::Send { bytes: Bytes::from_static(bytes), last }
    }

    #[test]
    fn what_is_kept_for_another_attempt_is_bounded_and_counted() {
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
    fn another_attempt_sends_what_was_kept_and_goes_on_reading() {
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
    fn trailers_come_behind_every_piece() {
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
    fn a_piece_that_was_not_kept_rules_another_attempt_out() {
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
    fn a_body_that_was_buffered_is_sent_as_one_piece_and_can_be_sent_again() {
        let mut upload = Upload::new(false);
        upload.end_received();
        upload.buffered(Bytes::from_static(b"all"));
        for _ in 0..2 {
            assert_eq!(upload.next(), send(b"all", true));
            upload.begin_attempt();
        }
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
        /// The client sends a piece, its last perhaps.
        Piece(usize, bool),
        /// The client ends with trailers or without.
        End(bool),
        /// The attempt fails, and another begins where that can be.
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
        /// Whatever comes and fails, each attempt sends what the client sent, once and in order, as far as it came.
        #[test]
        fn every_attempt_sends_what_the_client_sent(ops in ops(), keep_max in 0..10_000_usize) {
            let buffers = BufPool::new(1 << 20);
            let mut upload = Upload::new(false);
            upload.allow_replay(keep_max);
            upload.begin_attempt();
            let (mut came, mut sent, mut ended): (Vec<u8>, Vec<u8>, Option<bool>) = Default::default();
            // Sends what is kept; whether the client is to be read, and kept.
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
