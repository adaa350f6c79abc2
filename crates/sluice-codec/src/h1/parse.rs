//! Parsing the heads of HTTP/1 messages.
//!
//! Owns: start lines, headers, and what they state about the body and the connection. Refuses to know: sockets, and
//! bytes after the head. Keeps: the outcome does not depend on how the bytes were split; an accepted head has one
//! reading.
//!
//! Source: RFC 9112 §2-§6, RFC 9110 §5 and §7.6.1.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::net::Ipv6Addr;

use memchr::memchr;

use crate::head::{Head, Method, TextSpan, Version, decimal};
use crate::names::{Known, find_colon, is_field_value, is_host_byte, is_token, is_token_byte};
use crate::parse_error::ParseError;

/// Bounds on a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes, including the start line.
    pub bytes: usize,
    /// Number of headers.
    pub fields: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self { bytes: 60 << 10, fields: 100 }
    }
}

/// `Connection` headers of one head.
pub(crate) const CONNECTIONS_MAX: usize = 4;

/// Empty lines that are skipped before a request, RFC 9112 §2.2.
const EMPTY_LINES: usize = 4;

/// How far the search for the end of a head has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Bytes searched so far.
    seen: usize,
    /// Where the head begins, after any empty lines.
    start: usize,
    /// Where the current line begins.
    line: usize,
}

impl Scan {
    /// Searches for the empty line that ends a head; returns where the head starts and ends, including the empty line.
    /// Called again with more bytes, it searches only the new ones.
    ///
    /// # Errors
    /// A line that does not end in CRLF, or a head that is too large.
    pub fn find_end(
        &mut self,
        bytes: &[u8],
        limits: HeadLimits,
    ) -> Result<Option<(usize, usize)>, ParseError> {
        self.check_start(bytes, limits)?;
        while let Some(at) = bytes.get(self.seen..).and_then(|rest| memchr(b'\n', rest)) {
            let newline = self.seen.saturating_add(at);
            let next = newline.saturating_add(1);
            // Before the line is judged, or the outcome would depend on how the bytes were split.
            self.check_size(next, limits)?;
            let line = bytes.get(self.line..newline).unwrap_or_default();
            let Some(line) = line.strip_suffix(b"\r") else { return Err(ParseError::BareLf) };
            (self.seen, self.line) = (next, next);
            if !line.is_empty() {
                continue;
            }
            let begun = next.saturating_sub(self.start) > 2;
            if begun {
                return Ok(Some((self.start, next)));
            }
            self.start = next;
            if self.start > EMPTY_LINES.saturating_mul(2) {
                return Err(ParseError::Method);
            }
            self.check_start(bytes, limits)?;
        }
        self.seen = bytes.len();
        self.check_size(bytes.len(), limits)?;
        Ok(None)
    }

    /// Checks that a head that extends to `end` is not too large.
    fn check_size(&self, end: usize, limits: HeadLimits) -> Result<(), ParseError> {
        if end.saturating_sub(self.start) <= limits.bytes {
            return Ok(());
        }
        Err(if self.line == self.start {
            ParseError::RequestLineTooLong
        } else {
            ParseError::HeadTooLarge
        })
    }

    /// Refuses what cannot be a start line before the line is complete; a client that speaks another protocol would
    /// wait forever.
    fn check_start(&self, bytes: &[u8], limits: HeadLimits) -> Result<(), ParseError> {
        if self.line != self.start {
            return Ok(());
        }
        let first = bytes.get(self.start..).unwrap_or_default();
        let first = first.get(..limits.bytes).unwrap_or(first);
        match first.iter().position(|byte| !is_token_byte(*byte)) {
            None => Ok(()),
            Some(at) => match first.get(at) {
                Some(b' ' | b'/') if at > 0 => Ok(()),
                Some(b'\r') if at == 0 => Ok(()),
                // A handshake or an alert: the peer speaks TLS to a port that does not.
                Some(0x15 | 0x16) if at == 0 => Err(ParseError::TlsRecord),
                _ => Err(ParseError::Method),
            },
        }
    }
}

