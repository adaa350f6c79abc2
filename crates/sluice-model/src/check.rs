//! Checks across fields and sections: a contradiction is an error, a risk is a warning.
//!
//! Owns: the checks that need only the sections. Keeps: each finding has a place, a message and a remedy.

use std::collections::{HashMap, HashSet};

use sluice_core::limits::Limit;
use sluice_core::settings::Members;
use sluice_core::{Diags, ListenAddress, Name, Path, Span, Spanned};
use sluice_upstream::cluster::FALLBACKS_MAX;

use crate::model::Kind;
use crate::sections::{Admin, Chain, Cluster, Config, Http, Listener, ProxyAcceptance, Relay};

pub mod clusters;
mod control_plane;
pub mod forward;
pub mod high_limits;
pub mod loops;
pub mod routes;
pub mod runtime;
pub mod subsets;
pub mod zones;

pub use clusters::clusters;
pub(crate) use control_plane::{control_plane, is_on_demand};
pub use forward::forward;
pub use loops::loops;
pub use routes::routes;
pub use runtime::runtime;

/// Checks that names and addresses are unique.
pub fn names_and_addresses(config: &Config, diags: &mut Diags) {
    let at = Path::ROOT.key("listeners");
    let mut names: HashMap<&Name, Span> = HashMap::new();
    let mut addresses: HashMap<ListenAddress, Span> = HashMap::new();
    if let Some(admin) = &config.admin {
        addresses.insert(admin.address.value.clone(), admin.address.span);
    }
    for (index, listener) in config.listeners.places() {
        let at = at.index(index);
        if let Some(first) = names.insert(&listener.name.value, listener.name.span) {
            diags
                .error(
                    "duplicate-name",
                    listener.name.span,
                    at.key("name"),
                    format!("the listener `{}` is declared twice", listener.name.value),
                )
                .other(first, "the other one");
        }
        for address in listener.all_addresses() {
            let quic = match &address.value {
                ListenAddress::Tcp(socket) if listener.quic().is_some() => {
                    Some(ListenAddress::Udp(*socket))
                }
                _ => None,
            };
            for of in std::iter::once(address.value.clone()).chain(quic) {
                once(&mut addresses, of, address.span, &at, diags);
            }
        }
    }
}

/// Checks that no listener holds more bytes for inspection than the process allows.
pub fn inspected_bytes(config: &Config, diags: &mut Diags) {
    let max = config.limits.0.get(Limit::InspectBytes);
    let at = Path::ROOT.key("listeners");
    for (index, listener) in config.listeners.places() {
        let bytes = listener.inspect.bytes.0;
        if bytes > max {
            let message =
                format!("`inspect.bytes` ({bytes}) exceeds `limits.inspect_bytes` ({max})");
            let at = at.index(index);
            diags
                .error("out-of-range", listener.span, at.key("inspect.bytes"), message)
                .help("lower it, or raise the limit under `limits`, to at most 64KiB");
        }
    }
}

/// Warns of a unix socket in a folder that does not exist here; it may exist on the machine that runs Sluice.
fn folder_exists(address: &ListenAddress, span: Span, at: &Path<'_>, diags: &mut Diags) {
    if let ListenAddress::Unix(path) = address
        && !path.parent().is_some_and(std::path::Path::is_dir)
    {
        let message = format!("the folder of {} does not exist", path.display());
        diags
            .warning("not-here", span, at.key("address"), message)
            .help("Sluice does not start on a machine without it; create the folder, or use one that exists");
    }
}

/// Checks that an address belongs to one listener only.
fn once(
    addresses: &mut HashMap<ListenAddress, Span>,
    address: ListenAddress,
    span: Span,
    at: &Path<'_>,
    diags: &mut Diags,
) {
    // Port 0 is a different port each time.
    if matches!(&address, ListenAddress::Tcp(a) | ListenAddress::Udp(a) if a.port() == 0) {
        return;
    }
    folder_exists(&address, span, at, diags);
    let shown = address.to_string();
    if let Some(first) = addresses.insert(address, span) {
        diags
            .error(
                "duplicate-address",
                span,
                at.key("address"),
                format!("the address {shown} is used twice"),
            )
            .other(first, "the other one");
    }
}

/// Checks the host names of the admin pages, which are compared whole and without the port.
fn admin_hosts(admin: &Admin, at: &Path<'_>, diags: &mut Diags) {
    let at = at.key("hosts");
    let unix = matches!(admin.address.value, ListenAddress::Unix(_));
    if let Some(host) = admin.hosts.first().filter(|_| unix) {
        diags
            .error(
                "bad-value",
                host.span,
                at,
                "`hosts` has no effect on a unix socket, which accepts any host name",
            )
            .help("remove `hosts`");
        return;
    }
    for host in &admin.hosts {
        let name = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if host.value.is_empty() || !host.value.bytes().all(name) {
            let message =
                format!("expected a host name such as sluice.internal, not `{}`", host.value);
            diags
                .error("bad-value", host.span, at, message)
                .help("write each name in full, without a port and without `*`; IP addresses need no entry");
        }
    }
}

