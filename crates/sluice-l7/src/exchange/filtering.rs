//! The HTTP filters of a request.
//!
//! Owns: the order in which filters see a request and its response, and the time that they may take.
//! Refuses to know: what any filter does. Keeps: a filter sees the response of a request only if it saw the
//! request; responses pass the filters in reverse order.

use std::num::NonZeroUsize;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use sluice_codec::h1::parse::is_authority;
use sluice_codec::{Head, HttpStream};
use sluice_core::LocalFuture;
use sluice_core::limits::Limit;
use sluice_io::WorkerCx;

use super::deadlines::Deadline;
use super::meanwhile::Meanwhile;
use super::pieces::{PieceHooks, RequestHooks, ResponseHooks};
use super::reroute::RoutePlace;
use super::response_buffering::ResponseBody;
use super::whole::Buffering;
use super::{RequestTask, Stop};
use crate::connection_manager::{FilterEntry, RouteSnapshot};
use crate::filters::{
    CallScope, Cx, HeadStep, HttpFilter, ResponseStep, WholeMessage, WholeResume, WholeStep,
};
use crate::hop_count::HopCount;
use crate::hygiene;
use crate::reasons;
use crate::reply::Reply;

/// Makes what a filter may use in a hook; borrows fields, not the task, so that the hook may also change a head.
macro_rules! context {
    ($task:ident, $place:expr, $request:expr) => {
        Cx {
            worker: &$task.manager.worker,
            conn: $task.downstream.facts(),
            summary: &$task.summary,
            request: $request,
            values: &mut $task.values,
            conn_values: &$task.downstream.conn.info.values,
            runtime: &$task.manager.plan.runtime,
            state: &mut $task.states[$place],
            calls: CallScope {
                hops: $task.arrived,
                by: $task.deadlines.due(Deadline::Total),
                log: &mut $task.side_calls,
            },
            reroutes: &mut $task.reroutes,
            hook: &mut $task.hook,
        }
    };
}

impl RequestTask {
    /// Shows the request to the filters in order, without the first `from`; returns the route, which they may have
    /// selected again.
    pub(super) async fn run_filters(
        &mut self,
        stream: &mut HttpStream,
        snapshot: &RouteSnapshot,
        mut route: Option<RoutePlace>,
        from: usize,
    ) -> Result<Option<RoutePlace>, Stop> {
        if !self.filters.is_empty() {
            self.arrived = HopCount::of(&self.request);
        }
        self.request.take_target_change();
        let mut buffered = None;
        let mut place = from;
        let mut edited = None;
        while let Some(FilterEntry { name, filter, .. }) = self.filters.get(place).cloned() {
            if self.states.len() <= place {
                self.states.push(None);
            }
            self.entered = place + 1;
            self.hook.ends = buffered.is_none() && self.upload.is_received();
            let mut step = self.with_request(place, |cx, head| filter.request_head(cx, head));
            loop {
                step = match step {
                    HeadStep::Continue => break,
                    HeadStep::Reply(reply) => {
                        self.note_filter_reply(&name);
                        return Err(Stop::Reply(reply));
                    }
                    HeadStep::Buffer(max, then) => {
                        let name = Rc::clone(&name);
                        let asked = Buffering { place, name, max, then };
                        // Boxed, so that requests whose filters do not ask for it have no room for it.
                        let whole = Box::pin(self.buffer_request(stream, buffered, asked)).await?;
                        buffered = Some(whole);
                        break;
                    }
                    HeadStep::Peek(max, then) => {
                        let peeked = self.peek_request(stream, &mut buffered, place, max);
                        let start = Box::pin(peeked).await?;
                        self.with_request(place, |cx, head| then(cx, head, start))
                    }
                    HeadStep::Wait(later) => {
                        let resume = self.await_filter(stream, &name, later).await?;
                        self.with_request(place, resume)
                    }
                    HeadStep::WaitWithBody(max, later) => {
                        let asked = Meanwhile { place, name: Rc::clone(&name), max };
                        let waiting = self.receive_while(stream, &mut buffered, asked, later);
                        let resume = Box::pin(waiting).await?;
                        self.with_request(place, resume)
                    }
                };
            }
            if self.clean_new_target()? {
                edited = Some(place);
            }
            if std::mem::take(&mut self.reroutes) {
                route = self.reroute(snapshot, place, route)?;
            }
            place += 1;
            if place == self.filters.len()
                && let Some(editor) = edited.take()
            {
                self.judge_again(snapshot, route, editor);
            }
        }
        if let Some(buffered) = buffered {
            Box::pin(self.show_buffered(stream, buffered)).await?;
        }
        Ok(route)
    }

