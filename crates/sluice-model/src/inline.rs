//! Clusters and routes that are written where they are used.
//!
//! Owns: the names of such resources, and where each was written. Refuses to know: what is done with them; from here on
//! they are like all others. Keeps: a name depends only on the names of the listener and the chain, and never on that of
//! a resource with a section of its own.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use sluice_core::settings::{Members, Short};
use sluice_core::value::Authority;
use sluice_core::{Diags, Name, Node, Path, Setting, Span, Spanned, Value};

use crate::chains::chain_name;
use crate::model::Kind;
use crate::sections::routes::{Redirect, Rule, Scheme};
use crate::sections::{Cluster, Config, HostOrRule, Http, HttpsRedirect, Relay};

/// Where the resources are written that have no section of their own, as paths.
pub(crate) type InlinePlaces = HashMap<(Kind, Name), String>;

/// Gives every relay to endpoints a cluster with these endpoints, and every redirect of a listener a route table.
pub(crate) fn expand(config: &mut Config, diags: &mut Diags) -> InlinePlaces {
    let mut places = InlinePlaces::new();
    clusters(config, &mut places, diags);
    routes(config, &mut places, diags);
    places
}

fn clusters(config: &mut Config, places: &mut InlinePlaces, diags: &mut Diags) {
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
    let mut names: HashSet<Name> = config.clusters.names().cloned().collect();
    for (name, cluster, at) in found {
        let span = cluster.span;
        if !names.insert(Arc::clone(&name)) {
            let message = format!(
                "the endpoints of this relay form the cluster `{name}`, but there is another one"
            );
            let finding = diags.error("duplicate-name", span, at, message);
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
}

fn routes(config: &mut Config, places: &mut InlinePlaces, diags: &mut Diags) {
    let list = Path::ROOT.key("listeners");
    for (index, listener) in config.listeners.places_mut() {
        let at = list.index(index);
        let at = at.key("redirect");
        let listener = &mut listener.value;
        let Some(redirect) = &listener.redirect else { continue };
        if listener.relay.is_some() || listener.http.is_some() || !listener.chains.is_empty() {
            let message = "`redirect` cannot be combined with `relay`, `http` or `chains`";
            diags.error("short-and-long", redirect.span, at, message).help(
                "remove it, or redirect in a rule: `redirect: { scheme: https, status: 308 }`",
            );
            continue;
        }
        if let (Some(tls), None) = (&listener.tls, &redirect.host) {
            let message = "this listener terminates TLS, so the redirect leads back to it";
            diags
                .error("short-and-long", redirect.span, at, message)
                .other(tls.span, "TLS is terminated here")
                .help("move it to the listener for plain HTTP, or name another host: `redirect: https://HOST`");
        }
        let (name, span) = (joined(&listener.name.value, "redirect"), redirect.span);
        let rule = Spanned { value: redirecting(&name, redirect), span };
        listener.http = served_by(&name, span);
        if config.routes.names().any(|other| *other == name) {
            let message = format!("this redirect forms the routes `{name}`, but there are others");
            let finding = diags.error("duplicate-name", span, at, message);
            finding.help("give the listener or the routes another name");
            if let Some(other) = config.routes.get(&name) {
                finding.other(other.span, "the other ones");
            }
            continue;
        }
        let table = Members::one(Spanned { value: HostOrRule::of_rule(rule), span });
        config.routes.insert(Arc::clone(&name), Spanned { value: table, span });
        places.insert((Kind::Routes, name), at.to_string());
    }
}

/// A rule that redirects every request, as nginx's `return 308 https://$host$request_uri` does.
fn redirecting(name: &Name, to: &Spanned<HttpsRedirect>) -> Rule {
    let HttpsRedirect { host, port } = &to.value;
    let redirect = Redirect {
        status: 308,
        scheme: Some(Scheme("https".into())),
        host: host.clone().map(Authority),
        port: *port,
        ..Redirect::absent().expect("a redirect has no required fields")
    };
    Rule {
        name: Some(Arc::clone(name)),
        redirect: Some(Spanned { value: redirect, span: to.span }),
        ..Rule::absent().expect("a rule has no required fields")
    }
}

/// HTTP with default settings and these routes.
fn served_by(routes: &Name, span: Span) -> Option<Spanned<Short<Http>>> {
    let value = Value::Scalar { text: Arc::clone(routes), quoted: true };
    Setting::bind(&Node { value, span }, &Path::ROOT, &mut Diags::new())
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
    if let Some(from) = &relay.cluster_from {
        if relay.cluster.is_some() || relay.split.is_some() || !relay.endpoints.is_empty() {
            let message =
                "`cluster_from` cannot be combined with `cluster`, `split` or `endpoints`";
            diags.error("short-and-long", from.span, at.key("cluster_from"), message).help(
                "keep one of them; a chain with `match: { sni }` can have a relay of its own",
            );
            relay.cluster_from = None;
            relay.allow.clear();
            relay.map = None;
        }
        return None;
    }
    if let Some(split) = &relay.split {
        if relay.cluster.is_some() || !relay.endpoints.is_empty() {
            let message = "`split` cannot be combined with `cluster` or `endpoints`";
            diags
                .error("short-and-long", split.span, at.key("split"), message)
                .help("keep one of them; a cluster of its own can be one of the shares");
            relay.split = None;
        }
        return None;
    }
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
    fn check(relay: Node, clusters: &[&str], expected: &[&str]) {
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
    fn a_redirect_becomes_routes_that_serve_the_listener() {
        let listener = |more: &[(&str, Node)]| {
            let own = [
                ("name", text("a")),
                ("address", text("127.0.0.1:1")),
                ("redirect", text("https")),
            ];
            let listener = map(&own.into_iter().chain(more.iter().cloned()).collect::<Vec<_>>());
            let mut config: Config = bind(&map(&[("listeners", listener)]));
            let mut diags = Diags::new();
            expand(&mut config, &mut diags);
            let codes: Vec<_> = diags.iter().map(|found| found.code).collect();
            (config, codes)
        };
        let (config, codes) = listener(&[]);
        assert!(codes.is_empty());
        let served = config.listeners.iter().next().unwrap().http.as_ref().unwrap();
        assert_eq!(&*served.routes.value, "a.redirect");
        let table = config.routes.get("a.redirect").unwrap();
        let rule = table.iter().next().unwrap().rules.iter().next().unwrap();
        let redirect = rule.redirect.as_ref().unwrap();
        assert_eq!(redirect.status, 308);
        assert_eq!(redirect.scheme, Some(Scheme("https".into())));
        for more in [("relay", text("app")), ("http", text("web")), ("tls", text("a.pem"))] {
            assert_eq!(listener(&[more]).1, ["short-and-long"]);
        }
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