/// Checks the admin address; the pages are meant for this machine only.
pub fn admin(config: &Config, diags: &mut Diags) {
    if let Some(admin) = &config.admin {
        let at = Path::ROOT.key("admin");
        folder_exists(&admin.address.value, admin.address.span, &at, diags);
        admin_hosts(admin, &at, diags);
        if let Some(mode) = &admin.mode
            && !matches!(admin.address.value, ListenAddress::Unix(_))
        {
            let message = "`mode` has no effect on an address that is no unix socket";
            diags.error("useless-setting", mode.span, at.key("mode"), message).help("remove it");
        }
        match &admin.address.value {
            ListenAddress::Tcp(address) if !address.ip().is_loopback() => {
                diags
                    .warning(
                        "exposed-admin",
                        admin.address.span,
                        at.key("address"),
                        "the admin pages can be read from other machines",
                    )
                    .help("listen on 127.0.0.1 or a unix socket; there is no authentication");
            }
            ListenAddress::Udp(_) => {
                diags.error(
                    "bad-value",
                    admin.address.span,
                    at.key("address"),
                    "the admin address must be a TCP address or a unix socket",
                );
            }
            _ => {}
        }
    }
}

/// Warns of clusters, routes, secrets and maps without effect, and of a configuration without listeners. Filters name these
/// clusters, secrets and maps.
pub fn unused<'a>(
    config: &'a Config,
    named: impl Iterator<Item = &'a (Kind, Name)>,
    diags: &mut Diags,
) {
    let named: HashSet<(Kind, &Name)> = named.map(|(kind, name)| (*kind, name)).collect();
    let of = |of: Kind| named.iter().filter(move |(kind, _)| *kind == of).map(|(_, name)| *name);
    let (secrets, asked) = (of(Kind::Secret).collect::<HashSet<_>>(), of(Kind::Cluster));
    let looked_up = config.listeners.iter().flat_map(|listener| relays_of(listener));
    let looked_up = looked_up.filter_map(|relay| relay.map.as_ref()).map(|map| &map.value);
    let maps: HashSet<&Name> = of(Kind::Map).chain(looked_up).collect();
    for (name, map) in config.maps.iter().filter(|(name, _)| !maps.contains(name)) {
        let at = Path::ROOT.key("maps");
        let message = format!("the map `{name}` is not used");
        diags.warning("unused-map", map.span, at.key(name), message);
    }
    for (name, secret) in config.secrets.iter().filter(|(name, _)| !secrets.contains(name)) {
        let at = Path::ROOT.key("secrets");
        let message = format!("the secret `{name}` is not used");
        diags.warning("unused-secret", secret.span, at.key(name), message);
    }
    let relayed = clusters_of_relays(config, config.listeners.iter());
    let routed = clusters_of_routes(config).map(|name| &name.value);
    let fleet = config.node.cluster.iter().map(|name| &name.value);
    let used: HashSet<&Name> = relayed.chain(routed).chain(asked).chain(fleet).collect();
    let rules = || config.routes.iter().flat_map(|(_, hosts)| hosts.iter());
    // A request may name any cluster.
    let any = rules().any(|host| host.rules.iter().any(|rule| routes::names_clusters(rule)));
    for (name, cluster) in config.clusters.iter() {
        if !any && !used.contains(name) {
            let at = Path::ROOT.key("clusters");
            diags.warning(
                "unused-cluster",
                cluster.span,
                at.key(name),
                format!("the cluster `{name}` is not used"),
            );
        }
    }
    let spoken = config.listeners.iter().flat_map(|listener| https_of(listener));
    let spoken: HashSet<&Name> = spoken.map(|http| &http.routes.value).collect();
    for (name, hosts) in config.routes.iter().filter(|(name, _)| !spoken.contains(name)) {
        let at = Path::ROOT.key("routes");
        let message = format!("no chain uses the routes `{name}`");
        diags.warning("unused-routes", hosts.span, at.key(name), message);
    }
    if config.listeners.is_empty() {
        diags
            .warning("no-listeners", None, "listeners", "there are no listeners")
            .help("add a listener: `listeners: [{ name: a, address: 127.0.0.1:5432, relay: b }]`");
    }
}

/// The relays of a listener, on all its chains.
pub(crate) fn relays_of(listener: &Listener) -> impl Iterator<Item = &Relay> {
    let outer = listener.chains.iter().filter_map(|chain| chain.relay.as_ref());
    let inner = listener.chains.iter().flat_map(|chain| chain.chains.iter());
    let inner = inner.filter_map(|chain| chain.relay.as_ref());
    listener.relay.iter().chain(outer).chain(inner).map(|relay| &relay.0)
}

