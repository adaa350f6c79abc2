//! Listeners that balance each datagram by itself.
//!
//! Owns: the flow of each datagram. Refuses to know: how an endpoint is picked, and how a flow begins. Keeps: a client
//! has at most one flow to each endpoint, so that replies come back to it; limits on connections hold for flows that
//! begin, not for datagrams of flows that exist.

use std::net::SocketAddr;
use std::rc::Rc;

use sluice_core::connection::Peer;
use sluice_core::{Facts, Moment};
use sluice_sys::datagram::{Datagram, Outgoing};
use sluice_upstream::cluster::Affinity;
use smallvec::smallvec;

use super::begin::{FlowBegun, FlowStart};
use super::{FlowLookup, UdpSlot};
use crate::relay::{affinity_of, split_key};
use crate::select::ChainInput;
use crate::split::SplitHandles;
use crate::udp::FlowChainPlan;
use crate::udp::flow_table::FlowKey;
use crate::udp::listener::{FlowOrigin, PickedEndpoint};

impl UdpSlot {
    /// Forwards each datagram by itself: the next one usually goes elsewhere.
    pub(super) fn take_packets<'a>(self: &Rc<Self>, datagrams: impl Iterator<Item = Datagram<'a>>) {
        let now = self.worker.now();
        for Datagram { data, from, to, .. } in datagrams {
            let Some(client) = from else { continue };
            let key = FlowKey { client, local: to, endpoint: None };
            match self.flow_of(key, now, data) {
                FlowLookup::None => self.listener.borrow().counters.refused.increment(),
                FlowLookup::Held => {}
                FlowLookup::Flow(id, flow) => {
                    let one = Outgoing { data, to: None, from: None, segment: None };
                    self.flush(Some((id, flow)), &mut smallvec![one]);
                }
            }
        }
    }

    /// The flow of one datagram; it begins if there is none yet.
    fn flow_of(self: &Rc<Self>, key: FlowKey, now: Moment, datagram: &[u8]) -> FlowLookup {
        let listener = Rc::clone(&self.listener.borrow());
        let (client, at) = (key.client, key.local.unwrap_or_else(|| self.local.ip()));
        let local = SocketAddr::new(at, self.local.port());
        let none = Facts::default();
        let subject = ChainInput {
            destination: Some((local.ip(), local.port())),
            source: Some((client.ip(), client.port())),
            facts: &none,
        };
        let chain = listener.plan.table.find(&subject);
        let spread = chain.filter(|chain| listener.plan.chains[*chain].per_packet);
        let Some(chain) = spread else {
            // A chain beside it that keeps clients with their endpoints, or none.
            let Some((id, flow)) = self.known(&key, now, datagram) else {
                return self.first_datagram(key, now, datagram);
            };
            return FlowLookup::Flow(id, flow);
        };
        let FlowChainPlan { hash, sticky, .. } = &listener.plan.chains[chain];
        let affinity = affinity_of(*hash, *sticky, Peer::Ip(client), datagram);
        let handles: &SplitHandles = &listener.chains[chain].handles;
        let to = handles.choose(&self.worker, split_key(affinity));
        let affinity = Affinity { subset: to.subset.as_deref(), ..affinity };
        let (handle, picked) = to.handle.pick_for_datagram_or_fall_back(&self.worker, affinity);
        let id = picked.as_ref().ok().map(|endpoint| endpoint.id);
        let key = FlowKey { endpoint: id, ..key };
        let known = id.and_then(|_| self.table.borrow_mut().arrive(&key, now));
        let flow = known.and_then(|id| self.table.borrow().get(id).map(Rc::clone));
        if let (Some(id), Some(flow)) = (known, flow) {
            return FlowLookup::Flow(id, flow);
        }
        if let Some(lookup) = self.hold(&key, datagram) {
            return lookup;
        }
        if self.draining.get() {
            return FlowLookup::None;
        }
        let origin = FlowOrigin::Picked(PickedEndpoint { chain, handle, picked });
        match self.begin(key, now, FlowStart::with(datagram, origin)) {
            Ok(FlowBegun::Flow(id, flow)) => FlowLookup::Flow(id, flow),
            Ok(FlowBegun::Waits) => self.hold(&key, datagram).unwrap_or(FlowLookup::None),
            Err(_) => FlowLookup::None,
        }
    }
}
