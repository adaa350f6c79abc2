//! The lines of a queue: in which order those that wait get what becomes free.
//!
//! Owns: the lines, and the messages that change them. Refuses to know: threads. Keeps: an endpoint that has room is
//! offered to the one that waits longest among those that may use it; who has left gets nothing.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Receiver;

use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::super::claim::{LimitReached, TakenRoom};
use super::super::reserve::reserved;
use super::super::{Cluster, Membership};
use super::WaitQueue;
use crate::balance::subsets::SubsetChoice;
use crate::endpoint::{EndpointId, EndpointState, LoadKind};
use crate::metadata::SubsetKey;
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
#[derive(Clone, Debug)]
pub(super) struct LinePlace {
    pub(super) load: LoadKind,
    /// The lower ones come first.
    pub(super) ticket: u64,
    pub(super) line: LineKey,
}

/// What those in a line wait for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum LineKey {
    /// One endpoint only.
    Own(EndpointId),
    /// Any endpoint of what they get that ask for this metadata.
    Among(Option<Arc<SubsetKey>>),
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
    /// Room that is counted.
    pub(super) const fn new(cluster: Arc<Cluster>, load: LoadKind, taken: TakenRoom) -> Self {
        Self { cluster, load, taken: Some(taken) }
    }

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

/// The lines for one kind of load; none is empty.
#[derive(Debug, Default)]
struct LoadLines {
    /// Those that wait for any endpoint, by the metadata that they ask for.
    among: HashMap<Option<Arc<SubsetKey>>, WaitLine>,
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
        let members = cluster.members.peek();
        while let Ok(message) = self.inbox.try_recv() {
            match message {
                QueueMessage::Joined(place, waiting) => self.of(place.load).join(place, waiting),
                QueueMessage::Left(place) => self.of(place.load).leave(&place),
                QueueMessage::Room(load, class, endpoint) => {
                    let lines = self.of(load);
                    // What counts towards a limit of the whole cluster makes room at every endpoint.
                    let total =
                        class.filter(|class| cluster.peek_plan().limit_of(load, *class).is_some());
                    if total.is_some() && members.named_by_clients {
                        lines.hand_over_all(load, queue, cluster, &members);
                        continue;
                    }
                    let handed = lines.hand_over(load, &endpoint, queue, cluster, &members);
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
        self.among.is_empty() && self.own.is_empty()
    }

    fn join(&mut self, place: LinePlace, waiting: QueueWaiter) {
        let line = match place.line {
            LineKey::Among(key) => self.among.entry(key).or_default(),
            LineKey::Own(id) => self.own.entry(id).or_default(),
        };
        line.insert(place.ticket, waiting);
    }

    fn leave(&mut self, place: &LinePlace) {
        drop(self.remove(&place.line, place.ticket));
    }

    fn remove(&mut self, line: &LineKey, ticket: u64) -> Option<QueueWaiter> {
        match line {
            LineKey::Among(key) => remove_from(&mut self.among, key, ticket),
            LineKey::Own(id) => remove_from(&mut self.own, id, ticket),
        }
    }

    /// Lets those look elsewhere that wait for what they cannot get, and forgets those that have left.
    fn dismiss(&mut self, members: &Membership) {
        let can_serve = |id: &EndpointId| {
            let index = members.with_id(*id);
            index.is_some_and(|index| members.serves_own(&members.endpoints[index as usize]))
        };
        self.own.retain(|id, line| {
            line.retain(|_, waiting| !waiting.to.is_closed());
            !line.is_empty() && can_serve(id)
        });
        // Nothing is picked among hosts that clients name.
        if members.named_by_clients {
            self.among.clear();
        }
        self.among.retain(|key, line| {
            let choice = members.choice(key.as_deref());
            // One that can be used but gets no traffic yet soon will: who waits for it keeps its place.
            let serves = |index: u32, endpoint: &EndpointState| match choice {
                SubsetChoice::Nothing => false,
                SubsetChoice::All => {
                    endpoint.is_usable() || members.balancer.offers(index, endpoint)
                }
                SubsetChoice::Asked(of) | SubsetChoice::Instead(of) => {
                    let usable = endpoint.is_usable();
                    usable && members.traits[index as usize].has(&of.key)
                        || of.balancer.offers(index, endpoint)
                }
            };
            line.retain(|_, waiting| {
                let mut all = (0..).zip(&*members.endpoints);
                !waiting.to.is_closed()
                    && all.any(|(index, endpoint)| {
                        serves(index, endpoint) && !waiting.tried.contains(&endpoint.name)
                    })
            });
            !line.is_empty()
        });
    }

    /// Hands over whatever has room.
    fn hand_over_all(
        &mut self,
        load: LoadKind,
        queue: &WaitQueue,
        cluster: &Cluster,
        members: &Membership,
    ) {
        if members.named_by_clients {
            return self.hand_over_hosts(load, queue, cluster, members);
        }
        for endpoint in &*members.endpoints {
            if self.is_empty() || cluster.is_full(load) {
                return;
            }
            self.hand_over(load, endpoint, queue, cluster, members);
        }
    }

    /// Hands over whatever has room at hosts that clients name, to those that came first.
    fn hand_over_hosts(
        &mut self,
        load: LoadKind,
        queue: &WaitQueue,
        cluster: &Cluster,
        members: &Membership,
    ) {
        let first = |(id, line): (&EndpointId, &WaitLine)| Some((*line.first_key_value()?.0, *id));
        let mut firsts: Vec<(u64, EndpointId)> = self.own.iter().filter_map(first).collect();
        firsts.sort_unstable_by_key(|(ticket, _)| *ticket);
        for (_, id) in firsts {
            if cluster.is_full(load) {
                return;
            }
            if let Some(index) = members.with_id(id) {
                let endpoint = &members.endpoints[index as usize];
                self.hand_over(load, endpoint, queue, cluster, members);
            }
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
        let Some(index) = members.index_of(endpoint) else { return handed };
        let mut full = None;
        while let Some((line, ticket, class)) = self.first_for(index, endpoint, members, full) {
            let taken = match queue.take(load, class, endpoint, cluster) {
                Ok(taken) => taken,
                // The limits of the other class may leave room.
                Err(LimitReached::Cluster) if full.is_none() => {
                    full = Some(class);
                    continue;
                }
                Err(_) => break,
            };
            let Some(QueueWaiter { cluster, to, .. }) = self.remove(&line, ticket) else { break };
            // If that one has left, what comes back is dropped, which tells this thread of the room.
            if to.send(QueuedRoom::new(cluster, load, taken)).is_ok() {
                handed.push(class);
            }
        }
        handed
    }

    /// The place and class of the one that comes first among those that may use `endpoint`, unless its class is `full`.
    fn first_for(
        &self,
        index: u32,
        endpoint: &EndpointState,
        members: &Membership,
        full: Option<BreakerClass>,
    ) -> Option<(LineKey, u64, BreakerClass)> {
        let may_use = |waiting: &QueueWaiter| {
            full != Some(waiting.class) && !waiting.tried.contains(&endpoint.name)
        };
        let first = |line: &WaitLine| {
            let mut line = line.iter().filter(|(_, waiting)| may_use(waiting));
            line.next().map(|(ticket, waiting)| (*ticket, waiting.class))
        };
        let own = self.own.get(&endpoint.id).filter(|_| members.serves_own(endpoint));
        let own = own.and_then(first).map(|first| (LineKey::Own(endpoint.id), first));
        let is_offered = |key: &Option<Arc<SubsetKey>>| match members.choice(key.as_deref()) {
            SubsetChoice::Nothing => false,
            SubsetChoice::All => members.balancer.offers(index, endpoint),
            SubsetChoice::Asked(of) | SubsetChoice::Instead(of) => {
                of.balancer.offers(index, endpoint)
            }
        };
        let among = self.among.iter().filter(|(key, _)| is_offered(key));
        let among =
            among.filter_map(|(key, line)| Some((LineKey::Among(key.clone()), first(line)?)));
        let all = own.into_iter().chain(among);
        let (line, (ticket, class)) = all.min_by_key(|(_, (ticket, _))| *ticket)?;
        Some((line, ticket, class))
    }
}

/// Removes the one with `ticket` from a line, and the line if that was the last.
fn remove_from<K: Eq + Hash>(
    lines: &mut HashMap<K, WaitLine>,
    key: &K,
    ticket: u64,
) -> Option<QueueWaiter> {
    let line = lines.get_mut(key)?;
    let waiting = line.remove(&ticket);
    if line.is_empty() {
        lines.remove(key);
    }
    waiting
}

impl Membership {
    /// What one gets that asks for this metadata.
    fn choice(&self, key: Option<&SubsetKey>) -> SubsetChoice<'_> {
        self.subsets.as_ref().map_or(SubsetChoice::All, |subsets| subsets.find(key))
    }

    /// Whether those that wait for this endpoint only may get it.
    fn serves_own(&self, endpoint: &EndpointState) -> bool {
        // A drained endpoint keeps its sessions, but a host that clients name has none.
        if self.named_by_clients { endpoint.is_usable() } else { endpoint.may_continue() }
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
