//! The head of a message, whatever version it arrived in.
//!
//! Owns: the start line as pseudo-headers and the headers, in one flat buffer. Refuses to know: how heads are written
//! on a wire. Keeps: order, duplicates and case of headers; hop-by-hop headers are not in here, nor is `Host`, which is
//! the authority; a head with an invalid header reports it ([`Head::is_sound`]), and no codec writes it.
//!
//! A head is reused from message to message: clearing it keeps its memory, so that none is allocated in steady state.

use std::fmt;

use crate::names::{Known, PseudoField, is_field_value, is_token, make_lower};

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

/// An HTTP version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    #[default]
    Http11,
    /// HTTP/2.
    Http2,
    /// HTTP/3.
    Http3,
}

impl Version {
    /// Whether another protocol is requested by extended CONNECT, RFC 8441 and RFC 9220, rather than by `Upgrade`.
    pub const fn has_extended_connect(self) -> bool {
        matches!(self, Self::Http2 | Self::Http3)
    }

    /// Returns the version as access logs show it: `HTTP/1.1`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
            Self::Http3 => "HTTP/3",
        }
    }
}

/// A request method that Sluice has to know, or any other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the name of its method")]
pub enum Method {
    #[default]
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
    Other,
}

impl Method {
    /// Returns the method named `text`; methods are case-sensitive, RFC 9110 §9.1.
    pub fn of(text: &[u8]) -> Self {
        match text {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"CONNECT" => Self::Connect,
            b"OPTIONS" => Self::Options,
            b"TRACE" => Self::Trace,
            b"PATCH" => Self::Patch,
            _ => Self::Other,
        }
    }

    /// Whether the method is idempotent, RFC 9110 §9.2.2.
    pub const fn is_idempotent(self) -> bool {
        matches!(
            self,
            Self::Get | Self::Head | Self::Put | Self::Delete | Self::Options | Self::Trace
        )
    }

