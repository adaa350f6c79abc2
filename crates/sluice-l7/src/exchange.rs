//! The life of a request: checked, routed, filtered, forwarded or answered locally, recorded.
//!
//! Owns: the order of the steps and what passes from one to the next. Refuses to know: which version either side
//! speaks. Keeps: a request is counted once, ends for one reason and leaves one record, whatever happens; its routes
//! are those that were current when its headers were complete.

use std::any::Any;
use std::cell::Cell;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use sluice_codec::head_pool::PooledHead;
use sluice_codec::{Head, HttpError, HttpStream, Method};
use sluice_core::reason::end;
use sluice_core::{Moment, Reason, SharedValues};
use sluice_io::WorkerCx;
use sluice_io::buffers::Charge;
use sluice_io::timers::Timer;
use sluice_telemetry::RecordKind;
use smallvec::SmallVec;

use crate::connection_manager::{ConnectionManager, DownstreamConn, FilterList, RouteSnapshot};

use crate::filters::HookScope;
use crate::hop_count::HopCount;
use crate::in_flight;
use crate::plan::HttpOptions;
use crate::record::{RequestRecord, Summary};
use crate::reply::Reply;
use crate::routes::{Action, EndpointMatch, Rule};
use crate::side_calls::SideCallLog;

mod admission;
mod attempt_error;
mod body;
mod buffering;
mod connect;
mod deadlines;
mod download;
mod ending;
mod envoy_headers;
mod filtering;
mod forward;
mod hedging;
mod late_attempts;
mod meanwhile;
mod mirror;
mod named_host;
mod on_demand;
mod pending;
mod picking;
mod pieces;
mod redirects;
mod reporting;
mod reroute;
mod response;
mod response_buffering;
mod retrying;
mod sent_attempt;
mod split;
mod upload;
mod upstream_request;
pub mod websocket;
mod whole;

use deadlines::{Deadlines, TotalSource};
pub(crate) use ending::{refuse, refuse_stream};
use filtering::filter_wait;
use mirror::Mirroring;
use pending::Pending;
use pieces::PieceInFilters;
use redirects::Following;
use reporting::AwaitedTrailers;
use upload::Upload;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// Request numbers, which workers take from [`NEXT_ID`] a thousand at a time, so that no two requests share one.
    static NUMBERS: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

fn next_id() -> u64 {
    NUMBERS.with(|numbers| {
        let (next, end) = numbers.get();
        let (next, end) = if next < end {
            (next, end)
        } else {
            let first = NEXT_ID.fetch_add(1000, Relaxed);
            (first, first + 1000)
        };
        numbers.set((next + 1, end));
        next
    })
}

/// A request to serve.
#[derive(Debug)]
pub struct Exchange {
    pub(crate) manager: Rc<ConnectionManager>,
    pub(crate) downstream: Rc<DownstreamConn>,
    pub(crate) stream: HttpStream,
    pub(crate) request: Box<Head>,
    /// The timer of an HTTP/2 or HTTP/3 stream; HTTP/1 uses the timer of its connection.
    pub(crate) timer: Option<Timer>,
    /// The charge for the memory of the request; `None` if the worker has none for it, so that it is refused.
    pub(crate) charge: Option<Charge>,
}

/// How a request ends if it is not served normally.
#[derive(Debug)]
enum Stop {
    /// Sluice responds itself.
    Reply(Box<Reply>),
    /// The client's side failed, or the client gave up.
    Downstream(HttpError),
    /// The response cannot be completed, or not as it is.
    Cut(Reason, HttpError),
}

/// What became of a request that was forwarded.
enum ForwardOutcome {
    /// The client has the response.
    Done,
    /// The endpoint redirected it, and it has been changed to the new target.
    Redirected,
}

impl Stop {
    fn reply(reply: Reply) -> Self {
        Self::Reply(Box::new(reply))
    }
}

/// Serves one request and returns its stream.
pub async fn run(mut exchange: Exchange) -> HttpStream {
    // Each part is used where it is: the future would keep room for it twice.
    let Exchange { manager, downstream, request, timer, charge, .. } = exchange;
    // In a scope: what is given to `drop` is copied first.
    {
        let mut task = RequestTask::begin(manager, downstream, request, timer, &exchange.stream);
        task.charge = charge;
        if task.charge.is_some() {
            task.serve(&mut exchange.stream).await;
        } else {
            // Boxed, so that other requests have no room for it.
            Box::pin(task.turn_away(&mut exchange.stream)).await;
        }
    }
    exchange.stream
}