/// The clusters that the relays of these listeners lead to, with those that serve in their place.
pub(crate) fn clusters_of_relays<'c>(
    config: &'c Config,
    listeners: impl Iterator<Item = &'c Spanned<Listener>>,
) -> impl Iterator<Item = &'c Name> {
    listeners.flat_map(|listener| relays_of(listener)).flat_map(move |relay| {
        let of = relay.clusters().flat_map(|name| served_by(config, name));
        let by_clients = config.clusters.iter().filter(|(name, _)| relay.may_name(name));
        let instead =
            |section: &'c Cluster| section.fallback.iter().flat_map(|name| served_by(config, name));
        let by_clients = by_clients.flat_map(move |(name, section)| {
            std::iter::once(name).chain(instead(section).map(|name| &name.value))
        });
        of.map(|name| &name.value).chain(by_clients)
    })
}

/// The clusters that rules route to.
pub fn clusters_of_routes(config: &Config) -> impl Iterator<Item = &Spanned<Name>> {
    let hosts = config.routes.iter().flat_map(|(_, hosts)| hosts.iter());
    routes::led_to(hosts).flat_map(|(name, _)| served_by(config, name))
}

/// A cluster, and those that serve in its place.
pub(crate) fn served_by<'c>(
    config: &'c Config,
    name: &'c Spanned<Name>,
) -> impl Iterator<Item = &'c Spanned<Name>> {
    let behind = fallbacks_of(config, name, FALLBACKS_MAX).into_iter().map(|(_, next)| next);
    std::iter::once(name).chain(behind)
}

/// The clusters that serve in place of `name`, each behind the one that names it first, up to so many one after the other.
pub(crate) fn fallbacks_of<'c>(
    config: &'c Config,
    name: &'c Spanned<Name>,
    depth: usize,
) -> Vec<(&'c Spanned<Name>, &'c Spanned<Name>)> {
    let mut found: Vec<(&Spanned<Name>, &Spanned<Name>)> = Vec::new();
    let mut last = vec![name];
    for _ in 0..depth {
        let mut next = Vec::new();
        for before in last {
            let Some(cluster) = config.clusters.get(&before.value) else { continue };
            for named in &cluster.fallback {
                if !found.iter().any(|(_, known)| known.value == named.value) {
                    found.push((before, named));
                    next.push(named);
                }
            }
        }
        last = next;
    }
    found
}

/// The HTTP sections of a listener, on all its chains.
pub(crate) fn https_of(listener: &Listener) -> impl Iterator<Item = &Http> {
    let outer = listener.chains.iter().filter_map(|chain| chain.http.as_ref());
    let inner = listener.chains.iter().flat_map(|chain| chain.chains.iter());
    let inner = inner.filter_map(|chain| chain.http.as_ref());
    listener.http.iter().chain(outer).chain(inner).map(|http| &http.0)
}

/// Checks that the fields of a listener are consistent.
pub fn listener_shape(listener: &Spanned<Listener>, at: &Path<'_>, diags: &mut Diags) {
    let name = &listener.name.value;
    if listener.all_addresses().next().is_none() {
        diags
            .error(
                "missing-field",
                listener.span,
                at.key("address"),
                format!("the listener `{name}` has no address"),
            )
            .help("add `address: 127.0.0.1:5432`");
    }
    let short = listener.relay.is_some() || listener.tls.is_some() || listener.http.is_some();
    if short && !listener.chains.is_empty() {
        let span = listener.relay.as_ref().map_or(listener.span, |relay| relay.span);
        diags
            .error(
                "short-and-long",
                span,
                at,
                "`relay`, `http` and `tls` cannot be combined with `chains`",
            )
            .help("move them into `chains`, as a chain without a `match`");
    }
    let udp = listener.all_addresses().filter(|a| matches!(a.value, ListenAddress::Udp(_))).count();
    if udp > 0 {
        if udp < listener.all_addresses().count() {
            diags
                .error(
                    "mixed-addresses",
                    listener.span,
                    at.key("address"),
                    "a listener cannot mix udp:// addresses with others",
                )
                .help("move the udp:// address to its own listener");
        }
        if listener.original_destination {
            let message = "datagrams have no destination that could be restored";
            diags
                .error("wrong-kind", listener.span, at.key("original_destination"), message)
                .help("remove `original_destination`");
        }
        if let Some(proxy) = &listener.proxy_protocol {
            diags.error(
                "wrong-kind",
                proxy.span,
                at.key("proxy_protocol"),
                "datagrams carry no PROXY header; remove `proxy_protocol`",
            );
        }
    }
    if let Some(proxy) = &listener.proxy_protocol {
        let here = at.key("proxy_protocol");
        if proxy.trust.is_empty() {
            diags
                .error(
                    "missing-field",
                    proxy.span,
                    here.key("trust"),
                    "no sender of a PROXY header is trusted",
                )
                .help(
                    "list the addresses of the load balancers in front: `trust: [192.0.2.10/32]`",
                );
        }
        for (index, block) in proxy.trust.iter().enumerate().filter(|(_, block)| block.bits() == 0)
        {
            let trust = here.key("trust");
            diags
                .warning(
                    "trusts-everybody",
                    block.span,
                    trust.index(index),
                    "any client may claim any source address",
                )
                .help("list the addresses of the load balancers in front");
        }
        if proxy.accept == ProxyAcceptance::Optional {
            diags
                .warning(
                    "optional-header",
                    proxy.span,
                    here.key("accept"),
                    "clients that wait for the server to speak first are delayed by `timeout`",
                )
                .help("set `accept: required` if every connection comes through the load balancer");
        }
    }
}

