//! The life of a request: judged, routed, filtered, forwarded or answered, recorded.
//!
//! Owns: the order of steps and what passes from one to the next. Refuses to know: which version either
//! side speaks. Keeps: a request is counted once, ends for one reason and leaves one record, whatever
//! happens; the routes are those that were current when its head was complete.

use std::any::Any;
use std::borrow::Cow;
use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::Poll;

use sluice_codec::h1::H1Stream;
use sluice_codec::h3::H3Stream;
use sluice_codec::h3::frame::code;
use sluice_codec::{ErrorKind, Head, HttpError, HttpStream, Known, Method, Version};
use sluice_core::limits::Limit;
use sluice_core::reason::end;
use sluice_core::{Moment, Reason};
use sluice_io::WorkerCx;
use sluice_io::timers::Timer;
use sluice_telemetry::RecordKind;
use smallvec::SmallVec;

use crate::connection_manager::{ConnectionManager, DownstreamConn, FilterList, RouteSnapshot};
use crate::filters::{Cx, HttpFilter, Step};
use crate::head_pool::PooledHead;
use crate::hygiene::{self, Underscores};
use crate::in_flight;
use crate::reasons;
use crate::record::{RequestRecord, Summary};
use crate::reply::Reply;
use crate::routes::{Action, PathRewrite, Redirect, RouteInput, Rule};

mod body;
mod failed;
mod forward;
mod pending;
pub mod websocket;

use body::Upload;
use pending::Pending;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// Numbers of requests are handed out to workers by the thousand, so that none is shared.
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

/// A request to be served.
#[derive(Debug)]
pub struct Exchange {
    pub(crate) manager: Rc<ConnectionManager>,
    pub(crate) downstream: Rc<DownstreamConn>,
    pub(crate) stream: HttpStream,
    pub(crate) request: Box<Head>,
    /// A stream of HTTP/2 has a timer of its own; HTTP/1 uses that of its connection.
    pub(crate) timer: Option<Timer>,
}

/// Why a request does not go the usual way.
#[derive(Debug)]
enum Stop {
    /// It is answered here.
    Reply(Box<Reply>),
    /// The client's side failed, or gave up.
    Downstream(HttpError),
    /// The answer had begun and cannot be completed.
    Cut(Reason, HttpError),
}

impl Stop {
    fn reply(reply: Reply) -> Self {
        Self::Reply(Box::new(reply))
    }
}

/// Serves one request and gives its stream back.
pub async fn run(exchange: Exchange) -> HttpStream {
    let Exchange { manager, downstream, mut stream, request, timer } = exchange;
    let mut task = RequestTask::begin(manager, downstream, request, timer, &stream);
    let stop = match task.admit(&mut stream).await {
        Ok(target) => task.forward(&mut stream, target).await.err(),
        Err(stop) => Some(stop),
    };
    if let Some(stop) = stop {
        task.stop(&mut stream, stop).await;
    }
    stream
}

/// Answers a message that could not be read as a request.
pub(crate) async fn refuse(manager: &ConnectionManager, h1: &mut H1Stream, error: &HttpError) {
    let ErrorKind::Malformed(status) = error.kind() else { return };
    let body = format!("{}\n", error.detail());
    let reply = Reply::new(status, reasons::MALFORMED, error.detail().to_owned(), body);
    let mut head = Head::default();
    reply.dress(&mut head, false);
    let body = sluice_codec::Body::Shared(reply.body.clone());
    let worker = &manager.worker;
    let _ = h1.send_head(worker, &head, false, true);
    let mut body = Some(body);
    // An error means that the client has gone, and its answer with it.
    let _ = poll_fn(|cx| {
        let Some(body) = body.take() else { return Poll::Ready(Ok(())) };
        Poll::Ready(h1.send_data(cx, worker, body, true))
    })
    .await;
}

