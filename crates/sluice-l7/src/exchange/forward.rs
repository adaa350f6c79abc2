//! The router: from a request and its cluster to an answer, in as many tries as may be.
//!
//! Owns: tries, time-outs, what is worth another try, rewriting for the endpoint.
//! Refuses to know: how connections are made and how bodies move. Keeps: what may have taken effect is
//! not sent again unless the rule says so; what an endpoint cannot have seen always is.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use sluice_codec::h1::parse::is_authority;
use sluice_codec::stream::READ_SHARED;
use sluice_codec::{ErrorKind, Head, HttpError, HttpStream, Known, Method, Version};
use sluice_core::connection::Attempt;
use sluice_core::limits::Limit;
use sluice_core::reason::end;
use sluice_core::{Moment, Reason};
use sluice_io::buffers::SCRATCH;
use sluice_io::timers::Timer;
use sluice_upstream::EndpointState;
use sluice_upstream::connector::ConnectFailure;
use sluice_upstream::hops::Looped;
use sluice_upstream::plan::OnRemoved;
use sluice_upstream::reasons as upstream_reasons;
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

use super::body::{FailedSide, Upload};
use super::failed::{
    Cause, FailedAttempt, Said, answered_badly, attempt_timed_out, endpoint_left, failed_attempt,
    nobody, not_reached, timed_out,
};
use super::pending::Pending;
use super::{RequestTask, RouteTarget, Stop};
use crate::attempts::AttemptGuard;
use crate::header_values::{cookie, query_parameter};
use crate::pools::{ClusterPool, InFlightGuard, PoolTicket, PooledConn};
use crate::reasons;
use crate::reply::Reply;
use crate::routes::{HashBy, HostRewrite, RetryPlan, Rule, RuleOptions};

/// Tries for what an endpoint cannot have seen, beside those that the rule allows.
const SAFE_RETRIES: u32 = 3;

/// Heads with a status below 200 before an answer; an endpoint that sends more means no good.
const INFORMATIONAL_MAX: u32 = 32;

/// The tries of a request.
struct RetryState {
    hash: Option<u64>,
    tried: SmallVec<[Arc<str>; 2]>,
    /// Those that count against the rule.
    counted: u32,
    /// Those that an endpoint cannot have seen.
    safe: u32,
    in_flight: Option<InFlightGuard>,
    /// A cookie that the client is to send from now on.
    new_cookie: Option<String>,
}

/// A stream to an endpoint and what goes with it.
struct UpstreamStream {
    stream: HttpStream,
    version: Version,
    endpoint: Arc<EndpointState>,
    kept: Option<PoolTicket>,
    reused: bool,
    sent_at: Moment,
}

impl RequestTask {
    pub(super) fn timer(&self) -> &Timer {
        self.timer.as_ref().unwrap_or(&self.downstream.conn.deadline)
    }

    /// Sends the request to its cluster and the answer to the client.
    pub(super) async fn forward(
        &mut self,
        down: &mut HttpStream,
        target: RouteTarget,
    ) -> Result<(), Stop> {
        let rule = target.rule();
        let options = Arc::clone(&rule.options);
        self.check_upgrade(rule)?;
        self.rewrite(rule)?;
        let worker = Rc::clone(self.worker());
        let pool = self.manager.shared.pools.to(&target.cluster, &worker);
        drop(target);
        let _in_flight = pool.enter_request();
        if let Some(limit) = self.grpc_deadline()
            && self.began.after(limit) < self.total_at
        {
            self.total_timeout = Some(limit);
            (self.total_at, self.total_is_clients) = (self.began.after(limit), true);
        }
        self.idle_timeout = options.timeouts.idle;
        self.response_timeout = options.timeouts.response;
        self.upload.keep_max = if options.retry.attempts > 1 { options.retry.body_max } else { 0 };
        self.upload.rewind();
        let mut state = RetryState {
            hash: None,
            tried: SmallVec::new(),
            counted: 0,
            safe: 0,
            in_flight: None,
            new_cookie: None,
        };
        state.hash = self.hash(&options.hash, &mut state.new_cookie);
        loop {
            let failed = match self.attempt(down, &pool, &options, &mut state).await? {
                Ok(()) => return Ok(()),
                Err(failed) => failed,
            };
            let again = failed.cause == Cause::Answered
                || self.may_retry(&failed, &pool, &options.retry, &mut state);
            if !again {
                let exhausted = state.counted > 1 && failed.cause != Cause::Final;
                let why = if exhausted { reasons::RETRIES_EXHAUSTED } else { failed.why };
                self.summary.detail =
                    self.summary.attempts.last().and_then(Attempt::cause).or(failed.said.detail);
                let body = self.told(failed.text, why);
                return Err(Stop::reply(Reply::new(failed.status, why, failed.details, body)));
            }
            if failed.cause != Cause::Unsent && failed.cause != Cause::Stale {
                self.back_off(down, &options.retry, state.counted).await?;
            }
            self.upload.rewind();
        }
    }

