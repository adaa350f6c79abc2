//! A place in the queue of a cluster, on a worker.
//!
//! Owns: how one waits: for its own endpoint first, then for any, until its time is up. Refuses to know: who waits.
//! Keeps: who is dropped while it waits leaves the queue, and gives back what it was handed; a place that looks elsewhere
//! keeps its ticket.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{Ordering::Relaxed, Ordering::SeqCst, fence};

use sluice_core::{Moment, Reason};
use sluice_io::WorkerCx;
use sluice_io::timers::Timer;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::super::ClusterHandle;
use super::super::affinity::Affinity;
use super::super::breakers::BreakerLimit;
use super::super::claim::{Claim, RequestClaim};
use super::super::handle::Tried;
use super::super::reserve::TrafficClass;
use super::lines::{LineKey, LinePlace, QueueMessage, QueueWaiter, QueuedRoom};
use crate::endpoint::{EndpointState, LoadKind, count_below};
use crate::metadata::SubsetKey;
use crate::metrics;
use crate::plan::{BreakerClass, QueuePlan};
use crate::reasons;

/// One that waits in the queue; leaves it when it is dropped.
struct QueuePlace<'a> {
    handle: &'a ClusterHandle,
    worker: &'a WorkerCx,
    since: Moment,
    load: LoadKind,
    ticket: u64,
    /// Its line, if it is in one.
    line: Option<QueueLine>,
    result: &'static str,
}

/// What one waits for.
#[derive(Clone, Debug)]
enum QueueLine {
    /// This endpoint only.
    Own(Arc<EndpointState>),
    /// Any endpoint of what those get that ask for this metadata.
    Among(Option<Arc<SubsetKey>>),
}

impl QueueLine {
    fn key(&self) -> LineKey {
        match self {
            Self::Own(endpoint) => LineKey::Own(endpoint.id),
            Self::Among(key) => LineKey::Among(key.clone()),
        }
    }
}

impl<'a> QueuePlace<'a> {
    /// A place in no line yet; `None` if the queue is full.
    fn new(
        handle: &'a ClusterHandle,
        worker: &'a WorkerCx,
        load: LoadKind,
        plan: &QueuePlan,
    ) -> Option<Self> {
        let queue = handle.cluster.queue.get()?;
        if !count_below(&queue.waiting, Some(plan.size)) {
            return None;
        }
        queue.reserve_percent.store(handle.reserve_percent, Relaxed);
        let ticket = queue.next_ticket.fetch_add(1, Relaxed);
        // Those with high priority come first.
        let ticket = ticket | u64::from(handle.class == BreakerClass::Default) << 63;
        Some(Self { handle, worker, since: worker.now(), load, ticket, line: None, result: "left" })
    }

    fn line_place(&self, line: &QueueLine) -> LinePlace {
        LinePlace { load: self.load, ticket: self.ticket, line: line.key() }
    }

    /// Joins a line; `None` if there are too many messages. The caller looks for room afterwards: what became free before
    /// is not handed over.
    fn join(&mut self, line: QueueLine, tried: Tried<'_>) -> Option<oneshot::Receiver<QueuedRoom>> {
        let cluster = &self.handle.cluster;
        let queue = cluster.queue.get()?;
        let (to, handed) = oneshot::channel();
        let tried: SmallVec<[Arc<str>; 1]> = tried.names().iter().cloned().collect();
        let class = self.handle.class;
        let waiting = QueueWaiter { cluster: Arc::clone(cluster), class, tried, to };
        let joined = queue.tell(QueueMessage::Joined(self.line_place(&line), waiting));
        if !joined {
            return None;
        }
        match &line {
            QueueLine::Among(_) => _ = queue.anywhere(self.load).fetch_add(1, Relaxed),
            QueueLine::Own(endpoint) => endpoint.begin_wait(self.load),
        }
        self.line = Some(line);
        queue.serve(cluster);
        fence(SeqCst);
        Some(handed)
    }

    /// Leaves the line; `removed` if it was removed from it already.
    fn leave_line(&mut self, removed: bool) {
        let Some(queue) = self.handle.cluster.queue.get() else { return };
        let Some(line) = self.line.take() else { return };
        match &line {
            QueueLine::Among(_) => _ = queue.anywhere(self.load).fetch_sub(1, Relaxed),
            QueueLine::Own(endpoint) => endpoint.end_wait(self.load),
        }
        if removed {
            return;
        }
        if !queue.tell(QueueMessage::Left(self.line_place(&line))) {
            queue.unsure.store(true, Relaxed);
        }
        queue.serve(&self.handle.cluster);
    }
}

impl Drop for QueuePlace<'_> {
    fn drop(&mut self) {
        self.leave_line(false);
        let cluster = &self.handle.cluster;
        if let Some(queue) = cluster.queue.get() {
            queue.waiting.fetch_sub(1, Relaxed);
        }
        self.handle.count_queued(self.worker, self.result, self.since);
    }
}

