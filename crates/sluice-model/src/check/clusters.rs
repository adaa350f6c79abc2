//! Checks of clusters, and of the relays and rules that use them.
//!
//! Owns: settings of a cluster that contradict each other or its use. Refuses to know: health and balancing.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use sluice_core::settings::Short;
use sluice_core::{Diags, Endpoint, Name, Path, Setting as _, Spanned};
use sluice_upstream::Balance;
use sluice_upstream::cluster::FALLBACKS_MAX;

use crate::model::cluster::CheckedBy;
use crate::sections::discovery::MIN_TTL;
use crate::sections::{
    CheckOf, Cluster, ClusterProtocol, Config, Dns, EndpointEntry, EndpointLimits, Health,
    HighLimits, NameMode, OnEndpointRemoved, Refresh, Relay, Reuse, Verification,
};

/// Checks every cluster on its own.
pub fn clusters(config: &Config, diags: &mut Diags) {
    let at = Path::ROOT.key("clusters");
    let hosts = config.routes.iter().flat_map(|(_, hosts)| hosts.iter());
    let by_header =
        hosts.flat_map(|host| host.rules.iter()).find(|rule| super::routes::names_clusters(rule));
    let routed: HashSet<&Name> =
        super::clusters_of_routes(config).map(|cluster| &cluster.value).collect();
    let relayed: HashSet<&Name> =
        super::clusters_of_relays(config, config.listeners.iter()).collect();
    let streams = config.listeners.iter().filter(|listener| !listener.is_udp());
    let streamed: HashSet<&Name> = super::clusters_of_relays(config, streams).collect();
    let flows = config.listeners.iter().filter(|listener| listener.is_udp());
    let flowed: HashSet<&Name> = super::clusters_of_relays(config, flows).collect();
    for (name, cluster) in config.clusters.iter() {
        let at = at.key(name);
        endpoints(cluster, &at, diags);
        fallback(config, name, cluster, &at, diags);
        backoff(cluster, streamed.contains(name), &at, diags);
        silence(cluster, flowed.contains(name), &at, diags);
        balancing(config, cluster, is_fleet(config, name), &at, diags);
        super::subsets::subsets(cluster, &at, diags);
        names(cluster, &at, diags);
        let routed = by_header.is_some() || routed.contains(name);
        let uses = (relayed.contains(name), streamed.contains(name), routed);
        queue(cluster, uses, &at, diags);
        if routed {
            super::high_limits::of_cluster(config, name, cluster, &at, diags);
        }
        if !routed && relayed.contains(name) {
            only_for_http(name, cluster, &at, diags);
        }
        if let Some(health) = &cluster.health
            && health.timeout > health.interval
            && Health::absent().is_some_and(|usual| health.timeout != usual.timeout)
        {
            let here = at.key("health");
            diags
                .warning(
                    "slow-check",
                    cluster.span,
                    here.key("timeout"),
                    "`timeout` should not exceed `interval`",
                )
                .help("make `timeout` shorter than `interval`");
        }
        if let Some(rule) = by_header
            && cluster.send_proxy_protocol.is_some()
        {
            let message = format!(
                "requests that select the cluster `{name}` by a header carry no PROXY header"
            );
            diags
                .warning("useless-setting", cluster.span, at.key("send_proxy_protocol"), message)
                .other(rule.span, "this rule lets requests select a cluster")
                .help("endpoints find the client's address in x-forwarded-for");
        }
    }
}

