//! A message, as far as a function of a guest has it.
//!
//! Owns: which part may be read and changed at which time, what a header may be set to, and properties of the request. Refuses to
//! know: how guests call. Keeps: what has been sent is not changed; no header is set that frames a message, or that is none.

use bytes::Bytes;
use sluice_codec::Head;
use sluice_codec::names::{is_field_value, is_token};
use sluice_l7::SideCalls;
use sluice_l7::filters::{Cx, WholeMessage};
use sluice_l7::words::is_editable;

use crate::abi::Status;
use crate::call::{CallResult, GuestCall, MapEdit, MapOf};
use crate::pairs::FieldPair;
use crate::{properties, values};

/// A message, as far as it is at hand.
#[derive(Debug)]
pub(crate) enum GuestMessage<'a> {
    /// Its headers, before anything of it was sent.
    Head(&'a mut Head),
    /// All of it, before anything of it was sent.
    Whole(&'a mut WholeMessage),
    /// What there is of its body, and whether it may be changed; the trailers that follow, if they were received.
    Piece { body: &'a mut Bytes, editable: bool, trailers: Option<&'a mut Head> },
    /// Its trailers, perhaps none, and whether they may be changed.
    Trailers(&'a mut Head, bool),
    /// Nothing: the request has ended, or begins.
    Nothing,
}

/// A message and its request, while a function of the guest runs.
#[derive(Debug)]
pub(crate) struct GuestHookCall<'a, 'c, 'm> {
    pub(crate) cx: &'a mut Cx<'c>,
    pub(crate) message: &'a mut GuestMessage<'m>,
    pub(crate) response: bool,
}

impl GuestHookCall<'_, '_, '_> {
    fn to_read(&self, of: MapOf) -> Option<&Head> {
        if of.response == self.response {
            match (&*self.message, of.trailers) {
                (GuestMessage::Head(head), false) => return Some(head),
                (GuestMessage::Whole(whole), false) => return Some(&whole.head),
                (GuestMessage::Whole(whole), true) => return whole.trailers.as_deref(),
                (GuestMessage::Trailers(trailers, _), true) => return Some(trailers),
                (GuestMessage::Piece { trailers, .. }, true) => return trailers.as_deref(),
                _ => {}
            }
        }
        self.cx.request.filter(|_| of == MapOf { response: false, trailers: false })
    }

    fn changeable(&mut self, of: MapOf) -> CallResult<&mut Head> {
        if of.response != self.response {
            return Err(Status::BadArgument);
        }
        match (&mut *self.message, of.trailers) {
            (GuestMessage::Head(head), false) => Ok(head),
            (GuestMessage::Whole(whole), false) => Ok(&mut whole.head),
            (GuestMessage::Whole(whole), true) => Ok(whole.trailers.get_or_insert_default()),
            (GuestMessage::Trailers(trailers, true), true) => Ok(trailers),
            (GuestMessage::Piece { trailers: Some(trailers), editable: true, .. }, true) => {
                Ok(trailers)
            }
            _ => Err(Status::BadArgument),
        }
    }
}