    /// Whether the method is safe (read-only), RFC 9110 §9.2.1.
    pub const fn is_safe(self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::Options | Self::Trace)
    }
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

    // --- the start line ---

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

    // --- fields ---

    /// Returns the headers in order: name and value.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let live = self.fields.iter().filter(|field| !field.removed);
        live.map(|field| (self.slice(field.name), self.slice(field.value)))
    }

    /// Returns the number of headers.
    pub fn len(&self) -> usize {
        self.fields.iter().filter(|field| !field.removed).count()
    }

    /// Whether there are no headers.
    pub fn is_empty(&self) -> bool {
        self.fields.iter().all(|field| field.removed)
    }

    /// Returns the first value of a known header.
    pub fn get(&self, known: Known) -> Option<&[u8]> {
        let place = usize::from(self.first[known as usize]).checked_sub(1)?;
        self.fields.get(place).map(|field| self.slice(field.value))
    }

    /// Returns the first value of the header `name`, in any case.
    pub fn get_named(&self, name: &[u8]) -> Option<&[u8]> {
        match Known::of(name) {
            Some(known) => self.get(known),
            None => self.fields().find(|field| field.0.eq_ignore_ascii_case(name)).map(|f| f.1),
        }
    }

    /// Returns every value of the header `name`.
    pub fn values<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let fits = move |field: &&(&[u8], &[u8])| field.0.eq_ignore_ascii_case(name);
        self.fields().filter(move |field| fits(&field)).map(|(_, value)| value)
    }

    /// Adds a header after all others. An invalid name or value (RFC 9110 §5.1, §5.5) makes the head unsound.
    pub fn append(&mut self, name: &[u8], value: &[u8]) {
        self.append_as(name, value, Known::of(name));
    }

    /// Adds a header whose name is known.
    pub fn append_known(&mut self, known: Known, value: &[u8]) {
        self.append_as(known.text().as_bytes(), value, Some(known));
    }

    fn append_as(&mut self, name: &[u8], value: &[u8], known: Option<Known>) {
        self.unsound |= (known.is_none() && !is_token(name)) || !is_field_value(value);
        self.append_line(name, value, known);
    }

    /// Makes `value` the only value of the header, in the place of the first or at the end.
    pub fn set(&mut self, name: &[u8], value: &[u8]) {
        self.set_as(name, value, Known::of(name));
    }

    /// [`Self::set`] for a header whose name is known.
    pub fn set_known(&mut self, known: Known, value: &[u8]) {
        self.set_as(known.text().as_bytes(), value, Some(known));
    }

    fn set_as(&mut self, name: &[u8], value: &[u8], known: Option<Known>) {
        let first = match known {
            Some(known) => usize::from(self.first[known as usize]).checked_sub(1),
            None => (0..self.fields.len()).find(|place| self.is_named(*place, name, known)),
        };
        let Some(first) = first else { return self.append_as(name, value, known) };
        for place in first + 1..self.fields.len() {
            if self.is_named(place, name, known) {
                self.fields[place].removed = true;
            }
        }
        self.unsound |= !is_field_value(value);
        let value = self.push(value);
        let field = &mut self.fields[first];
        (field.value, field.line) = (value, false);
    }

    /// Whether every header is valid. A filter may have added an invalid one, which a peer would read as something
    /// else.
    pub const fn is_sound(&self) -> bool {
        !self.unsound
    }

    /// Removes every header of that name; returns whether there was one.
    pub fn remove(&mut self, name: &[u8]) -> bool {
        self.remove_as(name, Known::of(name))
    }

    /// [`Self::remove`] for a header whose name is known.
    pub fn remove_known(&mut self, known: Known) -> bool {
        self.remove_as(known.text().as_bytes(), Some(known))
    }

    fn remove_as(&mut self, name: &[u8], known: Option<Known>) -> bool {
        if self.lacks(known) {
            return false;
        }
        let mut found = false;
        for place in 0..self.fields.len() {
            if self.is_named(place, name, known) {
                self.fields[place].removed = true;
                found = true;
            }
        }
        if let Some(known) = known {
            self.first[known as usize] = 0;
        }
        found
    }

    /// Removes every header for which `gone` is true.
    pub fn remove_where(&mut self, gone: impl Fn(&[u8], &[u8]) -> bool) {
        for place in 0..self.fields.len() {
            let field = self.fields[place];
            if field.removed || !gone(self.slice(field.name), self.slice(field.value)) {
                continue;
            }
            self.fields[place].removed = true;
            if let Some(known) = field.known
                && usize::from(self.first[known as usize]) == place + 1
            {
                let later = |other: &HeadField| other.known == Some(known) && !other.removed;
                self.first[known as usize] =
                    self.fields.iter().position(later).map_or(0, |place| number(place + 1));
            }
        }
    }

    /// Whether the absence of the header is known without a search.
    fn lacks(&self, known: Option<Known>) -> bool {
        known.is_some_and(|known| self.first[known as usize] == 0)
    }

    fn is_named(&self, place: usize, name: &[u8], known: Option<Known>) -> bool {
        let field = &self.fields[place];
        let same = match (known, field.known) {
            (Some(known), Some(other)) => known == other,
            (None, None) => self.slice(field.name).eq_ignore_ascii_case(name),
            _ => false,
        };
        same && !field.removed
    }

    /// Returns the value of `Content-Length`; codecs refuse heads with a malformed one.
    pub fn content_length(&self) -> Option<u64> {
        self.get(Known::ContentLength).and_then(decimal)
    }

    /// Whether this is gRPC, by its content type.
    pub fn is_grpc(&self) -> bool {
        self.get(Known::ContentType).is_some_and(|kind| {
            kind.get(..16).is_some_and(|kind| kind.eq_ignore_ascii_case(b"application/grpc"))
                && matches!(kind.get(16), None | Some(b'+' | b';' | b' '))
        })
    }

    /// Joins cookie crumbs into one header: HTTP/2 and HTTP/3 may split cookies, HTTP/1 may not, RFC 9113 §8.2.3 and
    /// RFC 9114 §4.2.1. Empty crumbs are dropped: they contain nothing, and would leave white space at an end.
    pub(crate) fn join_cookies(&mut self) {
        let Some(first) = usize::from(self.first[Known::Cookie as usize]).checked_sub(1) else {
            return;
        };
        let (start, mut sensitive) = (self.bytes.len(), false);
        for place in first..self.fields.len() {
            let field = self.fields[place];
            if field.known != Some(Known::Cookie) || field.removed {
                continue;
            }
            sensitive |= field.sensitive;
            self.fields[place].removed = place != first;
            let (at, len) = (field.value.start as usize, field.value.len as usize);
            if len > 0 && self.bytes.len() > start {
                self.bytes.extend_from_slice(b"; ");
            }
            self.bytes.extend_from_within(at..at + len);
        }
        let value = TextSpan::new(start, self.bytes.len() - start);
        let field = &mut self.fields[first];
        (field.value, field.line, field.sensitive) = (value, false, sensitive);
    }

    /// Returns the bytes that the headers take on an HTTP/1 wire.
    pub fn wire_size(&self) -> usize {
        self.fields().map(|(name, value)| name.len() + value.len() + 4).sum()
    }

    // --- for codecs ---

    /// Appends text to the buffer.
    pub(crate) fn push(&mut self, text: &[u8]) -> TextSpan {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(text);
        TextSpan::new(start, text.len())
    }

    /// Enters a header whose name and value are in the buffer and have been checked.
    pub(crate) fn enter(&mut self, name: TextSpan, value: TextSpan, known: Option<Known>) {
        let end = (value.start + value.len) as usize;
        let line = value.start == name.start + name.len + 2
            && self.bytes.get(value.start as usize - 1) == Some(&b' ')
            && self.bytes.get(end..end + 2) == Some(b"\r\n");
        self.enter_field(HeadField { name, value, known, line, removed: false, sensitive: false });
    }

    /// Enters a header whose line is in the buffer, `name: value\r\n`, and has been checked.
    pub(crate) fn enter_line(
        &mut self,
        name: TextSpan,
        value: TextSpan,
        known: Option<Known>,
        sensitive: bool,
    ) {
        self.enter_field(HeadField { name, value, known, line: true, removed: false, sensitive });
    }

    /// Adds a header that has been checked.
    pub(crate) fn append_line(&mut self, name: &[u8], value: &[u8], known: Option<Known>) {
        self.bytes.reserve(name.len() + value.len() + 4);
        let name = self.push(name);
        self.bytes.extend_from_slice(b": ");
        let value = self.push(value);
        self.bytes.extend_from_slice(b"\r\n");
        self.enter_line(name, value, known, false);
    }

    /// Replaces everything with the headers of another head.
    pub(crate) fn copy_fields(&mut self, other: &Self) {
        self.clear();
        for entry in other.entries() {
            self.append_line(entry.name, entry.value, entry.known);
            if let Some(field) = self.fields.last_mut() {
                field.sensitive = entry.is_sensitive;
            }
        }
        self.unsound = other.unsound;
    }

    fn enter_field(&mut self, field: HeadField) {
        if let Some(known) = field.known
            && self.first[known as usize] == 0
        {
            self.first[known as usize] = number(self.fields.len() + 1);
        }
        self.fields.push(field);
    }

    /// Returns the whole buffer; a codec that copied a head in at once enters headers by their place.
    pub(crate) fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Returns how many headers were entered, including those removed since.
    pub(crate) const fn field_count(&self) -> usize {
        self.fields.len()
    }

    /// Returns the bytes of memory that its headers take, used or not.
    pub(crate) const fn memory(&self) -> usize {
        self.bytes.capacity() + self.fields.capacity() * size_of::<HeadField>()
    }

    /// Returns the bytes of the buffer.
    pub(crate) const fn bytes_held(&self) -> usize {
        self.bytes.len()
    }

    /// Makes a span of the buffer lower case.
    pub(crate) fn lower(&mut self, span: TextSpan) {
        let (start, len) = (span.start as usize, span.len as usize);
        make_lower(&mut self.bytes[start..start + len]);
    }

    pub(crate) fn slice(&self, span: TextSpan) -> &[u8] {
        &self.bytes[span.start as usize..span.start as usize + span.len as usize]
    }

    /// Sets the authority to a span of the buffer.
    pub(crate) fn set_authority_at(&mut self, at: TextSpan) {
        let text = &self.bytes[at.start as usize..at.start as usize + at.len as usize];
        replace(&mut self.authority, text, b'!');
    }

    /// Sets the requested protocol to a span of the buffer.
    pub(crate) fn set_upgrade_at(&mut self, at: TextSpan) {
        let text = &self.bytes[at.start as usize..at.start as usize + at.len as usize];
        replace(&mut self.upgrade, text, b' ');
    }

    /// Sets a part of the start line to a span of the buffer; returns whether the text was accepted.
    pub(crate) fn set_pseudo_at(&mut self, pseudo: PseudoField, at: TextSpan) -> bool {
        let text = &self.bytes[at.start as usize..at.start as usize + at.len as usize];
        let (part, least) = match pseudo {
            PseudoField::Method => {
                self.method = Method::of(text);
                (&mut self.method_text, b'!')
            }
            PseudoField::Scheme => (&mut self.scheme, b'!'),
            PseudoField::Authority => (&mut self.authority, b'!'),
            PseudoField::Path => (&mut self.path, b'!'),
            PseudoField::Protocol => (&mut self.upgrade, b' '),
            PseudoField::Status => {
                self.status = match text {
                    [b'0'..=b'9', b'0'..=b'9', b'0'..=b'9'] => {
                        text.iter().fold(0, |status, digit| 10 * status + u16::from(digit & 0xf))
                    }
                    _ => return false,
                };
                return true;
            }
        };
        replace(part, text, least)
    }

    /// Marks a part of the start line as one that no table may remember.
    pub(crate) const fn set_pseudo_sensitive(&mut self, pseudo: PseudoField) {
        self.sensitive |= pseudo.bit();
    }

    /// Whether no table may remember a part of the start line.
    pub(crate) const fn is_pseudo_sensitive(&self, pseudo: PseudoField) -> bool {
        self.sensitive & pseudo.bit() != 0
    }

    /// Returns the headers in order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = HeadEntry<'_>> {
        self.fields.iter().filter(|field| !field.removed).map(|field| HeadEntry {
            name: self.slice(field.name),
            value: self.slice(field.value),
            known: field.known,
            is_sensitive: field.sensitive,
        })
    }

    /// Writes the headers that are not `hidden` as HTTP/1 lines. Those that are in the buffer as adjacent lines are
    /// written together.
    pub(crate) fn write_lines(&self, hidden: impl Fn(Known) -> bool, mut write: impl FnMut(&[u8])) {
        let mut run = 0..0;
        for field in &self.fields {
            if field.removed || field.known.is_some_and(&hidden) {
                continue;
            }
            let begin = field.name.start as usize;
            let end = (field.value.start + field.value.len) as usize + 2;
            if field.line && run.end == begin {
                run.end = end;
                continue;
            }
            write(&self.bytes[run]);
            if field.line {
                run = begin..end;
                continue;
            }
            run = 0..0;
            for text in [self.slice(field.name), b": ", self.slice(field.value), b"\r\n"] {
                write(text);
            }
        }
        write(&self.bytes[run]);
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

/// Parses digits and nothing else; the library would accept a sign as well.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    let digit = |number: u64, byte: &u8| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte & 0xf))?;
        number.checked_mul(10)?.checked_add(digit)
    };
    text.iter().try_fold(0, digit).filter(|_| !text.is_empty())
}

