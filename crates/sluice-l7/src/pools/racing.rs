//! HTTP/3 beside TCP: attempts to connect over QUIC where requests may go over TCP as well.
//!
//! Owns: when HTTP/3 is attempted, which of the two is used, and what an attempt says about the endpoint. Refuses to
//! know: how connections are made. Keeps: a worker makes one attempt at a time per endpoint; no request waits longer than
//! the head start for an attempt that TCP could replace; HTTP/3 is considered broken only if TCP works meanwhile.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use sluice_codec::{Head, Known, Multiplexed, Version};
use sluice_core::Moment;
use sluice_io::WorkerCx;
use sluice_io::timers::Timer;
use sluice_upstream::cluster::Claim;
use sluice_upstream::connector::ConnectFailure;
use sluice_upstream::endpoint::AdvertChange;
use sluice_upstream::pool::Idle;
use sluice_upstream::{EndpointState, Target, reasons as upstream_reasons};

use super::attempt::{AttemptState, Http3Attempt};
use super::shared::EndpointPool;
use super::{ClusterPool, ConnectionNeeds, PooledConn};
use crate::alt_svc::AltSvc;

impl ClusterPool {
    /// The attempt that runs; begins one if there is reason to.
    pub(super) fn attempt_http3(
        self: &Rc<Self>,
        worker: &Rc<WorkerCx>,
        endpoint: &Arc<EndpointState>,
        needs: &ConnectionNeeds<'_>,
    ) -> Option<Rc<Http3Attempt>> {
        let plan = self.handle.plan();
        let race = plan.http3.race.as_ref().filter(|_| needs.http3)?;
        let running = |pool: &EndpointPool| pool.attempt.clone();
        if let Some(running) = self.shared.borrow().get(&endpoint.name).and_then(running) {
            return Some(running);
        }
        let now = worker.now();
        let Target::Ip(own) = endpoint.target else { return None };
        let port = endpoint.http3.port(race, own.port(), now)?;
        let Ok(claim) = self.handle.claim_shared(needs.class, endpoint) else {
            self.counters.count_http3(worker, &self.handle.cluster.name, "limit");
            return None;
        };
        let attempt = Rc::new(Http3Attempt::begun(now));
        self.shared
            .borrow_mut()
            .entry(Arc::clone(&endpoint.name))
            .or_insert_with(|| EndpointPool::new(endpoint, now))
            .attempt = Some(Rc::clone(&attempt));
        let task = AttemptTask {
            pool: Rc::clone(self),
            endpoint: Arc::clone(endpoint),
            attempt: Rc::clone(&attempt),
        };
        let runner = Rc::clone(worker);
        worker.spawn(async move { task.run(&runner, port, claim).await });
        Some(attempt)
    }

    /// Attempts HTTP/3 while a request uses a connection over TCP, unless there is a connection already.
    pub(super) fn attempt_http3_beside(
        self: &Rc<Self>,
        worker: &Rc<WorkerCx>,
        endpoint: &Arc<EndpointState>,
        needs: &ConnectionNeeds<'_>,
    ) {
        let is_http3 = |idle: &Idle<Multiplexed>| idle.connection.version() == Version::Http3;
        let has_one = |pool: &EndpointPool| pool.open.iter().any(is_http3);
        if self.shared.borrow().get(&endpoint.name).is_some_and(has_one) {
            return;
        }
        if let Some(attempt) = self.attempt_http3(worker, endpoint, needs) {
            self.note_tcp_works(worker, endpoint, &attempt);
        }
    }

    /// Whether TCP has to wait for the attempt.
    pub(super) fn has_head_start(&self, worker: &WorkerCx, attempt: &Http3Attempt) -> bool {
        attempt.is(AttemptState::Running) && worker.now() < attempt.began.after(self.tcp_delay())
    }

    /// Waits until the attempt has ended or has no head start any more.
    pub(super) async fn wait_for_head_start(
        &self,
        worker: &WorkerCx,
        attempt: &Http3Attempt,
        by: Moment,
    ) {
        let by = attempt.began.after(self.tcp_delay()).min(by);
        let _ = Timer::new(&worker.timers).until(by, attempt.ended.notified()).await;
    }

    fn tcp_delay(&self) -> Duration {
        let plan = self.handle.plan();
        plan.http3.race.map_or(Duration::ZERO, |race| race.tcp_delay)
    }

    /// Makes a connection over TCP; `None` if HTTP/3 is established first.
    ///
    /// # Errors
    /// Neither was.
    pub(super) async fn unless_http3_is_first(
        self: &Rc<Self>,
        worker: &Rc<WorkerCx>,
        endpoint: &Arc<EndpointState>,
        needs: &ConnectionNeeds<'_>,
        claim: Claim,
        attempt: &Http3Attempt,
    ) -> Result<Option<PooledConn>, ConnectFailure> {
        let making = self.make_in_time(worker, endpoint, needs, claim, 1);
        if !attempt.is(AttemptState::Running) {
            let pooled = making.await?;
            self.note_tcp_works(worker, endpoint, attempt);
            return Ok(Some(pooled));
        }
        let (mut making, mut ended) = (pin!(making), pin!(attempt.ended.notified()));
        let mut has_ended = false;
        let made = poll_fn(|cx| {
            if let Poll::Ready(made) = making.as_mut().poll(cx) {
                return Poll::Ready(Some(made));
            }
            has_ended = has_ended || ended.as_mut().poll(cx).is_ready();
            if attempt.is(AttemptState::Established) { Poll::Ready(None) } else { Poll::Pending }
        });
        match made.await {
            Some(Ok(pooled)) => {
                self.note_tcp_works(worker, endpoint, attempt);
                Ok(Some(pooled))
            }
            Some(Err(failure)) => {
                if attempt.is(AttemptState::Running) {
                    attempt.ended.notified().await;
                }
                if attempt.is(AttemptState::Established) { Ok(None) } else { Err(failure) }
            }
            None => Ok(None),
        }
    }