/// The length of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// There is no body.
    None,
    /// This many bytes.
    Counted(u64),
    /// Chunked.
    Chunked,
    /// Until the connection ends.
    UntilEnd,
    /// Not a body: bytes in both directions from here on.
    Tunnel,
}

/// What a head states besides its headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The length of the body.
    pub body: BodyLength,
    /// Whether the connection may carry another message afterwards.
    pub keep_alive: bool,
}

/// Parses a complete request head, including its empty line. What is accepted is what [`Scan::find_end`] finds from the
/// first byte to the last, if it is within the limit of bytes.
///
/// # Errors
/// The fault in the head; `head` must not be used then.
pub fn request(
    bytes: &[u8],
    head: &mut Head,
    limits: HeadLimits,
    lower: bool,
) -> Result<Meta, ParseError> {
    head.clear();
    let mut lines = Lines::new(bytes, head);
    let line = lines.next().ok_or(ParseError::Method)?;
    let mut parts = line.text.splitn(3, |byte| *byte == b' ');
    let (method, target, version) = (parts.next(), parts.next(), parts.next());
    let method = method.filter(|method| is_token(method)).ok_or(ParseError::Method)?;
    let target = target.filter(|t| !t.is_empty() && t.iter().all(u8::is_ascii_graphic));
    let target = target.ok_or(ParseError::Target)?;
    let version = request_version(version.ok_or(ParseError::Version)?)?;
    head.set_version(version);
    let kind = Method::of(method);
    head.set_method(method);
    let found = fields(&mut lines, head, limits, lower)?;
    lines.check_end()?;
    let absolute = read_target(kind, target, head)?;
    // RFC 9112 §3.2.2: an absolute target takes precedence over the Host header.
    match found.host {
        None if version == Version::Http11 && !absolute => return Err(ParseError::HostMissing),
        Some(host) if !absolute => {
            if !is_authority(head.slice(host)) {
                return Err(ParseError::HostMalformed);
            }
            head.set_authority_at(host);
        }
        _ if is_authority(head.authority().as_bytes()) => {}
        _ => return Err(ParseError::HostMalformed),
    }
    let body = match (found.length, found.chunked) {
        (Some(_), true) => return Err(ParseError::LengthWithEncoding),
        (None, true) if version == Version::Http10 => return Err(ParseError::EncodingInOldVersion),
        (None, true) => BodyLength::Chunked,
        (Some(0) | None, false) => BodyLength::None,
        (Some(length), false) => BodyLength::Counted(length),
    };
    if kind == Method::Connect && body != BodyLength::None {
        return Err(ParseError::BodyOnConnect);
    }
    // A server may ignore `Upgrade`, RFC 9110 §7.8; after a body it would be unclear where the other protocol begins.
    if found.asks_upgrade
        && body == BodyLength::None
        && version == Version::Http11
        && let Some(protocol) = found.upgrade
    {
        head.set_upgrade_at(protocol);
    }
    Ok(Meta { body, keep_alive: found.keeps_alive(version) })
}

