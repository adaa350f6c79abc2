//! What answers change, and what becomes of a message whose answer cannot be had.
//!
//! Owns: changes of heads, responses of the service, failures. Refuses to know: the hooks. Keeps: what cannot be carried out
//! is a failure of the service; a failure passes only where the configuration says so, and never if the service has a
//! part of the body.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use sluice_codec::Head;
use sluice_codec::grpc::GrpcCode;
use sluice_core::values::ValueFamily;

use super::changes::ChangedHead;
use super::link::{PartAnswered, ProcEnd, ProcFailure};
use super::machine::{AnswerPart, ProcAnswer};
use super::messages::{
    BodyChange, CommonResponse, HeaderMutation, ImmediateResponse, ProcessingMode,
};
use super::parts::MessageSide;
use super::settings::{BodyMode, ProcSettings, ReroutePolicy, SentParts};
use super::state::{METADATA, OfProc, ProcRunning, with_state};
use crate::filters::Cx;
use crate::filters::ext_authz::answer::{add, tree};
use crate::filters::ext_authz::messages::StructMessage;
use crate::json::Json;
use crate::reasons;
use crate::reply::Reply;

/// The reply to a message that does not pass, or none if it passes as it is.
type Failed = Option<Box<Reply>>;

/// Most characters of the details that a service gives for its response.
const DETAILS_CHARS_MAX: usize = 256;

impl ProcRunning {
    /// What a direction got for a part; `None` if the message passes without an answer.
    pub(super) fn settle(
        &self,
        cx: &mut Cx<'_>,
        side: MessageSide,
        answered: PartAnswered,
    ) -> Result<Option<AnswerPart>, Box<Reply>> {
        let failed = match answered {
            PartAnswered::Answer(ProcAnswer { of, metadata }) => {
                self.share(cx, metadata);
                return Ok(Some(of));
            }
            PartAnswered::Respond(response) => return self.respond(cx, side, *response),
            PartAnswered::End(ProcEnd::Closed) if !self.holds_body(cx, side) => {
                with_state(cx, |_, of| {
                    of.is_over = true;
                    if of.result == "processed" {
                        of.result = "closed";
                    }
                });
                return Ok(None);
            }
            PartAnswered::End(ProcEnd::Closed) => {
                let what = "the call ended before the body";
                self.failed(cx, side, ProcFailure::unexpected(what))
            }
            PartAnswered::End(ProcEnd::Responded) => {
                let details = "ext_proc_response_elsewhere";
                Some(Box::new(Reply::new(500, reasons::EXT_PROC_CUT, details, FAILED)))
            }
            PartAnswered::End(ProcEnd::Failed(failure)) => self.failed(cx, side, failure),
        };
        failed.map_or(Ok(None), Err)
    }

    fn holds_body(&self, cx: &mut Cx<'_>, side: MessageSide) -> bool {
        let holds = |of: &OfProc| of.link.as_ref().is_some_and(|link| link.holds_body(side));
        with_state(cx, |_, of| holds(of)) == Some(true)
    }

    /// Ends the conversation with a failure; returns the reply unless the message passes in spite of it.
    pub(super) fn failed(
        &self,
        cx: &mut Cx<'_>,
        side: MessageSide,
        failure: ProcFailure,
    ) -> Failed {
        let holds = self.holds_body(cx, side);
        let reply = with_state(cx, |_, of| {
            (of.is_over, of.result) = (true, "failed");
            if let Some(link) = &of.link {
                link.fail(&failure);
            }
            let ProcFailure { why, details } = failure;
            let late = if why == reasons::EXT_PROC_TIMEOUT { 504 } else { 500 };
            let status = of.settings.error_status.unwrap_or(late);
            let passes = of.settings.allow_on_error && !holds;
            (!passes).then(|| Box::new(Reply::new(status, why, details, FAILED)))
        });
        reply.flatten()
    }

    /// An answer to another part than the hook waits for.
    pub(super) fn misplaced(&self, cx: &mut Cx<'_>, side: MessageSide) -> Failed {
        self.failed(cx, side, ProcFailure::unexpected("an answer was not due"))
    }

    /// Shares what the service tells of the request, as far as it may.
    fn share(&self, cx: &mut Cx<'_>, metadata: Option<StructMessage>) {
        let Some(metadata) = metadata else { return };
        with_state(cx, |cx, of| {
            let Json::Object(spaces) = tree(metadata) else { return };
            for (name, told) in spaces {
                if of.settings.receive_metadata.iter().any(|own| **own == *name) {
                    of.metadata.insert(name, told);
                }
            }
            if !of.metadata.is_empty() {
                let all = of.metadata.iter().map(|(name, told)| (name.clone(), told.clone()));
                cx.values.set(&METADATA, ValueFamily(Arc::new(Json::Object(all.collect()))));
            }
        });
    }

    /// Responds with what the service says, if it may.
    fn respond(
        &self,
        cx: &mut Cx<'_>,
        side: MessageSide,
        response: ImmediateResponse,
    ) -> Result<Option<AnswerPart>, Box<Reply>> {
        let made = with_state(cx, |_, of| {
            of.is_over = true;
            if !of.settings.responds {
                of.result = "closed";
                return Ok(None);
            }
            of.result = "replied";
            let reply = immediate(&of.settings, response)?;
            Ok(Some(Box::new(reply)))
        });
        match made {
            None => Ok(None),
            Some(Ok(None)) if self.holds_body(cx, side) => {
                let what = "a response took the place of a body";
                self.failed(cx, side, ProcFailure::unexpected(what)).map_or(Ok(None), Err)
            }
            Some(Ok(None)) => Ok(None),
            Some(Ok(Some(reply))) => Err(reply),
            Some(Err(failure)) => self.failed(cx, side, failure).map_or(Ok(None), Err),
        }
    }

