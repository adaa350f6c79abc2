//! Checks of the control plane.
//!
//! Owns: what its cluster must be, and that planes can tell processes apart. Refuses to know: what it sends.

use sluice_core::{Diags, Path};

use super::https_of;
use crate::own_name::own_name;
use crate::sections::http::Http;
use crate::sections::{ClusterProtocol, Config, PlaneResource};

/// Checks that the cluster of the control plane is one of the files and speaks HTTP/2, and that this process has a name.
pub(crate) fn control_plane(config: &Config, diags: &mut Diags) {
    on_demand(config, diags);
    hosts_on_demand(config, diags);
    let Some(xds) = &config.xds else { return };
    let at = Path::ROOT.key("xds");
    let name = &xds.cluster;
    match config.clusters.get(&name.value).map(|cluster| cluster.protocol) {
        // One that is wrong has its own errors.
        None if config.clusters.names().any(|of| *of == name.value) => {}
        None => {
            let message = format!("no file has the cluster `{}`", name.value);
            diags
                .error("unknown-name", name.span, at.key("cluster"), message)
                .help("add it under `clusters`, with `protocol: http2`: the control plane cannot send its own");
        }
        Some(ClusterProtocol::Http2) => {}
        Some(_) => {
            let message = format!("control planes speak HTTP/2, and `{}` does not", name.value);
            diags
                .error("wrong-kind", name.span, at.key("cluster"), message)
                .help("add `protocol: http2` to the cluster");
        }
    }
    if xds.id.is_none() && own_name(config).is_none() {
        let message = "the system has no host name, by which the plane would know this process";
        diags.error("missing-field", xds.span, at, message).help("add `id: NAME`");
    }
}

/// Whether clusters come on demand.
pub(crate) fn is_on_demand(config: &Config) -> bool {
    waiting(config).is_some()
}

/// The first of the chains whose requests wait for their clusters.
fn waiting(config: &Config) -> Option<&Http> {
    let mut all = config.listeners.iter().flat_map(|listener| https_of(listener));
    all.find(|http| http.on_demand.0.is_some())
}

/// Checks that there is a plane for clusters that come on demand, which does not send them anyway.
fn on_demand(config: &Config, diags: &mut Diags) {
    let Some(http) = waiting(config) else { return };
    let can = config
        .xds
        .as_ref()
        .is_some_and(|xds| xds.incremental && !xds.sends(PlaneResource::Clusters));
    if !can {
        let message = "`on_demand` needs a control plane that is asked for single clusters";
        diags.error("missing-field", http.routes.span, Path::ROOT.key("xds"), message).help(
            "add `xds: { cluster: PLANE, resources: [listeners] }`, without `incremental: false`",
        );
    }
}

/// Checks that no file asks for virtual hosts or scopes: its route tables are its own.
fn hosts_on_demand(config: &Config, diags: &mut Diags) {
    let https = config.listeners.iter().flat_map(|listener| https_of(listener));
    for found in https.filter_map(|http| http.hosts_on_demand.as_ref()) {
        let message = "`hosts_on_demand` is for route tables of a bootstrap of Envoy (VHDS)";
        let finding = diags.error("wrong-kind", found.span, Path::ROOT.key("listeners"), message);
        finding
            .help("remove it, and write the hosts under `routes`; clusters may come `on_demand`");
    }
    let https = config.listeners.iter().flat_map(|listener| https_of(listener));
    for found in https.filter_map(|http| http.scopes_on_demand.as_ref()) {
        let message = "`scopes_on_demand` is for route tables of a bootstrap of Envoy (SRDS)";
        let finding = diags.error("wrong-kind", found.span, Path::ROOT.key("listeners"), message);
        finding.help("remove it, and write the hosts with their `scope` under `routes`");
    }
}
