//! The lines of a queue: in which order those that wait get what becomes free.
//!
//! Owns: the lines, and the messages that change them. Refuses to know: threads. Keeps: an endpoint that has room is
//! offered to the one that waits longest among those that may use it; who has left gets nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Receiver;

use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::super::claim::{LimitReached, TakenRoom};
use super::super::reserve::reserved;
use super::super::{Cluster, Membership};
use super::WaitQueue;
use crate::endpoint::{EndpointId, EndpointState, LoadKind};
use crate::plan::BreakerClass;

/// What the thread that has the lines is told.
#[derive(Debug)]
pub(super) enum QueueMessage {
    /// One waits from now on.
    Joined(LinePlace, QueueWaiter),
    /// One waits no longer.
    Left(LinePlace),
    /// An endpoint may have room, and the cluster for a class.
    Room(LoadKind, Option<BreakerClass>, Arc<EndpointState>),
}

/// A place in a line.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinePlace {
    pub(super) load: LoadKind,
    /// The lower ones come first.
    pub(super) ticket: u64,
    /// The only endpoint that it waits for.
    pub(super) own: Option<EndpointId>,
}

/// One that waits.
#[derive(Debug)]
pub(super) struct QueueWaiter {
    pub(super) cluster: Arc<Cluster>,
    /// Whose limits apply.
    pub(super) class: BreakerClass,
    /// Endpoints that it has no use for.
    pub(super) tried: SmallVec<[Arc<str>; 1]>,
    /// Dropped if no endpoint is left for it.
    pub(super) to: oneshot::Sender<QueuedRoom>,
}

/// Room at an endpoint that was counted for one that waited; given back if it is dropped.
#[derive(Debug)]
pub struct QueuedRoom {
    cluster: Arc<Cluster>,
    load: LoadKind,
    taken: Option<TakenRoom>,
}

impl QueuedRoom {
    /// The endpoint.
    pub(super) fn endpoint(&self) -> Option<&Arc<EndpointState>> {
        self.taken.as_ref().map(|taken| &taken.endpoint)
    }

    /// The endpoint that is counted; it must be given back.
    pub(super) fn into_taken(mut self) -> Option<TakenRoom> {
        self.taken.take()
    }
}

impl Drop for QueuedRoom {
    fn drop(&mut self) {
        if let Some(taken) = self.taken.take() {
            self.cluster.give_back(self.load, &taken);
        }
    }
}

/// Those that wait, by ticket.
type WaitLine = BTreeMap<u64, QueueWaiter>;

/// The lines for one kind of load.
#[derive(Debug, Default)]
struct LoadLines {
    /// Those that wait for any endpoint.
    anywhere: WaitLine,
    /// Those that wait for one endpoint only.
    own: HashMap<EndpointId, WaitLine>,
}

/// All lines of a cluster, and the messages for the thread that has them.
#[derive(Debug)]
pub(super) struct WaitLines {
    inbox: Receiver<QueueMessage>,
    connections: LoadLines,
    requests: LoadLines,
}

impl WaitLines {
    pub(super) fn new(inbox: Receiver<QueueMessage>) -> Self {
        Self { inbox, connections: LoadLines::default(), requests: LoadLines::default() }
    }

    const fn of(&mut self, load: LoadKind) -> &mut LoadLines {
        match load {
            LoadKind::Connection => &mut self.connections,
            LoadKind::Request => &mut self.requests,
        }
    }

    /// Carries out the messages, and looks at all endpoints if need be.
    pub(super) fn update(&mut self, queue: &WaitQueue, cluster: &Cluster) {
        let members = cluster.members.load();
        while let Ok(message) = self.inbox.try_recv() {
            match message {
                QueueMessage::Joined(place, waiting) => self.of(place.load).join(place, waiting),
                QueueMessage::Left(place) => self.of(place.load).leave(place),
                QueueMessage::Room(load, class, endpoint) => {
                    let lines = self.of(load);
                    let handed = lines.hand_over(load, &endpoint, queue, cluster, &members);
                    // What counts towards a limit of the whole cluster makes room at every endpoint.
                    let total =
                        class.filter(|class| cluster.peek_plan().limit_of(load, *class).is_some());
                    if total.is_some_and(|class| !handed.contains(&class)) {
                        lines.hand_over_all(load, queue, cluster, &members);
                    }
                }
            }
        }
        if queue.unsure.swap(false, Relaxed) {
            for load in LoadKind::ALL {
                let lines = self.of(load);
                lines.dismiss(&members);
                lines.hand_over_all(load, queue, cluster, &members);
            }
        }
    }
}

impl LoadLines {
    fn is_empty(&self) -> bool {
        self.anywhere.is_empty() && self.own.is_empty()
    }

    fn join(&mut self, place: LinePlace, waiting: QueueWaiter) {
        let line = match place.own {
            None => &mut self.anywhere,
            Some(id) => self.own.entry(id).or_default(),
        };
        line.insert(place.ticket, waiting);
    }

    fn leave(&mut self, place: LinePlace) {
        drop(self.remove(place.own, place.ticket));
    }

