//! Header blocks: no input panics, what comes out is bounded, and the table is the same whatever a message was refused
//! for.
//!
//! The first byte selects the size of the table; then follow blocks, each after its length and the kind of message.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_codec::hpack::{BlockRefusal, HpackDecoder};
use sluice_codec::{Bounds, Head};

const BOUNDS: Bounds = Bounds { bytes: 2048, fields: 20 };

const TABLES: [u32; 4] = [0, 70, 256, 4096];

fn broken(read: &Result<(), BlockRefusal>) -> Option<&'static str> {
    match read {
        Err(BlockRefusal::Compression(reason)) => Some(*reason),
        _ => None,
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((first, mut rest)) = input.split_first() else { return };
    let table = TABLES[usize::from(first % 4)];
    let (mut reader, mut skipper) = (HpackDecoder::new(table), HpackDecoder::new(table));
    let (mut head, mut scratch) = (Head::default(), Head::default());
    while let [length, kind, after @ ..] = rest {
        let (block, after) = after.split_at(after.len().min(usize::from(*length)));
        rest = after;
        let read = match kind % 4 {
            0 => reader.request(block, BOUNDS, &mut head),
            1 => reader.response(block, BOUNDS, &mut head),
            2 => reader.trailers(block, BOUNDS, &mut head),
            _ => {
                reader.set_table_max(TABLES[usize::from(kind / 4 % 4)]);
                skipper.set_table_max(TABLES[usize::from(kind / 4 % 4)]);
                reader.skip(block, &mut head)
            }
        };
        let size: usize = head.fields().map(|(name, value)| name.len() + value.len() + 32).sum();
        assert!(size <= BOUNDS.bytes, "more comes out than may");
        assert!(head.len() <= BOUNDS.fields || read.is_err(), "more fields come out than may");
        let skipped = skipper.skip(block, &mut scratch);
        assert_eq!(broken(&read), broken(&skipped));
        if broken(&read).is_some() {
            return;
        }
        assert_eq!(reader.bytes_held(), skipper.bytes_held());
        assert!(reader.bytes_held() <= 2 * 4096 + 4096);
    }
});