/// Parses the head of a response to a request of `method`.
///
/// # Errors
/// The fault in the head; `head` must not be used then.
pub fn response(
    bytes: &[u8],
    head: &mut Head,
    method: Method,
    limits: HeadLimits,
    lower: bool,
) -> Result<Meta, ParseError> {
    head.clear();
    let mut lines = Lines::new(bytes, head);
    let line = lines.next().ok_or(ParseError::StatusLine)?;
    let text = line.text;
    let version = match text.get(..9).ok_or(ParseError::StatusLine)? {
        b"HTTP/1.1 " => Version::Http11,
        b"HTTP/1.0 " => Version::Http10,
        _ => return Err(ParseError::Version),
    };
    let status = text.get(9..12).and_then(decimal).and_then(|status| u16::try_from(status).ok());
    let status =
        status.filter(|status| (100..=999).contains(status)).ok_or(ParseError::StatusLine)?;
    match text.get(12..) {
        Some([]) => {}
        Some([b' ', reason @ ..]) if is_field_value(reason) => {}
        _ => return Err(ParseError::StatusLine),
    }
    head.set_version(version);
    head.set_status(status);
    let found = fields(&mut lines, head, limits, lower)?;
    if let Some(host) = found.host {
        // Unusual in a response, and not an authority: it stays a header.
        let host = head.slice(host).to_vec();
        head.append_known(Known::Host, &host);
    }
    if found.length.is_some() && found.chunked {
        return Err(ParseError::LengthWithEncoding);
    }
    if found.chunked && version == Version::Http10 {
        return Err(ParseError::EncodingInOldVersion);
    }
    let success = (200..300).contains(&status);
    // RFC 9112 §6.3, in its order.
    let body = if status == 101 || (method == Method::Connect && success) {
        BodyLength::Tunnel
    } else if method == Method::Head || status < 200 || matches!(status, 204 | 304) {
        BodyLength::None
    } else if found.chunked {
        BodyLength::Chunked
    } else {
        match found.length {
            Some(0) => BodyLength::None,
            Some(length) => BodyLength::Counted(length),
            None => BodyLength::UntilEnd,
        }
    };
    if let Some(protocol) = found.upgrade.filter(|_| status == 101) {
        head.set_upgrade_at(protocol);
    }
    // A 1xx or 204 response has no length to state, and one that states it contradicts itself.
    if status < 200 || status == 204 {
        head.remove(b"content-length");
    }
    let keeps = found.keeps_alive(version) && body != BodyLength::UntilEnd;
    Ok(Meta { body, keep_alive: keeps })
}

/// Parses trailers: header lines and the empty line that ends them.
///
/// # Errors
/// The fault in the trailers.
pub fn trailers(
    bytes: &[u8],
    head: &mut Head,
    limits: HeadLimits,
    lower: bool,
) -> Result<(), ParseError> {
    head.clear();
    let mut lines = Lines::new(bytes, head);
    while let Some(line) = lines.next() {
        let (name, value, known) = field(&line)?;
        if lower {
            head.lower(name);
        }
        if known.is_some_and(Known::is_barred_from_trailers) {
            return Err(ParseError::TrailerBarred);
        }
        enter(head, name, value, known, limits)?;
    }
    Ok(())
}

fn request_version(text: &[u8]) -> Result<Version, ParseError> {
    match text {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Err(ParseError::VersionUnsupported)
        }
        _ => Err(ParseError::Version),
    }
}

/// Splits the target, RFC 9112 §3.2; returns whether it contains an authority.
fn read_target(method: Method, target: &[u8], head: &mut Head) -> Result<bool, ParseError> {
    if target.contains(&b'#') {
        return Err(ParseError::Target);
    }
    if method == Method::Connect {
        if !is_authority(target) || !target.contains(&b':') {
            return Err(ParseError::Target);
        }
        head.set_authority(target);
        return Ok(true);
    }
    match target {
        [b'/', ..] => {
            head.set_path(target);
            Ok(false)
        }
        b"*" if method == Method::Options => {
            head.set_path(target);
            Ok(false)
        }
        _ => {
            let scheme: &[u8] = if starts_with_ignoring_case(target, b"http://") {
                b"http"
            } else if starts_with_ignoring_case(target, b"https://") {
                b"https"
            } else {
                return Err(ParseError::Target);
            };
            let skip = scheme.len().saturating_add(3);
            let rest = target.get(skip..).unwrap_or_default();
            let end =
                rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
            let authority = rest.get(..end).filter(|authority| !authority.is_empty());
            head.set_authority(authority.ok_or(ParseError::Target)?);
            let path = rest.get(end..).unwrap_or_default();
            match path {
                [] => head.set_path(b"/"),
                [b'?', ..] => head.set_path(&[b"/", path].concat()),
                _ => head.set_path(path),
            };
            head.set_scheme(scheme);
            Ok(true)
        }
    }
}