impl GuestCall for GuestHookCall<'_, '_, '_> {
    fn pairs(&self, of: MapOf) -> Vec<FieldPair> {
        let Some(head) = self.to_read(of) else { return Vec::new() };
        let own: &[&str] = match (of.trailers, of.response) {
            (true, _) => &[],
            (false, true) => &[":status"],
            (false, false) => &[":authority", ":path", ":method", ":scheme"],
        };
        let pseudo = own.iter().filter_map(|name| {
            let value = pseudo(head, name, of.response)??;
            Some((name.as_bytes().to_vec(), value))
        });
        let fields = head.fields().map(|(name, value)| (name.to_ascii_lowercase(), value.to_vec()));
        pseudo.chain(fields).collect()
    }

    fn value(&self, of: MapOf, name: &[u8]) -> CallResult<Option<Vec<u8>>> {
        let head = self.to_read(of).ok_or(Status::BadArgument)?;
        let lower = String::from_utf8_lossy(name).to_ascii_lowercase();
        if !of.trailers
            && let Some(value) = pseudo(head, &lower, of.response)
        {
            return Ok(value);
        }
        Ok(head.get_named(name).map(<[u8]>::to_vec))
    }

    fn edit(&mut self, of: MapOf, edit: MapEdit<'_>) -> CallResult<()> {
        if of == (MapOf { response: false, trailers: false }) {
            // The route may go by what is changed. Later, it does not matter any more.
            let _ = self.reroute();
        }
        let head = self.changeable(of)?;
        match edit {
            MapEdit::Add(name, value) => put(head, of, name, value, true),
            MapEdit::Replace(name, value) => put(head, of, name, value, false),
            MapEdit::Remove(name) => {
                let lower = lower(name)?;
                // A body whose length is not announced is framed without one.
                if lower != "content-length" && !is_editable(&lower) {
                    return Err(Status::BadArgument);
                }
                head.remove(lower.as_bytes());
                Ok(())
            }
            MapEdit::All(pairs) => {
                // Before anything is removed: all or nothing of it.
                let mut after = head.clone();
                after.remove_where(|name, _| {
                    is_editable(&String::from_utf8_lossy(name).to_ascii_lowercase())
                });
                for (name, value) in pairs {
                    put(&mut after, of, name, value, true)?;
                }
                *head = after;
                Ok(())
            }
        }
    }

    fn body(&self, response: bool) -> CallResult<Bytes> {
        match &*self.message {
            _ if response != self.response => Err(Status::NotFound),
            GuestMessage::Whole(whole) => Ok(whole.body.clone()),
            GuestMessage::Piece { body, .. } => Ok(Bytes::clone(body)),
            _ => Err(Status::NotFound),
        }
    }

    fn set_body(&mut self, response: bool, bytes: Bytes) -> CallResult<()> {
        match &mut *self.message {
            _ if response != self.response => Err(Status::NotFound),
            GuestMessage::Whole(whole) => {
                whole.body = bytes;
                Ok(())
            }
            GuestMessage::Piece { body, editable: true, .. } => {
                **body = bytes;
                Ok(())
            }
            _ => Err(Status::NotFound),
        }
    }

    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        let of = |response| MapOf { response, trailers: false };
        let request = self.to_read(of(false));
        let response = if self.response { self.to_read(of(true)) } else { None };
        properties::of_request(self.cx, request, response, path)
            .or_else(|| values::shared(self.cx.values, path))
    }

    fn set_property(&mut self, path: &[&str], value: &[u8]) -> CallResult<()> {
        values::share(self.cx.values, path, value)
    }

    fn may_respond(&self) -> bool {
        // A response whose headers have been sent is cut off.
        !matches!(self.message, GuestMessage::Nothing)
    }

    fn reroute(&mut self) -> CallResult<()> {
        let unsent = matches!(self.message, GuestMessage::Head(_) | GuestMessage::Whole(_));
        if self.response || !unsent {
            return Err(Status::BadArgument);
        }
        self.cx.reroute();
        Ok(())
    }

    fn side_calls(&mut self) -> Option<SideCalls> {
        match self.message {
            GuestMessage::Nothing => None,
            _ => Some(self.cx.side_calls()),
        }
    }

    fn request(&self) -> u64 {
        self.cx.summary.id
    }
}

fn lower(name: &[u8]) -> CallResult<String> {
    let name = std::str::from_utf8(name).map_err(|_| Status::BadArgument)?;
    if name.is_empty() { Err(Status::BadArgument) } else { Ok(name.to_ascii_lowercase()) }
}

/// The value of a pseudo-header, or of `host`, which is one; `None` if `name` is none, `Some(None)` if it has no value here.
#[allow(clippy::option_option, reason = "two questions")]
fn pseudo(head: &Head, name: &str, response: bool) -> Option<Option<Vec<u8>>> {
    let text = match (name, response) {
        (":status", true) => head.status().to_string(),
        (":path", false) => head.path().to_owned(),
        (":method", false) => head.method_text().to_owned(),
        (":authority" | "host", false) => head.authority().to_owned(),
        (":scheme", false) => head.scheme().to_owned(),
        _ if name.starts_with(':') => return Some(None),
        _ => return None,
    };
    Some(Some(text.into_bytes()).filter(|text| !text.is_empty()))
}

/// Adds a header, or sets it in place of all of that name.
fn put(head: &mut Head, of: MapOf, name: &[u8], value: &[u8], add: bool) -> CallResult<()> {
    let name = lower(name)?;
    if !of.trailers && (name.starts_with(':') || name == "host" && !of.response) {
        return set_pseudo(head, &name, value, of.response);
    }
    if name == "content-length" && !of.trailers {
        // The length of a body is always what it is.
        let stated = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        return if stated { Ok(()) } else { Err(Status::BadArgument) };
    }
    if !is_editable(&name) || !is_field_value(value) {
        return Err(Status::BadArgument);
    }
    if add {
        head.append(name.as_bytes(), value);
    } else {
        head.set(name.as_bytes(), value);
    }
    if head.is_sound() { Ok(()) } else { Err(Status::InternalFailure) }
}

fn set_pseudo(head: &mut Head, name: &str, value: &[u8], response: bool) -> CallResult<()> {
    let done = match (name, response) {
        (":status", true) => {
            let status = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            let status = status.filter(|status| (200..=599).contains(status));
            status.is_some_and(|status| {
                head.set_status(status);
                true
            })
        }
        (":path", false) => value.starts_with(b"/") && head.set_path(value),
        (":authority" | "host", false) => head.set_authority(value),
        (":scheme", false) => value == head.scheme().as_bytes(),
        (":method", false) => is_token(value) && value != b"CONNECT" && head.set_method(value),
        _ => false,
    };
    if done { Ok(()) } else { Err(Status::BadArgument) }
}