    /// Notes that a filter responds.
    pub(super) fn note_filter_reply(&mut self, name: &Rc<str>) {
        self.manager.count_filter_reply(name);
        self.summary.filter = Some((&**name).into());
    }

    /// Checks and normalises a path or authority, if a filter set one; returns whether it did.
    fn clean_new_target(&mut self) -> Result<bool, Stop> {
        let changed = self.request.take_target_change();
        if changed {
            self.clean_target()?;
            // Normalising is no further change.
            self.request.take_target_change();
        }
        Ok(changed)
    }

    /// Checks and normalises a path or authority that a filter set, as those that a client sends.
    fn clean_target(&mut self) -> Result<(), Stop> {
        let refused = |body| Stop::reply(Reply::malformed("filter_target_malformed", body));
        if self.request.path().starts_with('/') {
            let path = self.request.path().to_owned();
            let path = hygiene::rewritten(&self.manager.plan.options.hygiene, path)
                .ok_or_else(|| refused("a filter set an invalid path\n"))?;
            self.request.set_path(path.as_bytes());
        }
        if is_authority(self.request.authority().as_bytes()) {
            Ok(())
        } else {
            Err(refused("a filter set an invalid host\n"))
        }
    }

    /// Waits until the filter is done, the client leaves, the deadline of the exchange passes, or the limit on the time
    /// of one filter is reached.
    pub(super) async fn await_filter<T>(
        &mut self,
        stream: &mut HttpStream,
        filter: &str,
        later: LocalFuture<T>,
    ) -> Result<T, Stop> {
        let worker = Rc::clone(self.worker());
        let by = worker.now().after(filter_wait(&worker)).min(self.deadlines.due(Deadline::Total));
        let done = self.guarded(stream, by, later).await;
        self.note_side_calls();
        if let Some(done) = done? {
            return Ok(done);
        }
        self.summary.detail = Some(late(filter).into());
        if self.deadlines.due(Deadline::Total) <= by {
            let body = "a filter did not decide in time\n";
            let status = self.late_status();
            let reply = Reply::new(status, reasons::ROUTE_TIMEOUT, "max_duration_timeout", body);
            return Err(Stop::reply(reply));
        }
        Err(self.filter_timeout())
    }

    fn filter_timeout(&self) -> Stop {
        sluice_l4::metrics::count_limit(self.worker(), Limit::FilterWait);
        let why = sluice_l4::reasons::FILTER_TIMEOUT;
        Stop::reply(Reply::new(504, why, "filter_timeout", "a filter did not decide in time\n"))
    }

    /// The reply if a piece of the request waits for a filter for too long, and no response has begun.
    pub(super) fn filter_timed_out(&mut self, deadline: Deadline) -> Stop {
        self.summary.detail = Some(self.late_filter(deadline).into());
        self.filter_timeout()
    }

    /// A sentence about the filter that a piece waits for too long.
    pub(super) fn late_filter(&self, deadline: Deadline) -> String {
        let place = if deadline == Deadline::ResponseFilter {
            self.waiting_download.as_ref().map(|piece| piece.place::<ResponseHooks>(self.entered))
        } else {
            self.waiting_upload.as_ref().map(|piece| piece.place::<RequestHooks>(self.entered))
        };
        late(place.map_or("?", |place| &self.filters[place].name))
    }

