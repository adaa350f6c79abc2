//! Watches what a peer sends on an HTTP/2 connection, by the frame headers.
//!
//! Owns: how many bytes of bodies have arrived, and whether the frames make progress. Refuses to know: the payload of
//! frames, sockets, time beyond what it is given. Keeps: it sees each frame once, however the bytes are split. A peer
//! may always send frames that request or carry something; others it may send as fast as a busy, honest peer does, and
//! no faster.
//!
//! Source: RFC 9113 §4.1, §6 and §10.5.

use sluice_core::Moment;

/// Frames without progress that may arrive at once.
const BURST: u32 = 2_000;

/// Frames without progress that may arrive each second, indefinitely.
const PER_SECOND: u32 = 200;

/// Frames without progress that are allowed for each frame that requests something, carries something, or was sent by
/// us: peers respond to such frames with two window updates and, to measure the round trip, a ping.
const MADE_GOOD: u32 = 4;

/// Bytes of a body for which honest peers update both windows: some do so for each 4 KiB that they read.
const UPDATED_EACH: usize = 4 << 10;

/// A padded DATA frame of at most this length may be nothing but padding.
const PADDING_MAX: usize = 256;

/// Bytes of a frame header.
const HEAD: usize = 9;

/// Bytes that a client sends before its first frame.
const PREFACE: usize = 24;

/// The PADDED flag, RFC 9113 §6.1.
const PADDED: u8 = 8;

mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
}

/// A reader of frame headers.
#[derive(Debug)]
pub struct FrameWatch {
    /// The header of the next frame, as far as it has arrived.
    head: [u8; HEAD],
    head_len: usize,
    /// Bytes to skip: the rest of a payload, or of the preface.
    skip: usize,
    data: u64,
    left: u32,
    filled_at: Moment,
}

impl FrameWatch {
    /// Creates a reader of what a client sends, preface first.
    pub fn of_client(now: Moment) -> Self {
        Self { skip: PREFACE, ..Self::of_server(now) }
    }

    /// Creates a reader of what a server sends.
    pub fn of_server(now: Moment) -> Self {
        Self { head: [0; HEAD], head_len: 0, skip: 0, data: 0, left: BURST, filled_at: now }
    }

    /// Reads received bytes.
    pub fn take(&mut self, mut bytes: &[u8], now: Moment) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let wanted = (HEAD - self.head_len).min(bytes.len());
            let (head, rest) = bytes.split_at(wanted);
            self.head[self.head_len..self.head_len + wanted].copy_from_slice(head);
            self.head_len += wanted;
            bytes = rest;
            if self.head_len == HEAD {
                self.head_len = 0;
                self.frame(now);
            }
        }
    }

    /// Handles a complete frame header.
    fn frame(&mut self, now: Moment) {
        let [high, middle, low, kind, flags, ..] = self.head;
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        self.skip = length;
        match kind {
            kind::DATA if length > 0 => {
                self.data += length as u64;
                if flags & PADDED != 0 && length <= PADDING_MAX {
                    self.stalled(now);
                } else {
                    self.progress(length);
                }
            }
            kind::HEADERS => self.progress(length),
            _ => self.stalled(now),
        }
    }

    /// Notes that a piece of a body was sent to the peer.
    pub fn note_sent(&mut self, length: usize) {
        self.progress(length);
    }

    /// Notes a frame that requested or carried something, in either direction.
    fn progress(&mut self, length: usize) {
        let updates = u32::try_from(2 * length.div_ceil(UPDATED_EACH)).unwrap_or(BURST);
        self.left = self.left.saturating_add(MADE_GOOD).saturating_add(updates).min(BURST);
    }

    /// Notes a frame that made no progress.
    fn stalled(&mut self, now: Moment) {
        if self.left <= 1 {
            let millis = now.since(self.filled_at).as_millis().min(u128::from(u32::MAX));
            let more = u64::try_from(millis).unwrap_or(u64::MAX) * u64::from(PER_SECOND) / 1000;
            if more > 0 {
                self.left =
                    u32::try_from(more).unwrap_or(BURST).saturating_add(self.left).min(BURST);
                self.filled_at = now;
            }
        }
        self.left = self.left.saturating_sub(1);
    }

    /// Whether more frames without progress arrived than an honest peer sends.
    pub const fn is_flood(&self) -> bool {
        self.left == 0
    }

    /// Returns the bytes of bodies received, including padding.
    pub const fn data(&self) -> u64 {
        self.data
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use proptest::prelude::*;

    const START: Moment = Moment::from_micros(0);

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn data_is_counted() {
        let mut watch = FrameWatch::of_client(START);
        watch.take(&[0; PREFACE], START);
        watch.take(&frame(kind::DATA, 0, b"hello"), START);
        watch.take(&frame(kind::DATA, 8, b"\x02hi\0\0"), START);
        watch.take(&frame(kind::HEADERS, 0, b"12345"), START);
        assert_eq!((watch.data(), watch.is_flood()), (10, false));
    }

    #[test]
    fn frames_that_bring_nothing_are_a_flood() {
        for (kind, payload) in
            [(4, &b""[..]), (6, b"12345678"), (8, b"1234"), (2, b"12345"), (77, b""), (0, b"")]
        {
            let mut watch = FrameWatch::of_server(START);
            let frame = frame(kind, 0, payload);
            for n in 1..BURST {
                watch.take(&frame, START);
                assert!(!watch.is_flood(), "{kind} {n}");
            }
            watch.take(&frame, START);
            assert!(watch.is_flood(), "{kind}");
        }
    }

    #[test]
    fn honest_peers_are_no_flood() {
        // A client that receives a long body: two window updates and a ping for each frame that we send.
        let mut watch = FrameWatch::of_client(START);
        watch.take(&[0; PREFACE], START);
        for _ in 0..10 * BURST {
            // 64 KiB, read in pieces of 4 KiB: two updates for each.
            watch.note_sent(64 << 10);
            for _ in 0..16 {
                watch.take(&[frame(8, 0, b"1234"), frame(8, 0, b"1234")].concat(), START);
            }
            watch.note_sent(1);
            for (kind, payload) in [(8, &b"1234"[..]), (8, b"1234"), (6, b"12345678")] {
                watch.take(&frame(kind, 0, payload), START);
            }
            assert!(!watch.is_flood());
        }
        // A slow sender that stays within the rate.
        let mut now = START;
        for _ in 0..10 * BURST {
            now = now.after(Duration::from_secs(1) / PER_SECOND);
            watch.take(&frame(6, 0, b"12345678"), now);
            assert!(!watch.is_flood());
        }
    }

    proptest! {
        #[test]
        fn cutting_changes_nothing(
            frames in prop::collection::vec((0_u8..10, any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 0..20),
            cuts in prop::collection::vec(1_usize..30, 1..10),
        ) {
            let mut bytes = vec![b'p'; PREFACE];
            frames.iter().for_each(|(kind, flags, payload)| bytes.extend(frame(*kind, *flags, payload)));
            let (mut whole, mut cut) = (FrameWatch::of_client(START), FrameWatch::of_client(START));
            whole.take(&bytes, START);
            let mut rest = &bytes[..];
            for size in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, behind) = rest.split_at((*size).min(rest.len()));
                cut.take(piece, START);
                rest = behind;
            }
            prop_assert_eq!(format!("{whole:?}"), format!("{cut:?}"));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            FrameWatch::of_server(START).take(&bytes, START);
        }
    }
}