fn starts_with_ignoring_case(text: &[u8], prefix: &[u8]) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Whether `text` is empty or may name a host, with or without a port, RFC 3986 §3.2; user names are refused.
pub fn is_authority(text: &[u8]) -> bool {
    let (host, port) = match text {
        [b'[', rest @ ..] => {
            let Some(end) = memchr(b']', rest) else { return false };
            let (literal, behind) = rest.split_at(end);
            let literal = std::str::from_utf8(literal).ok();
            if literal.is_none_or(|literal| literal.parse::<Ipv6Addr>().is_err()) {
                return false;
            }
            match behind {
                [b']'] => return true,
                [b']', b':', port @ ..] => return is_port(port),
                _ => return false,
            }
        }
        _ => match memchr(b':', text) {
            Some(colon) => text.split_at(colon),
            None => (text, &b""[..]),
        },
    };
    let port = port.strip_prefix(b":").unwrap_or_default();
    let named = text.is_empty() || !host.is_empty();
    named && is_port(port) && host.iter().copied().all(is_host_byte)
}

/// Whether it is a port number; RFC 3986 §3.2.3 allows it to be empty.
fn is_port(text: &[u8]) -> bool {
    let digit = |number: u16, byte: &u8| {
        let digit = byte.is_ascii_digit().then(|| u16::from(byte & 0xf))?;
        number.checked_mul(10)?.checked_add(digit)
    };
    text.iter().try_fold(0, digit).is_some()
}

/// The lines of a head, as places in the head's own buffer.
struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
    base: usize,
}

struct Line<'a> {
    text: &'a [u8],
    start: usize,
}

impl<'a> Lines<'a> {
    /// Copies the bytes into `head`, whose buffer is empty.
    fn new(bytes: &'a [u8], head: &mut Head) -> Self {
        let base = head.bytes_mut().len();
        head.bytes_mut().extend_from_slice(bytes);
        Self { bytes, at: 0, base }
    }

    /// Returns the next line without its CRLF; `None` at the empty line that ends the head, and at a line that does not
    /// end in CRLF.
    fn next(&mut self) -> Option<Line<'a>> {
        let rest = self.bytes.get(self.at..)?;
        let newline = memchr(b'\n', rest)?;
        let text = rest.get(..newline)?.strip_suffix(b"\r").filter(|text| !text.is_empty())?;
        let line = Line { text, start: self.base.saturating_add(self.at) };
        self.at = self.at.saturating_add(newline).saturating_add(1);
        Some(line)
    }

    /// Checks that the lines ended at the empty line, and that it is the last.
    fn check_end(&self) -> Result<(), ParseError> {
        match self.bytes.get(self.at..) {
            Some(b"\r\n") => Ok(()),
            _ => Err(ParseError::BareLf),
        }
    }
}

/// What the headers state about the body and the connection.
#[derive(Default)]
struct FieldFacts {
    host: Option<TextSpan>,
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    asks_upgrade: bool,
    upgrade: Option<TextSpan>,
}

impl FieldFacts {
    fn keeps_alive(&self, version: Version) -> bool {
        !self.close && (version == Version::Http11 || self.keep_alive)
    }
}

