//! A message, as far as a hook has it.
//!
//! Owns: which part may be read and changed at which time, and what a header may be set to. Refuses to know: libraries. Keeps:
//! what has been sent is not changed; no header is set that frames a message, or that is none.

use bytes::Bytes;
use sluice_codec::Head;
use sluice_codec::names::{is_field_value, is_token};
use sluice_l7::filters::{Cx, WholeMessage};
use sluice_l7::words::is_editable;
use sluice_sys::module::{HeaderPart, HostAnswer, HostRefusal};

/// A message, as far as it is at hand.
#[derive(Debug)]
pub(crate) enum HookMessage<'a> {
    /// Its headers, before anything of it was sent.
    Head(&'a mut Head),
    /// All of it, before anything of it was sent.
    Whole(&'a mut WholeMessage),
    /// A piece of its body, and whether it may be changed.
    Piece(Bytes, bool),
    /// Its trailers, perhaps none, and whether they may be changed.
    Trailers(&'a mut Head, bool),
    /// Nothing: the request has ended, or begins.
    Nothing,
}

/// Whether a part is of a response, and whether it is of trailers.
const fn kind(part: HeaderPart) -> (bool, bool) {
    match part {
        HeaderPart::RequestHeaders => (false, false),
        HeaderPart::RequestTrailers => (false, true),
        HeaderPart::ResponseHeaders => (true, false),
        HeaderPart::ResponseTrailers => (true, true),
    }
}

impl HookMessage<'_> {
    /// A part to read; `None` if there are no trailers. `response` says which message this is.
    pub(crate) fn to_read<'m>(
        &'m self,
        cx: &'m Cx<'_>,
        response: bool,
        part: HeaderPart,
    ) -> HostAnswer<Option<&'m Head>> {
        let (of_response, of_trailers) = kind(part);
        if of_response == response {
            match (self, of_trailers) {
                (Self::Head(head), false) => return Ok(Some(head)),
                (Self::Whole(whole), false) => return Ok(Some(&whole.head)),
                (Self::Whole(whole), true) => return Ok(whole.trailers.as_deref()),
                (Self::Trailers(trailers, _), true) => return Ok(Some(trailers)),
                (Self::Piece(..), true) => return Ok(cx.following_trailers()),
                _ => {}
            }
        }
        match (of_response, of_trailers) {
            (false, false) => cx.request.map(Some).ok_or(HostRefusal::NotNow),
            _ => Err(HostRefusal::NotNow),
        }
    }

    /// A part to change.
    fn changeable(&mut self, response: bool, part: HeaderPart) -> HostAnswer<&mut Head> {
        let (of_response, of_trailers) = kind(part);
        if of_response != response {
            return Err(HostRefusal::NotNow);
        }
        match (self, of_trailers) {
            (Self::Head(head), false) => Ok(head),
            (Self::Whole(whole), false) => Ok(&mut whole.head),
            (Self::Whole(whole), true) => Ok(whole.trailers.get_or_insert_default()),
            (Self::Trailers(trailers, true), true) => Ok(trailers),
            _ => Err(HostRefusal::NotNow),
        }
    }

    /// The bytes of the body at hand.
    pub(crate) fn body(&self) -> HostAnswer<&[u8]> {
        match self {
            Self::Whole(whole) => Ok(&whole.body),
            Self::Piece(bytes, _) => Ok(bytes),
            _ => Err(HostRefusal::NotNow),
        }
    }

    /// Replaces them, by at most `max` bytes.
    pub(crate) fn set_body(&mut self, bytes: &[u8], max: usize) -> HostAnswer<()> {
        let body = match self {
            Self::Whole(whole) => &mut whole.body,
            Self::Piece(body, true) => body,
            _ => return Err(HostRefusal::NotNow),
        };
        if bytes.len() > max {
            return Err(HostRefusal::TooLarge);
        }
        *body = Bytes::copy_from_slice(bytes);
        Ok(())
    }

    /// Adds a header, or sets it in place of all of that name.
    pub(crate) fn put(
        &mut self,
        response: bool,
        part: HeaderPart,
        name: &[u8],
        value: &[u8],
        how: HeaderPut,
    ) -> HostAnswer<()> {
        let (of_response, of_trailers) = kind(part);
        let lower = lower(name)?;
        // It may be a value of the same message, which moves when this is written.
        let value = &*value.to_vec();
        let is_pseudo = lower.starts_with(':') || lower == "host" && !of_response;
        if is_pseudo && !of_trailers {
            if how == HeaderPut::Add {
                return Err(HostRefusal::Invalid);
            }
            let target = matches!(&*lower, ":path" | ":authority" | "host");
            if target && how == (HeaderPut::Set { target: false }) {
                return Err(HostRefusal::NotAllowed);
            }
            return set_pseudo(self.changeable(response, part)?, &lower, value, of_response);
        }
        if !is_editable(&lower) || !is_field_value(value) {
            return Err(HostRefusal::Invalid);
        }
        let head = self.changeable(response, part)?;
        match how {
            HeaderPut::Add => head.append(lower.as_bytes(), value),
            HeaderPut::Set { .. } => head.set(lower.as_bytes(), value),
        }
        if head.is_sound() { Ok(()) } else { Err(HostRefusal::TooLarge) }
    }

    /// Removes a header; returns whether there was one.
    pub(crate) fn remove(
        &mut self,
        response: bool,
        part: HeaderPart,
        name: &[u8],
    ) -> HostAnswer<bool> {
        let lower = lower(name)?;
        if !is_editable(&lower) {
            return Err(HostRefusal::Invalid);
        }
        if let (Self::Whole(WholeMessage { trailers: None, .. }), (_, true)) = (&*self, kind(part))
        {
            return Ok(false);
        }
        Ok(self.changeable(response, part)?.remove(lower.as_bytes()))
    }
}

