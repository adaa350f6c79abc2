//! How a flow begins.
//!
//! Owns: the order of filters, endpoint, room and socket. Refuses to know: datagrams. Keeps: a refused flow costs no
//! descriptor; no flow is evicted for one that the filters refuse; a flow that replaces another is not counted twice.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use sluice_core::connection::{ConnInfo, Peer};
use sluice_core::limits::Limit;
use sluice_core::{Moment, Name, Reason};
use sluice_telemetry::Counter;
use sluice_upstream::cluster::Claim;

use super::{FlowStart, UdpSlot};
use crate::connection::next_id;
use crate::reasons;
use crate::udp::flow::{Flow, FlowState};
use crate::udp::flow_table::{FlowId, FlowKey};
use crate::udp::listener::{FilterCheck, FlowOrigin, UdpListener, UpstreamSocket};

impl UdpSlot {
    /// Begins a flow, in place of another if it `replaces` one. A flow that cannot begin is counted with the reason, unless
    /// another continues in its place.
    pub(super) fn begin(
        self: &Rc<Self>,
        key: FlowKey,
        now: Moment,
        start: FlowStart<'_>,
    ) -> Result<(FlowId, Rc<Flow>), Reason> {
        let listener = Rc::clone(&self.listener.borrow());
        let client = Peer::Ip(key.client);
        let local = key.local.map_or(self.local, |ip| SocketAddr::new(ip, self.local.port()));
        let name: Name = listener.plan.name.clone();
        let info = ConnInfo::new(next_id(), name, client, Peer::Ip(local), now);
        let (came_from, owner) = (start.origin(), start.owner);
        let FlowStart { datagram, facts, replaces, .. } = start;
        if let Some(facts) = facts {
            let _ = info.facts.set(Box::new(facts));
        }
        let (chain, claim, upstream) = match replaces {
            Some((old, flow)) => {
                let opened = self.open_other(&listener, &info, flow, datagram)?;
                self.end(old, reasons::FLOW_MOVED);
                opened
            }
            None => self.open(&listener, &info, now, came_from, datagram).inspect_err(|why| {
                // It never became a flow, but its end still has a reason.
                self.record(&info, &listener, *why, (1, 0));
            })?,
        };
        let plan = &listener.plan.chains[chain];
        let unanswered = Duration::from_secs(self.worker.limits.get(Limit::FlowUnanswered));
        let idle = plan.idle_timeout.map_or(unanswered, |idle| idle.min(unanswered));
        listener.chains[chain].selected.increment();
        let flow = Rc::new(Flow {
            info,
            key,
            listener: Rc::clone(&listener),
            chain,
            upstream,
            claim,
            state: FlowState::new(owner.map_or(0, |owner| owner.id_length)),
            task: RefCell::default(),
        });
        let id = self.table.borrow_mut().admit(key, Some(idle), now, Rc::clone(&flow));
        listener.counters.flows.increment();
        listener.counters.active.increment();
        let task = tokio::task::spawn_local(Rc::clone(self).answer(id, Rc::clone(&flow)));
        *flow.task.borrow_mut() = Some(task.abort_handle());
        Ok((id, flow))
    }

    /// Runs the filters, picks an endpoint and opens the socket, in this order, so that a refused flow costs no
    /// descriptor, and no flow is evicted for one that the filters refuse.
    fn open(
        &self,
        listener: &UdpListener,
        info: &ConnInfo,
        now: Moment,
        came_from: FlowOrigin<'_>,
        datagram: &[u8],
    ) -> Result<(usize, Claim, UpstreamSocket), Reason> {
        self.spare(listener, now)?;
        let check = FilterCheck::Run;
        let (chain, claim) = listener.choose(&self.worker, info, came_from, check, datagram)?;
        let opened = self.spare(listener, now).and_then(|spare| {
            if let Some((id, reached)) = spare {
                reached.increment();
                // Its descriptor is freed once its task has ended, which is soon.
                self.end(id, reasons::FLOW_EVICTED);
            }
            listener.open(&self.worker, &claim, info)
        });
        let upstream = opened.inspect_err(|_| listener.tell_filters(chain, info))?;
        Ok((chain, claim, upstream))
    }

    /// Picks another endpoint for a flow and opens a socket to it. It replaces the old socket, so no flow is evicted;
    /// filters that count the flow already are not asked again.
    fn open_other(
        &self,
        listener: &Rc<UdpListener>,
        info: &ConnInfo,
        flow: &Flow,
        datagram: &[u8],
    ) -> Result<(usize, Claim, UpstreamSocket), Reason> {
        let counted = Rc::ptr_eq(listener, &flow.listener);
        let check = if counted { FilterCheck::Skip } else { FilterCheck::Run };
        let came_from = FlowOrigin::Replaced(&flow.claim.handle().cluster.name);
        let (chain, claim) = listener.choose(&self.worker, info, came_from, check, datagram)?;
        let upstream = listener.open(&self.worker, &claim, info).inspect_err(|_| {
            if !counted {
                listener.tell_filters(chain, info);
            }
        })?;
        if counted {
            flow.state.note_replaced();
        }
        Ok((chain, claim, upstream))
    }

    /// The flow that must be evicted before another begins, and the counter of the limit that was reached; `None` if
    /// there is room.
    fn spare<'a>(
        &self,
        listener: &'a UdpListener,
        now: Moment,
    ) -> Result<Option<(FlowId, &'a Counter)>, Reason> {
        let table = self.table.borrow();
        let (reached, why) = if table.is_full() {
            (&listener.counters.table_full, reasons::FLOW_TABLE_FULL)
        } else if !self.worker.reactor.descriptors().has_for_flow() {
            (&listener.counters.descriptors, sluice_upstream::reasons::FDS)
        } else {
            return Ok(None);
        };
        match table.spare(now) {
            Some(id) => Ok(Some((id, reached))),
            None => {
                reached.increment();
                Err(why)
            }
        }
    }
}