    /// The deadline that a gRPC client sets. In other requests the header means nothing.
    fn grpc_deadline(&self) -> Option<Duration> {
        let timeout = self.request.get(Known::GrpcTimeout).filter(|_| self.request.is_grpc());
        timeout.and_then(grpc_timeout)
    }

    /// The time for the whole exchange is over.
    fn total_over(&self) -> FailedAttempt {
        let name = if self.total_is_clients { "grpc-timeout" } else { "timeout.total" };
        timed_out(name, self.total_timeout)
    }

    /// Upgrades and tunnels only where the rule allows them.
    fn check_upgrade(&mut self, rule: &Rule) -> Result<(), Stop> {
        let detail = &mut self.summary.detail;
        let mut denied = |what: &str| {
            *detail = Some(format!("the rule does not allow {what}").into());
            let body = format!("this route does not allow {what}\n");
            let reply = Reply::new(403, reasons::UPGRADE_DENIED, "upgrade_failed", body);
            Err(Stop::reply(reply.closing()))
        };
        match self.request.upgrade() {
            Some(protocol) => {
                let listed = |known: &String| known.eq_ignore_ascii_case(protocol);
                if !rule.options.upgrades.iter().any(listed) {
                    return denied(&format!("an upgrade to {protocol}"));
                }
            }
            None if self.method == Method::Connect && !rule.options.connect => {
                return denied("CONNECT");
            }
            None => {}
        }
        Ok(())
    }

    /// Makes path and host those that the endpoint is to see.
    fn rewrite(&mut self, rule: &Rule) -> Result<(), Stop> {
        // `*`, and the target of a tunnel, are no paths.
        if let Some(rewrite) = &rule.options.path
            && self.request.path().starts_with('/')
        {
            let mut path = self.rewritten(rule, rewrite)?;
            if let Some(query) = self.request.query()
                && !path.contains('?')
            {
                path.push('?');
                path.push_str(query);
            }
            if self.summary.original_path.is_empty() {
                self.summary.original_path = self.request.path().to_owned();
            }
            self.request.set_path(path.as_bytes());
        }
        match &rule.options.host {
            HostRewrite::Keep | HostRewrite::Endpoint => {}
            HostRewrite::Literal(host) => {
                self.request.set_authority(host.as_bytes());
            }
            HostRewrite::Header(name) => {
                let value = self.request.get_named(name.as_bytes()).map(<[u8]>::to_vec);
                if let Some(value) = value.filter(|value| !value.is_empty())
                    && !(is_authority(&value) && self.request.set_authority(&value))
                {
                    let body = format!("the field {name} names no host\n");
                    return Err(Stop::reply(Reply::malformed("host_header_malformed", body)));
                }
            }
        }
        Ok(())
    }

