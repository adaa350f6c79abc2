//! What a library may do in a hook.
//!
//! Owns: the operations of a hook on its message and its request. Refuses to know: how a library calls them, and what
//! becomes of the message. Keeps: everything that a library makes grow is bounded; what is lent stays where it is until the
//! hook ends.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_abi::AbiTicket;
use sluice_codec::names::is_field_value;
use sluice_core::Moment;
use sluice_l7::filters::Cx;
use sluice_l7::words::is_editable;
use sluice_l7::{Reply, reasons};
use sluice_sys::module::{HeaderPart, HostAnswer, HostRefusal, ModuleCall, RequestFact};
use sluice_telemetry::Counter;
use sluice_upstream::Cluster;

use crate::calls::{self, CallAnswer, HookWait};
use crate::lent::{Lent, LogLines};
use crate::message::{HeaderPut, HookMessage, pseudo};
use crate::values;
use crate::verdict::bounded;
use crate::waits::Waits;

/// What all hooks of a filter on a worker have in common.
#[derive(Debug)]
pub(crate) struct OfFilter {
    /// The name of the filter of the library.
    pub(crate) filter: String,
    pub(crate) listener: String,
    /// By the numbers that the library has.
    pub(crate) counters: Vec<Counter>,
    pub(crate) edits_target: bool,
    pub(crate) body_max: usize,
    /// Those that it may call.
    pub(crate) clusters: Vec<Arc<Cluster>>,
    pub(crate) waits: Rc<Waits>,
}

/// A hook, while it runs.
#[derive(Debug)]
pub(crate) struct HookCall<'a, 'c, 'm> {
    cx: &'a mut Cx<'c>,
    message: &'a mut HookMessage<'m>,
    response: bool,
    of: &'a OfFilter,
    /// Made by `respond`.
    pub(crate) reply: Option<Box<Reply>>,
    /// Made by `suspend` and `call`.
    pub(crate) wait: Option<HookWait>,
    /// The call that it waited for.
    pub(crate) answer: Option<CallAnswer>,
    scratch: [u8; 3],
    lent: Lent,
    lines: LogLines,
}

impl<'a, 'c, 'm> HookCall<'a, 'c, 'm> {
    pub(crate) fn new(
        cx: &'a mut Cx<'c>,
        message: &'a mut HookMessage<'m>,
        response: bool,
        of: &'a OfFilter,
    ) -> Self {
        Self {
            cx,
            message,
            response,
            of,
            reply: None,
            wait: None,
            answer: None,
            scratch: [0; 3],
            lent: Lent::default(),
            lines: LogLines::default(),
        }
    }
}

