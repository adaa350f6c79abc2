//! Listeners that forward to themselves.
//!
//! Owns: which relay leads back to its own listener. Refuses to know: cycles of several listeners, which are found later. Keeps:
//! a listener that would open connections to itself until there are none left refuses them.

use super::Mapping;
use crate::message::{ProtoMessage, ProtoValue};
use crate::parts;

impl Mapping<'_> {
    /// Notes the addresses of a cluster's endpoints, without reading them.
    pub(super) fn note_endpoints(&mut self, cluster: &ProtoMessage) {
        let mut found = Vec::new();
        if let Some(assignment) = parts::inner(cluster, "load_assignment") {
            addresses_below(assignment, &mut found);
        }
        if let Some(name) = parts::text(cluster, "name") {
            self.endpoints.insert(name, found);
        }
    }

    /// Whether everything that a relay of a listener gets would come back to that listener. Reports it.
    pub(super) fn is_loop(&mut self, proxy: &ProtoMessage, listener: &ProtoMessage) -> bool {
        if Self::is_unbound(listener) {
            return false;
        }
        let own = parts::inner(listener, "address").and_then(address_of);
        let Some(cluster) = parts::text(proxy, "cluster") else { return false };
        let leads_back =
            own.is_some_and(|own| self.endpoints.get(&cluster).is_some_and(|all| *all == [own]));
        if leads_back {
            let how = "the listener would forward to itself; Envoy opens connections until there are none left, here they are refused";
            self.differs(proxy, "cluster", how);
        }
        leads_back
    }
}

fn addresses_below(of: &ProtoMessage, found: &mut Vec<String>) {
    found.extend(address_of(of));
    for field in &of.fields {
        field.value.messages(&mut |inner| addresses_below(inner, found));
    }
}

/// The address in an `Address`; of any other message, none.
fn address_of(of: &ProtoMessage) -> Option<String> {
    if of.type_name() != "envoy.config.core.v3.Address" {
        return None;
    }
    let socket = parts::inner(of, "socket_address")?;
    let port = match socket.peek("port_value").map(|field| &field.value) {
        Some(ProtoValue::Int(port)) => *port,
        _ => 0,
    };
    Some(format!("{} {port}", parts::text(socket, "address")?))
}