/// The rule that a request matched, and the cluster that it goes to.
pub(crate) struct RouteTarget {
    snapshot: Rc<RouteSnapshot>,
    place: (usize, usize),
    cluster: Arc<sluice_upstream::Cluster>,
    /// The place of the share of a split.
    share: usize,
}

impl RouteTarget {
    fn rule(&self) -> &Rule {
        &self.snapshot.table.virtual_hosts[self.place.0].rules[self.place.1]
    }

    /// The metadata that the endpoint must have: what the share of a split says, or else the rule.
    fn endpoint_match(&self) -> Option<&EndpointMatch> {
        let rule = self.rule();
        let of_share = match &rule.action {
            Action::Split(shares) => shares[self.share].endpoint.as_ref(),
            _ => None,
        };
        of_share.or(rule.options.endpoint.as_ref())
    }
}

/// A request in flight. Dropping it counts it and writes its record.
pub(crate) struct RequestTask {
    manager: Rc<ConnectionManager>,
    downstream: Rc<DownstreamConn>,
    timer: Option<Timer>,
    /// See [`Exchange::charge`].
    charge: Option<Charge>,
    request: PooledHead,
    response: PooledHead,
    has_response: bool,
    summary: Summary,
    began: Moment,
    method: Method,
    grpc: bool,
    filters: Rc<FilterList>,
    /// Whether a filter has asked for the route to be selected again.
    reroutes: bool,
    /// What the hook that is called is told, and asks for.
    hook: HookScope,
    /// The number of filters that have seen the request.
    entered: usize,
    /// The filter that is deciding on the response, or has replaced it, and those before it in the chain, which have yet
    /// to see it: how many these are.
    deciding: Option<NonZeroUsize>,
    states: SmallVec<[Option<Box<dyn Any>>; 4]>,
    /// What the filters share.
    values: SharedValues,
    /// The side calls that are not in the summary yet; `None` if no filter has made one.
    side_calls: Option<SideCallLog>,
    /// What the request had passed within this process when it arrived, if filters may need to know.
    arrived: HopCount,
    /// Whether a tunnel ends here, by the rule.
    ends_connect: bool,
    /// Whether one that begins with POST does.
    ends_post: bool,
    upload: Upload,
    /// The piece of the request that is still in the filters.
    waiting_upload: Option<Box<PieceInFilters<Box<Reply>>>>,
    /// The piece of the response that is still in the filters.
    waiting_download: Option<Box<PieceInFilters<Reason>>>,
    /// The copies of the request that wait for its body.
    mirroring: Option<Box<Mirroring>>,
    /// What redirects are relative to, if the rule follows them.
    following: Option<Box<Following>>,
    /// Counts a response that was received whole for a filter.
    response_charge: Option<Box<Charge>>,
    /// The attempt in flight.
    pending: Option<Pending>,
    /// What is awaited of the trailers of a response.
    reporting: Option<Box<AwaitedTrailers>>,
    handshake: websocket::Handshake,
    random: u64,
    /// What the request has passed within this process; `None` until it is looked up.
    hops: Option<HopCount>,
    deadlines: Deadlines,
    /// The request's entry on the connections page.
    entry: in_flight::InFlightEntry,
}

thread_local! {
    static NO_FILTERS: Rc<FilterList> = Rc::default();
}

