//! What libraries pass: texts, and places to write to.
//!
//! Owns: the checks on pointers and lengths that can be made. Refuses to know: what a text means. Keeps: null, a length
//! beyond the bound and a place that is not aligned are answers, and are not followed.

use sluice_abi::{AbiText, result};

/// Reads a text of at most `max` bytes.
///
/// # Errors
/// The answer for the library.
///
/// # Safety
/// `text` is null, or has `size` bytes that stay until `'a` ends.
pub(super) unsafe fn read<'a>(text: AbiText, max: usize) -> Result<&'a [u8], i32> {
    if text.size == 0 {
        return Ok(&[]);
    }
    if text.data.is_null() {
        return Err(result::INVALID);
    }
    if text.size > max {
        return Err(result::TOO_LARGE);
    }
    // SAFETY: it is not null, and has these bytes by the promise of the caller.
    Ok(unsafe { std::slice::from_raw_parts(text.data, text.size) })
}

/// Writes to a place of the library.
///
/// # Safety
/// `place` is null, not aligned, or may be written to.
pub(super) unsafe fn write<T>(place: *mut T, value: T) -> i32 {
    if place.is_null() || !place.is_aligned() {
        return result::INVALID;
    }
    // SAFETY: it may be written to, by the promise of the caller.
    unsafe { place.write(value) };
    result::OK
}

/// A text for a log: one line of printable characters, of at most `max` bytes.
pub(super) fn one_line(text: &[u8], max: usize) -> String {
    let text = String::from_utf8_lossy(&text[..text.len().min(max)]);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
