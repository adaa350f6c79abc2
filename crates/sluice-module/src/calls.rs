//! Calls of clusters by libraries.
//!
//! Owns: the request that a library describes, and what it may read of the response. Refuses to know: how a call is made. Keeps: no
//! header is sent that frames a message; what a library makes of a request is bounded.

use sluice_codec::names::{is_field_value, is_token};
use sluice_core::LocalFuture;
use sluice_l7::words::is_editable;
use sluice_l7::{SideCallError, SideRequest, SideResponse};
use sluice_sys::module::{HostAnswer, HostRefusal};

use crate::waits::ModuleWait;

/// The most bytes of the headers of a request, with their names.
const HEADERS_MAX: usize = 64 * 1024;

/// How a call ended.
pub(crate) type LibraryCallEnd = Result<SideResponse, SideCallError>;

/// What a hook waits for.
pub(crate) enum HookWait {
    /// A thread of the library.
    Ticket(ModuleWait),
    /// The response to a call.
    Call(LocalFuture<LibraryCallEnd>),
}

impl std::fmt::Debug for HookWait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ticket(_) => "Ticket",
            Self::Call(_) => "Call",
        })
    }
}

impl HookWait {
    /// Waits; returns how the call ended, if it is one.
    pub(crate) async fn over(self) -> Option<Box<LibraryCallEnd>> {
        match self {
            Self::Ticket(wait) => {
                wait.await;
                None
            }
            Self::Call(call) => Some(Box::new(call.await)),
        }
    }
}

/// A call that has ended, in the hook that it resumed.
#[derive(Debug)]
pub(crate) struct CallAnswer {
    end: Box<LibraryCallEnd>,
    /// Why there is no response.
    why: String,
}

impl CallAnswer {
    pub(crate) fn new(end: Box<LibraryCallEnd>) -> Self {
        let why = (*end).as_ref().err().map(ToString::to_string).unwrap_or_default();
        Self { end, why }
    }

    /// The status and the body; 0 and the reason if there is no response.
    pub(crate) fn status_and_body(&self) -> (u32, &[u8]) {
        match &*self.end {
            Ok(response) => (u32::from(response.head.status()), &response.body),
            Err(_) => (0, self.why.as_bytes()),
        }
    }

    /// The value of a header with that index.
    pub(crate) fn header(&self, name: &[u8], index: usize) -> Option<&[u8]> {
        let head = &(*self.end).as_ref().ok()?.head;
        let mut fields = head.fields().filter(|(of, _)| of.eq_ignore_ascii_case(name));
        fields.nth(index).map(|(_, value)| value)
    }
}

/// The request that a library describes.
///
/// # Errors
/// It is none, or too large.
pub(crate) fn request(fields: &[(&[u8], &[u8])], body: &[u8]) -> HostAnswer<SideRequest> {
    if fields.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > HEADERS_MAX {
        return Err(HostRefusal::TooLarge);
    }
    let pseudo = |name: &[u8]| {
        let (_, value) = fields.iter().find(|(of, _)| of.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(value).ok().filter(|text| !text.is_empty())
    };
    let (method, path) = (pseudo(b":method"), pseudo(b":path"));
    let (Some(method), Some(path)) = (method, path) else { return Err(HostRefusal::Invalid) };
    let is_target = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_token(method.as_bytes()) || method == "CONNECT" || !is_target {
        return Err(HostRefusal::Invalid);
    }
    let mut request = SideRequest::new(method, path);
    for (name, value) in fields {
        let name = std::str::from_utf8(name).map_err(|_| HostRefusal::Invalid)?;
        let name = name.to_ascii_lowercase();
        match &*name {
            // The length follows from the body.
            ":method" | ":path" | "content-length" => {}
            ":authority" => {
                let host = std::str::from_utf8(value).map_err(|_| HostRefusal::Invalid)?;
                if !sluice_codec::h1::parse::is_authority(value) {
                    return Err(HostRefusal::Invalid);
                }
                request = request.host(host);
            }
            _ if is_editable(&name) && is_field_value(value) => {
                request = request.with(&name, value);
            }
            _ => return Err(HostRefusal::Invalid),
        }
    }
    Ok(if body.is_empty() { request } else { request.body(body.to_vec()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_l7::reasons;

    #[track_caller]
    fn refused(fields: &[(&[u8], &[u8])], with: HostRefusal) {
        assert_eq!(request(fields, b"").unwrap_err(), with, "{fields:?}");
    }

    #[test]
    fn a_request_has_a_method_and_a_path_and_no_header_that_frames_it() {
        let (method, path): (_, (&[u8], &[u8])) =
            ((&b":method"[..], &b"POST"[..]), (b":path", b"/a?b=c"));
        let more = [method, path, (b":authority", b"auth.test"), (b"X-A", b"1")];
        assert!(request(&more, b"body").is_ok());
        refused(&[method], HostRefusal::Invalid);
        refused(&[(b":method", b"CONNECT"), path], HostRefusal::Invalid);
        refused(&[(b":method", b"GET /"), path], HostRefusal::Invalid);
        refused(&[method, (b":path", b"a")], HostRefusal::Invalid);
        refused(&[method, (b":path", b"/a b")], HostRefusal::Invalid);
        refused(&[method, (b":path", b"/\xff")], HostRefusal::Invalid);
        for wrong in [
            (&b":authority"[..], &b"a b"[..]),
            (b":status", b"200"),
            (b"host", b"a"),
            (b"transfer-encoding", b"chunked"),
            (b"connection", b"close"),
            (b"x-a", b"1\r\nb: 2"),
            (b"x a", b"1"),
            (b"\xff", b"1"),
        ] {
            refused(&[method, path, wrong], HostRefusal::Invalid);
        }
        let long = vec![b'x'; HEADERS_MAX];
        refused(&[method, path, (b"x-a", &long)], HostRefusal::TooLarge);
    }

    #[test]
    fn a_call_without_a_response_has_a_reason() {
        let why = reasons::SIDE_CALL_TIMEOUT;
        let answer = CallAnswer::new(Box::new(Err(SideCallError { why, detail: None })));
        assert_eq!(answer.status_and_body(), (0, why.code().as_bytes()));
        assert_eq!(answer.header(b"a", 0), None);
    }
}
