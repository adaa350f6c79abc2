//! The router: sends a request to its cluster, in as many attempts as are needed and allowed.
//!
//! Owns: the loop over attempts, their records and counters. Refuses to know: how connections are made, how bodies
//! move, and what is worth a retry ([`retry`] decides). Keeps: every attempt is recorded once, and an abandoned attempt
//! leaves no stream behind.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_codec::grpc::status_number;
use sluice_codec::probe::FAIL_HEADER;
use sluice_codec::{ErrorKind, HttpError, HttpStream, Known};
use sluice_core::Reason;
use sluice_core::connection::Attempt;
use sluice_core::reason::Side;
use sluice_upstream::reasons as upstream_reasons;
use sluice_upstream::{EndpointState, SubsetKey};

use super::attempt_error::AttemptError;
use super::deadlines::Deadline;
use super::pending::Pending;
use super::reporting::note_unreached;
use super::response::AwaitedHead;
use super::sent_attempt::SentAttempt;
use super::{ForwardOutcome, RequestTask, RouteTarget, Stop};
use crate::attempts::AttemptGuard;
use crate::errors::Cause;
use crate::failed_attempt::{FailedAttempt, FailureDetail, endpoint_left, retried_response};
use crate::pools::{ClusterPool, InFlightGuard};
use crate::reasons;
use crate::reply::{Reply, failure_text};
use crate::retry::Attempts;
use crate::retry_plan::RetryRule;
use crate::routes::RuleOptions;
use crate::upstream_stream::UpstreamStream;

/// What the attempts of a request share.
pub(super) struct Forwarding {
    pub(super) pool: Rc<ClusterPool>,
    /// Counts the request in its pool.
    pub(super) in_flight: InFlightGuard,
    /// Clusters that could not serve, so that the next does in their place.
    pub(super) fallbacks: u8,
    pub(super) options: Arc<RuleOptions>,
    pub(super) hash: Option<u64>,
    /// The host that the client named, if the cluster is a forward proxy.
    pub(super) named: Option<Arc<EndpointState>>,
    /// The metadata that the endpoint must have.
    pub(super) subset: Option<Arc<SubsetKey>>,
    pub(super) attempts: Attempts,
    /// Whether earlier attempts are late and still in flight.
    pub(super) has_late: bool,
    /// Counts a retry while it is in flight.
    pub(super) permit: Option<InFlightGuard>,
    /// The wait that a response asked for, which is followed by a retry.
    pub(super) asked_wait: Option<Duration>,
    /// A new cookie for the client, for the hash balancer.
    pub(super) new_cookie: Option<String>,
}

impl RequestTask {
    /// Sends the request to its cluster and the response to the client.
    pub(super) async fn forward(
        &mut self,
        down: &mut HttpStream,
        target: RouteTarget,
    ) -> Result<ForwardOutcome, Stop> {
        let mut forwarding = self.begin_forwarding(target)?;
        let tells = forwarding.options.envoy_headers;
        self.drop_by_chance(&forwarding.pool.handle, tells)?;
        if forwarding.pool.handle.forwards() {
            // Boxed, so that other requests have no room for it.
            forwarding.named = Some(Box::pin(self.named_endpoint(down, &forwarding.pool)).await?);
        }
        let mut sent = loop {
            self.upload.begin_attempt();
            let failed = match self.attempt(down, &mut forwarding).await {
                Ok(sent) => break sent,
                Err(AttemptError::Redirected) => return Ok(ForwardOutcome::Redirected),
                Err(AttemptError::Stop(stop)) => return Err(stop),
                // Boxed, so that other requests have no room for it.
                Err(AttemptError::Late(late)) => {
                    return Box::pin(self.hedge(down, &mut forwarding, late)).await;
                }
                Err(AttemptError::Failed(failed) | AttemptError::Unwanted(failed)) => failed,
            };
            if !self.retries(&failed, &mut forwarding) {
                return Err(self.give_up(failed, &forwarding));
            }
            if failed.cause.needs_backoff() {
                self.back_off(down, &forwarding).await?;
            }
        };
        self.accept(down, &forwarding, &mut sent).await?;
        Ok(self.complete(sent))
    }