    /// Changes a head as the answer to it says; returns the body that takes the place of the message's own, if any does.
    pub(super) fn change_head(
        self: &Rc<Self>,
        cx: &mut Cx<'_>,
        side: MessageSide,
        head: &mut Head,
        common: CommonResponse,
        mode: Option<ProcessingMode>,
    ) -> Result<Option<Bytes>, Failed> {
        let CommonResponse { status, header_mutation, body_mutation, clear_route_cache } = common;
        let changed = header_mutation.map_or(Ok(()), |of| self.change(cx, head, of, changed(side)));
        changed.map_err(|failure| self.failed(cx, side, failure))?;
        let replaces = status == 1;
        let overridden = with_state(cx, |cx, of| {
            let reroutes = match of.settings.reroute {
                ReroutePolicy::Asked => clear_route_cache,
                ReroutePolicy::Always => true,
                ReroutePolicy::Never => false,
            };
            if reroutes && side == MessageSide::Request {
                cx.reroute();
            }
            if let Some(mode) = mode.filter(|mode| may_override(&of.settings, *mode)) {
                of.send = overridden(&of.send, mode)?;
                of.plan(side);
            }
            if replaces {
                of.leave(side);
            }
            Some(())
        });
        if overridden == Some(None) {
            let what = "an answer has a body mode without a meaning";
            return Err(self.failed(cx, side, ProcFailure::unexpected(what)));
        }
        let body = match body_mutation.and_then(|of| of.mutation) {
            Some(BodyChange::Replace(body)) => body,
            Some(BodyChange::Clear(_) | BodyChange::Streamed(_)) | None => Bytes::new(),
        };
        Ok(replaces.then_some(body))
    }

    /// Changes headers or trailers.
    pub(super) fn change(
        &self,
        cx: &mut Cx<'_>,
        head: &mut Head,
        mutation: HeaderMutation,
        of_what: ChangedHead,
    ) -> Result<(), ProcFailure> {
        let applied = with_state(cx, |_, of| of.settings.changes.apply(mutation, head, of_what));
        let Some(applied) = applied else { return Ok(()) };
        let changed = applied.map_err(ProcFailure::unexpected)?;
        let part = match of_what {
            ChangedHead::Request => "request",
            ChangedHead::Response => "response",
            ChangedHead::Trailers => "trailers",
        };
        (0..changed.ignored).for_each(|_| self.count_ignored(part));
        Ok(())
    }
}

/// The body of a response to a request that could not be processed.
const FAILED: &str = "the request could not be processed\n";

const fn changed(side: MessageSide) -> ChangedHead {
    match side {
        MessageSide::Request => ChangedHead::Request,
        MessageSide::Response => ChangedHead::Response,
    }
}

/// What is sent from now on, as the service says. Of headers and trailers, 0 leaves it as it is.
fn overridden(send: &SentParts, mode: ProcessingMode) -> Option<SentParts> {
    let flag = |number, own| match number {
        0 => Some(own),
        1 => Some(true),
        2 => Some(false),
        _ => None,
    };
    Some(SentParts {
        request_headers: send.request_headers,
        request_body: BodyMode::of_number(mode.request_body_mode)?,
        request_trailers: flag(mode.request_trailer_mode, send.request_trailers)?,
        response_headers: flag(mode.response_header_mode, send.response_headers)?,
        response_body: BodyMode::of_number(mode.response_body_mode)?,
        response_trailers: flag(mode.response_trailer_mode, send.response_trailers)?,
    })
}

/// Whether an answer may change to that mode. One without a meaning is a failure, and no matter of being allowed.
fn may_override(settings: &ProcSettings, mode: ProcessingMode) -> bool {
    let modes = &settings.override_modes;
    let is_listed = |asked: SentParts| {
        let listed = |one: &SentParts| {
            SentParts { request_headers: one.request_headers, ..asked.clone() } == *one
        };
        modes.is_empty() || modes.iter().any(listed)
    };
    settings.allow_override && overridden(&SentParts::usual(), mode).is_none_or(is_listed)
}

/// The response that a service gives itself.
fn immediate(settings: &ProcSettings, response: ImmediateResponse) -> Result<Reply, ProcFailure> {
    let code = response.status.map_or(0, |status| status.code);
    let status = u16::try_from(code).ok().filter(|status| (200..600).contains(status));
    let Some(status) = status else {
        return Err(ProcFailure::unexpected("a response has no status of HTTP"));
    };
    let named: String = response
        .details
        .chars()
        .take(DETAILS_CHARS_MAX)
        .map(|letter| if letter.is_ascii_graphic() { letter } else { '_' })
        .collect();
    let details = if named.is_empty() { "ext_proc_response".into() } else { named };
    let mut reply = Reply::new(status, reasons::LOCAL, details, response.body);
    reply.grpc_code = response.grpc_status.map(|of| GrpcCode::of_number(of.status));
    let mut head = Head::response(status);
    let mutation = response.headers.unwrap_or_default();
    let applied = settings.changes.apply(mutation, &mut head, ChangedHead::Trailers);
    applied.map_err(ProcFailure::unexpected)?;
    for (name, value) in head.fields() {
        add(&mut reply, &String::from_utf8_lossy(name), value);
    }
    Ok(reply)
}