    /// Notes that TCP works: an attempt that fails is the fault of HTTP/3 alone.
    fn note_tcp_works(&self, worker: &WorkerCx, endpoint: &EndpointState, attempt: &Http3Attempt) {
        attempt.tcp_works.set(true);
        self.judge(worker, endpoint, attempt);
    }

    /// Holds a failure against the endpoint, once, if TCP works.
    fn judge(&self, worker: &WorkerCx, endpoint: &EndpointState, attempt: &Http3Attempt) {
        if !attempt.tcp_works.get() {
            return;
        }
        if let Some(cause) = attempt.failure.take() {
            self.handle.note_http3_failure(worker, endpoint, &cause);
        }
    }

    /// Notes what a response of `endpoint` says about HTTP/3 there.
    pub(crate) fn heed_alt_svc(
        &self,
        worker: &WorkerCx,
        endpoint: &EndpointState,
        version: Version,
        response: &Head,
    ) {
        let Some(race) = self.handle.plan().http3.race else { return };
        if version == Version::Http3 && response.status() == 421 {
            // It does not serve the host of this request there, RFC 7838 §6. Requests in flight stay on their connection.
            endpoint.http3.clear();
            if let Some(pool) = self.shared.borrow_mut().get_mut(&endpoint.name) {
                pool.open.retain(|idle| idle.connection.version() != Version::Http3);
            }
            let cause = "status 421 (misdirected request)";
            self.handle.note_http3_failure(worker, endpoint, cause);
            return;
        }
        if !race.heeds_adverts || response.get(Known::AltSvc).is_none() {
            return;
        }
        let age = response.get_named(b"age").and_then(|age| std::str::from_utf8(age).ok());
        let age = Duration::from_secs(age.and_then(|age| age.parse().ok()).unwrap_or_default());
        let read = |value| AltSvc::parse(value, |host| is_host_of(endpoint, host), age);
        let said = response.values(b"alt-svc").map(read).find(|said| *said != AltSvc::Other);
        let change = match said {
            Some(AltSvc::Http3 { port, lifetime }) => {
                Some(endpoint.http3.advertise(port, lifetime, worker.now()))
            }
            Some(AltSvc::Clear) => endpoint.http3.clear(),
            Some(AltSvc::Other) | None => {
                self.counters.count_alt_svc(worker, &self.handle.cluster.name, "ignored");
                None
            }
        };
        let word = match change {
            Some(AdvertChange::Learned) => "learned",
            Some(AdvertChange::Cleared) => "cleared",
            Some(AdvertChange::Renewed) | None => return,
        };
        self.counters.count_alt_svc(worker, &self.handle.cluster.name, word);
    }
}

/// An attempt while it runs; ends when it is dropped, whatever the cause.
struct AttemptTask {
    pool: Rc<ClusterPool>,
    endpoint: Arc<EndpointState>,
    attempt: Rc<Http3Attempt>,
}

impl AttemptTask {
    async fn run(self, worker: &Rc<WorkerCx>, port: u16, claim: Claim) {
        let Self { pool, endpoint, attempt } = &self;
        let (plan, generation) = (pool.handle.cluster.plan(), pool.handle.cluster.generation());
        let timeout = plan.connect_timeout;
        let reaching = pool.quic.reach(&plan, endpoint, Some(port), worker, claim);
        let by = attempt.began.after(timeout);
        let reached = Timer::new(&worker.timers).until(by, reaching).await;
        let result = match reached.unwrap_or_else(|_| Err(ConnectFailure::connect_timeout(timeout)))
        {
            Ok(client) => {
                pool.handle.note_connected(worker, endpoint, attempt.began);
                endpoint.http3.note_worked();
                let connection = Multiplexed::H3(client);
                pool.share(worker, endpoint, Idle::new(connection, worker.now(), generation));
                attempt.state.set(AttemptState::Established);
                if attempt.tcp_works.get() { "late" } else { "established" }
            }
            Err(failure) => {
                if failure.why == upstream_reasons::EGRESS {
                    pool.handle.count_denial(worker);
                }
                let cause = failure.detail.unwrap_or_else(|| failure.why.code().to_owned());
                *attempt.failure.borrow_mut() = Some(cause);
                pool.judge(worker, endpoint, attempt);
                "failed"
            }
        };
        pool.counters.count_http3(worker, &pool.handle.cluster.name, result);
    }
}

impl Drop for AttemptTask {
    fn drop(&mut self) {
        if self.attempt.is(AttemptState::Running) {
            self.attempt.state.set(AttemptState::Failed);
        }
        if let Some(pool) = self.pool.shared.borrow_mut().get_mut(&self.endpoint.name) {
            pool.attempt = None;
        }
        self.attempt.ended.notify_waiters();
        // Its claim may be what a request waits for.
        self.pool.freed.notify_one();
    }
}

/// Whether `host`, as an authority has it, is that of the endpoint.
fn is_host_of(endpoint: &EndpointState, host: &str) -> bool {
    let name = |name: &str| name.trim_end_matches('.').to_ascii_lowercase();
    if let Some(own) = &endpoint.host {
        return name(own) == name(host);
    }
    let Target::Ip(own) = endpoint.target else { return false };
    host.trim_matches(['[', ']']).parse().is_ok_and(|ip: std::net::IpAddr| ip == own.ip())
}