    /// What a hash balancer goes by.
    fn hash(&self, by: &[HashBy], new_cookie: &mut Option<String>) -> Option<u64> {
        by.iter().find_map(|by| match by {
            HashBy::SourceIp => sluice_l4::Hash::SourceIp.of(self.summary.source),
            HashBy::Header(name) => self.request.get_named(name.as_bytes()).map(xxh3_64),
            HashBy::Query(name) => {
                let query = self.request.query().unwrap_or_default();
                query_parameter(query, name).map(|value| xxh3_64(value.as_bytes()))
            }
            HashBy::Cookie { name, ttl, path } => {
                let cookies = self.request.get(Known::Cookie).unwrap_or_default();
                if let Some(value) = cookie(cookies, name.as_bytes()) {
                    return Some(xxh3_64(value));
                }
                let ttl = (*ttl)?;
                let value =
                    format!("{:016x}", xxh3_64(&self.summary.id.to_le_bytes()) ^ self.random);
                let mut text = format!("{name}={value}; HttpOnly");
                if !ttl.is_zero() {
                    text.push_str(&format!("; Max-Age={}", ttl.as_secs()));
                }
                text.push_str(&format!("; Path={}", path.as_deref().unwrap_or("/")));
                *new_cookie = Some(text);
                Some(xxh3_64(value.as_bytes()))
            }
        })
    }

    /// One try. `Ok(Err)` is a try that brought no answer.
    async fn attempt(
        &mut self,
        down: &mut HttpStream,
        pool: &Rc<ClusterPool>,
        options: &RuleOptions,
        state: &mut RetryState,
    ) -> Result<Result<(), FailedAttempt>, Stop> {
        let worker = Rc::clone(self.worker());
        let picked = pool.handle.pick_for_request(&worker, state.hash, &state.tried);
        let picked = match picked {
            // Another endpoint is preferred, not a condition.
            Err(_) if !state.tried.is_empty() => {
                state.tried.clear();
                pool.handle.pick_for_request(&worker, state.hash, &[])
            }
            picked => picked,
        };
        let (endpoint, _claim) = match picked {
            Ok(picked) => picked,
            Err(why) => return Ok(Err(nobody(why, pool.handle.cluster.shortage(why)))),
        };
        let attempt_at = worker.now().after_bound(options.timeouts.per_try);
        self.pending = Some(Pending::connecting(Arc::clone(&endpoint.name), worker.now()));
        let attempt_guard = self.attempt_guard(pool, &endpoint);
        let connected = {
            let connecting = pin!(self.connect(down, pool, &endpoint, &options.host));
            AttemptGuard::unless_cancelled(attempt_guard.as_ref(), connecting).await
        };
        let connected = connected.unwrap_or_else(|| Ok(Err(endpoint_left())))?;
        let mut up = match connected {
            Ok(up) => up,
            Err(mut failed) => {
                self.note_failed(&endpoint, &mut failed);
                state.tried.push(Arc::clone(&endpoint.name));
                return Ok(Err(failed));
            }
        };
        self.summary.upstream_version = Some(up.version);
        if let Some(pending) = &mut self.pending {
            pending.connected(up.sent_at);
        }
        let awaited = {
            let awaiting = self.await_head(down, &mut up, attempt_at, options.timeouts.per_try);
            let awaiting = pin!(awaiting);
            AttemptGuard::unless_cancelled(attempt_guard.as_ref(), awaiting).await
        };
        if let Err(mut failed) = awaited.unwrap_or_else(|| Ok(Err(endpoint_left())))? {
            if !self.is_blameless(&failed) {
                pool.handle.note_answer(&endpoint, false);
            }
            self.count_answer(pool, &endpoint, 0, None);
            self.note_failed(&endpoint, &mut failed);
            state.tried.push(Arc::clone(&endpoint.name));
            up.stream.reset(true);
            return Ok(Err(failed));
        }
        let status = self.response.status();
        pool.handle.note_answer(&endpoint, status < 500);
        self.count_answer(pool, &endpoint, status, Some(worker.now().since(up.sent_at)));
        if self.is_retriable(status, &options.retry) {
            let mut failed = answered_badly(status);
            if self.may_retry(&failed, pool, &options.retry, state) {
                state.tried.push(Arc::clone(&endpoint.name));
                self.note_failed(&endpoint, &mut failed);
                up.stream.reset(true);
                return Ok(Err(failed));
            }
        }
        let reached = self.pending.take().map(Pending::into_endpoint);
        self.note(Attempt::reached(reached.unwrap_or_else(|| Arc::clone(&endpoint.name))));
        if let Some(cookie) = &state.new_cookie {
            self.response.append_known(Known::SetCookie, cookie.as_bytes());
        }
        let delivered = {
            let delivering = pin!(self.deliver(down, pool, up));
            AttemptGuard::unless_cancelled(attempt_guard.as_ref(), delivering).await
        };
        match delivered {
            Some(delivered) => delivered.map(Ok),
            None => {
                let left = HttpError::new(ErrorKind::Reset, "the endpoint left its cluster");
                Err(Stop::Cut(end::ENDPOINT_REMOVED, left))
            }
        }
    }

