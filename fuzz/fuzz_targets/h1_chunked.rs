//! The chunked coding: no input panics, and splitting changes neither the data nor the verdict.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_codec::h1::chunked::Chunked;

/// The data up to the end of the body, the number of bytes read for it, and the trailers.
type Outcome = Option<(Vec<u8>, usize, Vec<u8>)>;

fn decode(stream: &[u8], step: usize) -> Outcome {
    let (mut chunked, mut data, mut total) = (Chunked::default(), Vec::new(), 0);
    for piece in stream.chunks(step) {
        let mut piece = piece.to_vec();
        let got = chunked.read(&mut piece, 1024).ok()?;
        data.extend_from_slice(&piece[..got.data]);
        total += got.read;
        if chunked.is_done() {
            return Some((data, total, chunked.trailer_lines().to_vec()));
        }
    }
    Some((data, total, Vec::new()))
}

fuzz_target!(|stream: &[u8]| {
    assert_eq!(decode(stream, 1), decode(stream, stream.len().max(1)));
});
