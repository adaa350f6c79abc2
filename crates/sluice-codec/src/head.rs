//! The head of a message, whatever version it arrived in.
//!
//! Owns: the start line as pseudo-headers and the headers, in one flat buffer. Refuses to know: how heads are written
//! on a wire. Keeps: order, duplicates and case of headers; hop-by-hop headers are not in here, nor is `Host`, which is
//! the authority; a head with an invalid header reports it ([`Head::is_sound`]), and no codec writes it.
//!
//! A head is reused from message to message: clearing it keeps its memory, so that none is allocated in steady state.

use std::fmt;

use crate::names::{Known, is_field_value};

mod building;
mod fields;
mod start_line;

pub(crate) use fields::decimal;
pub use start_line::{Method, Version};

/// The place of a piece of text in the buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TextSpan {
    pub(crate) start: u32,
    pub(crate) len: u32,
}

impl TextSpan {
    #[allow(clippy::cast_possible_truncation, reason = "heads are bounded far below 4 GiB")]
    pub(crate) const fn new(start: usize, len: usize) -> Self {
        Self { start: start as u32, len: len as u32 }
    }
}

#[derive(Clone, Copy, Debug)]
struct HeadField {
    name: TextSpan,
    value: TextSpan,
    known: Option<Known>,
    /// Whether name and value are in the buffer as an HTTP/1 line: `name: value\r\n`.
    line: bool,
    removed: bool,
    /// Whether the peer asked that no table remembers it, RFC 7541 §7.1.3.
    sensitive: bool,
}

/// A header, for codecs.
pub(crate) struct HeadEntry<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) value: &'a [u8],
    pub(crate) known: Option<Known>,
    pub(crate) is_sensitive: bool,
}

/// A request head, a response head, or trailers.
#[derive(Clone)]
pub struct Head {
    bytes: Vec<u8>,
    fields: Vec<HeadField>,
    /// One more than the index of the first header of each known name; 0 if there is none.
    first: [u16; Known::COUNT],
    /// 0 for a request and for trailers.
    status: u16,
    method: Method,
    version: Version,
    method_text: String,
    scheme: String,
    authority: String,
    path: String,
    /// The protocol requested by `Upgrade` or `:protocol`.
    upgrade: String,
    /// The reason phrase of a response over HTTP/1, if it is not the usual one of the status.
    reason: String,
    /// Whether an invalid header was added.
    unsound: bool,
    /// The path or the authority was set.
    target_set: bool,
    /// The parts of the start line that no table may remember, by [`PseudoField::bit`].
    sensitive: u8,
}

impl Default for Head {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            fields: Vec::new(),
            first: [0; Known::COUNT],
            status: 0,
            method: Method::Get,
            version: Version::Http11,
            method_text: String::new(),
            scheme: String::new(),
            authority: String::new(),
            path: String::new(),
            upgrade: String::new(),
            reason: String::new(),
            unsound: false,
            target_set: false,
            sensitive: 0,
        }
    }
}

impl Head {
    /// Creates a response head with a status and no headers.
    pub fn response(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// Creates a request head without headers.
    pub fn request(method: &str, scheme: &str, authority: &str, path: &str) -> Self {
        let mut head = Self::default();
        head.set_method(method.as_bytes());
        head.set_scheme(scheme.as_bytes());
        head.set_authority(authority.as_bytes());
        head.set_path(path.as_bytes());
        head
    }

    /// Clears everything; the memory is kept.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.fields.clear();
        self.first = [0; Known::COUNT];
        (self.status, self.method, self.version) = (0, Method::Get, Version::Http11);
        (self.unsound, self.target_set, self.sensitive) = (false, false, 0);
        for text in [
            &mut self.method_text,
            &mut self.scheme,
            &mut self.authority,
            &mut self.path,
            &mut self.upgrade,
            &mut self.reason,
        ] {
            text.clear();
        }
    }

    /// Returns the status of a response; 0 for a request.
    pub const fn status(&self) -> u16 {
        self.status
    }