    /// Prepares the attempts of a request. Not a part of the future that calls it, which would keep room for all of this.
    fn begin_forwarding(&mut self, target: RouteTarget) -> Result<Forwarding, Stop> {
        let rule = target.rule();
        let mut options = Arc::clone(&rule.options);
        self.check_upgrade(rule)?;
        (self.ends_connect, self.ends_post) = (options.ends_connect, options.ends_post);
        if options.follow.is_some() {
            self.note_target(&target);
        }
        self.rewrite(rule)?;
        if options.envoy_headers {
            options = self.heed_envoy_headers(options);
        }
        let worker = Rc::clone(self.worker());
        let pools = &self.manager.shared.pools;
        let pool = pools.to_class(&target.cluster, options.class, &worker);
        let subset = target.endpoint_match().map(|of| of.key(&self.request, &self.values));
        if !options.mirrors.is_empty() {
            self.begin_mirrors(&target);
        }
        drop(target);
        let in_flight = pool.enter_request();
        if let Some(timeout) = self.grpc_deadline(&options.timeouts) {
            self.deadlines.shorten(timeout, self.began);
        }
        let retries = options.retry.attempts > 1 || options.follow.is_some();
        self.upload.allow_replay(if retries { options.retry.body_max } else { 0 });
        let mut new_cookie = None;
        let hash = self.hash(&options.hash, &mut new_cookie);
        Ok(Forwarding {
            pool,
            in_flight,
            fallbacks: 0,
            options,
            hash,
            named: None,
            subset,
            attempts: Attempts::default(),
            has_late: false,
            permit: None,
            asked_wait: None,
            new_cookie,
        })
    }

    /// The reply to the client for the failure of the last attempt.
    pub(super) fn give_up(&mut self, failed: FailedAttempt, forwarding: &Forwarding) -> Stop {
        let exhausted = forwarding.attempts.are_exhausted() && failed.cause != Cause::Final;
        let why = if exhausted { reasons::RETRIES_EXHAUSTED } else { failed.why };
        self.summary.detail =
            self.summary.attempts.last().and_then(Attempt::cause).or(failed.said.detail);
        let body = self.failure_body(failed.text, why);
        let reply = Reply::new(failed.status, why, failed.details, body);
        let is_overload = upstream_reasons::is_overload(why) && forwarding.options.envoy_headers;
        Stop::reply(if is_overload { reply.with("x-envoy-overloaded", "true") } else { reply })
    }

    /// Makes one attempt, until its response headers are received and are to be delivered.
    pub(super) async fn attempt(
        &mut self,
        down: &mut HttpStream,
        forwarding: &mut Forwarding,
    ) -> Result<SentAttempt, AttemptError> {
        let worker = Rc::clone(self.worker());
        let (endpoint, claim) = self.pick_or_fall_back(down, forwarding).await?;
        let pool = Rc::clone(&forwarding.pool);
        self.deadlines.start(Deadline::Attempt, worker.now());
        if forwarding.options.attempt_in_request {
            self.number_attempt();
        }
        self.pending =
            Some(Pending::connecting(Arc::clone(&endpoint.name), endpoint.place(), worker.now()));
        let guard = self.guard_attempt(&pool, &endpoint);
        let connected = {
            let host = &forwarding.options.host;
            let connecting = pin!(self.connect(down, &pool, &endpoint, host));
            AttemptGuard::unless_cancelled(guard.as_ref(), connecting).await
        };
        let connected = connected.unwrap_or_else(|left| Err(endpoint_left(left).into()));
        let mut up = connected.map_err(|error| {
            note_unreached(&pool, &endpoint, &error);
            self.note_failed(&endpoint, error, forwarding)
        })?;
        let of_cluster = pool.handle.plan().stream_duration_max;
        let most = forwarding.options.timeouts.stream.map_or(of_cluster, |most| most.0);
        self.deadlines.bound_stream(most, up.sent_at);
        self.summary.upstream_version = Some(up.version);
        if let Some(pending) = &mut self.pending {
            pending.connected(up.sent_at);
        }
        let awaited = {
            let hedges = self.hedges(&forwarding.options.retry);
            let awaiting = pin!(self.await_head(down, &mut up, hedges));
            AttemptGuard::unless_cancelled(guard.as_ref(), awaiting).await
        };
        let mut sent = SentAttempt { up, pool, _claim: claim, guard };
        match awaited.unwrap_or_else(|left| Err(endpoint_left(left).into())) {
            Ok(AwaitedHead::Received) => {}
            Ok(AwaitedHead::Late) => return Err(self.go_on_late(sent, forwarding)),
            Err(error) => {
                // An abandoned attempt leaves nothing running.
                sent.up.stream.reset(true);
                self.note_unanswered(&sent, &error);
                return Err(self.note_failed(&endpoint, error, forwarding));
            }
        }
        let status = self.response.status();
        let (pool, up) = (&sent.pool, &mut sent.up);
        pool.handle.note_answer(&worker, &endpoint, Some(status));
        let took = worker.now().since(up.sent_at);
        pool.handle.note_response_time(&worker, &endpoint, took);
        self.note_response(pool, up, took);
        self.note_result_in_head(pool, up);
        let covered = if self.is_too_early(up) {
            Some(RetryRule::TooEarly)
        } else {
            forwarding.options.retry.covers(&self.response, status_number(&self.response))
        };
        if let Some(rule) = covered {
            let again = self.may_retry_response(rule, forwarding);
            if again || forwarding.has_late {
                up.stream.reset(true);
                if rule == RetryRule::TooEarly {
                    let cluster = &pool.handle.cluster.name;
                    pool.counters.count_early_data(&worker, cluster, "too_early");
                }
                let failed = retried_response(status, rule);
                let error =
                    if again { AttemptError::Failed } else { AttemptError::Unwanted }(failed);
                return Err(self.note_failed(&endpoint, error, forwarding));
            }
        }
        if self.follows(forwarding) {
            self.leave_followed(sent, forwarding);
            return Err(AttemptError::Redirected);
        }
        Ok(sent)
    }

