//! A head becomes fields.
//!
//! Owns: which fields a head has in HTTP/2 and HTTP/3, and their order. Refuses to know: how they are encoded. Keeps: an
//! invalid or hop-by-hop header is never written; a field that arrived as sensitive leaves as sensitive.

use super::FieldFault;
use crate::error::{ErrorKind, HttpError};
use crate::head::{Head, Method, Version};
use crate::names::{Known, PseudoField};

/// A field to encode.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OutgoingField<'a> {
    pub(crate) name: OutgoingName<'a>,
    pub(crate) value: &'a [u8],
    /// Whether it must never enter a table, RFC 7541 §7.1.3.
    pub(crate) is_sensitive: bool,
}

/// The name of a field to encode.
#[derive(Clone, Copy, Debug)]
pub(crate) enum OutgoingName<'a> {
    Pseudo(PseudoField),
    Known(Known),
    /// In any case.
    Other(&'a [u8]),
}

impl<'a> OutgoingName<'a> {
    /// Returns the name; it may have upper case letters.
    pub(crate) const fn text(self) -> &'a [u8] {
        match self {
            Self::Pseudo(pseudo) => pseudo.text().as_bytes(),
            Self::Known(known) => known.text().as_bytes(),
            Self::Other(name) => name,
        }
    }
}

/// Calls `put` with each field of a request. `scheme` replaces the one of the head.
///
/// # Errors
/// The head contains what cannot be sent; `put` has not been called.
pub(crate) fn for_each_request<'a>(
    head: &'a Head,
    version: Version,
    scheme: Option<&'static str>,
    mut put: impl FnMut(OutgoingField<'a>),
) -> Result<(), HttpError> {
    check_sound(head, version)?;
    let extended = head.upgrade();
    let method = if extended.is_some() { "CONNECT" } else { head.method_text() };
    let connects = head.method() == Method::Connect;
    if method.is_empty() || (head.authority().is_empty() && connects) {
        return Err(FieldFault::ConnectMalformed.error(version));
    }
    let mut pseudo = |name: PseudoField, value: &'a str| {
        put(OutgoingField {
            name: OutgoingName::Pseudo(name),
            value: value.as_bytes(),
            is_sensitive: head.is_pseudo_sensitive(name),
        });
    };
    pseudo(PseudoField::Method, method);
    if !head.authority().is_empty() {
        pseudo(PseudoField::Authority, head.authority());
    }
    if !connects || extended.is_some() {
        let own = if head.scheme().is_empty() { "http" } else { head.scheme() };
        pseudo(PseudoField::Scheme, scheme.unwrap_or(own));
        pseudo(PseudoField::Path, if head.path().is_empty() { "/" } else { head.path() });
    }
    if let Some(protocol) = extended {
        pseudo(PseudoField::Protocol, protocol);
    }
    for_each_regular(head, put);
    Ok(())
}

/// Calls `put` with each field of a response.
///
/// # Errors
/// The head contains what cannot be sent; `put` has not been called.
pub(crate) fn for_each_response(
    head: &Head,
    version: Version,
    mut put: impl FnMut(OutgoingField<'_>),
) -> Result<(), HttpError> {
    check_sound(head, version)?;
    let status = head.status();
    if !(100..=999).contains(&status) {
        return Err(cannot_be_sent(version));
    }
    let digit = |n: u16| b'0' + u8::try_from(n % 10).unwrap_or(0);
    put(OutgoingField {
        name: OutgoingName::Pseudo(PseudoField::Status),
        value: &[digit(status / 100), digit(status / 10), digit(status)],
        is_sensitive: false,
    });
    for_each_regular(head, put);
    Ok(())
}

/// Calls `put` with each field of trailers.
///
/// # Errors
/// They contain what cannot be sent; `put` has not been called.
pub(crate) fn for_each_trailer<'a>(
    head: &'a Head,
    version: Version,
    put: impl FnMut(OutgoingField<'a>),
) -> Result<(), HttpError> {
    check_sound(head, version)?;
    for_each_regular(head, put);
    Ok(())
}

fn for_each_regular<'a>(head: &'a Head, mut put: impl FnMut(OutgoingField<'a>)) {
    for field in head.entries() {
        let name = match field.known {
            Some(known) if known.is_hop_by_hop() || known == Known::Host => continue,
            Some(known) => OutgoingName::Known(known),
            None => OutgoingName::Other(field.name),
        };
        put(OutgoingField { name, value: field.value, is_sensitive: field.is_sensitive });
    }
}

fn check_sound(head: &Head, version: Version) -> Result<(), HttpError> {
    if head.is_sound() { Ok(()) } else { Err(cannot_be_sent(version)) }
}

const fn cannot_be_sent(version: Version) -> HttpError {
    let code = match version {
        Version::Http3 => "http3.field_cannot_be_sent",
        _ => "http2.field_cannot_be_sent",
    };
    HttpError::coded(ErrorKind::Malformed(502), code)
}
