//! How many messages a body contains.
//!
//! Owns: the place within the current frame. Refuses to know: messages, which are passed over. Keeps: nothing is held,
//! whatever a frame announces; how the body was cut makes no difference.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

/// Bytes of a frame before its message.
const PREFIX: u8 = 5;

/// Counts the messages of a body.
///
/// Takes:  the pieces of a body, cut anywhere.
/// Gives:  how many messages began in a piece: whose length is complete.
/// Errors: none; what is no gRPC is counted as if it were.
/// Holds:  twelve bytes.
/// Source: gRPC over HTTP2, Length-Prefixed-Message.
#[derive(Clone, Copy, Debug, Default)]
pub struct GrpcMessageCount {
    /// Bytes of the prefix that have been seen, of the current frame.
    seen: u8,
    /// The length that these have spelt so far, then the bytes of the message that are still to come.
    left: u32,
}

impl GrpcMessageCount {
    /// Takes the next piece; returns the number of messages that began in it.
    pub fn push(&mut self, mut piece: &[u8]) -> u64 {
        let mut begun: u64 = 0;
        while let Some((byte, rest)) = piece.split_first() {
            if self.seen < PREFIX {
                // The flag comes first; the shifts that follow push it out.
                self.left = (self.left << 8) | u32::from(*byte);
                self.seen = self.seen.saturating_add(1);
                piece = rest;
                begun = begun.saturating_add(u64::from(self.seen == PREFIX));
            } else {
                let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(piece.len());
                piece = piece.get(here..).unwrap_or_default();
                self.left = self.left.saturating_sub(u32::try_from(here).unwrap_or(u32::MAX));
            }
            if self.seen == PREFIX && self.left == 0 {
                self.seen = 0;
            }
        }
        begun
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::frame;
    use proptest::prelude::*;

    /// The number of messages in a body that arrives in pieces of these lengths, and then the rest.
    fn count(body: &[u8], cuts: &[usize]) -> u64 {
        let (mut counter, mut body) = (GrpcMessageCount::default(), body);
        let mut all: u64 = 0;
        for cut in cuts {
            let (piece, rest) = body.split_at((*cut).min(body.len()));
            all = all.saturating_add(counter.push(piece));
            body = rest;
        }
        all.saturating_add(counter.push(body))
    }

    #[test]
    fn messages_are_counted_when_their_length_is_known() {
        let mut counter = GrpcMessageCount::default();
        for (piece, begun) in
            [(&[0, 0, 0, 0][..], 0), (&[2], 1), (&[7], 0), (&[7, 1, 0, 0, 0, 0, 0], 1), (&[], 0)]
        {
            assert_eq!(counter.push(piece), begun, "{piece:?}");
        }
        assert_eq!(count(&[0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3], &[]), 1, "the rest never comes");
    }

    proptest! {
        #[test]
        fn cuts_make_no_difference(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..9),
            cuts in prop::collection::vec(0_usize..4, 0..60),
        ) {
            let body: Vec<u8> = messages.iter().flat_map(|message| frame(message).unwrap()).collect();
            prop_assert_eq!(count(&body, &cuts), messages.len() as u64);
            prop_assert_eq!(count(&body, &vec![1; body.len()]), messages.len() as u64);
        }

        #[test]
        fn any_bytes_are_counted_alike_however_cut(
            body in prop::collection::vec(any::<u8>(), 0..200),
            cuts in prop::collection::vec(0_usize..20, 0..20),
        ) {
            prop_assert_eq!(count(&body, &cuts), count(&body, &[]));
        }
    }
}
