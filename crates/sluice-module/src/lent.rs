//! What a hook is given beside its message, and what it may write to the log.
//!
//! Owns: the bounds of one hook. Refuses to know: what hook it is. Keeps: a text that was lent stays where it is until the hook ends.

use sluice_sys::module::{HostAnswer, HostRefusal};

/// The most bytes of values and facts that a hook is lent.
const LENT_MAX: usize = 1 << 20;

/// The most lines of a hook in the log.
const LINES_MAX: u32 = 100;

/// Texts that a hook was lent.
#[derive(Debug, Default)]
pub(crate) struct Lent {
    texts: Vec<Box<str>>,
    bytes: usize,
}

impl Lent {
    /// Keeps a text until the hook ends.
    pub(crate) fn keep(&mut self, text: String) -> HostAnswer<Option<&[u8]>> {
        self.bytes += text.len();
        if self.bytes > LENT_MAX {
            return Err(HostRefusal::TooLarge);
        }
        self.texts.push(text.into());
        Ok(self.texts.last().map(|text| text.as_bytes()))
    }
}

/// The lines of a hook in the log.
#[derive(Debug, Default)]
pub(crate) struct LogLines(u32);

impl LogLines {
    /// What is written for a line, if anything is.
    pub(crate) const fn next<'l>(&mut self, line: &'l str) -> Option<&'l str> {
        self.0 = self.0.saturating_add(1);
        match self.0 {
            LINES_MAX => Some("further lines of this hook are left out"),
            ..LINES_MAX => Some(line),
            _ => None,
        }
    }
}
