//! `body_max`: limits the size of request bodies, without buffering them.
//!
//! Keeps: a declared length is checked with the headers, an undeclared one as the body arrives.

use sluice_codec::{Body, Head};
use sluice_core::settings::{Short, ShortForm, Size};

use super::{BodyAccess, BodyStep, Cx, HeadStep, HttpFilter, OfSettings};
use crate::reasons;
use crate::reply::Reply;

sluice_core::section! {
    /// Limits the size of request bodies.
    pub struct BodyMax {
        /// The largest body; a larger one gets a 413 response.
        pub max: Size,
    }
}

impl ShortForm for BodyMax {
    const KEY: &'static str = "max";
}

impl OfSettings for Short<BodyMax> {
    const NAME: &'static str = "body_max";
    const HELP: &'static str = "Limits the size of request bodies; the short form is the size.";

    fn is_guard(&self) -> bool {
        true
    }
}

impl BodyMax {
    fn too_large() -> Reply {
        let body = "the request body is too large\n";
        let reply = Reply::new(413, reasons::BODY_TOO_LARGE, "request_payload_too_large", body);
        reply.closing()
    }
}

impl HttpFilter for Short<BodyMax> {
    fn request_head(&self, _cx: &mut Cx<'_>, head: &mut Head) -> HeadStep {
        match head.content_length() {
            Some(length) if length > self.0.max.0 => HeadStep::reply(BodyMax::too_large()),
            _ => HeadStep::Continue,
        }
    }

    fn request_body_access(&self, _cx: &Cx<'_>) -> BodyAccess {
        BodyAccess::Read
    }

    fn request_body(&self, cx: &mut Cx<'_>, _body: &mut Body, _last: bool) -> BodyStep {
        if cx.summary.received > self.0.max.0 {
            return BodyStep::reply(BodyMax::too_large());
        }
        BodyStep::Continue
    }
}