/// Checks that clusters do not serve in place of themselves, and that there are not too many in a line.
fn fallback(
    config: &Config,
    name: &Name,
    cluster: &Spanned<Short<Cluster>>,
    at: &Path<'_>,
    diags: &mut Diags,
) {
    let Some(first) = cluster.fallback.first() else { return };
    let line = |next, depth| {
        let further = super::fallbacks_of(config, next, depth).into_iter().map(|(_, of)| of);
        std::iter::once(next).chain(further)
    };
    let count = |depth: usize| {
        let names = cluster.fallback.iter().flat_map(|next| line(next, depth));
        names.map(|next| &next.value).collect::<HashSet<_>>().len()
    };
    let mut all = cluster.fallback.iter();
    if let Some(back) = all.find(|next| line(next, FALLBACKS_MAX).any(|of| of.value == *name)) {
        let message = format!("the cluster `{name}` would serve in place of itself");
        diags
            .error("fallback-loop", back.span, at.key("fallback"), message)
            .help("remove the `fallback` of one of these clusters");
    } else if count(FALLBACKS_MAX) > count(FALLBACKS_MAX - 1) {
        let message = format!("more than {FALLBACKS_MAX} clusters follow `{name}`");
        diags
            .error("bad-value", first.span, at.key("fallback"), message)
            .help("remove a `fallback`, or list more endpoints in fewer clusters");
    } else if cluster.fallback.len() > FALLBACKS_LISTED_MAX {
        let message = format!("at most {FALLBACKS_LISTED_MAX} clusters can be listed");
        diags
            .error("bad-value", first.span, at.key("fallback"), message)
            .help("list more endpoints in fewer clusters");
    } else if let Some((place, twice)) =
        cluster.fallback.iter().enumerate().find(|(place, next)| {
            cluster.fallback[..*place].iter().any(|before| before.value == next.value)
        })
    {
        let message = format!("`{}` is listed already", twice.value);
        diags.error("duplicate-key", twice.span, at.key("fallback").index(place), message);
    }
}

/// The most clusters of which the first that can serves in place of another.
const FALLBACKS_LISTED_MAX: usize = 16;

/// Checks that flows are relayed to a cluster that ejects endpoints for silence.
fn silence(cluster: &Spanned<Short<Cluster>>, flowed: bool, at: &Path<'_>, diags: &mut Diags) {
    let silence = cluster.outlier.0.as_ref().and_then(|outlier| outlier.silence.as_ref());
    if silence.is_some() && !flowed {
        let message = "`silence` counts datagrams, and no UDP listener relays to this cluster";
        diags
            .warning("useless-setting", cluster.span, at.key("outlier").key("silence"), message)
            .help("remove it; `connect_failures` and `consecutive_5xx` are for connections and requests");
    }
}

/// The longest wait of `connect_backoff`.
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Checks the waits between attempts to connect; `streamed` is whether connections are relayed to the cluster.
fn backoff(cluster: &Spanned<Short<Cluster>>, streamed: bool, at: &Path<'_>, diags: &mut Diags) {
    let Some(section) = &cluster.connect_backoff else { return };
    let at = at.key("connect_backoff");
    if section.max < section.base || section.max > BACKOFF_MAX {
        diags
            .error("bad-value", section.span, at.key("max"), "`max` must be from `base` to 10s")
            .help("the default is 250ms");
    }
    if !streamed {
        diags
            .warning(
                "useless-setting",
                section.span,
                at,
                "`connect_backoff` applies to relayed connections only, and none are relayed to this cluster",
            )
            .help("remove it; requests wait by `retry: { backoff }` of their rule");
    } else if cluster.connect_attempts.get() == 1 {
        diags
            .warning(
                "useless-setting",
                section.span,
                at,
                "with `connect_attempts: 1` no other endpoint is tried, so there is no wait",
            )
            .help("remove it, or raise `connect_attempts`");
    }
}

/// Warns of HTTP settings on a cluster that is only relayed to.
fn only_for_http(name: &Name, cluster: &Spanned<Short<Cluster>>, at: &Path<'_>, diags: &mut Diags) {
    let limits = &cluster.limits;
    let outlier = cluster.outlier.0.as_ref();
    let said = [
        ("http2", cluster.http2.is_some()),
        ("balance.load_reports", cluster.balance.kind() == Some(Balance::LoadReports)),
        ("reuse", Reuse::absent().is_some_and(|usual| cluster.reuse != usual)),
        ("limits.requests", limits.requests.0.is_some()),
        ("limits.requests_per_endpoint", limits.requests_per_endpoint.0.is_some()),
        ("limits.high", HighLimits::absent().is_some_and(|usual| limits.high != usual)),
        ("endpoints.limits.requests", has_own_limit(cluster, |limits| limits.requests.is_some())),
        ("outlier.consecutive_5xx", outlier.is_some_and(|of| of.consecutive_5xx.0.is_some())),
        (
            "outlier.consecutive_gateway_errors",
            outlier.is_some_and(|of| of.consecutive_gateway_errors.0.is_some()),
        ),
        ("outlier.latency", outlier.is_some_and(|of| of.latency.is_some())),
        ("outlier.connect_failures_as_503", outlier.is_some_and(|of| of.connect_failures_as_503)),
    ];
    for (key, _) in said.iter().filter(|(_, said)| *said) {
        let message =
            format!("`{key}` applies to HTTP only, but `{name}` receives only relayed connections");
        diags
            .warning("useless-setting", cluster.span, at.key(key), message)
            .help("remove it, or serve HTTP with `http: ROUTES`");
    }
}