/// Answers a stream of HTTP/3 on which no request could be read: what is too large or too late hears so, what
/// may not be is reset with the code for it, RFC 9114 §4.1.2.
pub(crate) async fn refuse_stream(
    manager: &ConnectionManager,
    stream: &mut H3Stream,
    status: u16,
    error: &HttpError,
) {
    if !matches!(status, 408 | 431) {
        return stream.reset(code::MESSAGE_ERROR);
    }
    let body = format!("{}\n", error.detail());
    let reply = Reply::new(status, reasons::MALFORMED, error.detail().to_owned(), body);
    let mut head = Head::default();
    reply.dress(&mut head, false);
    if stream.send_head(&head, false).is_err() {
        return stream.reset(code::INTERNAL_ERROR);
    }
    let mut body = Some(sluice_codec::Body::Shared(reply.body.clone()));
    let by = manager.worker.now().after(REFUSAL_TIME);
    let sending = poll_fn(|cx| {
        if let Some(body) = body.take() {
            stream.send_data(cx, body, true)?;
        }
        stream.poll_flushed(cx)
    });
    // An error means that the client has gone, and its answer with it.
    let _ = Timer::new(&manager.worker.timers).until(by, sending).await;
}

/// How long a refusal may take to leave.
const REFUSAL_TIME: std::time::Duration = std::time::Duration::from_secs(5);

/// Where a request is to go.
pub(crate) struct RouteTarget {
    snapshot: Rc<RouteSnapshot>,
    place: (usize, usize),
    cluster: std::sync::Arc<sluice_upstream::Cluster>,
}

impl RouteTarget {
    fn rule(&self) -> &Rule {
        &self.snapshot.table.virtual_hosts[self.place.0].rules[self.place.1]
    }
}