    fn remove(&mut self, own: Option<EndpointId>, ticket: u64) -> Option<QueueWaiter> {
        let Some(id) = own else { return self.anywhere.remove(&ticket) };
        let line = self.own.get_mut(&id)?;
        let waiting = line.remove(&ticket);
        if line.is_empty() {
            self.own.remove(&id);
        }
        waiting
    }

    /// Lets those look elsewhere that wait for what they cannot get, and forgets those that have left.
    fn dismiss(&mut self, members: &Membership) {
        // The plan has changed: who may use which endpoint is not known here.
        if members.is_divided() {
            self.own.clear();
            self.anywhere.clear();
            return;
        }
        let is_member = |id: &EndpointId| {
            let index = members.with_id(*id);
            index.is_some_and(|index| members.endpoints[index as usize].may_continue())
        };
        self.own.retain(|id, line| {
            line.retain(|_, waiting| !waiting.to.is_closed());
            !line.is_empty() && is_member(id)
        });
        // One that can be used but gets no traffic yet soon will: who waits for it keeps its place.
        let usable = members.endpoints.iter().filter(|endpoint| endpoint.is_usable());
        let served: Vec<&Arc<EndpointState>> = usable.chain(members.served()).collect();
        self.anywhere.retain(|_, waiting| {
            let may_use = |endpoint: &&Arc<EndpointState>| !waiting.tried.contains(&endpoint.name);
            !waiting.to.is_closed() && served.iter().any(may_use)
        });
    }

    fn hand_over_all(
        &mut self,
        load: LoadKind,
        queue: &WaitQueue,
        cluster: &Cluster,
        members: &Membership,
    ) {
        for endpoint in &*members.endpoints {
            if self.is_empty() {
                return;
            }
            self.hand_over(load, endpoint, queue, cluster, members);
        }
    }

    /// Hands the room of an endpoint to those that wait, as far as it goes; returns the classes of those that got it.
    fn hand_over(
        &mut self,
        load: LoadKind,
        endpoint: &Arc<EndpointState>,
        queue: &WaitQueue,
        cluster: &Cluster,
        members: &Membership,
    ) -> SmallVec<[BreakerClass; 2]> {
        let mut handed = SmallVec::new();
        if members.is_divided() {
            return handed;
        }
        let is_offered = members.offers(endpoint);
        let mut full = None;
        while let Some((own, ticket, class)) = self.first_for(endpoint, is_offered, full) {
            let taken = match queue.take(load, class, endpoint, cluster) {
                Ok(taken) => taken,
                // The limits of the other class may leave room.
                Err(LimitReached::Cluster) if full.is_none() => {
                    full = Some(class);
                    continue;
                }
                Err(_) => break,
            };
            let Some(QueueWaiter { cluster, to, .. }) = self.remove(own, ticket) else { break };
            // If that one has left, what comes back is dropped, which tells this thread of the room.
            if to.send(QueuedRoom { cluster, load, taken: Some(taken) }).is_ok() {
                handed.push(class);
            }
        }
        handed
    }

    /// The place and class of the one that comes first among those that may use `endpoint`, unless its class is `full`.
    fn first_for(
        &self,
        endpoint: &EndpointState,
        is_offered: bool,
        full: Option<BreakerClass>,
    ) -> Option<(Option<EndpointId>, u64, BreakerClass)> {
        let may_use = |waiting: &QueueWaiter| {
            full != Some(waiting.class) && !waiting.tried.contains(&endpoint.name)
        };
        let first = |line: &WaitLine| {
            let mut line = line.iter().filter(|(_, waiting)| may_use(waiting));
            line.next().map(|(ticket, waiting)| (*ticket, waiting.class))
        };
        let own = self.own.get(&endpoint.id).filter(|_| endpoint.may_continue());
        let own = own.and_then(first).map(|(ticket, class)| (Some(endpoint.id), ticket, class));
        let anywhere = is_offered.then(|| first(&self.anywhere)).flatten();
        let anywhere = anywhere.map(|(ticket, class)| (None, ticket, class));
        own.into_iter().chain(anywhere).min_by_key(|(_, ticket, _)| *ticket)
    }
}

impl WaitQueue {
    /// Counts one more of `load` at `endpoint`, if it has room for a client's of `class`.
    fn take(
        &self,
        load: LoadKind,
        class: BreakerClass,
        endpoint: &Arc<EndpointState>,
        cluster: &Cluster,
    ) -> Result<TakenRoom, LimitReached> {
        let plan = cluster.peek_plan();
        let percent = self.reserve_percent.load(Relaxed);
        let reserves = cluster.reserves.load(Relaxed);
        let open = |max: u64| if reserves { max - reserved(max, percent) } else { max };
        let max = endpoint.limit_of(load, plan.endpoint_limit_of(load)).map(open);
        let total_max = plan.limit_of(load, class).map(|max| match class {
            BreakerClass::Default => open(max),
            // Side calls count towards the limits of the default class.
            BreakerClass::High => max,
        });
        let limits = (max, total_max);
        cluster.take(load, class, plan.counts(load, class), Arc::clone(endpoint), limits)
    }
}