/// Whether an endpoint has a limit of its own that `is_set` accepts.
fn has_own_limit(cluster: &Cluster, is_set: impl Fn(&EndpointLimits) -> bool) -> bool {
    let own = cluster.endpoints.iter().filter_map(|entry| entry.0.limits.as_ref());
    own.into_iter().any(|limits| is_set(limits))
}

/// Checks that something waits in the queue of a cluster: `relayed` is whether anything is relayed to it, `streamed`
/// whether connections are, `routed` whether requests are forwarded.
fn queue(
    cluster: &Spanned<Short<Cluster>>,
    (relayed, streamed, routed): (bool, bool, bool),
    at: &Path<'_>,
    diags: &mut Diags,
) {
    let limits = &cluster.limits;
    let Some(section) = &limits.queue else { return };
    let at = at.key("limits");
    let at = at.key("queue");
    if cluster.forward.is_some() && !section.sticky_timeout.0.is_zero() {
        let message =
            "`sticky_timeout` has no meaning with `forward`: what waits is for one host only";
        diags
            .error("wrong-kind", section.span, at.key("sticky_timeout"), message)
            .help("remove it");
    }
    if section.sticky_timeout.0 > section.timeout {
        diags
            .error(
                "bad-value",
                section.span,
                at.key("sticky_timeout"),
                "`sticky_timeout` must not exceed `timeout`, after which nothing waits",
            )
            .help("lower `sticky_timeout`, or raise `timeout`");
    }
    // A file may change at any time.
    let may_have_own = cluster.endpoints_file.is_some();
    let own = |is_set: fn(&EndpointLimits) -> bool| may_have_own || has_own_limit(cluster, is_set);
    let connections = limits.connections.0.is_some()
        || limits.connections_per_endpoint.0.is_some()
        || own(|limits| limits.connections.is_some());
    let requests = limits.requests.0.is_some()
        || limits.requests_per_endpoint.0.is_some()
        || own(|limits| limits.requests.is_some());
    if !connections && !requests {
        diags
            .error(
                "missing-field",
                section.span,
                at,
                "nothing waits in the queue: the cluster has no limit that could be reached",
            )
            .help("set `connections_per_endpoint`, or `requests_per_endpoint` for HTTP");
    } else if !(streamed && connections || routed && requests) && (relayed || routed) {
        let (why, help) = if routed {
            (
                "the cluster has no limit on requests",
                "set `requests_per_endpoint`, or remove `queue`; `pending` bounds requests that wait for a connection",
            )
        } else if streamed {
            (
                "the cluster has no limit on connections",
                "set `connections_per_endpoint`, or remove `queue`",
            )
        } else {
            ("UDP flows do not wait", "remove `queue`")
        };
        let message = format!("nothing waits in the queue: {why}");
        diags.warning("useless-setting", section.span, at, message).help(help);
    }
}

/// Whether the cluster verifies endpoints and does not say by which name. The names of targets come from DNS, where
/// nobody vouches for them (RFC 6125 §6.2.1).
pub fn needs_name(cluster: &Cluster) -> bool {
    let tls = cluster.tls.as_ref();
    tls.is_some_and(|tls| tls.sni.is_none() && tls.verify == Verification::Full)
}