impl ClusterHandle {
    /// Whether what exceeds the limits waits.
    pub fn has_queue(&self) -> bool {
        // Most clusters never had one, which is cheaper to see.
        self.cluster.queue.get().is_some() && self.plan().queue.is_some()
    }

    /// Whether a connection or request must join the queue first: others wait for any endpoint, or it waits for its own.
    pub(in super::super) fn comes_later(
        &self,
        worker: &WorkerCx,
        load: LoadKind,
        affinity: Affinity<'_>,
        tried: Tried<'_>,
    ) -> bool {
        let queue = self.cluster.queue.get();
        if queue.is_some_and(|queue| queue.anywhere(load).load(Relaxed) > 0) {
            return true;
        }
        let plan = self.plan().queue;
        let waits = plan.is_some_and(|plan| !plan.own_timeout.is_zero())
            || affinity.session.is_some_and(|session| session.is_strict());
        waits && self.full_own_endpoint(worker, load, affinity, tried).is_some()
    }

    /// The endpoint of the session or hash, if it is at its limit.
    fn full_own_endpoint(
        &self,
        worker: &WorkerCx,
        load: LoadKind,
        affinity: Affinity<'_>,
        tried: Tried<'_>,
    ) -> Option<Arc<EndpointState>> {
        let endpoint = self.own_endpoint(worker, affinity, tried)?;
        let (max, _) = self.limits_of(load, TrafficClass::Request, &endpoint);
        let full = max.is_some_and(|max| endpoint.in_use(load) >= max);
        (full || endpoint.waiting(load) > 0).then_some(endpoint)
    }

    /// Waits for a connection's room at an endpoint that was not `tried`.
    ///
    /// # Errors
    /// The queue is full, the wait took too long, or no endpoint can be used any more.
    pub async fn wait_for_room(
        self: &Rc<Self>,
        worker: &WorkerCx,
        affinity: Affinity<'_>,
        tried: Tried<'_>,
    ) -> Result<Claim, Reason> {
        let load = LoadKind::Connection;
        let room = self.wait(worker, load, affinity, tried, None).await?;
        Ok(self.connection(room.into_taken().expect("it was handed over")))
    }

    /// Waits for a request's room at an endpoint.
    ///
    /// # Errors
    /// As for [`ClusterHandle::wait_for_room`].
    pub async fn wait_for_request(
        self: &Rc<Self>,
        worker: &WorkerCx,
        affinity: Affinity<'_>,
    ) -> Result<(Arc<EndpointState>, RequestClaim), Reason> {
        let load = LoadKind::Request;
        let room = self.wait(worker, load, affinity, Tried::NOTHING, None).await?;
        Ok(self.request(room.into_taken().expect("it was handed over")))
    }

    /// Waits for a connection's room at the endpoint that a client named.
    ///
    /// # Errors
    /// As for [`ClusterHandle::wait_for_room`].
    pub async fn wait_for_named_room(
        self: &Rc<Self>,
        worker: &WorkerCx,
        endpoint: &Arc<EndpointState>,
    ) -> Result<Claim, Reason> {
        let (load, affinity) = (LoadKind::Connection, Affinity::default());
        let room = self.wait(worker, load, affinity, Tried::NOTHING, Some(endpoint)).await?;
        Ok(self.connection(room.into_taken().expect("it was handed over")))
    }

    /// Waits for a request's room at the endpoint that a client named.
    ///
    /// # Errors
    /// As for [`ClusterHandle::wait_for_room`].
    pub async fn wait_for_named_request(
        self: &Rc<Self>,
        worker: &WorkerCx,
        endpoint: &Arc<EndpointState>,
    ) -> Result<(Arc<EndpointState>, RequestClaim), Reason> {
        let (load, affinity) = (LoadKind::Request, Affinity::default());
        let room = self.wait(worker, load, affinity, Tried::NOTHING, Some(endpoint)).await?;
        Ok(self.request(room.into_taken().expect("it was handed over")))
    }

