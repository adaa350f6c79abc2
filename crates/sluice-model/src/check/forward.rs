//! Checks of clusters whose endpoints are the hosts that clients name, and of what leads to them.
//!
//! Owns: settings that mean nothing for such a host, and uses without a name. Refuses to know: the other checks of
//! clusters. Keeps: a setting that would do nothing is an error.

use sluice_core::settings::Short;
use sluice_core::{Diags, Name, Path, Setting as _, Spanned};

use crate::sections::discovery::ForwardBy;
use crate::sections::{Cluster, Config, Dns, Listener, OnEndpointRemoved};

/// The most that `forward.max_hosts` may be.
const HOSTS_MAX: u32 = 16_384;

/// Checks every cluster with `forward`, and what leads there.
pub fn forward(config: &Config, diags: &mut Diags) {
    let at = Path::ROOT.key("clusters");
    for (name, cluster) in config.clusters.iter() {
        let at = at.key(name);
        for next in cluster.fallback.iter().filter(|next| forwards(config, &next.value)) {
            let message =
                format!("`{}` serves only hosts that clients name, with `forward`", next.value);
            diags
                .error("wrong-kind", next.span, at.key("fallback"), message)
                .help("name a cluster with `endpoints`");
        }
        if cluster.forward.is_some() {
            settings(cluster, &at, diags);
        }
    }
    for listener in config.listeners.iter().filter(|listener| listener.is_udp()) {
        of_flows(config, listener, diags);
    }
    mirrors(config, diags);
}

/// Whether the endpoints of the cluster `name` are hosts that clients name.
pub fn forwards(config: &Config, name: &str) -> bool {
    config.clusters.get(name).is_some_and(|cluster| cluster.forward.is_some())
}

/// Whether clients name the endpoints of the cluster `name` themselves, so that a server name is needed.
pub fn is_named_by_clients(config: &Config, name: &str) -> bool {
    let forward = config.clusters.get(name).and_then(|cluster| cluster.forward.as_ref());
    forward.is_some_and(|forward| forward.by == ForwardBy::Name)
}

/// Refuses what has no meaning for a host that a client names.
fn settings(cluster: &Spanned<Short<Cluster>>, at: &Path<'_>, diags: &mut Diags) {
    let Some(usual) = Cluster::absent() else { return };
    let Some(forward) = &cluster.forward else { return };
    if !cluster.endpoints.is_empty() || cluster.endpoints_file.is_some() {
        let message = "`forward` takes its endpoints from clients, and `endpoints` lists others";
        diags
            .error("short-and-long", forward.span, at.key("forward"), message)
            .help("keep one of them, or make two clusters");
    }
    if let Some(tls) = &cluster.tls
        && let Some(sni) = &tls.sni
    {
        let message = "with `forward`, endpoints are verified by the host that the client names";
        diags.error("wrong-kind", sni.span, at.key("tls.sni"), message).help("remove `sni`");
    }
    let dns = Dns::absent().map(|dns| dns.mode);
    let said = [
        ("fallback", !cluster.fallback.is_empty()),
        ("balance", cluster.balance != usual.balance),
        ("failover", cluster.failover != usual.failover),
        ("localities", cluster.localities != usual.localities),
        ("slow_start", cluster.slow_start.is_some()),
        ("connect_attempts", cluster.connect_attempts != usual.connect_attempts),
        ("connect_backoff", cluster.connect_backoff.is_some()),
        ("health", cluster.health.is_some()),
        ("outlier", cluster.outlier.0.is_some() && cluster.outlier != usual.outlier),
        ("on_endpoint_removed", cluster.on_endpoint_removed != OnEndpointRemoved::Keep),
        ("on_endpoint_unhealthy", cluster.on_endpoint_unhealthy != usual.on_endpoint_unhealthy),
        ("dns.mode", dns.is_some_and(|mode| cluster.dns.mode != mode)),
    ];
    for (key, _) in said.iter().filter(|(_, said)| *said) {
        let message = format!(
            "`{key}` has no meaning with `forward`: the client names the host, which is one endpoint"
        );
        diags
            .error("wrong-kind", cluster.span, at.key(key), message)
            .help("remove it, or list `endpoints`");
    }
    let here = at.key("forward");
    if forward.by == ForwardBy::Name {
        let said = [
            ("header", forward.header.as_ref().map(|of| of.span)),
            ("to_port", forward.to_port.as_ref().map(|of| of.span)),
        ];
        for (key, span) in said.into_iter().filter_map(|(key, span)| Some((key, span?))) {
            let message = format!("`{key}` has no effect without `by: destination`");
            diags
                .error("useless-setting", span, here.key(key), message)
                .help("add `by: destination`, or remove it");
        }
    }
    if let Some(egress) = &cluster.egress
        && egress.any
        && !egress.allow.is_empty()
    {
        let message = "`allow` has no effect with `any`, which allows all addresses";
        diags
            .error("useless-setting", egress.span, at.key("egress.allow"), message)
            .help("remove one of them");
    }
    if forward.max_hosts.get() > HOSTS_MAX {
        let message = format!("`max_hosts` must not exceed {HOSTS_MAX}");
        diags
            .error("out-of-range", forward.span, here.key("max_hosts"), message)
            .help("the default is 1024; a host that is in use is not forgotten");
    }
    for (index, port) in forward.ports.iter().enumerate().filter(|(_, port)| port.value == 0) {
        diags
            .error("bad-value", port.span, here.key("ports").index(index), "0 is not a port")
            .help("write a number from 1 to 65535");
    }
}

/// A flow has no name before its endpoint is chosen.
fn of_flows(config: &Config, listener: &Spanned<Listener>, diags: &mut Diags) {
    let named = super::relays_of(listener).flat_map(|relay| relay.clusters());
    for cluster in named.filter(|cluster| forwards(config, &cluster.value)) {
        wrong_use(config, cluster, "UDP flows name no host", diags);
    }
}

fn mirrors(config: &Config, diags: &mut Diags) {
    let hosts = config.routes.iter().flat_map(|(_, hosts)| hosts.iter());
    let rules = hosts.flat_map(|host| host.rules.iter());
    let mirrors = rules.flat_map(|rule| rule.mirror.iter());
    for cluster in mirrors.filter_map(|mirror| mirror.cluster.as_ref()) {
        if forwards(config, &cluster.value) {
            let why = "copies of requests go to clusters with `endpoints`";
            wrong_use(config, cluster, why, diags);
        }
    }
}

fn wrong_use(config: &Config, cluster: &Spanned<Name>, why: &str, diags: &mut Diags) {
    let message = format!("`{}` serves hosts that clients name (`forward`); {why}", cluster.value);
    let finding = diags.error("wrong-kind", cluster.span, Path::ROOT.key("clusters"), message);
    if let Some(section) = config.clusters.get(&cluster.value) {
        finding.other(section.span, "this cluster").help("use a cluster with `endpoints`");
    }
}
