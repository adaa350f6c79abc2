//! Checks of zone-aware routing, and of what this process says of itself.
//!
//! Owns: what it needs, what it excludes, and where it would do nothing. Refuses to know: how much traffic a zone gets.

use sluice_core::settings::Short;
use sluice_core::value::plural;
use sluice_core::{Diags, Endpoint, Path, Spanned};

use crate::sections::{Cluster, Config};

/// Warns of a `node` that no cluster looks at.
pub(crate) fn node(config: &Config, diags: &mut Diags) {
    let opens = |cluster: &Cluster| cluster.aperture.is_some();
    if let Some(id) = &config.node.id
        && !config.clusters.iter().any(|(_, cluster)| opens(cluster))
    {
        let at = Path::ROOT.key("node");
        diags
            .warning("useless-setting", id.span, at.key("id"), "no cluster has an `aperture`")
            .help("add `aperture: NUMBER` to large clusters, or remove it");
    }
    let given = config.node.locality.as_ref().map(|of| of.span);
    let given = given.or_else(|| config.node.cluster.as_ref().map(|of| of.span));
    let aware = |cluster: &Cluster| cluster.zone_aware.as_ref().is_some_and(|of| of.enabled);
    if let Some(span) = given
        && !config.clusters.iter().any(|(_, cluster)| aware(cluster))
    {
        diags.warning("useless-setting", span, "node", "no cluster is `zone_aware`").help(
            "add `zone_aware: true` to clusters with endpoints in several zones, or remove `node`",
        );
    }
}

/// Checks that nothing contradicts the aperture of a cluster.
pub(super) fn aperture(cluster: &Spanned<Short<Cluster>>, at: &Path<'_>, diags: &mut Diags) {
    let Some(size) = &cluster.aperture else { return };
    let here = at.key("aperture");
    if cluster.balance.hashes() {
        let word = cluster.balance.word();
        let message =
            format!("`{word}` needs all endpoints: a hash leads to the same one on every process");
        diags
            .error("wrong-kind", size.span, here, message)
            .help("remove `aperture`, or set `balance` to another balancer");
    }
    let by_zone = cluster.zone_aware.as_ref().is_some_and(|of| of.enabled);
    if by_zone || !cluster.localities.0.is_empty() {
        let message = "an aperture does not tell localities apart";
        diags
            .error("short-and-long", size.span, here, message)
            .help("remove `aperture`, or `localities` and `zone_aware`");
    }
    let fixed = |address: &Endpoint| matches!(address, Endpoint::Ip(_) | Endpoint::Unix(_));
    let all_fixed = cluster.endpoints.iter().all(|entry| fixed(&entry.0.address.value));
    let count = cluster.endpoints.len();
    if cluster.endpoints_file.is_none() && all_fixed && count <= size.0 as usize {
        let message = format!("all endpoints are used: there are only {count}");
        diags
            .warning("useless-setting", size.span, here, message)
            .help("remove `aperture`, or lower it");
    }
}

/// Checks the zone-aware routing of a cluster.
pub(super) fn zone_aware(
    config: &Config,
    cluster: &Spanned<Short<Cluster>>,
    at: &Path<'_>,
    diags: &mut Diags,
) {
    let Some(section) = cluster.zone_aware.as_ref() else { return };
    let here = at.key("zone_aware");
    if !section.enabled {
        return;
    }
    if config.node.locality.is_none() || config.node.cluster.is_none() {
        let message = "zone-aware routing needs to know where the processes of this kind are";
        diags.error("missing-field", section.span, here, message).help(
            "add `node: { locality: ZONE, cluster: NAME }`, with a cluster that lists all processes of this kind",
        );
    }
    if !cluster.localities.0.is_empty() {
        let message = "`localities` gives each zone a fixed weight, so that none can be preferred";
        diags
            .error("short-and-long", section.span, here, message)
            .help("remove `zone_aware`, or `localities`");
    }
    if cluster.balance.hashes() {
        let word = cluster.balance.word();
        let message =
            format!("`{word}` does not tell zones apart: a hash leads to the same endpoint");
        diags
            .error("wrong-kind", section.span, here, message)
            .help("remove `zone_aware`, or set `balance` to another balancer");
    }
    // A file may change at any time.
    if cluster.endpoints_file.is_some() {
        return;
    }
    let fixed = |address: &Endpoint| matches!(address, Endpoint::Ip(_) | Endpoint::Unix(_));
    let all_fixed = cluster.endpoints.iter().all(|entry| fixed(&entry.0.address.value));
    let (count, least) = (cluster.endpoints.len(), section.min_endpoints.get());
    if all_fixed && count < least as usize {
        let message = format!(
            "zones are ignored: the cluster has {}, fewer than {least}",
            plural(count as u64, "endpoint")
        );
        diags
            .warning("useless-setting", section.span, here, message)
            .help("lower `min_endpoints`, or remove `zone_aware`");
    }
    if !cluster.endpoints.iter().any(|entry| entry.0.locality.is_some()) {
        diags
            .warning("useless-setting", section.span, here, "no endpoint has a `locality`")
            .help("say where endpoints are: `{ address: ADDRESS, locality: ZONE }`");
    }
}