    /// Whether a failed attempt says nothing about its endpoint: it left the cluster, its connection had been idle
    /// for too long, the client's own deadline was shorter than the rule's, or what was missing is ours.
    fn is_blameless(&self, failed: &FailedAttempt) -> bool {
        let clients_deadline = self.total_is_clients
            && failed.why == reasons::ROUTE_TIMEOUT
            && self.worker().now() >= self.total_at;
        failed.cause == Cause::Stale
            || clients_deadline
            || failed.why.def().side != sluice_core::reason::Side::Upstream
    }

    /// A place among those who hear when `endpoint` leaves, where its cluster wants them to.
    fn attempt_guard(&self, pool: &ClusterPool, endpoint: &EndpointState) -> Option<AttemptGuard> {
        let cluster = &pool.handle.cluster;
        self.entry.reach(&cluster.name, &endpoint.name);
        let keep = cluster.peek_plan().on_endpoint_removed == OnRemoved::Keep;
        let attempts = &self.manager.shared.attempts;
        (!keep).then(|| attempts.enter(&cluster.name, &endpoint.name, self.worker().now()))
    }

    fn note(&mut self, attempt: Attempt) {
        self.pending = None;
        self.summary.attempts.push(attempt);
    }

    /// Notes an attempt that failed, and takes what was said about it.
    fn note_failed(&mut self, endpoint: &EndpointState, failed: &mut FailedAttempt) {
        let Said { errno, detail } = std::mem::take(&mut failed.said);
        self.note(Attempt::failed(Arc::clone(&endpoint.name), failed.why, errno, detail));
    }

    /// What the client hears of a failure: its kind, its reason's code, and what to ask the operator for.
    fn told(&self, text: &str, why: Reason) -> String {
        let own = self.request.get(Known::XRequestId).filter(|id| is_plain_id(id));
        let id = own.and_then(|id| std::str::from_utf8(id).ok());
        let id = id.map_or_else(|| self.summary.id.to_string(), str::to_owned);
        format!("{text} ({why}, request {id})\n")
    }

    fn count_answer(
        &self,
        pool: &ClusterPool,
        endpoint: &EndpointState,
        status: u16,
        took: Option<Duration>,
    ) {
        let cluster = &pool.handle.cluster.name;
        pool.counters.count(self.worker(), cluster, &endpoint.name, status, took);
    }

    /// Counts a request that goes to a listener of this process, and cuts one that has gone round. Connections are
    /// shared, so it is not they that are counted; requests to other hosts carry no count.
    fn count_hop(&mut self, endpoint: &EndpointState) -> Result<(), Stop> {
        if !endpoint.is_ours() {
            // What came with a count, or got one for an endpoint that was tried before, goes on without.
            let info = &self.downstream.conn.info;
            let from_us = info
                .peer
                .ip()
                .is_some_and(|ip| ip.is_loopback() || info.destination().ip() == Some(ip));
            if self.hops.is_some() || (from_us && self.request.get(HOPS).is_some()) {
                self.hops.get_or_insert_with(|| hops_of(&self.request));
                self.request.remove(HOPS.text().as_bytes());
            }
            return Ok(());
        }
        let before = *self.hops.get_or_insert_with(|| hops_of(&self.request));
        let max = self.worker().limits.get(Limit::OwnHops);
        if before < max {
            self.request.set(HOPS.text().as_bytes(), (before + 1).to_string().as_bytes());
            return Ok(());
        }
        let detail = Looped { hops_max: max }.to_string();
        let (why, said) = (upstream_reasons::LOOP, Some(detail.as_str().into()));
        self.note(Attempt::failed(Arc::clone(&endpoint.name), why, None, said));
        self.summary.detail = Some(detail.into());
        let text = self.told("loop detected", upstream_reasons::LOOP);
        Err(Stop::reply(Reply::new(508, upstream_reasons::LOOP, "loop_detected", text)))
    }

