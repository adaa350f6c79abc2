//! What is recorded of a request and its response.
//!
//! Owns: the parts that have passed, and when they are handed over. Refuses to know: how they are written. Keeps: parts are handed
//! over in the order of the protocol; no more of a body is held than is recorded.

use std::rc::Rc;
use std::sync::Arc;

use sluice_codec::Head;
use sluice_l4::tap::{OpenTap, TapFiles, TraceValue, body_of};

use super::TapRules;
use super::conditions::{MessagePart, TapProgress, TapStatus};
use super::trace::{self, RecordedMessage};
use crate::filters::Cx;

/// A request that is recorded, or may come to be.
pub(super) struct TracedRequest {
    rules: Arc<TapRules>,
    progress: TapProgress,
    status: TapStatus,
    tap: OpenTap,
    request: RecordedMessage,
    response: RecordedMessage,
    /// Parts are handed over as they pass.
    streams: bool,
}

impl TracedRequest {
    /// Begins, if the request may come to be recorded.
    pub(super) fn begin(
        rules: &Arc<TapRules>,
        files: &Rc<TapFiles>,
        cx: &Cx<'_>,
        head: &Head,
    ) -> Option<Self> {
        let mut progress = TapProgress::new(&rules.formula);
        progress.headers(&rules.formula, MessagePart::Request, head);
        let status = progress.status(&rules.formula);
        if !status.matches && !status.is_open {
            return None;
        }
        let mut traced = Self {
            rules: Arc::clone(rules),
            progress,
            status,
            tap: files.open()?,
            request: RecordedMessage::default(),
            response: RecordedMessage::default(),
            streams: false,
        };
        traced.request.at = Some(now(cx));
        if rules.settings.stream {
            traced.request.headers = Some(traced.recorded(trace::request_headers(head)));
            traced.follow();
        }
        Some(traced)
    }

    /// Whether it is certain that it is not recorded.
    pub(super) const fn is_out(&self) -> bool {
        !self.status.matches && !self.status.is_open && !self.streams
    }

    pub(super) fn response(&mut self, head: &Head, cx: &Cx<'_>) {
        self.progress.headers(&self.rules.formula, MessagePart::Response, head);
        self.decide();
        if self.is_out() {
            return;
        }
        self.response.at = Some(now(cx));
        let headers = self.recorded(trace::response_headers(head));
        self.response.headers = Some(headers);
        self.follow();
    }

    pub(super) fn body(&mut self, part: MessagePart, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.progress.body(&self.rules.formula, part, bytes);
        self.decide();
        if self.is_out() {
            return;
        }
        // What passed before comes first.
        self.follow();
        let max = match part {
            MessagePart::Request => self.rules.settings.request_body,
            MessagePart::Response => self.rules.settings.response_body,
        };
        let max = usize::try_from(max.0).unwrap_or(usize::MAX);
        let held = self.side(part).body.as_ref().map_or(0, |(held, _)| held.len());
        let kept = self.tap.take(bytes.len().min(max.saturating_sub(held)));
        let (held, truncated) = self.side(part).body.get_or_insert_default();
        held.extend_from_slice(&bytes[..kept]);
        *truncated |= kept < bytes.len();
        self.follow();
    }

    pub(super) fn trailers(&mut self, part: MessagePart, trailers: &Head) {
        self.progress.trailers(&self.rules.formula, part, trailers);
        self.decide();
        if self.is_out() {
            return;
        }
        let fields = self.recorded(trace::fields(trailers));
        self.side(part).trailers = Some(fields);
        self.follow();
    }

    /// The body of a response that has not passed, since it is Sluice's own.
    pub(super) fn own_body(&mut self, text: &[u8]) {
        let is_there = self.response.body.is_some();
        if !is_there && self.response.at.is_some() {
            self.body(MessagePart::Response, text);
        }
    }

    pub(super) fn end(&mut self, cx: &Cx<'_>) {
        if !self.status.matches || self.streams || self.rules.settings.stream {
            return;
        }
        // As filters behind have left it.
        self.request.headers = cx.request.map(trace::request_headers);
        let whole =
            trace::buffered(&self.rules.settings, &mut self.request, &mut self.response, cx);
        self.tap.submit(whole);
    }

    fn decide(&mut self) {
        if self.status.is_open {
            self.status = self.progress.status(&self.rules.formula);
        }
    }

    /// Headers or trailers, if they may be recorded.
    fn recorded(&mut self, fields: TraceValue) -> TraceValue {
        let weight = fields.weight();
        let fits = self.tap.take(weight) == weight;
        if fits { fields } else { TraceValue::List(Vec::new()) }
    }

    const fn side(&mut self, part: MessagePart) -> &mut RecordedMessage {
        match part {
            MessagePart::Request => &mut self.request,
            MessagePart::Response => &mut self.response,
        }
    }

    /// Hands over what has passed, if parts are handed over as they pass.
    fn follow(&mut self) {
        if !self.rules.settings.stream || !(self.streams || self.status.matches) {
            return;
        }
        self.streams = true;
        let Self { tap, request, response, .. } = self;
        let sides = [(request, trace::OF_REQUEST), (response, trace::OF_RESPONSE)];
        for (message, [headers, body, trailers]) in sides {
            if let Some(fields) = message.headers.take() {
                tap.submit(trace::segment(tap.id, headers, trace::list_of(fields)));
            }
            if let Some((bytes, truncated)) = message.body.take() {
                tap.submit(trace::segment(tap.id, body, body_of(bytes, truncated)));
            }
            if let Some(fields) = message.trailers.take() {
                tap.submit(trace::segment(tap.id, trailers, trace::list_of(fields)));
            }
        }
    }
}

fn now(cx: &Cx<'_>) -> std::time::Duration {
    cx.worker.clock.wall(cx.worker.now())
}