    async fn wait(
        &self,
        worker: &WorkerCx,
        load: LoadKind,
        affinity: Affinity<'_>,
        tried: Tried<'_>,
        named: Option<&Arc<EndpointState>>,
    ) -> Result<QueuedRoom, Reason> {
        let plan = self.plan().queue;
        let Some(plan) = plan else { return Err(reasons::LIMIT) };
        let Some(mut place) = QueuePlace::new(self, worker, load, &plan) else {
            return self.pass_full_queue(worker, load, affinity, tried);
        };
        let subset = affinity.subset.map(|key| Arc::new(key.clone()));
        let is_strict = affinity.session.is_some_and(|session| session.is_strict());
        let by = worker.now().after(plan.timeout);
        let own_by = if is_strict || named.is_some() {
            by
        } else {
            worker.now().after(plan.own_timeout).min(by)
        };
        let timer = Timer::new(&worker.timers);
        loop {
            let waits_for_own = worker.now() < own_by;
            let own = match named {
                Some(endpoint) => Some(self.still_served(endpoint).inspect_err(|_| {
                    place.result = "unusable";
                })?),
                None if waits_for_own => self.own_endpoint(worker, affinity, tried),
                None => None,
            };
            let until = if own.is_some() { own_by } else { by };
            let line = match &own {
                Some(endpoint) => QueueLine::Own(Arc::clone(endpoint)),
                None => QueueLine::Among(subset.clone()),
            };
            let Some(mut handed) = place.join(line, tried) else {
                return Err(self.queue_full(worker));
            };
            self.look_for_room(worker, load, affinity, tried, own.as_ref()).inspect_err(|_| {
                place.result = "unusable";
            })?;
            let (room, removed) = match timer.until(until, &mut handed).await {
                Ok(outcome) => (outcome.ok(), true),
                // It may have been handed over at the last moment.
                Err(_) => match handed.try_recv() {
                    Ok(room) => (Some(room), true),
                    Err(_) => (None, false),
                },
            };
            place.leave_line(removed);
            if let Some(room) = room {
                place.result = "served";
                if let (Some(session), Some(endpoint)) = (affinity.session, room.endpoint()) {
                    self.note_session(worker, session, endpoint);
                }
                return Ok(room);
            }
            if worker.now() >= by {
                place.result = "timeout";
                return Err(reasons::QUEUE_TIMEOUT);
            }
        }
    }

    /// What becomes of one for which the queue has no place. Those that fill it may all wait for a subset, of which
    /// others know nothing that have room.
    fn pass_full_queue(
        &self,
        worker: &WorkerCx,
        load: LoadKind,
        affinity: Affinity<'_>,
        tried: Tried<'_>,
    ) -> Result<QueuedRoom, Reason> {
        if self.cluster.members.peek().subsets.is_some() {
            let is_awaited = |endpoint: &EndpointState| endpoint.waiting(load) > 0;
            let class = TrafficClass::Request;
            match self.take(worker, load, class, affinity, tried, &is_awaited) {
                Ok(taken) => return Ok(QueuedRoom::new(Arc::clone(&self.cluster), load, taken)),
                Err(refusal) if refusal.limit.is_none() && refusal.why != reasons::SESSION => {
                    return Err(refusal.why);
                }
                Err(_) => {}
            }
        }
        Err(self.queue_full(worker))
    }

    /// The endpoint of the host that this one is of, which may have another address by now.
    ///
    /// # Errors
    /// It cannot be used any more.
    fn still_served(&self, endpoint: &Arc<EndpointState>) -> Result<Arc<EndpointState>, Reason> {
        let members = self.cluster.members.peek();
        let known = members.named(&endpoint.name).filter(|known| known.is_usable());
        known.map(Arc::clone).ok_or(reasons::NO_HEALTHY)
    }

    /// Looks whether there is room after all, and hands it to the one that comes first.
    ///
    /// # Errors
    /// No endpoint can be used.
    fn look_for_room(
        &self,
        worker: &WorkerCx,
        load: LoadKind,
        affinity: Affinity<'_>,
        tried: Tried<'_>,
        own: Option<&Arc<EndpointState>>,
    ) -> Result<(), Reason> {
        if let Some(endpoint) = own {
            self.cluster.note_room(load, Some(self.class), endpoint);
            return Ok(());
        }
        if affinity.session.is_some_and(|session| session.is_strict()) {
            return Err(reasons::SESSION);
        }
        let full = |endpoint: &EndpointState| {
            let (max, _) = self.limits_of(load, TrafficClass::Request, endpoint);
            max.is_some_and(|max| endpoint.in_use(load) >= max)
        };
        // Sessions are counted when there is room.
        let affinity = Affinity { session: None, ..affinity };
        match self.probe(worker, affinity, tried, &full) {
            Ok(endpoint) => {
                self.cluster.note_room(load, Some(self.class), &endpoint);
                Ok(())
            }
            Err(why) if why == reasons::LIMIT => Ok(()),
            Err(why) => Err(why),
        }
    }

    fn queue_full(&self, worker: &WorkerCx) -> Reason {
        self.count_refusal(worker, BreakerLimit::Queue);
        reasons::QUEUE_FULL
    }

    fn count_queued(&self, worker: &WorkerCx, result: &'static str, since: Moment) {
        let (shard, cluster) = (&worker.shard, &self.cluster.name);
        self.queued.count(&result, |result| shard.counter(&metrics::QUEUED, &[cluster, result]));
        let time = || shard.histogram(&metrics::QUEUE_TIME, &[cluster]);
        self.queue_time.get_or_init(time).record(worker.now().since(since));
    }
}