    fn with_request<R>(
        &mut self,
        place: usize,
        call: impl FnOnce(&mut Cx<'_>, &mut Head) -> R,
    ) -> R {
        call(&mut context!(self, place, None), &mut self.request)
    }

    fn with_response<R>(
        &mut self,
        place: usize,
        call: impl FnOnce(&mut Cx<'_>, &mut Head) -> R,
    ) -> R {
        call(&mut context!(self, place, Some(&self.request)), &mut self.response)
    }

    /// Shows a filter a whole message; the head is moved out while a spare takes its place.
    pub(super) fn with_whole<D: PieceHooks>(
        &mut self,
        place: usize,
        body: &mut Bytes,
        trailers: &mut Option<Box<Head>>,
        call: WholeResume,
    ) -> WholeStep {
        let spare = self.manager.shared.head_pool.take().into();
        let head = std::mem::replace(D::head(self), spare).take();
        let mut whole =
            WholeMessage { head, body: std::mem::take(body), trailers: trailers.take() };
        let request = D::SEES_REQUEST.then_some(&*self.request);
        let step = call(&mut context!(self, place, request), &mut whole);
        (*body, *trailers) = (whole.body, whole.trailers);
        let mut spare = std::mem::replace(D::head(self), whole.head.into());
        self.manager.shared.head_pool.give(spare.take());
        step
    }

    /// Calls a hook of a filter that takes neither head.
    pub(super) fn with_filter<R>(
        &mut self,
        place: usize,
        call: impl FnOnce(&dyn HttpFilter, &mut Cx<'_>) -> R,
    ) -> R {
        call(&*self.filters[place].filter, &mut context!(self, place, Some(&self.request)))
    }

    /// Moves the side calls that have ended into the summary.
    pub(super) fn note_side_calls(&mut self) {
        if let Some(log) = &self.side_calls {
            self.summary.side_calls.append(&mut log.borrow_mut());
        }
    }

    /// Shows the response headers to the filters that saw the request, in reverse order. A filter may replace the
    /// response.
    pub(super) async fn filter_response(
        &mut self,
        stream: &mut HttpStream,
        mut body: ResponseBody<'_>,
    ) -> Result<Option<Box<Reply>>, Stop> {
        let filters = Rc::clone(&self.filters);
        let first = self.deciding.map_or(self.entered, |filters| filters.get() - 1);
        for (place, entry) in filters.iter().enumerate().take(first).rev() {
            let FilterEntry { name, filter, .. } = entry;
            // Should this filter replace the response, or take too long, those behind it see what comes of that.
            self.deciding = NonZeroUsize::new(place + 1);
            self.hook.ends = match &body {
                ResponseBody::Endpoint(up) => up.is_received() && self.waiting_download.is_none(),
                ResponseBody::Local(reply) => reply.body.is_empty() && reply.trailers.is_none(),
                ResponseBody::Tunnel => true,
            };
            let mut step = self.with_response(place, |cx, head| filter.response_head(cx, head));
            loop {
                step = match step {
                    ResponseStep::Continue => break,
                    ResponseStep::Reply(reply) => {
                        self.note_filter_reply(name);
                        return Ok(Some(reply));
                    }
                    ResponseStep::Buffer(max, then) => {
                        let asked = Buffering { place, name: Rc::clone(name), max, then };
                        // Boxed, as above.
                        Box::pin(self.buffer_response(stream, &mut body, asked)).await?;
                        break;
                    }
                    ResponseStep::Wait(later) => {
                        let resume = self.await_filter(stream, name, later).await?;
                        self.with_response(place, resume)
                    }
                };
            }
        }
        self.deciding = None;
        Ok(None)
    }
}

fn late(filter: &str) -> String {
    format!("the filter {filter} did not decide in time")
}

/// How long a filter may take for one decision.
pub(super) fn filter_wait(worker: &WorkerCx) -> Duration {
    Duration::from_secs(worker.limits.get(Limit::FilterWait))
}