fn number(place: usize) -> u16 {
    u16::try_from(place).unwrap_or(u16::MAX)
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
mod tests {
    use super::*;

    fn shown(head: &Head) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        head.fields().map(|(name, value)| (text(name), text(value))).collect()
    }

    #[test]
    fn fields_keep_order_and_case_and_are_found_in_any() {
        let mut head = Head::response(200);
        head.append(b"X-One", b"1");
        head.append(b"Set-Cookie", b"a");
        head.append(b"set-cookie", b"b");
        assert_eq!(head.get(Known::SetCookie), Some(&b"a"[..]));
        assert_eq!(head.get_named(b"x-one"), Some(&b"1"[..]));
        assert_eq!(head.values(b"SET-COOKIE").count(), 2);
        head.set(b"set-cookie", b"c");
        assert_eq!(shown(&head), [("X-One".into(), "1".into()), ("Set-Cookie".into(), "c".into())]);
        assert!(head.remove(b"x-one") && !head.remove(b"x-one"));
        head.remove_where(|name, _| name.eq_ignore_ascii_case(b"set-cookie"));
        assert!(head.is_empty() && head.get(Known::SetCookie).is_none());
        head.append_known(Known::SetCookie, b"d");
        assert_eq!(head.get(Known::SetCookie), Some(&b"d"[..]));
    }

    #[test]
    fn many_fields_of_one_name_are_one_after_a_set() {
        for name in [&b"x"[..], b"accept"] {
            let mut head = Head::response(200);
            (0..9).for_each(|_| head.append(name, b"1"));
            head.set(&name.to_ascii_uppercase(), b"2");
            let only = String::from_utf8_lossy(name).into_owned();
            assert_eq!(shown(&head), [(only, "2".into())]);
            let mut wire = Vec::new();
            head.write_lines(|_| false, |text| wire.extend_from_slice(text));
            assert_eq!(wire, [name, b": 2\r\n"].concat());
        }
    }

    #[test]
    fn a_head_with_what_is_no_field_says_so_until_it_is_cleared() {
        let unsound: [fn(&mut Head); 6] = [
            |head| head.append(b"a b", b"1"),
            |head| head.append(b"", b"1"),
            |head| head.append(b"a", b"1\r\nb: 2"),
            |head| head.append_known(Known::Server, b"\0"),
            |head| head.set(b"a", b"\n"),
            |head| {
                head.append(b"a", b"1");
                head.set(b"a", b"\x7f");
            },
        ];
        for make in unsound {
            let mut head = Head::response(200);
            make(&mut head);
            assert!(!head.is_sound());
            head.clear();
            head.append(b"a", b"1\t\xff");
            assert!(head.is_sound());
        }
    }

    #[test]
    fn path_and_query_come_apart() {
        let head = Head::request("GET", "http", "a", "/x/y?z=1?2");
        assert_eq!((head.path_only(), head.query()), ("/x/y", Some("z=1?2")));
        assert_eq!((head.method(), head.method_text()), (Method::Get, "GET"));
    }

    #[test]
    fn grpc_is_known_by_its_content_type() {
        for (kind, grpc) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/gRPC; charset=x", true),
            ("application/grpc-web", false),
            ("text/plain", false),
        ] {
            let mut head = Head::response(200);
            head.append(b"content-type", kind.as_bytes());
            assert_eq!(head.is_grpc(), grpc, "{kind}");
        }
    }
}