    /// Sets the status.
    pub const fn set_status(&mut self, status: u16) {
        self.status = status;
    }

    /// Returns the reason phrase of a response, if one was set. Only HTTP/1 has one, and only people read it.
    pub fn reason(&self) -> Option<&str> {
        Some(&*self.reason).filter(|reason| !reason.is_empty())
    }

    /// Sets the reason phrase; returns whether it is one (RFC 9112 §4), in ASCII.
    pub fn set_reason(&mut self, phrase: &[u8]) -> bool {
        is_field_value(phrase) && replace(&mut self.reason, phrase, b'\t')
    }

    /// Returns the method of a request.
    pub const fn method(&self) -> Method {
        self.method
    }

    /// Returns the method as text.
    pub fn method_text(&self) -> &str {
        &self.method_text
    }

    /// Sets the method and returns whether the text was accepted. As in every part of the start line, text that is not
    /// ASCII or contains a space or a control character is refused and changes nothing.
    pub fn set_method(&mut self, method: &[u8]) -> bool {
        let taken = replace(&mut self.method_text, method, b'!');
        self.method = Method::of(self.method_text.as_bytes());
        taken
    }

    /// Returns the version that the message arrived in.
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Sets the version.
    pub const fn set_version(&mut self, version: Version) {
        self.version = version;
    }

    /// Returns `http` or `https`; empty if the message did not state it.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// Sets the scheme; returns whether the text was accepted.
    pub fn set_scheme(&mut self, scheme: &[u8]) -> bool {
        replace(&mut self.scheme, scheme, b'!')
    }

    /// Returns the authority: `Host` or `:authority`. Empty if there was none.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Sets the authority; returns whether the text was accepted.
    pub fn set_authority(&mut self, authority: &[u8]) -> bool {
        self.target_set = true;
        replace(&mut self.authority, authority, b'!')
    }

    /// Whether path or authority were set since the last call.
    pub const fn take_target_change(&mut self) -> bool {
        std::mem::replace(&mut self.target_set, false)
    }

    /// Returns path and query: `/a?b`, or `*`; empty for CONNECT.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Sets path and query; returns whether the text was accepted.
    pub fn set_path(&mut self, path: &[u8]) -> bool {
        self.target_set = true;
        replace(&mut self.path, path, b'!')
    }

    /// Returns the path without its query.
    pub fn path_only(&self) -> &str {
        let path = self.path();
        path.split_once('?').map_or(path, |(path, _)| path)
    }

    /// Returns the query, without its question mark.
    pub fn query(&self) -> Option<&str> {
        self.path().split_once('?').map(|(_, query)| query)
    }

    /// Returns the protocol requested by `Upgrade` or `:protocol`, or agreed on by a 101.
    pub fn upgrade(&self) -> Option<&str> {
        Some(&*self.upgrade).filter(|text| !text.is_empty())
    }

    /// Sets the requested protocol, empty for none; returns whether the text was accepted.
    pub fn set_upgrade(&mut self, protocol: &[u8]) -> bool {
        replace(&mut self.upgrade, protocol, b' ')
    }
}

/// Sets `text` to `new` if that is ASCII of at least `least`; otherwise leaves it and returns false. Codecs let nothing
/// else get this far; a filter might.
fn replace(text: &mut String, new: &[u8], least: u8) -> bool {
    // Without a branch per byte, so that the compiler compares many at once.
    let odd = new.iter().fold(false, |odd, byte| odd | (*byte >= 0x7f) | (*byte < least));
    let Some(new) = std::str::from_utf8(new).ok().filter(|_| !odd) else { return false };
    text.clear();
    text.push_str(new);
    true
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.status == 0 {
            writeln!(f, "{} {}{}", self.method_text(), self.authority(), self.path())?;
        } else {
            writeln!(f, "{}", self.status)?;
        }
        for (name, value) in self.fields() {
            writeln!(f, "{}: {}", name.escape_ascii(), value.escape_ascii())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
