//! The HTTP filters of a request.
//!
//! Owns: the order in which filters see a request and its response, and the time that they may take.
//! Refuses to know: what any filter does. Keeps: a filter sees the response of a request only if it saw the
//! request; responses pass the filters in reverse order.

use std::any::Any;
use std::rc::Rc;
use std::time::Duration;

use sluice_codec::h1::parse::is_authority;
use sluice_codec::{Body, Head, HttpStream};
use sluice_core::limits::Limit;
use sluice_core::{LocalFuture, SharedValues};

use super::deadlines::Deadline;
use super::{RequestTask, Stop};
use crate::connection_manager::{ConnectionManager, DownstreamConn};
use crate::filters::{BodyStep, Cx, HeadStep, HttpFilter, ResponseStep};
use crate::hygiene;
use crate::reasons;
use crate::record::Summary;
use crate::reply::Reply;

/// What a filter may use in a hook. Borrows fields, not the task, so that the hook may also change a head.
fn context<'a>(
    manager: &'a ConnectionManager,
    downstream: &'a DownstreamConn,
    summary: &'a Summary,
    request: Option<&'a Head>,
    values: &'a mut SharedValues,
    state: &'a mut Option<Box<dyn Any>>,
) -> Cx<'a> {
    let (worker, runtime) = (&manager.worker, &manager.plan.runtime);
    let (conn, conn_values) = (downstream.facts(), &downstream.conn.info.values);
    Cx { worker, conn, summary, request, values, conn_values, runtime, state }
}

impl RequestTask {
    /// Shows the request to the filters in order.
    pub(super) async fn run_filters(&mut self, stream: &mut HttpStream) -> Result<(), Stop> {
        let filters = Rc::clone(&self.filters);
        self.states.resize_with(filters.len(), || None);
        self.request.take_target_change();
        for (place, (name, filter)) in filters.iter().enumerate() {
            self.entered = place + 1;
            let mut step = self.with_request(place, |cx, head| filter.request_head(cx, head));
            loop {
                step = match step {
                    HeadStep::Continue => break,
                    HeadStep::Reply(reply) => {
                        self.manager.count_filter_reply(name);
                        return Err(Stop::Reply(reply));
                    }
                    HeadStep::Buffer(max) => {
                        self.read_whole(stream, max).await?;
                        break;
                    }
                    HeadStep::Wait(later) => {
                        let resume = self.await_filter(stream, name, later).await?;
                        self.with_request(place, resume)
                    }
                };
            }
        }
        if self.request.take_target_change() { self.clean_target() } else { Ok(()) }
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
    async fn await_filter<T>(
        &mut self,
        stream: &mut HttpStream,
        filter: &str,
        later: LocalFuture<T>,
    ) -> Result<T, Stop> {
        let worker = Rc::clone(self.worker());
        let wait = Duration::from_secs(worker.limits.get(Limit::FilterWait));
        let by = worker.now().after(wait).min(self.deadlines.due(Deadline::Total));
        if let Some(done) = self.guarded(stream, by, later).await? {
            return Ok(done);
        }
        let (why, details) = if self.deadlines.due(Deadline::Total) <= by {
            (reasons::ROUTE_TIMEOUT, "request_overall_timeout")
        } else {
            sluice_l4::metrics::count_limit(&worker, Limit::FilterWait);
            (sluice_l4::reasons::FILTER_TIMEOUT, "filter_timeout")
        };
        self.summary.detail = Some(format!("the filter {filter} did not decide in time").into());
        Err(Stop::reply(Reply::new(504, why, details, "a filter did not decide in time\n")))
    }

    fn with_request<R>(
        &mut self,
        place: usize,
        call: impl FnOnce(&mut Cx<'_>, &mut Head) -> R,
    ) -> R {
        let (values, state) = (&mut self.values, &mut self.states[place]);
        let mut cx = context(&self.manager, &self.downstream, &self.summary, None, values, state);
        call(&mut cx, &mut self.request)
    }

    fn with_response<R>(
        &mut self,
        place: usize,
        call: impl FnOnce(&mut Cx<'_>, &mut Head) -> R,
    ) -> R {
        let Self { manager, downstream, summary, request, response, values, states, .. } = self;
        let state = &mut states[place];
        let mut cx = context(manager, downstream, summary, Some(request), values, state);
        call(&mut cx, response)
    }

    /// Calls a hook of a filter that takes neither head.
    pub(super) fn with_filter<R>(
        &mut self,
        place: usize,
        call: impl FnOnce(&dyn HttpFilter, &mut Cx<'_>) -> R,
    ) -> R {
        let Self { manager, downstream, summary, request, values, states, filters, .. } = self;
        let state = &mut states[place];
        let mut cx = context(manager, downstream, summary, Some(request), values, state);
        call(&*filters[place].1, &mut cx)
    }

    /// Shows the response headers to the filters that saw the request, in reverse order. A filter may replace the
    /// response.
    pub(super) async fn filter_response(
        &mut self,
        stream: &mut HttpStream,
    ) -> Result<Option<Box<Reply>>, Stop> {
        let filters = Rc::clone(&self.filters);
        let first = self.replaced_at.unwrap_or(self.entered);
        for (place, (name, filter)) in filters.iter().enumerate().take(first).rev() {
            // Should this filter replace the response, or take too long, those behind it see what comes of that.
            self.replaced_at = Some(place);
            let mut step = self.with_response(place, |cx, head| filter.response_head(cx, head));
            loop {
                step = match step {
                    ResponseStep::Continue => break,
                    ResponseStep::Reply(reply) => {
                        self.manager.count_filter_reply(name);
                        return Ok(Some(reply));
                    }
                    ResponseStep::Wait(later) => {
                        let resume = self.await_filter(stream, name, later).await?;
                        self.with_response(place, resume)
                    }
                };
            }
        }
        self.replaced_at = None;
        Ok(None)
    }

    /// Whether no filter needs to see the body.
    pub(super) fn no_filter_needs(
        &mut self,
        wants: impl Fn(&dyn HttpFilter, &Cx<'_>) -> bool,
    ) -> bool {
        (0..self.entered).all(|place| !self.with_filter(place, |filter, cx| wants(filter, cx)))
    }

    pub(super) fn show_request_body(&mut self, body: &mut Body, last: bool) -> Option<Box<Reply>> {
        for place in 0..self.entered {
            let step = self.with_filter(place, |filter, cx| {
                if filter.wants_request_body(cx) {
                    filter.request_body(cx, body, last)
                } else {
                    BodyStep::Continue
                }
            });
            if let BodyStep::Reply(reply) = step {
                return Some(reply);
            }
        }
        None
    }

    pub(super) fn show_response_body(&mut self, body: &mut Body, last: bool) {
        for place in (0..self.entered).rev() {
            self.with_filter(place, |filter, cx| {
                if filter.wants_response_body(cx) {
                    filter.response_body(cx, body, last);
                }
            });
        }
    }
}