    /// Whether the response says that the request came before the handshake with the endpoint was complete. If the client
    /// was early too, it is the client that has to repeat it, RFC 8470 §5.2.
    fn is_too_early(&self, up: &UpstreamStream) -> bool {
        up.early && self.response.status() == 425 && self.request.get_named(b"early-data").is_none()
    }

    /// Records that an attempt brought no response.
    fn note_unanswered(&self, sent: &SentAttempt, error: &AttemptError) {
        let AttemptError::Failed(failed) = error else { return };
        let SentAttempt { up, pool, .. } = sent;
        let worker = self.worker();
        if !self.is_blameless(failed) {
            pool.handle.note_answer(worker, &up.endpoint, None);
            pool.handle.note_result(&up.endpoint, false);
        }
        if failed.cause == Cause::TryTimeout {
            pool.handle.note_latency(worker, &up.endpoint, worker.now().since(up.sent_at));
        }
        self.count_answer(pool, &up.endpoint, 0, None);
    }

    /// Records a response, whose headers came after `took`.
    pub(super) fn note_response(
        &mut self,
        pool: &Rc<ClusterPool>,
        up: &UpstreamStream,
        took: Duration,
    ) {
        let endpoint = &up.endpoint;
        self.note_reported_in_head(pool, up);
        if pool.handle.heeds_fail_header() && self.response.get_named(FAIL_HEADER).is_some() {
            pool.handle.note_refusal(self.worker(), endpoint);
        }
        pool.heed_alt_svc(self.worker(), endpoint, up.version, &self.response);
        self.count_answer(pool, endpoint, self.response.status(), Some(took));
    }

    /// Whether the response is a redirect that the rule follows.
    pub(super) fn follows(&mut self, forwarding: &Forwarding) -> bool {
        forwarding.options.follow.as_ref().is_some_and(|plan| self.takes_redirect(plan))
    }

    /// Ends an attempt whose redirect is followed.
    pub(super) fn leave_followed(&mut self, mut sent: SentAttempt, forwarding: &Forwarding) {
        let endpoint = &sent.up.endpoint;
        let detail = Some(format!("status {}, followed", self.response.status()).into());
        let attempt = Attempt::failed(Arc::clone(&endpoint.name), reasons::RETRIED, None, detail);
        self.note(attempt.in_place(endpoint.place()));
        self.deadlines.stop(Deadline::Stream);
        if sent.up.stream.is_received() {
            sent.up.finish(self.worker(), &sent.pool, self.upload.is_sent());
        } else {
            sent.up.stream.reset(true);
        }
        self.forget_originals(forwarding.options.originals);
    }

