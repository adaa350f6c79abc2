//! Tests of the decoder and the encoder together.

use super::*;
use crate::field_section::{Bounds, CollectingSink, OutgoingField, OutgoingName};
use crate::head::Head;
use crate::names::Known;

mod decoding;
mod encoding;
mod examples;

const BOUNDS: Bounds = Bounds { bytes: 8192, fields: 100 };

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

/// Encodes fields one after the other, without what a block begins with.
fn block_of(encoder: &mut HpackEncoder, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        let known = Known::of(name.as_bytes());
        let name = known.map_or(OutgoingName::Other(name.as_bytes()), OutgoingName::Known);
        let field = OutgoingField { name, value: value.as_bytes(), is_sensitive: false };
        encoder.put(&mut block, field);
    }
    block
}
