//! Maps of headers as bytes.
//!
//! Owns: their form in the memory of a guest: the number of pairs, the lengths of names and values, then these, each with a zero
//! byte. Refuses to know: headers. Keeps: no bytes of a guest lead outside of them.
//!
//! Source: `docs` of the proxy-wasm specification, version 0.2.1, "Serialized map".

use crate::abi::Status;
use crate::limits::{MAP_BYTES, MAP_ENTRIES};

/// A name and its value.
pub(crate) type FieldPair = (Vec<u8>, Vec<u8>);

/// Writes pairs.
pub(crate) fn encode(pairs: &[FieldPair]) -> Vec<u8> {
    let number = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&number(pairs.len()));
    for (name, value) in pairs {
        bytes.extend_from_slice(&number(name.len()));
        bytes.extend_from_slice(&number(value.len()));
    }
    for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
        bytes.extend_from_slice(text);
        bytes.push(0);
    }
    bytes
}

/// Reads pairs. Nothing at all is no pairs.
///
/// # Errors
/// They are malformed, or too many.
pub(crate) fn decode(bytes: &[u8]) -> Result<Vec<FieldPair>, Status> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    if bytes.len() > MAP_BYTES {
        return Err(Status::BadArgument);
    }
    let mut lengths = Cursor(bytes);
    let count = lengths.number()?;
    if count > MAP_ENTRIES {
        return Err(Status::BadArgument);
    }
    let mut texts = Cursor(lengths.0.get(count * 8..).ok_or(Status::ParseFailure)?);
    let mut pairs = Vec::with_capacity(count);
    for _ in 0..count {
        let (name, value) = (lengths.number()?, lengths.number()?);
        pairs.push((texts.text(name)?, texts.text(value)?));
    }
    Ok(pairs)
}

/// What is left to read.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn number(&mut self) -> Result<usize, Status> {
        let (number, rest) = self.0.split_first_chunk::<4>().ok_or(Status::ParseFailure)?;
        self.0 = rest;
        usize::try_from(u32::from_le_bytes(*number)).map_err(|_| Status::ParseFailure)
    }

    fn text(&mut self, length: usize) -> Result<Vec<u8>, Status> {
        let (text, rest) = self.0.split_at_checked(length).ok_or(Status::ParseFailure)?;
        // The last zero byte is left out by some guests.
        self.0 = match rest.split_first() {
            None => rest,
            Some((0, rest)) => rest,
            Some(_) => return Err(Status::ParseFailure),
        };
        Ok(text.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str, value: &str) -> FieldPair {
        (name.as_bytes().to_vec(), value.as_bytes().to_vec())
    }

    #[test]
    fn what_was_written_is_read() {
        for pairs in [vec![], vec![pair("a", "1")], vec![pair("", ""), pair("b", "x\0y")]] {
            assert_eq!(decode(&encode(&pairs)), Ok(pairs));
        }
    }

    #[test]
    fn what_is_cut_or_too_much_is_refused() {
        let bytes = encode(&[pair("name", "value"), pair("b", "2")]);
        for length in 1..bytes.len() - 1 {
            assert_eq!(decode(&bytes[..length]), Err(Status::ParseFailure), "{length} bytes");
        }
        assert_eq!(decode(&u32::MAX.to_le_bytes()), Err(Status::BadArgument));
        assert_eq!(decode(&vec![0; MAP_BYTES + 1]), Err(Status::BadArgument));
        let huge = [1_u32.to_le_bytes(), u32::MAX.to_le_bytes(), 0_u32.to_le_bytes()].concat();
        assert_eq!(decode(&huge), Err(Status::ParseFailure));
    }
}
