//! Fields become a head.
//!
//! Owns: the checks of RFC 9113 §8.2 and §8.3 and of RFC 9114 §4.2 and §4.3. Refuses to know: where the fields come from.
//! Keeps: the first fault is the one that is told; after it nothing is kept.

use super::{Bounds, FIELD_OVERHEAD, FieldFault, FieldLine, FieldSink};
use crate::h1::parse::is_authority;
use crate::head::{Head, Method, TextSpan, Version, decimal};
use crate::names::{FieldName, Known, PseudoField, is_token};

/// Which message a section belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SectionKind {
    Request,
    Response,
    Trailers,
}

/// Reads the fields of one section into a head.
#[derive(Debug)]
pub(crate) struct SectionReader<'h> {
    head: &'h mut Head,
    kind: SectionKind,
    version: Version,
    left: Bounds,
    /// The pseudo-header fields so far, by [`PseudoField::bit`].
    pseudo: u8,
    /// A regular field was seen; no pseudo-header field may follow.
    over: bool,
    cookies: usize,
    lengths: usize,
    /// The value of `host`, which does not become a header.
    host: Option<TextSpan>,
    fault: Option<FieldFault>,
}

impl<'h> SectionReader<'h> {
    /// Clears the head and begins.
    pub(crate) fn new(
        head: &'h mut Head,
        kind: SectionKind,
        version: Version,
        bounds: Bounds,
    ) -> Self {
        head.clear();
        if kind != SectionKind::Trailers {
            head.set_version(version);
        }
        Self {
            head,
            kind,
            version,
            left: bounds,
            pseudo: 0,
            over: kind == SectionKind::Trailers,
            cookies: 0,
            lengths: 0,
            host: None,
            fault: None,
        }
    }

