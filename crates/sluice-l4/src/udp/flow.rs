//! A flow: where its datagrams go, what it has carried, and what it still waits for.
//!
//! Owns: the counts of a flow and what they decide. Refuses to know: sockets and the clock. Keeps: replies are awaited
//! only as long as there is one for each datagram; one flow has only so many connection IDs learnt.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_core::connection::ConnInfo;
use sluice_core::{Moment, Reason};
use sluice_io::DatagramFilter;
use sluice_upstream::cluster::Claim;
use tokio::task::AbortHandle;

use super::FlowChainPlan;
use super::flow_table::FlowKey;
use super::listener::{UdpListener, UpstreamSocket};
use crate::quic::ids;
use crate::reasons;

/// Connection IDs that are learnt per flow; a client changes its ID when its address changes, and then it has another
/// flow.
const IDS_OF_FLOW: u8 = 8;

/// How long a flow that could not leave its unhealthy endpoint waits before it retries.
const MOVE_AGAIN: Duration = Duration::from_secs(1);

/// A flow.
#[derive(Debug)]
pub struct Flow {
    /// What is known about the flow.
    pub info: ConnInfo,
    pub(super) key: FlowKey,
    pub(super) listener: Rc<UdpListener>,
    pub(super) chain: usize,
    pub(super) upstream: UpstreamSocket,
    pub(super) claim: Claim,
    /// What changes its datagrams, in the order in which those of the client pass them.
    pub(super) filters: RefCell<Vec<Box<dyn DatagramFilter>>>,
    pub(super) state: FlowState,
    pub(super) task: RefCell<Option<AbortHandle>>,
}

impl Flow {
    /// The endpoint.
    pub fn endpoint(&self) -> &Arc<str> {
        &self.claim.endpoint().name
    }

    pub(super) fn plan(&self) -> &FlowChainPlan {
        &self.listener.plan.chains[self.chain]
    }
}

/// What a flow has carried and what it waits for.
#[derive(Debug)]
pub(super) struct FlowState {
    received: Cell<u64>,
    sent: Cell<u64>,
    /// Whether its endpoint has replied.
    answered: Cell<bool>,
    /// When the flow may next attempt to leave an unhealthy endpoint.
    move_at: Cell<Moment>,
    /// Whether the flow that replaced this one has taken over its place in the filters' counts.
    replaced: Cell<bool>,
    /// Replies that are still expected, if they are counted.
    awaited: Cell<u64>,
    /// For QUIC: the connection ID seen last; all IDs of its server have the same length.
    id: RefCell<Vec<u8>>,
    /// How many more IDs are learnt.
    ids_left: Cell<u8>,
}

impl FlowState {
    /// The state of a flow that begins; `id_length` is that of its server's connection IDs if it continues a QUIC
    /// connection, else 0.
    pub(super) fn new(id_length: usize) -> Self {
        Self {
            received: Cell::new(0),
            sent: Cell::new(0),
            answered: Cell::new(false),
            move_at: Cell::default(),
            replaced: Cell::new(false),
            awaited: Cell::new(0),
            id: RefCell::new(vec![0; id_length]),
            ids_left: Cell::new(IDS_OF_FLOW),
        }
    }

    /// Counts datagrams of the client, whether or not they are forwarded.
    pub(super) fn note_received(&self, count: u64) {
        self.received.set(self.received.get() + count);
    }

    /// Counts datagrams to the endpoint, each of which gets this many replies, if replies are counted.
    pub(super) fn note_forwarded(&self, count: u64, responses: Option<u32>) {
        if let Some(responses) = responses {
            self.awaited.set(self.awaited.get() + u64::from(responses) * count);
        }
    }

    /// Counts replies of the endpoint, whether or not the client can be sent them.
    pub(super) fn note_replies(&self, count: u64) {
        self.awaited.set(self.awaited.get().saturating_sub(count));
    }

    /// Counts replies that were sent to the client.
    pub(super) fn note_sent(&self, count: u64) {
        self.sent.set(self.sent.get() + count);
    }

    /// Notes that the endpoint has replied; returns whether this was the first time.
    pub(super) fn note_answer(&self) -> bool {
        !self.answered.replace(true)
    }

    /// Whether no further reply is expected.
    pub(super) const fn is_answered_in_full(&self) -> bool {
        self.awaited.get() == 0
    }

    /// The datagrams received from the client and sent to it.
    pub(super) const fn datagrams(&self) -> (u64, u64) {
        (self.received.get(), self.sent.get())
    }

    /// Why an idle flow ends.
    pub(super) const fn why_expired(&self) -> Reason {
        if self.answered.get() { reasons::FLOW_IDLE } else { reasons::FLOW_UNANSWERED }
    }