/// A request under way. On drop it is counted and leaves its record.
pub(crate) struct RequestTask {
    manager: Rc<ConnectionManager>,
    downstream: Rc<DownstreamConn>,
    timer: Option<Timer>,
    request: PooledHead,
    response: PooledHead,
    has_response: bool,
    summary: Summary,
    began: Moment,
    method: Method,
    grpc: bool,
    filters: Rc<FilterList>,
    /// How many of the filters have seen the request.
    entered: usize,
    states: SmallVec<[Option<Box<dyn Any>>; 4]>,
    upload: Upload,
    /// The endpoint that is at work on it.
    pending: Option<Pending>,
    handshake: websocket::Handshake,
    random: u64,
    /// Listeners of this process that the request had passed before, once it was looked at.
    hops: Option<u64>,
    /// When the whole exchange is over, and what says so.
    total_at: Moment,
    total_timeout: Option<std::time::Duration>,
    /// The client set it, and it is shorter than the rule's.
    total_is_clients: bool,
    idle_timeout: Option<std::time::Duration>,
    idle_at: Moment,
    response_timeout: Option<std::time::Duration>,
    /// What the page of connections shows of it.
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
        let summary = Summary {
            id: next_id(),
            started: worker.clock.wall(began),
            lasted: std::time::Duration::ZERO,
            request_end: stream.is_received().then_some(std::time::Duration::ZERO),
            response_start: None,
            version: request.version(),
            upstream_version: None,
            original_path: String::new(),
            source: downstream.conn.info.source(),
            route: None,
            cluster: None,
            attempts: SmallVec::new(),
            received: 0,
            sent: 0,
            status: 0,
            grpc_status: None,
            reason: None,
            details: Cow::Borrowed(""),
            detail: None,
        };
        Self {
            response: manager.shared.head_pool.take().into(),
            has_response: false,
            method: request.method(),
            grpc: request.is_grpc(),
            filters: NO_FILTERS.with(Rc::clone),
            entered: 0,
            states: SmallVec::new(),
            upload: Upload::new(stream.is_received()),
            pending: None,
            handshake: websocket::Handshake::default(),
            total_at: Moment::NEVER,
            total_timeout: None,
            total_is_clients: false,
            idle_timeout: None,
            idle_at: Moment::NEVER,
            response_timeout: None,
            hops: None,
            entry: manager.shared.in_flight.enter(downstream.conn.info.id, &request, began),
            random: worker.random_below(1 << 30) as u64,
            manager,
            downstream,
            timer,
            request: request.into(),
            summary,
            began,
        }
    }

    fn worker(&self) -> &Rc<WorkerCx> {
        &self.manager.worker
    }

    /// Everything before the request goes anywhere: hygiene, routing, filters.
    async fn admit(&mut self, stream: &mut HttpStream) -> Result<RouteTarget, Stop> {
        self.clean()?;
        self.mind_early(stream)?;
        self.direct()?;
        let conn = &self.downstream.conn;
        let tls = conn.info.tls.get();
        let edge = self.manager.plan.options.edge;
        self.summary.source = edge.apply(
            &mut self.request,
            conn.info.source(),
            self.downstream.address(),
            tls.is_some(),
        );
        let snapshot = self.manager.snapshot();
        let found = {
            let tls = self.downstream.conn.info.tls.get().map(|tls| &**tls);
            let subject = RouteInput {
                head: &self.request,
                source: self.summary.source.ip(),
                tls,
                runtime: &self.manager.plan.runtime,
                random: self.random,
            };
            snapshot.table.find(&subject)
        };
        // Without a route the filters of the chain see the request all the same.
        let overrides = found
            .map_or(0, |(host, rule)| snapshot.table.virtual_hosts[host].rules[rule].overrides);
        self.filters = self.manager.filters(&snapshot, overrides);
        let Some(place) = found else {
            self.run_filters(stream).await?;
            return Err(Stop::reply(Reply::new(
                404,
                reasons::ROUTE_UNMATCHED,
                "route_not_found",
                "",
            )));
        };
        let rule = &snapshot.table.virtual_hosts[place.0].rules[place.1];
        self.summary.route = Some(rule.name.clone());
        self.total_timeout = rule.options.timeouts.total;
        self.total_at = self.began.after_bound(self.total_timeout);
        self.run_filters(stream).await?;
        self.choose(snapshot, place)
    }

    /// Makes path and names mean one thing.
    fn clean(&mut self) -> Result<(), Stop> {
        let hygiene = &self.manager.plan.options.hygiene;
        let refused = |details| Stop::reply(Reply::malformed(details, format!("{details}\n")));
        match hygiene::path(hygiene, self.request.path()) {
            hygiene::PathVerdict::Normal => {}
            hygiene::PathVerdict::Changed(path) => {
                self.summary.original_path = self.request.path().to_owned();
                self.request.set_path(path.as_bytes());
            }
            hygiene::PathVerdict::Redirect(path) => {
                return Err(Stop::reply(Reply::redirect(307, path)));
            }
            hygiene::PathVerdict::Refused => return Err(refused("path_normalization_failed")),
        }
        if hygiene.underscores != Underscores::Keep {
            let has = self.request.fields().any(|(name, _)| name.contains(&b'_'));
            if has && hygiene.underscores == Underscores::Reject {
                return Err(refused("header_with_underscore"));
            }
            if has {
                self.request.remove_where(|name, _| name.contains(&b'_'));
            }
        }
        Ok(())
    }

    /// Refuses a request for a host whose clients are authenticated in another way than this one was: the
    /// client is to ask on a connection to that host, RFC 9110 §15.5.20.
    fn direct(&self) -> Result<(), Stop> {
        let misdirected = self.manager.plan.client_auth.as_ref().is_some_and(|client_auth| {
            let (authority, info) = (self.request.authority(), &self.downstream.conn.info);
            if self.method == Method::Connect && self.request.upgrade().is_none() {
                client_auth.misdirected_tunnel(authority, info)
            } else {
                client_auth.misdirected(authority, info)
            }
        });
        if !misdirected {
            return Ok(());
        }
        let body = "this host asks for other client certificates: connect to it by its own name\n";
        Err(Stop::reply(Reply::new(421, reasons::MISDIRECTED, "misdirected_request", body)))
    }

    /// Lets a request that somebody may have recorded and repeated through where nothing comes of that: it is
    /// marked for those behind us. Any other is to be made again when the handshake has ended, RFC 8470 §5.
    fn mind_early(&mut self, stream: &HttpStream) -> Result<(), Stop> {
        if !stream.is_early() {
            return Ok(());
        }
        if let Some(path) = self.downstream.conn.info.path.get() {
            path.note_early();
        }
        if !self.method.is_safe() {
            let body = "too early: repeat the request when the handshake has ended\n";
            return Err(Stop::reply(Reply::new(425, reasons::TOO_EARLY, "too_early", body)));
        }
        self.request.set(b"early-data", b"1");
        Ok(())
    }

    /// What the rule does with the request.
    fn choose(
        &mut self,
        snapshot: Rc<RouteSnapshot>,
        place: (usize, usize),
    ) -> Result<RouteTarget, Stop> {
        let table = &snapshot.table;
        let rule = &table.virtual_hosts[place.0].rules[place.1];
        let runtime = &self.manager.plan.runtime;
        let cluster = match &rule.action {
            Action::Cluster(index) => table.clusters[*index as usize].clone(),
            Action::Split(shares) => {
                let weight = |share: &crate::routes::Share| {
                    let set = share.runtime.as_deref().and_then(|key| runtime.number(key));
                    set.unwrap_or(share.weight)
                };
                let total = shares.iter().map(weight).fold(0, u64::saturating_add);
                let mut at = if total == 0 { 0 } else { self.random % total };
                let chosen = shares.iter().find(|share| {
                    let weight = weight(share);
                    let here = at < weight;
                    at = at.saturating_sub(weight);
                    here
                });
                let chosen = chosen.or_else(|| shares.first()).expect("a split has shares");
                table.clusters[chosen.cluster as usize].clone()
            }
            Action::ByHeader(name) => {
                let named = self.request.get_named(name.as_bytes());
                let named = named.and_then(|value| std::str::from_utf8(value).ok());
                match named.and_then(|name| table.by_name.get(name)) {
                    Some(cluster) => cluster.clone(),
                    None => {
                        let named = named.unwrap_or("no name");
                        self.summary.detail = Some(format!("`{name}` says {named}").into());
                        let why = sluice_upstream::reasons::CLUSTER_UNKNOWN;
                        return Err(Stop::reply(Reply::new(503, why, "cluster_not_found", "")));
                    }
                }
            }
            Action::Redirect(redirect) => {
                let location = self.location(rule, redirect)?;
                return Err(Stop::reply(Reply::redirect(redirect.status, location)));
            }
            Action::Direct(direct) => {
                let body = direct.body.fill(&self.view());
                let mut reply = Reply::new(direct.status, reasons::LOCAL, "direct_response", body);
                reply.content_type = direct.content_type.clone().into();
                return Err(Stop::reply(reply));
            }
        };
        self.summary.cluster = Some(cluster.name.clone());
        Ok(RouteTarget { snapshot, place, cluster })
    }

    fn view(&self) -> crate::record::View<'_> {
        crate::record::View {
            conn: self.downstream.facts(),
            request: &self.request,
            response: self.has_response.then_some(&*self.response),
            summary: &self.summary,
        }
    }

    /// Where a redirect leads.
    fn location(&self, rule: &Rule, redirect: &Redirect) -> Result<String, Stop> {
        let request = &self.request;
        let scheme = redirect.scheme.as_deref().unwrap_or_else(|| request.scheme());
        let authority = request.authority();
        let host = crate::routes::index::without_port(authority);
        let port = match redirect.port {
            Some(port) => Some(port.to_string()),
            // Another scheme has another port.
            None if redirect.scheme.is_some() => None,
            None => authority
                .strip_prefix(host)
                .and_then(|port| port.strip_prefix(':'))
                .map(str::to_owned),
        };
        let host = redirect.host.as_deref().unwrap_or(host);
        let usual = if scheme == "https" { "443" } else { "80" };
        let port =
            port.filter(|port| port != usual).map_or_else(String::new, |port| format!(":{port}"));
        let path = match &redirect.path {
            None => request.path_only().to_owned(),
            Some(rewrite) => self.rewritten(rule, rewrite)?,
        };
        let query = request.query().filter(|_| !redirect.strip_query && !path.contains('?'));
        let query = query.map_or_else(String::new, |query| format!("?{query}"));
        Ok(format!("{scheme}://{host}{port}{path}{query}"))
    }

    /// The path that a rule makes of the request's. It goes through hygiene again: what was normal in parts
    /// may have dot segments when they are joined, which would leave the folder that the rule was written for.
    fn rewritten(&self, rule: &Rule, rewrite: &PathRewrite) -> Result<String, Stop> {
        let path = rewritten(rule, self.request.path_only(), rewrite);
        hygiene::rewritten(&self.manager.plan.options.hygiene, path).ok_or_else(|| {
            let body = "the rewritten path is not normal\n";
            Stop::reply(Reply::malformed("path_rewrite_failed", body))
        })
    }

    // --- filters ---

    /// Shows the request to the filters in order.
    async fn run_filters(&mut self, stream: &mut HttpStream) -> Result<(), Stop> {
        let filters = Rc::clone(&self.filters);
        self.states.resize_with(filters.len(), || None);
        for (place, (name, filter)) in filters.iter().enumerate() {
            self.entered = place + 1;
            let mut step = self.with_request(place, |cx, head| filter.request_head(cx, head));
            loop {
                step = match step {
                    Step::Continue => break,
                    Step::Reply(reply) => {
                        self.manager.count_filter_reply(name);
                        return Err(Stop::Reply(reply));
                    }
                    Step::Buffer(max) => {
                        self.read_whole(stream, max).await?;
                        break;
                    }
                    Step::Wait(later) => {
                        let resume = self.await_filter(stream, name, later).await?;
                        self.with_request(place, resume)
                    }
                };
            }
        }
        Ok(())
    }

    /// Waits for what a filter waits for: until the client goes away, the time for the exchange is over, or the filter
    /// has had the time that any of them gets.
    async fn await_filter<T>(
        &mut self,
        stream: &mut HttpStream,
        filter: &str,
        later: sluice_core::LocalFuture<T>,
    ) -> Result<T, Stop> {
        let worker = Rc::clone(self.worker());
        let wait = std::time::Duration::from_secs(worker.limits.get(Limit::FilterWait));
        let by = worker.now().after(wait).min(self.total_at);
        if let Some(done) = self.guarded(stream, by, later).await? {
            return Ok(done);
        }
        let (why, details) = if self.total_at <= by {
            (reasons::ROUTE_TIMEOUT, "request_overall_timeout")
        } else {
            sluice_l4::metrics::count_limit(&worker, Limit::FilterWait);
            (sluice_l4::reasons::FILTER_TIMEOUT, "filter_timeout")
        };
        self.summary.detail = Some(format!("the filter {filter} did not decide").into());
        Err(Stop::reply(Reply::new(504, why, details, "the request was not decided in time\n")))
    }

    fn with_request<R>(
        &mut self,
        place: usize,
        call: impl FnOnce(&mut Cx<'_>, &mut Head) -> R,
    ) -> R {
        let mut cx = Cx {
            worker: &self.manager.worker,
            conn: self.downstream.facts(),
            summary: &self.summary,
            request: None,
            runtime: &self.manager.plan.runtime,
            state: &mut self.states[place],
        };
        call(&mut cx, &mut self.request)
    }

    fn with_response<R>(
        &mut self,
        place: usize,
        call: impl FnOnce(&mut Cx<'_>, &mut Head) -> R,
    ) -> R {
        let mut cx = Cx {
            worker: &self.manager.worker,
            conn: self.downstream.facts(),
            summary: &self.summary,
            request: Some(&self.request),
            runtime: &self.manager.plan.runtime,
            state: &mut self.states[place],
        };
        call(&mut cx, &mut self.response)
    }

    /// The context of a filter, for hooks that are given neither head.
    fn with_filter<R>(
        &mut self,
        place: usize,
        call: impl FnOnce(&dyn HttpFilter, &mut Cx<'_>) -> R,
    ) -> R {
        let filters = Rc::clone(&self.filters);
        let mut cx = Cx {
            worker: &self.manager.worker,
            conn: self.downstream.facts(),
            summary: &self.summary,
            request: Some(&self.request),
            runtime: &self.manager.plan.runtime,
            state: &mut self.states[place],
        };
        call(&*filters[place].1, &mut cx)
    }

    /// Shows the head of the response to the filters that saw the request, last first. One may
    /// replace the response.
    fn filter_response(&mut self) -> Option<Box<Reply>> {
        let filters = Rc::clone(&self.filters);
        for (place, (name, filter)) in filters.iter().enumerate().take(self.entered).rev() {
            if let Step::Reply(reply) =
                self.with_response(place, |cx, head| filter.response_head(cx, head))
            {
                self.manager.count_filter_reply(name);
                // Those that come after it see the replacement.
                self.entered = place;
                return Some(reply);
            }
        }
        None
    }

    // --- the end ---

    /// Ends a request that did not go the usual way.
    async fn stop(&mut self, stream: &mut HttpStream, stop: Stop) {
        match stop {
            Stop::Reply(reply) => {
                if reply.reason == reasons::MALFORMED {
                    self.summary.detail = Some(reply.details.as_ref().into());
                }
                self.answer(stream, reply).await;
            }
            Stop::Downstream(error) => {
                let reason = match error.kind() {
                    ErrorKind::Malformed(408) => reasons::BODY_TIMEOUT,
                    ErrorKind::Malformed(_) => reasons::MALFORMED,
                    ErrorKind::Reset => end::DOWNSTREAM_RESET,
                    ErrorKind::Flood => reasons::FLOOD,
                    ErrorKind::Buffers => sluice_l4::reasons::BUFFERS,
                    _ => reasons::CANCELLED,
                };
                if let ErrorKind::Malformed(status) = error.kind()
                    && !stream.is_head_sent()
                {
                    self.manager.count_protocol_error(&error);
                    self.summary.detail = Some(error.detail().into());
                    let body = format!("{}\n", error.detail());
                    let reply = Reply::new(status, reason, error.detail().to_owned(), body);
                    return self.answer(stream, Box::new(reply.closing())).await;
                }
                self.finish(reason, "downstream_remote_disconnect");
                self.summary.detail = Some(error.detail().into());
                stream.reset(true);
            }
            Stop::Cut(reason, error) => {
                self.finish(reason, cut_details(reason));
                self.summary.detail = Some(error.detail().into());
                stream.reset(false);
            }
        }
    }

    /// Answers here.
    async fn answer(&mut self, stream: &mut HttpStream, mut reply: Box<Reply>) {
        loop {
            self.summary.reason = Some(reply.reason);
            self.summary.details = reply.details.clone();
            self.has_response = true;
            let has_body = reply.dress(&mut self.response, self.grpc);
            if let Some(other) = self.filter_response() {
                reply = other;
                continue;
            }
            let close = reply.close || !stream.is_received() || self.downstream.conn.is_finishing();
            self.summary.status = self.response.status();
            self.note_grpc_status_of_head();
            self.advertise();
            let worker = Rc::clone(self.worker());
            let has_body = has_body && self.method != Method::Head;
            let mut sent = stream.send_head(&worker, &self.response, !has_body, close);
            if sent.is_ok() {
                let mut body = has_body.then(|| sluice_codec::Body::Shared(reply.body.clone()));
                self.summary.sent = body.as_ref().map_or(0, |body| body.len() as u64);
                sent = poll_fn(|cx| {
                    std::task::ready!(stream.poll_flushed(cx, &worker))?;
                    Poll::Ready(match body.take() {
                        Some(body) => stream.send_data(cx, &worker, body, true),
                        None => stream.send_end(cx, &worker, None),
                    })
                })
                .await;
                // HTTP/1 flushes between requests; a stream of HTTP/2 is gone with its exchange.
                let idle = self.idle_timeout.or(self.manager.plan.options.idle_timeout);
                let by = worker.now().after_bound(idle);
                let flushing = poll_fn(|cx| stream.poll_flushed(cx, &worker));
                if let Ok(Err(error)) = self.timer().until(by, flushing).await {
                    sent = Err(error);
                }
            }
            if let Err(error) = sent {
                // What led to the response says more than that the client did not wait for it.
                self.summary.detail.get_or_insert_with(|| error.detail().into());
            }
            return;
        }
    }

    /// Tells the client that HTTP/3 is spoken on the port that it came to, RFC 7838 §3, unless the answer says
    /// something of the kind itself.
    fn advertise(&mut self) {
        let wanted = self.manager.plan.options.advertise_h3
            && self.summary.version != Version::Http3
            && self.downstream.conn.info.tls.get().is_some()
            && self.response.get(Known::AltSvc).is_none();
        if let (true, Some(local)) = (wanted, self.downstream.conn.info.destination().socket()) {
            let value = format!("h3=\":{}\"; ma=86400", local.port());
            self.response.append_known(Known::AltSvc, value.as_bytes());
        }
    }

    /// Notes why the request ended; the first word stays.
    fn finish(&mut self, reason: Reason, details: impl Into<Cow<'static, str>>) {
        if self.summary.reason.is_none() {
            self.summary.reason = Some(reason);
            self.summary.details = details.into();
        }
    }
}

/// How a response came to be cut short, in Envoy's words where it has one.
fn cut_details(reason: Reason) -> &'static str {
    if reason == reasons::STREAM_IDLE {
        "stream_idle_timeout"
    } else if reason == reasons::ROUTE_TIMEOUT {
        "upstream_response_timeout"
    } else if reason == reasons::BODY_TIMEOUT {
        "request_body_timeout"
    } else if reason == end::ENDPOINT_REMOVED {
        "endpoint_removed"
    } else {
        "upstream_reset_after_response_started"
    }
}

/// Another path for a rule's request; the query is not looked at.
fn rewritten(rule: &Rule, path: &str, rewrite: &PathRewrite) -> String {
    match rewrite {
        PathRewrite::Whole(whole) => whole.clone(),
        PathRewrite::Prefix(prefix) => {
            let rest = path.strip_prefix(rule.path.matched(path)).unwrap_or_default();
            let joined = match (prefix.ends_with('/'), rest.starts_with('/')) {
                (true, true) => format!("{prefix}{}", &rest[1..]),
                _ => format!("{prefix}{rest}"),
            };
            if joined.starts_with('/') { joined } else { format!("/{joined}") }
        }
        PathRewrite::Regex(both) => both.0.replace(path, both.1.as_str()).into_owned(),
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
        let (manager, now) = (Rc::clone(&self.manager), self.manager.worker.now());
        if let Some(pending) = self.pending.take() {
            let attempt = pending.ended(reason, now, self.upload.done);
            self.summary.attempts.push(attempt);
        }
        self.summary.lasted = now.since(self.began);
        manager.counters.active.decrement();
        manager.counters.time.record(self.summary.lasted);
        let protocol = self.summary.version.word();
        manager.count_end(protocol, self.summary.status, reason, self.summary.route.as_ref());
        let request = self.request.take();
        let response = self.response.take();
        if manager.worker.log.wants(RecordKind::Request) {
            let none = Summary { attempts: SmallVec::new(), ..self.summary.clone() };
            let summary = std::mem::replace(&mut self.summary, none);
            manager.worker.log.push(Box::new(RequestRecord {
                conn: self.downstream.facts().clone(),
                request,
                response: self.has_response.then_some(response),
                summary,
            }));
        } else {
            manager.shared.head_pool.give(request);
            manager.shared.head_pool.give(response);
        }
    }
}