    /// Checks what is known only at the end.
    ///
    /// # Errors
    /// The first fault.
    pub(crate) fn finish(mut self) -> Result<(), FieldFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if self.cookies > 1 {
            self.head.join_cookies();
        }
        match self.kind {
            SectionKind::Request => self.finish_request(),
            SectionKind::Response => self.finish_response(),
            SectionKind::Trailers => Ok(()),
        }
    }

    const fn has(&self, pseudo: PseudoField) -> bool {
        self.pseudo & pseudo.bit() != 0
    }

    fn finish_request(&mut self) -> Result<(), FieldFault> {
        if !is_token(self.head.method_text().as_bytes()) {
            return Err(FieldFault::MethodMalformed);
        }
        let connects = self.head.method() == Method::Connect;
        let extended = self.has(PseudoField::Protocol);
        let (scheme, path) = (self.has(PseudoField::Scheme), self.has(PseudoField::Path));
        let is_tunnel = connects && !extended;
        if is_tunnel && (scheme || path) {
            return Err(FieldFault::ConnectMalformed);
        }
        if !is_tunnel && (!scheme || !path) {
            return Err(FieldFault::PseudoMissing);
        }
        self.check_authority()?;
        // What follows CONNECT is not a body, so no header may state its length; HTTP/1 does the same.
        if connects && self.lengths > 0 {
            return Err(FieldFault::ConnectWithLength);
        }
        if extended && !self.head.upgrade().is_some_and(|protocol| is_token(protocol.as_bytes())) {
            return Err(FieldFault::ProtocolMalformed);
        }
        if extended && !connects {
            return Err(FieldFault::ProtocolWithoutConnect);
        }
        if is_tunnel { Ok(()) } else { self.check_target() }
    }

    /// Determines the authority; `host` may repeat it, but not differ.
    fn check_authority(&mut self) -> Result<(), FieldFault> {
        let said = self.has(PseudoField::Authority);
        match self.host {
            Some(host) if said => {
                let same = self.head.slice(host);
                if !self.head.authority().as_bytes().eq_ignore_ascii_case(same) {
                    return Err(FieldFault::AuthorityAgainstHost);
                }
            }
            // RFC 9114 §4.4: CONNECT has an authority.
            Some(_) if self.head.method() == Method::Connect && self.version == Version::Http3 => {
                return Err(FieldFault::ConnectMalformed);
            }
            Some(host) => {
                if !self.head.set_pseudo_at(PseudoField::Authority, host) {
                    return Err(FieldFault::AuthorityMalformed);
                }
            }
            None if said => {}
            None => return Err(FieldFault::AuthorityMissing),
        }
        let authority = self.head.authority();
        if authority.is_empty() || !is_authority(authority.as_bytes()) {
            return Err(FieldFault::AuthorityMalformed);
        }
        Ok(())
    }

    fn check_target(&self) -> Result<(), FieldFault> {
        let known = matches!(self.head.scheme(), "http" | "https");
        // Over QUIC there is nothing else to connect to; over TCP gateways exist.
        if !known && (self.version == Version::Http3 || !is_scheme(self.head.scheme())) {
            return Err(FieldFault::SchemeUnknown);
        }
        let path = self.head.path();
        let fits = path.starts_with('/') || (path == "*" && self.head.method() == Method::Options);
        if !fits || path.bytes().any(|byte| byte == b'#') {
            return Err(FieldFault::PathMalformed);
        }
        Ok(())
    }

    fn finish_response(&self) -> Result<(), FieldFault> {
        // RFC 9113 §8.6, RFC 9114 §4.5: there is no 101.
        let fits = (100..=999).contains(&self.head.status()) && self.head.status() != 101;
        if fits { Ok(()) } else { Err(FieldFault::StatusMalformed) }
    }

    fn try_take(&mut self, line: FieldLine) -> Result<(), FieldFault> {
        let size = line.name_len + line.value_len + FIELD_OVERHEAD;
        let left = self.left.bytes.checked_sub(size).ok_or(FieldFault::TooLarge)?;
        self.left.bytes = left;
        let name = TextSpan::new(line.start, line.name_len);
        let value =
            TextSpan::new(line.start + line.name_len + super::SEPARATOR.len(), line.value_len);
        let known = match line.name {
            FieldName::Pseudo(pseudo) => return self.take_pseudo(pseudo, value, line),
            FieldName::PseudoUnknown => return Err(FieldFault::PseudoUnknown),
            FieldName::Malformed => return Err(FieldFault::Name),
            FieldName::Known(known) => Some(known),
            FieldName::Other => None,
        };
        self.over = true;
        // Cookies arrive in crumbs, RFC 9113 §8.2.3 and RFC 9114 §4.2.1, and count as one header.
        let crumb = known == Some(Known::Cookie) && self.cookies > 0;
        let left = self.left.fields.checked_sub(usize::from(!crumb));
        self.left.fields = left.ok_or(FieldFault::TooManyFields)?;
        if !line.is_sound {
            return Err(FieldFault::Value);
        }
        if let Some(known) = known
            && !self.take_known(known, value)?
        {
            return Ok(());
        }
        self.head.enter_line(name, value, known, line.is_sensitive);
        Ok(())
    }

    /// Takes a known field into account; returns whether it becomes a header.
    fn take_known(&mut self, known: Known, value: TextSpan) -> Result<bool, FieldFault> {
        if known.is_hop_by_hop() {
            return Err(FieldFault::ConnectionSpecific);
        }
        let text = self.head.slice(value);
        match known {
            Known::Te if !text.eq_ignore_ascii_case(b"trailers") => return Err(FieldFault::Te),
            Known::Cookie => self.cookies += 1,
            _ if self.kind == SectionKind::Trailers => {}
            // An empty or repeated length could not be written as HTTP/1 with one meaning.
            Known::ContentLength if self.lengths > 0 => return Err(FieldFault::LengthRepeated),
            Known::ContentLength if decimal(text).is_none() => {
                return Err(FieldFault::LengthMalformed);
            }
            Known::ContentLength => self.lengths += 1,
            Known::Host if self.kind == SectionKind::Request => {
                let repeated = self.host.replace(value).is_some();
                return if repeated { Err(FieldFault::HostRepeated) } else { Ok(false) };
            }
            _ => {}
        }
        Ok(self.kind != SectionKind::Trailers || !known.is_barred_from_trailers())
    }

    fn take_pseudo(
        &mut self,
        pseudo: PseudoField,
        value: TextSpan,
        line: FieldLine,
    ) -> Result<(), FieldFault> {
        let of_response = pseudo == PseudoField::Status;
        let fits = of_response == (self.kind == SectionKind::Response);
        if self.over || !fits || self.has(pseudo) {
            return Err(FieldFault::PseudoMisplaced);
        }
        self.pseudo |= pseudo.bit();
        if !line.is_sound {
            return Err(FieldFault::PseudoMalformed);
        }
        if line.is_sensitive {
            self.head.set_pseudo_sensitive(pseudo);
        }
        let taken = self.head.set_pseudo_at(pseudo, value);
        self.head.bytes_mut().truncate(line.start);
        if taken { Ok(()) } else { Err(FieldFault::PseudoMalformed) }
    }
}

impl FieldSink for SectionReader<'_> {
    fn is_open(&self) -> bool {
        self.fault.is_none()
    }

    fn buffer(&mut self) -> &mut Vec<u8> {
        self.head.bytes_mut()
    }

    fn take(&mut self, line: FieldLine) {
        if self.fault.is_none() {
            self.fault = self.try_take(line).err();
        }
        if self.fault.is_some() {
            self.head.bytes_mut().truncate(line.start);
        }
    }
}

/// Whether `text` is a scheme, RFC 3986 §3.1.
fn is_scheme(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.bytes().all(fits)
}