impl RequestTask {
    fn begin(
        manager: Rc<ConnectionManager>,
        downstream: Rc<DownstreamConn>,
        request: Box<Head>,
        timer: Option<Timer>,
        stream: &HttpStream,
    ) -> Self {
        let worker = &manager.worker;
        let began = worker.now();
        manager.counters.active.increment();
        let HttpOptions { body_timeout, stream_duration_max, .. } = manager.plan.options;
        let mut deadlines = Deadlines::new(body_timeout, filter_wait(worker));
        deadlines.bound(stream_duration_max, TotalSource::Listener, began);
        let mut summary = Summary::begun(
            next_id(),
            worker.clock.wall(began),
            request.version(),
            downstream.conn.info.source(),
        );
        summary.request_end = stream.is_received().then_some(std::time::Duration::ZERO);
        Self {
            response: manager.shared.head_pool.take().into(),
            has_response: false,
            method: request.method(),
            grpc: request.is_grpc(),
            filters: NO_FILTERS.with(Rc::clone),
            reroutes: false,
            hook: HookScope::default(),
            entered: 0,
            deciding: None,
            states: SmallVec::new(),
            values: SharedValues::default(),
            side_calls: None,
            arrived: HopCount::default(),
            ends_connect: false,
            ends_post: false,
            upload: Upload::new(stream.is_received()),
            waiting_upload: None,
            waiting_download: None,
            mirroring: None,
            following: None,
            response_charge: None,
            pending: None,
            reporting: None,
            handshake: websocket::Handshake::default(),
            deadlines,
            hops: None,
            entry: manager.shared.in_flight.enter(downstream.conn.info.id, &request, began),
            random: worker.random_below(1 << 30) as u64,
            manager,
            downstream,
            timer,
            charge: None,
            request: request.into(),
            summary,
            began,
        }
    }

    /// Serves the request until it ends.
    async fn serve(&mut self, stream: &mut HttpStream) {
        let mut admitted = self.admit(stream).await;
        let stop = loop {
            let target = match admitted {
                Ok(target) => target,
                Err(stop) => break Some(stop),
            };
            // Pinned where it is: a future that is awaited as it is made is copied first.
            let forwarded = {
                let forwarding = pin!(self.forward(stream, target));
                forwarding.await
            };
            match forwarded {
                Ok(ForwardOutcome::Done) => break None,
                // Boxed, so that other requests have no room for it.
                Ok(ForwardOutcome::Redirected) => admitted = Box::pin(self.follow(stream)).await,
                Err(stop) => break Some(stop),
            }
        };
        if let Some(stop) = stop {
            self.stop(stream, stop).await;
        }
    }

    fn worker(&self) -> &Rc<WorkerCx> {
        &self.manager.worker
    }

    fn timer(&self) -> &Timer {
        self.timer.as_ref().unwrap_or(&self.downstream.conn.deadline)
    }

    fn view(&self) -> crate::record::View<'_> {
        crate::record::View {
            conn: self.downstream.facts(),
            request: &self.request,
            response: self.has_response.then_some(&*self.response),
            summary: &self.summary,
            values: &self.values,
            conn_values: &self.downstream.conn.info.values,
        }
    }
}

impl Drop for RequestTask {
    fn drop(&mut self) {
        for place in 0..self.entered {
            self.with_filter(place, |filter, cx| filter.ended(cx));
        }
        let unset = if std::thread::panicking() {
            end::WORKER_PANIC
        } else {
            self.downstream.conn.why_killed().unwrap_or(end::FORCED)
        };
        let reason = *self.summary.reason.get_or_insert(unset);
        self.end_without_trailers(reason);
        let (manager, now) = (Rc::clone(&self.manager), self.manager.worker.now());
        if let Some(pending) = self.pending.take() {
            let attempt = pending.ended(reason, now, self.upload.is_sent());
            self.summary.attempts.push(attempt);
        }
        self.waiting_upload = None;
        self.waiting_download = None;
        self.note_side_calls();
        self.summary.lasted = now.since(self.began);
        manager.counters.active.decrement();
        manager.counters.time.record(self.summary.lasted);
        let protocol = self.summary.version.word();
        manager.count_end(protocol, self.summary.status, reason, self.summary.route.as_ref());
        let request = self.request.take();
        let response = self.response.take();
        if manager.worker.log.wants(RecordKind::Request) {
            let none = Summary {
                attempts: SmallVec::new(),
                side_calls: Vec::new(),
                filter: None,
                ..self.summary.clone()
            };
            let summary = std::mem::replace(&mut self.summary, none);
            manager.worker.log.push(Box::new(RequestRecord {
                conn: self.downstream.facts().clone(),
                request,
                response: self.has_response.then_some(response),
                summary,
                values: std::mem::take(&mut self.values),
                conn_values: self.downstream.conn.info.values.clone(),
            }));
        } else {
            manager.shared.head_pool.give(request);
            manager.shared.head_pool.give(response);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