/// Checks that the settings of name resolution fit each other.
fn names(cluster: &Spanned<Short<Cluster>>, at: &Path<'_>, diags: &mut Diags) {
    let here = at.key("dns");
    let dns = &cluster.dns;
    for (key, min, max_key, max) in [
        ("min_ttl", dns.min_ttl.unwrap_or(MIN_TTL), "max_ttl", dns.max_ttl),
        ("retry", dns.retry, "max_retry", dns.max_retry),
    ] {
        if min > max {
            let message = format!("`{key}` must not exceed `{max_key}`");
            diags
                .error("bad-value", cluster.span, here.key(key), message)
                .help(format!("raise `{max_key}`, or lower `{key}`"));
        }
    }
    let usual = Dns::absent().expect("it has no required fields");
    if dns.refresh != Refresh::Ttl && (dns.min_ttl, dns.max_ttl) != (usual.min_ttl, usual.max_ttl) {
        let message = "`min_ttl` and `max_ttl` have no effect with a fixed `refresh`";
        diags
            .warning("useless-setting", cluster.span, here.key("refresh"), message)
            .help("remove them, or write `refresh: ttl`");
    }
    if dns.mode == NameMode::Logical && cluster.on_endpoint_removed != OnEndpointRemoved::Keep {
        let message = "with `dns: { mode: logical }`, connections stay when the addresses change";
        diags
            .error("wrong-kind", cluster.span, at.key("on_endpoint_removed"), message)
            .help("remove `on_endpoint_removed`, or use `mode: strict`");
    }
    let named = |address: &Endpoint| matches!(address, Endpoint::Host(..) | Endpoint::Service(_));
    let nameless = cluster.endpoints_file.is_none()
        && cluster.forward.is_none()
        && !cluster.endpoints.iter().any(|entry| named(&entry.0.address.value));
    // Ports that endpoints advertise for HTTP/3 are judged too.
    let egress = cluster.egress.is_some() && !cluster.races_http3();
    for (key, of, given) in [("dns", "mode", dns.mode != usual.mode), ("egress", "egress", egress)]
    {
        if given && nameless {
            let message = format!("`{of}` applies to names, and every endpoint is an address");
            diags
                .warning("useless-setting", cluster.span, at.key(key), message)
                .help("remove it, or write endpoints by name");
        }
    }
    let Some(egress) = &cluster.egress else { return };
    let here = at.key("egress");
    for (key, blocks) in [("allow", &egress.allow), ("deny", &egress.deny)] {
        let here = here.key(key);
        for (index, block) in blocks.iter().enumerate() {
            if block.value.to_string().starts_with("::ffff:") {
                let message = "IPv4-mapped addresses are judged as IPv4 addresses";
                diags
                    .error("bad-value", block.span, here.index(index), message)
                    .help("write the IPv4 block, such as 10.0.0.0/8");
            }
        }
    }
}

fn endpoints(cluster: &Spanned<Short<Cluster>>, at: &Path<'_>, diags: &mut Diags) {
    let list = at.key("endpoints");
    let mut seen: HashMap<&Endpoint, sluice_core::Span> = HashMap::new();
    for (index, entry) in cluster.endpoints.iter().enumerate() {
        let address = &entry.0.address;
        if let Some(first) = seen.insert(&address.value, address.span) {
            let message = format!("the endpoint {} is listed twice", address.value);
            diags
                .warning("duplicate-endpoint", address.span, list.index(index), message)
                .other(first, "the other one")
                .help(format!(
                    "it counts as one endpoint with the weight of both; write {{ address: {}, weight: 2 }} instead",
                    address.value
                ));
        }
        if let Some(check) = &entry.0.check
            && let Some(problem) = check_problem(check, &address.value, checked_by(cluster))
        {
            diags
                .error("wrong-kind", check.span, list.index(index).key("check"), problem)
                .help("`check` of an endpoint says what differs from `health` of its cluster");
        }
        if needs_name(cluster) && matches!(address.value, Endpoint::Service(_)) {
            let message = "the names of targets come from DNS, which nobody vouches for";
            diags
                .error("missing-field", address.span, list.index(index), message)
                .help("set the name that certificates must have: `tls: { sni: NAME }`");
        }
        if cluster.protocol == ClusterProtocol::Http3 && matches!(address.value, Endpoint::Unix(_))
        {
            diags
                .error(
                    "wrong-kind",
                    address.span,
                    list.index(index),
                    "QUIC does not run over a unix socket",
                )
                .help("use an IP address, or another `protocol`");
        }
    }
}