/// The ways in which a chain handles its streams.
#[derive(Clone, Copy, Debug)]
pub struct Handles {
    /// It relays them.
    pub relay: bool,
    /// It serves HTTP on them.
    pub http: bool,
    /// It passes them to inner chains.
    pub inner: bool,
}

/// Checks that a chain handles its streams in exactly one way; returns whether it does.
pub fn chain_handles(of: Handles, tls: bool, span: Span, at: &Path<'_>, diags: &mut Diags) -> bool {
    match (of.relay, of.http, of.inner) {
        (false, false, false) => {
            diags
                .error(
                    "missing-field",
                    span,
                    at.key("relay"),
                    "this chain has neither `relay` nor `http`",
                )
                .help("add `relay: CLUSTER` or `http: ROUTES`");
        }
        (true, true, _) => {
            diags
                .error(
                    "short-and-long",
                    span,
                    at.key("http"),
                    "`relay` and `http` cannot be combined: a stream is either relayed or served as HTTP",
                )
                .help("keep one of them; HTTP requests reach clusters through `routes`");
        }
        (_, _, true) if of.relay || of.http => {
            let what = if of.relay { "relay" } else { "http" };
            diags
                .error(
                    "short-and-long",
                    span,
                    at.key(what),
                    format!("`{what}` cannot be combined with inner `chains`"),
                )
                .help("move it into `chains`, as a chain without a `match`");
        }
        (_, _, true) if !tls => {
            diags
                .error(
                    "missing-field",
                    span,
                    at.key("tls"),
                    "inner `chains` match decrypted streams, so the chain must terminate TLS",
                )
                .help("add `tls`, or move the chains up one level");
        }
        _ => return true,
    }
    false
}

/// Warns of chains of one listener that share routes but ask for different client certificates: the routes would be
/// open to any client that passes the weaker chain.
pub fn shared_routes(chains: &Members<Chain>, at: &Path<'_>, diags: &mut Diags) {
    let mut seen: Vec<(&Name, &Spanned<Chain>)> = Vec::new();
    let asks = |chain: &Chain| chain.tls.as_ref().and_then(|tls| tls.client_auth.clone());
    for (place, chain) in chains.places() {
        let own = chain.http.iter().chain(chain.chains.iter().filter_map(|of| of.http.as_ref()));
        for routes in own.map(|http| &http.0.routes.value) {
            let other = seen.iter().find(|(name, of)| *name == routes && asks(of) != asks(chain));
            if let Some((_, other)) = other {
                diags
                    .warning(
                        "shared-routes",
                        chain.span,
                        at.index(place),
                        format!("the routes `{routes}` are shared by chains with different `client_auth`"),
                    )
                    .other(other.span, "the other chain")
                    .help(
                        "give each chain its own routes, or add `match: { client_certificate: true }` to the rules that \
                         need a certificate; a request for a host of the other chain gets a 421 response",
                    );
            }
            seen.push((routes, chain));
        }
    }
}

/// Checks that a hash and a hash-based balancer are configured together.
pub fn hash_fits(
    config: &Config,
    cluster: &Spanned<Name>,
    hash: bool,
    span: Span,
    at: &Path<'_>,
    diags: &mut Diags,
) {
    let Some(section) = config.clusters.get(&cluster.value) else { return };
    let (hashes, may) = (section.balance.hashes(), section.balance.uses_hash());
    let word = section.balance.word();
    if hash && !may {
        diags
            .warning("useless-hash", span, at.key("hash"), format!("`{word}` does not use a hash"))
            .help("set `balance: maglev` or `balance: ring_hash` on the cluster");
    } else if !hash && hashes {
        diags
            .warning(
                "missing-hash",
                span,
                at.key("hash"),
                format!("without a hash, `{word}` picks endpoints at random"),
            )
            .help("add `hash: source_ip` next to `cluster`, in the long form of `relay` or in the rule");
    }
}
