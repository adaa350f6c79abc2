//! Datagrams that are kept until it is decided where they go.
//!
//! Owns: the datagrams of one client, in order, and of flows whose filters have not decided yet. Refuses to know: what
//! is decided. Keeps: what clients without a flow can make a worker hold is bounded per client, in number of clients,
//! and by the bytes that the worker may buffer, of which half is left to others.

use std::collections::HashMap;

use sluice_io::WorkerCx;
use sluice_io::buffers::{BufPool, Charge};

use super::flow_table::FlowKey;

/// The most bytes held for one client; the datagrams of a whole QUIC hello are fewer.
pub(super) const HELD_MAX: usize = 32 << 10;

/// What is held for a datagram besides its bytes: an empty one counts too.
const OVERHEAD: usize = 64;

/// The datagrams held for one client, in order.
#[derive(Debug)]
pub(super) struct HeldDatagrams {
    datagrams: Vec<Box<[u8]>>,
    bytes: Charge,
}

impl HeldDatagrams {
    /// Nothing yet; what is held counts towards the limit of `pool`.
    pub(super) fn within(pool: &BufPool) -> Self {
        Self { datagrams: Vec::new(), bytes: pool.charge() }
    }

    /// Keeps a datagram; returns `false` if that would be too many bytes.
    pub(super) fn push(&mut self, datagram: &[u8]) -> bool {
        let bytes = self.bytes.bytes() + datagram.len() + OVERHEAD;
        if bytes > HELD_MAX || self.bytes.set_leaving_half(bytes).is_err() {
            return false;
        }
        self.datagrams.push(datagram.into());
        true
    }

    /// The datagrams, which are no longer held.
    pub(super) fn release(self) -> Vec<Box<[u8]>> {
        self.datagrams
    }
}

/// The flows whose filters have not decided yet.
#[derive(Debug)]
pub(super) struct WaitingFlows {
    flows: HashMap<FlowKey, HeldDatagrams, foldhash::quality::RandomState>,
    pool: BufPool,
    bound: usize,
}

impl WaitingFlows {
    /// No flows yet, and never more than `bound`.
    pub(super) fn new(worker: &WorkerCx, bound: usize) -> Self {
        Self { flows: HashMap::default(), pool: worker.buffers.clone(), bound }
    }

    /// Whether no flow waits.
    pub(super) fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Lets a flow wait; returns `false` if too many do.
    pub(super) fn begin(&mut self, key: FlowKey) -> bool {
        if self.flows.len() >= self.bound {
            return false;
        }
        self.flows.insert(key, HeldDatagrams::within(&self.pool));
        true
    }

    /// Keeps a datagram of a flow that waits, if there is room for it; returns `None` if no such flow waits.
    pub(super) fn hold(&mut self, key: &FlowKey, datagram: &[u8]) -> Option<bool> {
        Some(self.flows.get_mut(key)?.push(datagram))
    }

    /// The number of datagrams that are held for a flow.
    #[cfg(test)]
    pub(super) fn held(&self, key: &FlowKey) -> usize {
        self.flows.get(key).map_or(0, |held| held.datagrams.len())
    }

    /// The datagrams of a flow that has waited.
    pub(super) fn end(&mut self, key: &FlowKey) -> Vec<Box<[u8]>> {
        self.flows.remove(key).map(HeldDatagrams::release).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use sluice_core::Clock;

    use super::*;

    fn client(n: u16) -> FlowKey {
        FlowKey { client: ([192, 0, 2, 1], n).into(), local: None, endpoint: None }
    }

    #[test]
    fn the_bytes_of_a_client_are_bounded_and_empty_datagrams_count() {
        for datagram in [&[0; 1 << 10][..], &[]] {
            let worker = WorkerCx::solitary(Clock::held());
            let mut held = HeldDatagrams::within(&worker.buffers);
            let room = HELD_MAX / (datagram.len() + OVERHEAD);
            assert!((0..room).all(|_| held.push(datagram)));
            assert!(!held.push(datagram));
            assert_eq!(held.release().len(), room);
        }
    }

    #[test]
    fn flows_wait_within_their_bound_and_their_datagrams_stay_in_order() {
        let worker = WorkerCx::solitary(Clock::held());
        let mut waiting = WaitingFlows::new(&worker, 2);
        assert_eq!(waiting.hold(&client(1), b"x"), None);
        assert!(waiting.begin(client(1)) && waiting.begin(client(2)));
        assert!(!waiting.begin(client(3)));
        for data in [b"a", b"b"] {
            assert_eq!(waiting.hold(&client(1), data), Some(true));
        }
        assert_eq!(waiting.end(&client(1)), [Box::from(&b"a"[..]), Box::from(&b"b"[..])]);
        assert!(waiting.begin(client(3)), "an end makes room");
        assert_eq!(waiting.hold(&client(1), b"x"), None);
        assert!(waiting.end(&client(2)).is_empty() && waiting.end(&client(3)).is_empty());
        assert!(waiting.is_empty());
    }
}