/// Whether the cluster tells where the processes of this kind are.
fn is_fleet(config: &Config, name: &Name) -> bool {
    config.node.cluster.as_ref().is_some_and(|fleet| fleet.value == *name)
}

/// How the endpoints of a cluster are checked.
pub fn checked_by(section: &Cluster) -> CheckedBy {
    match &section.health {
        None => CheckedBy::Nothing,
        Some(health) if health.http.is_some() || health.grpc.is_some() => CheckedBy::Request,
        Some(_) => CheckedBy::Connection,
    }
}

/// Why an endpoint cannot have settings for its checks.
pub fn check_problem(
    check: &CheckOf,
    address: &Endpoint,
    checks: CheckedBy,
) -> Option<&'static str> {
    let CheckOf { port, address: ip, host } = check;
    if port.is_none() && ip.is_none() && host.is_none() {
        return Some("`check` has no fields: add `port`, `address` or `host`");
    }
    match (checks, address) {
        (CheckedBy::Nothing, _) => Some("`check` needs `health` of the cluster"),
        (CheckedBy::Connection, _) if host.is_some() => {
            Some("`check.host` is for checks by `http` and `grpc`")
        }
        (_, Endpoint::Unix(_)) if port.is_some() || ip.is_some() => {
            Some("a unix socket is checked at no other port or address")
        }
        _ => None,
    }
}

/// Checks that priorities, localities and slow start fit each other and the balancer.
fn balancing(
    config: &Config,
    cluster: &Spanned<Short<Cluster>>,
    is_fleet: bool,
    at: &Path<'_>,
    diags: &mut Diags,
) {
    super::zones::zone_aware(config, cluster, at, diags);
    super::zones::aperture(cluster, at, diags);
    if let Some(slow_start) = &cluster.slow_start
        && cluster.balance.hashes()
    {
        let word = cluster.balance.word();
        let message = format!("`{word}` has no slow start: a hash leads to the same endpoint");
        diags
            .error("wrong-kind", slow_start.span, at.key("slow_start"), message)
            .help("remove `slow_start`, or set `balance` to another balancer");
    }
    let list = at.key("endpoints");
    let mut priorities: HashSet<u32> = HashSet::new();
    for (index, entry) in cluster.endpoints.iter().enumerate() {
        let here = list.index(index);
        priorities.insert(entry.0.priority.0.max(u32::from(entry.0.backup)));
        if entry.0.backup && entry.0.priority.0 > 0 {
            let message = "`backup` is `priority: 1`: write only one of them";
            diags.error("short-and-long", entry.span, here.key("backup"), message);
        }
        if !is_fleet && cluster.zone_aware.is_none() {
            locality(cluster, entry, &here, diags);
        }
    }
    // A file may change at any time.
    if cluster.endpoints_file.is_some() {
        return;
    }
    if priorities.len() < 2 && !cluster.failover.failback_delay.0.is_zero() {
        let here = at.key("failover");
        let message = "all endpoints have the same priority: there is nothing to fail back from";
        diags
            .warning("useless-setting", cluster.span, here.key("failback_delay"), message)
            .help("mark the endpoints that stand by with `backup: true`, or remove it");
    }
    for (locality, _) in &cluster.localities.0 {
        let mut known = cluster.endpoints.iter().filter_map(|entry| entry.0.locality.as_ref());
        if !known.any(|known| known.value.0 == locality.value) {
            let message = format!("no endpoint is in the locality `{}`", locality.value);
            diags.warning("useless-setting", locality.span, at.key("localities"), message);
        }
    }
}