    /// Takes a stream to `endpoint` and sends the head of the request on it.
    async fn connect(
        &mut self,
        down: &mut HttpStream,
        pool: &Rc<ClusterPool>,
        endpoint: &Arc<EndpointState>,
        host: &HostRewrite,
    ) -> Result<Result<UpstreamStream, FailedAttempt>, Stop> {
        let worker = Rc::clone(self.worker());
        let h1 = Rc::clone(&self.manager.h1);
        let pooled = match pool.take_idle(&worker, endpoint, &h1) {
            Some(pooled) => {
                pool.counters.reused.increment();
                pooled
            }
            None => {
                let taking = pool.take(&worker, endpoint, &h1);
                match self.guarded(down, self.total_at, taking).await? {
                    Some(Ok(pooled)) => pooled,
                    Some(Err(failure)) => return Ok(Err(not_reached(failure))),
                    None => return Ok(Err(self.total_over())),
                }
            }
        };
        if *host == HostRewrite::Endpoint {
            let name = endpoint.host.as_ref().unwrap_or(&endpoint.name);
            self.request.set_authority(name.as_bytes());
        }
        self.count_hop(endpoint)?;
        let version = match &pooled {
            PooledConn::H1(_) => Version::Http11,
            PooledConn::Shared(connection) => connection.version(),
        };
        self.handshake.ask(&mut self.request, version, &worker);
        let end = self.upload.is_empty() && self.request.upgrade().is_none();
        let end = end && self.method != Method::Connect;
        if self.upload.is_whole() {
            self.request.remove(b"expect");
        }
        let endpoint = Arc::clone(endpoint);
        let (stream, kept, reused) = match pooled {
            PooledConn::H1(taken) => {
                let reused = taken.is_reused();
                let (mut stream, kept) = taken.into_parts();
                stream.set_read_max(if down.is_shared() { READ_SHARED } else { SCRATCH });
                // The head of an upgrade or tunnel ends the request on an HTTP/1 wire.
                let whole = end || self.request.upgrade().is_some();
                let whole = whole || self.method == Method::Connect;
                let sent = stream.send_head(&worker, &self.request, whole, false);
                if let Err(error) = sent {
                    return self.unsendable(&error).map(Err);
                }
                (HttpStream::H1(stream), Some(kept), reused)
            }
            PooledConn::Shared(mut client) => {
                let by = worker.now().after(OPEN_TIME).min(self.total_at);
                // It is out of place while the stream waits for its turn; another stands there.
                let spare = self.manager.shared.head_pool.take().into();
                let request = std::mem::replace(&mut self.request, spare);
                let opened = self.guarded(down, by, client.open(&request, end)).await;
                let mut spare = std::mem::replace(&mut self.request, request);
                self.manager.shared.head_pool.give(spare.take());
                match opened? {
                    Some(Ok(stream)) => (stream, None, false),
                    Some(Err(error)) => return self.unsendable(&error).map(Err),
                    None if worker.now() >= self.total_at => return Ok(Err(self.total_over())),
                    None => {
                        return Ok(Err(not_reached(no_turn())));
                    }
                }
            }
        };
        let sent_at = worker.now();
        Ok(Ok(UpstreamStream { stream, version, endpoint, kept, reused, sent_at }))
    }

    /// What a head comes to that could not be sent: where it cannot be said to any endpoint, the request is at fault.
    fn unsendable(&mut self, error: &HttpError) -> Result<FailedAttempt, Stop> {
        if !matches!(error.kind(), ErrorKind::Malformed(400)) {
            return Ok(failed_attempt(error, false));
        }
        self.summary.detail = Some(error.detail().into());
        let body = "the request cannot be passed on\n";
        Err(Stop::reply(Reply::malformed("request_malformed", body)))
    }

