//! The UDP proxy.
//!
//! Owns: where datagrams go, by a tree of matchers or to one cluster. Refuses to know: chains of listeners that have some. Keeps:
//! of several chains, the most specific takes a flow, which is the first one of the tree; a tree for which that is not so is
//! refused.

use std::sync::Arc;

use sluice_core::Node;

use super::trees::{Leaf, Test};
use super::{Mapping, Zero};
use crate::message::ProtoMessage;
use crate::native::{NativeMap, plain, quoted, single};

/// What a datagram can be told apart by: the message of the input, and the field of the native form.
const INPUTS: [(&str, &str); 4] = [
    ("DestinationPortInput", "port"),
    ("DestinationIPInput", "destination"),
    ("SourceIPInput", "source"),
    ("SourcePortInput", "source_port"),
];

/// The fields of a chain's `match` with their values.
type FlowCriteria = Vec<(&'static str, Arc<str>)>;

impl Mapping<'_> {
    /// A relay of datagrams, from a `UdpProxyConfig`; or several, each in a chain of its own.
    pub(super) fn udp_proxy(&mut self, proxy: &ProtoMessage, native: &mut NativeMap) {
        let mut relay = NativeMap::new(proxy.span);
        proxy.without_effect(&["stat_prefix"]);
        let idle = self.duration(proxy, "idle_timeout", Zero::Refused);
        relay.set("idle_timeout", idle.unwrap_or_else(|| plain("60s", proxy.span)));
        if proxy.is("use_per_packet_load_balancing") {
            relay.word("per_packet", true, proxy.place("use_per_packet_load_balancing"));
        }
        for policy in proxy.messages("hash_policies") {
            if policy.is("source_ip") {
                relay.word("hash", "source_ip", policy.span);
            } else if let Some(key) = policy.text("key") {
                let key = quoted(key, policy.span);
                relay.set("hash", single("key", key));
            }
        }
        self.datagram_sizes(proxy, "upstream_socket_config");
        self.logs_of(proxy, "flow");
        if let Some(name) = proxy.text("cluster") {
            let name = self.cluster_or_none(name, proxy, "cluster");
            relay.text("cluster", &name, proxy.place("cluster"));
            native.set("relay", relay.node());
            return;
        }
        let Some(matcher) = proxy.message("matcher") else { return };
        let chains = self.chains_of_tree(matcher, &relay);
        match <[(FlowCriteria, NativeMap); 1]>::try_from(chains) {
            // One that takes all is the whole listener's.
            Ok([(criteria, relay)]) if criteria.is_empty() => native.set("relay", relay.node()),
            Ok(chain) => native.list("chains", chain.map(written).into(), matcher.span),
            Err(chains) => {
                let chains = chains.into_iter().map(written).collect();
                native.list("chains", chains, matcher.span);
            }
        }
    }

    /// What each action of the tree is for, and its relay.
    fn chains_of_tree(
        &mut self,
        matcher: &ProtoMessage,
        relay: &NativeMap,
    ) -> Vec<(FlowCriteria, NativeMap)> {
        let mut chains: Vec<(FlowCriteria, NativeMap)> = Vec::new();
        for leaf in self.leaves(matcher).unwrap_or_default() {
            let Some(criteria) = self.criteria_of(&leaf) else { continue };
            let Some(route) = leaf.action.message("typed_config") else { continue };
            let Some(name) = route.text("cluster") else { continue };
            let name = self.cluster_or_none(name, route, "cluster");
            let mut relay = relay.clone();
            relay.text("cluster", &name, route.place("cluster"));
            let follows = |(known, _): &(FlowCriteria, NativeMap)| {
                excludes(known, &criteria) || criteria.iter().all(|one| known.contains(one))
            };
            if !chains.iter().all(follows) {
                let how =
                    "a chain before it may take some of its datagrams, but is not more specific";
                self.unsupported(matcher, "matcher_list", how);
                return chains;
            }
            chains.push((criteria, relay));
        }
        chains
    }

    /// The criteria that are the tests of a leaf.
    fn criteria_of(&mut self, leaf: &Leaf<'_>) -> Option<FlowCriteria> {
        let mut criteria = FlowCriteria::new();
        for test in &leaf.tests {
            let (input, value): (_, Arc<str>) = match *test {
                Test::Key { input, key, prefix: false } => (input, key.into()),
                Test::Key { input, .. } => {
                    self.unsupported_at(input, "addresses and ports are compared as a whole");
                    return None;
                }
                Test::Predicate(predicate) => {
                    let single = predicate.message("single_predicate");
                    let exact = single.and_then(|of| {
                        Some((of.message("input")?, of.message("value_match")?.text("exact")?))
                    });
                    let Some((input, value)) = exact else {
                        self.unsupported_at(predicate, "only single tests with `exact` are");
                        return None;
                    };
                    (input, value.clone())
                }
            };
            input.without_effect(&["name"]);
            let config = input.message("typed_config")?;
            let Some((_, key)) = INPUTS.iter().find(|(name, _)| *name == config.descriptor.name())
            else {
                self.unsupported_type(config);
                return None;
            };
            criteria.push((*key, value));
        }
        Some(criteria)
    }

    /// Datagrams of any size are received; what would be cut or joined in Envoy is not.
    pub(super) fn datagram_sizes(&mut self, of: &ProtoMessage, field: &str) {
        let Some(config) = of.message(field) else { return };
        config.without_effect(&["prefer_gro"]);
        if config.number("max_rx_datagram_size").is_some_and(|max| max < 65_535) {
            let how = "datagrams of any size are received; Envoy drops those that are larger";
            self.differs(config, "max_rx_datagram_size", how);
        }
    }
}

/// Whether nothing can be both.
fn excludes(a: &FlowCriteria, b: &FlowCriteria) -> bool {
    a.iter().any(|(key, value)| b.iter().any(|(other, wanted)| key == other && value != wanted))
}

/// A chain with its relay.
fn written((criteria, relay): (FlowCriteria, NativeMap)) -> Node {
    let relay = relay.node();
    let mut matches = NativeMap::new(relay.span);
    for (key, value) in criteria {
        if key.ends_with("port") {
            matches.word(key, value, relay.span);
        } else {
            matches.text(key, &value, relay.span);
        }
    }
    let mut chain = NativeMap::new(relay.span);
    chain.map("match", matches);
    chain.set("relay", relay);
    chain.node()
}
