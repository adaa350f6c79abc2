//! Transport sockets by the metadata of endpoints (`transport_socket_matches`).
//!
//! Owns: which of them an endpoint has. Refuses to know: what a socket is made of. Keeps: all endpoints of a cluster have one
//! and the same socket; a file for which that is not so is refused.

use sluice_core::Node;

use super::Mapping;
use crate::message::{ProtoItem, ProtoMessage, ProtoValue};
use crate::native::same;

/// The metadata of endpoints that tells sockets apart.
const NAMESPACE: &str = "envoy.transport_socket_match";

impl Mapping<'_> {
    /// The socket of all endpoints of a cluster; `None` is plaintext.
    pub(super) fn socket_of<'m>(&mut self, cluster: &'m ProtoMessage) -> Option<&'m ProtoMessage> {
        let usual = cluster.message("transport_socket");
        if !cluster.has("transport_socket_matches") {
            return usual;
        }
        let matches: Vec<&ProtoMessage> = cluster.messages("transport_socket_matches").collect();
        for of in &matches {
            of.without_effect(&["name", "match"]);
            if !of.has("transport_socket") {
                self.unsupported(of, "transport_socket", "a match names one");
            }
        }
        let assignment = cluster.message("load_assignment");
        let groups = assignment.into_iter().flat_map(|of| of.messages("endpoints"));
        let mut chosen: Vec<Option<&'m ProtoMessage>> = Vec::new();
        for group in groups {
            for endpoint in group.messages("lb_endpoints") {
                let of_group = group.message("metadata").and_then(labels_of);
                let labels = endpoint.message("metadata").and_then(labels_of).or(of_group);
                chosen.push(first_that_fits(&matches, labels).or(usual));
            }
        }
        // Those that come later may have any; without one, they have what asks for nothing.
        let socket = chosen.first().copied();
        let socket = socket.unwrap_or_else(|| first_that_fits(&matches, None).or(usual));
        let is_other = |other: &Option<&ProtoMessage>| match (other, &socket) {
            (Some(other), Some(own)) => !std::ptr::eq(*other, *own),
            (other, own) => other.is_some() != own.is_some(),
        };
        if chosen.iter().any(is_other) {
            let how = "all endpoints of a cluster have the same socket; make a cluster for each";
            self.unsupported(cluster, "transport_socket_matches", how);
        }
        let all = matches.iter().filter_map(|of| of.message("transport_socket")).chain(usual);
        for other in all.filter(|other| socket.is_none_or(|own| !std::ptr::eq(*other, own))) {
            other.all_without_effect();
        }
        socket
    }
}

/// The socket of the first match whose criteria the labels have.
fn first_that_fits<'m>(
    matches: &[&'m ProtoMessage],
    labels: Option<&Node>,
) -> Option<&'m ProtoMessage> {
    let fits = |of: &&&ProtoMessage| {
        let criteria = of.json("match").and_then(Node::entries).unwrap_or_default();
        criteria.iter().all(|wanted| {
            let own = labels.and_then(|labels| labels.get(&wanted.key));
            own.is_some_and(|own| same(&own.node, &wanted.node))
        })
    };
    matches.iter().find(fits)?.message("transport_socket")
}

/// What a `Metadata` says in the namespace.
fn labels_of(metadata: &ProtoMessage) -> Option<&Node> {
    let entries: &[(_, ProtoItem)] = metadata.map("filter_metadata");
    let (_, item) = entries.iter().find(|(namespace, _)| &**namespace == NAMESPACE)?;
    match &item.value {
        ProtoValue::Json(node) => Some(node),
        _ => None,
    }
}
