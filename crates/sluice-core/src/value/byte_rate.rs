//! Rates of bytes.
//!
//! Owns: their text. Refuses to know: what is sent at a rate. Keeps: a rate is never zero, and never meant in bits.

use super::{parse_size, show_size};

/// Bytes per second; at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteRate(pub u64);

/// Parses `1MiB/s`, `64KiB/s` or `500/s`.
///
/// # Errors
/// A message that states what was expected.
pub fn parse_byte_rate(text: &str) -> Result<ByteRate, String> {
    let wrong = || format!("expected bytes per second such as 1MiB/s, not `{text}`");
    let (size, unit) = text.split_once('/').ok_or_else(wrong)?;
    if unit != "s" {
        return Err(wrong());
    }
    match parse_size(size)? {
        0 => Err("at a rate of 0, nothing ever ends; refuse what is not to be served".into()),
        bytes => Ok(ByteRate(bytes)),
    }
}

/// Formats a rate as [`parse_byte_rate`] reads it.
pub fn show_byte_rate(rate: ByteRate) -> String {
    format!("{}/s", show_size(rate.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_shown_as_they_are_written() {
        for text in ["1/s", "500/s", "64KiB/s", "1MiB/s", "3GiB/s"] {
            assert_eq!(show_byte_rate(parse_byte_rate(text).unwrap()), text);
        }
        for text in ["", "1MiB", "1MiB/m", "1MB/s", "0/s", "0KiB/s", "/s", "1MiB/s ", "-1/s"] {
            assert!(parse_byte_rate(text).is_err(), "{text}");
        }
    }
}
