//! Clusters that are written where they are used.
//!
//! Owns: the names of such clusters, and where each was written. Refuses to know: what is done with them; from here on
//! they are like all others. Keeps: a name depends only on the names of the listener and the chain, and never on that of
//! a cluster with a name of its own.

use std::collections::HashMap;
use std::sync::Arc;

use sluice_core::settings::Short;
use sluice_core::{Diags, Name, Path, Setting as _, Spanned};

use crate::model::Kind;
use crate::sections::{Cluster, Config, Relay};
use crate::translate::chain_name;

/// Where the resources are written that have no section of their own, as paths.
pub(crate) type InlinePlaces = HashMap<(Kind, Name), String>;

/// Gives every relay to endpoints a cluster with these endpoints.
pub(crate) fn expand(config: &mut Config, diags: &mut Diags) -> InlinePlaces {
    let mut places = InlinePlaces::new();
    let mut found = Vec::new();
    let list = Path::ROOT.key("listeners");
    for (index, listener) in config.listeners.places_mut() {
        let at = list.index(index);
        let owner = Arc::clone(&listener.value.name.value);
        let listener = &mut listener.value;
        let default: Name = "default".into();
        if let Some(relay) = &mut listener.relay {
            found.extend(cluster_of(relay, &owner, &default, &at, diags));
        }
        let chains = at.key("chains");
        for (index, chain) in listener.chains.places_mut() {
            let at = chains.index(index);
            let chain = &mut chain.value;
            let name = chain_name(index, chain.name.as_ref(), chain.matches.is_some());
            if let Some(relay) = &mut chain.relay {
                found.extend(cluster_of(relay, &owner, &name, &at, diags));
            }
            let (owner, inner) = (joined(&owner, &name), at.key("chains"));
            for (index, chain) in chain.chains.places_mut() {
                let at = inner.index(index);
                let chain = &mut chain.value;
                let name = chain_name(index, chain.name.as_ref(), chain.matches.is_some());
                if let Some(relay) = &mut chain.relay {
                    found.extend(cluster_of(relay, &owner, &name, &at, diags));
                }
            }
        }
    }
    for (name, cluster, at) in found {
        let span = cluster.span;
        if config.clusters.names().any(|other| *other == name) {
            let message = format!(
                "the endpoints of this relay form the cluster `{name}`, but there is another one"
            );
            let finding = diags.error("duplicate-name", span, &at, message);
            finding
                .help("give the listener or the chain another name, or relay to a cluster by name");
            if let Some(other) = config.clusters.get(&name) {
                finding.other(other.span, "the other one");
            }
            continue;
        }
        config.clusters.insert(Arc::clone(&name), cluster);
        places.insert((Kind::Cluster, name), at);
    }
    places
}

/// Gives findings about these resources the path under which they were written.
pub(crate) fn relocate(places: &InlinePlaces, diags: &mut Diags) {
    for ((kind, name), place) in places {
        let section = match kind {
            Kind::Routes => "routes",
            _ => "clusters",
        };
        let own = format!("{section}.{name}");
        for finding in diags.iter_mut() {
            let rest = finding.path.strip_prefix(&own);
            if let Some(rest) = rest.filter(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            {
                finding.path = format!("{place}{rest}");
            }
        }
    }
}

type InlineCluster = (Name, Spanned<Short<Cluster>>, String);

/// The cluster of a relay that has endpoints; the relay is made to name it.
fn cluster_of(
    relay: &mut Spanned<Short<Relay>>,
    owner: &Name,
    chain: &Name,
    at: &Path<'_>,
    diags: &mut Diags,
) -> Option<InlineCluster> {
    let (span, at) = (relay.span, at.key("relay"));
    let relay = &mut relay.value.0;
    match (&relay.cluster, relay.endpoints.is_empty()) {
        (Some(_), true) => None,
        (None, true) => {
            diags
                .error("missing-field", span, at.key("cluster"), "this relay has no destination")
                .help("name a cluster, or list endpoints: `relay: 127.0.0.1:5432`");
            None
        }
        (Some(_), false) => {
            let message = "`cluster` and `endpoints` cannot be combined";
            diags
                .error("short-and-long", span, at.key("endpoints"), message)
                .help("keep one of them, or add the endpoints to the cluster");
            None
        }
        (None, false) => {
            let name = joined(owner, chain);
            let mut cluster = Cluster::absent().expect("a cluster has no required fields");
            cluster.endpoints.clone_from(&relay.endpoints);
            relay.cluster = Some(Spanned { value: Arc::clone(&name), span });
            Some((name, Spanned { value: Short(cluster), span }, at.to_string()))
        }
    }
}

fn joined(owner: &str, chain: &str) -> Name {
    format!("{owner}.{chain}").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trees::{bind, list, map, text};

    #[track_caller]
    fn check(relay: sluice_core::Node, clusters: &[&str], expected: &[&str]) {
        let chain = map(&[("name", text("b")), ("relay", relay)]);
        let listener =
            map(&[("name", text("a")), ("address", text("127.0.0.1:1")), ("chains", chain)]);
        let named: Vec<_> = clusters.iter().map(|name| (*name, text("127.0.0.1:9"))).collect();
        let mut config: Config = bind(&map(&[("listeners", listener), ("clusters", map(&named))]));
        let mut diags = Diags::new();
        expand(&mut config, &mut diags);
        let found = diags.iter().map(|found| found.code.to_owned());
        let names = config.clusters.iter().map(|(name, cluster)| {
            let to = cluster.endpoints.iter().map(|entry| entry.0.address.to_string());
            format!("{name}: {}", to.collect::<Vec<_>>().join(", "))
        });
        assert_eq!(found.chain(names).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn endpoints_become_a_cluster_named_after_listener_and_chain() {
        check(text("app"), &["app"], &["app: 127.0.0.1:9"]);
        check(text("127.0.0.1:1"), &[], &["a.b: 127.0.0.1:1"]);
        check(text("unix:///run/x"), &[], &["a.b: unix:///run/x"]);
        let two = || list(vec![text("127.0.0.1:1"), text("127.0.0.1:2")]);
        check(two(), &[], &["a.b: 127.0.0.1:1, 127.0.0.1:2"]);
        check(map(&[("endpoints", two())]), &[], &["a.b: 127.0.0.1:1, 127.0.0.1:2"]);
    }

    #[test]
    fn a_relay_has_one_destination_and_its_cluster_a_name_of_its_own() {
        check(map(&[]), &[], &["missing-field"]);
        check(list(vec![]), &[], &["missing-field"]);
        let both = map(&[("cluster", text("app")), ("endpoints", text("127.0.0.1:1"))]);
        check(both, &["app"], &["short-and-long", "app: 127.0.0.1:9"]);
        check(text("127.0.0.1:1"), &["a.b"], &["duplicate-name", "a.b: 127.0.0.1:9"]);
    }
}