/// Reads the headers; hop-by-hop headers are interpreted and left out.
fn fields(
    lines: &mut Lines<'_>,
    head: &mut Head,
    limits: HeadLimits,
    lower: bool,
) -> Result<FieldFacts, ParseError> {
    let mut found = FieldFacts::default();
    // Headers that `Connection` names are removed at the end.
    let mut names_others = false;
    let mut connection = [TextSpan::default(); CONNECTIONS_MAX];
    let mut connections = 0_usize;
    while let Some(line) = lines.next() {
        let (name, value, known) = field(&line)?;
        if lower {
            head.lower(name);
        }
        match known {
            Some(Known::Host) => {
                if found.host.replace(value).is_some() {
                    return Err(ParseError::HostRepeated);
                }
                continue;
            }
            Some(Known::ContentLength) => {
                let length = decimal(head.slice(value)).ok_or(ParseError::LengthMalformed)?;
                if found.length.replace(length).is_some() {
                    return Err(ParseError::LengthRepeated);
                }
            }
            Some(Known::TransferEncoding) => {
                if found.chunked {
                    return Err(ParseError::EncodingRepeated);
                }
                if !head.slice(value).eq_ignore_ascii_case(b"chunked") {
                    return Err(ParseError::EncodingUnknown);
                }
                found.chunked = true;
                continue;
            }
            Some(Known::Connection) => {
                // What nearly all messages send.
                if head.slice(value) == b"keep-alive" {
                    found.keep_alive = true;
                    continue;
                }
                for option in tokens(head.slice(value)) {
                    if option.eq_ignore_ascii_case(b"close") {
                        found.close = true;
                    } else if option.eq_ignore_ascii_case(b"keep-alive") {
                        found.keep_alive = true;
                    } else if option.eq_ignore_ascii_case(b"upgrade") {
                        found.asks_upgrade = true;
                    } else {
                        names_others = true;
                    }
                }
                *connection.get_mut(connections).ok_or(ParseError::TooManyFields)? = value;
                connections = connections.saturating_add(1);
                continue;
            }
            Some(Known::Upgrade) => {
                // `h2c` is never used after an upgrade, here or upstream.
                let text = head.slice(value);
                if is_token(text) && !text.eq_ignore_ascii_case(b"h2c") {
                    found.upgrade = Some(value);
                }
                continue;
            }
            Some(Known::Te) => {
                // Only `trailers` is end to end, and gRPC depends on it.
                let wants = |option: &[u8]| option.eq_ignore_ascii_case(b"trailers");
                if tokens(head.slice(value)).any(wants) && head.get(Known::Te).is_none() {
                    head.append_known(Known::Te, b"trailers");
                }
                continue;
            }
            Some(known) if known.is_hop_by_hop() => continue,
            _ => {}
        }
        enter(head, name, value, known, limits)?;
    }
    if names_others {
        for value in connection.iter().take(connections) {
            let listed = head.slice(*value).to_vec();
            for option in tokens(&listed) {
                // `Connection` may not remove what frames the message, nor the part of `TE` that is end to end.
                let vital = matches!(Known::of(option), Some(Known::ContentLength | Known::Te));
                if !vital {
                    head.remove(option);
                }
            }
        }
    }
    Ok(found)
}

fn enter(
    head: &mut Head,
    name: TextSpan,
    value: TextSpan,
    known: Option<Known>,
    limits: HeadLimits,
) -> Result<(), ParseError> {
    if head.field_count() >= limits.fields {
        return Err(ParseError::TooManyFields);
    }
    head.enter(name, value, known);
    Ok(())
}

/// Parses one header line, RFC 9112 §5: returns where name and value are, and which known name it is.
fn field(line: &Line<'_>) -> Result<(TextSpan, TextSpan, Option<Known>), ParseError> {
    let text = line.text;
    let (name, rest) = text.split_at(find_colon(text).unwrap_or(text.len()));
    let known = Known::of(name);
    if known.is_none() && !is_token(name) {
        return Err(name_fault(name));
    }
    let raw = rest.get(1..).ok_or(ParseError::FieldName)?;
    let white = |byte: &&u8| matches!(byte, b' ' | b'\t');
    let lead = raw.iter().take_while(white).count();
    let value = raw.get(lead..).unwrap_or_default();
    let trail = value.iter().rev().take_while(white).count();
    let value = value.get(..value.len().saturating_sub(trail)).unwrap_or_default();
    if !is_field_value(value) {
        return Err(if value.contains(&b'\r') {
            ParseError::BareCr
        } else {
            ParseError::FieldValue
        });
    }
    let value_at = line.start.saturating_add(name.len()).saturating_add(1).saturating_add(lead);
    Ok((TextSpan::new(line.start, name.len()), TextSpan::new(value_at, value.len()), known))
}

/// Returns the fault in a header line on its own.
pub(crate) fn fault_of_line(text: &[u8]) -> Option<ParseError> {
    field(&Line { text, start: 0 }).err()
}

/// Returns the fault in a name.
fn name_fault(name: &[u8]) -> ParseError {
    match name.iter().enumerate().find(|(_, byte)| !is_token_byte(**byte)) {
        Some((0, b' ' | b'\t')) => ParseError::ObsFold,
        Some((_, b' ' | b'\t')) => ParseError::SpaceBeforeColon,
        _ => ParseError::FieldName,
    }
}

/// Returns the members of a comma-separated list of tokens.
fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests;
