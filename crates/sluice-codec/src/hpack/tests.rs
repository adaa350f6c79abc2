//! Tests of the decoder and the encoder together.

use super::*;
use crate::field_section::CollectingSink;

mod examples;

fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pair = |two: &[u8]| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap();
    digits.chunks(2).map(pair).collect()
}

/// Decodes a block into a list of fields.
fn fields_of(decoder: &mut HpackDecoder, block: &[u8]) -> Result<CollectingSink, &'static str> {
    let mut fields = CollectingSink::default();
    decoder.decode(block, &mut fields).map(|()| fields)
}