fn locality(
    cluster: &Cluster,
    entry: &Spanned<Short<EndpointEntry>>,
    at: &Path<'_>,
    diags: &mut Diags,
) {
    let weights = &cluster.localities;
    match &entry.0.locality {
        // A library may tell them apart.
        Some(_) if weights.0.is_empty() && cluster.balance.is_of_library() => {}
        Some(locality) if weights.0.is_empty() => {
            diags
                .warning(
                    "useless-setting",
                    locality.span,
                    at.key("locality"),
                    "localities are not told apart: the cluster has no `localities`",
                )
                .help("give each a weight: `localities: { a: 1, b: 1 }`");
        }
        Some(locality) if weights.of(&locality.value.0).is_none() => {
            let message = format!("the locality `{}` has no weight", locality.value.0);
            diags
                .error("unknown-name", locality.span, at.key("locality"), message)
                .help("add it to `localities` of the cluster");
        }
        None if !weights.0.is_empty() => {
            diags
                .error(
                    "missing-field",
                    entry.span,
                    at.key("locality"),
                    "the cluster has `localities`, but this endpoint has no `locality`: it would get no traffic",
                )
                .help("add `locality: NAME`");
        }
        Some(_) | None => {}
    }
}

/// Checks that a relay of connections fits its cluster, which `at` names.
pub fn stream_relay(config: &Config, to: &Spanned<Name>, at: &Path<'_>, diags: &mut Diags) {
    let Some(cluster) = config.clusters.get(&to.value) else { return };
    if cluster.protocol == ClusterProtocol::Http3 {
        diags
            .error(
                "wrong-kind",
                to.span,
                at,
                "connections are relayed over TCP, but `protocol: http3` uses QUIC",
            )
            .other(cluster.span, "this cluster")
            .help(
                "serve HTTP with `http: ROUTES`, or relay to a cluster without `protocol: http3`",
            );
    }
}

/// Checks that a relay of datagrams has no settings for connections.
pub fn flow_settings(relay: &Spanned<Short<Relay>>, at: &Path<'_>, diags: &mut Diags) {
    if let Some(from) = &relay.cluster_from {
        let message = "`cluster_from` applies to connections, not to UDP flows";
        diags
            .error("wrong-kind", from.span, at.key("cluster_from"), message)
            .help("add a chain with `match: { sni: NAME }` for each cluster");
    }
    let usual = Relay::absent().expect("a relay has no required fields");
    let only_streams = [
        ("half_close_timeout", relay.half_close_timeout != usual.half_close_timeout),
        ("max_duration", relay.max_duration != usual.max_duration),
        ("max_duration_jitter", relay.max_duration_jitter != usual.max_duration_jitter),
    ];
    for (key, _) in only_streams.iter().filter(|(_, said)| *said) {
        diags
            .error(
                "wrong-kind",
                relay.span,
                at.key(key),
                format!("`{key}` applies to connections, not to UDP flows"),
            )
            .help("remove it; a flow ends by `idle_timeout` or `responses`");
    }
    if relay.per_packet && relay.sticky.is_some() {
        let message = "`sticky` keeps a client with one endpoint, and `per_packet` does not";
        diags.error("wrong-kind", relay.span, at.key("sticky"), message).help("remove one of them");
    }
}

/// Checks that a relay of datagrams fits its cluster, which `at` names: datagrams go to endpoints unchanged.
pub fn flow_relay(config: &Config, to: &Spanned<Name>, at: &Path<'_>, diags: &mut Diags) {
    let Some(cluster) = config.clusters.get(&to.value) else { return };
    let name: &Name = &to.value;
    let ignored = [
        ("tls", cluster.tls.is_some(), "would be sent unencrypted"),
        ("send_proxy_protocol", cluster.send_proxy_protocol.is_some(), "carry no PROXY header"),
    ];
    for (key, _, what) in ignored.iter().filter(|(_, said, _)| *said) {
        let message = format!("the cluster `{name}` has `{key}`, but datagrams {what}");
        diags
            .error("wrong-kind", to.span, at, message)
            .other(cluster.span, "this cluster")
            .help(format!("relay to a cluster without `{key}`"));
    }
    let unix = cluster.endpoints.iter().map(|entry| &entry.0.address);
    for address in unix.filter(|address| matches!(address.value, Endpoint::Unix(_))) {
        let message = format!(
            "the cluster `{name}` has the unix socket {}, which cannot receive datagrams",
            address.value
        );
        diags
            .error("wrong-kind", to.span, at, message)
            .other(address.span, "this endpoint")
            .help("relay UDP to IP addresses or host names");
    }
}