    /// Sends the response of an attempt to the client. The attempt stays with the caller, because a future that takes it
    /// keeps its memory several times.
    pub(super) async fn accept(
        &mut self,
        down: &mut HttpStream,
        forwarding: &Forwarding,
        sent: &mut SentAttempt,
    ) -> Result<(), Stop> {
        if let Some(pending) = self.pending.take() {
            self.note(pending.reached(self.worker().now()));
        }
        if forwarding.options.attempts_in_response {
            self.show_attempts();
        }
        // It says where the endpoint can be reached, which clients cannot.
        if self.response.get(Known::AltSvc).is_some() {
            self.response.remove_known(Known::AltSvc);
        }
        if let Some(cookie) = &forwarding.new_cookie {
            self.response.append_known(Known::SetCookie, cookie.as_bytes());
        }
        let SentAttempt { up, guard, .. } = sent;
        let delivered = {
            let delivering = pin!(self.deliver(down, up));
            AttemptGuard::unless_cancelled(guard.as_ref(), delivering).await
        };
        delivered.unwrap_or_else(|departure| {
            let left = HttpError::new(ErrorKind::Reset, departure.text());
            Err(Stop::Cut(departure.reason(), left))
        })
    }

    /// Ends an attempt whose response the client has.
    pub(super) fn complete(&self, sent: SentAttempt) -> ForwardOutcome {
        let SentAttempt { up, pool, .. } = sent;
        up.finish(self.worker(), &pool, self.upload.is_sent());
        ForwardOutcome::Done
    }

    /// Whether a failed attempt is no evidence against its endpoint: the endpoint left the cluster, its reused
    /// connection was stale, the client's own deadline was shorter than the rule's, its stream was as long as any may
    /// be, or Sluice lacked a resource.
    fn is_blameless(&self, failed: &FailedAttempt) -> bool {
        let clients_deadline = self.deadlines.total_is_clients()
            && failed.why == reasons::ROUTE_TIMEOUT
            && self.worker().now() >= self.deadlines.due(Deadline::Total);
        let is_blameless = failed.cause == Cause::Stale || failed.why == reasons::STREAM_DURATION;
        is_blameless || clients_deadline || failed.why.def().side != Side::Upstream
    }

    /// Registers the attempt if its cluster cancels attempts when their endpoint leaves or is unhealthy.
    fn guard_attempt(&self, pool: &ClusterPool, endpoint: &EndpointState) -> Option<AttemptGuard> {
        let cluster = &pool.handle.cluster;
        self.entry.reach(&cluster.name, &endpoint.name);
        let attempts = &self.manager.shared.attempts;
        (!pool.handle.plan().keeps_connections())
            .then(|| attempts.enter(&cluster.name, &endpoint.name, self.worker().now()))
    }

    pub(super) fn note(&mut self, attempt: Attempt) {
        self.pending = None;
        self.summary.attempts.push(attempt);
    }

    /// Records a failed attempt, and moves the details out of the error; returns the error.
    pub(super) fn note_failed(
        &mut self,
        endpoint: &EndpointState,
        mut error: AttemptError,
        forwarding: &mut Forwarding,
    ) -> AttemptError {
        self.deadlines.stop(Deadline::Stream);
        if let AttemptError::Failed(failed) | AttemptError::Unwanted(failed) = &mut error {
            let FailureDetail { errno, detail } = std::mem::take(&mut failed.said);
            let attempt = Attempt::failed(Arc::clone(&endpoint.name), failed.why, errno, detail);
            self.note(attempt.in_place(endpoint.place()));
            // Nothing speaks against an endpoint to which the request only came too early.
            if failed.cause != Cause::Answered(RetryRule::TooEarly) {
                forwarding.attempts.endpoints.push(Arc::clone(&endpoint.name));
            }
        }
        error
    }

    /// The body for the client of a failure: its kind, the reason's code, and the request ID to report to the operator.
    pub(super) fn failure_body(&self, text: &str, why: Reason) -> String {
        let own = self.request.get(Known::XRequestId).filter(|id| is_plain_id(id));
        let id = own.and_then(|id| std::str::from_utf8(id).ok());
        let id = id.map_or_else(|| self.summary.id.to_string(), str::to_owned);
        failure_text(text, why, &id)
    }

    pub(super) fn count_answer(
        &self,
        pool: &ClusterPool,
        endpoint: &EndpointState,
        status: u16,
        took: Option<Duration>,
    ) {
        let cluster = &pool.handle.cluster.name;
        pool.counters.count(self.worker(), cluster, &endpoint.name, status, took);
    }
}

/// Whether the client's request ID may be sent back to it: at most 64 letters, digits, `-`, `_` and `.`.
fn is_plain_id(id: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !id.is_empty() && id.len() <= 64 && id.iter().all(plain)
}