    /// Whether the flow may leave its endpoint: not as a QUIC connection whose ID is known, because no other endpoint
    /// has its keys, and not soon after it could not.
    pub(super) fn may_move(&self, now: Moment) -> bool {
        self.id.borrow().is_empty() && now >= self.move_at.get()
    }

    /// Notes that the flow could not leave its endpoint.
    pub(super) fn stays(&self, now: Moment) {
        self.move_at.set(now.after(MOVE_AGAIN));
    }

    /// Notes that another flow has taken over its place in the filters' counts.
    pub(super) fn note_replaced(&self) {
        self.replaced.set(true);
    }

    /// Whether another flow has taken over its place in the filters' counts.
    pub(super) const fn is_replaced(&self) -> bool {
        self.replaced.get()
    }

    /// The first connection ID in these datagrams of the client, if its server's IDs are known.
    pub(super) fn shown_id<'a>(
        &self,
        mut datagrams: impl Iterator<Item = &'a [u8]>,
    ) -> Option<&'a [u8]> {
        let length = self.id.borrow().len();
        (length > 0).then(|| datagrams.find_map(|data| ids::of_short(data, length))).flatten()
    }

    /// Notes the connection ID that was seen last; returns whether it is to be learnt.
    pub(super) fn is_to_learn(&self, id: &[u8]) -> bool {
        let mut last = self.id.borrow_mut();
        if *last == id {
            return false;
        }
        last.clear();
        last.extend_from_slice(id);
        // A client that shows one ID after another must not push out the IDs of other flows.
        let Some(left) = self.ids_left.get().checked_sub(1) else { return false };
        self.ids_left.set(left);
        true
    }
}

#[cfg(test)]
mod tests {
    use sluice_core::Clock;

    use super::*;

    #[test]
    fn a_flow_is_done_when_each_datagram_has_its_replies() {
        let state = FlowState::new(0);
        state.note_received(2);
        state.note_forwarded(2, Some(3));
        for replies in [1, 2, 2] {
            state.note_replies(replies);
            assert!(!state.is_answered_in_full());
        }
        state.note_replies(1);
        assert!(state.is_answered_in_full());
        // A reply too many is not owed to the next datagram.
        state.note_replies(4);
        state.note_received(1);
        state.note_forwarded(1, Some(1));
        assert!(!state.is_answered_in_full());
        assert_eq!(state.datagrams(), (3, 0));
        state.note_sent(5);
        state.note_sent(2);
        assert_eq!(state.datagrams(), (3, 7));
    }

    #[test]
    fn replies_are_awaited_only_where_they_are_counted() {
        let state = FlowState::new(0);
        state.note_received(7);
        state.note_forwarded(7, None);
        assert!(state.is_answered_in_full());
        state.note_received(1);
        state.note_forwarded(1, Some(0));
        assert!(state.is_answered_in_full());
    }

    #[test]
    fn a_flow_that_expires_was_answered_or_not() {
        let state = FlowState::new(0);
        assert_eq!(state.why_expired(), reasons::FLOW_UNANSWERED);
        assert!(state.note_answer(), "the first reply changes the idle timeout");
        assert!(!state.note_answer());
        assert_eq!(state.why_expired(), reasons::FLOW_IDLE);
    }

    #[test]
    fn a_flow_that_could_not_move_retries_later() {
        let now = Clock::held().now();
        let state = FlowState::new(0);
        assert!(state.may_move(now));
        state.stays(now);
        assert!(!state.may_move(now.after(MOVE_AGAIN / 2)));
        assert!(state.may_move(now.after(MOVE_AGAIN)));
        let quic = FlowState::new(4);
        assert!(!quic.may_move(now), "no other endpoint has its keys");
        state.is_to_learn(b"an ID");
        assert!(!state.may_move(now.after(MOVE_AGAIN)));
    }

    #[test]
    fn an_id_is_learnt_when_it_changes_and_only_so_often() {
        let state = FlowState::new(4);
        assert!(state.is_to_learn(b"id 0"));
        assert!(!state.is_to_learn(b"id 0"), "it is known");
        for new in 1..IDS_OF_FLOW {
            assert!(state.is_to_learn(&[new; 4]));
        }
        assert!(!state.is_to_learn(b"more"));
        assert!(!state.is_to_learn(b"even"));
    }

    #[test]
    fn an_id_is_shown_by_short_headers_once_its_length_is_known() {
        let long: &[u8] = &[0xc0, 1, 2, 3, 4, 5];
        let (short, other): (&[u8], &[u8]) = (&[0x40, 1, 2, 3, 4, 5], &[0x40, 9, 8, 7, 6]);
        let state = FlowState::new(0);
        assert_eq!(state.shown_id([short].into_iter()), None);
        state.is_to_learn(b"1234");
        assert_eq!(state.shown_id([long, short, other].into_iter()), Some(&[1, 2, 3, 4][..]));
        assert_eq!(state.shown_id([long, &[0x40, 1]].into_iter()), None);
    }
}
