//! The flow table: which flows are known, which are idle, which one makes room.
//!
//! Owns: flows by key, their order of use and their deadlines. Refuses to know: sockets, clocks. Keeps: never more
//! flows than the bound; only a flow that has been idle for [`SPARE`] makes room for another, so that a flood of new
//! sources cannot push out active flows.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use slab::Slab;
use sluice_core::Moment;
use sluice_io::wheel::{TimerKey, Wheel, start_of, tick_after, tick_of};
use sluice_upstream::endpoint::EndpointId;

#[cfg(test)]
mod tests;

/// A flow used within this time is not evicted.
pub const SPARE: Duration = Duration::from_secs(1);

const NIL: usize = usize::MAX;

/// The key of a flow: the client, the address it sent to if that can differ, and the endpoint if each datagram is
/// balanced by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// The client.
    pub client: SocketAddr,
    /// The address that the client sent to.
    pub local: Option<IpAddr>,
    /// The endpoint, where a client has a flow to each.
    pub endpoint: Option<EndpointId>,
}

/// Identifies a flow until it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId(usize);

/// Flows, each with a value of the caller.
#[derive(Debug)]
pub struct FlowTable<V> {
    flows: Slab<FlowEntry<V>>,
    by_key: HashMap<FlowKey, usize, foldhash::quality::RandomState>,
    wheel: Wheel<usize>,
    /// The ends of the list in order of use.
    least_used: usize,
    last_used: usize,
    bound: usize,
}

#[derive(Debug)]
struct FlowEntry<V> {
    key: FlowKey,
    value: V,
    used: Moment,
    idle: Option<Duration>,
    timer: TimerKey,
    before: usize,
    after: usize,
}

impl<V> FlowTable<V> {
    /// An empty table for at most `bound` flows.
    pub fn new(bound: usize) -> Self {
        Self {
            flows: Slab::new(),
            by_key: HashMap::default(),
            wheel: Wheel::default(),
            least_used: NIL,
            last_used: NIL,
            bound: bound.max(1),
        }
    }

    /// The number of flows.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether there are no flows.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Whether a flow must be removed before another is added.
    pub fn is_full(&self) -> bool {
        self.flows.len() >= self.bound
    }

    /// The flow to evict if the table is full: the least recently used one, if it has been idle long enough.
    pub fn spare(&self, now: Moment) -> Option<FlowId> {
        let entry = self.flows.get(self.least_used)?;
        (now.since(entry.used) >= SPARE).then_some(FlowId(self.least_used))
    }

    /// Returns the flow of a received datagram, and counts it as use.
    pub fn arrive(&mut self, key: &FlowKey, now: Moment) -> Option<FlowId> {
        let id = FlowId(*self.by_key.get(key)?);
        self.touch(id, now);
        Some(id)
    }

    /// Counts a use of a flow.
    pub fn touch(&mut self, id: FlowId, now: Moment) {
        let entry = &mut self.flows[id.0];
        entry.used = now;
        let (timer, at) = (entry.timer, now.after_bound(entry.idle));
        self.wheel.set(timer, tick_after(at));
        if self.last_used != id.0 {
            self.unlink(id.0);
            self.link_last(id.0);
        }
    }

    /// Changes the idle timeout of a flow, from its next use on.
    pub fn set_idle(&mut self, id: FlowId, idle: Option<Duration>) {
        self.flows[id.0].idle = idle;
    }

    /// Adds a flow that ends after `idle` without use. The table must not be full.
    pub fn admit(&mut self, key: FlowKey, idle: Option<Duration>, now: Moment, value: V) -> FlowId {
        debug_assert!(!self.by_key.contains_key(&key), "a known flow is not admitted again");
        debug_assert!(!self.is_full(), "room is made before a flow is admitted");
        let vacant = self.flows.vacant_entry();
        let id = FlowId(vacant.key());
        let timer = self.wheel.insert(id.0);
        vacant.insert(FlowEntry { key, value, used: now, idle, timer, before: NIL, after: NIL });
        self.by_key.insert(key, id.0);
        self.link_last(id.0);
        self.wheel.set(timer, tick_after(now.after_bound(idle)));
        id
    }

    /// Removes a flow.
    pub fn remove(&mut self, id: FlowId) -> V {
        self.unlink(id.0);
        let entry = self.flows.remove(id.0);
        self.wheel.remove(entry.timer);
        self.by_key.remove(&entry.key);
        entry.value
    }

    /// The value of a flow, if it still exists.
    pub fn get(&self, id: FlowId) -> Option<&V> {
        self.flows.get(id.0).map(|entry| &entry.value)
    }

    /// Every flow.
    pub fn iter(&self) -> impl Iterator<Item = (FlowId, &V)> {
        self.flows.iter().map(|(id, entry)| (FlowId(id), &entry.value))
    }

    /// Removes the flows that have been idle for too long.
    pub fn expire(&mut self, now: Moment, mut ended: impl FnMut(V)) {
        let mut due = Vec::new();
        self.wheel.advance(tick_of(now), |id| due.push(FlowId(*id)));
        due.into_iter().for_each(|id| ended(self.remove(id)));
    }

    /// When `expire` should run next.
    pub fn next_expiry(&self) -> Moment {
        self.wheel.next().map_or(Moment::NEVER, start_of)
    }

    fn link_last(&mut self, index: usize) {
        let before = self.last_used;
        (self.flows[index].before, self.flows[index].after) = (before, NIL);
        match before {
            NIL => self.least_used = index,
            before => self.flows[before].after = index,
        }
        self.last_used = index;
    }

    fn unlink(&mut self, index: usize) {
        let (before, after) = (self.flows[index].before, self.flows[index].after);
        match before {
            NIL => self.least_used = after,
            before => self.flows[before].after = after,
        }
        match after {
            NIL => self.last_used = before,
            after => self.flows[after].before = before,
        }
    }

    /// Panics if the parts of the table disagree. For tests.
    pub fn check_invariants(&self) {
        assert!(self.flows.len() <= self.bound);
        assert_eq!(self.flows.len(), self.by_key.len());
        let (mut index, mut count, mut last) = (self.least_used, 0, Moment::default());
        while index != NIL {
            let entry = &self.flows[index];
            assert_eq!(self.by_key[&entry.key], index);
            assert!(entry.used >= last, "flows stand in order of use");
            (last, count) = (entry.used, count + 1);
            assert_eq!(entry.after == NIL, index == self.last_used);
            index = entry.after;
        }
        assert_eq!(count, self.flows.len());
    }
}