/// How a header is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderPut {
    /// One more value.
    Add,
    /// This value in place of all; `target` says whether path and host may be set.
    Set {
        /// Whether path and host may be set.
        target: bool,
    },
}

fn lower(name: &[u8]) -> HostAnswer<String> {
    let name = std::str::from_utf8(name).map_err(|_| HostRefusal::Invalid)?;
    if name.is_empty() { Err(HostRefusal::Invalid) } else { Ok(name.to_ascii_lowercase()) }
}

fn set_pseudo(head: &mut Head, name: &str, value: &[u8], response: bool) -> HostAnswer<()> {
    let done = match (name, response) {
        (":status", true) => {
            let status = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            match status.filter(|status| (200..=599).contains(status)) {
                Some(status) => {
                    head.set_status(status);
                    true
                }
                None => false,
            }
        }
        (":path", false) => value.starts_with(b"/") && head.set_path(value),
        (":authority" | "host", false) => head.set_authority(value),
        (":method", false) => is_token(value) && value != b"CONNECT" && head.set_method(value),
        _ => false,
    };
    if done { Ok(()) } else { Err(HostRefusal::Invalid) }
}

/// The value of a pseudo-header, or of `host`, which is one; `None` if `name` is none, `Some(None)` if it has no value here.
/// That of `:status` is written to `scratch`.
#[allow(clippy::option_option, reason = "two questions")]
pub(crate) fn pseudo<'m>(
    head: &'m Head,
    name: &[u8],
    response: bool,
    scratch: &'m mut [u8; 3],
) -> Option<Option<&'m [u8]>> {
    let is = |of: &str| name.eq_ignore_ascii_case(of.as_bytes());
    if !name.starts_with(b":") && (response || !is("host")) {
        return None;
    }
    let text: &[u8] = match response {
        true if is(":status") => {
            let status = head.status();
            for (place, power) in scratch.iter_mut().zip([100, 10, 1]) {
                // The remainder is a digit.
                *place = b'0' + u8::try_from(status / power % 10).unwrap_or(0);
            }
            scratch
        }
        false if is(":path") => head.path().as_bytes(),
        false if is(":method") => head.method_text().as_bytes(),
        false if is(":authority") || is("host") => head.authority().as_bytes(),
        false if is(":scheme") => head.scheme().as_bytes(),
        _ => return Some(None),
    };
    Some(Some(text).filter(|text| !text.is_empty()))
}