    /// Runs something until it is done, its time is over (`None`), or the client has gone.
    pub(super) async fn guarded<F: Future>(
        &self,
        down: &mut HttpStream,
        by: Moment,
        doing: F,
    ) -> Result<Option<F::Output>, Stop> {
        let worker = Rc::clone(self.worker());
        let watched = async {
            let mut doing = pin!(doing);
            poll_fn(|cx| {
                if let Poll::Ready(done) = doing.as_mut().poll(cx) {
                    return Poll::Ready(Ok(done));
                }
                down.poll_gone(cx, &worker).map(|error| Err(Stop::Downstream(error)))
            })
            .await
        };
        match self.timer().until(by, watched).await {
            Ok(done) => done.map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Sends what there is of the request's body, and waits for the head of the answer.
    async fn await_head(
        &mut self,
        down: &mut HttpStream,
        up: &mut UpstreamStream,
        attempt_at: Moment,
        per_try: Option<Duration>,
    ) -> Result<Result<(), FailedAttempt>, Stop> {
        let worker = Rc::clone(self.worker());
        let mut broken: Option<HttpError> = None;
        let mut response_at = Moment::NEVER;
        let tunnel = self.request.upgrade().is_some() || self.method == Method::Connect;
        let forwards = self.summary.version != Version::Http10;
        for _ in 0..INFORMATIONAL_MAX {
            let got = poll_fn(|cx| {
                // What follows the head of an upgrade waits until it is agreed to.
                if !tunnel && broken.is_none() {
                    match self.poll_upload(cx, down, &mut up.stream) {
                        Poll::Ready(Err(FailedSide::Down(error))) => {
                            return Poll::Ready(Err(Stop::Downstream(error)));
                        }
                        Poll::Ready(Err(FailedSide::Reply(reply))) => {
                            return Poll::Ready(Err(Stop::Reply(reply)));
                        }
                        // It may have answered before it stopped reading.
                        Poll::Ready(Err(FailedSide::Up(error))) => broken = Some(error),
                        Poll::Ready(Ok(())) | Poll::Pending => {}
                    }
                }
                // Only now, so that the head leaves together with what there is of the body.
                if let Err(error) = up.stream.push(cx, &worker) {
                    broken.get_or_insert(error);
                }
                let polled = up.stream.poll_recv_head(cx, &worker, &mut self.response);
                if let Poll::Ready(received) = polled {
                    return Poll::Ready(Ok(Ok(received)));
                }
                if let Poll::Ready(error) = down.poll_gone(cx, &worker) {
                    return Poll::Ready(Err(Stop::Downstream(error)));
                }
                let now = worker.now();
                if (self.upload.done || tunnel) && response_at == Moment::NEVER {
                    response_at = now.after_bound(self.response_timeout);
                }
                let due = response_at.min(attempt_at).min(self.total_at).min(self.body_due());
                let timer = self.timer();
                timer.set(due);
                std::task::ready!(timer.poll(cx));
                if self.body_due() <= now {
                    return Poll::Ready(Err(Stop::Downstream(super::body::late())));
                }
                let all_over = response_at.min(self.total_at) <= now;
                Poll::Ready(Ok(Err(match (self.total_at <= now, all_over) {
                    (true, _) => self.total_over(),
                    (_, true) => timed_out("timeout.response", self.response_timeout),
                    _ => attempt_timed_out(per_try),
                })))
            })
            .await;
            let received = match got {
                Ok(Ok(received)) => received,
                Ok(Err(failed)) => return Ok(Err(failed)),
                // Whoever gives up leaves nothing running behind it.
                Err(stop) => {
                    up.stream.reset(true);
                    return Err(stop);
                }
            };
            if let Err(error) = received {
                let error = broken.take().unwrap_or(error);
                return Ok(Err(failed_attempt(&error, up.reused)));
            }
            match self.response.status() {
                status @ 100..200 if status != 101 => {
                    let wanted = status != 100 || self.request.get(Known::Expect).is_some();
                    if wanted && forwards {
                        self.response.set_version(self.summary.version);
                        down.send_head(&worker, &self.response, false, false)
                            .map_err(Stop::Downstream)?;
                        poll_fn(|cx| Poll::Ready(down.push(cx, &worker)))
                            .await
                            .map_err(Stop::Downstream)?;
                    }
                }
                _ => {
                    let since = worker.now().since(self.began);
                    self.summary.response_start = Some(since);
                    return Ok(Ok(()));
                }
            }
        }
        let error = HttpError::new(ErrorKind::Malformed(502), "too many heads before an answer");
        Ok(Err(failed_attempt(&error, false)))
    }

    /// Passes the answer on, its head being there.
    async fn deliver(
        &mut self,
        down: &mut HttpStream,
        pool: &Rc<ClusterPool>,
        mut up: UpstreamStream,
    ) -> Result<(), Stop> {
        let worker = Rc::clone(self.worker());
        let status = self.response.status();
        let upgrades = self.request.upgrade().is_some();
        let tunnel = match up.version {
            _ if self.method == Method::Connect && !upgrades => (200..300).contains(&status),
            version if version.has_extended_connect() => upgrades && (200..300).contains(&status),
            _ => status == 101,
        };
        let asked = self.request.upgrade().unwrap_or_default();
        let agrees = !tunnel
            || !upgrades
            || self.handshake.answer(&mut self.response, asked, self.summary.version, up.version);
        if !agrees {
            up.stream.reset(true);
            let why = reasons::UPSTREAM_PROTOCOL;
            let detail = "the endpoint agreed to an upgrade that was not asked for";
            self.summary.detail = Some(format!("{}: {detail}", up.endpoint.name).into());
            let body = self.told("the upgrade failed", why);
            return Err(Stop::reply(Reply::new(502, why, "upgrade_failed", body)));
        }
        self.note_grpc_status_of_head();
        self.has_response = true;
        if let Some(reply) = self.filter_response() {
            up.stream.reset(true);
            return Err(Stop::Reply(reply));
        }
        if tunnel {
            self.upload = Upload::of_tunnel();
        }
        self.summary.status = self.response.status();
        self.advertise();
        let end = !tunnel && up.stream.is_received();
        let close = self.downstream.conn.is_finishing();
        let sent = down.send_head(&worker, &self.response, end, close);
        let relayed = match sent {
            // What the endpoint answered cannot be said to this client.
            Err(error)
                if matches!(error.kind(), ErrorKind::Malformed(_)) && !down.is_head_sent() =>
            {
                self.summary.detail = Some(error.detail().into());
                let why = reasons::UPSTREAM_PROTOCOL;
                let text = self.told("the response cannot be passed on", why);
                Err(Stop::reply(Reply::new(502, why, "response_malformed", text)))
            }
            Err(error) => Err(Stop::Downstream(error)),
            Ok(()) if end && self.upload.done => {
                let pushed = poll_fn(|cx| Poll::Ready(down.push(cx, &worker))).await;
                pushed.map_err(Stop::Downstream)
            }
            Ok(()) => self.relay(down, &mut up.stream, tunnel).await,
        };
        self.timer().set(Moment::NEVER);
        if let Err(stop) = relayed {
            up.stream.reset(true);
            return Err(stop);
        }
        self.finish(reasons::VIA_UPSTREAM, "via_upstream");
        match (up.stream, up.kept) {
            (HttpStream::H1(stream), Some(kept)) => {
                pool.give_back(&worker, &up.endpoint, stream, kept);
            }
            (mut stream, _) if !self.upload.done => stream.reset(true),
            _ => {}
        }
        Ok(())
    }

    pub(super) fn note_grpc_status_of_head(&mut self) {
        let status = self.response.get(Known::GrpcStatus);
        let status = status.and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
        self.summary.grpc_status = status;
    }

    // --- another try ---

    /// Whether an answer is one of those that the rule tries again for.
    fn is_retriable(&self, status: u16, retry: &RetryPlan) -> bool {
        let when = &retry.when;
        let grpc = self.summary_grpc().is_some_and(|s| s < 32 && when.grpc & (1 << s) != 0);
        retry.statuses.contains(&status)
            || (when.server_error && status >= 500)
            || (when.gateway_error && matches!(status, 502..=504))
            || (when.conflict && status == 409)
            || grpc
    }

    /// The gRPC status of an answer that is nothing but a head.
    fn summary_grpc(&self) -> Option<u32> {
        let value = self.response.get(Known::GrpcStatus)?;
        std::str::from_utf8(value).ok()?.parse().ok()
    }

    /// Whether there is another try after one that failed; counts it.
    fn may_retry(
        &self,
        failed: &FailedAttempt,
        pool: &Rc<ClusterPool>,
        retry: &RetryPlan,
        state: &mut RetryState,
    ) -> bool {
        if self.upload.forgotten || self.worker().now() >= self.total_at {
            return false;
        }
        let attempts = pool.handle.cluster.peek_plan().connect_attempts.max(1);
        let safe = match failed.cause {
            Cause::Final => return false,
            Cause::Unsent => state.safe + 1 < SAFE_RETRIES.max(attempts),
            Cause::Stale => self.method.is_idempotent() && state.safe + 1 < SAFE_RETRIES,
            Cause::Reset | Cause::TryTimeout | Cause::Answered => false,
        };
        if safe {
            state.safe += 1;
            return true;
        }
        let when = &retry.when;
        let wanted = match failed.cause {
            Cause::TryTimeout => when.per_try_timeout || when.server_error || when.gateway_error,
            // The answer was judged before; the rest is about none at all.
            Cause::Answered => true,
            _ => when.reset || when.server_error,
        };
        state.counted += 1;
        if !wanted || state.counted >= retry.attempts {
            return false;
        }
        state.in_flight = None;
        state.in_flight = pool.enter_retry();
        state.in_flight.is_some()
    }

    /// Waits before another try: at random up to a bound that doubles.
    async fn back_off(
        &self,
        down: &mut HttpStream,
        retry: &RetryPlan,
        counted: u32,
    ) -> Result<(), Stop> {
        let factor = (1_u32 << counted.clamp(1, 16)) - 1;
        let bound = retry.backoff.saturating_mul(factor).min(retry.backoff_max);
        let worker = self.worker();
        let bound = usize::try_from(bound.as_micros()).unwrap_or(usize::MAX);
        let wait = Duration::from_micros(worker.random_below(bound.max(1)) as u64);
        let by = worker.now().after(wait).min(self.total_at);
        self.guarded(down, by, std::future::pending::<()>()).await.map(drop)
    }
}

fn hops_of(request: &Head) -> u64 {
    let value = request.get(HOPS);
    value.and_then(|value| std::str::from_utf8(value).ok()?.parse().ok()).unwrap_or(0)
}

/// How many listeners of this process a request has passed.
const HOPS: Known = Known::XSluiceHops;

/// How long a request may wait for its turn on a connection that it shares.
const OPEN_TIME: Duration = Duration::from_secs(5);

/// The request's turn on a shared connection did not come.
fn no_turn() -> ConnectFailure {
    let detail = "the endpoint granted no further stream on its connection in time".to_owned();
    ConnectFailure { why: upstream_reasons::CONNECT_TIMEOUT, errno: None, detail: Some(detail) }
}

/// Whether an id of the client's may be shown to it again: short, and nothing but a token.
fn is_plain_id(id: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !id.is_empty() && id.len() <= 64 && id.iter().all(plain)
}

/// The deadline that a gRPC client sets: digits and a unit.
fn grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_deadlines() {
        for (text, value) in [
            ("5S", Some(Duration::from_secs(5))),
            ("100m", Some(Duration::from_millis(100))),
            ("2H", Some(Duration::from_secs(7200))),
            ("999999999S", None),
            ("S", None),
            ("5", None),
            ("5x", None),
            ("-5S", None),
        ] {
            assert_eq!(grpc_timeout(text.as_bytes()), value, "{text}");
        }
    }
}