impl ModuleCall for HookCall<'_, '_, '_> {
    fn header(&mut self, part: HeaderPart, name: &[u8], index: usize) -> HostAnswer<Option<&[u8]>> {
        let Some(head) = self.message.to_read(self.cx, self.response, part)? else {
            return Ok(None);
        };
        let of_response = matches!(part, HeaderPart::ResponseHeaders);
        let has_pseudo = of_response || matches!(part, HeaderPart::RequestHeaders);
        if has_pseudo && let Some(value) = pseudo(head, name, of_response, &mut self.scratch) {
            return Ok(value.filter(|_| index == 0));
        }
        if index == 0 {
            return Ok(head.get_named(name));
        }
        let mut fields = head.fields().filter(|(of, _)| of.eq_ignore_ascii_case(name));
        Ok(fields.nth(index).map(|(_, value)| value))
    }

    fn headers(&mut self, part: HeaderPart, tell: &mut dyn FnMut(&[u8], &[u8])) -> HostAnswer<()> {
        let head = self.message.to_read(self.cx, self.response, part)?;
        for (name, value) in head.into_iter().flat_map(sluice_codec::Head::fields) {
            tell(name, value);
        }
        Ok(())
    }

    fn add_header(&mut self, part: HeaderPart, name: &[u8], value: &[u8]) -> HostAnswer<()> {
        self.message.put(self.response, part, name, value, HeaderPut::Add)
    }

    fn set_header(&mut self, part: HeaderPart, name: &[u8], value: &[u8]) -> HostAnswer<()> {
        let how = HeaderPut::Set { target: self.of.edits_target };
        self.message.put(self.response, part, name, value, how)
    }

    fn remove_header(&mut self, part: HeaderPart, name: &[u8]) -> HostAnswer<bool> {
        self.message.remove(self.response, part, name)
    }

    fn body(&mut self) -> HostAnswer<&[u8]> {
        self.message.body()
    }

    fn set_body(&mut self, bytes: &[u8]) -> HostAnswer<()> {
        self.message.set_body(bytes, self.of.body_max)
    }

    fn respond(
        &mut self,
        status: u32,
        fields: &[(&[u8], &[u8])],
        body: &[u8],
        details: &[u8],
    ) -> HostAnswer<()> {
        let sent = self.response
            && matches!(self.message, HookMessage::Piece(..) | HookMessage::Trailers(..));
        if sent || matches!(self.message, HookMessage::Nothing) {
            return Err(HostRefusal::NotNow);
        }
        if body.len() > self.of.body_max {
            return Err(HostRefusal::TooLarge);
        }
        let status = u16::try_from(status).ok().filter(|status| (200..=599).contains(status));
        let status = status.ok_or(HostRefusal::Invalid)?;
        let details = match bounded(details) {
            text if text.is_empty() => format!("module_response[{}]", self.of.filter),
            text => format!("module_response[{}: {text}]", self.of.filter),
        };
        let mut reply = Reply::new(status, reasons::LOCAL, details, body.to_vec());
        for (name, value) in fields {
            let name = std::str::from_utf8(name).map_err(|_| HostRefusal::Invalid)?;
            let name = name.to_ascii_lowercase();
            let text = std::str::from_utf8(value).map_err(|_| HostRefusal::Invalid)?;
            if !is_field_value(value) {
                return Err(HostRefusal::Invalid);
            }
            match &*name {
                "content-type" => reply.content_type = text.to_owned().into(),
                // It follows from the body.
                "content-length" => {}
                _ if is_editable(&name) => reply = reply.with(name, text),
                _ => return Err(HostRefusal::Invalid),
            }
        }
        self.reply = Some(Box::new(reply));
        Ok(())
    }

    fn value(&mut self, name: &[u8]) -> HostAnswer<Option<&[u8]>> {
        let name = std::str::from_utf8(name).map_err(|_| HostRefusal::Invalid)?;
        let of_request = self.cx.values.named(name);
        let value = of_request.or_else(|| self.cx.conn_values.named(name));
        match value.map(ToString::to_string) {
            Some(text) => self.lent.keep(text),
            None => Ok(None),
        }
    }

    fn set_value(&mut self, name: &[u8], value: &[u8]) -> HostAnswer<()> {
        let name = std::str::from_utf8(name).map_err(|_| HostRefusal::Invalid)?;
        values::share(self.cx.values, name, value)
    }

    fn fact(&mut self, fact: RequestFact) -> HostAnswer<Option<&[u8]>> {
        let (conn, summary) = (self.cx.conn, self.cx.summary);
        let text = match fact {
            RequestFact::Source => summary.source.to_string(),
            RequestFact::Peer => conn.peer().to_string(),
            RequestFact::Local => conn.local().to_string(),
            RequestFact::Protocol => summary.version.word().to_owned(),
            RequestFact::Route => match summary.route.as_deref() {
                Some(route) => route.to_owned(),
                None => return Ok(None),
            },
            RequestFact::Sni => match conn.sni() {
                Some(name) => name.to_owned(),
                None => return Ok(None),
            },
            RequestFact::Request => summary.id.to_string(),
            RequestFact::Listener => return Ok(Some(self.of.listener.as_bytes())),
        };
        self.lent.keep(text)
    }

    fn count(&mut self, counter: u32, amount: u64) -> HostAnswer<()> {
        let place = usize::try_from(counter).map_err(|_| HostRefusal::Invalid)?;
        self.of.counters.get(place).ok_or(HostRefusal::Invalid)?.add(amount);
        Ok(())
    }

    fn reroute(&mut self) -> HostAnswer<()> {
        if self.response || !matches!(self.message, HookMessage::Head(_) | HookMessage::Whole(_)) {
            return Err(HostRefusal::NotNow);
        }
        self.cx.reroute();
        Ok(())
    }

    fn suspend(&mut self) -> HostAnswer<AbiTicket> {
        if matches!(self.message, HookMessage::Nothing) {
            return Err(HostRefusal::NotNow);
        }
        let wait =
            self.wait.get_or_insert_with(|| HookWait::Ticket(self.of.waits.begin(self.cx.worker)));
        match wait {
            HookWait::Ticket(wait) => Ok(wait.ticket()),
            HookWait::Call(_) => Err(HostRefusal::NotNow),
        }
    }

    fn call(
        &mut self,
        cluster: &[u8],
        fields: &[(&[u8], &[u8])],
        body: &[u8],
        timeout_ms: u64,
    ) -> HostAnswer<()> {
        if matches!(self.message, HookMessage::Nothing) || self.wait.is_some() {
            return Err(HostRefusal::NotNow);
        }
        let mut clusters = self.of.clusters.iter();
        let cluster = clusters.find(|known| known.name.as_bytes() == cluster);
        let cluster = cluster.ok_or(HostRefusal::NotAllowed)?;
        if body.len() > self.of.body_max {
            return Err(HostRefusal::TooLarge);
        }
        let request = calls::request(fields, body)?;
        let by = match timeout_ms {
            0 => Moment::NEVER,
            millis => self.cx.worker.now().after(Duration::from_millis(millis)),
        };
        let calling = self.cx.side_calls().call(cluster, request, by);
        self.wait = Some(HookWait::Call(calling));
        Ok(())
    }

    fn call_answer(&mut self) -> HostAnswer<Option<(u32, &[u8])>> {
        Ok(self.answer.as_ref().map(CallAnswer::status_and_body))
    }

    fn call_header(&mut self, name: &[u8], index: usize) -> HostAnswer<Option<&[u8]>> {
        Ok(self.answer.as_ref().and_then(|answer| answer.header(name, index)))
    }

    fn log(&mut self, level: i32, line: String) {
        if let Some(line) = self.lines.next(&line) {
            let (filter, request) = (&*self.of.filter, self.cx.summary.id);
            match level {
                0 => tracing::error!(filter, request, "{line}"),
                1 => tracing::warn!(filter, request, "{line}"),
                2 => tracing::info!(filter, request, "{line}"),
                3 => tracing::debug!(filter, request, "{line}"),
                _ => tracing::trace!(filter, request, "{line}"),
            }
        }
    }
}
