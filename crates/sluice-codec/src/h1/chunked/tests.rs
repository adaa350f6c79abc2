#![allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "a test may panic")]

use super::*;
use proptest::prelude::*;

/// Reads `stream` in pieces of `step` bytes: the data, the trailer lines, and whether the body is complete.
fn read(stream: &[u8], step: usize) -> Result<(Vec<u8>, Vec<u8>, bool), ParseError> {
    let mut chunked = Chunked::default();
    let mut data = Vec::new();
    for piece in stream.chunks(step.max(1)) {
        let mut piece = piece.to_vec();
        let got = chunked.read(&mut piece, 1024)?;
        data.extend_from_slice(&piece[..got.data]);
        if chunked.is_done() {
            break;
        }
    }
    Ok((data, chunked.trailer_lines().to_vec(), chunked.is_done()))
}

#[track_caller]
fn check(stream: &[u8], expected: Result<&[u8], ParseError>) {
    for step in 1..=stream.len() {
        let got = read(stream, step);
        match (&got, &expected) {
            (Ok((data, _, true)), Ok(wanted)) => assert_eq!(data, wanted, "step {step}"),
            (Err(fault), Err(wanted)) => assert_eq!(fault, wanted, "step {step}"),
            _ => panic!("step {step}: {got:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn bodies_come_out_however_they_are_cut() {
    check(b"5\r\nhello\r\n0\r\n\r\n", Ok(b"hello"));
    check(b"5;x=\"y\"\r\nhello\r\n1\r\n!\r\n000\r\n\r\n", Ok(b"hello!"));
    check(b"0\r\nx: 1\r\ny: 2\r\n\r\n", Ok(b""));
    assert_eq!(read(b"0\r\nx: 1\r\n\r\n", 3).unwrap().1, b"x: 1\r\n\r\n");
}

#[test]
fn whatever_is_in_doubt_is_refused() {
    for (stream, fault) in [
        (&b"\r\nhello"[..], ParseError::ChunkSize),
        (b"g\r\n", ParseError::ChunkSize),
        (b"-1\r\n", ParseError::ChunkSize),
        (b"0x5\r\nhello\r\n", ParseError::ChunkSize),
        (b" 5\r\nhello\r\n", ParseError::ChunkSize),
        (b"5 \r\nhello\r\n", ParseError::ChunkSize),
        (b"5\nhello\r\n", ParseError::ChunkSize),
        (b"5;a\nhello\r\n", ParseError::ChunkSize),
        (b"5\rxhello", ParseError::ChunkSize),
        (b"1111111111111111\r\n", ParseError::ChunkSize),
        (b"3\r\nhello\r\n", ParseError::ChunkEnd),
        (b"5\r\nhello\n", ParseError::ChunkEnd),
        (b"0\r\n\rx", ParseError::BareCr),
        (b"0\r\nx: 1\n", ParseError::BareLf),
    ] {
        check(stream, Err(fault));
    }
    let long = [b"5;".as_slice(), &[b'a'; 5000], b"\r\n"].concat();
    assert_eq!(read(&long, 100).unwrap_err(), ParseError::ChunkExtensionTooLong);
    let trailers = [b"0\r\n".as_slice(), &b"x: y\r\n".repeat(300), b"\r\n"].concat();
    assert_eq!(read(&trailers, 100).unwrap_err(), ParseError::TrailersTooLarge);
}

proptest! {
    #[test]
    fn what_is_written_in_chunks_reads_back(
        parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..5),
        step in 1_usize..400,
    ) {
        let mut stream = Vec::new();
        for part in &parts {
            stream.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
            stream.extend_from_slice(part);
            stream.extend_from_slice(b"\r\n");
        }
        stream.extend_from_slice(b"0\r\n\r\nGET");
        let (data, _, done) = read(&stream, step).unwrap();
        prop_assert!(done);
        prop_assert_eq!(data, parts.concat());
    }

    #[test]
    fn random_bytes_read_alike_however_they_are_cut(
        stream in prop::collection::vec(prop::sample::select(&b"0123af;\r\n\r\n \tx:"[..]), 0..60),
    ) {
        let whole = read(&stream, stream.len().max(1));
        prop_assert_eq!(read(&stream, 1), whole);
    }
}
