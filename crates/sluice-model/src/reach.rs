//! The clusters that a listener can reach.
//!
//! Owns: the walk from chains through routes and filters to clusters. Refuses to know: what the result is used for.
//! Keeps: a rule that takes its cluster from a header can reach any cluster, a relay that takes it from the server name
//! those that it allows.

use std::collections::BTreeSet;

use sluice_core::Name;
use sluice_upstream::cluster::FALLBACKS_MAX;

use crate::model::listener::{Service, Traffic};
use crate::model::routes::Rule;
use crate::model::{Kind, Listener};
use crate::store::Store;

/// The clusters that connections and requests of `listener` can be sent to, and those that its filters may ask.
pub fn clusters_of(store: &Store, name: &Name, listener: &Listener) -> BTreeSet<Name> {
    let mut found: BTreeSet<Name> = store.asked(Kind::Listener, name).cloned().collect();
    if let Traffic::Datagrams(chains) = &listener.traffic {
        let to = chains.iter().flat_map(|chain| chain.to.clusters());
        found.extend(to.cloned());
    }
    for (_, _, service) in listener.services() {
        match service {
            Service::Relay { to, .. } => {
                found.extend(to.clusters().cloned());
                found.extend(store.names(Kind::Cluster).filter(|name| to.may_name(name)).cloned());
            }
            Service::Http(http) => {
                let Some((table, _)) = store.routes_named(&http.routes) else { continue };
                if table.rules().any(Rule::names_clusters) {
                    found.extend(store.names(Kind::Cluster).cloned());
                }
                found.extend(store.asked(Kind::Routes, &http.routes).cloned());
                found.extend(table.rules().flat_map(|rule| rule.clusters().cloned()));
            }
        }
    }
    let mut last: Vec<Name> = found.iter().cloned().collect();
    for _ in 0..FALLBACKS_MAX {
        let clusters = last.iter().filter_map(|name| store.cluster(name));
        let next = clusters.flat_map(|cluster| cluster.settings.fallback.iter().cloned());
        last = next.filter(|name| found.insert(name.clone())).collect();
    }
    found
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::Resource;
    use crate::model::listener::{ChainKind, RelayShare, RelayTo};
    use crate::model::routes::{Action, Share};
    use crate::store::tests::kit::{
        Bench, cluster, endpoints, flow_listener, http, listener, relay, routes_to, set,
    };

    /// A relay that is split among these clusters.
    fn split(clusters: &[&str]) -> ChainKind {
        let ChainKind::Plain(Service::Relay { options, .. }) = relay("") else { unreachable!() };
        let share = |name: &&str| RelayShare { cluster: (*name).into(), weight: 1, subset: None };
        let to = RelayTo::Split(clusters.iter().map(share).collect());
        ChainKind::Plain(Service::Relay { to, options })
    }

    #[test]
    fn a_listener_reaches_what_its_chains_and_routes_name() {
        let Resource::Routes(table) = routes_to("a") else { unreachable!() };
        let by_header = |header: &str| {
            let mut table = (*table).clone();
            let share = |cluster: &str| {
                let cluster = cluster.into();
                Share { cluster, weight: 1, runtime: None, endpoint: None }
            };
            let mut split = table.virtual_hosts[0].rules[0].clone();
            split.action = Action::Split(vec![share("b"), share("c")]);
            table.virtual_hosts[0].rules.push(split.clone());
            if !header.is_empty() {
                split.action = Action::ByHeader(header.into());
                table.virtual_hosts[0].rules.push(split);
            }
            Resource::Routes(Arc::new(table))
        };
        let mut bench = Bench::new();
        bench.apply(vec![
            set("a", cluster()),
            set("a", endpoints(1)),
            set("z", cluster()),
            set("z", endpoints(1)),
            set("web", by_header("")),
            set("any", by_header("x-cluster")),
            set("tcp", listener(1, relay("d"))),
            set("udp", flow_listener(2, "e")),
            set("part", listener(5, split(&["e", "d"]))),
            set("http", listener(3, ChainKind::Plain(http("web")))),
            set("free", listener(4, ChainKind::Plain(http("any")))),
        ]);
        for (name, expected) in [
            ("tcp", &["d"][..]),
            ("udp", &["e"]),
            ("part", &["d", "e"]),
            ("http", &["a", "b", "c"]),
            ("free", &["a", "b", "c", "z"]),
        ] {
            let listener = bench.store.listener(name).unwrap();
            let found = clusters_of(&bench.store, &name.into(), listener);
            assert!(
                found.iter().map(|name| &**name).eq(expected.iter().copied()),
                "{name}: {found:?}"
            );
        }
    }
}
